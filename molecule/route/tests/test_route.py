"""One index URL, as pip and uv use it from outside: whose bytes they get, and what becomes of it when mirrors fail."""

import contextlib
import json
import os
import shutil
import socket
import socketserver
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[3]
MIRRORS = {"one": 8441, "two": 8442}
BIG = "/packages/ab/cd/big-1.0-py3-none-any.whl"
LITTLE = "/packages/ab/cd/little-1.0-py3-none-any.whl"
REGISTRY = "/srv/route/registry.json"
CLIENTS = {
    "pip": [HOUSE / "build/clients/bin/pip", "install", "--disable-pip-version-check", "--no-cache-dir", "--index-url"],
    "uv": [shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}"), "pip", "install",
           "--default-index"],
}  # fmt: skip


class Tunnel(socketserver.StreamRequestHandler):
    """CONNECT, to the host under test whatever its name: no DNS knows it."""

    def handle(self):
        port = int(self.rfile.readline().split()[1].rpartition(b":")[2])
        while self.rfile.readline().strip():
            pass
        with contextlib.suppress(OSError), socket.create_connection((self.server.to, port)) as there:
            self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
            back = threading.Thread(target=self.pump, args=(there, self.connection), daemon=True)
            back.start()
            self.pump(self.connection, there)
            back.join()

    @staticmethod
    def pump(one, other):
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)


class Tunnels(socketserver.ThreadingTCPServer):
    daemon_threads = True


class Fleet:
    """A redirector, its two mirrors on other ports, and clients that know the redirector's URL alone."""

    def __init__(self, host, me, folder):
        self.host, self.name, self.folder = host, f"index.{me.name}.fleet.test", folder
        self.authority = folder / "authority.pem"
        self.authority.write_text(host.file("/etc/mirrorfleet/tls/ca.pem").content_string)
        self.tunnels = Tunnels(("127.0.0.1", 0), Tunnel)
        self.tunnels.to = me.ipv4
        threading.Thread(target=self.tunnels.serve_forever, daemon=True).start()
        self.proxy = f"http://127.0.0.1:{self.tunnels.server_address[1]}"

    def environment(self):
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("PIP_", "UV_"))}
        proxies = dict.fromkeys(("HTTPS_PROXY", "https_proxy"), self.proxy)
        own = {
            "PIP_CONFIG_FILE": os.devnull,
            "UV_NO_CONFIG": "1",
            "UV_NO_CACHE": "1",
            "UV_HTTP_TIMEOUT": "20",
        }
        return kept | own | proxies | {"PIP_CERT": str(self.authority), "SSL_CERT_FILE": str(self.authority)}

    def install(self, client, label=""):
        """Big and little, by their content; whose GET of the big one was answered is told by its mirror's log."""
        target = self.folder / f"{client}-{time.monotonic_ns()}"
        url = f"https://{self.name}{label}/simple/"
        command = [*CLIENTS[client], url, "--target", target, "big", "little"]
        ran = subprocess.run(command, env=self.environment(), capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        assert {name: (target / f"{name}.bin").stat().st_size for name in ("big", "little")} == {
            "big": 400_000,
            "little": 100,
        }

    def ask(self, path, *options):
        found = ["curl", "--silent", "--show-error", "--cacert", self.authority, *options]
        return subprocess.check_output(
            [*found, f"https://{self.name}{path}"], env=self.environment(), text=True
        )

    def sent_to(self, path=BIG):
        location = self.ask(path, "--head", "--write-out", "%{redirect_url}", "--output", os.devnull)
        return location.removeprefix("https://").partition(".")[0]

    def gets(self, path=BIG):
        """By mirror, how often a client had a file of it."""
        log = "journalctl --no-pager --output cat --unit mirror-{}"
        return {name: self.host.check_output(log.format(name)).count(f'"GET {path} HTTP') for name in MIRRORS}

    def start(self, name):
        self.host.check_output(f"systemctl reset-failed mirror-{name} 2>/dev/null; true")
        port = MIRRORS[name]
        self.host.check_output(
            f"systemd-run --quiet --unit mirror-{name} /usr/bin/python3 /srv/route/serve.py {port}"
        )
        self.host.check_output(
            f"for i in $(seq 50); do ss -Htln | grep -q :{port} && exit 0; sleep 0.1; done; exit 1"
        )

    def stop(self, name):
        self.host.check_output(
            f"systemctl stop mirror-{name}; systemctl reset-failed mirror-{name} 2>/dev/null; true"
        )


@pytest.fixture(scope="module")
def fleet(host, scenario, tmp_path_factory):
    made = Fleet(host, scenario.hosts[host.backend.host], tmp_path_factory.mktemp("route"))
    for name in MIRRORS:
        made.start(name)
    yield made
    for name in MIRRORS:
        made.stop(name)
    made.tunnels.shutdown()


def within(seconds, found):
    """What it tells as soon as it is true; the last it told."""
    until = time.monotonic() + seconds
    while not (told := found()) and time.monotonic() < until:
        time.sleep(0.2)
    return told


@pytest.mark.parametrize("client", CLIENTS)
def test_pages_and_small_files_come_from_the_redirector_and_large_ones_from_a_mirror(fleet, client):
    before = sum(fleet.gets().values())
    assert fleet.sent_to() in MIRRORS and not fleet.sent_to(LITTLE)
    fleet.install(client)
    assert sum(fleet.gets().values()) == before + 1
    assert fleet.gets(LITTLE) == dict.fromkeys(MIRRORS, 0)


def test_who_wants_trusted_hosts_only_is_sent_to_no_mirror(fleet):
    before = fleet.gets()
    fleet.install("uv", label="/trusted")
    assert fleet.gets() == before


@pytest.fixture
def killed(fleet):
    """The mirror that a large file would come from is gone, and no monitor has seen it."""
    first = fleet.sent_to()
    fleet.stop(first)
    yield first
    fleet.start(first)


@pytest.mark.parametrize("client", CLIENTS)
def test_a_mirror_that_was_killed_costs_no_installation(fleet, killed, client):
    assert fleet.sent_to() == next(name for name in MIRRORS if name != killed)
    fleet.install(client)


def test_nor_do_all_mirrors(fleet, killed):
    other = fleet.sent_to()
    fleet.stop(other)
    try:
        assert fleet.sent_to() == ""
        fleet.install("pip")
    finally:
        fleet.start(other)


def changed(fleet, path, change):
    """A document of the host with Python code run over it, replaced as programs replace theirs."""
    fleet.host.check_output(
        "python3 -c 'import json, os, sys; d = json.load(open(sys.argv[1])); exec(sys.argv[2]);"
        ' json.dump(d, open(sys.argv[1] + ".new", "w")); os.replace(sys.argv[1] + ".new", sys.argv[1])\' %s %s',
        path,
        change,
    )


def candidates(fleet):
    return {name for name in json.loads(fleet.ask(f"/route?file={BIG}"))["candidates"] if name}


def test_a_drained_mirror_gets_nobody_at_once_and_a_decision_is_explained(fleet, host):
    assert candidates(fleet) == {"one", "two"}
    serving = host.file("/run/nginx.pid").content_string
    changed(fleet, REGISTRY, 'd["mirrors"][0]["state"] = "drained"')
    assert within(15, lambda: candidates(fleet) == {"two"})
    told = json.loads(fleet.ask(f"{BIG}?trace=1"))
    assert (told["mirror"], told["pool"], told["family"]) == ("two", "world over IPv4", "ipv4")
    explained = (
        f"/opt/mirrorfleet/current/bin/mirrorfleet route --explain {BIG} --address 192.0.2.1 --country NZ"
    )
    found = json.loads(host.check_output(explained))
    assert (found["pool"], found["candidates"]) == ("country NZ over IPv4", ["two"])
    assert found["unrouted"] == {"one": "drained by its operator"}
    changed(fleet, REGISTRY, 'd["mirrors"][0]["state"] = "active"')
    assert within(15, lambda: candidates(fleet) == {"one", "two"})
    assert host.file("/run/nginx.pid").content_string == serving
    assert (
        host.check_output("systemctl show --property Result --value mirrorfleet-route.service") == "success"
    )


def test_who_fails_for_the_monitor_gets_nobody_within_seconds(fleet):
    health, change = (
        "/srv/route/health.json",
        'd["mirrors"]["two"].update(bad=%d, problem="connection refused")',
    )
    changed(fleet, health, change % 1)
    assert within(15, lambda: candidates(fleet) == {"one"})
    changed(fleet, health, change % 0)
    assert within(15, lambda: candidates(fleet) == {"one", "two"})
