"""Who of the fleet can be sent clients now, and why others cannot. Pure.

The list decides slowly who belongs to the fleet's public face; a redirector follows faster, for it can: who is drained
or held, or failed its last round for most monitors, gets nobody from the next run on, and gets them back with the next
good round (fleet/standing.py, `follow`).
"""

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..common.config import bounded
from ..fleet.standing import Inputs, Standing, follow, span
from .pools import FAMILIES, Mirror


@dataclass(frozen=True)
class Limits:
    """When what is known of a mirror is not enough to send clients to it."""

    maximum_age: int = bounded(60, default=7 * 86400)  # seconds since it last had everything


@dataclass(frozen=True)
class Known:
    """What monitors last told of a mirror, beside how it is: true for longer than a round, and so remembered."""

    addresses: tuple[str, ...] = ()
    last_modified: int | None = None


@dataclass(frozen=True)
class Told:
    """All that a run decides by."""

    inputs: Inputs  # as the list has them
    listed: Mapping[str, frozenset[str]]  # by mirror, the address families for which the list has it
    known: Mapping[str, Known]
    families: tuple[str, ...]  # which this host has itself, to ask mirrors
    limits: Limits


def listed_families(document: Any) -> dict[str, frozenset[str]]:
    """Of `mirrors.json` who is listed, and for which address families."""
    return {one["name"]: frozenset(one["address_families"]) for one in document["mirrors"] if one["listed"]}


def mirrors(told: Told) -> list[Mirror]:
    """Every mirror whose record can be used, by name."""
    registry, standings = told.inputs.registry, follow(told.inputs, told.listed)
    return [
        _mirror(record, told, standings.get(name))
        for name, record in sorted(registry.mirrors.items())
        if name not in registry.wrong
    ]


def _mirror(record: dict[str, Any], told: Told, standing: Standing | None) -> Mirror:
    name, claimed = record["name"], record["address_families"]
    known = told.known.get(name, Known())
    listed = told.listed.get(name, frozenset()) & set(claimed)
    serving = listed & set(standing.listed_families) if standing else frozenset()
    problem = _problem(record, known, told) if serving else ""
    if problem:
        serving = frozenset()
    elif standing is None:
        problem = str(record["state"]) if record["state"] != "active" else "not on the list"
    else:
        problem = "; ".join(
            dict.fromkeys(standing.families[one].reason for one in claimed if one in listed - serving)
        )
    addresses = tuple(sorted(_addresses(known.addresses, serving & set(told.families))))
    if serving and not addresses:
        problem, serving = "no address is known of it at which this host could ask it", frozenset()
    return Mirror(
        name=name,
        url=record["url"],
        weight=record["bandwidth"],
        country=record["location"]["country"],
        continent=record["location"]["continent"],
        networks=tuple(dict.fromkeys(filter(None, map(_network, record["networks"])))),
        families=tuple(family for family in FAMILIES if family in claimed),
        serving=serving,
        addresses=addresses,
        why_not=problem,
    )


def _problem(record: dict[str, Any], known: Known, told: Told) -> str:
    """Why nobody is sent to a mirror that the list has: for as long as no monitor has a vote, that has it for ever."""
    if record["mode"] == "cache":  # has no tree that could be old
        return ""
    if known.last_modified is None:
        return "nobody knows how old its content is"
    age, allowed = told.inputs.now - known.last_modified, told.limits.maximum_age
    return f"its content is {span(age)} old, allowed are {span(allowed)}" if age > allowed else ""


def _network(text: str) -> str:
    """A network or AS number as pools are named by it, "" for what is none."""
    if text[:2].upper() == "AS" and text[2:].isdecimal() and text.isascii():
        return f"AS{int(text[2:])}"
    try:
        return str(ipaddress.ip_network(text, strict=False))
    except ValueError:
        return ""


def _addresses(texts: Iterable[str], families: set[str] | frozenset[str]) -> set[str]:
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
