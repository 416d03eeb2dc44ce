"""Registries for tests of what is made from them."""

from __future__ import annotations

from typing import Any

NOW = 1_800_000_000


def record(name: str, **changes: Any) -> dict[str, Any]:
    """The registry's record of a mirror, as the filter fleet_registry makes it."""
    return {
        "name": name,
        "url": f"https://{name}.example.org",
        "urls": [f"https://{name}.example.org"],
        "mode": "bandersnatch",
        "tier": 1,
        "projects": 12,
        "partial": False,
        "on_miss": "not_found",
        "state": "active",
        "upstream": None,
        "location": {
            "continent": "OC",
            "country": "NZ",
            "city": "Auckland",
            "latitude": -36.8,
            "longitude": 174.8,
        },
        "networks": [],
        "bandwidth": 1000,
        "address_families": ["ipv4", "ipv6"],
        "operator": {"name": "A. Person", "email": "person@example.org", "url": "https://example.org"},
        "agreement": {"version": "2026-11", "accepted_on": "2026-11-20", "expires_on": None},
    } | changes


def broken(name: str, problem: Any = "mirror_bandwidth is text ('fast')") -> dict[str, Any]:
    """The entry of a mirror whose record in the inventory is wrong."""
    return {"name": name, "problem": problem}


def registry(*names: str, **changes: Any) -> dict[str, Any]:
    """A registry of such mirrors; what is changed is changed in the first."""
    fleet = {
        "name": "Test fleet",
        "coordinator": {"name": "C", "email": "c@example.org"},
        "agreement_version": "2026-11",
        "staleness_limit": 86400,
    }
    mirrors = [record(name, **(changes if name == names[0] else {})) for name in names]
    return {"schema": 1, "fleet": fleet, "origins": [], "mirrors": mirrors}
