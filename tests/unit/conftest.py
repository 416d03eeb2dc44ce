"""What the unit tests share: plugins and modules in reach, throwaway authorities, and real servers on loopback."""

from __future__ import annotations

import datetime
import http.server
import ipaddress
import os
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from email.message import Message
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

ROOT = Path(__file__).resolve().parents[2]
# Ansible loads plugins and modules by file; tests import them by name.
sys.path[:0] = [str(ROOT), str(ROOT / "filter_plugins"), str(ROOT / "library")]

# make names the project's configuration; a test that runs Ansible says itself which one it wants.
os.environ.pop("ANSIBLE_CONFIG", None)


@dataclass
class Authority:
    """A certificate authority for the length of a test run."""

    folder: Path
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def pem(self) -> Path:
        return self.folder / "ca.pem"

    def issue(self, *names: str, days: float = 30) -> Path:
        """A PEM file with key and certificate for names or addresses; one of negative days has expired."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])]))
            .issuer_name(self.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=60))
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(
                x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False
            )
            # Without it Python 3.13 takes no certificate.
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False
            )
            .sign(self.key, hashes.SHA256())
        )
        path = self.folder / f"{certificate.serial_number:x}.pem"
        path.write_bytes(_private_pem(key) + certificate.public_bytes(serialization.Encoding.PEM))
        return path


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test authority")])
    usage = x509.KeyUsage(
        digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=365))
        .not_valid_after(now + datetime.timedelta(days=365))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    made = Authority(tmp_path_factory.mktemp("authority"), key, certificate)
    made.pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return made


@dataclass
class Request:
    """What a server was asked."""

    method: str
    path: str
    headers: Message


# status, headers, body
Response = tuple[int, dict[str, str], bytes]
Answer = Callable[[Request], Response]
Serve = Callable[..., int]


class Server(http.server.ThreadingHTTPServer):
    """A server that answers by calling a function; its handshake is each connection's own, so that none blocks."""

    daemon_threads = True

    def __init__(self, host: str, port: int, answer: Answer, context: ssl.SSLContext | None) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.answer, self.context = answer, context
        super().__init__((host, port), Handler)

    def finish_request(self, request: object, client_address: object) -> None:
        assert isinstance(request, socket.socket)
        request.settimeout(30)
        try:
            if self.context:
                request = self.context.wrap_socket(request, server_side=True)
            super().finish_request(request, client_address)
            if isinstance(request, ssl.SSLSocket):
                request.unwrap()
        except OSError:
            return  # the client hung up: what tests of refusals are about


class Handler(http.server.BaseHTTPRequestHandler):
    """HTTP/1.1 around the server's function."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one packet for headers and body: Nagle's algorithm would add 40 ms to each answer

    def answer(self) -> None:
        server = self.server
        assert isinstance(server, Server)
        status, headers, body = server.answer(Request(self.command, self.path, self.headers))
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = answer

    def log_message(self, *args: object) -> None:
        """Keep quiet."""


@pytest.fixture
def serve(authority: Authority) -> Iterator[Serve]:
    """Starts servers: serve(answer, certificate or None, host) -> port. They end with the test."""
    with ExitStack() as stack:

        def start(
            answer: Answer, certificate: Path | None = None, host: str = "127.0.0.1", port: int = 0
        ) -> int:
            context = None
            if certificate:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(certificate)
            server = stack.enter_context(Server(host, port, answer, context))
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
            stack.callback(server.shutdown)
            return int(server.server_address[1])

        yield start
