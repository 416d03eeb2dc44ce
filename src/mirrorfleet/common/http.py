"""The one HTTP client, on aiohttp: of an answer nothing is believed for size or end, and what failed has words.

Importing aiohttp takes longer than most runs that ask nobody: who uses this imports it there.
"""

import asyncio
import os
import ssl
from typing import Any

import aiohttp
from aiohttp.http_exceptions import ContentLengthError, HttpProcessingError, TransferEncodingError

from .. import __version__

CHUNK = 1 << 18
LARGEST_LINE = 1 << 16
FAILURES = (aiohttp.ClientError, TimeoutError, ConnectionError)  # of a request and of its answer


class RequestError(OSError):
    """A request that came to nothing, in words."""


class StatusError(RequestError):
    """An answer that is none of what was asked for."""

    def __init__(self, status: int, reason: str, body: bytes) -> None:
        super().__init__(f"HTTP Error {status}: {reason}")
        self.status, self.body = status, body


class TooLongError(Exception):
    """An answer longer than what was asked for can be."""


def session(*, timeout: float, connections: int = 1, proxies: bool = False) -> aiohttp.ClientSession:
    """For requests that may last as long as bytes come: `timeout` is of silence. Proxies are the environment's."""
    return aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=timeout, sock_read=timeout),
        headers={"User-Agent": f"mirrorfleet/{__version__}"},
        cookie_jar=aiohttp.DummyCookieJar(),
        max_line_size=LARGEST_LINE,
        max_field_size=LARGEST_LINE,
        connector=aiohttp.TCPConnector(limit=connections),
        trust_env=proxies,
    )


async def body(response: aiohttp.ClientResponse, limit: int) -> bytes:
    parts, size = [], 0
    async for chunk in response.content.iter_chunked(CHUNK):
        size += len(chunk)
        if size > limit:
            raise TooLongError(f"longer than {limit} bytes")
        parts.append(chunk)
    return b"".join(parts)


def fetch(
    url: str,
    *,
    limit: int,
    timeout: float,
    data: dict[str, Any] | None = None,
    context: ssl.SSLContext | None = None,
    proxies: bool = False,
) -> bytes:
    """The body of one answer that is good, for who has no loop; with data it is posted to."""

    async def ask() -> bytes:
        async with (
            session(timeout=timeout, proxies=proxies) as client,
            client.request(
                "POST" if data else "GET", url, data=data, ssl=context or True,
                headers={"Accept-Encoding": "identity"},
            ) as response,
        ):  # fmt: skip
            if response.status >= 300:
                raise StatusError(response.status, response.reason or "", await response.content.read(300))
            return await body(response, limit)

    try:
        return asyncio.run(ask())
    except FAILURES as error:
        raise RequestError(words(error)) from error


def words(error: BaseException) -> str:
    """What the system calls it, where aiohttp tells of its own insides."""
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error.__cause__ or error
    if isinstance(cause, TimeoutError):
        return "timed out"
    if isinstance(cause, aiohttp.ServerDisconnectedError):  # it has the half answer for words
        return "the answer ended too early"
    if isinstance(cause, HttpProcessingError):  # it calls itself a 400, which no server said
        early = (
            isinstance(cause, (ContentLengthError, TransferEncodingError)) and "Not enough" in cause.message
        )
        told = " ".join(cause.message.removesuffix("^").split())[:200]
        return "the answer ended too early" if early else f"an answer that is no HTTP: {told}"
    number = getattr(cause, "errno", None) or 0
    if number > 0 and not isinstance(cause, ssl.SSLError):
        return f"[Errno {number}] {os.strerror(number)}"
    return str(cause) or type(cause).__name__


def named(error: BaseException) -> str:
    """As aiohttp tells it, with the host or the proxy that it could not reach."""
    ours = isinstance(error, aiohttp.ServerDisconnectedError) or isinstance(
        error.__cause__, HttpProcessingError
    )
    told = words(error) if ours else str(error)
    return f"{type(error).__name__}: {told}" if told else type(error).__name__
