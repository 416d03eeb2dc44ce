"""What the plots of thirty days show: bars of 20 units a day on a ground of 600 by 60, and lines, as paths of SVG."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..fleet.documents import rfc3339

DAY = 86400
GROUND, STEP = 66, 20


@dataclass(frozen=True)
class Plot:
    bars: str
    line: str  # across the bars; none when empty
    first: str
    last: str
    worst: float
    worst_on: int


@dataclass(frozen=True)
class Availability(Plot):
    mean: float
    independent: float  # the mean of the line


@dataclass(frozen=True)
class Freshness(Plot):
    top: int
    limit: int


def availability(days: list[float | None], other: list[float | None], last: int) -> Availability | None:
    known = [(share, at) for at, share in enumerate(days) if share is not None]
    if not known:
        return None
    worst, at = min(known)
    independent = [share for share in other if share is not None]
    return Availability(
        bars=_bars(days),
        line=line(other, STEP, STEP // 2, _height),
        worst=worst,
        mean=sum(share for share, _ in known) / len(known),
        independent=sum(independent) / len(independent) if independent else 0,
        **_dates(len(days), last, at),
    )


def freshness(behind: list[int | None], limit: int, last: int) -> Freshness | None:
    known = [(seconds, at) for at, seconds in enumerate(behind) if seconds is not None]
    if not known:
        return None
    worst, at = max(known)
    top = max(worst, limit)
    return Freshness(
        bars=_bars([None if seconds is None else seconds / top for seconds in behind]),
        line=f"M0 {GROUND - 60 * limit / top:.4g}h600",
        worst=worst,
        top=top,
        limit=limit,
        **_dates(len(behind), last, at),
    )


def _dates(count: int, last: int, worst: int) -> dict[str, Any]:
    first = last - count + 1
    return {
        "first": rfc3339(first * DAY)[:10],
        "last": rfc3339(last * DAY)[:10],
        "worst_on": (first + worst) * DAY,
    }


def _bars(shares: list[float | None]) -> str:
    """What is known leaves a stroke, however small it is; what is not leaves a gap."""
    return "".join(_bar(at, round(600 * share)) for at, share in enumerate(shares) if share is not None)


@functools.lru_cache(600 * 30)
def _bar(at: int, tenths: int) -> str:
    return f"M{STEP * at + 2} {GROUND}v-{max(tenths / 10, 1):g}h{STEP - 4}V{GROUND}z"


@functools.lru_cache(10_000)
def _height(share: float) -> str:
    return f"{GROUND - 60 * share:.4g}"


def line(shares: list[float | None], step: int, start: int, height: Callable[[float], str]) -> str:
    """Days without measurement break it; one alone is a stroke. Heights are cached: it is half the time of a table."""
    strokes, pen = [], "M"
    for at, share in enumerate(shares):
        if share is None:
            pen = "M"
            continue
        strokes.append(f"{pen}{step * at + start} {height(share)}")
        if pen == "M":
            strokes.append("h1")
            pen = "L"
    return "".join(strokes)


def sparkline(shares: list[float | None]) -> str:
    """60 by 14. The share beside it says the same in words."""
    return line(shares, 2, 0, _small_height)


@functools.lru_cache(10_000)
def _small_height(share: float) -> str:
    return f"{13 - 12 * share:.3g}"
