"""What the playbooks refuse before they touch anything, and how they say it. No host is needed: none is reached."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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
        path = self.inventory / f"host_vars/{host}.yml"
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
                self.inventory,
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
            capture_output=True,
            text=True,
            check=False,
        )
        return run.returncode, run.stdout + run.stderr


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
        ["mirror1", "mirror_operator", "is missing"],
    ),
    "a wrong type": (
        [("mirror1", r"^mirror_bandwidth:.*", "mirror_bandwidth: fast")],
        ["mirror1", "mirror_bandwidth", "'fast'"],
    ),
    "an unknown key": (
        [("mirror1", r"^mirror_state:", "mirror_sate:")],
        ["mirror1", "mirror_sate", "mirror_state"],
    ),
    "one URL twice": (
        [("mirror2", r"^mirror_url:.*", "mirror_url: https://mirror1.fleet.test")],
        ["mirror2", "mirror_url", "mirror1's as well"],
    ),
    "no tier-1": (
        [("mirror2", r"^mirror_upstream:.*", "mirror_upstream: client")],
        ["mirror2", "mirror_upstream", "client"],
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
def test_a_wrong_record_is_refused_with_host_and_key(
    fleet: Fleet, changes: list[tuple[str, str, str]], words: list[str]
) -> None:
    for change in changes:
        fleet.spoil(*change)
    message = refused(*fleet.play("provision.yml"))
    for word in words:
        assert word in message, message


@pytest.mark.parametrize("playbook", ["provision.yml", "publish.yml", "update.yml"])
def test_a_limit_to_no_host_is_refused(fleet: Fleet, playbook: str) -> None:
    code, said = fleet.play(playbook, "--limit", "nosuchhost")
    assert code != 0
    assert "nosuchhost" in said and "no hosts to target" in said
    assert "TASK" not in said


MONITORED = "all:\n  children:\n    monitors: {hosts: {monitor: {ansible_host: 192.0.2.99}}}\n"


@pytest.mark.parametrize(
    ("monitored", "arguments"),
    [
        (True, ["-e", "hours=2", "-e", "reason=disks"]),  # of all mirrors: has to be said
        (True, ["--limit", "mirror1", "-e", "reason=disks"]),
        (True, ["--limit", "mirror1", "-e", "hours=2"]),
        (True, ["--limit", "mirror1", "-e", "hours=2", "-e", "reason=' '"]),
        (True, ["--limit", "mirror1", "-e", "hours=soon", "-e", "reason=disks"]),
        (True, ["--limit", "mirror1", "-e", "hours=745", "-e", "reason=disks"]),
        (True, ["--limit", "mirror1", "-e", "hours=0", "-e", "reason=disks"]),
        (True, ["--limit", "mirror1", "-e", "hours=-1", "-e", "reason=disks"]),
        (False, ["--limit", "mirror1", "-e", "hours=2", "-e", "reason=disks"]),
    ],
)
def test_maintenance_says_what_it_needs(
    fleet: Fleet, tmp_path: Path, monitored: bool, arguments: list[str]
) -> None:
    (tmp_path / "monitors.yml").write_text(MONITORED if monitored else "all: {}\n")
    code, said = fleet.play("maintenance.yml", "-i", str(tmp_path / "monitors.yml"), *arguments)
    message = " ".join(refused(code, said).split())
    assert "-e hours=2, at most 744" in message and "or end it (-e end=true)" in message


def test_an_audit_needs_a_monitor(fleet: Fleet) -> None:
    code, said = fleet.play("audit.yml")
    assert code != 0 and "Nothing was audited. The inventory needs a host in the group monitors" in said
