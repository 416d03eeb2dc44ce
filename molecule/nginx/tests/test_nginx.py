"""Sites of two roles on one host, whose kernel seems not to know IPv6, and later does."""

import http.client
import json
import socket
import ssl

import pytest

NAMES = {"mirror.fleet.test": b"A mirror of a Python package index.", "list.fleet.test": b"A list."}


def connect(address, name, port=443):
    plain = socket.create_connection((address, port), timeout=20)
    if port == 80:
        return plain
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(plain, server_hostname=name)


def get(address, name, path="/", port=443, sni=None):
    connection = http.client.HTTPConnection(address, port)
    connection.sock = connect(address, sni or name, port)
    connection.request("GET", path, headers={"Host": name})
    response = connection.getresponse()
    response.body = response.read()
    connection.close()
    return response


def listening(host):
    addresses = {line.split()[3] for line in host.check_output("ss -Htln").splitlines()}
    return {address for address in addresses if address.endswith((":80", ":443"))}


# --- without IPv6 ---


def test_nginx_cannot_start_here_with_an_address_of_ipv6(host):
    """What the other tests rest on: these hosts refuse what hosts without IPv6 refuse."""
    host.check_output("echo 'server { listen [::]:81; }' >/etc/nginx/sites-enabled/ipv6")
    try:
        tested = host.run("nginx -t")
        assert tested.rc != 0 and "Address family not supported" in tested.stderr
    finally:
        host.check_output("rm /etc/nginx/sites-enabled/ipv6")


def test_nginx_runs_where_the_kernel_does_not_know_ipv6(host):
    nginx = host.service("nginx")
    assert nginx.is_running and nginx.is_enabled
    assert host.run("nginx -t").rc == 0
    assert listening(host) == {"0.0.0.0:80", "0.0.0.0:443"}


def test_an_address_family_that_the_host_lacks_is_told(scenario, me):
    outcome = scenario.play("--limit", me.name, nginx_address_families=["ipv6"])
    assert outcome.code != 0
    assert (
        f"{me.name}: nginx_address_families is ipv6, and this host's kernel knows ipv4 alone" in outcome.said
    )


# --- two sites ---


@pytest.mark.parametrize("name", NAMES)
def test_each_site_answers_to_its_name(me, name):
    answer = get(me.ipv4, name)
    assert answer.status == 200 and answer.body.startswith(NAMES[name])
    assert answer.headers["Strict-Transport-Security"] == "max-age=300"
    plain = get(me.ipv4, name, "/a?b", port=80)
    assert (plain.status, plain.headers["Location"]) == (301, f"https://{name}/a?b")
    assert plain.headers["Strict-Transport-Security"] is None


@pytest.mark.parametrize("name", NAMES)
def test_each_name_answers_an_acme_server(me, host, name):
    folder = "/var/www/acme/.well-known/acme-challenge"
    host.check_output(f"mkdir -p {folder} && printf answer >{folder}/token")
    answer = get(me.ipv4, name, "/.well-known/acme-challenge/token", port=80)
    assert (answer.status, answer.body) == (200, b"answer")


@pytest.mark.parametrize("name", NAMES)
def test_names_of_no_site_are_refused(me, name):
    with pytest.raises(ssl.SSLError):
        connect(me.ipv4, "elsewhere.fleet.test")
    with pytest.raises(ssl.SSLError):
        connect(me.ipv4, None)
    assert get(me.ipv4, "elsewhere.fleet.test", sni=name).status == 421
    assert get(me.ipv4, "elsewhere.fleet.test", port=80).status == 421


def test_only_the_mirror_keeps_a_log_and_of_networks(me, host, scenario):
    for name in NAMES:
        assert get(me.ipv4, name, "/?seen").status == 200
    host.check_output(
        "timeout 20 sh -c 'until grep -q seen /var/log/nginx/access.log; do sleep 0.2; done; sleep 2'"
    )
    lines = [json.loads(line) for line in host.file("/var/log/nginx/access.log").content_string.splitlines()]
    assert {line["host"] for line in lines} & NAMES.keys() == {"mirror.fleet.test"}
    assert {line["client"] for line in lines} == {f"{scenario.variables['sandbox_ipv4_prefix']}.0"}


# --- what changes a host; in this order ---

# As versions before had it: the site behind a link, with the servers for other names in it, and another drop-in of the
# unit. Beside that, a link of Debian's, and the second role's site is not as it should be.
FORMER = """
cd /etc/nginx && cat sites-enabled/mirror - >sites-available/mirror <<'END'
server {
    listen 80 default_server;
    listen 443 ssl default_server;
    ssl_reject_handshake on;
    return 421;
}
END
ln -sf ../sites-available/mirror sites-enabled/mirror
ln -sf ../sites-available/default sites-enabled/default
sed -i '1i return 418;' documents/serve.conf
echo LimitNOFILE=5000 >>/etc/systemd/system/nginx.service.d/mirrorfleet.conf
"""


@pytest.fixture(scope="module")
def upgraded(scenario):
    """The process of nginx on each host before it was converged."""
    former = {}
    for host in scenario.hosts.values():
        host.shell.check_output("sh -ec %s", FORMER)
        former[host.name] = host.shell.file("/run/nginx.pid").content_string
    scenario.converge()
    return former


def test_what_versions_before_wrote_is_removed(upgraded, host):
    assert not host.file("/etc/nginx/sites-available/mirror").exists
    assert host.file("/etc/nginx/sites-enabled/mirror").is_file
    assert not host.file("/etc/nginx/sites-enabled/mirror").is_symlink
    assert host.file("/etc/nginx/sites-enabled").listdir() == ["documents", "mirror"]
    assert host.run("nginx -t").rc == 0


def test_what_changed_after_a_restart_is_loaded_too(upgraded, me, host):
    """The first role's site restarts nginx, with the second one's still as it was; that is mended and reloaded."""
    assert host.file("/run/nginx.pid").content_string != upgraded[me.name]
    for name, said in NAMES.items():
        assert get(me.ipv4, name).body.startswith(said)


@pytest.fixture
def anew(scenario):
    """Plays by connections that were not made before: what the kernel knows is told to a process when it starts."""
    scenario.environment["ANSIBLE_SSH_ARGS"] = "-o ControlPath=none"
    yield scenario
    del scenario.environment["ANSIBLE_SSH_ARGS"]


FILTER = "/etc/systemd/system/service.d/zz-no-ipv6.conf"


def test_ipv6_is_served_as_soon_as_the_host_has_it(upgraded, anew, me, host):
    host.check_output(f"mv {FILTER} /root && systemctl daemon-reload && systemctl restart ssh nginx")
    assert anew.converge().changed[me.name] > 0
    assert anew.converge().changed[me.name] == 0
    assert listening(host) == {"0.0.0.0:80", "0.0.0.0:443", "[::]:80", "[::]:443"}
    for name, said in NAMES.items():
        assert get(me.ipv6, name).body.startswith(said)


def test_a_host_that_loses_ipv6_loses_it_for_all_its_sites_at_once(upgraded, anew, me, host):
    """Each role loads what it changed, and what it loads has to hold together with the sites of the others."""
    host.check_output(
        f"mv /root/{FILTER.rpartition('/')[2]} {FILTER} && systemctl daemon-reload && systemctl restart ssh"
    )
    assert anew.converge().changed[me.name] > 0
    assert listening(host) == {"0.0.0.0:80", "0.0.0.0:443"}
    host.check_output("systemctl restart nginx")
    for name, said in NAMES.items():
        assert get(me.ipv4, name).body.startswith(said)
