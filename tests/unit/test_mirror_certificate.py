"""What runs on a host of tls_mode acme or provided, as far as it needs neither host nor server; scenarios have both."""

from __future__ import annotations

import base64
import datetime
import hashlib
import hmac
import io
import json
import os
import re
import stat
import sys
import time
import urllib.error
from email.message import Message
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

sys.path.append(str(Path(__file__).parents[2] / "roles/tls/files"))
from mirror_certificate import account, common, order, program, provided, store, use

TLS = Path(__file__).parents[2] / "roles/tls"
DAY, HOUR = 86400, 3600
NOW = 1_795_000_000.0
CONFIG = {
    "directory": "https://acme.example.org/dir",
    "names": ["b.example.org", "a.example.org"],
    "key_type": "ecdsa",
}


def test_the_role_installs_every_part_of_the_program() -> None:
    declared = (TLS / "vars/main.yml").read_text()
    for part in (TLS / "files/mirror_certificate").glob("*.py"):
        assert (
            f'{{path: "{{{{ __tls_program }}}}/{part.name}", src: mirror_certificate/{part.name}}}'
            in declared
        )


def pair(**changes: Any) -> Any:
    good = {
        "directory": CONFIG["directory"],
        "names": ["a.example.org", "b.example.org"],
        "key_type": "ecdsa",
        "begins": NOW - 10 * DAY,
        "ends": NOW + 80 * DAY,
    }
    return SimpleNamespace(**(good | changes))


@pytest.mark.parametrize(
    ("changes", "asks_server", "words"),
    [
        ({}, False, None),
        ({"directory": ""}, False, "there is no certificate"),  # a placeholder
        ({"directory": "https://other.example.org/dir"}, False, "it comes from https://other"),
        ({"names": ["a.example.org"]}, False, "it is for a.example.org"),
        ({"key_type": "rsa"}, False, "type rsa"),
        ({"ends": NOW - 1}, True, "it expired"),
        ({"begins": NOW - 60 * DAY - 10, "ends": NOW + 30 * DAY - 10}, False, "it ends"),
        ({"begins": NOW - 60 * DAY + 10, "ends": NOW + 30 * DAY + 10}, False, None),
        ({"begins": NOW - 60 * DAY - 10, "ends": NOW + 30 * DAY - 10}, True, None),
        ({"begins": NOW - 75 * DAY - 10, "ends": NOW + 15 * DAY - 10}, True, "it ends"),
        ({"begins": NOW - 4 * DAY - 10, "ends": NOW + 2 * DAY - 10}, False, "it ends"),  # of six days
    ],
)
def test_why_a_certificate_has_to_be_replaced(
    changes: dict[str, Any], asks_server: bool, words: str | None
) -> None:
    reason = store.lacks(pair(**changes), CONFIG, NOW, asks_server)
    assert (words in (reason or "")) if words else reason is None


def test_no_certificate_at_all() -> None:
    assert "there is no certificate" in (store.lacks(None, CONFIG, NOW, True) or "")


@pytest.mark.parametrize(
    ("failures", "left", "seconds"),
    [
        (1, 30 * DAY, HOUR),
        (2, 30 * DAY, 2 * HOUR),
        (4, 30 * DAY, 8 * HOUR),
        (6, 30 * DAY, DAY),
        (5000, 30 * DAY, DAY),
        (6, 5 * DAY, 12 * HOUR),  # a tenth of what is left
        (6, 5 * HOUR, HOUR),
        (6, -5 * DAY, HOUR),  # expired: each hour, and no oftener
    ],
)
def test_attempts_that_fail_are_made_less_often_while_there_is_time(
    failures: int, left: float, seconds: float
) -> None:
    assert program.delay(failures, left) == seconds


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("too many certificates already issued, retry after 2026-11-17 14:13:20 UTC: see ...", 0),
        ("too many certificates already issued, retry after 2199-01-01 00:00:00 UTC", 8 * DAY),
        ("it answered 429: {} retry after 120 s", 120),
        ("it answered 429: {} retry after 9999999 s", 8 * DAY),
        ("no such host", None),
    ],
)
def test_when_the_server_wants_to_be_asked_again(said: str, seconds: float | None) -> None:
    found = order.retry_after(said, NOW)
    if seconds is None:
        assert found == 0
    elif seconds == 0:
        assert 0 < found < NOW  # it has passed
    else:
        assert found == NOW + seconds


@pytest.mark.parametrize(
    ("said", "begun"),
    [
        ("certificate renewal window: start=2026-11-17T10:48:39.296377626Z end=2026-11-18T11:18:39Z", True),
        ("certificate renewal window: start=2026-11-17T10:48:39Z end=2026-11-18T11:18:39Z", True),
        ("certificate renewal window: start=2027-01-21T11:12:25Z end=2027-01-23T11:12:25Z", False),
        ("certificate renewal window: start=soon end=later", False),
        ("ari_check: missing suggestedWindow", False),
    ],
)
def test_renewal_information(said: str, begun: bool) -> None:
    assert order.window_has_begun(said, NOW) == begun


def test_steps_that_went_well_are_left_out_of_an_error() -> None:
    said = (
        "uacme: version 1.7.6 starting on Mon\nuacme: fetching directory at https://acme.example.org\n"
        "uacme: running /usr/share/uacme/uacme.sh begin http-01 a b c\nuacme: challenge dns-01 declined\n"
        "uacme: challenge https://acme.example.org/chalZ/1 failed with status invalid\n"
        'uacme: the server reported the following error:\n{\n "detail": "no such host"\n}\n'
    )
    left = order.client_errors(said)
    assert left.startswith("uacme: challenge https://acme.example.org/chalZ/1 failed")
    assert '"no such host"' in left
    assert order.next_step(left).startswith("Give the name an address")
    assert order.next_step("nothing known") == order.OTHERWISE


def text(part: str) -> Any:
    return json.loads(base64.urlsafe_b64decode(part + "=="))


def test_a_request_to_the_server_is_signed_by_the_accounts_key() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    sent = json.loads(account.signed(key, {"nonce": "n", "url": "u"}, {"some": "thing"}))
    assert text(sent["protected"]) == {"alg": "ES256", "nonce": "n", "url": "u"}
    assert text(sent["payload"]) == {"some": "thing"}
    raw = account.decoded(sent["signature"])
    assert len(raw) == 64
    der = encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
    key.public_key().verify(der, f"{sent['protected']}.{sent['payload']}".encode(), ec.ECDSA(hashes.SHA256()))


@pytest.mark.parametrize(
    "secret", ["zWNDZM6eQGHWpSRTPal5eIUYFTu7", "zWNDZM6eQGHWpSRTPal5eIUYFTu7_-", "zWNDZM6eQGHWpSRTPal5eA=="]
)
def test_an_external_binding_is_of_the_accounts_key_and_of_the_contracts_key(secret: str) -> None:
    jwk = account.public_jwk(ec.generate_private_key(ec.SECP256R1()))
    made = account.external_binding(jwk, "https://acme.example.org/new", "contract", secret)
    assert text(made["protected"]) == {
        "alg": "HS256",
        "kid": "contract",
        "url": "https://acme.example.org/new",
    }
    assert text(made["payload"]) == jwk
    key = base64.urlsafe_b64decode(secret + "=" * (-len(secret) % 4))
    wanted = hmac.new(key, f"{made['protected']}.{made['payload']}".encode(), hashlib.sha256).digest()
    assert account.decoded(made["signature"]) == wanted


def test_another_nonce_is_taken_when_the_server_wants_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 8555, 6.5: at any time. What is no question of nonces is an error at once."""
    sent: list[str] = []
    problems = ["badNonce", "badNonce", "rateLimited"]

    def answer(self: Any, url: str, **request: Any) -> Any:
        if "data" not in request:
            directory = {"newNonce": "https://acme.example.org/nonce"}
            return Response(json.dumps(directory).encode(), {"Replay-Nonce": "first"})
        sent.append(text(json.loads(request["data"])["protected"])["nonce"])
        problem = json.dumps({"type": f"urn:ietf:params:acme:error:{problems[len(sent) - 1]}"})
        headers = Message()
        headers["Replay-Nonce"] = f"after {len(sent)}"
        headers["Retry-After"] = "77"
        raise urllib.error.HTTPError(url, 429, "", headers, io.BytesIO(problem.encode()))

    monkeypatch.setattr(account.Server, "_open", answer)
    server = account.Server("https://acme.example.org/dir")
    with pytest.raises(OSError, match=r"rateLimited.* retry after 77 s"):
        server.post("https://acme.example.org/new", store.make_key("ecdsa"), {}, {})
    assert sent == ["first", "after 1", "after 2"]


class Response(io.BytesIO):
    def __init__(self, body: bytes, headers: dict[str, str]) -> None:
        super().__init__(body)
        self.headers = headers


def test_only_https_is_spoken() -> None:
    with pytest.raises(OSError, match="is no https URL"):
        account.Server("file:///etc/passwd")


def test_a_file_takes_its_name_with_its_mode(tmp_path: Path) -> None:
    target = tmp_path / "privkey.pem"
    (tmp_path / "privkey.pem.new").write_text("left by a run that was killed")
    common.write(target, b"secret", 0o600)
    assert target.read_bytes() == b"secret"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["privkey.pem"]


@pytest.fixture
def pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(store, "PAIRS", tmp_path)
    monkeypatch.setattr(use, "active", lambda unit: False)
    return tmp_path


def new_pair(folder: Path) -> None:
    """What the server gave: here a placeholder, with a directory."""
    config = CONFIG | {"units": ["nginx.service"]}
    store.make_placeholder(config)
    (folder / "current").unlink()
    (folder / "placeholder").rename(folder / "new")
    (folder / "new/directory").write_text(str(CONFIG["directory"]))


def test_a_new_pair_comes_into_use_by_one_link(pairs: Path) -> None:
    config = CONFIG | {"units": ["nginx.service"]}
    for _ in range(3):
        former = store.in_use(store.PAIRS)
        new_pair_beside(pairs, former)
        program.install(config)
        assert store.in_use(store.PAIRS) != former
    kept = sorted(path.name for path in pairs.iterdir())
    assert len(kept) == 3 and "new" not in kept  # the link, the pair in use, its predecessor
    assert store.pair_at(pairs / "current") is not None


def new_pair_beside(folder: Path, former: str | None) -> None:
    new_pair(folder)
    if former:
        store.point_at(store.PAIRS, former)


def test_a_pair_that_nginx_refuses_is_kept_and_not_used(pairs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = CONFIG | {"units": ["nginx.service"]}
    new_pair(pairs)
    program.install(config)
    former = store.in_use(store.PAIRS)
    new_pair_beside(pairs, former)
    monkeypatch.setattr(use, "test_web_server", lambda config: "unexpected end of file")
    with pytest.raises(common.FailedError, match="nginx refuses its configuration: unexpected end of file"):
        program.install(config)
    assert store.in_use(store.PAIRS) == former
    monkeypatch.setattr(use, "test_web_server", lambda config: "")
    program.install(config)
    assert store.in_use(store.PAIRS) != former


def test_a_key_and_a_certificate_that_do_not_belong_together_are_no_pair(pairs: Path) -> None:
    new_pair(pairs)
    (pairs / "new/privkey.pem").write_bytes(store.key_pem(store.make_key("ecdsa")))
    assert store.pair_at(pairs / "new") is None


# --- tls_mode provided ---


class Operator:
    """Who keeps a pair on the host, and what they do to it."""

    def __init__(self, folder: Path) -> None:
        self.certificate, self.key = folder / "cert.pem", folder / "key.pem"
        self.config = {
            "certificate": str(self.certificate),
            "key": str(self.key),
            "names": ["a.example.org", "b.example.org"],
            "units": ["nginx.service"],
            "metrics": str(folder / "metrics/mirrorfleet_provided.prom"),
        }
        (folder / "metrics").mkdir()

    def keeps(self, names: tuple[str, ...] = ("a.example.org", "*.example.org"), days: float = 30) -> None:
        key, now = store.make_key("ecdsa"), datetime.datetime.now(datetime.UTC)
        made = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(x509.Name([]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=60))
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(store.alternative_names(list(names)), critical=True)
            .sign(key, hashes.SHA256())
        )
        self.certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        self.key.write_bytes(store.key_pem(key))
        self.key.chmod(0o600)

    def metric(self, name: str) -> float:
        text = Path(self.config["metrics"]).read_text()
        (value,) = re.findall(rf"^mirrorfleet_provided_{name} (\S+)$", text, re.MULTILINE)
        return float(value)


@pytest.fixture
def operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Operator:
    (tmp_path / "provided").mkdir()
    monkeypatch.setattr(provided, "PAIRS", tmp_path / "provided")
    monkeypatch.setattr(use, "active", lambda unit: False)
    if os.geteuid():
        monkeypatch.setattr(provided, "OWNER", os.geteuid())
    found = Operator(tmp_path)
    found.keeps()
    assert provided.take(found.config) == 0
    return found


def in_use() -> tuple[bytes, bytes]:
    current = provided.PAIRS / "current"
    assert stat.S_IMODE((current / "privkey.pem").stat().st_mode) == 0o600
    return (current / "fullchain.pem").read_bytes(), (current / "privkey.pem").read_bytes()


def test_a_renewed_pair_comes_into_use_and_an_old_one_is_kept(
    operator: Operator, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(3):
        operator.keeps()
        assert provided.take(operator.config) == 0
        assert "is in use." in capsys.readouterr().out
        assert in_use() == (operator.certificate.read_bytes(), operator.key.read_bytes())
        assert provided.take(operator.config) == 0
        assert capsys.readouterr().out == ""
    assert len([path for path in provided.PAIRS.iterdir() if not path.is_symlink()]) == 2
    assert operator.metric("refused") == 0
    assert operator.metric("certificate_expiry_timestamp_seconds") > time.time() + 29 * DAY


def spoil_key(operator: Operator) -> None:
    operator.key.write_bytes(store.key_pem(store.make_key("ecdsa")))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (spoil_key, "key and certificate do not belong together"),
        (lambda operator: operator.certificate.write_text("no certificate"), "cannot be used"),
        (lambda operator: operator.key.write_text("no key"), "cannot be used"),
        (lambda operator: operator.key.unlink(), "cannot be read: No such file or directory"),
        (
            lambda operator: (operator.keeps(), operator.key.chmod(0o644)),
            "with mode 0644; it has to be root's",
        ),
        (
            lambda operator: (operator.keeps(), operator.key.chmod(0o660)),
            "with mode 0660; it has to be root's",
        ),
        (lambda operator: operator.keeps(("a.example.org",)), "covers a.example.org, and not b.example.org"),
        (lambda operator: operator.keeps(days=-1), "ended at "),
    ],
)
def test_a_pair_that_does_not_fit_is_told_and_the_former_serves_on(
    spoil: Any, words: str, operator: Operator, capsys: pytest.CaptureFixture[str]
) -> None:
    before, ends = in_use(), operator.metric("certificate_expiry_timestamp_seconds")
    spoil(operator)
    assert provided.take(operator.config) == 1
    assert words in capsys.readouterr().out
    assert in_use() == before
    assert operator.metric("refused") == 1
    assert operator.metric("certificate_expiry_timestamp_seconds") == ends
    assert not (provided.PAIRS / "new").exists()
    operator.keeps()
    assert provided.take(operator.config) == 0
    assert operator.metric("refused") == 0


def test_a_pair_that_nginx_refuses_is_tried_again(
    operator: Operator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = in_use()
    operator.keeps()
    monkeypatch.setattr(use, "test_web_server", lambda config: "unexpected end of file")
    for _ in range(2):
        assert provided.take(operator.config) == 1
        assert "nginx refuses its configuration: unexpected end of file" in capsys.readouterr().out
        assert in_use() == before
    monkeypatch.setattr(use, "test_web_server", lambda config: "")
    assert provided.take(operator.config) == 0
    assert in_use() != before


def test_a_unit_that_did_not_take_it_is_asked_again(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator.keeps()
    answers, asked = [1, 0], []

    def run(*command: str) -> Any:
        if "reload-or-restart" not in command:
            return SimpleNamespace(returncode=0, stderr="")
        asked.append(command)
        return SimpleNamespace(returncode=answers.pop(0), stderr="busy")

    monkeypatch.setattr(use, "active", lambda unit: True)
    monkeypatch.setattr(use, "run", run)
    assert [provided.take(operator.config) for _ in range(3)] == [1, 0, 0]
    assert len(asked) == 2
