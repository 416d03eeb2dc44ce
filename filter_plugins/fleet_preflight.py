"""From what preflight found to one message that tells all of it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))
from plugin_utils.filters import as_filter
from plugin_utils.told import line

REACHING = "SSH and Python"


def preflight_report(
    inventory: list[dict[str, str]],
    hosts: list[str],
    host_results: list[dict[str, Any]],
    upstream_results: list[dict[str, Any]],
    discovery: dict[str, Any] | None = None,
) -> list[str]:
    lines = [_line(problem["host"], problem) for problem in inventory]
    if discovery and not discovery.get("skipped"):
        lines += _lines("control node", "upstream discovery", discovery)
    for results, what in ((host_results, REACHING), (upstream_results, "upstream")):
        unreachable = {host for host, result in zip(hosts, host_results, strict=True) if _unreachable(result)}
        for host, result in zip(hosts, results, strict=True):
            if what == REACHING or host not in unreachable:
                lines += _lines(host, what, result)
    return lines


def _unreachable(result: dict[str, Any]) -> bool:
    return bool(result.get("unreachable"))


def _lines(host: str, what: str, result: dict[str, Any]) -> list[str]:
    """The problems that a module reported, or the one that kept it from running."""
    if "problems" in result:
        return [_line(host, problem) for problem in result["problems"]]
    if result.get("skipped"):
        return []
    words = ("msg", "exception", "module_stderr", "module_stdout")
    said = next((str(result[word]).strip() for word in words if result.get(word)), "")
    if not said:
        said = f"the check gave no answer, but {str(result)[:500]}"
    if _unreachable(result):
        allowed, next_step = "a host that answers by SSH", f"try: ansible {host} -m ansible.builtin.ping"
    else:
        allowed = "a login with sudo, or root, and Python 3.11 or newer"
        next_step = f"try: ansible {host} -b -m ansible.builtin.ping (--ask-become-pass where sudo asks)"
    problem = {"key": what, "problem": said.splitlines()[-1], "allowed": allowed, "next_step": next_step}
    return [_line(host, problem)]


def _line(host: str, problem: dict[str, Any]) -> str:
    return line({"file": "", "line": 0} | problem | {"host": host})


class FilterModule:
    """From findings to words."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"preflight_report": as_filter(preflight_report)}
