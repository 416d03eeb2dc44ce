"""Renders a role's declaration on the control node, has the host checked in one module run, and repairs what differs.
Documented in library/host_state.yml (`ansible-doc -t module host_state`). What may be declared is in
plugin_utils/host_state_declaration.py, what follows from a difference in plugin_utils/host_state_drift.py.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import zlib
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure, AnsibleError
from ansible.plugins.action import ActionBase
from ansible.template import generate_ansible_template_vars, trust_as_template

sys.path.append(str(Path(__file__).resolve().parents[1]))
from plugin_utils.host_state_declaration import Declaration, Drift, Item, drifted, parse, parse_settled
from plugin_utils.host_state_drift import (
    daemon_reload_is_due,
    described,
    diff_of,
    in_words,
    masked_until_reboot,
    owed_handlers,
    ruleset_is_due,
    ruleset_of,
    texts_of,
    to_write,
)

STATE_DIRECTORY = "/var/lib/host_state"


class StepError(Exception):
    """A step on the host failed."""


def what_failed(result: Item) -> str:
    """A module's message, and what the program it ran said, unless the message has it already."""
    message = str(result.get("msg", "failed without a message"))
    said = str(result.get("stderr") or result.get("module_stderr") or "").strip()
    return message if said in message else f"{message}\n{said}"


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
            self._asks = bool(self._templar.template(self._vars.get("host_state_asks", False)))
            if self._asks:
                self._ask(declaration, result)
            else:
                self._converge(declaration, result)
        except StepError as error:
            result |= {"failed": True, "msg": str(error)}
        finally:
            self._remove_tmp_path(self._connection._shell.tmpdir)
        return result

    def _settle(self, handlers: list[str]) -> None:
        if not self._task.check_mode:
            self._on_host("settle", {"handlers": handlers})

    def _ask(self, declaration: Declaration, result: Item) -> None:
        """What would be changed, for whoever decides when: the host stays as it is, and no handler is notified."""
        answer = self._check(declaration, with_contents=self._task.diff)
        drift: Drift = answer["drift"]
        # In check mode nothing is changed anyway, and a person wants to see what would be.
        result |= {"changed": bool(drift) and self._task.check_mode, "drift": drift}
        if drift and self._task.diff:
            result["diff"] = diff_of(drift, texts_of(declaration, drift, answer["contents"]))
        due = list(self._vars.get("ansible_facts", {}).get("host_state_due", []))
        names = [entry["name"] for entry in drift if entry["name"] not in due]
        if names:
            result["ansible_facts"] = {"host_state_due": [*due, *dict.fromkeys(names)]}

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
        how = {"with_contents": with_contents, "remember": not (self._task.check_mode or self._asks)}
        return self._on_host("check", described(declaration) | how)

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
        if ruleset_is_due(declaration, drift):
            self._load(ruleset_of(declaration) or {})
        self._repair_paths(declaration, drift)
        if daemon_reload_is_due(drift):
            self._stock("systemd_service", {"daemon_reload": True}, "daemon-reload")
        for name in masked_until_reboot(drift):
            # The stock module removes lasting masks only.
            self._stock("command", {"argv": ["systemctl", "unmask", "--runtime", name]}, f"unit {name}")
        for declared in declaration.differing("units", drift):
            self._stock("systemd_service", declared, f"unit {declared['name']}")

    def _load(self, firewall: Item) -> None:
        """What is shut out cannot come back to mend it: the ruleset stays only if a new connection can be made."""
        self._on_host("load_on_trial", {"firewall": firewall})
        said = "a new connection came in only when the former one was back"
        try:
            self._connection.reset()
            taken_back = self._on_host("keep_proven", {})["taken_back"]
        except AnsibleConnectionFailure as error:
            taken_back, said = True, f"SSH said: {error}"
        if taken_back:
            raise StepError(
                "The new firewall lets no new connection of the control node in. The host takes the former one back "
                f"{firewall['trial_seconds']} seconds after it was loaded, and nothing on its disk was changed. "
                f"Look at the ports of its SSH server, and at who may come in by them; {said}"
            )

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
