"""Validates and renders a role's declaration on the control node, has the host checked in one module run,
and repairs what differs. Documented in library/host_state.yml (`ansible-doc -t module host_state`).
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase
from ansible.template import generate_ansible_template_vars, trust_as_template

Item = dict[str, Any]
Drift = list[dict[str, str]]

STATE_DIRECTORY = "/var/lib/host_state"
UNIT_DIRECTORY = re.compile(r"/(etc|run|usr/lib|usr/local/lib|lib)/systemd/system/([^/]+?)(\.d/[^/]+)?")


# --- the declaration, validated -------------------------------------------------------------------

Check = Callable[[object], str | None]  # says what is allowed when the value is not


def matching(pattern: str, allowed: str) -> Check:
    expression = re.compile(pattern)

    def check(value: object) -> str | None:
        return None if isinstance(value, str) and expression.fullmatch(value) else allowed

    return check


def path(value: object) -> str | None:
    if isinstance(value, str) and value.startswith("/") and len(value) > 1:
        clean = os.path.normpath(value) == value and not value.startswith("//")
        if clean and value.isprintable():
            return None
    return 'an absolute path without "..", doubled or trailing slashes'


def removable_path(value: object) -> str | None:
    allowed = path(value)
    if allowed is None and str(value).count("/") < 2:
        allowed = "a path at least two levels below /"
    return allowed


def mode(value: object) -> str | None:
    if isinstance(value, str) and re.fullmatch(r"[0-7]{3,4}", value):
        return None
    return 'an octal mode in quotes, such as "0644" (without quotes YAML makes another number of it)'


def text(value: object) -> str | None:
    return None if isinstance(value, str) else "a string; put it in quotes"


def flag(value: object) -> str | None:
    return None if isinstance(value, bool) else "true or false"


def number(value: object) -> str | None:
    right = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**32 - 1
    return None if right else "a whole number, 0 or more"


def mapping(value: object) -> str | None:
    right = isinstance(value, dict) and all(isinstance(key, str) for key in value)
    return None if right else "a mapping of variable names to values"


def names(value: object) -> str | None:
    right = isinstance(value, list) and all(isinstance(entry, str) and entry.strip() for entry in value)
    return None if right else "a list of names"


def one_of(*choices: str) -> Check:
    return lambda value: None if value in choices else f"one of {', '.join(choices)}"


def validator(value: object) -> str | None:
    right = isinstance(value, str) and "%s" in value.split()
    return None if right else 'a command with the word %s for the file, such as "visudo -cf %s"'


def tables(value: object) -> str | None:
    right = (
        isinstance(value, list)
        and value
        and all(
            isinstance(entry, str) and re.fullmatch(r"(ip|ip6|inet|arp|bridge|netdev) [A-Za-z][\w-]*", entry)
            for entry in value
        )
    )
    return None if right else 'a list of at least one table by family and name, such as "inet mirrorfleet"'


account = matching(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}\$?", "the name of a user or group")
owner = matching(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}\$?|[0-9]{1,10}", "the name or number of a user or group")
package = matching(r"[a-z0-9][a-z0-9+.-]+", "the name of a Debian package, without architecture or version")
version = matching(r"[A-Za-z0-9.+:~*?\[\]-]+", 'a version or a glob of versions, such as "1.26.*"')
unit = matching(
    r"[A-Za-z0-9:_.@\\-]+\.(service|socket|timer|target|path|mount|slice)", "a unit's name with its suffix"
)


@dataclass(frozen=True)
class Key:
    check: Check
    default: object = None
    required: bool = False


@dataclass(frozen=True)
class Section:
    """A kind of item: its keys, the key that names it, and whether a string will do for it."""

    identity: str
    keys: dict[str, Key]
    short: bool = False


NOTIFY = Key(names, [])
SOURCES = ("template", "content", "src")
SECTIONS = {
    "packages": Section("name", {"name": Key(package, required=True), "version": Key(version)}, short=True),
    "groups": Section(
        "name",
        {"name": Key(account, required=True), "gid": Key(number), "system": Key(flag, False)},
        short=True,
    ),
    "users": Section(
        "name",
        {
            "name": Key(account, required=True),
            "uid": Key(number),
            "group": Key(account),
            "groups": Key(names),
            "home": Key(path),
            "create_home": Key(flag, False),
            "shell": Key(path),
            "comment": Key(matching(r"[^:\x00-\x1f]*", "a line without colons")),
            "system": Key(flag, False),
        },
    ),
    "directories": Section(
        "path",
        {
            "path": Key(path, required=True),
            "owner": Key(owner, "root"),
            "group": Key(owner, "root"),
            "mode": Key(mode, "0755"),
        },
    ),
    "files": Section(
        "path",
        {
            "path": Key(path, required=True),
            "template": Key(text),
            "content": Key(text),
            "src": Key(text),
            "owner": Key(owner, "root"),
            "group": Key(owner, "root"),
            "mode": Key(mode, "0644"),
            "secret": Key(flag, False),
            "validate": Key(validator),
            "vars": Key(mapping, {}),
            "notify": NOTIFY,
        },
    ),
    "links": Section(
        "path", {"path": Key(path, required=True), "target": Key(text, required=True), "notify": NOTIFY}
    ),
    "absent": Section("path", {"path": Key(removable_path, required=True), "notify": NOTIFY}, short=True),
    "units": Section(
        "name",
        {
            "name": Key(unit, required=True),
            "enabled": Key(flag),
            "state": Key(one_of("started", "stopped")),
            "masked": Key(flag, False),
        },
    ),
}
FIREWALL = Section(
    "path",
    {
        "path": Key(path, "/etc/nftables.conf"),
        "template": Key(text),
        "content": Key(text),
        "vars": Key(mapping, {}),
        "tables": Key(tables, required=True),
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


def path_conflicts(declaration: dict[str, list[Item]]) -> Iterator[str]:
    declared: dict[str, str] = {}
    for title in ("directories", "files", "links", "absent"):
        for item in declaration[title]:
            where = item["path"]
            if where in declared:
                yield f"{where}: is declared in {declared[where]} and again in {title}; keep one"
            declared[where] = title
    for where, title in declared.items():
        parent = where
        while (parent := os.path.dirname(parent)) != "/":
            if declared.get(parent, "directories") != "directories":
                yield f"{where} ({title}): lies below {parent}, which is declared in {declared[parent]}"


def parse(arguments: dict[str, Any]) -> tuple[dict[str, list[Item]], Item | None]:
    """The sections with all keys filled in, and the firewall; or one error that names every problem."""
    errors: list[str] = []
    allowed = [*SECTIONS, "firewall", "settled"]
    errors += [
        f"unknown key {key}; allowed are {', '.join(allowed)}" for key in arguments if key not in allowed
    ]
    declaration = {
        title: parse_section(title, section, arguments.get(title), errors)
        for title, section in SECTIONS.items()
    }
    firewall = None
    if arguments.get("firewall") is not None:
        firewall = parse_item(FIREWALL, "firewall", arguments["firewall"], errors)
    if firewall is not None:
        file = {name: key.default for name, key in SECTIONS["files"].keys.items()}
        file |= {name: firewall[name] for name in ("path", "template", "content", "vars")}
        declaration["files"].append(file | {"validate": "nft -c -f %s"})
    errors += path_conflicts(declaration)
    if errors:
        raise AnsibleActionFail("the declaration is not valid, nothing was changed:\n" + "\n".join(errors))
    return declaration, firewall


def parse_settled(arguments: dict[str, Any]) -> list[str]:
    settled = arguments["settled"]
    if len(arguments) > 1:
        raise AnsibleActionFail("settled stands alone; move the other keys to a task of their own")
    if names(settled) or not settled:
        raise AnsibleActionFail("settled has to be a list of at least one handler's name")
    return [str(name) for name in settled]


# --- what the drift means -------------------------------------------------------------------------


def drifted(drift: Drift, kind: str) -> set[str]:
    return {entry["name"] for entry in drift if entry["kind"] == kind}


def items_of(items: Iterable[Item], identity: str, differing: set[str]) -> list[Item]:
    return [item for item in items if item[identity] in differing]


def notifying(declaration: dict[str, list[Item]]) -> Iterator[tuple[str, Item]]:
    for kind, title in (("file", "files"), ("link", "links"), ("absent", "absent")):
        for item in declaration[title]:
            yield kind, item


def owed_handlers(declaration: dict[str, list[Item]], drift: Drift) -> dict[str, str]:
    """Handlers whose items differ, each with a path that is the reason."""
    owed: dict[str, str] = {}
    for kind, item in notifying(declaration):
        if item["path"] in drifted(drift, kind):
            for handler in item["notify"]:
                owed.setdefault(handler, item["path"])
    return owed


def unit_of(file_path: str) -> str | None:
    """The unit a file defines or extends; None for other files, and for a template without instance."""
    found = UNIT_DIRECTORY.fullmatch(file_path)
    if found is None or unit(found[2]) is not None or "@." in found[2]:
        return None
    return found[2]


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
    try:
        return content.decode()
    except UnicodeDecodeError:
        return f"(binary, {len(content)} bytes, sha256 {hashlib.sha256(content).hexdigest()})\n"


def in_words(drift: Drift) -> str:
    return "\n".join(
        f"{entry['kind']} {entry['name']}: {entry['what']} is {entry['before']}, declared is {entry['after']}"
        for entry in drift
    )


# --- the action -----------------------------------------------------------------------------------


@dataclass
class Rendered:
    """The files' contents stay here; the host is sent digests, and contents only of what differs."""

    contents: dict[str, bytes] = field(default_factory=dict)

    def described(self, item: Item) -> Item:
        shared = {name: item[name] for name in ("path", "owner", "group", "mode", "secret")}
        return shared | {"sha256": hashlib.sha256(self.contents[item["path"]]).hexdigest()}

    def to_write(self, item: Item, drift: Drift) -> Item:
        rewrite = any(
            entry["kind"] == "file"
            and entry["name"] == item["path"]
            and entry["what"] in {"state", "content"}
            for entry in drift
        )
        content = base64.b64encode(self.contents[item["path"]]).decode() if rewrite else None
        shared = {name: item[name] for name in ("path", "owner", "group", "mode", "secret", "validate")}
        return shared | {"content": content}


class StepError(Exception):
    """A step on the host failed; carries the module's result."""

    def __init__(self, step: str, result: Item) -> None:
        super().__init__(f"{step}: {result.get('msg', 'failed without a message')}")


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible ships no types
    _supports_async = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> Item:
        result: Item = super().run(tmp, task_vars)
        self._vars = task_vars or {}
        arguments = self._task.args
        if "settled" in arguments:
            return result | self._settle(parse_settled(arguments))
        declaration, firewall = parse(arguments)
        rendered = self._render(declaration["files"])
        try:
            return result | self._converge(declaration, firewall, rendered)
        finally:
            self._remove_tmp_path(self._connection._shell.tmpdir)

    def _settle(self, handlers: list[str]) -> Item:
        if not self._task.check_mode:
            self._on_host(
                {"action": "settle", "handlers": handlers, "state_directory": self._state_directory()}
            )
        return {"changed": False}

    def _converge(
        self, declaration: dict[str, list[Item]], firewall: Item | None, rendered: Rendered
    ) -> Item:
        request = self._request(declaration, firewall, rendered)
        try:
            answer = self._on_host(request)
        except StepError as error:
            return {"failed": True, "msg": str(error)}
        drift: Drift = answer["drift"]
        result: Item = {"changed": bool(drift), "drift": drift}
        if not drift:
            return result
        if self._task.diff:
            result["diff"] = diff_of(drift, self._texts(declaration, drift, answer["contents"], rendered))
        if not self._task.check_mode:
            try:
                left = self._repair(declaration, firewall, rendered, request, drift)
            except StepError as error:
                return result | {"failed": True, "msg": str(error)}
            if left:
                return result | {"failed": True, "msg": f"still differs after its repair:\n{in_words(left)}"}
        owed = owed_handlers(declaration, drift)
        result["notified"] = sorted(owed.keys() | drifted(drift, "handler"))
        self._notify(result["notified"])
        return result

    def _state_directory(self) -> str:
        return str(self._templar.template(self._vars.get("host_state_directory", STATE_DIRECTORY)))

    def _on_host(self, request: Item) -> Item:
        packed = base64.b64encode(zlib.compress(json.dumps(request).encode())).decode()
        return self._module("host_state", {"request": packed}, "on the host")

    def _module(self, name: str, arguments: Item, step: str) -> Item:
        result: Item = self._execute_module(module_name=name, module_args=arguments, task_vars=self._vars)
        if result.get("failed") or result.get("unreachable"):
            raise StepError(step, result)
        return result

    def _notify(self, handlers: list[str]) -> None:
        """Undocumented: the task executor reads the task's notify after the action ran. Guarded by a test."""
        present = list(self._task.notify or [])
        self._task.notify = present + [handler for handler in handlers if handler not in present]

    # --- rendering

    def _render(self, files: list[Item]) -> Rendered:
        rendered = Rendered()
        for item in files:
            try:
                rendered.contents[item["path"]] = self._content(item)
            except AnsibleError as error:
                raise AnsibleActionFail(
                    f"{item['path']}: cannot be rendered, nothing was changed: {error}"
                ) from error
        return rendered

    def _content(self, item: Item) -> bytes:
        if item["content"] is not None:
            return str(item["content"]).encode()
        if item["src"] is not None:
            with open(self._find_needle("files", item["src"]), "rb") as stream:
                return stream.read()
        return self._template(item).encode()

    def _template(self, item: Item) -> str:
        """As ansible.builtin.template renders: trimmed blocks, search path, the template_* variables."""
        source = self._find_needle("templates", item["template"])
        variables = generate_ansible_template_vars(item["template"], source, item["path"])
        variables |= self._vars | item["vars"]
        roots = [
            *self._vars.get("ansible_search_path", []),
            self._loader.get_basedir(),
            os.path.dirname(source),
        ]
        templar = self._templar.copy_with_new_env(
            searchpath=[path for root in roots for path in (os.path.join(root, "templates"), root)],
            available_variables=variables,
        )
        body = trust_as_template(self._loader.get_text_file_contents(source))
        overrides = {"trim_blocks": True, "lstrip_blocks": False, "newline_sequence": "\n"}
        found = templar.template(body, escape_backslashes=False, overrides=overrides)
        return "" if found is None else str(found)

    # --- check and report

    def _request(self, declaration: dict[str, list[Item]], firewall: Item | None, rendered: Rendered) -> Item:
        """A plain copy of the declaration, free of Ansible's tags, with digests in place of contents."""
        units = {item["name"] for item in declaration["units"]}
        defined = {name for _, item in notifying(declaration) if (name := unit_of(item["path"]))}
        wanted: Item = {title: declaration[title] for title in SECTIONS if title != "files"}
        wanted |= {
            "action": "check",
            "diff": bool(self._task.diff),
            "state_directory": self._state_directory(),
            "files": [rendered.described(item) for item in declaration["files"]],
            "firewall": None,
            "unit_files": sorted(defined - units),
            "handlers": sorted({handler for _, item in notifying(declaration) for handler in item["notify"]}),
        }
        if firewall is not None:
            ruleset = rendered.contents[firewall["path"]].decode()
            wanted["firewall"] = {"tables": firewall["tables"], "ruleset": ruleset}
        plain: Item = json.loads(json.dumps(wanted))
        return plain

    def _texts(
        self, declaration: dict[str, list[Item]], drift: Drift, found: dict[str, str], rendered: Rendered
    ) -> dict[str, tuple[str, str]]:
        texts: dict[str, tuple[str, str]] = {}
        missing = {entry["name"] for entry in drift if entry["kind"] == "file" and entry["what"] == "state"}
        for item in declaration["files"]:
            path = item["path"]
            if not item["secret"] and (path in found or path in missing):
                before = as_text(base64.b64decode(found.get(path, "")))
                texts[path] = (before, as_text(rendered.contents[path]))
        return texts

    # --- repair

    def _repair(
        self,
        declaration: dict[str, list[Item]],
        firewall: Item | None,
        rendered: Rendered,
        request: Item,
        drift: Drift,
    ) -> Drift:
        """Changes what drifted, returns what still does. What new packages brought along joins the drift."""
        check = request | {"diff": False}
        if drifted(drift, "package"):
            self._repair_packages(declaration["packages"], drift)
            known = {(entry["kind"], entry["name"], entry["what"]) for entry in drift}
            brought = self._on_host(check)["drift"]
            drift += [
                entry for entry in brought if (entry["kind"], entry["name"], entry["what"]) not in known
            ]
        for group in items_of(declaration["groups"], "name", drifted(drift, "group")):
            self._stock("group", group, f"group {group['name']}")
        for user in items_of(declaration["users"], "name", drifted(drift, "user")):
            self._stock("user", user | {"append": False}, f"user {user['name']}")
        self._repair_paths(declaration, rendered, drift)
        if self._daemon_reload_due(drift):
            self._stock("systemd_service", {"daemon_reload": True}, "daemon-reload")
        if firewall is not None and (
            drifted(drift, "firewall") or firewall["path"] in drifted(drift, "file")
        ):
            self._stock("command", {"argv": ["nft", "-f", str(firewall["path"])]}, "firewall")
        for declared in items_of(declaration["units"], "name", drifted(drift, "unit")):
            self._stock("systemd_service", declared, f"unit {declared['name']}")
        left: Drift = self._on_host(check)["drift"]
        return [entry for entry in left if entry["kind"] != "handler"]

    def _stock(self, name: str, arguments: Item, step: str) -> Item:
        given = {key: value for key, value in arguments.items() if value is not None}
        return self._module(f"ansible.legacy.{name}", given, step)

    def _repair_packages(self, packages: list[Item], drift: Drift) -> None:
        entries = [entry for entry in drift if entry["kind"] == "package"]
        if any(entry["before"] not in {"absent"} and entry["what"] != "version" for entry in entries):
            self._stock(
                "command",
                {"argv": ["dpkg", "--configure", "-a", "--force-confdef", "--force-confold"]},
                "dpkg",
            )
        wanted = [
            f"{item['name']}={item['version']}" if item["version"] else item["name"]
            for item in items_of(packages, "name", drifted(drift, "package"))
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

    def _repair_paths(self, declaration: dict[str, list[Item]], rendered: Rendered, drift: Drift) -> None:
        changes: Item = {
            "directories": sorted(
                items_of(declaration["directories"], "path", drifted(drift, "directory")),
                key=lambda item: item["path"],
            ),
            "files": [
                rendered.to_write(item, drift)
                for item in items_of(declaration["files"], "path", drifted(drift, "file"))
            ],
            "links": items_of(declaration["links"], "path", drifted(drift, "link")),
            "absent": items_of(declaration["absent"], "path", drifted(drift, "absent")),
        }
        if any(changes.values()):
            owed = owed_handlers(declaration, drift)
            changes |= {"action": "apply", "owed": owed, "state_directory": self._state_directory()}
            self._on_host(changes)

    @staticmethod
    def _daemon_reload_due(drift: Drift) -> bool:
        return any(
            (entry["kind"] == "unit" and entry["what"] == "definition")
            or (entry["kind"] in {"file", "link", "absent"} and UNIT_DIRECTORY.fullmatch(entry["name"]))
            for entry in drift
        )
