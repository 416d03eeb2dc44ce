"""Timers spread over a fleet."""

from __future__ import annotations

import re
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from fleet_systemd import FilterModule

SPREAD = FilterModule().filters()["systemd_calendar_spread"]
CONFINED = FilterModule().filters()["systemd_sandbox"]


def offset(calendar: str) -> int:
    """Seconds into its period at which a calendar expression first fires."""
    matched = re.fullmatch(r"\*-\*-\* (\*|[0-9]{2}(?:/[0-9]+)?):([0-9]{2})(?:/[0-9]+)?:([0-9]{2})", calendar)
    assert matched, calendar
    hour = 0 if matched[1] == "*" else int(matched[1][:2])
    return hour * 3600 + int(matched[2]) * 60 + int(matched[3])


@pytest.mark.parametrize("minutes", [1, 2, 5, 10, 15, 30, 60, 120, 360, 720, 1440])
def test_a_hundred_hosts_are_spread_over_the_whole_period(minutes: int) -> None:
    offsets = [offset(SPREAD(f"mirror{n}", minutes)) for n in range(100)]
    assert all(0 <= seconds < minutes * 60 for seconds in offsets)
    quarters = {seconds * 4 // (minutes * 60) for seconds in offsets}
    assert quarters == {0, 1, 2, 3}


def test_a_host_keeps_its_time_and_has_others_for_other_purposes() -> None:
    assert SPREAD("mirror1") == "*-*-* *:07/10:34"
    assert SPREAD("mirror1", 1440) == "*-*-* 23:07:34"
    assert len({SPREAD("mirror1", 1440, purpose) for purpose in ("", "sync", "check")}) == 3


@pytest.mark.parametrize(
    ("minutes", "form"),
    [
        (10, r"\*-\*-\* \*:0[0-9]/10:[0-5][0-9]"),
        (60, r"\*-\*-\* 00/1:[0-5][0-9]:[0-5][0-9]"),
        (360, r"\*-\*-\* 0[0-5]/6:[0-5][0-9]:[0-5][0-9]"),
        (1440, r"\*-\*-\* [0-2][0-9]:[0-5][0-9]:[0-5][0-9]"),
    ],
)
def test_form(minutes: int, form: str) -> None:
    assert re.fullmatch(form, SPREAD("mirror1", minutes))


@pytest.mark.parametrize("minutes", [0, -1, 7, 59, 61, 90, 300, 1441, "10", True, None, 2.5])
def test_periods_that_do_not_come_out_even(minutes: Any) -> None:
    with pytest.raises(AnsibleFilterError, match="allowed"):
        SPREAD("mirror1", minutes)


@pytest.mark.parametrize("host", ["", "a\nb", None, 5])
def test_hosts_without_a_name(host: Any) -> None:
    with pytest.raises(AnsibleFilterError):
        SPREAD(host)


def test_a_service_is_confined_and_says_what_differs() -> None:
    lines = CONFINED(
        {"ReadWritePaths": ["/a", "/b"], "RemoveIPC": None, "SystemCallFilter": "@system-service"}
    ).splitlines()
    assert {
        "ReadWritePaths=/a",
        "ReadWritePaths=/b",
        "ProtectSystem=strict",
        "CapabilityBoundingSet=",
    } <= set(lines)
    assert [line for line in lines if line.startswith("SystemCallFilter=")] == [
        "SystemCallFilter=@system-service"
    ]
    assert not any(line.startswith("RemoveIPC") for line in lines)


@pytest.mark.parametrize(
    "differs", [[], "x", {"A B": "x"}, {"User": "x\ny"}, {"User": 5}, {"User": ["a", None]}, {"User": "x\\"}]
)
def test_what_is_no_setting_is_told(differs: Any) -> None:
    with pytest.raises(AnsibleFilterError):
        CONFINED(differs)
