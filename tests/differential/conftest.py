"""A client in a process of its own, web servers over trees, and no proxy between."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faults.fleet import Host, Mirror, Site

HOUSE = Path(__file__).parents[2]


class Reader:
    def __init__(self) -> None:
        command = [HOUSE / "build/clients/bin/python", Path(__file__).with_name("reader.py")]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def read(self, url: str, projects: list[str]) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        print(
            json.dumps({"url": f"{url}/simple/", "projects": projects}), file=self._process.stdin, flush=True
        )
        found: dict[str, Any] = json.loads(self._process.stdout.readline())
        return found

    def stop(self) -> None:
        self._process.communicate()


@pytest.fixture(scope="session")
def reader() -> Iterator[Reader]:
    reader = Reader()
    yield reader
    reader.stop()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[Path], Site]]:
    sites: list[Site] = []

    def start(tree: Path) -> Site:
        sites.append(Site(tree, tmp_path / f"site{len(sites)}"))
        return sites[-1]

    yield start
    for site in sites:
        site.stop()


@pytest.fixture
def tier1_of(tmp_path: Path) -> Callable[..., Mirror]:
    """A mirror of all that an upstream has."""

    def make(url: str, **settings: Any) -> Mirror:
        mirror = Mirror(tmp_path / "tier1", url, [], **({"tries": 1, "timeout": 5} | settings))
        config = mirror.root / "bandersnatch.conf"
        config.write_text(config.read_text().partition("[plugins]")[0])
        mirror.configure(selection={"everything": True})
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
