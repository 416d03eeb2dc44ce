"""What a role may declare in host_state, validated: every problem is named at once, before anything is touched."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ansible.errors import AnsibleActionFail

Item = dict[str, Any]
Drift = list[dict[str, str]]  # what a host reports to differ, in the order of the declaration

Check = Callable[[object], str | None]  # says what is allowed when the value is not


def matching(pattern: str, allowed: str) -> Check:
    expression = re.compile(pattern)

    def check(value: object) -> str | None:
        return None if isinstance(value, str) and expression.fullmatch(value) else allowed

    return check


def check_path(value: object) -> str | None:
    if isinstance(value, str) and value.startswith("/") and len(value) > 1:
        clean = os.path.normpath(value) == value and not value.startswith("//")
        if clean and value.isprintable():
            return None
    return 'an absolute path without "..", doubled or trailing slashes'


def check_removable_path(value: object) -> str | None:
    allowed = check_path(value)
    if allowed is None and str(value).count("/") < 2:
        allowed = "a path at least two levels below /"
    return allowed


def check_mode(value: object) -> str | None:
    if isinstance(value, str) and re.fullmatch(r"[0-7]{3,4}", value):
        return None
    return 'an octal mode in quotes, such as "0644" (without quotes YAML makes another number of it)'


def check_text(value: object) -> str | None:
    return None if isinstance(value, str) else "a string; put it in quotes"


def check_flag(value: object) -> str | None:
    return None if isinstance(value, bool) else "true or false"


def check_number(value: object) -> str | None:
    right = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**32 - 1
    return None if right else "a whole number, 0 or more"


def check_mapping(value: object) -> str | None:
    right = isinstance(value, dict) and all(isinstance(key, str) for key in value)
    return None if right else "a mapping of variable names to values"


def check_names(value: object) -> str | None:
    right = isinstance(value, list) and all(isinstance(entry, str) and entry.strip() for entry in value)
    return None if right else "a list of names"


def one_of(*choices: str) -> Check:
    return lambda value: None if value in choices else f"one of {', '.join(choices)}"


def check_validator(value: object) -> str | None:
    right = isinstance(value, str) and "%s" in value.split()
    return None if right else 'a command with the word %s for the file, such as "visudo -cf %s"'


def check_tables(value: object) -> str | None:
    right = (
        isinstance(value, list)
        and value
        and all(
            isinstance(entry, str) and re.fullmatch(r"(ip|ip6|inet|arp|bridge|netdev) [A-Za-z][\w-]*", entry)
            for entry in value
        )
    )
    return None if right else 'a list of at least one table by family and name, such as "inet mirrorfleet"'


def check_chains(value: object) -> str | None:
    right = isinstance(value, list) and all(
        isinstance(entry, str) and re.fullmatch(r"(ip|ip6|inet) [\w-]+ [\w-]+", entry) for entry in value
    )
    return None if right else 'a list of chains by family, table and name, such as "ip filter INPUT"'


def check_seconds(value: object) -> str | None:
    right = isinstance(value, int) and not isinstance(value, bool) and 10 <= value <= 600
    return None if right else "a whole number of seconds from 10 to 600"


check_account = matching(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}\$?", "the name of a user or group")
check_owner = matching(
    r"[A-Za-z_][A-Za-z0-9_.-]{0,31}\$?|[0-9]{1,10}", "the name or number of a user or group"
)
check_package = matching(
    r"[a-z0-9][a-z0-9+.-]+", "the name of a Debian package, without architecture or version"
)
check_version = matching(r"[A-Za-z0-9.+:~*?\[\]-]+", 'a version or a glob of versions, such as "1.26.*"')
check_unit = matching(
    r"[A-Za-z0-9:_.@\\-]+\.(service|socket|timer|target|path|mount|automount|swap|slice)",
    "a unit's name with its suffix",
)


@dataclass(frozen=True)
class Key:
    check: Check
    default: object = None
    required: bool = False


@dataclass(frozen=True)
class Section:
    """What it calls one item, the key that names an item, all keys, and whether a string will do for one."""

    kind: str
    identity: str
    keys: dict[str, Key]
    short: bool = False


def drifted(drift: Drift, kind: str) -> set[str]:
    return {entry["name"] for entry in drift if entry["kind"] == kind}


@dataclass
class Declaration:
    """The validated items by section, the firewall, and the files' contents by path once they are rendered."""

    sections: dict[str, list[Item]]
    firewall: Item | None
    contents: dict[str, bytes] = field(default_factory=dict)

    def __getitem__(self, title: str) -> list[Item]:
        return self.sections[title]

    def differing(self, title: str, drift: Drift) -> list[Item]:
        section = SECTIONS[title]
        found = drifted(drift, section.kind)
        return [item for item in self.sections[title] if item[section.identity] in found]


NOTIFY = Key(check_names, [])
NOTIFYING = ("files", "links", "absent")
SOURCES = ("template", "content", "src")
SECTIONS = {
    "packages": Section(
        "package",
        "name",
        {"name": Key(check_package, required=True), "version": Key(check_version)},
        short=True,
    ),
    "groups": Section(
        "group",
        "name",
        {
            "name": Key(check_account, required=True),
            "gid": Key(check_number),
            "system": Key(check_flag, False),
        },
        short=True,
    ),
    "users": Section(
        "user",
        "name",
        {
            "name": Key(check_account, required=True),
            "uid": Key(check_number),
            "group": Key(check_account),
            "groups": Key(check_names),
            "home": Key(check_path),
            "create_home": Key(check_flag, False),
            "shell": Key(check_path),
            "comment": Key(matching(r"[^:\x00-\x1f]*", "a line without colons")),
            "system": Key(check_flag, False),
        },
    ),
    "directories": Section(
        "directory",
        "path",
        {
            "path": Key(check_path, required=True),
            "owner": Key(check_owner, "root"),
            "group": Key(check_owner, "root"),
            "mode": Key(check_mode, "0755"),
        },
    ),
    "files": Section(
        "file",
        "path",
        {
            "path": Key(check_path, required=True),
            "template": Key(check_text),
            "content": Key(check_text),
            "src": Key(check_text),
            "owner": Key(check_owner, "root"),
            "group": Key(check_owner, "root"),
            "mode": Key(check_mode, "0644"),
            "secret": Key(check_flag, False),
            "validate": Key(check_validator),
            "vars": Key(check_mapping, {}),
            "notify": NOTIFY,
        },
    ),
    "links": Section(
        "link",
        "path",
        {"path": Key(check_path, required=True), "target": Key(check_text, required=True), "notify": NOTIFY},
    ),
    "absent": Section(
        "absent", "path", {"path": Key(check_removable_path, required=True), "notify": NOTIFY}, short=True
    ),
    "units": Section(
        "unit",
        "name",
        {
            "name": Key(check_unit, required=True),
            "enabled": Key(check_flag),
            "state": Key(one_of("started", "stopped")),
            "masked": Key(check_flag, False),
        },
    ),
}
FIREWALL = Section(
    "firewall",
    "path",
    {
        "path": Key(check_path, "/etc/nftables.conf"),
        "template": Key(check_text),
        "content": Key(check_text),
        "vars": Key(check_mapping, {}),
        "tables": Key(check_tables, required=True),
        "opens": Key(check_chains, []),
        "trial_seconds": Key(check_seconds, 60),
    },
)


def parse_item(section: Section, where: str, given: object, errors: list[str]) -> Item | None:
    if section.short and isinstance(given, str):
        given = {section.identity: given}
    if not isinstance(given, dict):
        errors.append(f"{where}: has to be a mapping with the keys {', '.join(section.keys)}")
        return None
    if isinstance(given.get(section.identity), str):
        where = f"{where} ({given[section.identity]})"
    before = len(errors)
    for key in given:
        if key not in section.keys:
            errors.append(f"{where}: unknown key {key}; allowed are {', '.join(section.keys)}")
    item: Item = {}
    for name, key in section.keys.items():
        value = given.get(name)
        if value is None:
            if key.required:
                errors.append(f"{where}: {name} is missing; it is {key.check(None)}")
            item[name] = key.default
        elif allowed := key.check(value):
            errors.append(f"{where}: {name} is not valid; it has to be {allowed}")
        else:
            item[name] = value
    if "content" in section.keys:
        sources = [name for name in SOURCES if name in section.keys]
        if sum(given.get(name) is not None for name in sources) != 1:
            errors.append(f"{where}: needs exactly one of {', '.join(sources)}")
    return item if len(errors) == before else None


def parse_section(title: str, section: Section, given: object, errors: list[str]) -> list[Item]:
    if given is None:
        return []
    if not isinstance(given, list):
        errors.append(f"{title}: has to be a list")
        return []
    parsed = (parse_item(section, f"{title}[{index}]", entry, errors) for index, entry in enumerate(given))
    items = [item for item in parsed if item is not None]
    if section.identity == "name":
        seen: set[str] = set()
        for item in items:
            if item["name"] in seen:
                errors.append(f"{title}: {item['name']} is declared twice; keep one")
            seen.add(item["name"])
    return items


def path_conflicts(sections: dict[str, list[Item]]) -> Iterator[str]:
    declared: dict[str, str] = {}
    for title in ("directories", "files", "links", "absent"):
        for item in sections[title]:
            where = item["path"]
            if where in declared:
                yield f"{where}: is declared in {declared[where]} and again in {title}; keep one"
            declared[where] = title
    for where, title in declared.items():
        parent = where
        while (parent := os.path.dirname(parent)) != "/":
            if declared.get(parent, "directories") != "directories":
                yield f"{where} ({title}): lies below {parent}, which is declared in {declared[parent]}"


def parse(arguments: dict[str, Any]) -> Declaration:
    """The declaration with all keys filled in; or one error that names every problem."""
    errors: list[str] = []
    allowed = [*SECTIONS, "firewall", "settled"]
    errors += [
        f"unknown key {key}; allowed are {', '.join(allowed)}" for key in arguments if key not in allowed
    ]
    sections = {
        title: parse_section(title, section, arguments.get(title), errors)
        for title, section in SECTIONS.items()
    }
    firewall = None
    if arguments.get("firewall") is not None:
        firewall = parse_item(FIREWALL, "firewall", arguments["firewall"], errors)
    if firewall is not None:
        file = {name: key.default for name, key in SECTIONS["files"].keys.items()}
        file |= {name: firewall[name] for name in ("path", "template", "content", "vars")}
        sections["files"].append(file | {"validate": "nft -c -f %s"})
    errors += path_conflicts(sections)
    if errors:
        raise AnsibleActionFail("the declaration is not valid, nothing was changed:\n" + "\n".join(errors))
    return Declaration(sections, firewall)


def parse_settled(arguments: dict[str, Any]) -> list[str]:
    settled = arguments["settled"]
    if len(arguments) > 1:
        raise AnsibleActionFail("settled stands alone; move the other keys to a task of their own")
    if check_names(settled) or not settled:
        raise AnsibleActionFail("settled has to be a list of at least one handler's name")
    return [str(name) for name in settled]
