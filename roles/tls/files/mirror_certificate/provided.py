"""The pair that the operator keeps on the host: copied into use when it is new and fits, else the former serves on."""

from __future__ import annotations

import shutil
import stat
import time
from pathlib import Path

from cryptography import x509

from . import store
from .common import Config, FailedError, moment, say, write
from .use import bring_into_use

PAIRS = Path("/etc/mirrorfleet/tls/provided")
CONFIG = Path("/etc/mirrorfleet/tls/provided.json")
OWNER = 0  # root
NEXT = "Put a pair that fits there; the certificate in use is untouched."


def uncovered(names: list[str], covered: list[str]) -> list[str]:
    """A wildcard stands for the first label (RFC 9525, 6.3)."""
    return [name for name in names if not {name, "*." + name.partition(".")[2]} & set(covered)]


def read(path: Path, *, secret: bool = False) -> bytes:
    try:
        with path.open("rb") as stream:
            about, content = path.stat(), stream.read(1 << 20)
    except OSError as error:
        raise FailedError(f"{path} cannot be read: {error.strerror}.", NEXT) from error
    if secret and (about.st_uid != OWNER or about.st_mode & 0o037):
        raise FailedError(
            f"The key {path} is of user {about.st_uid} with mode {stat.S_IMODE(about.st_mode):04o}; it has to be "
            "root's, with 0600, or 0640 at most.",
            f"On this host: chown root {path} && chmod 0600 {path}.",
        )
    return content


def staged(config: Config) -> store.Pair:
    """The operator's pair in a folder of its own, when it is one that can be served."""
    certificate, key = Path(config["certificate"]), Path(config["key"])
    folder = store.fresh(PAIRS / "new")
    write(folder / "privkey.pem", read(key, secret=True), 0o600)
    write(folder / "fullchain.pem", read(certificate), 0o644)
    try:
        pair = store.Pair(folder)
    except (ValueError, TypeError, x509.ExtensionNotFound) as error:
        raise FailedError(f"{certificate} and {key} cannot be used: {error}.", NEXT) from error
    if missing := uncovered(config["names"], pair.names):
        raise FailedError(
            f"{certificate} covers {', '.join(pair.names)}, and not {', '.join(missing)}.", NEXT
        )
    if pair.ends <= time.time():
        raise FailedError(f"{certificate} ended at {moment(pair.ends)}.", NEXT)
    return pair


def take(config: Config) -> int:
    """What path unit and timer run, and the role. A pair that does not fit is told, and serves nobody."""
    wrong = ""
    try:
        pair = staged(config)
        name = pair.fingerprint
        loaded = PAIRS / name / "loaded"
        if store.in_use(PAIRS) != name or not loaded.exists():
            if not (PAIRS / name).exists():
                pair.folder.rename(PAIRS / name)
            bring_into_use(PAIRS, name, config)
            loaded.touch()
            say(f"The certificate for {', '.join(pair.names)} until {moment(pair.ends)} is in use.")
    except FailedError as error:
        wrong = str(error)
        say(wrong)
    finally:
        shutil.rmtree(PAIRS / "new", ignore_errors=True)
    write_metrics(config, refused=bool(wrong))
    return 1 if wrong else 0


def write_metrics(config: Config, *, refused: bool) -> None:
    path, pair = Path(config["metrics"]), store.pair_at(PAIRS / "current")
    if not path.parent.is_dir():  # made by the monitoring agent's role, which comes later
        return
    facts = {
        "refused": ("Whether the operator's certificate and key cannot be used as they are.", int(refused)),
        "checked_timestamp_seconds": ("When they were last looked at.", time.time()),
        "certificate_expiry_timestamp_seconds": ("When the pair in use ends.", pair.ends if pair else None),
    }
    lines = [
        f"# HELP mirrorfleet_provided_{name} {text}\n# TYPE mirrorfleet_provided_{name} gauge\n"
        f"mirrorfleet_provided_{name} {value:.0f}\n"
        for name, (text, value) in facts.items()
        if value is not None
    ]
    write(path, "".join(lines).encode(), 0o644)
