"""The verb audit: is a mirror a conforming index, does it tell the truth, is it complete?

It asks as pip and uv ask, and compares pages with the trusted index and files with its hashes. Which projects and
files are looked at is drawn anew each time from a source that no mirror can foresee. One wrong hash is enough to
keep a mirror off the list until a later audit passes (fleet/standing.py).
"""

import asyncio
import contextlib
import hashlib
import html.parser
import json
import logging
import math
import random
import re
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from ..common.config import ConfigError
from ..common.files import write_atomically
from ..common.guards import only_one
from ..common.schema import validate
from ..fleet import markup, registry
from . import reports
from .client import (
    HTML,
    HTML_V1,
    JSON_V1,
    PIP,
    PIP_FILE,
    UV,
    CheckError,
    Line,
    Place,
    TamperedError,
    resolve,
    shown,
    trusting,
)
from .reference import ASK_JSON, File, files_of
from .service import MonitorConfig, Store, load_monitor, stamp_of

log = logging.getLogger(__name__)

ABSENT = "mirrorfleet-there-is-no-such-project-b1946ac92492"
MOST_PROJECTS = 20  # looked at in one audit
MOST_HEADS = 200  # files asked for in one audit
SECONDS_OF_BANDWIDTH = 10  # of what the mirror offers, spent on whole files
AT_ONCE = 8
PATIENCE = 1800.0  # seconds
LONGEST_RETRY = 3600  # seconds until an audit that did not pass is repeated, however long it fails
_chance = random.SystemRandom()

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
        Rule("yanked", "PEP 592", "error", "files are yanked as the trusted index says"),
        Rule(
            "requires-python",
            "PEP 503, PEP 345",
            "error",
            "files require the Python that the trusted index says",
        ),
        Rule(
            "pages", "trusted index", "error", "pages name the files of the trusted index, with their hashes"
        ),
        Rule("withdrawn", "trusted index", "error", "pages name no file that the trusted index does not"),
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
class Trusted:
    """The part of the trusted index that this audit compares with."""

    pages: dict[str, dict[str, Any]]  # documents by project
    files: dict[str, list[File]]  # by project


@dataclass
class Report:
    mirror: str
    url: str
    started: int
    rules: list[dict[str, Any]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)  # what has a wrong hash
    files: int = 0
    bytes: int = 0
    sampled: int = 0
    present: int = 0
    missing: list[str] = field(default_factory=list)

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

    def document(self, before: dict[str, Any] | None) -> dict[str, Any]:
        verdict = "tampered" if self.wrong else "failed" if self.failed else "passed"
        told = self.wrong or [f"{one['source']}: {one['detail']}" for one in self.failed]
        more = f" (and {len(told) - 1} more)" if len(told) > 1 else ""
        low, high = wilson(self.present, self.sampled)
        before = before or {}
        document = {
            "schema": 1,
            "mirror": self.mirror,
            "url": self.url,
            "started": self.started,
            "ended": int(time.time()),
            "verdict": verdict,
            "passed_at": self.started if verdict == "passed" else before.get("passed_at"),
            "tampered_at": self.started if verdict == "tampered" else before.get("tampered_at"),
            "problem": told[0][:400] + more if told else "",
            "failures": 0 if verdict == "passed" else before.get("failures", 0) + 1,
            **({} if verdict == "passed" else {"failed_since": before.get("failed_since", self.started)}),
            "rules": self.rules,
            "integrity": {
                "files": self.files,
                "bytes": self.bytes,
                "wrong": [one[:500] for one in self.wrong],
            },
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


# --- conformance: one mirror, in one family, at one project ---


class Links(html.parser.HTMLParser):
    """What an HTML page says of files, by their names."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.files: dict[str, dict[str, str | None]] = {}
        self.version: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "meta" and given.get("name") == "pypi:repository-version":
            self.version = given.get("content")
        if tag == "a" and given.get("href"):
            target = urlsplit(given["href"] or "")
            sha256 = (
                target.fragment.removeprefix("sha256=") if target.fragment.startswith("sha256=") else None
            )
            self.files[unquote(target.path).rpartition("/")[2]] = given | {"sha256": sha256}


class Conformance:
    """Checks that stand alone, each a rule; what one learns is there for those after it."""

    def __init__(self, line: Line, report: Report, family: str, record: dict[str, Any], project: str) -> None:
        self.line, self.report, self.family, self.record = line, report, family, record
        self.page = f"/simple/{project}/"
        self.project = project
        self.document: dict[str, Any] = {}
        self.files: list[File] = []
        self.links: dict[str, dict[str, str | None]] = {}
        self.html_version: str | None = None

    async def run(self) -> None:
        if not await self._rule("connection", self.line.connect):
            return
        if self.record["mode"] != "cache":
            await self._rule("last-modified", self._last_modified)
        checks: list[tuple[str, Callable[[], Awaitable[None]]]] = [
            ("json-page", self._json_page), ("html-page", self._html_page), ("same-files", self._same_files),
            ("for-pip", self._for_pip), ("for-uv", self._for_uv), ("unknown-type", self._unknown_type),
            ("vary", self._vary), ("absent", self._absent), ("slash", self._slash), ("api-version", self._api_version),
            ("versions", self._versions), ("metadata", self._metadata), ("range", self._range),
        ]  # fmt: skip
        for name, check in checks:
            await self._rule(name, check)

    async def _rule(self, name: str, check: Callable[[], Awaitable[None]]) -> bool:
        try:
            await check()
        except CheckError as error:
            if isinstance(error, TamperedError):
                self.report.wrong.append(str(error))
            self.report.tell(name, False, str(error), self.family)
            return False
        self.report.tell(name, True, "", self.family)
        return True

    async def _last_modified(self) -> None:
        stamp_of((await self.line.ask("/last-modified", PIP_FILE, limit=100)).expect(200).body)

    async def _json_page(self) -> None:
        answer = (await self.line.ask(self.page, PIP | {"Accept": JSON_V1})).expect(200, JSON_V1)
        self.document = answer.json()
        self.files = files_of(self.document, self.project, self.page)

    async def _html_page(self) -> None:
        answer = (await self.line.ask(self.page, PIP | {"Accept": HTML})).expect(200, HTML)
        found = Links(answer.content().decode("utf-8", "replace"))
        self.links, self.html_version = found.files, found.version
        for name, given in self.links.items():
            if not re.fullmatch(r"[0-9a-f]{64}", given["sha256"] or ""):
                raise CheckError(f"{self.page} links to {shown(name)} without sha256")

    async def _same_files(self) -> None:
        one = {file.name: file.sha256 for file in self.files}
        other = {name: given["sha256"] for name, given in self.links.items()}
        if different := sorted({name for name, _ in one.items() ^ other.items()}):
            raise CheckError(f"JSON and HTML differ in {shown(different[0])} and {len(different) - 1} more")

    async def _for_pip(self) -> None:
        (await self.line.ask(self.page, PIP)).expect(200, JSON_V1)

    async def _for_uv(self) -> None:
        (await self.line.ask(self.page, UV)).expect(200, JSON_V1)

    async def _unknown_type(self) -> None:
        answer = await self.line.ask(self.page, PIP | {"Accept": "application/x-mirrorfleet-no-such-type"})
        if answer.status != 406:
            answer.expect(200, HTML, HTML_V1, JSON_V1)

    async def _vary(self) -> None:
        given = (await self.line.ask(self.page, PIP, method="HEAD")).headers.get("vary", "")
        if "accept" not in {word.strip().lower() for word in given.split(",")} and given.strip() != "*":
            raise CheckError(f"{self.page} has the header Vary: {shown(given)}, expected Accept")

    async def _absent(self) -> None:
        (await self.line.ask(f"/simple/{ABSENT}/", PIP)).expect(404)

    async def _slash(self) -> None:
        answer = await self.line.ask(self.page.rstrip("/"), PIP)
        if answer.status != 200:
            raise CheckError(
                f"{self.page.rstrip('/')} answered {answer.status}, expected a redirect to the page"
            )

    async def _api_version(self) -> None:
        meta = self.document.get("meta")
        for version in (
            meta.get("api-version") if isinstance(meta, dict) else None,
            self.html_version or "1.0",
        ):
            if not isinstance(version, str) or not re.fullmatch(r"1\.[0-9]{1,3}", version):
                raise CheckError(f"{self.page} states the version {shown(version)}, expected 1.x")

    async def _versions(self) -> None:
        meta = self.document.get("meta")
        version = str(meta.get("api-version")) if isinstance(meta, dict) else "1.0"
        if not re.fullmatch(r"1\.[0-9]{1,3}", version) or version == "1.0":
            return
        if not isinstance(self.document.get("versions"), list):
            raise CheckError(f"{self.page} has no list of versions")
        for entry, file in zip(self.document["files"], self.files, strict=True):
            if file.size is None:
                raise CheckError(f"{self.page} names {shown(file.name)} without its size")
            if "upload-time" in entry and not file.uploaded:
                raise CheckError(f"{self.page} names {shown(file.name)} with an upload time that is none")

    async def _metadata(self) -> None:
        promised = [file for file in self.files if file.metadata]
        for file in _chance.sample(promised, min(len(promised), 3)):
            answer = (await self.line.ask(f"{file.path}.metadata", PIP_FILE)).expect(200)
            if (got := hashlib.sha256(answer.body).hexdigest()) != file.metadata:
                raise TamperedError(
                    f"{file.path}.metadata has the sha256 {got}, its page says {file.metadata}"
                )

    async def _range(self) -> None:
        if not self.files:
            return
        file = _chance.choice(self.files)
        part = (await self.line.ask(file.path, PIP_FILE | {"Range": "bytes=0-9"}, limit=100)).expect(206)
        if len(part.body) != 10 or not part.headers.get("content-range", "").startswith("bytes 0-9/"):
            given = shown(part.headers.get("content-range"))
            raise CheckError(f"{file.path} gave {len(part.body)} bytes ({given}) for a range of 10")


# --- truth: pages and files against the trusted index ---


def compare_page(
    document: dict[str, Any],
    named: list[File],
    project: str,
    trusted: Trusted,
    limit: float,
    *,
    partial: bool,
) -> dict[str, str]:
    """What differs, by rule. Files that came after `limit` may be missing, and in a partial mirror all but one of them;
    TamperedError for another hash."""
    page = f"/simple/{project}/"
    ours = {file.name: file for file in trusted.files[project]}
    theirs = {file.name: file for file in named}
    for name in sorted(ours.keys() & theirs.keys()):
        if ours[name].sha256 != theirs[name].sha256:
            raise TamperedError(f"{page} says that {shown(name)} has the sha256 {theirs[name].sha256}")
    wrong: dict[str, str] = {}
    lacking = sorted(name for name in ours.keys() - theirs.keys() if ours[name].uploaded <= limit)
    if lacking and not (partial and theirs):
        wrong["pages"] = f"{page} lacks {shown(lacking[0])} and {len(lacking) - 1} more"
    if more := sorted(theirs.keys() - ours.keys()):
        wrong["withdrawn"] = (
            f"{page} names {shown(more[0])} and {len(more) - 1} more that the trusted index does not"
        )
    entries = {one["filename"]: one for one in trusted.pages[project]["files"]}
    for entry in document["files"]:
        expected = entries.get(entry["filename"], entry)
        if bool(entry.get("yanked")) != bool(expected.get("yanked")):
            wrong["yanked"] = f"{page} has yanked {shown(entry.get('yanked'))} for {shown(entry['filename'])}"
        if (entry.get("requires-python") or None) != (expected.get("requires-python") or None):
            found = shown(entry.get("requires-python"))
            wrong["requires-python"] = f"{page} says requires-python {found} for {shown(entry['filename'])}"
    return wrong


def choose_files(files: list[File], budget: int) -> list[File]:
    """Files drawn by chance whose sizes fit the budget; at least the smallest."""
    drawn, left = [], budget
    for file in _chance.sample(files, len(files)):
        if file.size is not None and file.size <= left:
            drawn.append(file)
            left -= file.size
    return drawn or sorted(files, key=lambda file: file.size if file.size is not None else 1 << 60)[:1]


class Auditor:
    def __init__(self, config: MonitorConfig, known: registry.Registry, trusted: Trusted) -> None:
        self.config, self.known, self.trusted = config, known, trusted
        self.context = trusting(config.ca_file)
        self.pool = ThreadPoolExecutor(16, "resolve")

    async def audit(self, name: str) -> Report:
        record = self.known.mirrors[name]
        report = Report(name, record["url"], int(time.time()))
        reached = []
        for family in record["address_families"]:
            try:
                address = await self._address(record, family)
            except CheckError as error:
                report.tell("connection", False, str(error), family)
                continue
            async with Line(Place.of(record["url"], address), self.context, self.config.timeout) as line:
                checks = Conformance(line, report, family, record, _chance.choice(sorted(self.trusted.pages)))
                await checks.run()
                if line.certificate_expires:
                    reached.append(address)
        if reached:
            lines = [
                Line(Place.of(record["url"], address), self.context, self.config.timeout)
                for address in reached
            ]
            try:
                await self._truth(report, record, lines)
            finally:
                for line in lines:
                    line.close()
        return report

    async def _address(self, record: dict[str, Any], family: str) -> str:
        host = Place.of(record["url"], "").host
        given = self.config.connect_to.get(record["name"])
        if given is None:
            return _chance.choice(
                await resolve(host, family, self.pool, private=self.config.private_addresses)
            )
        if found := [one for one in given if (":" in one) == (family == "ipv6")]:
            return _chance.choice(found)
        raise CheckError(f"{host} has no address in this family")

    async def _truth(self, report: Report, record: dict[str, Any], lines: list[Line]) -> None:
        partial = record.get("partial", False)
        named = await self._pages(report, lines, partial=partial)
        await self._removed(report, lines)
        everything = [
            file
            for files in self.trusted.files.values()
            for file in files
            if file.path in named or not partial
        ]
        limit = time.time() - self.known.fleet["staleness_limit"]
        old = [file for file in everything if file.uploaded <= limit] or everything
        await self._complete(report, lines, _chance.sample(old, min(len(old), MOST_HEADS)))
        budget = min(self.config.audit_bytes, record["bandwidth"] * 125_000 * SECONDS_OF_BANDWIDTH)
        await self._integrity(report, lines, choose_files(old, budget))

    async def _pages(self, report: Report, lines: list[Line], *, partial: bool) -> set[str]:
        """Compares the pages; the paths of all files that they name."""
        wrong: dict[str, str] = {}
        named: set[str] = set()
        limit = time.time() - self.known.fleet["staleness_limit"]
        for project in self.trusted.pages:
            try:
                answer = await _chance.choice(lines).ask(f"/simple/{project}/", PIP)
                document = answer.expect(200, JSON_V1).json()
                files = files_of(document, project, f"/simple/{project}/")
                wrong = compare_page(document, files, project, self.trusted, limit, partial=partial) | wrong
                named |= {file.path for file in files}
            except TamperedError as error:
                report.wrong.append(str(error))
                wrong["pages"] = str(error)
            except CheckError as error:
                wrong.setdefault("pages", str(error))
        for rule in ("pages", "withdrawn", "yanked", "requires-python"):
            report.tell(rule, rule not in wrong, wrong.get(rule, ""))
        return named

    async def _removed(self, report: Report, lines: list[Line]) -> None:
        removed = self.config.removed_projects
        for project in _chance.sample(removed, min(len(removed), MOST_PROJECTS)):
            try:
                status = (await _chance.choice(lines).ask(f"/simple/{project}/", PIP, limit=1 << 16)).status
            except CheckError as error:
                report.tell("removed", False, str(error))
                return
            if status not in (404, 410):
                report.tell(
                    "removed", False, f"/simple/{project}/ answered {status}, expected 404: it was removed"
                )
                return
        report.tell("removed", True if removed else None)

    async def _complete(self, report: Report, lines: list[Line], files: list[File]) -> None:
        for file in files:
            report.sampled += 1
            try:
                answer = await _chance.choice(lines).ask(file.path, PIP_FILE, method="HEAD")
                length = answer.expect(200).headers.get("content-length")
                if file.size is not None and length != str(file.size):
                    raise CheckError(f"{file.path} has {shown(length)} bytes, not {file.size}")
                report.present += 1
            except CheckError as error:
                report.missing.append(str(error)[:300])
        share = f"{report.present} of {report.sampled} files are there"
        told = f"{share}; {report.missing[0]}" if report.missing else share
        report.tell("completeness", not report.missing, told)

    async def _integrity(self, report: Report, lines: list[Line], files: list[File]) -> None:
        broken = ""
        for file in files:
            limit = file.size if file.size is not None else self.config.audit_bytes
            try:
                body = (
                    (await _chance.choice(lines).ask(file.path, PIP_FILE, limit=limit + 1)).expect(200).body
                )
            except CheckError as error:
                broken = broken or str(error)
                continue
            report.files += 1
            report.bytes += len(body)
            if (got := hashlib.sha256(body).hexdigest()) != file.sha256:
                report.wrong.append(f"{file.path} has the sha256 {got}, the trusted index says {file.sha256}")
        told = report.wrong[0] if report.wrong else broken or f"{report.files} files, {report.bytes} bytes"
        # A file that could not be had is for completeness, unless no file could be.
        report.tell("integrity", not report.wrong and (report.files > 0 or not files), told)


async def ask_trusted(config: MonitorConfig) -> Trusted:
    """Pages of some projects, drawn by chance, from the trusted index."""
    place = Place.of(config.reference.url, "")
    prefix = re.sub(r"^https://[^/]+", "", place.base).removesuffix("/simple")
    projects = config.audit_projects or config.reference.projects
    with ThreadPoolExecutor(1) as pool:
        addresses = list(config.connect_to.get("reference", []))
        for family in ("ipv4", "ipv6"):
            if not addresses:
                with contextlib.suppress(CheckError):
                    addresses = await resolve(place.host, family, pool, private=True)
    if not addresses:
        raise CheckError(f"{place.host} does not resolve")
    trusted = Trusted({}, {})
    at = Place(f"https://{place.host}:{place.port}", place.host, place.port, _chance.choice(addresses))
    async with Line(at, trusting(config.ca_file), config.timeout) as line:
        for project in _chance.sample(projects, min(len(projects), MOST_PROJECTS)):
            page = f"{prefix}/simple/{project}/"
            answer = await line.ask(page, ASK_JSON)
            if answer.status in (404, 410):
                log.info("the trusted index has %s no longer: nothing to compare with", project)
                continue
            document = answer.expect(200, JSON_V1).json()
            trusted.files[project] = files_of(document, project, page)
            trusted.pages[project] = document
    if not any(trusted.files.values()):
        raise CheckError("none of the projects has a file")
    return trusted


def due(config: MonitorConfig, known: registry.Registry, now: int) -> list[str]:
    """Who was not audited for long, did not pass the last audit, or became well or served a wrong hash since then."""
    with contextlib.closing(Store(config.state / "probe.sqlite")) as store:
        tracks = store.tracks()
    found = []
    for name, record in known.mirrors.items():
        if name in known.wrong or record["state"] != "active":
            continue
        report = reports.report(config.audits / f"{name}.json") or {"started": 0, "verdict": ""}
        last, track = report["started"], tracks.get(name)
        recovered = track is not None and track.well and (track.well_since or 0) > last
        tampered = track is not None and (track.tampered_at or 0) > last
        pause = config.audit_seconds
        if report["verdict"] in ("failed", "tampered"):
            failing = 0 if recovered or tampered else last - report.get("failed_since", last)
            pause = min(pause, max(config.audit_retry_seconds, min(failing, LONGEST_RETRY)))
        elif recovered or tampered:
            pause = -1
        if now - last > pause:
            found.append(name)
    return found


def audit(path: Path, names: list[str], *, only_due: bool = False) -> tuple[bool, dict[str, Any]]:
    """Audit mirrors and keep the reports; good when each of them passed."""
    config = load_monitor(path)
    known = registry.load(config.registry)
    for name in names:
        if name not in known.mirrors or name in known.wrong:
            raise ConfigError(
                f"{config.registry}: {name!r}: {known.wrong.get(name, 'is no mirror of the registry')}"
            )
    config.audits.mkdir(parents=True, exist_ok=True)
    # Runs take turns, a person's and those of timer and path.
    with only_one(config.state / "audit.lock", patience=PATIENCE):
        if only_due:
            config.audit_due.unlink(missing_ok=True)
        if not names:
            chosen = (
                due(config, known, int(time.time()))
                if only_due
                else sorted(known.mirrors.keys() - known.wrong)
            )
            names = [name for name in chosen if known.mirrors[name]["state"] != "retired"]
        try:
            documents = asyncio.run(_audit_all(config, known, names))
        except CheckError as error:
            # Nothing can be said of any mirror: their last reports stay.
            log.error("the trusted index %s: %s", config.reference.url, error)
            return False, {"audited": 0, "verdicts": {}, "problem": str(error)}
    verdicts = {document["mirror"]: document["verdict"] for document in documents}
    good = all(verdict == "passed" for verdict in verdicts.values())
    return good, {"audited": len(documents), "verdicts": verdicts, "problem": ""}


async def _audit_all(
    config: MonitorConfig, known: registry.Registry, names: list[str]
) -> list[dict[str, Any]]:
    if not names:
        return []
    auditor = Auditor(config, known, await ask_trusted(config))
    slots = asyncio.Semaphore(AT_ONCE)
    write_atomically(config.audits / "style.css", markup.STYLE.encode())

    async def one(name: str) -> dict[str, Any]:
        async with slots:
            report = await auditor.audit(name)
        target = config.audits / f"{name}.json"
        document = report.document(reports.report(target))
        level = logging.INFO if document["verdict"] == "passed" else logging.WARNING
        log.log(
            level,
            "%s: %s%s",
            name,
            document["verdict"],
            f": {document['problem']}" if document["problem"] else "",
        )
        write_atomically(config.audits / f"{name}.html", page(document))
        write_atomically(target, json.dumps(document, indent=1).encode() + b"\n")
        return document

    return list(await asyncio.gather(*(one(name) for name in names)))


PAGE = """\
<title>Audit of {mirror}</title>
<link rel="stylesheet" href="style.css"/>
</head>
<body>
<main>
<h1>Audit of <bdi>{mirror}</bdi>: <span class="{kind}">{verdict}</span></h1>
<p><a href="{url}">{url}</a>, {when}. {problem}</p>
<p>Files read whole and hashed: {files} ({bytes} bytes). Files asked for: {sampled}, of which {present} are there;
the share of all files is between {low:.1%} and {high:.1%} (95 % confidence).</p>
<table>
<caption>What was looked at</caption>
<thead><tr><th scope="col">Rule</th><th scope="col">Source</th><th scope="col">Over</th>\
<th scope="col">Severity</th><th scope="col">Outcome</th></tr></thead>
<tbody>
{rows}</tbody>
</table>
</main>
</body>
</html>
"""


def page(document: dict[str, Any]) -> bytes:
    """The report for people."""
    escape, words = markup.escape, markup.words
    outcome = {True: ("good", "passed"), False: ("bad", "failed"), None: ("", "not asked")}
    rows = "".join(
        f'<tr><th scope="row">{escape(one["summary"])}</th><td>{escape(one["source"])}</td>'
        f'<td>{one.get("family", "")}</td><td>{one["severity"]}</td><td><span class="{outcome[one["passed"]][0]}">'
        f"{outcome[one['passed']][1]}</span> {words(one['detail'])}</td></tr>\n"
        for one in document["rules"]
    )
    about = {key: document["completeness"][key] for key in ("sampled", "present", "low", "high")}
    text = markup.HEAD + PAGE.format(
        mirror=escape(document["mirror"]),
        verdict=document["verdict"],
        kind="good" if document["verdict"] == "passed" else "bad",
        url=escape(document["url"]),
        when=markup.moment(document["started"]),
        problem=words(document["problem"]),
        files=document["integrity"]["files"],
        bytes=document["integrity"]["bytes"],
        rows=rows,
        **about,
    )
    return text.encode()
