"""Certificates from a real ACME server (pebble), on hosts whose nginx serves them: issue, renewal, ways to fail.

The story is played once, on both hosts side by side; each test looks at one moment of it on one host.
"""

import concurrent.futures
import contextlib
import json
import re
import shlex
import socket
import ssl
import threading
import time
from dataclasses import dataclass, field

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

SERVER = "https://authority.fleet.test"
PLAIN, BOUND, BRIEF, LIMITED, NOBODY = (
    f"{SERVER}:{port}/dir" for port in (14000, 14001, 14002, 14003, 14999)
)
SECRET = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"
WRONG = "AAAAZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"
METRICS = "/var/lib/prometheus/node-exporter/mirrorfleet_acme.prom"

# Changes the configuration, runs the unit and says all that followed from it, in one step.
ACT = r"""
import json, os, subprocess, sys, time
verb, changes, before = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
path = "/etc/mirrorfleet/tls/acme.json"
if changes:
    config = json.load(open(path))
    config.update(changes)
    json.dump(config, open(path, "w"))
def sh(command):
    return subprocess.run(["sh", "-c", command], capture_output=True, text=True)
prepared = sh(before)
unit = f"mirror-certificate@{verb}.service"
cursor = sh("journalctl -n 1 --show-cursor | sed -n 's/-- cursor: //p'").stdout.strip()
code = sh(f"systemctl start {unit}").returncode if verb else 0
said = sh(f"journalctl --sync; journalctl --unit {unit} --output cat --after-cursor '{cursor}'").stdout if verb else ""
def text(path):
    return open(path).read() if os.path.exists(path) else ""
print(json.dumps({
    "prepared": prepared.stdout + prepared.stderr, "code": code, "said": said,
    "state": json.loads(text("/var/lib/mirror-certificate/state.json") or "{}"), "metrics": text("METRICS"),
    "chain": text("/etc/mirrorfleet/tls/fullchain.pem"),
    "files": sh("cd /etc/mirrorfleet/tls && find . -printf '%p %y %l %m %u %g\n' | sort").stdout,
    "timer": [sh(f"systemctl {what} mirror-certificate.timer").stdout.strip() for what in ("is-active", "is-enabled")],
    "nginx": sh("systemctl show --property MainPID --value nginx.service").stdout.strip(),
    "challenges": os.listdir("/var/www/acme/.well-known/acme-challenge"),
}))
""".replace("METRICS", METRICS)


CLOCK = "/run/systemd/system/mirror-certificate@now.service.d"
OFF_FOR_A_MONTH = """
systemctl stop mirror-certificate.timer
touch -d '30 days ago' /var/lib/systemd/timers/stamp-mirror-certificate.timer
former=$(readlink /etc/mirrorfleet/tls/acme/current)
systemctl start mirror-certificate.timer
for _ in $(seq 200); do
    [ "$(readlink /etc/mirrorfleet/tls/acme/current)" != "$former" ] && break
    sleep 0.1
done
systemctl start mirror-certificate@renew.service
"""
FORGET = """
systemctl restart pebble@plain.service
for _ in $(seq 200); do
    ss --listening --numeric --tcp | grep -q ':14000 ' && break
    sleep 0.1
done
"""
REVOKE = "mirror-certificate revoke 2>&1 && mirror-certificate revoke 2>&1"  # twice: the second finds it done
# A responder of the ACME server's own authority, which says what was revoked (RFC 6960).
RESPONDER = """
mkdir -p /root/ocsp && cd /root/ocsp
curl -ksSf -o ca.pem https://127.0.0.1:15000/intermediates/0
curl -ksSf -o key.pem https://127.0.0.1:15000/intermediate-keys/0
for serial in REVOKED; do
    printf 'R\\t491231235959Z\\t260101000000Z\\t%s\\tunknown\\t/CN=mirror\\n' "$serial"
done >index.txt
systemd-run --unit responder --working-directory /root/ocsp openssl ocsp -port 14080 -index index.txt \\
    -CA ca.pem -rsigner ca.pem -rkey key.pem -ndays 1
"""
PROVIDE = """
mkdir -p /etc/operator && cd /etc/operator
openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 30 -subj /CN=operator \\
    -addext subjectAltName=DNS:mirror-NUMBER.fleet.test,DNS:files-NUMBER.fleet.test
"""


@dataclass
class Moment:
    """A host after something was done: what its clients are shown, and what it says of itself."""

    certificate: x509.Certificate
    prepared: str = ""
    code: int = 0
    said: str = ""
    state: dict = field(default_factory=dict)
    metrics: str = ""
    files: str = ""
    timer: list = field(default_factory=list)
    nginx: str = ""
    challenges: list = field(default_factory=list)

    @property
    def names(self):
        extension = self.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        return set(extension.value.get_values_for_type(x509.DNSName))

    def metric(self, name):
        found = re.search(rf"^mirrorfleet_acme_{name} ([0-9]+)$", self.metrics, re.MULTILINE)
        return int(found[1]) if found else None


def number(host):
    return host.name.removeprefix("debian-")


def served(host):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection((host.ipv4, 443), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname=f"mirror-{number(host)}.fleet.test") as tls,
    ):
        return x509.load_der_x509_certificate(tls.getpeercert(binary_form=True))


def settled(host, chain):
    """What is served once workers of a former configuration have gone, which a busy machine may take a while for."""
    wanted = x509.load_pem_x509_certificate(chain.encode())
    for _ in range(100):
        found = served(host)
        if found == wanted:
            break
        time.sleep(0.1)
    return found


class Clients:
    """Clients that ask for a page all the time, on a new connection each."""

    def __init__(self, host):
        self.host, self.answers, self.failures = host, 0, []
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(2)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self):
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        name = f"mirror-{number(self.host)}.fleet.test"
        while not self._over.wait(0.02):
            try:
                with (
                    socket.create_connection((self.host.ipv4, 443), timeout=20) as plain,
                    context.wrap_socket(plain, server_hostname=name) as tls,
                ):
                    tls.sendall(f"GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
                    answer = b""
                    while part := tls.recv(4096):
                        answer += part
                assert answer.startswith(b"HTTP/1.1 200") and answer.endswith(
                    b"NAME\nIts state: https://%s/mirror.json\n" % name.encode()
                )
                self.answers += 1
            except (OSError, AssertionError) as error:
                self.failures.append(repr(error))


@dataclass
class Story:
    moments: dict = field(default_factory=dict)  # by name and host
    plays: dict = field(default_factory=dict)
    clients: dict = field(default_factory=dict)


@pytest.fixture(scope="session")
def story(scenario):
    told = Story()
    hosts = [host for host in scenario.hosts.values() if host.name != "authority"]
    authority = scenario.hosts["authority"].shell

    def act(moment, verb="", before="true", **changes):
        """One thing on both hosts at once; a change may depend on the host."""

        def on(host):
            own = {key: value(host) if callable(value) else value for key, value in changes.items()}
            done = json.loads(
                host.shell.check_output("python3 -c %s %s %s %s", ACT, verb, json.dumps(own), before)
            )
            return Moment(settled(host, done.pop("chain")), **done)

        with concurrent.futures.ThreadPoolExecutor(len(hosts)) as pool:
            told.moments[moment] = dict(zip([host.name for host in hosts], pool.map(on, hosts), strict=True))

    def play(moment, *arguments, **variables):
        told.plays[moment] = scenario.play(*arguments, playbook="certificate.yml", **variables)
        act(moment)

    act("first")
    act("not due", "renew")
    told.clients = {host.name: Clients(host) for host in hosts}
    with contextlib.ExitStack() as stack:
        for clients in told.clients.values():
            stack.enter_context(clients)
        act("forced", "force")

    act("rsa", "now", key_type="rsa")
    binding = {"tls_acme_directory": BOUND, "tls_acme_eab_key_id": "contract-1"}
    play("wrong binding", tls_acme_eab_hmac=WRONG, **binding)
    play("bound", "-vvv", "--diff", tls_acme_eab_hmac=SECRET, **binding)

    # From here on the certificate lasts for seconds, and each attempt to replace it fails.
    unbound = {"eab_key_id": "", "eab_hmac": ""}
    act("brief", "now", directory=BRIEF, **unbound)
    act("server down", "now", directory=NOBODY)
    act("again too early", "renew")
    act("no binding", "now", directory=BOUND)
    act("no ACME server", "now", directory=f"{SERVER}:15000/roots/0")
    nowhere = {"names": lambda host: [f"nosuch-{number(host)}.fleet.test"]}
    act("not in DNS", "now", directory=PLAIN, **nowhere)
    # The other host's nginx answers for its own names only.
    act("another host", "now", names=lambda host: [f"mirror-{25 - int(number(host))}.fleet.test"])
    own = {"names": lambda host: [f"{kind}-{number(host)}.fleet.test" for kind in ("mirror", "files")]}
    closed = "nft insert rule inet mirrorfleet input tcp dport 80 reject with tcp reset"
    closed = "nft insert rule inet mirrorfleet input tcp dport 80 reject with tcp reset"
    leftover = "echo left >/var/www/acme/.well-known/acme-challenge/over"
    act("unreachable", "now", f"{closed}; {leftover}", **own)
    # One order a minute: this takes it away.
    act("limit used up", "now", "systemctl reload nftables", directory=LIMITED, **nowhere)
    act("limited", "now")
    act("clock ahead", "now", clock("+400d"), directory=PLAIN, **own)
    act("clock behind", "now", clock("-400d"))

    # The host comes back after a month: its timer has missed its time, and its certificate is over.
    ends = max(moment.certificate.not_valid_after_utc for moment in told.moments["brief"].values())
    time.sleep(max(0, min(30, ends.timestamp() + 1 - time.time())))
    act("expired", before=f"rm -r {CLOCK}; systemctl daemon-reload")
    act("back after a month", before=f"{noted(30)}\n{OFF_FOR_A_MONTH}")
    authority.check_output(FORGET)
    act("forgotten account", "force")
    act("revoked", "renew", f"{REVOKE}\n{noted(1)}")
    revoked = [f"{found.certificate.serial_number:X}" for found in told.moments["revoked"].values()]
    authority.check_output("sh -ec %s", RESPONDER.replace("REVOKED", " ".join(revoked)))
    act("revoked, and said so by OCSP", "renew", noted(1))
    authority.check_output("systemctl stop responder")
    act("revoked and forced", "force")
    act("broken nginx", "force", "echo broken >/etc/nginx/sites-enabled/broken")
    act("mended nginx", "now", "rm /etc/nginx/sites-enabled/broken")

    play("private_ca", tls_mode="private_ca")
    play("acme again")
    for host in hosts:
        host.shell.check_output(PROVIDE.replace("NUMBER", number(host)))
    pair = {
        "tls_provided_certificate": "/etc/operator/cert.pem",
        "tls_provided_key": "/etc/operator/key.pem",
    }
    play("provided", tls_mode="provided", **pair)
    play("taken over", tls_acme_key_type="rsa")
    # A pair that cannot be used takes nothing away.
    play("unusable", tls_mode="provided", **(pair | {"tls_provided_key": "/etc/operator/none.pem"}))
    play("checked", "--check", "--diff", tls_acme_key_type="rsa")
    return told


def clock(offset):
    """A wrong clock for the unit alone; containers share the machine's."""
    environment = f"LD_PRELOAD=/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1 FAKETIME={offset}"
    return (
        f"mkdir -p {CLOCK}; printf '[Service]\\nEnvironment={environment}\\n' >{CLOCK}/clock.conf;"
        "systemctl daemon-reload"
    )


def noted(days):
    """What the unit notes, as it would be after so many days without a run."""
    change = (
        "import json, time; path = '/var/lib/mirror-certificate/state.json'; state = json.load(open(path));"
        f"state['next'] = time.time() - {days} * 86400; json.dump(state, open(path, 'w'))"
    )
    return f"python3 -c {shlex.quote(change)}"


# --- what the host is asked for ---


def test_the_first_certificate_is_for_all_names_and_by_ecdsa(story, me):
    first = story.moments["first"][me.name]
    assert first.names == {f"mirror-{number(me)}.fleet.test", f"files-{number(me)}.fleet.test"}
    assert isinstance(first.certificate.public_key(), ec.EllipticCurvePublicKey)
    assert "Pebble Intermediate" in first.certificate.issuer.rfc4514_string()
    assert first.timer == ["active", "enabled"]
    assert first.challenges == []
    assert "./acme/placeholder d" in first.files  # which nginx started with


def test_nothing_is_renewed_before_it_is_due(story, me):
    quiet = story.moments["not due"][me.name]
    assert quiet.certificate == story.moments["first"][me.name].certificate
    assert (quiet.code, quiet.state["failures"]) == (0, 0)


def test_a_forced_renewal_has_a_new_key_and_loses_no_request(story, me):
    former, forced = story.moments["not due"][me.name], story.moments["forced"][me.name]
    assert forced.code == 0, forced.said
    assert forced.certificate.serial_number != former.certificate.serial_number
    assert forced.certificate.public_key() != former.certificate.public_key()
    assert forced.nginx == former.nginx  # reloaded, not restarted
    clients = story.clients[me.name]
    assert clients.failures == []
    assert clients.answers > 20


def test_rsa_on_request(story, me):
    key = story.moments["rsa"][me.name].certificate.public_key()
    assert isinstance(key, rsa.RSAPublicKey) and key.key_size == 2048


def test_an_authority_with_contracts(story, me):
    """External account binding: a wrong key is told by the play, the right one is enough, and nothing shows it."""
    wrong, bound = story.plays["wrong binding"], story.plays["bound"]
    said = " ".join(wrong.said.split())
    assert wrong.code != 0
    assert f"{me.name}: mirror-certificate@now.service failed" in said
    assert "external account binding JWS verification error" in said
    assert "Compare tls_acme_eab_key_id and tls_acme_eab_hmac" in said
    assert "The certificate in use stays, until" in said
    former = story.moments["rsa"][me.name]
    assert story.moments["wrong binding"][me.name].certificate == former.certificate
    assert bound.code == 0, bound.said
    assert story.moments["bound"][me.name].certificate != former.certificate
    for play in (wrong, bound):
        assert SECRET not in play.said and WRONG not in play.said


# --- secrets and privileges ---


def test_keys_and_the_binding_are_roots_only(story, me, host):
    for moment in story.moments.values():
        for line in moment[me.name].files.splitlines():
            if line.split()[0].endswith(("privkey.pem", "acme.json")) and line.split()[1] == "f":
                assert line.endswith("600 root root"), line
    assert host.run("runuser -u mirror-acme -- cat /etc/mirrorfleet/tls/privkey.pem").failed
    assert host.run("runuser -u www-data -- ls /var/lib/mirror-certificate/client").failed
    keys = host.check_output("cat /etc/mirrorfleet/tls/acme/*/privkey.pem").splitlines()
    journal = host.check_output("journalctl --output cat --boot")
    for secret in [SECRET, WRONG, *(line for line in keys if not line.startswith("-"))]:
        assert secret not in journal


def test_the_unit_can_write_to_its_own_places_only(host, confined):
    unit = "mirror-certificate@now.service"
    assert confined(
        unit, "touch /etc/mirrorfleet/tls/acme/tried && rm /etc/mirrorfleet/tls/acme/tried"
    ).succeeded
    for place in ("/etc/tried", "/etc/nginx/tried", "/usr/local/sbin/tried", "/srv/tried", "/root/tried"):
        assert confined(unit, f"touch {place}").failed, place


# --- failures: the certificate in use stays, the reason is told, the next attempt waits ---

FAILURES = {
    "server down": ["Connection refused", "can be reached from this host"],
    "no binding": ["wants an external account binding", "Set tls_acme_eab_key_id and tls_acme_eab_hmac"],
    "no ACME server": ["it is no ACME server", "tls_acme_directory has to be the URL"],
    "not in DNS": ["no such host", "Give the name an address"],
    "another host": ["urn:ietf:params:acme:error:unauthorized", "leads to another server"],
    "unreachable": ["urn:ietf:params:acme:error:connection", "port 80 has to be open"],
    "limited": ["urn:ietf:params:acme:error:rateLimited", "The authority's limit is reached"],
    "clock ahead": ["certificate has expired", "this host's clock is right"],
    "clock behind": ["certificate is not yet valid", "this host's clock is right"],
}


@pytest.mark.parametrize("moment", FAILURES)
def test_a_failure_says_why_and_keeps_the_certificate(story, me, moment):
    failure, before = story.moments[moment][me.name], story.moments["brief"][me.name]
    assert failure.code != 0
    for words in FAILURES[moment]:
        assert words in failure.said, failure.said
    assert "It is tried again by itself after" in failure.said
    assert failure.certificate == before.certificate
    assert failure.nginx == before.nginx
    assert failure.challenges == []
    assert failure.metric("failures") == failure.state["failures"] > 0
    if moment != "clock behind":  # whose failures lie in the past
        assert failure.metric("last_failure_timestamp_seconds") >= failure.metric(
            "last_success_timestamp_seconds"
        )
    assert failure.metric("certificate_expiry_timestamp_seconds") == int(
        before.certificate.not_valid_after_utc.timestamp()
    )


def test_the_timer_waits_after_a_failure(story, me):
    failure, waits = story.moments["server down"][me.name], story.moments["again too early"][me.name]
    assert waits.code == 0
    assert waits.state == failure.state
    assert failure.state["next"] - failure.state["last_attempt"] >= 3600


def test_a_limit_that_says_until_when_is_kept_for_a_week_at_most(story, me):
    state = story.moments["limited"][me.name].state
    assert 7 < (state["next"] - state["last_failure"]) / 86400 < 9


# --- what goes wrong by itself, and mends itself ---


def test_a_host_that_was_off_for_a_month_renews_when_it_comes_back(story, me):
    expired, back = story.moments["expired"][me.name], story.moments["back after a month"][me.name]
    assert expired.certificate == story.moments["brief"][me.name].certificate
    assert expired.certificate.not_valid_after_utc.timestamp() < back.state["last_attempt"]
    assert back.certificate != expired.certificate
    assert back.metric("failures") == 0
    assert back.metric("last_success_timestamp_seconds") >= back.metric("last_failure_timestamp_seconds")
    assert back.timer == ["active", "enabled"]


def test_an_account_that_the_server_has_forgotten_is_made_again(story, me):
    forgotten = story.moments["forgotten account"][me.name]
    assert forgotten.code == 0
    assert "has forgotten the account" in forgotten.said
    assert forgotten.certificate != story.moments["back after a month"][me.name].certificate


def test_a_revoked_certificate_is_replaced(story, me):
    """By itself where the client asks for renewal information: uacme 1.7.6 does, 1.7.4 of Debian 12 does not; and
    on both where the authority runs OCSP."""
    before, revoked = story.moments["forgotten account"][me.name], story.moments["revoked"][me.name]
    assert revoked.prepared.count("is revoked.") == 2, revoked.prepared
    assert revoked.code == 0
    assert (revoked.certificate != before.certificate) == (me.name == "debian-13"), revoked.said
    by_ocsp = story.moments["revoked, and said so by OCSP"][me.name]
    assert by_ocsp.code == 0, by_ocsp.said
    assert by_ocsp.certificate not in {before.certificate, revoked.certificate}, by_ocsp.said
    assert story.moments["revoked and forced"][me.name].certificate != before.certificate


def test_a_configuration_that_nginx_refuses_keeps_the_former_certificate(story, me):
    before, broken, mended = (
        story.moments[moment][me.name] for moment in ("revoked and forced", "broken nginx", "mended nginx")
    )
    assert broken.code != 0
    assert (
        "nginx refuses its configuration" in broken.said and "/etc/nginx/sites-enabled/broken" in broken.said
    )
    assert broken.certificate == before.certificate
    assert broken.nginx == before.nginx
    link = next(line for line in before.files.splitlines() if line.startswith("./acme/current "))
    assert link in broken.files  # after a restart as well
    # What was issued meanwhile comes into use; no further one is ordered.
    assert mended.code == 0, mended.said
    assert mended.certificate != before.certificate
    assert "asked for" not in mended.said


# --- from mode to mode ---


def test_from_acme_to_the_fleets_own_authority_and_to_a_provided_pair(story, me):
    own, provided = story.moments["private_ca"][me.name], story.moments["provided"][me.name]
    assert story.plays["private_ca"].code == story.plays["provided"].code == 0
    assert "mirrorfleet private CA" in own.certificate.issuer.rfc4514_string()
    assert provided.certificate.issuer.rfc4514_string() == "CN=operator"
    for moment in (own, provided):
        assert moment.timer == ["inactive", "disabled"]
        assert "acme.json" not in moment.files and moment.metrics == ""
        assert moment.nginx == story.moments["mended nginx"][me.name].nginx


def test_back_to_acme_the_certificate_of_before_is_used_again(story, me):
    again = story.moments["acme again"][me.name]
    assert story.plays["acme again"].code == 0, story.plays["acme again"].said
    assert again.certificate == story.moments["mended nginx"][me.name].certificate
    assert again.timer == ["active", "enabled"]


def test_a_host_that_has_a_certificate_is_taken_over(story, me):
    """It keeps serving what it has until there is one from the ACME server."""
    taken = story.moments["taken over"][me.name]
    assert story.plays["taken over"].code == 0, story.plays["taken over"].said
    assert isinstance(taken.certificate.public_key(), rsa.RSAPublicKey)
    assert "Pebble Intermediate" in taken.certificate.issuer.rfc4514_string()
    assert taken.nginx == story.moments["provided"][me.name].nginx


def test_a_change_of_mode_that_fails_leaves_the_renewal_alone(story, me):
    taken, unusable = story.moments["taken over"][me.name], story.moments["unusable"][me.name]
    assert story.plays["unusable"].code != 0
    assert story.plays["unusable"].changed[me.name] == 0
    assert unusable.certificate == taken.certificate
    assert (unusable.files, unusable.timer) == (taken.files, ["active", "enabled"])


def test_check_mode_finds_nothing_to_do(story, me):
    assert story.plays["checked"].code == 0, story.plays["checked"].said
    assert story.plays["checked"].changed[me.name] == 0, story.plays["checked"].said


def test_only_the_pair_in_use_and_its_predecessor_are_kept(story, me):
    folders = re.findall(r"^\./acme/([^/ ]+) d", story.moments["checked"][me.name].files, re.MULTILINE)
    assert len(folders) <= 2, folders
