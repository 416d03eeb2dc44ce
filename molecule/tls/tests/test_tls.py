"""The certificate that a host's server really uses, as its clients see it, through renewal, change of mode and harm.

The story is played once on both hosts; each test looks at one moment of it on one host.
"""

import contextlib
import datetime
import shlex
import ssl
import time
from dataclasses import dataclass, field

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

PORT = 8443
PAIR = {
    "tls_provided_certificate": "/etc/operator/pair/cert.pem",
    "tls_provided_key": "/etc/operator/pair/key.pem",
}
DAY = datetime.timedelta(days=1)

# All that belongs to the certificate, with what links point to; no change of it goes unseen.
STATE = r"""
cd /etc/mirrorfleet/tls && find . /etc/operator -printf '%p %y %l %m %u %g\n' 2>/dev/null | sort
sha256sum fullchain.pem privkey.pem private_ca/*
systemctl show --property InvocationID probe.service
"""


def pair(*names, days=30):
    """Certificate and key as an operator would have them from elsewhere: RSA, another authority."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    now = datetime.datetime.now(datetime.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "an operator's own")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 60 * DAY)
        .not_valid_after(now + days * DAY)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return (
        certificate.public_bytes(serialization.Encoding.PEM).decode(),
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode(),
    )


def operator_keeps(host, certificate, key):
    host.shell.check_output(
        "umask 077; rm -rf /etc/operator; mkdir -p /etc/operator/pair; cd /etc/operator/pair;"
        f"printf %s {shlex.quote(certificate)} >cert.pem; printf %s {shlex.quote(key)} >key.pem"
    )


def served(host):
    """The certificate that a client is shown; a server that was just started takes a moment to listen."""
    for _ in range(300):
        with contextlib.suppress(ConnectionRefusedError):
            pem = ssl.get_server_certificate((host.ipv4, PORT), timeout=20)
            return x509.load_pem_x509_certificate(pem.encode())
        time.sleep(0.1)
    pytest.fail(f"{host.name} does not listen on {PORT}")


WATCHING = (
    "for unit in path timer; do systemctl is-active mirror-certificate-provided.$unit || true;"
    " systemctl is-enabled mirror-certificate-provided.$unit || true; done"
)


@dataclass
class Story:
    certificates: dict = field(default_factory=dict)  # by moment and host
    states: dict = field(default_factory=dict)
    refusals: dict = field(default_factory=dict)
    changed: dict = field(default_factory=dict)


@pytest.fixture(scope="module")
def story(role):
    told, hosts = Story(), list(role.hosts.values())

    def look(moment, outcome=None):
        told.certificates[moment] = {host.name: served(host) for host in hosts}
        told.states[moment] = {host.name: host.shell.check_output(STATE) for host in hosts}
        told.changed[moment] = outcome and outcome.changed

    def keep(moment, pairs):
        for host in hosts:
            operator_keeps(host, *pairs[host.name])
        told.states[f"before {moment}"] = {host.name: host.shell.check_output(STATE) for host in hosts}

    def refuse(moment, pairs):
        keep(moment, pairs)
        told.refusals[moment] = role.play(tls_mode="provided", **PAIR)
        look(moment)

    for host in hosts:
        # As the package of node_exporter makes it.
        host.shell.check_output("mkdir -p /var/lib/prometheus/node-exporter; systemctl start probe.service")
    look("first")

    # Its end is nearer than asked for; meanwhile somebody was careless with the key.
    for host in hosts:
        host.shell.check_output(
            "cd /etc/mirrorfleet/tls/private_ca; chmod 0644 privkey.pem; chown mirror privkey.pem"
        )
    look("renewed", role.converge(tls_renew_days=91))

    names = {host.name: (f"{host.name}.fleet.test", "*.mirrors.fleet.test") for host in hosts}
    good = {name: pair(*of) for name, of in names.items()}
    refuse(
        "unusable",
        {
            "debian-13": (good["debian-13"][0], good["debian-12"][1]),  # another key
            "debian-12": pair("debian-12.fleet.test"),  # one name of two
        },
    )
    refuse(
        "unreadable",
        {
            "debian-13": pair(*names["debian-13"], days=-1),  # expired
            "debian-12": ("no certificate", "no key"),
        },
    )
    keep("provided", good)
    look("provided", role.converge(tls_mode="provided", **PAIR))

    # Renewed by the operator, who tells nobody; then by somebody who forgot the key.
    renewed = {name: pair(*of) for name, of in names.items()}
    begun = time.monotonic()
    keep("renewed by the operator", renewed)
    for host in hosts:
        wanted = x509.load_pem_x509_certificate(renewed[host.name][0].encode())
        while served(host) != wanted and time.monotonic() < begun + 100:
            time.sleep(0.5)
    look("renewed by the operator")
    keep("forgotten", {name: (pair(*of)[0], renewed[name][1]) for name, of in names.items()})
    for host in hosts:
        # It refuses the pair, and ends as failed.
        host.shell.check_output("systemctl start mirror-certificate@provided.service || true")
        host.shell.check_output("systemctl restart probe.service")
    look("forgotten")
    for host in hosts:
        told.states[f"metrics {host.name}"] = host.shell.check_output(
            "cat /var/lib/prometheus/node-exporter/mirrorfleet_provided.prom"
        )
        told.states[f"units {host.name}"] = host.shell.check_output(WATCHING)
    keep("mended", renewed)

    # Back; and what was the host's own certificate has rotted meanwhile.
    for host in hosts:
        host.shell.check_output("echo rotten >/etc/mirrorfleet/tls/private_ca/fullchain.pem")
    look("back", role.converge())
    for host in hosts:
        told.states[f"units {host.name} back"] = host.shell.check_output(WATCHING)
    return told


def operators_files(state):
    return [line for line in state.splitlines() if line.startswith("/etc/operator")]


def names_of(certificate):
    return certificate.extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    ).value.get_values_for_type(x509.DNSName)


def days_left(certificate):
    return (certificate.not_valid_after_utc - datetime.datetime.now(datetime.UTC)) / DAY


def test_the_fleets_authority_certifies_the_hosts_names(story, me, scenario):
    certificate = story.certificates["first"][me.name]
    assert names_of(certificate) == [f"{me.name}.fleet.test", f"{me.name}.mirrors.fleet.test"]
    assert 89 < days_left(certificate) < 90.1
    authority = x509.load_pem_x509_certificate((scenario.dir / "authority/ca.pem").read_bytes())
    certificate.verify_directly_issued_by(authority)
    assert not certificate.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign


def test_other_hosts_trust_it_by_each_of_its_names(story, me, other):
    """By what they trust anyway, which Python and everything else on Debian reads."""
    ask = (
        "import socket, ssl, sys; tls = ssl.create_default_context();"
        "tls.wrap_socket(socket.create_connection((sys.argv[1], 8443)), server_hostname=sys.argv[2]).do_handshake()"
    )
    for name in (f"{me.name}.fleet.test", f"{me.name}.mirrors.fleet.test"):
        other.shell.check_output("python3 -c %s %s %s", ask, me.ipv4, name)
    wrong = other.shell.run("python3 -c %s %s %s", ask, me.ipv4, "origin.fleet.test")
    assert wrong.failed and "CERTIFICATE_VERIFY_FAILED" in wrong.stderr


def test_the_key_is_the_hosts_own_and_roots_only(story, me, host, scenario):
    assert (
        host.check_output("stat --dereference -c '%U %G %a' /etc/mirrorfleet/tls/privkey.pem")
        == "root root 600"
    )
    assert host.run("runuser -u mirror -- cat /etc/mirrorfleet/tls/privkey.pem").failed
    keys = [story.certificates["first"][name].public_key().public_numbers() for name in scenario.hosts]
    assert keys[0] != keys[1]


def test_no_key_but_the_authoritys_is_on_the_control_node(story, host, scenario):
    key = host.file("/etc/mirrorfleet/tls/private_ca/privkey.pem").content_string
    assert "PRIVATE KEY" in key
    secret = key.splitlines()[1].encode()
    holding = [file for file in scenario.dir.rglob("*") if file.is_file() and secret in file.read_bytes()]
    assert holding == []


def test_the_mirrors_user_can_read_the_certificate(story, host):
    """It reports when it ends."""
    assert "BEGIN CERTIFICATE" in host.check_output(
        "runuser -u mirror -- cat /etc/mirrorfleet/tls/fullchain.pem"
    )


def test_a_certificate_near_its_end_is_renewed_and_used_at_once(story, me):
    first, renewed = story.certificates["first"][me.name], story.certificates["renewed"][me.name]
    assert renewed.serial_number != first.serial_number
    assert renewed.public_key() == first.public_key()
    assert "private_ca/privkey.pem f  600 root root" in story.states["renewed"][me.name]


@pytest.mark.parametrize(
    ("moment", "words"),
    [
        ("unusable", {"debian-13": "does not fit the key", "debian-12": "covers debian-12.fleet.test until"}),
        ("unreadable", {"debian-13": "last another day", "debian-12": "both in PEM"}),
    ],
)
def test_an_unusable_pair_is_refused_and_nothing_is_changed(story, me, moment, words):
    outcome = story.refusals[moment]
    assert outcome.code != 0
    assert outcome.changed[me.name] == 0
    said = " ".join(outcome.said.split())
    assert f"{me.name}: " in said and words[me.name] in said and "the certificate in use is untouched" in said
    assert story.states[moment][me.name] == story.states[f"before {moment}"][me.name]
    assert story.certificates[moment][me.name] == story.certificates["renewed"][me.name]


def test_a_provided_pair_is_used_where_it_is(story, me):
    certificate = story.certificates["provided"][me.name]
    assert names_of(certificate) == [f"{me.name}.fleet.test", "*.mirrors.fleet.test"]
    kept = operators_files(story.states["before provided"][me.name])
    assert kept and operators_files(story.states["provided"][me.name]) == kept


def test_a_pair_that_the_operator_renewed_is_used_within_minutes(story, me):
    renewed = story.certificates["renewed by the operator"][me.name]
    assert renewed != story.certificates["provided"][me.name]
    assert renewed.issuer == story.certificates["provided"][me.name].issuer
    assert story.states[f"units {me.name}"].split() == ["active", "enabled"] * 2


def test_a_pair_that_does_not_fit_leaves_the_former_in_use_and_is_told(story, me):
    """On disk too: the server was started anew since."""
    assert story.certificates["forgotten"][me.name] == story.certificates["renewed by the operator"][me.name]
    told = story.states[f"metrics {me.name}"].splitlines()
    assert "mirrorfleet_provided_refused 1" in told
    ends = story.certificates["forgotten"][me.name].not_valid_after_utc.timestamp()
    assert f"mirrorfleet_provided_certificate_expiry_timestamp_seconds {ends:.0f}" in told


def test_another_mode_no_longer_watches_the_operators_files(story, me, host):
    assert "active" not in story.states[f"units {me.name} back"].replace("inactive", "").split()
    assert not host.file("/etc/mirrorfleet/tls/provided.json").exists
    assert not host.file("/var/lib/prometheus/node-exporter/mirrorfleet_provided.prom").exists


def test_back_to_the_authority_it_is_the_hosts_own_key_again(story, me):
    back = story.certificates["back"][me.name]
    assert back.public_key() == story.certificates["first"][me.name].public_key()
    assert names_of(back) == names_of(story.certificates["first"][me.name])
    kept = operators_files(story.states["provided"][me.name])
    assert operators_files(story.states["back"][me.name]) == kept
