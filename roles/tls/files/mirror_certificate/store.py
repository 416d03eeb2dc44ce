"""The pairs of key and certificate, each in a folder of its own, and the link `current` to the one in use."""

from __future__ import annotations

import datetime
import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from .common import Config, moment, write

PAIRS = Path("/etc/mirrorfleet/tls/acme")


class Pair:
    """A folder with key and chain, as far as they can be read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.chain = folder / "fullchain.pem"
        self.key = (folder / "privkey.pem").read_bytes()
        self.certificate = x509.load_pem_x509_certificate(self.chain.read_bytes())
        key = serialization.load_pem_private_key(self.key, None)
        if public(key.public_key()) != public(self.certificate.public_key()):
            raise ValueError("key and certificate do not belong together")
        self.key_type = "rsa" if isinstance(key, rsa.RSAPrivateKey) else "ecdsa"
        self.begins = self._time("not_valid_before")
        self.ends = self._time("not_valid_after")
        names = self.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        self.names = sorted(names.get_values_for_type(x509.DNSName))
        # Whence it comes; of another than an ACME server there is none.
        whence = folder / "directory"
        self.directory = whence.read_text().strip() if whence.exists() else ""

    @property
    def fingerprint(self) -> str:
        """The same for the same files alone."""
        return hashlib.sha256(self.key + self.chain.read_bytes()).hexdigest()[:16]

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
    point_at(PAIRS, folder.name)


def fresh(folder: Path) -> Path:
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(mode=0o755)
    return folder


def point_at(pairs: Path, name: str) -> None:
    beside = pairs / "current.new"
    beside.unlink(missing_ok=True)
    beside.symlink_to(name)
    beside.rename(pairs / "current")


def in_use(pairs: Path) -> str | None:
    return os.readlink(pairs / "current") if (pairs / "current").is_symlink() else None
