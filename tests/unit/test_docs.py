"""The documentation says what is there: its commands, links and keys exist, and the tests run what it shows."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
FLEET_TESTS = "".join(
    (ROOT / name).read_text()
    for name in (
        "molecule/fleet/tests/test_fleet.py",
        "molecule/monitoring_server/tests/test_monitoring_server.py",
        "playbooks/demo.sh",
    )
)


def commands(page: Path) -> list[list[str]]:
    """Every make and ansible-playbook command of a page's code blocks and inline code."""
    text = page.read_text()
    blocks = re.findall(r"^ *```\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    inline = re.findall(r"`((?:ansible-playbook|make) [^`]+)`", text)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()] + inline
    return [shlex.split(line) for line in lines if line.startswith(("make ", "ansible-playbook "))]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_exist_and_are_run_by_the_tests(page):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for words in commands(page):
        if words[0] == "make":
            assert words[1] in targets, f"{page.name}: {' '.join(words)}"
            continue
        (name,) = [w for w in words if w.startswith("playbooks/")]
        assert (ROOT / name).exists(), f"{page.name}: {name} is not there"
        job = Path(name).stem
        if job != "preflight":  # provision.yml, update.yml import it
            assert f'playbook("{job}"' in FLEET_TESTS or f"playbooks/{job}.yml" in FLEET_TESTS, (
                f"no test runs {name}"
            )


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("fleet", ["example", "sandbox"])
def test_the_inventories_that_come_with_it_are_valid(fleet):
    """Nothing is told, and every record is a host."""
    done = subprocess.run(
        [Path(sys.executable).parent / "ansible-inventory", "-i", ROOT / "inventory" / fleet / "fleet.yml", "--list"],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env=os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    records = {path.stem for path in (ROOT / "inventory" / fleet / "mirrors").glob("*.yml")}
    assert set(json.loads(done.stdout)["mirrors"]["hosts"]) == records != set()


def test_no_registry_host_and_no_path_of_a_machine_is_written_down():
    files = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    forbidden = re.compile(
        "|".join(["pypi" + r"\.org", "pythonhosted" + r"\.org", "deb" + r"\.debian\.org", "/wor" + "k/"])
    )
    for name in files:
        path = ROOT / name
        if path.is_file() and not path.is_symlink():
            found = forbidden.search(path.read_text(errors="replace"))
            assert not found, f"{name} names {found[0]}"
