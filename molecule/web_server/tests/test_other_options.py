"""The same hosts by other options: nothing from upstream (as on an origin), plain HTTP for files, HSTS, HTTP/3.

The first play that sets them meets a configuration that is broken otherwise; the second one finds it mended.
"""

import http.client
import json
import time

import pytest
from visitors import Mirror, check_installers, check_poetry, check_pypi_simple, of_host

OPTIONS = {
    "web_server_on_miss": "not_found",
    "web_server_plain_http": True,
    "nginx_hsts_max_age": 300,
    # the scenario's own certificate names no responder, as most do not
    "nginx_ocsp_stapling": True,
    "nginx_http3": "{{ ansible_facts.distribution_major_version == '13' }}",
}


# A certificate of the same authority that names a responder, and that responder.
ANSWERING = """
mkdir -p /root/ocsp && cd /root/ocsp && cp -a /etc/mirrorfleet/tls former && cat >ca-key.pem
cd former && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=mirror \\
    -CA ca.pem -CAkey ../ca-key.pem -keyout ../privkey.pem -out ../fullchain.pem -addext subjectAltName=DNS:NAME \\
    -addext basicConstraints=critical,CA:FALSE -addext 'authorityInfoAccess=OCSP;URI:http://127.0.0.1:8888' && cd ..
printf 'V\\t491231235959Z\\t\\t%s\\tunknown\\t/CN=mirror\\n' \\
    "$(openssl x509 -in fullchain.pem -noout -serial | cut -d= -f2)" >index.txt
systemd-run --unit responder --working-directory /root/ocsp openssl ocsp -port 8888 -index index.txt \\
    -CA former/ca.pem -rsigner former/ca.pem -rkey ca-key.pem -ndays 1
cp fullchain.pem privkey.pem /etc/mirrorfleet/tls && systemctl reload nginx
"""
FORMER = """
systemctl stop responder; cp -a /root/ocsp/former/*.pem /etc/mirrorfleet/tls && systemctl reload nginx
rm -r /root/ocsp
"""


@pytest.fixture(scope="module", autouse=True)
def broken(scenario):
    """How the play ended that met a broken configuration, and what each host answered then."""
    site, hosts = "/etc/nginx/sites-enabled/broken", list(scenario.hosts.values())
    for host in hosts:
        host.shell.check_output(f"echo 'server {{ nonsense; }}' >{site}")
    outcome = scenario.play(**OPTIONS)
    answers = {}
    for host in hosts:
        answers[host.name] = Mirror(host.shell.ansible.get_variables()).get("/simple/fleet-sample/")
        host.shell.check_output(f"rm {site}")
    scenario.converge(**OPTIONS)
    yield outcome, answers
    scenario.converge()


@pytest.fixture
def mirror(host):
    return Mirror(host.ansible.get_variables())


def test_a_play_does_not_load_a_broken_configuration(broken, me):
    outcome, answers = broken
    assert outcome.code != 0 and 'unknown directive "nonsense"' in outcome.said
    assert answers[me.name].status == 200
    # what the play had already written waits for the next one, which the other tests here see the effects of
    assert answers[me.name].headers["Strict-Transport-Security"] is None


def test_clients_of_a_tree_alone(scenario, host, me, tmp_path):
    """What an origin serves, and a mirror whose on_miss is not_found."""
    own, _ = of_host(me.name)
    projects = ["fleet-sample", own]
    check_pypi_simple(scenario, me.name, projects, projects, tmp_path)
    check_poetry(scenario, me.name, projects, tmp_path / "poetry")
    check_installers(host, me.name, projects)


def test_what_the_tree_lacks_is_not_found(mirror):
    for path in (f"/simple/{mirror.lacking}/", f"/pypi/{mirror.lacking}/json", "/packages/absent.whl"):
        assert mirror.get(path).status == 404


def test_files_by_plain_http(mirror):
    page = mirror.request("GET", "/simple/fleet-sample/", {"Accept": "text/html"}, port=80)
    assert (page.status, page.body) == (200, mirror.get("/simple/fleet-sample/", accept="text/html").body)
    file = next(mirror.tree.glob("packages/*/*/*/fleet*1.1*.whl"))
    answer = mirror.request("GET", f"/{file.relative_to(mirror.tree)}", port=80)
    assert (answer.status, answer.body) == (200, file.read_bytes())
    assert mirror.request("PUT", "/simple/fleet-sample/", port=80).status == 405
    assert mirror.request("GET", "/.well-known/acme-challenge/absent", port=80).status == 404


def test_hsts_is_sent_by_https_alone(mirror):
    """RFC 6797 section 7.2."""
    assert mirror.get("/simple/fleet-sample/").headers["Strict-Transport-Security"] == "max-age=300"
    plain = mirror.request("GET", "/simple/fleet-sample/", port=80)
    assert plain.headers["Strict-Transport-Security"] is None


def test_what_the_authoritys_responder_says_is_stapled(scenario, host, mirror):
    """RFC 6066 section 8: where the certificate names a responder. Each worker asks it, after its first handshake."""

    def stapled():
        return host.check_output(
            "openssl s_client -connect 127.0.0.1:443 -servername %s -status </dev/null 2>/dev/null",
            mirror.name,
        )

    assert "OCSP response: no response sent" in stapled()
    key = (scenario.dir / "site/ca-key.pem").read_text()
    host.check_output("sh -ec %s <<'END'\n" + key + "END", ANSWERING.replace("NAME", mirror.name))
    try:
        for _ in range(50):
            if "OCSP Response Status: successful" in (said := stapled()):
                break
            time.sleep(0.2)
        assert "Cert Status: good" in said, said
    finally:
        host.check_output("sh -c %s", FORMER)


def test_http3(scenario, host, me, mirror):
    """Where the platform's nginx has it; elsewhere the role says so and changes nothing."""
    if me.name == "debian-12":
        assert mirror.get("/simple/").headers["Alt-Svc"] is None
        outcome = scenario.play("--limit", me.name, "--check", **OPTIONS | {"nginx_http3": True})
        assert outcome.code != 0
        assert "nginx of Debian 12 cannot do HTTP/3" in outcome.said
        return
    assert mirror.get("/simple/").headers["Alt-Svc"] == 'h3=":443"; ma=86400'
    host.check_output(
        "command -v curl >/dev/null || apt-get install --quiet --yes --no-install-recommends curl"
    )
    for family, version in (("-4", "v4"), ("-6", "v6")):
        said = host.check_output(
            f"curl {family} --silent --show-error --http3-only --cacert /etc/mirrorfleet/tls/ca.pem "
            f"--header 'Accept: application/vnd.pypi.simple.v1+json' --write-out '\\n%{{http_version}}' "
            f"https://{mirror.name}/simple/fleet-sample/"
        )
        body, _, used = said.rpartition("\n")
        assert used == "3", version
        assert json.loads(body)["name"] == "fleet-sample"


def test_reloads_with_http3_keep_serving(host, mirror):
    for _ in range(3):
        host.check_output("systemctl reload nginx")
        assert mirror.get("/simple/fleet-sample/").status == http.client.OK
