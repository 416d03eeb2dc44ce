"""The pages of the served tree, rendered from a project: pure functions from data to bytes.

Sources: PEP 503 (HTML), 592 (yanked), 629 (version), 658 and 714 (metadata sidecars), 691 (JSON),
700 (versions, size, upload-time), 740 (provenance), 792 (status). PEP 714 allows the older
attribute name in HTML only; in JSON older pips fail on it.
"""

import gzip
import html
import json
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

from .project import UNKNOWN_TIME, File, Project

# Each form has a version of its own: HTML's is frozen (PEP 833), JSON's goes on (PEP 792 is the last that we know).
HTML_API_VERSION = "1.4"
JSON_API_VERSION = "1.4"
# Part of what identifies a published page: raise it when the same project must render differently.
RENDERING = 1

_HEAD = '<!DOCTYPE html>\n<html>\n  <head>\n    <meta name="pypi:repository-version" content="{version}">\n'


def _attribute(name: str, value: str) -> str:
    # A literal line break in an attribute survives parsers differently; the reference does not.
    escaped = html.escape(value).replace("\n", "&#10;").replace("\t", "&#9;")
    return f' {name}="{escaped}"'


def _json(value: Any) -> bytes:
    # Sorted, so that the same project renders alike however many tiers its document went through.
    return json.dumps(value, ensure_ascii=True, sort_keys=True, separators=(",", ":")).encode()


def compressed(data: bytes) -> bytes:
    """The same bytes for the same page, on every host and at every time."""
    return gzip.compress(data, compresslevel=6, mtime=0)


def _relative(file: File) -> str:
    return f"../../{quote(file.path)}"


def _anchor(file: File) -> str:
    attributes = _attribute("href", f"{_relative(file)}#sha256={file.sha256}")
    if file.requires_python:
        attributes += _attribute("data-requires-python", file.requires_python)
    if file.core_metadata:
        digest = f"sha256={file.core_metadata}"
        attributes += _attribute("data-core-metadata", digest) + _attribute("data-dist-info-metadata", digest)
    if file.yanked:
        attributes += _attribute("data-yanked", "" if file.yanked is True else file.yanked)
    if file.provenance:
        attributes += _attribute("data-provenance", file.provenance)
    return f"    <a{attributes}>{html.escape(file.filename)}</a><br>\n"


def project_html(project: Project) -> bytes:
    title = f"Links for {html.escape(project.name)}"
    page = [_HEAD.format(version=HTML_API_VERSION)]
    page.append(
        f"    <meta{_attribute('name', 'pypi:project-status')}{_attribute('content', project.status)}>\n"
    )
    if project.status_reason:
        reason = _attribute("content", project.status_reason)
        page.append(f'    <meta name="pypi:project-status-reason"{reason}>\n')
    page.append(f"    <title>{title}</title>\n  </head>\n  <body>\n    <h1>{title}</h1>\n")
    page.extend(_anchor(file) for file in project.files)
    page.append("  </body>\n</html>\n")
    return "".join(page).encode()


def _json_file(file: File) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "filename": file.filename,
        "url": _relative(file),
        "hashes": {"sha256": file.sha256},
        "requires-python": file.requires_python,
        "size": file.size,
        "yanked": file.yanked,
        "core-metadata": {"sha256": file.core_metadata} if file.core_metadata else False,
        "provenance": file.provenance,
    }
    if file.upload_time:
        entry["upload-time"] = file.upload_time
    return entry


def project_json(project: Project) -> bytes:
    status = {"status": project.status}
    if project.status_reason:
        status["reason"] = project.status_reason
    return _json(
        {
            "meta": {"api-version": JSON_API_VERSION, "_last-serial": project.serial},
            "name": project.name,
            "project-status": status,
            "versions": list(project.versions),
            "files": [_json_file(file) for file in project.files],
        }
    )


def _legacy_file(file: File) -> dict[str, Any]:
    reason = file.yanked if isinstance(file.yanked, str) else None
    return {
        **file.legacy,
        "filename": file.filename,
        "url": f"/{quote(file.path)}",
        "size": file.size,
        "digests": {**file.legacy.get("digests", {}), "sha256": file.sha256},
        "requires_python": file.requires_python,
        "yanked": bool(file.yanked),
        "yanked_reason": reason,
        "upload_time_iso_8601": file.upload_time or UNKNOWN_TIME,
        "upload_time": (file.upload_time or UNKNOWN_TIME)[:19],
        "core-metadata": {"sha256": file.core_metadata} if file.core_metadata else False,
        "provenance": file.provenance,
    }


def project_legacy(project: Project) -> bytes:
    """`/pypi/NAME/json`, naming files by root-relative URL so that any host name can serve it."""
    releases: dict[str, list[dict[str, Any]]] = {version: [] for version in project.versions}
    for file in project.files:
        releases.setdefault(file.version, []).append(_legacy_file(file))
    info = project.legacy.get("info")
    info = info if isinstance(info, dict) else {"name": project.name}
    status = {"status": project.status, "reason": project.status_reason}
    return _json(
        {
            **project.legacy,
            "info": info,
            "last_serial": project.serial,
            "project-status": status,
            "releases": releases,
            "urls": releases.get(str(info.get("version")), []),
        }
    )


def root_html(names: Iterable[str]) -> bytes:
    page = [_HEAD.format(version=HTML_API_VERSION), "    <title>Simple index</title>\n  </head>\n  <body>\n"]
    page.extend(f'    <a href="{name}/">{name}</a><br>\n' for name in names)
    page.append("  </body>\n</html>\n")
    return "".join(page).encode()


def root_json(serials: Iterable[tuple[str, int]], serial: int) -> bytes:
    return _json(
        {
            "meta": {"api-version": JSON_API_VERSION, "_last-serial": serial},
            "projects": [{"name": name, "_last-serial": project_serial} for name, project_serial in serials],
        }
    )
