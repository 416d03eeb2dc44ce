"""The fleet in one table, and the list before and after: real renderings."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from fleet_status import FilterModule
from listing_material import NOW, broken, record

fleet_status = FilterModule().filters()["fleet_status"]
list_changes = FilterModule().filters()["list_changes"]

DAY = 86400
PINS = {"mirrorfleet": "0.1.0", "bandersnatch": {"debian-13": "8.2.0"}, "nginx": {"debian-13": "1.26.*"}}
LISTED = {"listed": True, "code": "listed", "reason": "", "since": NOW - DAY, "next": ""}
DEAD = {"status": {}, "reached": False, "problem": "connect to host 192.0.2.9 port 22: No route to host"}


def status(**changes: Any) -> dict[str, Any]:
    """What a host in order says, as the module returns it."""
    return {
        "at": NOW,
        "platform": "debian-13",
        "provisioned": True,
        "versions": {"mirrorfleet": "0.1.0", "bandersnatch": "8.2.0", "nginx": "1.26.3-3"},
        "nginx": "running",
        "certificate_expires": NOW + 60 * DAY,
        "disk": {"path": "/srv/mirror", "free": 812 * 10**9, "total": 960 * 10**9},
        "failed_units": [],
    } | changes


TREE = {"mode": "bandersnatch", "last_sync": NOW - 300, "serial": 7, "set_aside": 0}


def seen(**changes: Any) -> dict[str, Any]:
    return {
        "measured_at": NOW - 20, "good": 9, "bad": 0, "since": NOW - DAY, "last_good": NOW - 20, "problem": "",
        "serial": 7, "last_modified": NOW - 300, "lag": 0, "certificate_expires": NOW + 60 * DAY,
    } | changes  # fmt: skip


class Fleet:
    """A fleet whose every host is well, to be spoiled."""

    def __init__(self, *mirrors: str) -> None:
        self.mirrors = list(mirrors)
        self.groups: dict[str, list[str]] = {
            "mirrors": self.mirrors, "origins": ["origin"], "redirectors": ["red"], "monitors": ["mon"],
            "waiting": [], "clients": ["client"],
        }  # fmt: skip
        self.standings = {name: dict(LISTED) for name in mirrors}
        self.seen = {name: seen() for name in mirrors}
        self.holds: dict[str, Any] = {}
        self.answers: dict[str, Any] = {
            name: {"status": status(tree=dict(TREE))} for name in [*mirrors, "origin"]
        }
        self.answers["red"] = {"status": status(list=self.list(), holds=self.holds)}
        self.answers["mon"] = {"status": status(health={"at": NOW - 3, "problem": "", "mirrors": self.seen})}
        self.problems: list[dict[str, Any]] = []
        self.records: list[Any] = [record(name) for name in mirrors]

    def list(self, **changes: Any) -> dict[str, Any]:
        return {"at": NOW - 10, "refused": False, "kept": False, "mirrors": self.standings} | changes

    def told(self, **more: Any) -> tuple[dict[str, Any], list[str]]:
        registry = {"fleet": {"name": "Test fleet", "staleness_limit": DAY}, "mirrors": self.records}
        found = fleet_status(
            self.answers, self.groups, registry,
            **{"pins": PINS, "now": NOW, "hosts": list(self.answers), "problems": self.problems} | more,
        )  # fmt: skip
        json.dumps(found)
        return found["document"], found["lines"]

    def row(self, name: str, **more: Any) -> dict[str, Any]:
        return next(row for row in self.told(**more)[0]["hosts"] if row["name"] == name)


def test_a_fleet_that_is_well_is_one_table() -> None:
    document, lines = Fleet("one", "two").told()
    assert lines == [
        "Test fleet at 2027-01-15 08:00 UTC: 2 of 2 mirrors listed, nobody needs a person.",
        "",
        "name    stands      mode          tier  synced  lag  certificate  free    mirrorfleet  bandersnatch  nginx",
        "one     listed      bandersnatch  1     5 min   0 s  60 d         812 GB  0.1.0        8.2.0         1.26.3-3",
        "two     listed      bandersnatch  1     5 min   0 s  60 d         812 GB  0.1.0        8.2.0         1.26.3-3",
        "mon     monitor     -             -     -       -    60 d         812 GB  0.1.0        8.2.0         1.26.3-3",
        "origin  origin      bandersnatch  -     5 min   -    60 d         812 GB  0.1.0        8.2.0         1.26.3-3",
        "red     redirector  -             -     -       -    60 d         812 GB  0.1.0        8.2.0         1.26.3-3",
    ]
    assert (document["listed"], document["mirrors"], document["need_a_person"]) == (2, 2, 0)
    assert (document["redirector"], document["monitor"]) == ("red", "mon")
    row = document["hosts"][0]
    assert row["ssh"] == {"answers": True, "problem": "", "since": None}
    assert row["versions"]["nginx"] == "1.26.3-3" and row["why"] == [] and row["held"] is None


def test_a_dead_host_is_a_row_with_what_the_monitor_last_knew_and_comes_first() -> None:
    fleet = Fleet("one", "two")
    fleet.answers["two"] = DEAD
    document, lines = fleet.told()
    assert document["hosts"][0]["name"] == "two" and document["listed"] == 2
    assert lines[3].split() == [
        "two",
        "listed",
        "bandersnatch",
        "1",
        "5",
        "min",
        "0",
        "s",
        "60",
        "d",
        *"----",
    ]
    assert lines[4] == (
        "    no answer by SSH since 2027-01-15 08:00 UTC: connect to host 192.0.2.9 port 22: No route to host;"
        " mon saw it serve well 20 s ago"
    )
    fleet.seen["two"] |= {"good": 0, "bad": 4, "since": NOW - 600, "problem": "connection refused"}
    fleet.standings["two"]["next"] = "leaves when 1 more rounds fail"
    _, lines = fleet.told()
    assert "; mon sees it fail since 2027-01-15 07:50 UTC, last 20 s ago: connection refused" in lines[4]
    assert lines[5] == "    leaves when 1 more rounds fail"
    fleet.answers["two"] = fleet.answers["one"]
    assert fleet.row("two")["why"] == ["connection refused; leaves when 1 more rounds fail"]


def test_a_dead_hosts_refused_sync_is_told_by_the_monitor() -> None:
    fleet = Fleet("one", "two")
    fleet.seen["one"]["refused"] = "as it was"
    fleet.seen["two"]["refused"] = "2 of 3 projects"
    fleet.answers["two"] = DEAD
    assert "its sync is refused: 2 of 3 projects" in fleet.row("two")["why"]
    assert fleet.row("one")["why"] == [], "what it says itself is newer"


def test_a_family_that_is_withdrawn_is_told_beside_a_listed_mirror() -> None:
    fleet = Fleet("one", "two")
    fleet.standings["one"]["withdrawn"] = [
        {"family": "ipv6", "code": "failing", "reason": "connection refused", "since": NOW - 600,
         "next": "returns after 5 good rounds"}
    ]  # fmt: skip
    document, lines = fleet.told()
    assert document["listed"] == 2 and document["need_a_person"] == 1
    assert lines[3].split()[:2] == ["one", "listed"]
    assert lines[4] == (
        "    not listed over IPv6 since 2027-01-15 07:50 UTC: connection refused; returns after 5 good rounds"
    )
    for spoilt in ("ipv6", [5], {"family": []}, [{"family": "\x1b", "since": "now"}]):
        fleet.standings["one"]["withdrawn"] = spoilt
        fleet.told()


def test_since_when_it_does_not_answer_is_what_an_earlier_run_found() -> None:
    fleet = Fleet("one")
    fleet.answers["one"] = DEAD
    first = json.dumps(fleet.told(now=NOW - 7200)[0])
    assert fleet.row("one", former=first)["ssh"]["since"] == NOW - 7200
    second = json.dumps(fleet.told(former=first)[0])
    assert fleet.row("one", now=NOW + 60, former=second)["ssh"]["since"] == NOW - 7200
    # One that answered in between began anew.
    assert fleet.row("one", former=json.dumps(Fleet("one").told()[0]))["ssh"]["since"] == NOW
    for spoilt in (
        "",
        "{",
        "[]",
        '{"hosts": [5]}',
        '{"hosts": [{"name": "one", "ssh": {"answers": false}}]}',
    ):
        assert fleet.row("one", former=spoilt)["ssh"]["since"] == NOW


def test_what_an_update_left_a_mirror_in_is_told_with_the_next_command() -> None:
    fleet = Fleet("one", "two")
    noted = {
        "step": "release",
        "since": NOW - 7200,
        "by": "anna on laptop",
        "wanted": {"mirrorfleet": "0.2.0"},
    }
    fleet.answers["one"]["status"]["update"] = noted
    row = fleet.row("one")
    assert row["why"] == [
        "in the middle of an update by anna on laptop since 2027-01-15 06:00 UTC, at its step release, to 0.2.0; "
        "ansible-playbook playbooks/update.yml --limit one goes on, unless one is at work"
    ]
    assert row["needs_a_person"] and row["update"]["wanted"] == {"mirrorfleet": "0.2.0"}
    fleet.answers["one"]["status"]["update"] = {"step": ["x"], "since": "y", "wanted": 7}
    assert "in the middle of an update, at its step ['x'], to nobody knows what" in fleet.row("one")["why"][0]
    assert fleet.row("two")["update"] is None


def test_a_held_mirror_tells_by_whom_since_when_and_why() -> None:
    fleet = Fleet("one", "two")
    fleet.holds["one"] = {"reason": "being updated from 0.1.0", "since": NOW - 7200, "by": "anna on laptop"}
    fleet.standings["one"] |= {"listed": False, "code": "held", "reason": "held: being updated from 0.1.0"}
    row = fleet.row("one")
    assert row["why"] == ["held by anna on laptop since 2027-01-15 06:00 UTC: being updated from 0.1.0"]
    assert row["held"]["since"] == NOW - 7200 and row["needs_a_person"]
    # Released, and not published yet.
    fleet.holds.clear()
    row = fleet.row("one")
    assert (
        "not listed since 2027-01-14 08:00 UTC: held: being updated" in row["why"][0]
        and row["needs_a_person"]
    )


@pytest.mark.parametrize(
    ("code", "reason", "needs"),
    [
        ("tampered", "served a file with a wrong hash", True),
        ("failing", "connection over ipv4: refused", True),
        ("agreement", "its agreement is not the fleet's current one", True),
        ("audit", "failed 2 audits: page lacks six", True),
        ("audit", "awaits an audit; the last one: page lacks six", True),
        ("audit", "awaits an audit", False),
        ("returning", "well again, not yet for long: 2 of 5 good rounds", False),
        ("drained", "drained by its operator", False),
    ],
)
def test_why_it_is_not_listed_and_whether_that_needs_a_person(code: str, reason: str, needs: bool) -> None:
    fleet = Fleet("one", "two")
    fleet.standings["two"] = {
        "listed": False,
        "code": code,
        "reason": reason,
        "since": NOW - 60,
        "next": "then",
    }
    row = fleet.row("two")
    assert row["why"] == [f"not listed since 2027-01-15 07:59 UTC: {reason}; then"]
    assert row["needs_a_person"] is needs
    document, lines = fleet.told()
    assert document["hosts"][0]["name"] == "two", "before those that are well"
    assert lines[0].endswith("one needs a person." if needs else "nobody needs a person.")
    assert lines[3].split()[:2] == ["two", code]


SPOILED: dict[str, tuple[dict[str, Any], str, bool]] = {
    "certificate": ({"certificate_expires": NOW + 5 * DAY}, "its certificate ends in 5 d", True),
    "ended": ({"certificate_expires": NOW - 5}, "its certificate ended 5 s ago", True),
    "disk": ({"disk": {"free": 3 * 10**9, "total": 100 * 10**9}}, "3 GB of 100 GB are free", True),
    "unit": ({"failed_units": ["mirror-sync.service"]}, "failed on it: mirror-sync.service", True),
    "nginx": ({"nginx": "stopped"}, "nginx does not run", True),
    "bare": (
        {"provisioned": False, "versions": {}, "nginx": ""},
        "was never provisioned: ansible-playbook playbooks/provision.yml --limit origin", True,
    ),
    "old nginx": ({"nginx": "runs what 1.26.3 was to replace"}, "systemctl restart nginx", False),
    "other version": (
        {"versions": {"mirrorfleet": "0.0.9"}},
        "runs mirrorfleet 0.0.9, pinned is 0.1.0: ansible-playbook playbooks/update.yml", False,
    ),
    "in the middle": (
        {"update": {"step": "gate", "wanted": {"nginx": "1.26.*"}}},
        "at its step gate, to 1.26.*; ansible-playbook playbooks/update.yml --limit origin goes on", True,
    ),
    "old tree": ({"tree": TREE | {"last_sync": NOW - 2 * DAY}}, "last synced 2 d ago", True),
    "aside": ({"tree": TREE | {"set_aside": 3}}, "3 projects are set aside", False),
    "left out": ({"tree": TREE | {"left_out": 2}}, "2 files that upstream lists are left out", False),
    "by page": ({"tree": TREE | {"compared_by_page": 9}}, "each run compares 9 pages", False),
    "refused": ({"tree": TREE | {"refused": "2 of 3 projects"}}, "its sync is refused: 2 of 3 projects", True),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "words", "needs"), SPOILED.values(), ids=SPOILED.keys())
def test_what_a_host_tells_of_itself(changes: dict[str, Any], words: str, needs: bool) -> None:
    fleet = Fleet("one")
    fleet.answers["origin"] = {"status": status(tree=TREE) | changes}
    row = fleet.row("origin")
    (why,) = row["why"]
    assert words in why and row["needs_a_person"] is needs


def test_all_that_is_not_as_pinned_is_told_at_once() -> None:
    fleet = Fleet("one")
    fleet.answers["one"]["status"]["versions"] = {
        "mirrorfleet": "0.1.0",
        "bandersnatch": "8.1.0",
        "nginx": "1.22.1",
    }
    assert fleet.row("one")["why"] == [
        "runs bandersnatch 8.1.0, pinned is 8.2.0; nginx 1.22.1, pinned is 1.26.*:"
        " ansible-playbook playbooks/update.yml"
    ]


def test_the_first_redirector_and_monitor_that_answer_are_asked() -> None:
    fleet = Fleet("one", "two")
    fleet.groups |= {"redirectors": ["red", "red2"], "monitors": ["mon", "mon2"]}
    fleet.answers |= {"red2": fleet.answers["red"], "mon2": fleet.answers["mon"], "red": DEAD, "mon": DEAD}
    document, lines = fleet.told()
    assert (document["redirector"], document["monitor"], document["listed"]) == ("red2", "mon2", 2)
    # Both are rows; of what is no mirror no monitor knows anything.
    assert [row["name"] for row in document["hosts"][:2]] == ["mon", "red"]
    assert lines[4].endswith("No route to host")


def test_a_monitor_that_is_silent_is_told_and_the_next_one_asked() -> None:
    fleet = Fleet("one")
    fleet.groups["monitors"] = ["mon", "mon2"]
    fleet.answers["mon2"] = fleet.answers["mon"]
    fleet.answers["mon"] = {"status": status(health={"at": NOW - 7200, "problem": "", "mirrors": {}})}
    document, _ = fleet.told()
    assert document["monitor"] == "mon2"
    assert fleet.row("mon")["why"] == [
        "this monitor tells nothing new for 2 h: journalctl -u mirrorfleet-probe there"
    ]
    fleet.answers["mon2"]["status"]["health"]["problem"] = "the index answered 503"
    assert fleet.row("mon2")["why"] == ["this monitor cannot ask the trusted index: the index answered 503"]


def test_redirectors_that_disagree_refuse_or_stand_still_are_told() -> None:
    fleet = Fleet("one", "two")
    fleet.groups["redirectors"] = ["red", "red2"]
    other = {"two": dict(LISTED), "three": dict(LISTED)}
    fleet.answers["red2"] = {"status": status(list=fleet.list(mirrors=other), holds={})}
    assert fleet.row("red2")["why"] == ["its list is not red's: it lists three and lacks one"]
    fleet.answers["red2"] = {
        "status": status(list=fleet.list(at=NOW - 7200, refused=True, kept=True), holds={})
    }
    still, refused, kept = fleet.row("red2")["why"]
    assert "refused" in refused and "not made anew for 2 h" in still and "cut off" in kept


def test_without_any_redirector_and_monitor_it_says_so_and_tells_what_hosts_say() -> None:
    fleet = Fleet("one")
    fleet.answers |= {"red": DEAD, "mon": DEAD}
    document, lines = fleet.told()
    assert document["hosts"][-2]["listed"] is None and document["redirector"] is None
    assert lines[1:3] == [
        "No redirector tells its list, so who is listed is not known.",
        "No monitor tells what it sees.",
    ]
    (one,) = [line for line in lines if line.startswith("one ")]
    assert one.split()[1:3] == ["not", "known"] and "5 min" in one and "60 d" in one


def test_a_mirror_that_the_list_does_not_know_has_to_be_published() -> None:
    fleet = Fleet("one", "two")
    del fleet.standings["two"], fleet.seen["two"]
    assert fleet.row("two")["why"] == ["the list does not know it: ansible-playbook playbooks/publish.yml"]


def test_wrong_records_are_rows_and_a_mirror_that_waits_says_so() -> None:
    fleet = Fleet("one", "two")
    fleet.records.append(broken("three"))
    fleet.groups["waiting"] = ["two"]
    problem = {
        "host": "three", "file": "mirrors/three.yml", "line": 5, "key": "mirror_bandwidth",
        "problem": "is text ('fast')", "allowed": "a whole number", "next_step": "correct it",
    }  # fmt: skip
    fleet.problems = [problem, problem | {"host": "two", "key": "mirror_upstream", "problem": "is three"}]
    document, lines = fleet.told()
    assert [row["name"] for row in document["hosts"][:2]] == ["three", "two"]
    assert lines[3].split() == ["three", "record", *"---------"]
    assert lines[4] == (
        "    its record is wrong: mirrors/three.yml:5: mirror_bandwidth is text ('fast'). Next: correct it"
    )
    assert document["hosts"][1]["why"][0].startswith(
        "its record is wrong: mirrors/three.yml:5: mirror_upstream is three"
    )
    assert "waits for the mirror that is to feed it" in document["hosts"][1]["why"]
    assert document["mirrors"] == 2


HOSTILE = "\x1b[2J\x07{{ lookup('pipe', 'id') }}\r\nPLAY RECAP \u202e"


@pytest.mark.parametrize(
    "answer",
    [
        None, [], "ok", {}, {"status": None}, {"status": {}}, {"status": [1]}, {"status": {"at": "now"}},
        {"failed": True, "msg": HOSTILE}, {"status": {}, "reached": True, "problem": HOSTILE},
        {"status": dict.fromkeys(status(), HOSTILE) | {"tree": HOSTILE, "list": HOSTILE, "health": HOSTILE}},
        {"status": {key: [HOSTILE] for key in status()} | {"tree": [5], "list": [5], "health": [5], "holds": [5]}},
        {"status": status(tree={"mode": HOSTILE, "last_sync": 1e99, "set_aside": HOSTILE})},
        {"status": status(tree={"last_sync": 2**60}, certificate_expires=2**52, disk={"free": -1, "total": True})},
        {"status": status(list={"at": NOW, "mirrors": {"one": HOSTILE, HOSTILE: {}}}, holds={"one": 5})},
        {"status": status(list={"at": NOW, "mirrors": {"one": {"reason": HOSTILE, "listed": 0}}})},
        {"status": status(health={"at": NOW, "mirrors": {"one": {"problem": HOSTILE, "measured_at": HOSTILE}}})},
    ],
)  # fmt: skip
def test_whatever_a_host_says_is_a_row_and_no_command_to_a_terminal(answer: Any) -> None:
    for name in ("one", "red", "mon", "origin"):
        fleet = Fleet("one", "two")
        fleet.answers[name] = answer
        document, lines = fleet.told()
        assert {row["name"] for row in document["hosts"]} == {"one", "two", "origin", "red", "mon"}
        assert all(line.isprintable() for line in lines)
        assert all("PLAY RECAP" not in line[:4] for line in lines)


def test_a_thousand_mirrors_or_those_that_need_somebody_only() -> None:
    names = [f"mirror{number:04}.example.org" for number in range(1000)]
    fleet = Fleet(*names)
    fleet.answers[names[700]] = DEAD
    fleet.standings[names[30]] |= {
        "listed": False,
        "code": "stale",
        "reason": "stale: last synced 2 days ago",
    }
    _, lines = fleet.told()
    assert len(lines) == 3 + 1003 + 2
    _, lines = fleet.told(only="problems")
    assert len(lines) == 4 + 2 * 2
    assert lines[0].endswith("999 of 1000 mirrors listed, 2 need a person.")
    assert lines[1] == "1001 that need nobody are not shown (status_only=problems)."
    assert [line.split(".")[0] for line in lines if line.startswith("mirror0")] == [
        "mirror0700",
        "mirror0030",
    ]
    assert fleet.told(only="problems", hosts=names[:10])[1][1:] == [
        "10 that need nobody are not shown (status_only=problems)."
    ]


def test_what_may_be_left_out_is_told() -> None:
    with pytest.raises(AnsibleFilterError, match="status_only is 'problem'; allowed: problems"):
        Fleet("one").told(only="problem")


# --- the list before and after ---


def of(**standings: Any) -> dict[str, Any]:
    return {"mirrors": standings}


def off(reason: str, then: str = "") -> dict[str, Any]:
    return {"listed": False, "code": "held", "reason": reason, "since": NOW, "next": then}


def test_who_joined_and_who_left_and_why() -> None:
    before = of(a=LISTED, b=LISTED, c=LISTED, d=off("not measured yet"), e=off("awaits an audit"))
    after = of(
        a=LISTED, b=off("held: being updated", "is looked at again"), d=LISTED, e=off("awaits an audit")
    )
    assert list_changes(before, after) == [
        "The list had 3 mirrors and has 2 now.",
        "  joined: d",
        "  left: b: held: being updated; is looked at again",
        "  left: c: retired, or its record is gone",
        "  not listed: e: awaits an audit",
    ]


def test_who_is_listed_and_not_over_each_family_is_told() -> None:
    lost = {
        "family": "ipv6",
        "code": "failing",
        "reason": "connection refused",
        "since": NOW,
        "next": "returns",
    }
    assert list_changes(of(a=LISTED, b=LISTED), of(a=LISTED | {"withdrawn": [lost]}, b=LISTED)) == [
        "The list has 2 mirrors, as before.",
        "  listed, but not over IPv6: a: connection refused; returns",
    ]


def test_the_list_of_a_new_fleet_and_one_that_nobody_tells() -> None:
    assert list_changes({}, of(a=LISTED)) == ["The list has 1 mirror now; what it had before is not known."]
    assert list_changes(of(), of(a=LISTED)) == ["The list had 0 mirrors and has 1 now.", "  joined: a"]
    assert list_changes(of(a=LISTED), of(a=LISTED)) == ["The list has 1 mirror, as before."]
    assert list_changes(of(a=LISTED), {}) == ["What the list has now is not known: no redirector told it."]


def test_a_thousand_are_ten_and_a_count() -> None:
    names = [f"m{number:03}" for number in range(1000)]
    before, after = of(**dict.fromkeys(names[:500], LISTED)), of(**dict.fromkeys(names[500:], LISTED))
    lines = list_changes(before, after)
    assert len(lines) == 1 + 1 + 10 + 1
    assert lines[1].endswith("m508, m509 and 490 more") and "490 more" in lines[-1]


def test_words_of_a_list_are_no_commands_to_a_terminal() -> None:
    assert all(
        line.isprintable() for line in list_changes(of(a=LISTED), of(**{"a": off(HOSTILE), HOSTILE: off("")}))
    )
