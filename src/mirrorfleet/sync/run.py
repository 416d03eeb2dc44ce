"""One run of a mirror or origin: fetch, publish, and judge by the outcome, in each mode."""

import asyncio
import logging
import time
from pathlib import Path

from ..common.config import Config
from ..common.files import entries
from ..common.guards import require_free_space
from ..fetch.rsync import TransferError
from ..fetch.upstream import AbsentError, FetchError, upstream
from ..served.status import LAST_MODIFIED, MIRROR_JSON, write_status
from .check import check
from .context import Context, Outcome, summary
from .publish import publish
from .pull import pull

log = logging.getLogger(__name__)

FORMER = ".former"  # beside a tree, and served by nobody


def sync(context: Context) -> Outcome:
    config = context.config
    for path in (config.paths.fetched, config.paths.served):
        path.mkdir(parents=True, exist_ok=True)
    if config.mode == "cache":
        return _sync_cache(context)
    require_free_space(config.paths.served, config.minimum_free_bytes)
    if config.mode == "rsync":
        outcome = _sync_rsync(context)
    elif config.mode == "origin":
        outcome = _sync_origin(context)
    else:
        from .bandersnatch import BandersnatchSync  # noqa: PLC0415 - no other mode runs it

        outcome = BandersnatchSync(context).run()
    settled = outcome.good and not context.state.troubles()
    report = check(config, context.state, context.lock, sweep=settled)
    outcome.summary |= {"checked": report.checked, "repaired": report.repaired, "broken": report.broken}
    outcome.good = outcome.good and not report.broken
    return outcome


# Origin


def _sync_origin(context: Context) -> Outcome:
    from ..fetch.dump import dump  # noqa: PLC0415 - no other mode runs it

    config, state = context.config, context.state
    started = time.time()
    fetched = asyncio.run(dump(config, state, context.progress, allow_shrink=context.allow_shrink))
    result = publish(
        config, state, fetched_at=None if fetched.pending else started, allow_shrink=context.allow_shrink
    )
    state.put("upstream_serial", state.get("serial"))
    return Outcome(
        not fetched.pending and not result.incomplete,
        summary(result, config, state) | {"failed": fetched.failed},
    )


# rsync


def _sync_rsync(context: Context) -> Outcome:
    config, state = context.config, context.state
    try:
        result, good = pull(
            config,
            state,
            context.progress,
            context.lock,
            full=context.full,
            allow_shrink=context.allow_shrink,
        )
    except TransferError as error:
        log.error("%s", error)
        write_status(config, state, int(state.get("serial") or 0), None)
        return Outcome(False, {"error": str(error)})
    return Outcome(good, summary(result, config, state))


# Cache


def _sync_cache(context: Context) -> Outcome:
    """Nothing to fetch: pages come from upstream as it is, so this mirror is fresh while upstream answers."""
    config, state = context.config, context.state
    started = time.time()
    _stop_serving_a_tree(context)
    try:
        serial = asyncio.run(_cache_upstream(config))
    except FetchError as error:
        log.error("upstream does not answer: %s", error)
        write_status(config, state, int(state.get("serial") or 0), None)
        return Outcome(False, {"error": str(error)})
    if serial is not None:
        state.put("upstream_serial", serial)
    write_status(config, state, serial or int(state.get("serial") or 0), started)
    return Outcome(True, {"serial": serial})


def _stop_serving_a_tree(context: Context) -> None:
    """What another mode left would be served before what upstream has, ever older; it is put aside, not removed."""
    served, state = context.config.paths.served, context.state
    own = {LAST_MODIFIED, MIRROR_JSON}
    tree = [Path(entry) for entry in entries(served) if entry.name not in own and entry.name[0] != "."]
    if tree:
        aside = served / FORMER / str(time.time_ns())
        aside.mkdir(parents=True)
        for path in tree:
            path.rename(aside / path.name)
        log.warning("a cache serves no tree of its own: what was there is in %s, for you to remove", aside)
    with state.transaction():
        for name in state.projects():
            state.release(name, state.files_of(name))
            state.drop_project(name)


async def _cache_upstream(config: Config) -> int | None:
    """Upstream's serial when it is one of our mirrors; None when it only answers."""
    base = (config.upstream or config.index_url or "").rstrip("/").removesuffix("/simple")
    async with upstream(workers=1, timeout=config.timeout, tries=config.tries) as client:
        try:
            document = (await client.page(f"{base}/mirror.json", limit=1 << 20)).json()
            return int(document["serial"])
        except (FetchError, KeyError, TypeError, ValueError):
            pass
        index = (config.index_url or f"{base}/simple").rstrip("/")
        try:
            await client.page(f"{index}/pip/", "text/html")
        except AbsentError:
            return None
    return None
