"""What audits found, as a person reads it."""

from __future__ import annotations

from typing import Any

import pytest
from fleet_audit import FilterModule
from monitor_sandbox import Sandbox

FINDINGS = FilterModule().filters()["audit_findings"]


@pytest.fixture
def reports(tmp_path: Any, serve: Any, authority: Any) -> Any:
    """Of a real audit, of a mirror that is as it has to be, or has a fault."""

    def audit(fault: str = "") -> dict[str, Any]:
        sandbox = Sandbox(tmp_path, serve, authority)
        sandbox.add("one").fault = fault
        assert sandbox.audit() == bool(fault)
        return {"one": sandbox.report()}

    return audit


def test_a_mirror_that_passed(reports: Any) -> None:
    found = FINDINGS("one", [["m1", "0", reports()]])
    assert (found["passed"], found["failed"]) == (True, [])
    assert found["lines"][0].startswith("passed, from m1 at 20")
    assert "0 of them wrong; of 2 projects 2 were looked at, and between " in found["lines"][0]
    assert found["lines"][0].endswith(" and 100.0% of their files are there")


def test_wrong_bytes_are_told_with_rule_severity_and_source(reports: Any) -> None:
    found = FINDINGS("one", [["m1", "0", reports("wrong byte")], ["m2", "0", {}]])
    assert not found["passed"]
    assert found["lines"][0].startswith("tampered, from m1 at 20")
    told = "  error, trusted index: files have the hashes of the trusted index"
    assert any(line.startswith(told) for line in found["lines"])
    assert any(one.startswith(told.strip()) for one in found["failed"])
    assert any("m2 did not audit it; `journalctl -u mirrorfleet-audit-now`" in one for one in found["failed"])


def test_a_report_of_before_is_none(reports: Any) -> None:
    made = reports()
    found = FINDINGS("one", [["m1", str(made["one"]["started"] + 1), made]])
    assert (found["passed"], found["lines"]) == (False, [])
    assert found["failed"][0].startswith("m1 did not audit it")


def test_a_warning_is_told_and_does_not_count(reports: Any) -> None:
    made = reports()
    rule = {"rule": "slash", "source": "PEP 503", "severity": "warning", "summary": "s", "passed": False}
    made["one"]["rules"].append(rule | {"detail": "\x1b[31mno\r\n", "family": "ipv6"})
    found = FINDINGS("one", [["m1", "0", made]])
    assert found["passed"]
    assert found["lines"][1] == "  warning, PEP 503: s over ipv6:  [31mno  "
