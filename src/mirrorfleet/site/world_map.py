"""The map of the status page: the world's outline with the mirrors on it, as inline SVG without a script."""

import functools
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from typing import Any

from markupsafe import Markup

from .markup import PAGES

WIDTH, HEIGHT = 960, 468
# Mirrors nearer to each other than this share a marker, so that a thousand of them stay a map.
CELL = 12

# Equal Earth (Šavrič, Patterson, Jenny 2018): areas as they are, in a frame about twice as wide as high.
_A1, _A2, _A3, _A4 = 1.340264, -0.081106, 0.000893, 0.003796
_SCALE = 177.0


def project(longitude: float, latitude: float) -> tuple[float, float]:
    """Where a place is on the map, from its upper left corner."""
    theta = math.asin(math.sqrt(3) / 2 * math.sin(math.radians(latitude)))
    square = theta * theta
    sixth = square**3
    x = (
        2 * math.sqrt(3) * math.radians(longitude) * math.cos(theta)
        / (3 * (_A1 + 3 * _A2 * square + sixth * (7 * _A3 + 9 * _A4 * square)))
    )  # fmt: skip
    y = theta * (_A1 + _A2 * square + sixth * (_A3 + _A4 * square))
    return WIDTH / 2 + _SCALE * x, HEIGHT / 2 - _SCALE * y


@functools.cache
def outline() -> str:
    """The path of all land. requirements/world_outline.py made it, and says of what."""
    text = resources.files(__package__).joinpath("world.json").read_text("utf-8")
    found: str = json.loads(text)["path"]
    return found


def located(mirrors: Iterable[dict[str, Any]]) -> dict[tuple[int, int, bool], list[dict[str, Any]]]:
    """The mirrors that say where they are, by cell of the map and whether they are listed."""
    cells: dict[tuple[int, int, bool], list[dict[str, Any]]] = {}
    for mirror in mirrors:
        place = mirror["location"]
        if place.get("latitude") is None or place.get("longitude") is None:
            continue
        x, y = project(place["longitude"], place["latitude"])
        cells.setdefault((int(x // CELL), int(y // CELL), mirror["listed"]), []).append(mirror)
    return cells


@dataclass(frozen=True)
class Marker:
    """A circle, or the path of a cross where mirrors are not listed."""

    title: str
    x: str
    y: str
    radius: str
    cross: str


def world_map(mirrors: list[dict[str, Any]]) -> Markup:
    """A figure that says in words what it shows; who needs each mirror by name has the table."""
    cells = located(mirrors)
    listed = sum(len(group) for (_, _, well), group in cells.items() if well)
    shown = sum(len(group) for group in cells.values())
    # The larger circles first, then the smaller, then the crosses: none hides another.
    drawn = sorted(cells.items(), key=lambda one: (not one[0][2], -len(one[1]), one[0][:2]))
    figure = PAGES.get_template("map.html").render(
        width=WIDTH,
        height=HEIGHT,
        listed=listed,
        others=shown - listed,
        absent=len(mirrors) - shown,
        outline=outline(),
        markers=[_marker(group, well) for (_, _, well), group in drawn],
    )
    return Markup(figure)  # noqa: S704 - escaped by its template


def _marker(group: list[dict[str, Any]], listed: bool) -> Marker:
    spots = [project(one["location"]["longitude"], one["location"]["latitude"]) for one in group]
    x, y = (round(sum(column) / len(group), 1) for column in zip(*spots, strict=True))
    names = ", ".join(one["name"] for one in group[:5]) + (", …" if len(group) > 5 else "")
    count = f"{len(group)} mirrors: " if len(group) > 1 else ""
    size = round(min(5 + 1.5 * math.sqrt(len(group) - 1), 12), 1)
    cross = (
        f"M{x - size:.1f} {y - size:.1f}l{2 * size:g} {2 * size:g}m0 {-2 * size:g}l{-2 * size:g} {2 * size:g}"
    )
    return Marker(f"{count}{names}", f"{x:g}", f"{y:g}", f"{size:g}", "" if listed else cross)
