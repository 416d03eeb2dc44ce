"""The account at the ACME server (RFC 8555, 7.3). This part runs as the client's user."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import ssl
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from .common import Config, say, write
from .store import key_pem

AGENT = {"User-Agent": "mirrorfleet"}


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


def main() -> int:
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
