"""What rots or is lost on disk is found and repaired, in every mode that keeps a tree."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from faults.fleet import DEADLINE, HERE, SOURCE, Daemon, Host, Mirror, Origin, Site

from mirrorfleet.served.state import State
from mirrorfleet.sync.check import due


@pytest.fixture(params=["origin", "mirror", "tier2"])
def host(request: pytest.FixtureRequest) -> Host:
    host: Host = request.getfixturevalue(request.param)
    host.run("sync")
    return host


def rot(path: Path) -> None:
    """Another byte in the same inode, as a disk does it: every name of the file is concerned."""
    with path.open("r+b") as stream:
        first = stream.read(1)
        stream.seek(0)
        stream.write(bytes([first[0] ^ 1]))


def test_lost_and_rotten_files_and_pages_are_repaired(host: Host) -> None:
    packages = host.served / "packages"
    rot(next(packages.rglob("alpha-1.0.tar.gz")))
    next(packages.rglob("alpha-2.0.tar.gz")).unlink()
    next(packages.rglob("beta-1.0*.metadata")).unlink()
    rot(next(packages.rglob("beta-2.0*.metadata")))
    rot(next(packages.rglob("gamma_delta-1.0*.whl")))
    for path in list(host.root.rglob("gamma_delta-2.0.tar.gz")):
        path.unlink()
    alpha, beta = ((host.served / "pages" / name / "cur").resolve() for name in ("alpha", "beta"))
    rot(alpha / "simple/index.html")
    (beta / "pypi/json.gz").unlink()
    stray = packages / "aa/bb/nobody-1.0.tar.gz"
    stray.parent.mkdir(parents=True)
    stray.write_bytes(b"nobody names it")
    summary = host.run("check", expect=1)
    assert len(summary["repaired"]) == 6
    assert sorted(summary["broken"]) == ["pages/alpha", "pages/beta"]
    assert summary["orphans"] == 1
    host.run("sync")  # renders or pulls the pages again
    assert host.broken() == host.leftovers() == []
    summary = host.run("check")
    assert (summary["repaired"], summary["broken"], summary["orphans"]) == ([], {}, 0)
    assert host.metric("broken_files") == 0


def test_what_cannot_be_repaired_is_said_and_tried_again(origin: Origin, site: Site, mirror: Mirror) -> None:
    mirror.run("sync")
    rot(next((mirror.served / "packages").rglob("alpha-1.0.tar.gz")))
    site.faults({r"alpha-1\.0\.tar\.gz$": 404})
    broken = mirror.run("check", expect=1)["broken"]
    assert [path.rpartition("/")[2] for path in broken] == ["alpha-1.0.tar.gz"]
    assert mirror.metric("broken_files") == 1
    summary = mirror.run("sync", expect=1)
    assert list(summary["broken"]) == list(broken)
    site.faults({})
    assert mirror.run("sync")["repaired"] == list(broken)
    assert mirror.metric("broken_files") == 0
    assert mirror.broken() == []


def test_a_share_of_the_tree_is_checked_by_each_run_and_all_of_it_in_turn(origin: Origin) -> None:
    origin.configure(check_share_per_day=1.0)
    origin.publish()
    files = origin.status()["files"]
    assert files == 12
    for path in (origin.served / "packages").rglob("*.tar.gz"):
        rot(path)
    repaired: list[str] = []
    for _ in range(4):  # four times six hours, each with a run
        with State(origin.state / "mirrorfleet.sqlite") as state:
            state.put("checked_at", time.time() - 6 * 3600)
        summary = origin.run("sync")
        assert summary["checked"] == 3
        repaired += summary["repaired"]
    assert len(repaired) == 6
    assert origin.broken() == []


@pytest.mark.parametrize(
    ("share", "total", "seconds", "count"),
    [
        (0.02, 300_000, 3600, 250),
        (0.02, 30, 3600, 0),
        (1.0, 10, 86400 * 9, 10),
        (0.0, 10, 1e9, 0),
        (0.5, 10, -60, 0),
    ],
)
def test_what_is_due(share: float, total: int, seconds: float, count: int) -> None:
    assert due(share, total, seconds) == count


def test_a_clock_that_jumps_back_loses_no_change(origin: Origin, mirror: Mirror, monkeypatch: Any) -> None:
    mirror.run("sync")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 400 * 86400)
    origin.release("alpha", "3.0")
    origin.publish()
    mirror.run("sync")
    assert "alpha-3.0.tar.gz" in mirror.files("alpha")
    monkeypatch.setattr(time, "time", lambda: now + 400 * 86400)
    origin.release("alpha", "4.0")
    origin.publish()
    mirror.run("sync")
    assert "alpha-4.0.tar.gz" in mirror.files("alpha")
    assert mirror.broken() == []


def test_a_full_disk_stops_the_run_and_heals_when_there_is_room(
    site: Site, daemon: Daemon, tmp_path: Path
) -> None:
    # A mount namespace of its own, so that a small file system is gone with the process.
    script = [sys.executable, str(HERE / "disk_full.py"), str(tmp_path / "small"), site.url, daemon.url]
    ran = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", *script],
        env={**os.environ, "PYTHONPATH": f"{SOURCE}:{HERE.parent}"},
        capture_output=True,
        text=True,
        timeout=3 * DEADLINE,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
