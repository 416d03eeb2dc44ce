"""Mirrors measured from outside: real servers on loopback, one of everything wrong."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import pytest
from mirror_probe import HTML, JSON_V1, measure_all

from mirrorfleet.fleet.health import from_measurements, read

NAME = "mirror.example.test"
WHEEL = b"a wheel of some bytes" * 10
METADATA = b"Metadata-Version: 2.4\nName: six\n"
PATH = "/packages/aa/bb/six-1.0-py3-none-any.whl"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass
class Mirror:
    """A mirror as it should be. Tests replace single answers."""

    replaced: dict[Any, tuple[int, dict[str, str], bytes]] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=lambda: {"X-PyPI-Last-Serial": "42"})
    asked: list[tuple[str, str]] = field(default_factory=list)

    def __call__(self, request: Any) -> tuple[int, dict[str, str], bytes]:
        accept = request.headers["Accept"]
        self.asked.append((request.path, accept))
        for key in ((request.method, request.path), (request.path, self.kind(accept)), request.path):
            if key in self.replaced:
                return self.replaced[key]
        return self.page(request, self.kind(accept))

    @staticmethod
    def kind(accept: str) -> str:
        return next((kind for kind in (JSON_V1, HTML) if accept.startswith(kind)), HTML)

    def page(self, request: Any, kind: str) -> tuple[int, dict[str, str], bytes]:
        files: list[dict[str, Any]] = [
            {"filename": "six-1.0.tar.gz", "url": "../../packages/cc/six-1.0.tar.gz", "size": 10**9,
             "hashes": {"sha256": "0" * 64}},
            {"filename": "six-1.0-py3-none-any.whl", "url": f"../..{PATH}", "size": len(WHEEL),
             "hashes": {"sha256": sha256(WHEEL)}, "core-metadata": {"sha256": sha256(METADATA)}},
        ]  # fmt: skip
        links = "".join(
            f'<a href="{f["url"]}#sha256={f["hashes"]["sha256"]}">{f["filename"]}</a>' for f in files
        )
        pages = {
            ("/simple/", JSON_V1): b'{"meta": {"api-version": "1.1"}, "projects": [{"name": "six"}]}',
            ("/simple/", HTML): b'<a href="/simple/six/">six</a>',
            ("/simple/six/", JSON_V1): json.dumps({"meta": {"api-version": "1.1"}, "files": files}).encode(),
            ("/simple/six/", HTML): links.encode(),
        }
        if (request.path, kind) in pages:
            return 200, {"Content-Type": kind, **self.headers}, pages[request.path, kind]
        if request.path == "/pypi/six/json":
            return 200, {"Content-Type": "application/json", **self.headers}, b'{"releases": {}}'
        if request.path == "/last-modified":
            return 200, {"Content-Type": "text/plain"}, b"20261123T07:00:00\n"
        if request.path == PATH:
            return (206, {}, WHEEL[:10]) if "Range" in request.headers else (200, {}, WHEEL)
        if request.path == PATH + ".metadata":
            return 200, {}, METADATA
        return 404, {}, b""


def measure(port: int, authority: Any, **changes: Any) -> dict[str, Any]:
    mirror = {
        "name": "one",
        "url": f"https://{NAME}:{port}",
        "mode": "bandersnatch",
        "address_families": ["ipv4"],
        "connect_to": ["127.0.0.1", "::1"],
    }
    mirror |= {key: changes.pop(key) for key in list(changes) if key in mirror}
    params = {
        "mirrors": [mirror],
        "project": "six",
        "ca_file": str(authority.pem),
        "timeout": 2.0,
        "budget": 20.0,
        "largest_file": 10**6,
        "workers": 4,
    } | changes
    return measure_all(params)["one"]


def test_a_good_mirror_passes_everything(serve: Any, authority: Any) -> None:
    mirror = Mirror()
    found = measure(serve(mirror, authority.issue(NAME)), authority)
    assert found["failures"] == []
    assert found["ok"]
    assert (found["serial"], found["last_modified"]) == (42, 1795417200)
    assert found["checks"] == [
        "connection",
        "root page as JSON",
        "root page as HTML",
        "last-modified",
        "legacy JSON",
        "project page as JSON",
        "project page as HTML",
        "project page for pip",
        "project page for uv",
        "same files in both formats",
        "unknown Accept header",
        "absent project",
        "file",
        "range of a file",
        "core metadata",
    ]
    days = (found["certificate_expires"] - time.time()) / 86400
    assert 29 < days < 31
    assert ("/packages/cc/six-1.0.tar.gz", "*/*") not in mirror.asked


def test_what_it_finds_is_what_the_list_takes(serve: Any, authority: Any) -> None:
    found = measure(serve(Mirror(), authority.issue(NAME)), authority)
    seen = read(from_measurements({"one": found}, int(time.time())))
    assert (seen.health["one"].good, seen.health["one"].bad, seen.health["one"].serial) == (1, 0, 42)
    found = measure(serve(Mirror(), authority.issue("other.example.test")), authority)
    seen = read(from_measurements({"one": found}, int(time.time())))
    assert (seen.health["one"].good, seen.health["one"].bad) == (0, 1)
    assert seen.health["one"].problem.startswith("connection over ipv4: the certificate is not valid")


def page(status: int, kind: str, body: bytes, serial: str = "42") -> tuple[int, dict[str, str], bytes]:
    return status, {"Content-Type": kind, "X-PyPI-Last-Serial": serial}, body


def file_entry(**changes: Any) -> bytes:
    entry = {
        "filename": "six-1.0-py3-none-any.whl",
        "url": f"../..{PATH}",
        "hashes": {"sha256": sha256(WHEEL)},
    }
    return json.dumps({"files": [entry | changes]}).encode()


@pytest.mark.parametrize(
    ("replaced", "check", "problem"),
    [
        ({("HEAD", "/simple/"): (301, {"Location": "https://evil.example/"}, b"")}, "connection",
         "/simple/ redirects to 'https://evil.example/'"),
        ({("/simple/", JSON_V1): page(200, HTML, b"x")}, "root page as JSON", "has the type 'text/html'"),
        ({("/simple/", JSON_V1): page(503, HTML, b"x")}, "root page as JSON", "answered 503, expected 200"),
        ({("/simple/", JSON_V1): (200, {"Content-Type": JSON_V1}, b"{}")}, "root page as JSON",
         "no usable X-PyPI-Last-Serial header (None)"),
        ({("/simple/", HTML): page(200, HTML, b" ")}, "root page as HTML", "/simple/ is empty"),
        ({("/simple/", HTML): page(200, HTML, b"x", "-1")}, "root page as HTML", "header ('-1')"),
        ({"/last-modified": (200, {}, b"yesterday")}, "last-modified", "says 'yesterday'"),
        ({"/last-modified": (404, {}, b"")}, "last-modified", "answered 404"),
        ({"/pypi/six/json": page(200, "application/json", b"[]")}, "legacy JSON", "is no JSON object"),
        ({"/pypi/six/json": page(200, "application/json", b"{}")}, "legacy JSON", "has no releases"),
        ({"/pypi/six/json": page(200, "application/json", b'{"releases": {}}', "")}, "legacy JSON", "no usable"),
        ({("/simple/six/", JSON_V1): page(200, JSON_V1, b"{")}, "project page as JSON", "is no JSON"),
        ({("/simple/six/", JSON_V1): page(200, JSON_V1, b"[" * 100_000)}, "project page as JSON", "is no JSON"),
        ({("/simple/six/", JSON_V1): page(200, JSON_V1, b"{}")}, "project page as JSON", "names no files"),
        ({("/simple/six/", JSON_V1): page(200, JSON_V1, b'{"files": [5]}')}, "project page as JSON",
         "names a file without sha256"),
        ({("/simple/six/", JSON_V1): page(200, JSON_V1, file_entry(hashes={"md5": "x"}))}, "project page as JSON",
         "names a file without sha256"),
        ({("/simple/six/", JSON_V1): page(200, JSON_V1, file_entry(url=None))}, "project page as JSON",
         "names a file without URL"),
        ({("/simple/six/", JSON_V1): page(406, HTML, b"")}, "project page for pip", "answered 406"),
        ({("/simple/six/", HTML): page(200, HTML, b"")}, "project page as HTML", "links to no files"),
        ({("/simple/six/", HTML): page(200, HTML, f'<a href="{PATH}#sha256=00">x</a>'.encode())},
         "same files in both formats", "JSON and HTML differ in"),
        ({"/simple/mirrorfleet-there-is-no-such-project-b1946ac92492/": page(200, HTML, b"x")}, "absent project",
         "answered 200, expected 404"),
        ({PATH: (200, {}, WHEEL + b"x")}, "file", "bytes by HEAD"),
        ({("GET", PATH): (200, {}, WHEEL[:-1] + b"X")}, "file", "has the sha256"),
        ({PATH: (403, {}, b"")}, "file", "answered 403"),
        ({("GET", PATH): (200, {}, WHEEL)}, "range of a file", "answered 200, expected 206"),
        ({("/simple/six/", JSON_V1): page(200, JSON_V1, file_entry(url="https://evil.example/x.whl"))}, "file",
         "a page names a file elsewhere: 'https://evil.example/x.whl'"),
        ({PATH + ".metadata": (404, {}, b"")}, "core metadata", "answered 404"),
        ({PATH + ".metadata": (200, {}, b"x")}, "core metadata", "has the sha256"),
    ],
)  # fmt: skip
def test_the_check_that_fails_is_named(
    replaced: dict[Any, Any], check: str, problem: str, serve: Any, authority: Any
) -> None:
    found = measure(serve(Mirror(replaced), authority.issue(NAME)), authority)
    assert not found["ok"]
    assert check not in found["checks"]
    told = [failure for failure in found["failures"] if failure["check"] == check]
    assert [problem in failure["problem"] for failure in told] == [True], found["failures"]
    assert told[0]["family"] == "ipv4"


def test_an_unknown_accept_header_may_be_answered_406_but_not_500(serve: Any, authority: Any) -> None:
    class Strict(Mirror):
        status = 406

        def __call__(self, request: Any) -> tuple[int, dict[str, str], bytes]:
            if "no-such-type" in request.headers["Accept"]:
                return self.status, {}, b""
            return super().__call__(request)

    strict = Strict()
    port = serve(strict, authority.issue(NAME))
    assert measure(port, authority)["ok"]
    strict.status = 500
    assert [failure["check"] for failure in measure(port, authority)["failures"]] == ["unknown Accept header"]


def test_a_cache_owes_no_serials(serve: Any, authority: Any) -> None:
    cache = Mirror({path: (404, {}, b"") for path in ("/last-modified", "/pypi/six/json")}, headers={})
    found = measure(serve(cache, authority.issue(NAME)), authority, mode="cache")
    assert found["ok"], found["failures"]
    assert (found["serial"], found["last_modified"]) == (None, None)


@pytest.mark.parametrize(
    ("names", "days", "problem"),
    [
        (["other.example.test"], 30, f"the certificate is not valid for {NAME}: Hostname mismatch"),
        ([NAME], -1, f"the certificate is not valid for {NAME}: certificate has expired"),
    ],
)
def test_certificates(names: list[str], days: float, problem: str, serve: Any, authority: Any) -> None:
    found = measure(serve(Mirror(), authority.issue(*names, days=days)), authority)
    (failure,) = found["failures"]
    assert failure["check"] == "connection"
    assert failure["problem"].startswith(problem)


def test_an_unknown_authority(serve: Any, authority: Any) -> None:
    found = measure(
        serve(Mirror(), authority.issue(NAME)), authority, ca_file="/etc/ssl/certs/ca-certificates.crt"
    )
    assert "unable to get local issuer certificate" in found["failures"][0]["problem"]


def test_no_tls_at_all(serve: Any, authority: Any) -> None:
    (failure,) = measure(serve(Mirror()), authority)["failures"]
    assert failure["problem"].startswith("TLS failed")


def listen(behave: Callable[[socket.socket], object]) -> tuple[socket.socket, int]:
    """A listener that treats every connection in its own way."""
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=behave, args=[connection], daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return listener, listener.getsockname()[1]


def test_refused(authority: Any) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
    (failure,) = measure(port, authority)["failures"]
    assert failure == {"family": "ipv4", "check": "connection", "problem": "connection refused"}


def test_hanging(authority: Any) -> None:
    over = threading.Event()
    listener, port = listen(lambda _: over.wait(30))
    with closing(listener):
        (failure,) = measure(port, authority, timeout=0.2)["failures"]
    over.set()
    assert failure["problem"] == "no answer in time"


def test_hanging_up(authority: Any) -> None:
    listener, port = listen(lambda connection: connection.close())
    with closing(listener):
        (failure,) = measure(port, authority)["failures"]
    assert failure["check"] == "connection"


def test_dripping_is_cut_when_the_time_is_over(serve: Any, authority: Any) -> None:
    """Each byte comes well within the timeout of a network operation; the budget of the mirror ends it."""

    class Dripping(Mirror):
        def __call__(self, request: Any) -> tuple[int, dict[str, str], bytes]:
            if request.path == "/last-modified":
                time.sleep(1.5)
            return super().__call__(request)

    found = measure(serve(Dripping(), authority.issue(NAME)), authority, timeout=30.0, budget=1.0)
    told = {failure["check"]: failure["problem"] for failure in found["failures"]}
    assert told["last-modified"] == "took longer than the time for this mirror"
    assert told["absent project"] == "no time left for this mirror"


def test_an_answer_cut_short(serve: Any, authority: Any) -> None:
    cut = Mirror({"/last-modified": (200, {"Content-Length": "99", "Connection": "close"}, b"2026")})
    (failure,) = measure(serve(cut, authority.issue(NAME)), authority)["failures"]
    assert (failure["check"], failure["problem"]) == ("last-modified", "the answer ended too early")


def test_each_claimed_family_is_measured_by_itself(serve: Any, authority: Any) -> None:
    certificate = authority.issue(NAME)
    port = serve(Mirror(), certificate)
    found = measure(port, authority, address_families=["ipv4", "ipv6"])
    assert [(failure["family"], failure["problem"]) for failure in found["failures"]] == [
        ("ipv6", "connection refused")
    ]
    assert found["checks"] == []
    serve(Mirror({"/last-modified": (200, {}, b"20261122T00:00:00")}), certificate, "::1", port)
    found = measure(port, authority, address_families=["ipv4", "ipv6"])
    assert found["ok"], found["failures"]
    assert found["last_modified"] == 1795305600


def test_a_name_without_an_address(authority: Any) -> None:
    (failure,) = measure(1, authority, url="https://no-such-name.invalid", connect_to=None)["failures"]
    assert failure["problem"] == "no-such-name.invalid does not resolve in this address family"


def test_a_large_file_is_not_fetched(serve: Any, authority: Any) -> None:
    mirror = Mirror({("GET", PATH): (206, {}, WHEEL[:10])})
    assert measure(serve(mirror, authority.issue(NAME)), authority, largest_file=5)["ok"]


def test_mirrors_are_measured_side_by_side(serve: Any, authority: Any) -> None:
    certificate = authority.issue(NAME)
    met = threading.Barrier(3, timeout=10)

    class Meeting(Mirror):
        def __call__(self, request: Any) -> tuple[int, dict[str, str], bytes]:
            if request.path == "/last-modified":
                met.wait()
            return super().__call__(request)

    mirrors = [
        {
            "name": f"mirror{n}",
            "url": f"https://{NAME}:{serve(Meeting(), certificate)}",
            "mode": "bandersnatch",
            "address_families": ["ipv4"],
            "connect_to": ["127.0.0.1"],
        }
        for n in range(3)
    ]
    params = {
        "project": "six",
        "ca_file": str(authority.pem),
        "timeout": 10.0,
        "budget": 30.0,
        "largest_file": 10**6,
    }
    found = measure_all(params | {"mirrors": mirrors, "workers": 3})
    assert {name: one["ok"] for name, one in found.items()} == {
        "mirror0": True,
        "mirror1": True,
        "mirror2": True,
    }
