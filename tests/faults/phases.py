"""How far a run of a mirror is, by what Python does to files and processes: told while it runs, and killed by it."""

import mmap
import os
import signal
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Nothing that is served has changed; files and pages come; the root page was switched: what is due is deleted, and the
# status written.
PHASES = ("early", "middle", "late")
_CHANGES = {"os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "subprocess.Popen"}
_LAST = ("pages/_root/cur", "last-modified", "mirror.json")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Run:
    """What is shared with a forked run: the number of steps that it began in each phase."""

    def __init__(self, root: Path) -> None:
        self._root, self._served = f"{root}/", f"{root}/served/"
        self._shared = mmap.mmap(-1, 3 * 8)

    def steps(self) -> tuple[int, ...]:
        return struct.unpack("3q", self._shared)

    def phase(self) -> str | None:
        """The phase that it is in, or was when it ended; None before it has done anything."""
        reached = [phase for phase, steps in zip(PHASES, self.steps(), strict=True) if steps]
        return reached[-1] if reached else None

    def watch(self, phase: str | None = None, step: int = 0, kill: Callable[[], None] = lambda: None) -> None:
        """In the fork: count from now on, and kill before a step of a phase."""
        now = 0

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal now
            if event not in _CHANGES and not (event == "open" and (arguments[2] or 0) & _WRITES):
                return
            paths = [
                os.fsdecode(each) for each in arguments[:2] if isinstance(each, (str, bytes, os.PathLike))
            ]
            if event != "subprocess.Popen" and not any(path.startswith(self._root) for path in paths):
                return
            # Folders that are there already are made by every run.
            if event != "os.mkdir" and any(path.startswith(self._served) for path in paths):
                now = max(now, 1)
            if event == "os.rename" and paths[-1].removeprefix(self._served) in _LAST:
                now = 2
            steps = list(self.steps())
            steps[now] += 1
            self._shared[:] = struct.pack("3q", *steps)
            if (PHASES[now], steps[now]) == (phase, step):
                kill()

        sys.addaudithook(hook)


def by(number: signal.Signals, *, all_of_it: bool) -> Callable[[], None]:
    """It alone is signalled, as by the kernel; or with its children, as by systemd."""
    return lambda: (os.killpg if all_of_it else os.kill)(os.getpid(), number)
