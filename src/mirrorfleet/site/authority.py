"""The fleet's own authority, as the site offers it to clients of mirrors that no public one certifies."""

import hashlib
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..common.config import ConfigError
from ..fleet.registry import Registry

FILE = "authority.pem"


@dataclass(frozen=True)
class Authority:
    pem: bytes
    name: str
    fingerprint: str  # SHA-256, as openssl writes it


def read(path: Path) -> Authority:
    """The certificate and nothing else of the file; ConfigError when an authority's is not there."""
    try:
        text = path.read_text("ascii")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=text)
        (about,), (der,) = context.get_ca_certs(), context.get_ca_certs(binary_form=True)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"authority: {path} is not the certificate of one authority, in PEM ({error}); the redirector's"
            " provisioning writes it anew (playbooks/provision.yml)"
        ) from error
    subject: Any = about["subject"]  # of one-element tuples of a key and a value
    named = dict(part[0] for part in subject)
    digest = hashlib.sha256(der).hexdigest().upper()
    fingerprint = ":".join(digest[at : at + 2] for at in range(0, len(digest), 2))
    return Authority(ssl.DER_cert_to_PEM_cert(der).encode(), named.get("commonName", FILE), fingerprint)


def needed(trusted: Authority | None, known: Registry, index: str) -> Authority | None:
    """The authority, if a client of that index has to trust it; of one that is no mirror's, if any mirror's has."""
    valid = [one for name, one in known.mirrors.items() if name not in known.wrong]
    of = [one for one in valid if any(index.startswith(f"{url}/") for url in one["urls"])]
    return trusted if any(one.get("tls_mode") == "private_ca" for one in of or valid) else None
