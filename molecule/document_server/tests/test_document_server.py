"""The fleet's web site as the world sees it: what is served, to whom, and that no mistake stops it."""

import contextlib
import http.client
import json
import re
import socket
import ssl

import pytest

# Another host's client, that finds the name by itself and verifies what it is shown.
BROWSE = """
import json, ssl, sys, urllib.request
context = ssl.create_default_context(cafile="/etc/site/fullchain.pem")
answer = urllib.request.urlopen(sys.argv[1], context=context, timeout=20)
print(json.dumps([answer.geturl(), answer.read().decode()]))
"""


class Site:
    """One host's site, as a bare client meets it."""

    def __init__(self, host, certificate):
        self.host = host
        self.name = f"{host.name}.fleet.test"
        self.tls = ssl.create_default_context(cafile=certificate)

    def connect(self, *, name=None, address=None, port=443):
        plain = socket.create_connection((address or self.host.ipv4, port), timeout=20)
        return plain if port == 80 else self.tls.wrap_socket(plain, server_hostname=name or self.name)

    def request(self, path, method="GET", port=443, address=None, **headers):
        connection = http.client.HTTPConnection(self.host.ipv4, port)
        connection.sock = self.connect(address=address, port=port)
        connection.request(method, path, headers={"Host": self.name, **headers})
        response = connection.getresponse()
        response.body = response.read()
        connection.close()
        return response

    def status(self, request, port=443):
        """Of an answer to these bytes."""
        with self.connect(port=port) as connection:
            connection.sendall(request)
            return int(connection.recv(65536).split()[1])


@pytest.fixture
def site(me, role):
    return Site(me, role.dir / "site/fullchain.pem")


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/mirror/", "text/html; charset=utf-8"),
        ("/data.json", "application/json"),
        ("/list.txt", "text/plain; charset=utf-8"),
        ("/feed.atom", "application/atom+xml"),
        ("/style.css", "text/css; charset=utf-8"),
        ("/sort.js", "text/javascript; charset=utf-8"),
        ("/icon.svg", "image/svg+xml"),
        ("/health.json", "application/json"),
        ("/audits/one.json", "application/json"),
    ],
)
def test_documents_have_their_type_and_are_never_stale(site, me, path, kind):
    for address in me.addresses:
        answer = site.request(path, address=address)
        assert answer.status == 200
        assert re.sub("; *", "; ", answer.headers["Content-Type"]) == kind
        assert answer.headers["Cache-Control"] == "no-cache"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["Server"] == "nginx"  # and no version
    again = site.request(path, **{"If-None-Match": answer.headers["ETag"]})
    assert (again.status, again.body) == (304, b"")
    head = site.request(path, "HEAD")
    assert (head.status, head.body, head.headers["ETag"]) == (200, b"", answer.headers["ETag"])


def test_another_host_is_led_to_https_and_believes_it(me, other):
    said = other.shell.check_output("python3 -c %s %s", BROWSE, f"http://{me.name}.fleet.test/data.json")
    assert json.loads(said) == [f"https://{me.name}.fleet.test/data.json", '{"mirrors": []}\n']


def test_plain_http_leads_to_https(site):
    answer = site.request("/data.json?x=1", port=80)
    assert (answer.status, answer.headers["Location"]) == (301, f"https://{site.name}/data.json?x=1")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND"])
def test_other_methods_are_refused(site, method):
    assert site.request("/data.json", method).status == 405


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/audits/../health.json/../../etc/passwd",
        "/audits../health.json",
        "/.git/config",
        "/data.json%00.txt",
        "/nothing.json",
    ],
)
def test_nothing_else_is_served(site, path):
    status = site.status(f"GET {path} HTTP/1.1\r\nHost: {site.name}\r\nConnection: close\r\n\r\n".encode())
    assert status in {400, 403, 404}


def test_the_challenge_of_an_acme_server_is_answered_over_plain_http(site, host):
    folder = "/var/www/acme/.well-known/acme-challenge"
    host.check_output(f"mkdir -p {folder} && printf answer >{folder}/token")
    answer = site.request("/.well-known/acme-challenge/token", port=80)
    assert (answer.status, answer.body) == (200, b"answer")
    assert site.request("/.well-known/acme-challenge/other", port=80).status == 404
    assert site.request("/.well-known/acme-challenge/token").status == 404


def test_unknown_names_are_refused(site, other):
    stranger = f"{other.name}.fleet.test"
    with pytest.raises(ssl.SSLError):
        site.connect(name=stranger)
    site.tls.check_hostname = False
    with pytest.raises(ssl.SSLError):
        site.connect(name=site.host.ipv4)
    assert site.request("/", Host=stranger).status == 421
    assert site.request("/", port=80, Host=stranger).status == 421


def test_absurd_requests_are_refused(site):
    assert site.status(b"\x00\xff\r\n\r\n", port=80) == 400
    assert site.request("/" + "x" * 20_000).status == 414
    assert site.request("/", Cookie="x" * 40_000).status == 400


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_1])
def test_only_todays_tls_is_spoken(site, version):
    site.tls.minimum_version, site.tls.maximum_version = ssl.TLSVersion.TLSv1, version
    site.tls.set_ciphers("ALL:@SECLEVEL=0")
    refused = version == ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError) if refused else contextlib.nullcontext():
        site.connect().close()


def test_it_runs_as_nobody_special_now_and_after_a_reboot(host):
    nginx = host.service("nginx")
    assert nginx.is_running and nginx.is_enabled
    master = host.check_output("systemctl show --property MainPID --value nginx.service")
    assert set(host.check_output(f"ps --no-headers -o user --ppid {master}").split()) == {"www-data"}


def test_no_client_address_is_kept(site, host, role):
    site.request("/nothing.json")
    assert host.run(f"grep -rF {role.variables['sandbox_ipv4_prefix']}.1 /var/log/nginx").rc == 1


def test_no_package_restarts_nginx(site, host):
    """What unattended-upgrades makes nginx-common and needrestart do, while the configuration is broken."""
    former = host.file("/run/nginx.pid").content_string
    host.check_output("echo 'nonsense;' >/etc/nginx/modules-enabled/99-broken.conf")
    try:
        host.check_output("DEBIAN_FRONTEND=noninteractive dpkg-reconfigure nginx-common")
        assert host.run("/etc/needrestart/restart.d/nginx.service").rc != 0
        assert host.file("/run/nginx.pid").content_string == former
        assert site.request("/data.json").status == 200
    finally:
        host.check_output("rm /etc/nginx/modules-enabled/99-broken.conf")


# --- what goes wrong ---


@pytest.fixture(scope="module")
def mended(role):
    """What was said of a certificate that is not there, what was served meanwhile; then harm, and the role again."""
    refused = role.play(nginx_certificate="/nonexistent.pem")
    sites = [Site(host, role.dir / "site/fullchain.pem") for host in role.hosts.values()]
    answers = {site.host.name: site.request("/data.json").status for site in sites}
    for host in role.hosts.values():
        host.shell.check_output(
            "echo 'server_tokens on;' >>/etc/nginx/nginx.conf; systemctl disable --quiet --now nginx"
        )
    role.converge()
    return refused, answers


def test_a_configuration_that_nginx_refuses_never_reaches_the_running_server(mended, me):
    refused, answers = mended
    assert refused.code != 0
    assert "nonexistent.pem" in refused.said
    assert answers[me.name] == 200


def test_a_tampered_server_is_repaired(mended, site, host):
    assert host.run("grep -rF -e nonexistent.pem -e 'server_tokens on' /etc/nginx").rc == 1
    test_it_runs_as_nobody_special_now_and_after_a_reboot(host)
    assert site.request("/data.json").headers["Server"] == "nginx"
