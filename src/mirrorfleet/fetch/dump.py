"""A static dump of named projects of an index: what fills the fetched tree of an origin.

The tree has bandersnatch's shape (web/json/<name>, web/packages/…). A document is written only after the
last of its files, so what it names is there. Upstream's serials may be stripped on the way, so an origin
counts its own: one more for every project that changed.
"""

import asyncio
import json
import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin

from ..common.config import Config
from ..common.files import regular_size, temporary_for, write_atomically
from ..common.guards import require_free_space
from ..common.names import InvalidNameError, addressed_path, file_name, served_path, shown
from ..common.progress import Progress
from ..index.project import BadDocumentError
from ..index.versions import newest_releases, release_of
from ..served.state import State
from .fetched import Fetched, read_json
from .filters import kept_releases
from .local import local_document, local_projects
from .upstream import SIMPLE_JSON, AbsentError, FetchError, Page, Upstream, upstream

log = logging.getLogger(__name__)

Releases = dict[str, list[dict[str, Any]]]
_ACCEPT = f"{SIMPLE_JSON}, text/html;q=0.1"


@dataclass
class Outcome:
    changed: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    bytes: int = 0


class TooLargeError(Exception):
    """The project's kept files exceed max_project_size."""


def simple_to_releases(page: Page, name: str) -> tuple[Releases, dict[str, Any]]:
    """PEP 691 to the legacy document's releases; also the project's status."""
    document = page.json()
    if not isinstance(document, dict) or not isinstance(document.get("files"), list):
        raise FetchError(f"{page.url}: not a PEP 691 project page")
    releases: Releases = {}
    for item in document["files"]:
        try:
            filename, url = item["filename"], item["url"]
            version = release_of(file_name(filename), name)
            # Hexadecimal is of either case.
            digests = {kind: digest.lower() for kind, digest in item["hashes"].items()}
        except (InvalidNameError, AttributeError, TypeError, KeyError, ValueError) as error:
            log.info("project %s: a file is left out: %s", name, shown(str(error)))
            continue
        yanked = item.get("yanked", False)
        entry = {
            "filename": filename,
            "url": urljoin(page.url, url),
            "digests": digests,
            "size": item.get("size"),
            "requires_python": item.get("requires-python"),
            "packagetype": "bdist_wheel" if filename.endswith(".whl") else "sdist",
            "upload_time_iso_8601": item.get("upload-time"),
            # An empty text is yanked without a reason, as PEP 592's bare attribute.
            "yanked": yanked is True or isinstance(yanked, str),
            "yanked_reason": (yanked or None) if isinstance(yanked, str) else None,
            "core-metadata": item.get("core-metadata", item.get("dist-info-metadata", False)),
            "provenance": item.get("provenance"),
        }
        releases.setdefault(version, []).append(entry)
    status = document.get("project-status")
    return releases, status if isinstance(status, dict) else {}


def merged(legacy: dict[str, Any], simple: Releases) -> Releases:
    """The legacy entries that the simple page lists too, with what only the simple page knows."""
    listed = {entry["filename"]: entry for entries in simple.values() for entry in entries}
    releases: Releases = {}
    for version, entries in legacy.items():
        for entry in entries if isinstance(entries, list) else ():
            other = listed.pop(entry.get("filename"), None) if isinstance(entry, dict) else None
            if other:
                known = {key: value for key, value in other.items() if value is not None and key != "url"}
                if not known["core-metadata"]:
                    del known["core-metadata"]
                releases.setdefault(version, []).append({**entry, **known, "url": other["url"]})
    for version, entries in simple.items():
        for entry in entries:
            if entry["filename"] in listed:
                releases.setdefault(version, []).append(entry)
    return releases


def usable_entries(name: str, entries: Any, base: str) -> list[dict[str, Any]]:
    """The entries of a release that can be fetched, verified and stored, with absolute URLs."""
    usable = []
    for entry in entries if isinstance(entries, list) else ():
        try:
            url = urljoin(base, entry["url"])
            if not url.startswith(("https://", "http://")):
                raise BadDocumentError(f"no http URL: {url}")
            if type(entry["size"]) is not int and entry["size"] is not None:
                raise BadDocumentError(f"no size: {entry['size']}")
            addressed_path(entry["digests"]["sha256"], entry["filename"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("project %s: a file is left out: %s", name, shown(repr(error)))
            continue
        usable.append({**entry, "url": url})
    return usable


class Dump:
    def __init__(
        self, config: Config, state: State, client: Upstream, progress: Progress, *, allow_shrink: bool
    ) -> None:
        self._config = config
        self._state = state
        self._client = client
        self._fetched = Fetched(config.paths.fetched, by_bandersnatch=False)
        self._progress = progress
        self._allow_shrink = allow_shrink
        self.outcome = Outcome()

    async def run(self) -> Outcome:
        self._fetched.json.mkdir(parents=True, exist_ok=True)
        local = local_projects(self._config.local_packages) if self._config.local_packages else {}
        remote = [
            name
            for name in self._config.selection.projects
            if name not in local and self._config.selection.includes(name)
        ]
        self._progress.begin("dump", len(local) + len(remote))
        present = set(self._fetched.identities()[0])
        absent: list[str] = []
        for name, directory in sorted(local.items()):
            await self._attempt(name, self._take_local(name, directory), absent)
        # Few projects at once: concurrency is bounded by the client, this bounds memory and open files.
        slots = asyncio.Semaphore(4)

        async def one(name: str) -> None:
            async with slots:
                await self._attempt(name, self._take_remote(name), absent)

        async with asyncio.TaskGroup() as group:
            for name in remote:
                group.create_task(one(name))
        self._remove(present, set(local) | set(remote), set(absent) & present)
        return self.outcome

    async def _attempt(self, name: str, work: Any, absent: list[str]) -> None:
        try:
            changed, received = await work
        except AbsentError as reason:
            log.warning("project %s: not there upstream: %s", name, reason)
            absent.append(name)
            if not (self._fetched.json / name).exists():
                self._fail(name, f"not there upstream: {reason}")
            return
        except (FetchError, BadDocumentError, InvalidNameError, TooLargeError) as reason:
            self._fail(name, str(reason))
            return
        finally:
            self._progress.step(name)
        with self._state.transaction():
            self._state.clear_trouble([name])
        if changed:
            self.outcome.changed.append(name)
        self.outcome.bytes += received

    def _fail(self, name: str, reason: str) -> None:
        log.error("project %s failed: %s", name, reason)
        self.outcome.failed[name] = reason
        with self._state.transaction():
            self._state.record_trouble(name, reason, 0)

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
        document = await self._document(name)
        former = self._former(name)
        known = {
            entry["filename"]: entry["digests"]["sha256"]
            for entries in former.get("releases", {}).values()
            for entry in entries
        }
        wanted = [entry for entries in document["releases"].values() for entry in entries]
        size = sum(entry["size"] or 0 for entry in wanted)
        limit = self._config.selection.max_project_size
        if limit is not None and size > limit:
            raise TooLargeError(f"{size} bytes, more than the {limit} of max_project_size")
        received = 0

        def count(chunk: int) -> None:
            nonlocal received
            received += chunk
            self._progress.add_bytes(chunk)

        lacking = [entry for entry in wanted if not self._is_here(entry, known.get(entry["filename"]))]
        with self._state.transaction():
            self._state.begin_fetching(name, (self._place(entry) for entry in lacking))
        taking = [self._take_file(entry, count) for entry in lacking]
        problems = [p for p in await asyncio.gather(*taking, return_exceptions=True) if p is not None]
        # What came through is kept, so that the next run has less to do; a guard's word weighs most.
        for problem in sorted(problems, key=lambda p: isinstance(p, FetchError)):
            raise problem
        for entry in wanted:
            if not entry["url"].endswith(f"/{quote(self._place(entry))}"):
                entry["url"] = f"/{quote(self._place(entry))}"
        return self._store(name, document), received

    @staticmethod
    def _place(entry: dict[str, Any]) -> str:
        try:
            return served_path(entry["url"], entry["filename"])
        except InvalidNameError:
            return addressed_path(entry["digests"]["sha256"], entry["filename"])

    def _is_here(self, entry: dict[str, Any], known: str | None) -> bool:
        """A file without a document is from a run that was cut; it got its name after its hash was right."""
        present = regular_size(self._fetched.web / self._place(entry))
        if present is None or known not in (None, entry["digests"]["sha256"]):
            return False
        if entry["size"] is None:
            entry["size"] = present
        return bool(entry["size"] == present)

    async def _take_file(self, entry: dict[str, Any], count: Callable[[int], None]) -> None:
        free = self._config.minimum_free_bytes + (entry["size"] or 0)
        require_free_space(self._config.paths.fetched, free)
        target = self._fetched.web / self._place(entry)
        sha256 = entry["digests"]["sha256"]
        entry["size"] = await self._client.download(entry["url"], target, sha256, entry["size"], count)

    async def _document(self, name: str) -> dict[str, Any]:
        index = (self._config.index_url or "").rstrip("/")
        simple = await self._optional(f"{index}/{name}/", _ACCEPT)
        legacy = await self._optional(f"{index.removesuffix('/simple')}/pypi/{name}/json", "application/json")
        releases: Releases | None = None
        status: dict[str, Any] = {}
        document: dict[str, Any] = {"info": {"name": name, "version": ""}, "vulnerabilities": []}
        if legacy is not None:
            given = legacy.json()
            if not isinstance(given, dict) or not isinstance(given.get("releases"), dict):
                raise FetchError(f"{legacy.url}: not a project document")
            document, releases = given, given["releases"]
        if simple is not None and simple.content_type == SIMPLE_JSON:
            listed, status = simple_to_releases(simple, name)
            releases = listed if releases is None else merged(releases, listed)
        if releases is None:
            if simple is None:
                raise AbsentError(f"{index}/{name}/: not found")
            raise FetchError(f"{simple.url}: offers neither PEP 691 JSON nor /pypi/{name}/json")
        base = legacy.url if legacy is not None else index
        usable = {version: usable_entries(name, entries, base) for version, entries in releases.items()}
        document = {key: value for key, value in document.items() if key not in ("last_serial", "urls")}
        selection = self._config.selection
        document["releases"] = kept_releases(
            {version: entries for version, entries in usable.items() if entries},
            selection.releases_kept,
            selection.platforms_excluded,
        )
        info = document.get("info")
        if isinstance(info, dict) and info.get("version") not in document["releases"]:
            document["info"] = {**info, "version": next(iter(newest_releases(document["releases"], 1)), "")}
        if status.get("status"):
            document["project-status"] = {"status": status["status"], "reason": status.get("reason")}
        return document

    async def _optional(self, url: str, accept: str) -> Page | None:
        try:
            return await self._client.page(url, accept)
        except AbsentError:
            return None

    # The tree

    def _former(self, name: str) -> dict[str, Any]:
        try:
            former = read_json(self._fetched.json / name)
        except (FileNotFoundError, BadDocumentError):
            return {}
        return former if isinstance(former, dict) else {}

    def _store(self, name: str, document: dict[str, Any]) -> bool:
        former = self._former(name)
        former.pop("last_serial", None)
        if former == document:
            return False
        # A lost counter restarts at the clock, so that it never falls below what mirrors have seen.
        serial = int(self._state.get("origin_serial", time.time())) + 1
        self._state.put("origin_serial", serial)
        data = json.dumps({**document, "last_serial": serial}, sort_keys=True, separators=(",", ":"))
        write_atomically(self._fetched.json / name, data.encode())
        return True

    def _remove(self, present: set[str], selected: set[str], absent: set[str]) -> None:
        if not self._allow_shrink:
            self._config.shrinking.refuse(self._state, len(present), absent, "upstream")
        deselected = present - selected
        with self._state.transaction():
            self._state.decide_leaving(deselected, "deselected")
            self._state.decide_leaving(absent, "removed upstream")
        for name in sorted(deselected | absent):
            self._fetched.remove_project(name)
            self.outcome.removed.append(name)
            log.info(
                "project %s leaves: %s", name, "deselected" if name in deselected else "removed upstream"
            )


async def dump(config: Config, state: State, progress: Progress, *, allow_shrink: bool = False) -> Outcome:
    require_free_space(config.paths.fetched, config.minimum_free_bytes)
    async with upstream(workers=config.workers, timeout=config.timeout, tries=config.tries) as client:
        return await Dump(config, state, client, progress, allow_shrink=allow_shrink).run()
