"""One run of mode bandersnatch: the client fetches, we publish and judge by the outcome.

The outcome is read from upstream's root index, taken before the run: the run is good when every selected
project is published at least at the serial that the root named. Projects that are not are retried by name,
and set aside after a number of tries; the others go on meanwhile.
"""

import asyncio
import hashlib
import json
import logging
import time
from dataclasses import asdict

from ..common.guards import RefusedError
from ..common.names import shown
from ..fetch import supplement
from ..fetch.bandersnatch import Client, Run
from ..fetch.fetched import Fetched
from ..fetch.upstream import AbsentError, FetchError, Upstream, upstream
from ..fetch.upstream_root import fetch_root
from ..served.status import write_status
from ..served.tree import Result
from .context import Context, Outcome, summary
from .publish import Publisher, publish

log = logging.getLogger(__name__)

_HOUR = 3600.0
_DAY = 24 * _HOUR
# Above both, failures are upstream's as a whole and no project's own.
_FEW, _FEW_SHARE = 10, 0.05
_ASKED = 200  # projects asked for one by one


def retry_after(tries: int, allowed: int) -> float:
    """At every run while tries are left, then ever more rarely, down to once a day."""
    return 0.0 if tries < allowed else time.time() + min(_DAY, _HOUR * 2.0 ** (tries - allowed))


class BandersnatchSync:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._config, self._state = context.config, context.state
        assert self._config.bandersnatch is not None and self._config.index_url is not None
        self._index_url = self._config.index_url
        self._fetched = Fetched(self._config.paths.fetched, by_bandersnatch=True)
        self._client = Client(
            self._config.bandersnatch,
            self._config.paths.fetched,
            self._config.minimum_free_bytes,
            context.progress,
            context.lock,
        )
        self._failures: dict[str, str] = {}
        self._named: set[str] = set()

    def run(self) -> Outcome:
        started = time.time()
        if self._state.get("bandersnatch") != self._client.identity():
            self._state.put("versions", {"bandersnatch": self._client.version()})
            self._state.put("bandersnatch", self._client.identity())
        self._note_what_was_begun()
        try:
            root = asyncio.run(self._fetch_root())
        except FetchError as error:
            log.error("upstream: %s", error)
            result = self._publish(None)
            return Outcome(False, summary(result, self._state) | {"error": str(error)})
        self._serials = {
            name: serial for name, serial in root.items() if self._config.selection.includes(name)
        }
        missing = sorted(set(self._config.selection.projects) - self._serials.keys())
        if missing:
            log.warning("selected but not at upstream: %s", ", ".join(missing[:20]))
        self._state.put("upstream_serial", max(root.values(), default=0))
        self._let_leave(root)
        self._restart_when_the_wish_changed()
        whole, ended = self._mirror(max(root.values(), default=0))
        if ended:
            self._fetch_named()
        self._supplement()
        result = self._publish(None)
        accounted = self._settle(whole, ended, result)
        good = accounted and not self._pending()
        if good:
            write_status(self._config, self._state, self._served_serial(), started)
        return Outcome(good, summary(result, self._state) | {"failed": self._failures, "missing": missing})

    def _publish(self, fetched_at: float | None) -> Result:
        return publish(
            self._config, self._state, fetched_at=fetched_at, allow_shrink=self._context.allow_shrink
        )

    def _served_serial(self) -> int:
        return max(self._client.serial(), int(self._state.get("serial") or 0))

    async def _fetch_root(self) -> dict[str, int]:
        config = self._config
        async with upstream(workers=1, timeout=config.timeout, tries=config.tries) as client:
            return await fetch_root(client, self._index_url)

    # What leaves

    def _note_what_was_begun(self) -> None:
        """Files of documents that were never published: should upstream no longer name them, they are removed."""
        for name in Publisher(self._config, self._state).changed():
            paths = self._fetched.named_files(name)
            with self._state.transaction():
                self._state.begin_fetching(name, paths)

    def _let_leave(self, root: dict[str, int]) -> None:
        present = self._fetched.identities()[0].keys()
        deselected = {name for name in present if not self._config.selection.includes(name)}
        removed = present - deselected - self._serials.keys()
        if not self._context.allow_shrink:
            if not root:
                raise RefusedError(
                    f"{self._index_url}: names no project at all, so that everything would disappear"
                )
            # Of what is selected: what else an index loses is none of ours.
            self._config.shrinking.refuse(self._state, len(present - deselected), removed, self._index_url)
        with self._state.transaction():
            self._state.decide_leaving(deselected, "deselected")
            self._state.decide_leaving(removed, "removed upstream")
            troubled = self._state.troubles().keys()
            self._state.clear_trouble(name for name in troubled if name not in self._serials)
        for name in sorted(deselected | removed):
            log.info(
                "project %s leaves: %s", name, "deselected" if name in deselected else "removed upstream"
            )
            self._fetched.remove_project(name)

    def _restart_when_the_wish_changed(self) -> None:
        """Another upstream or other file filters concern every project, also those that did not change."""
        wish = asdict(self._config.selection) | {"index_url": self._index_url}
        del wish["projects"], wish["blocklist"]
        digest = hashlib.sha256(json.dumps(wish, sort_keys=True).encode()).hexdigest()
        former = self._state.get("wish")
        if former not in (None, digest):
            log.info("upstream or filters changed: every selected project is looked at again")
            self._client.start_over()
        self._state.put("wish", digest)

    # What comes

    def _mirror(self, newest: int) -> tuple[bool, bool]:
        """A whole run: whether it reached upstream's serial with nothing left over, and whether it came to its end."""
        resumed = self._client.has_todo()
        run = self._client.mirror()
        if resumed and self._reached(run, 0):
            self._note_what_was_begun()  # the next one may replace documents that this one brought
            run = self._client.mirror()
        if self._reached(run, newest):
            return True, True
        log.warning(
            "bandersnatch did not get through: exit code %s, serial %d of %d, %d projects left over%s",
            run.code,
            self._client.serial(),
            newest,
            len(self._client.todo()),
            f"; last error: {shown(run.errors[-1])}" if run.errors else "",
        )
        return False, run.code == 0

    def _reached(self, run: Run, newest: int) -> bool:
        return run.code == 0 and not self._client.has_todo() and self._client.serial() >= max(newest, 1)

    def _fetch_named(self) -> None:
        """Projects that a run by changes does not bring: newly selected ones, and those that failed before."""
        now, present = time.time(), self._fetched.identities()[0]
        troubles, absent = self._state.troubles(), self._state.absent()
        due = {t.name for t in troubles.values() if t.retry_after <= now} & self._serials.keys()
        new = {
            name
            for name, serial in self._serials.items()
            if name not in present and name not in troubles and absent.get(name) != serial
        }
        # After a first run there is nothing new: what it did not bring is judged below.
        names = sorted(due | (new if self._client.serial() else set()))
        if names:
            log.info("fetching %d projects by name", len(names))
            self._named.update(names)
            self._note_what_was_begun()
            self._client.sync(names)

    def _supplement(self) -> None:
        """Status and provenance of what changed, and of what could not be asked for or fetched, now or before."""
        if not self._config.supplement:
            return
        present = self._fetched.identities()[0].keys()
        before = {*self._state.get("supplement_again", []), *self._state.troubles(), *self._behind()}
        names = sorted((before & present) | set(Publisher(self._config, self._state).changed()))
        failed = asyncio.run(
            supplement.fetch(self._config, names, self._fetched.supplement, self._context.progress)
        )
        self._state.put("supplement_again", failed)

    # The judgement

    def _behind(self) -> set[str]:
        published = self._state.projects()
        return {
            name
            for name, serial in self._serials.items()
            if name not in published or published[name].serial < serial
        }

    def _settle(self, whole: bool, ended: bool, result: Result) -> bool:
        """Account for every project that is behind; false when that is impossible and the run just failed."""
        present, absent = self._fetched.identities()[0], self._state.absent()
        behind = {
            name for name in self._behind() if absent.get(name) != self._serials[name] or name in present
        }
        unknown = behind - present.keys()
        # A whole run asked upstream for each of them and was told that there is none.
        gone = unknown - self._named if whole else set[str]()
        if len(unknown - gone) <= _ASKED:
            gone |= asyncio.run(self._without_document(sorted(unknown - gone)))
        failing = behind - gone
        with self._state.transaction():
            self._state.record_absent((name, self._serials[name]) for name in gone)
            self._state.clear_absent(absent.keys() - (self._serials.keys() - present.keys()))
            self._state.clear_trouble(self._state.troubles().keys() - failing)
        if not ended:
            return False
        if len(failing) > max(_FEW, _FEW_SHARE * len(self._serials)):
            log.error("%d projects failed at once: upstream's fault, none is counted against", len(failing))
            return False
        self._count(failing, result)
        if not whole:
            self._client.accept_serial(max(self._client.serial(), int(self._state.get("upstream_serial", 0))))
        return True

    def _count(self, failing: set[str], result: Result) -> None:
        allowed, now = self._config.tries_before_set_aside, time.time()
        troubles = self._state.troubles()
        for name in sorted(failing):
            former = troubles.get(name)
            if former and former.retry_after > now:
                continue
            tries = former.tries + 1 if former else 1
            reason = result.incomplete.get(name, "bandersnatch could not fetch it")
            self._failures[name] = reason
            with self._state.transaction():
                self._state.record_trouble(name, reason, retry_after(tries, allowed))
            if tries >= allowed:
                log.error("project %s is set aside after %d tries: %s", name, tries, reason)
            else:
                log.warning("project %s failed, try %d of %d: %s", name, tries, allowed, reason)

    def _pending(self) -> set[str]:
        """Projects that failed and still have tries left."""
        allowed = self._config.tries_before_set_aside
        return {t.name for t in self._state.troubles().values() if t.tries < allowed}

    async def _without_document(self, names: list[str]) -> set[str]:
        """Of projects that upstream lists, those for which it has no document: nothing to fetch, no failure."""
        config = self._config
        base = self._index_url.rstrip("/").removesuffix("/simple")
        async with upstream(workers=config.workers, timeout=config.timeout, tries=2) as client:

            async def is_absent(name: str) -> bool:
                return await _absent(client, f"{base}/pypi/{name}/json")

            answers = await asyncio.gather(*map(is_absent, names))
        return {name for name, answer in zip(names, answers, strict=True) if answer}


async def _absent(client: Upstream, url: str) -> bool:
    try:
        await client.page(url)
    except AbsentError:
        return True
    except FetchError as error:
        log.info("%s", error)
    return False
