"""Reports of audits, one file a mirror: how the verb audit tells the verb probe, and so the list, what it found."""

import logging
import time
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

from ..common import notes
from ..common.exposition import Family
from ..common.files import entries
from ..common.schema import accept
from ..fleet.evidence import printable

log = logging.getLogger(__name__)

SUMMARY = ("passed_at", "tampered_at", "problem", "started", "verdict")
RULE = ("rule", "source", "severity", "summary", "family", "detail")
MOST_RULES = 20  # told of one mirror; its report has them all
_read: dict[str, tuple[tuple[int, int], dict[str, Any] | None]] = {}


def report(folder: Path, mirror: str) -> dict[str, Any] | None:
    """A mirror's last report, None when there is none that can be used: it is audited anew then."""
    path = folder / f"{mirror}.json"
    try:
        if (document := notes.read(path)) is None:
            return None
        found: dict[str, Any] = accept(document, "audit")
        if found["mirror"] != mirror:
            raise ValueError(f"it is of the mirror {printable(found['mirror'])}")
        if found["started"] > time.time():
            raise ValueError("it began at a time that has not come: the clock was ahead")
    except (ValueError, OSError) as error:
        log.error("audit report: %s: %s", path, error)
        return None
    return found


def summaries(folder: Path) -> dict[str, dict[str, Any]]:
    """What the list needs of each report; one that did not change is not read again."""
    found = {}
    for entry in entries(folder):
        if entry.name.startswith(".") or not entry.name.endswith(".json"):
            continue
        name, status = entry.name.removesuffix(".json"), entry.stat(follow_symlinks=False)
        stamp = (status.st_mtime_ns, status.st_ino)
        if _read.get(entry.path, ((0, 0), None))[0] != stamp:
            document = report(folder, name)
            _read[entry.path] = stamp, summary(document) if document else None
        told = _read[entry.path][1]
        if told and told["started"] <= time.time():
            found[name] = told
    return found


def metrics(folder: Path, names: Container[str]) -> Iterator[Family]:
    """What Prometheus is told of the last audits of these mirrors."""
    found = {name: one for name, one in summaries(folder).items() if name in names}

    def each(name: str, text: str, key: str) -> Family:
        known = [
            ({"mirror": mirror}, float(one[key])) for mirror, one in found.items() if one[key] is not None
        ]
        return f"mirrorfleet_audit_{name}", text, known

    passed = [({"mirror": mirror}, float(not one["problem"])) for mirror, one in found.items()]
    failed = [
        ({"mirror": mirror, "problem": printable(one["problem"])}, 1.0)
        for mirror, one in found.items()
        if one["problem"]
    ]
    yield "mirrorfleet_audit_success", "Whether the last audit passed.", passed
    yield "mirrorfleet_audit_failure_info", "Why the last audit did not pass.", failed
    yield each("passed_timestamp_seconds", "When the last audit that passed began.", "passed_at")
    yield each("tampered_timestamp_seconds", "When an audit last found a wrong hash.", "tampered_at")


def summary(document: dict[str, Any]) -> dict[str, Any]:
    """Of a report what decides, what was looked at, and what did not hold: errors first."""
    failed = sorted(
        (one for one in document["rules"] if one["passed"] is False),
        key=lambda one: one["severity"] != "error",
    )
    return {key: document[key] for key in SUMMARY} | {
        "failures": document.get("failures", 0),
        "families": document.get("families", {}),
        "hashed": document["integrity"]["files"],
        "sampled": document["completeness"]["sampled"],
        "complete": [document["completeness"]["low"], document["completeness"]["high"]],
        "failed": [{key: one[key] for key in RULE if key in one} for one in failed[:MOST_RULES]],
    }
