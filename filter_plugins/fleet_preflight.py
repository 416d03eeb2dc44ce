"""From what preflight found to one message that tells all of it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))
from plugin_utils.filters import as_filter
from plugin_utils.told import line, of_ssh

REACHING = "SSH and Python"


def preflight_report(
    inventory: list[dict[str, Any]],
    hosts: list[str],
    python_results: list[dict[str, Any]],
    host_results: list[dict[str, Any]],
    upstream_results: list[dict[str, Any]],
    *,
    discovery: dict[str, Any] | None = None,
) -> list[str]:
    lines = [_line(problem["host"], problem) for problem in inventory]
    if discovery and not discovery.get("skipped"):
        lines += _lines("control node", "upstream discovery", discovery)
    every = list(zip(hosts, python_results, host_results, upstream_results, strict=True))
    for host, python, result, _ in every:
        lines += _without_python(host, python) or _lines(host, REACHING, result)
    for host, python, result, upstream in every:
        if not _unreachable(python) and not _unreachable(result):
            lines += _lines(host, "upstream", upstream)
    return list(dict.fromkeys(lines))


def _unreachable(result: dict[str, Any]) -> bool:
    return bool(result.get("unreachable"))


def _without_python(host: str, result: dict[str, Any]) -> list[str]:
    """Why no module was run on a host."""
    if _unreachable(result):
        return _lines(host, REACHING, result)
    if result.get("rc", 0) == 0:
        return []
    problem = {
        "key": "python",
        "problem": "is not installed",
        "allowed": "Debian's python3",
        "next_step": f"run playbooks/provision.yml --limit {host}, which installs it before anything else",
    }
    return [_line(host, problem)]


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
    if _unreachable(result) and "Host key verification failed" in said:
        allowed = "a host whose key this account knows (known_hosts)"
        next_step = f"log in once, compare the key that it shows with the host's, and say yes: ssh {host}"
    elif _unreachable(result):
        allowed, next_step = "a host that answers by SSH", f"try: ansible {host} -m ansible.builtin.ping"
    else:
        allowed = "a login with sudo, or root, and Python 3.11 or newer"
        next_step = f"try: ansible {host} -b -m ansible.builtin.ping (--ask-become-pass where sudo asks)"
    problem = {
        "key": what,
        "problem": of_ssh(said.splitlines()[-1]).rstrip("."),
        "allowed": allowed,
        "next_step": next_step,
    }
    return [_line(host, problem)]


def _line(host: str, problem: dict[str, Any]) -> str:
    return line({"file": "", "line": 0} | problem | {"host": host})


class FilterModule:
    """From findings to words."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"preflight_report": as_filter(preflight_report)}
