#!/usr/bin/python3
"""Gets and renews this host's certificate from an ACME server (RFC 8555, by HTTP-01), and brings it into use.

    mirror-certificate renew         what is due, unless a failed attempt has to wait; the timer runs this
    mirror-certificate now           what is due, at once
    mirror-certificate force         a new certificate, due or not
    mirror-certificate status        what the certificate in use lacks, as JSON
    mirror-certificate placeholder   a certificate that nobody trusts, so that the web server can start at all

The order itself is uacme's, which runs as a user of its own and sees a signing request, never the host's key. The
account is made here, because uacme takes the key of an external account binding only where every user of the host can
read it: on its command line.

Every certificate has a key of its own and a folder with both; the link `current` leads to the pair in use. A pair comes
into use by one rename of that link, and stays only if the web server's test of its configuration succeeds.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import fcntl
import hashlib
import hmac
import json
import os
import random
import re
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import ExtendedKeyUsageOID

CONFIG = Path("/etc/mirrorfleet/tls/acme.json")
PAIRS = Path("/etc/mirrorfleet/tls/acme")
STATE = Path("/var/lib/mirror-certificate")
CLIENT = STATE / "client"
USER = "mirror-acme"
UACME = "/usr/bin/uacme"
HOOK = "/usr/share/uacme/uacme.sh"
AGENT = {"User-Agent": "mirrorfleet"}
EXPIRED, NOT_YET_VALID = 10, 9  # OpenSSL's numbers (X509_V_ERR_CERT_...)

HOUR = 3600
DAY = 24 * HOUR
# How often the ACME server is asked whether it wants a certificate replaced (RFC 9773: not without need).
ASK_EVERY = 12 * HOUR

Config = dict[str, Any]
State = dict[str, Any]


class FailedError(Exception):
    """Why there is no new certificate, and what to do."""

    def __init__(self, what: str, next_step: str, not_before: float = 0) -> None:
        super().__init__(f"{what} {next_step}")
        self.not_before = not_before


def say(text: str) -> None:
    print(text, flush=True)


def moment(timestamp: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(timestamp))


def write(path: Path, content: bytes, mode: int) -> None:
    """By one rename; at no moment more readable than it is meant to be."""
    beside = path.with_name(path.name + ".new")
    beside.unlink(missing_ok=True)
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as stream:
        os.fchmod(stream.fileno(), mode)
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    beside.rename(path)


# --- pairs of key and certificate ---


class Pair:
    """A folder with key and chain, as far as they can be read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.chain = folder / "fullchain.pem"
        self.certificate = x509.load_pem_x509_certificate(self.chain.read_bytes())
        key = serialization.load_pem_private_key((folder / "privkey.pem").read_bytes(), None)
        if public(key.public_key()) != public(self.certificate.public_key()):
            raise ValueError("key and certificate do not belong together")
        self.key_type = "rsa" if isinstance(key, rsa.RSAPrivateKey) else "ecdsa"
        self.begins = self._time("not_valid_before")
        self.ends = self._time("not_valid_after")
        names = self.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        self.names = sorted(names.get_values_for_type(x509.DNSName))
        self.directory = (folder / "directory").read_text().strip()

    def _time(self, name: str) -> float:
        """The properties with _utc came after Debian 12's cryptography, and the others are going to go."""
        if hasattr(self.certificate, f"{name}_utc"):
            found: float = getattr(self.certificate, f"{name}_utc").timestamp()
        else:
            found = getattr(self.certificate, name).replace(tzinfo=datetime.UTC).timestamp()
        return found


def public(key: Any) -> bytes:
    """Public keys as such cannot be compared in Debian 12's cryptography."""
    der: bytes = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return der


def pair_at(folder: Path) -> Pair | None:
    try:
        return Pair(folder)
    except (OSError, ValueError, x509.ExtensionNotFound):
        return None


def lacks(pair: Pair | None, config: Config, now: float, asks_server: bool) -> str | None:
    """Why a pair has to be replaced, by what can be seen on the host.

    A client that asks the server when to renew (ARI) is let alone for longer, but not to the end.
    """
    if pair is None or not pair.directory:
        return "there is no certificate from the ACME server yet"
    share = 6 if asks_server else 3
    reasons = {
        f"it comes from {pair.directory}": pair.directory != config["directory"],
        f"it is for {', '.join(pair.names)}": pair.names != sorted(config["names"]),
        f"its key is of type {pair.key_type}": pair.key_type != config["key_type"],
        f"it expired at {moment(pair.ends)}": pair.ends <= now,
        f"it ends at {moment(pair.ends)}": pair.ends - now < (pair.ends - pair.begins) / share,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def make_key(key_type: str) -> Any:
    if key_type == "rsa":
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: Any) -> bytes:
    pem: bytes = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return pem


def alternative_names(names: list[str]) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([x509.DNSName(name) for name in names])


def make_placeholder(config: Config) -> None:
    """Signed by itself and for a day: nginx does not start without a certificate, and without nginx there is none."""
    key, now = make_key("ecdsa"), datetime.datetime.now(datetime.UTC)
    name = x509.Name([])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(alternative_names(config["names"]), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder = fresh(PAIRS / "placeholder")
    write(folder / "privkey.pem", key_pem(key), 0o600)
    write(folder / "fullchain.pem", certificate.public_bytes(serialization.Encoding.PEM), 0o644)
    write(folder / "directory", b"", 0o644)
    point_at(folder.name)


def fresh(folder: Path) -> Path:
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(mode=0o755)
    return folder


def point_at(name: str) -> None:
    beside = PAIRS / "current.new"
    beside.unlink(missing_ok=True)
    beside.symlink_to(name)
    beside.rename(PAIRS / "current")


def in_use() -> str | None:
    return os.readlink(PAIRS / "current") if (PAIRS / "current").is_symlink() else None


# --- the account (RFC 8555, 7.3): this part runs as the client's user ---


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def encoded_json(value: Any) -> str:
    return encoded(json.dumps(value, sort_keys=True, separators=(",", ":")).encode())


def decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def public_jwk(key: ec.EllipticCurvePrivateKey) -> dict[str, str]:
    point = key.public_key().public_numbers()
    return {
        "crv": "P-256",
        "kty": "EC",
        "x": encoded(point.x.to_bytes(32, "big")),
        "y": encoded(point.y.to_bytes(32, "big")),
    }


def signed(key: ec.EllipticCurvePrivateKey, header: dict[str, Any], payload: Any) -> bytes:
    """A JWS by ES256 (RFC 7515, 7518)."""
    protected, body = encoded_json({"alg": "ES256"} | header), encoded_json(payload)
    r, s = decode_dss_signature(key.sign(f"{protected}.{body}".encode(), ec.ECDSA(hashes.SHA256())))
    signature = encoded(r.to_bytes(32, "big") + s.to_bytes(32, "big"))
    return json.dumps({"protected": protected, "payload": body, "signature": signature}).encode()


def external_binding(jwk: dict[str, str], url: str, key_id: str, secret: str) -> dict[str, str]:
    """What ties the account to a contract with the authority (RFC 8555, 7.3.4)."""
    protected = encoded_json({"alg": "HS256", "kid": key_id, "url": url})
    body = encoded_json(jwk)
    digest = hmac.new(decoded(secret), f"{protected}.{body}".encode(), hashlib.sha256).digest()
    return {"protected": protected, "payload": body, "signature": encoded(digest)}


class Server:
    """The ACME server, as far as an account needs it."""

    def __init__(self, directory: str) -> None:
        self.directory = json.load(self._open(directory, headers=AGENT))
        self._nonce = ""

    def _open(self, url: str, **request: Any) -> Any:
        if not url.startswith("https://"):
            raise OSError(f"{url} is no https URL")
        return urllib.request.urlopen(urllib.request.Request(url, **request), timeout=30)  # noqa: S310 (see above)

    def post(self, url: str, key: ec.EllipticCurvePrivateKey, header: dict[str, Any], payload: Any) -> Any:
        """Signed anew when the server wants another nonce, as it may at any time (RFC 8555, 6.5)."""
        tries = 4
        while True:
            if not self._nonce:
                self._nonce = self._open(self.directory["newNonce"], method="HEAD", headers=AGENT).headers[
                    "Replay-Nonce"
                ]
            body = signed(key, header | {"nonce": self._nonce, "url": url}, payload)
            headers = AGENT | {"Content-Type": "application/jose+json"}
            try:
                return self._open(url, data=body, headers=headers, method="POST")
            except urllib.error.HTTPError as error:
                self._nonce = error.headers.get("Replay-Nonce", "")
                problem = error.read().decode(errors="replace")
                tries -= 1
                if tries and "urn:ietf:params:acme:error:badNonce" in problem:
                    continue
                after = error.headers.get("Retry-After", "")
                wait = f" retry after {after} s" if after.isdigit() else ""
                raise OSError(f"it answered {error.code}: {problem}{wait}") from error


def make_account(wanted: Config) -> None:
    """The account of the key; made, or found when it is there already, with the address it is to have.

    The server is looked at in any case: what keeps it from being reached is told more clearly here than by uacme.
    """
    server = Server(wanted["directory"])
    if wanted["known"]:
        return
    key_file = Path(wanted["folder"]) / "private/key.pem"
    if not key_file.exists():
        key_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write(key_file, key_pem(ec.generate_private_key(ec.SECP256R1())), 0o600)
    key: Any = serialization.load_pem_private_key(key_file.read_bytes(), None)
    url, jwk = server.directory["newAccount"], public_jwk(key)
    contact = {"contact": [f"mailto:{wanted['email']}"] if wanted["email"] else []}
    payload: dict[str, Any] = {"termsOfServiceAgreed": True} | contact
    if wanted["eab_key_id"]:
        payload["externalAccountBinding"] = external_binding(
            jwk, url, wanted["eab_key_id"], wanted["eab_hmac"]
        )
    elif server.directory.get("meta", {}).get("externalAccountRequired"):
        raise OSError(
            "it wants an external account binding (urn:ietf:params:acme:error:externalAccountRequired)"
        )
    answer = server.post(url, key, {"jwk": jwk}, payload)
    if answer.status == 200:  # it was there, and keeps its former address otherwise
        server.post(answer.headers["Location"], key, {"kid": answer.headers["Location"]}, contact)


def account_main() -> int:
    """Told what is wanted on standard input, for it has a secret in it."""
    try:
        make_account(json.load(sys.stdin))
    except urllib.error.URLError as error:
        reason = error.reason
        if isinstance(reason, ssl.SSLCertVerificationError):
            say(f"its certificate is refused: {reason.verify_message} (OpenSSL {reason.verify_code})")
        else:
            say(str(reason))
        return 1
    except (OSError, ValueError, KeyError, TypeError) as error:
        say(f"{error}" if isinstance(error, OSError) else f"it is no ACME server ({error!r})")
        return 1
    return 0


# --- the order ---


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


def one_line(said: str) -> str:
    return re.sub(r"\s+", " ", said.strip())[-1000:].removesuffix(".") or "it said nothing"


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
    run = as_client([sys.executable, os.path.abspath(__file__), "account"], json.dumps(wanted))
    if run.returncode:
        raise failed(f"No account at {config['directory']}", run.stdout)
    state["account"] = mark


def client_asks_server() -> bool:
    """Whether this uacme knows renewal information (ARI, RFC 9773): 1.7.6 does, 1.7.4 does not."""
    return "--no-ari" in subprocess.run([UACME, "--help"], capture_output=True, text=True, check=False).stderr


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
    new = fresh(PAIRS / "new")
    key = make_key(config["key_type"])
    write(new / "privkey.pem", key_pem(key), 0o600)
    write(new / "directory", config["directory"].encode(), 0o644)
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(alternative_names(config["names"]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    present = pair_at(PAIRS / "current")
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


# --- bringing it into use ---


def systemctl(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemctl", *arguments], capture_output=True, text=True, check=False)


def active(unit: str) -> bool:
    return systemctl("is-active", "--quiet", unit).returncode == 0


def test_web_server(config: Config) -> str:
    """What nginx says against its configuration, certificate included; nothing when it is right, or not used."""
    if "nginx.service" not in config["units"] or not active("nginx.service"):
        return ""
    run = subprocess.run(["/usr/sbin/nginx", "-t", "-q"], capture_output=True, text=True, check=False)
    return run.stderr.strip() or f"nginx -t ended with {run.returncode}" if run.returncode else ""


def install(config: Config) -> None:
    """The pair in PAIRS/new becomes the one in use, or all stays as it was and PAIRS/new is tried again next time."""
    new = Pair(PAIRS / "new")
    name, former = f"{new.certificate.serial_number:x}", in_use()
    folder = PAIRS / name
    folder.mkdir(mode=0o755, exist_ok=True)
    for file in new.folder.iterdir():
        if not (folder / file.name).exists():
            (folder / file.name).hardlink_to(file)
    point_at(name)
    if wrong := test_web_server(config):
        if former and former != name:
            point_at(former)
            shutil.rmtree(folder)
        raise FailedError(
            f"The new certificate is here, but nginx refuses its configuration: {one_line(wrong)}.",
            "Correct the configuration; the running one is untouched.",
        )
    for unit in config["units"]:
        if active(unit) and (run := systemctl("reload-or-restart", unit)).returncode:
            raise FailedError(
                f"The new certificate is here, but {unit} did not take it: {one_line(run.stderr)}.",
                f"See systemctl status {unit}.",
            )
    shutil.rmtree(new.folder)
    for old in PAIRS.iterdir():
        if old.is_dir() and not old.is_symlink() and old.name not in {name, former}:
            shutil.rmtree(old)
    say(f"A certificate for {', '.join(new.names)} until {moment(new.ends)} is in use.")


def waiting(config: Config, now: float) -> bool:
    """Whether a pair is there that only has to be brought into use."""
    return lacks(pair_at(PAIRS / "new"), config, now, asks_server=True) is None


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
        if wrong := lacks(pair_at(PAIRS / "new"), config, time.time(), asks_server=True):
            raise FailedError(f"What the ACME server gave is of no use: {wrong}.", OTHERWISE)
        install(config)
    state["last_issue"] = time.time()


def run(config: Config, mode: str) -> int:
    state = read_state()
    now, pair = time.time(), pair_at(PAIRS / "current")
    mark = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
    reason = lacks(pair, config, now, client_asks_server())
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
    except (OSError, ValueError, x509.ExtensionNotFound) as error:
        wrong = FailedError(f"The certificate could not be renewed: {error!r}.", "")
    pair = pair_at(PAIRS / "current")
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


def write_metrics(config: Config, state: State, pair: Pair | None) -> None:
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
    pair, now = pair_at(PAIRS / "current"), time.time()
    reason = lacks(pair, config, now, client_asks_server())
    if reason is None and waiting(config, now):
        reason = "a newer one waits to be brought into use"
    usable = pair is not None and bool(pair.directory) and pair.ends > now
    say(json.dumps({"usable": usable, "lacks": reason, "ends": pair.ends if pair else None}))


@contextlib.contextmanager
def only_one() -> Iterator[None]:
    with (STATE / "lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def main(arguments: list[str]) -> int:
    if arguments == ["account"]:
        return account_main()
    if len(arguments) != 1 or arguments[0] not in {"renew", "now", "force", "status", "placeholder"}:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        config: Config = json.loads(CONFIG.read_text())
    except FileNotFoundError:
        print(f"{CONFIG} is not there: this host's tls_mode is not acme.", file=sys.stderr)
        return 2
    if arguments == ["status"]:
        show_status(config)
        return 0
    with only_one():
        if arguments == ["placeholder"]:
            if in_use() is None:
                make_placeholder(config)
            return 0
        return run(config, arguments[0])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
