"""Projects published from a local directory: <directory>/<project>/ holds wheels and sdists.

An optional project.json beside them carries what files cannot say:
{"status": "quarantined", "reason": "…", "yanked": {"1.0": "reason", "x-1.0.tar.gz": ""}}
"""

import datetime
import hashlib
import logging
import os
from pathlib import Path
from typing import Any

from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    canonicalize_name,
    parse_sdist_filename,
    parse_wheel_filename,
)
from packaging.version import InvalidVersion

from ..common.files import entries
from ..common.names import InvalidNameError, addressed_path, project_name
from ..index.project import BadDocumentError
from ..index.versions import newest_releases
from ..index.wheels import NoMetadataError, headers, sdist_metadata, wheel_metadata
from .fetched import read_json

log = logging.getLogger(__name__)

_INFO = {"Summary": "summary", "Author": "author", "License": "license", "Home-page": "home_page"}


def version_of(filename: str) -> tuple[str, str]:
    """Normalised project name and version that a file name states."""
    try:
        if filename.endswith(".whl"):
            name, version, *_ = parse_wheel_filename(filename)
        else:
            name, version = parse_sdist_filename(filename)
    except (InvalidWheelFilename, InvalidSdistFilename, InvalidVersion) as error:
        raise InvalidNameError(str(error)) from error
    return name, str(version)


def local_projects(directory: Path) -> dict[str, Path]:
    found = {}
    for entry in entries(directory):
        if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
            try:
                found[project_name(entry.name)] = Path(entry.path)
            except InvalidNameError as error:
                log.warning("refused: %s: %s", entry.path, error)
    return found


def _entry(path: Path, name: str, yanked: dict[str, str]) -> tuple[str, dict[str, Any]]:
    stated, version = version_of(path.name)
    if canonicalize_name(stated) != name:
        raise InvalidNameError(f"{path.name} is not a file of project {name}")
    data = path.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    reason = yanked.get(path.name, yanked.get(version))
    try:
        fields = headers(wheel_metadata(path) if path.suffix == ".whl" else sdist_metadata(path))
    except NoMetadataError as error:
        log.info("%s: %s", path, error)
        fields = headers(b"")
    uploaded = datetime.datetime.fromtimestamp(int(os.stat(path).st_mtime), datetime.UTC)
    return version, {
        "filename": path.name,
        "url": "/" + addressed_path(sha256, path.name),
        "size": len(data),
        "digests": {"sha256": sha256, "md5": hashlib.md5(data, usedforsecurity=False).hexdigest()},
        "packagetype": "bdist_wheel" if path.suffix == ".whl" else "sdist",
        "python_version": "source" if path.suffix != ".whl" else path.name.split("-")[-3],
        "requires_python": fields.get("Requires-Python"),
        "upload_time": uploaded.strftime("%Y-%m-%dT%H:%M:%S"),
        "upload_time_iso_8601": uploaded.strftime("%Y-%m-%dT%H:%M:%S.000000Z"),
        "yanked": reason is not None,
        "yanked_reason": reason or None,
        "fields": fields,
    }


def local_document(name: str, directory: Path) -> tuple[dict[str, Any], dict[str, Path]]:
    """The project's document (without serial) and, per served path, the file it is to be copied from."""
    try:
        facts = read_json(directory / "project.json")
    except FileNotFoundError:
        facts = {}
    if not isinstance(facts, dict):
        raise BadDocumentError(f"{directory}/project.json: must be an object")
    releases: dict[str, list[dict[str, Any]]] = {}
    sources: dict[str, Path] = {}
    infos: dict[str, dict[str, Any]] = {}
    for path in sorted(p for p in directory.iterdir() if p.name.endswith((".whl", ".tar.gz", ".zip"))):
        version, entry = _entry(path, name, facts.get("yanked") or {})
        fields = entry.pop("fields")
        releases.setdefault(version, []).append(entry)
        sources[entry["url"][1:]] = path
        infos[version] = {
            "name": fields.get("Name", name),
            "version": version,
            "requires_python": fields.get("Requires-Python"),
            "requires_dist": fields.get_all("Requires-Dist"),
            **{key: fields.get(header) for header, key in _INFO.items()},
        }
    newest = next(iter(newest_releases(releases, 1)), "")
    info = infos.get(newest, {"name": name, "version": ""})
    document: dict[str, Any] = {"info": info, "releases": releases, "vulnerabilities": []}
    if "status" in facts:
        document["project-status"] = {"status": facts["status"], "reason": facts.get("reason")}
    return document, sources
