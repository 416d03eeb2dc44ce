"""Fetched tree to served tree: what is complete is linked and rendered, the rest keeps its former page.

Cost grows with what changed: a project whose stored document is the one last published is not read.
"""

import hashlib
import logging
import os
from dataclasses import replace
from itertools import islice
from pathlib import Path

from ..common.config import Config
from ..common.files import link_file, regular_size, remove_temporaries, sha256_of, write_atomically
from ..common.names import SIDECAR, fits_a_sidecar
from ..common.reasons import Reason
from ..common.wheels import NoMetadataError, wheel_metadata
from ..fetch.fetched import Fetched, IncompleteError
from ..fetch.trouble import leave_uncounted
from ..index import pages
from ..index.project import File, Project
from ..served.journal import Line
from ..served.state import Published, State
from ..served.status import write_status
from ..served.tree import BATCH, PAGES, Ready, Result, ServedTree

log = logging.getLogger(__name__)


class Publisher:
    def __init__(self, config: Config, state: State) -> None:
        self._config = config
        self._state = state
        self._fetched = Fetched(config.paths.fetched, by_bandersnatch=config.mode == "bandersnatch")
        # Serials of two upstreams cannot be compared, and another rendering concerns every page.
        upstream = hashlib.sha256((config.index_url or "").encode()).hexdigest()[:8]
        self._identity_prefix = f"{pages.RENDERING}.{upstream}."

    def run(self, *, allow_shrink: bool = False) -> Result:
        self._tree = ServedTree(self._config, self._state, self._fetched.web)
        remove_temporaries(self._fetched.documents)
        known = self._state.projects()
        present, refused = self._fetched.identities()
        for problem in refused:
            log.warning("refused: %s", problem)
        gone = self._tree.leavers(
            known.keys() - present.keys(),
            len(known),
            allow_shrink=allow_shrink,
            what=str(self._fetched.documents),
        )
        gone += self._tree.strays(lambda: known.keys() | present.keys())
        changed = self._changed(known, present)
        remaining, done = iter(changed), 0
        while batch := list(islice(remaining, BATCH)):
            self._publish_batch([(name, identity, known.get(name)) for name, identity in batch])
            done += len(batch)
            log.info("published %d of %d changed projects", done, len(changed))
        return self._tree.finish(gone, self.serial())

    def _changed(self, known: dict[str, Published], present: dict[str, str]) -> list[tuple[str, str]]:
        identities = ((name, self._identity_prefix + stamp) for name, stamp in sorted(present.items()))
        return [item for item in identities if item[0] not in known or known[item[0]].identity != item[1]]

    def _publish_batch(self, batch: list[tuple[str, str, Published | None]]) -> None:
        planned = [
            (project, identity)
            for name, identity, former in batch
            if (project := self._complete(name, former))
        ]
        self._tree.claim(project for project, _ in planned)
        ready: list[Ready] = []
        announced: list[Line] = []
        for project, identity in planned:
            try:
                provided, lines = self._provide_files(project)
                snapshot = self._write_snapshot(provided)
            except (FileExistsError, FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
                # A path that collides with another file's directories; anything else stops the run.
                self._tree.set_back(project.name, Reason(f"{error.filename}: {error.strerror}", "not stored"))
                continue
            ready.append(Ready(provided, identity, snapshot))
            announced += lines
        self._tree.commit(ready, announced)

    def _complete(self, name: str, former: Published | None) -> Project | None:
        try:
            project = self._fetched.project(name)
            if (
                former
                and project.serial < former.serial
                and (not former.identity or former.identity.startswith(self._identity_prefix))
            ):
                told = f"serial {project.serial} is older than the published {former.serial}"
                raise IncompleteError(told, "behind")
            for file in project.files:
                self._check_fetched(file)
        except IncompleteError as reason:
            self._tree.set_back(name, Reason.of(reason))
            return None
        return project

    def _check_fetched(self, file: File) -> None:
        size = regular_size(self._fetched.web / file.path)
        if size != file.size:
            if size is None:
                raise IncompleteError(f"{file.path} is missing", "not found")
            raise IncompleteError(f"{file.path} is {size} bytes, not {file.size}", "wrong size")

    def _provide_files(self, project: Project) -> tuple[Project, list[Line]]:
        """Link every file and write its sidecar; returns the project as it can truthfully be rendered."""
        known = self._state.files_of(project.name)
        files, lines = [], list[Line]()
        for file in project.files:
            source, target = self._fetched.web / file.path, self._tree.root / file.path
            new = link_file(source, target)
            if new:
                if os.stat(target).st_mode & 0o444 != 0o444:
                    os.chmod(target, 0o644)
                lines.append(("file", file.path, file.size, file.sha256))
            if new or self._tree.unfinished:
                remove_temporaries(source.parent)
                remove_temporaries(target.parent)
            core_metadata = None
            if (file.is_wheel or file.core_metadata) and fits_a_sidecar(file.filename):
                served = known[file.path].core_metadata if file.path in known else None
                if not new and regular_size(self._sidecar(file)) is not None:
                    core_metadata = served
                if core_metadata is None:
                    core_metadata, size = self._provide_sidecar(file, served)
                    if core_metadata:
                        lines.append(("file", file.path + SIDECAR, size, core_metadata))
            files.append(replace(file, core_metadata=core_metadata))
        return replace(project, files=tuple(files)), lines

    def _sidecar(self, file: File) -> Path:
        return self._tree.root / (file.path + SIDECAR)

    def _provide_sidecar(self, file: File, served: str | None) -> tuple[str | None, int]:
        """Serve METADATA beside the wheel; what upstream sent is used only when its hash is as announced.

        Another one that lies there may be named by another project's page, and stays.
        """
        fetched = self._fetched.web / (file.path + SIDECAR)
        data = None
        if file.core_metadata and regular_size(fetched) is not None:
            data = fetched.read_bytes()
            if hashlib.sha256(data).hexdigest() != file.core_metadata:
                data = None
        if data is None and not file.is_wheel:
            return None, 0
        if data is None:
            try:
                data = wheel_metadata(self._tree.root / file.path)
            except NoMetadataError as reason:
                log.info("no metadata sidecar for %s: %s", file.filename, reason)
                return None, 0
        sidecar, sha256 = self._sidecar(file), hashlib.sha256(data).hexdigest()
        if sha256 != served and regular_size(sidecar) is not None and sha256_of(sidecar) != sha256:
            log.warning("no metadata sidecar for %s: another one is served under its path", file.filename)
            return None, 0
        write_atomically(sidecar, data, durable=False)
        return sha256, len(data)

    def _write_snapshot(self, project: Project) -> str:
        rendered = (pages.project_html(project), pages.project_json(project), pages.project_legacy(project))
        contents = dict(zip(PAGES, rendered, strict=True))
        return self._tree.write_snapshot(project.name, project.serial, contents)

    def serial(self) -> int:
        """How far this mirror is: what the fetcher says it reached, or else the newest project."""
        newest = self._state.newest_serial()
        if self._config.mode == "origin":
            return max(newest, int(self._state.get("origin_serial", 0)))
        return int(self._state.get("reached", 0)) or newest


def publish(
    config: Config, state: State, *, fetched_at: float | None = None, allow_shrink: bool = False
) -> Result:
    publisher = Publisher(config, state)
    result = publisher.run(allow_shrink=allow_shrink)
    if config.mode == "origin":  # where a project that was fetched is no trouble
        leave_uncounted(state, "publish", result.incomplete)
    write_status(config, state, publisher.serial(), fetched_at)
    return result
