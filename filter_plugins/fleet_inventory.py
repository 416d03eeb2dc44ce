"""From what the inventory plugin gives each host to what its roles are given.

Documentation of each filter: the YAML file of its name beside this one.
"""

from __future__ import annotations

import ipaddress
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))
from plugin_utils import contract, host_config
from plugin_utils import values as v
from plugin_utils.filters import as_filter, plain
from plugin_utils.old_form import ALSO_IN_GROUP_VARS
from plugin_utils.values import BadValueError, Report

TLS = [key for key in contract.keys(contract.RECORD) if key.startswith("tls_")]


def fleet_addresses(names: list[str], resolved: list[str]) -> list[str]:
    known: dict[str, set[str]] = {}
    for line in v.list_of(v.text)(list(dict.fromkeys(resolved))):
        name, _, address = line.partition(" ")
        known.setdefault(name, set()).add(address)
    found = set()
    for name in names:
        for address in known.get(v.address(name), {name}):
            try:
                one = ipaddress.ip_address(address)
            except ValueError:
                continue  # a name that does not resolve yet
            if not one.is_loopback and not one.is_link_local:
                found.add(str(one))
    return sorted(found)


def fleet_ports(inputs: dict[str, Any], resolved: list[str], http3: bool = False) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    if inputs["names"]:
        found += [{"port": 80}, {"port": 443}]
        if http3 in (True, "true", "True", "yes"):
            found.append({"port": 443, "protocol": "udp"})
    # Open to those alone whose address is known: an empty list of sources would let nobody in, none at all everybody.
    for port, names in ((873, inputs.get("rsync_clients", [])), (9100, inputs["monitors"])):
        if sources := fleet_addresses(names, resolved):
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


def input_problems(hosts: list[str], hostvars: Mapping[str, Any], inputs: list[str]) -> list[dict[str, Any]]:
    if not isinstance(hostvars, Mapping):
        raise BadValueError(f"hostvars is {v.kind(hostvars)}", "Ansible's hostvars")
    told: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for host in v.list_of(v.text)(hosts):
        for problem in _problems(host, hostvars.get(host, {}), inputs):
            told.setdefault((problem["key"], problem["problem"]), []).append(problem)
    # What all hosts share stands in a place that they share, and is told once.
    return [
        problem | ({"host": "all"} if len(hosts) > 1 and len(problems) == len(hosts) else {})
        for problems in told.values()
        for problem in (problems[:1] if len(problems) == len(hosts) else problems)
    ]


def _problems(host: str, values: Any, inputs: list[str]) -> list[dict[str, Any]]:
    if not isinstance(values, Mapping):
        raise BadValueError(f"hostvars of {v.shown(host)} is {v.kind(values)}", "Ansible's hostvars")
    report = Report(host)
    given: dict[str, Any] = {}
    for key in sorted(key for key in values if isinstance(key, str) and key.startswith(("fleet_", "tls_"))):
        if key in (*TLS, *ALSO_IN_GROUP_VARS):
            try:
                value = plain(values[key])
            except BadValueError as wrong:
                report.add(key, wrong.problem, wrong.allowed, wrong.next_step)
                continue
            if value == "" and key in TLS:
                continue
            given[key] = value
            name = contract.RECORD if key in TLS else contract.FLEET
            contract.one(key, _on_a_command_line(value, contract.keys(name)[key]), name, report)
        elif key.startswith("tls_") and inputs and key not in inputs:
            report.add(key, "is no input of the role tls", ", ".join(inputs), v.did_you_mean(key, inputs))
    if given.get("tls_mode") == "acme":
        _check_acme(given, report)
    return report.problems


def _on_a_command_line(value: Any, shape: dict[str, Any]) -> Any:
    """There every value is text: `-e KEY=VALUE`."""
    if isinstance(value, str) and shape.get("type") == "boolean" and value in ("true", "false"):
        return value == "true"
    if isinstance(value, str) and shape.get("type") == "integer" and value.isascii() and value.isdigit():
        return json.loads(value.lstrip("0") or "0")
    return value


def _check_acme(given: dict[str, Any], report: Report) -> None:
    needed = {"tls_acme_directory": "the https URL of an ACME server's directory (tls_mode acme)"}
    binding = {
        "tls_acme_eab_key_id": "the key id of the external account binding, with tls_acme_eab_hmac",
        "tls_acme_eab_hmac": "the key of the external account binding, with tls_acme_eab_key_id",
    }
    if binding.keys() & given.keys():
        needed |= binding
    told = {problem["key"] for problem in report.problems}
    for key, allowed in needed.items():
        if key not in given and key not in told:
            report.add(
                key, "is missing", allowed, f"add {key} to the record, or to group_vars/ or host_vars/"
            )


class FilterModule:
    """Filters from the inventory to what hosts are given."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "fleet_addresses": as_filter(fleet_addresses),
            "fleet_ports": as_filter(fleet_ports),
            "input_problems": as_filter(input_problems, as_given=("hostvars",)),
            "mailed_by": as_filter(mailed_by),
            "mirror_config": as_filter(host_config.mirror_config),
        }
