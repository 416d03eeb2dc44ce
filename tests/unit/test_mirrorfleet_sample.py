"""What probes and audits look at: no mirror can foresee it, and no project is beyond it."""

from __future__ import annotations

import asyncio
import json
import random
import re
import sqlite3
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema
import mirror_material as material
import pytest
from mirror_material import JSON_V1, Mirror
from monitor_sandbox import Sandbox

from mirrorfleet.common.schema import schema
from mirrorfleet.monitor import population
from mirrorfleet.monitor.conformance import ROOT_BYTES
from mirrorfleet.monitor.population import Claims, Population, required
from mirrorfleet.monitor.reference import File, Page, Reference
from mirrorfleet.monitor.report import Report
from mirrorfleet.monitor.report_page import page
from mirrorfleet.monitor.service import Monitor
from mirrorfleet.monitor.settings import Selection, load_monitor
from mirrorfleet.monitor.track import Store

GATE = "six"
HOUR, DAY = 3600, 86400


def named(count: int) -> list[str]:
    return [f"p{at:05}" for at in range(count)]


@dataclass
class Large(Mirror):
    """One of many projects; `serials` are those that changed, `forged` those of which it tells lies."""

    serials: dict[str, int] = field(default_factory=dict)
    forged: set[str] = field(default_factory=set)
    lacking: set[str] = field(default_factory=set)  # projects; those in `hidden` only its list lacks
    hidden: set[str] = field(default_factory=set)
    quarantined: set[str] = field(default_factory=set)
    frozen: bool = False  # its pages are those of before every serial
    sent: int = 0  # bytes
    parts: set[str] = field(default_factory=set)  # of its list that were asked for

    def __call__(self, request: Any) -> material.Response:
        status, headers, body = super().__call__(request)
        if request.method == "GET":  # of a long list only the beginning is read, and then the line is dropped
            self.sent += min(len(body), ROOT_BYTES) if request.path == "/simple/" else len(body)
        return status, headers, body

    def page(self, request: Any) -> material.Response:
        project = request.path.removeprefix("/simple/").removesuffix("/")
        if project in self.lacking:
            return 404, {}, b""
        if request.path != "/simple/" or self.kind(request) != JSON_V1:
            return super().page(request)
        there = [one for one in material.FILES if one not in self.lacking | self.hidden]
        projects = [{"name": one, "_last-serial": self.serials.get(one, 7)} for one in there]
        body = json.dumps({"meta": {"api-version": "1.1"}, "projects": projects}).encode()
        headers = self.headers(JSON_V1)
        if (wanted := request.headers.get("Range")) is None:
            return 200, headers, body
        self.parts.add(wanted)
        first, last = map(int, wanted.removeprefix("bytes=").split("-"))
        return 206, headers | {"Content-Range": f"bytes {first}-{last}/{len(body)}"}, body[first : last + 1]

    def project(self, project: str, kind: str) -> material.Response:
        status, headers, body = super().project(project, kind)
        if project in self.forged:
            for name, data in material.FILES[project].items():
                lie = material.sha256(self.lie(name, data))
                body = body.replace(material.sha256(data).encode(), lie.encode())
        if self.frozen and kind == JSON_V1:
            document = json.loads(body)
            document["files"] = [one for one in document["files"] if one["upload-time"] == material.OLD]
            body = json.dumps(document).encode()
        if project in self.quarantined and kind == JSON_V1:
            document = json.loads(body) | {"files": [], "project-status": {"status": "quarantined"}}
            body = json.dumps(document).encode()
        serial = 7 if self.frozen else self.serials.get(project, 7)
        return status, headers | {"X-PyPI-Last-Serial": str(serial)}, body

    def file(self, name: str, data: bytes, request: Any) -> material.Response:
        project = name.partition("-")[0]
        return super().file(name, self.lie(name, data) if project in self.forged else data, request)

    @staticmethod
    def lie(name: str, data: bytes) -> bytes:
        return data[:-1] + bytes([data[-1] ^ 1]) if data else data


class World(Sandbox):
    def __init__(self, *given: Any, projects: list[str]) -> None:
        super().__init__(*given)
        self.projects = projects
        self.config["reference"]["projects"] = [GATE]
        self.reference = Large()
        certificate = self.authority.issue("index.example.test")
        self.config["reference"]["url"] = (
            f"https://index.example.test:{self.serve(self.reference, certificate)}"
        )

    def large(self, name: str = "one", **said: Any) -> Large:
        mirror = self.add(name, mirror=Large(**said))
        assert isinstance(mirror, Large)
        return mirror

    def select(self, *projects: str) -> None:
        """As a fleet that selects projects by name."""
        self.config["selections"] = [{"mirrors": ["one", "two"], "projects": list(projects)}]

    @property
    def memory(self) -> sqlite3.Connection:
        return sqlite3.connect(self.folder / "state/projects.sqlite", isolation_level=None)


@pytest.fixture
def world(tmp_path: Path, serve: Any, authority: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    def make(count: int) -> World:
        projects = named(count)
        files = {one: {f"{one}-1.0.tar.gz": f"the source of {one}".encode() * 3} for one in projects}
        monkeypatch.setattr(material, "FILES", {GATE: material.FILES[GATE], **files})
        return World(tmp_path, serve, authority, projects=projects)

    return make


def failed(report: dict[str, Any]) -> dict[str, str]:
    return {one["rule"]: one["detail"] for one in report["rules"] if one["passed"] is False}


# --- whoever lies is met ---


@pytest.mark.parametrize("everything", [False, True])
def test_a_mirror_that_lies_of_all_but_the_gates_project_is_caught_by_its_rounds(
    world: Any, everything: bool
) -> None:
    """Each asks for one of the others, too; and the mirror stays off as long as it lies."""
    fleet = world(200)
    mirror = fleet.large()
    if not everything:
        fleet.select(GATE, *fleet.projects)
    assert fleet.audit() == 0  # it learns names
    mirror.forged = set(fleet.projects)
    assert fleet.probe() == 1
    assert "has the sha256" in fleet.one()["problem"]
    assert fleet.one()["tampered_at"]


@pytest.mark.parametrize("everything", [False, True])
def test_a_mirror_that_lies_of_one_project_in_ten_is_caught_by_its_audits(
    world: Any, everything: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 20 in 200 an audit of at least 15 even draws meets none 0.19 of the time; ten do so once in 10^7."""
    monkeypatch.setattr(population, "CLAIMED_BYTES", 4 << 10)
    fleet = world(200)
    mirror = fleet.large()
    if not everything:
        fleet.select(GATE, *fleet.projects)
    assert fleet.audit() == 0
    mirror.forged = set(random.SystemRandom().sample(fleet.projects, 20))
    for _ in range(10):
        if fleet.audit() == 1:
            break
    assert fleet.report()["verdict"] == "tampered"
    assert any(one in fleet.report()["problem"] for one in mirror.forged)


def test_what_a_mirror_hides_in_its_list_others_name(world: Any) -> None:
    fleet = world(100)
    fleet.large("one", forged=set(fleet.projects[10:]), hidden=set(fleet.projects[10:]))
    fleet.large("two")
    fleet.audit("two")
    assert fleet.audit("one") == 1
    assert fleet.report("one")["verdict"] == "tampered"


def test_a_tree_that_stood_still_is_asked_for_what_changed(world: Any) -> None:
    """Whatever date and serials it tells: names of what changed come from the others' lists."""
    fleet = world(400)
    fleet.registry["fleet"]["staleness_limit"] = HOUR
    moved = random.SystemRandom().sample(fleet.projects, 5)
    recent = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 2 * HOUR))
    for one in moved:
        material.FILES[one][f"{one}-2.0.tar.gz"] = b"a later source"
    changed = {f"{one}-2.0.tar.gz": {"upload-time": recent} for one in moved}
    serials = dict.fromkeys(moved, 41)
    fleet.reference.changed, fleet.reference.serials = changed, serials
    fleet.large("one", changed=changed, serials=serials, frozen=True)
    fleet.large("two", changed=changed, serials=serials)
    fleet.write()
    assert fleet.probe() == 0
    with sqlite3.connect(fleet.folder / "state/probe.sqlite") as store:
        store.execute("INSERT INTO serial VALUES (40, ?)", (int(time.time()) - 3 * DAY,))
    assert fleet.audit("two") == 0
    assert fleet.audit("one") == 1
    assert " lacks " in failed(fleet.report("one"))["pages"]
    assert any(one in failed(fleet.report("one"))["pages"] for one in moved)
    for _ in range(
        40
    ):  # one of four that are drawn at once changed; half of the time its newest file is asked for
        if fleet.probe() == 1:
            break
    assert "-2.0.tar.gz" in fleet.one()["problem"]


def test_a_mirror_is_measured_by_its_selection_not_by_what_it_names(world: Any) -> None:
    fleet = world(200)
    fleet.select(GATE, *fleet.projects)
    fleet.add("one", mirror=Large(lacking=set(fleet.projects[195:])), partial=True)
    assert fleet.audit() == 1  # at once: its list is short, and read whole
    assert "answered 404, expected 200" in failed(fleet.report())["pages"]
    fleet.mirrors["one"].lacking = set()
    assert fleet.audit() == 0


def test_what_upstream_removed_or_quarantined_is_gone_on_mirrors_and_caches(world: Any) -> None:
    fleet = world(15)
    fleet.select(GATE, *fleet.projects)
    for name, mode in (("one", "bandersnatch"), ("two", "cache")):
        fleet.add(name, mirror=Large(), mode=mode)
    assert fleet.audit() == 0
    fleet.reference.lacking = {"p00003"}
    assert fleet.audit() == 0  # they may lag
    with fleet.memory as memory:
        assert memory.execute("SELECT name FROM project WHERE gone").fetchall() == [("p00003",)]
        memory.execute("UPDATE project SET gone = gone - ? WHERE gone", (2 * DAY,))
    assert fleet.audit() == 1
    for name in ("one", "two"):
        told = "/simple/p00003/ answered 200, expected 404: it was removed"
        assert failed(fleet.report(name))["removed"] == told
    fleet.reference.lacking = set()  # it came back
    assert fleet.audit() == 0
    # Of what is quarantined no file may be named: it may be gone, or have a page without files.
    fleet.reference.quarantined = {"p00003", "p00004"}
    fleet.reference.serials = dict.fromkeys(fleet.reference.quarantined, 9)
    assert fleet.audit() == 0
    with fleet.memory as memory:
        memory.execute("UPDATE project SET gone = gone - ? WHERE gone", (2 * DAY,))
    fleet.mirrors["one"].lacking, fleet.mirrors["one"].quarantined = {"p00003"}, {"p00004"}
    assert fleet.audit("one") == 0
    assert fleet.audit("two") == 1
    assert "it is quarantined, and no file of it may be named" in failed(fleet.report("two"))["removed"]


# --- by chance ---


def test_each_project_has_its_chance_and_what_is_new_or_used_has_more(tmp_path: Path) -> None:
    names = named(400)
    memory = Population(tmp_path)
    now = int(time.time())
    for name in names[:20]:
        memory.saw(name, Page(name, (File(name, f"{name}-1", "/x", "0" * 64, 1, now - HOUR),), 7))
    for _ in range(50):
        memory.need(names[20:22])
    drawn: Counter[str] = Counter()
    for _ in range(1500):
        draw = memory.draw(20, Selection(frozenset(names)), ["p00399"])
        assert len(draw.names) == len(set(draw.names)) <= 20
        assert draw.population == 400
        assert set(draw.names) >= draw.even
        assert len(draw.even) >= 5
        drawn.update(draw.names)
    others = [drawn[name] for name in names[22:399]]
    assert min(others) >= 1  # of 1,500 draws, at 5 of 400 at least, one would be missed by 10^-8 of them
    usual = sum(others) / len(others)
    assert min(drawn[name] for name in names[:20]) > 3 * usual
    assert min(drawn[name] for name in [*names[20:22], names[399]]) > 3 * usual


def test_no_seed_and_no_past_tells_what_comes(tmp_path: Path) -> None:
    memory, selection = Population(tmp_path), Selection(frozenset(named(1000)))
    seen = set()
    for _ in range(50):
        random.seed(1)
        seen.add(frozenset(memory.draw(20, selection, ()).names))
    assert len(seen) == 50
    assert isinstance(population._chance, random.SystemRandom)


def test_every_round_asks_for_another_project(world: Any) -> None:
    fleet = world(40)
    fleet.select(GATE, *fleet.projects)
    mirror = fleet.large()
    for _ in range(12):
        assert fleet.probe() == 0
    pages = [path for method, path, _ in mirror.asked if path.startswith("/simple/p") and method == "GET"]
    assert len(set(pages)) >= 8


def asked_for(monitor: Monitor, fleet: World) -> tuple[str, bool]:
    """The project that a round drew, and whether it was good."""
    asyncio.run(monitor.probe("one"))
    return monitor._drawn["one", "ipv4"].file.project, monitor.tracks["one"].good > 0


def test_what_failed_is_asked_for_until_it_is_right_or_owed_no_more(world: Any) -> None:
    """A mirror that lacks one project of many leaves the list by its rounds, like one that lacks all."""
    fleet = world(30)
    fleet.select(GATE, *fleet.projects)
    fleet.registry["fleet"]["staleness_limit"] = HOUR
    mirror = fleet.large()
    fleet.registry["mirrors"][0]["address_families"] = ["ipv4"]
    fleet.write()
    config = load_monitor(fleet.folder / "monitor.json")
    config.state.mkdir()
    monitor = Monitor(config, Store(config.state / "probe.sqlite"))
    for _ in range(3):
        asyncio.run(monitor._ask_reference())
    drawn = list(monitor.reference.drawn)
    assert len(drawn) >= 4
    mirror.lacking = {drawn[0]}
    for _ in range(200):
        project, good = asked_for(monitor, fleet)
        if not good:
            break
    assert project == drawn[0]
    for _ in range(5):
        assert asked_for(monitor, fleet) == (drawn[0], False)
    assert "answered 404" in monitor.tracks["one"].problem
    mirror.lacking = set()
    assert asked_for(monitor, fleet) == (drawn[0], True)
    assert asked_for(monitor, fleet)[0] != drawn[0]
    # What the trusted index has no longer is no mirror's fault.
    mirror.lacking = fleet.reference.lacking = set(drawn)
    monitor.reference.drawn = {
        name: one._replace(asked=one.asked - 60) for name, one in monitor.reference.drawn.items()
    }
    for _ in range(5):
        asyncio.run(monitor.probe("one"))
        assert monitor.tracks["one"].good
    # Nor is what its selection leaves out from now on.
    fleet.reference.lacking = set()
    for _ in range(3):
        asyncio.run(monitor._ask_reference())
    mirror.lacking = set(fleet.projects)
    assert not asked_for(monitor, fleet)[1]
    monitor.registry.mirrors["one"] |= {"partial": True, "left_out": {"max_project_size": 1}}
    for _ in range(3):
        asyncio.run(monitor.probe("one"))
        assert monitor.tracks["one"].good


# --- what it costs, and what it says ---


@pytest.mark.parametrize("everything", [False, True])
def test_a_round_and_an_audit_cost_the_same_whatever_there_is(
    world: Any, everything: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(population, "CLAIMED_BYTES", 16 << 10)
    costs = []
    for count in (300, 2000):
        fleet = world(count)
        (fleet.folder / "state/projects.sqlite").unlink(missing_ok=True)
        mirror = fleet.large()
        if not everything:
            fleet.select(GATE, *fleet.projects)
        assert fleet.audit() == 0
        assert fleet.probe() == 0
        costs.append([(len(one.asked), one.sent) for one in (fleet.reference, mirror)])
        assert ("GET", "/simple/") not in {(method, path) for method, path, _ in fleet.reference.asked}
    for (requests, sent), (more_requests, more_sent) in zip(*costs, strict=True):
        assert more_requests < 1.5 * requests < 600
        assert more_sent < sent + 5 * ROOT_BYTES < 1 << 20


def test_a_report_says_of_how_many_projects_it_speaks(world: Any) -> None:
    fleet = world(300)
    fleet.select(GATE, *fleet.projects)
    fleet.large()
    assert fleet.audit() == 0
    found = fleet.report()
    jsonschema.validate(found, schema("audit"), jsonschema.Draft202012Validator)
    sample = found["sample"]
    assert (sample["population"], sample["of"]) == (301, "selection")
    assert 15 <= sample["even"] <= sample["projects"] <= 20
    assert 0.7 < sample["low"] < sample["high"] == 1
    told = (fleet.folder / "state/audits/one.html").read_text()
    assert f"Looked at: {sample['projects']} of 301 projects that it is to have" in told


def test_one_project_of_700000_says_so() -> None:
    report = Report("one", "https://one.example.test", 1, looked_at={GATE: True})
    report.drawn(700_000, "root page")
    document = report.document(None)
    assert document["sample"] == {
        "population": 700_000, "of": "root page", "projects": 1, "even": 1, "low": pytest.approx(0.2065, abs=1e-4),
        "high": 1.0,
    }  # fmt: skip
    text = page(document).decode()
    assert "1 of about 700000 projects that its list names" in text
    assert "between 20.7% and 100.0%" in text
    # Where nothing is left to chance there is no guess.
    every = Report("one", "https://one.example.test", 1, looked_at={"a": True, "b": True}, unsound={"b"})
    every.drawn(2, "selection")
    assert (every.document(None)["sample"]["low"], every.document(None)["sample"]["high"]) == (0.5, 0.5)


def test_the_length_of_a_list_tells_how_many_it_names(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(population, "CLAIMED_BYTES", 4 << 10)
    fleet = world(1000)
    mirror = fleet.large()
    for _ in range(3):
        assert fleet.audit() == 0
    assert len(mirror.parts) == 3  # each at another place
    sample = fleet.report()["sample"]
    assert sample["of"] == "root page"
    assert sample["population"] == pytest.approx(1001, rel=0.05)


# --- state that is lost, clocks that jump ---


def test_a_memory_of_names_that_is_rotten_is_set_aside_and_begun_anew(
    world: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet = world(30)
    fleet.large()
    (fleet.folder / "state").mkdir()
    file = fleet.folder / "state/projects.sqlite"
    for rotten in (b"no database at all" * 100, b"SQLite format 3\0" + bytes(4080)):
        file.write_bytes(rotten)
        assert fleet.audit() == 0
        assert f"{file} is corrupt and set aside as {file}.corrupt" in capsys.readouterr().err
        assert file.with_name("projects.sqlite.corrupt").read_bytes() == rotten
        assert len(Population(fleet.folder / "state").draw(50, Selection(), ()).names) == 31
    file.unlink()
    file.mkdir()
    fleet.config["metrics"] = str(fleet.folder / "metrics")
    assert fleet.probe() == 0
    assert file.is_file() and file.with_name("projects.sqlite.corrupt").is_dir()
    told = re.search(
        r"^mirrorfleet_monitor_state_set_aside_timestamp_seconds (\S+)$",
        (fleet.folder / "metrics").read_text(),
        re.MULTILINE,
    )
    assert told and time.time() - float(told[1]) < 60


def test_what_another_process_has_made_anew_is_not_set_aside(tmp_path: Path) -> None:
    """The service and an audit meet the same rotten file."""
    memory = Population(tmp_path)
    memory.learn({"six": 1})
    assert memory.set_aside_at is None
    memory._heal()
    assert memory.set_aside_at is None and memory.draw(9, Selection(), ()).names == ["six"]


def test_clocks_that_jump_leave_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory, clock = Population(tmp_path), [time.time() + 900 * DAY]
    monkeypatch.setattr(population.time, "time", lambda: clock[0])
    memory.saw("a", Page("a", (), 1))
    memory.saw("a", None)
    clock[0] -= 900 * DAY
    memory.saw("b", Page("b", (), 1))
    assert memory.gone(clock[0] - 1) == []
    clock[0] += 2 * HOUR
    assert memory.gone(clock[0] - HOUR) == ["a"]


def test_no_more_names_are_kept_than_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(population, "NAMES_KEPT", 100)
    memory = Population(tmp_path)
    memory.saw("dear", Page("dear", (), 1))
    for at in range(10):
        memory.learn({f"x{at}-{one}": 1 for one in range(50)})
    assert len(memory.draw(1000, Selection(), ()).names) == 100
    assert "dear" in memory.draw(1000, Selection(), ()).names
    # No mirror alone decides what others are asked for.
    monkeypatch.setattr(population, "LEARNT", 10)
    other = Population(tmp_path / "..")
    other._path = tmp_path / "other.sqlite"
    other.learn(dict.fromkeys(named(5000), 99), since=7)
    assert len(other.draw(1000, Selection(), ()).names) <= 10


# --- what it is made of ---


def test_what_a_part_of_a_list_would_name() -> None:
    part = Claims({"b": 1, "d": 2}, about=9)
    assert part.lacks(["a", "b", "c", "e"]) == ["c"]
    whole = Claims({"b": 1, "d": 2}, whole=True, about=2)
    assert whole.lacks(["a", "b", "c", "e"]) == ["a", "c", "e"]
    assert Claims().lacks(["a"]) == []


def test_what_wheels_require() -> None:
    metadata = (
        b"Name: x\nRequires-Dist: Flask_SQL.alchemy (>=2)\nRequires-Dist: six; extra == 'a'\nRequires: no\n"
    )
    assert required(metadata) == {"flask-sql-alchemy", "six"}
    assert required(b"\xff\x00") == set()


def test_the_trusted_indexs_serials_over_time() -> None:
    reference = Reference(serials=[(100, 5), (200, 9)])
    assert [reference.serial_at(at) for at in (99, 100, 199, 500)] == [None, 5, 5, 9]
    assert [reference.reached(serial) for serial in (4, 5, 6, 9, 10)] == [100, 100, 200, 200, None]
