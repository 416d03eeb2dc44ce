"""The served tree: what changes it, in the order that leaves it whole at every instant.

First the files, then the new snapshots, all of it brought to the disk and announced in the journal,
then each project switched by one rename. Then the root index, then what left. Deletions come last, a
run later than the page that stopped naming them, so that a client holding the former page is still
served; a quarantined project's files go at once.
"""

import hashlib
import logging
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..common.config import Config
from ..common.files import (
    TEMPORARY,
    entries,
    named,
    prune_empty_parents,
    regular_size,
    remove,
    remove_temporaries,
    replace_symlink,
    sync_file_system,
    write_atomically,
)
from ..common.names import SIDECAR
from ..common.reasons import Reason
from ..index import pages
from ..index.project import Project
from .journal import Journal, Line
from .state import Published, State, Wanted

log = logging.getLogger(__name__)

BATCH = 256
ROOT = "_root"
PAGES = ("simple/index.html", "simple/index.v1_json", "pypi/json")
_MOMENT = (
    "journal/moment"  # the word that the last run left in the state, too; empty while a run changes the tree
)


@dataclass
class Result:
    changed: int = 0
    removed: int = 0
    deleted: int = 0
    incomplete: dict[str, Reason] = field(default_factory=dict)


@dataclass(frozen=True)
class Ready:
    """A project whose files are there and whose snapshot is written."""

    project: Project
    identity: str
    snapshot: str


def with_sidecars(files: Iterable[Wanted]) -> Iterator[str]:
    for file in files:
        yield file.path
        yield file.path + SIDECAR


SNAPSHOT = re.compile(r"s-\d{1,18}-[0-9a-f]{16}")  # what snapshot_name gives


def snapshot_name(serial: int, contents: dict[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name, data in contents.items():
        digest.update(f"{name} {len(data)}\n".encode() + data)
    return f"s-{serial}-{digest.hexdigest()[:16]}"


def serial_of(snapshot: str) -> int:
    return int(snapshot.split("-")[1])


def current_snapshot(tree: Path, name: str) -> str | None:
    """The snapshot that a project's `cur` leads to; of ROOT likewise."""
    try:
        found = os.readlink(tree / "pages" / name / "cur")
    except OSError:
        return None
    return found if SNAPSHOT.fullmatch(found) else None


def leads_to_pages(tree: Path, name: str) -> bool:
    """Whether who asks for a project is led to its current pages."""
    return all((tree / directory / name).is_symlink() for directory in ("simple", "pypi"))


def are_of_one_moment(tree: Path, state: State) -> bool:
    """Whether the run that last changed the tree came to its end, and this state is what it left."""
    try:
        word = (tree / _MOMENT).read_bytes().decode("ascii", "replace")
    except FileNotFoundError:
        return False
    return word != "" and word == state.get("moment")


def _with_compressed(contents: dict[str, bytes]) -> dict[str, bytes]:
    return contents | {f"{page}.gz": pages.compressed(data) for page, data in contents.items()}


def _mend(directory: Path, contents: dict[str, bytes]) -> None:
    """A snapshot's name says what is in it; should it rot, its pages are replaced one by one."""
    for page, data in _with_compressed(contents).items():
        path = directory / page
        if regular_size(path) != len(data) or path.read_bytes() != data:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, data)


def snapshot_problem(directory: Path) -> str | None:
    """What is wrong with a project's current pages, by the hash in their snapshot's name."""
    try:
        snapshot = os.readlink(directory / "cur")
        contents = {page: (directory / snapshot / page).read_bytes() for page in PAGES}
        if snapshot_name(serial_of(snapshot), contents) != snapshot:
            return "rotten"
        for page, data in _with_compressed(contents).items():
            if (directory / snapshot / page).read_bytes() != data:
                return "rotten"
    except (OSError, ValueError, IndexError) as error:
        return f"lost: {error}"
    return None


class ServedTree:
    """One run's changes. `private` is the fetched tree's web directory, whose files leave with ours."""

    def __init__(self, config: Config, state: State, private: Path | None) -> None:
        self._config = config
        self._state = state
        self._private = private
        self.root = config.paths.served
        self.pages = self.root / "pages"
        for directory in ("pages", "simple", "pypi", "packages", "journal"):
            (self.root / directory).mkdir(parents=True, exist_ok=True)
        self._journal = Journal(self.root / "journal")
        self._run = state.next_run()
        self.unfinished = not are_of_one_moment(self.root, state)
        self._changing = False
        if self.unfinished:
            for directory in ("", "simple", "pypi", "journal"):
                remove_temporaries(self.root / directory)
        self.result = Result()

    # Projects that come or change

    def _begin(self) -> None:
        """Before the first change."""
        if not self._changing:
            write_atomically(self.root / _MOMENT, b"")
            self._changing = True

    def _end(self) -> None:
        """After the last one: what the state is told to be done is on the disk."""
        if self._changing:
            sync_file_system(self.root)
            word = secrets.token_hex(8)
            write_atomically(self.root / _MOMENT, word.encode())
            self._state.put("moment", word)
            self._changing = False

    def claim(self, projects: Iterable[Project]) -> None:
        """Note what is about to be linked, so that a kill forgets none of it."""
        self._begin()
        with self._state.transaction():
            for project in projects:
                wanted = [Wanted(f.path, f.size, f.sha256) for f in project.files]
                self._state.claim(project.name, wanted)
                self._state.cancel_removal(with_sidecars(wanted))
                self._state.cancel_removal([f"pages/{project.name}"])

    def write_snapshot(self, name: str, serial: int, contents: dict[str, bytes]) -> str:
        snapshot = snapshot_name(serial, contents)
        if not self._mended(name, snapshot, contents):
            stage = self.pages / name / f"{TEMPORARY}snapshot"
            remove(stage)
            for page, data in contents.items():
                path = stage / page
                path.parent.mkdir(parents=True, exist_ok=True)
                with named(path):
                    path.write_bytes(data)
            self._adopt(name, snapshot, stage, contents)
        return snapshot

    def take_snapshot(self, name: str, snapshot: str, staged: Path, contents: dict[str, bytes]) -> None:
        """As write_snapshot, with a directory that has these contents already and is ours to keep."""
        if not self._mended(name, snapshot, contents):
            self._adopt(name, snapshot, staged, contents)

    def _mended(self, name: str, snapshot: str, contents: dict[str, bytes]) -> bool:
        there = (self.pages / name / snapshot).is_dir()
        if there:
            _mend(self.pages / name / snapshot, contents)
        return there

    def _adopt(self, name: str, snapshot: str, staged: Path, contents: dict[str, bytes]) -> None:
        for page, data in contents.items():
            with named(path := staged / f"{page}.gz"):
                path.write_bytes(pages.compressed(data))
        (self.pages / name).mkdir(exist_ok=True)
        os.rename(staged, self.pages / name / snapshot)

    def set_back(self, name: str, reason: Reason) -> None:
        log.warning("project %s keeps its previous page: %s", name, reason)
        self.result.incomplete[name] = reason

    def commit(self, ready: list[Ready], announced: list[Line]) -> None:
        sync_file_system(self.root)
        self._journal.append([*announced, *(("page", r.project.name, r.snapshot) for r in ready)])
        for item in ready:
            self._switch(item.project.name, item.snapshot)
        with self._state.transaction():
            for item in ready:
                self._confirm(item)

    def _switch(self, name: str, snapshot: str) -> None:
        # In this order: of a project that left and comes back, `cur` may still lead to pages whose files are gone.
        replace_symlink(self.pages / name / "cur", snapshot)
        for directory in ("simple", "pypi"):
            replace_symlink(self.root / directory / name, f"../pages/{name}/cur/{directory}")

    def _confirm(self, item: Ready) -> None:
        project, name = item.project, item.project.name
        held, named = self._state.files_of(name), {file.path for file in project.files}
        dropped = [file for path, file in held.items() if path not in named]
        self._state.claim(name, (Wanted(f.path, f.size, f.sha256, f.core_metadata) for f in project.files))
        self._state.release(name, (file.path for file in dropped))
        self._schedule(with_sidecars(dropped), grace=not project.quarantined)
        self._schedule(self._former_snapshots(name, item.snapshot), grace=not project.quarantined)
        self._state.set_project(
            name,
            Published(item.identity, project.serial, item.snapshot),
            len(project.files),
            sum(file.size for file in project.files),
        )
        self._state.leave_out(name, project.left_out)
        self.result.changed += 1

    def _former_snapshots(self, name: str, current: str) -> list[str]:
        return [
            f"pages/{name}/{entry.name}"
            for entry in entries(self.pages / name)
            if entry.name not in (current, "cur")
        ]

    def current(self, name: str) -> str | None:
        return current_snapshot(self.root, name)

    # What left, the root index, deletions

    def leavers(self, gone: set[str], known: int, *, allow_shrink: bool, what: str) -> list[str]:
        """The projects that left; refused when too many did without anybody having decided so."""
        if not allow_shrink:
            unexplained = gone - self._state.leaving().keys()
            self._config.shrinking.refuse(self._state, known, unexplained, what)
        return sorted(gone)

    def strays(self, known: Callable[[], Iterable[str]]) -> list[str]:
        """Projects that a killed run had begun and that left before they were ever published."""
        if not self.unfinished:
            return []
        begun = self._state.projects_with_files() | {entry.name for entry in entries(self.pages)}
        return sorted(begun.difference(known()) - {ROOT})

    def finish(self, gone: list[str], serial: int) -> Result:
        self._publish_root(set(gone), serial)
        self._remove_projects(gone)
        self._delete_what_is_due()
        self._delete_what_was_never_used()
        self._end()
        return self.result

    def _publish_root(self, gone: set[str], serial: int) -> None:
        current = self.current(ROOT)
        quiet = not (gone or self.result.changed or self.unfinished)
        if quiet and current and self._state.get("root") == [current, serial, pages.RENDERING]:
            return
        self._begin()
        serials = [(name, project) for name, project in self._state.serials() if name not in gone]
        snapshot = self.write_snapshot(
            ROOT,
            serial,
            {
                "index.html": pages.root_html(name for name, _ in serials),
                "index.v1_json": pages.root_json(serials, serial),
            },
        )
        if current != snapshot:
            sync_file_system(self.root)
            self._journal.append([("root", snapshot)])
            replace_symlink(self.pages / ROOT / "cur", snapshot)
        for page in ("index.html", "index.v1_json", "index.html.gz", "index.v1_json.gz"):
            replace_symlink(self.root / "simple" / page, f"../pages/{ROOT}/cur/{page}")
        with self._state.transaction():
            self._schedule(self._former_snapshots(ROOT, snapshot), grace=True)
            self._state.cancel_removal([f"pages/{ROOT}/{snapshot}"])
            self._state.put("root", [snapshot, serial, pages.RENDERING])

    def _remove_projects(self, gone: list[str]) -> None:
        for name in gone:
            self._journal.append([("gone", name)])
            # Its pages are gone for everybody from here on; whoever was led to them a moment ago still reads them.
            for link in (f"simple/{name}", f"pypi/{name}", f"pages/{name}/cur"):
                remove(self.root / link)
            files = self._state.files_of(name)
            with self._state.transaction():
                self._state.release(name, files)
                self._schedule(with_sidecars(files.values()), grace=True)
                self._schedule([f"pages/{name}"], grace=True)
                self._state.drop_project(name)
            log.info("project %s left", name)
            self.result.removed += 1
        with self._state.transaction():
            left = (name for name in self._state.leaving() if not self._state.is_published(name))
            self._state.left(left)

    def _schedule(self, paths: Iterable[str], *, grace: bool) -> None:
        self._state.schedule_removal(paths, self._run if grace else self._run - 1)

    def _delete_what_is_due(self) -> None:
        due = [path for path in self._state.due_removals(self._run) if not self._in_use(path)]
        if due:
            self._begin()
        self._journal.append(("delete", path) for path in due if path.startswith("packages/"))
        for path in due:
            self.result.deleted += remove(self.root / path)
            if path.startswith("packages/"):
                remove_temporaries((self.root / path).parent)
                prune_empty_parents(self.root / path, self.root / "packages")
                self._delete_private(path)
        with self._state.transaction():
            self._state.cancel_removal(self._state.due_removals(self._run))

    def _delete_private(self, path: str) -> None:
        if self._private is None:
            return
        remove(self._private / path)
        remove_temporaries((self._private / path).parent)
        prune_empty_parents(self._private / path, self._private / "packages")

    def _delete_what_was_never_used(self) -> None:
        """Files whose fetch was begun for a project that changed or left before it was published."""
        waiting = (
            self._state.troubles().keys()
            | self.result.incomplete.keys()
            | set(self._state.get("waiting", []))
        )
        done = []
        for path, project in self._state.fetching():
            if self._state.is_wanted(path):
                done.append(path)
            elif project not in waiting:
                self._delete_private(path)
                self._delete_private(path + SIDECAR)  # bandersnatch 8 fetches it
                done.append(path)
        with self._state.transaction():
            self._state.end_fetching(done)

    def _in_use(self, path: str) -> bool:
        if path.startswith("packages/"):
            return self._state.is_wanted(path) or self._state.is_wanted(path.removesuffix(SIDECAR))
        _, name, *snapshot = path.split("/")
        if snapshot:
            return self.current(name) == snapshot[0]
        return self._state.is_published(name)
