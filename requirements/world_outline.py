"""Makes src/mirrorfleet/site/world.json, the outline of all land, from the npm package world-atlas.

    npm pack world-atlas@2.0.2 && tar xzf world-atlas-2.0.2.tgz
    PYTHONPATH=src .venv/bin/python requirements/world_outline.py package src/mirrorfleet/site/world.json

The package carries Natural Earth's land (public domain) as TopoJSON and is itself under the ISC licence. What is made
of it is projected as world_map.py projects mirrors, and as coarse as a page may show it. Run again only to change
that: the file is kept.
"""

import json
import math
import sys
from pathlib import Path
from typing import Any

from mirrorfleet.site.world_map import project

TOLERANCE = 0.9  # of the map's units, of which its width has 960
SMALLEST = 4.0  # area below which an island is left out

Point = tuple[float, float]


def arcs(topology: dict[str, Any]) -> list[list[Point]]:
    """Arcs are stored as steps on a grid."""
    (scale_x, scale_y), (left, low) = topology["transform"]["scale"], topology["transform"]["translate"]
    found = []
    for steps in topology["arcs"]:
        x = y = 0
        arc = []
        for step_x, step_y in steps:
            x, y = x + step_x, y + step_y
            arc.append((x * scale_x + left, y * scale_y + low))
        found.append(arc)
    return found


def rings(topology: dict[str, Any]) -> list[list[Point]]:
    """Every ring of every polygon, holes included; an arc with a negative number runs backwards."""
    known, found = arcs(topology), []
    for geometry in topology["objects"]["land"]["geometries"]:
        polygons = geometry["arcs"] if geometry["type"] == "MultiPolygon" else [geometry["arcs"]]
        for ring in (ring for polygon in polygons for ring in polygon):
            points: list[Point] = []
            for number in ring:
                arc = known[number] if number >= 0 else known[~number][::-1]
                points += arc[1:] if points else arc
            found.append(points)
    return found


def cut(ring: list[Point]) -> list[list[Point]]:
    """The parts of a ring between the meridians of 180° west and east: land that reaches across lies on both sides."""
    unrolled = [ring[0]]
    for x, y in ring[1:]:
        unrolled.append((x - 360 * round((x - unrolled[-1][0]) / 360), y))
    if abs(unrolled[-1][0] - unrolled[0][0]) > 180:  # Antarctica: around the pole
        unrolled += [(unrolled[-1][0], -90.0), (unrolled[0][0], -90.0)]
    parts = []
    for turn in (-360, 0, 360):
        part = [(x + turn, y) for x, y in unrolled]
        for edge, side in ((-180, 1), (180, -1)):
            part = clipped(part, edge, side)
        if len(part) > 2:
            parts.append([*part, part[0]])
    return parts


def clipped(ring: list[Point], edge: float, side: int) -> list[Point]:
    """What of a ring is on one side of a meridian (Sutherland and Hodgman)."""
    found = []
    for (x1, y1), (x2, y2) in zip(ring[-1:] + ring[:-1], ring, strict=True):
        if ((x1 - edge) * side >= 0) != ((x2 - edge) * side >= 0):
            found.append((edge, y1 + (edge - x1) / (x2 - x1) * (y2 - y1)))
        if (x2 - edge) * side >= 0:
            found.append((x2, y2))
    return found


def area(ring: list[Point]) -> float:
    pairs = zip(ring, ring[1:] + ring[:1], strict=True)
    return abs(sum(a[0] * b[1] - b[0] * a[1] for a, b in pairs)) / 2


def simplified(line: list[Point]) -> list[Point]:
    """Douglas and Peucker: the points without which the line would be off by more than the tolerance."""
    if len(line) < 3:
        return line
    (x1, y1), (x2, y2) = line[0], line[-1]
    length = math.hypot(x2 - x1, y2 - y1)

    def off(point: Point) -> float:
        if not length:
            return math.hypot(point[0] - x1, point[1] - y1)
        return abs((x2 - x1) * (y1 - point[1]) - (x1 - point[0]) * (y2 - y1)) / length

    at = max(range(1, len(line) - 1), key=lambda index: off(line[index]))
    if off(line[at]) <= TOLERANCE:
        return [line[0], line[-1]]
    return simplified(line[: at + 1])[:-1] + simplified(line[at:])


def path(ring: list[Point]) -> str:
    """In tenths of a unit, as steps from point to point: the shortest way to write it."""
    grid = [(round(10 * x), round(10 * y)) for x, y in ring]
    words, (at_x, at_y) = f"M{_tenth(grid[0][0])} {_tenth(grid[0][1])}l", grid[0]
    for x, y in grid[1:-1]:
        words += f" {_tenth(x - at_x)} {_tenth(y - at_y)}"
        at_x, at_y = x, y
    return words.replace("l ", "l").replace(" -", "-") + "z"


def _tenth(number: int) -> str:
    return f"{number / 10:g}".replace("0.", ".", 1) if abs(number) < 10 else f"{number / 10:g}"


def main(package: Path, target: Path) -> None:
    sys.setrecursionlimit(10_000)
    topology = json.loads((package / "land-50m.json").read_bytes())
    version = json.loads((package / "package.json").read_bytes())["version"]
    projected = [[project(*point) for point in part] for ring in rings(topology) for part in cut(ring)]
    kept = [simplified(ring) for ring in projected if area(ring) >= SMALLEST]
    document = {
        "source": f"npm package world-atlas {version}, land-50m.json: Natural Earth 1:50m land",
        "licence": "Natural Earth is in the public domain; world-atlas is ISC, copyright 2013-2019 Michael Bostock",
        "made_by": "requirements/world_outline.py",
        "path": "".join(path(ring) for ring in kept if len(ring) > 3),
    }
    target.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
