"""Problems in the words that a person reads: where, what, what is allowed, what to do next."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def lines(problems: Iterable[dict[str, Any]]) -> list[str]:
    """A line each."""
    return [line(problem) for problem in problems]


def line(problem: dict[str, Any]) -> str:
    at = "".join(f":{problem[part]}" for part in ("line", "column") if problem.get(part))
    where = f" ({problem['file']}{at})" if problem.get("file") else ""
    return (
        f"{problem['host']}{where}: {problem['key']} {problem['problem']}. Allowed: {problem['allowed']}. "
        f"Next: {problem['next_step']}{'' if problem['next_step'].endswith('?') else '.'}"
    ).replace(":  ", ": ")
