"""Which files of a project are taken over, in every mode: `platforms_excluded`, then `releases_kept`."""

import re
from collections.abc import Iterable
from typing import Any

from packaging.tags import Tag
from packaging.utils import InvalidWheelFilename, parse_wheel_filename
from packaging.version import InvalidVersion

from ..index.versions import newest_releases

_FAMILIES = {
    "windows": (re.compile(r"win"), (".exe", ".msi")),
    "macos": (re.compile(r"macosx"), (".dmg",)),
    "freebsd": (re.compile(r"freebsd"), ()),
    "linux": (re.compile(r"linux|manylinux|musllinux"), (".deb", ".rpm")),
}
_PYTHON = re.compile(r"py(\d)(?:\.(\d+))?")
_GLIBC = {"manylinux1": "manylinux_2_5", "manylinux2010": "manylinux_2_12", "manylinux2014": "manylinux_2_17"}


def is_excluded(filename: str, words: Iterable[str]) -> bool:
    """True for a wheel whose every tag (PEP 425) one of the words names, and for an installer of a family named.

    A word is a family of platforms, a platform's tag, a Python (`py2`), or one version of it (`py3.8`): of the last,
    what it alone runs. So nothing is left out that somebody else can use.
    """
    words = tuple(words)
    try:
        tags = parse_wheel_filename(filename)[3]
    except (InvalidWheelFilename, InvalidVersion):
        return any(filename.endswith(_FAMILIES[word][1]) for word in words if word in _FAMILIES)
    return all(any(_names(word, tag) for word in words) for tag in tags)


def _names(word: str, tag: Tag) -> bool:
    if word in _FAMILIES:
        return _FAMILIES[word][0].match(tag.platform) is not None
    if python := _PYTHON.fullmatch(word):
        implementation, version = tag.interpreter[:2], tag.interpreter[2:]
        if python[2] is None:
            return version.startswith(python[1])
        # Later versions run what py38 and abi3 stand for.
        return version == python[1] + python[2] and implementation != "py" and tag.abi != "abi3"
    platform, word = _platform(tag.platform), _platform(word.replace("-", "_"))
    return platform == word or platform.startswith(f"{word}_")


def _platform(tag: str) -> str:
    """A platform's tag, with the name that PEP 600 gives to what had others before."""
    glibc, _, machine = tag.partition("_")
    return f"{_GLIBC[glibc]}_{machine}" if glibc in _GLIBC else tag


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
