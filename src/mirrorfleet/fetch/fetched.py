"""The private tree that bandersnatch or our own dump writes: which projects are there, and complete."""

import json
import os
import stat
from pathlib import Path
from typing import Any, NoReturn

from ..common.files import entries, remove
from ..common.names import InvalidNameError, project_name, shown
from ..index.project import BadDocumentError, Project, document_serial, parse_project
from .supplement import apply, empties

MAX_DOCUMENT = 256 << 20


class IncompleteError(Exception):
    """A project whose files are not all there; its previous page stays."""


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
    def __init__(self, root: Path, *, by_bandersnatch: bool) -> None:
        self.web = root / "web"
        self.json = self.web / "json"
        self.supplement = self.web / "supplement"
        self._by_bandersnatch = by_bandersnatch

    def identities(self) -> tuple[dict[str, str], list[str]]:
        """Every project's document by what changes when it is replaced; and the names refused."""
        found: dict[str, str] = {}
        refused: list[str] = []
        added = {entry.name: _stamp(entry.stat(follow_symlinks=False)) for entry in entries(self.supplement)}
        for entry in entries(self.json):
            if entry.name.startswith("."):
                continue
            status = entry.stat(follow_symlinks=False)
            try:
                if project_name(entry.name) != entry.name or not stat.S_ISREG(status.st_mode):
                    raise InvalidNameError(f"not a project's document: {shown(entry.name)}")
            except InvalidNameError as error:
                refused.append(str(error))
                continue
            found[entry.name] = _stamp(status) + added.get(entry.name, "")
        return found, refused

    def project(self, name: str) -> Project:
        try:
            document = read_json(self.json / name)
            additions = self._additions(name)
            if not self._by_bandersnatch:
                project = parse_project(document, name)
            elif empties(additions):
                # Its files may never be had again, and must not stay.
                project = parse_project(document, name, only=())
            else:
                project = parse_project(document, name, only=self._completed(name, document_serial(document)))
            return apply(project, additions)
        except (OSError, BadDocumentError) as error:
            raise IncompleteError(str(error)) from error

    def named_files(self, name: str) -> list[str]:
        """The paths that a project's stored document names, fetched or not; none when it cannot be read."""
        try:
            return [file.path for file in parse_project(read_json(self.json / name), name).files]
        except (OSError, BadDocumentError):
            return []

    def _additions(self, name: str) -> dict[str, Any]:
        try:
            additions = read_json(self.supplement / name)
        except FileNotFoundError:
            return {}
        return additions if isinstance(additions, dict) else {}

    def _completed(self, name: str, serial: int) -> set[str]:
        """The files bandersnatch finished: it writes the simple page last."""
        try:
            page = read_json(self.web / "simple" / name / "index.v1_json")
            written, files = int(page["meta"]["_last-serial"]), {file["filename"] for file in page["files"]}
        except FileNotFoundError as error:
            raise IncompleteError("not all files fetched yet") from error
        except (KeyError, TypeError, ValueError) as error:
            raise IncompleteError(f"unreadable simple page: {error}") from error
        if written != serial:
            raise IncompleteError(f"files fetched up to serial {written}, document has {serial}")
        return files

    def remove_project(self, name: str) -> None:
        """Forget a project; its package files leave once no served page needs them."""
        remove(self.web / "simple" / name)
        remove(self.web / "pypi" / name)
        remove(self.supplement / name)
        remove(self.json / name)
