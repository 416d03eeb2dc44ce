"""The same hosts, whose upstream sends who asks for files to another host; that one is the upstream of before."""

import pytest
from visitors import Mirror

OTHER = "{{ groups.hosts | difference([inventory_hostname]) | first }}.fleet.test"
OPTIONS = {
    "web_server_upstream_files": f"https://{OTHER}:8443/",
    # as preflight finds it
    "web_server_upstream_redirects": [f"https://{OTHER}"],
}
STORE = """
server {
    listen 8443 ssl;
    server_name %(name)s.fleet.test;
    ssl_certificate /etc/mirrorfleet/tls/fullchain.pem;
    ssl_certificate_key /etc/mirrorfleet/tls/privkey.pem;
    location /packages/elsewhere/ {
        return 302 https://elsewhere.fleet.test/x;
    }
    location / {
        return 302 https://%(name)s.fleet.test$request_uri#fragment;
    }
}
"""


@pytest.fixture(scope="module", autouse=True)
def redirecting(scenario):
    for host in scenario.hosts.values():
        site = "/etc/nginx/sites-enabled/redirecting"
        host.shell.check_output(
            f"printf %s >{site} && nginx -t && systemctl reload nginx && rm -rf /var/cache/nginx/mirror/*",
            STORE % {"name": host.name},
        )
    scenario.converge(**OPTIONS)
    yield
    for host in scenario.hosts.values():
        host.shell.check_output(f"rm {site} && systemctl reload nginx && rm -rf /var/cache/nginx/mirror/*")
    scenario.converge()


@pytest.fixture
def mirror(host):
    return Mirror(host.ansible.get_variables())


def test_files_are_followed_to_where_they_are(mirror):
    tree = mirror.site / mirror.other / "served"
    path = next(tree.glob(f"packages/*/*/*/{mirror.lacking.replace('-', '_')}-2.0-*.whl"))
    for _ in range(2):
        answer = mirror.get(f"/{path.relative_to(tree)}")
        assert (answer.status, answer.body, answer.headers["Location"]) == (200, path.read_bytes(), None)
    assert mirror.get("/packages/absent.whl").status == 404


def test_nobody_is_sent_or_followed_elsewhere(host, mirror):
    answer = mirror.get("/packages/elsewhere/x.whl")
    assert (answer.status, answer.headers["Location"]) == (502, None)
    said = host.file("/var/log/nginx/error.log").content_string
    assert "upstream redirects to https://elsewhere.fleet.test, which is none of" in said
    assert mirror.address.rpartition(".")[0] not in said
