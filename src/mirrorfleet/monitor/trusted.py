"""The part of the trusted index that an audit compares with, and since when it is known to say so."""

import contextlib
import json
import logging
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from ..common import notes
from ..common.clock import by_now
from ..common.files import remove, write_atomically
from .client import CheckError, Line
from .population import RECENT, Claims, Population
from .reach import Reach
from .reference import Page, Reference, look
from .settings import MonitorConfig

log = logging.getLogger(__name__)

MOST_PROJECTS = 20  # looked at in one audit
FILE = "trusted.json"
STATES_KEPT = 20  # of each project
PROJECTS_KEPT = 5000  # whose states are remembered
PAGES_KEPT = 100  # in memory, for all mirrors of a run
PAGES_BYTES = 32 << 20  # of pages, about, that one mirror is compared with
FILE_BYTES = 500  # of a page, about, that tell of one file
CACHE_AGE = 3600  # seconds for which a cache may keep a page; it does not say when it asked last
_chance = random.SystemRandom()


class State(NamedTuple):
    """What a project's page said: when that was seen first, its serial, a digest."""

    at: int
    serial: int | None
    digest: str


@dataclass
class Sample:
    """What one mirror is asked for in one audit, and of how many projects it was drawn."""

    pages: dict[str, Page]
    population: int
    of: str  # whose number that is: as in the report
    even: frozenset[str] = frozenset()  # those for which each project had the same chance
    left_out: frozenset[str] = frozenset()  # those of which the mirror may lack every file

    def ripe(self, limit: float) -> str | None:
        """One that every mirror has by now: some file of it came before `limit` (seconds since 1970)."""
        there = [
            project
            for project, page in self.pages.items()
            if project not in self.left_out and any(file.uploaded <= limit for file in page.files)
        ]
        return _chance.choice(there) if there else None


@dataclass
class Trusted:
    """Pages of projects as they were asked for, the newest last."""

    reach: Reach
    config: MonitorConfig
    population: Population
    states: dict[str, list[State]]  # by project, the newest last; also those of other audits
    pages: dict[str, Page]
    history: Reference  # since when it has had its serials

    @classmethod
    async def ask(cls, config: MonitorConfig, reach: Reach, history: Reference) -> Self:
        """CheckError when the index does not answer, or has no file of any project that a person named."""
        found = cls(reach, config, Population(config.state), _remembered(config.state), {}, history)
        known = config.known
        place, prefix = await reach.index()
        async with reach.line(place) as line:
            for project in _chance.sample(known, min(len(known), MOST_PROJECTS)):
                if await found._look(line, prefix, project) is None:
                    log.info("the trusted index has %s no longer: nothing to compare with", project)
        if not any(page.files for page in found.pages.values()):
            raise CheckError("none of the projects has a file")
        return found

    async def sample(self, record: dict[str, Any], claimed: Claims) -> Sample:
        """Projects that the trusted index has, of those that the mirror is to have or claims to have; drawn anew.

        CheckError when the index tells of none. It is asked for twice as many at most as are looked at.
        """
        selection = self.config.selection(record["name"])
        self.population.learn(claimed.named, self.history.serial_at(time.time() - RECENT))
        known = [one for one in self.config.known if selection.includes(one)]
        of = (
            "selection" if selection.projects is not None else "root page" if claimed.named else "names known"
        )
        sample, asked, left = Sample({}, 0, of), set[str](), PAGES_BYTES
        place, prefix = await self.reach.index()
        async with self.reach.line(place) as line:
            for _ in range(2):  # again for those that the index has not: names may be anybody's
                drawn = self.population.draw(MOST_PROJECTS - len(sample.pages), selection, known, claimed)
                sample.population = max(sample.population, drawn.population)
                for project in drawn.names:
                    if project in asked or left <= 0:
                        continue
                    asked.add(project)
                    try:
                        page = self.pages.get(project) or await self._look(line, prefix, project)
                    except CheckError as error:  # one that is too long, for instance
                        log.info("the trusted index does not tell of %s: %s", project, error)
                        continue
                    if page is not None:
                        sample.pages[project] = page
                        sample.even |= drawn.even & {project}
                        sample.left_out |= {project} if page.left_out(record) else set()
                        left -= FILE_BYTES * len(page.files)
        if not sample.pages:
            raise CheckError("tells of no project that it is to have")
        return sample

    async def now(self, project: str) -> Page | None:
        """The page as it is now, None when it is gone; CheckError when it cannot be had."""
        place, prefix = await self.reach.index()
        async with self.reach.line(place) as line:
            return await self._look(line, prefix, project)

    async def again(self, project: str) -> Page | None:
        """The same, so that no mirror is blamed for what changed meanwhile: where it cannot be had, as it was."""
        with contextlib.suppress(CheckError):  # no mirror's fault either
            return await self.now(project)
        return self.pages.get(project)

    async def _look(self, line: Line, prefix: str, project: str) -> Page | None:
        page = await look(line, prefix, project)
        self.population.saw(project, page)
        self.pages.pop(project, None)
        if page is None:
            return None
        self.pages[project] = page
        for oldest in list(self.pages)[:-PAGES_KEPT]:
            del self.pages[oldest]
        known = self.states[project] = self.states.pop(project, [])
        if not known or known[-1][1:] != (page.serial, page.digest):
            known.append(State(int(time.time()), page.serial, page.digest))
            del known[:-STATES_KEPT]
        return page

    def lag(self, theirs: Page, fresh_as_of: float, limit: float) -> str:
        """Why a mirror's page may be another because the mirror lags, which is for its rounds to judge; empty when the
        mirror says that it is as fresh as the trusted index, or lags for longer than `limit` (seconds since 1970).

        `fresh_as_of` is when it says that it had everything.
        """
        states = self.states[theirs.project]
        now, before = states[-1], states[-2] if len(states) > 1 else None
        if theirs.serial is not None and now.serial is not None and theirs.serial < now.serial:
            since = next(one.at for one in states if one.serial is not None and one.serial > theirs.serial)
            # Also of a project that was never looked at it is known when the whole index had come that far.
            since = min(since, self.history.reached(now.serial) or since)
            told = f"is of serial {theirs.serial}, the trusted index's of {now.serial}"
        elif before and (theirs.serial is None or before.serial == now.serial) and fresh_as_of < now.at:
            # Serials that stand still, or are not told, say nothing.
            since, told = now.at, "is of before the trusted index changed it"
        elif before is None and theirs.serial is None and fresh_as_of < self._newest(theirs.project):
            since, told = now.at, "may be of before the trusted index's newest file"
        else:
            return ""
        return told if since > limit else ""

    def _newest(self, project: str) -> int:
        return max((file.uploaded for file in self.pages[project].files), default=0)

    def remember(self) -> None:
        """Of those that were asked for last."""
        lately, path = dict(list(self.states.items())[-PROJECTS_KEPT:]), self.config.state / FILE
        if path.is_dir():
            remove(path)
        write_atomically(path, json.dumps(lately).encode())


def _remembered(folder: Path) -> dict[str, list[State]]:
    """Without it a page that differs counts at once, but for what its serial says."""
    path, now = folder / FILE, int(time.time())
    try:
        if (told := notes.read(path)) is None:
            return {}
        told = notes.fit(dict[str, list[tuple[int, int | None, str]]], told)
    except (ValueError, OSError) as error:
        log.warning("%s: cannot be used: %s", path, error)
        return {}
    return {
        project: [State(by_now(at, now) or 0, *rest) for at, *rest in states]
        for project, states in told.items()
    }
