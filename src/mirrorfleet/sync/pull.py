"""rsync mode: a tier-2's served tree from a tier-1's, by its change journal.

The journal says which projects have another snapshot. A snapshot never changes once it has its name, so
what is fetched under that name is exactly what the journal meant, and what it lists says which files
are needed. A full pass, which compares the current snapshot of every project and the size of every file,
is taken when the journal cannot be followed and now and then as an audit.
"""

import hashlib
import json
import logging
import time

from ..common.clock import elapsed
from ..common.config import Config
from ..common.files import regular_size
from ..common.guards import require_free_space
from ..common.names import SIDECAR
from ..common.progress import Progress
from ..common.reasons import Reason
from ..fetch.rsync import Transfer
from ..fetch.trouble import count, is_to_be_tried, leave_uncounted, many
from ..served.state import State
from ..served.status import write_status
from ..served.tree import Result, ServedTree
from .changes import Above, Changes
from .snapshots import Stage

log = logging.getLogger(__name__)


class Puller:
    def __init__(self, config: Config, state: State, progress: Progress, lock: int | None) -> None:
        assert config.rsync is not None
        self._config = config
        self._state = state
        self._full_pass_seconds = config.rsync.full_pass_hours * 3600
        self._source = config.rsync.source
        self._transfer = Transfer(config.rsync, lock)
        # The private tree of this mode.
        self._above = Above(self._source, self._transfer, config.paths.fetched / "upstream", state)
        self._stage = Stage(config, state, self._transfer, progress)

    def run(self, *, full: bool, allow_shrink: bool) -> tuple[Result, bool]:
        with self._stage:
            return self._pass(full=full, allow_shrink=allow_shrink)

    def _pass(self, *, full: bool, allow_shrink: bool) -> tuple[Result, bool]:
        above = self._above.ask()
        self._tree = ServedTree(self._config, self._state, None)
        before = self._state.totals()[0]
        changes, position = self._above.follow(above.head)
        # What is newly selected may have changed long ago.
        other_wish = self._state.get("pull_wish") not in (None, self._wish())
        if full or other_wish or changes is None or self._full_pass_is_due():
            log.info("full pass")
            changes = Changes(pages=self._transfer.current_snapshots(None))
            changes.gone = self._state.projects().keys() - changes.pages.keys()
            damaged = self._damaged()
            self._state.put("full_pass_at", time.time())
        else:
            failed = {t.name for t in self._state.troubles().values() if is_to_be_tried(t)}
            damaged = failed | set(self._state.get("pull_again", []))
            changes.pages |= self._transfer.current_snapshots(damaged) if damaged else {}
            for name in failed - changes.pages.keys() - changes.gone:
                if self._state.is_published(name):
                    self._tree.set_back(name, Reason("the tier above has no page of it", "not found"))
                else:
                    changes.gone.add(name)
        gone = {name for name in changes.gone if self._state.is_published(name)} | self._deselected()
        # Refused before anything changes.
        leavers = self._tree.leavers(gone, before, allow_shrink=allow_shrink, what=self._source)
        wanted = {
            name: snapshot
            for name, snapshot in sorted(changes.pages.items())
            if self._is_selected(name) and (name in damaged or not self._has(name, snapshot))
        }
        self._stage.take(wanted, self._tree)
        leavers += self._tree.strays(lambda: self._state.projects().keys() | changes.pages.keys())
        incomplete = self._tree.result.incomplete
        good = self._settle(changes.pages.keys() | changes.gone | set(leavers), incomplete)
        serial = above.serial if good else self._state.get("serial")
        result = self._tree.finish(leavers, int(serial or 0))
        self._state.put("pull_position", position)
        self._state.put("pull_wish", self._wish())
        write_status(self._config, self._state, int(serial or 0), above.fetched_at if good else None)
        return result, good

    def _settle(self, looked_at: set[str], failing: dict[str, Reason]) -> bool:
        """Account for every project that is wanting; whether all the others are here, but for those set aside."""
        allowed = self._config.tries_before_set_aside
        with self._state.transaction():
            self._state.clear_trouble(looked_at - failing.keys())
        if len(failing) > many(self._state.totals()[0]):
            log.error(
                "%d projects failed at once: the fault of the tier above, none is counted against",
                len(failing),
            )
            self._state.put("pull_again", sorted(failing))
            leave_uncounted(self._state, "fetch", failing)
            return False
        leave_uncounted(self._state, "fetch", {})
        self._state.put("pull_again", [])
        for name, reason in sorted(failing.items()):
            count(self._state, name, reason, allowed)
        return all(trouble.tries >= allowed for trouble in self._state.troubles().values())

    def _deselected(self) -> set[str]:
        """Looked for among all projects only when the selection is another than at the last pass."""
        if self._state.get("pull_wish") == self._wish():
            return set()
        gone = {name for name in self._state.projects() if not self._is_selected(name)}
        with self._state.transaction():
            self._state.decide_leaving(gone, "deselected")
        return gone

    def _wish(self) -> str:
        wish = sorted(self._config.selection.projects), sorted(self._config.selection.blocklist)
        return hashlib.sha256(json.dumps(wish).encode()).hexdigest()

    def _is_selected(self, name: str) -> bool:
        selection = self._config.selection
        if selection.projects:
            return selection.includes(name)
        return name not in selection.blocklist

    def _has(self, name: str, snapshot: str) -> bool:
        """Served and noted: a kill comes between the two."""
        published = self._state.published(name)
        if published is None or self._tree.current(name) != published.snapshot:
            return False
        # Of pages that name a file by a path of its own here the identity alone is the tier above's.
        return snapshot in (published.snapshot, published.identity)

    def _full_pass_is_due(self) -> bool:
        passed = elapsed(float(self._state.get("full_pass_at", 0)), time.time())
        return passed is None or passed > self._full_pass_seconds

    def _damaged(self) -> set[str]:
        """Projects whose own files are not all there: a full pass is an audit too."""
        damaged, path = set(), ""
        while rows := self._state.files_after(path, 10_000):
            for item in rows:
                path = item.path
                sidecar = self._config.paths.served / (path + SIDECAR)
                if regular_size(self._config.paths.served / path) != item.size or (
                    item.core_metadata and regular_size(sidecar) is None
                ):
                    damaged.add(item.project)
        return damaged


def pull(
    config: Config,
    state: State,
    progress: Progress,
    lock: int | None,
    *,
    full: bool = False,
    allow_shrink: bool = False,
) -> tuple[Result, bool]:
    """What was changed, and whether everything that the tier above had is here, but for what is set aside."""
    require_free_space(config.paths.served, config.minimum_free_bytes)
    return Puller(config, state, progress, lock).run(full=full, allow_shrink=allow_shrink)
