"""What audits found, for the coordinator's screen.

Documentation of the filter: the YAML file of its name beside this one.
"""

from __future__ import annotations

import datetime
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))
from plugin_utils import values as v
from plugin_utils.filters import as_filter
from plugin_utils.values import BadValueError


def audit_findings(mirror: str, reports: list[list[Any]]) -> dict[str, Any]:
    lines: list[str] = []
    failed: list[str] = []
    for one in reports:
        if not isinstance(one, list) or len(one) != 3:
            raise BadValueError(
                "reports are of another shape", "for each monitor its name, a moment, its reports"
            )
        monitor, began, by_name = one
        report = by_name.get(v.text(mirror, most=253))
        if report is None or report["started"] < int(began):
            failed.append(
                f"{monitor} did not audit it; `journalctl -u mirrorfleet-audit-now` there says why, as when the trusted"
                " index did not answer"
            )
            continue
        found = [one for one in report["rules"] if one["passed"] is False]
        lines += [_summary(monitor, report), *(f"  {_finding(one)}" for one in found)]
        if report["verdict"] != "passed":
            told = [_finding(one) for one in found if one["severity"] == "error"]
            failed += told or [f"{report['verdict']}: {_words(report['problem'])}"]
    return {"passed": not failed, "lines": lines, "failed": list(dict.fromkeys(failed))}


def _summary(monitor: str, report: dict[str, Any]) -> str:
    when = datetime.datetime.fromtimestamp(report["started"], datetime.UTC)
    integrity, share, sample = report["integrity"], report["completeness"], report["sample"]
    about = "about " if sample["of"] == "root page" and sample["projects"] < sample["population"] else ""
    return (
        f"{report['verdict']}, from {monitor} at {when:%Y-%m-%d %H:%M} UTC: {len(report['rules'])} rules looked at,"
        f" {integrity['files']} files ({integrity['bytes']} bytes) hashed, {len(integrity['wrong'])} of them wrong;"
        f" of {about}{sample['population']} projects {sample['projects']} were looked at, and between"
        f" {share['low']:.1%} and {share['high']:.1%} of their files are there"
    )


def _finding(rule: dict[str, Any]) -> str:
    family = f" over {rule['family']}" if rule.get("family") else ""
    return f"{rule['severity']}, {rule['source']}: {rule['summary']}{family}: {_words(rule['detail'])}"


def _words(text: str) -> str:
    """Words that may be a mirror's: on a screen they may not be commands to the terminal."""
    return "".join(one if one.isprintable() else " " for one in text)[:300]


class FilterModule:
    """From reports of audits to what a person reads."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"audit_findings": as_filter(audit_findings)}
