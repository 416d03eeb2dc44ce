"""What the playbooks refuse before they touch anything, and how they say it. No host is needed: none is reached."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
HOUSE = Path(__file__).parents[2]
PLAYBOOKS = sorted(path.name for path in (HOUSE / "playbooks").glob("*.yml"))
ANSIBLE_PLAYBOOK = [sys.executable, "-m", "ansible", "playbook"]
SANDBOX = "refused"  # of this name there is no local fleet


class Fleet:
    """A copy of the local fleet's inventory, to be spoiled."""

    def __init__(self, folder: Path) -> None:
        self.inventory = folder / "inventory/sandbox"
        shutil.copytree(HOUSE / "inventory", folder / "inventory", symlinks=True)

    def spoil(self, host: str, pattern: str, replacement: str) -> None:
        path = self.inventory / ("fleet.yml" if host == "fleet" else f"mirrors/{host}.yml")
        text, count = re.subn(pattern, replacement, path.read_text(), flags=re.MULTILINE)
        assert count == 1, f"{pattern} is not in {path.name}"
        path.write_text(text)

    def play(self, playbook: str, *arguments: str) -> tuple[int, str]:
        run = subprocess.run(
            [
                sys.executable,
                "-m",
                "ansible",
                "playbook",
                "-i",
                self.inventory / "fleet.yml",
                HOUSE / "playbooks" / playbook,
                *arguments,
            ],
            cwd=HOUSE,
            env=os.environ
            | {
                "ANSIBLE_CONFIG": str(HOUSE / "ansible.cfg"),
                "ANSIBLE_NOCOLOR": "1",
                "SANDBOX_NAME": SANDBOX,
                "SANDBOX_IPV4": "192.0.2",  # RFC 5737: reaches nobody
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return run.returncode, run.stdout


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path)


@pytest.mark.parametrize("playbook", PLAYBOOKS)
def test_the_playbook_is_well_formed(fleet: Fleet, playbook: str) -> None:
    code, said = fleet.play(playbook, "--syntax-check")
    assert code == 0, said


def refused(code: int, said: str) -> str:
    """The one message, and nothing but it: no task before it changed anything, none after it ran."""
    assert code != 0
    assert not re.search(r"changed=[1-9]|unreachable=[1-9]", said), said
    assert not (HOUSE / "build" / SANDBOX).exists()
    (message,) = re.findall(r"^fatal: .*?^PLAY RECAP", said, re.MULTILINE | re.DOTALL)
    assert "Nothing was changed" in message
    return str(message)


SPOILED = {
    "a missing key": (
        [("mirror1", r"^mirror_operator:.*\n", "")],
        ["mirror1", "mirror_operator", "is missing", "mirrors/mirror1.yml"],
    ),
    "a wrong type": (
        [("mirror1", r"^mirror_bandwidth:.*", "mirror_bandwidth: fast")],
        ["mirror1", "mirror_bandwidth", "'fast'", "mirrors/mirror1.yml:5"],
    ),
    "an unknown key": (
        [("mirror1", r"^mirror_state:", "mirror_sate:")],
        ["mirror1", "mirror_sate", "mirror_state", "mirrors/mirror1.yml:9"],
    ),
    "one URL twice": (
        [("mirror2", r"^mirror_url:.*", "mirror_url: https://mirror1.fleet.test")],
        ["mirror2", "mirror_url", "mirror1's as well", "mirrors/mirror2.yml:3"],
    ),
    "no tier-1": (
        [("mirror2", r"^mirror_upstream:.*", "mirror_upstream: client")],
        ["mirror2", "mirror_upstream", "client", "mirrors/mirror2.yml:2"],
    ),
    "several at once": (
        [
            ("mirror1", r"^mirror_operator:.*\n", ""),
            ("mirror2", r"^mirror_bandwidth:.*", "mirror_bandwidth: -1"),
        ],
        ["mirror1", "mirror_operator", "mirror2", "mirror_bandwidth"],
    ),
}


@pytest.mark.parametrize(("changes", "words"), SPOILED.values(), ids=SPOILED.keys())
def test_a_wrong_record_is_no_host_and_named_at_both_ends(
    fleet: Fleet, changes: list[tuple[str, str, str]], words: list[str]
) -> None:
    for change in changes:
        fleet.spoil(*change)
    # Of a check that reaches nobody: what the run is told, not what becomes of hosts.
    code, said = fleet.play("preflight.yml", "--limit", "client")
    assert code != 0 and not re.search(r"changed=[1-9]", said)
    before, _, played = said.partition("PLAY [Preflight]")
    after = played.partition("PLAY RECAP")[2]
    for word in words:
        assert word in before and word in after, said
    for name in {change[0] for change in changes}:
        code, said = fleet.play("provision.yml", "--limit", name)
        assert code != 0 and "no hosts to target" in said and "TASK" not in said
        for word in words:
            assert word in said, said


def test_preflight_shows_all_problems_of_all_records(fleet: Fleet) -> None:
    fleet.spoil("mirror1", r"^mirror_operator:.*\n", "")
    fleet.spoil("mirror2", r"accepted_on: .*}", "accepted_on: 2999-01-01}")
    _, said = fleet.play("preflight.yml", "--limit", "client")
    shown = said.partition("TASK [Tell what is wrong with records]")[2].partition("TASK [")[0]
    assert "mirror_operator is missing" in shown and "lies in the future" in shown


WRONG_FLEETS = {
    "a wrong type": (
        [("fleet", r"^fleet_staleness_limit:.*", "fleet_staleness_limit: 1")],
        ["fleet_staleness_limit"],
    ),
    "a missing key": ([("fleet", r"^fleet_name:.*\n", "")], ["fleet_name is missing"]),
    "nobody who measures": (
        [("fleet", r"^monitors:\n.*\n", "monitors: {}\n")],
        ["monitors is empty", "a host that is a redirector may be the monitor, too"],
    ),
    "a key that is gone": (
        [("fleet", r"^fleet_name:.*", "\\g<0>\nfleet_vantage_host: client")],
        ["fleet_vantage_host is no known key"],
    ),
    "no YAML": ([("fleet", r"^fleet_name:.*", "fleet_name: [")], ["is no YAML", "fleet.yml:"]),
    "records, too": (
        [("fleet", r"^fleet_name:.*\n", ""), ("mirror1", r"^mirror_bandwidth:.*", "mirror_bandwidth: fast")],
        ["fleet_name is missing", "mirror_bandwidth is text ('fast')"],
    ),
}


@pytest.mark.parametrize("playbook", ["provision.yml", "publish.yml", "update.yml", "sandbox.yml"])
@pytest.mark.parametrize(("changes", "words"), WRONG_FLEETS.values(), ids=WRONG_FLEETS.keys())
def test_a_wrong_fleet_ends_every_run_with_one_message(
    fleet: Fleet, playbook: str, changes: list[tuple[str, str, str]], words: list[str]
) -> None:
    for change in changes:
        fleet.spoil(*change)
    code, said = fleet.play(playbook)
    assert code != 0 and "PLAY" not in said
    assert said.count("[ERROR]") == 1 and "Traceback" not in said
    for word in words:
        assert word in said, said


@pytest.mark.parametrize("playbook", ["provision.yml", "publish.yml", "update.yml"])
def test_a_limit_to_no_host_is_refused(fleet: Fleet, playbook: str) -> None:
    code, said = fleet.play(playbook, "--limit", "nosuchhost")
    assert code != 0
    assert "nosuchhost" in said and "no hosts to target" in said
    assert "TASK" not in said


@pytest.mark.parametrize(
    "arguments",
    [
        ["-e", "hours=2", "-e", "reason=disks"],  # of all mirrors: has to be said
        ["--limit", "mirror1", "-e", "reason=disks"],
        ["--limit", "mirror1", "-e", "hours=2"],
        ["--limit", "mirror1", "-e", "hours=2", "-e", "reason=' '"],
        ["--limit", "mirror1", "-e", "hours=soon", "-e", "reason=disks"],
        ["--limit", "mirror1", "-e", "hours=745", "-e", "reason=disks"],
        ["--limit", "mirror1", "-e", "hours=0", "-e", "reason=disks"],
        ["--limit", "mirror1", "-e", "hours=-1", "-e", "reason=disks"],
    ],
)
def test_maintenance_says_what_it_needs(fleet: Fleet, arguments: list[str]) -> None:
    code, said = fleet.play("maintenance.yml", *arguments)
    message = " ".join(refused(code, said).split())
    assert "-e hours=2, at most 744" in message and "or end it (-e end=true)" in message


EYES = """
all:
  vars:
    ansible_connection: local
    ansible_become: false
    ansible_python_interpreter: "{{ ansible_playbook_python }}"
    __fleet_look: [sh, -c, 'cat >/dev/null; {{ answers[__monitor] }}', look]
    answers:
      gone: exit 0
      old: 'echo "mirrorfleet: error: unrecognized arguments: --records" >&2; exit 2'
      blind: 'echo "{\\"reference\\": \\"the index answered 503\\"}"; exit 1'
      sees: 'echo "{\\"reference\\": \\"\\"}"'
      sees_too: 'echo "{\\"reference\\": \\"\\"}"'
  children:
    mirrors: {hosts: {one: {}, two: {}}}
    monitors: {hosts: {MONITORS}}
"""
GONE = "gone: {ansible_connection: ssh, ansible_host: 127.0.0.1, ansible_port: 1}"
GONE_URL = "gone: {monitor_url: 'https://gone.fleet.test'}"
EYE_PLAY = """
- hosts: mirrors
  gather_facts: false
  tasks:
    - import_tasks: EYE
      vars: {__fleet_eye_needed: NEEDED}
    - debug: {msg: "{{ inventory_hostname }} is seen from {{ __fleet_eye }} ({{ __fleet_eye_sees }})"}
"""


@pytest.mark.parametrize(
    ("monitors", "needed", "words"),
    [
        ("sees: {}, sees_too: {}", True, ["seen from sees (True)"]),
        (
            f"{GONE}, old: {{}}, blind: {{}}, sees: {{}}", True,
            ["one is seen from sees (True)", "two is seen from sees (True)"],
        ),
        (f"{GONE}, blind: {{}}", False, ["one is seen from gone (False)"]),
        (
            f"{GONE}, old: {{}}, blind: {{}}", True,
            ["No monitor can say", "gone: Failed to connect", "old: mirrorfleet: error: unrecognized arguments",
             "blind: the index answered 503", "playbooks/provision.yml --limit NAME"],
        ),
    ],
)  # fmt: skip
def test_the_first_monitor_that_sees_the_trusted_index_is_asked(
    tmp_path: Path, monitors: str, needed: bool, words: list[str]
) -> None:
    """One that is gone, one whose program is of before, and one that is cut off are passed over, and named."""
    (tmp_path / "hosts.yml").write_text(EYES.replace("MONITORS", monitors))
    play = EYE_PLAY.replace("EYE", str(HOUSE / "playbooks/tasks/eye.yml")).replace(
        "NEEDED", str(needed).lower()
    )
    (tmp_path / "play.yml").write_text(play)
    (tmp_path / "ansible.cfg").touch()
    run = subprocess.run(
        [*ANSIBLE_PLAYBOOK, "-i", tmp_path / "hosts.yml", tmp_path / "play.yml"],
        env=os.environ
        | {
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_CALLBACK_RESULT_FORMAT": "yaml",
            "ANSIBLE_CONFIG": str(tmp_path / "ansible.cfg"),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    said = re.sub(r"\s+", " ", run.stdout)
    for word in words:
        assert word in said, run.stdout
    assert (run.returncode == 0) == ("seen from" in words[0]), run.stdout


# --- what runs end with ---


@pytest.fixture
def lonely(fleet: Fleet) -> Fleet:
    """The local fleet, of which each host refuses at once."""
    for path in (fleet.inventory / "host_vars").glob("*.yml"):
        own = "".join(line for line in path.open() if not line.startswith("ansible_"))
        # Of a fleet that does not run there is no SSH configuration.
        refusing = (
            "ansible_host: 127.0.0.1\nansible_port: 1\nansible_ssh_retries: 0\nansible_ssh_common_args: ''\n"
        )
        path.write_text(own + refusing)
    return fleet


def here(fleet: Fleet, name: str, python: str) -> None:
    """For what changes nothing: the host is this machine."""
    path = fleet.inventory / f"host_vars/{name}.yml"
    this = f"ansible_connection: local\nansible_become: false\nansible_python_interpreter: '{python}'\n"
    path.write_text(path.read_text() + this)


def after_recap(said: str) -> str:
    return said[said.index("PLAY RECAP") :].split("\n\n", 1)[1]


@pytest.mark.parametrize("check", [[], ["--check"]])
def test_status_of_a_fleet_that_hardly_answers(lonely: Fleet, tmp_path: Path, check: list[str]) -> None:
    here(lonely, "mirror1", sys.executable)
    here(lonely, "mirror4", "/no/python")
    path = tmp_path / "status.json"
    # A path as it is typed: from where the person is.
    code, said = lonely.play("status.yml", *check, "-e", f"status_json={os.path.relpath(path, HOUSE)}")
    assert code == 0, said
    assert (
        not re.search(r"changed=[1-9]|unreachable=[1-9]|failed=[1-9]|ignored=[1-9]", said)
        and "fatal:" not in said
    )
    told = after_recap(said)
    assert "Local fleet at" in told and "0 of 4 mirrors listed, 6 need a person." in told
    assert "No redirector tells its list" in told and "No monitor tells what it sees" in told
    assert re.search(
        r"^mirror2 .*\n    no answer by SSH since 20\d\d-.*: connect to host 127.0.0.1 port 1: Connection refused$",
        told, re.MULTILINE,
    )  # fmt: skip
    assert "was never provisioned: ansible-playbook playbooks/provision.yml --limit mirror1" in told
    assert "cannot be looked at: /bin/sh: 1: /no/python: not found; ansible mirror4 -b -m" in told
    document = json.loads(path.read_text())
    rows = {row["name"]: row for row in document["hosts"]}
    assert rows["mirror4"]["ssh"]["answers"] and rows["mirror4"]["provisioned"] is None
    assert set(rows) == {"mirror1", "mirror2", "mirror4", "mirror5", "origin", "redirector"}
    assert rows["mirror1"]["ssh"]["answers"] and rows["mirror1"]["disk"]["total"] > 0
    assert rows["redirector"]["kinds"] == ["redirector", "monitor"]
    # Since when it does not answer is remembered there.
    rows["mirror2"]["ssh"]["since"] = 86400
    path.write_text(json.dumps(document))
    code, said = lonely.play("status.yml", *check, "--limit", "mirror2", "-e", f"status_json={path}")
    assert code == 0 and "no answer by SSH since 1970-01-02" in after_recap(said)
    assert [row["name"] for row in json.loads(path.read_text())["hosts"]] == ["mirror2"]


def test_status_has_a_row_for_a_wrong_record(lonely: Fleet) -> None:
    lonely.spoil("mirror5", r"^mirror_operator:.*\n", "")
    code, said = lonely.play("status.yml", "-e", "status_only=problems")
    assert code == 0, said
    told = after_recap(said)
    assert re.search(r"^mirror5 +record", told, re.MULTILINE)
    assert "    its record is wrong: mirrors/mirror5.yml: mirror_operator is missing" in told


@pytest.mark.parametrize("answers", ["one of two", "none"])
def test_a_monitor_that_cannot_be_reached_stops_no_list(lonely: Fleet, tmp_path: Path, answers: str) -> None:
    """This machine is the redirector, and where one answers the other monitor."""
    others = "" if answers == "none" else "  redirector: {}\n"
    lonely.spoil("fleet", r"(?<=^monitors:\n)  redirector: \{\}", f"{others}  {GONE_URL}")
    here(lonely, "redirector", sys.executable)
    path = lonely.inventory / "host_vars/gone.yml"
    path.write_text(
        "ansible_host: 127.0.0.1\nansible_port: 1\nansible_ssh_retries: 0\nansible_ssh_common_args: ''\n"
    )
    measured, published = tmp_path / "measured.json", tmp_path / "published"
    given = {
        "host_state_directory": str(tmp_path / "host_state"),
        "__monitoring_server_registry_file": str(measured),
        "__redirector_registry_file": str(tmp_path / "registry.json"),
        "__redirector_list_command": [
            "sh",
            "-c",
            f"""echo '{{"changed": [], "unsigned": []}}' | tee {published}""",
        ],
        "__fleet_look": ["sh", "-c", """cat >/dev/null; echo '{"reference": ""}'"""],
    }
    code, said = lonely.play("publish.yml", "-e", json.dumps(given))
    told = after_recap(said)
    assert (
        "gone did not answer: connect to host 127.0.0.1 port 1: Connection refused" in told
        or answers == "none"
    )
    if answers == "none":
        assert code == 2 and not published.exists()
        assert "No monitor could be told whom to measure" in told and "gone: " in told
    else:
        assert code == 4, said  # as ansible-playbook ends for any host that cannot be reached
        assert published.exists() and json.loads(measured.read_text())["mirrors"]
        assert "Could not be told whom to measure: gone: " in told
        assert "  Next: ansible gone -m ansible.builtin.ping says what keeps SSH from it" in told


SILENCE = """
all:
  vars:
    ansible_python_interpreter: "{{ ansible_playbook_python }}"
    ansible_become: false
    __preflight_upstream: {skipped: true}
  hosts:
    gone: {ansible_connection: ssh, ansible_host: 127.0.0.1, ansible_port: 1, ansible_ssh_retries: 0}
    here: {ansible_connection: local}
  children:
    sites: {hosts: {SITE: {}}}
"""
SILENCE_PLAY = """
- hosts: all
  gather_facts: false
  tasks:
    - raw: "true"
      register: __preflight_python
      ignore_unreachable: true
    - set_fact: {__preflight_host: {problems: []}}
    - import_tasks: TASKS
      vars: {__preflight_bears_silence: BEARS, __preflight_inputs: [], __fleet_upstream: {}}
- hosts: all
  gather_facts: false
  tasks:
    - debug: {msg: "{{ inventory_hostname }} is made"}
"""


@pytest.mark.parametrize(
    ("site", "bears", "goes_on"),
    [("here", True, True), ("here", False, False), ("gone", True, False)],
)
def test_who_does_not_answer_holds_up_nobody_else_but_a_site_does(
    tmp_path: Path, site: str, bears: bool, goes_on: bool
) -> None:
    """The end of preflight, of one host that answers and one that does not."""
    text = (HOUSE / "playbooks/tasks/preflight.yml").read_text()
    verdict = text.index("# Whoever publishes and measures")
    (tmp_path / "verdict.yml").write_text(text[verdict:])
    (tmp_path / "hosts.yml").write_text(SILENCE.replace("SITE", site))
    play = SILENCE_PLAY.replace("TASKS", str(tmp_path / "verdict.yml")).replace("BEARS", str(bears).lower())
    (tmp_path / "play.yml").write_text(play)
    (tmp_path / "ansible.cfg").write_text(f"[defaults]\nfilter_plugins = {HOUSE}/filter_plugins\n")
    run = subprocess.run(
        [*ANSIBLE_PLAYBOOK, "-i", tmp_path / "hosts.yml", tmp_path / "play.yml"],
        env=os.environ | {"ANSIBLE_NOCOLOR": "1", "ANSIBLE_CONFIG": str(tmp_path / "ansible.cfg")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert run.returncode != 0, "the run is not done"
    assert ("here is made" in run.stdout) == goes_on, run.stdout
    assert "gone is made" not in run.stdout
    assert ("gone: SSH and Python" in run.stdout) != goes_on, run.stdout


@pytest.mark.parametrize(
    "playbook", ["publish.yml", "provision.yml", "update.yml", "preflight.yml", "demo.yml"]
)
def test_every_playbook_that_fails_says_the_next_command(lonely: Fleet, playbook: str) -> None:
    code, said = lonely.play(playbook)
    assert code != 0
    told = after_recap(said)
    assert told.startswith(f"{playbook}: failed on "), told
    assert "Next: mend it (docs/" in told.splitlines()[-1], told
    assert told.rstrip().endswith(f"{HOUSE}/playbooks/{playbook}"), told
    assert len(told.splitlines()) < 30
