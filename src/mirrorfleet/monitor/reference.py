"""What mirrors are compared with: the trusted index's serials over time, and the files of some of its projects."""

import re
import time
from bisect import bisect_right
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

from .client import JSON_V1, CheckError, Line, shown
from .reach import Reach

ASK_JSON = {"User-Agent": "mirrorfleet-monitor", "Accept": JSON_V1, "Accept-Encoding": "gzip"}
SERIALS_KEPT = 20_000


@dataclass(frozen=True)
class File:
    """A file as an index page names it."""

    project: str
    name: str
    path: str  # on any server of the fleet
    sha256: str
    size: int | None
    uploaded: int  # seconds since 1970; 0 where the page does not say
    metadata: str = ""  # sha256 of its core metadata, where the page promises it


@dataclass
class Reference:
    """What is known of the trusted index."""

    problem: str = "not asked yet"
    serials: list[tuple[int, int]] = field(default_factory=list)  # when each was seen first, growing in both
    files: list[File] = field(default_factory=list)

    @property
    def serial(self) -> int | None:
        return self.serials[-1][1] if self.serials else None

    def saw(self, serial: int, now: int) -> None:
        if not self.serials or serial > self.serials[-1][1]:
            self.serials = [*self.serials[-SERIALS_KEPT:], (now, serial)]

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
        if not re.fullmatch(r"[0-9a-f]{64}", sha256):
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
        uploaded = _uploaded(entry.get("upload-time"))
        found.append(File(project, name, path, sha256, size if whole else None, uploaded, _metadata(entry)))
    return found


def _uploaded(text: Any) -> int:
    try:
        return int(datetime.fromisoformat(text).timestamp())
    except (TypeError, ValueError, OverflowError):
        return 0


def _metadata(entry: dict[str, Any]) -> str:
    """The hash that a page promises for a file's core metadata (PEP 658 and 714)."""
    for key in ("core-metadata", "dist-info-metadata", "data-dist-info-metadata"):
        if isinstance(promised := entry.get(key), dict) and isinstance(promised.get("sha256"), str):
            return str(promised["sha256"])
    return ""


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


async def consult(reach: Reach, reference: Reference, projects: tuple[str, ...]) -> None:
    """Find the trusted index and ask it anew; that it cannot be found is a problem like another."""
    try:
        place, prefix = await reach.index()
        async with reach.line(place) as line:
            await ask(line, prefix, reference, projects, int(time.time()))
    except CheckError as error:
        reference.problem = str(error)
