"""The gates of the fleet's own hosts, before real servers of this machine."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import pytest
import yaml

HOUSE = Path(__file__).parents[2]
pytestmark = pytest.mark.slow
PLAY = """
- hosts: all
  gather_facts: false
  tasks:
    - include_tasks: {TASKS}/others_answer.yml
      when: "'alone' in groups"
    - include_tasks: {TASKS}/routed.yml
      when: "'mirrors' in groups"
      vars: {{__fleet_routed: "{{{{ comes_back }}}}"}}
    - include_tasks: {TASKS}/soak_series.yml
      when: "'mirrors' in groups"
    - include_tasks: {TASKS}/gate_own.yml
    - debug: {{msg: "{{{{ inventory_hostname }}}} passed"}}
"""
ROLE = "- copy: {content: published, dest: '{{ published }}-{{ inventory_hostname }}'}\n"
HOST_STATUS = """
from ansible.plugins.action import ActionBase
class ActionModule(ActionBase):
    def run(self, tmp=None, task_vars=None):
        return super().run(tmp, task_vars) | {"status": task_vars["says"], "problem": "", "reached": True}
"""
PAGE = {"files": [{"url": "/packages/six-1.tar.gz"}]}


def answers(listed: list[str]) -> dict[str, Any]:
    return {
        "/mirrors.json": {"mirrors": [{"name": name} for name in listed]},
        "/mirrors.txt": {}, "/": {}, "/health.json": {}, "/-/ready": {}, "/simple/six/": PAGE,
        "/packages/six-1.tar.gz": {}, "/route?file=/packages/six-1.tar.gz": {"candidates": ["one"]},
    }  # fmt: skip


@pytest.fixture
def gated(serve: Any, authority: Any, tmp_path: Path) -> Any:
    certificate = authority.issue("localhost")

    def served(found: dict[str, Any], certificate: Path | None = certificate) -> int:
        def answer(request: Any) -> tuple[int, dict[str, str], bytes]:
            if request.path not in found:
                return 404, {}, b""
            return 200, {"Content-Type": "application/json"}, json.dumps(found[request.path]).encode()

        return int(serve(answer, certificate))

    def run(
        hosts: dict[str, dict[str, Any]], groups: dict[str, list[str]], prometheus: int = 0
    ) -> tuple[int, str]:
        prometheus = prometheus or served(answers([]), None)
        (tmp_path / "tasks").mkdir()
        for path in (HOUSE / "playbooks/tasks").glob("*.yml"):
            text = path.read_text().replace("/etc/ssl/certs/ca-certificates.crt", str(authority.pem))
            # That of ask_index is its default.
            text = re.sub(
                r"^    (project|mirror): ", rf"    ca_path: {authority.pem}\n\g<0>", text, flags=re.MULTILINE
            )
            text = text.replace("127.0.0.1:9090", f"127.0.0.1:{prometheus}")
            text = re.sub(r"^( +retries: ).+\n.*delay: .*", r"\g<1>1", text, flags=re.MULTILINE)
            (tmp_path / "tasks" / path.name).write_text(text)
        for name, text in {
            "roles/redirector/tasks/publish.yml": ROLE,
            "action_plugins/host_status.py": HOST_STATUS,
            "library/host_status.py": "",
            "play.yml": PLAY.format(TASKS=tmp_path / "tasks"),
            "bin/nginx": "#!/bin/sh\n",
            "ansible.cfg": "[defaults]\nshow_custom_stats = true\n",
        }.items():
            (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
            (tmp_path / name).write_text(text)
        (tmp_path / "bin/nginx").chmod(0o755)
        everybody = {
            "ansible_connection": "local", "ansible_python_interpreter": sys.executable,
            "fleet_gate_project": "six", "__fleet_eye": "eye", "comes_back": False,
            "__soak_began": time.time() - 9, "__soak_since": 1000.5,
            "published": str(tmp_path / "published"),
            "redirector_registry": {"mirrors": [{"name": "one"}, {"name": "two"}]},
            "monitoring_server_registry": {"mirrors": [{"name": "one"}, {"name": "two"}]},
            "__update_now": {"status": {"at": 1000, "versions": {"mirrorfleet": "0.2.0"}}},
        }  # fmt: skip
        inventory = {"all": {
            "vars": everybody, "hosts": hosts,
            "children": {name: {"hosts": {key: {} for key in members}} for name, members in groups.items()},
        }}  # fmt: skip
        (tmp_path / "hosts.yml").write_text(yaml.safe_dump(inventory))
        done = subprocess.run(
            [sys.executable, "-m", "ansible", "playbook", "-i", tmp_path / "hosts.yml", tmp_path / "play.yml",
             "--limit", "!eye"],
            env=os.environ | {
                "ANSIBLE_CONFIG": str(tmp_path / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1",
                "ANSIBLE_CALLBACK_RESULT_FORMAT": "yaml", "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
                "ANSIBLE_LIBRARY": f"{tmp_path}/library:{HOUSE}/library",
            },
            capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
        return done.returncode, re.sub(r"\s+", " ", done.stdout + done.stderr)

    return SimpleNamespace(served=served, run=run)


def host(port: int, listed: list[int], **more: Any) -> dict[str, Any]:
    url = f"https://localhost:{port}"
    inputs = {
        "urls": [url], "index_url": f"{url}/simple/", "addresses": ["127.0.0.1"], "address_families": ["ipv4"],
    }  # fmt: skip
    measured = {str(number): {"measured_at": at} for number, at in enumerate(listed)}
    return {"fleet_inputs": inputs, "says": {"health": {"mirrors": measured, "problem": ""}}} | more


def test_each_kind_is_asked_for_what_it_is_there_for(gated: Any, tmp_path: Path) -> None:
    good = gated.served(answers(["one", "two"]))
    hosts = {
        "both": host(good, [900, 1001]),
        "strange": host(gated.served(answers(["one", "mallory"])), []),
        "still": host(good, [900, 1000]),  # measured before the update alone
        "unrouted": host(gated.served(answers(["one"]) | {"/route?file=/packages/six-1.tar.gz": []}), []),
    }
    redirectors = ["both", "strange", "unrouted"]
    code, said = gated.run(
        hosts | {"eye": {}},
        {"redirectors": redirectors, "indexes": ["both", "unrouted"], "monitors": ["both", "still"], "origins": []},
    )  # fmt: skip
    assert code != 0 and "both passed" in said, said
    assert (tmp_path / "published-both").exists()
    for words in (
        "strange publishes a list of one, mallory, seen from eye. Allowed: mirrors of this inventory.",
        "still measured no mirror since it runs 0.2.0: its rounds do not end",
        "asked at 127.0.0.1, fails: /route?file=/packages/six-1.tar.gz: no list of candidates",
    ):
        assert words in said, said
    assert said.count(" passed") == 1


def test_the_last_redirector_that_answers_is_not_touched(gated: Any, tmp_path: Path) -> None:
    hosts = {"one": host(gated.served(answers(["one"])), []), "dead": host(1, [])}
    code, said = gated.run(hosts | {"eye": {}}, {"redirectors": ["one", "dead"], "alone": []})
    assert code != 0 and "one is as it was, for no other redirector answers meanwhile" in said, said
    # The other one would be, if it passed its own gate.
    assert not (tmp_path / "published-one").exists() and (tmp_path / "published-dead").exists()


def test_a_drain_and_its_end_that_do_nothing_are_seen_and_so_is_a_canary_that_answers_worse_than_before(
    gated: Any, serve: Any, authority: Any
) -> None:
    def index(request: Any) -> tuple[int, dict[str, str], bytes]:
        named = re.search(r"/prefer/(noop|back)/", request.path)
        return 200, {}, json.dumps({"candidates": [named[1] if named else "other"]}).encode()

    def series(request: Any) -> tuple[int, dict[str, str], bytes]:
        query = unquote(request.path)
        worse = ("slow", "duration_seconds"), ("failing", "probe_success")
        value = "4.2" if any(name in query and what in query for name, what in worse) else "0"
        found = (
            [] if '"young"' in query else [{"value": [1, value], "values": [[1000, value], *measured(query)]}]
        )
        return 200, {"Content-Type": "application/json"}, json.dumps({"data": {"result": found}}).encode()

    asked = []

    def measured(query: str) -> list[list[Any]]:
        """As many times since the soak began as the monitor could by now; the canary that is seldom, once."""
        if "query={" in query and '"well"' in query:
            asked.append(query)
        return [[1000 + at, "1"] for at in range(1, 2 if '"seldom"' in query or len(asked) == 1 else 9)]

    names = ["seldom", "noop", "slow", "failing", "young", "well", "back", "gone"]
    port = serve(index, authority.issue("localhost"))
    code, said = gated.run(
        {name: host(1, [], comes_back=name in ("back", "gone")) for name in names}
        | {"index": host(port, []), "eye": {}},
        {"mirrors": names, "indexes": ["index"]}, serve(series),
    )  # fmt: skip
    assert code != 0 and "young passed" in said and "well passed" in said and "back passed" in said, said
    assert (
        "gone is listed, and no client is sent to it, or nobody knows: index: over no family Next: mirrorfleet"
        in said
    ), said
    assert (
        "noop is off the list, and clients are sent to it all the same, or nobody knows: index: over ipv4"
        in said
    )
    assert "slow, the canary, has 4.2 times the answer times of the day before while it served" in said
    assert "failing, the canary, has 4.2 of its rounds failed while it served" in said
    assert len(asked) == 2, "it did not wait for a second measurement"
    for name, times in (("seldom", 1), ("young", 0)):
        assert (
            f"The series of eye say nothing of how {name}, the canary, serves: measured {times} times" in said
        )
    assert said.count(" passed") == 5, "the index's own, too"
