"""The one HTTP client, on aiohttp: of an answer nothing is believed for size or end, and what failed has words.

Importing aiohttp takes longer than most runs that ask nobody: who uses this imports it there.
"""

import asyncio
import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import (
    BadHttpMessage,
    ContentLengthError,
    HttpProcessingError,
    TransferEncodingError,
)
from aiohttp.http_parser import HttpResponseParserPy, RawResponseMessage
from yarl import URL

from .. import __version__
from .log import without_credentials

CHUNK = 1 << 18
LARGEST_LINE = 1 << 16
MOST_FIELDS = 128  # of a stranger's head
NO_HTTP = "an answer that is no HTTP"
ONCE = (b"location", b"x-pypi-last-serial")  # beside what aiohttp takes once only (RFC 9110, 5.3)
_STATUS = re.compile(rb"HTTP/1\.[01] (?!101)[1-5][0-9]{2}(?: [\t -~\x80-\xff]*)?")
_URL = re.compile(r"[!#$&-;=?-Z_a-z~\[\]%]+")  # RFC 3986
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
    return _session(
        aiohttp.TCPConnector(limit=connections),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=timeout, sock_read=timeout),
        headers={"User-Agent": f"mirrorfleet/{__version__}"},
        trust_env=proxies,
    )


def _session(connector: aiohttp.BaseConnector, **options: Any) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        max_line_size=LARGEST_LINE,
        max_field_size=LARGEST_LINE,
        **options,
    )


def as_written(url: str) -> URL:
    """A URL as upstream wrote it, where that is a URL: escapes that say the same are not the same to every server."""
    return URL(url, encoded=bool(_URL.fullmatch(url)))


async def body(response: aiohttp.ClientResponse, limit: int) -> bytes:
    parts, whole = await _up_to(response, limit)
    if not whole:
        raise TooLongError(f"longer than {limit} bytes")
    return b"".join(parts)


async def _up_to(response: aiohttp.ClientResponse, limit: int) -> tuple[list[bytes], bool]:
    """The body up to a limit, in parts, and whether that was all of it."""
    parts, left = [], limit
    while left and (chunk := await response.content.read(min(left, CHUNK))):
        parts.append(chunk)
        left -= len(chunk)
    return parts, left > 0 or not await response.content.read(1)


async def answer(
    url: str,
    *,
    limit: int,
    timeout: float,
    data: dict[str, Any] | None = None,
    context: ssl.SSLContext | None = None,
    proxies: bool = False,
) -> bytes:
    """The body of one answer that is good; with data it is posted to."""
    try:
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
    except FAILURES as error:
        raise RequestError(words(error)) from error


def fetch(url: str, **options: Any) -> bytes:
    """The same for who has no loop."""
    return asyncio.run(answer(url, **options))


def hung_up(error: BaseException) -> bool:
    """Whether the other end left before its answer was whole."""
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return True
    cause = error.__cause__
    lacking = isinstance(cause, (ContentLengthError, TransferEncodingError))
    return lacking and str(getattr(cause, "message", "")).startswith("Not enough data")


def words(error: BaseException) -> str:
    """What the system calls it, where aiohttp tells of its own insides."""
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error.__cause__ or error
    if isinstance(cause, TimeoutError):
        return "timed out"
    if hung_up(error):
        return "the answer ended too early"
    if isinstance(cause, HttpProcessingError):  # it calls itself a 400, which no server said
        told = " ".join(cause.message.removesuffix("^").split())
        return f"{NO_HTTP}: {told.encode('ascii', 'backslashreplace').decode()[:200]}"
    number = getattr(cause, "errno", None) or 0
    if number > 0 and not isinstance(cause, ssl.SSLError):
        return f"[Errno {number}] {os.strerror(number)}"
    return str(cause) or type(cause).__name__


def named(error: BaseException) -> str:
    """As aiohttp tells it, with the host or the proxy that it could not reach."""
    ours = hung_up(error) or isinstance(error.__cause__, HttpProcessingError)
    told = words(error) if ours else str(error)
    return f"{type(error).__name__}: {without_credentials(told)}" if told else type(error).__name__


class _Strict(HttpResponseParserPy):
    """aiohttp's own parser, as strict as it is to clients: to servers it forgives bare line feeds, control characters,
    folded lines and a length that is told twice, and its faster sibling in C has no switch for that."""

    lax = False

    def feed_data(self, data: bytes, *_: Any, **__: Any) -> Any:
        return super().feed_data(data, b"\r\n")

    def parse_message(self, lines: list[bytes]) -> RawResponseMessage:
        if not _STATUS.fullmatch(lines[0]):
            raise BadHttpMessage(ascii(lines[0][:60]))
        # A second Server is what proxies add, and nobody's length or type.
        message = super().parse_message([line for line in lines if line[:7].lower() != b"server:"])
        names = [name.lower() for name, _ in message.raw_headers]
        if twice := [name for name in ONCE if names.count(name) > 1]:
            raise BadHttpMessage(f"{twice[0].decode()} is told twice")
        return message


class _Stranger(ResponseHandler):
    """A connection whose other end is held to the letter."""

    @property
    def should_close(self) -> bool:
        """Also when more came than the answer: it would be taken for the beginning of the next."""
        parser = self._parser
        more = isinstance(parser, _Strict) and bool(parser._tail or parser._lines)
        return more or super().should_close

    def set_response_params(self, **options: Any) -> None:
        early, self._tail = self._tail, b""
        super().set_response_params(**options)
        self._parser = _Strict(
            self, self._loop, options["read_bufsize"], LARGEST_LINE, MOST_FIELDS, LARGEST_LINE,
            timer=options["timer"], payload_exception=aiohttp.ClientPayloadError,
            response_with_body=not options["skip_payload"], read_until_eof=True, auto_decompress=False,
        )  # fmt: skip
        if early:
            self.data_received(early)


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes


class Pinned(aiohttp.BaseConnector):
    """One connection at a time to one address, chosen before, of a server that proves its name before it is asked.

    How long anything may take is for who uses it to bound.
    """

    def __init__(self, address: str, port: int, name: str, context: ssl.SSLContext) -> None:
        super().__init__(limit=0, keepalive_timeout=None)
        self._where: dict[str, Any] = {"host": address, "port": port, "server_hostname": name, "ssl": context}
        self._last: ResponseHandler | None = None
        self._ready: ResponseHandler | None = None
        self.certificate_expires: int | None = None
        self._origin = f"https://[{name}]:{port}" if ":" in name else f"https://{name}:{port}"
        self._session = _session(
            self,
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
            skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent"),
        )

    @property
    def kept(self) -> bool:
        """Whether there is a connection for the next request."""
        return self._last is not None and self._last.is_connected() and not self._last.should_close

    async def open(self) -> None:
        """Connect for the next request. Nothing else does, or aiohttp would try a second time by itself."""
        self.drop()
        transport, self._ready = await self._loop.create_connection(
            partial(_Stranger, self._loop), **self._where
        )
        self._last = self._ready
        ends = (transport.get_extra_info("peercert") or {}).get("notAfter")
        self.certificate_expires = int(ssl.cert_time_to_seconds(ends)) if ends else None

    async def _create_connection(self, *_: Any) -> ResponseHandler:
        ready, self._ready = self._ready, None
        if ready is None:
            raise aiohttp.ServerDisconnectedError
        return ready

    async def ask(self, method: str, path: str, headers: Mapping[str, str], limit: int) -> Reply:
        """What it says, a redirect too; of a body no more than the limit. No header is sent but these and Host."""
        url = URL(f"{self._origin}{path}", encoded=True)
        async with self._session.request(method, url, headers=headers, allow_redirects=False) as response:
            parts, whole = await _up_to(response, limit)
            if not whole:
                self.drop()
        told: dict[str, str] = {}
        for field, value in response.raw_headers:
            name, said = field.decode("latin-1").lower(), value.decode("latin-1")
            told[name] = f"{told[name]}, {said}" if name in told else said  # a list (RFC 9110, 5.3)
        return Reply(response.status, told, b"".join(parts))

    def drop(self) -> None:
        """Without waiting for the other end, which may never answer."""
        if self._last is not None:
            self._last.abort()
        self._last = self._ready = None

    def end(self) -> None:
        self.drop()
        self._close()
