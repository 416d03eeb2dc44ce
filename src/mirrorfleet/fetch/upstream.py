"""Talking to upstream: bounded, retried, and never trusted for size or content.

The client is imported where it is used: a run that asks upstream nothing would spend most of its time on that.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import random
import re
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from ..common.files import named, temporary_for
from ..common.log import without_credentials
from ..common.reasons import Kind

if TYPE_CHECKING:
    import aiohttp

log = logging.getLogger(__name__)

SIMPLE_JSON = "application/vnd.pypi.simple.v1+json"
MAX_PAGE = 256 << 20
_HASHES = {
    "sha512",
    "sha384",
    "sha3_256",
    "sha3_384",
    "sha3_512",
    "blake2b",
    "blake2s",
    "sha224",
    "sha1",
    "md5",
}
_SERIAL = re.compile(r"[0-9]{1,18}")


class FetchError(Exception):
    """Upstream did not give what was asked for; the message says what it gave, and no password that it took."""

    def __init__(self, what: str, kind: Kind = "malformed") -> None:
        super().__init__(without_credentials(what))
        self.kind = kind


class AbsentError(FetchError):
    """Upstream says that this does not exist."""

    def __init__(self, what: str) -> None:
        super().__init__(what, "not found")


@dataclass(frozen=True)
class Page:
    content_type: str
    body: bytes
    url: str
    serial: int | None = None  # of its header X-PyPI-Last-Serial
    validator: str = (
        ""  # its ETag, or when it was last modified: what a later request can be made conditional with
    )

    def json(self) -> Any:
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise FetchError(f"{self.url}: not JSON: {error}") from error


class Upstream:
    """One session to upstream, with at most `workers` requests at a time."""

    def __init__(self, session: aiohttp.ClientSession, workers: int, tries: int) -> None:
        self._session = session
        self._slots = asyncio.Semaphore(workers)
        self._targets: WeakValueDictionary[Path, asyncio.Lock] = WeakValueDictionary()
        self._tries = tries

    async def page(self, url: str, accept: str = "application/json", limit: int | None = None) -> Page:
        page = await self.changed_page(url, accept, limit=limit)
        assert page is not None
        return page

    async def changed_page(
        self, url: str, accept: str, validator: str = "", limit: int | None = None
    ) -> Page | None:
        """None when it is the one that had this validator (RFC 9110, 13.1)."""
        from ..common import http  # noqa: PLC0415 - see above

        limit = MAX_PAGE if limit is None else limit
        headers = {"Accept": accept}
        if validator:
            headers["If-None-Match" if validator.endswith('"') else "If-Modified-Since"] = validator

        async def attempt() -> Page | None:
            async with self._session.get(url, headers=headers) as response:
                if validator and response.status == 304:
                    return None
                self._check(response, url)
                try:
                    body = await http.body(response, limit)
                except http.TooLongError as error:
                    raise FetchError(f"{url}: {error}", "too large") from error
                serial = response.headers.get("X-PyPI-Last-Serial", "")
                return Page(
                    response.content_type,
                    body,
                    str(response.url),
                    int(serial) if _SERIAL.fullmatch(serial) else None,
                    response.headers.get("ETag") or response.headers.get("Last-Modified") or "",
                )

        page: Page | None = await self._retried(attempt, url)
        return page

    async def download(
        self,
        url: str,
        target: Path,
        digests: Mapping[str, str],
        size: int | None,
        on_bytes: Callable[[int], None],
        *,
        at_most: int | None = None,
    ) -> tuple[int, str]:
        """Store a file under its final name only when its hashes are right; returns its size and sha256.

        Of upstream's hashes sha256 counts, else every other one that is known here; where there is none, what TLS
        vouches for is believed.
        """
        kinds = ["sha256"] if "sha256" in digests else sorted(digests.keys() & _HASHES)

        async def attempt() -> tuple[int, str]:
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = temporary_for(target)
            try:
                with named(target), temporary.open("wb") as stream:
                    most = at_most if size is None else size
                    received, found = await self._receive(url, stream, most, kinds, on_bytes)
                    if size is not None and received != size:
                        raise FetchError(f"{url}: {received} bytes instead of {size}", "wrong size")
                    for kind in kinds:
                        if found[kind] != digests[kind]:
                            raise FetchError(
                                f"{url}: a wrong hash: {kind} {found[kind]} instead of {digests[kind]}",
                                "wrong hash",
                            )
                    os.fchmod(stream.fileno(), 0o644)
                    stream.flush()
                    os.fsync(stream.fileno())
                os.replace(temporary, target)
                return received, found["sha256"]
            except BaseException:
                with suppress(OSError):
                    os.unlink(temporary)
                raise

        # Two projects may name one file, and both would write under one temporary name.
        alone = self._targets.setdefault(target, asyncio.Lock())
        try:
            async with alone:
                came: tuple[int, str] = await self._retried(attempt, url)
        except AbsentError as error:
            # A page named it: its absence is upstream's fault, and says nothing about the project.
            raise FetchError(str(error), error.kind) from error
        return came

    async def _receive(
        self, url: str, stream: Any, most: int | None, kinds: Iterable[str], on_bytes: Callable[[int], None]
    ) -> tuple[int, dict[str, str]]:
        """How many bytes came, and their hashes."""
        from ..common import http  # noqa: PLC0415 - see above

        hashes = {kind: hashlib.new(kind, usedforsecurity=False) for kind in {"sha256", *kinds}}
        received = 0
        headers = {"Accept-Encoding": "identity"}
        async with self._session.get(http.as_written(url), headers=headers) as response:
            self._check(response, url)
            async for chunk in response.content.iter_chunked(http.CHUNK):
                received += len(chunk)
                if most is not None and received > most:
                    raise FetchError(f"{url}: longer than the {most} bytes announced", "wrong size")
                for one in hashes.values():
                    one.update(chunk)
                stream.write(chunk)
                on_bytes(len(chunk))
        return received, {kind: one.hexdigest() for kind, one in hashes.items()}

    @staticmethod
    def _check(response: aiohttp.ClientResponse, url: str) -> None:
        if response.status in (404, 410):
            raise AbsentError(f"{url}: HTTP {response.status}")
        if response.status != 200:
            raise FetchError(f"{url}: HTTP {response.status}", "HTTP error")

    async def _retried(self, attempt: Callable[[], Any], url: str) -> Any:
        from ..common import http  # noqa: PLC0415 - see above

        for number in range(1, self._tries + 1):
            try:
                async with self._slots:
                    return await attempt()
            except AbsentError:
                raise
            except (FetchError, *http.FAILURES) as error:
                if not isinstance(error, FetchError):
                    kind: Kind = "timeout" if isinstance(error, TimeoutError) else "connection"
                    error = FetchError(f"{url}: {http.named(error)}", kind)
                if number == self._tries:
                    raise error
                pause = min(30.0, 0.5 * 2**number) * random.uniform(0.5, 1)  # noqa: S311 - spread, not secrecy
                log.info("%s; try %d of %d in %.1f s", error, number + 1, self._tries, pause)
                await asyncio.sleep(pause)
        raise AssertionError("at least one try")


@asynccontextmanager
async def upstream(*, workers: int, timeout: float, tries: int) -> AsyncIterator[Upstream]:
    """A session that uses the system's trust store and proxy settings."""
    from ..common import http  # noqa: PLC0415 - see above

    async with http.session(timeout=timeout, connections=workers, proxies=True) as session:
        yield Upstream(session, workers, tries)
