"""The verbs that write a mirror's or an origin's trees: one at a time."""

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..common.config import Config, ConfigError
from ..common.database import is_corrupt, set_aside
from ..common.guards import RefusedError, only_one
from ..common.progress import Progress
from ..served import metrics
from ..served.agreement import agree
from ..served.state import State
from ..served.status import write_status
from .check import check
from .context import Context
from .publish import publish
from .run import sync

log = logging.getLogger("mirrorfleet")

Answer = tuple[bool, dict[str, Any]]


def _dump(context: Context) -> Answer:
    from ..fetch.dump import dump  # noqa: PLC0415 - no mirror runs it

    context.config.paths.fetched.mkdir(parents=True, exist_ok=True)
    outcome = asyncio.run(
        dump(context.config, context.state, context.progress, allow_shrink=context.allow_shrink)
    )
    return not outcome.failed, {
        "changed": len(outcome.changed),
        "removed": len(outcome.removed),
        "failed": outcome.failed,
        "bytes": outcome.bytes,
    }


def _publish(context: Context) -> Answer:
    result = publish(context.config, context.state, allow_shrink=context.allow_shrink)
    return not result.incomplete, {
        "serial": context.state.get("serial"),
        "changed": result.changed,
        "removed": result.removed,
        "deleted": result.deleted,
        "incomplete": result.incomplete,
    }


def _check(context: Context) -> Answer:
    # A project whose fetch is under way has files that no page names yet.
    settled = not context.state.troubles()
    report = check(context.config, context.state, context.lock, everything=True, sweep=settled)
    _write_metrics(context)
    return not report.broken, asdict(report)


def _write_metrics(context: Context) -> None:
    """A sync whose metrics cannot be told, as before the monitoring agent is there, is a sync all the same."""
    try:
        metrics.write(context.config, context.state)
    except OSError as error:
        log.warning("metrics were not written: %s: %s", error.filename, error.strerror)


def _sync(context: Context) -> Answer:
    started = time.monotonic()
    good = False
    context.state.put("refused", None)
    try:
        outcome = sync(context)
        good = outcome.good
    except RefusedError as error:
        context.state.put("refused", str(error))
        write_status(context.config, context.state, int(context.state.get("serial") or 0), None)
        raise
    finally:
        seconds = time.monotonic() - started
        context.state.put("last_run", {"good": good, "ended": time.time(), "seconds": seconds})
        _write_metrics(context)
    return good, outcome.summary


WRITING: dict[str, Callable[[Context], Answer]] = {
    "sync": _sync,
    "dump": _dump,
    "publish": _publish,
    "pull": _sync,
    "check": _check,
}
MODES = {
    "dump": ("origin",),
    "publish": ("origin", "bandersnatch"),
    "pull": ("rsync",),
    "check": ("origin", "bandersnatch", "rsync"),
}


def write(path: Path, config: Config, verb: str, *, progress: bool, allow_shrink: bool, full: bool) -> Answer:
    """Run a verb of the configuration that was read from `path`: whether all is well, and what the summary tells.

    Raises ConfigError where the verb is not for that mode, BusyError where another run is at work, RefusedError where a
    guard refuses.
    """
    if config.mode not in MODES.get(verb, (config.mode,)):
        raise ConfigError(f"{path}: mode: {verb} is not for mode {config.mode}")

    def work(state: State, lock: int) -> Answer:
        told = Progress(1 if progress else 60, lambda now: state.put("progress", now))
        agree(config, state)
        return WRITING[verb](Context(config, state, told, lock, allow_shrink, full))

    with only_one(config.paths.state / "lock") as lock:
        return _with_state(config, lambda state: work(state, lock))


def _with_state(config: Config, work: Callable[[State], Answer]) -> Answer:
    """A corrupt state is set aside, and the work done once more with a new one."""
    try:
        with State(config.database) as state:
            return work(state)
    except (sqlite3.DatabaseError, ExceptionGroup) as error:
        if isinstance(
            error, sqlite3.OperationalError
        ):  # as by a full disk, of which it does not say the path
            raise sqlite3.OperationalError(f"{config.database}: {error}") from error
        if not is_corrupt(error):
            raise
        aside = set_aside(config.database)
        log.error(
            "state: %s is corrupt and set aside as %s; it is made anew from what is served: %s",
            config.database,
            aside,
            error,
        )
    with State(config.database) as state:
        state.put("set_aside_at", time.time())
        return work(state)
