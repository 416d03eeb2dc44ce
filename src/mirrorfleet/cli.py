"""The command `mirrorfleet` and its verbs.

Exit codes: 0 the outcome is good; 1 it is not (the last lines say why); 2 the configuration or the
command line is wrong; 3 another run is at work; 4 a guard refused (too little space, too much would
disappear at once).
"""

import argparse
import asyncio
import json
import logging
import signal
import sqlite3
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from . import __version__
from .common.config import Config, ConfigError, load
from .common.database import is_corrupt, set_aside
from .common.guards import BusyError, RefusedError, only_one
from .common.log import set_up
from .common.progress import Progress
from .common.schema import InvalidDocumentError
from .served import metrics
from .served.agreement import agree
from .served.state import State
from .served.status import write_status
from .sync.cache import BadTargetError, purge
from .sync.check import check
from .sync.context import Context
from .sync.publish import publish
from .sync.run import sync

log = logging.getLogger("mirrorfleet")

FAILED = 1
CODES: dict[type[Exception], int] = {ConfigError: 2, BadTargetError: 2, BusyError: 3, RefusedError: 4}
Answer = tuple[bool, dict[str, Any]]


def _dump(context: Context) -> Answer:
    from .fetch.dump import dump  # noqa: PLC0415 - no mirror runs it

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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mirrorfleet", description="Programs of a PyPI mirror fleet's hosts.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"mirrorfleet {__version__}")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "-c", "--config", type=Path, default=Path("/etc/mirrorfleet/mirror.json"), help="default: %(default)s"
    )
    common.add_argument("-v", "--verbose", action="store_true", help="log more")
    writing = argparse.ArgumentParser(add_help=False, parents=[common])
    writing.add_argument("--progress", action="store_true", help="tell every second how far the run is")
    writing.add_argument(
        "--allow-shrink", action="store_true", help="accept that more than maximum_shrink_share disappears"
    )
    pulling = argparse.ArgumentParser(add_help=False, parents=[writing])
    pulling.add_argument("--full", action="store_true", help="compare everything, whatever the journal says")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, help_text, options in (
        ("sync", "one run of this mirror or origin: fetch, publish, judge the outcome", writing),
        ("dump", "origin: fetch the selected projects of index_url into the fetched tree", writing),
        ("publish", "turn what is complete in the fetched tree into the served tree", writing),
        ("pull", "mode rsync: what sync does there, and a full pass on request", pulling),
        ("check", "read the whole tree against its hashes, repair it, remove what nobody names", writing),
        ("metrics", "write the metrics file for node_exporter's textfile collector", common),
    ):
        verbs.add_parser(name, help=help_text, description=help_text, parents=[options], allow_abbrev=False)
    watching = _own_verb(
        verbs, "probe", "monitor.json", "measure every mirror again and again, as clients see it"
    )
    watching.add_argument("--once", action="store_true", help="one round of all mirrors, then end")
    watching.add_argument(
        "names",
        nargs="*",
        metavar="MIRROR",
        help="with --once: only look at these, beside the service, and keep nothing of it",
    )
    watching.add_argument(
        "--records",
        type=Path,
        metavar="FILE",
        help="of mirrors that the registry lacks or has otherwise; - is stdin",
    )
    auditing = _own_verb(
        verbs, "audit", "monitor.json", "compare mirrors with the standards and the trusted index"
    )
    auditing.add_argument("--due", action="store_true", help="only those whose audit is due")
    auditing.add_argument("names", nargs="*", metavar="MIRROR", help="default: all")
    listing = _own_verb(
        verbs, "list", "list.json", "publish the list of mirrors from the registry and what was measured"
    )
    listing.add_argument(
        "--force", action="store_true", help="publish even what the guards hold to be a mistake"
    )
    help_text = "forget what the pull-through cache keeps of files or projects"
    purging = verbs.add_parser("purge", help=help_text, description=help_text, allow_abbrev=False)
    purging.add_argument("what", nargs="+", help="URL or path of a file (/packages/...), or a project's name")
    purging.add_argument(
        "--cache", type=Path, default=Path("/var/cache/nginx/mirror"), help="default: %(default)s"
    )
    purging.add_argument("-v", "--verbose", action="store_true", help="log more")
    return parser


def _own_verb(verbs: Any, name: str, config: str, text: str) -> argparse.ArgumentParser:
    """A verb of a redirector or monitor, which has a configuration file of its own."""
    verb: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text, allow_abbrev=False)
    verb.add_argument(
        "-c", "--config", type=Path, default=Path("/etc/mirrorfleet") / config, help="default: %(default)s"
    )
    verb.add_argument("-v", "--verbose", action="store_true", help="log more")
    return verb


def _write(config: Config, options: argparse.Namespace) -> int:
    """A verb that writes the trees: one at a time, with a summary as its last line."""
    started = time.monotonic()
    if config.mode not in MODES.get(options.verb, (config.mode,)):
        raise ConfigError(f"{options.config}: mode: {options.verb} is not for mode {config.mode}")

    def work(state: State, lock: int) -> Answer:
        progress = Progress(1 if options.progress else 60, lambda now: state.put("progress", now))
        full = getattr(options, "full", False)
        agree(config, state)
        return WRITING[options.verb](Context(config, state, progress, lock, options.allow_shrink, full))

    with only_one(config.paths.state / "lock") as lock:
        good, summary = _with_state(config, lambda state: work(state, lock))
    seconds = round(time.monotonic() - started, 3)
    print(json.dumps({"verb": options.verb, "good": good, "seconds": seconds, **summary}), flush=True)
    return 0 if good else FAILED


def _with_state(config: Config, work: Callable[[State], Answer]) -> Answer:
    """A corrupt state is set aside, and the work done once more with a new one."""
    try:
        with State(config.database) as state:
            return work(state)
    except (sqlite3.DatabaseError, ExceptionGroup) as error:
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


def _purge(directory: Path, what: list[str]) -> int:
    if not directory.is_dir():
        raise ConfigError(
            f"{directory} is not there: this mirror passes nothing through, so it caches nothing"
        )
    print(json.dumps({"verb": "purge", "good": True, "removed": purge(directory, what)}))
    return 0


def _metrics(config: Config) -> int:
    with State(config.database) as state:
        metrics.write(config, state)
    return 0


def _summed_up(verb: str, work: Callable[[], Answer]) -> int:
    """Ends with a summary as the last line."""
    started = time.monotonic()
    good, summary = work()
    seconds = round(time.monotonic() - started, 3)
    print(json.dumps({"verb": verb, "good": good, "seconds": seconds, **summary}), flush=True)
    return 0 if good else FAILED


# What a monitor or a redirector runs is imported there only: mirrors never call it, and a pass with nothing new is so
# short that a few imports count.


def _list(options: argparse.Namespace) -> int:
    from .site.publish import publish_list  # noqa: PLC0415 - no mirror runs it

    return _summed_up("list", lambda: publish_list(options.config, force=options.force))


def _probe(options: argparse.Namespace) -> int:
    if not (options.names or options.records):
        from .monitor.service import probe  # noqa: PLC0415 - no mirror runs it

        return _summed_up("probe", lambda: probe(options.config, once=options.once))
    if not options.once:
        raise ConfigError(
            "probe: the service measures every mirror of the registry; to look at some is --once"
        )
    from .monitor.look import look  # noqa: PLC0415 - nor does the service need it

    return _summed_up("probe", lambda: look(options.config, options.names, options.records))


def _audit(options: argparse.Namespace) -> int:
    from .monitor.audit import audit  # noqa: PLC0415 - no mirror runs it

    return _summed_up("audit", lambda: audit(options.config, options.names, only_due=options.due))


OWN_VERBS: dict[str, Callable[[argparse.Namespace], int]] = {
    "audit": _audit,
    "list": _list,
    "probe": _probe,
}


def _terminate(*_: object) -> NoReturn:
    raise SystemExit(128 + signal.SIGTERM)


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    set_up(verbose=options.verbose)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        if options.verb in OWN_VERBS:
            return OWN_VERBS[options.verb](options)
        if options.verb == "purge":
            return _purge(options.cache, options.what)
        config = load(options.config)
        return _metrics(config) if options.verb == "metrics" else _write(config, options)
    except (ConfigError, BadTargetError, BusyError, RefusedError) as error:
        log.error("%s", error)
        return CODES[type(error)]
    except InvalidDocumentError as error:
        log.error("refused to publish or to read: %s", error)
    except sqlite3.Error as error:
        log.error("state: %s", error)
    except OSError as error:
        log.error("%s: %s", error.filename or "system", error.strerror or error)
    except KeyboardInterrupt:
        log.error("interrupted")
    return FAILED


if __name__ == "__main__":
    sys.exit(main())
