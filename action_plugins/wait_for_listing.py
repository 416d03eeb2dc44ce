"""Read what published lists say of a mirror, or wait until it is listed. Documented in library/wait_for_listing.yml."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

sys.path.append(str(Path(__file__).resolve().parents[1]))
from plugin_utils.waiting import Wait

display = Display()

POLL_SECONDS = 5.0
ANSWER_SECONDS = 30
# What no waiting changes: it is listed, or a person has to do something.
FINAL = ("listed", "drained", "held", "agreement", "invalid", "retired")
UNKNOWN = {"listed": False, "code": "unknown", "reason": "The list does not know it."}


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible has no types
    TRANSFERS_FILES = False
    _VALID_ARGS = frozenset(("urls", "mirror", "seconds", "ca_path"))

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        given = self._task.args
        urls, mirror = [str(url) for url in given.get("urls") or []], str(given.get("mirror", ""))
        if not urls or not mirror:
            raise AnsibleActionFail("urls and mirror are needed: lists, and the name of a mirror on them")
        seconds = float(given.get("seconds", 0))
        wait = Wait(seconds, lambda line: display.display(f"    {mirror}: {line}"))
        entries: dict[str, dict[str, Any]] = {}
        while True:
            unread = ""
            for url in urls:
                entry, problem = self._entry(url, mirror, str(given.get("ca_path", "")), task_vars or {})
                entries[url], unread = entry, unread or problem
            waiting = [url for url in urls if entries[url].get("code") not in FINAL]
            if not waiting or (not unread and not seconds):
                break
            reason = unread or str(entries[waiting[0]].get("reason", ""))
            if not wait.left:
                if unread:
                    raise AnsibleActionFail(
                        f"{unread}. Mend it, or whoever asks it, and run this playbook again."
                    )
                break
            wait.tell(f"waits to be listed by {waiting[0]}: {reason}")
            time.sleep(min(POLL_SECONDS, wait.left))
        return result | {"changed": False, "entries": [entries[url] for url in urls]}

    def _entry(
        self, url: str, mirror: str, ca_path: str, task_vars: dict[str, Any]
    ) -> tuple[dict[str, Any], str]:
        """What a list says of the mirror, and why it could not be read."""
        wanted = {"url": url, "return_content": True, "timeout": ANSWER_SECONDS}
        said = self._execute_module(
            module_name="ansible.builtin.uri",
            module_args=wanted | ({"ca_path": ca_path} if ca_path else {}),
            task_vars=task_vars,
        )
        listed = said.get("json", {}).get("mirrors") if isinstance(said.get("json"), dict) else None
        if said.get("failed") or not isinstance(listed, list):
            why = said.get("msg", "") if said.get("failed") else "it is no list of mirrors"
            return UNKNOWN, f"{url} cannot be read: {why}"
        return next((dict(one) for one in listed if one.get("name") == mirror), UNKNOWN), ""
