"""The command `mirrorfleet` and its verbs.

Exit codes: 0 the outcome is good; 1 it is not (the last lines say why); 2 the configuration or the
command line is wrong; 3 another run is at work; 4 a guard refused (too little space, too much would
disappear at once).
"""

import argparse
import json
import logging
import signal
import sqlite3
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

from . import __version__
from .common.config import ConfigError, load, load_as
from .common.guards import BusyError, RefusedError
from .common.lasting import again_and_again
from .common.log import set_up
from .common.schema import InvalidDocumentError

log = logging.getLogger("mirrorfleet")

FAILED = 1
CODES: dict[type[Exception], int] = {ConfigError: 2, BusyError: 3, RefusedError: 4}
Answer = tuple[bool, dict[str, Any]]


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
    _lasts(listing)
    listing.add_argument(
        "--force", action="store_true", help="publish even what the guards hold to be a mistake"
    )
    routing = _own_verb(
        verbs, "route", "route.json", "tell nginx to which mirrors it may send clients for files"
    )
    _lasts(routing)
    routing.add_argument(
        "--explain", metavar="FILE", help="only say where this path (/packages/...) comes from"
    )
    routing.add_argument("--address", default="127.0.0.1", help="with --explain: of the client")
    for name in ("asn", "country", "continent", "without", "prefer"):
        routing.add_argument(f"--{name}", default="", help="with --explain: of the client")
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


def _seconds(text: str) -> float:
    if not (seconds := float(text)) > 0:
        raise ValueError
    return seconds


def _lasts(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--every",
        type=_seconds,
        metavar="SECONDS",
        help="go on: once more when so long has passed, and at once when registry, holds or list change",
    )


def _summed_up(verb: str, work: Callable[[], Answer]) -> int:
    """Ends with a summary as the last line."""
    started = time.monotonic()
    good, summary = work()
    seconds = round(time.monotonic() - started, 3)
    print(json.dumps({"verb": verb, "good": good, "seconds": seconds, **summary}), flush=True)
    return 0 if good else FAILED


def _once_or_always(
    options: argparse.Namespace, work: Callable[[], int], depends_on: Callable[[], Iterable[Path]]
) -> int:
    if options.every:
        again_and_again(lambda: _outcome(work), options.every, [options.config, *depends_on()])
    return work()


# Each verb imports what it runs, and a host with little memory has nothing else to load.
# ruff: noqa: PLC0415


def _write(options: argparse.Namespace) -> int:
    from .sync.verbs import write

    config, full = load(options.config), getattr(options, "full", False)
    given = {"progress": options.progress, "allow_shrink": options.allow_shrink, "full": full}
    return _summed_up(options.verb, lambda: write(options.config, config, options.verb, **given))


def _metrics(options: argparse.Namespace) -> int:
    from .served import metrics
    from .served.state import State

    config = load(options.config)
    with State(config.database) as state:
        metrics.write(config, state)
    return 0


def _purge(options: argparse.Namespace) -> int:
    from .sync.cache import purge

    if not options.cache.is_dir():
        raise ConfigError(
            f"{options.cache} is not there: this mirror passes nothing through, so it caches nothing"
        )
    print(json.dumps({"verb": "purge", "good": True, "removed": purge(options.cache, options.what)}))
    return 0


def _list(options: argparse.Namespace) -> int:
    from .site.publish import ListConfig, depends_on, publish_list

    def work() -> int:
        return _summed_up("list", lambda: publish_list(options.config, force=options.force))

    return _once_or_always(options, work, lambda: depends_on(load_as(ListConfig, options.config)))


def _probe(options: argparse.Namespace) -> int:
    if not (options.names or options.records):
        from .monitor.service import probe

        return _summed_up("probe", lambda: probe(options.config, once=options.once))
    if not options.once:
        raise ConfigError(
            "probe: the service measures every mirror of the registry; to look at some is --once"
        )
    from .monitor.look import look

    return _summed_up("probe", lambda: look(options.config, options.names, options.records))


def _audit(options: argparse.Namespace) -> int:
    from .monitor.audit import audit

    return _summed_up("audit", lambda: audit(options.config, options.names, only_due=options.due))


def _route(options: argparse.Namespace) -> int:
    from .route.pools import Client
    from .route.run import RouteConfig, depends_on, explain, write_routes

    def work() -> int:
        return _summed_up("route", lambda: write_routes(options.config))

    if not options.explain:
        return _once_or_always(options, work, lambda: depends_on(load_as(RouteConfig, options.config)))
    client = Client(options.address, options.asn, options.country, options.continent)
    labels = {"without": options.without, "prefer": options.prefer}
    return _summed_up("route", lambda: explain(options.config, options.explain, client, **labels))


VERBS: dict[str, Callable[[argparse.Namespace], int]] = {
    "audit": _audit,
    "list": _list,
    "metrics": _metrics,
    "probe": _probe,
    "purge": _purge,
    "route": _route,
}


def _terminate(*_: object) -> NoReturn:
    raise SystemExit(128 + signal.SIGTERM)


def _outcome(work: Callable[[], int]) -> int:
    """The exit code of what was done, or failed."""
    try:
        return work()
    except (ConfigError, BusyError, RefusedError) as error:
        log.error("%s", error)
        return next(code for kind, code in CODES.items() if isinstance(error, kind))
    except InvalidDocumentError as error:
        log.error("refused to publish or to read: %s", error)
    except sqlite3.Error as error:
        log.error("state: %s", error)
    except OSError as error:
        log.error("%s: %s", error.filename or "system", error.strerror or error)
    return FAILED


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    set_up(verbose=options.verbose)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        return _outcome(lambda: VERBS.get(options.verb, _write)(options))
    except KeyboardInterrupt:
        log.error("interrupted")
        return FAILED


if __name__ == "__main__":
    sys.exit(main())
