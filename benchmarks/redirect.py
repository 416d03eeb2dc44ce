"""What sending clients to mirrors costs, and how well the choice holds what it promises.

* 1,000,000 made-up clients over the pure choice: shares, locality, movement.
* 300 pools of 50 mirrors: how large the maps are, how long nginx takes to load them, how much memory.
* CPU of nginx for a redirect, asked for in the clear and by TLS on connections that are kept: bare `return 302`; the
  choice alone; and live-checked by HEAD over TLS, under each mirror's own name or one of the fleet; 3 and 300 pools.
* 100 changes of the routes while clients ask: how many requests are lost.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import os
import random
import resource
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from report import FULL, ROOT, Row, publish, say

sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "src"))
sys.path.insert(0, str(ROOT / "tests"))

from faults.nginx import ROOT as NGINX
from faults.nginx import free_ports, self_signed

from mirrorfleet.route.nginx import render
from mirrorfleet.route.pools import Client, Mirror, Routing, route
from mirrorfleet.route.slots import SLOTS, assign, moved
from tests.nginx_material import Nginx

CLIENTS = 1_000_000 if FULL else 100_000
REQUESTS = 40_000 if FULL else 10_000
BOTH = frozenset({"ipv4", "ipv6"})
WEIGHTS = (10, 100, 100, 200, 500, 1000, 1000, 1000, 10_000)
CONTINENTS = ("AF", "AS", "EU", "NA", "OC", "SA")
BINARY = NGINX / "usr/sbin/nginx"


def fleet(count: int, countries: int, chance: random.Random) -> list[Mirror]:
    found = []
    for number in range(count):
        country = chance.randrange(countries)
        found.append(
            Mirror(
                f"m{number}", f"https://m{number}.fleet.test", chance.choice(WEIGHTS),
                f"{chr(65 + country // 26)}{chr(65 + country % 26)}", CONTINENTS[country % 6],
                networks=(f"10.{number}.0.0/16",) if number < 20 else (), serving=BOTH, addresses=("127.0.0.1",),
            )
        )  # fmt: skip
    return found


def simulate() -> None:
    chance = random.Random(7)
    mirrors = fleet(200, 60, chance)
    routing = route(mirrors)
    countries = [*sorted({(one.country, one.continent) for one in mirrors}), ("ZZ", "EU"), ("ZY", "AN")]
    clients = []
    for number in range(500):
        country, continent = chance.choice(countries)
        address = f"10.{number}.1.1" if number < 20 else f"192.0.2.{number % 250}"
        clients.append(Client(address, "", country, continent))
    gone = max(mirrors, key=lambda one: one.weight)
    without = route([replace(one, serving=frozenset()) if one is gone else one for one in mirrors])
    pools, got, wanted = Counter[str](), Counter[str](), Counter[str]()
    needless = own = 0
    homes = {client: (routing.pool_of(client), without.pool_of(client)) for client in clients}
    shares = {}
    for key in {pool for pool, _ in homes.values() if pool}:
        count = Counter(names[0] for names in routing.pools[key])
        members = {name: routing.mirrors[name].weight for name in count}
        shares[key] = {name: weight / sum(members.values()) for name, weight in members.items()}
        assert sum(count.values()) == SLOTS
    begun = time.perf_counter()
    slots = [chance.randrange(SLOTS) for _ in range(CLIENTS)]
    for slot in slots:
        client = chance.choice(clients)
        pool, after = homes[client]
        assert pool and after
        name = routing.pools[pool][slot][0]
        pools[pool.kind] += 1
        got[name] += 1
        for member, share in shares[pool].items():
            if len(shares[pool]) < 30:
                wanted[member] += share
        other = without.pools[after][slot][0]
        own += name == gone.name
        needless += name != gone.name and other != name
    told = ", ".join(f"{kind} {count / CLIENTS:.1%}" for kind, count in pools.items())
    say(f"{CLIENTS:,} clients in {time.perf_counter() - begun:.0f} s: {told}")
    say(
        f"the largest mirror left: {own / CLIENTS:.2%} were its clients, {needless / CLIENTS:.2%} others moved"
    )
    worst = max(
        abs(Counter(names[0] for names in pool)[name] / SLOTS - weight / total)
        for key, pool in routing.pools.items()
        for members in [[one for one in mirrors if _in(one, key)]]
        for total in [sum(one.weight for one in members)]
        for name, weight in [(one.name, one.weight) for one in members]
    )
    say(f"worst share error of any mirror in any pool: {worst:.2%} of the pool")
    pool = {one.name: one.weight for one in mirrors[:50]}
    second, joins = [], []
    whole = assign(pool, pool.keys())
    for one, other in [chance.sample(sorted(pool), 2) for _ in range(30)]:
        before, two = assign(pool, pool.keys() - {one}), assign(pool, pool.keys() - {one, other})
        second.append(sum(before[slot][0] != other for slot in moved(before, two)) / SLOTS)
        rest = {name: weight for name, weight in pool.items() if name != one}
        joins.append(sum(whole[slot][0] != one for slot in moved(assign(rest, rest.keys()), whole)) / SLOTS)
    say(f"a second one leaves a pool of 50: {_told(second)} of the slots move needlessly")
    say(f"a new one joins a pool of 50: {_told(joins)} of the slots move needlessly")


def _told(shares: list[float]) -> str:
    return f"{statistics.mean(shares):.2%} (at most {max(shares):.2%})"


def _in(one: Mirror, key: Any) -> bool:
    where: dict[str, tuple[str, ...]] = {
        "world": ("",), "network": one.networks, "country": (one.country,), "continent": (one.continent,)
    }  # fmt: skip
    return key.value in where.get(key.kind, ())


def many(pools: int, members: int) -> Routing:
    chance = random.Random(3)
    mirrors = []
    for number in range(pools):
        for index in range(members):
            networks = (f"10.{number // 250}.{number % 250}.0/24",)
            mirrors.append(
                Mirror(f"m{index}x{number}", f"https://m{index}x{number}.fleet.test", chance.choice(WEIGHTS),
                       "NZ", "OC", networks=networks, families=("ipv4",), serving=frozenset({"ipv4"}),
                       addresses=("127.0.0.1",))
            )  # fmt: skip
    return route(mirrors) if pools * members <= 1000 else _shared(pools, members)


def _shared(pools: int, members: int) -> Routing:
    """The same 1,000 mirrors in many pools."""
    chance = random.Random(3)
    networks: dict[int, list[str]] = {}
    for number in range(pools):
        for index in chance.sample(range(1000), members):
            networks.setdefault(index, []).append(f"10.{number // 250}.{number % 250}.0/24")
    return route(
        [
            Mirror(f"m{index}", f"https://m{index}.fleet.test", chance.choice(WEIGHTS), "NZ", "OC",
                   networks=tuple(networks.get(index, ())), families=("ipv4",), serving=frozenset({"ipv4"}),
                   addresses=("127.0.0.1",))
            for index in range(1000)
        ]
    )  # fmt: skip


def large(folder: Path) -> None:
    begun = time.process_time()
    routing = many(300, 50)
    chosen = time.process_time() - begun
    text = render(routing)
    written = time.process_time() - begun - chosen
    say(f"{len(routing.pools)} pools: chosen in {chosen:.1f} s of CPU, written in {written:.1f} s")
    routes = folder / "routes.conf"
    routes.write_text(text)
    conf = folder / "large.conf"
    for name, include in (("without", ""), ("with", f"include {routes};")):
        conf.write_text(
            f"pid {folder}/large.pid; error_log stderr; events {{}} http {{ access_log off; map_hash_bucket_size 256;"
            f" variables_hash_bucket_size 128; variables_hash_max_size 4096; {include} }}"
        )
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [
            "/usr/bin/env",
            "python3",
            "-c",
            _PEAK,
            str(BINARY),
            "-t",
            "-q",
            "-c",
            str(conf),
            "-p",
            str(folder),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        size, memory = len(text) / 1e6, int(done.stdout) / 1024
        say(f"nginx {name} the maps ({size:.1f} MB): {seconds:.2f} s of CPU, {memory:.0f} MB")


_PEAK = (
    "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True);"
    "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
)


def workers(master: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{master}/task/{master}/children").read_text().split()]


def cpu(master: int) -> int:
    ticks = 0
    for pid in workers(master):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks


def listens(port: int) -> None:
    """Wait until a server does."""
    until = time.monotonic() + 30
    while True:
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
            return
        assert time.monotonic() < until, f"nothing listens at {port}"
        time.sleep(0.05)


TRUSTING = ssl.create_default_context()
TRUSTING.check_hostname, TRUSTING.verify_mode = False, ssl.CERT_NONE
# What the role's configuration becomes without the live check, and with one name of the whole fleet for it.
UNCHECKED = {f"auth_request /-/live-{number};": "" for number in range(4)} | {" = other)": " = never)"}
ONE_NAME = {f"$route_host_{number};": "any.fleet.test;" for number in range(4)}
LEAST = 0.9  # of what a bare redirect does, the choice alone has to do
KINDS = (
    ("the choice alone", UNCHECKED, 1 / LEAST),
    ("live-checked", {}, None),
    ("live-checked under one name", ONE_NAME, None),
)


def ask(port: int, paths: list[str], *, tls: bool) -> None:
    """One after another, as clients do, on connections that are kept for 500."""
    found = Counter[bytes]()
    for at in range(0, len(paths), 500):
        with socket.create_connection(("127.0.0.1", port)) as plain:
            connection = TRUSTING.wrap_socket(plain, server_hostname=Nginx.NAME) if tls else plain
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for path in paths[at : at + 500]:
                connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {Nginx.NAME}\r\n\r\n".encode())
                text = b""
                while not text.endswith(b"</html>\r\n"):
                    part = connection.recv(1 << 16)
                    assert part, text
                    text += part
                found[text[9:12]] += 1
            connection.close()
    assert found == {b"302": len(paths)}, found


def redirects(folder: Path) -> list[Row]:
    files = [f"/packages/{number % 100:02x}/file-{number}.whl" for number in range(REQUESTS)]
    pem = self_signed(folder / "both.pem", "*.fleet.test", Nginx.NAME)
    bare, bare_tls, mirror = free_ports(3)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    below = "".join(f"{kind}_temp_path {folder}/{kind}; " for kind in kinds)
    certificate = f"ssl_certificate {pem}; ssl_certificate_key {pem};"
    conf = folder / "bare.conf"
    conf.write_text(
        f"daemon off; user root; pid {folder}/bare.pid; error_log stderr; events {{}} http {{ {below} access_log off;"
        f" {certificate} server {{ listen 127.0.0.1:{bare}; listen 127.0.0.1:{bare_tls} ssl;"
        f" return 302 https://m1.fleet.test$request_uri; }} }}"
    )
    mirrors = folder / "mirrors.conf"
    # As mirrors have it, strange names are refused.
    mirrors.write_text(
        f"daemon off; user root; pid {folder}/mirrors.pid; error_log stderr;"
        f" events {{ worker_connections 16384; }} http {{ {below} access_log off; {certificate}"
        f" keepalive_requests 100000;"
        f" server {{ listen 127.0.0.1:{mirror} ssl default_server; ssl_reject_handshake on; }}"
        f" server {{ listen 127.0.0.1:{mirror} ssl; server_name *.fleet.test; root {folder}/m; }} }}"
    )
    for path in files:
        for tree in (folder / "m", folder / "served"):
            (tree / path.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
            (tree / path.lstrip("/")).write_bytes(b"x" * 10)
    started = [subprocess.Popen([BINARY, "-c", one, "-p", folder]) for one in (conf, mirrors)]
    rows = []
    try:
        for port in (bare, mirror):
            listens(port)
        peers = {
            tls: _measured(started[0].pid, bare_tls if tls else bare, files, tls=tls) for tls in (False, True)
        }
        for pools in (3, 300):
            text = render(many(pools, 3 if pools == 3 else 50)).replace(":443;", f":{mirror};")
            for number, (kind, replaced, goal) in enumerate(KINDS):
                at = folder / f"redirector{pools}-{number}"
                at.mkdir()
                (at / "served").symlink_to(folder / "served")
                (at / "routes.conf").write_text(text)
                given = {"web_server_routes": str(at / "routes.conf"), "web_server_route_small": 1}
                given["web_server_route_ca"] = str(pem.with_suffix(".crt"))
                server = Nginx(at, pem, replaced=replaced, **given)
                try:
                    for tls in (False, True):
                        taken = _measured(
                            server._server.pid, server.tls_port if tls else server.port, files, tls=tls
                        )
                        what = f"{kind}, {pools} pools, {'TLS' if tls else 'plain'}"
                        rows.append(Row(what, taken, peers[tls], "return 302", "1.22.1", "us of CPU", goal))
                        say(f"{what}: {1e6 / taken:,.0f} a second and core; bare {1e6 / peers[tls]:,.0f}")
                finally:
                    server.stop()
        changes(folder, pem, mirror, files)
    finally:
        for one in started:
            one.terminate()
            one.wait(10)
    return rows


def changes(folder: Path, pem: Path, mirror: int, files: list[str]) -> None:
    """Requests, each on a connection of its own, while routes are changed 100 times."""
    at = folder / "changing"
    at.mkdir()
    (at / "served").symlink_to(folder / "served")
    found = many(3, 3)
    routings = [
        found,
        route(
            [
                replace(one, serving=frozenset()) if one.name == "m0x0" else one
                for one in found.mirrors.values()
            ]
        ),
    ]
    texts = [render(one).replace(":443;", f":{mirror};") for one in routings]
    (at / "routes.conf").write_text(texts[0])
    given = {"web_server_routes": str(at / "routes.conf"), "web_server_route_small": 1}
    server = Nginx(at, pem, **given, web_server_route_ca=str(pem.with_suffix(".crt")))
    done, answers = threading.Event(), Counter[str]()

    def read(number: int) -> None:
        for path in itertools.cycle(files[number::4]):
            if done.is_set():
                return
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
            try:
                connection.request("HEAD", path, headers={"Host": Nginx.NAME})
                answers["answered" if connection.getresponse().status == 302 else "lost"] += 1
            except (OSError, http.client.HTTPException):
                answers["lost"] += 1
            finally:
                connection.close()

    readers = [threading.Thread(target=read, args=(number,)) for number in range(4)]
    for one in readers:
        one.start()
    try:
        for change in range(100):
            (at / "routes.conf").write_text(texts[change % 2])
            os.kill(server._server.pid, signal.SIGHUP)
            time.sleep(0.1)  # ten changes a second: far more than a fleet has, and clients ask between two
    finally:
        done.set()
        for one in readers:
            one.join()
        server.stop()
    say(f"100 changes of the routes: {answers['answered']:,} requests answered, {answers['lost']} lost")


def _measured(master: int, port: int, files: list[str], *, tls: bool) -> float:
    ask(port, files[:500], tls=tls)
    before = cpu(master)
    ask(port, files[500:], tls=tls)
    return (cpu(master) - before) / 100 / (len(files) - 500) * 1e6


if __name__ == "__main__":
    simulate()
    with tempfile.TemporaryDirectory() as name:
        large(Path(name))
        publish("redirect", redirects(Path(name)))
