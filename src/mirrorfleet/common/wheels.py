"""METADATA as it lies in a distribution file: what PEP 658 serves beside a wheel."""

import io
import tarfile
import zipfile
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from .names import shown

MAX_METADATA = 16 << 20  # a longer METADATA is a bomb, not a description


class NoMetadataError(Exception):
    """The file carries no usable metadata."""


def wheel_metadata(wheel: Path | io.BytesIO, filename: str = "") -> bytes:
    """The bytes of METADATA of the wheel's own dist-info, which is of the project and version that its name states.

    `filename` is that of one that has no path. NoMetadataError where it has none, or one that speaks of something else
    (PEP 427, PEP 643).
    """
    stated = _stated(wheel.name if isinstance(wheel, Path) else filename)
    try:
        with zipfile.ZipFile(wheel) as archive:
            found = [
                entry
                for entry in archive.infolist()
                if (folder := entry.filename.removesuffix(".dist-info/METADATA")) != entry.filename
                and "/" not in folder
                and _stated(folder) == stated
            ]
            if len(found) != 1:
                raise NoMetadataError(f"{len(found)} METADATA files of its own")
            if found[0].file_size > MAX_METADATA:
                raise NoMetadataError(f"METADATA of {found[0].file_size} bytes")
            with archive.open(found[0]) as stream:
                data = stream.read(MAX_METADATA + 1)
    except NoMetadataError:
        raise
    except Exception as error:  # zlib.error and lzma.LZMAError have no common base
        raise NoMetadataError(f"{type(error).__name__}: {error}") from error
    if len(data) > MAX_METADATA:
        raise NoMetadataError("METADATA longer than it says")
    said = headers(data)
    name, version = str(said.get("Name", "")), str(said.get("Version", ""))
    if _of(name.strip(), version.strip()) != stated:
        raise NoMetadataError(f"METADATA of {shown(name)} {shown(version)}")
    return data


def _stated(name: str) -> tuple[str, Version | str]:
    """Project and version of a name whose first two parts they are: a wheel's, or of the folder in it."""
    project, version, *_ = [*name.split("-", 2), "", ""]
    return _of(project, version)


def _of(project: str, version: str) -> tuple[str, Version | str]:
    try:
        # A wheel's name has `_` where a local version has `-` or `.`.
        return canonicalize_name(project), Version(version.replace("_", "-"))
    except InvalidVersion:
        return canonicalize_name(project), version.replace("_", "-")


def sdist_metadata(path: Path) -> bytes:
    """PKG-INFO of a .tar.gz source distribution."""
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                if member.isfile() and member.name.count("/") == 1 and member.name.endswith("/PKG-INFO"):
                    stream = archive.extractfile(member)
                    if stream is not None and member.size <= MAX_METADATA:
                        return stream.read()
    except (OSError, tarfile.TarError, EOFError) as error:
        raise NoMetadataError(str(error)) from error
    raise NoMetadataError("no PKG-INFO")


def headers(metadata: bytes) -> Message:
    return HeaderParser().parse(io.StringIO(metadata.decode("utf-8", "replace")))
