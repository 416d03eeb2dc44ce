"""The fleet's web site as the world sees it, and the list of mirrors on it through holds, failures and harm."""

import http.client
import json
import re
import socket
import ssl
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import jsonschema
import pytest

NAME = "redirector.fleet.test"
SCHEMA = json.loads((Path(__file__).parents[3] / "docs/schemas/mirrors.schema.json").read_text())
DOCUMENTS = (
    "feed.atom", "icon.svg", "index.html", "metrics-targets.json", "mirrors-ipv4.txt", "mirrors-ipv6.txt",
    "mirrors.json", "mirrors.pub", "mirrors.schema.json", "mirrors.txt", "mirrors.zone", "pip.conf",
    "probe-targets.json", "sort.js", "style.css", "uv.toml",
)  # fmt: skip
LISTS = ("mirrors.txt", "mirrors-ipv4.txt", "mirrors-ipv6.txt")


def connect(address, port=443, name=NAME):
    plain = socket.create_connection((address, port), timeout=20)
    if port == 80:
        return plain
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(plain, server_hostname=name)


def request(address, path, method="GET", port=443, sni=NAME, **headers):
    connection = http.client.HTTPConnection(address, port)
    connection.sock = connect(address, port, sni)
    connection.request(method, path, headers={"Host": NAME, **headers})
    response = connection.getresponse()
    response.body = response.read()
    connection.close()
    return response


def raw(address, lines, port=443):
    with connect(address, port) as connection:
        connection.sendall(lines)
        return connection.recv(65536)


def signed(host, lists=LISTS):
    """As readers fetch them."""
    return {
        name: [request(host.ipv4, f"/{path}").body for path in (name, f"{name}.minisig")] for name in lists
    }


def holds(bodies, public, folder):
    """Whether the stock program finds each signature to be over its list and by that key."""
    codes = []
    for document, signature in bodies.values():
        (folder / "list").write_bytes(document)
        (folder / "signature").write_bytes(signature)
        command = ["minisign", "-V", "-q", "-p", public, "-m", folder / "list", "-x", folder / "signature"]
        codes.append(subprocess.run(command, check=False, capture_output=True).returncode)
    return not any(codes)


@dataclass
class Story:
    lists: dict = field(default_factory=dict)  # mirrors.json by moment and host
    outcomes: dict = field(default_factory=dict)
    holders: dict = field(default_factory=dict)  # what is known of who holds one, by moment and host
    signed: dict = field(default_factory=dict)  # each list in text and its signature, by moment and host


@pytest.fixture(scope="session")
def story(scenario):
    told, hosts = Story(), scenario.hosts.values()

    def play(moment, **variables):
        outcome = scenario.play(playbook="list.yml", **variables)
        told.outcomes[moment] = outcome
        told.lists[moment] = {
            host.name: json.loads(request(host.ipv4, "/mirrors.json").body) for host in hosts
        }
        told.signed[moment] = {host.name: signed(host) for host in hosts}
        told.holders[moment] = {
            host.name: host.shell.run("cd /var/lib/mirrorfleet/held-by && stat -c %a . one && cat one").stdout
            for host in hosts
        }

    play("first", entries=["publish", "publish"])
    play("held", entries=["hold", "publish"])
    play("all dead", entries=["release", "publish"], well=[])
    play("forced", well=[], ask_force=True)
    for host in hosts:
        host.shell.check_output(
            "cd /srv/redirector/list; echo '{ rotten' >mirrors.json; rm index.html; chown www-data ."
        )
    scenario.converge(list_key="second")
    play("back", well=["one"], list_key="second")
    return told


def entries(document):
    return {mirror["name"]: (mirror["listed"], mirror["reason"]) for mirror in document["mirrors"]}


# --- the list ---


def test_the_list_tells_who_was_well(story, me):
    assert story.outcomes["first"].code == 0
    document = story.lists["first"][me.name]
    jsonschema.validate(document, SCHEMA)
    assert entries(document) == {"one": (True, ""), "two": (True, "")}
    assert document["mirrors"][0]["serial"] == 7
    assert "email" not in json.dumps(document)


def test_publishing_again_changes_nothing(story, me):
    """The first play published twice: once the registry and signatures came and the list was made, on each host."""
    assert story.outcomes["first"].changed == dict.fromkeys(story.lists["first"], 3)


def test_a_held_mirror_is_off_the_list_whatever_it_was_seen_to_do(story, me):
    assert story.outcomes["held"].code == 0
    document = story.lists["held"][me.name]
    jsonschema.validate(document, SCHEMA)
    assert entries(document) == {"one": (False, "held: wird gerade erneuert: ü <i>"), "two": (True, "")}


def test_who_holds_is_for_root_alone_and_forgotten_with_the_hold(story, me):
    assert story.holders["held"][me.name] == "700\n600\nanna on laptop\n"
    assert "anna" not in json.dumps(story.lists["held"][me.name])
    assert "anna" not in story.holders["all dead"][me.name]


def test_a_list_that_would_lose_all_its_mirrors_is_refused(story, me):
    outcome = story.outcomes["all dead"]
    assert outcome.code != 0
    assert "the list would become empty" in outcome.said and "connection refused" in outcome.said
    assert story.lists["all dead"] == story.lists["held"]


def test_a_forced_list_may_be_empty(story, me):
    assert story.outcomes["forced"].code == 0
    document = story.lists["forced"][me.name]
    jsonschema.validate(document, SCHEMA)
    why = "connection over ipv6: connection refused"
    assert entries(document) == {
        "one": (False, why),
        "two": (False, why),
    }  # and the release was not forgotten


def test_publishing_repairs_what_was_tampered_with(story, me, host):
    assert story.outcomes["back"].code == 0
    assert entries(story.lists["back"][me.name])["one"] == (True, "")
    found = host.check_output("cd /srv/redirector/list; stat -c '%n %U %G %a' . *").splitlines()
    ours = "fleet-list fleet-list"
    names = [*DOCUMENTS, *(f"{name}.minisig" for name in LISTS)]
    assert sorted(found) == sorted(
        [f". {ours} 755", f"mirror {ours} 755", *(f"{name} {ours} 644" for name in names)]
    )


def test_the_documents_agree(story, me):
    assert request(me.ipv4, "/mirrors.txt").body == b"https://one.fleet.test/simple/\n"
    assert request(me.ipv4, "/mirrors-ipv6.txt").body == b"https://one.fleet.test/simple/\n"
    page = request(me.ipv4, "/").body.decode()
    assert "1 of 2 mirrors are listed" in page
    assert "&lt;b&gt;Volunteer&lt;/b&gt;" in page and "<b>Volunteer" not in page
    assert "Test &amp; &lt;fleet&gt;" in page
    assert json.loads(request(me.ipv4, "/mirrors.schema.json").body) == SCHEMA


# --- signatures; the keys are on the control node ---


def test_publish_signs_what_changed_and_another_key_signs_all(story, me, scenario, tmp_path):
    keys = {"first": "first", "held": "first", "all dead": "first", "forced": "first", "back": "second"}
    for moment, key in keys.items():
        other = next(name for name in keys.values() if name != key)
        bodies = story.signed[moment][me.name]
        assert holds(bodies, scenario.dir / f"{key}.pub", tmp_path), moment
        assert not holds(bodies, scenario.dir / f"{other}.pub", tmp_path), moment
    assert request(me.ipv4, "/mirrors.pub").body == (scenario.dir / "second.pub").read_bytes()


def test_the_secret_key_is_on_no_redirector(story, host, scenario):
    for name in ("first", "second"):
        secret = (scenario.dir / f"{name}.sec").read_text().splitlines()[-1]
        # Such that it is not in this command, which sudo logs.
        pattern = f"[{secret[0]}]{secret[1:]}"
        assert host.run(f"grep -rl '{pattern}' /etc /home /opt /root /srv /tmp /var").stdout == ""


def spoil(host):
    """Garbage, that of other bytes, as a kill between document and signature leaves it, and none."""
    host.check_output(
        "cd /srv/redirector/list && echo garbage >mirrors.txt.minisig"
        " && echo >>mirrors-ipv4.txt && rm mirrors-ipv6.txt.minisig"
    )


def test_what_is_no_signature_is_made_good_by_the_next_run_of_the_unit(story, me, host, scenario, tmp_path):
    """In its sandbox, by what the control node brought."""
    public = scenario.dir / "second.pub"
    spoil(host)
    assert not holds(signed(me), public, tmp_path)
    host.check_output("systemctl restart mirrorfleet-list.service")
    assert holds(signed(me), public, tmp_path)


def test_each_run_of_the_unit_signs_with_a_key_that_is_on_the_host(story, me, host, scenario, tmp_path):
    """Likewise, as redirector_signing.key_on_host has it."""
    config, key = "/etc/mirrorfleet/list.json", "/etc/mirrorfleet/list.sec"
    former = host.file(config).content_string
    document = json.loads(former)
    document["signing"] = {"tool": "minisign", "public_key": document["signing"]["public_key"], "key": key}
    host.check_output("printf %%s %s >%s", (scenario.dir / "second.sec").read_text(), key)
    host.check_output(f"chown fleet-list {key} && chmod 0400 {key}")
    host.check_output("printf %%s %s >%s", json.dumps(document), config)
    spoil(host)
    try:
        host.check_output("systemctl restart mirrorfleet-list.service")
        assert holds(signed(me, ("mirrors.json", *LISTS)), scenario.dir / "second.pub", tmp_path)
    finally:
        host.check_output("printf %%s %s >%s && rm %s", former, config, key)
    host.check_output("systemctl restart mirrorfleet-list.service")
    assert request(me.ipv4, "/mirrors.json.minisig").status == 404


# --- the site ---


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/mirrors.json", "application/json"),
        ("/mirrors.txt", "text/plain; charset=utf-8"),
        ("/mirrors.schema.json", "application/json"),
        ("/feed.atom", "application/atom+xml"),
        ("/style.css", "text/css; charset=utf-8"),
        ("/sort.js", "text/javascript; charset=utf-8"),
    ],
)
def test_documents_have_their_type_and_are_never_stale(story, me, path, kind):
    for address in me.addresses:
        answer = request(address, path)
        assert answer.status == 200
        assert re.sub("; *", "; ", answer.headers["Content-Type"]) == kind
        assert answer.headers["Cache-Control"] == "no-cache"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["Server"] == "nginx"  # and no version
    again = request(me.ipv4, path, **{"If-None-Match": answer.headers["ETag"]})
    assert (again.status, again.body) == (304, b"")
    head = request(me.ipv4, path, "HEAD")
    assert (head.status, head.body, head.headers["ETag"]) == (200, b"", answer.headers["ETag"])


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND"])
def test_other_methods_are_refused(story, me, method):
    assert request(me.ipv4, "/mirrors.json", method).status == 405


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/.git/config",
        "/holds/one",
        "/mirrors.json%00.txt",
        "/nothing.json",
    ],
)
def test_nothing_else_is_served(story, me, path):
    status = int(
        raw(me.ipv4, f"GET {path} HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n".encode()).split()[1]
    )
    assert status in {400, 404}


def test_plain_http_leads_to_https(story, me):
    answer = request(me.ipv4, "/mirrors.json?x=1", port=80)
    assert (answer.status, answer.headers["Location"]) == (301, f"https://{NAME}/mirrors.json?x=1")


def test_the_challenge_of_an_acme_server_is_answered_over_plain_http(story, me, host):
    folder = "/var/www/acme/.well-known/acme-challenge"
    host.check_output(f"mkdir -p {folder} && printf answer >{folder}/token")
    answer = request(me.ipv4, "/.well-known/acme-challenge/token", port=80)
    assert (answer.status, answer.body) == (200, b"answer")
    assert request(me.ipv4, "/.well-known/acme-challenge/other", port=80).status == 404
    assert request(me.ipv4, "/.well-known/acme-challenge/token").status == 404


def test_unknown_names_are_refused(story, me):
    with pytest.raises(ssl.SSLError):
        connect(me.ipv4, name="elsewhere.fleet.test")
    with pytest.raises(ssl.SSLError):
        connect(me.ipv4, name=None)
    assert request(me.ipv4, "/", Host="elsewhere.fleet.test").status == 421
    assert request(me.ipv4, "/", port=80, Host="elsewhere.fleet.test").status == 421


def test_absurd_requests_are_refused(story, me):
    assert raw(me.ipv4, b"\x00\xff\r\n\r\n", port=80).split()[1] == b"400"
    assert request(me.ipv4, "/" + "x" * 20_000).status == 414
    assert request(me.ipv4, "/", Cookie="x" * 40_000).status == 400


def test_nginx_runs_as_its_user_and_only_it_listens(story, host):
    nginx = host.service("nginx")
    assert nginx.is_running and nginx.is_enabled
    master = host.file("/run/nginx.pid").content_string.strip()
    assert set(host.check_output(f"ps --no-headers -o user --ppid {master}").split()) == {"www-data"}
    listening = {line.split()[3] for line in host.check_output("ss -Htln").splitlines()}
    public = {address for address in listening if not re.match(r"127\.|\[::1\]", address)}
    assert {address.rsplit(":", 1)[1] for address in public} == {"22", "80", "443"}


def test_no_client_address_is_kept(story, me, host, scenario):
    ours = f"{scenario.variables['sandbox_ipv4_prefix']}.1"
    assert host.run(f"grep -rF {ours} /var/log/nginx").rc == 1


def test_no_package_restarts_nginx(story, me, host):
    """What unattended-upgrades makes nginx-common and needrestart do, while the configuration is broken."""
    former = host.file("/run/nginx.pid").content_string
    host.check_output("echo 'nonsense;' >/etc/nginx/modules-enabled/99-broken.conf")
    try:
        host.check_output("DEBIAN_FRONTEND=noninteractive dpkg-reconfigure nginx-common")
        assert host.run("/etc/needrestart/restart.d/nginx.service").rc != 0
        assert host.file("/run/nginx.pid").content_string == former
        assert request(me.ipv4, "/mirrors.json").status == 200
    finally:
        host.check_output("rm /etc/nginx/modules-enabled/99-broken.conf")


# --- what goes wrong; last, for the other tests look at an untouched server ---


@pytest.fixture(scope="session")
def mended(story, scenario):
    refused = scenario.play("--extra-vars", "nginx_certificate=/nonexistent.pem", list_key="second")
    answers = {host.name: request(host.ipv4, "/mirrors.json").status for host in scenario.hosts.values()}
    for host in scenario.hosts.values():
        host.shell.check_output(
            "echo 'server_tokens on;' >>/etc/nginx/nginx.conf; systemctl disable --quiet --now nginx"
        )
    scenario.converge(list_key="second")
    return refused, answers


def test_a_configuration_that_nginx_refuses_never_reaches_the_running_server(mended, me):
    refused, answers = mended
    assert refused.code != 0
    assert "nonexistent.pem" in refused.said
    assert answers[me.name] == 200


def test_a_tampered_server_is_repaired(mended, me, host):
    assert host.run("grep -rF -e /nonexistent.pem -e 'server_tokens on' /etc/nginx").rc == 1
    assert host.service("nginx").is_running and host.service("nginx").is_enabled
    assert request(me.ipv4, "/mirrors.json").status == 200
