"""What mirrors are compared with: the trusted index's serials over time, and what its pages say of some projects."""

import contextlib
import hashlib
import random
import re
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, NamedTuple, Self
from urllib.parse import unquote, urljoin, urlsplit

from ..common.names import is_sha256
from .client import JSON_V1, Answer, CheckError, Line, shown
from .reach import Reach

ASK_JSON = {"User-Agent": "mirrorfleet-monitor", "Accept": JSON_V1, "Accept-Encoding": "gzip"}
SERIALS_KEPT = 20_000
DRAWN_KEPT = 64  # projects beside those that a person named, the newest
DRAWN_SECONDS = 1800  # for which what a page said of one may be asked of mirrors
FILES_KEPT = 40  # of each of them: half of these the newest
FOR_ANY = ("-any.whl", ".tar.gz", ".zip", ".tar.bz2", ".tgz")
_chance = random.SystemRandom()


@dataclass(frozen=True)
class File:
    """A file as an index page names it."""

    project: str
    name: str
    path: str  # on any server of the fleet
    sha256: str
    size: int | None
    uploaded: int  # seconds since 1970; 0 where the page does not say
    metadata: str | bool = False  # sha256 of its core metadata, or whether the page promises some
    yanked: bool = False
    yank_reason: str = ""
    requires_python: str = ""
    provenance: str = ""  # URL


@dataclass(frozen=True)
class Page:
    """A project's page: all that an index says of its files."""

    project: str
    files: tuple[File, ...]
    serial: int | None = None
    status: str = "active"  # which is what a page means that tells none (PEP 792)
    status_reason: str = ""

    @property
    def size(self) -> int:
        """Bytes of its files, as far as it tells them."""
        return sum(file.size or 0 for file in self.files)

    @property
    def quarantined(self) -> bool:
        """Whether no client is to be given any file (PEP 792)."""
        return self.status == "quarantined"

    @property
    def platforms(self) -> bool:
        """Whether each of its files may be for some platforms only: no source, no wheel for any (PEP 425)."""
        return not any(file.name.endswith(FOR_ANY) for file in self.files)

    def left_out(self, record: dict[str, Any]) -> bool:
        """Whether a mirror's selection may leave out every file of it."""
        return _left_out(record, self.size, self.platforms)

    @property
    def digest(self) -> str:
        """Of what it says, whatever its serial."""
        said = self.status, self.status_reason, sorted(self.files, key=lambda file: file.name)
        return hashlib.sha256(repr(said).encode()).hexdigest()


class Drawn(NamedTuple):
    """What mirrors are asked of a project that was drawn by chance."""

    page: Page  # with a part of its files
    size: int  # bytes of all its files
    platforms: bool  # whether all of them may be for some platforms only
    asked: float  # of the monotonic clock

    @classmethod
    def of(cls, page: Page, also: str = "") -> Self:
        newest = sorted(page.files, key=lambda file: file.uploaded)[-(FILES_KEPT // 2) :]
        others = _chance.sample(page.files, min(len(page.files), FILES_KEPT // 2))
        wanted = [file for file in page.files if file.name == also]
        some = replace(page, files=tuple(dict.fromkeys([*newest, *others, *wanted])))
        return cls(some, page.size, page.platforms, time.monotonic())

    def left_out(self, record: dict[str, Any]) -> bool:
        return _left_out(record, self.size, self.platforms)


@dataclass
class Reference:
    """What is known of the trusted index."""

    problem: str = "not asked yet"
    serials: list[tuple[int, int]] = field(default_factory=list)  # when each was seen first, growing in both
    files: list[File] = field(default_factory=list)
    drawn: dict[str, Drawn] = field(default_factory=dict)  # by project, the newest last

    @property
    def serial(self) -> int | None:
        return self.serials[-1][1] if self.serials else None

    def saw(self, serial: int, now: int) -> None:
        if any(at > now for at, _ in self.serials):  # noted by a clock that was ahead, and has come back
            self.serials = [(min(at, now), known) for at, known in self.serials]
        if not self.serials or serial > self.serials[-1][1]:
            self.serials = [*self.serials[-SERIALS_KEPT:], (now, serial)]

    def serial_at(self, moment: float) -> int | None:
        """The serial that it had at a time (seconds since 1970); None where that is not remembered."""
        before = bisect_right(self.serials, moment, key=lambda one: one[0])
        return self.serials[before - 1][1] if before else None

    def reached(self, serial: int) -> int | None:
        """When it was first seen to have this serial or a later one (seconds since 1970)."""
        there = bisect_left(self.serials, serial, key=lambda one: one[1])
        return self.serials[there][0] if there < len(self.serials) else None

    def keep(self, project: str, page: Page | None, also: str = "") -> None:
        """What it said of a project that was drawn; None that it has it no longer. The file `also` is not left out."""
        self.drawn.pop(project, None)
        if page is not None and page.files and not page.quarantined:
            self.drawn[project] = Drawn.of(page, also)
        oldest = time.monotonic() - DRAWN_SECONDS
        for name in [name for name, one in self.drawn.items() if one.asked < oldest]:
            del self.drawn[name]
        for name in list(self.drawn)[:-DRAWN_KEPT]:
            del self.drawn[name]

    def lag(self, serial: int | None, now: int) -> int | None:
        """Seconds since the reference has had what a mirror of this serial has not."""
        if serial is None or not self.serials:
            return None
        newer = bisect_right(self.serials, serial, key=lambda one: one[1])
        return max(now - self.serials[newer][0], 0) if newer < len(self.serials) else 0


def files_of(document: dict[str, Any], project: str, page: str, base: str = "") -> list[File]:
    """The files of a JSON page (PEP 691); CheckError when it does not keep the standard.

    `base` is the URL of a mirror, whose pages name files of its own only.
    """
    found = []
    entries = document.get("files")
    if not isinstance(entries, list):
        raise CheckError(f"{page} has no list of files")
    for entry in entries:
        hashes = entry.get("hashes") if isinstance(entry, dict) else None
        sha256 = str(hashes.get("sha256")) if isinstance(hashes, dict) else ""
        if not is_sha256(sha256):
            raise CheckError(f"{page} names a file without sha256: {shown(entry)}")
        url, name, size = entry.get("url"), entry.get("filename"), entry.get("size")
        if not isinstance(url, str) or not isinstance(name, str):
            raise CheckError(f"{page} names a file without URL or name: {shown(entry)}")
        target = urlsplit(urljoin(f"{base or 'https://index.invalid'}{page}", url))
        if base and f"{target.scheme}://{target.netloc}" != base:
            raise CheckError(f"{page} names a file elsewhere: {shown(url)}")
        path = target.path
        if not re.fullmatch(r"/[!-~]*", path) or unquote(path).rpartition("/")[2] != name:
            raise CheckError(f"{page} names a file with an unusable URL: {shown(url)}")
        whole = isinstance(size, int) and not isinstance(size, bool) and size >= 0
        yanked = entry.get("yanked")
        found.append(
            File(
                project,
                name,
                path,
                sha256,
                size if whole else None,
                _uploaded(entry.get("upload-time")),
                _metadata(entry),
                # PEP 592: an empty reason is yanked without one.
                yanked not in (None, False),
                clean(yanked),
                clean(entry.get("requires-python")),
                clean(entry.get("provenance")),
            )
        )
    return found


def page_of(answer: Answer, project: str, page: str, base: str = "") -> Page:
    """A project's page (PEP 691, 700, 714, 740, 792); CheckError as `files_of`."""
    document = answer.expect(200, JSON_V1).json()
    meta, status = document.get("meta"), document.get("project-status")
    inner = meta.get("_last-serial") if isinstance(meta, dict) else None
    status = status if isinstance(status, dict) else {}
    return Page(
        project,
        tuple(files_of(document, project, page, base)),
        answer.serial if answer.serial is not None else inner if type(inner) is int else None,
        clean(status.get("status")) or "active",
        clean(status.get("reason")),
    )


def _left_out(record: dict[str, Any], size: int, platforms: bool) -> bool:
    said = record.get("left_out", {})
    limit = said.get("max_project_size")
    return bool((limit and size > limit) or (said.get("platforms_excluded") and platforms))


def clean(value: Any) -> str:
    """What a page says, without what not every format can carry."""
    return "".join(one for one in value if one.isprintable()).strip() if isinstance(value, str) else ""


def _uploaded(text: Any) -> int:
    try:
        moment = datetime.fromisoformat(text)
        return int(moment.timestamp()) if moment.tzinfo else 0  # PEP 700: one of no zone is none
    except (TypeError, ValueError, OverflowError):
        return 0


def _metadata(entry: dict[str, Any]) -> str | bool:
    """What a page promises of a file's core metadata (PEP 658 and 714): its hash, else whether there is some."""
    promised = [entry.get(key) for key in ("core-metadata", "dist-info-metadata", "data-dist-info-metadata")]
    hashes = [
        one["sha256"] for one in promised if isinstance(one, dict) and isinstance(one.get("sha256"), str)
    ]
    return hashes[0] if hashes else any(one is True or isinstance(one, dict) for one in promised)


async def look(line: Line, prefix: str, project: str) -> Page | None:
    """A project's page as the trusted index has it now, None when it has none; CheckError when it does not say."""
    path = f"{prefix}/simple/{project}/"
    answer = await line.ask(path, ASK_JSON)
    return None if answer.status in (404, 410) else page_of(answer, project, path)


async def ask(line: Line, prefix: str, reference: Reference, projects: tuple[str, ...], now: int) -> None:
    """Ask the trusted index anew. What could not be had stays as it was, and `problem` says why."""
    try:
        # Never its body: that is the list of all projects.
        answer = await line.ask(f"{prefix}/simple/", ASK_JSON, method="HEAD")
        if answer.expect(200).serial is None:
            raise CheckError("/simple/ has no usable X-PyPI-Last-Serial header")
        reference.saw(answer.serial or 0, now)
        files: list[File] = []
        for project in projects:
            page = f"{prefix}/simple/{project}/"
            files += files_of((await line.ask(page, ASK_JSON)).expect(200, JSON_V1).json(), project, page)
        if not files:
            raise CheckError("none of the projects has a file")
        reference.files = files
        reference.problem = ""
    except CheckError as error:
        reference.problem = str(error)


async def consult(
    reach: Reach,
    reference: Reference,
    projects: tuple[str, ...],
    drawn: Iterable[str] = (),
    told: Callable[[str, Page | None], None] | None = None,
) -> None:
    """Find the trusted index and ask it anew; that it cannot be found is a problem like another.

    What it says of projects that were `drawn` goes to `told`, too. That one of these cannot be had is no problem.
    """
    try:
        place, prefix = await reach.index()
        async with reach.line(place) as line:
            await ask(line, prefix, reference, projects, int(time.time()))
            for project in drawn if not reference.problem else ():
                with contextlib.suppress(CheckError):
                    page = await look(line, prefix, project)
                    reference.keep(project, page)
                    if told is not None:
                        told(project, page)
    except CheckError as error:
        reference.problem = str(error)
