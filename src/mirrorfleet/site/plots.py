"""What the plots of thirty days show, as paths of SVG: on a mirror's page bars of 20 units a day on a ground of 600 by
60, and lines; a strip in the table."""

import functools
from collections.abc import Callable
from typing import NamedTuple

from ..fleet.availability import DAY, DAYS_KEPT
from ..fleet.documents import rfc3339
from ..fleet.standing import span

GROUND, STEP = 66, 20


class Plot(NamedTuple):
    """The bars, the line across them if there is one, and what is told of both, about a day in the midst of it."""

    title: str
    top: str
    bars: str
    kind: str
    line: str
    told: str
    worst_on: int | None
    more: str
    first: str
    last: str


def availability(days: list[float | None], other: list[float | None], last: int) -> Plot | None:
    known = [(share, at) for at, share in enumerate(days) if share is not None]
    if not known:
        return None
    worst, at = min(known)
    mean = sum(share for share, _ in known) / len(known)
    told = f"Availability, share of good probes by day: {100 * mean:.2f} % in the mean"
    if worst < 1:
        told += f", {100 * worst:.1f} % on "
    more = "."
    if independent := [share for share in other if share is not None]:
        mean = sum(independent) / len(independent)
        more = f"; the line: an independent probe of the index page, {100 * mean:.2f} % in the mean."
    first = last - len(days) + 1
    return Plot(
        "Availability by day", "100 %", _bars(days), "other", line(other, STEP, STEP // 2, _height),
        told, (first + at) * DAY if worst < 1 else None, more, _day(first), _day(last),
    )  # fmt: skip


def freshness(behind: list[int | None], limit: int, last: int) -> Plot | None:
    known = [(seconds, at) for at, seconds in enumerate(behind) if seconds is not None]
    if not known:
        return None
    worst, at = max(known)
    top = max(worst, limit)
    drawn = _bars([None if seconds is None else seconds / top for seconds in behind])
    told = f"Freshness, the longest that it was behind the index by day: at most {span(worst)}"
    if worst:
        told += ", on "
    first = last - len(behind) + 1
    return Plot(
        "Time behind the index by day", span(top), drawn, "limit", f"M0 {GROUND - 60 * limit / top:.4g}h600",
        told, (first + at) * DAY if worst else None, f"; beyond {span(limit)} (dashed) it is stale.",
        _day(first), _day(last),
    )  # fmt: skip


def _day(at: int) -> str:
    return rfc3339(at * DAY)[:10]


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


# By grade, how a day of the strip is drawn: its height says what its colour does.
_STROKES = {
    grade: [f"M{3 * at} 16V{top}" for at in range(DAYS_KEPT)]
    for grade, top in (("well", 1), ("fair", 6), ("poor", 11))
}


def strip(shares: list[float | None]) -> list[tuple[str, str]]:
    """Thirty days of three units each on a ground of 90 by 16, today last: by grade a path. The words beside it and the
    mirror's page say the same."""
    strokes: dict[str, list[str]] = {}
    for at, share in enumerate(shares, DAYS_KEPT - len(shares)):
        if share is not None:
            grade = "well" if share >= 0.999 else "fair" if share >= 0.95 else "poor"
            strokes.setdefault(grade, []).append(_STROKES[grade][at])
    return [(grade, "".join(parts)) for grade, parts in strokes.items()]
