"""A verb that lasts: one process works every few seconds, and at once when something that it depends on changes.

To start a program takes longer than most of its runs (measured: half a second of CPU, of which the run has a tenth).
systemd is told of each run (sd_notify(3)), so that it starts one anew that hangs.
"""

import os
import socket
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NoReturn

LOOK = 0.25  # seconds between two looks at what it depends on, which cost some microseconds


def again_and_again(work: Callable[[], object], every: float, depends_on: Iterable[Path]) -> NoReturn:
    """Works, then waits: `every` seconds after a run's end, or until one of the paths is another file, has been written
    to, is gone or there again, or, of a folder, has other entries. What changes during a run begins the next one.
    """
    watched = list(depends_on)
    while True:
        before = _seen(watched)
        work()
        _tell("READY=1\nWATCHDOG=1")
        until = time.monotonic() + every
        while _seen(watched) == before and (left := until - time.monotonic()) > 0:
            time.sleep(
                min(LOOK, left)
            )  # a look is cheaper than a watch of files that are replaced by renames


def _seen(paths: Iterable[Path]) -> list[tuple[int, int, int] | None]:
    found: list[tuple[int, int, int] | None] = []
    for path in paths:
        try:
            about = path.stat()
        except OSError:
            found.append(None)
        else:
            found.append((about.st_ino, about.st_mtime_ns, about.st_size))
    return found


def _tell(state: str) -> None:
    """Nothing where it was not systemd that started it."""
    if not (name := os.environ.get("NOTIFY_SOCKET")):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as service:
        service.sendto(state.encode(), f"\0{name[1:]}" if name.startswith("@") else name)
