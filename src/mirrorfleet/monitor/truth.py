"""Does a mirror tell the truth, is it complete? Its pages and files against the trusted index.

Which projects and files are looked at is drawn anew each time from a source that no mirror can foresee.
"""

import hashlib
import io
import random
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from ..common.wheels import NoMetadataError, wheel_metadata
from ..fleet.standing import clock
from .client import PIP, PIP_FILE, CheckError, Line, TamperedError, shown, stamp_of
from .population import required
from .reference import File, Page, page_of
from .report import RULES, Report
from .trusted import CACHE_AGE, MOST_PROJECTS, Sample, Trusted

MOST_HEADS = 200  # files asked for in one audit
MOST_HEADS_OF_A_CACHE = 40
MOST_SIDECARS = 20  # of core metadata, fetched in one audit
SECONDS_OF_BANDWIDTH = 10  # of what the mirror offers, spent on whole files
_chance = random.SystemRandom()


class Difference(NamedTuple):
    told: str
    tampered: bool = False


BY_PAGE = (
    "pages", "withdrawn", "size", "upload-time", "yanked", "requires-python", "project-status", "provenance",
    "reasons", "left-out",
)  # fmt: skip


def compare_page(
    theirs: Page, ours: Page, limit: float, *, partial: bool, lags: bool = False
) -> dict[str, Difference]:
    """What differs, by rule. Files that came after `limit` may be missing, and in a partial mirror all but one of them;
    a page that `lags` is compared in what never changes, and in what came before `limit`."""
    page, wrong = f"/simple/{theirs.project}/", dict[str, Difference]()
    there, expected = ({file.name: file for file in one.files} for one in (theirs, ours))
    for name in sorted(there.keys() & expected.keys()):
        for rule, difference in _constant(page, there[name], expected[name]):
            wrong.setdefault(rule, difference)
        for rule, told in () if lags else _changing(page, there[name], expected[name]):
            wrong.setdefault(rule, Difference(told))
    # One that came so long ago is missed by no lag, where it is known when it came.
    lacking = sorted(
        name
        for name in expected.keys() - there.keys()
        if expected[name].uploaded <= limit and (expected[name].uploaded or not lags)
    )
    if lacking and not (partial and there):
        told = f"{page} lacks {shown(lacking[0])} and {len(lacking) - 1} more"
        wrong.setdefault("pages", Difference(told))
    if lags:
        return wrong
    if theirs.status != ours.status:
        told = f"{page} has the status {shown(theirs.status)}, not {shown(ours.status)}"
        wrong["project-status"] = Difference(told)
    elif theirs.status_reason != ours.status_reason:
        told = f"{page} gives the reason {shown(theirs.status_reason)} for its status"
        wrong.setdefault("reasons", Difference(told))
    if more := sorted(there.keys() - expected.keys()):
        told = f"{page} names {shown(more[0])} and {len(more) - 1} more that the trusted index does not"
        wrong["withdrawn"] = Difference(told)
    return wrong


def _constant(page: str, there: File, expected: File) -> Iterator[tuple[str, Difference]]:
    name, promised = shown(there.name), there.metadata
    if there.sha256 != expected.sha256:
        told = (
            f"{page} says that {name} has the sha256 {there.sha256}, the trusted index says {expected.sha256}"
        )
        yield "pages", Difference(told, tampered=True)
    if isinstance(promised, str) and isinstance(expected.metadata, str) and promised != expected.metadata:
        told = (
            f"{page} says that the core metadata of {name} has the sha256 {promised}, the trusted index says"
            f" {expected.metadata}"
        )
        yield "core-metadata", Difference(told, tampered=True)
    if expected.size is not None and there.size != expected.size:
        yield "size", Difference(f"{page} says that {name} has {there.size} bytes, not {expected.size}")
    if expected.uploaded and there.uploaded != expected.uploaded:
        said = clock(there.uploaded) if there.uploaded else "at no time"
        told = f"{page} says that {name} was uploaded {said}, not {clock(expected.uploaded)}"
        yield "upload-time", Difference(told)


def _changing(page: str, there: File, expected: File) -> Iterator[tuple[str, str]]:
    name = shown(there.name)
    if there.yanked != expected.yanked:
        yield "yanked", f"{page} has yanked {there.yanked} for {name}"
    elif there.yank_reason != expected.yank_reason:
        yield "reasons", f"{page} gives the reason {shown(there.yank_reason)} for yanking {name}"
    if there.requires_python != expected.requires_python:
        yield "requires-python", f"{page} says requires-python {shown(there.requires_python)} for {name}"
    if there.provenance and there.provenance != expected.provenance:
        yield "provenance", f"{page} says that the provenance of {name} is {shown(there.provenance)}"
    for what in ("metadata", "provenance"):
        if getattr(expected, what) and not getattr(there, what):
            yield "left-out", f"{page} tells no {'core metadata' if what == 'metadata' else what} of {name}"


def own_metadata(wheel: bytes, filename: str) -> bytes | None:
    """The same that a mirror takes out of it; None when it has none to be read."""
    try:
        return wheel_metadata(io.BytesIO(wheel), filename)
    except NoMetadataError:
        return None


def choose_files(files: list[File], budget: int) -> list[File]:
    """Files drawn by chance whose sizes fit the budget; at least the smallest."""
    drawn, left = [], budget
    for file in _chance.sample(files, len(files)):
        if file.size is not None and file.size <= left:
            drawn.append(file)
            left -= file.size
    return drawn or sorted(files, key=lambda file: file.size if file.size is not None else 1 << 60)[:1]


def _some(names: set[str], count: int) -> list[str]:
    return _chance.sample(sorted(names), min(len(names), count))


def _expect(path: str, body: bytes, sha256: str) -> None:
    if (got := hashlib.sha256(body).hexdigest()) != sha256:
        raise TamperedError(f"{path} has the sha256 {got}, the trusted index says {sha256}")


class Truth:
    """Checks of a mirror against the trusted index, over the lines on which it was reached."""

    def __init__(
        self,
        lines: list[Line],
        report: Report,
        record: dict[str, Any],
        trusted: Trusted,
        sample: Sample,
    ) -> None:
        self.lines, self.report, self.record = lines, report, record
        self.trusted, self.sample, self.config = trusted, sample, trusted.config

    async def run(self, staleness_limit: int) -> None:
        limit, partial = time.time() - staleness_limit, self.record.get("partial", False)
        named, wrong = await self._pages(limit)
        await self._removed(limit)
        everything = [
            file
            for page in self.sample.pages.values()
            for file in page.files
            if file.path in named or not partial
        ]
        budget = min(self.config.audit_bytes, self.record["bandwidth"] * 125_000 * SECONDS_OF_BANDWIDTH)
        promised = [file for file in everything if file.path in named and named[file.path].metadata]
        budget -= await self._core_metadata(promised, budget // 2, wrong.get("core-metadata", ""))
        old = [file for file in everything if file.uploaded <= limit] or everything
        # Of a cache each is a piece of a file that it fetches for this.
        most = MOST_HEADS if self.record["mode"] != "cache" else MOST_HEADS_OF_A_CACHE
        await self._complete(_chance.sample(old, min(len(old), most)))
        await self._integrity(choose_files(old, budget))

    def _line(self) -> Line:
        return _chance.choice(self.lines)

    async def _pages(self, limit: float) -> tuple[dict[str, File], dict[str, str]]:
        """Compares the pages; the files that they name, by path, and what differs, by rule."""
        wrong: dict[str, str] = {}
        named: dict[str, File] = {}
        lagging, fresh_as_of = [], await self._fresh_as_of()
        for project, ours in list(self.sample.pages.items()):
            try:
                theirs = await self._theirs(project, ours, limit)
            except CheckError as error:
                wrong.setdefault("pages", str(error))
                self.report.looked_at[project] = project in self.sample.even
                self.report.unsound.add(project)
                continue
            if theirs is None:
                continue
            named |= {file.path: file for file in theirs.files}
            found, lag = self._compared(theirs, ours, fresh_as_of, limit)
            if found:
                now = await self.trusted.again(project)
                found, lag = self._compared(theirs, now, fresh_as_of, limit) if now else ({}, "")
            if lag:
                lagging.append(f"/simple/{project}/ {lag}")
            self.report.wrong += [one.told for one in found.values() if one.tampered]
            wrong = {rule: one.told for rule, one in found.items()} | wrong
            self.report.looked_at[project] = project in self.sample.even
            if any(RULES[rule].severity == "error" for rule in found):
                self.report.unsound.add(project)
        every = len(lagging) == len(self.sample.pages)
        for rule in BY_PAGE:
            known = rule in wrong or rule in ("pages", "size", "upload-time") or not every
            told = wrong.get(rule) or (f"not compared: {'; '.join(lagging)}" if lagging else "")
            self.report.tell(rule, rule not in wrong if known else None, told)
        return named, wrong

    def _compared(
        self, theirs: Page, ours: Page, fresh_as_of: float, limit: float
    ) -> tuple[dict[str, Difference], str]:
        """What differs, and why what may change may differ: the mirror lags."""
        partial = self.record.get("partial", False)
        found = compare_page(theirs, ours, limit, partial=partial)
        lag = self.trusted.lag(theirs, fresh_as_of, limit) if found else ""
        return (compare_page(theirs, ours, limit, partial=partial, lags=True), lag) if lag else (found, "")

    async def _theirs(self, project: str, ours: Page, limit: float) -> Page | None:
        """The mirror's page; None where it need not have one, and the project is not to be looked at further."""
        line, path = self._line(), f"/simple/{project}/"
        answer = await line.ask(path, PIP)
        if answer.status not in (404, 410):
            return page_of(answer, project, path, line.place.base)
        now = await self.trusted.again(project)  # it may be gone there meanwhile
        due = [file for file in (now or ours).files if file.uploaded <= limit]
        if now is None or not due or ours.left_out(self.record):
            del self.sample.pages[project]
            return None
        raise CheckError(f"{path} answered {answer.status}, expected 200: the trusted index has the project")

    async def _fresh_as_of(self) -> float:
        """When the mirror says that it had everything (seconds since 1970)."""
        if self.record["mode"] == "cache":
            return time.time() - CACHE_AGE
        try:
            return stamp_of((await self._line().ask("/last-modified", PIP_FILE, limit=100)).expect(200).body)
        except CheckError:
            return 0  # a rule of its own

    async def _removed(self, limit: float) -> None:
        """What a person named, and what the trusted index has had no longer since before `limit`."""
        named = set(self.config.removed_projects)
        gone = set(self.trusted.population.gone(limit)) - named
        gone = {one for one in gone if self.config.selection(self.record["name"]).comparable(one)}
        drawn = _some(named, MOST_PROJECTS) + _some(gone, MOST_PROJECTS)
        for project in drawn:
            try:
                told = await self._still_there(project, named=project in named)
            except CheckError as error:
                told = str(error)
            if told:
                self.report.tell("removed", False, told)
                return
        self.report.tell("removed", True if drawn else None)

    async def _still_there(self, project: str, *, named: bool) -> str:
        """What is wrong with a project that is to be gone; empty when nothing is."""
        line, path = self._line(), f"/simple/{project}/"
        answer = await line.ask(path, PIP)
        if answer.status in (404, 410):
            return ""
        why = "it was removed"
        if not named:
            try:
                now = await self.trusted.now(project)
            except CheckError:
                return ""  # nobody is blamed for what cannot be asked
            if now is not None and not now.quarantined:
                return ""
            if now is not None:
                why = "it is quarantined, and no file of it may be named"
                if answer.status == 200 and not page_of(answer, project, path, line.place.base).files:
                    return ""
        return f"{path} answered {answer.status}, expected 404: {why}"

    async def _core_metadata(self, files: list[File], budget: int, told: str) -> int:
        """Sidecars of files of which the mirror promises them; pip before 26 installs by them and does not compare.
        The bytes of wheels that had to be read for it."""
        report, left = self.report, budget
        for file in _chance.sample(files, min(len(files), MOST_SIDECARS)):
            try:
                path = f"{file.path}.metadata"
                sidecar = (await self._line().ask(path, PIP_FILE)).expect(200).body
                if isinstance(file.metadata, str):
                    _expect(path, sidecar, file.metadata)
                    self.trusted.population.need(required(sidecar))
                elif file.name.endswith(".whl") and file.size is not None and file.size <= left:
                    left -= file.size
                    wheel = (
                        (await self._line().ask(file.path, PIP_FILE, limit=file.size + 1)).expect(200).body
                    )
                    report.files, report.bytes = report.files + 1, report.bytes + len(wheel)
                    _expect(file.path, wheel, file.sha256)
                    if own_metadata(wheel, file.name) != sidecar:
                        # That of an index which has one and tells no hash may not be the wheel's either.
                        kind = CheckError if file.metadata else TamperedError
                        raise kind(f"{path} is not the METADATA of its wheel")
                elif not file.name.endswith(".whl") and not file.metadata:
                    raise CheckError(f"{path} is there: the trusted index has none, and it is of no wheel")
            except CheckError as error:
                if isinstance(error, TamperedError):
                    report.wrong.append(str(error))
                report.unsound.add(file.project)
                told = told or str(error)
        report.tell("core-metadata", not told, told)
        return budget - left

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
                report.unsound.add(file.project)
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
            try:
                _expect(file.path, body, file.sha256)
            except TamperedError as error:
                report.wrong.append(str(error))
                report.unsound.add(file.project)
        told = report.wrong[0] if report.wrong else broken or f"{report.files} files, {report.bytes} bytes"
        # A file that could not be had is for completeness, unless no file could be.
        report.tell("integrity", not report.wrong and (report.files > 0 or not files), told)
