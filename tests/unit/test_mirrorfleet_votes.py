"""Several monitors decide together: who leaves, who stays, whose word is not taken, and what proof is kept."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from listing_material import NOW, record, registry
from mirror_material import FILES, Mirror, sha256
from monitor_sandbox import Sandbox
from site_material import Site, health

from mirrorfleet import cli
from mirrorfleet.common.schema import schema
from mirrorfleet.fleet.registry import parse
from mirrorfleet.fleet.standing import (
    FAMILIES,
    Audit,
    Health,
    Inputs,
    Monitor,
    Outcome,
    Rounds,
    Settings,
    Standing,
    step,
)

RULES = Settings(damping_seconds=0)
WELL = Health(NOW - 5, good=9, last_modified=NOW - 60, serial=12)
DEAD = replace(WELL, good=0, bad=9, problem="connection over ipv4: connection refused")
LISTED = Standing(True, "listed", "", NOW - 10**6, joined=NOW - 10**6)
OFF = Standing(False, "failing", "x", NOW - 999, left=NOW - 999, leaves=(NOW - 999,), joined=NOW - 10**6)
AUDITED = Audit(passed_at=NOW - 100)
OTHERS = ("two", "three")


def monitors(says: Sequence[Health | None], **changes: Any) -> list[Monitor]:
    """Of which each says something of the first mirror, or has not measured it, and finds the others well."""
    return [
        Monitor(
            NOW,
            name=f"m{at}",
            health=dict.fromkeys(OTHERS, WELL) | ({"one": said} if said else {}),
            audits=dict.fromkeys(("one", *OTHERS), AUDITED),
        )
        for at, said in enumerate(says)
    ]


def decide(
    says: Sequence[Monitor],
    former: Mapping[str, Standing] | None = None,
    *,
    away: Sequence[str] = (),
    **changes: Any,
) -> Outcome:
    of = parse(registry("one", *OTHERS, **changes), "test")
    former = dict.fromkeys(("one", *OTHERS), LISTED) | (former or {})
    return step(Inputs(of, says, {}, RULES, NOW, away), former)


@pytest.mark.parametrize("votes", range(1, 6))
def test_a_majority_takes_a_mirror_off_and_brings_it_back(votes: int) -> None:
    for against in range(votes + 1):
        says = monitors([DEAD] * against + [WELL] * (votes - against))
        for order in itertools.islice(itertools.permutations(says), 24):
            listed = decide(order).standings["one"]
            assert listed.listed == (against <= votes / 2), (against, votes)
            back = decide(order, {"one": OFF}).standings["one"]
            assert back.listed == (against < votes / 2), (against, votes)
            if votes > 1 and not listed.listed:
                assert listed.reason == f"{DEAD.problem} ({against} of {votes} monitors)"


def test_of_two_that_disagree_nothing_follows_and_it_is_not_said_that_it_will_leave() -> None:
    found = decide(monitors([DEAD, WELL]))
    assert (found.standings["one"].next, found.events, found.cut_off) == ("", [], "")
    soon = decide(monitors([replace(DEAD, bad=2), replace(DEAD, bad=1), WELL]))
    assert soon.standings["one"].next == "leaves when 2 more rounds fail"


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from([WELL, DEAD, None]), min_size=1, max_size=7), st.booleans())
def test_only_who_measured_a_mirror_counts(says: list[Health | None], listed: bool) -> None:
    votes = [one for one in says if one]
    found = decide(monitors(says), {"one": LISTED if listed else OFF}).standings["one"]
    against = sum(one is DEAD for one in votes)
    if votes and against != len(votes) / 2:
        assert found.listed == (against < len(votes) / 2)
    elif votes:
        assert found.listed == listed
    else:
        assert found.code == "unmeasured"
    # Who measured it last a day ago is nobody who knows.
    old = [replace(one, measured_at=NOW - 86400) if one is DEAD else one for one in says]
    if any(one is WELL for one in says):
        assert decide(monitors(old), {"one": LISTED}).standings["one"].listed


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"at": NOW - 901}, "the monitor has been silent for 15 minutes"),
        ({"at": NOW + 3600}, "the monitor's clock is 60 minutes ahead"),
        ({"reference_problem": "no answer"}, "the monitor cannot reach the reference: no answer"),
        ({"health": dict.fromkeys(("one", *OTHERS), DEAD)}, "3 of 3 listed mirrors fail at once: the monitor is held"),
    ],
)  # fmt: skip
def test_one_that_is_cut_off_is_passed_over_and_the_others_decide(changes: dict[str, Any], why: str) -> None:
    first, second = monitors([DEAD, WELL])
    lame = replace(first, **changes)
    found = decide([lame, second])
    assert found.standings["one"].listed and not found.cut_off
    assert found.unheard["m0"].keys() == FAMILIES.keys()
    assert found.unheard["m0"]["ipv4"].startswith(why)
    # Its word would have been enough, had it one.
    assert not decide([first, replace(second, at=NOW - 901)]).standings["one"].listed
    # Without any that has one the list stands.
    alone = decide([lame, replace(second, at=NOW - 901)])
    assert all(one.listed for one in alone.standings.values()) and not alone.events
    assert alone.cut_off.startswith(f"m0: {why}") and "; m1: the monitor has been silent" in alone.cut_off


def test_a_monitor_without_ipv6_has_no_say_in_it() -> None:
    lame = replace(WELL, families={"ipv4": Rounds(9), "ipv6": Rounds(bad=9, problem="no route")})
    blind, seeing = monitors([lame, WELL])
    assert decide([blind, blind, seeing]).standings["one"].listed_families == ["ipv4"]
    blind = replace(blind, families=("ipv4",))
    found = decide([blind, replace(blind, name="m9"), seeing])
    assert found.standings["one"].listed_families == ["ipv4", "ipv6"]
    assert (found.unheard["m0"], found.cut_off) == ({"ipv6": "the monitor has no IPv6 itself"}, "")
    # Where none has it, who is listed stays, nobody joins by it, and the other family goes on as ever.
    nobody = decide([blind], {"one": replace(OFF, families={"ipv4": LISTED, "ipv6": OFF})})
    assert nobody.standings["one"].listed_families == ["ipv4"]
    assert nobody.standings["one"].families["ipv6"].reason == "no monitor has IPv6"
    assert not nobody.cut_off
    assert decide([blind]).standings["two"].listed_families == ["ipv4", "ipv6"]
    gone = decide([replace(blind, health=blind.health | {"one": DEAD})])
    assert not gone.standings["one"].listed


def test_a_wrong_hash_counts_at_once_whoever_found_it_until_the_finder_finds_it_well() -> None:
    seen = replace(WELL, tampered_at=NOW - 50)
    finder, *others = monitors([seen, WELL, WELL])
    # The audits of the others, which never saw anything wrong, say nothing of it.
    others = [replace(one, audits={"one": Audit(passed_at=NOW - 1)}) for one in others]
    found = decide([finder, *others])
    one = found.standings["one"]
    assert (one.listed, one.code) == (False, "tampered")
    assert one.reason == "served a file with a wrong hash at 2027-01-15 07:59 UTC, found by m0"
    # One that is cut off, or gone for a while, has proven it all the same.
    for silent in ([replace(finder, at=NOW - 9999), *others], others):
        still = decide(silent, found.standings, away=["m0"])
        assert still.standings["one"].code == "tampered", silent
    assert decide([replace(finder, at=NOW - 9999), *others]).standings["one"].code == "tampered"
    # When it is the fleet's no more, the others' audits are all there is.
    assert decide(others, found.standings).standings["one"].listed
    cleared = replace(finder, audits={"one": Audit(passed_at=NOW - 2)})
    back = decide([cleared, *others], found.standings)
    assert back.standings["one"].listed
    # And it stays there when nobody can tell of that audit any more.
    assert decide(others, back.standings, away=["m0"]).standings["one"].listed


def test_one_audit_is_enough_to_return_but_for_whose_own_fail() -> None:
    """Others found it well all the time, and audit it again in a day."""
    off = replace(OFF, left=NOW - 50)
    first, *others = monitors([WELL, WELL, WELL])
    assert decide([first, *others], {"one": off}).standings["one"].code == "audit"
    audited = replace(first, audits={"one": Audit(passed_at=NOW - 5)})
    assert decide([audited, *others], {"one": off}).standings["one"].listed
    failing = [replace(one, audits={"one": Audit(NOW - 999, None, "it lacks pages", 2)}) for one in others]
    found = decide([audited, *failing], {"one": off}).standings["one"]
    assert (found.code, found.reason) == (
        "audit",
        "awaits an audit; the last one: it lacks pages (2 of 3 monitors)",
    )
    assert not decide([audited, *failing]).standings["one"].listed
    assert decide([audited, others[0], failing[0]]).standings["one"].listed


# --- as it reaches the list ---


@pytest.fixture
def site(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


class Watched(Site):
    """A redirector's files with what three monitors say."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "one", "two", "three", "four")
        self.more = {name: health(self.names, self.now) | {"monitor": name} for name in ("n", "o")}
        self.config["health"] += [str(folder / f"{name}.json") for name in self.more]
        self.config["metrics"] = str(folder / "list.prom")

    def publish(self, *options: str) -> int:
        for name, told in self.more.items():
            (self.folder / f"{name}.json").write_text(json.dumps(told))
        return super().publish(*options)

    @property
    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.read("mirrors.json"))
        jsonschema.validate(found, schema("mirrors"), jsonschema.Draft202012Validator)
        return found

    @property
    def heard(self) -> dict[str, str]:
        """By monitor, why it has no vote; empty when it has."""
        told = {one["name"]: one["problem"] for one in self.document["monitors"]}
        lines = (self.folder / "list.prom").read_text().splitlines()
        for one in self.document["monitors"]:
            assert f'mirrorfleet_list_monitor_heard{{source="{one["name"]}"}} {int(one["heard"])}' in lines
            assert one["name"] in self.read("index.html")
        return told


def fails(told: dict[str, Any], name: str = "one") -> None:
    told["mirrors"][name] = told["mirrors"][name] | {"good": 0, "bad": 9, "problem": "connection refused"}


def test_every_monitor_is_read_and_most_of_them_decide(site: Watched) -> None:
    assert site.publish() == 0
    assert site.heard == {"m": "", "n": "", "o": ""}
    fails(site.health)
    assert site.publish() == 0
    assert site.listed["one"]
    fails(site.more["o"])
    assert site.publish() == 0
    assert not site.listed["one"]
    assert "connection refused (2 of 3 monitors)" in site.read("index.html")


@pytest.mark.parametrize(
    "harm", ["absent", "rotten", "old", "ahead", "of the same name", "sees everything down"]
)
def test_one_that_cannot_be_believed_is_named_and_costs_nobody_anything(site: Watched, harm: str) -> None:
    site.publish()
    former = site.listed
    for told in (site.health, *site.more.values()):
        fails(told, "four")
    if harm == "absent":
        site.config["health"][0] = str(site.folder / "nothing.json")
    elif harm == "rotten":
        site.health = []  # type: ignore[assignment]
    elif harm in ("old", "ahead"):
        site.health["at"] += 9999 if harm == "ahead" else -9999
    elif harm == "of the same name":
        site.more["n"] |= {"monitor": "m"}
    else:
        for name in site.names:
            fails(site.health, name)
    assert site.publish() == 0  # and what the others find is done
    assert site.listed == former | {"four": False}
    problems = [problem for problem in site.heard.values() if problem]
    assert len(problems) == 1, problems
    assert "passed over" in site.read("index.html")
    assert "kept_since" not in site.document


def test_without_any_the_last_list_stands_and_its_age_is_told(site: Watched) -> None:
    site.publish()
    heard = json.loads((site.folder / "state.json").read_text())["heard"]
    former = site.listed
    for told in (site.health, *site.more.values()):
        told["at"] -= 1000
        fails(told)
    assert site.publish() == 1
    assert site.publish() == 1  # also the next time
    assert (site.listed, site.document["kept_since"]) == (former, heard)
    assert "No monitor has a vote since <time" in site.read("index.html")
    assert f"mirrorfleet_list_heard_timestamp_seconds {heard}" in (site.folder / "list.prom").read_text()


def test_what_was_found_is_kept_for_persons_to_read(site: Watched) -> None:
    found = "file: /packages/x has the sha256 00, the trusted page says 11"
    wrong = {"tampered_at": site.now - 5, "proof": {"family": "ipv4", "address": "192.0.2.1", "found": found}}
    site.publish()
    site.more["n"]["mirrors"]["one"] = site.more["n"]["mirrors"]["one"] | wrong
    assert site.publish() == 0
    assert not site.listed["one"]
    for _ in range(2):
        page = site.read("mirror/one.html")
        assert "<td><bdi>n</bdi></td><td><bdi>192.0.2.1</bdi></td>" in page and found in page
        # The monitor that proved it is gone for a while: the mirror stays off, and the proof stays.
        site.more["n"] = {}
        site.health["mirrors"]["one"]["audit"] = {"passed_at": site.now, "tampered_at": None, "problem": ""}
        assert site.publish() == 0
        assert not site.listed["one"] and site.heard["n"]
    # For ever: its proof stays, and what the others find decides.
    del site.config["health"][1]
    assert site.publish() == 0
    assert site.listed["one"] and found in site.read("mirror/one.html")


def test_a_memory_of_one_monitor_is_read(site: Watched) -> None:
    """A mirror that one monitor had found out stays off until an audit since then has passed."""
    site.health["mirrors"]["one"] = site.health["mirrors"]["one"] | {"tampered_at": site.now - 5}
    site.publish()
    state = json.loads((site.folder / "state.json").read_text())

    def former(one: dict[str, Any]) -> None:
        at = one.pop("tampered")
        one["tampered_at"] = next(iter(at.values()), None)
        for family in one["families"].values():
            former(family)

    for one in state["standings"].values():
        former(one)
    for key in ("monitors", "heard", "proofs"):
        del state[key]
    (site.folder / "state.json").write_text(json.dumps(state))
    site.health["mirrors"]["one"] |= {"tampered_at": None}
    assert site.publish() == 0
    assert site.listed == {"one": False, "two": True, "three": True, "four": True}
    site.more["n"]["mirrors"]["one"] = site.more["n"]["mirrors"]["one"] | {
        "audit": {"passed_at": site.now, "tampered_at": None, "problem": ""}
    }
    assert site.publish() == 0
    assert site.listed["one"]


# --- two networks, with real processes ---

SOURCE = Path(__file__).resolve().parents[2] / "src"


def program(*arguments: str) -> int:
    """The command, in a process of its own."""
    command = [sys.executable, "-m", "mirrorfleet.cli", *arguments]
    return subprocess.run(command, env=os.environ | {"PYTHONPATH": str(SOURCE)}, check=False).returncode


def inside(*arguments: str) -> int:
    return cli.main([*arguments])


class Networks:
    """Two monitors, each with a way of its own to the same mirrors, and the list that both make."""

    def __init__(
        self, folder: Path, serve: Any, authority: Any, program: Callable[..., int] = inside
    ) -> None:
        self.folder, self.sides, self.program = folder, {}, program
        for side in ("here", "there"):
            (folder / side).mkdir()
            box = self.sides[side] = Sandbox(folder / side, serve, authority)
            box.config |= {"name": side}
        here, there = self.sides.values()
        here.add("two", address_families=["ipv4"], ipv6=False)
        there.registry = here.registry
        there.config["connect_to"]["two"] = ["127.0.0.1"]
        # The same name leads to another host in each network.
        self.ways = {"here": Mirror(), "there": Mirror()}
        certificate = authority.issue("one.example.test")
        port = serve(self.ways["here"], certificate, host="127.0.0.2")
        serve(self.ways["there"], certificate, host="127.0.0.3", port=port)
        url = f"https://one.example.test:{port}"
        here.registry["mirrors"].append(record("one", url=url, urls=[url], address_families=["ipv4"]))
        here.config["connect_to"]["one"], there.config["connect_to"]["one"] = ["127.0.0.2"], ["127.0.0.3"]
        here.write()
        listing = {
            "registry": str(folder / "here/registry.json"), "documents": str(folder / "list"),
            "state": str(folder / "state.json"), "health": [str(folder / side / "health.json") for side in self.sides],
            "settings": {"rise": 1, "damping_seconds": 0},
        }  # fmt: skip
        (folder / "list.json").write_text(json.dumps(listing))

    def measured(self, *sides: str, audited: bool = False) -> None:
        for side in sides or self.sides:
            self.sides[side].write()
            where = str(self.folder / side / "monitor.json")
            if audited:
                self.program("audit", "-c", where, "one", "two")
            self.program("probe", "--once", "-c", where)

    def listed(self) -> dict[str, str]:
        """Each mirror's reason, empty when it is listed."""
        assert self.program("list", "-c", str(self.folder / "list.json")) == 0
        document = json.loads((self.folder / "list/mirrors.json").read_text())
        return {one["name"]: one["reason"] for one in document["mirrors"]}


@pytest.mark.parametrize("found_by", ["probe", "audit"])
def test_who_serves_wrong_bytes_to_one_network_only_is_caught_by_the_monitor_there(
    tmp_path: Path, serve: Any, authority: Any, found_by: str
) -> None:
    networks = Networks(tmp_path, serve, authority, program if found_by == "probe" else inside)
    networks.measured(audited=True)
    assert networks.listed() == {"one": "", "two": ""}
    networks.ways["there"].fault = "wrong byte"
    networks.measured(audited=found_by == "audit")
    why = networks.listed()["one"]
    assert why.startswith("served a file with a wrong hash at ") and why.endswith(", found by there")
    # What was asked, what came, what should have come, and from where, for persons to read.
    page = (tmp_path / "list/mirror/one.html").read_text()
    assert "<td><bdi>there</bdi></td>" in page and "/packages/" in page
    assert "127.0.0.3" in page or found_by == "audit"
    asked = [
        sha256(data) for files in FILES.values() for file, data in files.items() if f"/{file} has" in page
    ]
    assert asked and all(f"says {one}" in page for one in asked)
    # The other one finds nothing, whatever it looks at.
    networks.measured("here", audited=True)
    assert networks.listed()["one"] == why
    networks.ways["there"].fault = ""
    networks.measured(audited=True)
    assert networks.listed() == {"one": "", "two": ""}
    assert "<td><bdi>there</bdi></td>" in (tmp_path / "list/mirror/one.html").read_text()


def test_a_dead_way_to_one_network_is_no_majority(tmp_path: Path, serve: Any, authority: Any) -> None:
    networks = Networks(tmp_path, serve, authority)
    networks.measured(audited=True)
    assert networks.listed() == {"one": "", "two": ""}
    networks.ways["there"].fault = "error"
    for _ in range(4):
        networks.measured("there")
    networks.measured("here")
    assert networks.listed() == {"one": "", "two": ""}
    networks.ways["here"].fault = "error"
    for _ in range(3):
        networks.measured("here")
    assert networks.listed()["one"].endswith(" (2 of 2 monitors)")


def test_a_monitor_tells_which_families_it_has_and_measures_no_other(
    tmp_path: Path, serve: Any, authority: Any
) -> None:
    """In a network namespace of its own, where there is no way by IPv6, not even to itself."""
    box = Sandbox(tmp_path, serve, authority, "one", "two")
    box.probe()
    assert box.health["families"] == ["ipv4", "ipv6"]
    assert box.one()["rounds"].keys() == {"ipv4", "ipv6"}
    box.registry["mirrors"][1]["address_families"] = ["ipv6"]
    box.write()
    measured = box.one("two")["measured_at"]
    script = 'ip link set lo up && ip -6 address delete ::1/128 dev lo && exec "$@"'
    command = [
        sys.executable,
        "-m",
        "mirrorfleet.cli",
        "probe",
        "--once",
        "-c",
        str(tmp_path / "monitor.json"),
    ]
    done = subprocess.run(
        ["unshare", "--net", "--map-root-user", "sh", "-c", script, "sh", *command],
        env=os.environ | {"PYTHONPATH": str(SOURCE)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr  # nobody answers there
    assert box.health["families"] == ["ipv4"]
    assert box.one()["rounds"].keys() == {"ipv4"}
    assert box.one("two")["measured_at"] == measured
