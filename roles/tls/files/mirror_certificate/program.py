"""Gets and renews this host's certificate from an ACME server (RFC 8555, by HTTP-01), and brings it into use.

    mirror-certificate renew         what is due, unless a failed attempt has to wait; the timer runs this
    mirror-certificate now           what is due, at once
    mirror-certificate force         a new certificate, due or not
    mirror-certificate status        what the certificate in use lacks, as JSON
    mirror-certificate revoke        the authority is told that the certificate in use is not to be believed any more
    mirror-certificate placeholder   a certificate that nobody trusts, so that the web server can start at all
    mirror-certificate provided      with tls_mode provided: the operator's pair, if it changed and fits

The order itself is uacme's, which runs as a user of its own and sees a signing request, never the host's key. The
account is made here, because uacme takes the key of an external account binding only where every user of the host can
read it: on its command line.

Every certificate has a key of its own and a folder with both; the link `current` leads to the pair in use. A pair comes
into use by one rename of that link, and stays only if the web server's test of its configuration succeeds.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from cryptography import x509

from . import account, provided, store
from .common import DAY, HOUR, STATE, Config, FailedError, State, moment, say, write
from .order import OTHERWISE, client_asks_server, order, revoke
from .use import bring_into_use

CONFIG = Path("/etc/mirrorfleet/tls/acme.json")
# How often the ACME server is asked whether it wants a certificate replaced (RFC 9773: not without need).
ASK_EVERY = 12 * HOUR


def install(config: Config) -> None:
    """The pair in PAIRS/new becomes the one in use, or all stays as it was and PAIRS/new is tried again next time."""
    new = store.Pair(store.PAIRS / "new")
    name = f"{new.certificate.serial_number:x}"
    folder = store.PAIRS / name
    folder.mkdir(mode=0o755, exist_ok=True)
    for file in new.folder.iterdir():
        if not (folder / file.name).exists():
            (folder / file.name).hardlink_to(file)
    bring_into_use(store.PAIRS, name, config)
    shutil.rmtree(new.folder)
    say(f"A certificate for {', '.join(new.names)} until {moment(new.ends)} is in use.")


def waiting(config: Config, now: float) -> bool:
    """Whether a pair is there that only has to be brought into use."""
    return store.lacks(store.pair_at(store.PAIRS / "new"), config, now, asks_server=True) is None


# --- a run ---


def delay(failures: int, left: float) -> float:
    """Seconds to wait after so many failures in a row: doubled each time, for at most a tenth of the life that is left.

    Never less than an hour, which keeps below what authorities allow of failures (five an hour), never more than a day.
    """
    return max(HOUR, min(HOUR * 2.0 ** min(failures - 1, 10), left / 10, DAY))


def attempt(config: Config, state: State, reason: str | None) -> None:
    for leftover in Path(config["challenges"]).iterdir():
        if not leftover.is_dir():
            leftover.unlink()
    if waiting(config, time.time()):
        install(config)
    else:
        say(
            f"A certificate is asked for: {reason}."
            if reason
            else "The ACME server is asked whether a renewal is due."
        )
        if not order(config, state, reason):
            say("No renewal is due.")
            return
        if wrong := store.lacks(store.pair_at(store.PAIRS / "new"), config, time.time(), asks_server=True):
            raise FailedError(f"What the ACME server gave is of no use: {wrong}.", OTHERWISE)
        install(config)
    state["last_issue"] = time.time()


def run(config: Config, mode: str) -> int:
    state = read_state()
    now, pair = time.time(), store.pair_at(store.PAIRS / "current")
    mark = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
    reason = store.lacks(pair, config, now, client_asks_server())
    if mode == "force":
        reason = "a new one is wanted"
    # A time further away than any delay was noted by a clock that was wrong.
    wait = state.get("next", 0) - now if state.get("next", 0) - now < 9 * DAY else 0
    due = not wait > 0 or state.get("config") != mark or (reason is not None and not state.get("failures"))
    if mode == "renew" and not due:
        write_metrics(config, state, pair)
        return 0
    if mode == "now" and reason is None and not state.get("failures") and not waiting(config, now):
        say("The certificate is as it has to be.")
        write_metrics(config, state, pair)
        return 0
    state |= {"config": mark, "last_attempt": now}
    wrong = None
    try:
        attempt(config, state, reason)
        state |= {"failures": 0, "error": "", "last_success": time.time(), "next": time.time() + ASK_EVERY}
    except FailedError as error:
        wrong = error
    except (OSError, ValueError, subprocess.SubprocessError, x509.ExtensionNotFound) as error:
        wrong = FailedError(f"The certificate could not be renewed: {error!r}.", "")
    pair = store.pair_at(store.PAIRS / "current")
    if wrong:
        failures = state.get("failures", 0) + 1
        pause = delay(failures, pair.ends - now if pair else 0)
        state |= {"failures": failures, "error": str(wrong), "last_failure": time.time()}
        state["next"] = max(time.time() + pause * random.uniform(1, 1.1), wrong.not_before)  # noqa: S311 (a spread)
    write(STATE / "state.json", json.dumps(state, indent=1).encode(), 0o600)
    write_metrics(config, state, pair)
    if wrong:
        kept = f"The certificate in use stays, until {moment(pair.ends)}. " if pair and pair.directory else ""
        say(f"{wrong} {kept}It is tried again by itself after {moment(state['next'])}.")
    return 1 if wrong else 0


def read_state() -> State:
    try:
        found = json.loads((STATE / "state.json").read_text())
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError):
        return {}


METRICS = {
    "last_attempt": ("last_attempt_timestamp_seconds", "When the ACME server was last asked."),
    "last_success": ("last_success_timestamp_seconds", "When that last ended well, renewed or not yet due."),
    "last_issue": ("last_issue_timestamp_seconds", "When a certificate last came into use."),
    "last_failure": ("last_failure_timestamp_seconds", "When it last failed."),
    "failures": ("failures", "Failures since it last ended well."),
    "next": (
        "next_attempt_timestamp_seconds",
        "When the ACME server is asked next, if nothing is due before.",
    ),
    "ends": ("certificate_expiry_timestamp_seconds", "When the certificate from the ACME server ends."),
}


def write_metrics(config: Config, state: State, pair: store.Pair | None) -> None:
    folder = Path(config["metrics"]).parent
    if not folder.is_dir():  # made by the monitoring agent's role, which comes later
        return
    values = state | ({"ends": pair.ends} if pair else {})
    lines = [
        f"# HELP mirrorfleet_acme_{name} {text}\n# TYPE mirrorfleet_acme_{name} gauge\n"
        f"mirrorfleet_acme_{name} {values[key]:.0f}\n"
        for key, (name, text) in METRICS.items()
        if isinstance(values.get(key), int | float)
    ]
    write(Path(config["metrics"]), "".join(lines).encode(), 0o644)


def show_status(config: Config) -> None:
    pair, now = store.pair_at(store.PAIRS / "current"), time.time()
    reason = store.lacks(pair, config, now, client_asks_server())
    if reason is None and waiting(config, now):
        reason = "a newer one waits to be brought into use"
    usable = pair is not None and bool(pair.directory) and pair.ends > now
    say(json.dumps({"usable": usable, "lacks": reason, "ends": pair.ends if pair else None}))


@contextlib.contextmanager
def only_one() -> Iterator[None]:
    with (STATE / "lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def make_placeholder(config: Config) -> int:
    if store.in_use(store.PAIRS) is None:
        store.make_placeholder(config)
    return 0


def revoke_in_use(config: Config) -> int:
    try:
        revoke(config)
    except FailedError as error:
        say(str(error))
        return 1
    return 0


ORDERS = {"renew", "now", "force"}
OTHERS: dict[str, Callable[[Config], int]] = {
    "placeholder": make_placeholder,
    "revoke": revoke_in_use,
    "provided": provided.take,
}


def main(arguments: list[str]) -> int:
    if arguments == ["account"]:
        return account.main()
    if len(arguments) != 1 or arguments[0] not in {*ORDERS, *OTHERS, "status"}:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        path, mode = (provided.CONFIG, "provided") if arguments == ["provided"] else (CONFIG, "acme")
        config: Config = json.loads(path.read_text())
    except FileNotFoundError:
        print(f"{path} is not there: this host's tls_mode is not {mode}.", file=sys.stderr)
        return 2
    if arguments == ["status"]:
        show_status(config)
        return 0
    with only_one():
        return run(config, arguments[0]) if arguments[0] in ORDERS else OTHERS[arguments[0]](config)
