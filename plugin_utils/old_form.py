"""Inventories of the old form, in which contract keys stood in group_vars/ and host_vars/: what to move where.

Only names of keys are looked at, line by line. What these files say is Ansible's to read: they may hold vaults and
templates.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from plugin_utils import beside
from plugin_utils.inputs import RENAMED


def found(folder: Path) -> Iterator[tuple[str, int, str, str]]:
    """File, line, key, and the place that it belongs to."""
    places = beside.places() | {former: f"its new name, {now}" for former, now in RENAMED.items()}
    for part in ("group_vars", "host_vars"):
        for path in sorted((folder / part).rglob("*")):
            if path.suffix not in {".yml", ".yaml", ".json", ""} or not path.is_file():
                continue
            text = path.read_text("utf-8", errors="replace")
            for number, line in enumerate(text.splitlines(), 1):
                matched = re.match(r"[\"']?([a-z0-9_]+)[\"']?\s*:", line)
                if matched and matched[1] in places:
                    yield str(path.relative_to(folder)), number, matched[1], places[matched[1]]


def told(folder: Path) -> str:
    """One message, or nothing where all is in its place."""
    wrong = [f"  {file}:{line}: {key} -> {place}" for file, line, key, place in found(folder)]
    scripts = [name for name in ("hosts.yml", "mirrors.py") if (folder / name).exists()]
    if not wrong and (not scripts or (folder / "fleet.yml").exists()):
        return ""
    more = [f"  and {len(wrong) - 40} more"] if len(wrong) > 40 else []
    gone = [f"  {name} -> not needed any more: remove it" for name in scripts]
    return "\n".join(
        [
            f"In the inventory {folder} these keys are not where they are read. Nothing was done. Move each "
            "(docs/inventory.md; connection variables, secrets and inputs of roles stay):",
            *wrong[:40],
            *more,
            *gone,
        ]
    )
