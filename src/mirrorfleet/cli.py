"""The command `mirrorfleet` and its verbs.

Exit codes: 0 the outcome is good; 1 it is not (the last lines say why); 2 the configuration or the
command line is wrong; 3 another run is at work; 4 a guard refused (too little space, too much would
disappear).
"""

import argparse
import asyncio
import json
import logging
import signal
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

from . import __version__
from .config import Config, ConfigError, load
from .dump import dump
from .guards import BusyError, RefusedError, only_one
from .log import set_up
from .publish import publish
from .state import State

log = logging.getLogger("mirrorfleet")

FAILED, BAD_CONFIGURATION, BUSY, REFUSED = 1, 2, 3, 4


def _dump(config: Config, state: State, _: argparse.Namespace) -> tuple[bool, dict[str, Any]]:
    outcome = asyncio.run(dump(config, state))
    return not outcome.failed, {
        "changed": len(outcome.changed),
        "removed": len(outcome.removed),
        "failed": outcome.failed,
        "bytes": outcome.bytes,
    }


def _publish(config: Config, state: State, options: argparse.Namespace) -> tuple[bool, dict[str, Any]]:
    result = publish(config, state, allow_shrink=options.allow_shrink)
    return not result.incomplete, {
        "changed": result.changed,
        "removed": result.removed,
        "deleted": result.deleted,
        "incomplete": result.incomplete,
        "serial": state.get("serial"),
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
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, help_text: str) -> argparse.ArgumentParser:
        return verbs.add_parser(
            name, help=help_text, description=help_text, parents=[common], allow_abbrev=False
        )

    verb("dump", "origin: fetch the selected projects of index_url into the fetched tree")
    publishing = verb("publish", "turn what is complete in the fetched tree into the served tree")
    publishing.add_argument(
        "--allow-shrink", action="store_true", help="accept that more than maximum_shrink_share disappears"
    )
    return parser


VERBS = {"dump": _dump, "publish": _publish}


def _terminate(*_: object) -> NoReturn:
    raise SystemExit(128 + signal.SIGTERM)


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    set_up(verbose=options.verbose)
    signal.signal(signal.SIGTERM, _terminate)
    started = time.monotonic()
    try:
        config = load(options.config)
        with only_one(config.paths.state / "lock"), State(config.database) as state:
            good, summary = VERBS[options.verb](config, state, options)
    except ConfigError as error:
        log.error("%s", error)
        return BAD_CONFIGURATION
    except BusyError as error:
        log.error("%s", error)
        return BUSY
    except RefusedError as error:
        log.error("refused: %s", error)
        return REFUSED
    except OSError as error:
        log.error("%s: %s", error.filename or "system", error.strerror or error)
        return FAILED
    except KeyboardInterrupt:
        log.error("interrupted")
        return 130
    summary = {"verb": options.verb, "good": good, "seconds": round(time.monotonic() - started, 3), **summary}
    print(json.dumps(summary), flush=True)
    return 0 if good else FAILED


if __name__ == "__main__":
    sys.exit(main())
