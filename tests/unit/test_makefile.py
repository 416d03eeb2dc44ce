"""What make's targets would do, where nothing is installed yet: read from dry runs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OF_TESTS = (
    "chromium", "minisign", "signify-openbsd", "bind9-utils", "prometheus", "prometheus-alertmanager", "promtool",
    "amtool", "build/clients", "requirements/clients.txt", "requirements/control.txt",
)  # fmt: skip


@pytest.fixture
def dry_run(tmp_path: Path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copy(ROOT / "requirements.yml", tmp_path)
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    ours = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}

    def run(*target: str) -> list[str]:
        said = subprocess.check_output(["make", "--dry-run", *target], cwd=tmp_path, env=ours, text=True)
        return said.replace("'", " ").replace('"', " ").replace(";", " ").split()

    return run


def test_the_demo_installs_what_it_needs_and_nothing_of_the_tests(dry_run) -> None:
    words = dry_run("demo")
    assert {"podman", "mmdebstrap", "requirements/playbooks.txt", "playbooks/demo.sh"} <= set(words)
    assert not set(OF_TESTS) & set(words)


def test_the_control_node_of_a_real_fleet_gets_no_containers(dry_run) -> None:
    """Of whoever has no sudo it is asked for nothing that only the local fleet needs."""
    words = set(dry_run("setup"))
    assert {"python3-venv", "openssh-client", "requirements/playbooks.txt"} <= words
    assert not {*OF_TESTS, "podman", "mmdebstrap", "nftables", "uidmap"} & words


@pytest.mark.parametrize(
    "target", ["setup-tests", "lint", "unit", "test-quick", "test-long", "test", "picture"]
)
def test_tests_have_all(dry_run, target: str) -> None:
    words = set(dry_run(target))
    said = " ".join(words)
    assert {one for one in OF_TESTS if one not in said} == set()
    assert "podman" in words


def pins(name: str) -> set[str]:
    return set(re.findall(r"^[\w.-]+==[\w.]+", (ROOT / "requirements" / name).read_text(), re.MULTILINE))


def test_the_packages_of_tests_can_be_installed_over_those_of_the_playbooks() -> None:
    """Both are in one environment: what the two disagree about would be changed back and forth."""
    assert "ansible-core" in {pin.partition("==")[0] for pin in pins("playbooks.txt")}
    assert pins("playbooks.txt") < pins("control.txt")


def test_another_control_node_has_the_newest_ansible_core_and_all_else_that_this_one_has(dry_run) -> None:
    assert "requirements/newest-playbooks.txt" in dry_run("setup", "LOCK=requirements/newest-playbooks.txt")
    here, there = (
        {pin.partition("==")[0] for pin in pins(name)} for name in ("playbooks.txt", "newest-playbooks.txt")
    )
    assert here == there
    # The scenario's host has 3.13, and a lock for it alone.
    of_3_12 = {pin for pin in pins("newest-playbooks.txt") if pin.startswith("typing-extensions==")}
    assert pins("newest-playbooks.txt") - of_3_12 < pins("newest.txt")
    assert not pins("newest-playbooks.txt") & {pin for pin in pins("playbooks.txt") if "ansible-core" in pin}
