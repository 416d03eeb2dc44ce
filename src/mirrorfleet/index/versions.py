"""Which release a file is of, and which releases are the newest: of every name that an index ever listed.

Names are read by packaging (PEP 427, 440, 625) where it can; of what came before those, by what is left of the name
when project and extension are taken off.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    canonicalize_name,
    parse_sdist_filename,
    parse_wheel_filename,
)
from packaging.version import InvalidVersion, Version

_ENDING = re.compile(
    r"\.(tar(\.(gz|bz2|xz|Z|lzma))?|tgz|tbz2?|txz|zip|whl|egg|exe|msi|rpm|deb|dmg)$", re.IGNORECASE
)
# distutils' binaries: bdist_wininst and bdist_msi end with a platform, and maybe a Python.
_PLATFORM = re.compile(
    r"[.-](win32|win-amd64|win-arm32|win-arm64|linux-\w+|macosx[\w.-]+|darwin[\w.-]+)(-py\d(\.\d+)?)?$"
)
_EGG = re.compile(r"-py\d(\.\d+)?(-[\w.-]+)?$")
_RPM = re.compile(r"-[^-]+\.(noarch|src|i[3-6]86|x86_64|aarch64)$")


def release_of(filename: str, project: str) -> str:
    """The version that a file of a project states: in its normal form where PEP 440 knows it, else as it is written."""
    try:
        if filename.endswith(".whl"):
            name, version, *_ = parse_wheel_filename(filename)
        else:
            name, version = parse_sdist_filename(filename)
        if name == project:
            return str(version)
    except (InvalidWheelFilename, InvalidSdistFilename, InvalidVersion):
        pass
    stem = _ENDING.sub("", filename)
    for at in _ends_of(project, stem):
        stated = _stated(stem[at + 1 :], filename.lower())
        return _normal(stated) or stem
    return stem


def _ends_of(project: str, name: str) -> Iterator[int]:
    """Where a file's name goes on after its project's."""
    for found in re.finditer("[-_ ]", name):
        if canonicalize_name(name[: found.start()]) == project:
            yield found.start()


def release_among(filename: str, project: str, spelled: Mapping[str, str]) -> str:
    """The same, as the index spells it that lists these versions (spelled_alike)."""
    stated = release_of(filename, project)
    if stated in spelled:
        return spelled[stated]
    rest = next((filename[at + 1 :] for at in _ends_of(project, filename)), "").lower()
    # A wheel's name has `_` where a version has `-`.
    alike = [one for one in spelled.values() if rest.startswith((one.lower(), one.lower().replace("-", "_")))]
    return max(alike, key=len, default=stated)


def spelled_alike(versions: Iterable[Any]) -> dict[str, str]:
    """Of an index's own list of versions (PEP 700), their normal forms and how it spells them."""
    return {
        _normal(one): one for one in versions if isinstance(one, str) and one.isprintable() and one.strip()
    }


def _stated(rest: str, filename: str) -> str:
    if filename.endswith(".whl"):
        return rest.partition("-")[0]
    if filename.endswith(".egg"):
        return _EGG.sub("", rest)
    if filename.endswith(".rpm"):
        return _RPM.sub("", rest)
    return _PLATFORM.sub("", rest)


def _normal(version: str) -> str:
    try:
        return str(Version(version))
    except InvalidVersion:
        return version


def _order(version: str) -> tuple[bool, Version, str]:
    try:
        return True, Version(version), version
    except InvalidVersion:
        return False, Version("0"), version


def _is_final(version: str) -> bool:
    try:
        return not Version(version).is_prerelease
    except InvalidVersion:
        return False


def newest_releases(releases: Mapping[str, list[dict[str, Any]]], kept: int) -> set[str]:
    """The same of releases with the entries of their files: one is yanked when all of them are."""
    yanked = {
        version for version, entries in releases.items() if all(entry.get("yanked") for entry in entries)
    }
    return newest_versions(releases, kept, yanked)


def newest_versions(versions: Iterable[str], kept: int, yanked: Collection[str] = ()) -> set[str]:
    """As many of the newest: first the one that an installer takes unasked, the newest final one that is not yanked;
    then the newest of the others by PEP 440, and names that it does not know after all others."""
    found = sorted(versions, key=_order, reverse=True)
    first = next((one for one in found if _is_final(one) and one not in yanked), None)
    if first is not None:
        found.remove(first)
        found.insert(0, first)
    return set(found[:kept])
