"""A redirector as nginx serves it: mirrors of all kinds and real clients, all on loopback."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.client import HTTPException
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest
from faults.nginx import ROOT, self_signed
from mmdb_writer import MMDBWriter
from netaddr import IPSet

from mirrorfleet.route import run
from mirrorfleet.route.nginx import GeoIP, render
from mirrorfleet.route.pools import Client, Mirror, route
from tests.nginx_material import Names, Nginx
from tests.unit.test_web_server_cache import V1_JSON, Upstream
from tests.unit.test_web_server_cache import Mirror as Site

BOTH = frozenset({"ipv4", "ipv6"})
LARGE = "/packages/ab/cd/large-1.0.tar.gz"
SMALL = "/packages/ab/cd/small-1.0.tar.gz"
CONTENT = b"large " * 1000
SILENCE = 8  # seconds that a mirror says nothing: longer than the live check waits, and than these clients do


class Faulty(socketserver.ThreadingTCPServer):
    """A mirror over TLS that does what tests tell it to."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, name: str, tree: Path, certificate: Path) -> None:
        self.name, self.tree, self.fault = name, tree, ""
        self.evil = b""  # what a mirror that is tampered with says instead
        self.asked: list[tuple[str, str, str]] = []
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(certificate)
        super().__init__(("127.0.0.1", 0), Answers)
        self.port = int(self.server_address[1])
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def handle_error(self, *_: object) -> None:
        """Clients that hang up are what this is about."""

    def url(self, path: str) -> str:
        return f"https://{self.name}.fleet.test:{self.port}{path}"

    def refuse(self) -> None:
        self.shutdown()
        self.server_close()

    def gets(self, path: str) -> int:
        return sum((method, asked) == ("GET", path) for method, asked, _ in self.asked)


class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    timeout = 20
    server: Faulty

    def setup(self) -> None:
        self.request = self.server.context.wrap_socket(self.request, server_side=True)
        super().setup()

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        server, fault = self.server, self.server.fault
        server.asked.append((self.command, self.path, self.headers["Host"].partition(":")[0]))
        path = server.tree / self.path.lstrip("/")
        body = path.read_bytes() if path.is_file() else None
        if fault == "hang":
            time.sleep(SILENCE)
            return
        if fault.isdecimal() or body is None:
            self.send_response(int(fault or 404))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if fault == "shorter":
            body = body[:-1]
        if fault == "tampered":
            body = server.evil
        begin = 0
        if wanted := re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or ""):
            begin = int(wanted[1])
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(body) - begin))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", '"1"')
        self.end_headers()
        if self.command == "HEAD":
            return
        body = body[begin:]
        if fault in ("cut", "stalled"):
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            if fault == "stalled":
                time.sleep(SILENCE)
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        if fault == "slow":
            for at in range(0, len(body), len(body) // 10):
                self.wfile.write(body[at : at + len(body) // 10])
                self.wfile.flush()
                time.sleep(0.1)  # a second for the file, which is slow and no fault
            return
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


def mirror(name: str, port: int, **changes: Any) -> Mirror:
    given = {
        "url": f"https://{name}.fleet.test:{port}",
        "weight": 100,
        "country": "NZ",
        "continent": "OC",
        "serving": BOTH,
        "addresses": ("127.0.0.1",),
    }
    return Mirror(name, **given | changes)


@dataclass
class Fleet:
    """A redirector with three mirrors, which have what is in `tree`; so has the redirector itself."""

    folder: Path
    authority: Any
    options: dict[str, Any]
    mirrors: dict[str, Faulty] = field(default_factory=dict)
    records: list[Mirror] = field(default_factory=list)
    nginx: Nginx | None = None
    name: str = Nginx.NAME
    modules: tuple[str, ...] = ("js",)
    patient: bool = (
        True  # with mirrors, which this machine may be too busy for; where silence is no fault of any
    )

    @property
    def tree(self) -> Path:
        return self.folder / "served"

    @property
    def site(self) -> Site:
        assert self.nginx
        return Site(self.folder, self.nginx)

    def put(self, path: str, content: bytes) -> None:
        file = self.tree / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)

    def start(self, *records: Mirror) -> None:
        self.records = list(records) or [mirror(name, one.port) for name, one in self.mirrors.items()]
        routes = self.folder / "routes.conf"
        routes.write_text(render(route(self.records)))
        given = {"web_server_routes": str(routes), "web_server_route_small": 1000}
        given |= {"web_server_route_ca": str(self.authority.pem)}
        certificate = self.authority.issue(Nginx.NAME, "127.0.0.1")
        replaced = dict.fromkeys(("800ms;", "1500ms;"), "30s;") if self.patient else {}
        self.nginx = Nginx(
            self.folder,
            certificate,
            name=self.name,
            replaced=replaced,
            modules=self.modules,
            **given | self.options,
        )

    def first(self, path: str = LARGE) -> str:
        return route(self.records).choose(Client("127.0.0.1"), path).candidates[0]


@contextlib.contextmanager
def fleet_in(folder: Path, authority: Any) -> Iterator[Fleet]:
    made = Fleet(folder, authority, {})
    made.put(LARGE, CONTENT)
    made.put(SMALL, b"small")
    for name in "abc":
        made.mirrors[name] = Faulty(name, made.tree, authority.issue(f"{name}.fleet.test"))
    yield made
    if made.nginx:
        made.nginx.stop()
    for one in made.mirrors.values():
        with contextlib.suppress(OSError):
            one.refuse()


@pytest.fixture
def fleet(tmp_path: Path, authority: Any) -> Iterator[Fleet]:
    with fleet_in(tmp_path, authority) as made:
        yield made


def test_large_files_come_from_mirrors_and_small_ones_from_here(fleet: Fleet) -> None:
    fleet.put(f"{LARGE}.metadata", b"m" * 5000)
    fleet.start()
    first = fleet.mirrors[fleet.first()]
    answer = fleet.site.get(LARGE)
    assert (answer.status, answer.headers["Location"]) == (302, first.url(LARGE)), answer
    assert answer.headers["Cache-Control"] == "no-store"
    # asked by HEAD, under its own name, and nobody else was
    assert [(one.name, one.asked) for one in fleet.mirrors.values() if one.asked] == [
        (first.name, [("HEAD", LARGE, f"{first.name}.fleet.test")])
    ]
    for path, content in ((SMALL, b"small"), (f"{LARGE}.metadata", b"m" * 5000)):
        answer = fleet.site.get(path)
        assert (answer.status, answer.body) == (200, content)
        assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert fleet.site.get("/packages/ab/cd/absent.whl").status == 404
    assert fleet.site.get("/packages/ab/.hidden").status == 404


def told(fleet: Fleet, path: str, **headers: str) -> dict[str, Any]:
    answer = fleet.site.get(path, **headers)
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json"), answer
    return dict(answer.json())


def test_the_decision_is_the_pure_functions(fleet: Fleet) -> None:
    many = [
        mirror(f"m{number}", 443, weight=number * 37 + 10, networks=networks, serving=serving)
        for number, (networks, serving) in enumerate(
            [
                ((), BOTH),
                ((), BOTH),
                ((), frozenset({"ipv6"})),
                ((), frozenset()),
                (("192.0.2.0/24", "AS64500"), BOTH),
                (("192.0.2.128/25", "2001:db8::/32"), BOTH),
                (("2001:db8::/32",), BOTH),
            ]
        )
    ]
    odd = {"url": "https://odd.fleet.test", "networks": ("198.51.100.0/24",)}
    many.append(mirror("odd \"name'", 443, **odd))
    fleet.start(*many)
    routing = route(many)
    for address in ("203.0.113.9", "192.0.2.1", "192.0.2.129", "198.51.100.7", "2001:db8::1", "::1"):
        for number in range(25):
            path, label = f"/packages/{number}/{os.urandom(9).hex()[: number + 1]}.whl", f"m{number % 7}"
            for prefix, labels in (
                ("", {}),
                (f"/without/{label}", {"without": label}),
                (f"/prefer/{label}", {"prefer": label}),
            ):
                choice = routing.choose(Client(address), path, **labels)
                found = told(fleet, f"/route?file={prefix}{path}&address={address}")
                assert (found["file"], found["address"], found["slot"]) == (path, address, choice.slot)
                assert found["pool"] == str(choice.pool)
                names = [routing.mirrors[name].label for name in choice.candidates]
                assert [name for name in found["candidates"] if name] == names


@pytest.fixture
def databases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GeoIP:
    """Of two networks their country, of a third its AS."""
    monkeypatch.setenv("LD_LIBRARY_PATH", str(next(ROOT.glob("usr/lib/*/libmaxminddb.so.0"), ROOT).parent))
    country, asn = MMDBWriter(ip_version=6, ipv4_compatible=True), MMDBWriter()
    for network, code, continent in (("192.0.2.0/24", "NZ", "OC"), ("2001:db8::/32", "DE", "EU")):
        country.insert_network(
            IPSet([network]), {"country": {"iso_code": code}, "continent": {"code": continent}}
        )
    asn.insert_network(IPSet(["198.51.100.0/24"]), {"autonomous_system_number": 64500})
    found = GeoIP(tmp_path / "country.mmdb", tmp_path / "asn.mmdb")
    country.to_db_file(str(found.country))
    asn.to_db_file(str(found.asn))
    return found


def test_databases_tell_where_clients_are_and_none_of_them_is_needed(fleet: Fleet, databases: GeoIP) -> None:
    fleet.modules = ("js", "geoip2")
    ports = {name: one.port for name, one in fleet.mirrors.items()}
    fleet.start(
        mirror("a", ports["a"]),
        mirror("b", ports["b"], country="FR", continent="EU"),
        mirror("c", ports["c"], country="US", continent="NA", networks=("AS64500",)),
    )
    assert fleet.nginx and databases.country and databases.asn
    routes = fleet.folder / "routes.conf"
    config = run.RouteConfig(
        fleet.folder, fleet.folder, (), routes, country=databases.country, asn=databases.asn,
        test=(*map(str, fleet.nginx.command), "-t", "-q"), reload=("kill", "-HUP", str(fleet.nginx._server.pid)),
    )  # fmt: skip
    memory, routing = run.Memory(), route(fleet.records)
    unknown = ["192.0.2.1", "2001:db8::1", "198.51.100.1", "203.0.113.1"]
    clients = [
        Client("192.0.2.1", "", "NZ", "OC"),
        Client("2001:db8::1", "", "DE", "EU"),
        Client("198.51.100.1", "AS64500"),
        Client("203.0.113.1"),
    ]

    def pools(wanted: list[Client]) -> None:
        until, there = time.monotonic() + 20, [str(routing.pool_of(one)) for one in wanted]
        while [told(fleet, f"/route?file={LARGE}&address={one.address}")["pool"] for one in wanted] != there:
            assert time.monotonic() < until, there
            time.sleep(0.05)  # a reload takes effect in a moment, of which nginx tells nobody
        answer = fleet.site.get(LARGE)
        assert answer.status == 302, answer

    assert len({str(routing.pool_of(one)) for one in clients}) == 4
    assert run._make(config, memory, fleet.records) == (True, "")
    pools(clients)
    # Corrupt, at once or all the time: nginx goes on, and the run tells.
    whole = databases.country.read_bytes()
    databases.country.write_bytes(whole[: len(whole) // 2])
    changed, problem = run._make(config, memory, fleet.records)
    assert changed and "routes.conf" in problem, problem
    pools([Client(address) for address in unknown])
    databases.country.write_bytes(whole)
    assert run._make(config, memory, fleet.records) == (True, "")
    pools(clients)
    # Gone: the other one is used.
    databases.country.unlink()
    assert run._make(config, memory, fleet.records) == (True, "")
    pools([*(Client(one) for one in unknown[:2]), *clients[2:]])


def test_labels_exclude_prefer_and_trust(fleet: Fleet) -> None:
    fleet.start()
    first, second, third = route(fleet.records).choose(Client("127.0.0.1"), LARGE).candidates
    site = fleet.site

    def sent(prefix: str) -> str | None:
        found: str | None = site.get(f"{prefix}{LARGE}", method="HEAD").headers["Location"]
        return found

    assert sent("") == fleet.mirrors[first].url(LARGE)
    assert sent(f"/without/{first}") == fleet.mirrors[second].url(LARGE)
    assert sent(f"/prefer/{third}") == fleet.mirrors[third].url(LARGE)
    assert sent("/prefer/nobody") == sent("/without/nobody") == sent("")
    # whom a client prefers is asked as the others are
    fleet.mirrors[third].fault = "500"
    assert sent(f"/prefer/{third}") == sent("")
    answer = site.get(f"/trusted{LARGE}")
    assert (answer.status, answer.body) == (200, CONTENT)
    assert site.get("/trusted/simple/Some.Name").headers["Location"] == "/trusted/simple/some-name/"
    assert site.get(f"/trusted{LARGE}/../../../../etc/passwd").status == 404


def test_a_label_is_no_way_to_write_headers(fleet: Fleet) -> None:
    fleet.start()
    for prefix in (
        "/prefer/a%0d%0aX-Evil:%201",
        "/without/%0aX-Evil:%201",
        "/trusted/simple/%0d%0aX-Evil:%201/..",
    ):
        answer = fleet.site.get(f"{prefix}/simple/Some.Name")
        assert (answer.headers["Location"], answer.headers["X-Evil"]) == (None, None), prefix


def test_no_path_leads_out_of_the_tree(fleet: Fleet) -> None:
    """/route is told a path that nginx has not read: it may not tell whether anything is there beside the tree."""
    fleet.start()
    (fleet.folder / "secret").write_bytes(b"small")
    for path in (
        "/packages/..%2f..%2fsecret",
        "/packages/%2e%2e/../secret",
        "/packages/ab%2f..%2f..%2f..%2fsecret",
    ):
        found = told(fleet, f"/route?file={path}&address=192.0.2.1")
        assert found["reason"] in ("no path of a file", "not in the tree of this host"), path


def test_a_mirrors_faults_are_not_in_this_hosts_log(fleet: Fleet) -> None:
    """Prober and list tell of them, and that log has clients' whole addresses."""
    fleet.start()
    first, second, third = (
        fleet.mirrors[name] for name in route(fleet.records).choose(Client("127.0.0.1"), LARGE).candidates
    )
    first.fault, second.fault = "404", "500"
    third.refuse()
    assert fleet.site.get(LARGE).body == CONTENT
    log = fleet.folder / "error.log"
    assert log.read_text() == ""


def test_a_trace_says_why(fleet: Fleet) -> None:
    fleet.start()
    first, second, _ = route(fleet.records).choose(Client("127.0.0.1"), LARGE).candidates
    fleet.mirrors[first].fault = "503"
    found = told(fleet, f"{LARGE}?trace=1")
    assert (found["mirror"], found["candidates"][1], found["pool"]) == (second, first, "world over IPv4")
    assert found["reason"] == f"slot {found['slot']} of world over IPv4"
    assert told(fleet, f"/prefer/{second}{LARGE}?trace=1")["reason"] == f"the client prefers {second}"
    for path, reason in (
        (f"/trusted{LARGE}", "the client wants trusted hosts only"),
        (SMALL, "a small file"),
        ("/packages/absent", "not in the tree of this host"),
    ):
        found = told(fleet, f"{path}?trace=1")
        assert (found["mirror"], found["reason"]) == ("", reason)


def test_what_is_told_says_how_old_its_routes_are(fleet: Fleet) -> None:
    fleet.start()
    question = f"/route?file={LARGE}&address=192.0.2.1"
    for age, stale in ((100, False), (130, True), (-130, True)):  # the last: the clock was set back since
        then = time.time() - age
        os.utime(fleet.folder / "routes.conf", (then, then))
        for found in (
            told(fleet, question),
            told(fleet, f"{LARGE}?trace=1"),
            told(fleet, f"{SMALL}?trace=1"),
        ):
            assert (abs(found["routes_age"] - age) <= 3, found["stale"]) == (True, stale), found
    assert found["tree_age"] is None, "a cache has no tree"
    written = fleet.tree / "last-modified"
    written.write_text(time.strftime("%Y%m%dT%H:%M:%S\n", time.gmtime(time.time() - 4000)))
    assert abs(told(fleet, question)["tree_age"] - 4000) <= 3, "and not how old the file is"
    written.write_text("yesterday\n")
    assert told(fleet, question)["tree_age"] is None
    (fleet.folder / "routes.conf").rename(fleet.folder / "gone")  # nginx goes on with what it read
    found = told(fleet, question)
    assert (found["routes_age"], found["stale"], found["mirror"]) == (None, True, "")
    (fleet.folder / "gone").rename(fleet.folder / "routes.conf")


@contextlib.contextmanager
def blackhole() -> Iterator[int]:
    """A port whose queue is full, so that the kernel drops who wants to connect."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filling = stack.enter_context(socket.socket())
            filling.setblocking(False)
            filling.connect_ex(listener.getsockname())
        yield int(listener.getsockname()[1])


BEFORE_ANY_BYTE = (
    "refused", "blackholed", "hang", "404", "403", "500", "502", "301", "other name", "other authority", "expired",
    "shorter",
)  # fmt: skip
WITHIN_THE_BODY = ("cut", "stalled", "slow")


def break_one(fleet: Fleet, name: str, fault: str) -> None:
    one = fleet.mirrors[name]
    if fault == "refused":
        one.refuse()
    elif fault in ("other name", "other authority", "expired"):
        certificate = {
            "other name": lambda: fleet.authority.issue("elsewhere.fleet.test"),
            "expired": lambda: fleet.authority.issue(f"{name}.fleet.test", days=-1),
            "other authority": lambda: self_signed(fleet.folder / "own.pem", f"{name}.fleet.test"),
        }[fault]()
        one.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        one.context.load_cert_chain(certificate)
    else:
        one.fault = fault


def with_each_fault(fleet: Fleet, nowhere: int, weight: int) -> Iterator[Mirror]:
    for fault in BEFORE_ANY_BYTE:
        name = fault.replace(" ", "-")
        one = fleet.mirrors[name] = Faulty(name, fleet.tree, fleet.authority.issue(f"{name}.fleet.test"))
        break_one(fleet, name, fault)
        yield mirror(name, nowhere if fault == "blackholed" else one.port, weight=weight)


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory, authority: Any) -> Iterator[Fleet]:
    """A redirector of which clients may prefer a mirror with any fault; all slots are the three's that have none."""
    with fleet_in(tmp_path_factory.mktemp("broken"), authority) as made, blackhole() as nowhere:
        made.patient = False
        records = [mirror(name, one.port, weight=10**6) for name, one in made.mirrors.items()]
        made.start(*records, *with_each_fault(made, nowhere, weight=1))
        yield made


@pytest.mark.parametrize("fault", BEFORE_ANY_BYTE)
def test_nobody_is_sent_to_a_mirror_that_fails_at_that_moment(broken: Fleet, fault: str) -> None:
    for _ in range(3):
        begun = time.monotonic()
        answer = broken.site.get(f"/prefer/{fault.replace(' ', '-')}{LARGE}", method="HEAD")
        assert answer.headers["Location"] == broken.mirrors[broken.first()].url(LARGE)
        assert time.monotonic() - begun < 6


def test_where_all_mirrors_fail_the_file_comes_from_here(fleet: Fleet) -> None:
    fleet.start()
    first, second, third = route(fleet.records).choose(Client("127.0.0.1"), LARGE).candidates
    fleet.mirrors[first].fault = "404"
    assert fleet.site.get(LARGE, method="HEAD").headers["Location"] == fleet.mirrors[second].url(LARGE)
    fleet.mirrors[second].fault = "shorter"
    assert fleet.site.get(LARGE, method="HEAD").headers["Location"] == fleet.mirrors[third].url(LARGE)
    fleet.mirrors[third].fault = "500"
    answer = fleet.site.get(LARGE)
    assert (answer.status, answer.body) == (200, CONTENT)


def test_where_a_whole_pool_fails_clients_are_sent_beyond_it(fleet: Fleet) -> None:
    near = {"networks": ("127.0.0.0/8",)}
    ports = {name: one.port for name, one in fleet.mirrors.items()}
    fleet.start(mirror("a", ports["a"], **near), mirror("b", ports["b"], **near), mirror("c", ports["c"]))
    assert fleet.first() in ("a", "b")
    fleet.mirrors["a"].fault, fleet.mirrors["b"].fault = "500", "404"
    assert fleet.site.get(LARGE).headers["Location"] == fleet.mirrors["c"].url(LARGE)


def test_who_asks_why_is_told_of_the_first_time(fleet: Fleet) -> None:
    fleet.start()
    assert {told(fleet, f"{LARGE}?trace=1")["mirror"] for _ in range(3)} == {fleet.first()}
    assert fleet.site.get(LARGE).headers["Location"] == fleet.mirrors[fleet.first()].url(LARGE)


def test_who_asks_again_is_sent_elsewhere(fleet: Fleet) -> None:
    """pip and uv come back here when a download breaks off: never to the mirror that broke it off."""
    fleet.start()
    first, second, _ = route(fleet.records).choose(Client("127.0.0.1"), LARGE).candidates
    assert fleet.site.get(LARGE).headers["Location"] == fleet.mirrors[first].url(LARGE)
    for _ in range(2):
        answer = fleet.site.get(LARGE, Range="bytes=100-")
        assert answer.headers["Location"] == fleet.mirrors[second].url(LARGE)


@pytest.mark.slow
def test_a_hundred_changes_of_the_routes_lose_no_request(fleet: Fleet) -> None:
    """Each on a connection of its own: nginx closes those that wait idle, and clients know that."""
    fleet.start()
    assert fleet.nginx
    routes, master = fleet.folder / "routes.conf", fleet.nginx._server.pid
    texts = [
        render(
            route([replace(one, serving=BOTH if one.name != out else frozenset()) for one in fleet.records])
        )
        for out in ("a", "b", "")
    ]
    found: list[tuple[int, str | None] | BaseException] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            try:
                answer = fleet.site.get(LARGE, method="HEAD")
                found.append((answer.status, answer.headers["Location"]))
            except (OSError, HTTPException) as error:
                found.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for change in range(100):
        routes.write_text(texts[change % 2])
        os.kill(master, signal.SIGHUP)
        time.sleep(0.03)  # some requests of the reader with each of the routes
    routes.write_text(texts[2])
    os.kill(master, signal.SIGHUP)
    until = time.monotonic() + 20
    last = [*route(fleet.records).choose(Client("127.0.0.1"), LARGE).candidates]
    while told(fleet, f"/route?file={LARGE}")["candidates"][1:] != last:
        assert time.monotonic() < until
        time.sleep(0.05)
    done.set()
    reader.join()
    assert len(found) > 50
    urls = {one.url(LARGE) for one in fleet.mirrors.values()}
    assert [
        one for one in found if isinstance(one, BaseException) or one[0] != 302 or one[1] not in urls
    ] == []


def test_without_mirrors_everything_comes_from_here(fleet: Fleet) -> None:
    fleet.start(mirror("a", 443, serving=frozenset()))
    answer = fleet.site.get(LARGE)
    assert (answer.status, answer.body) == (200, CONTENT)
    assert told(fleet, f"{LARGE}?trace=1")["reason"] == "no mirror serves here"


def test_a_redirector_without_a_tree_has_from_upstream_what_no_mirror_has(
    fleet: Fleet, authority: Any, serve: Any
) -> None:
    """A cache does not know how large a file is: mirrors tell. Its pages say where files are, labels included."""
    (names := Names()).start()
    upstream = Upstream(files={LARGE: CONTENT, SMALL: b"small", f"{LARGE}.metadata": b"m" * 5000})
    upstream.port = serve(upstream, authority.issue(upstream.name))
    upstream.json(upstream.entry(LARGE))
    for one in fleet.mirrors.values():
        one.tree = fleet.folder / "theirs"
    fleet.tree.rename(fleet.folder / "theirs")
    fleet.options = {
        "web_server_on_miss": "pass",
        "web_server_upstream_index": f"{upstream.url}/simple/",
        "web_server_upstream_ca": str(authority.pem),
        "resolver_port": names.port,
    }
    fleet.start()
    first, second, third = route(fleet.records).choose(Client("127.0.0.1"), LARGE).candidates
    assert fleet.site.get(LARGE).headers["Location"] == fleet.mirrors[first].url(LARGE)
    for path, content in ((SMALL, b"small"), (f"{LARGE}.metadata", b"m" * 5000)):
        answer = fleet.site.get(path)
        assert (answer.status, answer.body) == (200, content)
    (file,) = fleet.site.get(f"/without/{first}/simple/foo/", accept=V1_JSON).json()["files"]
    path = urljoin(f"/without/{first}/simple/foo/", file["url"])
    assert path == f"/without/{first}{LARGE}"
    assert fleet.site.get(path, method="HEAD").headers["Location"] == fleet.mirrors[second].url(LARGE)
    for name in (first, second, third):
        fleet.mirrors[name].fault = "404"
    for label in ("", "/trusted"):
        answer = fleet.site.get(f"{label}{LARGE}")
        assert (answer.status, answer.body) == (200, CONTENT)
    # What it has known outlives upstream and the process.
    page = fleet.site.get("/simple/foo/", accept=V1_JSON).body
    for name in (first, second, third):
        fleet.mirrors[name].fault = ""
    for path in (*upstream.files, "/simple/foo/"):
        upstream.instead[path] = lambda request: (503, {}, b"")
    assert fleet.nginx
    fleet.nginx.kill()
    fleet.nginx.start_again()
    assert fleet.site.get("/simple/foo/", accept=V1_JSON).body == page
    assert fleet.site.get(SMALL).body == b"small"
    assert fleet.site.get(LARGE).headers["Location"] in {one.url(LARGE) for one in fleet.mirrors.values()}
    for name in (first, second, third):
        fleet.mirrors[name].fault = "500"
    assert fleet.site.get(LARGE).body == CONTENT
