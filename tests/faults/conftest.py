"""Fixtures: an origin with three projects behind its own web server, and a mirror of it."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from faults.clients import use
from faults.fleet import Daemon, Host, Mirror, Origin, Site, Tier2
from faults.nginx import Nginx, over

PROJECTS = ["alpha", "beta", "gamma-delta"]
Served = TypeVar("Served", Site, Nginx)


def pytest_runtest_setup() -> None:
    Host.made.clear()


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Any:
    """After each fault, real clients use what is served: the mirrors of the test, or else its origin."""
    result = yield
    hosts = [host for host in Host.made if (host.served / "simple/index.v1_json").exists()]
    for host in [host for host in hosts if not isinstance(host, Origin)] or hosts:
        use(host, host.root.with_name(f"{host.root.name}-used"))
    return result


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


def each_of(start: Callable[[Path, int], Served]) -> Iterator[Callable[[Path], Served]]:
    """What starts a server over a tree, numbered; all that it started stop with the test."""
    servers: list[Served] = []

    def one(tree: Path) -> Served:
        servers.append(start(tree, len(servers)))
        return servers[-1]

    yield one
    for server in servers:
        server.stop()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[Path], Site]]:
    """Start an upstream, whose faults are told it, over a tree."""
    yield from each_of(lambda tree, number: Site(tree, tmp_path / f"site{number}"))


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Callable[[Path], Nginx]]:
    """Start a mirror's own web server over its served tree."""
    yield from each_of(lambda tree, number: over(tree, tmp_path / f"nginx{number}"))


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
