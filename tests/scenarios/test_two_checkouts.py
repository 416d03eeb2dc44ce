"""Two checkouts on one machine: hosts belong to the one that made them, and no other takes them over."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[2]
NAME, NETWORK = "checkouts", "10.89.98"
HOSTS = {"sandbox_hosts": [{"name": "one", "platform": "debian-13", "address": 13}]}
SUDO = [] if os.geteuid() == 0 else ["sudo"]


@dataclass
class Checkout:
    """A copy of the tree; both have local fleets of the same name, as any two checkouts have."""

    root: Path

    def __post_init__(self) -> None:
        for part in (
            "roles",
            "playbooks",
            "inventory",
            "inventory_plugins",
            "plugin_utils",
            "filter_plugins",
            "src",
        ):
            shutil.copytree(HOUSE / part, self.root / part, symlinks=True)
        shutil.copy(HOUSE / "ansible.cfg", self.root)

    def play(self, state: str = "present") -> subprocess.CompletedProcess[str]:
        variables = json.dumps(HOSTS | {"sandbox_state": state})
        mine = {
            name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE", "SANDBOX"))
        }
        mine |= {"ANSIBLE_CONFIG": str(self.root / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
        mine |= {"SANDBOX_NAME": NAME, "SANDBOX_IPV4": NETWORK, "SANDBOX_IPV6": "fd00:89:98"}
        command = [
            sys.executable,
            "-m",
            "ansible",
            "playbook",
            "playbooks/sandbox.yml",
            "--extra-vars",
            variables,
        ]
        return subprocess.run(command, cwd=self.root, env=mine, capture_output=True, text=True, check=False)

    def change(self, state: str = "present") -> int:
        run = self.play(state)
        assert run.returncode == 0, run.stdout + run.stderr
        found = re.search(r"^localhost .*changed=(\d+)", run.stdout, re.MULTILINE)
        assert found is not None, run.stdout
        return int(found[1])

    def refused(self) -> str:
        run = self.play()
        assert run.returncode != 0, run.stdout
        message = re.search(r"^fatal: (.*?)^PLAY RECAP", run.stdout, re.MULTILINE | re.DOTALL)
        assert message is not None, run.stdout + run.stderr
        assert "Nothing was changed." in message[1]
        return " ".join(message[1].split())

    @property
    def folder(self) -> Path:
        return self.root / "build" / NAME

    def state(self) -> dict[str, str]:
        """What it has of its fleet, and what its host says of itself to whoever has the key."""
        files = {str(path): path.read_text() for path in sorted(self.folder.rglob("*")) if path.is_file()}
        asked = ["ssh", "-F", self.folder / "ssh_config", "-o", "BatchMode=yes", "one"]
        # Not this process' own stdin, which an ssh that fails leaves as one that does not block, and Ansible refuses.
        said = subprocess.check_output(
            [*asked, "cat /etc/machine-id ~/.ssh/authorized_keys"], stdin=subprocess.DEVNULL, text=True
        )
        return files | {"host": said}


def podman(*arguments: str) -> str:
    return subprocess.check_output([*SUDO, "podman", *arguments], text=True)


@pytest.fixture
def checkouts(tmp_path: Path) -> Iterator[tuple[Checkout, Checkout]]:
    # So deep that sockets in it would have too long a path.
    deep = tmp_path / "/".join(["a-folder-of-somebody-who-likes-long-names"] * 3)
    with (HOUSE / "build/checkouts.lock").open("w") as lock:  # the tests of this file share a fleet's name
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield Checkout(tmp_path / "first"), Checkout(deep / "second")
        subprocess.run([*SUDO, HOUSE / "roles/sandbox/files/remove.sh", NAME], check=True)


def test_a_fleet_belongs_to_the_checkout_that_made_it(checkouts: tuple[Checkout, Checkout]) -> None:
    first, second = checkouts
    assert first.change() > 0
    (first.folder / "private").mkdir()
    (first.folder / "private/ca.pem").write_text("the fleet's authority\n")
    before = first.state()

    said = second.refused()
    assert f"belongs to another checkout, which has its keys in {first.folder}" in said
    assert "make demo-down" in said
    left_alone = second.play("absent")
    assert left_alone.returncode == 0, left_alone.stdout
    assert str(first.folder) in left_alone.stdout, "it does not say what it left alone"

    assert first.change() == 0
    assert first.state() == before

    # Once its own checkout has ended it, the name is free, and no connection to the former hosts is in the way.
    assert first.change("absent") > 0
    assert not first.folder.exists()
    assert second.change() > 0
    assert second.state()["host"] != before["host"]
    assert second.change("absent") > 0


def test_nobody_s_fleet_is_refused_with_the_way_out(checkouts: tuple[Checkout, Checkout]) -> None:
    first, second = checkouts
    first.change()
    first.root.rename(first.root.with_name("moved"))
    said = second.refused()
    assert f"had its keys in {first.folder}, and they are no longer there" in said

    # A new checkout in the old one's place has none of its keys.
    third = Checkout(first.root)
    assert "made anew" in third.refused()
    way_out = re.search(r"remove it: (?:sudo )?(\S+ \w+)", said)
    assert way_out is not None
    subprocess.run([*SUDO, *way_out[1].split()], check=True)
    assert NAME not in podman("network", "ls", "--format", "{{.Name}}").split()
    assert f"{NAME}-one" not in podman("ps", "--all", "--format", "{{.Names}}").split()

    podman("network", "create", NAME)
    assert "does not say whose it is" in second.refused()
    assert "does not say whose it is" in third.play("absent").stdout
    assert NAME in podman("network", "ls", "--format", "{{.Name}}").split()
