"""Mode bandersnatch, project by project: what upstream's page says, the files that bandersnatch did not bring, and what
is to be served of both.
"""

import asyncio
import logging
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from ..common.clock import is_due
from ..common.config import Config
from ..common.names import InvalidNameError
from ..common.progress import Progress
from ..common.reasons import Reason
from ..served.state import NEVER, Seen, State
from .fetched import Fetched
from .files import PROBLEMS, Files, TooLargeError, all_of, place
from .source import Said, Source, entries_of
from .upstream import AbsentError, FetchError, Upstream, upstream

log = logging.getLogger(__name__)

_HOUR = 3600.0
LONGEST = 24 * _HOUR  # that anything waits to be asked for again
_AT_ONCE = 1000  # so that hundreds of thousands of names are not as many tasks


def later(tries: int) -> float:
    """Seconds until something is asked for again that was wanting so often: ever more, up to a day."""
    return min(LONGEST, _HOUR * 2.0 ** min(tries, 10))


@dataclass
class Found:
    """What came of asking for projects, by their names."""

    asked: set[str] = field(default_factory=set)
    unannounced: set[str] = field(
        default_factory=set
    )  # changed although the root index named the same serial
    absent: set[str] = field(default_factory=set)
    too_large: set[str] = field(default_factory=set)
    failed: dict[str, Reason] = field(default_factory=dict)
    newest: int = 0  # of the serials that were given


@dataclass(frozen=True)
class Means:
    """Of one run."""

    config: Config
    state: State
    fetched: Fetched
    progress: Progress


def ask_for(
    names: Collection[str],
    serials: Mapping[str, int],
    means: Means,
    *,
    unless_same: Collection[str],
    most_failures: float,
) -> Found:
    """Ask upstream for projects; of `unless_same` a page is read only when it is another than last time.

    `serials` are those of upstream's root index, 0 where it gives none. Where more fail than `most_failures` the rest
    is not asked for: upstream as a whole is at fault.
    """
    found, config = Found(), means.config

    async def ask() -> None:
        async with upstream(workers=config.workers, timeout=config.timeout, tries=config.tries) as client:
            projects = _Projects(means, client, serials, found)
            slots = asyncio.Semaphore(
                config.workers
            )  # bounds memory and open files; the client bounds requests

            async def one(name: str) -> None:
                async with slots:
                    if len(found.failed) <= most_failures:
                        await projects.attempt(name, unless_same=name in unless_same)
                means.progress.step(name)

            remaining = sorted(names)
            while remaining:
                part, remaining = remaining[:_AT_ONCE], remaining[_AT_ONCE:]
                await all_of(one(name) for name in part)

    means.progress.begin("asking for projects", len(names))
    if names:
        asyncio.run(ask())
    return found


def note_what_came(state: State, fetched: Fetched) -> None:
    """Of what bandersnatch brought and nobody looked at yet: what of it will not be served is to leave again."""
    seen = state.seen()
    for name, stamp in fetched.brought_identities().items():
        if seen.get(name, NEVER).document != stamp:
            _note(state, name, fetched.brought_document(name))


def _note(state: State, name: str, brought: Any) -> None:
    with state.transaction():
        state.begin_fetching(name, _places(brought))


class _Projects:
    def __init__(self, means: Means, client: Upstream, serials: Mapping[str, int], found: Found) -> None:
        self._state, self._fetched = means.state, means.fetched
        self._serials, self._found = serials, found
        self._source = Source(means.config, client)
        self._files = Files(means.config, means.state, client, means.progress)
        self._seen, self._brought = means.state.seen(), means.fetched.brought_identities()

    async def attempt(self, name: str, *, unless_same: bool) -> None:
        former = self._seen.get(name, NEVER)
        now = replace(former, serial=self._serials.get(name, 0), document=self._brought.get(name, ""))
        self._found.asked.add(name)
        self._fetched.remove_pages(name)
        try:
            said = await self._take(name, former, now, former.validator if unless_same else "")
        except AbsentError as reason:
            log.info("project %s: the index names it and has no page of it: %s", name, reason)
            self._found.absent.add(name)
            now = ask_again(now)
        except TooLargeError as reason:
            log.info("project %s is not mirrored: %s", name, reason)
            self._found.too_large.add(name)
        except PROBLEMS as problem:
            self._found.failed[name] = Reason.of(problem)
            return
        else:
            if said is not None:
                now = replace(now, validator=said.validator)
                if not (said.behind or "left-out" in said.document):
                    now = replace(now, again_after=None, tries=0)
                elif is_due_again(now):
                    now = ask_again(now)
        if now != former:
            with self._state.transaction():
                self._state.see(name, now)

    async def _take(self, name: str, former: Seen, now: Seen, validator: str) -> Said | None:
        """What upstream says, with all its files here and what is to be served of it stored."""
        brought = self._fetched.brought_document(name)
        if now.document != former.document:
            _note(self._state, name, brought)
        said = await self._source.ask(name, brought, validator)
        if said is None:
            return None
        if said.serial is not None and said.serial < now.serial:
            told = f"its page is still of serial {said.serial}, the index names {now.serial}"
            raise FetchError(told, "behind")
        await self._files.bring(
            name, said.document, self._fetched.document(name), brought, again=is_due_again(former)
        )
        changed = self._store(name, said.document, max(now.serial, said.serial or 0))
        announced = now.serial != former.serial or now.document != former.document or former.again_after
        if changed and not announced:
            self._found.unannounced.add(name)
        return said

    def _store(self, name: str, document: dict[str, Any], serial: int) -> bool:
        """A serial is never given again to other content, whatever upstream does with its own."""
        former = self._fetched.document(name)
        last = former.pop("last_serial", 0)
        floor = max(last, self._state.serial_given(name))
        if former == document and serial <= floor == last:
            return False
        changed = former != document or last < floor  # what was published at `floor` is not this document
        given = max(serial, floor + 1 if changed and floor else floor, 1)
        self._fetched.store(name, document, given)
        self._found.newest = max(self._found.newest, given)
        return changed


def is_due_again(seen: Seen) -> bool:
    return seen.again_after is None or is_due(seen.again_after, time.time(), LONGEST)


def ask_again(seen: Seen) -> Seen:
    return replace(seen, again_after=time.time() + later(seen.tries), tries=seen.tries + 1)


def _places(document: Any) -> Iterator[str]:
    for entry in entries_of(document):
        with suppress(InvalidNameError, KeyError, TypeError, AttributeError):
            yield place(entry)
