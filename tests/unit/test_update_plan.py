"""The waves of an update, and when the fleet cannot bear one."""

from __future__ import annotations

import time
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from fleet_update import FilterModule
from hypothesis import given, settings
from hypothesis import strategies as st
from listing_material import NOW, record

update_plan, update_wave, update_differs = (
    FilterModule().filters()[name] for name in ("update_plan", "update_wave", "update_differs")
)
PINS = {
    "mirrorfleet": "0.2.0",
    "bandersnatch": {"debian-13": "8.2.0", "debian-12": "6.8.0"},
    "nginx": {"debian-13": "1.26.*", "debian-12": "1.22.*"},
}
NEW = {"mirrorfleet": "0.2.0", "bandersnatch": "8.2.0", "nginx": "1.26.3-3"}
OLD = NEW | {"mirrorfleet": "0.1.0"}
CONTINENTS = {"AF": (0, 20), "EU": (50, 10), "OC": (-37, 175)}


def place(continent: str, shift: float = 0) -> dict[str, Any]:
    latitude, longitude = CONTINENTS[continent]
    return {
        "continent": continent,
        "country": "XX",
        "city": "X",
        "latitude": latitude,
        "longitude": longitude + shift,
    }


class Fleet:
    """Mirrors that run what was pinned before, all listed, to be spoiled."""

    def __init__(self) -> None:
        self.records: dict[str, dict[str, Any]] = {}
        self.answers: dict[str, Any] = {}
        self.standings: dict[str, Any] = {}
        self.holds: dict[str, Any] = {}

    def add(
        self, name: str, continent: str = "EU", versions: dict[str, str] | None = None, **changes: Any
    ) -> Fleet:
        shift = len(self.records) / 10
        self.records[name] = record(name, location=place(continent, shift), **changes)
        self.answers[name] = {"status": {
            "provisioned": True, "platform": "debian-13", "nginx": "running", "versions": dict(versions or OLD),
            "tree": {"mode": "bandersnatch"},
        }}  # fmt: skip
        self.standings[name] = {"listed": True}
        return self

    def of(self, name: str, **said: Any) -> Fleet:
        self.answers[name]["status"] |= said
        return self

    def plan(self, **more: Any) -> dict[str, Any]:
        told = {"at": NOW - 5, "mirrors": self.standings}
        answers = self.answers | {"red": {"status": {"list": told, "holds": self.holds}}}
        found: dict[str, Any] = update_plan(
            more.pop("answers", answers), {"redirectors": ["red"], "monitors": []},
            {"mirrors": list(self.records.values())},
            **{"pins": PINS, "now": NOW, "hosts": list(self.records)} | more,
        )  # fmt: skip
        return found


def waves(plan: dict[str, Any]) -> list[list[str]]:
    hosts = iter(plan["hosts"])
    return [[next(hosts) for _ in range(size)] for size in plan["sizes"]]


# --- who is in which wave ---


def test_only_mirrors_that_the_change_concerns_count() -> None:
    fleet = Fleet().add("one").add("two", versions=NEW).add("three", "OC").add("four", "AF", mode="cache")
    # bandersnatch is none of a cache's.
    fleet.of("four", versions={"mirrorfleet": "0.2.0", "bandersnatch": "8.1.0", "nginx": "1.26.1-1"})
    fleet.add("retired", "OC", state="retired")
    plan = fleet.plan(hosts=["one", "two", "three", "four"])
    assert waves(plan) == [["one"], ["three"]]
    assert plan["left"] == {"Left alone, for they run what is pinned": {"two": "", "four": ""}}
    assert plan["due"]["one"] == {
        "wanted": {"mirrorfleet": "0.2.0", "bandersnatch": "8.2.0", "nginx": "1.26.*"},
        "gated": OLD, "parts": ["mirrorfleet"], "settings": [], "unfinished": False,
        "change": "mirrorfleet 0.1.0 -> 0.2.0",
        "kind": "mirror", "roles": ["web_server", "sync_client"], "services": [],
    }  # fmt: skip
    assert plan["lines"] == [
        "2 mirrors to update, in 2 waves; 2 left alone.",
        "  wave 1: one: mirrorfleet 0.1.0 -> 0.2.0",
        "  wave 2: three: mirrorfleet 0.1.0 -> 0.2.0",
        "  Left alone, for they run what is pinned: four, two",
    ]


def test_the_canary_is_the_chosen_one_or_has_the_fewest_clients() -> None:
    fleet = Fleet().add("big", bandwidth=1000).add("small", "OC", bandwidth=50).add("off", "AF", bandwidth=10)
    fleet.standings["off"]["listed"] = False
    assert waves(fleet.plan())[0] == ["small"]
    assert waves(fleet.plan(canary="big"))[0] == ["big"]
    # One that all of the change concerns shows more.
    fleet.of("big", versions=OLD | {"bandersnatch": "8.1.0"})
    assert waves(fleet.plan())[0] == ["big"]
    fleet.of("small", versions=NEW)
    assert waves(fleet.plan(canary="small"))[0] == ["big"], "there is a canary all the same"
    with pytest.raises(AnsibleFilterError, match=r"fleet_update_canary is 'tiny'.*big, off, small"):
        fleet.plan(canary="tiny")


def test_one_part_alone_is_updated() -> None:
    fleet = Fleet().add(
        "one", versions={"mirrorfleet": "0.1.0", "bandersnatch": "8.1.0", "nginx": "1.25.1-1"}
    )
    for only, part in (
        ("programs", "mirrorfleet"),
        ("bandersnatch", "bandersnatch"),
        ("web_server", "nginx"),
    ):
        told = fleet.plan(only=only)["due"]["one"]
        assert told["parts"] == [part]
        others = {key: value for key, value in told["wanted"].items() if key != part}
        assert others.items() <= told["gated"].items(), "what is not to change stays"
    assert "nginx 1.25.1-1 -> 1.26.* (restarts nginx)" in fleet.plan()["lines"][1]
    with pytest.raises(
        AnsibleFilterError, match=r"update_only is 'kernel'.*bandersnatch, programs, web_server, system"
    ):
        fleet.plan(only="kernel")


def test_who_back_each_other_and_who_feed_each_other_are_not_away_at_once() -> None:
    fleet = Fleet().add("canary", "AF", bandwidth=1)
    for name in ("near1", "near2", "far1", "far2"):
        fleet.add(name, upstream="origin")
    for name, longitude in (("near1", 0.0), ("near2", 0.5), ("far1", 30.0), ("far2", 30.5)):
        fleet.records[name]["location"]["longitude"] = longitude
    fleet.add("fed", "OC", tier=2, upstream="near1")
    for wave in waves(fleet.plan(capacity_floor=0)):
        assert not {"near1", "near2"} <= set(wave) and not {"far1", "far2"} <= set(wave)
        assert not {"near1", "fed"} <= set(wave)


def test_what_a_killed_run_left_is_taken_up_first_whatever_it_got_to() -> None:
    noted = {"gated": OLD, "wanted": NEW, "step": "release", "since": NOW - 60, "by": "ada on laptop"}
    fleet = (
        Fleet().add("one", "AF", bandwidth=1).add("released", versions=NEW).add("held", "OC", versions=NEW)
    )
    fleet.of("released", update=noted).standings["released"]["listed"] = False
    fleet.holds["held"] = {"reason": "being updated from 0.1.0", "since": NOW, "by": "ada"}
    fleet.standings["held"]["listed"] = False
    plan = fleet.plan()
    assert waves(plan) == [["held"], ["released", "one"]]
    assert plan["due"]["released"]["unfinished"] and plan["due"]["released"]["gated"] == OLD
    # Of one that was held without a note it is not known what passed the gate last: what runs is taken for it.
    assert plan["due"]["held"]["gated"] == NEW
    assert not plan["refused"]


def test_the_last_gated_version_is_the_noted_one_and_not_the_one_that_runs() -> None:
    noted = {"gated": OLD, "wanted": NEW, "step": "update"}
    told = Fleet().add("one", versions=NEW).of("one", update=noted).plan()["due"]["one"]
    assert (told["gated"], told["parts"]) == (OLD, [])


def test_a_note_that_is_spoilt_is_of_an_unfinished_update_all_the_same() -> None:
    for noted in ({"gated": 7}, {"gated": {"mirrorfleet": None, "x": "1"}}, {"step": ["hold"]}):
        told = Fleet().add("one", versions=NEW).of("one", update=noted).plan()["due"]["one"]
        assert told["unfinished"] and told["gated"] == NEW


def test_nginx_that_runs_and_is_replaced_on_disk_is_no_version_to_go_back_to() -> None:
    told = Fleet().add("one").of("one", nginx="runs what 1.26.3-3 was to replace").plan()["due"]["one"]
    assert "nginx" not in {part for part, version in told["gated"].items() if version}


def test_who_is_left_alone_is_told_why() -> None:
    fleet = Fleet().add("one", bandwidth=1).add("new").add("refuses").add("kept").add("lost")
    fleet.of("new", provisioned=False).of("refuses", tree={"refused": "7 of 9 projects would go"})
    fleet.holds["kept"] = {"reason": "disk is swapped", "since": NOW, "by": "ada on laptop"}
    fleet.answers["lost"] = {"status": {}, "reached": False, "problem": "No route to host"}
    plan = fleet.plan(off_share=1)
    assert plan["hosts"] == ["one"] and plan["silent"] == ["lost"]
    assert plan["left"] == {
        "Never provisioned, so left alone; see playbooks/provision.yml": {"new": ""},
        "Left alone, for its sync is refused": {"refuses": "7 of 9 projects would go"},
        "Left alone, for they are held": {"kept": "held by ada on laptop: disk is swapped"},
        "Did not answer, so left as they are": {"lost": "No route to host"},
    }


def test_what_a_mirror_runs_is_compared_with_what_it_is_to_run() -> None:
    wanted = {"mirrorfleet": "0.2.0", "nginx": "1.26.*"}
    said = {"versions": NEW, "nginx": "running"}
    assert update_differs({"status": said}, wanted) == []
    assert update_differs({"status": said | {"versions": OLD}}, wanted) == ["mirrorfleet is 0.1.0, not 0.2.0"]
    assert update_differs({"status": said | {"nginx": "stopped"}}, wanted) == ["nginx does not run"]
    replaced = {"versions": NEW | {"nginx": "1.25.1"}, "nginx": "runs what 1.26.3-3 was to replace"}
    assert update_differs({"status": replaced}, wanted) == []
    assert update_differs({"status": {}, "problem": "No route to host"}, wanted) == ["No route to host"]


# --- the fleet's own hosts ---


def with_own(**versions: dict[str, str]) -> Fleet:
    """A mirror, and of each kind a host; what each runs, if it is not what was pinned before."""
    fleet = Fleet().add("one", versions=versions.get("one"))
    for name in ("red", "red2", "mon", "both", "origin"):
        of = {part: version for part, version in OLD.items() if part != "bandersnatch"}
        fleet.answers[name] = {"status": {
            "provisioned": True, "platform": "debian-13", "nginx": "running", "versions": versions.get(name, of),
        }}  # fmt: skip
    told = {"at": NOW - 5, "mirrors": fleet.standings}
    for name in ("red", "red2", "both"):
        fleet.answers[name]["status"]["list"] = told
    return fleet


OWN = {"redirectors": ["red", "red2", "both"], "indexes": ["red2"], "monitors": ["mon", "both"], "origins": ["origin"],
       "mirrors": ["one"]}  # fmt: skip


def own_plan(fleet: Fleet, **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = update_plan(
        fleet.answers, OWN, {"mirrors": list(fleet.records.values())},
        **{"pins": PINS, "now": NOW, "hosts": [*fleet.answers]} | more,
    )  # fmt: skip
    return found


def test_the_fleets_own_hosts_follow_one_at_a_time_and_redirectors_last() -> None:
    plan = own_plan(with_own())
    assert waves(plan) == [["one"], ["origin"], ["mon"], ["both"], ["red"], ["red2"]]
    assert plan["canary"] == "one" and not plan["refused"]
    assert plan["due"]["red2"] == {
        "kind": "redirector", "roles": ["document_server", "redirector", "route", "web_server"],
        "services": ["mirrorfleet-list", "mirrorfleet-route"],
        "wanted": {"mirrorfleet": "0.2.0", "nginx": "1.26.*"}, "gated": {"mirrorfleet": "0.1.0", "nginx": "1.26.3-3"},
        "parts": ["mirrorfleet"], "settings": [], "unfinished": False,
        "change": "mirrorfleet 0.1.0 -> 0.2.0 (restarts mirrorfleet-list, mirrorfleet-route)",
    }  # fmt: skip
    assert plan["due"]["both"]["roles"] == ["document_server", "redirector", "monitoring_server"]
    assert plan["due"]["origin"]["roles"] == ["web_server", "origin"]
    assert plan["lines"][0] == (
        "1 mirror to update, in 1 wave, and 5 hosts of the fleet's own, one at a time; 0 left alone."
    )
    assert "  then: origin (origin): mirrorfleet 0.1.0 -> 0.2.0" in plan["lines"]
    assert "  then: mon (monitor): mirrorfleet 0.1.0 -> 0.2.0 (restarts mirrorfleet-probe)" in plan["lines"]


def test_a_redirectors_tree_is_synced_by_what_is_pinned() -> None:
    """bandersnatch where its tree is made by it, as it says itself: it is in no registry."""
    for mode, bandersnatch in (("bandersnatch", {"bandersnatch": "8.2.0"}), ("rsync", {})):
        fleet = with_own().of("red2", tree={"mode": mode})
        found = update_plan(
            fleet.answers, OWN | {"trees": ["red2"]}, {"mirrors": list(fleet.records.values())},
            pins=PINS, now=NOW, hosts=[*fleet.answers],
        )["due"]["red2"]  # fmt: skip
        assert found["roles"] == ["document_server", "redirector", "route", "web_server", "sync_client"]
        assert found["wanted"] == {"mirrorfleet": "0.2.0", "nginx": "1.26.*"} | bandersnatch
    fleet = with_own().of("red2", tree={"mode": "rsync", "refused": "half of it would leave"})
    assert own_plan(fleet)["left"]["Left alone, for its sync is refused"] == {
        "red2": "half of it would leave"
    }


def test_a_part_and_a_limit_are_of_the_fleets_own_hosts_too() -> None:
    old_nginx = {"mirrorfleet": "0.1.0", "nginx": "1.25.1-1"}
    plan = own_plan(with_own(red2=old_nginx, mon=NEW), only="web_server")
    assert plan["hosts"] == ["red2"] and plan["canary"] == ""
    assert plan["due"]["red2"]["roles"] == ["document_server", "web_server"]
    assert plan["due"]["red2"]["services"] == [] and plan["due"]["red2"]["parts"] == ["nginx"]
    assert own_plan(with_own(), only="programs")["due"]["red2"]["roles"] == ["redirector", "route"]
    assert own_plan(with_own(), only="bandersnatch")["hosts"] == []
    assert own_plan(with_own(), hosts=["red", "mon"])["hosts"] == ["mon", "red"]


def test_one_that_a_former_run_left_in_the_middle_comes_before_the_mirrors() -> None:
    fleet = with_own()
    noted = {"gated": {"mirrorfleet": "0.1.0", "nginx": "1.26.3-3"}, "step": "gate"}
    fleet.of("mon", versions={"mirrorfleet": "0.2.0", "nginx": "1.26.3-3"}, update=noted)
    plan = own_plan(fleet)
    assert waves(plan)[:2] == [["mon"], ["one"]] and plan["canary"] == "one"
    assert plan["due"]["mon"]["unfinished"] and plan["due"]["mon"]["gated"]["mirrorfleet"] == "0.1.0"
    assert "  first of all: mon (monitor): as it is; left in the middle by a former run" in plan["lines"]


def test_the_fleets_own_hosts_go_back_and_one_that_is_silent_is_told() -> None:
    gone = {"mirrorfleet": "0.1.0", "nginx": "1.26.3-3"}
    former = {
        "at": NOW - 60,
        "update": {"pins": PINS, "only": ""},
        "versions": gone,
        "installed": ["mirrorfleet"],
    }
    fleet = with_own(red=gone | {"mirrorfleet": "0.2.0"}).of("red", former=former)
    fleet.answers["origin"] = {"status": {}, "reached": False, "problem": "No route to host"}
    plan = own_plan(fleet, back=True)
    assert plan["hosts"] == ["red"] and plan["due"]["red"]["wanted"] == gone and plan["silent"] == ["origin"]


# --- the system's own packages ---

APT = """NOTE: This is only a simulation!
Inst openssl [3.5.1-1] (3.5.1-1+deb13u1 Debian-Security:13/stable-security [amd64])
Inst nginx [1.26.3-3] (1.28.0-1 Debian:14 [amd64])
Inst linux-image-6.12-amd64 (6.12.48-1 Debian-Security:13/stable-security [amd64])
Conf openssl (3.5.1-1+deb13u1 Debian-Security:13/stable-security [amd64])
That is all
"""


def test_the_pending_updates_of_the_system_come_in_the_same_waves_and_nginx_stays_within_its_pin() -> None:
    fleet = Fleet().add("one", versions=OLD).add("two", "OC").add("three", "AF").add("lost", "AF")
    pending = {
        "one": APT,
        "two": "Reboot\nThat is all\n",
        "three": "That is all\n",
        "lost": "E: no network\n",
    }
    plan = fleet.plan(only="system", pending=pending)
    assert waves(plan) == [["one"], ["two"]]
    assert plan["due"]["one"]["wanted"] == OLD | {"nginx": "1.26.*"}, "our programs stay, whatever is pinned"
    assert plan["due"]["one"]["roles"] == [] and plan["due"]["one"]["parts"] == []
    assert plan["due"]["one"]["change"] == "pending: openssl, linux-image-6.12-amd64"
    assert plan["due"]["two"]["change"] == "pending: a reboot"
    assert plan["left"] == {
        "Left alone, for they run what is pinned": {"three": ""},
        "Left alone, for apt does not say what is pending (apt-get update there)": {"lost": ""},
    }
    moves = APT.replace("1.28.0-1", "1.26.4-1")
    assert "nginx" in fleet.plan(only="system", pending={"one": moves})["due"]["one"]["change"]
    # What runs beyond its pin stays where it is.
    fleet.of("one", versions=OLD | {"nginx": "1.28.0-1"})
    assert fleet.plan(only="system", pending=pending)["due"]["one"]["wanted"]["nginx"] == "1.28.0-1"
    assert fleet.plan(pending=pending)["due"]["two"]["parts"] == ["mirrorfleet"], (
        "without the word nobody asks"
    )
    with pytest.raises(AnsibleFilterError, match=r"update_only is 'system'.*do not go back"):
        fleet.plan(only="system", back=True)


# --- back to what ran before ---

UPDATE = {"pins": PINS, "only": ""}
FORMER = {"at": NOW - 60, "update": UPDATE, "versions": OLD, "installed": ["bandersnatch", "mirrorfleet"]}


def test_what_the_newest_update_changed_goes_back_and_nothing_else_does() -> None:
    earlier = {"pins": PINS | {"mirrorfleet": "0.1.0"}, "only": ""}
    fleet = Fleet().add("one", versions=NEW, bandwidth=1).add("two", "OC", versions=NEW).add("old")
    fleet.of("one", former=FORMER).of("two", former=FORMER | {"at": NOW - 9})
    fleet.of(
        "old",
        former=FORMER | {"at": NOW - 999, "update": earlier, "versions": OLD | {"mirrorfleet": "0.0.9"}},
    )
    plan = fleet.plan(back=True)
    assert waves(plan) == [["one"], ["two"]] and not plan["refused"] and not plan["stuck"]
    assert plan["due"]["one"] == {
        "wanted": OLD, "gated": NEW, "parts": ["mirrorfleet"], "settings": [], "unfinished": False,
        "change": "mirrorfleet 0.2.0 -> 0.1.0",
        "kind": "mirror", "roles": ["web_server", "sync_client"], "services": [],
    }  # fmt: skip
    assert plan["lines"][0] == "2 mirrors to take back, in 2 waves; 1 left alone."
    assert plan["left"] == {"Left alone, for no update to what is pinned now changed them": {"old": ""}}
    # Again, and nothing goes anywhere; nor when what they ran before is pinned, as the run said.
    for name in ("one", "two"):
        fleet.of(name, versions=OLD)
    assert fleet.plan(back=True)["hosts"] == []
    assert fleet.plan(back=True, pins=earlier["pins"])["hosts"] == []
    # An update's own record of itself is what a rollback goes by.
    assert fleet.plan()["of"] == UPDATE


def test_a_time_that_has_not_come_is_the_newest_of_nothing() -> None:
    fleet = Fleet().add("one", versions=NEW).of("one", former=FORMER).add("ahead")
    fleet.of("ahead", former=FORMER | {"at": NOW + 9999, "update": {"pins": {}, "only": ""}})
    assert fleet.plan(back=True)["hosts"] == ["one"]


def test_what_is_in_the_middle_goes_back_to_what_passed_last_and_from_the_middle_of_going_back_on() -> None:
    noted = {"gated": OLD, "wanted": NEW, "step": "gate"}
    fleet = Fleet().add("one", versions=NEW).of("one", update=noted)
    assert fleet.plan(back=True)["due"]["one"]["wanted"] == OLD
    fleet.of("one", update={"gated": NEW, "wanted": OLD, "step": "gate", "back": True}, versions=OLD)
    told = fleet.plan(back=True)["due"]["one"]
    assert (told["wanted"], told["gated"], told["unfinished"]) == (OLD, NEW, True)


def test_where_going_back_is_not_possible_it_is_said() -> None:
    fleet = Fleet().add("one", versions=NEW).of("one", former=FORMER | {"installed": ["bandersnatch"]})
    fleet.add("two", versions=NEW | {"nginx": "1.26.3-4"}).of("two", former=FORMER)
    plan = fleet.plan(back=True)
    assert plan["hosts"] == [] and plan["stuck"].keys() == {"one", "two"}
    assert plan["stuck"]["one"].startswith("mirrorfleet 0.1.0 is no longer installed; the other parts by -e")
    assert plan["stuck"]["two"].startswith("nginx 1.26.3-3 is in none of its archives;")
    assert "  Cannot go back, so left as they are: two: nginx 1.26.3-3 is in none" in plan["lines"][2]
    assert fleet.plan(back=True, only="programs")["due"]["two"]["parts"] == ["mirrorfleet"]
    offers = {
        "two": "     nginx | 1.26.3-4 | ...\n     nginx | 1.26.3-3 | http://archive.example trixie/main"
    }
    assert fleet.plan(back=True, offers=offers)["due"]["two"]["parts"] == ["mirrorfleet", "nginx"]


@pytest.mark.parametrize(
    "spoilt",
    [
        7,
        [],
        {"at": "x"},
        {"at": True, "update": 7},
        FORMER | {"versions": 7},
        FORMER | {"installed": {"x": 1}},
    ],
)
def test_a_spoilt_note_of_what_ran_before_takes_nobody_anywhere(spoilt: Any) -> None:
    fleet = Fleet().add("one", versions=NEW).of("one", former=spoilt)
    assert fleet.plan(back=True)["hosts"] == [] and fleet.plan()["hosts"] == []


# --- what is not a version ---


def test_a_changed_setting_comes_in_the_same_waves() -> None:
    fleet = Fleet().add("one", versions=NEW).add("two", versions=NEW).add("three", "OC", versions=NEW)
    assert fleet.plan(settings={"one": [], "three": []})["hosts"] == []
    # What a guard refuses may be what the setting mends.
    fleet.of("one", tree={"refused": "half of it would go"})
    changed = {"one": ["/etc/nginx/nginx.conf", "bandersnatch 8.2.0"], "two": ["/etc/nginx/nginx.conf"]}
    plan = fleet.plan(settings=changed)
    assert waves(plan) == [["one"], ["two"]] and plan["canary"] == "one"
    told = plan["due"]["one"]
    assert (told["parts"], told["settings"], told["roles"]) == (
        [],
        changed["one"],
        ["web_server", "sync_client"],
    )
    assert "  wave 1: one: configuration: /etc/nginx/nginx.conf, bandersnatch 8.2.0" in plan["lines"]
    assert plan["left"] == {"Left alone, for they run what is pinned": {"three": ""}}
    # One that all of a change concerns shows more, as ever.
    assert fleet.of("two", versions=OLD).plan(settings=changed)["canary"] == "two"
    fleet.holds["two"] = {"reason": "disk is swapped", "by": "", "since": NOW}
    assert fleet.plan(settings=changed)["hosts"] == ["one"], "a person holds the other"


# --- what the fleet can bear ---


def test_too_many_off_the_list_are_refused_with_names_and_the_key() -> None:
    fleet = Fleet()
    for number in range(8):
        fleet.add(f"m{number}", bandwidth=10 + number)
    for name in ("m5", "m6"):
        fleet.standings[name]["listed"] = False
    assert fleet.plan()["refused"] == []
    fleet.answers["m7"] = {"status": {}, "reached": False, "problem": "No route to host"}
    (refused,) = fleet.plan()["refused"]
    assert refused.startswith("3 of 8 mirrors are off the list, held or silent: m5, m6, m7.")
    assert refused.endswith("-e fleet_update_off_share=1")
    assert fleet.plan(off_share="1")["refused"] == [], "as it is typed"
    for wrong in (2, -1, "half", True, None):
        with pytest.raises(AnsibleFilterError, match="fleet_update_off_share is"):
            fleet.plan(off_share=wrong)


def test_a_small_fleet_bears_one_and_a_continent_at_its_floor_is_refused() -> None:
    fleet = Fleet().add("a", "OC").add("b", "OC").add("c")
    fleet.standings["a"]["listed"] = False
    (refused,) = fleet.plan()["refused"]
    assert refused.startswith("OC is at its floor: a is off the list there, and b would be, too.")
    assert refused.endswith("-e fleet_update_capacity_floor=0")
    assert fleet.plan(capacity_floor=0)["refused"] == []
    # Who is off costs nobody a client.
    assert fleet.plan(hosts=["a", "c"])["refused"] == []


def test_who_comes_back_in_this_run_counts_once_it_is_back() -> None:
    fleet = Fleet().add("a", "OC").add("b", "OC").add("c")
    fleet.of("a", update={"gated": OLD, "step": "gate"}).standings["a"]["listed"] = False
    plan = fleet.plan()
    assert plan["refused"] == [] and waves(plan) == [["a"], ["b", "c"]]


def test_without_a_list_nothing_is_updated() -> None:
    fleet = Fleet().add("one")
    answers = fleet.answers | {"red": {"status": {}, "reached": False, "problem": "gone"}}
    (refused,) = fleet.plan(answers=answers)["refused"]
    assert refused.startswith("No redirector tells its list")
    assert fleet.of("one", versions=NEW).plan(answers=answers)["refused"] == [], "there is nothing to do"


def test_a_wave_that_the_fleet_can_no_longer_bear_is_not_begun() -> None:
    fleet = Fleet().add("a", "OC").add("b", "OC").add("c")
    registry = {"mirrors": list(fleet.records.values())}

    def found(wave: list[str], **more: Any) -> dict[str, Any]:
        told = {"status": {"list": {"at": NOW - 5, "mirrors": fleet.standings}, "holds": fleet.holds}}
        wave_of: dict[str, Any] = update_wave(
            more.pop("told", told), "red", registry, wave=wave, now=NOW, **more
        )
        return wave_of

    assert found(["a", "c"]) == {"refused": [], "held": {}}
    assert len(found(["a", "b"])["refused"]) == 1, "of a continent one after the other"
    fleet.standings["a"]["listed"] = False
    (refused,) = found(["b", "c"])["refused"]
    assert refused.startswith("OC is at its floor: a is off the list there, and b would be, too.")
    assert found(["b", "c"], capacity_floor=0)["refused"] == []
    assert found(["a"])["refused"] == [], "who is off costs nobody a client"
    # Whom a person holds meanwhile is left to that person, and so is whom this update held none.
    fleet.holds = {"b": {"reason": "disks"}, "a": {"reason": "being updated from 0.1.0"}, "c": {"reason": ""}}
    assert found(["a", "b"]) == {"refused": [], "held": {"b": "held: disks"}}
    (refused,) = found(["c"], told={"status": {}, "reached": False})["refused"]
    assert refused.startswith("red no longer tells its list")


# --- of any fleet ---

MIRROR = st.tuples(
    st.sampled_from(sorted(CONTINENTS)), st.integers(1, 1000), st.booleans(), st.booleans(), st.integers(1, 3),
)  # fmt: skip


def made(mirrors: list[tuple[str, int, bool, bool, int]]) -> Fleet:
    fleet = Fleet()
    for number, (continent, bandwidth, concerned, listed, tier) in enumerate(mirrors):
        name = f"m{number}"
        fleet.add(name, continent, OLD if concerned else NEW, bandwidth=bandwidth, tier=tier)
        fleet.standings[name]["listed"] = listed
    return fleet


@settings(max_examples=60, deadline=None)
@given(st.lists(MIRROR, min_size=1, max_size=25), st.sampled_from([0, 0.3, 0.5, 0.9, 1]), st.data())
def test_of_any_fleet(
    mirrors: list[tuple[str, int, bool, bool, int]], floor: float, data: st.DataObject
) -> None:
    fleet = made(mirrors)
    plan = fleet.plan(capacity_floor=floor, off_share=1)
    planned = waves(plan)
    concerned = {f"m{number}" for number, one in enumerate(mirrors) if one[2]}
    assert sorted(plan["hosts"]) == sorted(concerned), "each once, and nobody else"
    assert not planned or len(planned[0]) == 1, "the canary is alone"
    shuffled = data.draw(st.permutations(list(fleet.records)))
    assert fleet.plan(capacity_floor=floor, off_share=1, hosts=shuffled)["hosts"] == plan["hosts"]
    if plan["refused"]:
        return
    for wave in planned:
        for continent in CONTINENTS:
            here = [one for one in fleet.records.values() if one["location"]["continent"] == continent]
            offered = sum(one["bandwidth"] for one in here)
            kept = sum(
                one["bandwidth"]
                for one in here
                if fleet.standings[one["name"]]["listed"] and one["name"] not in wave
            )
            touched = any(fleet.standings[one["name"]]["listed"] and one["name"] in wave for one in here)
            least = min(floor * offered, offered - max((one["bandwidth"] for one in here), default=0))
            assert not touched or kept >= least - 1e-6


def test_of_a_thousand_mirrors() -> None:
    fleet = made(
        [(sorted(CONTINENTS)[n % 3], 1 + n * 7 % 1000, n % 10 != 0, n % 50 != 0, 1) for n in range(1000)]
    )
    began = time.process_time()
    plan = fleet.plan()
    took = time.process_time() - began
    assert len(plan["hosts"]) == 900 and took < 1, f"{took:.2f} s"
    assert plan["sizes"][:3] == [1, 2, 90] and len(plan["sizes"]) < 12, plan["sizes"]
