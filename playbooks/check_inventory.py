"""Everything that is wrong with an inventory and can be known without a host, in seconds: for a pull request's CI.

The rules are those of the inventory plugin and of preflight, by plugin_utils/inventory.py.

Exit codes: 0 nothing is wrong, 1 something is, 2 there is no inventory at this path.
"""

from __future__ import annotations

import argparse
import configparser
import datetime
import json
import os
import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))
from plugin_utils import inventory, told

HOUSE = inventory.HOUSE


def default() -> Path:
    """The inventory that playbooks would use: $ANSIBLE_INVENTORY, else that of ansible.cfg."""
    if named := os.environ.get("ANSIBLE_INVENTORY"):
        return Path(named).expanduser()
    config = Path(os.environ.get("ANSIBLE_CONFIG") or HOUSE / "ansible.cfg")
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(config)
    return config.parent / Path(parser.get("defaults", "inventory", fallback="inventory/sandbox/fleet.yml"))


def github(problem: dict[str, Any], folder: Path) -> str:
    """A workflow command, which GitHub shows at the line (its documentation: workflow commands, error)."""
    at = {"file": _shown(folder / problem["file"]), "line": problem.get("line"), "col": problem.get("column")}
    named = [f"{key}={_escaped(str(value), ':,')}" for key, value in at.items() if value]
    return f"::error {','.join(named)}::{_escaped(told.line(problem))}"


def _escaped(text: str, more: str = "") -> str:
    for letter in f"%\r\n{more}":
        text = text.replace(letter, f"%{ord(letter):02X}")
    return text


def _shown(path: Path) -> str:
    """A file as seen from the top of the repository that CI checked out, which is where it runs."""
    path = path.resolve()
    top = Path(os.environ.get("GITHUB_WORKSPACE") or Path.cwd()).resolve()
    return str(path.relative_to(top) if path.is_relative_to(top) else path)


def sarif(problems: list[dict[str, Any]], folder: Path) -> dict[str, Any]:
    """A log in SARIF 2.1.0 (OASIS), which GitHub, GitLab, Jenkins and editors read."""
    results = []
    for problem in problems:
        region = {"startLine": problem.get("line") or 1}
        region |= {"startColumn": problem["column"]} if problem.get("column") else {}
        place = {"artifactLocation": {"uri": _shown(folder / problem["file"])}, "region": region}
        text = told.line(problem)
        results.append(
            {
                "ruleId": str(problem["key"]).partition(".")[0] or "inventory",
                "level": "error",
                "message": {"text": text},
                "locations": [{"physicalLocation": place}],
            }
        )
    tool = {"driver": {"name": "mirrorfleet check-inventory"}}
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": tool, "results": results}],
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="check-inventory", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "inventory", nargs="?", type=Path, help="a fleet.yml; default: the one that playbooks use"
    )
    parser.add_argument(
        "--github", action="store_true", default=os.environ.get("GITHUB_ACTIONS") == "true",
        help="write what GitHub shows at the line; default where GITHUB_ACTIONS is true",
    )  # fmt: skip
    parser.add_argument("--sarif", type=Path, metavar="FILE", help="write it as SARIF 2.1.0, too")
    options = parser.parse_args(arguments)
    path = options.inventory or default()
    if why := inventory.unusable(path):
        print(why, file=sys.stderr)
        return 2
    found = inventory.read(path, datetime.datetime.now(tz=datetime.UTC).date().isoformat())
    problems = found.problems()
    if options.sarif:
        options.sarif.write_text(json.dumps(sarif(problems, found.folder), indent=1))
    for problem in problems:
        print(github(problem, found.folder) if options.github else told.line(problem))
    mirrors = len(found.fleet.groups["mirrors"]) if found.fleet else 0
    print(
        f"{path}: {f'to be mended: {len(problems)}' if problems else f'nothing is wrong; mirrors: {mirrors}'}"
    )
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
