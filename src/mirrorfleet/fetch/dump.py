"""A static dump of named projects of an index: what fills the fetched tree of an origin.

The tree has bandersnatch's shape (web/json/<name>, web/packages/…). A document is written only after the
last of its files, so what it names is there. Upstream's serials may be stripped on the way, so an origin
counts its own: one more for every project that changed.
"""

import asyncio
import logging
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..common.config import Config
from ..common.files import regular_size, temporary_for
from ..common.guards import require_free_space
from ..common.progress import Progress
from ..common.reasons import Reason
from ..served.state import NEVER, State
from .fetched import Fetched
from .files import PROBLEMS, Files, TooLargeError, all_of
from .local import local_document, local_projects
from .projects import ask_again, is_due_again
from .source import Source
from .trouble import count, is_to_be_tried, leave_uncounted, many
from .upstream import AbsentError, Upstream, upstream

log = logging.getLogger(__name__)


@dataclass
class Outcome:
    changed: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    failed: dict[str, Reason] = field(default_factory=dict)
    pending: list[str] = field(
        default_factory=list
    )  # of those that failed, what the next run is to try again
    bytes: int = 0


class Dump:
    def __init__(
        self, config: Config, state: State, client: Upstream, progress: Progress, *, allow_shrink: bool
    ) -> None:
        self._config = config
        self._state = state
        self._source = Source(config, client) if config.index_url else None
        self._files = Files(config, state, client, progress)
        self._seen = state.seen()
        self._fetched = Fetched(config.paths.fetched, by_bandersnatch=False)
        self._progress = progress
        self._allow_shrink = allow_shrink
        self._absent: set[str] = set()
        self._too_large: set[str] = set()
        self.outcome = Outcome()

    async def run(self) -> Outcome:
        local = local_projects(self._config.local_packages) if self._config.local_packages else {}
        remote = [
            name
            for name in self._config.selection.projects
            if name not in local and self._config.selection.includes(name)
        ]
        waiting = {name for name, one in self._state.troubles().items() if not is_to_be_tried(one)}
        asked = [name for name in remote if name not in waiting]
        self._progress.begin("dump", len(local) + len(asked))
        present = set(self._fetched.identities()[0])
        for name, directory in sorted(local.items()):
            await self._attempt(name, self._take_local(name, directory))
        # Few projects at once: concurrency is bounded by the client, this bounds memory and open files.
        slots = asyncio.Semaphore(4)

        async def one(name: str) -> None:
            async with slots:
                await self._attempt(name, self._take_remote(name))

        await all_of(one(name) for name in asked)
        self._count(len(local) + len(asked))
        self._remove(present, set(local) | set(remote))
        return self.outcome

    async def _attempt(self, name: str, work: Any) -> None:
        try:
            changed, received = await work
        except AbsentError as reason:
            log.warning("project %s: not there upstream: %s", name, reason)
            self._absent.add(name)
            if not (self._fetched.documents / name).exists():
                self._fail(name, Reason(f"not there upstream: {reason}", reason.kind))
            return
        except TooLargeError as reason:
            log.info("project %s is not mirrored: %s", name, reason)
            self._too_large.add(name)
            changed, received = False, 0
        except PROBLEMS as reason:
            self._fail(name, Reason.of(reason))
            return
        finally:
            self._progress.step(name)
        with self._state.transaction():
            self._state.clear_trouble([name])
        if changed:
            self.outcome.changed.append(name)
        self.outcome.bytes += received

    def _fail(self, name: str, reason: Reason) -> None:
        log.error("project %s failed: %s", name, reason)
        self.outcome.failed[name] = reason

    def _count(self, tried: int) -> None:
        """Whose fault it is, and when what failed is tried again."""
        failed, allowed = self.outcome.failed, self._config.tries_before_set_aside
        # Nothing else is asked of this upstream that could tell that it is away.
        if len(failed) > many(tried) or 1 < len(failed) == tried:
            log.error("%d projects failed at once: upstream's fault, none is counted against", len(failed))
            self.outcome.pending = sorted(failed)
            leave_uncounted(self._state, "fetch", failed)
            return
        leave_uncounted(self._state, "fetch", {})
        for name, reason in sorted(failed.items()):
            count(self._state, name, reason, allowed)
        troubles = self._state.troubles()
        self.outcome.pending = [name for name in failed if troubles[name].tries < allowed]

    # One project

    async def _take_local(self, name: str, directory: Path) -> tuple[bool, int]:
        document, sources = local_document(name, directory)
        copied = 0
        lacking = {
            path: source
            for path, source in sources.items()
            if regular_size(self._fetched.web / path) != source.stat().st_size
        }
        with self._state.transaction():
            self._state.begin_fetching(name, lacking)
        for path, source in lacking.items():
            target = self._fetched.web / path
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = temporary_for(target)
            shutil.copyfile(source, temporary)
            temporary.chmod(0o644)
            temporary.replace(target)
            copied += target.stat().st_size
        return self._store(name, document), copied

    async def _take_remote(self, name: str) -> tuple[bool, int]:
        assert self._source is not None
        said = await self._source.ask(name)
        assert said is not None
        seen = self._seen.get(name, NEVER)
        again = is_due_again(seen)
        received = await self._files.bring(name, said.document, self._fetched.document(name), again=again)
        changed, lacking = self._store(name, said.document), "left-out" in said.document
        if lacking and again:
            self._state.see(name, ask_again(seen))
        elif not lacking and seen != NEVER:
            self._state.forget_seen([name])
        return changed, received

    # The tree

    def _store(self, name: str, document: dict[str, Any]) -> bool:
        former = self._fetched.document(name)
        last, given = former.pop("last_serial", 0), self._state.serial_given(name)
        if former == document and last >= given:
            return False
        # Never below the clock: should all be lost or restored, mirrors have seen no later one.
        serial = max(int(self._state.get("origin_serial", 0)), last, given, int(time.time())) + 1
        self._state.put("origin_serial", serial)
        self._fetched.store(name, document, serial)
        return True

    def _remove(self, present: set[str], selected: set[str]) -> None:
        absent = self._absent & present
        if not self._allow_shrink:
            self._config.shrinking.refuse(self._state, len(present), absent, "upstream")
        reasons = {
            "deselected": present - selected,
            "larger than max_project_size": self._too_large & present,
            "removed upstream": absent,
        }
        with self._state.transaction():
            for reason, names in reasons.items():
                self._state.decide_leaving(names, reason)
                self._state.forget_seen(names)
        for reason, names in reasons.items():
            for name in sorted(names):
                self._fetched.remove_project(name)
                self.outcome.removed.append(name)
                log.info("project %s leaves: %s", name, reason)


async def dump(config: Config, state: State, progress: Progress, *, allow_shrink: bool = False) -> Outcome:
    require_free_space(config.paths.fetched, config.minimum_free_bytes)
    async with upstream(workers=config.workers, timeout=config.timeout, tries=config.tries) as client:
        return await Dump(config, state, client, progress, allow_shrink=allow_shrink).run()
