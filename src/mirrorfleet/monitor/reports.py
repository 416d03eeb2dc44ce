"""Reports of audits, one file a mirror: how the verb audit tells the verb probe, and so the list, what it found."""

import json
import logging
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

from ..common.exposition import Family
from ..common.files import entries
from ..common.schema import InvalidDocumentError, validate
from ..fleet.evidence import printable

log = logging.getLogger(__name__)

SUMMARY = ("passed_at", "tampered_at", "problem", "started", "verdict")
RULE = ("rule", "source", "severity", "summary", "family", "detail")
MOST_RULES = 20  # told of one mirror; its report has them all
_read: dict[str, tuple[tuple[int, int], dict[str, Any] | None]] = {}


def report(path: Path) -> dict[str, Any] | None:
    """A mirror's last report, None when there is none. InvalidDocumentError when it is not to be used."""
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise InvalidDocumentError(f"{path}: {error}") from error
    validate(document, "audit")
    found: dict[str, Any] = document
    return found


def summaries(folder: Path) -> dict[str, dict[str, Any]]:
    """What the list needs of each report; one that did not change is not read again."""
    found = {}
    for entry in entries(folder):
        if entry.name.startswith(".") or not entry.name.endswith(".json"):
            continue
        status = entry.stat()
        stamp = (status.st_mtime_ns, status.st_ino)
        if _read.get(entry.path, ((0, 0), None))[0] != stamp:
            try:
                document = report(Path(entry.path))
                _read[entry.path] = stamp, summary(document) if document else None
            except (InvalidDocumentError, OSError) as error:
                log.error("audit report: %s", error)
                _read[entry.path] = stamp, None
        if told := _read[entry.path][1]:
            found[entry.name.removesuffix(".json")] = told
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
