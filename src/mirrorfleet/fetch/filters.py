"""Which files of a project an origin takes over. The same words as bandersnatch's filters use."""

import re
from collections.abc import Iterable
from typing import Any

from packaging.utils import InvalidWheelFilename, parse_wheel_filename
from packaging.version import InvalidVersion, Version

_FAMILIES = {
    "windows": (re.compile(r"win"), (".exe", ".msi")),
    "macos": (re.compile(r"macosx"), (".dmg",)),
    "freebsd": (re.compile(r"freebsd"), ()),
    "linux": (re.compile(r"linux|manylinux|musllinux"), (".deb", ".rpm")),
}


def _order(version: str) -> tuple[bool, Version]:
    try:
        return True, Version(version)
    except InvalidVersion:
        return False, Version("0")


def newest_versions(versions: Iterable[str], kept: int) -> set[str]:
    return set(sorted(versions, key=_order, reverse=True)[:kept])


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
    versions = newest_versions(releases, releases_kept) if releases_kept else set(releases)
    platforms = tuple(platforms)
    return {
        version: [entry for entry in entries if not is_excluded(entry["filename"], platforms)]
        for version, entries in releases.items()
        if version in versions
    }
