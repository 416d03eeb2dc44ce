"""Who is listed: a table of cases, and properties over random histories."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from listing_material import NOW, broken, record, registry

from mirrorfleet.common.config import ConfigError
from mirrorfleet.fleet.registry import Registry, load, parse
from mirrorfleet.fleet.standing import (
    MEASURED,
    Audit,
    Health,
    Inputs,
    Monitor,
    Outcome,
    Passed,
    Rounds,
    Settings,
    Standing,
    damping,
    step,
)

ONE_SHOT = Settings(fall=1, rise=1, damping_seconds=0, audit_required=False)
STRICT = Settings(fall=3, rise=5, damping_seconds=1800)


def health(**changes: Any) -> Health:
    return replace(Health(NOW - 5, good=9, last_modified=NOW - 60, serial=12), **changes)


def bad(rounds: int, **changes: Any) -> Health:
    return health(good=0, bad=rounds, problem="connection over ipv6: connection refused", **changes)


LISTED = Standing(True, "listed", "", NOW - 10**6, joined=NOW - 10**6)
AUDITED = Audit(passed_at=NOW - 100)


def asked(
    of: Registry,
    seen: dict[str, Health],
    audits: dict[str, Audit],
    holds: dict[str, str],
    monitor: Monitor | None,
    rules: Settings,
    now: int,
) -> Inputs:
    """What one monitor found, or nothing where there is none."""
    monitors = [replace(monitor, health=seen, audits=audits)] if monitor else []
    return Inputs(of, monitors, holds, rules, now)


def run(
    seen: dict[str, Health],
    former: dict[str, Standing] | None = None,
    *,
    audits: dict[str, Audit] | None = None,
    holds: dict[str, str] | None = None,
    rules: Settings = STRICT,
    monitor: Monitor | None = None,
    now: int = NOW,
    force: bool = False,
    **changes: Any,
) -> Outcome:
    """What becomes of mirrors of which the first has a record that is changed so."""
    of = registry(*seen, **changes)
    inputs = asked(parse(of, "test"), seen, audits or {}, holds or {}, monitor or Monitor(now), rules, now)
    return step(inputs, former or {}, force=force)


def one(*args: Any, **options: Any) -> Standing:
    return run(*args, **options).standings["one"]


def test_a_good_mirror_is_listed_after_an_audit() -> None:
    found = run({"one": health()}, audits={"one": AUDITED})
    alone = Standing(True, "listed", "", NOW, joined=NOW)
    assert found.standings["one"] == replace(alone, families={"ipv4": alone, "ipv6": alone})
    assert [(event.kind, event.mirror) for event in found.events] == [("joined", "one")]
    assert one({"one": health()}).code == "audit"
    assert one({"one": health()}, rules=ONE_SHOT).listed


@pytest.mark.parametrize(
    ("changes", "seen", "code", "reason"),
    [
        ({"state": "drained"}, health(), "drained", "drained by its operator"),
        ({"agreement": {"version": "2020-01", "accepted_on": "2020-01-01", "expires_on": None}}, health(), "agreement",
         "its agreement is not the fleet's current one"),
        ({"agreement": {"version": "2026-11", "accepted_on": "2020-01-01", "expires_on": "2027-01-14"}}, health(),
         "agreement", "its agreement is not the fleet's current one"),
        ({"bandwidth": 0}, health(), "invalid", "its record is not valid: record.bandwidth is 0, expected at least 1"),
        ({}, bad(3), "failing", "connection over ipv6: connection refused"),
        ({}, health(measured_at=NOW - 901), "silent", "not measured for 15 minutes"),
        ({}, health(last_modified=NOW - 86401), "stale", "stale: last synced 24 hours ago"),
        ({}, health(last_modified=NOW - 3 * 86400), "stale", "stale: last synced 3 days ago"),
        ({}, health(last_modified=NOW + 301), "stale", "claims to be fresh as of 5 minutes from now"),
        ({}, health(last_modified=None), "stale", "does not say how fresh it is (/last-modified)"),
        ({}, health(lag=90_000), "stale", "stale: lacks what the reference has had for 25 hours"),
        ({}, health(tampered_at=NOW - 50), "tampered", "served a file with a wrong hash at 2027-01-15 07:59 UTC"),
    ],
)  # fmt: skip
def test_why_a_mirror_leaves(changes: dict[str, Any], seen: Health, code: str, reason: str) -> None:
    former = {"one": LISTED, "two": LISTED}
    found = run({"one": seen, "two": health()}, former, audits={"one": AUDITED}, **changes)
    first = found.standings["one"]
    assert (first.listed, first.code, first.reason) == (False, code, reason)
    assert first.left == (seen.measured_at if code in MEASURED else None)
    assert [(event.kind, event.reason) for event in found.events] == [("left", reason)]
    assert found.standings["two"].listed


@pytest.mark.parametrize(
    ("problem", "told"),
    [
        ("mirror_bandwidth is text ('fast')", "mirror_bandwidth is text ('fast')"),
        ("mirror_url:\nlisted\x1b[2J\u202e", "mirror_url: listed [2J"),
        ("<b>" + "x" * 10**6, "<b>" + "x" * 197),
        ("", "no reason given"),
        (" \n", "no reason given"),
        (["fast"], "record.problem is ['fast'], expected string"),
        (None, "record.problem is None, expected string"),
    ],
)
def test_a_record_that_the_inventory_has_wrong_says_so(problem: Any, told: str) -> None:
    of = registry("one", "two")
    of["mirrors"][0] = broken("one", problem)
    known = parse(of, "test")
    assert known.wrong == {"one": told}
    seen, former = {"one": health(), "two": health()}, {"one": LISTED, "two": LISTED}
    found = step(asked(known, seen, {"one": AUDITED}, {}, Monitor(NOW), STRICT, NOW), former).standings
    assert (found["one"].listed, found["one"].code) == (False, "invalid")
    assert found["one"].reason == f"its record is not valid: {told}"
    assert found["two"].listed


def test_a_value_that_can_be_read_and_not_be_written_costs_one_mirror(tmp_path: Path) -> None:
    """The deepest that Python reads is a little deeper than what it writes: each depth around is tried."""
    file, text = tmp_path / "registry.json", json.dumps(registry("one", "two"))
    refused = 0
    for depth in (*range(900, 1000), 9_000, 100_000):
        file.write_text(text.replace('"networks": []', f'"networks": {"[" * depth}{"]" * depth}', 1))
        try:
            wrong = load(file).wrong
        except ConfigError as error:
            refused += 1
            assert "not JSON: maximum recursion depth" in str(error)
        else:
            assert wrong.keys() == {"one"} and len(wrong["one"]) < 150
    assert refused


def test_of_two_entries_of_a_name_neither_counts() -> None:
    of = registry("one", "two")
    of["mirrors"].append(broken("one"))
    assert parse(of, "test").wrong == {"one": "the registry has several records of that name"}


@pytest.mark.parametrize(
    ("changes", "seen"),
    [
        ({}, bad(2)),
        ({}, health(measured_at=NOW - 900)),
        ({}, health(last_modified=NOW - 86400)),
        ({}, health(last_modified=NOW + 300)),
        ({}, health(lag=86400)),
        ({"mode": "cache"}, health(last_modified=None, serial=None)),
        (
            {"agreement": {"version": "2026-11", "accepted_on": "2026-01-01", "expires_on": "2027-01-15"}},
            health(),
        ),
    ],
)
def test_what_is_just_good_enough(changes: dict[str, Any], seen: Health) -> None:
    assert one({"one": seen}, {"one": LISTED}, **changes).listed


def test_what_happens_next_is_told() -> None:
    assert one({"one": bad(2)}, {"one": LISTED}).next == "leaves when 1 more rounds fail"
    left = Standing(False, "failing", "x", NOW - 60, left=NOW - 60, leaves=(NOW - 60,), joined=1)
    assert one({"one": health(good=2)}, {"one": left}).next == "needs 3 more"
    assert one({"one": health()}, {"one": left}).next == "returns at 2027-01-15 08:29 UTC at the earliest"
    gone = replace(left, left=NOW - 3600, leaves=(NOW - 3600,))
    failed = Audit(problem="PEP 691: no JSON")
    waits = one({"one": health()}, {"one": gone}, audits={"one": failed})
    assert (waits.reason, waits.next) == (
        "awaits an audit; the last one: PEP 691: no JSON",
        "is listed when an audit passes",
    )
    assert one({"one": health()}, {"one": gone}, audits={"one": Audit(passed_at=NOW - 3600)}).listed


def test_a_hold_counts_at_once_and_ends_at_once() -> None:
    both = {"one": health(), "two": health()}
    held = run(both, {"one": LISTED, "two": LISTED}, holds={"one": "being updated"})
    assert held.standings["one"].reason == "held: being updated"
    released = run(both, held.standings)
    assert released.standings["one"].listed
    assert [event.kind for event in released.events] == ["returned"]


def test_who_fails_its_audits_leaves_though_its_rounds_are_good() -> None:
    def seen(audit: Audit, before: Standing = LISTED) -> Standing:
        return run(
            {"one": health(), "two": health()}, {"one": before, "two": LISTED}, audits={"one": audit}
        ).standings["one"]

    assert seen(Audit(passed_at=NOW - 9000, problem="lacks files", failures=1)).listed
    failed = seen(Audit(passed_at=NOW - 9000, problem="lacks files", failures=2))
    assert (failed.code, failed.reason, failed.left) == (
        "audit",
        "failed 2 audits: lacks files",
        health().measured_at,
    )
    failed = replace(failed, left=NOW - 3600, families={})
    again = seen(Audit(passed_at=NOW - 9000, problem="lacks files", failures=3), failed)
    assert again.code == "audit"
    assert seen(Audit(passed_at=NOW - 100), failed).listed


def test_after_a_pause_of_the_monitor_nobody_was_silent_who_is_listed() -> None:
    """What it measured before it paused is old; that is no mirror's fault."""
    old, started = health(measured_at=NOW - 5000), Monitor(NOW, started=NOW - 800)
    assert run({"one": old}, {"one": LISTED}, monitor=started).standings["one"].listed
    assert run({"one": old}, {}, monitor=started).standings["one"].code == "silent"
    longer = Monitor(NOW, started=NOW - 901)
    assert (
        run({"one": old, "two": health()}, {"one": LISTED, "two": LISTED}, monitor=longer)
        .standings["one"]
        .code
        == "silent"
    )


OTHERS = ("two", "three", "four")  # for a list that would lose too many at once is refused


def test_while_a_monitor_falls_silent_nobody_leaves_before_it_does() -> None:
    """A mirror's last round is older than the monitor's last report."""
    former = dict.fromkeys(("one", *OTHERS), LISTED)
    for age in range(840, 920):
        at = NOW - age
        seen = {"one": health(measured_at=at - 59)} | dict.fromkeys(OTHERS, health(measured_at=at))
        found = run(seen, former, monitor=Monitor(at, started=at - 9000))
        assert found.standings["one"].listed, age
        assert bool(found.cut_off) is (age > 900)


def test_who_returned_after_a_wrong_hash_stays_when_nobody_can_tell_of_its_audit() -> None:
    returned = replace(LISTED, tampered={"": NOW - 5000})
    former = dict.fromkeys(OTHERS, LISTED)
    gone = asked(parse(registry("one", *OTHERS), "test"), {}, {}, {}, None, STRICT, NOW)
    assert step(gone, former | {"one": returned}).standings["one"].listed
    off = replace(returned, listed=False, code="tampered")
    assert step(gone, former | {"one": off}).standings["one"].code == "tampered"
    # Another wrong hash is another matter.
    seen = {"one": health(tampered_at=NOW - 9)} | dict.fromkeys(OTHERS, health())
    again = run(seen, former | {"one": returned}, audits=dict.fromkeys(seen, AUDITED))
    assert again.standings["one"].code == "tampered"


def test_a_clock_that_was_ahead_and_came_back_keeps_nobody_off_the_list() -> None:
    """Whatever was noted while it was: a wrong hash, leaves, the pause after them."""
    years = NOW + 3 * 365 * 86400
    off = Standing(
        False, "tampered", "x", years, left=years, leaves=(NOW - 9, years), tampered={"": years}, joined=years
    )
    former = {"one": replace(off, families={"ipv4": off, "ipv6": off})}
    found = one({"one": health()}, former, audits={"one": AUDITED})
    assert (found.listed, found.joined, found.since) == (True, NOW, NOW)
    assert found.families["ipv4"].leaves == (NOW - 9,)
    # What the monitor, whose clock is right, says of a wrong hash counts.
    again = one({"one": health(tampered_at=NOW - 50)}, former, audits={"one": AUDITED})
    assert (again.listed, again.code, again.tampered) == (False, "tampered", {"": NOW - 50})


def test_a_pause_doubles_with_each_leave_and_is_bounded() -> None:
    left = replace(LISTED, leaves=(1, 2, 3))
    assert damping(left, STRICT) == 4 * 1800
    assert damping(replace(LISTED, leaves=tuple(range(60))), STRICT) == 86400
    assert damping(LISTED, STRICT) == 1800


@pytest.mark.parametrize(
    ("monitor", "words"),
    [
        (Monitor(NOW - 901), "the monitor has been silent for 15 minutes"),
        (Monitor(NOW, "no answer in time"), "the monitor cannot reach the reference: no answer in time"),
        (Monitor(NOW), "3 of 4 listed mirrors fail at once"),
    ],
)
def test_a_monitor_that_is_cut_off_changes_nothing_and_says_so(monitor: Monitor, words: str) -> None:
    names = ["one", "two", "three", "four"]
    seen = dict.fromkeys(names[:3], bad(9)) | {"four": health()}
    former = dict.fromkeys(names, LISTED)
    found = run(seen, former, monitor=monitor)
    assert words in found.cut_off
    assert all(standing.listed for standing in found.standings.values())
    assert run(seen, former, monitor=monitor, force=True).standings["one"].code == "failing"
    # What a person decided counts all the same.
    assert not run(seen, former, monitor=monitor, state="drained").standings["one"].listed


def test_a_list_is_not_emptied_and_loses_no_more_than_a_share() -> None:
    gone = run({"one": bad(9), "two": bad(9)}, {"one": LISTED, "two": LISTED})
    assert gone.refused.startswith("the list would become empty, it has 2 mirrors (one: connection over ipv6")
    assert gone.standings == {"one": LISTED, "two": LISTED}
    names = [f"m{n}" for n in range(20)]
    seen = {name: bad(9) if n < 7 else health() for n, name in enumerate(names)}
    former = dict.fromkeys(names, LISTED)
    assert run(seen, former).refused.startswith(
        "7 of 20 mirrors would leave at once, allowed is a share of 0.3"
    )
    assert not run(seen | {"m6": health()}, former).refused
    assert not run(seen, former, force=True).refused
    # A registry that lost most of its records is a mistake, too.
    few = step(asked(parse(registry("m0"), "x"), {"m0": health()}, {}, {}, Monitor(NOW), STRICT, NOW), former)
    assert "19 of 20 mirrors would leave" in few.refused
    # Mirrors that forge are not protected by how many they are.
    forged = {name: health(tampered_at=NOW) if n < 7 else health() for n, name in enumerate(names)}
    assert sum(not one.listed for one in run(forged, former).standings.values()) == 7


def test_a_record_of_a_name_that_is_there_twice_is_not_listed() -> None:
    of = registry("one", "two")
    of["mirrors"].append(record("one"))
    inputs = asked(parse(of, "x"), {"one": health(), "two": health()}, {}, {}, Monitor(NOW), ONE_SHOT, NOW)
    found = step(inputs, {}).standings
    assert (found["one"].code, found["two"].code) == ("invalid", "listed")


# --- by address family ---

WELL, REFUSED = Rounds(good=9), "connection over ipv6: connection refused"


def lame(rounds: int = 9, **changes: Any) -> Health:
    """Well over IPv4, and failing over IPv6 for so many rounds."""
    return bad(rounds, families={"ipv4": WELL, "ipv6": Rounds(bad=rounds, problem=REFUSED)}, **changes)


def test_a_family_that_fails_is_withdrawn_and_the_mirror_stays_for_the_other() -> None:
    whole = run({"one": health()}, audits={"one": AUDITED}).standings
    found = run({"one": lame(2)}, whole)
    assert found.standings["one"].listed_families == ["ipv4", "ipv6"]
    assert found.standings["one"].next == "loses IPv6, which leaves when 1 more rounds fail"
    found = run({"one": lame(3)}, whole)
    first = found.standings["one"]
    assert (first.listed, first.code, first.reason, first.next, first.since) == (True, "listed", "", "", NOW)
    assert (first.listed_families, first.families["ipv6"].code) == (["ipv4"], "failing")
    assert (first.families["ipv6"].reason, first.families["ipv6"].left) == (REFUSED, NOW - 5)
    assert [(one.subject, one.kind, one.reason) for one in found.events] == [
        ("one over IPv6", "left", REFUSED)
    ]
    again = run({"one": lame(4)}, found.standings, now=NOW + 60)
    assert (again.standings, again.events) == (found.standings, [])
    # The other family follows, and the mirror leaves, though the list may lose no more than its others.
    both = {
        "one": bad(3, families={"ipv4": Rounds(bad=3, problem="x"), "ipv6": Rounds(bad=9, problem=REFUSED)})
    }
    last = run(both | dict.fromkeys(OTHERS, health()), found.standings | dict.fromkeys(OTHERS, LISTED))
    assert (last.standings["one"].listed, last.standings["one"].code) == (False, "failing")
    assert [(one.subject, one.kind) for one in last.events] == [("one", "left")]
    # It returns by the family that is well first.
    well = {"one": lame(20)} | dict.fromkeys(OTHERS, health())
    late = Audit(families={"ipv4": Passed(passed_at=NOW), "ipv6": Passed(problem="x", failures=3)})
    back = run(well, last.standings, audits={"one": late}, rules=replace(STRICT, damping_seconds=0))
    assert back.standings["one"].listed_families == ["ipv4"]
    assert [(one.subject, one.kind) for one in back.events] == [("one", "returned")]


def test_who_is_new_joins_for_the_family_that_is_well() -> None:
    for audit, code in ((AUDITED, "listed"), (Audit(families={"ipv6": Passed(passed_at=NOW)}), "audit")):
        found = one({"one": lame()}, audits={"one": audit})
        assert (found.code, found.families["ipv6"].code) == (code, "failing")
    assert one({"one": lame()}, address_families=["ipv6"]).code == "failing"


def test_an_audit_that_fails_in_one_family_costs_that_family() -> None:
    fine, failed = Passed(passed_at=NOW - 50), Passed(passed_at=NOW - 9000, problem="no range", failures=2)
    both = Audit(problem="no range", failures=2, families={"ipv4": fine, "ipv6": failed})
    first = one({"one": health()}, {"one": LISTED}, audits={"one": both})
    assert (first.listed_families, first.families["ipv6"].code) == (["ipv4"], "audit")
    assert first.families["ipv6"].reason == "failed 2 audits: no range"


def test_a_wrong_hash_counts_in_every_family_and_so_does_the_audit_that_found_none() -> None:
    seen = lame(tampered_at=NOW - 50)
    three = dict.fromkeys(OTHERS, health())
    former = dict.fromkeys(("one", *OTHERS), LISTED)
    off = run({"one": seen} | three, former).standings
    assert {one.code for one in off["one"].families.values()} == {"tampered"}
    cleared = Audit(families={"ipv4": Passed(passed_at=NOW), "ipv6": Passed(failures=9, problem="x")})
    back = run({"one": seen} | three, off, audits={"one": cleared}, rules=replace(STRICT, damping_seconds=0))
    assert back.standings["one"].listed_families == ["ipv4"]
    assert back.standings["one"].families["ipv6"].code == "failing"


def test_a_mirror_that_is_stale_is_so_in_every_family() -> None:
    first = run(
        {"one": lame(1, last_modified=NOW - 3 * 86400)} | dict.fromkeys(OTHERS, health()),
        dict.fromkeys(("one", *OTHERS), LISTED),
    ).standings["one"]
    assert (first.listed, {one.code for one in first.families.values()}) == (False, {"stale"})


def test_a_monitor_that_lost_ipv6_takes_it_from_nobody() -> None:
    names = ("one", "two", "three", "four")
    former = run(dict.fromkeys(names, health()), audits=dict.fromkeys(names, AUDITED)).standings
    found = run(dict.fromkeys(names, lame()), former)
    assert found.cut_off == (
        "4 of 4 listed mirrors fail at once over IPv6: the monitor is held to be cut off itself"
    )
    assert found.standings == former
    assert not run(dict.fromkeys(names, lame()), former, force=True).standings["one"].families["ipv6"].listed
    # Over IPv4 everything goes on, and nobody stays for a family of which nothing is known.
    dead = bad(9, families=dict.fromkeys(("ipv4", "ipv6"), Rounds(bad=9, problem="x")))
    seen = dict.fromkeys(names, lame()) | {"one": dead}
    left = run(seen, former)
    assert [(event.subject, event.kind) for event in left.events] == [("one", "left")]
    assert run(seen, left.standings).standings == left.standings
    # Mirrors that fail altogether say nothing of the way over IPv6.
    many = [f"m{n}" for n in range(8)]
    of = registry(*many)
    for mirror in of["mirrors"][3:]:
        mirror["address_families"] = ["ipv4"]
    known, seen, audits = parse(of, "x"), dict.fromkeys(many, health()), dict.fromkeys(many, AUDITED)
    well = step(asked(known, seen, audits, {}, Monitor(NOW), STRICT, NOW), {}).standings
    seen |= dict.fromkeys(many[:2], dead)
    few = step(asked(known, seen, audits, {}, Monitor(NOW), STRICT, NOW), well)
    assert (few.cut_off, few.standings["m0"].listed) == ("", False)


def test_of_few_mirrors_with_ipv6_not_all_lose_it_at_once() -> None:
    with_ipv6 = {name: lame() for name in ("one", "two")}
    of = registry("one", "two", *OTHERS[1:])
    for mirror in of["mirrors"][2:]:
        mirror["address_families"] = ["ipv4"]
    seen = with_ipv6 | dict.fromkeys(OTHERS[1:], health())
    known, audits = parse(of, "test"), dict.fromkeys(seen, AUDITED)
    inputs = asked(known, seen, audits, {}, Monitor(NOW), STRICT, NOW)
    well = asked(known, dict.fromkeys(seen, health()), audits, {}, Monitor(NOW), STRICT, NOW)
    former = step(well, {}).standings
    found = step(inputs, former)
    assert found.cut_off.startswith("2 of 2 listed mirrors would lose IPv6 at once")
    assert (found.refused, found.standings["one"].listed_families) == ("", ["ipv4", "ipv6"])
    assert step(inputs, former, force=True).standings["one"].listed_families == ["ipv4"]
    single = step(asked(known, seen | {"two": health()}, audits, {}, Monitor(NOW), STRICT, NOW), former)
    assert (single.cut_off, single.standings["one"].listed_families) == ("", ["ipv4"])


def test_a_family_that_is_claimed_anew_has_to_prove_itself() -> None:
    before = one({"one": health()}, {"one": LISTED}, address_families=["ipv4"])
    assert before.listed_families == ["ipv4"]
    # What is known of IPv4 says nothing of IPv6, of which nothing was measured yet.
    only_ipv4 = health(families={"ipv4": WELL})
    passed = Audit(passed_at=NOW, families={"ipv4": Passed(passed_at=NOW)})
    for seen, code in ((lame(), "failing"), (only_ipv4, "returning"), (health(), "audit")):
        found = run({"one": seen}, {"one": before}, audits={"one": passed})
        assert (found.standings["one"].listed_families, found.events) == (["ipv4"], [])
        assert found.standings["one"].families["ipv6"].code == code
    joined = run({"one": health()}, {"one": before}, audits={"one": AUDITED})
    assert [(event.subject, event.kind) for event in joined.events] == [("one over IPv6", "joined")]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.booleans(), st.sampled_from([20, 60, 600, 3600])), max_size=60),
    st.integers(1, 4),
    st.integers(1, 4),
    st.sampled_from([0, 120, 1800]),
)
def test_a_family_leaves_and_returns_as_a_mirror_of_that_family_alone(
    rounds: list[tuple[bool, bool, int]], fall: int, rise: int, pause: int
) -> None:
    rules, now = Settings(fall=fall, rise=rise, damping_seconds=pause), NOW
    row, audit, of = Rounds(), Passed(), registry("both", "single", *OTHERS)
    of["mirrors"][1]["address_families"] = ["ipv6"]
    former: dict[str, Standing] = {}
    for good, audited, seconds in rounds:
        now += seconds
        row = Rounds(row.good + 1 if good else 0, 0 if good else row.bad + 1, "" if good else "x")
        audit = Passed(now, "", 0) if audited and good else audit
        whole = Health(now, row.good, row.bad, row.problem, 1, now, 0)
        seen = dict.fromkeys(OTHERS, Health(now, 99, 0, "", 1, now, 0)) | {
            "single": whole,
            "both": replace(whole, families={"ipv4": WELL, "ipv6": row}),
        }
        passed = Passed(now, "", 0)
        audits = dict.fromkeys(OTHERS, Audit(passed_at=now)) | {
            "single": Audit(passed_at=audit.passed_at),
            "both": Audit(families={"ipv4": passed, "ipv6": audit}),
        }
        inputs = asked(parse(of, "x"), seen, audits, {}, Monitor(now), rules, now)
        found = step(inputs, former)
        assert not found.refused and not found.cut_off
        former = found.standings
        one, other = former["both"].families["ipv6"], former["single"].families["ipv6"]
        assert (one.code, one.since, one.left, one.leaves) == (
            other.code,
            other.since,
            other.left,
            other.leaves,
        )
        assert former["both"].listed or WELL.good < rise


# --- properties, over histories of everything that can happen ---

NAMES = ["one", "two", "three", "four", "five"]
BROKEN = st.sampled_from(
    [{}] * 12 + [{"state": "drained"}, {"state": "retired"}, {"bandwidth": -1}, {"tier": "x"}]
)
ROUND = st.fixed_dictionaries(
    {
        "seconds": st.sampled_from([1, 60, 60, 60, 600, 3600]),
        "good": st.lists(st.booleans(), min_size=5, max_size=5),
        "stale": st.sampled_from([None] * 8 + NAMES),
        "record": BROKEN,
        "hold": st.sampled_from([None] * 8 + NAMES),
        "tamper": st.sampled_from([None] * 12 + NAMES),
        "audit": st.sampled_from([None, *NAMES]),
        "cut_off": st.sampled_from([""] * 8 + ["x"]),
        "force": st.sampled_from([False] * 8 + [True]),
        "silent": st.sampled_from([False] * 8 + [True]),
    }
)


@settings(max_examples=400, deadline=None)
@given(
    st.lists(ROUND, max_size=60),
    st.integers(1, 4),
    st.integers(1, 4),
    st.sampled_from([0, 120, 1800]),
    st.booleans(),
)
def test_what_holds_whatever_happens(
    rounds: list[dict[str, Any]], fall: int, rise: int, pause: int, audit_required: bool
) -> None:
    rules = Settings(
        fall=fall, rise=rise, damping_seconds=pause, audit_required=audit_required, drop_share=0.5
    )
    now = NOW
    former: dict[str, Standing] = {}
    seen = {name: Health(now) for name in NAMES}
    audits: dict[str, Audit] = {}
    left_at: dict[str, int] = {}
    for this in rounds:
        now += this["seconds"]
        for name, good in zip(NAMES, this["good"], strict=True):
            old = seen[name]
            seen[name] = Health(
                now, old.good + 1 if good else 0, 0 if good else old.bad + 1, "x", 1,
                now - (10**6 if this["stale"] == name else 5), 0, now if this["tamper"] == name else old.tampered_at,
            )  # fmt: skip
        if this["audit"]:
            audits[this["audit"]] = Audit(passed_at=now)
        of = parse(registry(*NAMES, **copy.deepcopy(this["record"])), "x")
        holds = {this["hold"]: "x"} if this["hold"] else {}
        monitor = Monitor(now - 10_000 if this["silent"] else now, this["cut_off"])
        inputs = asked(of, dict(seen), dict(audits), holds, monitor, rules, now)
        found = step(inputs, former, force=this["force"])
        again = step(inputs, found.standings, force=this["force"])
        listed = {name for name, standing in found.standings.items() if standing.listed}
        before = {name for name, standing in former.items() if standing.listed}

        if found.refused:
            assert found.standings == former
            assert not found.events
            continue
        assert not this["force"] or not found.cut_off
        # The same input again changes nothing.
        assert again.standings == found.standings or again.refused or again.cut_off != found.cut_off
        # No invalid, retired, drained or held record is ever listed.
        assert not ("one" in listed and this["record"])
        assert this["hold"] not in listed
        for name, standing in found.standings.items():
            assert standing.listed == (standing.code == "listed") == (not standing.reason)
            # Whoever served a wrong hash is listed only after an audit that passed since.
            tampered, passed = seen[name].tampered_at, audits.get(name, Audit()).passed_at
            assert not (standing.listed and tampered is not None and (passed is None or passed <= tampered))
        # A monitor that is cut off moves nobody for what it measured, and brings nobody back.
        if found.cut_off:
            assert listed <= before
            assert {found.standings[name].code for name in before - listed} <= {
                "invalid", "retired", "drained", "held", "tampered"
            }  # fmt: skip
        for name in listed - before:
            # Nobody returns before its pause is over, in fewer good rounds than are asked for, or without an audit.
            assert seen[name].good >= rise
            assert now - left_at.get(name, -(10**9)) >= pause
            if audit_required and (
                name in left_at or former.get(name, Standing(False, "gone", "", 0)).joined is None
            ):
                assert name in audits and audits[name].passed_at is not None
                assert audits[name].passed_at >= left_at.get(name, 0)  # type: ignore[operator]
            left_at.pop(name, None)
        for name in before - listed:
            if found.standings[name].code in MEASURED:
                left_at[name] = now
                assert seen[name].bad >= fall or found.standings[name].code in {"stale", "tampered", "silent"}
        # Nobody stays who failed often enough, unless the monitor is cut off.
        for name in listed & before:
            assert found.cut_off or seen[name].bad < fall
        # The list is not emptied but by force.
        assert listed or not before or this["force"]
        former = found.standings
