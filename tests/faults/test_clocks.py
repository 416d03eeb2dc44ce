"""Clocks that were ahead by years, and came back: nothing waits for the time that was wrong."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from faults.fleet import Host, Mirror, Origin, Site, Tier2

from mirrorfleet.served.state import State
from mirrorfleet.sync import bandersnatch

YEARS = 3 * 365 * 86400.0
Set = Callable[[float], None]


@pytest.fixture
def ahead(monkeypatch: pytest.MonkeyPatch) -> Set:
    """Set the clock ahead by so many seconds of what it is."""
    really = time.time

    def set_to(seconds: float) -> None:
        monkeypatch.setattr(time, "time", lambda: really() + seconds)

    return set_to


def noted(host: Host, key: str) -> Any:
    with State(host.state / "mirrorfleet.sqlite") as state:
        return state.get(key)


def test_the_rolling_check_goes_on_and_reads_no_more_than_a_days_share(origin: Origin, ahead: Set) -> None:
    origin.configure(check_share_per_day=0.5)
    origin.publish()
    ahead(YEARS)
    assert origin.run("sync")["checked"] == 6  # of twelve
    ahead(0)
    assert origin.run("sync")["checked"] == 0
    ahead(12 * 3600.0 + 60)
    assert origin.run("sync")["checked"] == 3


def test_the_sweep_goes_on(origin: Origin, ahead: Set) -> None:
    ahead(YEARS)
    origin.publish()
    ahead(0)
    origin.publish()
    orphan = origin.served / "packages/00/orphan.whl"
    orphan.parent.mkdir(parents=True)
    orphan.write_bytes(b"nobody names it")
    ahead(31 * 86400.0)
    origin.publish()
    assert not orphan.exists()


def test_full_passes_go_on(tier2: Tier2, ahead: Set) -> None:
    ahead(YEARS)
    tier2.run("sync")
    ahead(0)
    tier2.run("sync")
    assert "full pass" in tier2.log
    tier2.run("sync")
    assert "full pass" not in tier2.log
    ahead(8 * 86400.0)
    tier2.run("sync")
    assert "full pass" in tier2.log


def test_what_is_set_aside_is_tried_again(origin: Origin, site: Site, mirror: Mirror, ahead: Set) -> None:
    mirror.configure(tries_before_set_aside=1)
    mirror.run("sync")
    origin.release("alpha", "3.0")
    origin.publish()
    site.faults({r"alpha-3\.0\.tar\.gz$": 404})
    ahead(YEARS)
    mirror.run("sync")
    assert mirror.status()["set_aside"] == ["alpha"]
    site.faults({})
    ahead(0)
    mirror.run("sync")
    assert mirror.status()["set_aside"] == []
    assert "alpha-3.0.tar.gz" in mirror.files("alpha")


def test_what_is_to_be_asked_again_is(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bandersnatch, "_SAMPLE", 0)  # which would find it by chance
    mirror.run("sync")
    with State(mirror.state / "mirrorfleet.sqlite") as state, state.transaction():
        state.see("alpha", replace(state.seen()["alpha"], again_after=time.time() + YEARS, tries=3))
    mirror.run("sync")
    with State(mirror.state / "mirrorfleet.sqlite") as state:
        assert state.seen()["alpha"].again_after is None


def test_serials_that_told_nothing_are_distrusted_for_a_week_of_the_right_time(
    mirror: Mirror, ahead: Set
) -> None:
    mirror.run("sync")
    with State(mirror.state / "mirrorfleet.sqlite") as state:
        state.put("serials_distrusted", time.time() + YEARS)
    mirror.run("sync")
    assert noted(mirror, "compared_by_page") == 3
    ahead(6 * 86400.0)
    mirror.run("sync")
    assert noted(mirror, "compared_by_page") == 3
    ahead(8 * 86400.0)
    mirror.run("sync")
    assert noted(mirror, "compared_by_page") == 0
