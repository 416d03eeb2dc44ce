#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Measure mirrors from outside, as a client of theirs sees them.

Documented in mirror_probe.yml beside it.
"""

from __future__ import annotations

import calendar
import hashlib
import html.parser
import http.client
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urljoin, urlsplit

from ansible.module_utils.basic import AnsibleModule

FAMILIES = {"ipv4": socket.AF_INET, "ipv6": socket.AF_INET6}
HTML = "text/html"
HTML_V1 = "application/vnd.pypi.simple.v1+html"
JSON_V1 = "application/vnd.pypi.simple.v1+json"
# What pip 26 and uv 0.13 send.
PIP_ACCEPT = f"{JSON_V1}, {HTML_V1}; q=0.1, {HTML}; q=0.01"
UV_ACCEPT = f"{JSON_V1}, {HTML_V1};q=0.2, {HTML};q=0.01"
LARGEST_PAGE = 32 * 1024 * 1024
# A root page may list a million projects; its beginning tells enough.
ROOT_BYTES = 64 * 1024
UNKNOWN_SIZE = 2**60
ABSENT = "mirrorfleet-there-is-no-such-project-b1946ac92492"


class CheckError(Exception):
    """A check that failed, in words."""


@dataclass
class Answer:
    """A response whose body was read up to a limit."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def type(self) -> str:
        return (self.headers.get("Content-Type") or "").partition(";")[0].strip().lower()

    @property
    def serial(self) -> int | None:
        value = self.headers.get("X-PyPI-Last-Serial") or ""
        return int(value) if re.fullmatch(r"[0-9]{1,18}", value) else None


class Client:
    """One client of one mirror in one address family; a new TLS connection for every request."""

    def __init__(
        self, mirror: dict[str, Any], family: str, context: ssl.SSLContext, timeout: float, budget: float
    ) -> None:
        parts = urlsplit(mirror["url"])
        self.base = mirror["url"].rstrip("/")
        self.host, self.port = parts.hostname or "", parts.port or 443
        given = [
            address for address in mirror.get("connect_to") or [] if (":" in address) == (family == "ipv6")
        ]
        self.address = given[0] if given else self.host
        self.family, self.context, self.timeout = family, context, timeout
        self.deadline = time.monotonic() + budget
        self.certificate_expires: int | None = None

    def get(
        self,
        path: str,
        accept: str = "*/*",
        *,
        method: str = "GET",
        limit: int = LARGEST_PAGE,
        **headers: str,
    ) -> Answer:
        """The answer to one request; CheckError when there is none."""
        with self._connection() as connection:
            wanted = {
                "Accept": accept,
                "User-Agent": "mirrorfleet-probe",
                "Accept-Encoding": "identity",
                **headers,
            }
            connection.request(method, path, headers=wanted)
            response = connection.getresponse()
            length = response.length
            answer = Answer(response.status, response.headers, response.read(limit))
            if length is not None and len(answer.body) < min(length, limit):
                raise http.client.IncompleteRead(answer.body, length - len(answer.body))
        if 300 <= answer.status < 400:
            raise CheckError(f"{path} redirects to {_shown(answer.headers.get('Location'))}")
        return answer

    @contextmanager
    def _connection(self) -> Iterator[http.client.HTTPConnection]:
        """A verified connection that is cut when the time for this mirror is over, however slowly it drips."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise CheckError("no time left for this mirror")
        connection = http.client.HTTPSConnection(
            self.host, self.port, timeout=min(self.timeout, left), context=self.context
        )
        watchdog: threading.Timer | None = None
        try:
            with self._connect(connection.timeout or self.timeout) as sock:
                watchdog = threading.Timer(max(self.deadline - time.monotonic(), 0), _cut, [sock])
                watchdog.daemon = True
                watchdog.start()
                connection.sock = sock
                yield connection
        except (OSError, http.client.HTTPException) as error:
            if time.monotonic() >= self.deadline:
                raise CheckError("took longer than the time for this mirror") from error
            raise CheckError(
                explain(error, self.address if isinstance(error, socket.gaierror) else self.host)
            ) from error
        finally:
            if watchdog:
                watchdog.cancel()
            connection.close()

    def _connect(self, timeout: float) -> ssl.SSLSocket:
        found = socket.getaddrinfo(self.address, self.port, FAMILIES[self.family], socket.SOCK_STREAM)
        sock = socket.socket(FAMILIES[self.family], socket.SOCK_STREAM)
        sock.settimeout(timeout)
        try:
            sock.connect(found[0][4])
            wrapped = self.context.wrap_socket(sock, server_hostname=self.host)
        except BaseException:
            sock.close()
            raise
        ends = (wrapped.getpeercert() or {}).get("notAfter")
        self.certificate_expires = int(ssl.cert_time_to_seconds(str(ends))) if ends else None
        return wrapped


def _cut(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # already closed: there is nothing left to cut


def explain(error: Exception, host: str) -> str:
    """Why there was no answer, in words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is not valid for {host}: {error.verify_message}"
    known: list[tuple[type[Exception], str]] = [
        (socket.gaierror, f"{host} does not resolve in this address family"),
        (ssl.SSLError, f"TLS failed: {getattr(error, 'reason', None) or error}"),
        (ConnectionRefusedError, "connection refused"),
        (TimeoutError, "no answer in time"),
        (http.client.IncompleteRead, "the answer ended too early"),
    ]
    for kind, words in known:
        if isinstance(error, kind):
            return words
    return f"connection failed: {_shown(str(error) or error.__class__.__name__)}"


def _shown(value: Any) -> str:
    return ascii(value)[:200]


@dataclass
class Findings:
    """What one round of checks in one family found."""

    family: str
    passed: list[str] = field(default_factory=list)
    failures: list[dict[str, str]] = field(default_factory=list)
    serial: int | None = None
    last_modified: int | None = None
    certificate_expires: int | None = None

    def run(self, name: str, check: Callable[[], Any]) -> Any:
        """The check's result, or None after noting why it failed."""
        try:
            result = check()
        except CheckError as error:
            self.failures.append({"family": self.family, "check": name, "problem": str(error)})
            return None
        self.passed.append(name)
        return result


def measure_family(client: Client, family: str, mode: str, project: str, largest_file: int) -> Findings:
    """All checks of one mirror in one family. When nothing answers at all, one failure says so."""
    found = Findings(family)
    if found.run("connection", lambda: client.get("/simple/", PIP_ACCEPT, method="HEAD")) is None:
        return found
    found.certificate_expires = client.certificate_expires
    serials = mode != "cache"
    page = f"/simple/{project}/"
    if serials:
        found.serial = found.run("root page as JSON", lambda: root_page(client, JSON_V1))
        found.run("root page as HTML", lambda: root_page(client, HTML))
        found.last_modified = found.run("last-modified", lambda: last_modified(client))
        found.run("legacy JSON", lambda: legacy_json(client, project))
    files = found.run("project page as JSON", lambda: json_page(client, page, serials))
    links = found.run("project page as HTML", lambda: html_page(client, page, serials))
    found.run("project page for pip", lambda: expect_page(client, page, PIP_ACCEPT, JSON_V1))
    found.run("project page for uv", lambda: expect_page(client, page, UV_ACCEPT, JSON_V1))
    if files is not None and links is not None:
        found.run("same files in both formats", lambda: same_files(files, links))
    found.run("unknown Accept header", lambda: unknown_accept(client, page))
    found.run("absent project", lambda: absent_project(client))
    if files:
        file = min(files, key=lambda one: one["size"])
        found.run("file", lambda: whole_file(client, file, largest_file))
        found.run("range of a file", lambda: range_of_file(client, file))
        if metadata := metadata_hash(file):
            found.run("core metadata", lambda: core_metadata(client, file, metadata))
    return found


def expect(answer: Answer, path: str, status: int, *types: str) -> Answer:
    if answer.status != status:
        raise CheckError(f"{path} answered {answer.status}, expected {status}")
    if types and answer.type not in types:
        raise CheckError(f"{path} has the type {_shown(answer.type)}, expected {' or '.join(types)}")
    return answer


def expect_serial(answer: Answer, path: str) -> int:
    if answer.serial is None:
        header = answer.headers.get("X-PyPI-Last-Serial")
        raise CheckError(f"{path} has no usable X-PyPI-Last-Serial header ({_shown(header)})")
    return answer.serial


def expect_page(client: Client, path: str, accept: str, kind: str) -> Answer:
    return expect(client.get(path, accept), path, 200, kind)


def root_page(client: Client, accept: str) -> int:
    answer = expect(client.get("/simple/", accept, limit=ROOT_BYTES), "/simple/", 200, accept)
    if not answer.body.strip():
        raise CheckError("/simple/ is empty")
    return expect_serial(answer, "/simple/")


def last_modified(client: Client) -> int:
    answer = expect(client.get("/last-modified", limit=100), "/last-modified", 200)
    text = answer.body.decode("ascii", "replace").strip()
    try:
        return calendar.timegm(time.strptime(text, "%Y%m%dT%H:%M:%S"))
    except ValueError as error:
        raise CheckError(f"/last-modified says {_shown(text)}, expected YYYYMMDDTHH:MM:SS") from error


def legacy_json(client: Client, project: str) -> None:
    path = f"/pypi/{project}/json"
    answer = expect(client.get(path, "application/json"), path, 200, "application/json")
    expect_serial(answer, path)
    if not isinstance(parse_json(answer, path).get("releases"), dict):
        raise CheckError(f"{path} has no releases")


def parse_json(answer: Answer, path: str) -> dict[str, Any]:
    try:
        document = json.loads(answer.body)
    except (ValueError, RecursionError) as error:
        raise CheckError(f"{path} is no JSON: {_shown(str(error))}") from error
    if not isinstance(document, dict):
        raise CheckError(f"{path} is no JSON object")
    return document


def json_page(client: Client, path: str, serials: bool) -> list[dict[str, Any]]:
    """The files of a project page, each with an absolute URL, a size and a sha256."""
    answer = expect(client.get(path, JSON_V1), path, 200, JSON_V1)
    if serials:
        expect_serial(answer, path)
    files = []
    for entry in parse_json(answer, path).get("files") or []:
        hashes = entry.get("hashes") if isinstance(entry, dict) else None
        if not isinstance(hashes, dict) or not re.fullmatch(r"[0-9a-f]{64}", str(hashes.get("sha256"))):
            raise CheckError(f"{path} names a file without sha256: {_shown(entry)}")
        if not isinstance(entry.get("url"), str) or not isinstance(entry.get("filename"), str):
            raise CheckError(f"{path} names a file without URL or name: {_shown(entry)}")
        size = entry.get("size")
        files.append(
            {
                **entry,
                "url": urljoin(client.base + path, entry["url"]),
                "size": size if isinstance(size, int) else UNKNOWN_SIZE,
            }
        )
    if not files:
        raise CheckError(f"{path} names no files")
    return files


class Links(html.parser.HTMLParser):
    """The names and hashes of the files that an HTML page links to."""

    def __init__(self) -> None:
        super().__init__()
        self.files: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        target = urlsplit(dict(attrs).get("href") or "") if tag == "a" else None
        if target is not None:
            self.files[target.path.rsplit("/", 1)[-1]] = target.fragment.removeprefix("sha256=")


def html_page(client: Client, path: str, serials: bool) -> dict[str, str]:
    answer = expect(client.get(path, HTML), path, 200, HTML)
    if serials:
        expect_serial(answer, path)
    links = Links()
    links.feed(answer.body.decode("utf-8", "replace"))
    if not links.files:
        raise CheckError(f"{path} links to no files")
    return links.files


def same_files(files: list[dict[str, Any]], links: dict[str, str]) -> None:
    in_json = {one["url"].partition("#")[0].rsplit("/", 1)[-1]: one["hashes"]["sha256"] for one in files}
    if different := sorted(in_json.items() ^ links.items()):
        raise CheckError(f"JSON and HTML differ in {_shown(different[0][0])} and {len(different) - 1} more")


def unknown_accept(client: Client, path: str) -> None:
    """PEP 691: 406, or the page in a format of the server's choice."""
    answer = client.get(path, "application/x-mirrorfleet-no-such-type")
    if answer.status == 406:
        return
    expect(answer, path, 200, HTML, HTML_V1, JSON_V1)


def absent_project(client: Client) -> None:
    path = f"/simple/{ABSENT}/"
    expect(client.get(path, PIP_ACCEPT), path, 404)


def on_mirror(client: Client, url: str) -> str:
    """The path of a file's URL, which must be on the mirror itself."""
    parts, base = urlsplit(url), urlsplit(client.base)
    if (parts.scheme, parts.netloc) != (base.scheme, base.netloc):
        raise CheckError(f"a page names a file elsewhere: {_shown(url)}")
    return parts.path


def whole_file(client: Client, file: dict[str, Any], largest: int) -> None:
    path = on_mirror(client, file["url"])
    head = expect(client.get(path, method="HEAD"), path, 200)
    length = head.headers.get("Content-Length")
    if file["size"] != UNKNOWN_SIZE and length != str(file["size"]):
        raise CheckError(f"{path} has {_shown(length)} bytes by HEAD, {file['size']} by its page")
    if not re.fullmatch("[0-9]{1,15}", length or "") or int(length or 0) > largest:
        return
    body = expect(client.get(path, limit=largest + 1), path, 200).body
    expect_hash(body, file["hashes"]["sha256"], path)


def expect_hash(body: bytes, sha256: str, path: str) -> None:
    got = hashlib.sha256(body).hexdigest()
    if got != sha256:
        raise CheckError(f"{path} has the sha256 {got}, its page says {sha256}")


def range_of_file(client: Client, file: dict[str, Any]) -> None:
    path = on_mirror(client, file["url"])
    answer = expect(client.get(path, limit=100, Range="bytes=0-9"), path, 206)
    if len(answer.body) != 10:
        raise CheckError(f"{path} gave {len(answer.body)} bytes for a range of 10")


def metadata_hash(file: dict[str, Any]) -> str:
    """The sha256 that a page promises for a file's core metadata (PEP 658 and 714)."""
    for key in ("core-metadata", "dist-info-metadata", "data-dist-info-metadata"):
        if isinstance(promised := file.get(key), dict) and isinstance(promised.get("sha256"), str):
            return str(promised["sha256"])
    return ""


def core_metadata(client: Client, file: dict[str, Any], sha256: str) -> None:
    path = on_mirror(client, file["url"]) + ".metadata"
    expect_hash(expect(client.get(path), path, 200).body, sha256, path)


def measure(mirror: dict[str, Any], families: list[Findings], now: int) -> dict[str, Any]:
    """One mirror's measurement from what its families showed."""

    def least(values: list[int | None]) -> int | None:
        known = [value for value in values if value is not None]
        return min(known) if known else None

    failures = [failure for found in families for failure in found.failures]
    return {
        "name": mirror["name"],
        "url": mirror["url"],
        "ok": not failures,
        "measured_at": now,
        "serial": least([found.serial for found in families]),
        "last_modified": least([found.last_modified for found in families]),
        "certificate_expires": least([found.certificate_expires for found in families]),
        "checks": [name for name in families[0].passed if all(name in found.passed for found in families)],
        "failures": failures,
    }


def measure_all(params: dict[str, Any]) -> dict[str, dict[str, Any]]:
    context = ssl.create_default_context(cafile=params["ca_file"])
    now = int(time.time())

    def one(job: tuple[dict[str, Any], str]) -> Findings:
        mirror, family = job
        client = Client(mirror, family, context, params["timeout"], params["budget"])
        return measure_family(client, family, mirror["mode"], params["project"], params["largest_file"])

    jobs = [(mirror, family) for mirror in params["mirrors"] for family in mirror["address_families"]]
    with ThreadPoolExecutor(params["workers"]) as pool:
        results = list(zip(jobs, pool.map(one, jobs), strict=True))
    return {
        mirror["name"]: measure(mirror, [found for (of, _), found in results if of is mirror], now)
        for mirror in params["mirrors"]
    }


ARGUMENTS: dict[str, Any] = {
    "mirrors": {
        "type": "list",
        "elements": "dict",
        "required": True,
        "options": {
            "name": {"type": "str", "required": True},
            "url": {"type": "str", "required": True},
            "mode": {
                "type": "str",
                "choices": ["bandersnatch", "rsync", "cache", "origin"],
                "default": "bandersnatch",
            },
            "address_families": {
                "type": "list",
                "elements": "str",
                "choices": ["ipv4", "ipv6"],
                "default": ["ipv4", "ipv6"],
            },
            "connect_to": {"type": "list", "elements": "str"},
        },
    },
    "project": {"type": "str", "required": True},
    "ca_file": {"type": "path"},
    "timeout": {"type": "float", "default": 10},
    "budget": {"type": "float", "default": 60},
    "largest_file": {"type": "int", "default": 20_000_000},
    "workers": {"type": "int", "default": 16},
}


def main() -> None:
    module = AnsibleModule(
        argument_spec=ARGUMENTS,
        supports_check_mode=True,
    )
    wrong = [
        f"mirrors[{index}].url is {_shown(mirror['url'])}, expected https://NAME[:PORT]"
        for index, mirror in enumerate(module.params["mirrors"])
        if not re.fullmatch(r"https://[A-Za-z0-9.-]+(:[0-9]{1,5})?/?", mirror["url"])
    ]
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", module.params["project"]):
        wrong.append(f"project is {_shown(module.params['project'])}, expected a normalised project name")
    if wrong:
        module.fail_json(msg="; ".join(wrong))
    try:
        measurements = measure_all(module.params)
    except OSError as error:  # the CA file
        module.fail_json(msg=f"ca_file {module.params['ca_file']} cannot be used: {error}")
    module.exit_json(
        changed=False,
        measurements=measurements,
        all_ok=all(measurement["ok"] for measurement in measurements.values()),
    )


if __name__ == "__main__":
    main()
