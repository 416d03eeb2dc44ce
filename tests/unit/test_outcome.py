"""How an update went: what a person pastes."""

from __future__ import annotations

from typing import Any

from plugin_utils.outcome import update_outcome, update_said

PLAN = {"hosts": ["a", "b", "c", "red"], "sizes": [1, 2, 1]}


def served(requests: Any, failed: Any = 0) -> dict[str, Any]:
    return {"status": {"at": 7, "served": {"requests": requests, "failed": failed}}, "reached": True}


def test_how_long_each_took_and_all_and_what_was_served_meanwhile() -> None:
    took = {"a": [1000, 1060], "b": [1070, 1100], "c": [1070, 1090], "red": [1100, 1210.4]}
    answers = {"a": served(900, 2), "b": served(100), "c": served(1, 3), "red": served(5000)}
    assert update_outcome(took, PLAN, answers, ["red"]) == [
        "Took 3 min 30 s, in 3 waves: red 110 s, a 60 s, b 30 s, c 20 s",
        "That is 0.64 times as long as 3 waves at the pace of the slowest.",
        "Served meanwhile by mirrors (3 hosts): 1001 requests, 5 failed: c 3, a 2",
        "Served meanwhile by the one index (1 host): 5000 requests, 0 failed",
    ]


def test_what_is_not_known_is_said_to_be() -> None:
    """Nobody was begun; of those who serve nobody says how much, or something else than a number."""
    gone = {"status": {}, "reached": False, "problem": "Connection refused"}
    slow = {"failed": True, "msg": "Timed out after 60 second(s)."}
    silent = {"status": {"at": 7}, "reached": True}
    answers = {"a": gone, "b": slow, "c": silent, "d": served("9" * 400), "e": served(True)}
    (line,) = update_outcome({}, PLAN, answers, [])
    assert line == (
        "How many requests these served, and failed, is not known: a (Connection refused), "
        "b (Timed out after 60 second(s).), c (its log was not read), d (its log was not read), "
        "e (its log was not read)"
    )


def test_of_a_thousand_hosts_the_slowest() -> None:
    names = [f"m{number}" for number in range(1000)]
    took = {name: [0.0, float(number)] for number, name in enumerate(names)}
    plan = {"hosts": names, "sizes": [1, 2, *[100] * 9, 97]}
    first, *_ = lines = update_outcome(took, plan, dict.fromkeys(names, served(1, 1)), [])
    assert first.startswith("Took 16 min 39 s, in 12 waves: m999 16 min 39 s, m998 ")
    assert first.endswith(" and 990 more") and max(map(len, lines)) < 400


def test_what_failed_is_told_in_the_words_of_the_program() -> None:
    nginx = {"failed": True, "msg": "non-zero return code", "stderr": "nginx: [emerg] unknown directive\n"}
    assert update_said(nginx) == "non-zero return code: nginx: [emerg] unknown directive"
    good, loop = {"failed": False, "msg": "well"}, "One or more items failed"
    assert update_said(
        {"msg": loop, "results": [good, nginx, {"failed": True, "msg": "two"}]}
    ) == update_said(nginx)
    assert update_said({"msg": "No space left\x1b", "module_stderr": "No space left"}) == "No space left"
    assert update_said({"censored": "hidden"}) == "hidden" and update_said({}) == "it said nothing"
    long = update_said({"msg": "x could not be installed", "stderr": "y" * 10**6 + "No space left on device"})
    assert long.startswith("x could") and long.endswith("No space left on device") and len(long) < 500
