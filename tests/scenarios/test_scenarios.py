"""Every molecule scenario as one test: fresh Debian hosts, the role's play twice, testinfra's look at them."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

HOUSE = Path(__file__).parents[2]
# What takes longest begins first, and what is short is left for the end, so that all workers end together. Each worker
# has its next test reserved: the one behind the fleet waits until that is done, so it is a short one.
LONG = ["fleet", "origin", "tiers", "faults", "redirector"]
BY_NAME = {path.parent.name for path in HOUSE.glob("molecule/*/molecule.yml")}


def guests(host: str) -> set[str]:
    """The scenarios that run as a part of this one; each is one by itself, too, for whoever works on it."""
    verifier = (yaml.safe_load((HOUSE / f"molecule/{host}/molecule.yml").read_text()) or {}).get(
        "verifier", {}
    )
    tests = map(Path, verifier.get("additional_files_or_dirs", ()))
    return {path.parents[1].name for path in tests if path.parent.name == "tests"}


SHARING = {host: found for host in sorted(BY_NAME) if (found := guests(host))}
SCENARIOS = LONG + sorted(BY_NAME.difference(LONG, *SHARING.values()))
LINES_SHOWN = 120
# What failed, in Ansible's words and pytest's, wherever it stands in a log of thousands of lines: and how many of them.
TELLING = {
    re.compile(r"│\s+((fatal|failed): \[|-+ Captured stdout )"): 40,
    re.compile(r"│\s+(E  |FAILED|ERROR|\[ERROR\])|failed=[1-9]|unreachable=[1-9]"): 3,
}
BEYOND = re.compile(r"│\s+(TASK|changed:|ok:|skipping:|-+ Captured stderr) |└─")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def test_every_role_has_a_scenario_with_tests() -> None:
    roles = {path.name for path in (HOUSE / "roles").iterdir() if (path / "tasks").is_dir()}
    tested = {path.parents[1].name for path in HOUSE.glob("molecule/*/tests/test_*.py")}
    assert roles <= BY_NAME & tested


@pytest.mark.parametrize("host", SHARING)
def test_roles_that_share_a_run_are_converged_and_looked_at_in_it(host: str) -> None:
    def imported(name: str) -> set[str]:
        plays = yaml.safe_load((HOUSE / "molecule" / host / name).read_text())
        return {Path(play["import_playbook"]).parent.name for play in plays if "import_playbook" in play}

    found = SHARING[host]
    assert found <= BY_NAME
    assert imported("converge.yml") == found
    assert imported("prepare.yml") == {
        name for name in found if (HOUSE / "molecule" / name / "prepare.yml").exists()
    }


def test_small_roles_and_the_redirectors_share() -> None:
    assert SHARING.keys() == {"small_roles", "redirector"}


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario(name: str) -> None:
    log = HOUSE / f"build/log/molecule-{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as stream:
        run = subprocess.run(
            [sys.executable, "-m", "molecule", "-c", ".config/molecule/config.yml", "test", "-s", name],
            cwd=HOUSE,
            # molecule finds Ansible's programs on the PATH
            env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if run.returncode:
        pytest.fail(
            f"molecule test -s {name} ended with {run.returncode}; of {log}:\n{told(log)}", pytrace=False
        )


def told(log: Path) -> str:
    """The lines that tell of failures, each with those that it goes on in; else the last ones."""
    lines = [COLOUR.sub("", line).rstrip() for line in log.read_text(errors="replace").splitlines()]
    shown = set()
    for i, line in enumerate(lines):
        for much in [much for telling, much in TELLING.items() if telling.search(line)]:
            more = itertools.takewhile(lambda one: not BEYOND.search(one), lines[i + 1 : i + much])
            shown |= set(range(i, i + 1 + len(list(more))))
    return "\n".join(([lines[i] for i in sorted(shown)] or lines)[-LINES_SHOWN:])
