"""A mirror as it should be, and everything that can be wrong with one; served by real HTTPS servers."""

from __future__ import annotations

import calendar
import functools
import hashlib
import html
import io
import json
import threading
import time
import zipfile
from dataclasses import dataclass, field
from typing import Any

HTML = "text/html"
HTML_V1 = "application/vnd.pypi.simple.v1+html"
JSON_V1 = "application/vnd.pypi.simple.v1+json"
OLD, NEW = "2020-01-01T00:00:00Z", "2020-02-01T00:00:00Z"
Response = tuple[int, dict[str, str], bytes]


@functools.lru_cache(maxsize=10_000)
def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


METADATA = b"Metadata-Version: 2.4\nName: six\nVersion: 1.0\n"


def wheel(metadata: bytes = METADATA, **others: bytes) -> bytes:
    """The same bytes each time."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in (
            ("six.py", b"a module of some bytes " * 20),
            ("six-1.0.dist-info/METADATA", metadata),
            *others.items(),
        ):
            archive.writestr(zipfile.ZipInfo(name), data)
    return file.getvalue()


FILES = {
    "six": {
        "six-1.0-py3-none-any.whl": wheel(),
        "six-1.0.tar.gz": b"a source of some more bytes " * 40,
        "six-0.9.tar.gz": b"an older source " * 30,
    },
    "attrs": {f"attrs-{n}.0.tar.gz": bytes([n]) * (100 + n) for n in range(1, 20)},
}


def path_of(project: str, name: str) -> str:
    digest = sha256(FILES[project][name])
    return f"/packages/{digest[:2]}/{digest[2:4]}/{digest[4:]}/{name}"


def entries(project: str) -> list[dict[str, Any]]:
    found = []
    for name, data in FILES[project].items():
        entry: dict[str, Any] = {
            "filename": name, "url": f"../..{path_of(project, name)}", "size": len(data), "upload-time": OLD,
            "hashes": {"sha256": sha256(data)}, "yanked": False, "requires-python": ">=3.8",
        }  # fmt: skip
        if name.endswith(".whl"):
            entry["core-metadata"] = {"sha256": sha256(METADATA)}
        found.append(entry)
    return found


def attributes(entry: dict[str, Any]) -> str:
    """What HTML says of a file beside its URL."""
    said = {"data-requires-python": entry["requires-python"]}
    if isinstance(core := entry.get("core-metadata"), dict):
        said["data-core-metadata"] = f"sha256={core['sha256']}"
    if (yanked := entry["yanked"]) not in (None, False):
        said["data-yanked"] = yanked if isinstance(yanked, str) else ""
    return "".join(f' {name}="{html.escape(value)}"' for name, value in said.items() if value is not None)


@dataclass
class Mirror:
    """Answers like a mirror of the fleet. `fault` names what is wrong with it."""

    serial: int = 42
    fault: str = ""
    changed: dict[str, Any] = field(
        default_factory=dict
    )  # by file name, what pages say of it otherwise; None: nothing
    project_status: dict[str, Any] = field(default_factory=dict)  # of every project (PEP 792)
    metadata: bytes = METADATA  # the sidecar of every wheel and of what else pages promise one for
    synced: float = 0  # when it had everything; 0 is 30 seconds ago
    # By (method, path), (path, type asked for) or path: another answer than a mirror's.
    replaced: dict[Any, Response] = field(default_factory=dict)
    released: threading.Event = field(default_factory=threading.Event)
    asked: list[tuple[str, str, str]] = field(default_factory=list)  # method, path, agent

    def __call__(self, request: Any) -> Response:
        agent = request.headers.get("User-Agent", "")
        self.asked.append((request.method, request.path, agent))
        if self.fault == "hang":
            self.released.wait(30)
        if self.fault == "forbids pip" and agent.startswith("pip/"):
            return 403, {}, b"go away"
        if self.fault == "redirects":
            return 302, {"Location": f"https://elsewhere.example.org{request.path}"}, b""
        if self.fault == "redirects to a private address":
            return 302, {"Location": f"https://192.168.7.7{request.path}"}, b""
        if self.fault == "error":
            return 500, {}, b""
        for key in ((request.method, request.path), (request.path, self.kind(request)), request.path):
            if key in self.replaced:
                return self.replaced[key]
        return self.page(request)

    def page(self, request: Any) -> Response:
        path = request.path
        if path == "/last-modified":
            return 200, {"Content-Type": "text/plain", "Cache-Control": "no-cache"}, self.last_modified()
        if path == "/simple/":
            kind = self.kind(request)
            body = (
                json.dumps(
                    {"meta": {"api-version": "1.1"}, "projects": [{"name": name} for name in FILES]}
                ).encode()
                if kind == JSON_V1
                else b"".join(
                    b'<a href="/simple/%s/">%s</a>' % (name.encode(), name.encode()) for name in FILES
                )
            )
            return 200, self.headers(kind), body
        if path in (f"/pypi/{name}/json" for name in FILES):
            return 200, self.headers("application/json"), b'{"info": {}, "releases": {}}'
        project = path.removeprefix("/simple/").rstrip("/")
        if project.lower() in FILES and path != f"/simple/{project.lower()}/":
            return 301, {"Location": f"/simple/{project.lower()}/"}, b""
        if project in FILES:
            return self.project(project, self.kind(request))
        for name, files in FILES.items():
            for file, data in files.items():
                if path == path_of(name, file):
                    return self.file(file, data, request)
                if path == path_of(name, file) + ".metadata" and (
                    file.endswith(".whl") or file in self.changed
                ):
                    return 200, {}, self.metadata
        return 404, {}, b""

    @staticmethod
    def kind(request: Any) -> str:
        accept = request.headers.get("Accept", HTML)
        for kind in (JSON_V1, HTML_V1, HTML):
            if accept.startswith(kind):
                return kind
        return HTML

    def headers(self, kind: str) -> dict[str, str]:
        serial = self.serial - 5 if self.fault == "stale serial" else self.serial
        return {"Content-Type": kind, "X-PyPI-Last-Serial": str(serial), "Vary": "Accept"}

    def last_modified(self) -> bytes:
        age = 10 * 86400 if self.fault == "stale" else 30
        return time.strftime("%Y%m%dT%H:%M:%S\n", time.gmtime(self.synced or time.time() - age)).encode()

    def project(self, project: str, kind: str) -> Response:
        said = [(one, self.changed.get(one["filename"], {})) for one in entries(project)]
        files = [one | more for one, more in said if more is not None]
        if self.fault == "stale pages with a fresh date":
            files = [entry for entry in files if "1.0" not in entry["filename"]]
        if self.fault == "newest release only":
            files = [one for one in files if "-1.0" in one["filename"] or "-19.0" in one["filename"]]
        if self.fault == "no file of six" and project == "six":
            files = []
        if self.fault == "forged page":
            files = [entry | {"hashes": {"sha256": "0" * 64}} for entry in files]
        if kind == JSON_V1:
            versions = sorted({entry["filename"].split("-")[1].removesuffix(".tar.gz") for entry in files})
            document = {"meta": {"api-version": "1.1"}, "name": project, "versions": versions, "files": files}
            document |= {"project-status": self.project_status} if self.project_status else {}
            return 200, self.headers(kind), json.dumps(document).encode()
        links = "".join(
            f'<a href="{one["url"]}#sha256={one["hashes"]["sha256"]}"{attributes(one)}>{one["filename"]}</a>\n'
            for one in files
        )
        head = '<!DOCTYPE html><html><head><meta name="pypi:repository-version" content="1.1"></head><body>'
        return 200, self.headers(kind), f"{head}{links}</body></html>".encode()

    def file(self, name: str, data: bytes, request: Any) -> Response:
        if self.fault == "wrong byte" or self.fault == f"wrong byte in {name}":
            data = data[:-1] + bytes([data[-1] ^ 1])
        if self.fault == "truncated":
            data = data[:-1]
        if self.fault == f"lacks {name}":
            return 404, {}, b""
        wanted = request.headers.get("Range", "").removeprefix("bytes=")
        if wanted:
            first, _, last = wanted.partition("-")
            part = data[int(first) : int(last) + 1]
            return 206, {"Content-Range": f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}"}, part
        return 200, {"Accept-Ranges": "bytes"}, data


def seconds_of(stamp: str) -> int:
    return calendar.timegm(time.strptime(stamp, "%Y-%m-%dT%H:%M:%SZ"))
