"""Waits that a person can follow: what is waited for and why, when that changes and every few seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from plugin_utils.waiting import TOLD_EVERY, Wait

HOUSE = Path(__file__).parents[2]


def test_a_reason_is_told_when_it_changes_and_every_few_seconds() -> None:
    now, said = [100.0], list[str]()
    wait = Wait(60, said.append, lambda: now[0])
    for reason in ("a", "a", "b", "b"):
        wait.tell(reason)
        now[0] += 4
    assert said == ["a (0 s, at most 60 s)", "b (8 s, at most 60 s)"]
    now[0] += TOLD_EVERY
    wait.tell("b")
    assert said[-1] == "b (26 s, at most 60 s)"
    now[0] += TOLD_EVERY
    wait.heard()
    wait.tell("b")
    assert len(said) == 3
    assert wait.left == 24
    now[0] += 100
    assert wait.left == 0


def listing(**entry: Any) -> bytes:
    return json.dumps(
        {"mirrors": [{"name": "other", "code": "listed", "listed": True}, {"name": "one"} | entry]}
    ).encode()


RISING = {"code": "rising", "listed": False}


def played(*urls: str, **arguments: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ansible", "adhoc", "-i", "here,", "here", "-c", "local", "-m", "wait_for_listing",
         "-e", f"ansible_python_interpreter={sys.executable}",
         "-a", json.dumps({"urls": urls, "mirror": "one"} | arguments)],
        env=os.environ
        | {"ANSIBLE_CONFIG": str(HOUSE / "ansible.cfg"), "ANSIBLE_INVENTORY_ENABLED": "host_list"}
        | {"ANSIBLE_NOCOLOR": "1"},
        cwd=HOUSE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=300,
    )  # fmt: skip


def answering(serve: Any, *answers: bytes) -> str:
    """A list that answers one after the other, and then the last again and again."""
    left = list(answers)

    def answer(_: Any) -> tuple[int, dict[str, str], bytes]:
        body = left.pop(0) if len(left) > 1 else left[0]
        return (200, {"Content-Type": "application/json"}, body) if body else (503, {}, b"")

    return f"http://127.0.0.1:{serve(answer)}/mirrors.json"


@pytest.mark.slow
def test_what_a_mirror_waits_for_is_told_until_it_is_listed(serve: Any) -> None:
    first = answering(
        serve,
        b"",
        listing(**RISING, reason="2 of 5 good rounds"),
        listing(**RISING, reason="3 of 5 good rounds"),
        listing(code="listed", listed=True, reason="well"),
    )
    second = answering(serve, listing(code="listed", listed=True, reason="well"))
    done = played(first, second, seconds=240)
    assert done.returncode == 0, done.stdout
    said = [line.split(" (")[0] for line in done.stdout.splitlines() if line.startswith("    one: ")]
    assert said[0].startswith(f"    one: waits to be listed by {first}: {first} cannot be read: ")
    assert [line.rpartition(": ")[2] for line in said[1:]] == ["2 of 5 good rounds", "3 of 5 good rounds"]
    assert done.stdout.count('"reason": "well"') + done.stdout.count("reason: well") == 2
    assert "RETRYING" not in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("entry", "seconds"),
    [
        ({"code": "held", "listed": False, "reason": "held: new disks"}, 600),  # a person has to do something
        (RISING | {"reason": "1 of 5 good rounds"}, 0),
        (RISING | {"reason": "1 of 5 good rounds"}, 1),  # the time is over
    ],
    ids=["held", "asked once", "too late"],
)
def test_what_the_list_says_is_returned(entry: dict[str, Any], seconds: int, serve: Any) -> None:
    done = played(answering(serve, listing(**entry)), seconds=seconds)
    assert done.returncode == 0, done.stdout
    assert entry["reason"] in done.stdout


@pytest.mark.slow
def test_a_list_that_cannot_be_read_is_a_failure(serve: Any) -> None:
    url = answering(serve, b"")
    done = played(url)
    assert done.returncode != 0
    assert f"{url} cannot be read: Status code was 503" in done.stdout
    assert "run this playbook again" in done.stdout
    done = played(answering(serve, b"[]"))
    assert "it is no list of mirrors" in done.stdout


@pytest.mark.slow
def test_a_mirror_that_a_list_does_not_know(serve: Any) -> None:
    done = played(answering(serve, b'{"mirrors": []}'))
    assert "The list does not know it." in done.stdout
