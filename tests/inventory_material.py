"""A fleet for tests: written as one mapping of values for each host, handed on as what files would hold."""

from __future__ import annotations

from typing import Any

from plugin_utils.documents import Document
from plugin_utils.rules import SECTIONS, Fleet


def fleet_of(
    values: dict[str, dict[str, Any]], groups: dict[str, list[str]], today: str | None = None, **shared: Any
) -> Fleet:
    """The fleet. What begins with fleet_ is the fleet's, on whichever host it is written; a value that differs from the
    other hosts' is meant."""
    common: dict[str, Any] = {}
    first = next(iter(values.values()), {})
    for one in values.values():
        for key, value in one.items():
            if key.startswith("fleet_") and (key not in common or value != first.get(key)):
                common[key] = value
    common |= {"plugin": "fleet"} | shared
    for section in SECTIONS:
        if section in groups:
            common[section] = {name: _own(values[name], section) for name in groups[section]}
    if "monitors" not in groups:  # as a small fleet has it
        common["monitors"] = {name: {} for name in groups.get("redirectors", [])[:1]}
    mirrors = groups.get("mirrors", [])
    records = {name: Document(_record(values[name]), f"mirrors/{name}.yml") for name in mirrors}
    return Fleet(Document(common, "fleet.yml"), records, today)


def _own(values: dict[str, Any], section: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key.startswith((f"{section[:-1]}_", "tls_"))}


def _record(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if not key.startswith("fleet_")}
