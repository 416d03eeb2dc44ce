"""The status page: one HTML document that works without its script (templates/index.html)."""

from typing import Any

from ..fleet.documents import List, invalid
from ..fleet.markup import checked
from .markup import PAGES
from .mirror_page import file_name
from .plots import sparkline
from .world_map import world_map


def render(found: List, mirrors: list[dict[str, Any]], index: str) -> bytes:
    rows = []
    for mirror in mirrors:
        more = found.findings.more.get(mirror["name"], {})
        families = " ".join(family.removeprefix("ip") for family in mirror["address_families"])
        days, ends = sparkline(more.get("days", [])), more.get("certificate_expires")
        rows.append((mirror, file_name(mirror["name"]), days, families, ends))
    page = PAGES.get_template("index.html").render(
        fleet=found.registry.fleet["name"],
        listed=sum(mirror["listed"] for mirror in mirrors),
        rows=rows,
        invalid=invalid(found),
        now=found.now,
        index=index,
        map=world_map(mirrors),
    )
    return checked(page, "index.html")
