"""An inventory's folder as a whole, and all that is wrong with it that can be known without a host.

The inventory plugin makes hosts of it, preflight tells its mistakes beside those of the hosts, and `make
check-inventory` needs nothing else.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plugin_utils import beside, contract, documents, inputs, old_form, wiring
from plugin_utils import values as v
from plugin_utils.beside import TLS, Beside, is_hidden, words
from plugin_utils.documents import Document, UnreadableError
from plugin_utils.rules import GROUPS, SECTIONS, Fleet
from plugin_utils.values import Report

HOUSE = Path(__file__).parents[1]
FILE, FOLDER = "fleet.yml", "mirrors"
NAME_IT = (
    "name the fleet's file: -i FOLDER/fleet.yml, or ANSIBLE_INVENTORY=FOLDER/fleet.yml (docs/inventory.md)"
)

# The input of a role that says where the files of a pinned program are, if not in this checkout.
PINNED_BY = {"mirrorfleet": "python_program_wheels", "bandersnatch": "python_program_locks"}

Problems = list[dict[str, Any]]


def unusable(path: Path) -> str:
    """Why a path is no fleet's file, or nothing."""
    if path.is_dir():
        return (
            f"The inventory {path} is a folder, whose files Ansible would read one by one. Next: {NAME_IT}."
        )
    if not path.exists():
        return f"The inventory {path} does not exist. Next: {NAME_IT}."
    if path.name == FILE:
        return ""
    if (path.parent.parent / FILE).is_file():
        return f"The inventory {path} is a mirror's record: data, never an inventory. Next: {NAME_IT}."
    return old_form.told(path.parent) or f"The inventory {path} is no {FILE}. Next: {NAME_IT}."


@dataclass
class Inventory:
    """What the files say, and what is wrong: with `fleet.yml`, with records, and with what stands beside them."""

    folder: Path
    fleet: Fleet | None = None
    unread: Problems = field(default_factory=list)  # fleet.yml itself
    stray: Problems = field(default_factory=list)  # in the folder of records, and none
    moved: Problems = field(default_factory=list)  # of the form before
    beside: Beside = field(default_factory=Beside)
    mistakes: Problems = field(default_factory=list)  # stop preflight, and no record

    def told_to_preflight(self) -> dict[str, Any]:
        """For the filter input_problems: what it need not find again, must leave alone, and is a person's own."""
        broken = self.fleet.broken if self.fleet else []  # no hosts of this run
        return {
            "problems": [one for one in self.mistakes if one["host"] not in broken],
            "left_alone": sorted(_left_alone(self.beside)),
            "own": sorted(self.beside.named),
            "places": [
                {"scope": one.scope, "key": key, "file": one.document.file, "line": one.document.line((key,))}
                for one in self.beside.settings
                for key, value in one.document.values.items()
                if is_hidden(value) and (key in inputs.documented() or key in beside.ALSO_IN_GROUP_VARS)
            ],
        }

    def fatal(self) -> Problems:
        """What no run can do with."""
        return self.unread + (self.fleet.fatal() if self.fleet else []) + self.beside.unread

    def left_out(self) -> Problems:
        """What keeps mirrors from being hosts, and hosts waiting."""
        return (self.fleet.stopped() if self.fleet else []) + self.stray

    def problems(self) -> Problems:
        """All of it, each once."""
        of_fleet = self.fleet.problems() if self.fleet else []
        return [*self.moved, *self.unread, *of_fleet, *self.stray, *self.beside.unread, *self.mistakes]


def read(path: Path, today: str, alone: bool = True) -> Inventory:
    """The inventory of a fleet's file. Beside other sources of hosts it cannot say whose a file of variables is."""
    folder = path.absolute().parent
    found = Inventory(folder, moved=_moved(folder), beside=beside.read(folder))
    records, found.stray = _records(folder / FOLDER)
    found.mistakes += found.beside.problems
    if alone:
        found.mistakes += _folders(folder)
    try:
        shared = documents.read(path, FILE)
    except UnreadableError as error:
        found.unread.append(error.told("all", FILE))
        return found
    found.fleet = Fleet(shared, records, today)
    names = {*found.fleet.hosts, *records}
    if alone:
        found.mistakes += _orphans(folder, names)
    found.mistakes += _missing(found.fleet, shared, found.beside) + _pins(found.fleet, shared, found.beside)
    return found


def _problem(file: str, problem: str, allowed: str, next_step: str, host: str = "all") -> dict[str, Any]:
    return {
        "host": host, "file": file, "line": 0, "key": "", "problem": problem, "allowed": allowed,
        "next_step": next_step,
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------------------ records
def _records(folder: Path) -> tuple[dict[str, Document | UnreadableError], Problems]:
    """The records by name, and what lies beside them and is none. What was meant to be one is a wrong record."""
    records: dict[str, Document | UnreadableError] = {}
    stray: Problems = []
    paths = (
        [path for path in sorted(folder.glob("*")) if not path.name.startswith(".")]
        if folder.is_dir()
        else []
    )
    for path in paths:
        if path.suffix == ".yml" and path.is_file():
            records[path.stem] = _record(path)
    for path in paths:
        if path.suffix == ".yml" and path.is_file():
            continue
        name = meant_for(path)
        if name and name not in records:
            error = UnreadableError("is no record by its name", next_step=f"rename it to {FOLDER}/{name}.yml")
            error.file, error.allowed = f"{FOLDER}/{path.name}", "files NAME.yml"
            records[name] = error
        elif not path.name.endswith("~"):
            stray.append(
                _problem(
                    f"{FOLDER}/{path.name}",
                    "is no record and was left out",
                    "files NAME.yml",
                    "rename or remove it",
                )
            )
    return records, stray


def _record(path: Path) -> Document | UnreadableError:
    try:
        if os.access(path, os.X_OK) and path.stat().st_mode & 0o111:
            return UnreadableError("is executable, and a record is data", None, f"chmod -x {path.name}")
        return documents.read(path, f"{FOLDER}/{path.name}")
    except UnreadableError as error:
        return error


def meant_for(path: Path) -> str:
    """The mirror whose record a file was meant to be, by what it holds; none of an editor's own copies."""
    if not path.is_file() or path.name.endswith(("~", ".bak", ".orig", ".swp", ".rej")):
        return ""
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(1_000_000)
    except (OSError, UnicodeDecodeError):
        return ""
    if not re.search(r"""^["'{]?\s*["']?mirror_[a-z_]+["']?\s*:""", text, re.MULTILINE):
        return ""
    return re.sub(r"(?i)(\.(ya?ml|json|txt))+\Z", "", path.name)


# ------------------------------------------------------------------------------------------------ files without a use
def _folders(folder: Path) -> Problems:
    known = (*beside.PLACES, FOLDER)
    meant = {path.name: v.nearest(path.name, known) for path in sorted(folder.iterdir()) if path.is_dir()}
    return [
        _problem(name, "is a folder that nothing reads", ", ".join(known), f"rename it to {near}")
        for name, near in meant.items()
        if near and name not in known and not (folder / near).exists()
    ]


def _orphans(folder: Path, names: set[str]) -> Problems:
    found = []
    for place, kind in beside.PLACES.items():
        mine, others = (GROUPS, names) if kind == "group" else (names, set(GROUPS))
        other = next(one for one in beside.PLACES if one != place)
        for scope, path in beside.files(folder / place):
            if scope in mine:
                continue
            near = v.nearest(scope, mine)
            taken = near and any(one == near for one, _ in beside.files(folder / place))
            if scope in others:
                next_step = f"move it to {other}/"
            elif near:
                next_step = f"did you mean {near}?" + (" Its file is there, too" if taken else "")
            else:
                next_step = (
                    f"rename or remove it{', or write mirrors/' + scope + '.yml' if kind == 'host' else ''}"
                )
            found.append(
                _problem(
                    str(path.relative_to(folder)),
                    f"is for {scope}, which is no {kind} of this inventory, so nothing reads it",
                    f"files named after a {kind}: {', '.join(sorted(mine)[:20])}{', …' if len(mine) > 20 else ''}",
                    next_step,
                    scope,
                )
            )
    return found


def _moved(folder: Path) -> Problems:
    return [
        {
            "host": Path(file).parts[1].partition(".")[0] if file.startswith("group_vars") else Path(file).stem,
            "file": file, "line": line, "key": key, "problem": "is not read here", "allowed": place,
            "next_step": f"rename it to {now}" if (now := inputs.RENAMED.get(key)) else f"move it to {place}",
        }
        for file, line, key, place in old_form.found(folder)
    ]  # fmt: skip


# ------------------------------------------------------------------------------- what the files ask of each other
def _missing(fleet: Fleet, shared: Document, beside: Beside) -> Problems:
    """What a host's certificate needs and no file says."""
    found: Problems = []
    authority = False
    for name in [name for name in fleet.hosts if fleet.urls(name)]:
        record = fleet.records[name]
        if record.get("mirror_state") == "retired":
            continue
        given = {key: record[key] for key in TLS if record.get(key)}
        given |= {
            key: value for key, value in beside.given(name, _groups(fleet, name)).items() if value != ""
        }
        if is_hidden(given.get("tls_mode")):
            continue
        authority |= given.get("tls_mode") == "private_ca" and "tls_authority_dir" not in given
        if name in fleet.groups["mirrors"]:
            report = Report(name, fleet.reports[name].document)
            path: tuple[str, ...] = ("tls_mode",)
        else:
            report = Report(name, shared)
            path = (next(section for section in SECTIONS if name in fleet.groups[section]), name)
        contract.tls_needs(given, report, path)
        found += report.problems
    said = "fleet_private_dir" in fleet.shared or any(
        "fleet_private_dir" in one.document.values for one in beside.settings
    )
    if authority and not said:
        report = Report("all", shared)
        report.add(
            "fleet_private_dir",
            "is missing",
            "a folder of the control node, for the fleet's own authority (tls_mode private_ca)",
            "add fleet_private_dir to fleet.yml, or choose another tls_mode",
        )
        found += report.problems
    return found


def _groups(fleet: Fleet, name: str) -> set[str]:
    own = fleet.of(name)
    return {*own, "fleet", *(["sites"] if own & {"redirectors", "monitors"} else [])}


def _pins(fleet: Fleet, shared: Document, beside: Beside) -> Problems:
    """Pins of versions that this checkout cannot install; unless a person says where else their files are."""
    report = Report("all", shared)
    versions: dict[str, Any] = fleet.shared.get("fleet_versions") or {}
    pinned = versions.get("mirrorfleet")
    ours = re.search(
        r'^__version__ = "(.+)"', (HOUSE / "src/mirrorfleet/__init__.py").read_text("utf-8"), re.M
    )
    if (
        pinned
        and ours
        and pinned != ours[1]
        and not list(HOUSE.glob(f"build/dist/mirrorfleet-{pinned}-*.whl"))
    ):
        report.add(
            "fleet_versions.mirrorfleet",
            f"is {v.shown(pinned)}, which this checkout does not build",
            ours[1],
            "pin the version of this checkout, or check out the one that is pinned",
        )
    used = any(
        fleet.mode(name) == "bandersnatch" for name in [*fleet.groups["mirrors"], *fleet.groups["trees"]]
    )
    for platform, pinned in (versions.get("bandersnatch") or {}).items() if used else ():
        lock = f"requirements/bandersnatch-{pinned}-{platform}.txt"
        if not (HOUSE / lock).is_file():
            locks = sorted(HOUSE.glob(f"requirements/bandersnatch-*-{platform}.txt"))
            report.add(
                f"fleet_versions.bandersnatch.{platform}",
                f"is {v.shown(pinned)}, without a lock file {lock}",
                ", ".join(path.name.split("-")[1] for path in locks),
                f"pin one of these, or write the lock: make lock PROGRAMS=bandersnatch-{pinned}-{platform}",
            )
    is_set = {key for one in beside.settings for key in one.document.values}
    return [one for one in report.problems if PINNED_BY[one["key"].split(".")[1]] not in is_set]


def _left_alone(beside: Beside) -> set[str]:
    """Inputs that preflight does not evaluate: those that nobody sets but the plugin, and those that need what is not
    there yet (facts, what a playbook registers, a role's defaults)."""
    wired: dict[str, set[str]] = {}
    for templates in (wiring.TEMPLATES, wiring.package_templates()):
        for group in templates.values():
            for key, value in group.items():
                wired.setdefault(key, set()).update(words(value))
    is_set: dict[str, set[str]] = {}
    for one in beside.settings:
        for key, value in one.document.values.items():
            is_set.setdefault(key, set()).update(words(value))

    def unknown(key: str, seen: set[str]) -> bool:
        if key in seen:
            return False
        seen.add(key)
        named = is_set.get(key, set()) | wired.get(key, set())
        if key not in is_set and key not in wired:
            return (
                (key.startswith("__") and key != "__fleet_upstream")
                or key in ("ansible_facts", "hostvars")
                or key in inputs.documented()
            )
        return any(unknown(word, seen) for word in named)

    return {key for key in wired if key not in is_set} | {key for key in is_set if unknown(key, set())}
