"""A mirror's days count from its first listing: what was measured while it was being made is not held against it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..common.config import bounded

DAY = 86400
DAYS_KEPT = 30


@dataclass(frozen=True)
class FirstDay:
    """The day of a first listing: what was measured of it by then, and the share of good rounds since."""

    day: int
    rounds: int = bounded(0)
    good: int = bounded(0)
    share: float | None = bounded(0, 1, default=None)


def first_day(
    known: FirstDay | None, joined: int | None, at: int, sums: Mapping[str, int] | None
) -> FirstDay | None:
    """What is to be remembered, by the sums of the day that a monitor told of `at`; None when nothing is."""
    if joined is None or joined // DAY <= at // DAY - DAYS_KEPT:
        return None
    day = joined // DAY
    if known and known.day != day:  # it was retired, and has joined anew
        known = None
    if day != at // DAY or sums is None:
        return known
    if known is None:
        return FirstDay(day, sums["rounds"], sums["good"])
    if (rounds := sums["rounds"] - known.rounds) <= 0:
        return known
    return replace(known, share=min(max((sums["good"] - known.good) / rounds, 0.0), 1.0))


def counted(row: Sequence[Any], last: int, joined: int | None, first: FirstDay | None = None) -> list[Any]:
    """A row of days, `last` the day of its last: None for those before the first listing, whose own day is as `first`
    has it."""
    if joined is None:
        return [None] * len(row)
    day = joined // DAY
    share = first.share if first and first.day == day else None
    start = last - len(row) + 1
    return [one if start + at > day else share if start + at == day else None for at, one in enumerate(row)]
