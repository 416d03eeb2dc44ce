"""A run in a few lines: what changed where, what failed, what to do next. Few for a thousand hosts, too."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from plugin_utils.told import counted, plain, printable, some, span

MOST = 10  # names, lines of a kind
MOST_ROLES = 20  # more than there are
# After a run in which all went well. {} is a playbook of the same folder, with the run's own inventory and hosts.
NEXT = {
    "preflight.yml": ("provision.yml",),
    "provision.yml": ("status.yml",),
    "site.yml": ("status.yml",),
    "publish.yml": ("status.yml",),
    "update.yml": ("status.yml",),
    "rollback.yml": ("status.yml",),
    "retire.yml": ("status.yml",),
}
PAGES = {
    "provision.yml": "docs/provision.md",
    "preflight.yml": "docs/provision.md",
    "site.yml": "docs/provision.md",
    "publish.yml": "docs/publish.md",
    "update.yml": "docs/update.md",
    "rollback.yml": "docs/update.md",
    "audit.yml": "docs/audit.md",
    "retire.yml": "docs/retire.md",
    "status.yml": "docs/status.md",
    "maintenance.yml": "docs/monitoring.md",
    "sandbox.yml": "docs/development.md",
    "demo.yml": "docs/development.md",
}
# Where to go on for those that failed alone is no question of the others.
ONE_BY_ONE = ("provision.yml", "site.yml", "audit.yml")


@dataclass(frozen=True)
class Command:
    """How the run was started, without what may be secret of it (-e)."""

    playbook: str
    inventory: tuple[str, ...] = ()
    limit: str = ""
    more: bool = False  # variables were given by -e

    @property
    def name(self) -> str:
        return os.path.basename(self.playbook)

    def again(self, hosts: Iterable[str] = ()) -> str:
        return self._typed(self.playbook, ",".join(hosts) or self.limit) + (
            " (with the same -e)" if self.more else ""
        )

    def other(self, name: str, hosts: str = "") -> str:
        return self._typed(os.path.join(os.path.dirname(self.playbook), name), hosts)

    def _typed(self, playbook: str, limit: str) -> str:
        words = ["ansible-playbook", *(word for one in self.inventory for word in ("-i", one)), playbook]
        return shlex.join([*words, *(["--limit", limit] if limit else [])])


@dataclass(frozen=True)
class Failure:
    """What a task said of a host, or of all of them (`everybody`); `on` is who was asked, where it is another."""

    task: str
    said: str
    everybody: bool = False
    unreachable: bool = False
    on: str = ""


@dataclass
class Summary:
    """Collected while a run goes on."""

    command: Command
    check: bool = False
    changed: dict[str, dict[str, None]] = field(default_factory=dict)  # by what, where
    failures: dict[str, Failure] = field(default_factory=dict)  # by host its last

    def change(self, what: str, where: str) -> None:
        self.changed.setdefault(what, {})[where] = None

    def fail(self, host: str, failure: Failure) -> None:
        self.failures[host] = failure

    def told(
        self, hosts: Iterable[str], failed: Iterable[str], told: Mapping[str, Any], seconds: float
    ) -> list[str]:
        """The lines. `failed` are the hosts for which the run ended, `told` what its playbook set (set_stats)."""
        all_hosts, ended = list(hosts), {host: self.failures.get(host, Failure("", "")) for host in failed}
        count = counted(len(all_hosts), "host")
        how = f"failed on {len(ended)} of {count}" if ended else f"{count}, nothing failed"
        lines = [f"{self.command.name}: {how}, in {span(seconds)}"]
        lines += self._changes()
        lines += _by_title(told.get("fleet_summary"))
        lines += [f"  {line}" for line in _texts(told.get("fleet_told"))]
        lines += _failures(ended)
        lines += [f"  Next: {line}" for line in self._next(ended, told)]
        # The table stands apart: it is what the run was for.
        if table := _texts(told.get("fleet_table")):
            lines += ["", *table]
        return lines

    def _changes(self) -> Iterator[str]:
        if not self.changed:
            yield "  Nothing would change." if self.check else "  Nothing was changed."
            return
        yield "  Would change:" if self.check else "  Changed:"
        for what, where in list(self.changed.items())[:MOST_ROLES]:
            yield f"    {printable(what, 80)}: {some(sorted(where))}"
        if len(self.changed) > MOST_ROLES:
            yield f"    and {len(self.changed) - MOST_ROLES} more, above"

    def _next(self, ended: Mapping[str, Failure], told: Mapping[str, Any]) -> Iterator[str]:
        name, command = self.command.name, self.command
        if not ended:
            # Of a check nothing follows but the run itself.
            given = _texts(told.get("fleet_next"))
            known = [
                command.other(one, command.limit if one == "provision.yml" else "")
                for one in NEXT.get(name, ())
            ]
            yield from given or ([] if self.check else known)
            return
        lost = [one.on or host for host, one in ended.items() if one.unreachable]
        if lost:
            yield f"ansible {shlex.quote(lost[0])} -m ansible.builtin.ping says what keeps SSH from it"
        alone = name in ONE_BY_ONE and len(ended) <= MOST and not any(one.everybody for one in ended.values())
        page = f" ({PAGES[name]})" if name in PAGES else ""
        yield f"mend it{page}, then {command.again(sorted(ended) if alone else ())}"


def _failures(ended: Mapping[str, Failure]) -> Iterator[str]:
    """Hosts that failed alike are told together; of what a task said the first lines."""
    alike: dict[Failure, list[str]] = {}
    for host, failure in ended.items():
        alike.setdefault(failure, []).append(host)
    for failure, hosts in list(alike.items())[:MOST]:
        who = "the run" if failure.everybody else some(sorted(hosts))
        if failure.unreachable:
            how = f"{printable(failure.on, 80) or who} did not answer"
        else:
            on = f" on {printable(failure.on, 80)}" if failure.on else ""
            how = f"{who} failed" + (f" at {failure.task!r}{on}" if failure.task else "")
        # Whole, with what to do next at its end.
        said = [printable(line, 1000) for line in failure.said.splitlines() if line.strip()]
        yield f"  {how}" + (f": {said[0]}" if said else "")
        yield from (f"    {line}" for line in said[1:MOST])
        if len(said) > MOST:
            yield f"    and {len(said) - MOST} more lines, above"
    if len(alike) > MOST:
        yield f"  and {sum(len(hosts) for hosts in list(alike.values())[MOST:])} hosts more, above"


def _by_title(told: Any) -> Iterator[str]:
    """By title and host a detail: hosts of which the same is told are told together."""
    for title, by_host in (told if isinstance(told, Mapping) else {}).items():
        alike: dict[str, list[str]] = {}
        for host, detail in (by_host if isinstance(by_host, Mapping) else {}).items():
            alike.setdefault(printable(detail) if detail else "", []).append(str(host))
        for detail, hosts in list(alike.items())[:MOST]:
            count = f" ({len(hosts)})" if len(hosts) > MOST else ""
            yield f"  {printable(title, 80)}{count}: {some(sorted(hosts))}" + (
                f": {detail}" if detail else ""
            )
        if len(alike) > MOST:
            rest = sum(len(hosts) for hosts in list(alike.values())[MOST:])
            yield f"  {printable(title, 80)}: {rest} more"


def _texts(told: Any) -> list[str]:
    return [plain(one).rstrip() for one in told] if isinstance(told, list) else []
