"""Bringing the files of one project into the private tree: each gets its name there once its hash is right."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from ..common.config import Config
from ..common.files import link_file, regular_size, sha256_of
from ..common.guards import require_free_space
from ..common.names import (
    SIDECAR,
    InvalidNameError,
    addressed_path,
    fits_a_sidecar,
    served_path,
    sidecar_url,
)
from ..common.progress import Progress
from ..common.wheels import MAX_METADATA, NoMetadataError, wheel_metadata
from ..index.project import BadDocumentError
from ..served.state import State
from .source import digests_of, entries_of
from .upstream import FetchError, Upstream

log = logging.getLogger(__name__)

# What is wrong with one project alone: upstream's answer, or paths that cannot both exist.
PROBLEMS = (
    FetchError,
    BadDocumentError,
    InvalidNameError,
    FileExistsError,
    NotADirectoryError,
    IsADirectoryError,
)


class TooLargeError(Exception):
    """The project's kept files exceed max_project_size."""


def place(entry: dict[str, Any]) -> str:
    """Where a file is kept and served: upstream's own path where that has the usual layout, else one by its hash.

    Where upstream gives no sha256, which is optional (PEP 691), the hash of its URL does as well to tell places apart.
    """
    try:
        return served_path(entry["url"], entry["filename"])
    except InvalidNameError:
        address = entry["digests"].get("sha256") or hashlib.sha256(entry["url"].encode()).hexdigest()
        return addressed_path(address, entry["filename"])


class Files:
    def __init__(self, config: Config, state: State, client: Upstream, progress: Progress) -> None:
        self._config = config
        self._state = state
        self._client = client
        self._progress = progress
        self._web = config.paths.fetched / "web"
        self._served = config.paths.served

    async def bring(
        self,
        name: str,
        document: dict[str, Any],
        former: Mapping[str, Any],
        brought: Any = None,
        *,
        again: bool = True,
    ) -> int:
        """Bring what a document names and is not here, with its core metadata; returns the bytes received.

        What the `former` document named was right when it came, and so was what bandersnatch `brought` since. Core
        metadata that could not be had then is asked for `again`, or left out as before. In the document each file's
        `url` becomes its place here, and `source` says where it is from.
        """
        before, since = _by_name(former), _by_name(brought)
        wanted = []
        for entry in entries_of(document):
            known = before.get(entry["filename"], {})
            wanted.append(_Wanted(entry, self._place(entry, known), known, since.get(entry["filename"], {})))
        size, limit = sum(one.entry["size"] or 0 for one in wanted), self._config.selection.max_project_size
        if limit is not None and size > limit:
            raise TooLargeError(f"{size} bytes, more than the {limit} of max_project_size")
        received = 0

        def count(chunk: int) -> None:
            nonlocal received
            received += chunk
            self._progress.add_bytes(chunk)

        lacking = [one for one in wanted if not self._is_here(one)]
        with self._state.transaction():
            self._state.begin_fetching(name, (one.place for one in lacking))
        await all_of(self._take(one, count) for one in lacking)
        lacked = former.get("left-out", {}).keys()
        new = [one for one in wanted if not one.is_as_before or (again and one.sidecar in lacked)]
        had = await all_of(self._settle(name, one, count) for one in new)
        without = {one.sidecar for one, here in zip(new, had, strict=True) if not here}
        if not again:
            without |= lacked & {one.sidecar for one in wanted if one.is_as_before}
        if without:
            reasons = dict.fromkeys(without, "upstream announces core metadata and does not give it")
            document["left-out"] = dict(sorted({**document.get("left-out", {}), **reasons}.items()))
        for one in wanted:
            here = f"/{quote(one.place)}"
            if one.entry["url"] != here:
                one.entry["source"], one.entry["url"] = one.entry["url"], here
        return received

    def _place(self, entry: dict[str, Any], former: dict[str, Any]) -> str:
        """Not where other bytes are served: where upstream changes them under their URL, a page switches with them."""
        usual, digests = place(entry), digests_of(entry)
        same = digests.items() <= digests_of(former).items() and entry["size"] in (None, former.get("size"))
        if same and former.get("source") == entry["url"]:
            return unquote(former["url"])[1:]
        served = {one.sha256 for one in self._state.checked_file(usual)}
        if served <= {digests.get("sha256")}:
            return usual
        told = f"{entry['url']} {sorted(digests.items())} {entry['size']}"
        return addressed_path(
            digests.get("sha256") or hashlib.sha256(told.encode()).hexdigest(), entry["filename"]
        )

    def _is_here(self, one: _Wanted) -> bool:
        entry, path = one.entry, self._web / one.place
        present = regular_size(path)
        if present is None or entry["size"] not in (None, present):
            return False
        wanted = digests_of(entry)
        former = digests_of(one.former)
        known = digests_of(one.brought) or former
        if "sha256" not in wanted:
            # Without it a file is the one that came from there, by what else upstream says of it.
            if not one.from_former_place or not wanted.items() <= former.items() or "sha256" not in former:
                return False
            entry["digests"] = {**wanted, "sha256": former["sha256"]}
        elif known.get("sha256") != wanted["sha256"] and sha256_of(path) != wanted["sha256"]:
            return False
        entry["size"] = present
        return True

    async def _take(self, one: _Wanted, count: Callable[[int], None]) -> None:
        entry = one.entry
        free = self._config.minimum_free_bytes + (entry["size"] or 0)
        require_free_space(self._config.paths.fetched, free)
        digests = digests_of(entry)
        entry["size"], sha256 = await self._client.download(
            entry["url"], self._web / one.place, digests, entry["size"], count
        )
        entry["digests"] = {**digests, "sha256": sha256}

    async def _settle(self, name: str, one: _Wanted, count: Callable[[int], None]) -> bool:
        """Have a file beside its core metadata: upstream's own (PEP 658) where the file's own would be another.

        False where that cannot be had, and the file is left with its own.
        """
        place = one.place
        if one.announced:
            self._stand_apart(name, one, one.announced)
            if await self._take_metadata(one, one.announced, count):
                return True
            one.place = place
        if regular_size(self._served / (place + SIDECAR)) is not None:
            self._stand_apart(name, one, _own_metadata(self._web / place))
        return one.announced is None

    def _stand_apart(self, name: str, one: _Wanted, core_metadata: str) -> None:
        """Not where other core metadata is served: a page switches with it as with bytes, which need not come again."""
        served = self._served / (one.place + SIDECAR)
        if regular_size(served) is None or sha256_of(served) == core_metadata:
            return
        # Never a place of before: what lies there may still be read.
        told = f"{one.place} {one.entry['digests']['sha256']} {core_metadata}"
        place = addressed_path(hashlib.sha256(told.encode()).hexdigest(), one.entry["filename"])
        with self._state.transaction():
            self._state.begin_fetching(name, [place])
        link_file(self._web / one.place, self._web / place)
        one.place = place

    async def _take_metadata(self, one: _Wanted, sha256: str, count: Callable[[int], None]) -> bool:
        entry, path = one.entry, self._web / one.place
        sidecar = path.with_name(path.name + SIDECAR)
        if regular_size(sidecar) is not None and sha256_of(sidecar) == sha256:
            return True
        if _own_metadata(path) == sha256:
            return True
        url = sidecar_url(entry["url"])
        try:
            await self._client.download(url, sidecar, {"sha256": sha256}, None, count, at_most=MAX_METADATA)
        except FetchError as error:
            log.warning("%s has no core metadata as upstream announces it: %s", entry["filename"], error)
            return False
        return True


@dataclass
class _Wanted:
    entry: dict[str, Any]
    place: str
    former: dict[str, Any]  # its entry when it was last served
    brought: dict[str, Any]  # its entry as bandersnatch had it

    @property
    def sidecar(self) -> str:
        return str(self.entry["filename"]) + SIDECAR

    @property
    def announced(self) -> str | None:
        """The sha256 of the core metadata that upstream says it has."""
        told = self.entry.get("core-metadata")
        sha256 = told.get("sha256") if isinstance(told, dict) else None
        return sha256 if isinstance(sha256, str) and fits_a_sidecar(self.entry["filename"]) else None

    @property
    def from_former_place(self) -> bool:
        return self.former.get("source", self.former.get("url")) in (
            self.entry["url"],
            f"/{quote(self.place)}",
        )

    @property
    def is_as_before(self) -> bool:
        same = digests_of(self.entry).get("sha256") == digests_of(self.former).get("sha256")
        return same and self.entry.get("core-metadata") == self.former.get("core-metadata")


def _by_name(document: Any) -> dict[str, dict[str, Any]]:
    return {
        entry["filename"]: entry
        for entry in entries_of(document)
        if isinstance(entry, dict) and isinstance(entry.get("filename"), str)
    }


def _own_metadata(path: Path) -> str:
    """The sha256 of the core metadata that a file has in itself, empty where it has none."""
    if path.suffix != ".whl":
        return ""
    try:
        return hashlib.sha256(wheel_metadata(path)).hexdigest()
    except NoMetadataError:
        return ""


async def all_of(work: Iterable[Awaitable[Any]]) -> list[Any]:
    """What came through is kept, so that the next run has less to do; a guard's word weighs most."""
    done = await asyncio.gather(*work, return_exceptions=True)
    problems = [found for found in done if isinstance(found, BaseException)]
    for problem in sorted(problems, key=lambda problem: isinstance(problem, FetchError)):
        raise problem
    return done
