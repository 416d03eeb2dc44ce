"""What a mirror may say to a monitor: every answer is bounded in size and time, and read as HTTP or not at all."""

from __future__ import annotations

import asyncio
import gzip
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mirrorfleet.monitor import client
from mirrorfleet.monitor.client import Answer, CheckError, Line, Place, trusting

NAME = "mirror.example.test"
HEAD = b"HTTP/1.1 200 OK\r\n"


class Raw:
    """A TLS server that says certain bytes to every request, a connection after the other."""

    def __init__(self, certificate: Any) -> None:
        self.says: list[bytes] = []  # one for each request; the last one again
        self.first = b""  # before it is asked
        self.asked = 0
        self.forever = b""  # and then this, without end
        self.pause = 0.0
        self.connections = 0
        self.close = False
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(plain,), daemon=True).start()

    def _talk(self, plain: socket.socket) -> None:
        self.connections += 1
        try:
            with self._context.wrap_socket(plain, server_side=True) as connection:
                connection.settimeout(20)
                connection.sendall(self.first)
                at = 0
                while connection.recv(65536):
                    self.asked += 1
                    if self.first:
                        continue
                    connection.sendall(self.says[min(at, len(self.says) - 1)])
                    at += 1
                    while self.forever:
                        connection.sendall(self.forever)
                        time.sleep(self.pause)
                    if self.close:
                        return
        except OSError:
            return

    def stop(self) -> None:
        self._listener.close()


@pytest.fixture
def raw(authority: Any) -> Iterator[Raw]:
    server = Raw(authority.issue(NAME))
    yield server
    server.stop()


def ask(raw: Raw, authority: Any, *paths: str, timeout: float = 1.0, **options: Any) -> list[Answer]:
    async def run() -> list[Answer]:
        place = Place.of(f"https://{NAME}:{raw.port}", "127.0.0.1")
        async with Line(place, trusting(authority.pem), timeout) as line:
            return [await line.ask(path, **options) for path in paths or ("/",)]

    return asyncio.run(run())


def test_one_connection_serves_a_round_and_another_follows_when_it_ends(raw: Raw, authority: Any) -> None:
    raw.says = [HEAD + b"Content-Length: 2\r\n\r\nok"]
    assert [one.body for one in ask(raw, authority, "/a", "/b", "/c")] == [b"ok"] * 3
    assert raw.connections == 1
    raw.close = True
    assert [one.body for one in ask(raw, authority, "/a", "/b", "/c")] == [b"ok"] * 3
    assert raw.connections == 4


@pytest.mark.parametrize(
    ("said", "body"),
    [
        (
            HEAD + b"Transfer-Encoding: chunked\r\n\r\n2;x=y\r\nok\r\n1\r\n!\r\n0\r\nTrailer: x\r\n\r\n",
            b"ok!",
        ),
        (HEAD + b"Connection: close\r\nContent-Length: 0\r\n\r\n", b""),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + HEAD + b"Content-Length: 1\r\n\r\nx", b"x"),
        (b"HTTP/1.0 200 \r\nContent-length:3\r\n\r\nabc", b"abc"),
        (HEAD + b"Content-Length: 9\r\n\r\n123456789", b"12345"),  # up to the limit
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n9\r\n123456789\r\n0\r\n\r\n", b"12345"),
        (HEAD + b"Server: one\r\nServer: other\r\nContent-Length: 1\r\n\r\nx", b"x"),
        (
            HEAD + b"Vary: Accept\r\nVary: Accept-Encoding\r\nContent-Length: 1\r\n\r\nx",
            b"x",
        ),  # a list (RFC 9110, 5.3)
        (HEAD + b"X: \xff\ty\r\nContent-Length: 1\r\n\r\nx", b"x"),
        (HEAD + b"Content-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx", b"x"),  # as it came
    ],
)
def test_answers_that_are_in_order(raw: Raw, authority: Any, said: bytes, body: bytes) -> None:
    raw.says = [said]
    assert ask(raw, authority, limit=5)[0].body == body


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "an answer that is no HTTP"),
        (b"HTTP/1.1 999 No\r\n\r\n", "an answer that is no HTTP"),
        (HEAD + b"no colon\r\n\r\n", "an answer that is no HTTP"),
        (HEAD + b"Content-Length: -1\r\n\r\n", "an answer that is no HTTP"),
        (HEAD + b"Content-Length: 5, 5\r\n\r\nabcde", "an answer that is no HTTP"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n", "an answer that is no HTTP"),
        (HEAD + b"X: " + b"x" * 100_000 + b"\r\n\r\n", "an answer that is no HTTP"),
        (HEAD + b"Content-Length: 10\r\n\r\nabc", "no answer in time"),
        (b"", "no answer in time"),
        (b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n", "/ redirects to None"),
        (b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n", "/ redirects more than 3 times"),
        (
            b"HTTP/1.1 302 Found\r\nLocation: //evil.example/\r\nContent-Length: 0\r\n\r\n",
            "redirects to '//evil",
        ),
        (
            b"HTTP/1.1 302 Found\r\nLocation: http://mirror.example.test/\r\nContent-Length: 0\r\n\r\n",
            "redirects to",
        ),
        (
            b"HTTP/1.1 302 Found\r\nLocation: https://[::1\r\nContent-Length: 0\r\n\r\n",
            "redirects to 'https://[::1'",
        ),
        (b"HTTP/1.1 302 Found\r\nLocation: /\xff\xfe\r\nContent-Length: 0\r\n\r\n", "redirects to"),
    ],
)
def test_answers_that_are_not(raw: Raw, authority: Any, said: bytes, words: str) -> None:
    raw.says = [said]
    with pytest.raises(CheckError) as caught:
        ask(raw, authority)
    assert words in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
        HEAD + b"X: y\nContent-Length: 2\r\n\r\nok",
        HEAD + b"X: y\rContent-Length: 2\r\n\r\nok",
        HEAD + b"Content-Length: 2\r\n\n\r\n\r\nok",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\nok\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n2;x\ny\r\nok\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: y\nZ: z\r\n\r\n",
        HEAD + b"X: \x00\r\nContent-Length: 2\r\n\r\nok",
        HEAD + b"X: \x1b[2J\r\nContent-Length: 2\r\n\r\nok",
        HEAD + b"X\x1b: y\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 \x1b[2J\r\nContent-Length: 2\r\n\r\nok",
        HEAD + b"X : y\r\nContent-Length: 2\r\n\r\nok",
        HEAD + b"X: y\r\n folded\r\nContent-Length: 2\r\n\r\nok",
        HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        HEAD + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nok",
        HEAD + b"Content-Length: +2\r\n\r\nok",
        HEAD + b"X-PyPI-Last-Serial: 9\r\nContent-Length: 2\r\nX-PyPI-Last-Serial: 8\r\n\r\nok",
        HEAD + b"Content-Type: text/html\r\ncontent-type: application/json\r\nContent-Length: 2\r\n\r\nok",
        HEAD + b'ETag: "a"\r\nETag: "b"\r\nContent-Length: 2\r\n\r\nok',
        b"HTTP/1.1 302 Found\r\nLocation: /\r\nLocation: /\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 206 P\r\nContent-Range: bytes 0-1/2\r\nContent-Range: bytes 0-1/9\r\nContent-Length: 2\r\n\r\nok",
        HEAD + b"Content-Length: " + b"9" * 10_000 + b"\r\n\r\nok",
        HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        HEAD + b"X: y\r\n" * 129 + b"Content-Length: 2\r\n\r\nok",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n2;" + b"x" * 100_000 + b"\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 " + b"2" * 100_000 + b"\r\n\r\n",
        b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: tcp\r\nConnection: upgrade\r\n\r\nok",
    ],
)
def test_what_other_clients_forgive_is_no_http(raw: Raw, authority: Any, said: bytes) -> None:
    raw.says = [said]
    with pytest.raises(CheckError, match=r"^/ got an answer that is no HTTP: ") as caught:
        ask(raw, authority, timeout=5)
    assert str(caught.value).isprintable()
    assert "400" not in str(caught.value)
    assert raw.connections == 1


@pytest.mark.parametrize("first", [b"HTTP/1.1 200 OK\nX: y\n\n", HEAD + b"Content-Length: 2\r\n\r\nok"])
def test_who_speaks_before_being_asked_is_held_to_the_same(raw: Raw, authority: Any, first: bytes) -> None:
    raw.first = first

    async def run() -> bytes:
        place = Place.of(f"https://{NAME}:{raw.port}", "127.0.0.1")
        async with Line(place, trusting(authority.pem), 2) as line:
            await line.connect()
            await asyncio.sleep(0.2)
            return (await line.ask("/")).body

    if b"\r" in first:
        assert asyncio.run(run()) == b"ok"
    else:
        with pytest.raises(CheckError, match="an answer that is no HTTP"):
            asyncio.run(run())


def test_a_list_may_be_told_in_parts(raw: Raw, authority: Any) -> None:
    raw.says = [HEAD + b"Vary: Accept\r\nContent-Length: 1\r\nvary: Accept-Encoding\r\n\r\nx"]
    assert ask(raw, authority)[0].headers["vary"] == "Accept, Accept-Encoding"


def test_a_head_says_how_long_the_body_would_be(raw: Raw, authority: Any) -> None:
    raw.says = [HEAD + b"Content-Length: 99999999999\r\n\r\n"]
    for answer in ask(raw, authority, "/a", "/b", method="HEAD"):
        assert (answer.body, answer.headers["content-length"]) == (b"", "99999999999")
    assert raw.connections == 1


@pytest.mark.parametrize(
    "first",
    [
        HEAD + b"Content-Length: 9\r\n\r\nabc",  # and then nothing
        HEAD + b"Content-Length: 900\r\n\r\n" + b"x" * 900,  # more than is wanted
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        HEAD + b"Content-Length: 2\r\n\r\nok and more",
    ],
)
def test_after_an_answer_that_was_none_a_new_connection_is_made(
    raw: Raw, authority: Any, first: bytes
) -> None:
    raw.says = [first]

    async def run() -> list[bytes]:
        place, found = Place.of(f"https://{NAME}:{raw.port}", "127.0.0.1"), []
        async with Line(place, trusting(authority.pem), 1) as line:
            for said in (first, HEAD + b"Content-Length: 2\r\n\r\nok"):
                raw.says = [said]
                try:
                    found.append((await line.ask("/", limit=5)).body)
                except CheckError:
                    found.append(b"")
        return found

    assert asyncio.run(run())[-1] == b"ok"
    assert raw.connections == 2


def test_a_name_is_proven_before_anything_is_asked(raw: Raw, authority: Any) -> None:
    async def run(name: str, trusted: Any) -> None:
        async with Line(Place.of(f"https://{name}:{raw.port}", "127.0.0.1"), trusting(trusted), 2) as line:
            await line.ask("/")

    raw.says = [HEAD + b"Content-Length: 2\r\n\r\nok"]
    for name, trusted in (("other.example.test", authority.pem), (NAME, None)):
        with pytest.raises(CheckError, match=f"the certificate is not valid for {name}: "):
            asyncio.run(run(name, trusted))
    assert raw.asked == 0


def test_who_hangs_up_on_a_new_connection_is_asked_once(raw: Raw, authority: Any) -> None:
    raw.says, raw.close = [b""], True
    with pytest.raises(CheckError, match="the answer ended too early"):
        ask(raw, authority)
    assert raw.connections == 1


def test_an_answer_that_ends_too_early(raw: Raw, authority: Any) -> None:
    raw.says, raw.close = [HEAD + b"Content-Length: 10\r\n\r\nabc"], True
    with pytest.raises(CheckError, match="the answer ended too early"):
        ask(raw, authority)


@pytest.mark.parametrize(
    ("begin", "forever", "pause"),
    [
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n", 0.05),  # drips
        (HEAD, b"X: y\r\n", 0.05),
        (HEAD, b"X: " + b"y" * 10_000 + b"\r\n", 0),
        (b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", 0.01),
        (b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000, 0),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2;", b"x" * 10_000, 0),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n" * 1000, 0),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n", 0.05),
    ],
)
def test_answers_without_end(raw: Raw, authority: Any, begin: bytes, forever: bytes, pause: float) -> None:
    raw.says, raw.forever, raw.pause = [begin], forever, pause
    started = time.monotonic()
    with pytest.raises(CheckError):
        ask(raw, authority)
    assert time.monotonic() - started < 3


def test_a_body_without_end_is_read_up_to_its_limit(raw: Raw, authority: Any) -> None:
    raw.says, raw.forever = [HEAD + b"\r\n"], b"x" * 65536
    assert len(ask(raw, authority, limit=100_000, timeout=10)[0].body) == 100_000


def packed(body: bytes, coding: str = "gzip") -> Answer:
    return Answer(200, {"content-encoding": coding}, body, "/x")


def test_a_small_answer_that_unpacks_to_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "LARGEST_PAGE", 1000)
    assert packed(gzip.compress(b"x" * 1000)).content() == b"x" * 1000
    with pytest.raises(CheckError, match="longer than 1000 bytes"):
        packed(gzip.compress(b"x" * 10_000_000)).content()
    with pytest.raises(CheckError, match="is no gzip"):
        packed(b"not at all").content()
    with pytest.raises(CheckError, match="is not whole"):
        packed(gzip.compress(b"abc")[:-4]).content()
    with pytest.raises(CheckError, match="has the coding 'br'"):
        packed(b"x", "br").content()
    with pytest.raises(CheckError, match="is no JSON"):
        Answer(200, {}, b"[" * 100_000, "/x").json()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300) | st.binary(max_size=100).map(lambda tail: HEAD + tail + b"\r\n\r\n"))
def test_whatever_bytes_come_the_outcome_is_an_answer_or_a_failed_check(
    raw: Raw, authority: Any, said: bytes
) -> None:
    raw.says, raw.close = [said], True
    try:
        ask(raw, authority, timeout=2)
    except CheckError as error:
        assert str(error).isprintable()
