"""One run of mode bandersnatch: it brings changes in bulk, upstream's pages decide, and we judge by the outcome.

What has changed is read from upstream's root index, taken before the run; where its serials do not tell, from the pages
themselves. The run is good when of every selected project there is here what its page listed. Projects of which there
is not are tried again, and set aside after a number of tries; the others go on meanwhile.
"""

import asyncio
import hashlib
import json
import logging
import time
from dataclasses import asdict, replace

from ..common.clock import is_due
from ..common.guards import RefusedError
from ..common.names import shown
from ..common.reasons import Reason
from ..fetch.bandersnatch import Client, Run
from ..fetch.fetched import Fetched
from ..fetch.projects import LONGEST, Found, Means, ask_for, note_what_came
from ..fetch.trouble import count, is_to_be_tried, leave_uncounted, many
from ..fetch.upstream import FetchError, upstream
from ..fetch.upstream_root import Root, fetch_root
from ..served.state import NEVER
from ..served.status import write_status
from ..served.tree import Result
from .context import Context, Outcome, summary
from .publish import publish

log = logging.getLogger(__name__)

_SAMPLE = 20  # projects a run whose pages are compared although nothing announces a change
_DISTRUSTED = 7 * 86400.0  # seconds for which every page is compared after one changed unannounced


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
        self._failures: dict[str, Reason] = {}

    def run(self) -> Outcome:
        started = time.time()
        self._client.require_plugins()
        if self._state.get("bandersnatch") != self._client.identity():
            self._state.put("versions", {"bandersnatch": self._client.version()})
            self._state.put("bandersnatch", self._client.identity())
        try:
            root = asyncio.run(self._fetch_root())
        except FetchError as error:
            log.error("upstream: %s", error)
            result = self._publish()
            return Outcome(False, summary(result, self._config, self._state) | {"error": str(error)})
        self._serials = {
            name: serial for name, serial in root.serials.items() if self._config.selection.includes(name)
        }
        missing = sorted(set(self._config.selection.projects) - self._serials.keys())
        if missing:
            log.warning("selected but not at upstream: %s", ", ".join(missing[:20]))
        self._client.tidy()
        note_what_came(self._state, self._fetched)
        self._let_leave(root)
        self._note_serial(root)
        self._restart_when_the_wish_changed()
        whole, ended = self._mirror(root)
        found = self._ask(root, ended)
        refused = self._let_absent_leave(found)
        if ended and len(found.failed) <= self._many():
            self._state.put("reached", max(int(self._state.get("reached", 0)), root.newest, found.newest))
        result = self._publish()
        accounted = self._settle(ended, found, result)
        if whole or accounted:
            self._client.accept_serial(max(self._client.serial(), root.newest))
        good = accounted and not self._pending() and refused is None
        # Also of a run that is not good: what it counted is told.
        serial = self._state.get("reached" if good else "serial") or 0
        write_status(self._config, self._state, int(serial), started if good else None)
        if refused is not None:
            raise refused
        return Outcome(
            good, summary(result, self._config, self._state) | {"failed": self._failures, "missing": missing}
        )

    def _publish(self) -> Result:
        return publish(self._config, self._state, allow_shrink=self._context.allow_shrink)

    async def _fetch_root(self) -> Root:
        config = self._config
        async with upstream(workers=1, timeout=config.timeout, tries=config.tries) as client:
            return await fetch_root(client, self._index_url)

    def _note_serial(self, root: Root) -> None:
        former = int(self._state.get("upstream_serial") or 0)
        if root.newest < former:
            log.warning(
                "upstream's newest serial fell from %d to %d: it was restored, or is another; what differs is compared",
                former,
                root.newest,
            )
            self._client.accept_serial(min(self._client.serial(), root.newest))
        self._state.put("upstream_serial", root.newest)

    # What leaves

    def _let_leave(self, root: Root) -> None:
        present = self._fetched.identities()[0].keys() | self._fetched.brought_identities().keys()
        deselected = {name for name in present if not self._config.selection.includes(name)}
        removed = present - deselected - self._serials.keys()
        if not self._context.allow_shrink:
            if not root.serials:
                raise RefusedError(
                    f"{self._index_url}: names no project at all, so that everything would disappear"
                )
            # Of what is selected: what else an index loses is none of ours.
            self._config.shrinking.refuse(self._state, len(present - deselected), removed, self._index_url)
        self._leave(deselected, "deselected")
        self._leave(removed, "removed upstream")
        with self._state.transaction():
            troubled = self._state.troubles().keys()
            self._state.clear_trouble(name for name in troubled if name not in self._serials)
            self._state.forget_seen(name for name in self._state.seen() if name not in self._serials)

    def _let_absent_leave(self, found: Found) -> RefusedError | None:
        """Of what the root index names, what has no page any more; a guard's word waits until the rest is published."""
        present = self._fetched.identities()[0].keys()
        self._leave(found.too_large & present, "larger than max_project_size")
        absent = found.absent & present
        if not self._context.allow_shrink:
            try:
                self._config.shrinking.refuse(self._state, len(present), absent, self._index_url)
            except RefusedError as error:
                return error
        self._leave(absent, "has no page upstream")
        return None

    def _leave(self, names: set[str], reason: str) -> None:
        with self._state.transaction():
            self._state.decide_leaving(names, reason)
        for name in sorted(names):
            log.info("project %s leaves: %s", name, reason)
            self._fetched.remove_project(name)

    def _restart_when_the_wish_changed(self) -> None:
        """Another upstream or other file filters concern every project, also those that did not change."""
        wish = asdict(self._config.selection) | {"index_url": self._index_url}
        del wish["projects"], wish["blocklist"]
        digest = hashlib.sha256(json.dumps(wish, sort_keys=True).encode()).hexdigest()
        former = self._state.get("wish")
        if former not in (None, digest):
            log.info("upstream or filters changed: every selected project is asked for again")
            self._client.start_over()
            self._state.forget_seen()
        self._state.put("wish", digest)

    # What comes

    def _mirror(self, root: Root) -> tuple[bool, bool]:
        """A whole run: whether it reached upstream's serial with nothing left over, and whether it came to its end."""
        newest = root.newest
        if not newest or (self._client.serial() >= newest and not self._client.has_todo()):
            return False, True  # there is nothing that bandersnatch could know of
        resumed = self._client.has_todo()
        run = self._client.mirror()
        if resumed and self._reached(run, 0):
            # The next one may replace documents that this one brought.
            note_what_came(self._state, self._fetched)
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

    def _ask(self, root: Root, ended: bool) -> Found:
        """Ask upstream for what changed, for what was wanting, and for a sample of the rest."""
        seen, brought = self._state.seen(), self._fetched.brought_identities()
        present, now = self._fetched.identities()[0], time.time()
        troubles = self._state.troubles()
        due = {
            name
            for name, serial in self._serials.items()
            if (known := seen.get(name, NEVER)).serial != serial or known.document != brought.get(name, "")
        }
        if ended:
            due |= {name for name, trouble in troubles.items() if is_to_be_tried(trouble)}
            due |= {
                name
                for name in self._serials
                if (after := (seen.get(name, NEVER)).again_after) and is_due(after, now, LONGEST)
            }
            due |= {name for name in self._state.projects() if name not in present and name in self._serials}
            rest = self._rest(root, due)
        else:
            # bandersnatch was stopped, or upstream stopped it: what it brought is enough for now.
            due, rest = {name for name in due if name in brought}, set[str]()
        found = ask_for(
            due | rest,
            self._serials,
            Means(self._config, self._state, self._fetched, self._context.progress),
            unless_same=rest,
            most_failures=self._many(),
        )
        # What was not asked for may be here in part already, and is to stay until it is.
        self._state.put("waiting", sorted(due - found.asked))
        if found.unannounced:
            some = ", ".join(sorted(found.unannounced)[:5])
            log.warning(
                "upstream's serials do not tell changes (%s): every page is compared for a week", some
            )
            self._state.put("serials_distrusted", now)
        return found

    def _rest(self, root: Root, due: set[str]) -> set[str]:
        """What nothing announces: of serials that tell changes a sample that goes around, else everything."""
        others = sorted(self._serials.keys() - due - self._state.troubles().keys())
        now, since = time.time(), float(self._state.get("serials_distrusted", 0))
        if since > now:  # by a clock that was ahead
            self._state.put("serials_distrusted", now)
        trusted = root.tells_changes() and now - since >= _DISTRUSTED
        self._state.put("compared_by_page", 0 if trusted else len(others))
        if not trusted:
            log.info(
                "upstream's serials do not tell what changed: the pages of %d projects are compared",
                len(others),
            )
            return set(others)
        cursor = str(self._state.get("sample_cursor", ""))
        sample = ([name for name in others if name > cursor] + others)[:_SAMPLE]
        self._state.put("sample_cursor", sample[-1] if sample else "")
        return set(sample)

    # The judgement

    def _many(self) -> float:
        return many(len(self._serials))

    def _settle(self, ended: bool, found: Found, result: Result) -> bool:
        """Account for every project that is wanting; false when that is impossible and the run just failed."""
        failing = {**result.incomplete, **found.failed}
        with self._state.transaction():
            self._state.clear_trouble(found.asked - failing.keys())
        at_once = len(failing) > self._many()
        leave_uncounted(self._state, "fetch", failing if at_once or not ended else {})
        if not ended:
            return False
        if at_once:
            some = "; ".join(f"{name}: {failing[name]}" for name in sorted(failing)[:3])
            log.error(
                "%d projects failed at once: upstream's fault, none is counted against (%s)",
                len(failing),
                some,
            )
            return False
        self._count(failing)
        return True

    def _count(self, failing: dict[str, Reason]) -> None:
        seen, brought = self._state.seen(), self._fetched.brought_identities()
        for name, reason in sorted(failing.items()):
            self._failures[name] = reason
            count(self._state, name, reason, self._config.tries_before_set_aside)
            former = seen.get(name, NEVER)
            now = replace(
                former, serial=self._serials.get(name, 0), document=brought.get(name, ""), validator=""
            )
            with self._state.transaction():
                # From here on it is its trouble that has it asked for, or a change.
                self._state.see(name, now)

    def _pending(self) -> set[str]:
        """Projects that failed and still have tries left."""
        allowed = self._config.tries_before_set_aside
        return {t.name for t in self._state.troubles().values() if t.tries < allowed}
