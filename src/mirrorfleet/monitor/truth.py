"""Does a mirror tell the truth, is it complete? Its pages and files against the trusted index.

Which projects and files are looked at is drawn anew each time from a source that no mirror can foresee.
"""

import hashlib
import logging
import random
import time
from dataclasses import dataclass
from typing import Any

from .client import JSON_V1, PIP, PIP_FILE, CheckError, Line, TamperedError, shown
from .reach import Reach
from .reference import ASK_JSON, File, files_of
from .report import Report
from .settings import MonitorConfig

log = logging.getLogger(__name__)

MOST_PROJECTS = 20  # looked at in one audit
MOST_HEADS = 200  # files asked for in one audit
SECONDS_OF_BANDWIDTH = 10  # of what the mirror offers, spent on whole files
_chance = random.SystemRandom()


@dataclass
class Trusted:
    """The part of the trusted index that this audit compares with."""

    pages: dict[str, dict[str, Any]]  # documents by project
    files: dict[str, list[File]]  # by project


async def ask_trusted(config: MonitorConfig, reach: Reach) -> Trusted:
    """Pages of some projects, drawn by chance, from the trusted index."""
    projects = config.audit_projects or config.reference.projects
    place, prefix = await reach.index()
    trusted = Trusted({}, {})
    async with reach.line(place) as line:
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


class Truth:
    """Checks of a mirror against the trusted index, over the lines on which it was reached."""

    def __init__(
        self,
        lines: list[Line],
        report: Report,
        record: dict[str, Any],
        trusted: Trusted,
        config: MonitorConfig,
    ) -> None:
        self.lines, self.report, self.record = lines, report, record
        self.trusted, self.config = trusted, config

    async def run(self, staleness_limit: int) -> None:
        limit, partial = time.time() - staleness_limit, self.record.get("partial", False)
        named = await self._pages(limit, partial=partial)
        await self._removed()
        everything = [
            file
            for files in self.trusted.files.values()
            for file in files
            if file.path in named or not partial
        ]
        old = [file for file in everything if file.uploaded <= limit] or everything
        await self._complete(_chance.sample(old, min(len(old), MOST_HEADS)))
        budget = min(self.config.audit_bytes, self.record["bandwidth"] * 125_000 * SECONDS_OF_BANDWIDTH)
        await self._integrity(choose_files(old, budget))

    def _line(self) -> Line:
        return _chance.choice(self.lines)

    async def _pages(self, limit: float, *, partial: bool) -> set[str]:
        """Compares the pages; the paths of all files that they name."""
        wrong: dict[str, str] = {}
        named: set[str] = set()
        for project in self.trusted.pages:
            try:
                line, page = self._line(), f"/simple/{project}/"
                document = (await line.ask(page, PIP)).expect(200, JSON_V1).json()
                files = files_of(document, project, page, line.place.base)
                wrong = compare_page(document, files, project, self.trusted, limit, partial=partial) | wrong
                named |= {file.path for file in files}
            except TamperedError as error:
                self.report.wrong.append(str(error))
                wrong["pages"] = str(error)
            except CheckError as error:
                wrong.setdefault("pages", str(error))
        for rule in ("pages", "withdrawn", "yanked", "requires-python"):
            self.report.tell(rule, rule not in wrong, wrong.get(rule, ""))
        return named

    async def _removed(self) -> None:
        removed = self.config.removed_projects
        for project in _chance.sample(removed, min(len(removed), MOST_PROJECTS)):
            try:
                status = (await self._line().ask(f"/simple/{project}/", PIP, limit=1 << 16)).status
            except CheckError as error:
                self.report.tell("removed", False, str(error))
                return
            if status not in (404, 410):
                self.report.tell(
                    "removed", False, f"/simple/{project}/ answered {status}, expected 404: it was removed"
                )
                return
        self.report.tell("removed", True if removed else None)

    async def _complete(self, files: list[File]) -> None:
        report = self.report
        for file in files:
            report.sampled += 1
            try:
                answer = await self._line().ask(file.path, PIP_FILE, method="HEAD")
                length = answer.expect(200).headers.get("content-length")
                if file.size is not None and length != str(file.size):
                    raise CheckError(f"{file.path} has {shown(length)} bytes, not {file.size}")
                report.present += 1
            except CheckError as error:
                report.missing.append(str(error)[:300])
        share = f"{report.present} of {report.sampled} files are there"
        told = f"{share}; {report.missing[0]}" if report.missing else share
        report.tell("completeness", not report.missing, told)

    async def _integrity(self, files: list[File]) -> None:
        report, broken = self.report, ""
        for file in files:
            limit = file.size if file.size is not None else self.config.audit_bytes
            try:
                body = (await self._line().ask(file.path, PIP_FILE, limit=limit + 1)).expect(200).body
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
