"""probe --once MIRROR against real HTTPS servers: what gates and publish.yml go by."""

from __future__ import annotations

import io
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from listing_material import broken
from mirror_material import FILES, HTML, JSON_V1, METADATA, Mirror, entries, path_of
from monitor_sandbox import Sandbox

from mirrorfleet import cli
from mirrorfleet.common.guards import only_one
from mirrorfleet.monitor.conformance import ABSENT

WHEEL = path_of("six", "six-1.0-py3-none-any.whl")
Look = dict[str, Any]


@pytest.fixture
def sandbox(tmp_path: Path, serve: Any, authority: Any) -> Sandbox:
    sandbox = Sandbox(tmp_path, serve, authority)
    sandbox.config["reference"]["projects"] = ["six"]
    return sandbox


@pytest.fixture
def look(sandbox: Sandbox, capsys: pytest.CaptureFixture[str]) -> Any:
    """Look with these options: the exit code and the summary."""

    def ask(*options: str) -> tuple[int, Look]:
        sandbox.write()
        code = cli.main(["probe", "--once", "-c", str(sandbox.folder / "monitor.json"), *options])
        return code, json.loads(capsys.readouterr().out.splitlines()[-1])

    return ask


def test_a_good_mirror_is_asked_everything_and_nothing_is_kept(sandbox: Sandbox, look: Any) -> None:
    mirror = sandbox.add("one")
    with only_one(sandbox.folder / "lock"):
        code, found = look("one")
    assert (code, found["good"], found["reference"], found["monitor"]) == (0, True, "", "monitor")
    one = found["mirrors"]["one"]
    assert (one["good"], one["problem"], one["failures"], one["serial"]) == (True, "", [], 42)
    assert 0 <= time.time() - one["last_modified"] < 60
    assert 29 * 86400 < one["certificate_expires"] - time.time() < 31 * 86400
    asked = {path for _, path, _ in mirror.asked}
    assert {
        "/last-modified",
        "/simple/",
        "/simple/six/",
        "/pypi/six/json",
        f"/simple/{ABSENT}/",
        f"{WHEEL}.metadata",
    } <= asked
    assert sorted(path.name for path in sandbox.folder.iterdir()) == ["lock", "monitor.json", "registry.json"]


def test_it_is_had_beside_the_service(sandbox: Sandbox, look: Any) -> None:
    sandbox.add("one")
    (sandbox.folder / "state").mkdir()
    with only_one(sandbox.folder / "state" / "lock"):
        assert look("one")[0] == 0
        assert sandbox.probe() == 3  # a round that is kept is the service's


def page(kind: str, body: bytes, status: int = 200, serial: str = "42") -> tuple[int, dict[str, str], bytes]:
    return status, {"Content-Type": kind, "X-PyPI-Last-Serial": serial, "Vary": "Accept"}, body


def file_entry(**changes: Any) -> bytes:
    files = [one | (changes if one["filename"].endswith(".whl") else {}) for one in entries("six")]
    return json.dumps({"meta": {"api-version": "1.0"}, "files": files}).encode()


@pytest.mark.parametrize(
    ("replaced", "check", "problem"),
    [
        ({("HEAD", "/simple/"): (301, {"Location": "https://evil.example/"}, b"")}, "serial",
         "/simple/ redirects to 'https://evil.example/'"),
        ({("GET", "/simple/"): page(HTML, b"x")}, "root-page", "has the type 'text/html'"),
        ({("GET", "/simple/"): page(HTML, b"x", 503)}, "root-page", "answered 503, expected 200"),
        ({("GET", "/simple/"): (200, {"Content-Type": JSON_V1}, b"{}")}, "root-page",
         "no usable X-PyPI-Last-Serial header (None)"),
        ({("HEAD", "/simple/"): (200, {"Content-Type": JSON_V1}, b"")}, "serial",
         "no usable X-PyPI-Last-Serial header (None)"),
        ({("/simple/", HTML): page(HTML, b" ")}, "root-page", "/simple/ is empty"),
        ({("/simple/", HTML): page(HTML, b"x", serial="-1")}, "root-page", "header ('-1')"),
        ({"/last-modified": (200, {}, b"yesterday")}, "last-modified", "says 'yesterday'"),
        ({"/last-modified": (404, {}, b"")}, "last-modified", "answered 404"),
        ({"/pypi/six/json": page("application/json", b"[]")}, "legacy-json", "is no JSON object"),
        ({"/pypi/six/json": page("application/json", b"{}")}, "legacy-json", "has no releases"),
        ({"/pypi/six/json": page("application/json", b'{"releases": {}}', serial="")}, "legacy-json", "no usable"),
        ({("/simple/six/", JSON_V1): page(JSON_V1, b"{")}, "project page", "is no JSON"),
        ({("/simple/six/", JSON_V1): page(JSON_V1, b"[" * 100_000)}, "project page", "is no JSON"),
        ({("/simple/six/", JSON_V1): page(JSON_V1, b"{}")}, "project page", "has no list of files"),
        ({("/simple/six/", JSON_V1): page(JSON_V1, b'{"files": []}')}, "project page", "lacks six-"),
        ({("/simple/six/", JSON_V1): page(JSON_V1, b'{"files": [5]}')}, "project page", "names a file without sha256"),
        ({("/simple/six/", JSON_V1): page(JSON_V1, file_entry(hashes={"md5": "x"}))}, "project page",
         "names a file without sha256"),
        ({("/simple/six/", JSON_V1): page(JSON_V1, file_entry(url=None))}, "project page",
         "names a file without URL"),
        ({("/simple/six/", JSON_V1): page(JSON_V1, file_entry(url="https://evil.example/six-1.0-py3-none-any.whl"))},
         "project page", "names a file elsewhere: 'https://evil.example/six-1.0-py3-none-any.whl'"),
        ({("/simple/six/", JSON_V1): page(HTML, b"", 406)}, "project page", "answered 406"),
        ({("/simple/six/", HTML): page(HTML, b"")}, "same-files", "JSON and HTML differ in"),
        ({("/simple/six/", HTML): page(HTML, f'<a href="{WHEEL}#sha256=00">x</a>'.encode())}, "html-page",
         "without sha256"),
        ({f"/simple/{ABSENT}/": page(HTML, b"x")}, "absent", "answered 200, expected 404"),
        ({("HEAD", path_of("six", name)): (200, {"Content-Length": "7"}, b"") for name in FILES["six"]}, "file",
         "bytes by HEAD"),
        ({path_of("six", name): (403, {}, b"") for name in FILES["six"]}, "file", "answered 403"),
        ({("GET", path_of("six", name)): (200, {}, data) for name, data in FILES["six"].items()}, "file",
         "answered 200, expected 206"),
        ({f"{WHEEL}.metadata": (404, {}, b"")}, "metadata", "answered 404"),
        ({f"{WHEEL}.metadata": (200, {}, METADATA + b"x")}, "metadata", "has the sha256"),
    ],
)  # fmt: skip
def test_the_check_that_fails_is_named(
    sandbox: Sandbox, look: Any, replaced: dict[Any, Any], check: str, problem: str
) -> None:
    sandbox.add("one").replaced = replaced
    code, found = look("one")
    one = found["mirrors"]["one"]
    told = [failure for failure in one["failures"] if failure["check"] == check]
    assert (code, one["good"]) == (1, False)
    assert [problem in failure["problem"] for failure in told] == [True, True], one["failures"]
    assert [failure["family"] for failure in told] == ["ipv4", "ipv6"]
    # In the words of the service.
    first = one["failures"][0]
    assert one["problem"].startswith(f"{first['check']} over ipv4: {first['problem'][:150]}")


def test_a_cache_owes_no_serials(sandbox: Sandbox, look: Any) -> None:
    absent = {path: (404, {}, b"") for path in ("/last-modified", "/simple/", "/pypi/six/json")}
    sandbox.add("one", mode="cache").replaced = absent
    code, found = look("one")
    assert code == 0, found
    assert (found["mirrors"]["one"]["serial"], found["mirrors"]["one"]["last_modified"]) == (None, None)


def test_an_unknown_type_may_be_answered_406_but_not_500(sandbox: Sandbox, look: Any) -> None:
    class Strict(Mirror):
        status = 406

        def page(self, request: Any) -> tuple[int, dict[str, str], bytes]:
            if "no-such-type" in request.headers["Accept"]:
                return self.status, {}, b""
            return super().page(request)

    strict = sandbox.add("one", mirror=Strict())
    assert look("one")[0] == 0
    strict.status = 500
    _, found = look("one")
    assert {failure["check"] for failure in found["mirrors"]["one"]["failures"]} == {"unknown-type"}


def test_each_family_is_looked_at_by_itself(sandbox: Sandbox, look: Any) -> None:
    sandbox.add("one", ipv6=False)
    _, found = look("one")
    assert found["mirrors"]["one"]["failures"] == [
        {"family": "ipv6", "check": "connection", "problem": "connection refused"}
    ]


def test_dripping_is_cut_when_the_time_is_over(sandbox: Sandbox, look: Any) -> None:
    """Each request ends well within its own time; the budget of a look ends them all."""

    class Dripping(Mirror):
        def __call__(self, request: Any) -> tuple[int, dict[str, str], bytes]:
            agent = request.headers.get("User-Agent", "")
            if agent.startswith("uv/") or request.headers.get("Accept") == HTML:
                time.sleep(1.2)
            return super().__call__(request)

    sandbox.config |= {"timeout": 1.5, "budget": 1}
    sandbox.add("one", mirror=Dripping())
    _, found = look("one")
    told = {failure["problem"] for failure in found["mirrors"]["one"]["failures"]}
    assert told == {"took longer than the time for a round"}


def test_mirrors_are_looked_at_side_by_side(sandbox: Sandbox, look: Any) -> None:
    met = threading.Barrier(6, timeout=10)

    class Meeting(Mirror):
        def page(self, request: Any) -> tuple[int, dict[str, str], bytes]:
            if request.path == "/last-modified" and not met.broken:
                met.wait()
            return super().page(request)

    sandbox.config |= {"timeout": 20, "budget": 40}
    for name in ("one", "two", "three"):
        sandbox.add(name, mirror=Meeting())
    code, found = look("three", "one", "two")
    assert (code, sorted(found["mirrors"])) == (0, ["one", "three", "two"]), found


def test_who_is_not_named_is_left_alone(sandbox: Sandbox, look: Any) -> None:
    sandbox.add("one")
    other = sandbox.add("two")
    assert list(look("one")[1]["mirrors"]) == ["one"]
    assert other.asked == []


@pytest.mark.parametrize("source", ["a file", "stdin"])
def test_a_mirror_that_the_registry_lacks_comes_with_its_record(
    sandbox: Sandbox, look: Any, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox.add("one")
    sandbox.add("new")
    new = sandbox.registry["mirrors"].pop()
    text = json.dumps([new])
    if source == "stdin":
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    (sandbox.folder / "records.json").write_text(text)
    code, found = look("--records", "-" if source == "stdin" else str(sandbox.folder / "records.json"))
    assert (code, list(found["mirrors"])) == (0, ["new"])


def test_a_record_that_is_brought_counts_before_the_registrys(sandbox: Sandbox, look: Any) -> None:
    sandbox.add("one", ipv6=False)
    (one,) = sandbox.registry["mirrors"]
    (sandbox.folder / "records.json").write_text(json.dumps([one | {"address_families": ["ipv4"]}]))
    assert look("one")[0] == 1
    records = ("--records", str(sandbox.folder / "records.json"))
    assert look(*records)[0] == 0
    sandbox.registry["mirrors"] = [broken("one")]
    assert look(*records, "one")[0] == 0


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["nobody"], "'nobody': is no mirror of the registry"),
        (["bad"], "'bad': mirror_bandwidth is text"),
        (["--records", "/no/such/file"], "/no/such/file: cannot be read"),
        (["--records", "RECORDS"], "'one': record lacks address_families"),
    ],
)
def test_what_cannot_be_looked_at_is_told(
    sandbox: Sandbox, capsys: pytest.CaptureFixture[str], options: list[str], problem: str
) -> None:
    sandbox.add("one")
    sandbox.registry["mirrors"].append(broken("bad"))
    records = sandbox.folder / "records.json"
    records.write_text(json.dumps([{"name": "one", "url": "http://one.example.org"}]))
    sandbox.write()
    options = [str(records) if one == "RECORDS" else one for one in options]
    assert cli.main(["probe", "--once", "-c", str(sandbox.folder / "monitor.json"), *options]) == 2
    assert problem in capsys.readouterr().err


def test_only_a_single_look_takes_names(sandbox: Sandbox, capsys: pytest.CaptureFixture[str]) -> None:
    sandbox.write()
    assert cli.main(["probe", "-c", str(sandbox.folder / "monitor.json"), "one"]) == 2
    assert "--once" in capsys.readouterr().err


def test_without_the_trusted_index_nothing_is_said_of_mirrors(sandbox: Sandbox, look: Any) -> None:
    mirror = sandbox.add("one")
    sandbox.reference.fault = "error"
    code, found = look("one")
    assert (code, found["mirrors"]) == (1, {})
    assert found["reference"] == "/simple/ answered 500, expected 200"
    assert mirror.asked == []
