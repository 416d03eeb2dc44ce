"""The registry: what the inventory says of a fleet's mirrors, as the hosts' programs read it (docs/schemas)."""

from __future__ import annotations

from typing import Any

from plugin_utils.rules import Fleet

PUBLIC_PERSON = ("name", "email", "url")  # what the registry tells of one; a webhook's URL is a secret


def registry(fleet: Fleet) -> dict[str, Any]:
    shared = fleet.shared
    return {
        "schema": 1,
        "fleet": {
            "name": shared["fleet_name"],
            "coordinator": _public(shared["fleet_coordinator"]),
            "agreement_version": shared["fleet_agreement_version"],
            "staleness_limit": shared["fleet_staleness_limit"],
        },
        "origins": [{"name": name, "url": fleet.urls(name)[0]} for name in sorted(fleet.groups["origins"])],
        # A mirror whose record is wrong is named, so that the list says why it is off it.
        "mirrors": [
            {"name": name, "problem": _first_problem(name, fleet)}
            if name in fleet.broken
            else _entry(name, fleet)
            for name in sorted([*fleet.groups["mirrors"], *fleet.broken])
        ],
    }


def measured(fleet: Fleet) -> dict[str, Any]:
    """What mirrors are to have, and what the trusted index has, for monitors (monitor.json): each list said once."""
    alike: dict[tuple[Any, ...], list[str]] = {}
    for name in fleet.groups["mirrors"]:
        projects, without = _carried(fleet, name), _without(fleet, name)
        if projects is not None or without:
            alike.setdefault((tuple(sorted(projects or ())), tuple(sorted(without))), []).append(name)
    origin = next(iter(sorted(fleet.groups["origins"])), None)
    carries = fleet.carried(origin) if origin else None
    return {
        "selections": [
            {"mirrors": sorted(names), "projects": list(projects), "without": list(without)}
            for (projects, without), names in sorted(alike.items())
        ],
        "reference": {"carries": sorted(carries or ())},
    }


def _carried(fleet: Fleet, name: str) -> set[str] | None:
    """The projects that a mirror can be asked for; a cache has what its upstream has."""
    above = fleet.feeder(name)
    if fleet.records[name].get("mirror_mode") == "cache" and above is not None:
        return fleet.carried(above) if above in fleet.groups["origins"] else _carried(fleet, above)
    return fleet.carried(name)


def _without(fleet: Fleet, name: str) -> set[str]:
    """The projects that it, or the tier above it, leaves out by name."""
    above = fleet.feeder(name)
    found = set() if above is None or above in fleet.groups["origins"] else _without(fleet, above)
    if fleet.records[name].get("mirror_mode") != "cache":
        found |= set(fleet.selection(name).get("blocklist") or ())
    return found


def on_miss(fleet: Fleet, name: str) -> str:
    """What a mirror, or a redirector with an index, does when asked for what it lacks."""
    return "pass" if fleet.mode(name) == "cache" else fleet.filled(name, "on_miss") or "not_found"


def _first_problem(name: str, fleet: Fleet) -> str:
    problem = fleet.reports[name].problems[0]
    return f"{problem['key']} {problem['problem']}".strip()[:500]


def _entry(name: str, fleet: Fleet) -> dict[str, Any]:
    record = fleet.records[name]
    carried = fleet.carried(name)
    return {
        "name": name,
        "url": record["mirror_url"][0],
        "urls": record["mirror_url"],
        "mode": record["mirror_mode"],
        # Of one whose upstream is not there now: as far as it is known, and never an origin's.
        "tier": max(fleet.tier(name), 1),
        "projects": None if carried is None else len(carried),
        "partial": fleet.is_partial(name),
        "left_out": fleet.left_out(name),
        "on_miss": on_miss(fleet, name),
        "state": record["mirror_state"],
        "upstream": fleet.feeder(name) or record.get("mirror_upstream"),
        "location": record["mirror_location"],
        "networks": record.get("mirror_networks", []),
        "bandwidth": record["mirror_bandwidth"],
        "address_families": sorted(record["mirror_address_families"]),
        "operator": _public(record["mirror_operator"]),
        "agreement": {
            key: record["mirror_agreement"].get(key) for key in ("version", "accepted_on", "expires_on")
        },
        "tls_mode": record["tls_mode"],
    }


def _public(person: dict[str, Any]) -> dict[str, Any]:
    return {key: person[key] for key in PUBLIC_PERSON if key in person}
