"""Fetched tree to served tree, so that no page at any instant names a file that is not there.

For each batch of changed projects: note the files, link them and write their sidecars, write the new
snapshots, bring all of it to the disk, announce it in the journal, then switch each project by one
rename. Then the root index, then what left. Deletions come last, a run later than the page that stopped
naming them, so that a client holding the former page is still served; a quarantined project's files go
at once.
"""

import hashlib
import json
import logging
import os
import platform
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from . import __version__, pages
from .config import Config
from .fetched import Fetched, IncompleteError
from .guards import refuse_shrinking
from .journal import Journal, Line
from .model import File, Project
from .names import SIDECAR
from .state import Published, State, Wanted
from .tree import (
    TEMPORARY,
    entries,
    link_file,
    prune_empty_parents,
    regular_size,
    remove,
    replace_symlink,
    sync_file_system,
    write_atomically,
)
from .wheels import NoMetadataError, wheel_metadata

log = logging.getLogger(__name__)

BATCH = 256
ROOT = "_root"


@dataclass
class Result:
    changed: int = 0
    removed: int = 0
    deleted: int = 0
    incomplete: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    project: Project
    identity: str
    former: Published | None


def serial_of(snapshot: str) -> int:
    return int(snapshot.split("-")[1])


class Publisher:
    def __init__(self, config: Config, state: State) -> None:
        self._config = config
        self._state = state
        self._served = config.paths.served
        self._pages = self._served / "pages"
        self._fetched = Fetched(config.paths.fetched, by_bandersnatch=config.mode == "bandersnatch")
        upstream = hashlib.sha256((config.index_url or "").encode()).hexdigest()[:8]
        self._identity_prefix = f"{pages.RENDERING}.{upstream}."
        self.result = Result()

    def run(self, *, allow_shrink: bool = False) -> Result:
        for directory in ("pages", "simple", "pypi", "packages", "journal"):
            (self._served / directory).mkdir(parents=True, exist_ok=True)
        self._journal = Journal(self._served / "journal")
        self._run = self._state.next_run()
        known = self._state.projects()
        present, refused = self._fetched.identities()
        for problem in refused:
            log.warning("refused: %s", problem)
        gone = self._gone(known, present, allow_shrink)
        unfinished = self._state.get("unfinished")
        if unfinished:
            gone += self._strays(known, present)
        self._state.put("unfinished", True)
        changed = [
            name
            for name in sorted(present)
            if name not in known or known[name].identity != self._identity_prefix + present[name]
        ]
        remaining = iter(changed)
        while batch := list(islice(remaining, BATCH)):
            self._publish_batch(
                [(name, self._identity_prefix + present[name], known.get(name)) for name in batch]
            )
            log.info(
                "published %d of %d changed projects", min(self.result.changed, len(changed)), len(changed)
            )
        if unfinished or gone or self.result.changed or not self._root_is_current():
            self._publish_root(gone)
        self._remove_projects(gone)
        self._delete_what_is_due()
        self._state.put("unfinished", False)
        return self.result

    # What left

    def _gone(self, known: dict[str, Published], present: dict[str, str], allow_shrink: bool) -> list[str]:
        gone = sorted(known.keys() - present.keys())
        unexplained = set(gone) - self._state.leaving().keys()
        if not allow_shrink:
            refuse_shrinking(
                len(known), len(unexplained), self._config.maximum_shrink_share, str(self._fetched.json)
            )
        return gone

    def _strays(self, known: dict[str, Published], present: dict[str, str]) -> list[str]:
        """Projects that a killed run had begun and that left before they were ever published."""
        begun = self._state.projects_with_files() | {entry.name for entry in entries(self._pages)}
        return sorted(begun - known.keys() - present.keys() - {ROOT})

    def _remove_projects(self, gone: list[str]) -> None:
        for name in gone:
            self._journal.append([("gone", name)])
            for directory in ("simple", "pypi"):
                remove(self._served / directory / name)
            files = self._state.files_of(name)
            with self._state.transaction():
                self._state.release(name, files)
                self._schedule(self._with_sidecars(files.values()), grace=True)
                self._schedule([f"pages/{name}"], grace=True)
                self._state.drop_project(name)
            log.info("project %s left", name)
            self.result.removed += 1
        with self._state.transaction():
            self._state.left(self._state.leaving().keys() - self._state.projects().keys())

    # What changed

    def _publish_batch(self, batch: list[tuple[str, str, Published | None]]) -> None:
        plans = [plan for name, identity, former in batch if (plan := self._plan(name, identity, former))]
        with self._state.transaction():
            for plan in plans:
                wanted = [Wanted(f.path, f.size, f.sha256) for f in plan.project.files]
                self._state.claim(plan.project.name, wanted)
                self._state.cancel_removal(self._with_sidecars(wanted))
                self._state.cancel_removal([f"pages/{plan.project.name}"])
        ready: list[tuple[Plan, Project, str]] = []
        announced: list[Line] = []
        for plan in plans:
            try:
                project, lines = self._provide_files(plan.project)
                snapshot = self._write_snapshot(project)
            except (FileExistsError, FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
                # A path that collides with another file's directories; anything else stops the run.
                self._set_back(plan.project.name, f"{error.filename}: {error.strerror}")
                continue
            ready.append((plan, project, snapshot))
            announced += [*lines, ("page", project.name, snapshot)]
        sync_file_system(self._served)
        self._journal.append(announced)
        for _, project, snapshot in ready:
            self._switch(project.name, snapshot)
        with self._state.transaction():
            for plan, project, snapshot in ready:
                self._confirm(plan, project, snapshot)

    def _set_back(self, name: str, reason: str) -> None:
        log.warning("project %s keeps its previous page: %s", name, reason)
        self.result.incomplete[name] = reason

    def _plan(self, name: str, identity: str, former: Published | None) -> Plan | None:
        try:
            project = self._fetched.project(name)
            if (
                former
                and project.serial < former.serial
                and former.identity.startswith(self._identity_prefix)
            ):
                raise IncompleteError(f"serial {project.serial} is older than the published {former.serial}")
            for file in project.files:
                self._check_fetched(file)
        except IncompleteError as reason:
            self._set_back(name, str(reason))
            return None
        return Plan(project, identity, former)

    def _check_fetched(self, file: File) -> None:
        size = regular_size(self._fetched.web / file.path)
        if size != file.size:
            found = "missing" if size is None else f"{size} bytes, not {file.size}"
            raise IncompleteError(f"{file.path} is {found}")

    def _provide_files(self, project: Project) -> tuple[Project, list[Line]]:
        """Link every file and write its sidecar; returns the project as it can truthfully be rendered."""
        known = self._state.files_of(project.name)
        files, lines = [], list[Line]()
        for file in project.files:
            source, target = self._fetched.web / file.path, self._served / file.path
            new = link_file(source, target)
            if new:
                if os.stat(target).st_mode & 0o444 != 0o444:
                    os.chmod(target, 0o644)
                self._remove_temporaries(source.parent)
                lines.append(("file", file.path, file.size, file.sha256))
            provided = file
            if file.is_wheel:
                former = None if new or file.path not in known else known[file.path].core_metadata
                if former is None or regular_size(self._sidecar(file)) is None:
                    former, written = self._provide_sidecar(file)
                    if former:
                        lines.append(("file", file.path + SIDECAR, written, former))
                provided = replace(file, core_metadata=former)
            elif file.core_metadata:
                provided = replace(file, core_metadata=None)
            files.append(provided)
        return replace(project, files=tuple(files)), lines

    def _sidecar(self, file: File) -> Path:
        return self._served / (file.path + SIDECAR)

    def _provide_sidecar(self, file: File) -> tuple[str | None, int]:
        """Serve METADATA beside the wheel; what upstream sent is used only when its hash is as announced."""
        fetched = self._fetched.web / (file.path + SIDECAR)
        data = None
        if file.core_metadata and regular_size(fetched) is not None:
            data = fetched.read_bytes()
            if hashlib.sha256(data).hexdigest() != file.core_metadata:
                data = None
        if data is None:
            try:
                data = wheel_metadata(self._served / file.path)
            except NoMetadataError as reason:
                log.info("no metadata sidecar for %s: %s", file.filename, reason)
                return None, 0
        write_atomically(self._sidecar(file), data, durable=False)
        return hashlib.sha256(data).hexdigest(), len(data)

    def _remove_temporaries(self, directory: Path) -> None:
        """What a killed fetch left beside a file that is now complete."""
        for entry in entries(directory):
            if entry.name.startswith("."):
                log.info("removed left-over %s", entry.name)
                remove(Path(entry.path))

    def _write_snapshot(self, project: Project) -> str:
        return self._snapshot(
            self._pages / project.name,
            project.serial,
            {
                "simple/index.html": pages.project_html(project),
                "simple/index.v1_json": pages.project_json(project),
                "pypi/json": pages.project_legacy(project),
            },
        )

    def _snapshot(self, directory: Path, serial: int, contents: dict[str, bytes]) -> str:
        digest = hashlib.sha256()
        for name, data in contents.items():
            digest.update(f"{name} {len(data)}\n".encode() + data)
        snapshot = f"s-{serial}-{digest.hexdigest()[:16]}"
        if (directory / snapshot).is_dir():
            return snapshot
        stage = directory / f"{TEMPORARY}snapshot"
        remove(stage)
        for name, data in contents.items():
            path = stage / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            path.with_name(path.name + ".gz").write_bytes(pages.compressed(data))
        os.rename(stage, directory / snapshot)
        return snapshot

    def _switch(self, name: str, snapshot: str) -> None:
        for directory in ("simple", "pypi"):
            replace_symlink(self._served / directory / name, f"../pages/{name}/cur/{directory}")
        replace_symlink(self._pages / name / "cur", snapshot)

    def _confirm(self, plan: Plan, project: Project, snapshot: str) -> None:
        name = project.name
        held, named = self._state.files_of(name), {file.path for file in project.files}
        dropped = [file for path, file in held.items() if path not in named]
        self._state.claim(name, (Wanted(f.path, f.size, f.sha256, f.core_metadata) for f in project.files))
        self._state.release(name, (file.path for file in dropped))
        self._schedule(self._with_sidecars(dropped), grace=not project.quarantined)
        self._schedule(self._former_snapshots(name, snapshot), grace=not project.quarantined)
        self._state.set_project(
            name,
            Published(plan.identity, project.serial, snapshot),
            len(project.files),
            sum(file.size for file in project.files),
        )
        self.result.changed += 1

    def _former_snapshots(self, name: str, current: str) -> list[str]:
        return [
            f"pages/{name}/{entry.name}"
            for entry in entries(self._pages / name)
            if entry.name not in (current, "cur")
        ]

    # The root index

    def _root_is_current(self) -> bool:
        snapshot = self._current(ROOT)
        rendered = [snapshot, self.serial(self._state.serials()), pages.RENDERING]
        return snapshot is not None and self._state.get("root") == rendered

    def _publish_root(self, gone: list[str]) -> None:
        leaving = set(gone)
        serials = [(name, serial) for name, serial in self._state.serials() if name not in leaving]
        serial = self.serial(serials)
        snapshot = self._snapshot(
            self._pages / ROOT,
            serial,
            {
                "index.html": pages.root_html(name for name, _ in serials),
                "index.v1_json": pages.root_json(serials, serial),
            },
        )
        if self._current(ROOT) != snapshot:
            sync_file_system(self._served)
            self._journal.append([("root", snapshot)])
            replace_symlink(self._pages / ROOT / "cur", snapshot)
        for page in ("index.html", "index.v1_json", "index.html.gz", "index.v1_json.gz"):
            replace_symlink(self._served / "simple" / page, f"../pages/{ROOT}/cur/{page}")
        with self._state.transaction():
            self._schedule(self._former_snapshots(ROOT, snapshot), grace=True)
            self._state.cancel_removal([f"pages/{ROOT}/{snapshot}"])
            self._state.put("root", [snapshot, serial, pages.RENDERING])

    def _current(self, name: str) -> str | None:
        try:
            return os.readlink(self._pages / name / "cur")
        except OSError:
            return None

    def serial(self, serials: list[tuple[str, int]]) -> int:
        """How far this mirror is: what the fetcher says it reached, or else the newest project."""
        newest = max((serial for _, serial in serials), default=0)
        if self._config.mode == "origin":
            return max(newest, int(self._state.get("origin_serial", 0)))
        try:
            return int((self._config.paths.fetched / "status").read_text("ascii"))
        except (FileNotFoundError, ValueError):
            return newest

    # Deletions

    def _with_sidecars(self, files: Iterable[Wanted]) -> Iterator[str]:
        for file in files:
            yield file.path
            yield file.path + SIDECAR

    def _schedule(self, paths: Iterable[str], *, grace: bool) -> None:
        self._state.schedule_removal(paths, self._run if grace else self._run - 1)

    def _delete_what_is_due(self) -> None:
        due = [path for path in self._state.due_removals(self._run) if not self._in_use(path)]
        self._journal.append(("delete", path) for path in due if path.startswith("packages/"))
        for path in due:
            self.result.deleted += remove(self._served / path)
            if path.startswith("packages/"):
                prune_empty_parents(self._served / path, self._served / "packages")
                fetched = self._fetched.web / path
                if remove(fetched):
                    self._remove_temporaries(fetched.parent)
                prune_empty_parents(fetched, self._fetched.web / "packages")
        with self._state.transaction():
            self._state.cancel_removal(self._state.due_removals(self._run))

    def _in_use(self, path: str) -> bool:
        if path.startswith("packages/"):
            return self._state.is_wanted(path) or self._state.is_wanted(path.removesuffix(SIDECAR))
        _, name, *snapshot = path.split("/")
        if snapshot:
            return self._current(name) == snapshot[0]
        return name in self._state.projects()


def status_document(config: Config, state: State, serial: int) -> dict[str, Any]:
    projects, files, size = state.totals()
    troubles = state.troubles().values()
    return {
        "schema": 1,
        "name": config.name,
        "url": config.url,
        "mode": config.mode,
        "upstream": config.upstream or config.index_url,
        "serial": serial,
        "projects": projects,
        "files": files,
        "bytes": size,
        "last_success": state.get("last_success"),
        "set_aside": sorted(t.name for t in troubles if t.tries >= config.tries_before_set_aside),
        "versions": {
            "mirrorfleet": __version__,
            "python": platform.python_version(),
            **state.get("versions", {}),
        },
    }


def write_status(config: Config, state: State, serial: int, fetched_at: float | None) -> None:
    """last-modified (PEP 381) and mirror.json; only a run that reached upstream moves the former."""
    served = config.paths.served
    served.mkdir(parents=True, exist_ok=True)
    if fetched_at is not None:
        state.put("last_success_at", fetched_at)
        state.put("last_success", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(fetched_at)))
        stamp = time.strftime("%Y%m%dT%H:%M:%S\n", time.gmtime(fetched_at))
        write_atomically(served / "last-modified", stamp.encode())
    document = status_document(config, state, serial)
    write_atomically(served / "mirror.json", json.dumps(document, indent=2).encode() + b"\n")


def publish(
    config: Config, state: State, *, fetched_at: float | None = None, allow_shrink: bool = False
) -> Result:
    publisher = Publisher(config, state)
    result = publisher.run(allow_shrink=allow_shrink)
    serial = publisher.serial(state.serials())
    state.put("serial", serial)
    write_status(config, state, serial, fetched_at)
    return result
