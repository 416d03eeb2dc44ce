"""What may befall a run in any mode: a second one beside it, an upstream that hangs, is slow, or tells what was."""

import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from faults.fleet import DEADLINE, Daemon, Host, Mirror, Origin, Site, wait_for

PROJECTS = ["alpha", "beta", "gamma-delta"]


@dataclass
class Way:
    """A host, and the server that it fetches from."""

    host: Host
    origin: Origin
    server: Site | Daemon

    def release(self, version: str, size: int = 200) -> None:
        """Of all projects, so that there is something to fetch."""
        for name in PROJECTS:
            self.origin.release(name, version, size=size)
        self.origin.publish()

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """The server's process is stopped: it accepts connections and says nothing."""
        os.kill(self.server.process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.server.process.pid, signal.SIGCONT)

    def has(self, version: str) -> bool:
        """Whether it serves that of each project; what a cache says is only how far upstream is."""
        if self.host.document["mode"] == "cache":
            return bool(self.host.status()["serial"] == self.origin.status()["serial"])
        return all(f"-{version}.tar.gz" in str(list(self.host.files(name))) for name in PROJECTS)


@pytest.fixture(params=["origin", "bandersnatch", "rsync", "cache"])
def way(request: pytest.FixtureRequest, origin: Origin, tmp_path: Path) -> Way:
    if request.param == "rsync":
        tier2: Host = request.getfixturevalue("tier2")
        tier2.configure(rsync={**tier2.document["rsync"], "timeout": 2})
        return Way(tier2, origin, request.getfixturevalue("daemon"))
    site: Site = request.getfixturevalue("site")
    if request.param == "bandersnatch":
        host: Host = request.getfixturevalue("mirror")
    else:
        only_origin = (
            {"selection": {"projects": PROJECTS}} if request.param == "origin" else {"upstream": site.url}
        )
        host = Host(tmp_path / "host", request.param, index_url=f"{site.url}/simple/", **only_origin)
    host.configure(timeout=2, tries=1)
    return Way(host, origin, site)


def is_unharmed(way: Way, before: dict[str, object]) -> None:
    """A run that came to nothing says so, and nothing that is served is another."""
    assert way.host.metric("last_run_success") == 0
    after = way.host.status()
    for key in ("serial", "last_success", "projects", "files"):
        assert after[key] == before[key]
    if way.host.document["mode"] != "cache":
        assert way.host.names() == PROJECTS
        assert way.host.broken() == []


def test_two_runs_at_once_are_one(way: Way) -> None:
    way.host.run("sync")
    way.release("3.0")
    with way.hanging():
        first = way.host.start("sync")
        lock = way.host.state / "lock"
        wait_for(lambda: lock.read_text() == f"{first.pid}\n")
        way.host.run("sync", expect=3)
        assert f"another run is at work (process {first.pid})" in way.host.log
    first.communicate(timeout=DEADLINE)
    assert way.host.run("sync")["good"]
    assert way.has("3.0")


def test_an_upstream_that_hangs_ends_the_run_and_changes_nothing(way: Way) -> None:
    way.host.run("sync")
    before = way.host.status()
    way.release("3.0")
    began = time.monotonic()
    with way.hanging():
        way.host.run("sync", expect=1)
    assert time.monotonic() - began < DEADLINE / 2
    is_unharmed(way, before)
    assert way.host.run("sync")["good"]
    assert way.has("3.0")


class Slowly(threading.Thread):
    """Hands on what a server says, a KiB at a time: at 20 KiB a second a wheel takes longer than any timeout here."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self._upstream = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.pauses = 0

    def run(self) -> None:
        while True:
            client, _ = self._listener.accept()
            server = socket.create_connection(("127.0.0.1", self._upstream))
            for source, target, slow in ((client, server, False), (server, client, True)):
                threading.Thread(target=self._hand_on, args=(source, target, slow), daemon=True).start()

    def _hand_on(self, source: socket.socket, target: socket.socket, slow: bool) -> None:
        try:
            while data := source.recv(1 << 10 if slow else 1 << 16):
                if slow:
                    self.pauses += 1
                    time.sleep(0.05)
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            for end in (source, target):
                end.close()


def test_an_upstream_that_is_slow_is_waited_for(way: Way) -> None:
    """Timeouts are of silence, of which there is none."""
    way.host.configure(timeout=5)
    if way.host.document["mode"] == "rsync":
        way.host.configure(rsync={**way.host.document["rsync"], "timeout": 5})
    port = int(way.server.url.split(":")[2].split("/")[0])
    slowly = Slowly(port)
    slowly.start()
    text = (way.host.root / "mirror.json").read_text()
    for path in way.host.root.glob("*.[cj]*"):
        path.write_text(path.read_text().replace(f":{port}", f":{slowly.port}"))
    assert text != (way.host.root / "mirror.json").read_text()
    way.release("3.0", size=120_000)
    assert way.host.run("sync")["good"]
    assert slowly.pauses >= (1 if way.host.document["mode"] == "cache" else 3 * 120)
    assert way.has("3.0")


def test_an_upstream_that_tells_what_was_is_followed_there_and_back(way: Way, tmp_path: Path) -> None:
    """All of it is of then: index, pages, serials and journal, as of one that was restored, or lies behind a cache."""
    then, tree = tmp_path / "then", way.origin.served
    shutil.copytree(tree, then, symlinks=True)
    way.host.run("sync")
    fresh = way.host.status()["serial"]
    way.release("3.0")
    way.host.run("sync")
    assert way.has("3.0")
    tree.rename(tmp_path / "now")
    then.rename(tree)
    way.host.run("sync")
    assert way.has("2.0") and (way.host.document["mode"] == "cache" or not way.has("3.0"))
    if way.host.document["mode"] != "cache":
        assert way.host.broken() == []
    tree.rename(then)
    (tmp_path / "now").rename(tree)
    assert way.host.run("sync")["good"]
    assert way.has("3.0")
    assert way.host.status()["serial"] > fresh
    if way.host.document["mode"] != "cache":
        for _ in range(2):
            way.host.run("sync")
        assert way.host.broken() == way.host.leftovers() == []


def test_a_mirror_that_becomes_a_cache_serves_its_former_tree_no_more(
    origin: Origin, mirror: Mirror, site: Site
) -> None:
    origin.release(PROJECTS[0], "1.0")
    origin.publish()
    mirror.select(PROJECTS)
    mirror.run("sync")
    files = mirror.files(PROJECTS[0])
    was = dict(mirror.document)
    mirror.configure(mode="cache", upstream=site.url)
    mirror.run("sync")
    assert mirror.status()["projects"] == mirror.status()["files"] == 0
    assert {path.name for path in mirror.served.iterdir()} == {"last-modified", "mirror.json", ".former"}
    mirror.run("sync")
    (kept,) = (mirror.served / ".former").iterdir()
    assert {"pages", "packages"} <= {path.name for path in kept.iterdir()}  # for a person to remove
    # And back.
    mirror.document = was
    mirror.configure()
    mirror.run("sync")
    assert mirror.files(PROJECTS[0]) == files
    assert mirror.broken() == []
