"""The inventory plugin as Ansible loads it: what it makes of a fleet, who wins, and that no record ever runs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from plugin_utils import contract, wiring

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir() if (path / "tasks").is_dir())
PLAYBOOKS = sorted(path.name for path in (ROOT / "playbooks").glob("*.yml"))


class Fleet:
    """A fleet in a folder of its own, and Ansible's programs over it with the project's configuration."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "fleet"
        shutil.copytree(ROOT / "inventory/example", self.folder)
        (self.folder / "mirrors/akl1.example.org.yml").rename(self.folder / "mirrors/akl1.yml")
        path = self.folder / "mirrors/nbo1.example.org.yml"
        path.write_text(
            path.read_text().replace("mirror_upstream: akl1.example.org", "mirror_upstream: akl1")
        )
        self.canary = folder / "canary"
        self.file = self.folder / "fleet.yml"

    def run(
        self, program: str, *arguments: str | Path, source: Path | None = None, **environment: str
    ) -> Any:
        given = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
        given |= {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"} | environment
        return subprocess.run(
            [BIN / program, "-i", source or self.file, *arguments],
            cwd=self.folder, env={key: value for key, value in given.items() if value},
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip

    def listing(self, *arguments: str | Path) -> dict[str, Any]:
        done = self.run("ansible-inventory", "--list", *arguments)
        assert done.returncode == 0, done.stderr
        # Ansible marks texts that it would not evaluate, which is to say: all of ours.
        found: dict[str, Any] = json.loads(
            done.stdout, object_hook=lambda one: one.get("__ansible_unsafe", one)
        )
        return found

    def hostvars(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = self.listing()["_meta"]["hostvars"]
        return found

    def record(self, name: str, **changes: Any) -> Path:
        path = self.folder / f"mirrors/{name}.yml"
        values = yaml.safe_load(
            (self.folder / "mirrors/akl1.yml").read_text(),
        ) | {
            "mirror_url": f"https://{name}.example.org",
        }
        path.write_text(json.dumps(values | changes, default=str))
        return path


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path)


def test_a_fleet_becomes_groups_hosts_and_inputs(fleet: Fleet) -> None:
    found = fleet.listing()
    assert set(found["mirrors"]["hosts"]) == {"akl1", "nbo1.example.org"}
    assert found["redirectors"]["hosts"] == ["redirector.example.org"]
    one = found["_meta"]["hostvars"]["nbo1.example.org"]
    assert (one["mirror_mode"], one["mirror_state"]) == ("bandersnatch", "active")
    assert one["fleet_inputs"]["bandwidth"] == 200
    assert one["fleet_inputs"]["names"] == ["nbo1.example.org", "pypi.example.ke"]
    assert (one["fleet_inputs"]["tier"], one["fleet_inputs"]["config"]["upstream"]) == (
        2,
        "https://akl1.example.org",
    )
    # Its own tier below, monitors and redirectors: not all hosts of the fleet.
    assert found["_meta"]["hostvars"]["akl1"]["fleet_inputs"]["unlimited"] == [
        "mirrors.example.org",
        "nbo1.example.org",
    ]


def test_a_person_can_see_what_a_record_becomes(fleet: Fleet) -> None:
    done = fleet.run("ansible-inventory", "--host", "akl1")
    found = json.loads(done.stdout)
    assert found["fleet_inputs"]["config"]["selection"]["platforms_excluded"] == ["windows", "macos"]
    assert "fleet_registry" not in found, "what speaks of all mirrors is not shown with each"


# ------------------------------------------------------------------------------------------------------- nothing runs
def hostile(canary: Path) -> dict[str, str]:
    touch = f"touch {canary}"
    return {
        "an expression": f"{{{{ lookup('ansible.builtin.pipe', '{touch}') }}}}",
        "a number": f"{{{{ lookup('ansible.builtin.pipe', '{touch}') | int }}}}",
        "a statement": f"{{% set x = lookup('ansible.builtin.pipe', '{touch}') %}}",
        "no template to the eye": f"lookup('ansible.builtin.pipe', '{touch}')",
        "a shell's": f"$({touch}) `{touch}` ; {touch}",
    }


def places(shape: dict[str, Any], path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Every place of a record where text can stand, whatever the schema then says of it."""
    yield path
    for key, inner in shape.get("properties", {}).items():
        yield from places(inner, (*path, key))
    if "items" in shape:
        yield from places(shape["items"], (*path, 0))


def put(place: tuple[str | int, ...], text: str) -> Any:
    value: Any = text
    for part in reversed(place):
        value = [value] if isinstance(part, int) else {part: value}
    return value


PLACES = [place for place in places(contract.schema(contract.RECORD)) if place]


def merged(into: Any, value: Any) -> Any:
    if isinstance(into, dict) and isinstance(value, dict):
        return into | {key: merged(into.get(key), one) for key, one in value.items()}
    return value


EVALUATE = """
- hosts: all
  gather_facts: false
  tasks:
    - name: Use every variable that can be used
      ansible.builtin.debug:
        msg: "{{ item }} {{ lookup('ansible.builtin.vars', item, default='') }}"
      loop: "{{ hostvars[inventory_hostname].keys() | list }}"
      ignore_errors: true
    - name: Of every host
      ansible.builtin.debug:
        msg: "{{ hostvars }}"
      ignore_errors: true
"""


def attack(fleet: Fleet) -> int:
    """A record for each place of a record and each kind of text, and one whose every free text is hostile."""
    good = yaml.safe_load((fleet.folder / "mirrors/akl1.yml").read_text())
    number = 0
    for place in PLACES:
        for text in hostile(fleet.canary).values():
            number += 1
            own = {"mirror_url": f"https://evil{number}.example.org"}
            fleet.record(f"evil{number}", **merged(good | own, put(place, text)))
    return number


def test_nothing_in_a_record_is_ever_evaluated(fleet: Fleet) -> None:
    number = attack(fleet)
    play = fleet.folder / "play.yml"
    play.write_text(EVALUATE)
    listing = fleet.run("ansible-inventory", "--list")
    assert listing.returncode == 0
    refused = set(re.findall(r"(evil\d+) \(mirrors/", listing.stderr))
    # What looks like a template is refused wherever it stands; the other texts are just texts where text is free.
    assert number > len(refused) >= number * 3 // 5
    assert fleet.run("ansible-inventory", "--graph").returncode == 0
    assert fleet.run("ansible-inventory", "--host", "akl1").returncode == 0
    done = fleet.run("ansible-playbook", play)
    assert "Use every variable" in done.stdout
    assert not fleet.canary.exists()


@pytest.mark.slow
@pytest.mark.parametrize("playbook", PLAYBOOKS)
def test_no_playbook_evaluates_a_record(fleet: Fleet, playbook: str) -> None:
    """Also with --limit to another host: the records are read all the same. Nobody is reached."""
    for index, text in enumerate(hostile(fleet.canary).values()):
        operator = {"name": text, "email": "a@example.org"}
        fleet.record(f"evil{index}", mirror_operator=operator, mirror_location={"city": text} | CITY)
    (fleet.folder / "group_vars/all.yml").write_text(
        "ansible_host: 192.0.2.1\nansible_timeout: 1\nansible_ssh_retries: 0\n"
        f"fleet_private_dir: {fleet.folder}/private\n"
    )
    for limit in (["--limit", "redirector.example.org"], []):
        done = fleet.run(
            "ansible-playbook", ROOT / "playbooks" / playbook, "--check", *limit, "-e", "sandbox_hosts=[]",
            "-e", "hours=1", "-e", "reason=x", ANSIBLE_TIMEOUT="1", ANSIBLE_SSH_RETRIES="0",
        )  # fmt: skip
        assert "[ERROR]: The inventory" not in done.stderr
        assert "evil0" in done.stderr, "the record was not read"
        assert not fleet.canary.exists()


CITY = {"continent": "OC", "country": "NZ", "latitude": 1, "longitude": 1}


def trap(canary: Path) -> str:
    runs = f"{{{{ lookup('ansible.builtin.pipe', 'touch {canary}') }}}}"
    return json.dumps({"all": {"vars": {"x": runs}, "hosts": {"evil": {"ansible_connection": runs}}}})


@pytest.mark.parametrize(
    "what", ["the folder", "the records", "one record", "an executable record", "no path"]
)
@pytest.mark.parametrize(
    "program", ["ansible-inventory --list", "ansible-playbook audit.yml", "ansible all -m debug"]
)
def test_no_other_way_in(fleet: Fleet, what: str, program: str) -> None:
    evil = fleet.folder / "mirrors/evil.yml"
    evil.write_text(trap(fleet.canary))
    if what == "an executable record":
        evil.write_text(f"#!/bin/sh\ntouch {fleet.canary}\necho '{{}}'\n")
        evil.chmod(0o755)
    source = {
        "the folder": fleet.folder,
        "the records": fleet.folder / "mirrors",
        "no path": fleet.folder / "nowhere.yml",
    }.get(what, evil)
    name, *arguments = program.split()
    where: list[str | Path] = [ROOT / "playbooks" / one if one.endswith(".yml") else one for one in arguments]
    done = fleet.run(name, *where, source=source)
    assert done.returncode == 4
    assert done.stderr.count("[ERROR]") == 1 and "-i FOLDER/fleet.yml" in done.stderr
    assert "Traceback" not in done.stderr and done.stdout == ""
    assert not fleet.canary.exists()


def test_an_executable_record_is_none(fleet: Fleet) -> None:
    evil = fleet.record("evil")
    evil.chmod(0o755)
    done = fleet.run("ansible-inventory", "--list")
    assert "evil (mirrors/evil.yml): is executable, and a record is data" in " ".join(done.stderr.split())
    assert "evil" not in json.loads(done.stdout)["_meta"]["hostvars"]


@pytest.mark.slow
@pytest.mark.parametrize("what", ["the file", "the folder", "the records", "one record"])
@pytest.mark.parametrize("playbook", PLAYBOOKS)
def test_a_run_without_our_configuration_evaluates_nothing(fleet: Fleet, playbook: str, what: str) -> None:
    evil = fleet.folder / "mirrors/evil.yml"
    evil.write_text(trap(fleet.canary))
    source = {
        "the file": fleet.file, "the folder": fleet.folder, "the records": evil.parent, "one record": evil,
    }[what]  # fmt: skip
    # With what the playbooks need to start at all, as somebody might export it; not the inventory plugin.
    folders = ("library", "filter_plugins", "action_plugins")
    paths = {f"ANSIBLE_{folder.upper()}": str(ROOT / folder) for folder in folders}
    paths |= {"ANSIBLE_ROLES_PATH": str(ROOT / "roles")}
    done = fleet.run(
        "ansible-playbook", ROOT / "playbooks" / playbook, source=source, ANSIBLE_CONFIG="", **paths
    )
    assert done.returncode == 4
    assert "TASK [" not in done.stdout and "ANSIBLE_CONFIG=CHECKOUT/ansible.cfg" in done.stderr
    assert not fleet.canary.exists()


# ---------------------------------------------------------------------------------------------------------- who wins
def inputs_of(role: str) -> list[str]:
    specs = yaml.safe_load((ROOT / "roles" / role / "meta/argument_specs.yml").read_text())
    return list(specs["argument_specs"]["main"]["options"])


def of_all_kinds(fleet: Fleet) -> None:
    """The example with a host of each group in it."""
    url = "redirector_url: https://mirrors.example.org\n"
    text = fleet.file.read_text()
    assert url in text
    fleet.file.write_text(
        text.replace(
            url,
            f"{url}    redirector_index_url: https://pypi.example.org\n"
            "    redirector_mode: rsync\n    redirector_upstream: origin\n",
        )
        + "clients: {someone: {}}\n"
        "origins: {origin: {origin_url: 'https://o.example.org', origin_projects: [attrs, certifi, idna, six]}}\n"
    )


def test_a_redirector_without_an_index_is_given_nothing_for_one(fleet: Fleet) -> None:
    """Neither maps, nor units that make them, nor a site: the roles run where the group `indexes` is."""

    def of_an_index(found: dict[str, Any]) -> set[str]:
        return {
            key
            for key in found["redirector.example.org"]
            if key.startswith(("route_", "web_server_", "redirector_index"))
        }

    assert of_an_index(fleet.hostvars()) == set()
    plays = yaml.safe_load((ROOT / "playbooks/provision.yml").read_text())
    # A condition on a role of the redirectors' own play would be one on nginx's handlers, which all its roles notify.
    assert [play["hosts"] for play in plays if "route" in play.get("roles", [])] == ["indexes"]
    for play in plays:
        roles = [role if isinstance(role, dict) else {"role": role} for role in play.get("roles", [])]
        serving = [role for role in roles if role["role"] in ("document_server", "web_server", "route")]
        assert len({role.get("when") for role in serving}) < 2
    # Nor is a host that has no tree a role that would fill one; one that has is filled before it is offered.
    filled = [play["hosts"] for play in plays if "sync_client" in play.get("roles", [])]
    assert filled == ["mirrors:!retired:!waiting", "trees"]
    order = [play.get("hosts") for play in plays]
    assert order.index("trees") < order.index("redirectors")
    of_all_kinds(fleet)
    assert of_an_index(fleet.hostvars()) >= {"route_health", "web_server_routes", "redirector_index"}
    assert {"sync_client_config", "sync_client_packages"} <= fleet.hostvars()["redirector.example.org"].keys()


@pytest.mark.parametrize(
    "place", ["group_vars/all.yml", "group_vars/fleet.yml", "group_vars/{group}.yml", "host_vars/{host}.yml"]
)
def test_what_a_person_sets_wins_over_the_wiring(fleet: Fleet, place: str) -> None:
    """Every documented input of every role, on every host of the fleet."""
    of_all_kinds(fleet)
    wired = fleet.hostvars()
    groups = {
        "akl1": "mirrors",
        "origin": "origins",
        "redirector.example.org": "redirectors",
        "someone": "clients",
    }
    everything = {key: f"set by a person: {key}" for role in ROLES for key in inputs_of(role)}
    for host, group in groups.items():
        path = fleet.folder / place.format(group=group, host=host)
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(everything))
    found = fleet.hostvars()
    for host in groups:
        lost = {key for key, value in everything.items() if found[host][key] != value}
        assert not lost, f"{host}, {place}: {lost}"
        assert everything.keys() & wired[host].keys(), "nothing is wired at all"


def test_no_playbook_hides_what_a_person_set() -> None:
    """Variables of a play, of a role in it, or vars_files would lie above the inventory's."""
    asked = {"main": set()}
    for role in ROLES:
        specs = yaml.safe_load((ROOT / "roles" / role / "meta/argument_specs.yml").read_text())[
            "argument_specs"
        ]
        asked[role] = set(specs["main"]["options"])
    assert not list((ROOT / "playbooks").rglob("group_vars")) + list((ROOT / "playbooks").rglob("host_vars"))
    for path in (ROOT / "playbooks").glob("*.yml"):
        for play in yaml.safe_load(path.read_text()):
            assert "vars_files" not in play, path.name
            named = set(play.get("vars", {}))
            for role in play.get("roles", []):
                named |= set(role.get("vars", {})) if isinstance(role, dict) else set()
            hidden = {key for key in named if any(key in asked[role] for role in ROLES)}
            assert not hidden, f"{path.name}: {hidden}"


def test_an_input_is_wired_on_one_group_of_those_that_a_host_can_be_in() -> None:
    """So nothing depends on the order of groups, but on a group's depth."""
    both = [
        {"fleet", "mirrors"},
        {"fleet", "origins"},
        {"fleet", "clients"},
        {"fleet", "sites", "redirectors", "indexes", "trees", "monitors"},
    ]
    templates = [wiring.TEMPLATES, wiring.package_templates()]
    for together in both:
        seen: dict[str, str] = {}
        for group in together:
            for key in {key for one in templates for key in one.get(group, {})}:
                assert key not in seen, f"{key} is wired on {group} and on {seen[key]}"
                seen[key] = group


def test_a_template_names_only_what_each_host_of_its_group_has(fleet: Fleet) -> None:
    of_all_kinds(fleet)
    found = fleet.listing()
    for group, templates in wiring.TEMPLATES.items():
        members = [name for name, one in found["_meta"]["hostvars"].items() if templates.keys() <= one.keys()]
        assert members, group
        for name in members:
            own = found["_meta"]["hostvars"][name]
            named = set(re.findall(r"fleet_inputs\.(\w+)", " ".join(str(own[key]) for key in templates)))
            missing = named - own["fleet_inputs"].keys()
            assert not missing, f"{group}: {name} has no {missing}"


# ------------------------------------------------------------------------------------------------- people's mistakes
def test_an_inventory_of_the_old_form_is_told_what_to_move_where(fleet: Fleet) -> None:
    (fleet.folder / "host_vars").mkdir()
    (fleet.folder / "host_vars/akl1.yml").write_text(
        "ansible_host: 192.0.2.1\nmirror_mode: cache\n'mirror_url': x\n"
    )
    (fleet.folder / "group_vars/all.yml").write_text(
        "fleet_name: X\nfleet_drain_seconds: 5\nsync_client_interval: 5\nweb_server_http3: true\n"
    )
    done = fleet.run("ansible-inventory", "--list")
    assert done.returncode == 4 and done.stdout == ""
    moved = re.findall(r"^  (\S+):(\d+): (\w+) -> (.*)", done.stderr, re.MULTILINE)
    assert moved == [
        ("group_vars/all.yml", "1", "fleet_name", "fleet.yml"),
        ("group_vars/all.yml", "4", "web_server_http3", "its new name, nginx_http3"),
        ("host_vars/akl1.yml", "2", "mirror_mode", "mirrors/NAME.yml"),
        ("host_vars/akl1.yml", "3", "mirror_url", "mirrors/NAME.yml"),
    ]
    fleet.file.unlink()
    (fleet.folder / "hosts.yml").write_text("all: {}\n")
    done = fleet.run("ansible-inventory", "--list", source=fleet.folder / "hosts.yml")
    assert done.returncode == 4 and "hosts.yml -> not needed any more" in done.stderr


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("web_server_bandwidth", 5, "what is no key of this file, the coordinator sets in group_vars/"),
        ("ansible_host", "192.0.2.1", "what is no key of this file, the coordinator sets in group_vars/"),
        ("mirror_bandwith", 5, "did you mean mirror_bandwidth?"),
    ],
)
def test_what_a_record_may_not_hold(fleet: Fleet, key: str, value: Any, said: str) -> None:
    path = fleet.folder / "mirrors/akl1.yml"
    path.write_text(path.read_text() + f"{key}: {value}\n")
    line = len(path.read_text().splitlines())
    done = fleet.run("ansible-inventory", "--list")
    told = " ".join(done.stderr.split())
    assert f"akl1 (mirrors/akl1.yml:{line}): {key} is no known key" in told and said in told
    found = json.loads(done.stdout)
    assert found["mirrors"]["hosts"] == ["nbo1.example.org"] and found["waiting"]["hosts"] == [
        "nbo1.example.org"
    ]


@pytest.mark.parametrize("playbook", ["provision.yml", "update.yml"])
def test_who_waits_for_a_wrong_record_is_left_as_it_is(fleet: Fleet, playbook: str) -> None:
    """Still a mirror, measured and listed; but no play that changes hosts has it."""
    path = fleet.folder / "mirrors/akl1.yml"
    path.write_text(path.read_text().replace("mirror_bandwidth: 1000", "mirror_bandwidth: much"))
    done = fleet.run("ansible-playbook", ROOT / "playbooks" / playbook, "--list-hosts")
    plays = dict(
        re.findall(r"^  play #\d+ \([^)]*\): (.*?)\tTAGS.*?\n(.*?)(?=^$|\Z)", done.stdout, re.M | re.S)
    )
    assert plays and "redirector.example.org" in done.stdout
    for name, hosts in plays.items():
        assert ("nbo1.example.org" in hosts) == (name == "Publish the list of mirrors"), done.stdout
    assert (
        "nbo1.example.org (mirrors/nbo1.example.org.yml:3): mirror_upstream is akl1, whose record is wrong"
        in (" ".join(done.stderr.split()))
    )


def test_files_beside_the_records_are_named(fleet: Fleet) -> None:
    (fleet.folder / "mirrors/akl2.yaml").write_text("mirror_mode: cache\n")
    (fleet.folder / "mirrors/old").mkdir()
    done = fleet.run("ansible-inventory", "--graph")
    assert "akl2 (mirrors/akl2.yaml): is no record by its name" in done.stderr
    assert (
        "Next: rename it to mirrors/akl2.yml." in done.stderr and "(mirrors/old): is no record" in done.stderr
    )
    registry = fleet.hostvars()["redirector.example.org"]["fleet_registry"]
    listed = {one["name"]: one.get("problem") for one in registry["mirrors"]}
    assert listed["akl2"] == "is no record by its name", "a mirror does not vanish in silence"


def test_what_computes_the_fleet_knows_no_ansible() -> None:
    """So each part is tested without it, and could serve another tool."""
    pure = [
        "beside",
        "contacts",
        "contract",
        "documents",
        "host_config",
        "inputs",
        "inventory",
        "old_form",
        "registry",
        "rules",
        "told",
        "values",
    ]
    pure.append("wiring")
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import importlib; " + "".join(
        f"importlib.import_module('plugin_utils.{name}'); " for name in pure
    )
    found = subprocess.run(
        [sys.executable, "-c", program + "print([name for name in sys.modules if name.startswith('ansible')])"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert found.stdout.strip() == "[]"


def test_the_schemas_are_published_for_editors() -> None:
    for name in (contract.RECORD, contract.FLEET):
        published = json.loads((ROOT / f"docs/schemas/{name}.schema.json").read_text())
        assert published["properties"].keys() == contract.keys(name).keys()


def test_a_redirector_that_is_a_monitor_keeps_its_certificate(fleet: Fleet) -> None:
    found = fleet.hostvars()["redirector.example.org"]["fleet_inputs"]
    assert (found["tls_mode"], found["tls_provided_key"]) == ("provided", "/etc/ssl/mirrors/privkey.pem")


@pytest.mark.parametrize("mode", ["private_ca", "provided"])
def test_a_redirector_is_handed_the_authority_that_clients_need(
    fleet: Fleet, tmp_path: Path, mode: str
) -> None:
    """The certificate, never the key, and only where a host has its own from it."""
    folder = tmp_path / "private/authority"
    folder.mkdir(parents=True)
    (folder / "ca.pem").write_text("THE CERTIFICATE")
    (folder / "ca-key.pem").write_text("THE KEY")
    changes = {"tls_mode": mode}
    if mode == "provided":
        changes |= {"tls_provided_certificate": "/etc/ssl/chain.pem", "tls_provided_key": "/etc/ssl/key.pem"}
    fleet.record("new1", **changes)
    done = fleet.run(
        "ansible", "redirectors", "-m", "debug", "-a", "var=redirector_authority",
        "-e", f"fleet_private_dir={tmp_path / 'private'}",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert ("THE CERTIFICATE" in done.stdout) is (mode == "private_ca")
    assert "THE KEY" not in done.stdout


def test_what_all_roles_install_is_known_before_any_of_them_runs(fleet: Fleet) -> None:
    """A default that another default of its role is part of is undefined on every host, then."""
    done = fleet.run(
        "ansible", "all:!retired:!waiting", "-m", "ansible.builtin.debug", "-a", "msg={{ host_baseline_packages }}",
        "-e", json.dumps({"ansible_facts": {"distribution": "Debian", "distribution_major_version": "13"}}),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "python3-venv" in done.stdout
