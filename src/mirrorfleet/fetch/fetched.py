"""The private tree: what was fetched of each project, and whether its files are there."""

import json
import os
import stat
from pathlib import Path
from typing import Any, NoReturn

from ..common.files import entries, remove, write_atomically
from ..common.names import InvalidNameError, project_name, shown
from ..common.reasons import Kind, Reason
from ..index.project import BadDocumentError, Project, parse_project

MAX_DOCUMENT = 256 << 20


class IncompleteError(Exception):
    """A project whose files are not all there; its previous page stays."""

    def __init__(self, what: str, kind: Kind) -> None:
        super().__init__(what)
        self.kind = kind


def _no_constant(value: str) -> NoReturn:
    raise ValueError(f"{value} is not JSON")


def read_json(path: Path) -> Any:
    with path.open("rb") as stream:
        if os.fstat(stream.fileno()).st_size > MAX_DOCUMENT:
            raise BadDocumentError(f"larger than {MAX_DOCUMENT} bytes")
        data = stream.read()
    return decode_json(data)


def decode_json(data: bytes) -> Any:
    try:
        return json.loads(data, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BadDocumentError(f"not JSON: {error}") from error


def _stamp(status: os.stat_result) -> str:
    """Changes whenever the file is replaced."""
    return f"{status.st_ino}.{status.st_mtime_ns}.{status.st_ctime_ns}.{status.st_size}"


class Fetched:
    """bandersnatch brings documents and files for us; what is to be served of them, and of what we brought, is ours."""

    def __init__(self, root: Path, *, by_bandersnatch: bool) -> None:
        self.web = root / "web"
        self.brought = self.web / "json" if by_bandersnatch else None
        self.documents = self.web / ("project" if by_bandersnatch else "json")

    def identities(self) -> tuple[dict[str, str], list[str]]:
        """Every project's document by what changes when it is replaced; and the names refused."""
        return _identities(self.documents)

    def brought_identities(self) -> dict[str, str]:
        """The same of the documents that bandersnatch brought."""
        return _identities(self.brought)[0] if self.brought else {}

    def brought_document(self, name: str) -> Any:
        return _read_or_none(self.brought / name) if self.brought else None

    def document(self, name: str) -> dict[str, Any]:
        found = _read_or_none(self.documents / name)
        return found if isinstance(found, dict) else {}

    def project(self, name: str) -> Project:
        try:
            return parse_project(read_json(self.documents / name), name)
        except (OSError, BadDocumentError) as error:
            raise IncompleteError(str(error), Reason.of(error).kind) from error

    def store(self, name: str, document: dict[str, Any], serial: int) -> None:
        data = json.dumps({**document, "last_serial": serial}, sort_keys=True, separators=(",", ":"))
        self.documents.mkdir(parents=True, exist_ok=True)
        write_atomically(self.documents / name, data.encode())

    def remove_project(self, name: str) -> None:
        """Forget a project; its package files leave once no served page needs them."""
        self.remove_pages(name)
        remove(self.documents / name)
        if self.brought:
            remove(self.brought / name)

    def remove_pages(self, name: str) -> None:
        """bandersnatch writes pages of its own, which nobody reads, and leaves half ones on a full disk."""
        remove(self.web / "simple" / name)
        remove(self.web / "pypi" / name)


def _identities(directory: Path) -> tuple[dict[str, str], list[str]]:
    found: dict[str, str] = {}
    refused: list[str] = []
    for entry in entries(directory):
        if entry.name.startswith("."):
            continue
        status = entry.stat(follow_symlinks=False)
        try:
            if project_name(entry.name) != entry.name or not stat.S_ISREG(status.st_mode):
                raise InvalidNameError(f"not a project's document: {shown(entry.name)}")
        except InvalidNameError as error:
            refused.append(str(error))
            continue
        found[entry.name] = _stamp(status)
    return found, refused


def _read_or_none(path: Path) -> Any:
    try:
        return read_json(path)
    except (OSError, BadDocumentError):
        return None
