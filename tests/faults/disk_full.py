"""Mirrors on a file system that is too small, then large enough. Run in a mount namespace of its own.

`python disk_full.py DIRECTORY UPSTREAM RSYNC_SOURCE`; ends with 0 when every mirror behaved.
"""

import os
import subprocess
import sys
from pathlib import Path

from faults.fleet import Host, Mirror, Tier2

PROJECTS = ["alpha", "beta", "gamma-delta"]


def fill(directory: Path, left: int) -> None:
    """Leave about `left` bytes."""
    status = os.statvfs(directory)
    with (directory / "filler").open("wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, status.f_bavail * status.f_frsize - left)


def suffer(host: Host, directory: Path) -> None:
    host.run("sync", expect=None)  # with room: all is there
    assert host.names() == PROJECTS
    for path in (host.served, host.fetched, host.state):
        subprocess.run(["rm", "-rf", path], check=True)
    said = []
    for left in (4096, 100_000, 200_000, 300_000):
        fill(directory, left)
        host.run("sync", expect=None)
        said += [line for line in host.log.splitlines() if "No space" in line or "is full" in line]
        if (host.served / "simple/index.v1_json").exists():
            assert host.broken() == []
        (directory / "filler").unlink()
    ours = [line for line in said if "bandersnatch: " not in line and "rsync" not in line]
    assert ours and all(str(directory) in line for line in ours), said
    fill(directory, 300_000)
    host.configure(minimum_free_bytes=1 << 20)
    host.run("sync", expect=4)
    assert "minimum_free_bytes" in host.log
    (directory / "filler").unlink()
    for _ in range(3):
        host.run("sync", expect=None)
    assert host.run("sync")["good"]
    assert host.names() == PROJECTS
    assert host.broken() == host.leftovers() == []
    # Nor what bandersnatch began to write.
    assert list(host.fetched.glob("generation.*")) == []
    assert [path for path in host.fetched.rglob(".*") if path.name != ".lock"] == []


def main() -> None:
    directory = Path(sys.argv[1])
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", directory], check=True)
    suffer(Tier2(directory / "tier2", sys.argv[3]), directory)
    subprocess.run(["rm", "-rf", directory / "tier2"], check=True)
    suffer(Mirror(directory / "mirror", sys.argv[2], PROJECTS), directory)


if __name__ == "__main__":
    main()
