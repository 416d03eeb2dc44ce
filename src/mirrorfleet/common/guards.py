"""Reasons to stop before harm is done."""

import fcntl
import logging
import os
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from .files import free_bytes, named
from .log import without_credentials

log = logging.getLogger(__name__)


class RefusedError(Exception):
    """A guard stopped the run; nothing was removed."""

    def __init__(self, what: str) -> None:
        super().__init__(without_credentials(what))


class BusyError(Exception):
    """Another run holds the lock."""


_NAMED = 5


class Memory(Protocol):
    """What is remembered from run to run (served.state.State)."""

    def get(self, key: str, default: Any = None) -> Any: ...
    def put(self, key: str, value: Any) -> None: ...


@dataclass(frozen=True)
class Shrinking:
    """How much may leave what is served, because upstream lacks it."""

    share: float
    believed_after: float  # seconds for which upstream has to lack what is more than that

    def refuse(self, memory: Memory, before: int, leaving: Collection[str], what: str) -> None:
        """Raise when what leaves `before` projects is no plausible change; one project is, unless it is the last.

        What upstream lacks in every run for long enough it has removed, however much that is, but not all.
        """
        count, now = len(leaving), time.time()
        everything = count > 0 and count == before
        doubted = memory.get("doubted") or {}
        if count <= max(1, self.share * before) and not everything:
            if doubted:
                memory.put("doubted", {})
            return
        # A clock that jumped ahead and came back believes nothing earlier, and nothing later than from now on.
        since = {name: min(doubted.get(name, now), now) for name in leaving}
        if not everything and all(now - first >= self.believed_after for first in since.values()):
            memory.put("doubted", {})
            log.warning("%s: %d of %d projects leave: upstream lacked them all the time", what, count, before)
            return
        memory.put("doubted", since)
        some = ", ".join(sorted(leaving)[:_NAMED]) + (", …" if count > _NAMED else "")
        believed = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(max(since.values()) + self.believed_after))
        raise RefusedError(
            f"{what}: {count} of {before} projects would disappear at once ({some}); allowed is a share of {self.share}"
            " (maximum_shrink_share) and never the last one; nothing was removed. "
            + ("" if everything else f"It is believed from {believed} on, if upstream still lacks them. ")
            + "If upstream is right: mirrorfleet sync --allow-shrink"
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
        with named(path):
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
