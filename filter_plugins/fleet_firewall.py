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
"""
CHAIN = """\
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


FAMILIES = {"ipv4": (4, "ip"), "ipv6": (6, "ip6")}
Names = dict[str, list[str]]  # by set the names whose addresses are in it


def firewall_ruleset(rules: list[dict[str, Any]], ssh_port: int | list[int] = 22) -> str:
    ssh_ports = sorted(
        v.list_of(PORT, least=1, most=20)(ssh_port if isinstance(ssh_port, list) else [ssh_port])
    )
    lines, names = _read(rules)
    lines.insert(0, f'tcp dport {_set(ssh_ports)} accept comment "ssh"')
    # Dynamic: what is in them is not declared.
    sets = "".join(
        f"    set {name}_{family} {{ type {family}_addr; flags dynamic; }}\n"
        for name in names
        for family in FAMILIES
    )
    body = "".join(f"        {line}\n" for line in dict.fromkeys(lines))
    return f"{HEAD}{sets}{CHAIN}{body}    }}\n}}\n"


def firewall_names(rules: list[dict[str, Any]]) -> dict[str, Any]:
    _, names = _read(rules)
    flushed = [f"flush set inet mirrorfleet {name}_{family}\n" for name in names for family in FAMILIES]
    return {
        "lists": names,
        "head": "".join(flushed),
        "each": "add element inet mirrorfleet ${list}_$family { $addresses }\n",
        "between": ", ",
        "tail": "",
        "load": ["nft", "-f"],
    }


def _read(rules: Any) -> tuple[list[str], Names]:
    if not isinstance(rules, list):
        raise BadValueError(f"rules is {v.kind(rules)}", "a list of rules, maybe empty")
    report, lines, names = Report("firewall"), list[str](), Names()
    for index, rule in enumerate(rules):
        lines += _rule(rule, f"rule {index + 1}", report, names)
    report.raise_if_any()
    return lines, names


def _rule(rule: Any, key: str, report: Report, named: Names) -> list[str]:
    """For each family of sources a line for addresses and one for names; without sources it is open to all, with an
    empty list to nobody."""
    if not isinstance(rule, dict) or rule.keys() - set(KEYS) or "port" not in rule:
        report.add(key, f"is {v.shown(rule)}", "a mapping with port, and maybe protocol, sources, name")
        return []
    ports = rule["port"] if isinstance(rule["port"], list) else [rule["port"]]
    ports = report.try_check(f"{key}.port", v.list_of(PORT, least=1, most=100), ports)
    protocol = report.try_check(f"{key}.protocol", v.choice("tcp", "udp"), rule.get("protocol", "tcp"))
    name = report.try_check(f"{key}.name", _comment, rule.get("name", "service"))
    sources = report.try_check(f"{key}.sources", v.list_of(_source, most=10_000), rule.get("sources") or [])
    if None in (ports, protocol, name, sources):
        return []
    opened = f'{protocol} dport {_set(sorted(ports))} accept comment "{name}"'
    if rule.get("sources") is None:
        return [opened]
    lines = []
    names = [source for source in sources if _is_name(source)]
    title = "_".join([protocol, *map(str, sorted(ports))])
    if names:
        named[title] = list(dict.fromkeys([*named.get(title, []), *names]))
    for family, (version, word) in FAMILIES.items():
        # nft refuses a set whose intervals overlap
        nets = [ipaddress.ip_network(source) for source in sources if source not in names]
        merged = [str(n) for n in ipaddress.collapse_addresses(n for n in nets if n.version == version)]  # type: ignore[type-var]
        if merged:
            lines.append(f"{word} saddr {_set(merged)} {opened}")
        if names:
            lines.append(f"{word} saddr @{title}_{family} {opened}")
    return lines


def _is_name(source: str) -> bool:
    return ":" not in source and any(letter.isalpha() for letter in source)


def _source(value: Any) -> str:
    """A network, an address, or a name, whose addresses the host finds."""
    try:
        return v.network(value) if not isinstance(value, str) or not _is_name(value) else v.host_name(value)
    except BadValueError as wrong:
        allowed = "a DNS name, an address, or a network such as 192.0.2.0/24"
        raise BadValueError(wrong.problem, allowed, wrong.next_step) from wrong


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
    """From open ports to a ruleset, and to the names whose addresses are to be in its sets."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "firewall_names": as_filter(firewall_names),
            "firewall_ruleset": as_filter(firewall_ruleset),
        }
