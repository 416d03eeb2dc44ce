"""Problems in the words that a person reads: where, what, what is allowed, what to do next."""

from __future__ import annotations

import re
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


def of_ssh(words: str) -> str:
    """What ssh said, without what Ansible says before it."""
    return re.sub(r"^.*(?:via|over) ssh: (?:ssh: )?", "", words, flags=re.DOTALL)


def plain(words: object) -> str:
    """Words that may be a host's or a mirror's: on a screen they may not be commands to a terminal."""
    return "".join(one if one.isprintable() else " " for one in str(words))


def printable(words: object, most: int = 300) -> str:
    """The same, on one bounded line."""
    text = plain(words).strip()
    return text if len(text) <= most else f"{text[: most - 1]}…"


def counted(number: int, what: str) -> str:
    """`1 host`, `2 hosts`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def some(names: Iterable[str], most: int = 10) -> str:
    """The first of many names, and how many more there are."""
    found = [printable(name, 80) for name in names]
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return ", ".join(found[:most]) + more


def span(seconds: float) -> str:
    """`52 s`, `4 min 12 s`."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
