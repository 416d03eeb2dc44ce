"""Lint is part of the tests, so that one run and one count tell all."""

import subprocess
from pathlib import Path


def test_lint() -> None:
    house = Path(__file__).parents[2]
    done = subprocess.run(["make", "lint"], cwd=house, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
