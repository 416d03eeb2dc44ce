"""Every molecule scenario as one test: fresh Debian hosts, the role's play twice, testinfra's look at them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[2]
# Of two workers the first begins here, with what takes longest; the other one comes from the tests without hosts and
# steals the last half, in which the two next longest are.
LONG = ["fleet", "tiers", "faults"]
OTHERS = {path.parent.name for path in HOUSE.glob("molecule/*/molecule.yml")} - set(LONG)
SCENARIOS = LONG[:1] + sorted(OTHERS) + LONG[1:]
# Exercised by the scenarios of the roles that use them; the sandbox makes the scenarios' own hosts.
WITHOUT_SCENARIO = {"authority", "document_server", "python_program", "rsync_server", "sandbox"}
LINES_SHOWN = 80


def test_every_role_has_a_scenario() -> None:
    roles = {path.name for path in (HOUSE / "roles").iterdir() if (path / "tasks").is_dir()}
    assert roles - WITHOUT_SCENARIO <= set(SCENARIOS)


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
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-LINES_SHOWN:])
        pytest.fail(
            f"molecule test -s {name} ended with {run.returncode}; the end of {log}:\n{tail}", pytrace=False
        )
