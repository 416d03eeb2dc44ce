"""The one HTTP client: bounds, and the words for what failed, which no person reads as something a server said."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mirrorfleet.common import http
from mirrorfleet.fetch.upstream import FetchError, upstream
from mirrorfleet.fleet import votes

SOURCE = Path(__file__).parents[2] / "src"
HEAD = b"HTTP/1.1 200 OK\r\n"
Says = Callable[..., str]


@pytest.fixture
def says() -> Iterator[Says]:
    """A server that says certain bytes to whoever asks, and hangs up unless told to wait; its URL."""
    listeners: list[socket.socket] = []

    def start(answer: bytes, wait: float = 0) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def talk() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    connection.sendall(answer)
                    time.sleep(wait)

        threading.Thread(target=talk, daemon=True).start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}/"

    yield start
    for listener in listeners:
        listener.close()


def fetch(url: str, **options: Any) -> bytes:
    return http.fetch(url, **{"limit": 100, "timeout": 0.5} | options)


NOT_HTTP = [
    b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    HEAD + b"X: " + b"x" * 100_000 + b"\r\n\r\n",
    HEAD + b"no colon\r\n\r\n",
    HEAD + b"Content-Length: 5, 5\r\n\r\nabcde",
    HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcde",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n",
]


@pytest.mark.parametrize("answer", NOT_HTTP)
def test_a_parse_error_is_never_told_as_a_servers_400(says: Says, answer: bytes) -> None:
    url = says(answer)

    async def page() -> None:
        async with upstream(workers=1, timeout=1, tries=1) as client:
            await client.page(url)

    with pytest.raises(http.RequestError, match="an answer that is no HTTP: ") as one:
        fetch(url)
    with pytest.raises(FetchError, match=f"{url}: .*an answer that is no HTTP: ") as other:
        asyncio.run(page())
    for caught in (one, other):
        assert "400" not in str(caught.value).replace(url, "")
        assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("answer", "wait", "words"),
    [
        (b"", 0, "the answer ended too early"),
        (HEAD, 0, "the answer ended too early"),
        (HEAD + b"Content-Length: 9\r\n\r\nabc", 0, "the answer ended too early"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n9\r\nabc", 0, "the answer ended too early"),
        (HEAD + b"Content-Length: 9\r\n\r\nabc", 2, "timed out"),
        (b"", 2, "timed out"),
        (b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", 0, "HTTP Error 400: Bad Request"),
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", 0, "HTTP Error 503: Busy"),
    ],
)
def test_what_failed_has_words(says: Says, answer: bytes, wait: float, words: str) -> None:
    with pytest.raises(OSError) as caught:
        fetch(says(answer, wait))
    assert str(caught.value) == words


def test_nobody_listens_and_no_such_name() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        with pytest.raises(OSError, match=r"^\[Errno 111\] Connection refused$"):
            fetch(f"http://127.0.0.1:{nobody.getsockname()[1]}/")
    with pytest.raises(OSError, match=r"^\[Errno -[0-9]+\] "):
        fetch("http://no-such-host.invalid/")


def test_a_body_is_bounded(says: Says) -> None:
    for head in (b"Content-Length: 101\r\n\r\n", b"\r\n"):
        with pytest.raises(http.TooLongError, match=r"^longer than 100 bytes$"):
            fetch(says(HEAD + head + b"x" * 101))
        assert len(fetch(says(HEAD + head.replace(b"101", b"100") + b"x" * 100))) == 100


def test_a_certificate_is_verified(serve: Any, authority: Any) -> None:
    port = serve(lambda _: (200, {}, b"{}"), authority.issue("127.0.0.1"))
    trusting = ssl.create_default_context(cafile=authority.pem)
    assert fetch(f"https://127.0.0.1:{port}/", context=trusting) == b"{}"
    with pytest.raises(OSError, match=r"^\[SSL: CERTIFICATE_VERIFY_FAILED\] .*Hostname mismatch"):
        fetch(f"https://localhost:{port}/", context=trusting)
    with pytest.raises(OSError, match=r"^\[SSL: CERTIFICATE_VERIFY_FAILED\] .*local issuer"):
        fetch(f"https://127.0.0.1:{port}/")


def test_only_who_asks_for_it_goes_through_a_proxy(says: Says, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", says(HEAD + b"Content-Length: 5\r\n\r\nproxy"))
    monkeypatch.delenv("no_proxy", raising=False)
    direct = says(HEAD + b"Content-Length: 6\r\n\r\ndirect")
    assert fetch(direct) == b"direct"
    assert fetch(direct, proxies=True) == b"proxy"


def test_a_list_asks_its_monitor(serve: Any, authority: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"schema": 1, "monitor": "m", "at": 7, "reference": {"problem": "", "serial": None}, "mirrors": {}}
    port = serve(lambda _: (200, {}, json.dumps(told).encode()), authority.issue("127.0.0.1"))
    url = f"https://127.0.0.1:{port}/health.json"
    assert votes.votes([url], authority.pem, {}).told == [("m", True, "")]
    monkeypatch.setattr(votes, "LARGEST_HEALTH", 3)
    assert votes.votes([url], authority.pem, {url: "m"}).told == [("m", False, "is longer than 3 bytes")]


@pytest.mark.parametrize("module", ["cli", "sync.pull", "sync.run", "site.publish"])
def test_who_asks_nobody_does_not_pay_for_it(module: str) -> None:
    code = f"import mirrorfleet.{module}, sys; sys.exit('aiohttp' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(SOURCE)}, check=True)
