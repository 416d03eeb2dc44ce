"""The fleet's own authority: what it may certify, who believes it, and that it stays what it is."""

import datetime
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

NOW = datetime.datetime.now(datetime.UTC)
FILES = ("ca.pem", "ca-key.pem", "trusted.pem")

# A client and a server in one process, without a network: whether the client believes the chain, by the rules of the
# host's own Python. Of these 3.13's are the strict ones (RFC 5280).
HANDSHAKE = """
import ssl, sys
client = ssl.create_default_context(cafile="/tmp/ca.pem")
server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
server.load_cert_chain("/tmp/chain.pem")
to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
ends = [
    client.wrap_bio(to_client, to_server, server_hostname="mirror.fleet.test"),
    server.wrap_bio(to_server, to_client, server_side=True),
]
try:
    for _ in range(5):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                pass
except ssl.SSLCertVerificationError as error:
    sys.exit(error.verify_message)
print(ends[0].getpeercert()["subject"][0][0][1])
"""


def name(common_name):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def certify(issuer, issuer_key, common_name, authority=False):
    """A certificate as the role tls has it signed, or one for an authority below; with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(common_name))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - datetime.timedelta(hours=1))
        .not_valid_after(NOW + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False
        )
    )
    if authority:
        usage = dict.fromkeys(
            ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment",
             "key_agreement", "encipher_only", "decipher_only"), False,
        )  # fmt: skip
        builder = builder.add_extension(
            x509.KeyUsage(key_cert_sign=True, crl_sign=True, **usage), critical=True
        )
    else:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([x509.DNSName(common_name)]), critical=False
        )
    return builder.sign(issuer_key, hashes.SHA256()), key


def pem(*things):
    return "".join(
        thing.public_bytes(serialization.Encoding.PEM).decode()
        if isinstance(thing, x509.Certificate)
        else thing.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()
        for thing in things
    )


@pytest.fixture(scope="module")
def folder(role):
    return role.dir / "authority"


@pytest.fixture(scope="module")
def authority(folder):
    key = serialization.load_pem_private_key((folder / "ca-key.pem").read_bytes(), None)
    return x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes()), key


@pytest.fixture
def believed(host, folder):
    """Whether a client on the host believes this chain, and why not."""

    def ask(chain):
        put = "printf %s %s >/tmp/chain.pem && printf %s %s >/tmp/ca.pem && python3 -c %s"
        return host.run(put, "%s", chain, "%s", (folder / "ca.pem").read_text(), HANDSHAKE)

    return ask


def test_only_its_owner_reads_the_key(folder):
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (folder, *(folder / f for f in FILES))}
    assert modes == {"authority": 0o700, "ca.pem": 0o644, "ca-key.pem": 0o600, "trusted.pem": 0o644}
    assert set(FILES) == {path.name for path in folder.iterdir()}


def test_it_certifies_hosts_and_nothing_else(authority):
    certificate, key = authority
    assert certificate.public_key() == key.public_key()
    assert certificate.subject == name("mirrorfleet private CA")
    assert (
        datetime.timedelta(days=3649) < certificate.not_valid_after_utc - NOW < datetime.timedelta(days=3651)
    )
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert constraints.value == x509.BasicConstraints(ca=True, path_length=0)
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value.key_cert_sign and usage.value.crl_sign and not usage.value.digital_signature


def test_clients_believe_what_it_certified(authority, believed):
    said = believed(pem(*certify(*authority, "mirror.fleet.test")))
    assert (said.rc, said.stdout) == (0, "mirror.fleet.test\n"), said.stderr


def test_clients_believe_nobody_below_it(authority, believed):
    below, key = certify(*authority, "below", authority=True)
    leaf, leaf_key = certify(below, key, "mirror.fleet.test")
    said = believed(pem(leaf, below, leaf_key))
    assert said.failed and "path length constraint exceeded" in said.stderr


def test_a_client_is_given_one_file_with_all_that_the_system_trusts_and_the_authority(folder):
    trusted = (folder / "trusted.pem").read_text()
    assert (folder / "ca.pem").read_text() in trusted
    assert Path("/etc/ssl/certs/ca-certificates.crt").read_text().strip() in trusted
    assert len(x509.load_pem_x509_certificates(trusted.encode())) > 50


# --- last ---


def content(folder):
    return {file: (folder / file).read_bytes() for file in FILES}


def test_it_stays_the_same_whatever_it_is_to_be_called(role, folder):
    """Every client would have to be brought another one."""
    before = content(folder)
    (folder / "ca-key.pem").chmod(0o644)
    role.converge(authority_name="another name")
    assert content(folder) == before
    test_only_its_owner_reads_the_key(folder)


def test_a_lost_key_is_told_and_no_other_is_made(role, folder):
    key = folder / "ca-key.pem"
    kept = key.rename(folder.with_name("kept-key.pem"))
    try:
        outcome = role.play()
        assert outcome.code != 0 and "Bring the key back from your backup" in " ".join(outcome.said.split())
        assert not key.exists()
    finally:
        kept.rename(key)
