"""The part of the trusted index that an audit compares with, and since when it is known to say so."""

import contextlib
import json
import logging
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from ..common.files import write_atomically
from .client import CheckError, Line
from .reach import Reach
from .reference import ASK_JSON, Page, page_of
from .settings import MonitorConfig

log = logging.getLogger(__name__)

MOST_PROJECTS = 20  # looked at in one audit
STATES_KEPT = 20  # of each project
CACHE_AGE = 3600  # seconds for which a cache may keep a page; it does not say when it asked last
_chance = random.SystemRandom()


class State(NamedTuple):
    """What a project's page said: when that was seen first, its serial, a digest."""

    at: int
    serial: int | None
    digest: str


@dataclass
class Trusted:
    """Pages of some projects, drawn by chance."""

    reach: Reach
    folder: Path
    pages: dict[str, Page]
    states: dict[str, list[State]]  # by project, the newest last; also those of other audits
    projects: tuple[str, ...] = ()  # those that had a page at first

    @classmethod
    async def ask(cls, config: MonitorConfig, reach: Reach) -> Self:
        """CheckError when the index does not answer, or has no file of any project."""
        projects = config.audit_projects or config.reference.projects
        found = cls(reach, config.state, {}, _remembered(config.state))
        place, prefix = await reach.index()
        async with reach.line(place) as line:
            for project in _chance.sample(projects, min(len(projects), MOST_PROJECTS)):
                await found._page(line, prefix, project)
        if not any(page.files for page in found.pages.values()):
            raise CheckError("none of the projects has a file")
        found.projects = tuple(found.pages)
        return found

    async def again(self, project: str) -> Page | None:
        """The page as it is now, so that no mirror is blamed for what changed meanwhile; None when it is gone."""
        with contextlib.suppress(CheckError):  # that it cannot be had is no mirror's fault either
            place, prefix = await self.reach.index()
            async with self.reach.line(place) as line:
                await self._page(line, prefix, project)
        return self.pages.get(project)

    async def _page(self, line: Line, prefix: str, project: str) -> None:
        path = f"{prefix}/simple/{project}/"
        answer = await line.ask(path, ASK_JSON)
        if answer.status in (404, 410):
            log.info("the trusted index has %s no longer: nothing to compare with", project)
            self.pages.pop(project, None)
            return
        page = self.pages[project] = page_of(answer, project, path)
        known = self.states.setdefault(project, [])
        if not known or known[-1][1:] != (page.serial, page.digest):
            known.append(State(int(time.time()), page.serial, page.digest))
            del known[:-STATES_KEPT]

    def lag(self, theirs: Page, fresh_as_of: float, limit: float) -> str:
        """Why a mirror's page may be another because the mirror lags, which is for its rounds to judge; empty when the
        mirror says that it is as fresh as the trusted index, or lags for longer than `limit` (seconds since 1970).

        `fresh_as_of` is when it says that it had everything.
        """
        states = self.states[theirs.project]
        now, before = states[-1], states[-2] if len(states) > 1 else None
        if theirs.serial is not None and now.serial is not None and theirs.serial < now.serial:
            since = next(one.at for one in states if one.serial is not None and one.serial > theirs.serial)
            told = f"is of serial {theirs.serial}, the trusted index's of {now.serial}"
        elif before and (theirs.serial is None or before.serial == now.serial) and fresh_as_of < now.at:
            # Serials that stand still, or are not told, say nothing.
            since, told = now.at, "is of before the trusted index changed it"
        else:
            return ""
        return told if since > limit else ""

    def remember(self) -> None:
        write_atomically(self.folder / "trusted.json", json.dumps(self.states).encode())


def _remembered(folder: Path) -> dict[str, list[State]]:
    """Without it a page that differs counts at once, but for what its serial says."""
    try:
        told: dict[str, Any] = json.loads((folder / "trusted.json").read_bytes())
        return {project: [State(*one) for one in states] for project, states in told.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        log.warning("%s: cannot be used: %s", folder / "trusted.json", error)
        return {}
