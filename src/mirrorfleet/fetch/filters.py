"""Which files of a project an origin takes over. The same words as bandersnatch's filters use."""

import re
from collections.abc import Iterable
from typing import Any

from packaging.utils import InvalidWheelFilename, parse_wheel_filename
from packaging.version import InvalidVersion

from ..index.versions import newest_releases

_FAMILIES = {
    "windows": (re.compile(r"win"), (".exe", ".msi")),
    "macos": (re.compile(r"macosx"), (".dmg",)),
    "freebsd": (re.compile(r"freebsd"), ()),
    "linux": (re.compile(r"linux|manylinux|musllinux"), (".deb", ".rpm")),
}


def is_excluded(filename: str, platforms: Iterable[str]) -> bool:
    """True when every platform the file is for is among the excluded ones (families or exact tags)."""
    try:
        tags = {tag.platform for tag in parse_wheel_filename(filename)[3]}
    except (InvalidWheelFilename, InvalidVersion):
        return any(filename.endswith(_FAMILIES[p][1]) for p in platforms if p in _FAMILIES)
    return all(
        any(_FAMILIES[p][0].match(tag) if p in _FAMILIES else tag == p for p in platforms) for tag in tags
    )


def kept_releases(
    releases: dict[str, list[dict[str, Any]]], releases_kept: int | None, platforms: Iterable[str]
) -> dict[str, list[dict[str, Any]]]:
    """Platforms first: a release of which nothing is left is none of the newest."""
    platforms = tuple(platforms)
    left = {
        version: [entry for entry in entries if not is_excluded(entry["filename"], platforms)]
        for version, entries in releases.items()
    }
    if releases_kept is None:
        return left
    with_files = {version: entries for version, entries in left.items() if entries}
    newest = newest_releases(with_files, releases_kept)
    return {version: entries for version, entries in left.items() if version in newest}
