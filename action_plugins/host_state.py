"""Validates and renders a role's declaration on the control node, has the host checked in one module run,
and repairs what differs. Documented in library/host_state.yml (`ansible-doc -t module host_state`).
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase
from ansible.template import generate_ansible_template_vars, trust_as_template

Item = dict[str, Any]
Drift = list[dict[str, str]]

STATE_DIRECTORY = "/var/lib/host_state"
LARGEST_DIFF = 100_000
UNIT_DIRECTORY = re.compile(r"/(etc|run|usr/lib|usr/local/lib|lib)/systemd/system/([^/]+?)(\.d/[^/]+)?")


# --- the declaration, validated -------------------------------------------------------------------

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


# --- what the drift means -------------------------------------------------------------------------


def drifted(drift: Drift, kind: str) -> set[str]:
    return {entry["name"] for entry in drift if entry["kind"] == kind}


def owed_handlers(declaration: Declaration, drift: Drift) -> dict[str, str]:
    """Handlers whose items differ, each with a path that is the reason."""
    owed: dict[str, str] = {}
    for title in NOTIFYING:
        for item in declaration.differing(title, drift):
            for handler in item["notify"]:
                owed.setdefault(handler, item["path"])
    return owed


def daemon_reload_is_due(drift: Drift) -> bool:
    return any(
        (entry["kind"] == "unit" and entry["what"] == "definition")
        or (entry["kind"] in {"file", "link", "absent"} and UNIT_DIRECTORY.fullmatch(entry["name"]))
        for entry in drift
    )


def masked_until_reboot(drift: Drift) -> list[str]:
    return [
        entry["name"] for entry in drift if entry["what"] == "masked" and entry["before"] == "until reboot"
    ]


def rulesets_to_load(declaration: Declaration, drift: Drift) -> list[str]:
    ruleset = declaration.firewall["path"] if declaration.firewall else None
    due = drifted(drift, "firewall") or ruleset in drifted(drift, "file")
    return [ruleset] if ruleset and due else []


def unit_of(file_path: str) -> str | None:
    """The unit a file defines or extends; None for other files, and for a template without instance."""
    found = UNIT_DIRECTORY.fullmatch(file_path)
    if found is None or check_unit(found[2]) is not None or "@." in found[2]:
        return None
    return found[2]


def described(declaration: Declaration) -> Item:
    """What the host is asked to check: the declaration with digests in place of contents."""
    defined = {unit_of(item["path"]) for title in NOTIFYING for item in declaration[title]}
    request: Item = {title: declaration[title] for title in SECTIONS if title != "files"}
    request["files"] = [
        {key: item[key] for key in ("path", "owner", "group", "mode", "secret")}
        | {"sha256": hashlib.sha256(declaration.contents[item["path"]]).hexdigest()}
        for item in declaration["files"]
    ]
    request["unit_files"] = sorted(filter(None, defined - {item["name"] for item in declaration["units"]}))
    request["handlers"] = sorted(
        {handler for title in NOTIFYING for item in declaration[title] for handler in item["notify"]}
    )
    firewall = declaration.firewall
    request["firewall"] = firewall and {
        "tables": firewall["tables"],
        "ruleset": declaration.contents[firewall["path"]].decode(),
    }
    return request


def to_write(declaration: Declaration, item: Item, drift: Drift) -> Item:
    """The content goes along only where it differs; elsewhere owner, group and mode are all there is to do."""
    rewrite = any(
        entry["kind"] == "file" and entry["name"] == item["path"] and entry["what"] in {"state", "content"}
        for entry in drift
    )
    content = base64.b64encode(declaration.contents[item["path"]]).decode() if rewrite else None
    shared = {key: item[key] for key in ("path", "owner", "group", "mode", "secret", "validate")}
    return shared | {"content": content}


def texts_of(declaration: Declaration, drift: Drift, found: dict[str, str]) -> dict[str, tuple[str, str]]:
    """The present and the declared text of each file whose content differs and may be shown."""
    missing = {entry["name"] for entry in drift if entry["kind"] == "file" and entry["what"] == "state"}
    return {
        path: (as_text(base64.b64decode(found.get(path, ""))), as_text(declaration.contents[path]))
        for item in declaration["files"]
        if not item["secret"] and ((path := item["path"]) in found or path in missing)
    }


def diff_of(drift: Drift, texts: dict[str, tuple[str, str]]) -> list[dict[str, str]]:
    """For each item an entry of its properties, and one of its text where that differs and may be shown."""
    grouped: dict[tuple[str, str], Drift] = {}
    for entry in drift:
        grouped.setdefault((entry["kind"], entry["name"]), []).append(entry)
    diffs: list[dict[str, str]] = []
    for (kind, name), entries in grouped.items():
        header = f"{kind} {name}"
        if kind == "firewall":
            diffs.append(
                diff_entry(f"{header} (live)", *(f"{entries[0][side]}\n" for side in ("before", "after")))
            )
            continue
        text = texts.get(name) if kind == "file" else None
        shown = [entry for entry in entries if text is None or entry["what"] != "content"]
        if shown:
            before, after = (
                "".join(f"{entry['what']}: {entry[side]}\n" for entry in shown)
                for side in ("before", "after")
            )
            diffs.append(diff_entry(header, before, after))
        if text is not None:
            diffs.append(diff_entry(f"{header} (content)", *text))
    return diffs


def diff_entry(header: str, before: str, after: str) -> dict[str, str]:
    return {"before_header": header, "after_header": header, "before": before, "after": after}


def as_text(content: bytes) -> str:
    with contextlib.suppress(UnicodeDecodeError):
        if len(content) <= LARGEST_DIFF:
            return content.decode()
    return f"(binary or large: {len(content)} bytes, sha256 {hashlib.sha256(content).hexdigest()})\n"


def in_words(entry: dict[str, str]) -> str:
    subject = f"{entry['kind']} {entry['name']}: {entry['what']}"
    if entry["kind"] == "firewall":
        return f"{subject} is not as declared"
    return f"{subject} is {entry['before']}, declared is {entry['after']}"


def what_failed(result: Item) -> str:
    """A module's message, and what the program it ran said, unless the message has it already."""
    message = str(result.get("msg", "failed without a message"))
    said = str(result.get("stderr") or result.get("module_stderr") or "").strip()
    return message if said in message else f"{message}\n{said}"


# --- the action -----------------------------------------------------------------------------------


class StepError(Exception):
    """A step on the host failed."""


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible ships no types
    _supports_async = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> Item:
        result: Item = super().run(tmp, task_vars)
        self._vars = task_vars or {}
        directory = self._vars.get("host_state_directory", STATE_DIRECTORY)
        self._state_directory = str(self._templar.template(directory))
        arguments = self._task.args
        try:
            if "settled" in arguments:
                self._settle(parse_settled(arguments))
                return result | {"changed": False}
            declaration = parse(arguments)
            self._render(declaration)
            self._converge(declaration, result)
        except StepError as error:
            result |= {"failed": True, "msg": str(error)}
        finally:
            self._remove_tmp_path(self._connection._shell.tmpdir)
        return result

    def _settle(self, handlers: list[str]) -> None:
        if not self._task.check_mode:
            self._on_host("settle", {"handlers": handlers})

    def _converge(self, declaration: Declaration, result: Item) -> None:
        """Fills in the result as it goes, so that it tells what was found even when a step fails."""
        answer = self._check(declaration, with_contents=self._task.diff)
        drift: Drift = answer["drift"]
        result |= {"changed": bool(drift), "drift": drift}
        if not drift:
            return
        if self._task.diff:
            result["diff"] = diff_of(drift, texts_of(declaration, drift, answer["contents"]))
        if not self._task.check_mode:
            self._repair(declaration, drift)
            left = [entry for entry in self._check(declaration)["drift"] if entry["kind"] != "handler"]
            if left:
                raise StepError("still differs after its repair:\n" + "\n".join(map(in_words, left)))
        result["notified"] = sorted(owed_handlers(declaration, drift).keys() | drifted(drift, "handler"))
        self._notify(result["notified"])

    def _notify(self, handlers: list[str]) -> None:
        """Undocumented: the task executor reads the task's notify after the action ran. A test guards it."""
        present = list(self._task.notify or [])
        self._task.notify = present + [handler for handler in handlers if handler not in present]

    # --- rendering

    def _render(self, declaration: Declaration) -> None:
        for item in declaration["files"]:
            try:
                declaration.contents[item["path"]] = self._content(item)
            except (AnsibleError, OSError, UnicodeError) as error:
                raise AnsibleActionFail(
                    f"{item['path']}: cannot be rendered, nothing was changed: {error}"
                ) from error

    def _content(self, item: Item) -> bytes:
        if item["content"] is not None:
            return str(item["content"]).encode()
        if item["src"] is not None:
            source = self._loader.get_real_file(self._find_needle("files", item["src"]))  # decrypts a vault
            with open(source, "rb") as stream:
                return stream.read()
        return self._template(item).encode()

    def _template(self, item: Item) -> str:
        """As ansible.builtin.template renders: trimmed blocks, search path, the template_* variables."""
        source = self._find_needle("templates", item["template"])
        own = generate_ansible_template_vars(item["template"], source, item["path"])
        if "ansible_managed" in self._vars:
            del own["ansible_managed"]
        roots = [
            *self._vars.get("ansible_search_path", []),
            self._loader.get_basedir(),
            os.path.dirname(source),
        ]
        templar = self._templar.copy_with_new_env(
            searchpath=[path for root in roots for path in (os.path.join(root, "templates"), root)],
            available_variables=self._vars | own | item["vars"],
        )
        body = trust_as_template(self._loader.get_text_file_contents(source))
        overrides = {"trim_blocks": True, "lstrip_blocks": False, "newline_sequence": "\n"}
        found = templar.template(body, escape_backslashes=False, overrides=overrides)
        return "" if found is None else str(found)

    # --- steps on the host

    def _check(self, declaration: Declaration, with_contents: bool = False) -> Item:
        return self._on_host("check", described(declaration) | {"with_contents": with_contents})

    def _on_host(self, action: str, request: Item) -> Item:
        request = request | {"action": action, "state_directory": self._state_directory}
        packed = base64.b64encode(zlib.compress(json.dumps(request).encode())).decode()
        return self._module("host_state", {"request": packed})

    def _stock(self, name: str, arguments: Item, step: str) -> None:
        given = {key: value for key, value in arguments.items() if value is not None}
        self._module(f"ansible.legacy.{name}", given, f"{step}: ")

    def _module(self, name: str, arguments: Item, step: str = "") -> Item:
        result: Item = self._execute_module(module_name=name, module_args=arguments, task_vars=self._vars)
        if result.get("failed"):
            raise StepError(step + what_failed(result))
        return result

    def _repair(self, declaration: Declaration, drift: Drift) -> None:
        """Changes what drifted. What new packages brought along, such as a default site, joins the drift."""
        if drifted(drift, "package"):
            self._repair_packages(declaration, drift)
            known = {(entry["kind"], entry["name"], entry["what"]) for entry in drift}
            brought = self._check(declaration)["drift"]
            drift += [
                entry for entry in brought if (entry["kind"], entry["name"], entry["what"]) not in known
            ]
        for group in declaration.differing("groups", drift):
            self._stock("group", group, f"group {group['name']}")
        for user in declaration.differing("users", drift):
            self._stock("user", user | {"append": False}, f"user {user['name']}")
        self._repair_paths(declaration, drift)
        if daemon_reload_is_due(drift):
            self._stock("systemd_service", {"daemon_reload": True}, "daemon-reload")
        for ruleset in rulesets_to_load(declaration, drift):
            self._stock("command", {"argv": ["nft", "-f", ruleset]}, "firewall")
        for name in masked_until_reboot(drift):
            # The stock module removes lasting masks only.
            self._stock("command", {"argv": ["systemctl", "unmask", "--runtime", name]}, f"unit {name}")
        for declared in declaration.differing("units", drift):
            self._stock("systemd_service", declared, f"unit {declared['name']}")

    def _repair_packages(self, declaration: Declaration, drift: Drift) -> None:
        if any(entry["what"] == "interrupted" for entry in drift):
            # Before that, apt refuses to work.
            configure = ["dpkg", "--force-confdef", "--force-confold", "--configure", "-a"]
            self._stock("command", {"argv": ["env", "DEBIAN_FRONTEND=noninteractive", *configure]}, "dpkg")
        wanted = [
            f"{item['name']}={item['version']}" if item["version"] else item["name"]
            for item in declaration.differing("packages", drift)
        ]
        if not wanted:
            return
        arguments: Item = {
            "name": wanted,
            "state": "present",
            "install_recommends": False,
            "allow_downgrade": True,
            "update_cache": True,
            "cache_valid_time": 3600,
            "lock_timeout": 300,
        }
        try:
            self._stock("apt", arguments, "packages")
        except StepError:
            # Package lists an hour old may name what the archive no longer has, or lack the version wanted.
            self._stock("apt", arguments | {"cache_valid_time": 0}, "packages")

    def _repair_paths(self, declaration: Declaration, drift: Drift) -> None:
        changes: Item = {
            "directories": sorted(declaration.differing("directories", drift), key=lambda item: item["path"]),
            "files": [to_write(declaration, item, drift) for item in declaration.differing("files", drift)],
            "links": declaration.differing("links", drift),
            "absent": declaration.differing("absent", drift),
        }
        if any(changes.values()):
            self._on_host("apply", changes | {"owed": owed_handlers(declaration, drift)})
