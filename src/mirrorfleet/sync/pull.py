"""rsync mode: a tier-2's served tree from a tier-1's, by its change journal.

The journal says which projects have another snapshot. A snapshot never changes once it has its name, so
what is fetched under that name is exactly what the journal meant, and what it lists says which files
are needed. Everything is fetched into a private stage, checked against its hashes, moved into the
served tree and only then switched, by the same code that publishes. A full pass, which compares the
current snapshot of every project and the size of every file, is taken when the journal cannot be
followed and now and then as an audit.
"""

import calendar
import hashlib
import json
import logging
import os
import re
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from ..common.config import Config, Rsync
from ..common.files import entries, regular_size, remove, sha256_of
from ..common.guards import require_free_space
from ..common.names import SIDECAR, InvalidNameError, project_name, shown
from ..common.progress import Progress
from ..fetch.fetched import MAX_DOCUMENT, decode_json
from ..index.project import BadDocumentError, Project, parse_simple
from ..served.journal import BadJournalError, Head, Line, parse_head, read_lines, segment_name
from ..served.state import State
from ..served.status import write_status
from ..served.tree import BATCH, PAGES, Ready, Result, ServedTree, snapshot_name

log = logging.getLogger(__name__)

_SNAPSHOT = re.compile(r"s-\d{1,18}-[0-9a-f]{16}")
_LINK = re.compile(r" pages/([^/ ]+)/cur -> (?:/rsyncd-munged/)?(\S+)$")
# rsync could not transfer some files, or they vanished meanwhile: what came is judged file by file.
_PARTIAL = (23, 24)
_VANISHED = (24,)


class TransferError(Exception):
    """rsync did not get through; the message is its own."""


@dataclass(frozen=True)
class Part:
    """A file that a page names; a sidecar's size is not named anywhere."""

    sha256: str
    size: int
    is_sidecar: bool = False


@dataclass
class Changes:
    """What the journal says since the last pass, the last word on each project."""

    pages: dict[str, str] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    refused: int = 0

    def read(self, lines: Iterable[list[Any]]) -> None:
        for line in lines:
            try:
                self._read(line)
            except (InvalidNameError, ValueError, TypeError, IndexError) as error:
                self.refused += 1
                log.warning("journal: refused: %s", shown(str(error)))

    def _read(self, line: list[Any]) -> None:
        if line[0] == "page":
            name, snapshot = _own_name(line[1]), str(line[2])
            if not _SNAPSHOT.fullmatch(snapshot):
                raise ValueError(f"not a snapshot: {shown(snapshot)}")
            self.pages[name] = snapshot
            self.gone.discard(name)
        elif line[0] == "gone":
            name = _own_name(line[1])
            self.gone.add(name)
            self.pages.pop(name, None)


def _own_name(raw: Any) -> str:
    if not isinstance(raw, str) or project_name(raw) != raw:
        raise InvalidNameError(f"not a project name: {shown(raw)}")
    return raw


def _known_link(line: str) -> tuple[str, str] | None:
    """Project and snapshot of a line of rsync's listing, when it is a project's current link."""
    match = _LINK.search(line)
    if not match or not _SNAPSHOT.fullmatch(match[2]):
        return None
    try:
        return _own_name(match[1]), match[2]
    except InvalidNameError:
        return None


class Transfer:
    """Runs rsync: named paths of the source into a directory."""

    def __init__(self, settings: Rsync, lock: int | None) -> None:
        self._settings = settings
        # rsync keeps the lock too: if we are killed, no second run starts beside it.
        self._inherited = () if lock is None else (lock,)

    def fetch(self, names: Iterable[str], target: Path, *options: str) -> None:
        """Fetch what is there of the named paths; the caller looks at what came."""
        listed = "".join(f"{name}\0" for name in names)
        if listed:
            target.mkdir(parents=True, exist_ok=True)
            self._run([*options, "--files-from=-", "--from0"], f"{target}/", listed)

    def current_snapshots(self, names: Iterable[str] | None) -> dict[str, str]:
        """Which snapshot each project has now; of all of them when no names are given."""
        if names is None:
            patterns = ("/pages/", "/pages/*/", "/pages/*/cur")
            options = ["-l", *(f"--include={p}" for p in patterns), "--exclude=*"]
            # What a broken listing lacks would be taken for gone.
            shown_lines = self._run(options, None, "", acceptable=_VANISHED)
        else:
            listed = "".join(f"pages/{name}/cur\0" for name in names)
            shown_lines = self._run(["-l", "--files-from=-", "--from0"], None, listed)
        return dict(filter(None, map(_known_link, shown_lines.splitlines())))

    def _run(
        self, options: list[str], target: str | None, stdin: str, acceptable: tuple[int, ...] = _PARTIAL
    ) -> str:
        source = self._settings.source.rstrip("/") + "/"
        command = [
            self._settings.program,
            "-rt",
            # What changed within one second to something as long is another file: rsync(1), --modify-window.
            "--modify-window=-1",
            "--chmod=D755,F644",
            f"--timeout={self._settings.timeout}",
            *self._settings.options,
            *options,
            # With a list of files rsync wants a destination even when it only lists.
            *(["--list-only", source, "."] if target is None else [source, target]),
        ]
        ran = subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            pass_fds=self._inherited,
        )
        if ran.returncode in acceptable:
            log.info("rsync: %s", ran.stderr.strip()[-500:])
        elif ran.returncode != 0:
            raise TransferError(f"rsync from {source}: exit {ran.returncode}: {ran.stderr.strip()[-500:]}")
        return ran.stdout


@dataclass(frozen=True)
class Upstream:
    """What the tier above says about itself, taken before anything else."""

    head: Head
    serial: int
    fetched_at: float | None


class Puller:
    def __init__(self, config: Config, state: State, progress: Progress, lock: int | None) -> None:
        assert config.rsync is not None
        self._config = config
        self._state = state
        self._progress = progress
        self._full_pass_seconds = config.rsync.full_pass_hours * 3600
        self._source = config.rsync.source
        self._transfer = Transfer(config.rsync, lock)
        # The private tree of this mode: a stage on the served tree's file system, emptied by every run.
        self._stage = config.paths.fetched / "stage"
        self._copy = config.paths.fetched / "upstream"

    def run(self, *, full: bool, allow_shrink: bool) -> Result:
        remove(self._stage)
        try:
            return self._pass(full=full, allow_shrink=allow_shrink)
        finally:
            remove(self._stage)

    def _pass(self, *, full: bool, allow_shrink: bool) -> Result:
        upstream = self._ask()
        self._tree = ServedTree(self._config, self._state, None)
        before = self._state.totals()[0]
        changes, position = self._follow(upstream.head)
        # What is newly selected may have changed long ago.
        other_wish = self._state.get("pull_wish") not in (None, self._wish())
        if full or other_wish or changes is None or self._full_pass_is_due():
            log.info("full pass")
            changes = Changes(pages=self._transfer.current_snapshots(None))
            changes.gone = self._state.projects().keys() - changes.pages.keys()
            damaged = self._damaged()
            self._state.put("full_pass_at", time.time())
        else:
            damaged = set(self._state.get("pull_again", []))
            changes.pages |= self._transfer.current_snapshots(damaged) if damaged else {}
        gone = {name for name in changes.gone if self._state.is_published(name)} | self._deselected()
        # Refused before anything changes.
        leavers = self._tree.leavers(gone, before, allow_shrink=allow_shrink, what=self._source)
        self._take(
            {
                name: snapshot
                for name, snapshot in sorted(changes.pages.items())
                if self._is_selected(name) and (name in damaged or not self._has(name, snapshot))
            }
        )
        leavers += self._tree.strays(lambda: self._state.projects().keys() | changes.pages.keys())
        incomplete = self._tree.result.incomplete
        serial = self._state.get("serial") if incomplete else upstream.serial
        result = self._tree.finish(leavers, int(serial or 0))
        self._state.put("pull_again", sorted(incomplete))
        self._state.put("pull_position", position)
        self._state.put("pull_wish", self._wish())
        write_status(self._config, self._state, int(serial or 0), None if incomplete else upstream.fetched_at)
        return result

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
        return self._tree.current(name) == snapshot == self._state.published_snapshot(name)

    # What changed

    def _ask(self) -> Upstream:
        names = ["journal/head.json", "mirror.json", "last-modified"]
        # With them the segment that is read next: nothing new then costs one connection.
        if position := self._state.get("pull_position"):
            names.append(f"journal/{segment_name(position['segment'])}")
        self._transfer.fetch(names, self._copy, f"--max-size={MAX_DOCUMENT}")
        try:
            head = parse_head((self._copy / "journal/head.json").read_bytes())
            serial = int(json.loads((self._copy / "mirror.json").read_bytes())["serial"])
        except (OSError, BadJournalError, ValueError, KeyError, TypeError) as error:
            raise TransferError(f"{self._source} is no mirror of a fleet: {error}") from error
        self._state.put("upstream_serial", serial)
        return Upstream(head, serial, self._last_modified())

    def _last_modified(self) -> float | None:
        """When the tier above last had everything: later is impossible for us, and for it as well."""
        try:
            stamp = (self._copy / "last-modified").read_text("ascii").strip()
            at = calendar.timegm(time.strptime(stamp, "%Y%m%dT%H:%M:%S"))
        except (OSError, ValueError):
            return None
        return min(float(at), time.time())

    def _full_pass_is_due(self) -> bool:
        return time.time() - float(self._state.get("full_pass_at", 0)) > self._full_pass_seconds

    def _follow(self, head: Head) -> tuple[Changes | None, dict[str, Any]]:
        """The changes since the last pass, None when the journal does not tell; and where to go on."""
        position = self._state.get("pull_position") or {}
        first = position.get("segment", 0)
        whole = position.get("generation") == head.generation and head.oldest <= first <= head.newest
        if not whole:
            remove(self._copy / "journal")
            first = head.newest
        numbers = range(first, head.newest + 1)
        # Asked for with the head; unless it was rotated meanwhile, and then it may have grown before.
        if not (whole and first == head.newest):
            self._transfer.fetch([f"journal/{segment_name(number)}" for number in numbers], self._copy)
        changes, consumed, broken = Changes(), 0, 0
        for number in numbers:
            try:
                data = (self._copy / "journal" / segment_name(number)).read_bytes()
            except FileNotFoundError:
                whole = False
                continue
            offset = position["offset"] if whole and number == first else 0
            whole = whole and offset <= len(data)
            lines, length, bad = read_lines(data[offset:])
            consumed, broken = offset + length, broken + bad
            if whole:
                changes.read(lines)
        for entry in entries(self._copy / "journal"):
            if entry.name.endswith(".jsonl") and entry.name < segment_name(head.newest):
                remove(Path(entry.path))
        if broken or changes.refused:
            # What they meant to say is found by comparing.
            log.warning("journal: %d broken and %d refused lines", broken, changes.refused)
            whole = False
        after = {"generation": head.generation, "segment": head.newest, "offset": consumed}
        return (changes if whole else None), after

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

    # Fetching it

    def _take(self, wanted: dict[str, str]) -> None:
        self._progress.begin("pulling", len(wanted))
        remaining = iter(wanted.items())
        while batch := dict(islice(remaining, BATCH)):
            self._take_batch(batch)
            remove(self._stage)
            for name in batch:
                self._progress.step(name)

    def _take_batch(self, batch: dict[str, str]) -> None:
        listed = (f"pages/{name}/{snapshot}/" for name, snapshot in batch.items())
        self._transfer.fetch(listed, self._stage, f"--max-size={MAX_DOCUMENT}", "--exclude=*.gz")
        staged: list[tuple[Project, str, dict[str, bytes]]] = []
        for name, snapshot in batch.items():
            try:
                contents = self._read_snapshot(name, snapshot)
                staged.append((_project(name, snapshot, contents), snapshot, contents))
            except (OSError, BadDocumentError) as error:
                self._tree.set_back(name, f"snapshot {snapshot}: {error}")
        needed = {path: part for project, _, _ in staged for path, part in self._needed(project).items()}
        size = sum(part.size for part in needed.values())
        require_free_space(self._config.paths.served, self._config.minimum_free_bytes + size)
        self._tree.claim(project for project, _, _ in staged)
        self._fetch_parts(needed)
        bad = {path: problem for path, part in needed.items() if (problem := self._problem(path, part))}
        ready: list[Ready] = []
        announced: list[Line] = []
        for project, snapshot, contents in staged:
            paths = [path for path in _parts(project) if path in needed]
            problems = [bad[path] for path in paths if path in bad]
            if problems:
                self._tree.set_back(project.name, problems[0])
                continue
            announced += [self._move(path, needed[path]) for path in paths]
            self._tree.take_snapshot(
                project.name, snapshot, self._staged_snapshot(project.name, snapshot), contents
            )
            ready.append(Ready(project, snapshot, snapshot))
        self._tree.commit(ready, announced)

    def _fetch_parts(self, needed: dict[str, Part]) -> None:
        """Into one flat directory, which spares both sides three directories a file."""
        self._staged: dict[str, Path] = {}
        flat, names, nested = self._stage / "flat", set[str](), []
        for path in needed:
            name = path.rpartition("/")[2]
            if name in names:
                nested.append(path)
                self._staged[path] = self._stage / path
            else:
                names.add(name)
                self._staged[path] = flat / name
        self._transfer.fetch((p for p in needed if p not in nested), flat, "--no-relative")
        self._transfer.fetch(nested, self._stage)

    def _staged_snapshot(self, name: str, snapshot: str) -> Path:
        return self._stage / "pages" / name / snapshot

    def _read_snapshot(self, name: str, snapshot: str) -> dict[str, bytes]:
        directory = self._staged_snapshot(name, snapshot)
        contents = {}
        for page in PAGES:
            if regular_size(directory / page) is None:
                raise BadDocumentError(f"{page} did not come")
            contents[page] = (directory / page).read_bytes()
        if snapshot_name(_serial(snapshot), contents) != snapshot:
            raise BadDocumentError("its pages have another hash")
        return contents

    def _needed(self, project: Project) -> dict[str, Part]:
        """The parts of a project that are not here as they should be."""
        held = self._state.files_of(project.name)
        needed = {}
        for path, part in _parts(project).items():
            size = regular_size(self._tree.root / path)
            known = held.get(path.removesuffix(SIDECAR))
            digest = None if known is None else known.core_metadata if part.is_sidecar else known.sha256
            if (
                size is None
                or (not part.is_sidecar and size != part.size)
                or (digest != part.sha256 and sha256_of(self._tree.root / path) != part.sha256)
            ):
                needed[path] = part
        return needed

    def _problem(self, path: str, part: Part) -> str | None:
        staged = self._staged[path]
        size = regular_size(staged)
        if size is None:
            # Another project of this batch may have moved a file that both name.
            return f"{path} did not come"
        if not part.is_sidecar and size != part.size:
            return f"{path} is {size} bytes, not {part.size}"
        if sha256_of(staged) != part.sha256:
            return f"{path} has another hash"
        self._progress.add_bytes(size)
        return None

    def _move(self, path: str, part: Part) -> Line:
        staged, target = self._staged[path], self._tree.root / path
        size = regular_size(staged)
        if size is not None:  # else another project of this batch names it too and moved it
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(staged, target)
        return ("file", path, part.size if size is None else size, part.sha256)


def _serial(snapshot: str) -> int:
    return int(snapshot.split("-")[1])


def _parts(project: Project) -> dict[str, Part]:
    """Everything that a project's pages name: files and sidecars."""
    parts = {}
    for file in project.files:
        parts[file.path] = Part(file.sha256, file.size)
        if file.core_metadata:
            parts[file.path + SIDECAR] = Part(file.core_metadata, 0, is_sidecar=True)
    return parts


def _project(name: str, snapshot: str, contents: dict[str, bytes]) -> Project:
    project = parse_simple(decode_json(contents["simple/index.v1_json"]))
    if (project.name, project.serial) != (name, _serial(snapshot)):
        raise BadDocumentError(f"it is of {shown(project.name)} at serial {project.serial}")
    return project


def pull(
    config: Config,
    state: State,
    progress: Progress,
    lock: int | None,
    *,
    full: bool = False,
    allow_shrink: bool = False,
) -> Result:
    require_free_space(config.paths.served, config.minimum_free_bytes)
    return Puller(config, state, progress, lock).run(full=full, allow_shrink=allow_shrink)
