"""An order is uacme's: what it is given, what it says, and what that means for a person."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import ExtendedKeyUsageOID

from . import store
from .common import DAY, STATE, Config, FailedError, State, one_line, run, say, write

CLIENT = STATE / "client"
USER = "mirror-acme"
UACME = "/usr/bin/uacme"
HOOK = "/usr/share/uacme/uacme.sh"
ORDER_SECONDS = 800  # of one word with the server; the unit ends by itself after 900
EXPIRED, NOT_YET_VALID = 10, 9  # OpenSSL's numbers (X509_V_ERR_CERT_...)


def as_client(command: list[str], told: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a command as the client's user; what it says comes back in one stream."""
    return subprocess.run(
        command,
        input=told,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        user=USER,
        group=USER,
        extra_groups=[],
        cwd=CLIENT,
        umask=0o022,
        timeout=ORDER_SECONDS,
        env=os.environ | {"HOME": str(CLIENT), "LC_ALL": "C.UTF-8"} | environment,
    )


NEXT_STEPS = {
    "externalAccountRequired": "Set tls_acme_eab_key_id and tls_acme_eab_hmac as the authority gave them.",
    "external account binding": "Compare tls_acme_eab_key_id and tls_acme_eab_hmac with what the authority gave.",
    "references a key that is not known": "Compare tls_acme_eab_key_id with what the authority gave.",
    "error:rateLimited": "The authority's limit is reached; its documentation says which.",
    "no such host": "Give the name an address (A, AAAA) in DNS, of this host.",
    "error:dns": "Give the name an address (A, AAAA) in DNS, of this host.",
    "error:caa": "The name's CAA record forbids this authority; change it, or tls_acme_directory.",
    "error:rejectedIdentifier": "The authority does not certify this name; use another name or authority.",
    "error:connection": "Each address that DNS has for the name has to lead to this host, and port 80 has to be open.",
    "error:unauthorized": "The name leads to another server than this host's; correct its address in DNS.",
    "error:incorrectResponse": "The name leads to another server than this host's; correct its address in DNS.",
    f"(OpenSSL {EXPIRED})": "See whether this host's clock is right (timedatectl).",
    f"(OpenSSL {NOT_YET_VALID})": "See whether this host's clock is right (timedatectl).",
    "its certificate is refused": "The host has to trust the authority that certifies the ACME server itself.",
    "is no ACME server": "tls_acme_directory has to be the URL of an ACME server's directory.",
    "Name or service not known": "See whether tls_acme_directory is right, and whether this host can resolve names.",
}
OTHERWISE = "See whether the ACME server works and can be reached from this host."


def next_step(said: str) -> str:
    return next((step for word, step in NEXT_STEPS.items() if word in said), OTHERWISE)


def retry_after(said: str, now: float) -> float:
    """When the server wants to be asked again: as large authorities write it, or as HTTP has it."""
    if found := re.search(r"retry after ([0-9]{4}-[0-9]{2}-[0-9]{2})[ T]([0-9]{2}:[0-9]{2}:[0-9]{2})", said):
        told = datetime.datetime.fromisoformat(f"{found[1]}T{found[2]}+00:00").timestamp()
    elif found := re.search(r"retry after ([0-9]{1,7}) s", said):
        told = now + float(found[1])
    else:
        return 0
    return min(told, now + 8 * DAY)


def failed(what: str, said: str) -> FailedError:
    return FailedError(f"{what}: {one_line(said)}.", next_step(said), retry_after(said, time.time()))


def client_folder(config: Config) -> Path:
    """One for each ACME server: accounts and certificates of two do not mix."""
    return CLIENT / hashlib.sha256(config["directory"].encode()).hexdigest()[:16]


def ensure_account(config: Config, state: State, again: bool = False) -> None:
    wanted = {name: config[name] for name in ("directory", "email", "eab_key_id", "eab_hmac")}
    wanted["folder"] = str(client_folder(config))
    mark = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()
    there = (client_folder(config) / "private/key.pem").exists()
    wanted["known"] = state.get("account") == mark and there and not again
    run = as_client([sys.executable, os.path.abspath(sys.argv[0]), "account"], json.dumps(wanted))
    if run.returncode:
        raise failed(f"No account at {config['directory']}", run.stdout)
    state["account"] = mark


def client_asks_server() -> bool:
    """Whether this uacme knows renewal information (ARI, RFC 9773): 1.7.6 does, 1.7.4 does not."""
    return "--no-ari" in run(UACME, "--help").stderr


STEPS = "version|loading|fetching|checking|retrieving|account location|creating|order location|running|starting|polling"


def client_errors(said: str) -> str:
    """What uacme says, without the steps that went well."""
    return re.sub(
        rf"^uacme: (?:(?:{STEPS})\b.*|challenge \S+ declined|.* does not exist|acme_post: server rejected nonce.*)\n?",
        "",
        said,
        flags=re.MULTILINE,
    )


def ask_client(config: Config, only_if_due: bool) -> subprocess.CompletedProcess[str]:
    """uacme's run for a new pair in PAIRS/new: 0 when it is there, 1 when it is not due, 2 for a failure."""
    new = store.fresh(store.PAIRS / "new")
    key = store.make_key(config["key_type"])
    write(new / "privkey.pem", store.key_pem(key), 0o600)
    write(new / "directory", config["directory"].encode(), 0o644)
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(store.alternative_names(config["names"]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    present = store.pair_at(store.PAIRS / "current")
    days = max(1, int((present.ends - present.begins) / 3 / DAY)) if present else 30
    with tempfile.TemporaryDirectory(dir=STATE) as folder:
        # The client's own while it works; what it leaves is read by root only after its end.
        asked, got = Path(folder) / "request.pem", Path(folder) / "request-cert.pem"
        write(asked, request.public_bytes(serialization.Encoding.PEM), 0o644)
        if only_if_due and present:
            write(got, present.chain.read_bytes(), 0o644)
            shutil.chown(
                got, USER, USER
            )  # it keeps a copy by a link, which it may make to a file of its own only
        shutil.chown(folder, USER, USER)
        options = ["-v", "-n", "-y", "-a", config["directory"], "-c", str(client_folder(config)), "-h", HOOK]
        run = as_client(
            [UACME, *options, "-d", str(days), "issue", str(asked)], UACME_CHALLENGE_PATH=config["challenges"]
        )
        if run.returncode == 0:
            # Not through a link that the client could have put there.
            with os.fdopen(os.open(got, os.O_RDONLY | os.O_NOFOLLOW), "rb") as stream:
                write(new / "fullchain.pem", stream.read(1_000_000), 0o644)
        else:
            shutil.rmtree(new)
    return run


def window_has_begun(said: str, now: float) -> bool:
    """By the renewal information (RFC 9773) that uacme shows; uacme 1.7.6 itself stumbles over fractions of seconds."""
    found = re.search(r"renewal window: start=(\S+)", said)
    try:
        return found is not None and datetime.datetime.fromisoformat(found[1]).timestamp() <= now
    except ValueError:
        return False


def order(config: Config, state: State, reason: str | None) -> bool:
    """A new pair in PAIRS/new. Without a reason the server is asked whether it has one; False when it has none."""
    ensure_account(config, state)
    run = ask_client(config, only_if_due=reason is None)
    if "Consider trying 'new'" in run.stdout:
        say("The ACME server has forgotten the account; it is made again.")
        ensure_account(config, state, again=True)
        run = ask_client(config, only_if_due=reason is None)
    if run.returncode == 1 and window_has_begun(run.stdout, time.time()):
        say("The ACME server wants the certificate replaced.")
        run = ask_client(config, only_if_due=False)
    if run.returncode not in {0, 1}:
        raise failed(f"No certificate from {config['directory']}", client_errors(run.stdout))
    return run.returncode == 0


def revoke(config: Config) -> None:
    """RFC 8555, 7.6, signed by the account's key: the certificate in use is no longer to be believed."""
    present = store.pair_at(store.PAIRS / "current")
    if present is None or not present.directory:
        return
    # By the account that ordered it, wherever the next one is to come from.
    account = client_folder(config | {"directory": present.directory})
    with tempfile.TemporaryDirectory(dir=STATE) as folder:
        shutil.chown(folder, USER, USER)
        leaf = Path(folder) / "certificate.pem"
        write(leaf, present.certificate.public_bytes(serialization.Encoding.PEM), 0o644)
        options = ["-v", "-n", "-a", present.directory, "-c", str(account)]
        run = as_client([UACME, *options, "revoke", str(leaf)])
    if run.returncode and "alreadyRevoked" not in run.stdout:
        raise failed("The certificate was not revoked", client_errors(run.stdout))
    say(f"The certificate for {', '.join(present.names)} is revoked.")
