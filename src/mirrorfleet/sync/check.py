"""The rolling check: a share of the tree a day is read and compared with its hashes, and repaired.

It goes on where it stopped. A file that is lost or rotten is fetched again by its hash and put in place by
one rename; a page that is not what its name says is rendered or pulled again by the next run; a file that
nobody names is removed.
"""

import asyncio
import hashlib
import logging
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urljoin

from ..common.clock import elapsed
from ..common.config import Config
from ..common.files import (
    link_file,
    prune_empty_parents,
    regular_size,
    remove,
    sha256_of,
    temporary_for,
    write_atomically,
)
from ..common.guards import RefusedError, require_free_space
from ..common.names import SIDECAR, sidecar_url
from ..common.wheels import MAX_METADATA, NoMetadataError, wheel_metadata
from ..fetch.fetched import Fetched, IncompleteError
from ..fetch.rsync import Transfer, TransferError
from ..fetch.upstream import FetchError, upstream
from ..served.state import Checked, State
from ..served.tree import snapshot_problem
from .snapshots import place_apart

log = logging.getLogger(__name__)

_DAY = 86400.0
_SWEEP_DAYS = 30  # walking the tree for files that nobody names costs what the tree costs


class UnrepairedError(Exception):
    """A file could not be had again."""


@dataclass
class Report:
    checked: int = 0
    repaired: list[str] = field(default_factory=list)
    broken: dict[str, str] = field(default_factory=dict)
    orphans: int = 0


def due(share_per_day: float, total: int, seconds: float) -> int:
    """How many of `total` are to be looked at when the last look was `seconds` ago; a clock set back counts as none."""
    return max(0, min(total, int(share_per_day * total * seconds / _DAY)))


class Checker:
    def __init__(self, config: Config, state: State, lock: int | None) -> None:
        self._config = config
        self._state = state
        self._served = config.paths.served
        self._fetched = Fetched(config.paths.fetched, by_bandersnatch=config.mode == "bandersnatch")
        self._private = None if config.mode == "rsync" else self._fetched.web
        self._transfer = Transfer(config.rsync, lock) if config.rsync else None
        self.report = Report()

    def run(self, *, everything: bool, sweep: bool) -> Report:
        projects, files, _ = self._state.totals()
        now, last = time.time(), float(self._state.get("checked_at", 0))
        share = self._config.check_share_per_day
        passed = elapsed(last, now) if last else 0.0
        # After a pause, or a jump of the clock, a run is not to read everything at once.
        seconds = min(passed or 0.0, _DAY)
        count = files if everything else due(share, files, seconds)
        for path in self._state.get("broken_files", []):
            for item in self._state.checked_file(path):
                self._check_file(item)
        for item in self._next_files(count, everything=everything):
            self._check_file(item)
        for name in self._next_projects(projects if everything else due(share, projects, seconds)):
            self._check_pages(name)
        swept = float(self._state.get("swept_at", 0))
        if swept > now:  # by a clock that was ahead
            swept = now
            self._state.put("swept_at", now)
        if sweep and (everything or now - swept > _SWEEP_DAYS * _DAY):
            if swept or everything:
                self._sweep()
            self._state.put("swept_at", now)
        if everything or count or not last or passed is None:
            # What was due but less than one file goes on adding up.
            self._state.put("checked_at", now)
        self._state.put("broken_files", sorted(self.report.broken))
        return self.report

    # What is looked at

    def _next_files(self, count: int, *, everything: bool) -> Iterator[Checked]:
        """From where the last check stopped, around the end to the beginning."""
        cursor = "" if everything else str(self._state.get("check_cursor", ""))
        while count > 0:
            items = self._state.files_after(cursor, min(count, 1000))
            if not items:
                if not cursor:
                    return
                cursor = ""
                continue
            yield from items
            count -= len(items)
            cursor = items[-1].path
            self._state.put("check_cursor", cursor)

    def _next_projects(self, count: int) -> list[str]:
        names = sorted(self._state.projects())
        if not names or not count:
            return []
        cursor = str(self._state.get("check_project_cursor", ""))
        start = next((i for i, name in enumerate(names) if name > cursor), 0)
        chosen = (names[start:] + names[:start])[:count]
        self._state.put("check_project_cursor", chosen[-1])
        return chosen

    def _check_pages(self, name: str) -> None:
        problem = snapshot_problem(self._served / "pages" / name)
        if problem:
            log.warning("pages of %s: %s; they are made again by the next run", name, problem)
            self._state.forget_identity(name)
            self._pull_project_again(name)
            self.report.broken[f"pages/{name}"] = problem

    def _pull_project_again(self, name: str) -> None:
        self._state.put("pull_again", sorted({*self._state.get("pull_again", []), name}))

    def _check_file(self, item: Checked) -> None:
        self.report.checked += 1
        parts: list[tuple[str, str, int | None]] = [(item.path, item.sha256, item.size)]
        if item.core_metadata:
            parts.append((item.path + SIDECAR, item.core_metadata, None))
        for path, sha256, size in parts:
            problem = self._problem(path, sha256, size)
            if not problem:
                continue
            try:
                self._repair(item, path, sha256)
            except (UnrepairedError, RefusedError, FetchError, TransferError, OSError) as error:
                log.error("%s is %s and could not be repaired: %s", path, problem, error)
                self.report.broken[path] = problem
                if item.path == place_apart(Path(item.path).name, item.sha256, item.core_metadata):
                    self._pull_project_again(item.project)  # the tier above has it under another path
            else:
                log.warning("%s was %s and is repaired", path, problem)
                self.report.repaired.append(path)

    def _problem(self, path: str, sha256: str, size: int | None) -> str | None:
        served = self._served / path
        found = regular_size(served)
        if found is None:
            return "lost"
        if (size is not None and found != size) or sha256_of(served) != sha256:
            return "rotten"
        return None

    # Repair

    def _repair(self, item: Checked, path: str, sha256: str) -> None:
        require_free_space(self._served, self._config.minimum_free_bytes)
        if path.endswith(SIDECAR) and self._write_sidecar(path, sha256):
            return
        if self._transfer:
            self._pull_again(path, sha256, item.size if path == item.path else MAX_METADATA)
        elif self._private:
            self._fetch_again(item, path, sha256)
            link_file(self._private / path, self._served / path)
        if sha256_of(self._served / path) != sha256:
            raise UnrepairedError("what came has another hash")

    def _write_sidecar(self, path: str, sha256: str) -> bool:
        try:
            data = wheel_metadata(self._served / path.removesuffix(SIDECAR))
        except NoMetadataError:
            return False
        if hashlib.sha256(data).hexdigest() != sha256:
            return False
        write_atomically(self._served / path, data)
        return True

    def _pull_again(self, path: str, sha256: str, largest: int) -> None:
        assert self._transfer is not None
        stage = self._config.paths.fetched / "stage"
        remove(stage)
        try:
            self._transfer.fetch([path], stage, largest=max(largest, 1))
            if regular_size(stage / path) is None or sha256_of(stage / path) != sha256:
                raise UnrepairedError("the tier above has no good copy either")
            (self._served / path).parent.mkdir(parents=True, exist_ok=True)
            os.replace(stage / path, self._served / path)
        finally:
            remove(stage)

    def _fetch_again(self, item: Checked, path: str, sha256: str) -> None:
        assert self._private is not None
        target = self._private / path
        if regular_size(target) is not None and sha256_of(target) == sha256:
            return  # only the served name was lost
        if self._config.local_packages:
            source = self._config.local_packages / item.project / Path(path).name
            if regular_size(source) is not None and sha256_of(source) == sha256:
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, temporary_for(target))
                temporary_for(target).chmod(0o644)
                temporary_for(target).replace(target)
                return
        url = self._url(item, path)
        asyncio.run(self._download(url, target, sha256, item.size if path == item.path else None))

    def _url(self, item: Checked, path: str) -> str:
        """Where the file came from, which need not be where it is served: its project's document remembers."""
        try:
            project = self._fetched.project(item.project)
        except IncompleteError as error:
            raise UnrepairedError(f"document of {item.project}: {error}") from error
        for file in project.files:
            if file.path == item.path:
                base = (self._config.index_url or "").rstrip("/").removesuffix("simple")
                url = urljoin(base, file.source or str(file.legacy["url"]))
                return url if path == item.path else sidecar_url(url)
        raise UnrepairedError(f"document of {item.project} no longer names it")

    async def _download(self, url: str, target: Path, sha256: str, size: int | None) -> None:
        config = self._config
        async with upstream(workers=1, timeout=config.timeout, tries=config.tries) as client:
            await client.download(url, target, {"sha256": sha256}, size, lambda _: None)

    # Files that nobody names

    def _sweep(self) -> None:
        trees = [self._served] if self._private is None else [self._served, self._private]
        scheduled = self._state.scheduled_removals()
        for tree in trees:
            for directory, _, names in os.walk(tree / "packages", topdown=False):
                for name in names:
                    path = Path(directory, name)
                    relative = str(path.relative_to(tree))
                    wanted = self._state.is_wanted(relative) or self._state.is_wanted(
                        relative.removesuffix(SIDECAR)
                    )
                    if wanted or relative in scheduled:
                        continue
                    log.warning("%s: nobody names it; removed", path)
                    remove(path)
                    prune_empty_parents(path, tree / "packages")
                    self.report.orphans += 1


def check(
    config: Config, state: State, lock: int | None, *, everything: bool = False, sweep: bool = False
) -> Report:
    """Check what is due, or everything; sweep only when no fetch is under way."""
    return Checker(config, state, lock).run(everything=everything, sweep=sweep)
