"""A wait that a person can follow: what is waited for and why, whenever that changes and every few seconds."""

from __future__ import annotations

import time
from collections.abc import Callable

TOLD_EVERY = 10.0  # seconds


class Wait:
    """Until a deadline, in seconds from now; `say` shows a line."""

    def __init__(
        self, seconds: float, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._say, self._clock = say, clock
        self._began = self._told_at = clock()
        self._ends = self._began + seconds
        self._reason = ""

    @property
    def left(self) -> float:
        return max(0.0, self._ends - self._clock())

    def heard(self) -> None:
        """Something else was just shown."""
        self._told_at = self._clock()

    def tell(self, reason: str) -> None:
        now = self._clock()
        if reason != self._reason or now - self._told_at >= TOLD_EVERY:
            self._say(f"{reason} ({now - self._began:.0f} s, at most {self._ends - self._began:.0f} s)")
            self._reason, self._told_at = reason, now
