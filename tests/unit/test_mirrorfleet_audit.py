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
import mirror_material as material
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mirror_material import FILES, METADATA, NEW, Mirror, path_of, sha256, wheel
from monitor_sandbox import Sandbox

from mirrorfleet import cli
from mirrorfleet.common.schema import schema
from mirrorfleet.fleet import registry
from mirrorfleet.monitor import audit
from mirrorfleet.monitor.client import PIP, UV
from mirrorfleet.monitor.reference import File
from mirrorfleet.monitor.report import RULES, wilson
from mirrorfleet.monitor.settings import load_monitor
from mirrorfleet.monitor.truth import choose_files, own_metadata


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


# --- all that the trusted index says of a file ---

WHEEL, SOURCE, OLDER = "six-1.0-py3-none-any.whl", "six-1.0.tar.gz", "six-0.9.tar.gz"
OTHER_HASH = {"core-metadata": {"sha256": sha256(b"another")}}
PROVENANCE = "https://index.example.test/integrity/six/1.0/provenance"


def warned(report: dict[str, Any]) -> dict[str, str]:
    return {rule: told for rule, told in failed(report).items() if RULES[rule].severity == "warning"}


@pytest.mark.parametrize(
    ("here", "there", "rule", "words"),
    [
        ({"size": 7}, {}, "size", "says that 'six-1.0.tar.gz' has 7 bytes, not 1120"),
        ({"size": None}, {}, "size", "has None bytes"),
        ({"upload-time": NEW}, {}, "upload-time", "was uploaded 2020-02-01 00:00 UTC, not 2020-01-01 00:00 UTC"),
        ({"upload-time": "2020-01-01T00:00:00"}, {}, "upload-time", "was uploaded at no time"),
        ({"yanked": True}, {}, "yanked", "has yanked True for 'six-1.0.tar.gz'"),
        ({}, {"yanked": "broken"}, "yanked", "has yanked False"),
        ({}, {"yanked": ""}, "yanked", "has yanked False"),  # PEP 592: without a reason
        ({"requires-python": None}, {}, "requires-python", "says requires-python ''"),
        ({"provenance": "https://evil.example/x"}, {"provenance": PROVENANCE}, "provenance",
         "is 'https://evil.example/x'"),
        ({"provenance": PROVENANCE}, {}, "provenance", f"is '{PROVENANCE}'"),
    ],
)  # fmt: skip
def test_what_a_page_says_otherwise_is_a_finding(
    sandbox: Sandbox, here: dict[str, Any], there: dict[str, Any], rule: str, words: str
) -> None:
    sandbox.reference.changed = {SOURCE: there}
    sandbox.add("one").changed = {SOURCE: here}
    assert sandbox.audit() == 1
    report = sandbox.report()
    assert report["verdict"] == "failed"
    found = failed(report)
    assert words in found.pop(rule)
    assert found.keys() <= {"versions"}  # PEP 700 asks for some by itself


@pytest.mark.parametrize(
    ("here", "there", "rule"),
    [
        ({"yanked": True}, {"yanked": "broken"}, "reasons"),
        ({"yanked": "other"}, {"yanked": "broken"}, "reasons"),
        ({}, {"provenance": PROVENANCE}, "left-out"),
        ({"core-metadata": False}, {"core-metadata": {"sha256": sha256(METADATA)}}, "left-out"),
    ],
)
def test_what_a_page_lacks_or_words_otherwise_is_a_warning(
    sandbox: Sandbox, here: dict[str, Any], there: dict[str, Any], rule: str
) -> None:
    sandbox.reference.changed = {SOURCE: there}
    sandbox.add("one").changed = {SOURCE: here}
    assert sandbox.audit() == 0
    assert warned(sandbox.report()).keys() == {rule}


@pytest.mark.parametrize(
    ("here", "there"),
    [
        ({"yanked": True}, {"yanked": ""}),
        ({"yanked": None}, {"yanked": False}),
        ({"upload-time": "2020-01-01T01:00:00.000+01:00"}, {}),
        ({"yanked": "bro\u200bken "}, {"yanked": "broken"}),
        ({"provenance": None}, {}),
        ({}, {"size": None}),
        ({}, {"upload-time": None}),
    ],
)
def test_what_means_the_same_is_no_difference(
    sandbox: Sandbox, here: dict[str, Any], there: dict[str, Any]
) -> None:
    sandbox.reference.changed = {SOURCE: there}
    sandbox.add("one").changed = {SOURCE: here}
    assert sandbox.audit() == 0
    assert failed(sandbox.report()) == {}


def test_a_project_has_the_status_of_the_trusted_index(sandbox: Sandbox) -> None:
    mirror = sandbox.add("one")
    for here, there, rules in (
        ({}, {"status": "active"}, set()),
        ({"status": "active"}, {"status": "archived"}, {"project-status"}),
        ({"status": "weird"}, {"status": "weird"}, set()),
        ({"status": "archived"}, {"status": "archived", "reason": "done"}, {"reasons"}),
        ({"status": "quarantined"}, {}, {"project-status"}),
    ):
        mirror.project_status, sandbox.reference.project_status = here, there
        assert sandbox.audit() == (1 if "project-status" in rules else 0)
        assert failed(sandbox.report()).keys() == rules
        (sandbox.folder / "state/trusted.json").unlink()


def test_another_hash_of_core_metadata_is_tampering(sandbox: Sandbox) -> None:
    """pip before 26 installs by it, and does not compare it with the wheel."""
    mirror = sandbox.add("one")
    mirror.metadata = b"another"
    sandbox.reference.changed = {SOURCE: {"core-metadata": {"sha256": sha256(METADATA)}}}
    for name, other in ((WHEEL, SOURCE), (SOURCE, WHEEL)):
        for promised in (OTHER_HASH, {"core-metadata": True}):
            mirror.changed = {name: promised, other: {"core-metadata": False}}
            assert sandbox.audit() == 1
            report = sandbox.report()
            assert (report["verdict"], report["tampered_at"]) == ("tampered", report["started"])
            assert name in failed(report)["core-metadata"]


def test_core_metadata_that_the_trusted_index_lacks_is_the_wheels_own(sandbox: Sandbox) -> None:
    mirror = sandbox.add("one")
    for there in (False, True):
        sandbox.reference.changed = {WHEEL: {"core-metadata": there}}
        mirror.metadata, mirror.changed = METADATA, {}
        assert sandbox.audit() == 0
        assert failed(sandbox.report()) == {}
        mirror.metadata, mirror.changed = b"another", {WHEEL: OTHER_HASH}
        assert sandbox.audit() == 1
        # An index that has one, and no hash of it, may have another one itself.
        assert sandbox.report()["verdict"] == ("failed" if there else "tampered")
        assert failed(sandbox.report())["core-metadata"].endswith(
            f"{WHEEL}.metadata is not the METADATA of its wheel"
        )
    # Nobody can tell whether that of an sdist is true.
    mirror.metadata, mirror.changed = METADATA, {SOURCE: {"core-metadata": {"sha256": sha256(METADATA)}}}
    assert sandbox.audit() == 1
    assert sandbox.report()["verdict"] == "failed"
    assert "it is of no wheel" in failed(sandbox.report())["core-metadata"]
    sandbox.reference.changed[SOURCE] = mirror.changed[SOURCE]
    assert sandbox.audit() == 0


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (wheel(), METADATA),
        (wheel()[:-30], None),
        (b"no wheel", None),
        (wheel().replace(b"six-1.0.dist-info/METADATA", b"six-1.0.dist-info/METATADA"), None),
        (wheel().replace(b"six.py", b"s/x.py"), METADATA),
        (wheel(**{"vendored-2.dist-info/METADATA": b"of another"}), METADATA),
    ],
)
def test_the_metadata_of_a_wheel(data: bytes, found: bytes | None) -> None:
    assert own_metadata(data, WHEEL) == found


def test_html_says_what_json_says(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox.add("one")
    sandbox.config["reference"] |= {"projects": ["six"], "carries": ["six"]}
    told = material.attributes
    for changed, words in (
        ({"yanked": "x"}, "yanked of 'six-0.9.tar.gz': False and True"),
        ({"requires-python": ">=4"}, "requires-python of 'six-0.9.tar.gz': '>=3.8' and '>=4'"),
        (OTHER_HASH, "core metadata of 'six-1.0-py3-none-any.whl'"),
    ):
        name = WHEEL if changed is OTHER_HASH else OLDER
        monkeypatch.setattr(
            material,
            "attributes",
            lambda one, c=changed, n=name: told(one | c if one["filename"] == n else one),
        )
        assert sandbox.audit() == 1
        assert words in failed(sandbox.report())["same-files"]


# --- a mirror may lag ---


def known_for(sandbox: Sandbox, seconds: int) -> None:
    """As if the trusted index had said so for that long."""
    path = sandbox.folder / "state/trusted.json"
    states = json.loads(path.read_text())
    for known in states.values():
        for state in known:
            state[0] -= seconds
    path.write_text(json.dumps(states))


def rule_of(report: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [one for one in report["rules"] if one["rule"] == name]
    return found


def test_a_page_of_an_older_serial_may_lag_for_as_long_as_a_mirror_may(sandbox: Sandbox) -> None:
    mirror = sandbox.add("one")
    sandbox.reference.serial, sandbox.reference.changed = 43, {SOURCE: {"yanked": "broken"}, OLDER: None}
    assert sandbox.audit() == 0
    found = rule_of(sandbox.report(), "yanked")
    assert found["passed"] is True
    assert found["detail"] == "not compared: /simple/six/ is of serial 42, the trusted index's of 43"
    # What never changes is compared all the same.
    mirror.changed = {WHEEL: OTHER_HASH, SOURCE: {"size": 7}}
    assert sandbox.audit() == 1
    assert (sandbox.report()["verdict"], "size" in failed(sandbox.report())) == ("tampered", True)
    # Nor is a file lacking that came long ago.
    mirror.changed = {WHEEL: None}
    assert sandbox.audit() == 1
    assert failed(sandbox.report()).keys() == {"pages"}
    mirror.changed = {}
    known_for(sandbox, 86400)
    assert sandbox.audit() == 1
    assert failed(sandbox.report()).keys() == {"yanked", "withdrawn"}


def test_a_mirror_that_says_it_is_as_fresh_does_not_lag(sandbox: Sandbox) -> None:
    mirror = sandbox.add("one")
    sandbox.reference.serial, sandbox.reference.changed = 43, {SOURCE: {"yanked": "broken"}}
    for serial in (43, 44):
        mirror.serial = serial
        assert sandbox.audit() == 1
        assert failed(sandbox.report()).keys() == {"yanked"}


def test_where_serials_stand_still_it_counts_when_a_mirror_had_everything(sandbox: Sandbox) -> None:
    mirror = sandbox.add("one")
    assert sandbox.audit() == 0
    sandbox.reference.changed = {SOURCE: {"yanked": "broken"}}
    assert sandbox.audit() == 0  # it had everything 30 seconds ago, before that
    assert "of before the trusted index changed it" in rule_of(sandbox.report(), "yanked")["detail"]
    mirror.synced = time.time() + 2
    assert sandbox.audit() == 1
    assert failed(sandbox.report()).keys() == {"yanked"}
    mirror.synced = 0
    known_for(sandbox, 86400)
    assert sandbox.audit() == 1


def test_a_cache_keeps_pages_for_a_while(sandbox: Sandbox) -> None:
    class Silent(Mirror):
        def headers(self, kind: str) -> dict[str, str]:
            return {name: value for name, value in super().headers(kind).items() if "Serial" not in name}

    sandbox.add("one", mode="cache")
    sandbox.add("two", mode="cache", mirror=Silent())
    assert sandbox.audit() == 0
    sandbox.reference.changed = {SOURCE: {"yanked": "broken"}}
    assert sandbox.audit() == 0
    sandbox.reference.serial = 43
    assert sandbox.audit() == 0
    known_for(sandbox, 3700)
    assert sandbox.audit("two") == 1


def test_what_changes_during_an_audit_is_nobodys_fault(sandbox: Sandbox) -> None:
    class Sooner(Mirror):
        def project(self, project: str, kind: str) -> Any:
            sandbox.reference.serial = self.serial = 43
            sandbox.reference.changed = self.changed = {SOURCE: {"yanked": "broken"}, OLDER: None}
            return super().project(project, kind)

    sandbox.add("one", mirror=Sooner())
    assert sandbox.audit() == 0
    assert failed(sandbox.report()) == {}


def test_a_memory_that_is_rotten_is_told_and_left(
    sandbox: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    sandbox.add("one")
    (sandbox.folder / "state").mkdir()
    for text in ("{", "[]", '{"six": [7]}', '{"six": [[1]]}'):
        (sandbox.folder / "state/trusted.json").write_text(text)
        assert sandbox.audit() == 0
        assert "trusted.json: cannot be used" in capsys.readouterr().err


def test_a_mirror_whose_selection_leaves_a_large_project_out_need_not_have_it(sandbox: Sandbox) -> None:
    absent = {"/simple/six/": (404, {}, b"")}
    sandbox.config["audit_projects"] = ["six", "attrs"]
    for limit, code in ((2000, 0), (10_000, 1)):
        sandbox.registry["mirrors"] = []
        sandbox.add("one", partial=True, left_out={"max_project_size": limit}).replaced = absent
        for _ in range(20):  # for what is asked as the standards say, a project is drawn by chance
            found = sandbox.audit()
            if "json-page" not in failed(sandbox.report()):
                break
        assert (found, "pages" in failed(sandbox.report())) == (code, bool(code))


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
    report = sandbox.report()
    assert failed(report) == {"connection": "connection refused"}
    jsonschema.validate(report, schema("audit"), jsonschema.Draft202012Validator)
    # And that family alone.
    passed = {"passed_at": report["started"], "problem": "", "failures": 0}
    refused = {"passed_at": None, "problem": "RFC 9110, 4.3.4: connection refused", "failures": 1}
    assert report["families"] == {"ipv4": passed, "ipv6": refused}
    assert sandbox.audit() == 1
    assert sandbox.report()["families"]["ipv6"]["failures"] == sandbox.report()["failures"] == 2
    assert sandbox.probe() == 1
    assert sandbox.one()["audit"]["families"] == sandbox.report()["families"]


@pytest.mark.parametrize("earlier", ["of another family", "of before families"])
def test_an_earlier_audit_passed_in_the_families_that_it_looked_at(sandbox: Sandbox, earlier: str) -> None:
    sandbox.add("one", ipv6=False)
    sandbox.registry["mirrors"][0]["address_families"] = ["ipv4"]
    assert sandbox.audit() == 0
    before = sandbox.report()
    if earlier == "of before families":
        del before["families"]
        (sandbox.folder / "state/audits/one.json").write_text(json.dumps(before))
    sandbox.registry["mirrors"][0]["address_families"] = ["ipv4", "ipv6"]
    assert sandbox.audit() == 1
    known = before["started"] if earlier == "of before families" else None
    assert sandbox.report()["families"]["ipv6"]["passed_at"] == known


def test_what_fails_in_one_family_is_not_met_in_what_counts_for_both(sandbox: Sandbox) -> None:
    """As where only what is large does not get through."""
    sandbox.add("one", ipv6=False)
    port = int(sandbox.registry["mirrors"][0]["url"].rpartition(":")[2])
    lame = Mirror(
        replaced={path_of(project, name): (500, {}, b"") for project in FILES for name in FILES[project]}
    )
    sandbox.serve(lame, sandbox.authority.issue("one.example.test"), host="::1", port=port)
    assert sandbox.audit() == 1
    report = sandbox.report()
    assert failed(report).keys() == {"range"}
    assert {family: one["failures"] for family, one in report["families"].items()} == {"ipv4": 0, "ipv6": 1}


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


def test_audits_of_a_clock_that_was_ahead_count_for_nothing(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that passed then clears no wrong hash of now, and none has to be waited for."""
    sandbox.add("one")
    really = time.time
    with monkeypatch.context() as ahead:
        ahead.setattr(time, "time", lambda: really() + 3 * 365 * 86400)
        assert sandbox.audit("one") == 0
        assert sandbox.probe() == 0
        assert sandbox.one()["audit"]["verdict"] == "passed"
    assert sandbox.probe() == 0
    assert "audit" not in sandbox.one()
    assert sandbox.audit("--due") == 0
    report = sandbox.report()
    assert report["started"] == report["passed_at"] <= really()
    states = json.loads((sandbox.folder / "state/trusted.json").read_text())
    assert max(at for known in states.values() for at, *_ in known) <= really()
    capsys.readouterr()
    assert sandbox.audit("--due") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["audited"] == 0


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
                "registry": str(sandbox.folder / "registry.json"), "health": [str(sandbox.folder / "health.json")],
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
