"""Snapshots of the tier above, taken into the served tree.

Everything is fetched into a private stage, checked against its hashes, moved into the served tree and only then
switched, by the same code that publishes. Bytes never change below a page that names them: where the tier above has
others under a path than are served here, they get a path of their own, and our pages of that project name it.
"""

import hashlib
import os
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Self
from urllib.parse import quote

from ..common.config import Config
from ..common.files import free_bytes, regular_size, remove, sha256_of
from ..common.guards import require_free_space
from ..common.names import SIDECAR, addressed_path, shown
from ..common.progress import Progress
from ..common.reasons import Reason
from ..common.wheels import MAX_METADATA
from ..fetch.fetched import MAX_DOCUMENT, decode_json
from ..fetch.rsync import Transfer
from ..index.project import BadDocumentError, Project, parse_simple
from ..served.journal import Line
from ..served.state import State
from ..served.tree import BATCH, PAGES, Ready, ServedTree, serial_of, snapshot_name

_SMALL = 1 << 16  # bytes; files up to here go together, so that not each size is a transfer of its own


@dataclass(frozen=True)
class Part:
    """A file that a page names, and its path at the tier above; a sidecar's size is not named anywhere."""

    source: str
    sha256: str
    size: int
    is_sidecar: bool = False

    @property
    def largest(self) -> int:
        """The bytes that it may have on its way here."""
        return MAX_METADATA if self.is_sidecar else max(self.size, _SMALL)


class Stage:
    """A folder on the served tree's file system, emptied by every run and after every batch."""

    def __init__(self, config: Config, state: State, transfer: Transfer, progress: Progress) -> None:
        self._stage = config.paths.fetched / "stage"
        self._config, self._state = config, state
        self._transfer, self._progress = transfer, progress

    def __enter__(self) -> Self:
        remove(self._stage)
        return self

    def __exit__(self, *_: object) -> None:
        remove(self._stage)

    def take(self, wanted: dict[str, str], tree: ServedTree) -> None:
        """Have the tree serve these snapshots, by their projects; a project that cannot be had is set back."""
        self._tree = tree
        self._progress.begin("pulling", len(wanted))
        remaining = iter(wanted.items())
        while batch := dict(islice(remaining, BATCH)):
            self._take_batch(batch)
            remove(self._stage)
            for name in batch:
                self._progress.step(name)

    def _take_batch(self, batch: dict[str, str]) -> None:
        listed = (f"pages/{name}/{snapshot}/" for name, snapshot in batch.items())
        self._transfer.fetch(listed, self._stage, "--exclude=*.gz", largest=MAX_DOCUMENT)
        staged: list[tuple[Project, str, dict[str, bytes]]] = []
        needed: dict[str, Part] = {}
        for name, snapshot in batch.items():
            try:
                contents = self._read_snapshot(name, snapshot)
                project, contents = self._apart(_project(name, snapshot, contents), contents)
                parts = self._needed(project)
                if any(needed.get(path, part) != part for path, part in parts.items()):
                    raise BadDocumentError("of a file's bytes it says other than another project of this run")
            except (OSError, BadDocumentError) as error:
                self._tree.set_back(name, Reason(f"snapshot {snapshot}: {error}", Reason.of(error).kind))
                continue
            staged.append((project, snapshot, contents))
            needed |= parts
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
            if any(file.source for file in project.files):
                ours = self._tree.write_snapshot(project.name, project.serial, contents)
            else:
                ours, there = snapshot, self._staged_snapshot(project.name, snapshot)
                self._tree.take_snapshot(project.name, snapshot, there, contents)
            ready.append(Ready(project, snapshot, ours))
        self._tree.commit(ready, announced)

    def _fetch_parts(self, needed: dict[str, Part]) -> None:
        """Into one flat directory, which spares both sides three directories a file.

        What is of about the same size comes together: rsync takes one bound for all that it brings.
        """
        self._staged: dict[str, Path] = {}
        flat, names = self._stage / "flat", set[str]()
        alike: dict[tuple[int, bool], list[Part]] = {}
        for path, part in needed.items():
            name = path.rpartition("/")[2]
            self._staged[path] = self._stage / part.source if name in names else flat / name
            alike.setdefault((part.largest.bit_length(), name in names), []).append(part)
            names.add(name)
        for (_, nested), parts in sorted(alike.items()):
            paths, largest = [part.source for part in parts], max(part.largest for part in parts)
            if nested:
                self._fetch(paths, largest, self._stage)
            else:
                self._fetch(paths, largest, flat, "--no-relative")

    def _fetch(self, paths: list[str], largest: int, target: Path, *options: str) -> None:
        """Bring files of at most so many bytes, and at once no more than there is room for should all be as large."""
        served, minimum = self._config.paths.served, self._config.minimum_free_bytes
        while paths:
            require_free_space(served, minimum)
            count = max(1, (free_bytes(served) - minimum) // largest)
            self._transfer.fetch(paths[:count], target, *options, largest=largest)
            paths = paths[count:]

    def _staged_snapshot(self, name: str, snapshot: str) -> Path:
        return self._stage / "pages" / name / snapshot

    def _read_snapshot(self, name: str, snapshot: str) -> dict[str, bytes]:
        directory = self._staged_snapshot(name, snapshot)
        contents = {}
        for page in PAGES:
            if regular_size(directory / page) is None:
                raise BadDocumentError(f"{page} did not come", "not found")
            contents[page] = (directory / page).read_bytes()
        if snapshot_name(serial_of(snapshot), contents) != snapshot:
            raise BadDocumentError("its pages have another hash", "wrong hash")
        return contents

    def _apart(self, project: Project, contents: dict[str, bytes]) -> tuple[Project, dict[str, bytes]]:
        """The same, with another path for each file under whose path other bytes or another sidecar are served."""
        files = []
        for file in project.files:
            if regular_size(self._tree.root / file.path) is not None and any(
                file.sha256 != served.sha256
                or len({file.core_metadata, served.core_metadata, None}) > 2  # two, and not the same
                for served in self._state.checked_file(file.path)
            ):
                place = place_apart(file.filename, file.sha256, file.core_metadata)
                contents = _renamed(contents, file.path, place)
                files.append(replace(file, path=place, source=file.path))
            else:
                files.append(file)
        return replace(project, files=tuple(files)), contents

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

    def _problem(self, path: str, part: Part) -> Reason | None:
        staged = self._staged[path]
        size = regular_size(staged)
        if size is None:
            # Another project of this batch may have moved a file that both name.
            return Reason(f"{path} did not come", "not found")
        if not part.is_sidecar and size != part.size:
            return Reason(f"{path} is {size} bytes, not {part.size}", "wrong size")
        if sha256_of(staged) != part.sha256:
            return Reason(f"{path} has another hash", "wrong hash")
        self._progress.add_bytes(size)
        return None

    def _move(self, path: str, part: Part) -> Line:
        staged, target = self._staged[path], self._tree.root / path
        size = regular_size(staged)
        if size is not None:  # else another project of this batch names it too and moved it
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(staged, target)
        return ("file", path, part.size if size is None else size, part.sha256)


def _parts(project: Project) -> dict[str, Part]:
    """Everything that a project's pages name: files and sidecars."""
    parts = {}
    for file in project.files:
        source = file.source or file.path
        parts[file.path] = Part(source, file.sha256, file.size)
        if file.core_metadata:
            parts[file.path + SIDECAR] = Part(source + SIDECAR, file.core_metadata, 0, is_sidecar=True)
    return parts


def place_apart(filename: str, sha256: str, core_metadata: str | None) -> str:
    """Where a file is served under whose path at the tier above other bytes are served here."""
    return addressed_path(hashlib.sha256(f"{sha256} {core_metadata}".encode()).hexdigest(), filename)


def _renamed(contents: dict[str, bytes], former: str, path: str) -> dict[str, bytes]:
    """A project's pages with another path of a file, which they name as index.pages has it."""
    renamed = {}
    for page, form in zip(PAGES, ('"../../%s#', '"../../%s"', '"/%s"'), strict=True):
        before, after = ((form % quote(each)).encode() for each in (former, path))
        if before not in contents[page]:
            raise BadDocumentError(f"{page} does not name {former}")
        renamed[page] = contents[page].replace(before, after)
    return renamed


def _project(name: str, snapshot: str, contents: dict[str, bytes]) -> Project:
    project = parse_simple(decode_json(contents["simple/index.v1_json"]))
    if (project.name, project.serial) != (name, serial_of(snapshot)):
        raise BadDocumentError(f"it is of {shown(project.name)} at serial {project.serial}")
    return project
