"""A client in a process of its own, web servers over trees, and no proxy between."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faults.fleet import Host, Mirror
from faults.nginx import Nginx, configuration, self_signed

ROOT = Path(__file__).resolve().parents[2]
# Templates are rendered with the project's own plugins, which Ansible loads by file.
sys.path[:0] = [str(ROOT), str(ROOT / "filter_plugins")]

from tests import nginx_material  # noqa: E402


class Client:
    """A script in the clients' environment, which answers each line by one."""

    def __init__(self, script: str, *arguments: Path) -> None:
        self._command = [ROOT / "build/clients/bin/python", Path(__file__).with_name(script), *arguments]
        self._start()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, **asked: Any) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            print(json.dumps(asked), file=self._process.stdin, flush=True)
            return json.loads(self._process.stdout.readline())
        except BaseException:
            # The next test would be given this one's answer.
            self._process.kill()
            self.stop()
            self._start()
            raise

    def stop(self) -> None:
        self._process.communicate()


class Reader(Client):
    def read(
        self, url: str, projects: list[str], *, html: bool = False, fetch: bool = True
    ) -> dict[str, Any]:
        found: dict[str, Any] = self.ask(url=f"{url}/simple/", projects=projects, html=html, fetch=fetch)
        return found


class Chooser(Client):
    def choose(self, url: str, questions: list[tuple[str, str, str]]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask(url=f"{url}/simple/", questions=questions)
        return found


@pytest.fixture(scope="session")
def reader() -> Iterator[Reader]:
    reader = Reader("reader.py")
    yield reader
    reader.stop()


@pytest.fixture(scope="session")
def chooser() -> Iterator[Chooser]:
    chooser = Chooser("chooser.py", ROOT / ".venv/bin/uv")
    yield chooser
    chooser.stop()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For nginx to start with; what is asked here is asked over plain HTTP."""
    return self_signed(tmp_path_factory.mktemp("certificate") / "key-and-certificate.pem")


@pytest.fixture
def serve(tmp_path: Path, certificate: Path) -> Iterator[Callable[[Path], str]]:
    """The URL of a web server over a tree, as a mirror has one; all of them stop with the test."""
    started: list[Nginx] = []

    def start(tree: Path) -> str:
        folder = tmp_path / f"nginx{len(started)}"
        folder.mkdir()
        started.append(Nginx(folder, configuration(), certificate, served=tree, name="localhost"))
        return started[-1].url

    yield start
    for server in started:
        server.stop()


@pytest.fixture
def cache_of(tmp_path: Path, certificate: Path) -> Iterator[Callable[[str], str]]:
    """The URL of a mirror of mode cache over an upstream, which asks for a page again after CACHE_FORGETS seconds."""
    started: list[Nginx] = []

    def start(upstream: str) -> str:
        folder = tmp_path / "cache"
        folder.mkdir()
        options = {"web_server_page_max_age": 1, "web_server_file_max_age": 1}
        options |= {"web_server_on_miss": "pass", "web_server_upstream_index": f"{upstream}/simple/"}
        started.append(nginx_material.Nginx(folder, certificate, name="localhost", **options))
        return started[-1].url

    yield start
    for server in started:
        server.stop()


# Of a page that it keeps for a second: for four times as long again it is served as it was (docs/cache.md).
CACHE_FORGETS = 6


@pytest.fixture
def tier1_of(tmp_path: Path) -> Callable[..., Mirror]:
    """A mirror of all that an upstream has."""

    def make(url: str, **settings: Any) -> Mirror:
        mirror = Mirror(tmp_path / "tier1", url, [], **({"tries": 1, "timeout": 5} | settings))
        mirror.select([], everything=True)
        return mirror

    return make


@pytest.fixture
def origin_of(tmp_path: Path) -> Callable[..., Host]:
    def make(url: str, projects: list[str], **settings: Any) -> Host:
        selection = {"projects": projects}
        settings = {"tries": 1, "timeout": 5} | settings
        return Host(
            tmp_path / "origin", "origin", index_url=f"{url}/simple/", selection=selection, **settings
        )

    return make
