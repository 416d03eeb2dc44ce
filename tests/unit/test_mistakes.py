"""Mistakes of people: what was typed, and what was told.

Each message names file or host and key, says what is allowed and what to do next, and stands there once.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import Any

import pytest

from plugin_utils import inventory, wiring

HOUSE = Path(__file__).resolve().parents[2]
AKL, NBO = "mirrors/akl1.example.org.yml", "mirrors/nbo1.example.org.yml"
ALL = "group_vars/all.yml"


def program() -> Any:
    spec = util.spec_from_file_location("check_inventory", HOUSE / "playbooks/check_inventory.py")
    assert spec and spec.loader
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CHECK = program()


@dataclass
class Typed:
    """A file, what was there (a pattern; empty: the end of the file, which may be new), and what was typed instead."""

    file: str
    there: str
    typed: str
    moved: str = ""  # the file has this name then

    def into(self, folder: Path) -> None:
        path = folder / self.file
        path.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_text() if path.exists() else ""
        if self.there:
            text, count = re.subn(self.there, self.typed, text, count=1, flags=re.MULTILINE)
            assert count == 1, f"{self.there} is not in {self.file}"
        else:
            text += self.typed
        path.write_text(text)
        if self.moved:
            (folder / self.moved).parent.mkdir(parents=True, exist_ok=True)
            path.rename(folder / self.moved)


def akl(there: str, typed: str) -> Typed:
    return Typed(AKL, f"^{there}", typed)


def fleet(there: str, typed: str) -> Typed:
    return Typed("fleet.yml", f"^{there}", typed)


def added(file: str, typed: str) -> Typed:
    return Typed(file, "", typed)


def named(file: str, moved: str) -> Typed:
    return Typed(file, "", "", moved)


# By what went wrong: what was typed, and of the one line that is told: where (or who), key, what is allowed, what next.
Told = tuple[str, str, str, str]
MISTAKES: dict[str, tuple[Typed, Told]] = {
    # ------------------------------------------------------------------------------------------------ a record's keys
    "a key is misspelt": (
        akl("mirror_bandwidth:", "mirror_bandwith:"),
        (f"{AKL}:9", "mirror_bandwith", "mirror_bandwidth", "did you mean mirror_bandwidth?"),
    ),
    "a key in capitals": (
        akl("mirror_mode:", "Mirror_Mode:"),
        (f"{AKL}:2", "Mirror_Mode", "mirror_mode", "did you mean mirror_mode?"),
    ),
    "a key with a hyphen": (
        akl("mirror_networks:", "mirror-networks:"),
        (f"{AKL}:8", "mirror-networks", "mirror_networks", "did you mean mirror_networks?"),
    ),
    "a key twice, once misspelt": (
        added(AKL, "mirror_stat: drained\n"),
        (f"{AKL}:19", "mirror_stat", "mirror_state", "mirror_state? It stands here, too: remove one of the two"),
    ),
    "a key twice": (
        added(AKL, "mirror_state: drained\n"),
        (f"{AKL}:19", "mirror_state", "one mapping", "remove one of the two"),
    ),
    "another host's key": (
        added(AKL, "redirector_url: https://akl1.example.org\n"),
        (f"{AKL}:19", "redirector_url", "mirror_url", "it belongs into fleet.yml, redirectors"),
    ),
    "a connection variable": (
        added(AKL, "ansible_host: 192.0.2.1\n"),
        (f"{AKL}:19", "ansible_host", "mirror_url", "group_vars/ or host_vars/"),
    ),
    "an input of a role": (
        added(AKL, "nginx_http3: true\n"),
        (f"{AKL}:19", "nginx_http3", "mirror_url", "group_vars/ or host_vars/"),
    ),
    "an input of a role by its former name": (
        added(AKL, "web_server_http3: true\n"),
        (f"{AKL}:19", "web_server_http3", "mirror_url", "did you mean nginx_http3?"),
    ),
    "no operator": (
        akl("mirror_operator: .*\n", ""),
        (AKL, "mirror_operator", "name: NAME", "add mirror_operator to"),
    ),
    "no agreement": (
        akl("mirror_agreement: .*\n", ""),
        (AKL, "mirror_agreement", "accepted_by", "add mirror_agreement to"),
    ),
    "an agreement without its date": (
        akl("(mirror_agreement: .*), accepted_on: .*}", r"\1}"),
        (f"{AKL}:12", "mirror_agreement.accepted_on", "accepted_on", "add accepted_on to mirror_agreement"),
    ),
    # ---------------------------------------------------------------------------------------------- a record's values
    "text for a number": (
        akl("mirror_bandwidth: .*", "mirror_bandwidth: fast"),
        (f"{AKL}:9", "mirror_bandwidth", "a whole number from 1", "correct mirror_bandwidth"),
    ),
    "a number in quotes": (
        akl("mirror_bandwidth: .*", 'mirror_bandwidth: "1000"'),
        (f"{AKL}:9", "mirror_bandwidth", "a whole number from 1", "remove the quotes"),
    ),
    "a mode that there is not": (
        akl("mirror_mode: .*", "mirror_mode: bandersnach"),
        (f"{AKL}:2", "mirror_mode", "bandersnatch, rsync, cache", "did you mean bandersnatch?"),
    ),
    "a state in capitals": (
        akl("mirror_state: .*", "mirror_state: Active"),
        (f"{AKL}:16", "mirror_state", "active, drained, retired", "did you mean active?"),
    ),
    "http for https": (
        akl("mirror_url: .*", "mirror_url: http://akl1.example.org"),
        (f"{AKL}:6", "mirror_url", "https://NAME", "correct mirror_url"),
    ),
    "a URL with a path": (
        akl("mirror_url: .*", "mirror_url: https://akl1.example.org/pypi"),
        (f"{AKL}:6", "mirror_url", "https://NAME", "a mirror serves from the top of its name"),
    ),
    "a URL with a port": (
        akl("mirror_url: .*", "mirror_url: https://akl1.example.org:8443"),
        (f"{AKL}:6", "mirror_url", "port 443", "correct mirror_url"),
    ),
    "another mirror's URL": (
        akl("mirror_url: .*", "mirror_url: https://nbo1.example.org"),
        (f"{AKL}:6", "mirror_url", "a name that no other host has", "correct mirror_url"),
    ),
    "an address for a URL": (
        akl("mirror_url: .*", "mirror_url: https://192.0.2.10"),
        (f"{AKL}:6", "mirror_url", "a DNS name", "use the host's name"),
    ),
    "a country's name": (
        akl("(mirror_location: .*)country: NZ", r"\1country: New Zealand"),
        (f"{AKL}:7", "mirror_location.country", "NZ", "correct mirror_location"),
    ),
    "latitude and longitude the other way round": (
        akl("(mirror_location: .*)latitude: -36.8, longitude: 174.8", r"\1latitude: 174.8, longitude: -36.8"),
        (f"{AKL}:7", "mirror_location.latitude", "a number from -90 to 90", "correct mirror_location"),
    ),
    "a network with host bits": (
        akl("mirror_networks: .*", "mirror_networks: [192.0.2.7/24]"),
        (f"{AKL}:8", "mirror_networks", "a network such as", "write 192.0.2.0/24"),
    ),
    "one value for a list": (
        akl("mirror_address_families: .*", "mirror_address_families: ipv4"),
        (f"{AKL}:10", "mirror_address_families", "a list", "write one entry a line, each after '- '"),
    ),
    "a family by another name": (
        akl("mirror_address_families: .*", "mirror_address_families: [ipv4, IPv6]"),
        (f"{AKL}:10", "mirror_address_families", "ipv4, ipv6", "did you mean ipv6?"),
    ),
    "no mail address": (
        akl("(mirror_operator: .*)email: [^,]*", r"\1email: Example University"),
        (f"{AKL}:11", "mirror_operator.email", "a mail address such as", "correct mirror_operator"),
    ),
    "a date as one says it": (
        akl("(mirror_agreement: .*)accepted_on: .*}", r"\1accepted_on: 20.11.2026}"),
        (f"{AKL}:12", "mirror_agreement.accepted_on", "a date such as 2026-11-20", "correct mirror_agreement"),
    ),
    "an agreement that is not the fleet's": (
        akl('(mirror_agreement: .*)"2026-11"', r'\1"2025-01"'),
        (f"{AKL}:12", "mirror_agreement.version", "2026-11", "ask the operator to accept the fleet's agreement"),
    ),
    "a window without its zone": (
        akl(r'(  - {from: "2026-12-01T20:00:00)\+13:00', r"\1"),
        (f"{AKL}:15", "mirror_maintenance.1.from", "ISO 8601 with its zone", "add Z for UTC, or an offset"),
    ),
    "a window that ends before it begins": (
        akl('(  - {from: .*)until: "2026-12-01T23', r'\1until: "2026-12-01T19'),
        (f"{AKL}:15", "mirror_maintenance.1.until", "a moment after from", "correct mirror_maintenance"),
    ),
    "a template": (
        akl("mirror_bandwidth: .*", "mirror_bandwidth: '{{ 5 * 200 }}'"),
        (f"{AKL}:9", "mirror_bandwidth", "plain data", "write the value out; a template belongs into"),
    ),
    "a version for a project": (
        akl("  projects: .*", "  projects: [six, idna==3.10]"),
        (f"{AKL}:4", "mirror_selection.projects", "no version, no wildcard", "correct mirror_selection"),
    ),
    "nothing selected": (
        akl("mirror_selection:\n  projects: .*", "mirror_selection:\n  projects: []"),
        (f"{AKL}:3", "mirror_selection", "projects: [names], or everything: true", "name the projects"),
    ),
    "a selection without the gate's project": (
        added(NBO, "mirror_selection: {projects: [attrs, certifi, idna]}\n"),
        (f"{NBO}:12", "mirror_selection", "fleet_gate_project", "add six, or choose"),
    ),
    "an upstream that is misspelt": (
        Typed(NBO, "^mirror_upstream: .*", "mirror_upstream: akl1.exmaple.org"),
        (f"{NBO}:3", "mirror_upstream", "an origin or of a mirror", "did you mean akl1.example.org?"),
    ),
    "itself as its upstream": (
        Typed(NBO, "^mirror_upstream: .*", "mirror_upstream: nbo1.example.org"),
        (f"{NBO}:3", "mirror_upstream", "a chain that ends at an index or origin", "correct mirror_upstream"),
    ),
    "a tier-2 without an upstream": (
        Typed(NBO, "^mirror_mode: .*\nmirror_upstream: .*", "mirror_mode: rsync"),
        (NBO, "mirror_upstream", "an origin or of a mirror that has files", "correct mirror_upstream"),
    ),
    "acme without a directory": (
        akl("tls_acme_directory: .*\n", ""),
        (f"{AKL}:17", "tls_acme_directory", "the https URL of an ACME server's directory", "add tls_acme_directory"),
    ),
    "provided without a key": (
        Typed(NBO, "^tls_provided_key: .*\n", ""),
        (f"{NBO}:9", "tls_provided_key", "the key's path on the host", "add tls_provided_key to the record"),
    ),
    # --------------------------------------------------------------------------------------------------- YAML, files
    "an unclosed bracket": (
        akl("mirror_networks: .*", "mirror_networks: [192.0.2.0/24"),
        (f"{AKL}:9:17", "", "plain YAML, one mapping", f"correct {AKL}"),
    ),
    "a tab": (
        akl("  projects: .*", "\tprojects: [six]"),
        (f"{AKL}:4:1", "", "plain YAML, one mapping", f"correct {AKL}"),
    ),
    "a colon without a blank": (
        akl("mirror_mode: .*", "mirror_mode:bandersnatch"),
        (f"{AKL}:3:17", "", "plain YAML, one mapping", f"correct {AKL}"),
    ),
    "a record without its suffix": (
        named(AKL, "mirrors/akl1.example.org"),
        ("mirrors/akl1.example.org)", "", "files NAME.yml", f"rename it to {AKL}"),
    ),
    "a record of another suffix": (
        named(AKL, "mirrors/akl1.example.org.yaml"),
        ("mirrors/akl1.example.org.yaml", "", "files NAME.yml", f"rename it to {AKL}"),
    ),
    "a record that is executable": (
        Typed("mirrors/syd1.yml", "", "mirror_mode: cache\n"),
        ("mirrors/syd1.yml", "", "plain YAML", "chmod -x syd1.yml"),
    ),
    "a record's name in capitals": (
        named(NBO, "mirrors/NBO1.yml"),
        ("mirrors/NBO1.yml", "name", "lower-case letters", "rename it to nbo1"),
    ),
    "a record that is called as a group": (
        named(NBO, "mirrors/mirrors.yml"),
        ("mirrors/mirrors.yml", "name", "lower-case letters", "choose another name"),
    ),
    "notes among the records": (
        added("mirrors/README.md", "Our mirrors\n"),
        ("mirrors/README.md", "", "files NAME.yml", "rename or remove it"),
    ),
    "variables of a host that is nowhere": (
        added("host_vars/akl2.example.org.yml", "ansible_port: 2222\n"),
        ("host_vars/akl2.example.org.yml", "", "named after a host: akl1.example.org", "mean akl1.example.org?"),
    ),
    "variables of a group that is none": (
        added("group_vars/mirror.yml", "ansible_port: 2222\n"),
        ("group_vars/mirror.yml", "", "files named after a group", "did you mean mirrors?"),
    ),
    "a host's variables among those of groups": (
        added("group_vars/akl1.example.org.yml", "ansible_port: 2222\n"),
        ("group_vars/akl1.example.org.yml", "", "files named after a group", "move it to host_vars/"),
    ),
    "a folder that is misspelt": (
        added("host_var/akl1.example.org.yml", "ansible_port: 2222\n"),
        ("host_var)", "", "group_vars, host_vars, mirrors", "rename it to host_vars"),
    ),
    "variables that are no YAML": (
        added(ALL, "nginx_resolvers: [192.0.2.1\n"),
        (f"{ALL}:2:1", "", "YAML as Ansible reads it", f"correct {ALL}"),
    ),
    # ------------------------------------------------------------------------------------------- what stands beside it
    "an input that there is not": (
        added(ALL, "web_server_htp3: true\n"),
        (f"{ALL}:1", "web_server_htp3", "web_server_names", "did you mean nginx_http3?"),
    ),
    "an input by its former name": (
        added(ALL, "web_server_http3: true\n"),
        (f"{ALL}:1", "web_server_http3", "its new name, nginx_http3", "rename it to nginx_http3"),
    ),
    "an interval that divides nothing": (
        added("group_vars/mirrors.yml", "sync_client_interval: 7\n"),
        ("mirrors (group_vars/mirrors.yml:1", "sync_client_interval", "5, 6, 10, 12", "correct sync_client_interval"),
    ),
    "an input of another type": (
        added("host_vars/nbo1.example.org.yml", "nginx_http3: 'yes please'\n"),
        ("nbo1.example.org (host_vars/nbo1.example.org.yml:1", "nginx_http3", "true or false", "correct nginx_http3"),
    ),
    "a port in an entry of another name": (
        added(ALL, "host_baseline_open_ports:\n  - {ports: 8080}\n"),
        (f"{ALL}:1", "host_baseline_open_ports", "a mapping with the keys port", "did you mean port?"),
    ),
    "a record's key among the variables": (
        added("host_vars/nbo1.example.org.yml", "mirror_bandwidth: 500\n"),
        ("host_vars/nbo1.example.org.yml:1", "mirror_bandwidth", "mirrors/NAME.yml", "move it to mirrors/NAME.yml"),
    ),
    "an option that is misspelt": (
        added(ALL, "fleet_drain_second: 5\n"),
        (f"{ALL}:1", "fleet_drain_second", "fleet_drain_seconds", "did you mean fleet_drain_seconds?"),
    ),
    "an option out of its range": (
        added(ALL, "fleet_drain_seconds: -5\n"),
        (f"{ALL}:1", "fleet_drain_seconds", "a whole number from 0", "correct fleet_drain_seconds"),
    ),
    # ---------------------------------------------------------------------------------------------------- fleet.yml
    "no name of the fleet": (
        fleet("fleet_name: .*\n", ""),
        ("fleet.yml", "fleet_name", "text", "add fleet_name to fleet.yml"),
    ),
    "a key of the fleet is misspelt": (
        fleet("fleet_gate_project:", "fleet_gate_projct:"),
        ("fleet.yml:26", "fleet_gate_projct", "fleet_gate_project", "did you mean fleet_gate_project?"),
    ),
    "nobody who measures": (
        fleet("monitors:\n.*", "monitors: {}"),
        ("fleet.yml:44", "monitors", "at least one monitor", "add a host to monitors in fleet.yml"),
    ),
    "a pin without a lock file": (
        fleet('(  bandersnatch: {debian-13: )"8.2.0"', r'\1"8.9.9"'),
        ("fleet.yml:17", "fleet_versions.bandersnatch.debian-13", "8.1.0, 8.2.0", "pin one of these, or write"),
    ),
    "a pin of our own programs that is not this checkout's": (
        fleet('  mirrorfleet: "0.1.0"', '  mirrorfleet: "0.9.0"'),
        ("fleet.yml:16", "fleet_versions.mirrorfleet", "0.1.0", "pin the version of this checkout"),
    ),
    "a version without quotes": (
        fleet('(  nginx: {debian-13: )"1.26.*"', r"\g<1>1.26"),
        ("fleet.yml:19", "fleet_versions.nginx.debian-13", "", "put it in quotes"),
    ),
    "a platform that is none": (
        fleet("(  nginx: {)debian-13", r"\1trixie"),
        ("fleet.yml:19", "fleet_versions.nginx", "debian-12, debian-13", "correct fleet_versions"),
    ),
    "private addresses as they were permitted": (
        added("fleet.yml", "fleet_monitor_settings: {private_addresses: true}\n"),
        ("fleet.yml:46", "fleet_monitor_settings.private_addresses", "networks", "private_networks: [10.0.0.0/8]"),
    ),
    "a network that is an address": (
        added("fleet.yml", "private_networks: [10.0.0.7/8]\n"),
        ("fleet.yml:46", "private_networks", "a network such as", "write 10.0.0.0/8"),
    ),
    "an authority without a folder": (
        fleet("fleet_private_dir: .*\n((?:.*\n)*?)    tls_mode: provided\n.*\n.*", r"\1    tls_mode: private_ca"),
        ("fleet.yml", "fleet_private_dir", "a folder of the control node", "add fleet_private_dir to fleet.yml"),
    ),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(HOUSE / "inventory/example", tmp_path / "fleet")
    shutil.rmtree(tmp_path / "fleet/group_vars")
    return tmp_path / "fleet"


def lines(folder: Path, capsys: pytest.CaptureFixture[str], *options: str) -> list[str]:
    code = CHECK.main([str(folder / "fleet.yml"), *options])
    *found, last = capsys.readouterr().out.splitlines()
    assert (code, "nothing is wrong" in last) == ((1, False) if found else (0, True))
    return found


def test_there_are_sixty() -> None:
    assert len(MISTAKES) >= 60


def test_without_a_mistake_nothing_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert lines(folder, capsys) == []


@pytest.mark.parametrize(("typed", "told"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_told_once_and_whole(
    typed: Typed, told: Told, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed.into(folder)
    if "syd1" in typed.file:
        (folder / typed.file).chmod(0o755)
    found = lines(folder, capsys)
    print(*found, sep="\n")
    (line,) = [
        one for one in found if "whose record is wrong" not in one and "names akl1.example.org" not in one
    ]
    where, _, rest = line.partition("): ")
    place, key, allowed, next_step = told
    problem, _, rest = rest.partition(". Allowed: ")
    said_allowed, _, said_next = rest.partition(". Next: ")
    assert (
        place in f"{where})"
        and problem.startswith(key)
        and allowed in said_allowed
        and next_step in said_next
    )
    assert said_allowed and said_next.endswith((".", "?"))


def test_many_mistakes_are_told_in_one_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = (
        *("text for a number", "no agreement", "a state in capitals", "provided without a key"),
        *("an input that there is not", "an interval that divides nothing", "notes among the records"),
        *("variables of a host that is nowhere", "a pin without a lock file", "no name of the fleet"),
    )
    for name in names:
        MISTAKES[name][0].into(folder)
    found = lines(folder, capsys)
    assert len(found) == len(set(found)) == len(names)


@pytest.mark.parametrize("file", [AKL, NBO, "fleet.yml"])
def test_whatever_line_is_missing_nobody_crashes(file: str, folder: Path) -> None:
    """What is left is a fleet, or is told why it is none; and what one record lacks is no other's matter."""
    path = folder / file
    text = path.read_text().splitlines(keepends=True)
    for number in range(len(text)):
        path.write_text("".join(text[:number] + text[number + 1 :]))
        found = inventory.read(folder / "fleet.yml", "2026-11-27")
        if found.fatal() or not found.fleet:
            assert file == "fleet.yml", found.fatal()
            continue
        wiring.shared(found.fleet)
        wired = wiring.Wiring(found.fleet)
        for name in found.fleet.hosts:
            wired.inputs(name)
        others = {AKL, NBO} - {file}
        assert {Path(one).stem for one in others} <= set(found.fleet.groups["mirrors"])


@pytest.mark.parametrize(
    "typed",
    [
        "a: &a [*a]\n",
        "a: &a [x, x]\n"
        + "".join(
            f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n"
            for old, new in zip("abcdefgh", "bcdefghi", strict=True)
        ),
        "base: &base {x: 1}\nnginx_http3: true\n<<: *base\n",
        "$ANSIBLE_VAULT;1.1;AES256\n6162\n",
        "tls_acme_eab_key_id: x\ntls_acme_eab_hmac: !vault |\n  $ANSIBLE_VAULT;1.1;AES256\n  6162\n",
        "1: x\n[a, b]: y\nx: !unsafe '{{ y }}'\n",
        "sync_client_interval: '{{ 5 + 5 }}'\nnginx_ours: 1\nother: '{{ nginx_ours }}'\n",
        "---\n",
        "",
    ],
)
def test_what_a_coordinator_may_write(typed: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    added(ALL, typed).into(folder)
    assert lines(folder, capsys) == []


def test_github_shows_it_at_the_line(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_WORKSPACE", str(folder.parent))
    akl("mirror_bandwidth: .*", "mirror_bandwidth: 100%").into(folder)
    added("mirrors/one, two:.yml", "mirror_mode: [\n").into(folder)
    found = lines(folder, capsys, "--github")
    bandwidth, broken = sorted(one for one in found if "whose record" not in one)
    assert bandwidth.startswith(
        f"::error file=fleet/{AKL},line=9::akl1.example.org ({AKL}:9): mirror_bandwidth "
    )
    assert "('100%25')" in bandwidth
    assert broken.startswith("::error file=fleet/mirrors/one%2C two%3A.yml,line=2,col=1::one, two: (")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    assert set(lines(folder, capsys)) == set(found)


def test_other_systems_read_sarif(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    MISTAKES["an unclosed bracket"][0].into(folder)
    lines(folder, capsys, "--sarif", "found.sarif")
    log = json.loads(Path("found.sarif").read_text())
    (run,) = log["runs"]
    (first, *_) = run["results"]
    place = first["locations"][0]["physicalLocation"]
    assert (log["version"], place["artifactLocation"]["uri"]) == ("2.1.0", f"fleet/{AKL}")
    assert place["region"] == {"startLine": 9, "startColumn": 17} and "is no YAML" in first["message"]["text"]


def test_without_a_path_it_is_the_inventory_of_the_playbooks(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ANSIBLE_INVENTORY", raising=False)
    assert CHECK.main([]) == 0 and "/inventory/sandbox/fleet.yml: nothing is wrong" in capsys.readouterr().out
    monkeypatch.setenv("ANSIBLE_INVENTORY", str(folder / "fleet.yml"))
    assert CHECK.main([]) == 0 and f"{folder}/fleet.yml: nothing is wrong" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("nowhere/fleet.yml", "does not exist"),
        (".", "is a folder"),
        (AKL, "is a mirror's record"),
        ("other.yml", "is no fleet.yml"),
    ],
)
def test_a_path_that_is_no_fleet(
    path: str, said: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    added("other.yml", "x: 1\n").into(folder)
    assert CHECK.main([str(folder / path)]) == 2
    told = capsys.readouterr().err
    assert said in told and "-i FOLDER/fleet.yml" in told


# ------------------------------------------------------------------------------------------------ what Ansible is told
def ansible(playbook: str, source: Path, *arguments: str, **environment: str) -> tuple[int, str]:
    given = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
    given |= {"ANSIBLE_CONFIG": str(HOUSE / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"} | environment
    done = subprocess.run(
        [sys.executable, "-m", "ansible", "playbook", "-i", source, HOUSE / "playbooks" / playbook, *arguments],
        cwd=HOUSE, env=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("playbook", sorted(path.name for path in (HOUSE / "playbooks").glob("*.yml")))
def test_an_inventory_that_does_not_exist_ends_every_playbook(playbook: str, tmp_path: Path) -> None:
    code, said = ansible(playbook, tmp_path / "fleet.yml")
    assert code != 0 and "does not exist. Next: name the fleet's file" in said and "PLAY" not in said


HERE = """
ansible_connection: local
ansible_become: false
ansible_python_interpreter: "{{ ansible_playbook_python }}"
fleet_check_names: false
web_server_htp3: true
nginx_worker_connections: "{{ nobody_set_this }}"
nginx_hsts_max_age: "{{ 'for ' ~ 'ever' }}"
"""


@pytest.mark.slow
def test_preflight_tells_what_files_say_and_what_hosts_lack_in_one_run(folder: Path) -> None:
    """The hosts are this machine, one of them without Python."""
    added(ALL, HERE).into(folder)
    added("group_vars/mirrors.yml", "sync_client_interval: 7\n").into(folder)
    added("host_vars/akl1.example.org.yml", "ansible_python_interpreter: /nowhere/python3\n").into(folder)
    added("host_vars/nbo2.example.org.yml", "x: 1\n").into(folder)
    fleet('(  bandersnatch: {debian-13: )"8.2.0"', r'\1"8.9.9"').into(folder)
    code, said = ansible("preflight.yml", folder / "fleet.yml")
    (message,) = re.findall(r"^ +Nothing was changed. To be mended first:\n(.*?)^\S", said, re.M | re.S)
    told = [line.strip() for line in message.splitlines() if line.strip()]
    assert code != 0 and len(told) == len(set(told))
    for words in (
        "all (group_vars/all.yml:6): web_server_htp3 is no input",
        "all (group_vars/all.yml:7): nginx_worker_connections cannot be evaluated: \"'nobody_set_this' is undefined\"",
        "all (group_vars/all.yml:8): nginx_hsts_max_age is text ('for ever')",
        "mirrors (group_vars/mirrors.yml:1): sync_client_interval is 7",
        "nbo2.example.org (host_vars/nbo2.example.org.yml): is for nbo2.example.org, which is no host",
        "all (fleet.yml:17): fleet_versions.bandersnatch.debian-13 is '8.9.9'",
        "akl1.example.org: python is not installed. Allowed: Debian's python3. Next: run playbooks/provision.yml",
        "nbo1.example.org: tls_provided_key is /etc/ssl/mirror/privkey.pem, which cannot be read",
    ):
        assert sum(words in line for line in told) == 1, f"{words}\n{said}"


@pytest.mark.slow
@pytest.mark.parametrize(("check", "code", "said"), [([], 2, "Next: see what it said"), (["--check"], 0, "")])
def test_python_is_brought_by_provision_alone_and_never_in_check_mode(
    check: list[str], code: int, said: str, folder: Path, tmp_path: Path
) -> None:
    """Here is no apt that could: what counts is that it was called, or not."""
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("sh", "touch"):
        (bare / name).symlink_to(shutil.which(name) or "")
    (bare / "apt-get").write_text(f"#!/bin/sh\ntouch {tmp_path}/called\necho no archive\nexit 1\n")
    (bare / "apt-get").chmod(0o755)
    play = tmp_path / "play.yml"
    tasks = HOUSE / "playbooks/tasks/python.yml"
    play.write_text(f"- hosts: redirectors\n  gather_facts: false\n  tasks: [import_tasks: {tasks}]\n")
    added(ALL, "ansible_connection: local\n").into(folder)
    assert "tasks/python.yml" in (HOUSE / "playbooks/provision.yml").read_text()
    for path in (HOUSE / "playbooks").rglob("*.yml"):
        assert path.name == "provision.yml" or "tasks/python.yml" not in path.read_text()
    done, told = ansible(str(play), folder / "fleet.yml", *check, PATH=str(bare))
    assert (done, said in told, (tmp_path / "called").exists()) == (code, True, not check), told


@pytest.mark.slow
def test_variables_that_are_no_yaml_end_every_run_with_all_that_is_wrong(folder: Path) -> None:
    """Ansible would go on until it needs that file, and then tell nothing else."""
    added("group_vars/redirectors.yml", "a: [\n").into(folder)
    MISTAKES["a number in quotes"][0].into(folder)
    code, said = ansible("publish.yml", folder / "fleet.yml")
    assert code == 4 and "PLAY" not in said and said.count("[ERROR]") == 1
    assert (
        "redirectors (group_vars/redirectors.yml:2:1): is no YAML" in said
        and "mirror_bandwidth is text" in said
    )
