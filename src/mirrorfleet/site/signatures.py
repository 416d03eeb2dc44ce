"""Signatures beside the lists, by minisign or signify: each over the bytes beside it, by the key that is published."""

import base64
import binascii
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..common.config import ConfigError
from ..common.files import entries, regular_size, remove, write_atomically, write_together
from ..fleet.evidence import printable

FILE = "mirrors.pub"
LISTS = ("mirrors.txt", "mirrors-ipv4.txt", "mirrors-ipv6.txt")
SUFFIXES = {"minisign": ".minisig", "signify": ".sig"}
PROGRAMS = {"minisign": "minisign", "signify": "signify-openbsd"}  # as Debian calls them
LONGEST = 10_000  # bytes of a signature; those of both tools have some 300


@dataclass(frozen=True)
class Signing:
    """Who signs: each run, by a secret `key` without passphrase; or whoever has it elsewhere, and brings signatures to
    a folder."""

    public_key: Path
    key: Path | None = None
    brought: Path | None = None
    tool: Literal["minisign", "signify"] = "minisign"
    program: str | None = None


class Signer:
    """Makes and checks signatures in a folder of its own, which it empties. ConfigError for what cannot sign or be
    checked by."""

    def __init__(self, signing: Signing, folder: Path) -> None:
        if (signing.key is None) == (signing.brought is None):
            raise ConfigError(
                "signing: has one of key, by which each run signs, and brought, where signatures made elsewhere are"
            )
        self._signing, self._folder = signing, folder
        self._program = signing.program or PROGRAMS[signing.tool]
        self.tool, self.command = signing.tool, PROGRAMS[signing.tool]
        self.suffix = SUFFIXES[signing.tool]
        self.elsewhere = signing.key is None
        # What else is measured changes with each run, and nobody elsewhere can say whether it is true.
        self.documents = LISTS if self.elsewhere else ("mirrors.json", *LISTS)
        self.public, self.line = _public(signing.public_key)

    def beside(self, document: Path) -> Path:
        return document.with_name(document.name + self.suffix)

    def sign(self, name: str, data: bytes) -> bytes | None:
        """The signature of a document; None for one that has to be made elsewhere."""
        if self._signing.brought:
            found = _read(self._signing.brought / (name + self.suffix))
            return found if self.holds(name, data, found) else None
        done = self._run("-S", name, data, None, "-s", str(self._signing.key))
        if done.returncode:
            why = printable(done.stderr or done.stdout)
            raise ConfigError(f"signing.key: {self._program} cannot sign with {self._signing.key}: {why}")
        made = _read(self._made(name))
        if not self.holds(name, data, made):
            raise ConfigError(
                f"signing.key: what {self._signing.key} signs is not by {self._signing.public_key}"
                " (signing.public_key); both are made by one command"
            )
        return made

    def holds(self, name: str, data: bytes, signature: bytes) -> bool:
        """Whether a signature is over these bytes and by the key of now."""
        if not signature:
            return False
        done = self._run("-V", name, data, signature, "-q", "-p", str(self._signing.public_key))
        return done.returncode == 0

    def _made(self, name: str) -> Path:
        return self._folder / (name + self.suffix)

    def _run(
        self, verb: str, name: str, data: bytes, signature: bytes | None, *options: str
    ) -> subprocess.CompletedProcess[str]:
        remove(self._folder)
        self._folder.mkdir(mode=0o700)
        document, beside = self._folder / name, self._made(name)
        document.write_bytes(data)
        if signature is not None:
            beside.write_bytes(signature)
        try:
            return subprocess.run(
                [self._program, verb, *options, "-m", str(document), "-x", str(beside)],
                stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=30, check=False,
            )  # fmt: skip
        except FileNotFoundError as error:
            raise ConfigError(f"signing.program: {self._program} is not installed") from error
        except subprocess.TimeoutExpired as error:
            raise ConfigError(
                f"signing.key: {self._program} waits: has {self._signing.key} a passphrase?"
            ) from error


def mend(signer: Signer | None, folder: Path) -> None:
    """What a kill, a former key or another hand left: each signature is over the bytes beside it, or leaves."""
    kept = set()
    for name in signer.documents if signer else ():
        document, data = folder / name, _read_document(folder / name)
        if signer and data is not None:
            beside = signer.beside(document)
            kept.add(beside.name)
            if not signer.holds(name, data, _read(beside)):
                _write(beside, signer.sign(name, data))
    for entry in entries(folder):
        if entry.name.endswith(tuple(SUFFIXES.values())) and entry.name not in kept:
            remove(Path(entry.path))


def replace(signer: Signer, document: Path, data: bytes) -> None:
    """Document and signature by renames that follow each other; without a signature the former leaves first."""
    signature, beside = signer.sign(document.name, data), signer.beside(document)
    if signature is None:
        remove(beside)
        write_atomically(document, data)
    else:
        write_together({document: data, beside: signature})


def unsigned(signer: Signer | None, folder: Path) -> list[str]:
    """Documents that are to be signed and are not."""
    return [name for name in signer.documents if not signer.beside(folder / name).exists()] if signer else []


def _write(beside: Path, signature: bytes | None) -> None:
    if signature is None or beside.is_dir():
        remove(beside)
    if signature is not None:
        write_atomically(beside, signature)


def _public(path: Path) -> tuple[bytes, str]:
    """A public key as it is published, and its line of base64: `Ed`, the key's number and 32 bytes (minisign(1))."""
    try:
        text = path.read_text("ascii").strip()
        line = text.splitlines()[-1] if text else ""
        if len(raw := base64.b64decode(line, validate=True)) != 42 or not raw.startswith(b"Ed"):
            raise ValueError("its last line is no key")
    except (OSError, ValueError, binascii.Error) as error:
        raise ConfigError(
            f"signing.public_key: {path} is no public key of minisign or signify ({error}); it is the file that the"
            " option -p named when the key was made"
        ) from error
    return text.encode() + b"\n", line


def _read(signature: Path) -> bytes:
    """Nothing for what is no signature by its size alone."""
    size = regular_size(signature)
    return signature.read_bytes() if size is not None and size <= LONGEST else b""


def _read_document(path: Path) -> bytes | None:
    return path.read_bytes() if regular_size(path) is not None else None
