"""What stands beside the contract, in group_vars/ and host_vars/: the coordinator's, and Ansible's to evaluate.

Here it is only looked at: which keys are set where, and what is wrong as it is written. What is a template or vaulted
is told to be so, and judged when it is evaluated, by preflight (the filter input_problems).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from plugin_utils import contract, inputs
from plugin_utils import values as v
from plugin_utils.documents import Document
from plugin_utils.values import Report

PLACES = {"group_vars": "group", "host_vars": "host"}
SUFFIXES = ("", ".yml", ".yaml", ".json")  # of files that Ansible reads
# May be set beside the contract, too: secrets, paths of the control node, and how a run goes about it.
ALSO_IN_GROUP_VARS = (
    *(
        "fleet_mail_relay",
        "fleet_private_dir",
        "fleet_ca_certificates",
        "fleet_monitor_settings",
        "fleet_check_names",
    ),
    *("fleet_drain_seconds", "fleet_listed_seconds", "fleet_update_sync_seconds"),
    *(
        "fleet_update_canary",
        "fleet_update_capacity_floor",
        "fleet_update_off_share",
        "fleet_update_reboot_seconds",
        "fleet_update_soak_seconds",
    ),
)
TLS = tuple(key for key in contract.keys(contract.RECORD) if key.startswith("tls_"))


class _Hidden:
    """A value that is vaulted, or of another tag: not ours to look into."""


class _Loader(inputs.LOADER):  # type: ignore[misc]  # one of two, as the machine has it
    """YAML as Ansible reads it, but for what it decrypts."""


_Loader.add_multi_constructor("!", lambda *_: _Hidden())


@dataclass
class Settings:
    """What a file of variables sets, for a group or a host."""

    scope: str
    of_host: bool
    document: Document


@dataclass
class Beside:
    """All that is set beside a fleet's contract, and the problems of its files."""

    settings: list[Settings] = field(default_factory=list)
    problems: list[dict[str, Any]] = field(default_factory=list)
    unread: list[dict[str, Any]] = field(default_factory=list)  # where Ansible itself cannot go on
    # Variables that a template here names: a person's own.
    named: set[str] = field(default_factory=set)

    def given(self, host: str, groups: Collection[str]) -> dict[str, Any]:
        """What is set for a host, as far as it can be told without evaluating it: its own before its groups'."""
        rank = {"all": 0, "fleet": 1, "mirrors": 2, "sites": 2}
        of = [
            one
            for one in self.settings
            if (one.scope == host if one.of_host else one.scope in groups or one.scope == "all")
        ]
        of.sort(key=lambda one: (one.of_host, rank.get(one.scope, 3)))
        return {key: value for one in of for key, value in one.document.values.items()}


def read(folder: Path) -> Beside:
    """The files of variables of an inventory's folder."""
    found = Beside()
    for place in PLACES:
        for scope, path in files(folder / place):
            file = str(path.relative_to(folder))
            try:
                document = _document(path.read_text("utf-8"), file, scope, found)
            except (OSError, UnicodeDecodeError) as error:
                found.unread.append(_problem(scope, file, f"cannot be read ({error})", "text in UTF-8"))
                continue
            found.settings.append(Settings(scope, place == "host_vars", document))
    for one in found.settings:
        found.named |= words(one.document.values)
    for one in found.settings:
        report = Report(one.scope, one.document)
        for key, value in one.document.values.items():
            judge(key, value, report, found.named)
        found.problems += report.problems
    return found


def files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Each file with the group or host that it is for, as Ansible finds them."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name.startswith(".") or path.name.endswith("~"):
            continue
        if path.is_dir():
            inner = (one for one in sorted(path.rglob("*")) if one.is_file() and one.suffix in SUFFIXES)
            yield from ((path.name, one) for one in inner)
        else:
            yield (path.stem if path.suffix in SUFFIXES[1:] else path.name), path


def _document(text: str, file: str, scope: str, found: Beside) -> Document:
    document = Document({}, file)
    if text.startswith("$ANSIBLE_VAULT;"):
        return document
    allowed = "YAML as Ansible reads it: KEY: VALUE, a line each"
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is not None and node.tag == "tag:yaml.org,2002:null":
            return document
        if node is not None and not isinstance(node, yaml.MappingNode):
            found.unread.append(_problem(scope, file, "holds no mapping at its top", allowed, line=1))
            return document
        for key_node, value_node in node.value if node else ():
            key, line = str(key_node.value), key_node.start_mark.line + 1
            if key in document.values:
                first = document.lines[(key,)]
                more = {"key": key, "line": line, "next_step": "remove one of the two"}
                found.problems.append(
                    _problem(scope, file, f"stands twice, also in line {first}", "each key once", **more)
                )
            document.lines[(key,)] = line
            document.values[key] = loader.construct_document(value_node)
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        parts = (getattr(error, "context", ""), getattr(error, "problem", ""))
        said = ", ".join(part for part in parts if part) or " ".join(str(error).split())[:200]
        at = {"line": mark.line + 1, "column": mark.column + 1} if mark else {}
        found.unread.append(_problem(scope, file, f"is no YAML: {said}", allowed, **at))
    finally:
        loader.dispose()
    return document


def _problem(scope: str, file: str, problem: str, allowed: str, **more: Any) -> dict[str, Any]:
    return {
        "host": scope, "file": file, "line": 0, "column": 0, "key": "", "problem": problem, "allowed": allowed,
        "next_step": f"correct {file}", **more,
    }  # fmt: skip


def judge(key: str, value: Any, report: Report, named: Collection[str] = ()) -> None:
    """Notes what is wrong with one variable, as far as its name is ours and its value is plain."""
    role = inputs.role_of(key)
    plain = not is_hidden(value)
    if key in TLS or key in ALSO_IN_GROUP_VARS:
        if plain and not (value == "" and key in TLS):
            contract.one(key, value, contract.RECORD if key in TLS else contract.FLEET, report)
    elif key in inputs.documented():
        if plain:
            inputs.check(key, value, report)
    elif key in inputs.RENAMED or key in named or key in places():
        return  # told by old_form; a person's own; told by old_form
    elif role:
        inputs.check(key, value, report)
    elif key.startswith(("fleet_", "mirror_")):
        _tell_unknown(key, report)


def _tell_unknown(key: str, report: Report) -> None:
    meant = v.nearest(key, [*ALSO_IN_GROUP_VARS, *places()])
    where = "" if meant in ALSO_IN_GROUP_VARS else f", which stands in {places().get(meant)}"
    report.add(
        key,
        "is no variable that anything reads",
        f"{', '.join(ALSO_IN_GROUP_VARS)}, connection variables, inputs of roles, and your own by other names",
        f"did you mean {meant}{where}?"
        if meant
        else "remove it, or give it a name without fleet_ or mirror_",
    )


def places() -> dict[str, str]:
    """By key of the contract, the file that it belongs into; but for those that may stand here, too."""
    return {key: place for key, place in contract.places().items() if key not in ALSO_IN_GROUP_VARS}


def is_hidden(value: Any) -> bool:
    """Whether it takes Ansible to say what this is: a template or a vaulted value is in it."""
    return any(isinstance(one, _Hidden) or _is_template(one) for one in _scalars(value, set()))


def words(value: Any) -> set[str]:
    """Every word of every template in a value."""
    return {word for one in _scalars(value, set()) if _is_template(one) for word in re.findall(r"\w+", one)}


def _is_template(one: Any) -> bool:
    return isinstance(one, str) and ("{{" in one or "{%" in one)


def _scalars(value: Any, seen: set[int]) -> Iterator[Any]:
    """What a value is made of. By aliases a part can be in it many times, or in itself: it is looked at once."""
    if not isinstance(value, dict | list):
        yield value
    elif id(value) not in seen:
        seen.add(id(value))
        for one in value if isinstance(value, list) else (part for pair in value.items() for part in pair):
            yield from _scalars(one, seen)
