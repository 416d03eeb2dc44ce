"""Tree and state that are not of one moment: what is served is true, and the state is made to say so.

The state may be lost, restored or corrupt, the tree lost or restored, a run killed, or a power cut took the last of
what either was told. A run that changes something leaves a word in both that no other run left; where they have not
the same one, every project's current pages are compared with what is noted.
"""

import json
import logging
import time

from ..common.config import Config
from ..common.files import entries
from ..common.names import InvalidNameError, own_name
from ..index.project import BadDocumentError, Project, parse_simple
from .journal import announced_snapshots
from .state import Published, State, Wanted
from .status import last_modified
from .tree import (
    PAGES,
    ROOT,
    SNAPSHOT,
    are_of_one_moment,
    current_snapshot,
    leads_to_pages,
    serial_of,
    snapshot_name,
    with_sidecars,
)

log = logging.getLogger(__name__)


def agree(config: Config, state: State) -> None:
    """Have the state say what the tree serves, and know each serial that was given as the tree and its journal do."""
    folders = (config.paths.served / "pages", config.paths.fetched / "web/packages")
    begun = any(path.is_dir() for path in folders) or state.projects()
    if begun and not are_of_one_moment(config.paths.served, state):
        _Agreement(config, state).reach()


class _Agreement:
    def __init__(self, config: Config, state: State) -> None:
        self._config, self._state = config, state
        self._tree = config.paths.served
        self._run = int(state.get("run", 0)) + 1  # the one that begins
        self._given: dict[str, int] = {}

    def reach(self) -> None:
        known, served, noted = self._state.projects(), set[str](), 0
        for name, snapshot in announced_snapshots(self._tree / "journal"):
            self._count(name or ROOT, snapshot)
        for name in self._names():
            current = self._look(name)
            if current is None:
                continue
            served.add(name)
            if name not in known or known[name].snapshot != current:
                self._note(name, current)
                noted += 1
        missing = known.keys() - served
        for name in missing:
            self._forget(name, known[name], anything_served=bool(served))
        for name, former in known.items():
            self._given[name] = max(self._given.get(name, 0), former.serial)
        self._remember(current_snapshot(self._tree, ROOT))
        if noted or missing:
            # Whether the tree is ahead or behind nobody knows.
            self._state.put("pull_position", None)
            log.warning(
                "the state is of another moment than the tree: %d projects are noted as they are served, %d are not",
                noted,
                len(missing),
            )

    def _names(self) -> list[str]:
        found = []
        for entry in entries(self._tree / "pages"):
            try:
                found.append(entry.name if entry.name == ROOT else own_name(entry.name))
            except InvalidNameError:
                continue
        return found

    def _count(self, name: str, snapshot: str) -> None:
        if SNAPSHOT.fullmatch(snapshot):
            self._given[name] = max(self._given.get(name, 0), serial_of(snapshot))

    def _look(self, name: str) -> str | None:
        """The snapshot that is served of a project; what lies beside it is to go."""
        current, others = current_snapshot(self._tree, name), []
        for entry in entries(self._tree / "pages" / name):
            self._count(name, entry.name)
            if entry.name not in ("cur", current):
                others.append(f"pages/{name}/{entry.name}")
        if name == ROOT or current is None or not leads_to_pages(self._tree, name):
            return None
        with self._state.transaction():
            self._state.schedule_removal(others, self._run)
        return current

    def _note(self, name: str, snapshot: str) -> None:
        """Its next publication compares everything; until then its files are not anybody's to delete."""
        project = self._read(name, snapshot)
        if project is None:
            log.warning("pages of %s are not what their name says; they are made again", name)
            with self._state.transaction():
                self._state.set_project(name, Published("", serial_of(snapshot), ""), 0, 0)
            return
        files = {file.path: file for file in project.files}
        wanted = [Wanted(file.path, file.size, file.sha256, file.core_metadata) for file in files.values()]
        dropped = [file for path, file in self._state.files_of(name).items() if path not in files]
        with self._state.transaction():
            self._state.release(name, (file.path for file in dropped))
            self._state.schedule_removal(with_sidecars(dropped), 0 if project.quarantined else self._run)
            self._state.claim(name, wanted)
            self._state.cancel_removal(with_sidecars(wanted))
            self._state.cancel_removal([f"pages/{name}", f"pages/{name}/{snapshot}"])
            size = sum(file.size for file in wanted)
            self._state.set_project(name, Published("", project.serial, snapshot), len(wanted), size)

    def _read(self, name: str, snapshot: str) -> Project | None:
        directory = self._tree / "pages" / name / snapshot
        try:
            contents = {page: (directory / page).read_bytes() for page in PAGES}
            if snapshot_name(serial_of(snapshot), contents) != snapshot:
                return None
            return parse_simple(json.loads(contents["simple/index.v1_json"]))
        except (OSError, ValueError, RecursionError, BadDocumentError):
            return None

    def _forget(self, name: str, former: Published, *, anything_served: bool) -> None:
        """What is not served is not there; but where nothing is, guards are still to know what there was."""
        if not anything_served:
            with self._state.transaction():
                self._state.set_project(name, Published("", former.serial, ""), 0, 0)
            return
        files = self._state.files_of(name)
        with self._state.transaction():
            self._state.release(name, files)
            self._state.schedule_removal([*with_sidecars(files.values()), f"pages/{name}"], self._run)
            self._state.drop_project(name)

    def _remember(self, root: str | None) -> None:
        """Serials, and what the mirror says of itself."""
        state, published = self._state, dict(self._state.serials())
        reached = serial_of(root) if root else 0
        newest = max(self._given.values(), default=0)
        stamp = last_modified(self._tree)
        with state.transaction():
            for name, serial in self._given.items():
                if name != ROOT and serial > published.get(name, 0):
                    state.note_given(name, serial)
            for key, serial in (
                ("serial", reached),
                ("reached", reached if self._config.mode == "bandersnatch" else 0),
                ("origin_serial", newest if self._config.mode == "origin" else 0),
            ):
                if serial > int(state.get(key) or 0):
                    state.put(key, serial)
            if stamp is not None and state.get("last_success_at") is None:
                state.put("last_success_at", stamp)
                state.put("last_success", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(stamp)))
            if not state.get("swept_at"):
                state.put("swept_at", 1.0)  # what a lost state was to remove nobody names
