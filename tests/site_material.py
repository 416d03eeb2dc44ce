"""What was measured of a fleet, and the verb list that publishes it, for tests of the documents."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from listing_material import registry

from mirrorfleet import cli


def health(names: list[str], now: int, **changes: Any) -> dict[str, Any]:
    """A health document of mirrors that are all well; what is changed is changed in the first."""
    good = {
        "measured_at": now, "good": 9, "bad": 0, "problem": "", "serial": 12, "last_modified": now - 60,
        "addresses": ["192.0.2.7", "2001:db8::7"], "audit": {"passed_at": now - 9, "tampered_at": None, "problem": ""},
        "day": {"rounds": 100, "good": 50, "duration": 0.5, "deviation": 0.25, "delay": 1.25},
        "days": [None, 1.0, 0.5, None, 1.0],
    }  # fmt: skip
    mirrors = {name: good | (changes if name == names[0] else {}) for name in names}
    reference = {"problem": "", "serial": 12}
    return {"schema": 1, "monitor": "m", "at": now, "reference": reference, "mirrors": mirrors}


class Site:
    """A redirector's files, and the verb that makes its documents."""

    def __init__(self, folder: Path, *names: str) -> None:
        self.folder, self.names, self.now = folder, list(names or ("one", "two")), int(time.time())
        self.documents = folder / "list"
        (folder / "holds").mkdir()
        self.registry = registry(*self.names)
        self.health = health(self.names, self.now)
        self.config: dict[str, Any] = {
            "registry": str(folder / "registry.json"),
            "health": [str(folder / "health.json")],
            "holds": str(folder / "holds"),
            "documents": str(self.documents),
            "state": str(folder / "state.json"),
            "url": "https://fleet.example.org",
            "settings": {"damping_seconds": 0},
        }

    def publish(self, *options: str) -> int:
        for name in ("registry", "health", "config"):
            (self.folder / f"{name}.json").write_text(json.dumps(getattr(self, name)))
        return cli.main(["list", "-c", str(self.folder / "config.json"), *options])

    def listed_for(self, days: int) -> None:
        """As if every mirror that is listed had joined so many days ago."""
        path = self.folder / "state.json"
        state = json.loads(path.read_text())
        for one in state["standings"].values():
            if one["joined"] is not None:
                one["joined"] = self.now - days * DAY
        path.write_text(json.dumps(state))

    def read(self, name: str) -> str:
        return (self.documents / name).read_text("utf-8")

    @property
    def listed(self) -> dict[str, bool]:
        return {one["name"]: one["listed"] for one in json.loads(self.read("mirrors.json"))["mirrors"]}


# --- a fleet with all that may happen to a mirror ---

DAY = 86400
PLACES = (
    ("OC", "NZ", "Auckland", -36.85, 174.76), ("AF", "KE", "Nairobi", -1.29, 36.82), ("EU", "DE", "Berlin", 52.5, 13.4),
    ("EU", "NO", "Tromsø", 69.65, 18.96), ("EU", "FR", "Paris", 48.86, 2.35), ("EU", "NL", "Amsterdam", 52.37, 4.9),
    ("AS", "JP", "Tokyo", 35.68, 139.69), ("AS", "IN", "Chennai", 13.08, 80.27), ("AS", "SG", "Singapore", 1.35, 103.8),
    ("NA", "US", "Portland", 45.5, -122.7), ("NA", "CA", "Toronto", 43.65, -79.38),
    ("NA", "MX", "Monterrey", 25.7, -100.3), ("SA", "BR", "São Paulo", -23.55, -46.63),
    ("SA", "CL", "Punta Arenas", -53.16, -70.9), ("AF", "ZA", "Cape Town", -33.9, 18.4),
    ("AN", "AQ", "McMurdo Station", -77.85, 166.67), ("OC", "FJ", "Suva", -18.14, 178.44),
    ("NA", "GL", "Nuuk", 64.18, -51.7),
)  # fmt: skip
OPERATORS = (
    "Example University Computing Centre",
    "A. Person",
    "Long Haul Networks Ltd",
    "Ministère de l’Exemple",
)
FAILED = [
    {"rule": "absent", "source": "PEP 503", "severity": "error", "family": "ipv6", "detail": "answered 200",
     "summary": "a project that does not exist is answered with 404"},
    {"rule": "vary", "source": "RFC 9110, 12.5.5", "severity": "warning", "detail": "no Vary header",
     "summary": "pages that depend on Accept say so (Vary)"},
]  # fmt: skip


def fleet(folder: Path, size: int) -> Site:
    """The second to the eighth have a trouble each; the others are well, but for every ninth."""
    site = Site(folder, *(f"mirror-{at:04d}.example.org" for at in range(size)))
    site.registry["fleet"]["name"] = "The Example Fleet"
    for at, record in enumerate(site.registry["mirrors"]):
        _record(record, at)
        _measured(site, site.health["mirrors"][record["name"]], at)
    return site


def _record(record: dict[str, Any], at: int) -> None:
    continent, country, city, latitude, longitude = PLACES[at % len(PLACES)]
    spread = at // len(PLACES)
    record["location"] = {
        "continent": continent, "country": country, "city": city,
        "latitude": latitude + spread % 7 * 1.5 * (-1 if latitude > 0 else 1),
        "longitude": (longitude + spread % 11 * 2 + 180) % 360 - 180,
    }  # fmt: skip
    record["operator"] = {
        "name": OPERATORS[at % 4],
        "email": f"secret{at}@example.org",
        "url": "https://example.org/~x",
    }
    record["mode"], record["tier"] = (("bandersnatch", 1), ("rsync", 2), ("cache", 1))[at % 3]
    record["url"] = f"https://mirror-{at:04d}.example.org"
    record["urls"] = [record["url"]]
    record["bandwidth"] = (100, 1000, 10_000)[at % 3]
    record["address_families"] = ["ipv4"] if at % 5 == 4 else ["ipv4", "ipv6"]
    if at == 6:
        del record["location"]["latitude"], record["location"]["longitude"]
        del record["operator"]["url"]
    if at == 3:
        record["state"] = "drained"


def _measured(site: Site, one: dict[str, Any], at: int) -> None:
    now = site.now
    one |= {
        "last_modified": now - 60 * (at % 300),
        "certificate_expires": now + (40 + at % 50) * DAY,
        "families": {"ipv4": ""},
        "lag": at % 4 * 700,
        "since": now - 5 * DAY,
        "days": [None if day < at % 6 else round(1 - max((at * day) % 13 - 10, 0) / 60, 4) for day in range(30)],
        "day": {
            "rounds": 1440, "good": 1440 - at % 9, "duration": 0.2 + at % 7 / 9, "deviation": 0.1, "delay": at % 11 / 3,
        },
        "history": {
            "behind": [None if day < at % 6 else (at + day) % 9 * 1800 for day in range(30)],
            "independent": [None if day < at % 6 else round(1 - (at * day) % 7 / 300, 4) for day in range(30)],
        },
        "audit": {
            "passed_at": now - 3 * 3600, "started": now - 3 * 3600, "verdict": "passed", "problem": "",
            "tampered_at": None, "hashed": 31, "sampled": 200, "complete": [0.981, 1.0], "failed": [],
        },
    }  # fmt: skip
    if at == 1:
        one |= {
            "good": 0, "bad": 7, "problem": "connection over ipv6: the certificate has expired (and 1 more)",
            "families": {"ipv4": "", "ipv6": "the certificate has expired"}, "certificate_expires": now - DAY,
        }  # fmt: skip
    if at == 2:
        one["audit"] |= {
            "verdict": "failed",
            "problem": "2 rules do not hold",
            "failed": FAILED,
            "passed_at": None,
        }
        one["days"][12:14] = [0.25, 0.6]
    if at == 4:
        one["certificate_expires"] = now + 5 * DAY
    if at == 5:
        one["tampered_at"] = now - 7200
    if at == 7:
        refused = "connection over ipv6: connection refused"
        one |= {
            "good": 0, "bad": 40, "problem": refused, "families": {"ipv4": "", "ipv6": "connection refused"},
            "rounds": {
                "ipv4": {"good": 99, "bad": 0, "problem": ""}, "ipv6": {"good": 0, "bad": 40, "problem": refused},
            },
        }  # fmt: skip
    if at > 9 and at % 9 == 0:
        one |= {
            "good": 0,
            "bad": 4,
            "problem": "last-modified over ipv4: /last-modified answered 500, expected 200",
        }
