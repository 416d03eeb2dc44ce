"""A project and its files, read from the legacy JSON document that every fetcher stores.

The document is `/pypi/NAME/json` as upstream serves it, with the additions our own tiers pass on:
`project-status` (PEP 792) for the project, `core-metadata` (PEP 714) and `provenance` (PEP 740) for a file.
"""

import datetime
import logging
import re
from dataclasses import dataclass, field
from typing import Any

from ..common.names import InvalidNameError, is_sha256, served_path, shown
from ..common.reasons import Kind

log = logging.getLogger(__name__)

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z")
# bandersnatch cannot read an entry without upload time, so the legacy document says this for "unknown".
UNKNOWN_TIME = "1970-01-01T00:00:00.000000Z"
_STATUS = re.compile(r"[a-z][a-z0-9-]{0,31}")  # PEP 792 knows active, archived, quarantined and deprecated


class BadDocumentError(ValueError):
    """A document that does not describe a project."""

    def __init__(self, what: str, kind: Kind = "malformed") -> None:
        super().__init__(what)
        self.kind = kind


@dataclass(frozen=True)
class File:
    filename: str
    path: str  # below the tree's root, "packages/…"
    size: int
    sha256: str
    version: str
    requires_python: str | None = None
    yanked: str | bool = False  # a reason, or True without one
    upload_time: str | None = None
    core_metadata: str | None = None  # sha256 of the sidecar
    provenance: str | None = None
    source: str | None = None  # where it came from, when that is not upstream's own path of it
    legacy: dict[str, Any] = field(default_factory=dict, compare=False, hash=False)

    @property
    def is_wheel(self) -> bool:
        return self.filename.endswith(".whl")


@dataclass(frozen=True)
class Project:
    name: str
    serial: int
    files: tuple[File, ...]
    versions: tuple[str, ...]
    status: str = "active"
    status_reason: str | None = None
    # What upstream lists and this mirror cannot serve: file name to reason.
    left_out: dict[str, str] = field(default_factory=dict, compare=False, hash=False)
    legacy: dict[str, Any] = field(default_factory=dict, compare=False, hash=False)

    @property
    def quarantined(self) -> bool:
        """Whether what leaves it must leave at once; a status that is not known may be as grave as the gravest."""
        return self.status not in ("active", "archived", "deprecated")


def clean_text(value: Any) -> str | None:
    """A text upstream gave, without what no page can carry; None for anything else or empty."""
    if not isinstance(value, str):
        return None
    clean = "".join(c for c in value if c in "\t\n" or (ord(c) >= 32 and not 0x7F <= ord(c) <= 0x9F))
    return clean.encode("utf-8", "ignore").decode() or None


def _upload_time(entry: dict[str, Any]) -> str | None:
    """In UTC, as PEP 700 wants it; a time that does not say where it is one is none."""
    value = entry.get("upload_time_iso_8601")
    if not isinstance(value, str) or value == UNKNOWN_TIME:
        return None
    if _TIME.fullmatch(value):
        return value
    try:
        moment = datetime.datetime.fromisoformat(value)
    except ValueError:
        return None
    if moment.tzinfo is None:
        return None
    return moment.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _yanked(entry: dict[str, Any]) -> str | bool:
    if not entry.get("yanked") and entry.get("yanked") != "":
        return False
    reason = entry["yanked"] if isinstance(entry["yanked"], str) else entry.get("yanked_reason")
    return clean_text(reason) or True


def clean_url(value: Any) -> str | None:
    """Where a file's provenance is (PEP 740): an absolute https URL without user and password; else None."""
    text = clean_text(value)
    host, path = r"https://[^\s\"'<>\\/?#@]+", r"(?:[/?#][^\s\"'<>\\]*)?"
    return text if text and re.fullmatch(host + path, text) else None


def parse_file(entry: Any, version: str) -> File:
    """Check one file entry; InvalidNameError or BadDocumentError says what is wrong with it."""
    if not isinstance(entry, dict):
        raise BadDocumentError(f"not a file entry: {shown(entry)}")
    filename, url = entry.get("filename"), entry.get("url")
    if not isinstance(filename, str) or not isinstance(url, str):
        raise BadDocumentError(f"file entry without filename or url in version {shown(version)}")
    path = served_path(url, filename)
    digests = entry.get("digests")
    sha256 = digests.get("sha256") if isinstance(digests, dict) else None
    if not isinstance(sha256, str) or not is_sha256(sha256):
        raise BadDocumentError(f"no sha256 for {shown(filename)}")
    size = entry.get("size")
    if type(size) is not int or size < 0:
        raise BadDocumentError(f"no size for {shown(filename)}")
    metadata = entry.get("core-metadata")
    core = metadata.get("sha256") if isinstance(metadata, dict) else None
    return File(
        filename=filename,
        path=path,
        size=size,
        sha256=sha256,
        version=version,
        requires_python=clean_text(entry.get("requires_python")),
        yanked=_yanked(entry),
        upload_time=_upload_time(entry),
        core_metadata=core if isinstance(core, str) and is_sha256(core) else None,
        provenance=clean_url(entry.get("provenance")),
        source=clean_text(entry.get("source")),
        legacy={key: value for key, value in entry.items() if key != "source"},
    )


def document_serial(document: Any) -> int:
    serial = document.get("last_serial") if isinstance(document, dict) else None
    if type(serial) is not int or serial < 0:
        raise BadDocumentError(f"no last_serial, but {shown(serial)}")
    return serial


def parse_project(document: Any, name: str) -> Project:
    """Read a stored document."""
    serial = document_serial(document)
    if not isinstance(document.get("releases"), dict):
        raise BadDocumentError("no releases")
    status = document.get("project-status")
    status = status if isinstance(status, dict) else {}
    state = status.get("status", "active")
    state = state if isinstance(state, str) and _STATUS.fullmatch(state) else "active"
    left_out = document.get("left-out")
    files: dict[str, File] = {}
    versions = []
    for version, entries in document["releases"].items():
        if not isinstance(entries, list) or clean_text(version) != version:
            log.warning("project %s: release %s is refused: malformed", name, shown(version))
            continue
        before = len(files)
        for entry in entries:
            try:
                file = parse_file(entry, version)
            except (InvalidNameError, BadDocumentError) as error:
                log.warning("project %s: a file is refused: %s", name, error)
                continue
            files.setdefault(file.filename, file)
        if len(files) > before or not entries:
            versions.append(version)
    return Project(
        name=name,
        serial=serial,
        files=() if state == "quarantined" else tuple(sorted(files.values(), key=lambda f: f.filename)),
        versions=tuple(listed if isinstance(listed := document.get("versions"), list) else sorted(versions)),
        status=state,
        status_reason=clean_text(status.get("reason")),
        left_out=left_out if isinstance(left_out, dict) else {},
        legacy={key: value for key, value in document.items() if key not in ("left-out", "versions")},
    )


def _simple_file(entry: Any) -> File:
    filename, url, hashes = entry["filename"], entry["url"], entry["hashes"]
    if not isinstance(filename, str) or not isinstance(url, str) or not url.startswith("../../packages/"):
        raise BadDocumentError(f"not a file of this tree: {shown(url)}")
    core = entry.get("core-metadata") or {}
    file = File(
        filename=filename,
        path=served_path(url.removeprefix("../.."), filename),
        size=entry["size"],
        sha256=hashes["sha256"],
        version="",
        core_metadata=core.get("sha256"),
    )
    digests = [file.sha256] if file.core_metadata is None else [file.sha256, file.core_metadata]
    if type(file.size) is not int or file.size < 0 or not all(is_sha256(digest) for digest in digests):
        raise BadDocumentError(f"size or hash of {shown(filename)}")
    return file


def parse_simple(document: Any) -> Project:
    """What another tier's JSON page names. Nothing in it is left out: a page is taken whole or not at all."""
    try:
        files = tuple(_simple_file(entry) for entry in document["files"])
        return Project(
            name=document["name"],
            serial=document["meta"]["_last-serial"],
            files=files,
            versions=tuple(document["versions"]),
            status=document["project-status"]["status"],
        )
    except (InvalidNameError, KeyError, TypeError, AttributeError) as error:
        raise BadDocumentError(f"not a page of this tree: {shown(repr(error))}") from error
