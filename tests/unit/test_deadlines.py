"""Nothing that asks a host waits for ever, and nothing that reads a unit's state pages."""

from __future__ import annotations

import ast
import configparser
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import host_preflight
import host_state
import pytest
import yaml

HOUSE = Path(__file__).parents[2]
PYTHON = [
    *HOUSE.glob("library/*.py"),
    *HOUSE.glob("action_plugins/*.py"),
    *HOUSE.glob("roles/*/files/**/*.py"),
]
TASKS = [*HOUSE.glob("playbooks/**/*.yml"), *HOUSE.glob("roles/*/tasks/*.yml")]


def tasks(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    for child in node if isinstance(node, list) else []:
        yield from tasks(child)


def test_a_task_is_interrupted_and_what_lasts_longer_has_its_own_deadline() -> None:
    settings = configparser.ConfigParser()
    settings.read(HOUSE / "ansible.cfg")
    assert settings.getint("defaults", "task_timeout") == 3600
    assert "ServerAliveInterval" in settings["ssh_connection"]["ssh_args"]
    found = 0
    for path in TASKS:
        for task in tasks(yaml.safe_load(path.read_text())):
            if {"run_unit", "wait_for_listing"} & task.keys():
                found += 1
                assert task.get("timeout") == 0, f"{path}: {task['name']}"
    assert found >= 5


@pytest.mark.parametrize("path", PYTHON, ids=lambda path: path.name)
def test_a_process_has_a_deadline(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "subprocess.run":
            assert "timeout" in {word.arg for word in node.keywords}, f"{path.name}:{node.lineno}"


def test_nothing_pages() -> None:
    """systemd pages what it shows on a terminal, which a connection may have."""
    shows = re.compile(
        r"\b(?:systemctl|systemd-analyze)\W+(?:show|status|list-\w+|cat|security)\b|\bjournalctl \S"
    )
    places = [*PYTHON, *TASKS, *HOUSE.glob("roles/*/handlers/*.yml"), HOUSE / "playbooks/demo.sh"]
    for path in places:
        for line in path.read_text().splitlines():
            if shows.search(line) and not re.search(r"See systemctl|journalctl -fu|Error\(", line):
                assert "--no-pager" in line, f"{path}: {line}"


def test_a_program_of_the_host_that_hangs_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_state, "COMMAND_SECONDS", 0.2)
    begun = time.monotonic()
    with pytest.raises(host_state.HostError, match=r"sleep did not end within 0.2 seconds: .*look at it"):
        host_state.run(["sleep", "60"])
    assert time.monotonic() - begun < 30


def test_a_tree_that_is_too_much_to_be_counted_is_no_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = tmp_path / "bin/du"
    slow.parent.mkdir()
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    assert host_preflight.held(tmp_path, 7_000_000_000) < 7_000_000_000
    monkeypatch.setenv("PATH", f"{slow.parent}:/usr/bin:/bin")
    assert host_preflight.held(tmp_path, 7_000_000_000, seconds=0.2) == 7_000_000_000
