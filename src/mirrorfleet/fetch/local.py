"""A fleet's own packages, published from a directory at an origin: <directory>/<project>/ holds wheels and sdists.

An optional project.json beside them carries what files cannot say:
{"status": "quarantined", "reason": "…", "yanked": {"1.0": "reason", "x-1.0.tar.gz": ""}}
What is wrong in it, or with a file, stops its project and no other.
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
from packaging.version import InvalidVersion, Version

from ..common.files import entries
from ..common.names import InvalidNameError, addressed_path, project_name, shown
from ..common.wheels import NoMetadataError, headers, sdist_metadata, wheel_metadata
from ..index.project import BadDocumentError
from ..index.versions import newest_releases
from .fetched import read_json

log = logging.getLogger(__name__)

_STATUSES = ("active", "archived", "quarantined", "deprecated")  # PEP 792
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


def _entry(path: Path, name: str, yanked: dict[Version | str, str]) -> tuple[str, dict[str, Any]]:
    stated, version = version_of(path.name)
    if canonicalize_name(stated) != name:
        raise InvalidNameError(f"{path.name} is not a file of project {name}")
    data = path.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    reason = yanked.get(path.name, yanked.get(_version(version)))
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


def _version(text: str) -> Version | str:
    try:
        return Version(text)
    except InvalidVersion:
        return text


def _facts(path: Path, filenames: list[str]) -> dict[str, Any]:
    """project.json, checked; in `yanked` a version is one, however it is written."""
    try:
        facts = read_json(path)
    except FileNotFoundError:
        return {"yanked": {}}
    except BadDocumentError as error:
        raise BadDocumentError(f"{path}: {error}") from error

    def wrong(what: str, allowed: str) -> BadDocumentError:
        return BadDocumentError(f"{path}: {what}; allowed: {allowed}")

    if not isinstance(facts, dict):
        raise wrong("is no object", '{"status": …, "reason": …, "yanked": {…}}')
    for key in facts.keys() - {"status", "reason", "yanked"}:
        raise wrong(f"unknown key {shown(key)}", "status, reason, yanked")
    if "status" in facts and facts["status"] not in _STATUSES:
        raise wrong(f"status is {shown(facts['status'])}", ", ".join(_STATUSES))
    if not isinstance(facts.get("reason", ""), str):
        raise wrong(f"reason is {shown(facts['reason'])}", "a text")
    yanked = facts.get("yanked", {})
    if not isinstance(yanked, dict) or not all(isinstance(reason, str) for reason in yanked.values()):
        raise wrong(
            f"yanked is {shown(yanked)}", "file names or versions, each with a reason that may be empty"
        )
    there = {*filenames, *(_version(version_of(filename)[1]) for filename in filenames)}
    named = {name if name in filenames else _version(name): reason for name, reason in yanked.items()}
    for name in named.keys() - there:
        raise wrong(
            f"yanked names {shown(str(name))}, which is not here", "files of the folder, or their versions"
        )
    return {**facts, "yanked": named}


def local_document(name: str, directory: Path) -> tuple[dict[str, Any], dict[str, Path]]:
    """The project's document (without serial) and, per served path, the file it is to be copied from."""
    there = sorted(path for path in directory.iterdir() if not path.name.startswith("."))
    paths = [path for path in there if path.name.endswith((".whl", ".tar.gz", ".zip"))]
    facts = _facts(directory / "project.json", [path.name for path in paths])
    releases: dict[str, list[dict[str, Any]]] = {}
    sources: dict[str, Path] = {}
    infos: dict[str, dict[str, Any]] = {}
    for path in paths:
        version, entry = _entry(path, name, facts["yanked"])
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
    if others := {path.name for path in there if path not in paths} - {"project.json"}:
        reason = "a local package's name ends with .whl, .tar.gz or .zip"
        document["left-out"] = {shown(name): reason for name in sorted(others)}
    return document, sources
