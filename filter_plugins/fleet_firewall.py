"""From the ports a host's roles need to one nftables table that opens just them."""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))
from plugin_utils import values as v
from plugin_utils.filters import as_filter
from plugin_utils.values import BadValueError, Report

KEYS = ("port", "protocol", "sources", "name")

HEAD = """\
# Declared, deleted, declared anew: loading this file replaces this table in one step and touches no other.
table inet mirrorfleet {}
delete table inet mirrorfleet
table inet mirrorfleet {
    chain input {
        type filter hook input priority filter; policy drop;
        iif "lo" accept
        ct state established,related accept
        ct state invalid drop
        # Reachability and path MTU discovery (RFC 4890; without neighbour discovery there is no IPv6).
        icmp type { echo-request, destination-unreachable, time-exceeded, parameter-problem } accept
        icmpv6 type { echo-request, destination-unreachable, packet-too-big } accept
        icmpv6 type { time-exceeded, parameter-problem } accept
        icmpv6 type { nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert, mld-listener-query } accept
        udp sport 547 udp dport 546 ip6 saddr fe80::/10 accept comment "DHCPv6 client"
"""

PORT = v.whole(1, 65535)


def firewall_ruleset(rules: list[dict[str, Any]], ssh_port: int | list[int] = 22) -> str:
    ssh_ports = sorted(
        v.list_of(PORT, least=1, most=20)(ssh_port if isinstance(ssh_port, list) else [ssh_port])
    )
    lines = [f'tcp dport {_set(ssh_ports)} accept comment "ssh"']
    if not isinstance(rules, list):
        raise BadValueError(f"rules is {v.kind(rules)}", "a list of rules, maybe empty")
    report = Report("firewall")
    for index, rule in enumerate(rules):
        lines += _rule(rule, f"rule {index + 1}", report)
    report.raise_if_any()
    return HEAD + "".join(f"        {line}\n" for line in dict.fromkeys(lines)) + "    }\n}\n"


def _rule(rule: Any, key: str, report: Report) -> list[str]:
    """One line a source family; a rule without sources is open to all, one with an empty list to nobody."""
    if not isinstance(rule, dict) or rule.keys() - set(KEYS) or "port" not in rule:
        report.add(key, f"is {v.shown(rule)}", "a mapping with port, and maybe protocol, sources, name")
        return []
    ports = rule["port"] if isinstance(rule["port"], list) else [rule["port"]]
    ports = report.try_check(f"{key}.port", v.list_of(PORT, least=1, most=100), ports)
    protocol = report.try_check(f"{key}.protocol", v.choice("tcp", "udp"), rule.get("protocol", "tcp"))
    name = report.try_check(f"{key}.name", _comment, rule.get("name", "service"))
    sources = report.try_check(f"{key}.sources", v.list_of(v.network, most=10_000), rule.get("sources") or [])
    if None in (ports, protocol, name, sources):
        return []
    opened = f'{protocol} dport {_set(sorted(ports))} accept comment "{name}"'
    if rule.get("sources") is None:
        return [opened]
    lines = []
    for family, word in ((4, "ip"), (6, "ip6")):
        # nft refuses a set whose intervals overlap
        nets = [n for n in map(ipaddress.ip_network, sources) if n.version == family]
        merged = [str(n) for n in ipaddress.collapse_addresses(nets)]  # type: ignore[type-var]
        if merged:
            lines.append(f"{word} saddr {_set(merged)} {opened}")
    return lines


def _comment(value: Any) -> str:
    """Text that cannot end the quoted comment; nft has no escape within quotes."""
    text = v.text(value, most=60)
    if not all(
        character.isascii() and (character.isalnum() or character in " ._-/()+,") for character in text
    ):
        raise BadValueError(f"is {v.shown(value)}", "ASCII letters, digits, blanks and . _ - / ( ) + ,")
    return text


def _set(members: list[Any]) -> str:
    return "{ " + ", ".join(str(member) for member in members) + " }"


class FilterModule:
    """From open ports to a ruleset."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"firewall_ruleset": as_filter(firewall_ruleset)}
