"""An update from end to end, killed where it hurts. Hosts are namespaces of this machine with their own /etc and /opt.

What the playbook goes by is real: its tasks, the plan, what hosts tell, and the notes on them. What the roles do to a
host is a link to another version; what a monitor sees of a mirror goes by that link; the list is who is not held.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

HOUSE = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow
OLD, NEW = "0.1.0", "0.2.0"
TIMES = int(os.environ.get("TIMES", "1"))
RED = "redirector.example.org"
INTERPRETER = """#!/bin/sh
exec unshare --user --map-root-user --mount --kill-child --pid --fork --mount-proc sh -c '
mount --bind {host}/etc /etc; mount --bind {host}/opt /opt; mount --bind {host}/dpkg-query /usr/bin/dpkg-query
mount --bind {host}/log /var/log; mount --bind {host}/lib /var/lib
{host}/nginx 60 & export PATH={host}/bin:$PATH
{python} "$@"' sh "$@"
"""
# What the roles and tasks of others do, as far as an update goes by it.
STUBS = {
    "roles/web_server/tasks/main.yml": """
- host_state:
    directories: [{path: /etc/nginx}]
    files:
      - {path: /etc/nginx/nginx.conf, content: "{{ lookup('file', control ~ '/setting') }}", notify: [nginx reload]}
- meta: flush_handlers
""",
    "roles/web_server/handlers/main.yml": """
- name: Test the configuration of nginx
  command: sh -c '! grep broken /etc/nginx/nginx.conf'
  listen: nginx reload
- shell: echo {{ inventory_hostname }} $(cat /etc/nginx/nginx.conf) >>{{ control }}/reloads
  listen: nginx reload
- host_state: {settled: [nginx reload]}
  listen: nginx reload
""",
    **{
        f"roles/{name}.yml": "[]"
        for name in (
            "nginx/tasks/guard",
            "host_baseline/tasks/main",
            "tls/tasks/main",
            "tls/tasks/issue",
            "rsync_server/tasks/main",
            "monitoring_agent/tasks/main",
            "route/tasks/main",
            "sync_client/tasks/first_sync",
            "origin/tasks/main",
            "origin/tasks/first_sync",
        )
    },
    "playbooks/publish.yml": "- {hosts: localhost, gather_facts: false, tasks: []}",
    "roles/sync_client/tasks/main.yml": """
- host_state:
    directories: [{path: "/opt/mirrorfleet/{{ sync_client_mirrorfleet_version }}"}]
    links: [{path: /opt/mirrorfleet/current, target: "{{ sync_client_mirrorfleet_version }}"}]
- shell: "{{ lookup('file', control ~ '/after-link', errors='ignore') or 'true' }}"
  delegate_to: localhost
  when: not host_state_asks | default(false)
""",
    "roles/sync_client/tasks/rollback.yml": """
- host_state:
    links: [{path: /opt/mirrorfleet/current, target: "{{ sync_client_mirrorfleet_version }}"}]
""",
    "roles/document_server/tasks/main.yml": "[]",
    "roles/monitoring_server/tasks/main.yml": "[]",
    "roles/redirector/tasks/main.yml": """
- host_state:
    directories: [{path: "/opt/mirrorfleet/{{ redirector_mirrorfleet_version }}"}]
    links: [{path: /opt/mirrorfleet/current, target: "{{ redirector_mirrorfleet_version }}"}]
- shell: "{{ lookup('file', control ~ '/after-own-link', errors='ignore') or 'true' }}"
  delegate_to: localhost
""",
    "roles/python_program/tasks/point.yml": """
- host_state: {links: [{path: "/opt/{{ python_program_name }}/current", target: "{{ python_program_version }}"}]}
""",
    "roles/redirector/tasks/hold.yml": """
- copy: {content: "{{ redirector_hold_reason }}", dest: "{{ control }}/holds/{{ redirector_mirror }}"}
""",
    "roles/redirector/tasks/release.yml": """
- file: {path: "{{ control }}/holds/{{ redirector_mirror }}", state: absent}
- shell: "{{ lookup('file', control ~ '/after-release', errors='ignore') or 'true' }}"
  delegate_to: localhost
""",
    "playbooks/preflight.yml": "- {hosts: localhost, gather_facts: false, tasks: []}",
    "playbooks/tasks/measured.yml": "[]",
    "playbooks/tasks/system.yml": """
- command: touch {{ control }}/system-{{ inventory_hostname }}
- command: sh -c '! grep "$(readlink /opt/mirrorfleet/current)" {{ control }}/broken-own'
""",
    "playbooks/tasks/quiet.yml": "[]",
    "playbooks/tasks/gate_monitor.yml": "[]",
    "playbooks/tasks/gate_redirector.yml": """
- name: Read what it publishes
  command: sh -c '! grep "$(readlink /opt/mirrorfleet/current)" {{ control }}/broken-own'
""",
    "playbooks/tasks/publish_list.yml": """
- command: "{{ ansible_playbook_python }} {{ control }}/publish.py {{ control }}"
  delegate_to: localhost
""",
    "playbooks/tasks/read_list.yml": """
- set_fact:
    __fleet_entries: "{{ [(lookup('file', control ~ '/mirrors.json') | from_json).mirrors
                          | selectattr('name', 'equalto', inventory_hostname) | first] }}"
""",
    "playbooks/callback_plugins/killer.py": """
import os, signal
from ansible.plugins.callback import CallbackBase
class CallbackModule(CallbackBase):
    CALLBACK_VERSION, CALLBACK_TYPE, CALLBACK_NAME = 2.0, "aggregate", "killer"
    def __init__(self):
        super().__init__()
        self.left = int(os.environ.get("KILL_AT", 0))
    def v2_playbook_on_task_start(self, task, is_conditional):
        self.left -= 1
        if self.left == 0:
            os.killpg(os.getpgid(0), signal.SIGKILL)
""",
    "library/run_unit.py": "",
    "action_plugins/run_unit.py": """
from ansible.plugins.action import ActionBase
class ActionModule(ActionBase):
    _VALID_ARGS = frozenset(("unit", "timeout"))
    def run(self, tmp=None, task_vars=None):
        return super().run(tmp, task_vars) | {"changed": False}
""",
}
PUBLISH = """
import json, pathlib, sys
control = pathlib.Path(sys.argv[1])
held = {path.name: path.read_text() for path in (control / "holds").iterdir()}
def entry(name):
    reason = f"held: {held[name]}" if name in held else ""
    return {"name": name, "listed": not reason, "code": "held" if reason else "listed", "reason": reason}
names = (control / "names").read_text().split()
(control / "mirrors.json").write_text(json.dumps({"mirrors": [entry(name) for name in names]}))
(control / "published").open("a").write(json.dumps(sorted(held)) + "\\n")
(control / "state").touch()
"""
DPKG_QUERY = """#!/bin/sh
case "$*" in *Status*) printf 'nginx\\tinstalled\\t1.26.3-3\\n' ;; *) echo 1.26.3-3 ;; esac
"""
SYSTEMCTL = """#!/bin/sh
case $1 in
    show) printf 'Id=%s\nLoadState=loaded\nActiveState=active\n' "$2" ;;
    *) echo "$@" >>{control}/systemctl ;;
esac
"""
# A monitor's look: a mirror fails where it runs a version that is broken.
LOOK = """
import json, os, pathlib, sys
control = pathlib.Path(sys.argv[1])
broken = (control / "broken").read_text().split()
found = {}
for record in json.load(sys.stdin):
    version = os.readlink(control.parent / record["name"] / "opt/mirrorfleet/current")
    failure = {"family": "ipv4", "check": "html-page", "problem": f"{version} is broken"}
    found[record["name"]] = {"failures": [failure] if version in broken else []}
print(json.dumps({"reference": "", "mirrors": found}))
sys.exit(any(one["failures"] for one in found.values()))
"""


class Fleet:
    """Mirrors m1, m2 … of one continent each, and a redirector that is the monitor."""

    def __init__(self, folder: Path, *continents: str) -> None:
        self.folder, self.control = folder, folder / "control"
        self.names = [f"m{number}" for number, _ in enumerate(continents, 1)]
        self._house()
        (self.control / "holds").mkdir(parents=True)
        for name, text in {
            "publish.py": PUBLISH,
            "look.py": LOOK,
            "broken": "",
            "broken-own": "",
            "setting": "as it was",
            "reloads": "",
            "names": " ".join(self.names),
        }.items():
            (self.control / name).write_text(text)
        self._inventory(continents)
        for name in self.names:
            self._host(name, OLD)
        # It runs what will be pinned, and is no part of most updates.
        self._host(RED, NEW)
        documents = {"documents": str(self.control), "state": str(self.control / "state"),
                     "holds": str(self.control / "holds")}  # fmt: skip
        (self.folder / RED / "etc/mirrorfleet/list.json").write_text(json.dumps(documents))
        subprocess.run([sys.executable, self.control / "publish.py", self.control], check=True)

    def _house(self) -> None:
        house = self.folder / "house"
        shutil.copytree(
            HOUSE / "playbooks", house / "playbooks", ignore=shutil.ignore_patterns("__pycache__")
        )
        for name in ("plugin_utils", "filter_plugins"):
            (house / name).symlink_to(HOUSE / name)
        for name, text in STUBS.items():
            (house / name).parent.mkdir(parents=True, exist_ok=True)
            (house / name).write_text(text)

    def _inventory(self, continents: tuple[str, ...]) -> None:
        shutil.copytree(HOUSE / "inventory/example", self.folder / "fleet")
        shutil.rmtree(self.folder / "fleet/group_vars")
        record = yaml.safe_load((self.folder / "fleet/mirrors/akl1.example.org.yml").read_text())
        for path in (self.folder / "fleet/mirrors").iterdir():
            path.unlink()
        for number, (name, continent) in enumerate(zip(self.names, continents, strict=True)):
            own = record | {"mirror_url": f"https://{name}.example.org", "mirror_bandwidth": 100 + number,
                            "mirror_location": record["mirror_location"] | {"continent": continent}}  # fmt: skip
            own["mirror_agreement"]["accepted_on"] = str(own["mirror_agreement"]["accepted_on"])
            (self.folder / f"fleet/mirrors/{name}.yml").write_text(
                yaml.safe_dump(own, default_flow_style=None)
            )
        (self.folder / "fleet/group_vars").mkdir()
        (self.folder / "fleet/group_vars/all.yml").write_text(yaml.safe_dump({
            "ansible_connection": "local", "ansible_become": False, "control": str(self.control),
            "fleet_drain_seconds": 0, "fleet_update_soak_seconds": 0,
            "__fleet_look": [sys.executable, str(self.control / "look.py"), str(self.control)],
        }))  # fmt: skip
        (self.folder / "fleet/host_vars").mkdir()
        for name in (*self.names, RED):
            self._set(name, ansible_python_interpreter=f"{self.folder}/{name}/python")
        self.pin(OLD)

    def _set(self, name: str, **variables: Any) -> None:
        (self.folder / f"fleet/host_vars/{name}.yml").write_text(yaml.safe_dump(variables))

    def pin(self, version: str) -> None:
        path = self.folder / "fleet/fleet.yml"
        path.write_text(re.sub(r'mirrorfleet: "[0-9.]+"', f'mirrorfleet: "{version}"', path.read_text()))

    def _host(self, name: str, version: str) -> None:
        host = self.folder / name
        for path in (
            "etc/mirrorfleet",
            f"opt/mirrorfleet/{version}",
            "opt/bandersnatch/8.2.0",
            "bin",
            "log/nginx",
            "lib/prometheus/node-exporter",
            "lib/dpkg/updates",
        ):
            (host / path).mkdir(parents=True)
        (host / "opt/mirrorfleet/current").symlink_to(version)
        (host / "etc/nginx").mkdir()
        (host / "etc/nginx/nginx.conf").write_text("as it was")
        (host / "opt/bandersnatch/current").symlink_to("8.2.0")
        (host / "etc/os-release").write_text("ID=debian\nVERSION_ID=13\n")
        for account in ("passwd", "group"):
            shutil.copy(f"/etc/{account}", host / "etc")
        shutil.copy("/bin/sleep", host / "nginx")
        for file, text in {
            "python": INTERPRETER.format(host=host, python=sys.executable),
            "dpkg-query": DPKG_QUERY,
            "bin/runuser": "#!/bin/sh\nexit 0\n",
            "bin/chown": "#!/bin/sh\nexit 0\n",
            "bin/nginx": "#!/bin/sh\nexit 0\n",
            "bin/apt-get": "#!/bin/sh\n[ $1 = -qq ] || echo 'Inst openssl [3.5.1-1] (3.5.1-2 Debian)'\n",
            "bin/systemctl": SYSTEMCTL.format(control=self.control),
        }.items():
            (host / file).write_text(text)
            (host / file).chmod(0o755)

    def answered(self, name: str, *statuses: int) -> None:
        """Its nginx has, at some time after now."""
        (self.folder / name / "log/nginx/access.log").write_text(
            "".join(f'{{"time":"2100-01-01T00:00:00+00:00","status":{one},"bytes":7}}\n' for one in statuses)
        )

    def lose(self, name: str) -> None:
        self._set(
            name, ansible_connection="ssh", ansible_host="127.0.0.1", ansible_port=1, ansible_ssh_retries=0
        )

    def kill_at(self, moment: str) -> None:
        (self.control / moment).write_text(f"kill -9 -$(cat {self.control}/group)")

    def update(self, *arguments: str, playbook: str = "update.yml", kill_at: int = 0) -> tuple[int, str]:
        path = {kind: f"{self.folder}/house/{kind}:{HOUSE}/{kind}" for kind in ("library", "action_plugins")}
        process = subprocess.Popen(
            [sys.executable, "-m", "ansible", "playbook", "-i", self.folder / "fleet/fleet.yml",
             self.folder / "house/playbooks" / playbook, *arguments],
            cwd=HOUSE, start_new_session=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=os.environ | {
                "ANSIBLE_CONFIG": str(HOUSE / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1", "KILL_AT": str(kill_at),
                "ANSIBLE_LIBRARY": path["library"],
                "ANSIBLE_ACTION_PLUGINS": path["action_plugins"], "ANSIBLE_ROLES_PATH": f"{self.folder}/house/roles",
            },
        )  # fmt: skip
        (self.control / "group").write_text(str(process.pid))
        said, _ = process.communicate(timeout=400)
        for moment in ("after-link", "after-own-link", "after-release"):
            (self.control / moment).unlink(missing_ok=True)
        return process.returncode, said

    def serves_with(self) -> list[str]:
        return [(self.folder / name / "etc/nginx/nginx.conf").read_text() for name in self.names]

    def note(self, name: str) -> dict[str, Any] | None:
        path = self.folder / name / "etc/mirrorfleet/update.json"
        return json.loads(path.read_text()) if path.exists() else None

    def told(self, name: str) -> str:
        """What its node_exporter tells of an update."""
        path = self.folder / name / "lib/prometheus/node-exporter/mirrorfleet-update.prom"
        return path.read_text() if path.exists() else ""

    def runs(self) -> dict[str, str]:
        return {name: self.version(name) for name in self.names}

    def version(self, name: str) -> str:
        return os.readlink(self.folder / name / "opt/mirrorfleet/current")

    def held(self) -> list[str]:
        return sorted(path.name for path in (self.control / "holds").iterdir())

    def listed(self) -> list[str]:
        told = json.loads((self.control / "mirrors.json").read_text())["mirrors"]
        return [one["name"] for one in told if one["listed"]]


def flat(said: str) -> str:
    return re.sub(r"\s+", " ", said)


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path, "OC", "AF")


def test_the_plan_is_shown_and_nothing_is_touched(fleet: Fleet) -> None:
    fleet.pin(NEW)
    code, said = fleet.update("-e", "update_plan_only=true")
    assert code == 0, said
    told = said.partition("PLAY RECAP")[2]
    assert "  wave 1: m1: mirrorfleet 0.1.0 -> 0.2.0" in told and "  wave 2: m2: mirrorfleet" in told
    assert set(fleet.runs().values()) == {OLD} and not fleet.held()
    # Too many off the list: the names, and the key.
    (fleet.control / "holds/m1").write_text("disk is swapped")
    (fleet.control / "holds/m2").write_text("disk is swapped")
    code, said = fleet.update()
    assert code == 0 and "Left alone, for they are held: m1, m2: held: disk is swapped" in said


def test_a_run_that_was_killed_before_the_list_was_published_is_taken_up(fleet: Fleet) -> None:
    """Nothing holds the mirror any more and it runs what is pinned: but for the note, nobody would look at it."""
    fleet.pin(NEW)
    fleet.kill_at("after-release")
    code, _ = fleet.update()
    assert code == -signal.SIGKILL
    assert fleet.runs()["m1"] == NEW and not fleet.held() and "m1" not in fleet.listed()
    noted = fleet.note("m1")
    assert noted and (noted["step"], noted["gated"]["mirrorfleet"], noted["listed"]) == ("release", OLD, True)
    assert re.fullmatch(r"\S+ on \S+", noted["by"]) and time.time() - noted["since"] < 3600
    code, said = fleet.update("--limit", "m1")
    assert code == 0, said
    assert "left in the middle by a former run" in said
    assert fleet.listed() == ["m1", "m2"] and fleet.note("m1") is None


def test_a_run_that_was_killed_when_the_new_version_was_linked_goes_back_to_the_gated_one(
    fleet: Fleet,
) -> None:
    """The new version never passed a gate: to the next run it is nothing to go back to."""
    fleet.pin(NEW)
    fleet.kill_at("after-link")
    _, said = fleet.update()
    assert fleet.runs()["m1"] == NEW and fleet.held() == ["m1"], said
    (fleet.control / "broken").write_text(NEW)
    fleet.answered("m1", 200, 502, 404)
    fleet.answered("m2", 200)
    code, said = fleet.update()
    assert code != 0
    assert fleet.runs() == {"m1": OLD, "m2": OLD}
    assert fleet.listed() == ["m1", "m2"] and fleet.note("m1") is None
    told = flat(said)
    assert "m1 could not be updated: task" in told and "m1, seen from redirector.example.org, fails:" in told
    assert "ipv4 html-page: 0.2.0 is broken" in told and "That was at its step gate, from" in told
    assert "It is back on its former version" in told and "No further wave starts" in told
    # How it went is told of a run that stopped, too.
    assert re.search(
        r" Took [0-9a-z ]+, in 1 wave: m1 [0-9a-z ]+ That is 1.00 times as long as 1 wave at", told
    ), said
    assert "Served meanwhile by mirrors (2 hosts): 4 requests, 1 failed: m1 1 " in told
    assert re.search(r"Next: mend it .docs/update.md., then ansible-playbook .*update.yml", told)


def test_a_mirror_is_taken_back_by_the_same_gate_and_a_killed_run_of_it_goes_on(tmp_path: Path) -> None:
    """playbooks/rollback.yml, by what the update noted at its end: there is no other word of what ran before."""
    fleet = Fleet(tmp_path, "OC")
    fleet.pin(NEW)
    code, said = fleet.update()
    assert code == 0 and fleet.runs() == {"m1": NEW}, said
    fleet.kill_at("after-release")
    code, _ = fleet.update(playbook="rollback.yml")
    assert code == -signal.SIGKILL and fleet.runs() == {"m1": OLD} and not fleet.listed()
    noted = fleet.note("m1")
    assert noted and (noted["back"], noted["wanted"]["mirrorfleet"], noted["gated"]["mirrorfleet"]) == (
        True,
        OLD,
        NEW,
    )
    code, said = fleet.update(playbook="rollback.yml")
    assert code == 0, said
    assert fleet.runs() == {"m1": OLD} and fleet.listed() == ["m1"] and fleet.note("m1") is None
    told = said.partition("PLAY RECAP")[2]
    assert "Taken back: m1" in told and "fleet.yml pins what was taken back. Pin what runs now" in told


def test_a_redirector_comes_last_and_goes_back_to_the_gated_version_where_it_fails(tmp_path: Path) -> None:
    """It is the monitor, too, of this fleet the only one: what a killed run left of it is taken up all the same."""
    fleet = Fleet(tmp_path, "OC")
    shutil.rmtree(fleet.folder / RED / "opt")
    shutil.copytree(fleet.folder / "m1/opt", fleet.folder / RED / "opt", symlinks=True)
    fleet.pin(NEW)
    fleet.kill_at("after-own-link")
    code, said = fleet.update()
    assert code == -signal.SIGKILL and fleet.version(RED) == NEW, said
    assert fleet.runs() == {"m1": NEW} and fleet.note("m1") is None and fleet.listed() == ["m1"]
    noted = fleet.note(RED)
    assert noted and (noted["step"], noted["gated"]["mirrorfleet"]) == ("update", OLD)
    assert re.search(r"^mirrorfleet_update_timestamp_seconds \d{10}$", fleet.told(RED), re.MULTILINE)
    assert not fleet.told("m1")
    (fleet.control / "broken-own").write_text(NEW)
    code, said = fleet.update("--limit", RED)
    told = flat(said)
    assert code != 0 and fleet.version(RED) == OLD and fleet.note(RED) is None and not fleet.told(RED), said
    assert f"  first of all: {RED} (redirector): " in said and "left in the middle by a former run" in told
    assert f"{RED} could not be updated: task" in told and "Read what it publishes" in told
    assert "That was at its step gate, from" in told and "It is back on its former version" in told
    restarted = (fleet.control / "systemctl").read_text()
    assert all(f"restart mirrorfleet-{name}.service" in restarted for name in ("list", "probe")), restarted
    (fleet.control / "broken-own").write_text("")
    code, said = fleet.update("--limit", RED)
    assert code == 0 and fleet.version(RED) == NEW, said
    assert f"Updated: {RED}: mirrorfleet {OLD} -> {NEW}" in flat(said.partition("PLAY RECAP")[2])


def test_what_the_system_has_pending_stops_at_the_canary_and_does_not_go_back(fleet: Fleet) -> None:
    """An update that is pinned is none of it. Where the cause is mended the same command completes it."""
    fleet.pin(NEW)
    (fleet.control / "broken-own").write_text(OLD)
    code, said = fleet.update("-e", "update_only=system")
    told = flat(said.partition("PLAY RECAP")[2])
    assert code != 0 and set(fleet.runs().values()) == {OLD}, said
    assert "  wave 1: m1: pending: openssl" in said and f"{RED} (redirector): pending: openssl" in flat(said)
    assert "Packages of the system do not go back: it stays off the list until this playbook succeeds" in told
    assert fleet.held() == ["m1"] and fleet.note("m1") is not None
    assert not (fleet.control / "system-m2").exists()
    (fleet.control / "broken-own").write_text("")
    code, said = fleet.update("-e", "update_only=system", "--limit", "m1")
    assert code == 0 and fleet.listed() == ["m1", "m2"] and fleet.note("m1") is None, said
    assert set(fleet.runs().values()) == {OLD}


def test_a_changed_setting_goes_by_waves_and_one_that_fails_goes_back_to_what_passed(fleet: Fleet) -> None:
    """By provision.yml, whose roles only ask of a mirror that is on the list. Of one that a run was killed in, too."""
    (fleet.control / "setting").write_text("half way")
    fleet.kill_at("after-link")
    code, said = fleet.update("--limit", "m1", playbook="provision.yml")
    assert code == -signal.SIGKILL and fleet.serves_with() == ["half way", "as it was"], said
    noted = fleet.note("m1")
    assert noted and noted["step"] == "update" and noted["kept"] and fleet.held() == ["m1"]
    (fleet.control / "setting").write_text("broken")
    code, said = fleet.update(playbook="provision.yml")
    assert code != 0 and fleet.serves_with() == ["as it was", "as it was"], said
    told = flat(said.partition("PLAY RECAP")[2])
    assert 'm1 could not be updated: task "Test the configuration of nginx" said' in told, told
    assert "with /etc/nginx/nginx.conf. It is back on its former version" in told, told
    assert (
        "and configuration and on the list. No further wave starts. Mend the setting in the inventory" in told
    )
    assert fleet.listed() == ["m1", "m2"] and fleet.note("m1") is None
    assert '["m2"]' not in (fleet.control / "published").read_text(), "the other one was touched"
    (fleet.control / "setting").write_text("better")
    (fleet.control / "reloads").write_text("")
    code, said = fleet.update(playbook="provision.yml")
    assert code == 0 and fleet.serves_with() == ["better", "better"], said
    assert (fleet.control / "reloads").read_text().splitlines() == ["m1 better", "m2 better"]
    held = [json.loads(line) for line in (fleet.control / "published").read_text().splitlines()]
    assert [one for one in held if one][-2:] == [["m1"], ["m2"]], "no two of them at once"
    assert "Updated: m1, m2: configuration: /etc/nginx/nginx.conf" in flat(said.partition("PLAY RECAP")[2])


@pytest.mark.chance
@pytest.mark.skipif(
    TIMES < 2, reason="make test kills at chosen moments; make test-long TIMES=20 at 40 by chance"
)
def test_killed_at_any_task_the_next_run_completes_it(tmp_path: Path) -> None:
    """Of one mirror's update and of its redirector's, there and back by pins."""
    fleet = Fleet(tmp_path, "OC")
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    chance, killed = random.Random(seed), 0
    for number in range(2 * TIMES):
        former, wanted = (OLD, NEW) if number % 2 == 0 else (NEW, OLD)
        fleet.pin(wanted)
        moment = chance.randrange(10, 230)
        code, said = fleet.update(kill_at=moment)
        killed += code == -signal.SIGKILL
        noted = fleet.note("m1") or {}
        if fleet.listed() and noted.get("step") not in ("release", "soak"):
            gated = {former} if noted else {former, wanted}
            assert fleet.version("m1") in gated, f"task {moment}: among clients, not gated"
        code, said = fleet.update()
        assert code == 0, f"task {moment}: {said}"
        assert (fleet.version("m1"), fleet.version(RED)) == (wanted, wanted), f"task {moment}"
        assert fleet.listed() == ["m1"] and not fleet.held() and not fleet.note("m1") and not fleet.note(RED)
    assert killed > TIMES / 2, "too few were killed to say anything"


def test_of_two_people_the_second_is_told_and_may_insist(fleet: Fleet) -> None:
    fleet.pin(NEW)
    lock = fleet.folder / RED / "etc/mirrorfleet/update.lock"
    theirs = {"run": "7 Mon Jan 1", "by": "bob on desk", "node": "desk", "since": int(time.time()) - 60}
    lock.write_text(json.dumps(theirs | {"until": int(time.time()) + 600}))
    code, said = fleet.update()
    assert code != 0 and set(fleet.runs().values()) == {OLD} and not fleet.held()
    assert "Nothing was changed, for another run is at work: of bob on desk, since 20" in flat(said)
    code, said = fleet.update("-e", "update_take_lock=true", "--limit", "m2")
    assert code == 0, said
    assert fleet.runs() == {"m1": OLD, "m2": NEW} and lock.read_text() == ""


def test_a_wave_is_not_begun_where_a_mirror_has_left_the_list_since_it_was_planned(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, "OC", "AF", "AF")
    fleet.pin(NEW)
    (fleet.control / "after-link").write_text(f"echo disk is swapped >{fleet.control}/holds/m3")
    code, said = fleet.update()
    assert code != 0 and fleet.runs() == {"m1": NEW, "m2": OLD, "m3": OLD} and fleet.held() == ["m3"]
    told = flat(said.partition("PLAY RECAP")[2])
    assert "This wave was not begun, for the fleet can no longer bear it: m2" in told, said
    assert "AF is at its floor: m3 is off the list there, and m2 would be, too." in told
    assert "Then go on: ansible-playbook playbooks/update.yml" in told
    assert (fleet.folder / RED / "etc/mirrorfleet/update.lock").read_text() == ""


def test_a_mirror_that_does_not_answer_holds_up_nobody(fleet: Fleet) -> None:
    fleet.pin(NEW)
    fleet.lose("m1")
    code, said = fleet.update()
    assert code != 0
    assert fleet.runs() == {"m1": OLD, "m2": NEW} and fleet.note("m2") is None
    told = flat(said.partition("PLAY RECAP")[2])
    assert "Updated: m2" in told and "Served meanwhile by mirrors (1 host): 0 requests, 0 failed" in told
    assert "these served, and failed, is not known: m1 (" in told
    assert (
        "m1 did not answer when its turn came, and is as it was. Next, once it does: ansible-playbook" in told
    )
    assert "update.yml --limit m1" in told
