"""health.json: what a monitor found, as it reaches the list."""

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..common.schema import accept
from .evidence import Proof
from .standing import FAMILIES, Audit, Health, Monitor, Passed, Rounds


@dataclass(frozen=True)
class Findings:
    """A health document, taken apart."""

    monitor: Monitor | None = None
    more: Mapping[str, dict[str, Any]] = field(default_factory=dict)  # what only the documents tell

    @property
    def health(self) -> Mapping[str, Health]:
        return self.monitor.health if self.monitor else {}


_AUDIT = ("passed_at", "tampered_at", "problem", "failures")
_HEALTH = ("measured_at", "good", "bad", "problem", "serial", "last_modified", "lag", "tampered_at")


def read(document: Any) -> Findings:
    """InvalidDocumentError when it is no health document. One of a newer monitor is: what it tells more is left out."""
    document = accept(document, "health")
    mirrors = document["mirrors"]
    health = {
        name: Health(
            **{key: one[key] for key in _HEALTH if key in one},
            families={family: Rounds(**rounds) for family, rounds in one.get("rounds", {}).items()},
        )
        for name, one in mirrors.items()
    }
    audits = {
        name: Audit(
            **{key: one["audit"][key] for key in _AUDIT if key in one["audit"]},
            families={family: Passed(**told) for family, told in one["audit"].get("families", {}).items()},
        )
        for name, one in mirrors.items()
        if "audit" in one
    }
    monitor = Monitor(
        document["at"],
        document["reference"]["problem"],
        document.get("started", 0),
        document["monitor"],
        document.get("families", tuple(FAMILIES)),
        health,
        audits,
    )
    return Findings(monitor, mirrors)


def both(first: Findings, second: Findings) -> Findings:
    """What the first knows, and what the second knows of other mirrors."""
    if first.monitor is None or second.monitor is None:
        return first if first.monitor else second
    health = {**second.monitor.health, **first.monitor.health}
    return Findings(replace(first.monitor, health=health), {**second.more, **first.more})


PROOFS_KEPT = 20  # of a mirror


def proofs(
    known: Mapping[str, Sequence[Proof]], findings: Iterable[Findings], mirrors: Container[str]
) -> dict[str, list[Proof]]:
    """What is known of wrong hashes and what the monitors tell, by mirror, the newest last."""
    kept = {name: list(one) for name, one in known.items() if name in mirrors}
    for one in findings:
        for name, proof in _told(one):
            row = kept.setdefault(name, [])
            if all((proof.at, proof.monitor) != (other.at, other.monitor) for other in row):
                kept[name] = sorted([*row, proof], key=lambda proof: proof.at)[-PROOFS_KEPT:]
    return kept


def _told(findings: Findings) -> Iterator[tuple[str, Proof]]:
    by = findings.monitor.name if findings.monitor else ""
    for name, one in findings.more.items():
        if one.get("tampered_at") is not None:
            yield name, Proof(one["tampered_at"], by, **one.get("proof", {"found": NOT_TOLD}))
        audit = one.get("audit", {})
        if audit.get("tampered_at") is not None:
            # The report of a later audit tells of that one.
            now = audit.get("started") == audit["tampered_at"]
            yield name, Proof(audit["tampered_at"], by, f"audit: {audit['problem']}" if now else NOT_TOLD)


NOT_TOLD = "a wrong hash; the monitor tells no more"


def described(failures: list[dict[str, str]]) -> str:
    """Failed checks in a line: the first, and how many more."""
    first = failures[0]
    family = f" over {first['family']}" if first.get("family") else ""
    more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
    return f"{first['check']}{family}: {first['problem'][:200]}{more}"
