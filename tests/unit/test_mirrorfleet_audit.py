"""The verb audit against real HTTPS servers, and what its verdict does to the list."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from xml.parsers import expat

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mirror_material import FILES, Mirror, path_of
from monitor_sandbox import Sandbox

from mirrorfleet import cli
from mirrorfleet.common.schema import schema
from mirrorfleet.fleet import registry
from mirrorfleet.monitor import audit
from mirrorfleet.monitor.client import PIP, UV
from mirrorfleet.monitor.reference import File
from mirrorfleet.monitor.report import RULES, wilson
from mirrorfleet.monitor.settings import load_monitor
from mirrorfleet.monitor.truth import choose_files


@pytest.fixture
def sandbox(tmp_path: Path, serve: Any, authority: Any) -> Sandbox:
    return Sandbox(tmp_path, serve, authority)


def failed(report: dict[str, Any]) -> dict[str, str]:
    return {one["rule"]: one["detail"] for one in report["rules"] if one["passed"] is False}


def test_a_good_mirror_passes_every_rule(sandbox: Sandbox) -> None:
    mirror = sandbox.add("one")
    sandbox.config["removed_projects"] = ["gone"]
    assert sandbox.audit() == 0
    report = sandbox.report()
    jsonschema.validate(report, schema("audit"), jsonschema.Draft202012Validator)
    assert (report["verdict"], failed(report), report["problem"]) == ("passed", {}, "")
    assert {one["rule"] for one in report["rules"]} == set(RULES)
    assert {one["passed"] for one in report["rules"]} == {True}
    assert report["passed_at"] == report["started"]
    count = sum(len(files) for files in FILES.values())
    assert report["integrity"]["files"] == report["completeness"]["sampled"] == count
    agents = {agent.partition(" ")[0] for _, _, agent in mirror.asked}
    assert agents == {"pip/26.3", "uv/0.13.9"}
    page = (sandbox.folder / "state/audits/one.html").read_bytes()
    expat.ParserCreate().Parse(page, True)
    assert b"passed" in page


@pytest.mark.parametrize(
    ("fault", "rule", "words"),
    [
        ("forbids pip", "json-page", "answered 403"),
        ("redirects", "json-page", "redirects to 'https://elsewhere.example.org/simple/"),
        ("stale pages with a fresh date", "pages", " lacks '"),
        ("lacks six-1.0.tar.gz", "completeness", "21 of 22 files are there"),
        ("truncated", "completeness", "0 of 22 files are there"),
    ],
)
def test_what_is_wrong_is_told_by_rule(sandbox: Sandbox, fault: str, rule: str, words: str) -> None:
    sandbox.add("one").fault = fault
    assert sandbox.audit() == 1
    report = sandbox.report()
    assert words in failed(report)[rule]
    assert report["verdict"] in ("failed", "tampered")
    assert report["passed_at"] is None


def test_one_wrong_byte_in_one_file_of_many_is_tampering(sandbox: Sandbox) -> None:
    sandbox.add("one").fault = "wrong byte in attrs-7.0.tar.gz"
    assert sandbox.audit() == 1
    report = sandbox.report()
    assert (report["verdict"], report["tampered_at"]) == ("tampered", report["started"])
    assert [path_of("attrs", "attrs-7.0.tar.gz") in one for one in report["integrity"]["wrong"]] == [True]


def test_a_forged_page_is_tampering(sandbox: Sandbox) -> None:
    sandbox.add("one").fault = "forged page"
    assert sandbox.audit() == 1
    assert sandbox.report()["verdict"] == "tampered"


def test_projects_that_were_removed_are_gone(sandbox: Sandbox) -> None:
    sandbox.add("one")
    sandbox.config["removed_projects"] = ["attrs"]
    assert sandbox.audit() == 1
    assert failed(sandbox.report()) == {
        "removed": "/simple/attrs/ answered 200, expected 404: it was removed"
    }


def test_files_that_the_index_withdrew_and_yanks_it_lost(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox.add("one")
    whole = Mirror.project

    def trusted(self: Mirror, project: str, kind: str) -> Any:
        status, headers, body = whole(self, project, kind)
        if self is sandbox.reference and project == "six":
            document = json.loads(body)
            document["files"] = document["files"][1:]
            document["files"][0]["yanked"] = "broken"
            document["files"][1]["requires-python"] = ">=3.9"
            body = json.dumps(document).encode()
        return status, headers, body

    monkeypatch.setattr(Mirror, "project", trusted)
    assert sandbox.audit() == 1
    found = failed(sandbox.report())
    assert set(found) == {"withdrawn", "yanked", "requires-python"}
    assert "'six-1.0-py3-none-any.whl' and 0 more" in found["withdrawn"]


def test_an_index_that_cannot_be_asked_says_nothing_of_mirrors(
    sandbox: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    sandbox.add("one")
    sandbox.audit()
    before = sandbox.report()
    sandbox.reference.fault = "error"
    assert sandbox.audit() == 1
    assert "the trusted index https://index.example.test" in capsys.readouterr().err
    assert sandbox.report() == before


def test_one_family_that_fails_fails_the_audit(sandbox: Sandbox) -> None:
    sandbox.add("one", ipv6=False)
    assert sandbox.audit() == 1
    assert failed(sandbox.report()) == {"connection": "connection refused"}


def test_who_is_due(sandbox: Sandbox, capsys: pytest.CaptureFixture[str]) -> None:
    def audited() -> list[str]:
        assert sandbox.audit("--due") in (0, 1)
        return sorted(json.loads(capsys.readouterr().out.splitlines()[-1])["verdicts"])

    for name in ("one", "two", "three"):
        sandbox.add(name)
    sandbox.registry["mirrors"][2]["state"] = "drained"
    sandbox.probe()
    capsys.readouterr()
    assert audited() == ["one", "two"]
    assert audited() == []
    sandbox.mirrors["two"].fault = "error"
    sandbox.probe()
    capsys.readouterr()
    assert audited() == []  # while it fails, an audit has no use
    sandbox.mirrors["two"].fault = ""
    time.sleep(1.1)
    sandbox.probe()
    capsys.readouterr()
    assert audited() == ["two"]
    sandbox.mirrors["two"].fault = "stale"  # its rounds are good, and it has to return all the same
    sandbox.probe()
    sandbox.mirrors["two"].fault = ""
    time.sleep(1.1)
    sandbox.probe()
    assert (sandbox.folder / "state/audit-due").exists()
    capsys.readouterr()
    assert audited() == ["two"]
    assert not (sandbox.folder / "state/audit-due").exists()
    sandbox.mirrors["one"].fault = "wrong byte in six-0.9.tar.gz"
    assert sandbox.audit("one") == 1
    capsys.readouterr()
    assert audited() == []
    assert sandbox.audit("nobody") == 2


def test_who_did_not_pass_is_looked_at_again_soon_then_less_often(sandbox: Sandbox) -> None:
    sandbox.add("one").fault = "error"
    file = sandbox.folder / "state/audits/one.json"
    for failing, pause in ((0, 300), (301, 301), (700, 700), (5000, 3600), (90000, 3600)):
        assert sandbox.audit("one") == 1
        config = load_monitor(sandbox.folder / "monitor.json")
        known, began = registry.load(config.registry), sandbox.report()["started"]
        file.write_text(json.dumps(sandbox.report() | {"failed_since": began - failing}))
        assert not audit.due(config, known, began + pause)
        assert audit.due(config, known, began + pause + 1) == ["one"]
    time.sleep(
        1.1
    )  # what is kept are whole seconds: it has to become well in a later one than the audit began
    sandbox.mirrors["one"].fault = ""
    sandbox.probe()  # it is well again, and yet no mirror is audited with each turn that it takes
    assert not audit.due(config, known, began + 300)
    assert audit.due(config, known, began + 301) == ["one"]
    assert sandbox.audit("one") == 0
    assert "failed_since" not in sandbox.report()
    sandbox.config["audit_seconds"] = 60
    sandbox.mirrors["one"].fault = "error"
    assert sandbox.audit("one") == 1
    config, began = load_monitor(sandbox.folder / "monitor.json"), sandbox.report()["started"]
    assert not audit.due(config, known, began + 60)
    assert audit.due(config, known, began + 61) == ["one"]


def test_a_project_that_the_trusted_index_lost_stops_no_audit(
    sandbox: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    sandbox.add("one")
    sandbox.config["audit_projects"] = ["six", "attrs", "deleted-since"]
    for _ in range(3):
        assert sandbox.audit("one") == 0
    sandbox.config["audit_projects"] = ["deleted-since"]
    assert sandbox.audit("one") == 1
    assert "none of the projects has a file" in capsys.readouterr().err


def test_tampering_leads_off_the_list_until_an_audit_passes(sandbox: Sandbox) -> None:
    """From a wrong byte that only an audit finds, over health.json, to the list; and back."""

    def publish() -> dict[str, str]:
        assert sandbox.probe() == 0
        assert cli.main(["list", "-c", str(sandbox.folder / "list.json")]) == 0
        document = json.loads((sandbox.folder / "list" / "mirrors.json").read_text())
        return {one["name"]: one["code"] for one in document["mirrors"]}

    for name in ("one", "two"):
        sandbox.add(name)
    sandbox.config["largest_file"] = 0  # the prober hashes nothing here
    (sandbox.folder / "list.json").write_text(
        json.dumps(
            {
                "registry": str(sandbox.folder / "registry.json"), "health": str(sandbox.folder / "health.json"),
                "documents": str(sandbox.folder / "list"), "state": str(sandbox.folder / "list-state.json"),
                "settings": {"fall": 1, "rise": 1, "damping_seconds": 0},
            }
        )
    )  # fmt: skip
    assert publish() == {"one": "audit", "two": "audit"}  # nobody joins without one
    assert sandbox.audit() == 0
    assert publish() == {"one": "listed", "two": "listed"}
    sandbox.mirrors["one"].fault = "wrong byte in six-0.9.tar.gz"
    time.sleep(1.1)
    assert sandbox.audit() == 1
    assert publish() == {"one": "tampered", "two": "listed"}
    sandbox.mirrors["one"].fault = ""
    for _ in range(3):
        assert publish()["one"] == "tampered"
    time.sleep(1.1)
    assert sandbox.audit() == 0
    assert publish() == {"one": "listed", "two": "listed"}


# --- what it is made of ---


@given(st.integers(0, 500), st.integers(0, 500))
def test_the_interval_holds_the_share(one: int, other: int) -> None:
    present, sampled = min(one, other), max(one, other)
    low, high = wilson(present, sampled)
    assert 0 <= low <= high <= 1
    if sampled:
        assert low - 1e-6 <= present / sampled <= high + 1e-6


def test_the_interval_is_wilsons() -> None:
    # Newcombe 1998, table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29
    for present, sampled, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
    ):
        assert wilson(present, sampled) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


@given(st.lists(st.none() | st.integers(0, 1000), max_size=30), st.integers(0, 3000))
def test_the_sample_keeps_its_budget(sizes: list[int | None], budget: int) -> None:
    files = [File("p", str(at), f"/{at}", "", size, 0) for at, size in enumerate(sizes)]
    drawn = choose_files(files, budget)
    assert len({file.name for file in drawn}) == len(drawn)
    assert len(drawn) <= 1 or sum(file.size or 0 for file in drawn) <= budget
    assert bool(drawn) == bool(files)


def headers_of(client: list[str], serve: Any) -> dict[str, str]:
    """What a real client sends for a project's page."""
    seen: list[Any] = []

    def answer(request: Any) -> tuple[int, dict[str, str], bytes]:
        seen.append(request)
        return 404, {}, b""

    port = serve(answer)
    subprocess.run([*client, f"http://127.0.0.1:{port}/simple/", "six"], capture_output=True, check=False)
    request = next(one for one in seen if one.path == "/simple/six/")
    return {name: value for name, value in request.headers.items() if name not in ("Host", "Connection")}


def shape(headers: dict[str, str]) -> dict[str, str]:
    """Without versions and what an agent tells of its machine."""
    agent = re.sub(r"^(pip|uv)/\S+ .*$", r"\1", headers["User-Agent"])
    return headers | {"User-Agent": agent}


def test_the_headers_are_those_of_the_clients_at_hand(serve: Any, tmp_path: Path) -> None:
    target = ["--target", str(tmp_path / "x")]
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--isolated",
        "--disable-pip-version-check",
        "install",
        "--no-cache-dir",
    ]
    uv = [str(Path(sys.executable).with_name("uv")), "pip", "install", "--no-config", "--no-cache"]
    assert shape(headers_of([*pip, *target, "-i"], serve)) == shape(PIP)
    assert shape(headers_of([*uv, *target, "--index-url"], serve)) == shape(UV)
