"""The filters as Ansible loads, documents and calls them."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleFilterError

ROOT = Path(__file__).resolve().parents[2]
PLUGINS = sorted((ROOT / "filter_plugins").glob("*.py"))
FILTERS: dict[str, Any] = {
    name: function
    for path in PLUGINS
    for name, function in import_module(path.stem).FilterModule().filters().items()
}


def ansible(program: str, *arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).parent / program, *arguments],
        cwd=cwd,
        env={
            **os.environ,
            "ANSIBLE_LOCALHOST_WARNING": "false",
            "ANSIBLE_LOCAL_TEMP": str(cwd),
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("name", sorted(FILTERS))
def test_documentation_names_the_very_arguments(name: str) -> None:
    """The sidecar's options are the function's parameters, with their defaults and in their order."""
    path = ROOT / "filter_plugins" / f"{name}.yml"
    documented = yaml.safe_load(path.read_text())
    options = documented["DOCUMENTATION"]["options"]
    parameters = list(inspect.signature(FILTERS[name]).parameters.values())
    assert list(options) == ["_input", *(parameter.name for parameter in parameters[1:])]
    for parameter in parameters[1:]:
        option = options[parameter.name]
        required = parameter.default is inspect.Parameter.empty
        assert option.get("required", False) == required, parameter.name
        if not required:
            assert option.get("default") == parameter.default, parameter.name
    positional = [p.name for p in parameters[1:] if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    assert documented["DOCUMENTATION"].get("positional", "") == ", ".join(positional)
    assert documented["RETURN"]["_value"]["type"]


def test_every_documentation_is_of_a_filter() -> None:
    assert {path.stem for path in (ROOT / "filter_plugins").glob("*.yml")} == set(FILTERS)


def test_ansible_doc_shows_them(tmp_path: Path) -> None:
    plugins = str(ROOT / "filter_plugins")
    done = ansible(
        "ansible-doc",
        "--json",
        "-t",
        "filter",
        *sorted(FILTERS),
        cwd=tmp_path,
        ANSIBLE_FILTER_PLUGINS=plugins,
    )
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert set(shown) == set(FILTERS)
    assert all(entry["doc"]["short_description"] and entry["examples"] for entry in shown.values())


PLAY = """
- hosts: one
  gather_facts: false
  tasks:
    - ansible.builtin.debug:
        msg: "{{ {'problems': ansible_play_hosts_all | input_problems(hostvars, beside),
                  'conf': fleet_inputs.config | mirror_config(discovered=found) | bandersnatch_config('8.2.0'),
                  'known': fleet_inputs | fleet_ports | firewall_names,
                  'firewall': [{'port': [80, 443]}] | firewall_ruleset,
                  'authority': authority_dir,
                  'name': fleet_inputs.urls | map('upper') | map('lower') | nginx_server_names} | to_json }}"
      vars:
        found: {index_url: "https://index.example.net/simple/"}
        beside: "{{ hostvars['two'].fleet_beside }}"
"""
FLEET = """
plugin: fleet
fleet_name: Test fleet
fleet_coordinator: {name: C, email: c@example.org}
fleet_agreement_version: "2026-11"
fleet_selection: {projects: [six, idna]}
fleet_gate_project: six
fleet_staleness_limit: 86400
fleet_versions: {mirrorfleet: "0.1.0", bandersnatch: {debian-13: "8.2.0"}, nginx: {debian-13: "1.26.*"}}
redirectors: {two: {redirector_url: "https://two.example.org"}}
monitors: {two: {}}
fleet_private_dir: ~/private
"""
RECORD = """
mirror_mode: bandersnatch
mirror_url: https://one.example.org
mirror_location: {continent: OC, country: NZ, city: Auckland, latitude: -36.8, longitude: 174.8}
mirror_operator: {name: A. Person, email: ops@example.org}
mirror_agreement: {version: "2026-11", accepted_by: A. Person, accepted_on: 2026-11-20}
"""
# Variables that are none of ours and cannot be evaluated do not matter.
BESIDE = """
foreign: "{{ no_such_variable }}"
fleet_drain_seconds: "{{ 1 + 1 }}"
fleet_private_dir: ~/beside
"""


def played(folder: Path, beside: str) -> subprocess.CompletedProcess[str]:
    """With another working directory, and only the environment naming the plugins, as under molecule."""
    (folder / "mirrors").mkdir()
    (folder / "group_vars").mkdir()
    (folder / "play.yml").write_text(PLAY)
    (folder / "fleet.yml").write_text(FLEET)
    (folder / "mirrors/one.yml").write_text(RECORD)
    (folder / "group_vars/all.yml").write_text(beside)
    environment = {
        "ANSIBLE_FILTER_PLUGINS": str(ROOT / "filter_plugins"),
        "ANSIBLE_INVENTORY_PLUGINS": str(ROOT / "inventory_plugins"),
        "ANSIBLE_INVENTORY_ENABLED": "fleet,yaml",
        "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.minimal",
    }
    return ansible("ansible-playbook", "-i", "fleet.yml", "play.yml", cwd=folder, **environment)


def test_a_play_calls_them_from_anywhere(tmp_path: Path) -> None:
    """With Ansible's own lazy and tagged values."""
    done = played(tmp_path, BESIDE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stderr
    _, _, answer = done.stdout.partition("one | SUCCESS => ")
    found = json.loads(json.JSONDecoder().raw_decode(answer)[0]["msg"])
    assert found["problems"] == []
    assert found["known"]["lists"] == {"tcp_9100": ["two.example.org"]}
    assert "    six\n    idna\n" in found["conf"]
    assert found["name"] == "one.example.org"
    assert found["authority"] == str(Path.home() / "beside/authority"), "a home as in fleet.yml"


@pytest.mark.parametrize(
    "value", ["{{ no_such_variable }}", "{{ 1 // 0 }}", "{{ unfinished", "{{ 5 | no_such_filter }}"]
)
def test_a_value_that_cannot_be_evaluated_is_a_problem_of_its_host(value: str, tmp_path: Path) -> None:
    done = played(tmp_path, f"fleet_drain_seconds: '{value}'\n")
    assert "fleet_drain_seconds" in done.stdout and "cannot be evaluated: " in done.stdout, (
        done.stdout + done.stderr
    )


@pytest.mark.parametrize("name", sorted(FILTERS))
def test_a_wrong_call_is_told_plainly(name: str) -> None:
    with pytest.raises(AnsibleFilterError, match="allowed") as caught:
        FILTERS[name]("", surprise=1)
    assert f"{name}(" in str(caught.value)


@pytest.mark.parametrize("name", sorted(FILTERS))
@pytest.mark.parametrize(
    "value", [None, "", [], {}, 5, [None], {"schema": 1}, {"name": "x"}, [{"listed": True}]]
)
def test_nonsense_is_refused_with_words(name: str, value: Any) -> None:
    """Whatever is piped in by mistake, a filter answers or refuses in words; it does not die of a KeyError."""
    required = [
        parameter
        for parameter in list(inspect.signature(FILTERS[name]).parameters.values())[1:]
        if parameter.default is inspect.Parameter.empty
    ]
    try:
        FILTERS[name](value, *([value] * len(required)))
    except AnsibleFilterError as error:
        assert str(error)


@pytest.mark.parametrize(
    ("said", "next_step"),
    [
        ("Host key verification failed.", "ssh one"),
        ("Permission denied (publickey).", "ansible one -m ansible.builtin.ping"),
    ],
)
def test_of_a_host_that_ssh_does_not_reach_preflight_says_what_to_try(said: str, next_step: str) -> None:
    result = {"unreachable": True, "msg": f"Task failed: Failed to connect to the host via ssh: {said}"}
    (line,) = FILTERS["preflight_report"]([], ["one"], [result], [{}], [{}])
    assert said.rstrip(".") in line and "Task failed" not in line
    assert line.rstrip(".").endswith(next_step)
    assert ".." not in line
