"""Who of the fleet can be sent clients now, and why others cannot. Pure.

The list decides slowly who belongs to the fleet's public face; a redirector follows faster, for it can: who is drained
or held, or failed its last round, gets nobody from the next run on, and gets them back with the next good round.
"""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..common.config import bounded
from ..fleet.health import Findings
from ..fleet.registry import Registry
from ..fleet.standing import FEWEST_FOR_CUT_OFF, span
from .pools import FAMILIES, Mirror


@dataclass(frozen=True)
class Limits:
    """When what is known of a mirror is not enough to send clients to it."""

    maximum_age: int = bounded(60, default=7 * 86400)  # seconds since it last had everything
    silence_seconds: int = bounded(1, default=900)  # age at which measurements say nothing any more
    cut_off_share: float = bounded(0, 1, default=0.5)  # of the list: failing at once, the monitor is cut off


@dataclass(frozen=True)
class Told:
    """All that a run decides by."""

    registry: Registry
    listed: Mapping[str, frozenset[str]]  # by mirror, the address families for which the list has it
    findings: Findings
    holds: Mapping[str, str]
    families: tuple[str, ...]  # which this host has itself, to ask mirrors
    limits: Limits
    now: int


def listed_families(document: Any) -> dict[str, frozenset[str]]:
    """Of `mirrors.json` who is listed, and for which address families."""
    return {one["name"]: frozenset(one["address_families"]) for one in document["mirrors"] if one["listed"]}


def mirrors(told: Told) -> list[Mirror]:
    """Every mirror whose record can be used, by name."""
    believed = _believed(told)
    return [
        _mirror(record, told, believed=believed)
        for name, record in sorted(told.registry.mirrors.items())
        if name not in told.registry.wrong
    ]


def _believed(told: Told) -> bool:
    """Whether a failed round is the mirror's fault: not of a monitor that is silent, or that most mirrors fail for."""
    monitor, limits = told.findings.monitor, told.limits
    if monitor is None or monitor.reference_problem or told.now - monitor.at > limits.silence_seconds:
        return False
    seen = [told.findings.health[name] for name in told.listed if name in told.findings.health]
    failing = sum(one.deaf for one in seen)
    return len(seen) < FEWEST_FOR_CUT_OFF or failing <= limits.cut_off_share * len(seen)


def _mirror(record: dict[str, Any], told: Told, *, believed: bool) -> Mirror:
    name = record["name"]
    health = told.findings.health.get(name)
    problem = _problem(record, told)
    serving = frozenset() if problem else told.listed.get(name, frozenset()) & set(record["address_families"])
    if health and believed and not problem:
        failing = {family for family in serving if health.over(family).bad}
        problem = "; ".join(sorted({health.over(family).problem for family in failing}))
        serving -= failing
    more = told.findings.more.get(name, {})
    addresses = tuple(sorted(_addresses(more.get("addresses", []), serving & set(told.families))))
    if serving and not addresses:
        problem, serving = "no address is known of it at which this host could ask it", frozenset()
    return Mirror(
        name=name,
        url=record["url"],
        weight=record["bandwidth"],
        country=record["location"]["country"],
        continent=record["location"]["continent"],
        networks=tuple(dict.fromkeys(filter(None, map(_network, record["networks"])))),
        families=tuple(family for family in FAMILIES if family in record["address_families"]),
        serving=serving,
        addresses=addresses,
        why_not=problem,
    )


def _problem(record: dict[str, Any], told: Told) -> str:
    name, age = record["name"], told.limits.maximum_age
    if record["state"] != "active":
        return str(record["state"])
    if name in told.holds:
        return "held"
    if name not in told.listed:
        return "not on the list"
    # A cache has no tree that could be old.
    if record["mode"] != "cache":
        health = told.findings.health.get(name)
        if health is None or health.last_modified is None:
            return "nobody knows how old its content is"
        if told.now - health.last_modified > age:
            return f"its content is {span(told.now - health.last_modified)} old, allowed are {span(age)}"
    return ""


def _network(text: str) -> str:
    """A network or AS number as pools are named by it, "" for what is none."""
    if text[:2].upper() == "AS" and text[2:].isdecimal() and text.isascii():
        return f"AS{int(text[2:])}"
    try:
        return str(ipaddress.ip_network(text, strict=False))
    except ValueError:
        return ""


def _addresses(texts: list[str], families: set[str] | frozenset[str]) -> set[str]:
    found = set()
    for text in texts:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            continue
        # A scope would name an interface of the monitor's.
        if f"ipv{address.version}" in families and "%" not in text:
            found.add(str(address))
    return found
