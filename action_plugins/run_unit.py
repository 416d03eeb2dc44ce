"""Run a oneshot unit to its end, with its log on the coordinator's screen. Documented in library/run_unit.yml."""

from __future__ import annotations

import json
import shlex
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

POLL_SECONDS = 2.0
ANSWER_SECONDS = 60  # of one look at the host
# Never a pager, colours or links, whatever terminal the connection has.
PLAIN = f"env SYSTEMD_PAGER= SYSTEMD_COLORS=0 SYSTEMD_URLIFY=0 timeout {ANSWER_SECONDS}"
LINES_KEPT = 15
FINISHED = ("inactive", "failed")
PROPERTIES = "ActiveState,SubState,StatusText,Result,Job"
TIMED_OUT = 124  # as timeout(1) ends


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible has no types
    TRANSFERS_FILES = False
    _VALID_ARGS = frozenset(("unit", "timeout"))

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        unit, seconds = self._task.args.get("unit"), self._task.args.get("timeout", 3600)
        if not isinstance(unit, str) or not unit.endswith(".service"):
            raise AnsibleActionFail(
                f"unit: {unit!r} is no service; name one with its suffix, as in NAME.service"
            )
        result["changed"] = True
        if self._task.check_mode:
            return result
        host = (task_vars or {}).get("inventory_hostname", "")
        quoted = shlex.quote(unit)
        # Whatever was logged before belongs to former runs.
        since = self._end_of_journal()
        told: list[str] = []
        self._shell(f"systemctl --no-pager start --no-block {quoted}")
        wait = Wait(float(seconds), lambda line: display.display(f"    {host}: {line}"))
        while True:
            state = self._shell(f"systemctl --no-pager show --property {PROPERTIES} {quoted}")
            values = dict(line.split("=", 1) for line in state.splitlines() if "=" in line)
            finished = values.get("ActiveState") in FINISHED and values.get("Job", "") in ("", "0")
            lines, since = self._log(unit, since)
            told += lines
            for line in lines:
                display.display(f"    {host}: {line}")
                wait.heard()
            if finished:
                break
            if not wait.left:
                raise AnsibleActionFail(
                    f"{host}: {unit} still runs after {seconds} s. It goes on by itself; look with "
                    f"`journalctl -fu {unit}` on the host, and run this playbook again when it is done."
                )
            wait.tell(
                f"{unit} is {values.get('ActiveState')}, {values.get('StatusText') or values.get('SubState')}"
            )
            time.sleep(POLL_SECONDS)
        result["lines"] = told[-LINES_KEPT:]
        if values.get("Result") != "success":
            raise AnsibleActionFail(
                f"{host}: {unit} failed ({values.get('Result')}). Its last lines:\n"
                + "\n".join(result["lines"])
                + "\nMend the cause and run this playbook again; it goes on where this stopped."
            )
        return result

    def _end_of_journal(self) -> str:
        """What to ask the journal for, to be told what comes from now on."""
        out = self._shell("journalctl --lines 1 --output json --no-pager").strip()
        return (
            _after(json.loads(out)) if out.startswith("{") else f"--since @{self._shell('date +%s').strip()}"
        )

    def _log(self, unit: str, since: str) -> tuple[list[str], str]:
        """What the unit has logged since then, and what to ask for next time."""
        out = self._shell(f"journalctl --unit {shlex.quote(unit)} --output json --no-pager {since}")
        entries = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
        # systemd's own words about the unit carry another _SYSTEMD_UNIT.
        lines = [str(e["MESSAGE"]) for e in entries if e.get("_SYSTEMD_UNIT") == unit]
        return lines, _after(entries[-1]) if entries else since

    def _shell(self, command: str) -> str:
        outcome = self._low_level_execute_command(f"{PLAIN} {command}")
        if outcome["rc"] == TIMED_OUT:
            raise AnsibleActionFail(
                f"`{command}` did not end within {ANSWER_SECONDS} s. The host is stuck, or its systemd is: look at it, "
                "and run this playbook again."
            )
        if outcome["rc"]:
            raise AnsibleActionFail(f"`{command}` ended with {outcome['rc']}: {outcome['stderr'].strip()}")
        return str(outcome["stdout"])


def _after(entry: dict[str, Any]) -> str:
    return f"--after-cursor {shlex.quote(entry['__CURSOR'])}"
