"""The units that roles install or start, and what docs/trust.md says of those that are not confined."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

HOUSE = Path(__file__).parents[1]
# What `systemd-analyze security` may come to, of 10.
MOST = 2.6


def declared() -> set[str]:
    """Of every role the units that it writes, changes or starts, not those that it only stops; of an instantiated one
    its template."""
    found = set()
    for path in HOUSE.glob("roles/*/*/*.yml"):
        for item in _mappings(yaml.safe_load(path.read_text())):
            if isinstance(item.get("name"), str) and {"state", "enabled"} & item.keys() and not stops(item):
                found.add(item["name"])
            if isinstance(item.get("path"), str):
                found |= set(
                    re.findall(r"^/etc/systemd/system/([^/]+?)(?:\.d/[^/]+)?$", item["path"])
                    if not item["path"].endswith(".d")
                    else []
                )
    return {name for name in found if name.endswith((".service", ".timer", ".path", ".socket"))}


def stops(item: dict[str, Any]) -> bool:
    return item.get("state") == "stopped" and item.get("enabled") is False


def _mappings(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    for child in node if isinstance(node, list) else []:
        yield from _mappings(child)


def exceptions() -> dict[str, float]:
    """By service what it comes to, of the table in docs/trust.md."""
    text = (HOUSE / "docs/trust.md").read_text()
    rows = re.findall(r"^\| `([\w@.-]+\.service)` \| ([0-9.]+) \| (.+) \|$", text, re.MULTILINE)
    assert all(len(reason) > 20 for _, _, reason in rows)
    return {name: float(exposure) for name, exposure, _ in rows}
