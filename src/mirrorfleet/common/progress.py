"""How far a long run is, for the person who waits and for the metrics."""

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

log = logging.getLogger(__name__)


@dataclass
class Snapshot:
    what: str
    done: int
    total: int
    bytes: int
    seconds: float


def human_bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def human_time(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
    )


def line(now: Snapshot, last: str) -> str:
    seconds = max(now.seconds, 0.001)
    text = f"{now.what}: project {now.done} of {now.total}"
    if last:
        text += f" ({last})"
    if now.bytes:
        text += f", {human_bytes(now.bytes)}, {human_bytes(now.bytes / seconds)}/s"
    if 0 < now.done < now.total:
        text += f", about {human_time(seconds / now.done * (now.total - now.done))} left"
    return text


class Progress:
    """Counts steps; tells at most every `interval` seconds, and always the last one."""

    def __init__(self, interval: float, store: Callable[[dict[str, object]], None] | None = None) -> None:
        self._interval = interval
        self._store = store
        self.begin("starting", 0)

    def begin(self, what: str, total: int) -> None:
        self._now = Snapshot(what, 0, total, 0, 0.0)
        self._started = self._told = time.monotonic()

    def expect(self, total: int) -> None:
        self._now.total = total

    def add_bytes(self, count: int) -> None:
        self._now.bytes += count

    def step(self, last: str = "") -> None:
        self._now.done += 1
        at = time.monotonic()
        self._now.seconds = at - self._started
        if at - self._told >= self._interval or self._now.done == self._now.total:
            self._told = at
            log.info("%s", line(self._now, last))
            if self._store:
                self._store(asdict(self._now))
