"""A mirror's days count from its first listing: what was measured before is not held against it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from site_material import DAY, Site

from mirrorfleet.fleet.availability import FirstDay, counted, first_day
from mirrorfleet.monitor.reference import Reference
from mirrorfleet.monitor.settings import ReferenceSettings
from mirrorfleet.monitor.track import Found, Track
from mirrorfleet.site import plots

TODAY = 20_000
NOON = TODAY * DAY + DAY // 2


@pytest.mark.parametrize(
    ("joined", "first", "told"),
    [
        (None, None, [None, None, None, None]),
        (NOON - 9 * DAY, None, [0.1, 0.2, 0.3, 0.4]),
        (NOON - 2 * DAY, None, [None, None, 0.3, 0.4]),
        (NOON - 2 * DAY, FirstDay(TODAY - 2, 5, 0, 0.9), [None, 0.9, 0.3, 0.4]),
        (NOON - 2 * DAY, FirstDay(TODAY - 7, 5, 0, 0.9), [None, None, 0.3, 0.4]),  # of another listing
        (NOON, FirstDay(TODAY, 5, 0, 1.0), [None, None, None, 1.0]),
        (NOON, FirstDay(TODAY, 5, 0), [None, None, None, None]),
    ],
)
def test_days_count_from_the_first_listing(
    joined: int | None, first: FirstDay | None, told: list[Any]
) -> None:
    assert counted([0.1, 0.2, 0.3, 0.4], TODAY, joined, first) == told


def test_the_first_day_is_what_came_after_the_listing() -> None:
    def sums(rounds: int, good: int) -> dict[str, int]:
        return {"rounds": rounds, "good": good}

    known = first_day(None, NOON, NOON, sums(60, 5))
    assert known == FirstDay(TODAY, 60, 5)
    known = first_day(known, NOON, NOON + 60, sums(60, 5))
    assert known == FirstDay(TODAY, 60, 5)
    known = first_day(known, NOON, NOON + 600, sums(70, 14))
    assert known == FirstDay(TODAY, 60, 5, 0.9)
    assert first_day(known, NOON, NOON + DAY, sums(900, 0)) == known  # the next day is no longer the first
    assert first_day(known, NOON, NOON + 31 * DAY, sums(900, 0)) is None
    assert first_day(known, NOON + 3 * DAY, NOON + 3 * DAY, sums(9, 9)) == FirstDay(TODAY + 3, 9, 9)
    assert first_day(None, NOON, NOON + DAY, sums(9, 9)) is None  # what it was that day is not known
    assert first_day(None, NOON, NOON, None) is None  # a monitor of before


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), max_size=20))
def test_a_share_is_a_share_whatever_a_monitor_tells(told: list[tuple[int, int]]) -> None:
    known = None
    for rounds, good in told:
        known = first_day(known, NOON, NOON, {"rounds": rounds, "good": good})
        assert known and (known.share is None or 0 <= known.share <= 1)


def test_a_monitor_tells_the_sums_of_the_day() -> None:
    track, reference = Track(), Reference(ReferenceSettings("https://index.example.org/simple/", ("demo",)))
    failed = {"check": "connection", "problem": "refused", "family": "ipv4"}
    for at, failure in ((NOON - DAY, None), (NOON, failed), (NOON + 60, None)):
        track.add({"ipv4": Found(failure=failure)}, reference, 0.1, at, 86400)
    assert track.today(NOON + 90) == {"rounds": 2, "good": 1}
    assert track.today(NOON + DAY) == {"rounds": 0, "good": 0}
    assert Track().today(NOON) == {"rounds": 0, "good": 0}


def available(site: Site) -> list[float | None]:
    return [one["availability"] for one in json.loads(site.read("mirrors.json"))["mirrors"]]


def test_what_was_measured_while_it_was_made_does_not_count(tmp_path: Path) -> None:
    """Two mirrors that failed for half the day before they were listed, one of which fails once more afterwards."""
    site = Site(tmp_path)
    for one in site.health["mirrors"].values():
        one |= {"days": [0.0, 0.5], "today": {"rounds": 100, "good": 50}}
    assert site.publish() == 0
    assert available(site) == [None, None]
    assert "Nothing was measured yet" in site.read("mirror/one.html")
    for name, good in (("one", 59), ("two", 60)):
        site.health["mirrors"][name] |= {"days": [0.0, 0.54], "today": {"rounds": 110, "good": good}}
    assert site.publish() == 0
    assert available(site) == [0.9, 1.0]
    assert "counted from" in site.read("mirror/one.html")
    site.listed_for(days=40)
    assert site.publish() == 0
    assert available(site) == [0.27, 0.27]
    assert "counted from" not in site.read("mirror/one.html")


def test_one_that_was_never_listed_has_no_availability(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.health["mirrors"]["one"] |= {"good": 0, "bad": 9, "problem": "refused"}
    site.health["mirrors"]["one"]["days"] = [1.0] * 30
    assert site.publish() == 0
    assert available(site)[0] is None
    page = site.read("mirror/one.html")
    assert "count from the first on which it is listed" in page
    assert "svg" not in page.split("<h2>Thirty days</h2>")[1].split("<h2>")[0]


def test_the_strip_has_a_bar_for_each_day_that_counts() -> None:
    assert plots.strip([]) == []
    assert plots.strip([None, 1.0, 0.999, 0.998, 0.949, None, 0.95, 0.0]) == [
        ("well", "M69 16V1M72 16V1"),
        ("fair", "M75 16V6M84 16V6"),
        ("poor", "M78 16V11M87 16V11"),
    ]


def test_the_strip_is_on_the_page(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.publish()
    site.listed_for(days=40)
    site.publish()
    paths = re.findall(r'<path class="(well|fair|poor)" d="([^"]*)"/>', site.read("index.html"))
    assert paths == [("well", "M78 16V1M87 16V1"), ("poor", "M81 16V11")] * 2
