"""Ask a host how it is; that it does not answer is an answer. Documented in library/host_status.yml."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.plugins.action import ActionBase

sys.path.append(str(Path(__file__).resolve().parents[1]))
from plugin_utils.told import of_ssh


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible has no types
    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        try:
            found = self._execute_module(task_vars=task_vars)
        except AnsibleConnectionFailure as error:
            return result | _without(of_ssh(str(error)), reached=False)
        except AnsibleError as error:  # such as a sudo that asks for a password
            return result | _without(str(error), reached=True)
        if "status" in found and not found.get("failed"):
            return result | {"status": found["status"], "reached": True, "problem": ""}
        words = ("module_stderr", "module_stdout", "msg")
        said = next((str(found[word]).strip() for word in words if found.get(word)), "no answer")
        return result | _without(of_ssh(said), reached=not found.get("unreachable"))


def _without(said: str, *, reached: bool) -> dict[str, Any]:
    lines = [line.strip() for line in said.splitlines() if line.strip()] or ["no answer"]
    return {"status": {}, "reached": reached, "problem": lines[-1].rstrip(":")}
