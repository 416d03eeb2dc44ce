"""Upstream's root index: which projects exist, and up to which serial."""

from dataclasses import dataclass
from typing import Any

from ..common.names import InvalidNameError, project_name
from .upstream import SIMPLE_JSON, FetchError, Upstream


@dataclass(frozen=True)
class Root:
    """Normalised name to serial, 0 where the index gives none."""

    serials: dict[str, int]

    @property
    def newest(self) -> int:
        return max(self.serials.values(), default=0)

    def tells_changes(self) -> bool:
        """Whether serials can say what changed: not where they are missing, nor where all are one and the same."""
        values = list(self.serials.values())
        without = values.count(0)
        return without <= len(values) - without and (len(values) < 2 or len(set(values)) > 1)


def parse_root(document: Any, url: str) -> Root:
    if not isinstance(document, dict) or not isinstance(document.get("projects"), list):
        raise FetchError(f"{url}: not a PEP 691 root index")
    serials: dict[str, int] = {}
    for entry in document["projects"]:
        try:
            name, serial = project_name(entry["name"]), entry.get("_last-serial")
        except (TypeError, KeyError, AttributeError, InvalidNameError):
            continue
        serials[name] = serial if type(serial) is int and serial > 0 else 0
    return Root(serials)


async def fetch_root(client: Upstream, index_url: str) -> Root:
    page = await client.page(f"{index_url.rstrip('/')}/", SIMPLE_JSON)
    if page.content_type != SIMPLE_JSON:
        raise FetchError(f"{page.url}: {page.content_type} instead of {SIMPLE_JSON}")
    return parse_root(page.json(), page.url)
