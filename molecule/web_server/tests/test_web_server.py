"""A mirror's web server as its clients and its enemies see it, over the network; and what runs on the host."""

import gzip
import hashlib
import http.client
import json
import re
import shlex
import socket
import ssl
import threading
import time
from urllib.parse import quote, urljoin

import pytest
from visitors import HOUSE, Mirror, check_installers

# Accept headers as pip 26 and uv 0.13 send them.
PIP = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html; q=0.1, text/html; q=0.01"
UV = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.01"
HTML, V1_HTML = "text/html; charset=utf-8", "application/vnd.pypi.simple.v1+html; charset=utf-8"
V1_HTML_TYPE = "application/vnd.pypi.simple.v1+html"
V1_JSON = "application/vnd.pypi.simple.v1+json"
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


KNOWN: dict[str, Mirror] = {}


@pytest.fixture
def mirror(host):
    """Asking Ansible for variables takes longer than most tests."""
    name = host.backend.host
    if name not in KNOWN:
        KNOWN[name] = Mirror(host.ansible.get_variables())
    return KNOWN[name]


@pytest.fixture
def wheel(mirror):
    """Path and content of a file of some size."""
    path = next(mirror.tree.glob(f"packages/*/*/*/{mirror.own.replace('-', '_')}-2.0-*.whl"))
    return f"/{path.relative_to(mirror.tree)}", path.read_bytes()


# --- on the host ---


def test_runs_confined(host):
    """One shell for all of it: each command over SSH costs half a second."""
    seen = host.check_output(
        "systemctl is-active nginx; systemctl is-enabled nginx; master=$(cat /run/nginx.pid); "
        "grep -E '^(NoNewPrivs|Seccomp):' /proc/$master/status; "
        "ps --no-headers -o user:20,args --ppid $master; "
        "for path in /srv/mirror/served /etc/nginx /usr; do nsenter -m -t $master touch $path/x 2>&1; done; "
        "nsenter -m -t $master ls /home"
    ).splitlines()
    assert seen[:4] == ["active", "enabled", "NoNewPrivs:\t1", "Seccomp:\t2"]
    processes, refusals = seen[4:-3], seen[-3:]
    assert any("worker process" in line for line in processes)
    assert all(re.match(r"www-data +nginx: (worker|cache \w+) process$", line) for line in processes)
    assert all(line.endswith("Read-only file system") for line in refusals)


def test_worker_cannot_read_the_key(host):
    assert host.run("runuser -u www-data -- cat /etc/mirrorfleet/tls/privkey.pem").rc != 0


def test_logs_rotate(host, mirror):
    host.check_output("logrotate --force /etc/logrotate.d/nginx")
    mirror.get("/after-rotation")
    assert (
        host.run(
            "timeout 20 sh -c 'until grep -q after-rotation /var/log/nginx/access.log; do sleep 0.2; done'"
        ).rc
        == 0
    )


def test_a_broken_configuration_does_not_replace_a_running_one(host, mirror):
    host.check_output("echo 'server { nonsense; }' >/etc/nginx/sites-enabled/broken")
    try:
        assert host.run("nginx -t").rc != 0
        host.run("systemctl reload nginx")
        assert mirror.get("/simple/fleet-sample/").status == 200
    finally:
        host.check_output("rm /etc/nginx/sites-enabled/broken && nginx -t && systemctl reload nginx")
    assert mirror.get("/simple/fleet-sample/").status == 200


class Visitor(threading.Thread):
    """Asks again and again until told to stop: by a new connection each time, or by one that it keeps.

    A request on a kept connection that the server closed before it said anything is sent once more by a new one
    (RFC 9112, 9.3.1), as pip and uv do.
    """

    def __init__(self, mirror, keeps):
        super().__init__()
        self.mirror, self.keeps, self.stop = mirror, keeps, threading.Event()
        self.served, self.connections, self.failed = 0, 0, []
        self.connection = None

    def connect(self):
        self.connection = http.client.HTTPConnection(self.mirror.address, 443)
        self.connection.sock = self.mirror.connect()
        self.connections += 1

    def ask(self):
        self.connection.request("GET", "/simple/fleet-sample/", headers={"Host": self.mirror.name})
        answer = self.connection.getresponse()
        assert answer.status == 200 and b"</html>" in answer.read()

    def once(self):
        kept = self.connection is not None and self.connection.sock is not None
        if not kept:
            self.connect()
        try:
            self.ask()
        except (ConnectionResetError, BrokenPipeError, ssl.SSLEOFError, http.client.RemoteDisconnected):
            if not kept:
                raise
            self.connect()
            self.ask()
        if not self.keeps:
            self.connection.close()

    def run(self):
        while not self.stop.is_set():
            try:
                self.once()
                self.served += 1
            except (OSError, http.client.HTTPException, AssertionError) as error:
                self.failed.append(repr(error))
                self.connection = None


class Visitors:
    """Many at the same time, most of them by connections that they keep; no request may fail."""

    def __init__(self, mirror):
        self.all = [Visitor(mirror, keeps=number > 0) for number in range(8)]

    def __enter__(self):
        for visitor in self.all:
            visitor.start()
        return self

    def __exit__(self, kind, *_):
        for visitor in self.all:
            visitor.stop.set()
        for visitor in self.all:
            visitor.join()
        if kind is None:
            assert not [failure for visitor in self.all for failure in visitor.failed]
            assert all(visitor.served for visitor in self.all)
            # Kept as a rule, and ended by what happens here.
            keeping = self.all[1:]
            assert all(visitor.connections < visitor.served / 2 for visitor in keeping)
            assert sum(visitor.connections for visitor in keeping) > len(keeping)


def test_reloads_are_not_noticed(host, mirror):
    with Visitors(mirror):
        host.check_output("for n in $(seq 10); do systemctl reload nginx; sleep 0.2; done")


def test_a_download_outlives_reloads(host, mirror, wheel):
    path, content = wheel
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    plain.connect((mirror.address, 443))
    with mirror.tls.wrap_socket(plain, server_hostname=mirror.name) as connection:
        connection.sendall(
            f"GET {path} HTTP/1.1\r\nHost: {mirror.name}\r\nConnection: close\r\n\r\n".encode()
        )
        answer = connection.recv(1000)
        host.check_output("for n in 1 2 3; do systemctl reload nginx; sleep 0.3; done")
        while part := connection.recv(65536):
            answer += part
    assert answer.partition(b"\r\n\r\n")[2] == content


def test_it_comes_back_after_it_was_killed(host, mirror):
    """Though what was killed leaves its socket, which asks upstream."""
    former = host.file("/run/nginx.pid").content_string
    host.check_output("systemctl kill --signal KILL nginx")
    host.check_output(
        f'timeout 30 sh -c \'until systemctl is-active nginx && [ "$(cat /run/nginx.pid)" != {former.strip()} ]; '
        "do sleep 0.2; done' 2>&1"
    )
    assert mirror.get("/simple/fleet-sample/").status == 200
    assert mirror.get("/simple/never-seen-since-it-was-killed/").status == 404


def test_a_new_version_that_comes_unattended_is_not_noticed(host, mirror):
    host.check_output("sh -c %s", (HOUSE / "molecule/patched_nginx.sh").read_text())
    host.check_output(
        "DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends unattended-upgrades >&2 && "
        "apt-get -q update >&2 && echo %s >/etc/apt/apt.conf.d/99patched",
        'Unattended-Upgrade::Origins-Pattern { "origin=patched"; };',
    )
    version = host.package("nginx").version
    former = host.file("/run/nginx.pid").content_string
    try:
        with Visitors(mirror):
            said = host.check_output("unattended-upgrade --verbose 2>&1")
        assert host.package("nginx").version == f"{version}+fleet1", said
        assert host.file("/run/nginx.pid").content_string != former
    finally:
        host.check_output(
            "rm -r /srv/patched /etc/apt/sources.list.d/patched.list /etc/apt/apt.conf.d/99patched"
        )


def test_an_upgrade_of_the_package_is_not_noticed(host, mirror):
    """What unattended-upgrades makes the packages do, without fetching them."""
    upgrade = "DEBIAN_FRONTEND=noninteractive dpkg-reconfigure nginx-common"
    former = host.file("/run/nginx.pid").content_string
    with Visitors(mirror):
        host.check_output(f"{upgrade} nginx")
    assert host.file("/run/nginx.pid").content_string != former
    # nor by who asks upstream
    assert mirror.get("/simple/never-seen-since-the-upgrade/").status == 404
    host.check_output("echo 'server { nonsense; }' >/etc/nginx/sites-enabled/broken")
    try:
        host.run(upgrade)
        assert mirror.get("/simple/fleet-sample/").status == 200
    finally:
        host.check_output("rm /etc/nginx/sites-enabled/broken")


def test_an_upgrade_of_a_library_is_not_noticed(host, mirror):
    """needrestart would restart nginx; a broken configuration would leave no server at all then."""
    library = "/usr/lib/x86_64-linux-gnu/libssl.so.3"
    host.check_output(
        "export DEBIAN_FRONTEND=noninteractive; command -v needrestart >/dev/null || "
        "{ apt-get -q update && apt-get install -q -y --no-install-recommends needrestart; } >&2"
    )
    upgrade = (
        f"cp -p {library} {library}.new && mv {library}.new {library} && "
        "DEBIAN_FRONTEND=noninteractive needrestart -r a -v 2>&1"
    )
    former = host.file("/run/nginx.pid").content_string
    with Visitors(mirror):
        assert "using restart.d file nginx.service" in host.check_output(upgrade)
    present = host.file("/run/nginx.pid").content_string
    assert present != former
    host.check_output("echo 'server { nonsense; }' >/etc/nginx/sites-enabled/broken")
    try:
        assert "nonsense" in host.check_output(upgrade)
        assert mirror.get("/simple/fleet-sample/").status == 200
        assert host.file("/run/nginx.pid").content_string == present
    finally:
        host.check_output("rm /etc/nginx/sites-enabled/broken")


# --- names and TLS ---


def test_all_names_over_both_families(mirror):
    for name in (mirror.name, "mirror.fleet.test"):
        for address in (mirror.address, mirror.address6):
            response = mirror.request(
                "GET", "/simple/fleet-sample/", {"Host": name}, name=name, address=address
            )
            assert response.status == 200, (name, address)


def test_other_names_are_refused(mirror):
    for name in ("other.fleet.test", mirror.address, None):
        careless = ssl._create_unverified_context()
        plain = socket.create_connection((mirror.address, 443), timeout=20)
        with pytest.raises(ssl.SSLError), careless.wrap_socket(plain, server_hostname=name):
            pass
    for port in (80, 443):
        for other in ("other.fleet.test", mirror.address, "..", "a" * 300):
            response = mirror.request("GET", "/simple/fleet-sample/", {"Host": other}, port=port)
            assert response.status in {400, 421}, other
            assert b"Links" not in response.body


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize(
    ("version", "accepted"),
    [
        (ssl.TLSVersion.TLSv1_1, False),
        (ssl.TLSVersion.TLSv1_2, True),
        (ssl.TLSVersion.TLSv1_3, True),
    ],
)
def test_tls_versions(mirror, version, accepted):
    tls = ssl.create_default_context(cafile=str(mirror.site / "ca.pem"))
    tls.set_ciphers("ALL:@SECLEVEL=0")
    tls.minimum_version = tls.maximum_version = version
    if accepted:
        assert mirror.request("GET", "/", tls=tls).status == 200
    else:
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            mirror.connect(tls=tls)


@pytest.mark.parametrize("cipher", ["AES128-SHA", "ECDHE-ECDSA-AES128-SHA256", "DHE-RSA-AES128-GCM-SHA256"])
def test_weak_ciphers_are_refused(mirror, cipher):
    tls = ssl.create_default_context(cafile=str(mirror.site / "ca.pem"))
    tls.maximum_version = ssl.TLSVersion.TLSv1_2
    tls.set_ciphers(f"{cipher}:@SECLEVEL=0")
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        mirror.connect(tls=tls)


def test_http2_is_offered(mirror):
    tls = ssl.create_default_context(cafile=str(mirror.site / "ca.pem"))
    tls.set_alpn_protocols(["h2", "http/1.1"])
    with mirror.connect(tls=tls) as connection:
        assert connection.selected_alpn_protocol() == "h2"


def test_plain_http_redirects_but_for_acme(host, mirror):
    response = mirror.request("GET", "/simple/fleet-sample/?a=b", port=80)
    assert response.status == 301
    assert response.headers["Location"] == f"https://{mirror.name}/simple/fleet-sample/?a=b"
    host.check_output("mkdir -p /var/www/acme/.well-known/acme-challenge")
    host.check_output("echo answer >/var/www/acme/.well-known/acme-challenge/token")
    response = mirror.request("GET", "/.well-known/acme-challenge/token", port=80)
    assert (response.status, response.body) == (200, b"answer\n")
    assert mirror.request("GET", "/.well-known/acme-challenge/other", port=80).status == 404
    assert mirror.request("GET", "/", port=80, address=mirror.address6).status == 301


# --- the simple API ---


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, HTML),
        ("", HTML),
        ("*/*", HTML),
        ("text/html", HTML),
        ("TEXT/HTML", HTML),
        (BROWSER, HTML),
        (PIP, V1_JSON),
        (UV, V1_JSON),
        (V1_JSON, V1_JSON),
        ("application/vnd.pypi.simple.latest+json", V1_JSON),
        ("application/vnd.pypi.simple.v1+html", V1_HTML),
        ("application/vnd.pypi.simple.latest+html", V1_HTML),
        ("application/*", V1_JSON),
        ("text/*", HTML),
        # the highest weight, wherever it stands
        (f"text/html;q=0.2, {V1_JSON};q=0.3", V1_JSON),
        # of what is wanted equally, what is named more exactly; then text/html as a last resort (PEP 691)
        (f"text/html;q=0.30, {V1_JSON};q=0.3", V1_JSON),
        (f"text/html, {V1_JSON}", V1_JSON),
        (f"text/html, {V1_HTML_TYPE}", V1_HTML),
        (f"{V1_HTML_TYPE}, {V1_JSON}, text/html", V1_JSON),
        ("text/*, application/*", V1_JSON),
        ("text/html, */*", HTML),
        (f"{V1_JSON}, */*", V1_JSON),
        ("*/*;q=0.5", HTML),
        (f"{V1_JSON};q=0.001, text/html;q=0.002", HTML),
        # the most specific range decides for a type, not the most generous one
        ("text/html;q=0.1, */*;q=0.5", V1_JSON),
        ("text/html;q=0, */*", V1_JSON),
        (f"text/html;q=0, {V1_JSON};q=0, */*", V1_HTML),
        (f"application/*;q=0, {V1_JSON};q=0.1", V1_JSON),
        # parameters, blanks, case, quotes, empty elements
        ("text/html;charset=utf-8", HTML),
        ('text/html ; Charset="UTF-8" ; Q=0.5 ; ext=1', HTML),
        ('application/x;p="a,text/html", text/html', HTML),
        (f", ,\t{V1_JSON} ,", V1_JSON),
        # nothing that we have
        ("application/json", None),
        ("application/vnd.pypi.simple.v2+json", None),
        ("text/html;q=0", None),
        ("*/*;q=0", None),
        ("*/*;q=0.0000", None),
        ("text/html;q=1.5", None),
        ("text/html;q=nonsense", None),
        ("text/html;level=1", None),
        ('application/x;p="a,text/html"', None),
        ("nonsense", None),
        (";;;===,,,", None),
        ("*/html", None),
        ('"' * 500, None),
    ],
)
def test_negotiation(mirror, accept, expected):
    """PEP 691 and RFC 9110 section 12.5.1."""
    headers = {} if accept is None else {"Accept": accept}
    response = mirror.request("GET", "/simple/fleet-sample/", headers)
    assert response.headers["Vary"] == "Accept, Accept-Encoding"
    if expected is None:
        assert response.status == 406
        assert V1_JSON.encode() in response.body
        return
    assert response.status == 200
    assert response.headers["Content-Type"] == expected
    page = "index.v1_json" if expected == V1_JSON else "index.html"
    assert response.body == (mirror.tree / "pages/fleet-sample/cur/simple" / page).read_bytes()
    assert response.headers["X-PyPI-Last-Serial"] == "1000"


def test_several_accept_lines_count_together(mirror):
    request = (
        f"GET /simple/fleet-sample/ HTTP/1.1\r\nHost: {mirror.name}\r\nConnection: close\r\n"
        f"Accept: application/x\r\nAccept: {V1_JSON}\r\n\r\n"
    )
    assert b"Content-Type: " + V1_JSON.encode() in mirror.raw(request.encode())


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("application/vnd.pypi.simple.v1+json", V1_JSON),
        ("application/vnd.pypi.simple.v1%2Bjson", V1_JSON),
        ("application%2Fvnd.pypi.simple.v1%2bhtml", V1_HTML),
        ("application/vnd.pypi.simple.latest+json", V1_JSON),
        ("text/html", HTML),
        ("application/json", None),
        ("%", None),
        ("%00", None),
        ("../../etc/passwd", None),
    ],
)
def test_format_by_parameter_beats_the_header(mirror, value, expected):
    """PEP 691, "URL Parameter"."""
    other = "text/html" if expected == V1_JSON else V1_JSON
    response = mirror.get(f"/simple/fleet-sample/?format={value}", accept=other)
    assert response.status == (200 if expected else 406)
    if expected:
        assert response.headers["Content-Type"] == expected


@pytest.mark.parametrize("path", ["/simple/", "/simple"])
def test_root(mirror, path):
    """Without the slash too: so bandersnatch asks, and it follows no redirect."""
    response = mirror.get(path, accept=V1_JSON)
    assert response.status == 200
    assert response.headers["X-PyPI-Last-Serial"] == "1001"
    listing = json.loads(response.body)
    assert {p["name"]: p["_last-serial"] for p in listing["projects"]} == {
        "fleet-sample": 1000,
        mirror.own: 1001,
    }


@pytest.mark.parametrize(
    ("path", "location"),
    [
        ("/simple/fleet-sample", "/simple/fleet-sample/"),
        ("/simple/Fleet-Sample/", "/simple/fleet-sample/"),
        ("/simple/fleet_sample", "/simple/fleet-sample/"),
        ("/simple/FLEET.-_Sample/?format=text/html", "/simple/fleet-sample/?format=text/html"),
        ("/simple/fleet%2Dsample%5F1/", "/simple/fleet-sample-1/"),
        ("/pypi/Fleet.Sample/json", "/pypi/fleet-sample/json"),
    ],
)
def test_redirects_to_the_normalised_name(mirror, path, location):
    """PEP 503; relative, so that they hold under every name."""
    response = mirror.get(path)
    assert response.status == 301
    assert response.headers["Location"] == location


def test_legacy_document(mirror):
    response = mirror.get("/pypi/fleet-sample/json", accept="application/x")
    assert response.status == 200
    assert response.headers["Content-Type"] == "application/json"
    assert response.headers["X-PyPI-Last-Serial"] == "1000"
    assert json.loads(response.body)["last_serial"] == 1000


def test_every_named_file_is_there(mirror):
    for project in ("fleet-sample", mirror.own):
        page = json.loads(mirror.get(f"/simple/{project}/", accept=V1_JSON).body)
        assert page["files"]
        for file in page["files"]:
            path = urljoin(f"/simple/{project}/", file["url"])
            assert hashlib.sha256(mirror.get(path).body).hexdigest() == file["hashes"]["sha256"]
            if file["core-metadata"]:
                response = mirror.get(f"{path}.metadata")
                assert hashlib.sha256(response.body).hexdigest() == file["core-metadata"]["sha256"]
                assert response.headers["Content-Type"] == "text/plain; charset=utf-8"


def test_header_and_body_agree_while_the_publisher_switches(host, mirror):
    """One generation after the other becomes current; no answer mixes two of them."""
    pages = "/srv/mirror/served/pages/fleet-sample"
    host.check_output(
        f"cd {pages} && old=$(readlink cur) && "
        "for serial in 7 77777; do new=s-$serial-0123456789abcdef && cp -r $old $new && "
        f"sed -i s/1000/$serial/ $new/simple/index.v1_json && rm $new/simple/*.gz; done"
    )
    original = host.check_output(f"readlink {pages}/cur")
    flip = (
        "import os\n"
        "for _ in range(3_000):\n"
        "    for serial in (7, 77777):\n"
        "        os.symlink(f's-{serial}-0123456789abcdef', 'next')\n"
        "        os.rename('next', 'cur')\n"
    )
    flipping = threading.Thread(target=host.run, args=(f"cd {pages} && python3 -c %s", flip))
    seen = set()
    connection = http.client.HTTPConnection(mirror.address, 443)
    connection.sock = mirror.connect()
    try:
        flipping.start()
        while flipping.is_alive() or len(seen) < 2:
            if connection.sock is None:
                connection.sock = mirror.connect()
            connection.request("GET", "/simple/fleet-sample/", headers={"Host": mirror.name, "Accept": PIP})
            response = connection.getresponse()
            text = response.read()
            assert response.status == 200, text
            body = json.loads(text)
            assert response.headers["X-PyPI-Last-Serial"] == str(body["meta"]["_last-serial"])
            seen.add(response.headers["X-PyPI-Last-Serial"])
    finally:
        flipping.join()
        host.check_output(f"cd {pages} && ln -s {original} next && mv -T next cur && rm -r s-7-* s-77777-*")
    assert {"7", "77777"} <= seen


# --- HTTP ---


def test_pages_are_sent_compressed_to_who_can(mirror):
    response = mirror.get("/simple/fleet-sample/", accept=PIP, Accept_Encoding="gzip, deflate")
    assert response.headers["Content-Encoding"] == "gzip"
    page = (mirror.tree / "pages/fleet-sample/cur/simple/index.v1_json").read_bytes()
    assert gzip.decompress(response.body) == page


def test_conditional_requests(mirror, wheel):
    for path in ("/simple/fleet-sample/", "/pypi/fleet-sample/json", wheel[0], "/last-modified"):
        first = mirror.get(path)
        for headers in (
            {"If_None_Match": first.headers["ETag"]},
            {"If_Modified_Since": first.headers["Last-Modified"]},
        ):
            response = mirror.get(path, **headers)
            assert (response.status, response.body) == (304, b""), (path, headers)
            assert response.headers["Cache-Control"] == first.headers["Cache-Control"]
        assert mirror.get(path, If_None_Match='"other"').status == 200


def test_ranges(mirror, wheel):
    path, content = wheel
    whole = mirror.get(path)
    assert whole.body == content
    assert whole.headers["Accept-Ranges"] == "bytes"
    part = mirror.get(path, Range="bytes=100-199")
    assert (part.status, part.body) == (206, content[100:200])
    assert part.headers["Content-Range"] == f"bytes 100-199/{len(content)}"
    assert mirror.get(path, Range="bytes=-10").body == content[-10:]
    assert mirror.get(path, Range="bytes=0-9", If_Range=whole.headers["ETag"]).status == 206
    assert mirror.get(path, Range="bytes=0-9", If_Range='"other"').status == 200
    beyond = mirror.get(path, Range=f"bytes={len(content)}-")
    assert beyond.status == 416
    assert beyond.headers["Content-Range"] == f"bytes */{len(content)}"
    # nginx has made the headers of a 200 by then; of two directives the stricter one holds (RFC 9111)
    assert "no-store" in beyond.headers.get_all("Cache-Control")


@pytest.mark.parametrize(
    ("path", "control", "content_type"),
    [
        ("/simple/fleet-sample/", "public, max-age=1", HTML),
        ("/pypi/fleet-sample/json", "public, max-age=1", "application/json"),
        ("/last-modified", "no-cache", "text/plain; charset=utf-8"),
        ("/mirror.json", "no-cache", "application/json"),
    ],
)
def test_caching_and_types(mirror, path, control, content_type):
    response = mirror.get(path)
    assert response.status == 200
    assert response.headers["Cache-Control"] == control
    assert response.headers["Content-Type"] == content_type


def test_the_state_is_never_old(host, mirror):
    served = "/srv/mirror/served"
    former = mirror.get("/last-modified").body
    host.check_output(
        f"cd {served} && echo 20991231T235959 >.new && cp last-modified .former && mv .new last-modified"
    )
    try:
        assert mirror.get("/last-modified").body == b"20991231T235959\n"
    finally:
        host.check_output(f"cd {served} && mv .former last-modified")
    assert mirror.get("/last-modified").body == former


def test_files_are_immutable_and_sent_as_they_are(mirror):
    for suffix, content_type in ((".whl", "application/octet-stream"), (".tar.gz", "application/gzip")):
        path = next(mirror.tree.glob(f"packages/*/*/*/fleet*1.1*{suffix}"))
        response = mirror.get(f"/{path.relative_to(mirror.tree)}", Accept_Encoding="gzip")
        assert response.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        assert response.headers["Content-Type"] == content_type
        assert response.headers["Content-Encoding"] is None
        assert response.body == path.read_bytes()


def test_head_is_get_without_a_body(mirror, wheel):
    for path in (
        "/simple/fleet-sample/",
        wheel[0],
        "/mirror.json",
        "/simple/absent/",
        "/simple/Fleet.Sample/",
    ):
        head, get = mirror.request("HEAD", path), mirror.get(path)
        assert (head.status, head.body) == (get.status, b"")
        for header in ("Content-Length", "Content-Type", "ETag", "X-PyPI-Last-Serial", "Location"):
            assert head.headers[header] == get.headers[header], (path, header)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND", "BREW"])
@pytest.mark.parametrize("path", ["/simple/fleet-sample/", "/pypi", "/packages/x.whl", "/"])
def test_other_methods(mirror, method, path):
    """RFC 9110 section 15.5.6; XML-RPC is POST /pypi."""
    response = mirror.request(method, path, body=b"<methodCall/>" * 400 if method == "POST" else None)
    assert response.status == 405
    assert response.headers["Allow"] == "GET, HEAD"


@pytest.mark.parametrize(
    "path", ["/", "/simple/fleet-sample/", "/simple/absent/", "/mirror.json", "/nothing"]
)
def test_headers_of_every_answer(mirror, path):
    headers = mirror.get(path).headers
    assert headers["Server"] == "nginx"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Access-Control-Allow-Origin"] == "*"
    assert headers["Strict-Transport-Security"] is None
    repeated = [name for name in headers if len(headers.get_all(name)) > 1]
    assert not repeated


# --- what is not there, or not for everyone ---


@pytest.mark.parametrize(
    "path",
    [
        "/simple/absent/",
        "/pypi/absent/json",
        "/pypi/fleet-sample/",
        "/pypi/fleet-sample/1.0/json",
        "/nothing",
        "/index.html",
        "/simple/-/",
        "/simple/fleet-sample/index.html",
        "/simple/fleet-sample//",
        "//simple//fleet-sample/",
        "/simple/fleet%00sample/",
        "/simple/fleet-sample%0a/",
        "/simple/fleet-sample%2findex.html",
        "/simple/..%2fjournal/",
        "/simple/%c0%ae%c0%ae/",
        "/simple/\u00e9/".encode().decode("latin-1"),
        "/simple/_root/",
        "/simple/cur/",
        "/pages/fleet-sample/cur/simple/index.html",
        "/pages/",
        "/journal/",
        "/journal",
        "/-/html",
        "/-/pin-simple",
        "/-/upstream-page",
        "/packages",
        "/packages/",
        "/packages/../journal",
        "/packages/.hidden",
        "/packages/aa/.mirrorfleet-1",
        "/.git/config",
        "/.well-known/acme-challenge/token",
        "/mirror.json/",
        "/mirror%2ejson.gz",
        "/simple/" + "a" * 4000 + "/",
    ],
)
def test_not_found(mirror, path):
    response = mirror.raw(
        f"GET {path} HTTP/1.1\r\nHost: {mirror.name}\r\nConnection: close\r\n\r\n".encode("latin-1")
    )
    status = int(response.split()[1])
    # a NUL and the like are not even a URL
    assert status == 404 or (status == 400 and "%00" in path), response[:200]
    assert b"no-store" in response or status == 400


def test_directories_are_not_listed(mirror, wheel):
    parts = wheel[0].split("/")[:-1]
    for depth in range(2, len(parts) + 1):
        for slash in ("", "/"):
            assert mirror.get("/".join(parts[:depth]) + slash).status == 404


def test_links_do_not_lead_out_of_the_tree(host, mirror):
    links = {
        "/srv/mirror/served/packages/escape": "/etc",
        "/srv/mirror/served/packages/passwd.whl": "/etc/passwd",
        "/srv/mirror/served/pages/escape": "/etc",
    }
    host.check_output(
        "mkdir -p /srv/mirror/served/pages/stray && ln -sfn /etc /srv/mirror/served/pages/stray/cur"
    )
    host.check_output("mkdir -p /srv/outside/simple && echo secret >/srv/outside/simple/index.html")
    snapshot = "/srv/mirror/served/pages/snapshot"
    host.check_output(
        f"mkdir -p {snapshot}/s-1-0123456789abcdef && ln -sfn s-1-0123456789abcdef {snapshot}/cur"
    )
    host.check_output(f"ln -sfn /srv/outside/simple {snapshot}/cur/simple")
    for path, target in links.items():
        host.check_output(f"ln -sfn {target} {path}")
    try:
        for path in (
            "/packages/escape/passwd",
            "/packages/passwd.whl",
            "/simple/stray/",
            "/simple/snapshot/",
        ):
            response = mirror.get(path)
            assert response.status in {403, 404}, path
            assert b"root:" not in response.body and b"secret" not in response.body
    finally:
        host.check_output(f"rm -r {' '.join(links)} {snapshot} /srv/mirror/served/pages/stray /srv/outside")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /simple/" + b"a" * 9000 + b"/ HTTP/1.1\r\nHost: NAME\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: NAME\r\nX: " + b"a" * 40000 + b"\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: NAME\r\nHost: other.fleet.test\r\n\r\n", 400),
        (
            b"GET / HTTP/1.1\r\nHost: NAME\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        (b"GET / HTTP/1.1\r\nHost: NAME\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400),
        (b"GET / HTTP/1.1\r\nHost: NAME\r\nTransfer-Encoding: xchunked\r\n\r\n", 501),
        (b"GET / HTTP/1.1\r\nHost: NAME\r\nContent-Length: 5000\r\n\r\n" + b"x" * 5000, 413),
        (b"GET / HTTP/9.9\r\nHost: NAME\r\n\r\n", 505),
        (b"GET /simple/\x00/ HTTP/1.1\r\nHost: NAME\r\n\r\n", 400),
        (b"GET /../../etc/passwd HTTP/1.1\r\nHost: NAME\r\n\r\n", 400),
        (b"GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\nHost: NAME\r\n\r\n", 400),
        (b"GET /%zz HTTP/1.1\r\nHost: NAME\r\n\r\n", 400),
        (b"CONNECT example.org:443 HTTP/1.1\r\nHost: NAME\r\n\r\n", 400),
        (b"\x16\x03\x01 nonsense\r\n\r\n", 400),
    ],
)
def test_hostile_requests(mirror, request_, status):
    answer = mirror.raw(
        request_.replace(b"NAME", mirror.name.encode()).replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
    )
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer[:100]
    assert b"root:" not in answer


def test_a_smuggled_request_is_not_answered(mirror):
    inner = f"GET /mirror.json HTTP/1.1\r\nHost: {mirror.name}\r\n\r\n"
    outer = (
        f"GET / HTTP/1.1\r\nHost: {mirror.name}\r\nContent-Length: {len(inner)}\r\n"
        f"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{inner}"
    )
    assert mirror.raw(outer.encode()).count(b"HTTP/1.1 ") == 1


def test_one_client_gets_no_more_than_its_share(mirror, wheel):
    """Downloads that are not read on hold their places; a limited client gets 429, others are served."""
    stalled = []
    request = f"GET {wheel[0]} HTTP/1.1\r\nHost: {mirror.name}\r\n\r\n".encode()
    try:
        for _ in range(20):
            plain = socket.socket(socket.AF_INET6)
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            plain.connect((mirror.address6, 443))
            connection = mirror.tls.wrap_socket(plain, server_hostname=mirror.name)
            stalled.append(connection)
            connection.sendall(request)
            assert connection.recv(12) == b"HTTP/1.1 200"
        refused = mirror.request("GET", "/mirror.json", address=mirror.address6)
        assert refused.status == 429
        assert refused.headers["Retry-After"] == "10"
        assert mirror.get("/mirror.json").status == 200
    finally:
        for connection in stalled:
            connection.close()


# Clients in networks that are limited: each an address of another host there. What one holds, and what others get then.
CLIENTS = """
import socket, ssl, sys
target, name, path, number, holder, *askers = sys.argv[1:]
tls = ssl.create_default_context(cafile="/etc/mirrorfleet/tls/ca.pem")
def ask(source, path):
    plain = socket.socket(socket.AF_INET6 if ":" in source else socket.AF_INET)
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    plain.settimeout(20)
    plain.bind((source, 0))
    plain.connect((target, 443))
    connection = tls.wrap_socket(plain, server_hostname=name)
    connection.sendall(f"GET {path} HTTP/1.1\\r\\nHost: {name}\\r\\n\\r\\n".encode())
    return connection, connection.recv(12).decode()[9:]
held = [ask(holder, path) for _ in range(int(number))]
print(*sorted({status for _, status in held}), *(ask(each, "/mirror.json")[1] for each in askers))
"""


@pytest.mark.parametrize(
    ("network", "holder", "askers", "expected"),
    [
        # IPv4: an address is a client, its neighbours are others.
        ("198.51.100.0/24", "198.51.100.7", ["198.51.100.7", "198.51.100.8"], "200 429 200"),
        # IPv6: a /64 is, and the next one is another.
        (
            "2001:db8:1::/48",
            "2001:db8:1:1::7",
            ["2001:db8:1:1::7", "2001:db8:1:1::8", "2001:db8:1:2::7"],
            "200 429 429 200",
        ),
    ],
)
def test_clients_within_a_limited_network_have_a_share_each(
    host, mirror, other, wheel, network, holder, askers, expected
):
    target = mirror.address6 if ":" in network else mirror.address
    addresses = sorted({f"{each}/{128 if ':' in network else 32}" for each in (holder, *askers)})
    host.check_output(f"ip route replace {network} dev eth0")
    try:
        for each in addresses:
            other.shell.check_output(f"ip address replace {each} dev eth0 {'nodad' if ':' in each else ''}")
        said = other.shell.check_output(
            f"python3 -c %s {target} {mirror.name} {wheel[0]} 20 {holder} {' '.join(askers)}", CLIENTS
        )
        assert said == expected
        # Who is not limited holds more.
        unlimited = other.ipv4
        said = other.shell.check_output(
            f"python3 -c %s {mirror.address} {mirror.name} {wheel[0]} 21 {unlimited} {unlimited}", CLIENTS
        )
        assert said == "200 200"
    finally:
        for each in addresses:
            other.shell.run(f"ip address del {each} dev eth0")
        host.run(f"ip route del {network} dev eth0")


def test_who_is_known_by_name_and_moves_is_not_limited_at_the_new_address(host, mirror, other, wheel, lead):
    before, now = "2001:db8:1:1::7", "2001:db8:1:2::7"

    def limited(source):
        said = other.shell.check_output(
            f"python3 -c %s {mirror.address6} {mirror.name} {wheel[0]} 20 {source} {source}", CLIENTS
        )
        assert said in ("200 200", "200 429")
        return said == "200 429"

    def becomes(expected):
        until = time.monotonic() + 20  # the old workers' last connections
        while (
            found := [limited(source) for source in (before, now)]
        ) != expected and time.monotonic() < until:
            time.sleep(0.5)
        assert found == expected

    host.check_output("ip route replace 2001:db8:1::/48 dev eth0")
    try:
        for each in (before, now):
            other.shell.check_output(f"ip address replace {each}/128 dev eth0 nodad")
        lead(host, "friend.fleet.test", before)
        becomes([False, True])
        lead(host, "friend.fleet.test", now)
        becomes([True, False])
    finally:
        lead(host, "friend.fleet.test")
        for each in (before, now):
            other.shell.run(f"ip address del {each}/128 dev eth0")
        host.run("ip route del 2001:db8:1::/48 dev eth0")


def test_a_client_that_asks_too_fast_is_slowed_down(mirror):
    """Twenty seconds' worth at once (50 a second here), then at that rate; others do not notice."""

    def ask(number):
        request = f"HEAD /mirror.json HTTP/1.1\r\nHost: {mirror.name}\r\n"
        last = request + "Connection: close\r\n\r\n"
        start = time.monotonic()
        answer = mirror.raw(
            ((request + "\r\n") * (number - 1) + last).encode(), address=mirror.address6, name=mirror.name
        )
        assert answer.count(b"HTTP/1.1 200 ") == number
        return number / (time.monotonic() - start)

    assert ask(980) > 200
    ask(40)
    assert 35 < ask(60) < 65
    start = time.monotonic()
    assert mirror.get("/mirror.json").status == 200
    assert time.monotonic() - start < 1


def test_slow_clients_do_not_stop_others(host, mirror, other):
    """3,000 connections from 100 addresses, none of which the limits apply to, that send a little now and then."""
    number = 3000
    first = f"{mirror.address.rpartition('.')[0]}.100"
    # as a unit, so that it ends whatever happens
    unit = "slow-clients"
    start = (
        f"systemd-run --quiet --collect --unit {unit} --property LimitNOFILE=4096 --property RuntimeMaxSec=150 "
        f"python3 /opt/slow_clients.py {mirror.address} {first} {number}"
    )
    held = f"journalctl --unit {unit} --output cat --lines 1 --no-pager"
    try:
        other.shell.check_output(start)
        deadline = time.monotonic() + 100  # on a machine that does other things too
        while not (said := other.shell.check_output(held)).isdigit() or int(said) < number * 0.95:
            assert time.monotonic() < deadline, said
            time.sleep(0.5)
        waits = []
        for _ in range(20):
            begun = time.monotonic()
            assert mirror.get("/simple/fleet-sample/").status == 200
            waits.append(time.monotonic() - begun)
        check_installers(host, mirror.host, ["fleet-sample"], ["pip"])
        # nginx throws each out after ten seconds, and it comes back
        assert int(other.shell.check_output(held)) > number * 0.5
        assert sorted(waits)[-2] < 1
    finally:
        other.shell.run(f"systemctl stop {unit}")


# --- the log ---


def test_log_is_json_without_clients(host, mirror):
    agents = ['"}\\ \x1b[31m evil', "caf\u00e9".encode().decode("latin-1"), "a" * 3000]
    for agent in agents:
        mirror.raw(
            f"GET /log%22%5c HTTP/1.1\r\nHost: {mirror.name}\r\nUser-Agent: {agent}\r\n"
            "Connection: close\r\n\r\n".encode("latin-1")
        )
    mirror.raw(
        f"GET /\xff\xfe HTTP/1.1\r\nHost: {mirror.name}\r\nConnection: close\r\n\r\n".encode("latin-1")
    )
    mirror.raw(b"GET / HTTP/1.1\r\nHost: \xff\xfe\r\nConnection: close\r\n\r\n")
    mirror.request("GET", "/last-of-this-test", address=mirror.address6)
    log = "/var/log/nginx/access.log"
    # each worker writes when its own second is over
    seen = f"grep -q last-of-this-test {log} && grep -q log%22%5c {log}"
    host.check_output(f"timeout 20 sh -c 'until {seen}; do sleep 0.2; done'")
    text = host.file(log).content
    assert re.fullmatch(rb"[\x20-\x7e\n]*", text)
    lines = [json.loads(line) for line in text.splitlines()]
    clients = {line["client"] for line in lines}
    prefix4, prefix6 = mirror.address.rsplit(".", 1)[0], ":".join(mirror.address6.split(":")[:3])
    limited = {"198.51.100.0", "2001:db8:1::"}  # networks that the tests of limits come from
    assert (
        {f"{prefix4}.0", f"{prefix6}::"}
        <= clients
        <= {f"{prefix4}.0", f"{prefix6}::", "127.0.0.0", "", *limited}
    )
    assert any(line["uri"] == "/log%22%5c" for line in lines)
    # whatever enemies sent so far, no fault of this server came of it, and so nothing of theirs is in the other log
    errors = host.file("/var/log/nginx/error.log").content
    assert re.fullmatch(rb"[\x20-\x7e\n]*", errors)
    assert max(len(line["agent"]) for line in lines) <= 1000


def test_absent_projects_and_refused_clients_are_no_faults(host, mirror):
    mirror.get("/simple/absent/")
    mirror.get("/packages/absent.whl")
    assert not re.search("absent|limiting", host.file("/var/log/nginx/error.log").content_string)


# --- what the tree lacks: the cache, then upstream, which is the other host ---


@pytest.fixture
def lacking(mirror):
    """Path and content of a file that only the other host has."""
    tree = mirror.site / mirror.other / "served"
    path = next(tree.glob(f"packages/*/*/*/{mirror.lacking.replace('-', '_')}-2.0-*.whl"))
    return f"/{path.relative_to(tree)}", path.read_bytes()


@pytest.fixture
def cut_off(host, mirror):
    """The host without its upstream."""
    last = {"debian-13": "13", "debian-12": "12"}[mirror.other]
    routes = [
        f"route {mirror.address.rsplit('.', 1)[0]}.{last}/32",
        f"-6 route {mirror.address6.rsplit('::', 1)[0]}::{last}/128",
    ]

    def cut():
        for route in routes:
            family, _, rest = route.rpartition("route ")
            host.check_output(f"ip {family}route replace unreachable {rest}")

    yield cut
    for route in routes:
        family, _, rest = route.rpartition("route ")
        host.run(f"ip {family}route del unreachable {rest}")


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [(None, "text/html"), (PIP, V1_JSON), ("application/vnd.pypi.simple.v1+html", V1_HTML)],
)
def test_pages_come_from_upstream(mirror, accept, content_type):
    response = mirror.get(f"/simple/{mirror.lacking}/", accept=accept)
    assert response.status == 200
    assert response.headers["Content-Type"].startswith(content_type)
    assert response.headers["X-PyPI-Last-Serial"] == "1001"
    assert response.headers["Vary"] == "Accept, Accept-Encoding"
    assert response.headers["Cache-Control"] == "public, max-age=1"
    assert not [name for name in response.headers if len(response.headers.get_all(name)) > 1]
    assert mirror.lacking.encode() in response.body
    document = mirror.get(f"/pypi/{mirror.lacking}/json")
    assert json.loads(document.body)["last_serial"] == 1001


def test_files_come_from_upstream_in_slices(host, mirror, lacking):
    path, content = lacking
    assert mirror.get(path, Range="bytes=3000000-3000009").body == content[3000000:3000010]
    slices = int(host.check_output("grep -rla only_on /var/cache/nginx/mirror | wc -l"))
    assert slices >= 1
    assert mirror.get(path).body == content
    metadata = mirror.get(f"{path}.metadata")
    assert b"Metadata-Version" in metadata.body
    # from now on without upstream
    assert mirror.get(path).headers["Cache-Control"] == "public, max-age=31536000, immutable"


ODD = ["odd 1.0.tar.gz", "odd-\u00e9.zip", "odd@,=(;'#?%41!+~.zip", "odd-empty.zip"]


def test_files_of_any_name_come_from_upstream_and_leave_with_it(mirror, other):
    """An empty one, too."""
    folder = "/srv/mirror/served/packages/odd"
    names = " ".join(shlex.quote(name) for name in ODD)
    other.shell.check_output(
        f'mkdir -p {folder} && cd {folder} && for name in {names}; do printf %s "$name" >"$name"; done; '
        ": >odd-empty.zip"
    )
    try:
        for name in ODD:
            for method in ("GET", "HEAD", "GET"):
                answer = mirror.request(method, f"/packages/odd/{quote(name)}")
                content = b"" if "empty" in name else name.encode()
                assert (answer.status, answer.headers["Content-Length"]) == (200, str(len(content))), name
                assert answer.body == (content if method == "GET" else b"")
    finally:
        # what workers there remember of the open files goes with them
        other.shell.check_output(f"rm -r {folder} && systemctl reload nginx")
    deadline = time.monotonic() + 20
    while any(mirror.get(f"/packages/odd/{quote(name)}").status != 404 for name in ODD):
        assert time.monotonic() < deadline
        time.sleep(0.5)


def test_what_is_known_survives_upstream(mirror, lacking, cut_off):
    path, content = lacking
    page = mirror.get(f"/simple/{mirror.lacking}/", accept=PIP)
    mirror.get(path)
    cut_off()
    for _ in range(3):
        again = mirror.get(f"/simple/{mirror.lacking}/", accept=PIP)
        assert (again.status, again.body) == (200, page.body)
        assert mirror.get(path).body == content
    assert mirror.get("/simple/never-seen/").status in {502, 504}
    assert mirror.get("/simple/fleet-sample/").status == 200


def test_mirrors_that_ask_each_other_come_to_an_end(mirror):
    """RFC 8586: each is the other's upstream here."""
    assert mirror.get("/simple/on-neither/").status == 404
    assert mirror.get("/packages/on-neither.whl").status == 404
    headers = {"CDN-Loop": f"other.fleet.test, {mirror.name}"}
    assert mirror.request("GET", f"/simple/{mirror.lacking}/", headers, name=None).status == 404
