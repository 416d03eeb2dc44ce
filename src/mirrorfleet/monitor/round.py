"""One round of a mirror in one family.

It makes a new TLS connection and asks, as pip would, for the freshness, the serial, a known project's page and a known
file of it: by HEAD, by a range, and whole against its hash where it is small. Which file that is a mirror cannot
foresee.
"""

import asyncio
import hashlib
import random
import re
import time
from contextlib import suppress
from typing import Any

from ..fleet.evidence import printable
from .client import JSON_V1, PIP, PIP_FILE, CheckError, Line, TamperedError, shown, stamp_of
from .reach import Reach
from .reference import File, Reference, files_of
from .settings import MonitorConfig
from .track import Found

_LATE = 1800  # seconds: three intervals of a mirror's timer
_LARGEST_STATUS = 1 << 20  # bytes of mirror.json, which names what is set aside
_chance = random.SystemRandom()


class Round:
    """What is asked of a mirror in one family, and what was found."""

    def __init__(
        self, config: MonitorConfig, reach: Reach, reference: Reference, record: dict[str, Any], family: str
    ) -> None:
        self.config, self.reach, self.reference = config, reach, reference
        self.record, self.family = record, family
        self.found, self.check = Found(), "connection"

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
            finally:
                self.found.certificate_expires = line.certificate_expires

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


def expect_hash(body: bytes, file: File) -> None:
    got = hashlib.sha256(body).hexdigest()
    if got != file.sha256:
        raise TamperedError(f"{file.path} has the sha256 {got}, the trusted page says {file.sha256}")
