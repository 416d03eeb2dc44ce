"""The status page of the local fleet, for a browser that knows neither its name nor its authority."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "playbooks"))

from demo_page import Forwarder  # noqa: E402

NAME = "redirector.fleet.test"
PAGE = "<h1>Ünïcode</h1>".encode()


def answer(asked: Any) -> tuple[int, dict[str, str], bytes]:
    assert asked.headers["Host"].startswith(NAME)
    if asked.path == "/old":
        return 301, {"Location": f"https://{asked.headers['Host']}/"}, b""
    if asked.path != "/":
        return 404, {"Content-Type": "text/plain"}, b"no such page"
    policy = {"Content-Security-Policy": "default-src 'none'", "Strict-Transport-Security": "max-age=1"}
    return 200, {"Content-Type": "text/html; charset=utf-8"} | policy, PAGE


@pytest.fixture
def forward(serve: Any, authority: Any) -> Iterator[Callable[..., str]]:
    started: list[Forwarder] = []

    def start(certificate: Path | None = None, port: int = 0) -> str:
        port = port or serve(answer, certificate or authority.issue(NAME))
        started.append(Forwarder(f"https://{NAME}:{port}", "127.0.0.1", authority.pem))
        threading.Thread(
            target=started[-1].serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()
        return started[-1].url

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


def test_it_hands_on_what_the_redirector_answers(forward: Callable[..., str]) -> None:
    url = forward()
    for address in (url, f"{url}old"):
        with urllib.request.urlopen(address) as seen:
            assert (seen.read(), seen.url) == (PAGE, url)
            assert seen.headers["Content-Type"] == "text/html; charset=utf-8"
            assert seen.headers["Content-Security-Policy"] == "default-src 'none'"
            assert seen.headers["Strict-Transport-Security"] is None, "true of HTTPS only"
    with urllib.request.urlopen(urllib.request.Request(url, method="HEAD")) as seen:
        assert seen.headers["Content-Length"] == str(len(PAGE))
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{url}nothing")


def test_another_server_s_page_is_not_shown(forward: Callable[..., str], authority: Any) -> None:
    with pytest.raises(urllib.error.HTTPError, match="502") as failed:
        urllib.request.urlopen(forward(authority.issue("mirror1.fleet.test")))
    assert "certificate verify failed" in failed.value.read().decode()


def test_a_redirector_that_is_down_is_told(forward: Callable[..., str]) -> None:
    with pytest.raises(urllib.error.HTTPError, match="502") as failed:
        urllib.request.urlopen(forward(port=9))
    assert "refused" in failed.value.read().decode()


def run(*arguments: str | Path, path: Path, **environment: str) -> subprocess.Popen[str]:
    """As a person runs it who has these programs, and no window."""
    ours = {"PATH": str(path), "PYTHONUNBUFFERED": "1"} | environment
    command = [sys.executable, ROOT / "playbooks/demo_page.py", *arguments]
    return subprocess.Popen(command, env=ours, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


@pytest.mark.parametrize("found", [True, False])
def test_it_opens_a_browser_or_says_what_to_do(
    serve: Any, authority: Any, tmp_path: Path, found: bool
) -> None:
    programs, opened = tmp_path / "bin", tmp_path / "opened"
    programs.mkdir()
    if found:
        browser = programs / "someones-browser"
        browser.write_text(f'#!/bin/sh\necho "$1" >{opened}\n')
        browser.chmod(0o755)
    url = f"https://{NAME}:{serve(answer, authority.issue(NAME))}/"
    arguments = (url, "127.0.0.1", authority.pem, "--port", "0")
    process = run(*arguments, path=programs, **({"BROWSER": "someones-browser"} if found else {}))
    try:
        assert process.stdout is not None
        told = process.stdout.readline()
        assert told.startswith(f"{url} is at http://127.0.0.1:")
        address = told.split()[3]
        with urllib.request.urlopen(address) as seen:
            assert seen.read() == PAGE
        if not found:
            assert process.stdout.readline().startswith("No browser was found here.")
            port = address.rstrip("/").rpartition(":")[2]
            assert f"ssh -N -L {port}:127.0.0.1:{port} " in process.stdout.readline()
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == 0
    assert (opened.read_text().strip() == address) if found else not opened.exists()


def test_without_a_fleet_it_says_so(tmp_path: Path, authority: Any) -> None:
    process = run(f"https://{NAME}:9/", "127.0.0.1", authority.pem, path=tmp_path)
    assert process.wait(timeout=10) == 1
    assert process.stdout is not None
    assert "does not answer" in process.stdout.read()
    (tmp_path / "playbooks").mkdir()
    shutil.copy(ROOT / "playbooks/demo.sh", tmp_path / "playbooks")
    done = subprocess.run(
        [tmp_path / "playbooks/demo.sh", "page"],
        env={name: value for name, value in os.environ.items() if not name.startswith("SANDBOX")},
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 1
    assert "No local fleet of this checkout runs" in done.stderr
