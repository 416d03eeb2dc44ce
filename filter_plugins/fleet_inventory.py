"""From what the inventory plugin gives each host to what its roles are given.

Documentation of each filter: the YAML file of its name beside this one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))
from plugin_utils import contract, host_config, inputs, wiring
from plugin_utils import values as v
from plugin_utils.beside import ALSO_IN_GROUP_VARS, TLS
from plugin_utils.filters import as_filter, plain
from plugin_utils.inventory import PINNED_BY
from plugin_utils.values import BadValueError, Report


def fleet_ports(inputs: dict[str, Any], http3: bool = False) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    if inputs["names"]:
        found += [{"port": 80}, {"port": 443}]
        if http3 in (True, "true", "True", "yes"):
            found.append({"port": 443, "protocol": "udp"})
    for port, sources in ((873, inputs.get("rsync_clients")), (9100, inputs["monitors"])):
        if sources:
            found.append({"port": port, "sources": sources})
    for kept in inputs.get("open_ports", []):
        number, _, protocol = str(kept).partition("/")
        found.append(
            {"port": int(number), "protocol": protocol or "tcp", "name": "another service of the host"}
        )
    return found


def mailed_by(contacts: dict[str, Any], relay: dict[str, Any]) -> dict[str, Any]:
    report = Report("all")
    checked = contract.one("fleet_mail_relay", relay, contract.FLEET, report) if relay else {}
    report.raise_if_any()
    return contacts | {"relay": checked}


def input_problems(
    hosts: list[str], hostvars: Mapping[str, Any], beside: dict[str, Any]
) -> list[dict[str, Any]]:
    if not isinstance(hostvars, Mapping):
        raise BadValueError(f"hostvars is {v.kind(hostvars)}", "Ansible's hostvars")
    told: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for host in v.list_of(v.text)(hosts):
        for problem in _problems(host, hostvars.get(host, {}), beside):
            told.setdefault((problem["key"], problem["problem"]), []).append(problem)
    # What all hosts share stands in a place that they share, and is told once.
    evaluated = [
        problem | ({"host": "all"} if len(hosts) > 1 and len(problems) == len(hosts) else {})
        for problems in told.values()
        for problem in (problems[:1] if len(problems) == len(hosts) else problems)
    ]
    # What a file sets for a group is one mistake, of however many hosts.
    written = [one for one in beside["problems"] if _concerns(one, hosts, hostvars)]
    return list({json.dumps(one): one for one in [*written, *evaluated]}.values())


def _concerns(problem: dict[str, Any], hosts: list[str], hostvars: Mapping[str, Any]) -> bool:
    """Whether a problem of a file is one of these hosts'; what is another host's alone is no matter of theirs."""
    if problem["host"] not in hosts and problem["host"] in hostvars:
        return False
    if not problem["key"].startswith("fleet_versions."):
        return True
    elsewhere = PINNED_BY[problem["key"].split(".")[1]]  # as the command line may say
    return not any(elsewhere in hostvars.get(host, {}) for host in hosts)


def _problems(host: str, values: Any, beside: dict[str, Any]) -> list[dict[str, Any]]:
    """What is wrong with a host's variables as they are evaluated, and was not told of them as they are written."""
    if not isinstance(values, Mapping):
        raise BadValueError(f"hostvars of {v.shown(host)} is {v.kind(values)}", "Ansible's hostvars")
    report = Report(host)
    given: dict[str, Any] = {}
    groups = plain(values.get("group_names", []))
    for key in sorted(key for key in values if isinstance(key, str)):
        contract_of = contract.RECORD if key in TLS else contract.FLEET if key in ALSO_IN_GROUP_VARS else ""
        if contract_of or (
            key in inputs.documented()
            and key not in beside["left_alone"]
            and (not groups or wiring.concerns(inputs.role_of(key), groups))
        ):
            try:
                value = plain(values[key])
            except BadValueError as wrong:
                report.add(key, wrong.problem, wrong.allowed, wrong.next_step)
                continue
            if value == "" and key in TLS:
                continue
            given[key] = value
            if contract_of:
                shape = contract.keys(contract_of)[key]
                contract.one(key, _on_a_command_line(value, shape), contract_of, report)
            else:
                inputs.check(key, _on_a_command_line(value, inputs.documented()[key]), report)
        elif inputs.role_of(key) and not {key} & {*inputs.documented(), *beside["own"]}:
            inputs.check(key, None, report)
    contract.tls_needs(given, report)
    known = {
        (one["key"], one["problem"]) for one in beside["problems"]
        if one["host"] == host or one["file"].startswith("group_vars/")
    }  # fmt: skip
    return [_in_its_file(one, beside) for one in report.problems if (one["key"], one["problem"]) not in known]


def _in_its_file(problem: dict[str, Any], beside: dict[str, Any]) -> dict[str, Any]:
    """A problem with the place that the value comes from, as far as a file sets it."""
    places = [one for one in beside["places"] if one["key"] == problem["key"]]
    own = [one for one in places if one["file"].startswith("host_vars/") and one["scope"] == problem["host"]]
    shared = [one for one in places if one["file"].startswith("group_vars/")]
    if not (place := next(iter([*own, *shared]), None)):
        return problem
    where = {"host": place["scope"], "file": place["file"], "line": place["line"]}
    return problem | where | {"next_step": f"correct {problem['key']} in {place['file']}"}


def _on_a_command_line(value: Any, shape: dict[str, Any]) -> Any:
    """There every value is text: `-e KEY=VALUE`."""
    kind = shape.get("type")
    if isinstance(value, str) and kind in ("boolean", "bool") and value in ("true", "false"):
        return value == "true"
    if isinstance(value, str) and kind in ("integer", "int") and value.isascii() and value.isdigit():
        return json.loads(value.lstrip("0") or "0")
    return value


class FilterModule:
    """Filters from the inventory to what hosts are given."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "fleet_ports": as_filter(fleet_ports),
            "input_problems": as_filter(input_problems, as_given=("hostvars",)),
            "mailed_by": as_filter(mailed_by),
            "mirror_config": as_filter(host_config.mirror_config),
        }
