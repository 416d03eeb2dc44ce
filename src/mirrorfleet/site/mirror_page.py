"""A page for each mirror: where it stands and why, who runs it, how it did for a month, what its last audit found.

What it shows is made ready here and in plots.py, how it shows it is in templates/mirror.html. A page takes
0.15 ms, 0.08 by f-strings: a run makes a thousand, but a fleet's first makes all.
"""

import hashlib
import re
from typing import Any

from ..fleet.availability import DAY, DAYS_KEPT, counted
from ..fleet.documents import List
from ..fleet.markup import checked
from .authority import Authority
from .carries import carries
from .markup import PAGES
from .plots import availability, freshness

FOLDER = "mirror"
# What a monitor of before, or one that has just begun, leaves out.
NOT_MEASURED: dict[str, Any] = {
    "lag": None, "certificate_expires": None, "measured_at": None, "families": {}, "days": [],
    "history": {"behind": [], "independent": []}, "audit": {},
}  # fmt: skip
NOT_TOLD = {"hashed": 0, "sampled": 0, "complete": (0, 1), "failed": ()}
MODES = {
    "bandersnatch": "copy of the index by bandersnatch",
    "rsync": "copy of another mirror by rsync",
    "cache": "cache: passes on what is asked for, and keeps it",
}
VERDICTS = {
    "passed": ("good", "passed"),
    "failed": ("bad", "failed"),
    "tampered": ("bad", "found a file with a wrong hash"),
    "inconclusive": ("quiet", "could not be brought to an end"),
}


def file_name(name: str) -> str:
    """The name of a mirror's page: its own, or a hash where that would not be one part of every URL and path."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}", name):
        return f"{name}.html"
    return f"~{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:24]}.html"


def render(found: List, mirror: dict[str, Any], trusted: Authority | None = None) -> bytes:
    name = mirror["name"]
    record, fleet = found.registry.mirrors[name], found.registry.fleet
    measured = NOT_MEASURED | found.findings.more.get(name, {})
    audit, last = measured["audit"], found.last
    joined = found.standings[name].joined
    behind, independent = (
        counted(measured["history"][key], last, joined) for key in ("behind", "independent")
    )
    page = PAGES.get_template("mirror.html").render(
        mirror=mirror,
        fleet=fleet["name"],
        measured=measured,
        now=found.now,
        mode=MODES[mirror["mode"]],
        carries=carries(record),
        agreement=record["agreement"],
        availability=availability(found.days(name), independent, last),
        freshness=freshness(behind, fleet["staleness_limit"], last),
        joined=joined,
        young=joined is not None and joined // DAY > last - DAYS_KEPT,
        trusted=trusted if record.get("tls_mode") == "private_ca" else None,
        audit=NOT_TOLD | audit if "verdict" in audit else None,
        verdict=VERDICTS.get(audit.get("verdict")),
        events=found.history.get(name, ()),
        proofs=found.proofs.get(name, ()),
    )
    return checked(page, f"{FOLDER}/{file_name(name)}")
