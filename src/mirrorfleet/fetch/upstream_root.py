"""Upstream's root index: which projects exist, and up to which serial."""

from typing import Any

from ..common.names import InvalidNameError, project_name
from .upstream import SIMPLE_JSON, FetchError, Upstream


def parse_root(document: Any, url: str) -> dict[str, int]:
    """Normalised name to serial. Without serials nothing can be known to be fresh, so that is an error."""
    if not isinstance(document, dict) or not isinstance(document.get("projects"), list):
        raise FetchError(f"{url}: not a PEP 691 root index")
    serials: dict[str, int] = {}
    without = 0
    for entry in document["projects"]:
        try:
            name, serial = project_name(entry["name"]), entry["_last-serial"]
        except (TypeError, KeyError, InvalidNameError):
            without += 1
            continue
        if type(serial) is int:
            serials[name] = serial
        else:
            without += 1
    if without > len(serials):
        raise FetchError(
            f"{url}: {without} of {without + len(serials)} projects have no _last-serial;"
            " a proxy or a plain bandersnatch tree cannot be mirrored from, mode cache works with it"
        )
    return serials


async def fetch_root(client: Upstream, index_url: str) -> dict[str, int]:
    page = await client.page(f"{index_url.rstrip('/')}/", SIMPLE_JSON)
    if page.content_type != SIMPLE_JSON:
        raise FetchError(f"{page.url}: {page.content_type} instead of {SIMPLE_JSON}")
    return parse_root(page.json(), page.url)
