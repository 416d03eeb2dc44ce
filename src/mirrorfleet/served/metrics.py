"""What a mirror tells node_exporter's textfile collector: one gauge per fact, written by one rename."""

import logging
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from urllib.parse import urlsplit

from .. import __version__
from ..common.config import Config
from ..common.exposition import Family, Sample, gauge, render
from ..common.files import free_bytes, write_atomically
from ..common.guards import BusyError, only_one
from .state import State

log = logging.getLogger(__name__)

_NAMED = 10  # series that name something, so that a mirror never has more of them


def certificate_expiry(url: str, addresses: tuple[str, ...] = ("127.0.0.1", "::1")) -> float | None:
    """When the certificate ends that this host's own web server shows to who asks for a URL, in Unix seconds.

    Not that of the file: a server goes on with what it loaded. Whether anybody trusts it is for others to see.
    """
    parts, problem = urlsplit(url), "no address"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    for address in addresses:
        try:
            with (
                socket.create_connection((address, parts.port or 443), timeout=10) as plain,
                context.wrap_socket(plain, server_hostname=parts.hostname) as connection,
            ):
                shown = connection.getpeercert(binary_form=True) or b""
            command = ["openssl", "x509", "-noout", "-enddate", "-inform", "DER"]
            said = subprocess.run(command, input=shown, capture_output=True, check=True, timeout=30).stdout
            return float(ssl.cert_time_to_seconds(said.decode("ascii").strip().removeprefix("notAfter=")))
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            problem = f"{address}: {error}"
    log.warning("the certificate that is served for %s cannot be seen: %s", parts.hostname, problem)
    return None


def collect(config: Config, state: State) -> Iterator[Family]:
    def one(name: str, help_text: str, value: float | None) -> Family:
        return gauge(f"mirrorfleet_{name}", help_text, value)

    versions = {"version": __version__, "mode": config.mode, "name": config.name}
    versions["bandersnatch"] = state.get("versions", {}).get("bandersnatch", "")
    yield "mirrorfleet_build_info", "Constant 1 with the versions and the mode as labels.", [(versions, 1.0)]
    projects, files, size = state.totals()
    troubles = state.troubles().values()
    late, aside = state.failing_by_reason(config.tries_before_set_aside)
    success = state.get("last_success_at")
    yield one("serial", "Serial of upstream that this mirror is known to have reached.", state.get("serial"))
    yield one("upstream_serial", "Newest serial seen at upstream.", state.get("upstream_serial"))
    lag = None if success is None else max(0.0, time.time() - float(success))
    yield one("lag_seconds", "Seconds since this mirror last had everything upstream had.", lag)
    yield one("projects", "Projects served.", projects)
    yield one("files", "Package files served.", files)
    yield one("bytes", "Bytes of package files served.", size)
    yield one("last_success_timestamp_seconds", "Start of the last run that reached upstream.", success)
    run = state.get("last_run", {})
    yield one("last_run_timestamp_seconds", "End of the last run.", run.get("ended"))
    yield one("last_run_duration_seconds", "How long the last run took.", run.get("seconds"))
    good = run.get("good")
    yield one("last_run_success", "Whether the last run's outcome was good.", None if good is None else good)
    for name, told, counts in (
        ("late_projects", "Projects that failed and are tried again in the next run, by reason.", late),
        ("stuck_projects", "Projects set aside after repeated failure, by reason.", aside),
        (
            "left_out_files",
            "Files that upstream lists and that are not served, by reason.",
            state.left_out_by_reason(),
        ),
    ):
        samples: list[Sample] = [({"reason": reason}, float(count)) for reason, count in counts.items()]
        yield f"mirrorfleet_{name}", told, samples
    yield (
        "mirrorfleet_left_out_timestamp_seconds",
        f"Since when a file is left out; of the {_NAMED} that are longest.",
        [
            ({"project": one.project, "file": one.filename, "reason": one.reason}, one.since)
            for one in state.left_out(_NAMED)
        ],
    )
    longest = sorted(troubles, key=lambda trouble: trouble.since)[:_NAMED]
    yield (
        "mirrorfleet_failing_timestamp_seconds",
        f"Since when a project fails; of the {_NAMED} that are longest.",
        [({"project": one.name, "reason": one.kind}, one.since) for one in longest],
    )
    yield one(
        "compared_by_page",
        "Projects whose pages are compared in each run because upstream's serials do not tell what changed.",
        state.get("compared_by_page"),
    )
    yield one(
        "broken_files", "Files found lost or rotten and not yet repaired.", len(state.get("broken_files", []))
    )
    yield one(
        "state_set_aside_timestamp_seconds",
        "When the state was last found corrupt, set aside and made anew.",
        state.get("set_aside_at"),
    )
    progress = state.get("progress")
    if progress:
        yield one("run_projects", "Projects that the running or last run has to do.", progress["total"])
        yield one("run_projects_done", "Projects that the running or last run has done.", progress["done"])
        yield one("run_bytes", "Bytes that the running or last run has fetched.", progress["bytes"])
    if config.paths.certificate:
        expiry = certificate_expiry(config.url)
        yield one(
            "certificate_expiry_timestamp_seconds", "When the TLS certificate ends that is served.", expiry
        )
    free: list[Sample] = []
    for path in (config.paths.fetched, config.paths.served):
        if path.exists():
            free.append(({"path": str(path)}, float(free_bytes(path))))
    yield "mirrorfleet_free_bytes", "Bytes free for the mirror's user on the file system of a tree.", free


def write(config: Config, state: State) -> None:
    """Written by the timer and at the end of a run; while one of them writes, the other need not."""
    if not config.paths.metrics:
        return
    with suppress(BusyError), only_one(config.paths.state / "metrics.lock"):
        write_atomically(config.paths.metrics, render(list(collect(config, state))), durable=False)
