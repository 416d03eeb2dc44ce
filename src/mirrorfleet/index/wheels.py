"""METADATA as it lies in a distribution file: what PEP 658 serves beside a wheel."""

import io
import tarfile
import zipfile
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path

MAX_METADATA = 16 << 20  # a longer METADATA is a bomb, not a description


class NoMetadataError(Exception):
    """The file carries no usable metadata."""


def wheel_metadata(path: Path) -> bytes:
    """The bytes of the one top-level *.dist-info/METADATA."""
    try:
        with zipfile.ZipFile(path) as archive:
            found = [
                entry
                for entry in archive.infolist()
                if entry.filename.count("/") == 1 and entry.filename.endswith(".dist-info/METADATA")
            ]
            if len(found) != 1:
                raise NoMetadataError(f"{len(found)} METADATA files")
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
    return data


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
