"""The verb probe against real HTTPS servers, one of everything wrong; and from it to the list."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from listing_material import broken, record
from mirror_material import FILES, Mirror
from monitor_sandbox import Sandbox

from mirrorfleet import cli
from mirrorfleet.common.schema import schema
from mirrorfleet.monitor.client import CheckError, resolve
from mirrorfleet.monitor.reference import Reference
from mirrorfleet.monitor.track import Found, Track

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def sandbox(tmp_path: Path, serve: Any, authority: Any) -> Sandbox:
    return Sandbox(tmp_path, serve, authority)


def test_a_good_mirror(sandbox: Sandbox) -> None:
    mirror = sandbox.add("one")
    assert sandbox.probe() == 0
    assert sandbox.probe() == 0
    jsonschema.validate(sandbox.health, schema("health"), jsonschema.Draft202012Validator)
    one = sandbox.one()
    assert (one["good"], one["bad"], one["problem"], one["serial"], one["lag"]) == (2, 0, "", 42, 0)
    assert one["families"] == {"ipv4": "", "ipv6": ""}
    assert one["addresses"] == ["127.0.0.1", "::1"]
    assert one["day"]["rounds"] == one["day"]["good"] == 2
    assert one["days"][-1] == 1.0
    assert len(one["days"]) == 30
    assert 29 * 86400 < one["certificate_expires"] - time.time() < 31 * 86400
    # As pip asks, and never the body of the list of all projects.
    assert all(agent.startswith("pip/") for _, _, agent in mirror.asked)
    assert ("GET", "/simple/") not in {
        (method, path) for method, path, _ in [*mirror.asked, *sandbox.reference.asked]
    }
    assert {method for method, path, _ in mirror.asked if path.startswith("/packages/")} == {"HEAD", "GET"}


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        ("hang", "no answer in time"),
        ("error", "last-modified over ipv4: /last-modified answered 500, expected 200 (and 1 more)"),
        ("redirects", "/last-modified redirects to 'https://elsewhere.example.org/last-modified'"),
        ("redirects to a private address", "/last-modified redirects to 'https://192.168.7.7/last-modified'"),
        ("forbids pip", "/last-modified answered 403, expected 200"),
        ("truncated", "by the trusted page"),
        ("forged page", "has the sha256 0000"),
        ("wrong byte", "the trusted page says"),
    ],
)
def test_what_is_wrong_is_told(sandbox: Sandbox, fault: str, problem: str) -> None:
    sandbox.config["reference"]["projects"] = ["attrs"]  # of short paths: what is told is cut
    sandbox.add("one").fault = fault
    assert sandbox.probe() == 1
    one = sandbox.one()
    assert problem in one["problem"]
    assert (one["good"], one["bad"]) == (0, 1)
    assert (one["tampered_at"] is not None) == (fault in {"wrong byte", "forged page"})
    sandbox.mirrors["one"].released.set()
    sandbox.mirrors["one"].fault = ""
    sandbox.probe()
    assert (sandbox.one()["good"], sandbox.one()["bad"], sandbox.one()["problem"]) == (1, 0, "")
    assert (sandbox.one()["tampered_at"] is not None) == (fault in {"wrong byte", "forged page"})


def test_another_hash_of_core_metadata_is_tampering(sandbox: Sandbox) -> None:
    sandbox.config["reference"]["projects"] = ["six"]
    other = {"core-metadata": {"sha256": "0" * 64}}
    sandbox.add("one").changed = {"six-1.0-py3-none-any.whl": other}
    for _ in range(30):  # one file of three
        if sandbox.probe() == 1:
            break
    assert (
        "says that the core metadata of six-1.0-py3-none-any.whl has the sha256 000"
        in sandbox.one()["problem"]
    )
    assert sandbox.one()["tampered_at"]


def test_a_page_that_lacks_what_is_no_news(sandbox: Sandbox) -> None:
    sandbox.config["reference"]["projects"] = ["six"]
    sandbox.add("one").fault = "stale pages with a fresh date"
    for _ in range(30):  # two files of three are lacking, and each family chooses one by chance
        if sandbox.probe() == 1:
            break
    assert "/simple/six/ lacks six-1.0" in sandbox.one()["problem"]


def test_a_serial_that_stays_behind_is_measured_in_seconds(sandbox: Sandbox) -> None:
    sandbox.add("one")
    sandbox.probe()
    sandbox.reference.serial = 43
    sandbox.probe()
    first = int(time.time())
    time.sleep(1.5)
    sandbox.reference.serial = 44
    sandbox.probe()
    assert 1 <= sandbox.one()["lag"] <= time.time() - first + 2  # since 43 was seen, not since 44 was
    sandbox.mirrors["one"].serial = 44
    sandbox.probe()
    assert sandbox.one()["lag"] == 0


def test_one_family_that_is_lost(sandbox: Sandbox) -> None:
    sandbox.add("one", ipv6=False)
    port = int(sandbox.registry["mirrors"][0]["url"].rpartition(":")[2])
    assert sandbox.probe() == 1
    assert sandbox.one()["problem"] == "connection over ipv6: connection refused"
    assert sandbox.one()["families"] == {"ipv4": "", "ipv6": "connection refused"}
    # The other is measured all the same.
    assert (sandbox.one()["serial"], sandbox.one()["well"]) == (42, True)
    sandbox.probe()
    assert sandbox.one()["rounds"] == {
        "ipv4": {"good": 2, "bad": 0, "problem": ""},
        "ipv6": {"good": 0, "bad": 2, "problem": "connection over ipv6: connection refused"},
    }
    well_since = sandbox.one()["well_since"]
    time.sleep(1.1)
    sandbox.serve(sandbox.mirrors["one"], sandbox.authority.issue("one.example.test"), host="::1", port=port)
    assert sandbox.probe() == 0
    assert (sandbox.one()["rounds"]["ipv6"]["good"], sandbox.one()["good"]) == (1, 1)
    assert sandbox.one()["well_since"] > well_since  # so that it is audited


@pytest.mark.parametrize(("names", "days"), [(("other.example.test",), 30), (("one.example.test",), -1)])
def test_a_certificate_that_is_not_valid(sandbox: Sandbox, names: tuple[str, ...], days: float) -> None:
    sandbox.add("one", certificate=sandbox.authority.issue(*names, days=days))
    assert sandbox.probe() == 1
    assert "the certificate is not valid for one.example.test" in sandbox.one()["problem"]


def test_what_listens_and_speaks_no_tls_or_no_http(sandbox: Sandbox) -> None:
    sandbox.add("one")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://one.example.test:{silent.getsockname()[1]}"
        sandbox.registry["mirrors"] = [record("one", url=url, urls=[url], address_families=["ipv4"])]
        started = time.monotonic()
        assert sandbox.probe() == 1
        assert sandbox.one()["problem"] == "connection over ipv4: no answer in time"
        assert time.monotonic() - started < 4
    assert sandbox.probe() == 1
    assert sandbox.one()["problem"] == "connection over ipv4: connection refused"


def test_a_mirror_of_which_there_is_only_a_problem_is_left_alone(
    sandbox: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was measured until its record was broken, and what was found then is not forgotten."""
    mirror = sandbox.add("one")
    sandbox.add("two")
    sandbox.config |= {"targets": str(sandbox.folder), "metrics": str(sandbox.folder / "probe.prom")}
    assert sandbox.probe() == 0
    whole, asked = sandbox.registry["mirrors"][0], len(mirror.asked)
    sandbox.registry["mirrors"][0] = broken("one")
    assert sandbox.probe() == 0
    assert sandbox.health["mirrors"].keys() == {"two"}
    for name in ("probe.prom", "metrics-targets.json", "probe-targets.json"):
        text = (sandbox.folder / name).read_text()
        assert '"two"' in text and '"one"' not in text
    assert sandbox.audit() == sandbox.audit("--due") == 0
    capsys.readouterr()
    assert sandbox.audit("one") == 2
    assert "registry.json: 'one': mirror_bandwidth is text ('fast')" in capsys.readouterr().err
    assert not (sandbox.folder / "state/audits/one.json").exists()
    assert len(mirror.asked) == asked
    sandbox.registry["mirrors"][0] = whole
    assert sandbox.probe() == 0
    assert (sandbox.one("one")["good"], sandbox.one("two")["good"]) == (2, 3)


def test_a_cache_owes_neither_serial_nor_date(sandbox: Sandbox) -> None:
    sandbox.add("one", mode="cache").fault = "stale"
    assert sandbox.probe() == 0
    assert sandbox.one()["last_modified"] is None


def test_a_reference_that_cannot_be_asked_is_told(sandbox: Sandbox) -> None:
    sandbox.add("one")
    sandbox.reference.fault = "error"
    assert sandbox.probe() == 1
    assert sandbox.health["reference"]["problem"] == "/simple/ answered 500, expected 200"
    assert sandbox.one()["good"] == 1  # for what can be known without it


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (b'{"refused": "2 of 2 projects would disappear"}', "2 of 2 projects would disappear"),
        (b'{"refused": "<b>\\n\\u202e' + b"x" * 300 + b'"}', "<b>  " + "x" * 195),
        (b'{"refused": null}', ""),
        (b'{"refused": {"a": 1}}', ""),
        (b'{"refused": "\\ud800"}', "no reason given"),
        (b"[" * 100_000, ""),
        (b'{"refused": "' + b"x" * (1 << 20) + b'"}', ""),
    ],
)
def test_a_mirror_that_is_late_says_why_it_refuses_its_syncs(
    sandbox: Sandbox, said: bytes, told: str
) -> None:
    """In its own words, on one bounded line; whatever it says costs it nothing."""
    mirror = sandbox.add("one", ipv6=False, address_families=["ipv4"])
    mirror.replaced["/mirror.json"] = (200, {}, said)
    assert sandbox.probe() == 0
    assert sandbox.one()["refused"] == ""
    assert "/mirror.json" not in {path for _, path, _ in mirror.asked}, "it is not late"
    mirror.synced = time.time() - 3600
    assert sandbox.probe() == 0
    assert (sandbox.one()["refused"], sandbox.one()["good"]) == (told, 2)
    jsonschema.validate(sandbox.health, schema("health"), jsonschema.Draft202012Validator)
    mirror.synced = 0
    assert sandbox.probe() == 0
    assert sandbox.one()["refused"] == ""


def test_private_addresses_are_no_mirrors() -> None:
    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(
            CheckError, match=r"localhost resolves to 127\.0\.0\.1, which is no public address"
        ):
            asyncio.run(resolve("localhost", "ipv4", pool, []))
        with pytest.raises(CheckError, match="in none of private_networks"):
            asyncio.run(resolve("localhost", "ipv4", pool, [ip_network("::/0"), ip_network("10.0.0.0/8")]))
        ours = [ip_network("127.0.0.0/8")]
        for private in (ours, None):
            assert asyncio.run(resolve("localhost", "ipv4", pool, private)) == ["127.0.0.1"]
        with pytest.raises(CheckError, match="does not resolve"):
            asyncio.run(resolve("nothing.invalid", "ipv4", pool, ours))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"interval": 0}, "interval: must be at least 0.1, not 0"),
        ({"reference": {"url": "http://x", "projects": ["six"]}}, "reference.url: must be https://"),
        ({"reference": {"url": "https://x.test", "projects": []}}, "reference.projects: names none"),
        ({"reference": {"url": "https://x.test", "projects": ["Six_"]}}, "project 1 is 'Six_'"),
        ({"connect_to": {"one": ["host"]}}, "connect_to.one: 'host' is no address"),
        ({"connect_to": ["one"]}, "connect_to: must be an object"),
        ({"private_networks": ["10.0.0.1/8"]}, "private_networks: '10.0.0.1/8' is no network"),
        ({"private_addresses": True}, "private_addresses: unknown key"),
        ({"ca_file": "/nonexistent.pem"}, "ca_file: /nonexistent.pem cannot be used"),
        ({"colour": 1}, "colour: unknown key"),
    ],
)
def test_a_wrong_configuration_is_told(
    sandbox: Sandbox, change: dict[str, Any], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sandbox.config |= change
    assert sandbox.probe() == 2
    assert words in capsys.readouterr().err


# --- the histories ---


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 50_000)), min_size=1, max_size=100))
def test_counts_rows_and_sums_are_true(rounds: list[tuple[bool, int]]) -> None:
    track, now, seen = Track(), 1_800_000_000, []
    for good, pause in rounds:
        now += pause
        found = Found(failure=None if good else {"check": "x", "family": "ipv4", "problem": "y"})
        track.add({"ipv4": found}, Reference(), 0.5, now, 86400)
        seen.append((now, good))
        row = next((n for n, (_, g) in enumerate(reversed(seen)) if g != good), len(seen))
        assert (track.good, track.bad) == ((row, 0) if good else (0, row))
        assert track.since == seen[-row][0]
    day = [good for at, good in seen if at // 3600 > now // 3600 - 24]
    assert (track.day()["rounds"], track.day()["good"]) == (len(day), sum(day))
    assert track.day()["deviation"] == 0
    month = track.month(now)
    today = [good for at, good in seen if at // 86400 == now // 86400]
    assert month[-1] == round(sum(today) / len(today), 4)


def test_what_a_clock_that_was_ahead_noted_of_a_mirror_is_set_back() -> None:
    track, reference, now = Track(), Reference(), 1_800_000_000
    years = now + 3 * 365 * 86400
    wrong = Found(failure={"check": "x", "family": "ipv4", "problem": "y"}, tampered=True)
    for at, found in ((years, wrong), (years + 60, Found(serial=7, last_modified=now))):
        reference.saw(at - years + 7, at)
        track.add({"ipv4": found}, reference, 0.5, at, 2 * years)
    for at in (now, now + 60):
        reference.saw(67, at)
        track.add({"ipv4": Found(serial=7, last_modified=now)}, reference, 0.5, at, 2 * years)
    noted = (track.since, track.well_since, track.last_good, track.tampered_at, track.measured_at)
    assert noted == (now, now, now + 60, now, now + 60)
    assert (track.day()["rounds"], track.today(now)) == (2, {"rounds": 2, "good": 2})
    assert track.lag == 60
    assert [at for at, _ in reference.serials] == [now, now]


def test_a_family_that_changes_beside_one_that_is_lost_is_looked_at_quickly() -> None:
    track, lost = Track(), Found(failure={"check": "x", "family": "ipv6", "problem": "y"})
    other = Found(failure={"check": "x", "family": "ipv4", "problem": "y"})
    for found, settled in (*((Found(), at) for at in range(1, 10)), (other, 1), (other, 2), (Found(), 1)):
        track.add({"ipv4": found, "ipv6": lost}, Reference(), 0.5, 1_800_000_000, 86400)
        assert track.settled == settled
    assert (Track().settled, track.bad) == (0, 12)


@given(st.lists(st.integers(0, 50), max_size=30), st.integers(0, 60))
def test_the_lag_counts_from_the_first_serial_that_a_mirror_has_not(serials: list[int], mirror: int) -> None:
    reference = Reference()
    for at, serial in enumerate(serials):
        reference.saw(serial, at)
    newer = [at for at, serial in enumerate(serials) if serial > mirror]
    expected = None if not serials else 100 - newer[0] if newer else 0
    assert reference.lag(mirror, 100) == expected


# --- the service, as a process; from a fault to the list and back ---

FAULTS = ["hang", "error", "redirects", "forbids pip", "stale", "truncated"]


class Service:
    """`mirrorfleet probe` and what `mirrorfleet list` makes of it."""

    def __init__(self, sandbox: Sandbox, **config: float) -> None:
        self.sandbox = sandbox
        sandbox.config |= {"interval": 0.25, "timeout": 0.6, "budget": 1} | config
        sandbox.write()
        (sandbox.folder / "list.json").write_text(
            json.dumps(
                {
                    "registry": str(sandbox.folder / "registry.json"),
                    "health": [str(sandbox.folder / "health.json")],
                    "documents": str(sandbox.folder / "list"),
                    "state": str(sandbox.folder / "list-state.json"),
                    "settings": {
                        "fall": 2,
                        "rise": 3,
                        "damping_seconds": 1,
                        "audit_required": False,
                        "silence_seconds": 5,
                    },
                }
            )
        )
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mirrorfleet.cli", "probe", "-c", str(sandbox.folder / "monitor.json")],
            env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def listed(self) -> dict[str, str]:
        """Each mirror's reason, empty when it is listed."""
        cli.main(["list", "-c", str(self.sandbox.folder / "list.json")])
        document = json.loads((self.sandbox.folder / "list" / "mirrors.json").read_text())
        return {one["name"]: one["reason"] for one in document["mirrors"]}

    def until(self, wanted: Any, seconds: float = 20) -> float:
        started = time.monotonic()
        while not wanted(now := self.listed()):
            assert self.process.poll() is None, self.process.stderr
            assert time.monotonic() - started < seconds, now
            time.sleep(0.1)
        return time.monotonic() - started

    def end(self, number: int = signal.SIGTERM) -> tuple[str, str]:
        self.process.send_signal(number)
        return self.process.communicate(timeout=20)


def test_a_partial_mirror_is_asked_for_what_it_names(sandbox: Sandbox) -> None:
    """Its registry says that releases are left out; a whole mirror that lacks them fails."""
    sandbox.add("one", partial=True).fault = "newest release only"
    sandbox.add("two").fault = "newest release only"
    for _ in range(8):
        sandbox.probe()
    assert (sandbox.one("one")["problem"], sandbox.one("one")["good"]) == ("", 8)
    assert sandbox.one("two")["day"]["good"] < 8
    assert sandbox.audit("one") == 0
    assert sandbox.audit("two") == 1
    sandbox.mirrors["one"].fault = "no file of six"
    assert sandbox.audit("one") == 1
    sandbox.mirrors["one"].fault = "wrong byte"
    assert sandbox.audit("one") == 1


def test_rounds_are_quick_until_it_is_clear_whether_a_mirror_is_well(sandbox: Sandbox) -> None:
    sandbox.add("one")
    service = Service(sandbox, interval=60, transition_interval=0.2, settled_rounds=4)
    try:
        service.until(lambda now: now.get("one") == "", 10)
        while sandbox.one("one")["good"] < 4:
            assert service.process.poll() is None
            time.sleep(0.1)
        time.sleep(2)
        assert sandbox.one("one")["good"] <= 5
    finally:
        service.end()


def test_from_a_fault_to_the_list_and_back(sandbox: Sandbox) -> None:
    """Every fault leads off the list within seconds, alone, and back when it is mended."""
    for name in ("one", "two", "three", "four"):
        sandbox.add(name)
    service = Service(sandbox)
    try:
        service.until(lambda now: not any(now.values()))
        for fault in FAULTS:
            sandbox.mirrors["two"].released.clear()
            sandbox.mirrors["two"].fault = fault
            took = service.until(lambda now: now["two"])
            assert not any(reason for name, reason in service.listed().items() if name != "two")
            sandbox.mirrors["two"].fault = ""
            sandbox.mirrors["two"].released.set()
            back = service.until(lambda now: not now["two"])
            print(f"{fault}: off the list after {took:.1f} s, back after {back:.1f} s")
            # Each leave makes the next pause twice as long: forgotten here, so that the test ends.
            state = json.loads((sandbox.folder / "list-state.json").read_text())
            for one in state["standings"]["two"]["families"].values():
                one["leaves"] = []
            (sandbox.folder / "list-state.json").write_text(json.dumps(state))
        # The monitor itself is cut off: nobody leaves.
        for mirror in sandbox.mirrors.values():
            mirror.fault = "error"
        time.sleep(2)
        assert not any(service.listed().values())
        for mirror in sandbox.mirrors.values():
            mirror.fault = ""
        time.sleep(2)
        # A wrong byte leads off at once, and no number of good rounds back.
        sandbox.mirrors["three"].fault = "wrong byte"
        service.until(lambda now: now["three"].startswith("served a file with a wrong hash"))
        sandbox.mirrors["three"].fault = ""
        time.sleep(2)
        assert service.listed()["three"].startswith("served a file with a wrong hash")
        assert sandbox.one("three")["good"] > 3
    finally:
        for mirror in sandbox.mirrors.values():
            mirror.released.set()
        out, err = service.end()
    assert service.process.returncode == 0, err
    assert json.loads(out.splitlines()[-1])["verb"] == "probe"
    assert "two: is well again" in err


def test_a_family_that_is_lost_leaves_the_list_and_comes_back_while_the_mirror_stays(
    sandbox: Sandbox,
) -> None:
    over_ipv4, over_ipv6 = sandbox.add("one", ipv6=False), Mirror()
    port = int(sandbox.registry["mirrors"][0]["url"].rpartition(":")[2])
    sandbox.serve(over_ipv6, sandbox.authority.issue("one.example.test"), host="::1", port=port)
    sandbox.add("two")
    service = Service(sandbox)

    def families() -> list[str] | None:
        service.listed()
        document = json.loads((sandbox.folder / "list" / "mirrors.json").read_text())
        return next((one["address_families"] for one in document["mirrors"] if one["listed"]), None)

    try:
        service.until(lambda now: not any(now.values()) and now)
        for mirror, left in ((over_ipv6, ["ipv4"]), (over_ipv4, ["ipv6"])):
            mirror.fault = "error"
            service.until(lambda now, left=left: now["one"] == "" and families() == left)
            mirror.fault = ""
            service.until(lambda now: now["one"] == "" and families() == ["ipv4", "ipv6"])
    finally:
        _, err = service.end()
    news = [line for line in err.splitlines() if " one: " in line]
    assert any("over ipv6" in line for line in news) and any("over ipv4" in line for line in news)


def test_the_service_remembers_takes_a_new_registry_and_tells_prometheus(sandbox: Sandbox) -> None:
    sandbox.add("one")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    sandbox.config["metrics_port"] = port
    service = Service(sandbox)
    try:
        service.until(lambda now: now.get("one") == "")
        sandbox.add("two")
        sandbox.registry["mirrors"].extend([{"name": "wrong"}, broken("broken")])
        sandbox.write()
        service.until(lambda now: now.get("two") and "two" in sandbox.health["mirrors"])
        # The running service was not told where to connect: it asks for the name.
        assert "two.example.test does not resolve in this address family" in sandbox.one("two")["problem"]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            assert 'mirrorfleet_probe_success{mirror="one",family="ipv6"} 1\n' in answer.read().decode()
        (sandbox.folder / "registry.json").write_text("{ rotten")
        before = sandbox.one()["good"]
        service_goes_on = time.monotonic() + 10
        while sandbox.one()["good"] == before:
            assert time.monotonic() < service_goes_on
            time.sleep(0.1)
        before = sandbox.one()["good"]
    finally:
        _, err = service.end(signal.SIGKILL)
    assert "the former registry stays in use" in err
    sandbox.probe()
    assert sandbox.one()["good"] > before  # killed, and nothing forgotten


def test_who_asks_for_the_metrics_cannot_keep_the_service_from_its_end(sandbox: Sandbox) -> None:
    sandbox.add("one")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    sandbox.config["metrics_port"] = port
    service = Service(sandbox)
    try:
        service.until(lambda now: now.get("one") == "")
        with (
            socket.create_connection(("127.0.0.1", port)) as silent,
            socket.create_connection(("::1", port)) as kept,
            socket.create_connection(("127.0.0.1", port)) as rude,
        ):
            rude.sendall(b"\x16\x03\x01 what\r\n\r\n")
            kept.sendall(b"GET /whatever HTTP/1.1\r\nHost: x\r\n\r\n")
            said = kept.recv(65536)
            assert said.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\n")
            started = time.monotonic()
            service.process.send_signal(signal.SIGTERM)
            service.process.wait(10)
            assert time.monotonic() - started < 5
            assert silent.recv(1) == b""
    finally:
        _, err = service.end()
    assert service.process.returncode == 0, err
    assert "GET /whatever" not in err, "scrapes are not logged"
    assert "Traceback" not in err


def test_promtool_finds_nothing_wrong_with_the_metrics(sandbox: Sandbox) -> None:
    sandbox.config["metrics"] = str(sandbox.folder / "probe.prom")
    sandbox.add("one")
    sandbox.add("two", ipv6=False).fault = "wrong byte"
    sandbox.probe()
    text = (sandbox.folder / "probe.prom").read_bytes()
    done = subprocess.run(
        [ROOT / "build/promtool", "check", "metrics"], input=text, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    lines = text.decode().splitlines()
    assert 'mirrorfleet_probe_success{mirror="two",family="ipv6"} 0' in lines
    assert 'mirrorfleet_probe_bad_rounds{mirror="two"} 1' in lines
    assert 'mirrorfleet_probe_family_bad_rounds{mirror="two",family="ipv6"} 1' in lines
    assert any(
        line.startswith('mirrorfleet_probe_tampered_timestamp_seconds{mirror="two"} ') for line in lines
    )
    (wrong,) = [
        line
        for line in lines
        if line.startswith('mirrorfleet_probe_tampered_info{mirror="two",problem="file')
    ]
    assert " has the sha256 " in wrong
    failures = [
        line.split("} ")[0]
        for line in lines
        if line.startswith("mirrorfleet_probe_failure_timestamp_seconds")
    ]
    assert failures[1] == (
        'mirrorfleet_probe_failure_timestamp_seconds{mirror="two",family="ipv6",check="connection",'
        'problem="connection refused"'
    )
    assert 'family="ipv4",check="file",problem="/packages/' in failures[0]
    # What is over is told no longer, but for a wrong hash.
    sandbox.config["connect_to"]["two"] = ["127.0.0.1"]
    sandbox.registry["mirrors"][1]["address_families"] = ["ipv4"]
    sandbox.mirrors["two"].fault = ""
    sandbox.probe()
    text = (sandbox.folder / "probe.prom").read_bytes()
    assert b"failure_timestamp" not in text and wrong.encode() in text


def test_prometheus_is_told_what_to_ask(sandbox: Sandbox) -> None:
    sandbox.config["targets"] = str(sandbox.folder)
    sandbox.add("one")
    sandbox.probe()
    targets = json.loads((sandbox.folder / "probe-targets.json").read_text())
    assert targets[0]["targets"] == [sandbox.registry["mirrors"][0]["url"] + "/simple/"]


def test_two_monitors_of_one_state_are_refused(sandbox: Sandbox) -> None:
    sandbox.add("one")
    service = Service(sandbox)
    try:
        service.until(lambda now: now.get("one") == "")
        assert sandbox.probe() == 3
    finally:
        service.end()


def test_files_are_chosen_by_chance(sandbox: Sandbox) -> None:
    mirror = sandbox.add("one")
    for _ in range(12):
        assert sandbox.probe() == 0
    asked = {path for _, path, _ in mirror.asked if path.startswith("/packages/")}
    assert len(asked) > 5
    assert len(asked) <= sum(len(files) for files in FILES.values())
