"""The verb route: who is sent clients, by which documents; what becomes of nginx's maps when something is missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from listing_material import NOW, record, registry

from mirrorfleet.cli import main
from mirrorfleet.fleet import votes as fleet_votes
from mirrorfleet.fleet.health import read
from mirrorfleet.fleet.registry import parse
from mirrorfleet.fleet.standing import Inputs, Settings, clock
from mirrorfleet.fleet.votes import Votes
from mirrorfleet.route import pools, run
from mirrorfleet.route.serving import Limits, Told, listed_families, mirrors


def measured(**changes: Any) -> dict[str, Any]:
    return {
        "measured_at": NOW,
        "good": 9,
        "bad": 0,
        "problem": "",
        "last_modified": NOW - 60,
        "addresses": ["192.0.2.7", "2001:db8::7"],
        "rounds": {family: {"good": 9, "bad": 0, "problem": ""} for family in ("ipv4", "ipv6")},
    } | changes


def failing(*families: str) -> dict[str, Any]:
    rounds = {
        family: {"good": 0, "bad": 1, "problem": "refused"}
        if family in families
        else {"good": 9, "bad": 0, "problem": ""}
        for family in ("ipv4", "ipv6")
    }
    return measured(good=0, bad=1, problem="refused", rounds=rounds)


def health(monitor: str = "m", **mirrors: dict[str, Any]) -> dict[str, Any]:
    return {
        "schema": 1,
        "monitor": monitor,
        "at": NOW,
        "reference": {"problem": "", "serial": 1},
        "mirrors": mirrors,
    }


LIMITS = Limits()


def told(registered: dict[str, Any], *found: dict[str, Any], limits: Limits = LIMITS, **changes: Any) -> Told:
    """As a run has them: by a registry and by what each monitor found."""
    fleet = parse(registered, "registry")
    votes = Votes([read(one) for one in found], [], set())
    given = {"holds": {}, "settings": Settings(), "now": NOW}
    both = dict.fromkeys(fleet.mirrors, frozenset({"ipv4", "ipv6"}))
    listed, families = changes.pop("listed", both), changes.pop("families", ("ipv4", "ipv6"))
    inputs = Inputs(fleet, votes.monitors, **given | changes)
    known = run._known(votes, {}, fleet.mirrors)
    return Told(inputs, listed, known, families, limits)


def serving(given: Told) -> dict[str, set[str]]:
    return {one.name: set(one.serving) for one in mirrors(given)}


BOTH = {"ipv4", "ipv6"}
NO_ADDRESS = "no address is known of it at which this host could ask it"


def test_who_is_listed_well_and_fresh_is_sent_clients() -> None:
    assert serving(told(registry("a", "b"), health(a=measured(), b=measured()))) == {"a": BOTH, "b": BOTH}
    (one, _) = mirrors(told(registry("a", "b"), health(a=measured(), b=measured())))
    assert (one.weight, one.country, one.addresses) == (1000, "NZ", ("192.0.2.7", "2001:db8::7"))


@pytest.mark.parametrize(
    ("changes", "found", "more", "why"),
    [
        ({"state": "drained"}, measured(), {}, "drained by its operator"),
        ({"state": "retired"}, measured(), {}, "retired"),
        ({}, measured(), {"holds": {"a": "looked into"}}, "held: looked into"),
        ({}, measured(), {"listed": {"b": frozenset({"ipv4"})}}, "not on the list"),
        ({}, measured(last_modified=NOW - 9 * 86400), {}, "stale: last synced 9 days ago"),
        ({}, measured(last_modified=None), {}, "does not say how fresh it is (/last-modified)"),
        ({}, measured(tampered_at=NOW - 9), {}, f"served a file with a wrong hash at {clock(NOW - 9)}"),
        ({}, failing("ipv4", "ipv6"), {}, "refused"),
        ({}, measured(addresses=[]), {}, "no address is known of it at which this host could ask it"),
        (
            {},
            measured(addresses=["x", "fe80::1%eth0"]),
            {},
            "no address is known of it at which this host could ask it",
        ),
    ],
)
def test_who_is_sent_nobody(changes: Any, found: dict[str, Any], more: dict[str, Any], why: str) -> None:
    one, other = mirrors(told(registry("a", "b", **changes), health(a=found, b=measured()), **more))
    assert (one.serving, one.why_not) == (frozenset(), why)
    assert other.serving


def test_while_no_monitor_has_a_vote_an_absolute_limit_counts() -> None:
    old = health(a=measured(last_modified=NOW - 7 * 86400 - 1), b=measured(), c=measured(last_modified=None))
    silent = told(registry("a", "b", "c"), old | {"at": NOW - 901})
    found = {one.name: one.why_not for one in mirrors(silent)}
    assert found["b"] == ""
    assert found["a"] == "its content is 7 days old, allowed are 7 days"
    assert found["c"] == "nobody knows how old its content is"


def test_most_monitors_decide_who_is_sent_clients() -> None:
    """As they do who is on the list, but by one round."""
    dead, well = failing("ipv4", "ipv6"), measured()
    of = registry("a", "b")

    def says(*found: Any) -> set[str]:
        return serving(told(of, *(health(f"m{at}", a=one, b=well) for at, one in enumerate(found))))["a"]

    assert says(dead, well, well) == says(dead, well) == BOTH
    assert says(dead, dead, well) == says(dead) == set()
    assert says(failing("ipv6"), failing("ipv6"), well) == {"ipv4"}
    # One that knows nothing of it, or is cut off, is not counted.
    assert says(dead, measured(measured_at=NOW - 9999)) == set()
    lame = health("lame", a=dead, b=dead) | {"reference": {"problem": "no answer", "serial": None}}
    assert serving(told(of, lame, health("well", a=well, b=well))) == {"a": BOTH, "b": BOTH}
    # A wrong hash that one proves is enough.
    evil = health("evil", a=measured(tampered_at=NOW - 9), b=well)
    assert serving(told(of, *(health(f"m{at}", a=well, b=well) for at in range(2)), evil))["a"] == set()
    # Whoever tells, of a mirror that the first monitor cannot reach, at which address it is, and how old.
    blind = failing("ipv4", "ipv6") | {"addresses": [], "last_modified": None}
    first = mirrors(told(of, health("m0", a=blind, b=well), health("m1", a=well), health("m2", a=well)))[0]
    assert (first.addresses, first.why_not) == (("192.0.2.7", "2001:db8::7"), "")


def test_a_cache_has_no_age() -> None:
    given = told(registry("a", mode="cache"), health(a=measured(last_modified=None)))
    assert serving(given) == {"a": BOTH}


def test_a_family_that_fails_is_left_at_the_first_round() -> None:
    assert serving(told(registry("a"), health(a=failing("ipv6")))) == {"a": {"ipv4"}}
    given = told(registry("a"), health(a=measured()), families=("ipv4",))
    assert mirrors(given)[0].addresses == ("192.0.2.7",)


def test_a_monitor_that_is_cut_off_or_silent_takes_nobody_away() -> None:
    every = registry("a", "b", "c", "d")
    dead = failing("ipv4", "ipv6")
    assert set(map(len, serving(told(every, health(a=dead, b=dead, c=dead, d=measured()))).values())) == {2}
    found = health(a=dead, b=measured(), c=measured(), d=measured())
    assert serving(told(every, found))["a"] == set()
    assert serving(told(every, found | {"at": NOW - 901}))["a"] == BOTH


def test_a_record_that_is_wrong_is_left_out() -> None:
    wrong = registry("a", "b", bandwidth="fast")
    assert serving(told(wrong, health(a=measured(), b=measured()))) == {"b": BOTH}


def test_networks_are_named_alike() -> None:
    given = told(
        registry("a", networks=["as064500", "192.0.2.9/24", "nonsense", "2001:DB8::/32"]),
        health(a=measured()),
    )
    assert mirrors(given)[0].networks == ("AS64500", "192.0.2.0/24", "2001:db8::/32")


def test_the_list_says_for_which_families() -> None:
    listed = record("a") | {"listed": True, "address_families": ["ipv4"]}
    assert listed_families({"mirrors": [listed, record("b") | {"listed": False}]}) == {
        "a": frozenset({"ipv4"})
    }


class Host:
    """A redirector's files; `test` stands for nginx -t, `reloads` counts."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.routes, self.log = folder / "routes.conf", folder / "reloads"
        monkeypatch.setattr("time.time", lambda: float(NOW))
        self.put("registry.json", registry("a", "b"))
        entries = [
            {key: one[key] for key in ("name", "url", "urls", "mode", "tier", "location", "bandwidth")}
            | {"address_families": ["ipv4", "ipv6"], "operator": {"name": "A"}, "serial": 1, "listed": True}
            | {"code": "listed", "reason": "", "since": 1, "next": "", "last_modified": 1}
            | {"score": None, "availability": None}
            for one in registry("a", "b")["mirrors"]
        ]
        document = {"schema": 1, "fleet": "f", "agreement_version": "1", "staleness_limit": 86400}
        self.put("mirrors.json", document | {"mirrors": entries})
        self.put("health.json", health(a=measured(), b=measured()))
        self.config()

    def put(self, name: str, document: Any) -> None:
        (self.folder / name).write_text(json.dumps(document))

    def config(self, test: str = "pass", **changes: Any) -> None:
        paths = {
            "registry": "registry.json",
            "list": "mirrors.json",
            "health": "health.json",
            "output": "routes.conf",
        }
        given: dict[str, Any] = {key: str(self.folder / name) for key, name in paths.items()}
        given["health"] = [given["health"]]
        command = [sys.executable, "-c"]
        commands = {
            "test": [*command, test],
            "reload": [*command, f"open({str(self.log)!r}, 'a').write('x')"],
        }
        self.put("route.json", given | commands | changes)

    def run(self, *options: str) -> int:
        return main(["route", "-c", str(self.folder / "route.json"), *options])

    @property
    def reloads(self) -> int:
        return len(self.log.read_text()) if self.log.exists() else 0


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(tmp_path, monkeypatch)


def test_nginx_is_reloaded_when_the_routes_change(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    assert host.run() == 0
    assert host.reloads == 0, "nginx includes nothing yet"
    summary = json.loads(capsys.readouterr().out)
    assert {key: summary[key] for key in ("changed", "serving", "known")} == {
        "changed": True,
        "serving": 2,
        "known": 2,
    }
    assert host.run() == 0
    assert host.reloads == 0
    host.put("registry.json", registry("a", "b", state="drained"))
    assert host.run() == 0
    assert host.reloads == 1
    assert "a.example.org" not in host.routes.read_text()


def test_what_changes_no_route_makes_none(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Choosing for a thousand mirrors takes seconds, and a run comes every few."""
    host.run()
    chosen: list[int] = []
    monkeypatch.setattr(run, "route", lambda mirrors: chosen.append(len(mirrors)) or pools.route(mirrors))
    host.put("health.json", health(a=measured(good=10), b=measured(last_modified=NOW)) | {"at": NOW + 1})
    assert (host.run(), chosen) == (0, [])
    # What somebody else did to them is undone.
    host.routes.write_text("")
    assert (host.run(), chosen, host.reloads) == (0, [2], 1)
    # Another program may choose in another way.
    monkeypatch.setattr(sys, "prefix", str(host.folder))
    assert (host.run(), chosen) == (0, [2, 2])


def test_another_process_or_redirector_makes_the_same(host: Host) -> None:
    """Though sets come in another order there: so nothing has changed for the one, and the other chooses alike."""
    command = [sys.executable, "-m", "mirrorfleet.cli", "route", "-c", str(host.folder / "route.json")]

    def noted(seed: str) -> Any:
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)}
        subprocess.run(command, env=environment, check=True, capture_output=True)
        made_of = json.loads((host.folder / "routes.memory.json").read_text())["made_of"]
        return made_of, host.routes.read_bytes()

    first = noted("1")
    assert first == noted("4") and all(first)
    host.routes.unlink()
    assert first == noted("4")


@pytest.mark.parametrize("at", ["test", "reload"])
def test_a_run_that_was_killed_is_made_good_by_the_next(
    host: Host, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """With its routes in place, before nginx had tested them, or before it was told."""
    host.run()
    before, steps = host.routes.read_bytes(), 0

    def killed(command: tuple[str, ...]) -> str:
        nonlocal steps
        steps += 1
        if steps == ("test", "reload").index(at) + 1:
            raise SystemExit(9)
        return ""

    host.put("registry.json", registry("a", "b", state="drained"))
    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        patched.setattr(run, "_run", killed)
        host.run()
    if at == "test":
        host.config(test="import sys; sys.exit('no')")
        assert (host.run(), host.routes.read_bytes()) == (1, before)
        host.config()
    assert (host.run(), host.reloads) == (0, 1)
    assert "a.example.org" not in host.routes.read_text()
    assert [path.name for path in host.folder.glob("routes*")] != []
    assert not (host.folder / "routes.former").exists()


def test_nginx_is_told_until_it_hears(host: Host) -> None:
    host.run()
    host.put("registry.json", registry("a", "b", state="drained"))
    reload = json.loads((host.folder / "route.json").read_text())["reload"]
    host.config(reload=[sys.executable, "-c", "raise SystemExit('not running')"])
    assert (host.run(), host.reloads) == (1, 0)
    host.config(reload=reload)
    assert (host.run(), host.reloads) == (0, 1)
    assert (host.run(), host.reloads) == (0, 1)


def test_what_is_known_stays_while_an_input_is_missing(host: Host) -> None:
    host.run()
    before = host.routes.read_bytes()
    for name in ("registry.json", "mirrors.json", "health.json"):
        kept = (host.folder / name).read_bytes()
        for bad in (None, b"{", b'{"schema": 9}'):
            (host.folder / name).unlink() if bad is None else (host.folder / name).write_bytes(bad)
            assert host.run() == 1
            assert host.routes.read_bytes() == before
            (host.folder / name).write_bytes(kept)
    assert host.reloads == 0


def test_routes_are_as_old_as_the_last_time_that_all_they_go_by_was_read(host: Host) -> None:
    def confirmed() -> bool:
        os.utime(host.routes, (1, 1))
        host.run()
        return host.routes.stat().st_mtime > 1

    host.run()
    assert confirmed(), "nothing has changed"
    host.put("health.json", health(a=measured(), b=measured()) | {"at": NOW - 901})
    assert not confirmed(), "what the monitor says is old"
    (host.folder / "health.json").unlink()
    assert not confirmed(), "no monitor can be asked"
    host.put("health.json", health(a=measured(), b=measured()))
    assert confirmed()
    host.put("registry.json", registry("a", "b", state="drained"))
    host.config(test="import sys; sys.exit('no')")
    assert not confirmed(), "nginx refuses what is due"
    (host.folder / "registry.json").unlink()
    assert not confirmed(), "an input is missing"


def test_nothing_known_yet_is_a_routing_too(host: Host) -> None:
    (host.folder / "registry.json").unlink()
    assert host.run() == 1
    assert "$route_choice" in host.routes.read_text()


def test_what_nginx_refuses_is_taken_back(host: Host) -> None:
    host.run()
    before = host.routes.read_bytes()
    host.config(test="import sys; sys.exit('no')")
    host.put("registry.json", registry("a", "b", state="drained"))
    assert host.run() == 1
    assert host.routes.read_bytes() == before
    assert host.reloads == 0


def test_a_geoip_database_that_is_gone_or_corrupt_costs_the_pools_alone(host: Host, tmp_path: Path) -> None:
    host.run()
    database = tmp_path / "country.mmdb"
    refuse = f"import sys; sys.exit('geoip2' in open({str(host.routes)!r}).read() and 'corrupt')"
    host.config(test=refuse, country=str(database))
    assert host.run() == 0
    assert "geoip2" not in host.routes.read_text()
    database.write_bytes(b"corrupt")
    assert host.run() == 1
    assert "geoip2" not in host.routes.read_text() and "a.example.org" in host.routes.read_text()
    host.config(country=str(database))
    assert host.run() == 0
    assert f'geoip2 "{database}"' in host.routes.read_text()


def test_what_monitors_said_last_counts_while_none_can_be_asked(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = health(a=failing("ipv4", "ipv6"), b=measured())
    answers: list[Any] = [found, OSError("gone"), found | {"mirrors": {"b": measured()}}]

    async def answer(*_: Any) -> list[bytes | BaseException]:
        told = answers.pop(0)
        return [told if isinstance(told, OSError) else json.dumps(told).encode()]

    monkeypatch.setattr(fleet_votes, "_read", answer)
    host.config(health=["https://monitor.example.org/health.json"])
    assert host.run() == 0
    assert "a.example.org" not in host.routes.read_text()
    # Nobody knows now how `a` is, and the live check will see.
    assert host.run() == 1
    assert "a.example.org" in host.routes.read_text() and "192.0.2.7" in host.routes.read_text()
    # One that lost what it knew has not measured it.
    assert host.run() == 0
    assert "a.example.org" not in host.routes.read_text()


def test_a_run_tells_the_monitoring_how_it_went(host: Host) -> None:
    path = host.folder / "route.prom"

    def told() -> dict[str, float]:
        lines = [line.split() for line in path.read_text().splitlines() if not line.startswith("#")]
        return {name.removeprefix("mirrorfleet_route_"): float(value) for name, value in lines}

    host.config(metrics=str(path))
    assert host.run() == 0
    well = {"kept": 0, "heard_monitors": 1, "known_mirrors": 2, "serving_mirrors": 2}
    assert told() == well | {"run_timestamp_seconds": NOW}
    # What the monitor says is old, and then nothing.
    host.put("health.json", health(a=measured(), b=measured()) | {"at": NOW - 901})
    assert (host.run(), told()["heard_monitors"], told()["kept"]) == (0, 0, 0)
    (host.folder / "health.json").unlink()
    assert (host.run(), told()["heard_monitors"], told()["kept"]) == (1, 0, 0)
    host.put("health.json", health(a=measured(), b=measured()))
    # nginx refuses the routes, or an input cannot be read: those of before stay.
    host.put("registry.json", registry("a", "b", state="drained"))
    host.config(metrics=str(path), test="import sys; sys.exit('no')")
    assert (host.run(), told()["kept"]) == (1, 1)
    host.config(metrics=str(path))
    assert (host.run(), told()) == (0, well | {"serving_mirrors": 1, "run_timestamp_seconds": NOW})
    (host.folder / "registry.json").unlink()
    assert (host.run(), told()["kept"]) == (1, 1)
    # A host without a monitoring agent.
    host.config(metrics=str(host.folder / "nowhere/route.prom"))
    assert host.run() == 1 and not (host.folder / "nowhere").exists()


def test_a_memory_that_is_spoilt_is_made_anew(host: Host) -> None:
    host.run()
    before = host.routes.read_bytes()
    for spoilt in (b"", b"{", b"[]", b'{"mirrors": {"a": 3}}'):
        (host.folder / "routes.memory.json").write_bytes(spoilt)
        assert host.run() == 0
        assert host.routes.read_bytes() == before


def test_a_decision_is_explained(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    host.put("registry.json", registry("a", "b", state="drained"))
    assert host.run("--explain", "/packages/x", "--address", "2001:db8::1", "--country", "NZ") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["candidates"], told["pool"]) == (["b"], "country NZ over IPv6")
    assert told["unrouted"] == {"a": "drained by its operator"}
    assert not host.routes.exists()


def test_a_wrong_family_is_a_mistake_that_is_named(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    host.config(families=["ipv5"])
    assert host.run() == 2
    assert "families: must be of ipv4, ipv6, not 'ipv5'" in capsys.readouterr().err
