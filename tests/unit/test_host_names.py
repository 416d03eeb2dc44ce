"""What lets hosts in by name: the program that resolves on a host, with the host's own resolver and its own nft."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fleet_firewall import FilterModule

sys.path.append(str(Path(__file__).parents[2] / "roles/host_baseline/files"))
import mirrorfleet_names as names

FILES = Path(names.__file__).parent
FIREWALL = FilterModule().filters()
PROMTOOL = FILES.parents[2] / "build/promtool"
WEB = {
    "lists": {"all": ["m.example.org", "n.example.org"]},
    "head": "", "each": '$addresses "";\n', "between": ' "";\n', "tail": "end",
}  # fmt: skip
M4, M6 = ("m.example.org", "ipv4"), ("m.example.org", "ipv6")


def addresses(known: names.Known) -> dict[str, list[str]]:
    return {key: entry["addresses"] for key, entry in known.items() if entry["addresses"]}


def after(*rounds: names.Answers, name: str = "m.example.org") -> dict[str, list[str]]:
    known: names.Known = {}
    for answers in rounds:
        known = names.remember(known, {name}, answers)
    return addresses(known)


# --- what counts, by what the resolver says ---

BOTH: names.Answers = {M4: ["192.0.2.9"], M6: ["2001:db8::9"]}
SAME = {"m.example.org ipv4": ["192.0.2.9"], "m.example.org ipv6": ["2001:db8::9"]}


@pytest.mark.parametrize(
    ("answers", "counts"),
    [
        ({M4: ["192.0.2.1"], M6: ["2001:db8::9"]}, SAME | {"m.example.org ipv4": ["192.0.2.1"]}),
        ({M4: ["192.0.2.9"], M6: []}, {"m.example.org ipv4": ["192.0.2.9"]}),
        ({M4: ["192.0.2.9"], M6: None}, SAME),
        ({M4: ["192.0.2.9"]}, SAME),
        ({M4: [], M6: []}, SAME),
        ({M4: None, M6: []}, SAME),
        ({}, SAME),
    ],
    ids=[
        "moved",
        "no IPv6 any more",
        "half an answer",
        "in time for half",
        "no such name",
        "nobody knows",
        "a hang",
    ],
)
def test_a_name_that_does_not_resolve_keeps_its_addresses_and_one_that_moved_does_not(
    answers: names.Answers, counts: dict[str, list[str]]
) -> None:
    assert after(BOTH, answers) == counts


def test_they_are_kept_for_so_many_runs_in_a_row_and_no_longer() -> None:
    failing: list[names.Answers] = [{}] * (names.KEPT_RUNS - 1)
    assert after(BOTH, *failing) == SAME
    assert after(BOTH, *failing, BOTH, *failing) == SAME
    assert after(BOTH, *failing, {}) == {}
    assert after(BOTH, *failing, {}, {}, BOTH) == SAME


def test_a_name_of_no_use_is_forgotten() -> None:
    known = names.remember({}, {"m.example.org"}, BOTH)
    assert names.remember(known, set(), {}) == {}


# --- what is handed on ---


@pytest.mark.parametrize(
    "told",
    ["127.0.0.1", "::1", "fe80::1", "fe80::1%2", "224.0.0.1", "0.0.0.0", "::ffff:192.0.2.1", "192.0.2.0/24", "",
     '192.0.2.1 ""; } evil {', "192.0.2.1\n", "2001:db8::1%eth0", "0xc0000201", "192.0.2.1 } ; flush ruleset"],
)  # fmt: skip
def test_what_is_no_address_of_a_host_reaches_no_file(told: str) -> None:
    known = {"m.example.org ipv4": {"addresses": [told, "192.0.2.9"], "failed": 0}}
    assert names.text_of(WEB, known) == '192.0.2.9 "";\nend'


def test_each_address_is_written_once_and_in_one_way() -> None:
    known = {
        "m.example.org ipv4": {"addresses": ["192.0.2.9", "10.0.0.1"], "failed": 0},
        "n.example.org ipv4": {"addresses": ["192.0.2.9"], "failed": 3},
        "m.example.org ipv6": {"addresses": ["2001:DB8:0::9"], "failed": 0},
        "other.example.org ipv4": {"addresses": ["192.0.2.77"], "failed": 0},
    }
    assert names.text_of(WEB, known) == '10.0.0.1 "";\n192.0.2.9 "";\n2001:db8::9 "";\nend'


# --- the host's own resolver and nft, in namespaces of their own ---

INSIDE = """
set -eu
cd "$1"
mount --bind hosts /etc/hosts
mount --bind resolv.conf /etc/resolv.conf
ip link set lo up
export PYTHONPATH="$2"
python3 -c "$3"
"""
# A resolver that takes questions about slow.example.org and says nothing, ever; all else does not exist.
PREAMBLE = """
import json, socket, sys, threading
from pathlib import Path
import mirrorfleet_names as names
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 53))
def serve():
    while True:
        query, client = server.recvfrom(512)
        if b"slow" not in query:
            server.sendto(query[:2] + b"\\x81\\x83" + query[4:6] + b"\\0" * 6 + query[12:], client)
threading.Thread(target=serve, daemon=True).start()
def run():
    return names.main(Path("uses"), Path("state"), Path("metrics"))
"""


def inside(folder: Path, script: str, hosts: str) -> str:
    for name in ("uses", "state", "metrics"):
        (folder / name).mkdir(exist_ok=True)
    (folder / "hosts").write_text(hosts)
    (folder / "resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:5 attempts:2\n")
    done = subprocess.run(
        ["unshare", "--net", "--mount", "--map-root-user", "sh", "-c", INSIDE, "sh", folder, FILES, PREAMBLE + script],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def counted(folder: Path) -> dict[str, int]:
    """What node_exporter is told; promtool finds nothing wrong with it."""
    text = (folder / "metrics/mirrorfleet-names.prom").read_bytes()
    checked = subprocess.run([PROMTOOL, "check", "metrics"], input=text, capture_output=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, b"")
    lines = [line for line in text.decode().splitlines() if not line.startswith("#")]
    found = [re.fullmatch(r'mirrorfleet_name_failed_runs{name="(.+)"} (\d+)', line) for line in lines]
    return {one[1]: int(one[2]) for one in found if one}


def elements(listing: str) -> dict[str, list[str]]:
    sets = [one["set"] for one in json.loads(listing)["nftables"] if "set" in one]
    return {one["name"]: sorted(one["elem"]) for one in sets if "elem" in one}


RULES = [{"port": 9100, "sources": ["m.example.org"]}, {"port": 873, "sources": ["n.example.org"]}]
SETS = "print(__import__('subprocess').check_output(['nft', '-j', 'list', 'ruleset'], text=True))\n"


def firewall(folder: Path) -> None:
    (folder / "uses").mkdir()
    (folder / "ruleset.nft").write_text(FIREWALL["firewall_ruleset"](RULES))
    (folder / "uses/firewall.json").write_text(json.dumps(FIREWALL["firewall_names"](RULES)))


def test_the_firewalls_sets_follow_the_names(tmp_path: Path) -> None:
    """One that moved is let in at its new address alone; after a ruleset is loaded anew all are let in again, and one
    that does not resolve any more stays."""
    firewall(tmp_path)
    script = f"""
hosts = Path("hosts")
import subprocess
subprocess.check_call(["nft", "-f", "ruleset.nft"])
assert run() == 0
{SETS}
hosts.write_text("192.0.2.1 m.example.org\\n2001:db8::1 m.example.org\\n")
assert run() == 0
{SETS}
hosts.write_text("")
subprocess.check_call(["nft", "-f", "ruleset.nft"])
assert run() == 0
{SETS}
"""
    said = inside(
        tmp_path, script, "192.0.2.9 m.example.org\n192.0.2.7 n.example.org\n2001:db8::7 n.example.org\n"
    )
    first, second, third = (elements(line) for line in said.splitlines() if line.startswith("{"))
    others = {"tcp_873_ipv4": ["192.0.2.7"], "tcp_873_ipv6": ["2001:db8::7"]}
    assert first == others | {"tcp_9100_ipv4": ["192.0.2.9"]}
    assert second == third == others | {"tcp_9100_ipv4": ["192.0.2.1"], "tcp_9100_ipv6": ["2001:db8::1"]}
    assert "m.example.org: ipv4 was 192.0.2.9, is 192.0.2.1" in said
    assert "n.example.org: ipv4 does not resolve; 192.0.2.7 counts for 287 more runs at most" in said
    assert counted(tmp_path) == {"m.example.org": 1, "n.example.org": 2}


def test_a_resolver_that_hangs_costs_nobody_else_anything_and_no_time(tmp_path: Path) -> None:
    (tmp_path / "uses").mkdir()
    slow = [f"slow{number}.example.org" for number in range(names.AT_ONCE // 2 - 1)]
    (tmp_path / "uses/web.json").write_text(json.dumps(WEB | {"lists": {"all": [*slow, "m.example.org"]}}))
    script = """
import os, time
names.DEADLINE = 0.5
begun = time.monotonic()
assert run() == 0
print(time.monotonic() - begun < 3, flush=True)
"""
    assert inside(tmp_path, script, "192.0.2.9 m.example.org\n").splitlines()[-1] == "True"
    assert (tmp_path / "state/web.conf").read_text() == '192.0.2.9 "";\nend'


def test_a_thousand_names_are_one_step(tmp_path: Path) -> None:
    """Of a fleet of a thousand mirrors, whose upstream lets all of them in."""
    (tmp_path / "uses").mkdir()
    rules = [{"port": 873, "sources": [f"m{number}.example.org" for number in range(1000)]}]
    (tmp_path / "ruleset.nft").write_text(FIREWALL["firewall_ruleset"](rules))
    (tmp_path / "uses/firewall.json").write_text(json.dumps(FIREWALL["firewall_names"](rules)))
    script = f"""
import subprocess
subprocess.check_call(["nft", "-f", "ruleset.nft"])
assert run() == 0
{SETS}
"""
    hosts = "".join(
        f"10.0.{n // 250}.{n % 250 + 1} m{n}.example.org\n2001:db8::{n + 1:x} m{n}.example.org\n"
        for n in range(1000)
    )
    (said,) = (line for line in inside(tmp_path, script, hosts).splitlines() if line.startswith("{"))
    assert {name: len(found) for name, found in elements(said).items()} == {
        "tcp_873_ipv4": 1000,
        "tcp_873_ipv6": 1000,
    }


def test_a_table_that_is_not_there_is_told_and_tried_again(tmp_path: Path) -> None:
    firewall(tmp_path)
    (tmp_path / "uses/web.json").write_text(json.dumps(WEB))
    script = """
import subprocess
codes = [run()]
subprocess.check_call(["nft", "-f", "ruleset.nft"])
print(json.dumps([*codes, run()]))
"""
    assert json.loads(inside(tmp_path, script, "192.0.2.9 m.example.org\n").splitlines()[-1]) == [1, 0]
    assert (tmp_path / "state/web.conf").read_text() == '192.0.2.9 "";\nend'


@pytest.mark.parametrize(
    "spoilt", ["", "{", "[]", '{"known": {"a ipv4": 1}}', '{"known": {}, "taken": 5}', "\0"]
)
def test_a_spoilt_state_is_begun_anew(
    spoilt: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "state.json").write_text(spoilt)
    assert names.read_state(tmp_path / "state.json") == ({}, {})
    assert "begun anew" in capsys.readouterr().err


# --- who is told ---

PATH = """#!/bin/sh
echo "$@" >>{log}
case "$*" in
*is-active*) exit {active} ;;
*reload*) exit $(cat {verdict}) ;;
esac
"""


@pytest.fixture
def systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A systemctl that notes what it is asked; the role's scenario has the real one."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "verdict").write_text("0")
    log, program = tmp_path / "log", tmp_path / "bin/systemctl"
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")

    def reloads(active: int = 0) -> int:
        program.write_text(PATH.format(log=log, active=active, verdict=tmp_path / "verdict"))
        program.chmod(0o755)
        said = log.read_text() if log.exists() else ""
        log.write_text("")
        return said.count(" reload nginx.service")

    return reloads


def test_a_unit_is_reloaded_when_something_changed_and_again_until_it_took_it(
    tmp_path: Path, systemctl: Any
) -> None:
    use, taken = {"web": WEB | {"reload": "nginx.service"}}, dict[str, str]()
    known = {"m.example.org ipv4": {"addresses": ["192.0.2.9"], "failed": 0}}
    systemctl()
    assert names.hand_on(use, known, taken, tmp_path) and systemctl() == 1
    assert names.hand_on(use, known, taken, tmp_path) and systemctl() == 0
    known["m.example.org ipv4"]["addresses"] = ["192.0.2.10"]
    (tmp_path / "verdict").write_text("1")
    assert not names.hand_on(use, known, taken, tmp_path) and systemctl() == 1
    (tmp_path / "verdict").write_text("0")
    assert names.hand_on(use, known, taken, tmp_path) and systemctl() == 1
    known["m.example.org ipv4"]["addresses"] = ["192.0.2.11"]
    systemctl(active=3)
    assert names.hand_on(use, known, taken, tmp_path) and systemctl() == 0, "it does not run"
