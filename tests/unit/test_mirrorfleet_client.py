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
                at = 0
                while connection.recv(65536):
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
