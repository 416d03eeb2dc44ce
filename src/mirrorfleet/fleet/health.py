"""health.json: what a monitor found, as it reaches the list."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..common.schema import accept
from .standing import Audit, Health, Monitor, Passed, Rounds


@dataclass(frozen=True)
class Findings:
    """A health document, taken apart."""

    monitor: Monitor | None = None
    health: Mapping[str, Health] = field(default_factory=dict)
    audits: Mapping[str, Audit] = field(default_factory=dict)
    more: Mapping[str, dict[str, Any]] = field(default_factory=dict)  # what only the documents tell

    @property
    def serials(self) -> dict[str, int | None]:
        return {name: one.serial for name, one in self.health.items()}


_AUDIT = ("passed_at", "tampered_at", "problem", "failures")
_HEALTH = ("measured_at", "good", "bad", "problem", "serial", "last_modified", "lag", "tampered_at")


def read(document: Any) -> Findings:
    """InvalidDocumentError when it is no health document. One of a newer monitor is: what it tells more is left out."""
    document = accept(document, "health")
    mirrors = document["mirrors"]
    return Findings(
        Monitor(document["at"], document["reference"]["problem"], document.get("started", 0)),
        {
            name: Health(
                **{key: one[key] for key in _HEALTH if key in one},
                families={family: Rounds(**rounds) for family, rounds in one.get("rounds", {}).items()},
            )
            for name, one in mirrors.items()
        },
        {
            name: Audit(
                **{key: one["audit"][key] for key in _AUDIT if key in one["audit"]},
                families={
                    family: Passed(**told) for family, told in one["audit"].get("families", {}).items()
                },
            )
            for name, one in mirrors.items()
            if "audit" in one
        },
        mirrors,
    )


def described(failures: list[dict[str, str]]) -> str:
    """Failed checks in a line: the first, and how many more."""
    first = failures[0]
    family = f" over {first['family']}" if first.get("family") else ""
    more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
    return f"{first['check']}{family}: {first['problem'][:200]}{more}"
