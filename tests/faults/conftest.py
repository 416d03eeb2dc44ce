"""Fixtures: an origin with three projects behind its own web server, and a mirror of it."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faults.fleet import Daemon, Mirror, Origin, Site, Tier2

PROJECTS = ["alpha", "beta", "gamma-delta"]


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything here is on this machine, whatever the machine's way out is."""
    for name in os.environ:
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture
def origin(tmp_path: Path) -> Origin:
    origin = Origin(tmp_path / "origin")
    for name in PROJECTS:
        for version in ("1.0", "2.0"):
            origin.release(name, version)
    origin.publish()
    return origin


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[Path], Site]]:
    """Start a web server over a tree; all of them stop with the test."""
    sites: list[Site] = []

    def start(tree: Path) -> Site:
        sites.append(Site(tree, tmp_path / f"site{len(sites)}"))
        return sites[-1]

    yield start
    for site in sites:
        site.stop()


@pytest.fixture
def site(origin: Origin, serve: Callable[[Path], Site]) -> Site:
    return serve(origin.served)


@pytest.fixture
def mirror(tmp_path: Path, site: Site) -> Mirror:
    return Mirror(tmp_path / "mirror", site.url, PROJECTS)


@pytest.fixture
def daemon(origin: Origin, tmp_path: Path) -> Iterator[Daemon]:
    daemon = Daemon(origin.served, tmp_path / "rsyncd")
    yield daemon
    daemon.stop()


@pytest.fixture
def tier2(tmp_path: Path, daemon: Daemon) -> Tier2:
    return Tier2(tmp_path / "tier2", daemon.url)
