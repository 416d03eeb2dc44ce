"""Our plugins under the newest ansible-core: their own tests, the example fleet, a record that is an attack."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[3]
EXAMPLE = "inventory/example"
# Those of plugins and modules; whole playbooks are run with it by the scenario of the fleet.
TESTS = " ".join(
    f"tests/unit/test_{name}.py"
    for name in (
        "inventory_*",
        "filter_*",
        "module_*",
        "host_state_declaration",
        "summary",
        "status",
        "update_plan",
    )
)
# As in a person's shell: Ansible refuses to run in another encoding.
COMMAND = "cd /srv/checkout && export LC_ALL=C.UTF-8 PATH=/opt/ansible-core/current/bin:$PATH && "

ATTACK = "{{ lookup('ansible.builtin.pipe', 'touch /tmp/canary') }}"
ATTACKER = "nbo1.example.org"
OWN = "own: \"{{ lookup('ansible.builtin.pipe', 'touch /tmp/own; echo evaluated') }}\"\n"
# Evaluates every variable of every host, which fails for those that want facts.
PLAY = """
- hosts: all
  gather_facts: false
  tasks:
    - ansible.builtin.debug:
        msg: "{{ lookup('ansible.builtin.vars', item) }}"
      loop: "{{ hostvars[inventory_hostname].keys() | list }}"
      failed_when: false
"""
# Python runs a file of this name first: it takes the check away that refuses such a record.
UNCHECKED = """
import sys
sys.path.append("/srv/checkout")
from plugin_utils import contract
assert contract._is_template("{{ }}")
contract._is_template = lambda value: False
"""


@pytest.fixture
def run(host):
    return lambda command, *arguments: host.run(COMMAND + command, *arguments)


def core(said):
    """The version of ansible-core that a program names."""
    return tuple(int(part) for part in re.search(r"\[core (\d+)\.(\d+)", said).groups())


def on_the_control_node(*arguments):
    # With the project's configuration alone, as on the host: molecule's says other things.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    return subprocess.run(
        [sys.executable, "-m", "ansible", "inventory", *arguments],
        cwd=HOUSE,
        env=environment | {"ANSIBLE_CONFIG": str(HOUSE / "ansible.cfg")},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_it_is_newer_than_the_control_nodes(run):
    assert core(run("ansible-inventory --version").stdout) > core(on_the_control_node("--version"))


def test_the_tests_of_the_plugins_pass(run):
    outcome = run(f"python -m pytest -q -p no:cacheprovider --durations=5 {TESTS} 2>&1")
    print(outcome.stdout[-5000:])
    assert outcome.rc == 0
    assert int(re.search(r"(\d+) passed", outcome.stdout)[1]) > 0


def test_the_example_is_the_same_fleet_as_on_the_control_node(run):
    outcome = run(f"ansible-inventory -i {EXAMPLE}/fleet.yml --list")
    assert outcome.rc == 0, outcome.stderr
    assert outcome.stderr == ""
    found = json.loads(outcome.stdout.replace('"/root/', '"~/'))
    assert found["mirrors"]["hosts"] == ["akl1.example.org", "nbo1.example.org"]
    said = on_the_control_node("-i", f"{EXAMPLE}/fleet.yml", "--list")
    assert found == json.loads(said.replace(f'"{os.path.expanduser("~")}/', '"~/'))


@pytest.fixture
def attacked(host):
    """The example, in which a volunteer's record is an attack; and a template of the coordinator's own."""
    host.check_output(
        "rm -rf /srv/attacked /tmp/canary /tmp/own && cp -r /srv/checkout/%s /srv/attacked", EXAMPLE
    )
    record = (HOUSE / EXAMPLE / f"mirrors/{ATTACKER}.yml").read_text()
    attack = record.replace("{name: Example Exchange Point,", f'{{name: "{ATTACK}",')
    assert ATTACK in attack
    for path, content in {
        f"mirrors/{ATTACKER}.yml": attack,
        "group_vars/all.yml": OWN,
        "play.yml": PLAY,
        "unchecked/sitecustomize.py": UNCHECKED,
    }.items():
        host.check_output(
            'mkdir -p "$(dirname /srv/attacked/%s)" && printf %%s %s > /srv/attacked/%s', path, content, path
        )


@pytest.mark.parametrize("checked", [True, False], ids=["refused", "let through"])
@pytest.mark.parametrize(
    "command",
    [
        "ansible-inventory --list",
        # It has the registry, which says all that is told of every mirror.
        "ansible-inventory --host redirector.example.org",
        "ansible-playbook /srv/attacked/play.yml",
    ],
    ids=["list", "host", "play"],
)
@pytest.mark.usefixtures("attacked")
def test_no_record_is_ever_run(run, host, command, checked):
    """The contract refuses such a record; and were that check to miss one, what records say is still no template."""
    search = "" if checked else "PYTHONPATH=/srv/attacked/unchecked "
    outcome = run(f"{search}{command} -i /srv/attacked/fleet.yml")
    assert ("touch /tmp/canary" in outcome.stdout) is not checked, outcome.stdout + outcome.stderr
    assert ("looks like a template" in outcome.stderr) is checked, outcome.stderr
    if "playbook" in command:
        assert outcome.rc == 0, outcome.stdout + outcome.stderr
        assert host.file("/tmp/own").exists  # a canary would have been seen
    assert not host.file("/tmp/canary").exists
