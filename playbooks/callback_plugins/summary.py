"""What every run of a playbook here ends with: what changed where, what failed at what, what to do next.

Ansible loads it because it lies beside the playbooks. What only a playbook knows it says by
`set_stats`: `fleet_summary` (by title and host a detail), `fleet_told` (lines), `fleet_table` (lines that stand apart),
`fleet_next`.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from ansible import constants, context
from ansible.plugins.callback import CallbackBase

sys.path.append(str(Path(__file__).resolve().parents[2]))
from plugin_utils.summary import Command, Failure, Summary
from plugin_utils.told import of_ssh

DOCUMENTATION = """
name: summary
type: aggregate
short_description: Ends every run with a few lines
description:
  - After the recap, what changed where, what the playbook told (M(ansible.builtin.set_stats)), which hosts failed at
    what and the next command. Of many hosts the first ten and a count.
  - Nothing of a task with C(no_log) is told, and of a failure nothing but its message.
"""


class CallbackModule(CallbackBase):  # type: ignore[misc]  # ansible ships no types
    """The callback, as Ansible loads it."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "summary"

    def __init__(self) -> None:
        super().__init__()
        self.began = time.monotonic()
        self.summary = Summary(Command("playbook"))
        # By host and task the first item of a loop that failed: who was asked in its stead, and what it said.
        self.items: dict[tuple[str, str], tuple[str, str]] = {}

    def v2_playbook_on_start(self, playbook: Any) -> None:
        typed = dict(context.CLIARGS)
        inventory = tuple(typed.get("inventory") or ())
        # As it was typed, if one playbook was.
        names = typed.get("args") or ()
        name = names[0] if len(names) == 1 else playbook._file_name
        self.summary = Summary(
            Command(
                str(name),
                () if list(inventory) == list(constants.DEFAULT_HOST_LIST or []) else inventory,
                str(typed.get("subset") or ""),
                bool(typed.get("extra_vars")),
            ),
            bool(typed.get("check")),
        )

    def v2_runner_on_ok(self, result: Any) -> None:
        if not result.task.loop:
            self._change(result)

    # Whom a loop asks only its items know.
    def v2_runner_item_on_ok(self, result: Any) -> None:
        self._change(result)

    def v2_runner_item_on_failed(self, result: Any) -> None:
        found = str(result.task.delegate_to or ""), str(result.result.get("msg") or "")
        self.items.setdefault((result.host.get_name(), result.task._uuid), found)

    def _change(self, result: Any) -> None:
        if result.result.get("changed"):
            role = result.task._role
            what = role.get_name() if role else result.task.get_name().strip()
            delegate = result.task.delegate_to
            self.summary.change(what, str(delegate or result.host.get_name()))

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            self._fail(result)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        self._fail(result, unreachable=True)

    def _fail(self, result: Any, unreachable: bool = False) -> None:
        found, task = result.result, result.task
        on, item = self.items.get((result.host.get_name(), task._uuid), (str(task.delegate_to or ""), ""))
        if "censored" in found:
            said = "what it said is hidden, for it handles secrets; its log is on the host"
        else:
            said = item or str(found.get("msg") or "")
            said = (
                of_ssh(said)
                if unreachable
                else said.removeprefix("Task failed: ").removeprefix("Action failed: ")
            )
        failure = Failure(task.get_name().strip(), said, bool(task.run_once), unreachable, on)
        self.summary.fail(result.host.get_name(), failure)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        failed = [host for host in stats.processed if stats.failures.get(host) or stats.dark.get(host)]
        told = stats.custom.get("_run", {})
        lines = self.summary.told(stats.processed, failed, told, time.monotonic() - self.began)
        self._display.display(lines[0], color="red" if failed else "green")
        for line in lines[1:]:
            self._display.display(line)
