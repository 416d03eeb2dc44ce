"""The report of one audit: the rules, each with its source, what was found of each, and the verdict."""

import math
import time
from dataclasses import dataclass, field
from typing import Any, Literal

from ..common.schema import validate

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Rule:
    """What a client may rely on, who says so, and how bad it is when it does not hold."""

    name: str
    source: str
    severity: Severity
    summary: str


RULES = {
    rule.name: rule
    for rule in (
        Rule("connection", "RFC 9110, 4.3.4", "error", "answers over TLS, verified against its own name"),
        Rule("last-modified", "PEP 381", "error", "/last-modified says when it last had everything"),
        Rule(
            "root-page",
            "PEP 503, PEP 691",
            "error",
            "the list of projects is there, as text/html and as JSON",
        ),
        Rule(
            "legacy-json",
            "PyPI's JSON API",
            "error",
            "a project's legacy document is JSON, and has its releases",
        ),
        Rule(
            "html-page", "PEP 503", "error", "a project's page as text/html links to files with their sha256"
        ),
        Rule("json-page", "PEP 691", "error", "a project's page as JSON names files with their sha256"),
        Rule("same-files", "PEP 691", "error", "both formats name the same files with the same hashes"),
        Rule("for-pip", "PEP 691", "error", "what pip asks for is answered with JSON"),
        Rule("for-uv", "PEP 691", "error", "what uv asks for is answered with JSON"),
        Rule("unknown-type", "PEP 691", "error", "a type nobody knows is answered with 406 or with a page"),
        Rule("vary", "RFC 9110, 12.5.5", "warning", "pages that depend on Accept say so (Vary)"),
        Rule("absent", "PEP 503", "error", "a project that does not exist is answered with 404"),
        Rule("slash", "PEP 503", "warning", "a page's URL without its slash leads to the page"),
        Rule("api-version", "PEP 629", "error", "pages state a version 1.x of the interface"),
        Rule("versions", "PEP 700", "error", "pages of 1.1 and later have versions, sizes and upload times"),
        Rule(
            "metadata",
            "PEP 658, PEP 714",
            "error",
            "core metadata that a page promises is there, with its hash",
        ),
        Rule(
            "range", "RFC 9110, 14.2", "error", "a range of a file is answered with 206 and just that range"
        ),
        Rule(
            "pages", "trusted index", "error", "pages name the files of the trusted index, with their hashes"
        ),
        Rule("withdrawn", "trusted index", "error", "pages name no file that the trusted index does not"),
        Rule("size", "PEP 700", "error", "files have the size that the trusted index says"),
        Rule("upload-time", "PEP 700", "error", "files were uploaded when the trusted index says"),
        Rule("yanked", "PEP 592", "error", "files are yanked as the trusted index says"),
        Rule(
            "requires-python",
            "PEP 503, PEP 345",
            "error",
            "files require the Python that the trusted index says",
        ),
        Rule("project-status", "PEP 792", "error", "projects have the status that the trusted index says"),
        Rule("provenance", "PEP 740", "error", "provenance is nowhere but where the trusted index has it"),
        Rule(
            "core-metadata",
            "PEP 658, PEP 714",
            "error",
            "core metadata is the trusted index's; where that has none, the wheel's own",
        ),
        Rule(
            "reasons",
            "PEP 592, PEP 792",
            "warning",
            "yanks and statuses have the reasons that the trusted index says",
        ),
        Rule(
            "left-out",
            "PEP 714, PEP 740",
            "warning",
            "pages leave out no core metadata and no provenance that the trusted index has",
        ),
        Rule("removed", "trusted index", "error", "projects that were removed are gone"),
        Rule("integrity", "trusted index", "error", "files have the hashes of the trusted index"),
        Rule("completeness", "trusted index", "error", "files of the trusted index are there"),
    )
}


def wilson(present: int, sampled: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % confidence interval of a share (Wilson's score interval)."""
    if not sampled:
        return 0.0, 1.0
    share, square = present / sampled, z * z
    middle = (share + square / (2 * sampled)) / (1 + square / sampled)
    half = z / (1 + square / sampled) * math.sqrt(share * (1 - share) / sampled + square / (4 * sampled**2))
    return max(0.0, round(middle - half, 6)), min(1.0, round(middle + half, 6))


@dataclass
class Report:
    mirror: str
    url: str
    started: int
    rules: list[dict[str, Any]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)  # what has a wrong hash
    families: tuple[str, ...] = ()  # in which it is looked at
    files: int = 0
    bytes: int = 0
    sampled: int = 0
    present: int = 0
    missing: list[str] = field(default_factory=list)
    population: int = 0  # projects that it could be asked for
    of: str = "names known"  # whose number that is
    looked_at: dict[str, bool] = field(default_factory=dict)  # projects; whether each had the same chance
    unsound: set[str] = field(default_factory=set)  # of which something is wrong

    def drawn(self, population: int, of: str) -> None:
        self.population, self.of = population, of

    def tell(self, rule: str, passed: bool | None, detail: str = "", family: str | None = None) -> None:
        about = RULES[rule]
        self.rules.append(
            {"rule": rule, "source": about.source, "severity": about.severity, "summary": about.summary,
             "passed": passed, "detail": detail[:500]}
            | ({"family": family} if family else {})
        )  # fmt: skip

    @property
    def failed(self) -> list[dict[str, Any]]:
        return [one for one in self.rules if one["passed"] is False and one["severity"] == "error"]

    def failed_over(self, family: str) -> list[dict[str, Any]]:
        """Without what did not hold in another family only."""
        return [one for one in self.failed if one.get("family", family) == family]

    def _said(self, failed: list[dict[str, Any]]) -> str:
        """Why it did not pass; empty when it did."""
        told = self.wrong or [f"{one['source']}: {one['detail']}" for one in failed]
        return told[0][:400] + (f" (and {len(told) - 1} more)" if len(told) > 1 else "") if told else ""

    def _counted(self, problem: str, before: dict[str, Any]) -> dict[str, Any]:
        return {
            "passed_at": before.get("passed_at") if problem else self.started,
            "problem": problem,
            "failures": before.get("failures", 0) + 1 if problem else 0,
        }

    def _sample(self) -> dict[str, Any]:
        even = {project for project, drawn in self.looked_at.items() if drawn}
        sound = len(even - self.unsound)
        low, high = wilson(sound, len(even))
        if even and len(even) >= self.population:  # nothing is left to chance
            low = high = round(sound / len(even), 6)
        return {
            "population": max(self.population, len(self.looked_at)),
            "of": self.of,
            "projects": len(self.looked_at),
            "even": len(even),
            "low": low,
            "high": high,
        }

    def document(self, before: dict[str, Any] | None) -> dict[str, Any]:
        verdict = "tampered" if self.wrong else "failed" if self.failed else "passed"
        low, high = wilson(self.present, self.sampled)
        before = before or {}
        # A report of before families speaks of each; a later one that lacks one does not.
        former = before.get("families") or dict.fromkeys(self.families, before)
        document = {
            "schema": 1,
            "mirror": self.mirror,
            "url": self.url,
            "started": self.started,
            "ended": int(time.time()),
            "verdict": verdict,
            "tampered_at": self.started if verdict == "tampered" else before.get("tampered_at"),
            **self._counted(self._said(self.failed), before),
            "families": {
                family: self._counted(self._said(self.failed_over(family)), former.get(family, {}))
                for family in self.families
            },
            **({} if verdict == "passed" else {"failed_since": before.get("failed_since", self.started)}),
            "rules": self.rules,
            "integrity": {
                "files": self.files,
                "bytes": self.bytes,
                "wrong": [one[:500] for one in self.wrong],
            },
            "sample": self._sample(),
            "completeness": {
                "sampled": self.sampled,
                "present": self.present,
                "share": round(self.present / self.sampled, 6) if self.sampled else None,
                "low": low,
                "high": high,
                "missing": self.missing[:20],
            },
        }
        validate(document, "audit")
        return document
