"""Reasons to stop before harm is done."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .files import free_bytes
from .log import without_credentials


class RefusedError(Exception):
    """A guard stopped the run; nothing was removed."""

    def __init__(self, what: str) -> None:
        super().__init__(without_credentials(what))


class BusyError(Exception):
    """Another run holds the lock."""


def refuse_shrinking(before: int, removed: int, share: float, what: str) -> None:
    """Raise when `removed` of `before` is no plausible change; one is, unless it is the last."""
    if removed > max(1, share * before) or (removed and removed == before):
        raise RefusedError(
            f"{what}: {removed} of {before} projects would disappear at once; allowed is a share of {share}"
            " (maximum_shrink_share) and never the last one; nothing was removed"
        )


def require_free_space(path: Path, minimum: int) -> None:
    free = free_bytes(path)
    if free < minimum:
        raise RefusedError(f"{path}: {free} bytes free, fewer than the {minimum} of minimum_free_bytes")


@contextmanager
def only_one(path: Path, patience: float = 0) -> Iterator[int]:
    """Hold the lock of all runs that write the same; the kernel frees it when the process dies.

    BusyError when another run still has it after `patience` seconds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        until = time.monotonic() + patience
        while not _locked(handle):
            if time.monotonic() >= until:
                holder = os.pread(handle, 32, 0).decode("ascii", "replace").strip()
                raise BusyError(f"{path}: another run is at work (process {holder or 'unknown'})")
            time.sleep(0.1)
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield handle
    finally:
        os.close(handle)


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
