"""The status page: one HTML document that works without its script (templates/index.html)."""

from typing import Any, NamedTuple

from ..fleet.documents import List, invalid
from ..fleet.markup import checked
from .authority import Authority, needed
from .carries import carried, left_out
from .markup import PAGES
from .mirror_page import file_name
from .plots import strip
from .signatures import Signer
from .world_map import world_map


class Row(NamedTuple):
    mirror: dict[str, Any]
    page: str
    strip: list[tuple[str, str]]
    families: str
    ends: int | None
    own: bool  # its certificate is from the fleet's own authority, and not every mirror's is
    carried: str
    left_out: str


def render(
    found: List,
    mirrors: list[dict[str, Any]],
    index: str,
    trusted: Authority | None = None,
    signer: Signer | None = None,
) -> bytes:
    records = found.registry.mirrors
    signed = {
        mirror["name"]
        for mirror in mirrors
        if trusted and records[mirror["name"]].get("tls_mode") == "private_ca"
    }
    mixed = 0 < len(signed) < len(mirrors)
    rows: dict[bool, list[Row]] = {True: [], False: []}
    for mirror in mirrors:
        name = mirror["name"]
        record = records[name]
        rows[mirror["listed"]].append(
            Row(
                mirror,
                file_name(name),
                strip(found.days(name)),
                " ".join(family.removeprefix("ip") for family in mirror["address_families"]),
                found.findings.more.get(name, {}).get("certificate_expires"),
                mixed and name in signed,
                carried(record),
                left_out(record),
            )
        )
    listed = [row.mirror for row in rows[True]]
    page = PAGES.get_template("index.html").render(
        fleet=found.registry.fleet["name"],
        coordinator=found.registry.fleet["coordinator"]["name"],
        mirrors=len(mirrors),
        listed=rows[True],
        others=rows[False],
        countries=len({mirror["location"]["country"] for mirror in listed}),
        bandwidth=sum(mirror["bandwidth"] for mirror in listed),
        invalid=invalid(found),
        now=found.now,
        index=index,
        of_the_fleet=bool(found.index_url),
        trusted=trusted,
        needed=needed(trusted, found.registry, index),
        map=world_map(mirrors),
        monitors=found.monitors,
        kept_since=found.kept_since,
        signer=signer,
    )
    return checked(page, "index.html")
