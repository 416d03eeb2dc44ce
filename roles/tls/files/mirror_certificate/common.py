"""What every part says, writes and fails by."""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path
from typing import Any

STATE = Path("/var/lib/mirror-certificate")

HOUR = 3600
DAY = 24 * HOUR
COMMAND_SECONDS = 120

Config = dict[str, Any]
State = dict[str, Any]


class FailedError(Exception):
    """Why there is no new certificate, and what to do."""

    def __init__(self, what: str, next_step: str, not_before: float = 0) -> None:
        super().__init__(f"{what} {next_step}")
        self.not_before = not_before


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """One of the host's own programs; whatever it ends with is for who asked."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=COMMAND_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise FailedError(
            f"{command[0]} did not end within {COMMAND_SECONDS} s.", "See what holds it up on this host."
        ) from error


def one_line(said: str) -> str:
    return re.sub(r"\s+", " ", said.strip())[-1000:].removesuffix(".") or "it said nothing"


def say(text: str) -> None:
    print(text, flush=True)


def moment(timestamp: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(timestamp))


def write(path: Path, content: bytes, mode: int) -> None:
    """By one rename; at no moment more readable than it is meant to be."""
    beside = path.with_name(path.name + ".new")
    beside.unlink(missing_ok=True)
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as stream:
        os.fchmod(stream.fileno(), mode)
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    beside.rename(path)
