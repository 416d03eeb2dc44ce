"""The lock of updates: one run at a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import update_lock

NOW = 1_800_000_000
HOUR = 3600


def ask(path: Path, run: str, now: int = NOW, *, check: bool = False, **more: Any) -> dict[str, Any]:
    params = {"path": str(path / "lock"), "state": "taken", "run": run, "by": f"{run} on laptop", "node": "laptop",
              "seconds": HOUR, "instead_of": ""}  # fmt: skip
    return update_lock.result_of(params | more, now, check=check)


def test_of_two_runs_the_second_is_told_who_has_it_since_when(tmp_path: Path) -> None:
    assert ask(tmp_path, "ada")["taken"]
    refused = ask(tmp_path, "bob", NOW + 60)
    assert not refused["taken"]
    assert refused["held"] == {
        "run": "ada", "by": "ada on laptop", "node": "laptop", "since": NOW, "until": NOW + HOUR,
    }  # fmt: skip
    assert not ask(tmp_path, "bob", state="free")["taken"], "it is not bob's to give back"
    assert ask(tmp_path, "ada", NOW + HOUR - 1)["taken"], "renewed"
    assert not ask(tmp_path, "bob", NOW + HOUR + 1)["taken"]
    ask(tmp_path, "ada", state="free")
    assert ask(tmp_path, "bob", NOW + 60)["taken"]


def test_it_ends_by_itself_and_whoever_knows_better_takes_it_over(tmp_path: Path) -> None:
    ask(tmp_path, "ada")
    assert not ask(tmp_path, "bob", instead_of="carl")["taken"]
    assert ask(tmp_path, "bob", instead_of="ada")["taken"]
    assert ask(tmp_path, "carl", NOW + HOUR)["taken"]
    # Taken by a clock that was a year ahead.
    ask(tmp_path, "carl", NOW + 365 * 24 * HOUR)
    assert ask(tmp_path, "ada", NOW)["taken"]


def test_in_check_mode_it_is_looked_at_alone(tmp_path: Path) -> None:
    assert ask(tmp_path, "ada", check=True)["taken"]
    assert ask(tmp_path, "bob")["taken"]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "7", json.dumps({"run": "x"}), json.dumps({"run": 1, "until": "y"})]
)
def test_what_cannot_be_read_keeps_nobody_out(tmp_path: Path, text: str) -> None:
    (tmp_path / "lock").write_text(text)
    assert ask(tmp_path, "ada")["taken"]
