"""Made-up upstreams that use all that an index may say, and change: what real ones did, and what they could do.

All of it comes from one seed. An upstream is a server of its own on loopback; `step` changes it.
"""

from __future__ import annotations

import copy
import gzip
import hashlib
import html
import io
import json
import random
import re
import tarfile
import threading
import zipfile
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote, unquote, urljoin

JSON_TYPE = "application/vnd.pypi.simple.v1+json"
VERSIONS = [
    "1.0",
    "1.0.post1",
    "2.0rc1",
    "0.9",
    "1!1.0",
    "1.0+local.1",
    "10.0",
    "3.0.dev4",
    "2004d",
    "1.0-dev-r1",
    "4",
]
NAMES = ["plain", "Zope.Interface", "under_score", "many--dashes", "x", "CamelCase", "0name", "a.b-c_d"]
SERIALS = ["rising", "constant", "missing", "falling"]
FORMS = {3: "JSON only", 6: "HTML only"}  # of pages, for one seed in eight each; the others have both
SHAPES = ["both", "both", "no documents", "no validators", "documents behind"]
ODD = [" 2", "-2", "é漢", "@,=(;", "#?%25", "+x&y", "%2F", "~", "'"]
STATUSES = ["active", "archived", "deprecated", "frozen-by-admin"]
REASONS = [*[False] * 5, True, "", "broken", "do <b>not</b> \"use\" & 'that'\nat all \u2028 ", "\x07bell"]
REQUIRES = [None, ">=3.8", ">=2.7, !=3.0.*", '>=3; "x" <y> & z', "", "no specifier", ">=3.99"]
TIMES = [*["2020-01-01T00:00:00Z", "2020-01-01T00:00:00.123456Z", "2020-01-01T02:00:00+02:00"] * 4, None]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def metadata_of(name: str, version: str) -> bytes:
    return f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode()


def wheel(name: str, version: str, own: bytes | None) -> bytes:
    stream, stem = io.BytesIO(), f"{re.sub(r'[-_.]+', '_', name)}-{version}"
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(zipfile.ZipInfo(f"{stem.split('-', maxsplit=1)[0]}.py"), f"version = {version!r}\n")
        if own is not None:
            archive.writestr(zipfile.ZipInfo(f"{stem}.dist-info/METADATA"), own)
        archive.writestr(
            zipfile.ZipInfo(f"{stem}.dist-info/WHEEL"),
            "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr(zipfile.ZipInfo(f"{stem}.dist-info/RECORD"), "")
    return stream.getvalue()


def sdist(name: str, version: str) -> bytes:
    stream = io.BytesIO()
    # The same bytes whenever it is made.
    with (
        gzip.GzipFile(fileobj=stream, mode="wb", mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as archive,
    ):
        member = tarfile.TarInfo(f"{name}-{version}/PKG-INFO")
        data = metadata_of(name, version)
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def html_of(page: dict[str, Any]) -> str:
    """A project's page as HTML (PEP 503, 592, 658, 714, 740, 792); of hashes it has the first."""

    def tag(kind: str, **attributes: Any) -> str:
        return f"<{kind}" + "".join(
            f' {key.replace("_", "-")}="{html.escape(value)}"'
            for key, value in attributes.items()
            if isinstance(value, str)
        )

    def metadata(announced: Any) -> str | None:
        if isinstance(announced, dict):
            return f"sha256={announced['sha256']}"
        return "true" if announced else None

    status = page.get("project-status", {})
    lines = ["<!DOCTYPE html><html><head>", tag("meta", name="pypi:repository-version", content="1.4") + ">"]
    for name, value in (
        ("project-status", status.get("status")),
        ("project-status-reason", status.get("reason")),
    ):
        lines += [tag("meta", name=f"pypi:{name}", content=value) + ">"] if value else []
    lines.append("<title>files</title></head><body>")
    for entry in page["files"]:
        hashes = "".join(f"#{kind}={digest}" for kind, digest in [*entry["hashes"].items()][:1])
        yanked = entry.get("yanked", False)
        link = tag(
            "a",
            href=entry["url"].partition("#")[0] + hashes,
            data_requires_python=entry.get("requires-python"),
            data_yanked="" if yanked is True else yanked,
            data_core_metadata=metadata(entry.get("core-metadata")),
            data_dist_info_metadata=metadata(entry.get("dist-info-metadata")),
            data_provenance=entry.get("provenance"),
        )
        lines.append(f"{link}>{html.escape(entry['filename'])}</a><br>")
    return "\n".join([*lines, "</body></html>"])


@dataclass
class Project:
    display: str
    serial: int
    entries: dict[str, dict[str, Any]] = field(default_factory=dict)  # of its page, by file name
    versions: dict[str, str] = field(default_factory=dict)  # of each file, as the index says
    sizes: dict[str, int] = field(default_factory=dict)
    status: str = "active"
    reason: str | None = None
    former: dict[str, Any] | None = None  # its document as it was before the last change

    @property
    def name(self) -> str:
        return re.sub(r"[-_.]+", "-", self.display).lower()

    def page(self) -> dict[str, Any]:
        page: dict[str, Any] = {
            "meta": {"api-version": "1.4"},
            "name": self.display,
            "versions": sorted(set(self.versions.values())),
            "files": [] if self.status == "quarantined" else list(self.entries.values()),
        }
        if self.status != "active" or self.reason:
            page["project-status"] = {"status": self.status}
            if self.reason:
                page["project-status"]["reason"] = self.reason
        return page

    def document(self, page: str) -> dict[str, Any]:
        releases: dict[str, list[dict[str, Any]]] = {version: [] for version in self.versions.values()}
        for filename, entry in self.entries.items():
            yanked = entry.get("yanked", False)
            releases[self.versions[filename]].append(
                {
                    "filename": filename,
                    "url": urljoin(page, entry["url"]),
                    "size": self.sizes[filename],
                    "digests": entry["hashes"],
                    "requires_python": entry.get("requires-python"),
                    "yanked": yanked is not False,
                    "yanked_reason": yanked if isinstance(yanked, str) else None,
                    "upload_time_iso_8601": entry.get("upload-time"),
                    "packagetype": "bdist_wheel" if filename.endswith(".whl") else "sdist",
                    "md5_digest": "0" * 32,
                }
            )
        version = max(self.versions.values(), default="")
        return {"info": {"name": self.display, "version": version}, "releases": releases, "urls": []}


class Upstream:
    def __init__(self, seed: int, size: int, shape: str | None = None, serials: str | None = None) -> None:
        self.chance = random.Random(seed)
        self.shape = shape or self.chance.choice(SHAPES)
        self.serials = serials or self.chance.choice(SERIALS)
        self.form = FORMS.get(seed % 8, "both")
        self.serial = 1000
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.askers: set[str] = set()
        self.projects: dict[str, Project] = {}
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        for number in range(size):
            self.add_project(f"{self.chance.choice(NAMES)}{number}")
        self.past = copy.deepcopy(self.projects)

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    # How it changes

    def add_project(self, display: str) -> None:
        project = Project(display, self._next())
        for _ in range(self.chance.randrange(1, 6)):
            self.add_file(project)
        self.projects[project.name] = project

    def release(self, display: str, version: str, folder: str = "/packages/aa/bb", **values: Any) -> Project:
        """A wheel of a project, and nothing odd about it but what `values` of its entry say."""
        project = self.projects.setdefault(Project(display, 0).name, Project(display, 0))
        project.former = self._document(project)
        project.serial = self._next()
        filename = f"{project.name}-{version}-py3-none-any.whl"
        data = wheel(display, version, metadata_of(display, version))
        self.files[f"{folder}/{filename}"] = data
        entry = {"filename": filename, "url": f"{folder}/{filename}", "hashes": {"sha256": sha256(data)}}
        project.entries[filename] = {**entry, "size": len(data), "upload-time": TIMES[0], **values}
        project.versions[filename], project.sizes[filename] = version, len(data)
        return project

    def add_file(self, project: Project) -> None:
        chance, version = self.chance, self.chance.choice(VERSIONS)
        name = re.sub(r"[-_.]+", "_", project.display)
        own: bytes | None = metadata_of(project.display, version)
        kind = chance.choice(["wheel"] * 4 + ["sdist"] * 2 + ["old", "odd", "long", "never"])
        other = chance.random() < 0.1
        if kind == "wheel":
            tag = chance.choice(
                ["py3-none-any", "cp311-cp311-manylinux_2_17_x86_64", "cp39-none-variant.x.y"]
            )
            own = chance.choice([own, own, own, None, metadata_of("else", version)])
            filename, data = f"{name}-{version.replace('-', '_')}-{tag}.whl", wheel(name, version, own)
        elif kind == "sdist":
            filename, data = f"{name}-{version}.tar.gz", sdist(name, version)
        else:
            data = chance.randbytes(chance.randrange(0, 300))
            ending = chance.choice(
                [".tar.bz2", ".tgz", ".tar.xz", ".zip", "-py2.7.egg", ".win32.exe", "-1.noarch.rpm"]
            )
            filename = {
                "old": f"{project.display}-{version}{ending}",
                "odd": f"{name}-{version}{chance.choice(ODD)}.zip",
                "long": f"{name}-1.{'1' * (chance.randrange(230, 256) - len(name) - 10)}.tar.gz",
                "never": chance.choice(
                    [f".{name}-{version}.tar.gz", f"{name}/{version}.zip", f"{name}{'1' * 300}.zip"]
                ),
            }[kind]
        self._list(project, filename, version, data, own if kind == "wheel" else None, other=other)

    def _list(
        self, project: Project, filename: str, version: str, data: bytes, own: bytes | None, *, other: bool
    ) -> None:
        chance, digest = self.chance, hashlib.blake2b(data + filename.encode(), digest_size=32).hexdigest()
        folder = chance.choice(
            [f"/packages/{digest[:2]}/{digest[2:4]}/{digest[4:]}"] * 4 + [f"/files/{project.name}"]
        )
        path = f"{folder}/{filename}"
        self.files[path] = data
        written = quote(path)
        hashes = {"sha256": sha256(data)}
        if other:
            hashes = chance.choice(
                [
                    {"sha256": sha256(data).upper()},
                    {**hashes, "md5": hashlib.md5(data).hexdigest()},
                    {"sha512": hashlib.sha512(data).hexdigest()},
                    {"md5": hashlib.md5(data).hexdigest()},
                    {},
                    {"sha256": "none"},
                ]
            )
        entry: dict[str, Any] = {
            "filename": filename,
            "url": chance.choice(
                [written, f"{self.url}{written}", f"../..{written}", f"{written}#sha256=x", f"{written}?a=b"]
            ),
            "hashes": hashes,
            "size": len(data),
        }
        for key, values in (("requires-python", REQUIRES), ("yanked", REASONS), ("upload-time", TIMES)):
            if chance.random() < 0.7:
                entry[key] = chance.choice(values)
        if chance.random() < 0.2:
            del entry["size"]
        if chance.random() < 0.2:
            entry["provenance"] = chance.choice(["https://index.example/p", "http://index.example/p", None])
        self._announce(entry, path, own)
        project.entries[filename] = entry
        project.versions[filename], project.sizes[filename] = version, len(data)

    def _announce(self, entry: dict[str, Any], path: str, own: bytes | None) -> None:
        """Core metadata: the wheel's own, upstream's own beside any file, or only a word."""
        key = self.chance.choice(["core-metadata"] * 3 + ["dist-info-metadata"])
        served = self.chance.choice(
            [own, own, None, b"Metadata-Version: 2.1\nName: made-by-upstream\nVersion: 1\n"]
        )
        if served is not None:
            entry[key] = {"sha256": sha256(served)}
            self.files[path + ".metadata"] = served
        elif self.chance.random() < 0.3:
            entry[key] = self.chance.choice([True, False, {"sha256": "ab" * 32}])

    def step(self) -> None:
        """A few projects change, each in some way; now and then all of it is as it was once."""
        chance, names = self.chance, sorted(self.projects)
        if chance.random() < 0.15:
            self.projects = copy.deepcopy(self.past)
            if self.serials == "falling":
                self.serial -= 500
            for project in self.projects.values():
                project.serial = self._next()
            return
        if chance.random() < 0.3:
            self.past = copy.deepcopy(self.projects)
        if self.serials == "falling":
            self.serial -= 300
        for name in chance.sample(names, max(1, len(names) // 4)):
            self._change(self.projects[name])
        if chance.random() < 0.5:
            self.add_project(f"new-{self.serial}")

    def _change(self, project: Project) -> None:
        chance, files = self.chance, sorted(project.entries)
        project.former = self._document(project)
        project.serial = self._next()
        match chance.choice(["add", "add", "yank", "delete", "empty", "status", "value", "rename", "remove"]):
            case "yank" if files:
                project.entries[chance.choice(files)]["yanked"] = chance.choice(REASONS)
            case "delete" if files:
                gone = chance.choice(files)
                del project.entries[gone]
                if chance.random() < 0.5:
                    del project.versions[gone]
            case "empty":
                project.entries.clear()
                project.versions.clear()
            case "status":
                project.status = chance.choice([*STATUSES, "quarantined", "quarantined"])
                project.reason = chance.choice([None, "malware", "two\nlines <&>"])
            case "value" if files:
                entry = project.entries[chance.choice(files)]
                entry["requires-python"] = chance.choice(REQUIRES)
                entry["upload-time"] = chance.choice(TIMES)
            case "rename":
                project.display = project.display.swapcase()
            case "remove" if len(self.projects) > 4:
                del self.projects[project.name]
            case _:
                self.add_file(project)

    def _next(self) -> int:
        if self.serials != "constant":
            self.serial += self.chance.randrange(1, 5)
        return self.serial

    # What it answers

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        upstream = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = (
                1 << 16
            )  # head and body in one packet: a client that waits for the second one waits 40 ms

            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                upstream.asked.append(self.path)
                upstream.askers.add(self.headers["User-Agent"] or "")
                status, kind, body, serial = upstream.answer(unquote(self.path.partition("?")[0]))
                html_wanted = JSON_TYPE not in (self.headers["Accept"] or JSON_TYPE)
                as_html = html_wanted if upstream.form == "both" else upstream.form == "HTML only"
                if kind == JSON_TYPE and as_html:
                    kind, body = "text/html", html_of(json.loads(body)).encode(errors="ignore")
                tag = f'"{sha256(body)[:16]}"'
                if (
                    status == 200
                    and upstream.shape != "no validators"
                    and self.headers["If-None-Match"] == tag
                ):
                    status, body = 304, b""
                self.send_response(status)
                self.send_header("Content-Type", kind)
                if serial:
                    self.send_header("X-PyPI-Last-Serial", str(serial))
                if upstream.shape != "no validators":
                    self.send_header("ETag", tag)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        return Handler

    def answer(self, path: str) -> tuple[int, str, bytes, int]:
        if path in self.files:
            return 200, "application/octet-stream", self.files[path], 0
        if path in ("/simple", "/simple/"):
            listed = [self._with_serial({"name": one.display}, one.serial) for one in self.projects.values()]
            root = {"meta": self._with_serial({"api-version": "1.4"}, self.serial), "projects": listed}
            return 200, JSON_TYPE, json.dumps(root).encode(), self.serial
        _, kind, name, *_ = [*path.split("/"), "", "", ""]
        project = self.projects.get(name)
        if project is None:
            return 404, "text/plain", b"", 0
        if kind == "simple":
            page = project.page()
            page["meta"] = self._with_serial(page["meta"], project.serial)
            return (
                200,
                JSON_TYPE,
                json.dumps(page).encode(),
                project.serial if self.serials != "missing" else 0,
            )
        document = self._document(project)
        if self.shape == "documents behind" and project.former:
            document = project.former
        if self.shape == "no documents" or kind != "pypi" or not project.entries:
            return 404, "text/plain", b"", 0
        return 200, "application/json", json.dumps(document).encode(), int(document["last_serial"])

    def _document(self, project: Project) -> dict[str, Any]:
        return {**project.document(f"{self.url}/simple/{project.name}/"), "last_serial": project.serial}

    def _with_serial(self, entry: dict[str, Any], serial: int) -> dict[str, Any]:
        return entry if self.serials == "missing" else {**entry, "_last-serial": serial}
