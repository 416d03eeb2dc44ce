"""One round of a mirror in one family.

It makes a new TLS connection and asks, as pip would, for the freshness, the serial, a known project's page and a known
file of it: by HEAD, by a range, and whole against its hash where it is small. Then for the page and a file of a project
that was drawn by chance, another one in every round. Which files and projects these are a mirror cannot foresee.
"""

import asyncio
import hashlib
import random
import re
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ..fleet.evidence import printable
from .client import JSON_V1, PIP, PIP_FILE, CheckError, Line, TamperedError, shown, stamp_of
from .reach import Reach
from .reference import File, Reference, files_of, look
from .settings import MonitorConfig
from .track import Found

_LATE = 1800  # seconds: three intervals of a mirror's timer
_LARGEST_STATUS = 1 << 20  # bytes of mirror.json, which names what is set aside
ASKED_AGAIN = 5  # seconds after which the trusted index is asked again before a mirror is blamed
_chance = random.SystemRandom()


@dataclass(frozen=True)
class Drawn:
    """The file that a round drew by chance, and whether the mirror failed at it."""

    file: File
    failed: bool = False


class Round:
    """What is asked of a mirror in one family, and what was found."""

    def __init__(
        self,
        config: MonitorConfig,
        reach: Reach,
        reference: Reference,
        record: dict[str, Any],
        family: str,
        *,
        before: Drawn | None = None,
    ) -> None:
        """`before` is what the last round drew."""
        self.config, self.reach, self.reference = config, reach, reference
        self.record, self.family, self.before = record, family, before
        self.found, self.check = Found(), "connection"
        self.drawn: Drawn | None = None

    async def run(self, staleness_limit: int) -> Found:
        found = self.found
        try:
            async with asyncio.timeout(self.config.budget):
                await self._checks(staleness_limit)
        except TimeoutError:
            found.failure = {"problem": "took longer than the time for a round"}
        except CheckError as error:
            found.failure = {"problem": str(error)}
            found.tampered = isinstance(error, TamperedError)
        if found.failure:
            found.failure |= {"family": self.family, "check": self.check}
        return found

    async def _checks(self, staleness_limit: int) -> None:
        """Every check in turn, up to the first that fails; `self.check` says which one it is."""
        place = await self.reach.mirror(self.record, self.family)
        self.found.address = place.address
        async with self.reach.line(place) as line:
            await line.connect()
            try:
                if self.record["mode"] != "cache":
                    await self._freshness(line)
                # Files that were uploaded a moment ago are no mirror's fault.
                limit = time.time() - staleness_limit
                files = [one for one in self.reference.files if one.uploaded <= limit] or self.reference.files
                if files:
                    file = _chance.choice(files)
                    self.check = "project page"
                    file = await _named(line, file, files if self.record.get("partial") else [])
                    self.check = "file"
                    await _file(line, file, self.config.largest_file)
                self.check = "mirror.json"
                self.found.refused = await self._refused(line)
                await self._another(line, limit)
            finally:
                self.found.certificate_expires = line.certificate_expires

    async def _another(self, line: Line, limit: float) -> None:
        """A project that was drawn by chance. What failed is asked for again in the next round, until it is right."""
        files = self._drawn(limit)
        if self.before and self.before.failed and self._owed(self.before.file.project):
            file = self.before.file
        elif files:
            # Half of the time the newest: a tree that stood still lacks it.
            newest = max(files, key=lambda file: file.uploaded)
            file = newest if _chance.random() < 0.5 else _chance.choice(files)
        else:
            return
        self.drawn = Drawn(file)
        try:
            self.check = "project page"
            file = await _named(line, file, files if self.record.get("partial") else [])
            self.check = "file"
            await _bytes(line, file, self.config.largest_file, cache=self.record["mode"] == "cache")
        except CheckError as error:
            if await self._holds(self.drawn.file, error):
                self.drawn = Drawn(self.drawn.file, failed=True)
                raise

    def _drawn(self, limit: float) -> list[File]:
        """The files of a project that the mirror is to have by now; not that of the last round, unless it failed."""
        found = {}
        for project, one in self.reference.drawn.items():
            old = [file for file in one.page.files if file.uploaded <= limit]
            if old and self._owed(project):
                found[project] = old
        if self.before:
            same = found.pop(self.before.file.project, [])
            if self.before.failed and same:
                return same
        return _chance.choice(list(found.values())) if found else []

    def _owed(self, project: str) -> bool:
        """Whether the mirror is to have it, as far as is known."""
        one = self.reference.drawn.get(project)
        left_out = one is not None and one.left_out(self.record)
        return self.config.selection(self.record["name"]).includes(project) and not left_out

    async def _holds(self, file: File, error: CheckError) -> bool:
        """Whether the trusted index still names this file: what it changed meanwhile is nobody's fault."""
        known = self.reference.drawn.get(file.project)
        if known is None or time.monotonic() - known.asked > ASKED_AGAIN:
            try:
                place, prefix = await self.reach.index()
                async with self.reach.line(place) as line:
                    self.reference.keep(file.project, await look(line, prefix, file.project), also=file.name)
            except CheckError:
                return isinstance(error, TamperedError)  # a hash is of the bytes, whatever the index says now
        known = self.reference.drawn.get(file.project)
        return known is not None and any(
            (one.path, one.sha256) == (file.path, file.sha256) for one in known.page.files
        )

    async def _freshness(self, line: Line) -> None:
        self.check = "last-modified"
        answer = (await line.ask("/last-modified", PIP_FILE, limit=100)).expect(200)
        self.found.last_modified = stamp_of(answer.body)
        self.check = "serial"
        root = (await line.ask("/simple/", PIP, method="HEAD")).expect(200, JSON_V1)
        self.found.serial = root.expect_serial()

    async def _refused(self, line: Line) -> str:
        """Why the mirror refuses its syncs, if it says so. It is news for people: what cannot be read is no fault.

        A refused sync does not move last-modified, so that only who is late is asked.
        """
        if self.found.last_modified is None or time.time() - self.found.last_modified < _LATE:
            return ""
        with suppress(CheckError):
            answer = await line.ask("/mirror.json", PIP_FILE, limit=_LARGEST_STATUS)
            if isinstance(told := answer.expect(200).json().get("refused"), str):
                return printable(told)
        return ""


async def _named(line: Line, file: File, others: list[File]) -> File:
    """A project's page, asked for as pip does, names a file that is no news with the right hash. A partial mirror may
    lack it and has another one of the same project."""
    page = f"/simple/{file.project}/"
    answer = (await line.ask(page, PIP)).expect(200, JSON_V1)
    named = {one.name: one for one in files_of(answer.json(), file.project, page, line.place.base)}
    if file.name not in named:
        there = [one for one in others if one.project == file.project and one.name in named]
        if not there:
            raise CheckError(f"{page} lacks {file.name}")
        file = _chance.choice(there)
    if named[file.name].sha256 != file.sha256:
        told = f"{page} says that {file.name} has the sha256 {named[file.name].sha256}"
        raise TamperedError(f"{told}, the trusted page says {file.sha256}")
    promised = named[file.name].metadata
    if isinstance(promised, str) and isinstance(file.metadata, str) and promised != file.metadata:
        told = f"{page} says that the core metadata of {file.name} has the sha256 {promised}"
        raise TamperedError(f"{told}, the trusted page says {file.metadata}")
    return file


async def _file(line: Line, file: File, largest: int) -> None:
    head = (await line.ask(file.path, PIP_FILE, method="HEAD")).expect(200)
    length = head.headers.get("content-length")
    if file.size is not None and length != str(file.size):
        raise CheckError(f"{file.path} has {shown(length)} bytes by HEAD, {file.size} by the trusted page")
    if not re.fullmatch(r"[0-9]{1,15}", length or ""):
        raise CheckError(f"{file.path} does not say how long it is")
    size = int(length or 0)
    if size >= 2:
        first = _chance.randrange(size - 1)
        last = min(first + 99, size - 1)
        part = await line.ask(file.path, PIP_FILE | {"Range": f"bytes={first}-{last}"}, limit=101)
        if len(part.expect(206).body) != last - first + 1:
            raise CheckError(f"{file.path} gave {len(part.body)} bytes for a range of {last - first + 1}")
    if size <= largest:
        body = (await line.ask(file.path, PIP_FILE, limit=largest + 1)).expect(200).body
        expect_hash(body, file)


async def _bytes(line: Line, file: File, largest: int, *, cache: bool) -> None:
    """Whole where it is small, else whether it is there. A cache would fetch a large one for this."""
    if file.size is not None and file.size <= largest:
        expect_hash((await line.ask(file.path, PIP_FILE, limit=largest + 1)).expect(200).body, file)
    elif not cache:
        head = (await line.ask(file.path, PIP_FILE, method="HEAD")).expect(200)
        length = head.headers.get("content-length")
        if file.size is not None and length != str(file.size):
            raise CheckError(
                f"{file.path} has {shown(length)} bytes by HEAD, {file.size} by the trusted page"
            )


def expect_hash(body: bytes, file: File) -> None:
    got = hashlib.sha256(body).hexdigest()
    if got != file.sha256:
        raise TamperedError(f"{file.path} has the sha256 {got}, the trusted page says {file.sha256}")
