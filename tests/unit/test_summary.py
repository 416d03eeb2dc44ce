"""What every run ends with: rendered, and as a person sees it after real plays on this machine."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from plugin_utils.summary import Command, Failure, Summary

HOUSE = Path(__file__).parents[2]
NAMES = [f"mirror{number:04}" for number in range(1000)]


def summary(playbook: str = "playbooks/provision.yml", **more: Any) -> Summary:
    return Summary(Command(playbook, **more))


def test_a_run_in_which_all_went_well() -> None:
    run = summary(limit="mirror3")
    run.change("web_server", "mirror3")
    run.change("web_server", "mirror3")
    run.change("redirector", "red")
    told = {"fleet_told": ["The list had 2 mirrors and has 3 now.", "  joined: mirror3"]}
    assert run.told(["mirror3"], [], told, 182.4) == [
        "provision.yml: 1 host, nothing failed, in 3 min 2 s",
        "  Changed:",
        "    web_server: mirror3",
        "    redirector: red",
        "  The list had 2 mirrors and has 3 now.",
        "    joined: mirror3",
        "  Next: ansible-playbook playbooks/status.yml",
    ]


def test_a_preflight_leads_to_the_provisioning_of_the_same_hosts() -> None:
    run = summary("playbooks/preflight.yml", inventory=("/srv/my fleet/fleet.yml",), limit="mirror3,mirror4")
    assert run.told(["mirror3"], [], {}, 3)[1:] == [
        "  Nothing was changed.",
        "  Next: ansible-playbook -i '/srv/my fleet/fleet.yml' playbooks/provision.yml --limit mirror3,mirror4",
    ]


def test_a_check_says_that_it_was_one_and_leads_to_nothing() -> None:
    run = Summary(Command("playbooks/provision.yml"), check=True)
    assert run.told(["a"], [], {}, 3)[1:] == ["  Nothing would change."]
    run.change("tls", "a")
    assert run.told(["a"], [], {}, 3)[1:] == ["  Would change:", "    tls: a"]


def test_a_failed_run_says_who_failed_at_what_and_the_next_command() -> None:
    run = summary(more=True)
    run.fail("a", Failure("Sync", "upstream is gone\nand more"))
    run.fail("b", Failure("Sync", "upstream is gone\nand more"))
    run.fail("c", Failure("Ask", "No route to host", unreachable=True))
    run.fail("d", Failure("Rescued", "was mended"))
    assert run.told(["a", "b", "c", "d"], ["a", "b", "c"], {}, 3) == [
        "provision.yml: failed on 3 of 4 hosts, in 3 s",
        "  Nothing was changed.",
        "  a, b failed at 'Sync': upstream is gone",
        "    and more",
        "  c did not answer: No route to host",
        "  Next: ansible c -m ansible.builtin.ping says what keeps SSH from it",
        "  Next: mend it (docs/provision.md), then ansible-playbook playbooks/provision.yml --limit a,b,c"
        " (with the same -e)",
    ]


def test_what_failed_for_all_is_repeated_for_all() -> None:
    run = summary(limit="mirror*")
    run.fail("a", Failure("Check", "\n".join(f"problem {at}" for at in range(30)), everybody=True))
    lines = run.told(["a", "b"], ["a"], {}, 3)
    assert lines[2] == "  the run failed at 'Check': problem 0" and len(lines) == 2 + 10 + 2
    assert lines[-2:] == [
        "    and 20 more lines, above",
        "  Next: mend it (docs/provision.md), then ansible-playbook playbooks/provision.yml --limit 'mirror*'",
    ]


@pytest.mark.parametrize(("playbook", "limit"), [("site.yml", " --limit a"), ("update.yml", "")])
def test_what_concerns_all_is_run_for_all_again(playbook: str, limit: str) -> None:
    run = summary(f"playbooks/{playbook}")
    run.fail("a", Failure("Sync", "no space"))
    assert run.told(["a", "b"], ["a"], {}, 3)[-1].endswith(f"ansible-playbook playbooks/{playbook}{limit}")


def test_who_was_asked_in_a_mirrors_stead_is_named() -> None:
    run = summary("playbooks/publish.yml")
    run.fail("a", Failure("Bring the registry", "timed out", everybody=True, unreachable=True, on="red"))
    lines = run.told(["a", "red"], ["a"], {}, 3)
    assert lines[2] == "  red did not answer: timed out" and "ansible red -m" in lines[3]
    run.fail("a", Failure("Bring the registry", "disk full", on="red"))
    assert run.told(["a", "red"], ["a"], {}, 3)[2] == "  a failed at 'Bring the registry' on red: disk full"


def test_of_a_thousand_hosts_ten_and_a_count() -> None:
    run = summary()
    for at, name in enumerate(NAMES):
        run.change("host_baseline", name)
        run.change(f"task {at}", name)
        run.fail(name, Failure("Sync", f"another reason {at}" if at > 500 else "no space"))
    well = {
        "fleet_summary": {
            "Seen this moment": {name: "well" if at % 3 else f"bad {at}" for at, name in enumerate(NAMES)}
        }
    }
    lines = run.told(NAMES, NAMES, well, 3)
    assert len(lines) < 60 and max(map(len, lines)) < 400
    assert (
        "    host_baseline: mirror0000, mirror0001, mirror0002, mirror0003, mirror0004, mirror0005, mirror0006,"
        in lines[2]
    )
    assert "mirror0009 and 990 more" in lines[2]
    assert any("and 491 more failed at 'Sync': no space" in line for line in lines)
    assert "  and 490 hosts more, above" in lines
    assert lines[-1].endswith("then ansible-playbook playbooks/provision.yml")


def test_words_of_hosts_are_no_commands_to_a_terminal() -> None:
    run, words = summary(), "\x1b[2J\x07\u202ebad"
    run.change(words, words)
    run.fail("a", Failure(words, words))
    told = {
        "fleet_summary": {words: {words: words}},
        "fleet_told": [words],
        "fleet_table": [words],
        "fleet_next": [words],
    }
    for failed in ([], ["a"]):
        assert all(line.isprintable() for line in run.told(["a"], failed, told, 3))


@pytest.mark.parametrize(
    "told", [{"fleet_summary": 5, "fleet_told": {}, "fleet_table": "x"}, {"fleet_summary": {"a": "b"}}]
)
def test_what_is_told_in_another_shape_is_left_out(told: Any) -> None:
    assert len(summary("playbooks/audit.yml").told(["a"], [], told, 3)) == 2


# --- as a person sees it ---

PLAY = """
- hosts: all
  gather_facts: false
  tasks:
    - {name: Change, ansible.builtin.command: 'true'}
    - {name: As ever, ansible.builtin.command: 'true', changed_when: false}
    - {name: Elsewhere, ansible.builtin.command: 'true', delegate_to: one, when: inventory_hostname == 'two'}
    - name: In a loop
      ansible.builtin.command: 'true'
      delegate_to: "{{ item }}"
      loop: [three]
      when: inventory_hostname == 'two'
    - block:
        - {name: Mended, ansible.builtin.fail: {msg: was mended}}
      rescue:
        - {name: Mend, ansible.builtin.command: 'true', changed_when: false}
    - {name: Ignored, ansible.builtin.fail: {msg: is ignored}, ignore_errors: true}
    - {name: Tell, ansible.builtin.set_stats: {data: {fleet_summary: "{{ {'Seen': {inventory_hostname: 'well'}} }}"}}}
    - {name: List, ansible.builtin.set_stats: {data: {fleet_told: ["a line"]}}, run_once: true}
    - name: Secret
      ansible.builtin.fail: {msg: "hunter2"}
      no_log: true
      when: inventory_hostname == 'two'
    - when: inventory_hostname == 'three'
      block:
        - name: Loop
          ansible.builtin.command: "sh -c 'exit {{ item[0] }}'"
          delegate_to: "{{ item[1] }}"
          loop: [[0, two], [3, one]]
      always:
        - {name: Ignored as well, ansible.builtin.fail: {msg: is ignored}, ignore_errors: true}
"""
HOSTS = """
all:
  vars: {ansible_connection: local, ansible_become: false, ansible_python_interpreter: "{{ ansible_playbook_python }}"}
  hosts: {one: {}, two: {}, three: {}, gone: {ansible_connection: ssh, ansible_host: 127.0.0.1, ansible_port: 1}}
"""


REFUSED = f"""
- hosts: all
  gather_facts: false
  module_defaults: {{host_status: {{configuration: "{{{{ here }}}}", disk: "{{{{ here }}}}"}}}}
  tasks:
    - import_tasks: {HOUSE}/playbooks/tasks/refused.yml
"""


@pytest.mark.slow
def test_whose_sync_a_guard_refuses_is_told_at_the_end_of_provision_and_update(tmp_path: Path) -> None:
    (tmp_path / "callback_plugins").mkdir()
    (tmp_path / "callback_plugins/summary.py").symlink_to(HOUSE / "playbooks/callback_plugins/summary.py")
    (tmp_path / "play.yml").write_text(REFUSED)
    hosts = {}
    for name, said in (
        ("one", "2 of 3 projects"),
        ("two", None),
        ("three", "2 of 3 projects"),
        ("bare", None),
    ):
        here = tmp_path / name
        here.mkdir()
        hosts[name] = {"here": str(here)}
        if name != "bare":
            (here / "mirror.json").write_text(json.dumps({"paths": {"served": str(here / "served")}}))
            (here / "served").mkdir()
            (here / "served/mirror.json").write_text(json.dumps({"refused": said}))
    known = yaml.safe_load(HOSTS)
    known["all"]["hosts"] = hosts
    (tmp_path / "hosts.yml").write_text(json.dumps(known))
    (tmp_path / "ansible.cfg").write_text(
        f"[defaults]\nlibrary = {HOUSE}/library\naction_plugins = {HOUSE}/action_plugins\n"
        "[inventory]\nenable_plugins = yaml\n"
    )
    run = subprocess.run(
        [sys.executable, "-m", "ansible", "playbook", "-i", "hosts.yml", "play.yml"],
        cwd=tmp_path,
        env=os.environ | {"ANSIBLE_CONFIG": str(tmp_path / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout
    assert "  Syncs are refused (docs/sync.md): one, three: 2 of 3 projects\n" in run.stdout
    # Who is asked: whoever has a sync, in both playbooks.
    for playbook, groups in (("provision", {"origins", "mirrors", "trees"}), ("update", {"mirrors"})):
        plays = yaml.safe_load((HOUSE / f"playbooks/{playbook}.yml").read_text())
        asked = [play["hosts"] for play in plays if "tasks/refused.yml" in str(play.get("tasks"))]
        # Of update.yml that is the default: provision.yml names those who are due.
        assert {hosts.rpartition("default('")[2].partition(":")[0] for hosts in asked} == groups


@pytest.mark.slow
def test_a_play_of_this_machine(tmp_path: Path) -> None:
    """Changed, delegated, rescued, ignored, secret, in a loop, unreachable: each is told as it is."""
    (tmp_path / "callback_plugins").mkdir()
    (tmp_path / "callback_plugins/summary.py").symlink_to(HOUSE / "playbooks/callback_plugins/summary.py")
    (tmp_path / "provision.yml").write_text(PLAY)
    (tmp_path / "hosts.yml").write_text(HOSTS)
    (tmp_path / "ansible.cfg").write_text("[inventory]\nenable_plugins = yaml\n")
    run = subprocess.run(
        [sys.executable, "-m", "ansible", "playbook", "-i", "hosts.yml", "provision.yml", "-e", "password=hunter2"],
        cwd=tmp_path,
        env=os.environ | {"ANSIBLE_CONFIG": str(tmp_path / "ansible.cfg"), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    said = run.stdout[run.stdout.index("PLAY RECAP") :].split("\n\n", 1)[1]
    assert "hunter2" not in said and "\x1b" not in said
    lines = said.strip().splitlines()
    assert re.fullmatch(r"provision\.yml: failed on 3 of 4 hosts, in \d+ s", lines[0])
    assert lines[1:8] == [
        "  Changed:",
        "    Change: one, three, two",
        "    Elsewhere: one",
        "    In a loop: three",
        "    Loop: two",
        "  Seen: one, three, two: well",
        "  a line",
    ]
    told = "\n".join(lines[8:])
    assert (
        "  two failed at 'Secret': what it said is hidden, for it handles secrets; its log is on the host"
        in told
    )
    assert re.search(r"^  three failed at 'Loop' on one: .*non-zero return code", told, re.MULTILINE)
    assert re.search(
        r"^  gone did not answer: connect to host 127\.0\.0\.1 port 1: Connection refused", told, re.MULTILINE
    )
    assert "was mended" not in told and "is ignored" not in told
    assert lines[-1] == (
        f"  Next: mend it (docs/provision.md), then ansible-playbook -i {tmp_path}/hosts.yml provision.yml"
        " --limit gone,three,two (with the same -e)"
    )
