"""A mirror as a client sees it from outside: HTTP/1.1 over TLS that is verified against the mirror's own name.

Of an answer nothing is believed for size or end: lines, headers, bodies and time are bounded. Connections are
made to one address that was chosen before, and are never kept from one round to the next, for a listener that is
gone is not noticed on an old one.
"""

import asyncio
import ipaddress
import json
import re
import socket
import ssl
import time
import zlib
from calendar import timegm
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import urljoin, urlsplit

from ..common import http

Family = Literal["ipv4", "ipv6"]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
FAMILIES: dict[str, socket.AddressFamily] = {"ipv4": socket.AF_INET, "ipv6": socket.AF_INET6}
HTML = "text/html"
HTML_V1 = "application/vnd.pypi.simple.v1+html"
JSON_V1 = "application/vnd.pypi.simple.v1+json"
# What pip 26 and uv 0.13 send, but for Host. A test asks the uv at hand; pip's agent tells of the machine it runs on.
PIP = {
    "User-Agent": 'pip/26.3 {"ci":null,"cpu":"x86_64","distro":{"id":"trixie","libc":{"lib":"glibc","version":"2.41"},'
    '"name":"Debian GNU/Linux","version":"13"},"implementation":{"name":"CPython","version":"3.13.5"},'
    '"installer":{"name":"pip","version":"26.3"},"openssl_version":"OpenSSL 3.5.1 1 Jul 2025","python":"3.13.5",'
    '"system":{"name":"Linux","release":"6.12.48+deb13-amd64"}}',
    "Accept-Encoding": "gzip, deflate",
    "Accept": f"{JSON_V1}, {HTML_V1}; q=0.1, {HTML}; q=0.01",
    "Cache-Control": "max-age=0",
}
PIP_FILE = {key: PIP[key] for key in ("User-Agent",)} | {"Accept-Encoding": "identity", "Accept": "*/*"}
UV = {
    "Accept-Encoding": "gzip, deflate, zstd",
    "Accept": f"{JSON_V1}, {HTML_V1};q=0.2, {HTML};q=0.01",
    "User-Agent": 'uv/0.13.9 {"installer":{"name":"uv","version":"0.13.9","subcommand":["pip","install"]},'
    '"python":"3.13.5","implementation":{"name":"CPython","version":"3.13.5"},"distro":{"name":"Debian GNU/Linux",'
    '"version":"13","id":"trixie","libc":{"lib":"glibc","version":"2.41"}},"system":{"name":"Linux","release":'
    '"6.12.48+deb13-amd64"},"cpu":"x86_64","openssl_version":null,"setuptools_version":null,"rustc_version":null,'
    '"ci":null}',
}
LARGEST_PAGE = 8 << 20  # a hundred of them at once have to fit into memory
_REDIRECTS = 3
_KEEP = {"Connection": "keep-alive"}


class CheckError(Exception):
    """A check that failed, in words."""


class TamperedError(CheckError):
    """Content that is not what the trusted index says it is."""


def shown(value: Any) -> str:
    return ascii(value)[:200]


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes
    path: str  # that answered, after redirects

    @property
    def type(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def serial(self) -> int | None:
        value = self.headers.get("x-pypi-last-serial", "")
        return int(value) if re.fullmatch(r"[0-9]{1,18}", value) else None

    def expect_serial(self) -> int:
        if self.serial is None:
            given = shown(self.headers.get("x-pypi-last-serial"))
            raise CheckError(f"{self.path} has no usable X-PyPI-Last-Serial header ({given})")
        return self.serial

    def content(self) -> bytes:
        """The body without its Content-Encoding, bounded like any other."""
        coding = self.headers.get("content-encoding", "identity").lower()
        if coding == "identity" or not self.body:
            return self.body
        if coding not in ("gzip", "x-gzip", "deflate"):
            raise CheckError(f"{self.path} has the coding {shown(coding)}, which was not asked for")
        unpacking = zlib.decompressobj(wbits=47 if coding != "deflate" else 15)
        try:
            body = unpacking.decompress(self.body, LARGEST_PAGE)
        except zlib.error as error:
            raise CheckError(f"{self.path} is no {coding}: {error}") from error
        if not unpacking.eof:
            raise CheckError(f"{self.path} is not whole, or longer than {LARGEST_PAGE} bytes")
        return body

    def json(self) -> dict[str, Any]:
        try:
            document = json.loads(self.content())
        except (ValueError, RecursionError) as error:
            raise CheckError(f"{self.path} is no JSON: {shown(str(error))}") from error
        if not isinstance(document, dict):
            raise CheckError(f"{self.path} is no JSON object")
        return document

    def expect(self, status: int, *types: str) -> Self:
        if self.status != status:
            raise CheckError(f"{self.path} answered {self.status}, expected {status}")
        if types and self.type not in types:
            raise CheckError(f"{self.path} has the type {shown(self.type)}, expected {' or '.join(types)}")
        return self


def stamp_of(body: bytes) -> int:
    text = body.decode("ascii", "replace").strip()
    try:
        return timegm(time.strptime(text, "%Y%m%dT%H:%M:%S"))
    except ValueError as error:
        raise CheckError(f"/last-modified says {shown(text)}, expected YYYYMMDDTHH:MM:SS") from error


@dataclass(frozen=True)
class Place:
    """Where a mirror is reached in one address family."""

    base: str  # its URL, without a slash at the end
    host: str
    port: int
    address: str

    @classmethod
    def of(cls, url: str, address: str) -> Self:
        parts = urlsplit(url)
        return cls(url.rstrip("/"), parts.hostname or "", parts.port or 443, address)


async def resolve(host: str, family: str, pool: Executor, private: Sequence[Network] | None) -> list[str]:
    """The addresses of a name in one family; CheckError when there are none, or one that is neither public nor in the
    given networks. Without such networks any address will do."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.run_in_executor(
            pool, lambda: socket.getaddrinfo(host, 443, FAMILIES[family], socket.SOCK_STREAM)
        )
    except (OSError, UnicodeError) as error:
        raise CheckError(f"{host} does not resolve in this address family") from error
    addresses = sorted({str(one[4][0]) for one in found})
    for address in map(ipaddress.ip_address, addresses if private is not None else ()):
        if not address.is_global and not any(address in network for network in private or ()):
            raise CheckError(
                f"{host} resolves to {address}, which is no public address and in none of private_networks"
            )
    return addresses


class Line:
    """One client's connection to a mirror, opened when it is first needed and again when the mirror closed it."""

    def __init__(self, place: Place, context: ssl.SSLContext, timeout: float) -> None:
        self.place, self._timeout = place, timeout
        self._there = http.Pinned(place.address, place.port, place.host, context)

    @property
    def certificate_expires(self) -> int | None:
        return self._there.certificate_expires

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._there.end()

    async def connect(self) -> None:
        """Do now what the first request would do; CheckError when it cannot be done."""
        try:
            async with asyncio.timeout(self._timeout):
                if not self._there.kept:
                    await self._there.open()
        except (OSError, TimeoutError) as error:
            raise CheckError(explain(error, self.place.host)) from error

    async def ask(
        self, path: str, headers: Mapping[str, str] = PIP, *, method: str = "GET", limit: int = LARGEST_PAGE
    ) -> Answer:
        """The answer to a request, through redirects that stay on the mirror; CheckError when there is none."""
        for _ in range(_REDIRECTS + 1):
            answer = await self._bounded(method, path, headers, limit)
            if not 300 <= answer.status < 400 or answer.status == 304:
                return answer
            path = self._redirected(path, answer.headers.get("location"))
        raise CheckError(f"{path} redirects more than {_REDIRECTS} times")

    def _redirected(self, path: str, location: str | None) -> str:
        try:
            target = urlsplit(urljoin(f"{self.place.base}{path}", location or ""))
            here = (target.scheme, target.hostname, target.port or 443) == (
                "https",
                self.place.host,
                self.place.port,
            )
        except ValueError:
            here = False
        if not location or not here or not re.fullmatch(r"/[!-~]*", target.path or "/"):
            raise CheckError(f"{path} redirects to {shown(location)}")
        return (target.path or "/") + (f"?{target.query}" if target.query else "")

    async def _bounded(self, method: str, path: str, headers: Mapping[str, str], limit: int) -> Answer:
        kept = self._there.kept
        try:
            async with asyncio.timeout(self._timeout):
                if not kept:
                    await self._there.open()
                told = await self._there.ask(method, path, {**headers, **_KEEP}, limit)
                return Answer(told.status, told.headers, told.body, path)
        except (OSError, *http.FAILURES) as error:
            self._there.drop()
            gone = http.hung_up(error) or isinstance(error.__cause__ or error, ConnectionError)
            if kept and gone:  # a kept connection may end at any time
                return await self._bounded(method, path, headers, limit)
            raise CheckError(explain(error, self.place.host, path)) from error
        except BaseException:
            self._there.drop()
            raise


def explain(error: Exception, host: str, path: str = "") -> str:
    """Why there was no answer, in words."""
    cause = error.__cause__ or error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"the certificate is not valid for {host}: {cause.verify_message}"
    if isinstance(cause, ssl.SSLError):
        return f"TLS failed: {cause.reason or cause}"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(cause, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, OSError):
        return f"connection failed: {shown(str(cause) or type(cause).__name__)}"
    told = http.words(error)
    return f"{path} got {told}" if http.NO_HTTP in told else told


def trusting(ca_file: Any) -> ssl.SSLContext:
    """The system's authorities, or those of a file."""
    context = ssl.create_default_context(cafile=ca_file)
    context.set_alpn_protocols(["http/1.1"])
    with suppress(AttributeError):
        context.options |= ssl.OP_NO_TICKET  # nothing is resumed: each handshake looks at the certificate
    return context
