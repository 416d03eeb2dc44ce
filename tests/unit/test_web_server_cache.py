"""A mirror of mode cache and upstreams of all kinds: nginx as the role configures it, and servers, all on loopback."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.client
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pytest

from tests.nginx_material import Names, Nginx

ROOT = Path(__file__).resolve().parents[2]
V1_JSON = "application/vnd.pypi.simple.v1+json"
V1_HTML = "application/vnd.pypi.simple.v1+html"
FOLDER = "/packages/ab/cd"
WHEEL = f"{FOLDER}/foo-1.0-py3-none-any.whl"
# Seconds in these tests; upstream is asked again after them.
AGE = 1


@dataclass
class Upstream:
    """An index and its file host on one server, which does what tests tell it to."""

    files: dict[str, bytes] = field(default_factory=dict)
    pages: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    # Answers by path, before anything else.
    instead: dict[str, Callable[[Any], tuple[int, dict[str, str], bytes]]] = field(default_factory=dict)
    compressed: bool = False
    ranges: bool = True
    validators: bool = True
    asked: list[Any] = field(default_factory=list)
    port: int = 0
    name: str = "upstream.fleet.test"

    @property
    def url(self) -> str:
        return f"https://{self.name}:{self.port}"

    def __call__(self, request: Any) -> tuple[int, dict[str, str], bytes]:
        self.asked.append(request)
        path = unquote(request.path)
        if path in self.instead:
            return self.instead[path](request)
        if path in self.files:
            return self.part(request, self.files[path], {"Content-Type": "application/octet-stream"})
        for kind in (request.headers["Accept"] or "", V1_JSON, "text/html"):
            if (found := self.pages.get(f"{path} {kind}")) is not None:
                return self.whole(request, found[1], {"Content-Type": found[0]})
        return 404, {}, b"upstream has no such thing"

    def whole(self, request: Any, body: bytes, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        if self.validators:
            headers["ETag"] = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
            if headers["ETag"] in (request.headers["If-None-Match"] or ""):
                return 304, headers, b""
        if self.compressed:
            headers, body = headers | {"Content-Encoding": "gzip"}, gzip.compress(body)
        return 200, headers, body

    def part(self, request: Any, body: bytes, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        status, headers, _ = self.whole(request, body, headers)
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers["Range"] or "")
        if status != 200 or not wanted or not self.ranges:
            return status, headers, body if status == 200 else b""
        first, last = int(wanted[1]), min(int(wanted[2] or 10**12), len(body) - 1)
        if first >= len(body):
            return 416, headers | {"Content-Range": f"bytes */{len(body)}"}, b""
        return 206, headers | {"Content-Range": f"bytes {first}-{last}/{len(body)}"}, body[first : last + 1]

    def entry(self, path: str = WHEEL, **more: Any) -> dict[str, Any]:
        body = self.files[path]
        return {
            "filename": path.rpartition("/")[2],
            "url": self.url + quote(path),
            "hashes": {"sha256": hashlib.sha256(body).hexdigest()},
            "size": len(body),
            "yanked": False,
            **more,
        }

    def json(self, *entries: dict[str, Any], version: str = "1.4", **more: Any) -> None:
        page = {
            "meta": {"api-version": version, "_last-serial": 7},
            "name": "foo",
            "versions": ["1.0"],
            "files": entries,
        }
        self.pages[f"/simple/foo/ {V1_JSON}"] = V1_JSON, json.dumps(page | more).encode()

    def html(self, text: str) -> None:
        for kind in ("text/html", V1_HTML):
            self.pages[f"/simple/foo/ {kind}"] = kind, text.encode()

    def times_asked(self, path: str) -> int:
        return sum(unquote(request.path) == path for request in self.asked)


@pytest.fixture(scope="session")
def names() -> Names:
    server = Names()
    server.start()
    return server


@dataclass
class Answer:
    status: int
    headers: Any
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Mirror:
    folder: Path
    server: Nginx

    @property
    def port(self) -> int:
        return self.server.port

    def get(self, path: str, accept: str | None = None, method: str = "GET", **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            sent = {"Host": "mirror.fleet.test"} | ({"Accept": accept} if accept else {}) | headers
            for name, value in sent.items():
                connection.putheader(name.replace("_", "-"), value)
            connection.endheaders()
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())

    def page(self) -> Any:
        answer = self.get("/simple/foo/", accept=V1_JSON)
        assert (answer.status, answer.headers["Content-Type"]) == (200, V1_JSON), answer
        return answer.json()

    def log(self) -> str:
        return (self.folder / "error.log").read_text()


@pytest.fixture
def start(tmp_path: Path, authority: Any, names: Names) -> Iterator[Callable[..., Mirror]]:
    """Starts nginx as the role configures it, with plain HTTP for files."""
    running: list[Nginx] = []

    def begin(upstream: Upstream | None, **options: Any) -> Mirror:
        given: dict[str, Any] = {
            "web_server_page_max_age": AGE,
            "web_server_file_max_age": AGE,
            "web_server_upstream_ca": str(authority.pem),
        }
        if upstream:
            given |= {"web_server_on_miss": "pass", "web_server_upstream_index": f"{upstream.url}/simple/"}
        certificate = authority.issue("mirror.fleet.test")
        running.append(Nginx(tmp_path, certificate, names.port, **(given | options)))
        return Mirror(tmp_path, running[-1])

    yield begin
    for server in running:
        server.stop()


@pytest.fixture
def upstream(serve: Any, authority: Any) -> Upstream:
    made = Upstream()
    made.port = serve(made, authority.issue(made.name))
    made.files[WHEEL] = b"a wheel, or so"
    made.json(made.entry())
    return made


@pytest.fixture
def store(serve: Any, authority: Any) -> Upstream:
    """Another host that has files."""
    made = Upstream(name="store.fleet.test")
    made.port = serve(made, authority.issue(made.name))
    return made


@pytest.fixture
def mirror(start: Callable[..., Mirror], upstream: Upstream) -> Mirror:
    return start(upstream)


def moved(to: str, status: int = 302) -> Callable[[Any], tuple[int, dict[str, str], bytes]]:
    return lambda request: (status, {"Location": to}, b"")


# --- files ---


@pytest.mark.parametrize("size", [0, 1, 2**20 - 1, 2**20, 2**20 + 1, 3 * 2**20])
@pytest.mark.parametrize("ranges", [True, False])
def test_a_file_of_any_size(mirror: Mirror, upstream: Upstream, size: int, ranges: bool) -> None:
    content = os.urandom(size)
    upstream.files[WHEEL], upstream.ranges = content, ranges
    for _ in range(2):
        answer = mirror.get(WHEEL)
        assert (answer.status, answer.body) == (200, content)
        assert mirror.get(WHEEL, method="HEAD").headers["Content-Length"] == str(size)
    if size:
        last = mirror.get(WHEEL, Range="bytes=-1")
        assert (last.status, last.body) == (206, content[-1:])
        assert mirror.get(WHEEL, Range=f"bytes={size}-").status == 416
    assert len(upstream.asked) <= 2 + size // 2**20


ODD = [
    "foo 4.0.tar.gz", "foo-5.0\u00e9.zip", "foo-6.0#x.zip", "foo-7.0%41.zip", "foo-8.0?y.zip",
    "foo-9.0'\"<b>&.zip", "foo-10.0;v=1.zip", "foo,bar@11.0=(x).zip", "~foo-12.zip", "foo-1!2.0.zip",
    "foo-2.0+cu118.zip", "foo-bytes=0-1.zip", "foo-https:x.zip", "\u30d1\u30c3\u30b1\u30fc\u30b8-1.0.zip",
    "foo\\bar-1.zip", "foo-[1]{2}|^`$host.zip", "foo-%2e.zip",
]  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_a_file_of_any_name(mirror: Mirror, upstream: Upstream, name: str) -> None:
    path = f"{FOLDER}/{name}"
    upstream.files = {path: name.encode()}
    upstream.json(upstream.entry(path))
    (entry,) = mirror.page()["files"]
    assert entry["url"] == quote(path)
    assert mirror.get(entry["url"]).body == name.encode()
    assert mirror.get(f"{entry['url']}.metadata").status == 404
    # however it is spelt, it is one file
    spelt = "".join(f"%{byte:02x}" for byte in name.encode())
    assert mirror.get(f"{FOLDER}/{spelt}").body == name.encode()
    assert upstream.times_asked(path) == 1


@pytest.mark.parametrize("slices", range(4))
@pytest.mark.parametrize("answered", [False, True])
def test_a_cache_that_is_killed_while_it_fetches_keeps_no_half_answer(
    mirror: Mirror, upstream: Upstream, slices: int, answered: bool
) -> None:
    """All of its processes, when upstream was asked for one slice more, or when some of that came to the client."""
    content = os.urandom(3 * 2**20 + 9)
    upstream.files[WHEEL] = content

    def kill_at(request: Any) -> tuple[int, dict[str, str], bytes]:
        if len(upstream.asked) == slices + 1 and not answered:
            mirror.server.kill()
        return upstream.part(request, content, {"Content-Type": "application/octet-stream"})

    upstream.instead[WHEEL] = kill_at
    connection = http.client.HTTPConnection("127.0.0.1", mirror.port, timeout=30)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", WHEEL, headers={"Host": "mirror.fleet.test"})
        received = connection.getresponse().read(slices * 2**20 + 1)
        if answered:
            assert received == content[: slices * 2**20 + 1]
            mirror.server.kill()
    mirror.server.start_again()
    del upstream.instead[WHEEL]
    for _ in range(2):
        answer = mirror.get(WHEEL)
        assert (answer.status, answer.body) == (200, content)


def test_a_cache_that_is_killed_while_it_asks_for_a_page_has_it_again(
    mirror: Mirror, upstream: Upstream
) -> None:
    former = mirror.page()
    upstream.json(upstream.entry(yanked="a reason"))
    asked, go_on = threading.Event(), threading.Event()
    answer = upstream.pages[f"/simple/foo/ {V1_JSON}"]

    def wait(request: Any) -> tuple[int, dict[str, str], bytes]:
        asked.set()
        go_on.wait(30)
        return 200, {"Content-Type": answer[0]}, answer[1]

    upstream.instead["/simple/foo/"] = wait
    until = time.monotonic() + 30
    while not asked.is_set():
        assert mirror.page() == former
        assert time.monotonic() < until
        time.sleep(0.1)
    mirror.server.kill()
    go_on.set()
    mirror.server.start_again()
    until = time.monotonic() + 30
    while mirror.page()["files"][0]["yanked"] != "a reason":
        assert time.monotonic() < until
        time.sleep(0.1)


def test_what_is_not_below_packages_stays_out_of_reach(mirror: Mirror, upstream: Upstream) -> None:
    upstream.files |= {"/secret": b"secret", "/packages/.secret": b"secret"}
    for path in (
        "/packages/../secret",
        "/packages/%2e%2e/secret",
        "/packages/x/..%2f..%2fsecret",
        "/packages/.secret",
    ):
        assert b"secret" not in mirror.get(path).body


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_followed_to_a_host_that_is_known(
    start: Callable[..., Mirror], upstream: Upstream, store: Upstream, status: int
) -> None:
    content = os.urandom(2**20 + 9)
    store.files = {"/store/x y?z": content}
    upstream.instead[WHEEL] = moved(f"{store.url}/store/x%20y%3Fz#fragment", status)
    mirror = start(upstream, web_server_upstream_redirects=[store.url])
    for _ in range(2):
        answer = mirror.get(WHEEL)
        assert (answer.status, answer.body, answer.headers["Location"]) == (200, content, None)
    assert len(store.asked) == 2
    sent = {name.lower() for request in store.asked for name in request.headers}
    assert sent == {"host", "user-agent", "accept", "cdn-loop", "range"}


def test_a_redirect_within_upstreams_own_host_is_followed(mirror: Mirror, upstream: Upstream) -> None:
    upstream.files = {"/store/1": b"1", "/packages/ab/2": b"2"}
    for number, to in enumerate(["/store/1", f"{upstream.url}/store/1", "../2", "2"]):
        path = f"{FOLDER}/{number}" if number < 3 else "/packages/ab/3"
        upstream.instead[path] = moved(to)
        assert mirror.get(path).body == to[-1:].encode(), to


def test_a_file_that_is_redirected_may_be_empty_or_gone(mirror: Mirror, upstream: Upstream) -> None:
    upstream.files = {"/store/empty": b""}
    upstream.instead |= {f"{FOLDER}/empty": moved("/store/empty"), f"{FOLDER}/gone": moved("/store/gone")}
    assert (mirror.get(f"{FOLDER}/empty").status, mirror.get(f"{FOLDER}/empty").body) == (200, b"")
    assert mirror.get(f"{FOLDER}/gone").status == 404


@pytest.mark.parametrize("elsewhere", ["https://elsewhere.test/x", "http://{store}/x", "https://{store}@elsewhere.test/x",
    "//elsewhere.test/x", "ftp://{store}/x", "https://{store}.elsewhere.test/x", ""])  # fmt: skip
def test_a_redirect_elsewhere_is_not_followed_nor_passed_on(
    start: Callable[..., Mirror], upstream: Upstream, store: Upstream, elsewhere: str
) -> None:
    store.files = {"/x": b"x"}
    to = elsewhere.format(store=f"{store.name}:{store.port}")
    upstream.instead |= {WHEEL: moved(to), "/simple/foo/": moved(to)}
    mirror = start(upstream, web_server_upstream_redirects=[store.url])
    for path in (WHEEL, "/simple/foo/"):
        answer = mirror.get(path)
        assert answer.status == 502
        assert "elsewhere" not in f"{answer.headers}{answer.body!r}"
    assert store.asked == []
    assert "none of web_server_upstream_redirects" in mirror.log()
    assert "client: 127" not in mirror.log()


def test_redirects_end(mirror: Mirror, upstream: Upstream) -> None:
    upstream.instead[WHEEL] = moved(f"{upstream.url}{WHEEL}")
    assert mirror.get(WHEEL).status == 502
    assert len(upstream.asked) == 4


def test_a_store_that_cannot_prove_its_name_is_not_believed(
    start: Callable[..., Mirror], upstream: Upstream, serve: Any, authority: Any
) -> None:
    impostor = Upstream(name="store.fleet.test", files={"/x": b"x"})
    impostor.port = serve(impostor, authority.issue("other.fleet.test"))
    upstream.instead[WHEEL] = moved(f"{impostor.url}/x")
    assert start(upstream, web_server_upstream_redirects=[impostor.url]).get(WHEEL).status == 502
    assert impostor.asked == []


def test_headers_are_ours(mirror: Mirror, upstream: Upstream) -> None:
    theirs = {
        "Content-Type": V1_JSON, "Cache-Control": "private", "Expires": "0", "Set-Cookie": "a=b", "Vary": "*",
        "Age": "1", "X-Accel-Expires": "0", "X-Accel-Redirect": "/x", "Location": "/x",
        "Strict-Transport-Security": "max-age=1", "X-PyPI-Last-Serial": "7",
    }  # fmt: skip
    page = upstream.pages[f"/simple/foo/ {V1_JSON}"][1]
    upstream.instead["/simple/foo/"] = lambda request: (200, theirs, page)
    upstream.instead[WHEEL] = lambda request: (200, theirs | {"Content-Type": "application/zip"}, b"x")
    ours = {"Server", "Date", "Connection", "Content-Type", "Content-Length", "Cache-Control", "X-Content-Type-Options",
            "Content-Security-Policy", "Referrer-Policy", "Access-Control-Allow-Origin",
            "Access-Control-Expose-Headers", "X-PyPI-Last-Serial"}  # fmt: skip
    for path, cached, more in (
        ("/simple/foo/", f"public, max-age={AGE}", {"Vary"}),
        (WHEEL, "public, max-age=31536000, immutable", {"Accept-Ranges"}),
    ):
        for _ in range(2):
            answer = mirror.get(path, accept=V1_JSON)
            assert answer.headers.get_all("Cache-Control") == [cached]
            assert sorted(answer.headers) == sorted(ours | more)
    assert len(upstream.asked) == 2


# --- what leaves upstream ---


def until(met: Callable[[], bool], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.parametrize("gone", [404, 410, 403, 451])
def test_a_file_that_leaves_upstream_leaves_here(mirror: Mirror, upstream: Upstream, gone: int) -> None:
    upstream.files[WHEEL] = os.urandom(2**20 + 5)
    assert mirror.get(WHEEL).status == 200
    upstream.instead[WHEEL] = lambda request: (gone, {}, b"")
    until(lambda: mirror.get(WHEEL).status == gone)


def test_a_file_that_stays_is_not_fetched_again(mirror: Mirror, upstream: Upstream) -> None:
    upstream.files[WHEEL] = os.urandom(3 * 2**20)
    assert mirror.get(WHEEL).status == 200
    assert len(upstream.asked) == 3
    time.sleep(AGE + 1.1)
    assert mirror.get(WHEEL).body == upstream.files[WHEEL]
    assert [request.headers["If-None-Match"] is not None for request in upstream.asked] == [False] * 3 + [
        True
    ]


def test_slices_of_a_file_whose_tag_changes_still_make_one_file(mirror: Mirror, upstream: Upstream) -> None:
    """As on a host that was moved: the bytes are the same, and only the first slice is asked for anew."""
    upstream.files[WHEEL] = os.urandom(2 * 2**20)
    mirror.get(WHEEL)
    upstream.validators = False
    time.sleep(AGE + 1.1)
    assert mirror.get(WHEEL).body == upstream.files[WHEEL]
    assert len(upstream.asked) == 3


@pytest.mark.slow
def test_a_page_that_nobody_asked_for_in_a_while_is_not_served_as_it_was(
    mirror: Mirror, upstream: Upstream
) -> None:
    """Not even once: a quarantined project's files would be named again."""
    assert mirror.page()["files"]
    upstream.json(**{"project-status": {"status": "quarantined"}})
    time.sleep(AGE * 5 + 1.5)
    assert mirror.page()["files"] == []
    del upstream.pages[f"/simple/foo/ {V1_JSON}"]
    time.sleep(AGE * 5 + 1.5)
    assert mirror.get("/simple/foo/", accept=V1_JSON).status == 404


def test_a_page_in_use_is_renewed_behind_its_clients_backs(mirror: Mirror, upstream: Upstream) -> None:
    assert len(mirror.page()["files"]) == 1
    upstream.json()
    _, changed = upstream.pages[f"/simple/foo/ {V1_JSON}"]

    def slow(request: Any) -> tuple[int, dict[str, str], bytes]:
        time.sleep(1)
        return 200, {"Content-Type": V1_JSON}, changed

    upstream.instead["/simple/foo/"] = slow
    time.sleep(AGE + 1.1)
    begun = time.monotonic()
    assert len(mirror.page()["files"]) == 1
    assert time.monotonic() - begun < 0.9
    until(lambda: mirror.page()["files"] == [])


@pytest.mark.slow
def test_a_page_that_did_not_change_is_not_fetched_again(mirror: Mirror, upstream: Upstream) -> None:
    page = mirror.page()
    time.sleep(AGE * 5 + 1.5)
    assert mirror.page() == page
    assert [request.headers["If-None-Match"] is not None for request in upstream.asked] == [False, True]


def test_many_clients_of_a_file_that_is_not_there_yet_fetch_it_once(
    mirror: Mirror, upstream: Upstream
) -> None:
    upstream.files[WHEEL] = os.urandom(3 * 2**20)
    with ThreadPoolExecutor(20) as clients:
        answers = list(clients.map(lambda _: mirror.get(WHEEL).body, range(20)))
    assert answers == [upstream.files[WHEEL]] * 20
    assert len(upstream.asked) == 3


@pytest.mark.slow
def test_what_is_known_is_served_while_upstream_is_down(mirror: Mirror, upstream: Upstream) -> None:
    page, file = mirror.page(), mirror.get(WHEEL)
    for path in (WHEEL, "/simple/foo/"):
        upstream.instead[path] = lambda request: (503, {}, b"")
    assert mirror.get("/simple/foo/", accept=V1_JSON).headers["Cache-Status"] is None
    time.sleep(AGE * 5 + 1.5)
    assert mirror.page() == page
    for path, kind in (("/simple/foo/", V1_JSON), (WHEEL, None)):
        assert mirror.get(path, accept=kind).headers["Cache-Status"] == "mirrorfleet; hit; detail=stale"
    assert mirror.get(WHEEL).body == file.body
    assert mirror.get("/simple/other/").status == 404


@pytest.mark.slow
def test_what_is_known_is_served_while_upstream_hangs(mirror: Mirror, upstream: Upstream) -> None:
    """Before pip gives up, which is after 15 seconds of silence."""
    page, file = mirror.page(), mirror.get(WHEEL)

    def hang(request: Any) -> tuple[int, dict[str, str], bytes]:
        time.sleep(20)
        return 404, {}, b""

    time.sleep(AGE * 5 + 1.5)
    upstream.instead = {WHEEL: hang, "/simple/foo/": hang}
    begun = time.monotonic()
    with ThreadPoolExecutor(2) as clients:
        again = clients.submit(mirror.page), clients.submit(mirror.get, WHEEL)
        assert (again[0].result(), again[1].result().body) == (page, file.body)
    assert time.monotonic() - begun < 12


# --- pages ---


def test_pages_name_our_files_and_pass_on_what_they_say(mirror: Mirror, upstream: Upstream) -> None:
    more = {
        "requires-python": ">=3.8,<4", "yanked": "no \u00e9 </script>", "upload-time": "2026-01-01T00:00:00.1Z",
        "core-metadata": {"sha256": "00"}, "provenance": "https://upstream.test/x", "gpg-sig": True, "_own": 1,
    }  # fmt: skip
    status = {"status": "archived", "reason": 'done\n"x"'}
    upstream.json(upstream.entry(**more), **{"project-status": status, "alternate-locations": []})
    page, theirs = mirror.page(), json.loads(upstream.pages[f"/simple/foo/ {V1_JSON}"][1])
    assert page["files"][0].pop("url") == WHEEL
    del theirs["files"][0]["url"]
    assert page == theirs


@pytest.mark.parametrize(
    "relative", ["../../packages/ab/cd/{}", "/packages/ab/cd/{}", "{url}/packages/ab/cd/{}"]
)
@pytest.mark.parametrize("form", ["html", "json"])
def test_a_file_is_named_relative_to_anything(
    mirror: Mirror, upstream: Upstream, relative: str, form: str
) -> None:
    to = relative.format("foo-1.0-py3-none-any.whl", url=upstream.url)
    if form == "json":
        upstream.json(upstream.entry() | {"url": to})
        assert mirror.page()["files"][0]["url"] == WHEEL
    else:
        upstream.html(
            f"<!DOCTYPE html><html><body><a\nhref='{to}#sha256=00' data-yanked>foo</a></body></html>"
        )
        page = mirror.get("/simple/foo/").body.decode()
        assert f'<a\nhref="{WHEEL}#sha256=00" data-yanked>foo</a>' in page.replace("'", '"')


def test_what_leads_out_of_packages_keeps_its_url(mirror: Mirror, upstream: Upstream) -> None:
    """Below ours the same dots would lead to another file, or to none."""
    paths = ["../x.whl", "a/../../x.whl", "%2e%2E/x.whl", "a/..%2f.%2e/x.whl", "./x.whl", "..?x.whl"]
    urls = [f"{upstream.url}/packages/{path}" for path in paths]
    upstream.json(*(upstream.entry() | {"url": url} for url in urls))
    assert [entry["url"] for entry in mirror.page()["files"]] == urls


def test_the_index_may_lie_below_a_path(start: Callable[..., Mirror], upstream: Upstream) -> None:
    upstream.files = {f"/repo/pypi{WHEEL}": b"below"}
    entry = {"filename": "x", "hashes": {}, "size": 5, "url": f"/repo/pypi{WHEEL}"}
    upstream.pages[f"/repo/pypi/simple/foo/ {V1_JSON}"] = V1_JSON, json.dumps(
        {"meta": {"api-version": "1.0"}, "name": "foo", "files": [entry]}
    ).encode()  # fmt: skip
    mirror = start(upstream, web_server_upstream_index=f"{upstream.url}/repo/pypi/simple/")
    assert mirror.get(mirror.page()["files"][0]["url"]).body == b"below"


@pytest.mark.parametrize("encoding", [None, "gzip", "gzip, deflate"])
@pytest.mark.parametrize("path", ["/simple/foo/", "/pypi/foo/json", "/simple/"])
def test_gzip_that_was_not_asked_for(
    start: Callable[..., Mirror], upstream: Upstream, encoding: str | None, path: str
) -> None:
    upstream.compressed = True
    upstream.pages[f"/pypi/foo/json {V1_JSON}"] = "application/json", json.dumps(
        {"info": {}, "releases": {"1.0": [upstream.entry()]}, "urls": [upstream.entry()]}
    ).encode()  # fmt: skip
    upstream.pages[f"/simple/ {V1_JSON}"] = V1_JSON, b'{"meta":{"api-version":"1.0"},"projects":[]}'
    mirror = start(upstream, web_server_upstream_listing=True)
    answer = mirror.get(path, accept=V1_JSON, **({"Accept_Encoding": encoding} if encoding else {}))
    assert answer.status == 200
    assert answer.headers["Content-Encoding"] in (None, encoding and "gzip")
    body = gzip.decompress(answer.body) if answer.headers["Content-Encoding"] else answer.body
    assert upstream.name.encode() not in body
    json.loads(body)


def test_a_newer_api_is_passed_on_as_what_we_know(mirror: Mirror, upstream: Upstream) -> None:
    """PEP 691: clients warn of a minor version that they do not know. PEP 752: only who has namespaces names them."""
    status = {"status": "archived", "reason": "x", "since": "2027"}
    entry = upstream.entry(**{"core-metadata": False, "variants": ["x"], "_own": 1})
    more = {"namespaces": [{"prefix": "foo"}], "project-status": status, "_own": 2, "alternate-locations": []}
    upstream.json(entry, version="1.5", **more)
    page = mirror.page()
    assert page["meta"] == {"api-version": "1.4", "_last-serial": 7}
    assert page.keys() == {
        "meta",
        "name",
        "versions",
        "files",
        "project-status",
        "_own",
        "alternate-locations",
    }
    assert page["project-status"] == {"status": "archived", "reason": "x"}
    assert page["files"] == [
        {key: value for key, value in entry.items() if key != "variants"} | {"url": WHEEL}
    ]


@pytest.mark.parametrize(
    ("given", "passed_on"), [("1.0", "1.0"), ("1.4", "1.4"), ("1.5", "1.4"), ("1.10", "1.4")]
)
def test_versions(start: Callable[..., Mirror], upstream: Upstream, given: str, passed_on: str) -> None:
    upstream.json(upstream.entry(), version=given)
    meta = '<meta name="pypi:repository-version" content="{}">'
    upstream.html(f"<!DOCTYPE html><html><head>{meta.format(given)}</head><body></body></html>")
    listing = {V1_JSON: '{"meta":{"api-version":"%s"},"projects":[]}', "text/html": meta.replace("{}", "%s")}
    for kind, text in listing.items():
        upstream.pages[f"/simple/ {kind}"] = kind, (text % given).encode()
    mirror = start(upstream, web_server_upstream_listing=True)
    assert mirror.page()["meta"]["api-version"] == passed_on
    assert meta.format(passed_on) in mirror.get("/simple/foo/").body.decode()
    for kind, text in listing.items():
        assert mirror.get("/simple/", accept=kind).body.decode() == text % passed_on


@pytest.mark.parametrize(
    ("status", "passed_on"),
    [
        ("active", True), ("deprecated", True), ("under-review", True), ("x", True),
        ("", False), (" archived", False), ("a\nb", False), ("<b>", False),
        ("a" * 65, False), (7, False), (None, False),
    ],
)  # fmt: skip
def test_a_status_is_passed_on_when_it_is_a_clean_token(
    mirror: Mirror, upstream: Upstream, status: Any, passed_on: bool
) -> None:
    """PEP 792; whatever it is called, what upstream offers is offered."""
    told = {"status": status, "reason": "so"}
    upstream.json(upstream.entry(), **{"project-status": told})
    document = {"info": {}, "releases": {"1.0": [upstream.entry()]}, "project-status": told}
    upstream.pages[f"/pypi/foo/json {V1_JSON}"] = "application/json", json.dumps(document).encode()
    page, legacy = mirror.page(), mirror.get("/pypi/foo/json").json()
    assert len(page["files"]) == len(legacy["releases"]["1.0"]) == 1
    assert page.get("project-status") == legacy.get("project-status") == (told if passed_on else None)
    if isinstance(status, str):
        upstream.html(f'<meta name="pypi:project-status" content="{status}"><a href="{WHEEL}">x</a>')
        shown = mirror.get("/simple/foo/").body.decode()
        assert f'content="{status if passed_on else "active"}"' in shown
        assert "<a " in shown


def test_nothing_is_offered_of_a_quarantined_project(mirror: Mirror, upstream: Upstream) -> None:
    """PEP 792, whatever upstream's page goes on naming."""
    told = {"status": "quarantined"}
    upstream.json(upstream.entry(), **{"project-status": told})
    document = {"releases": {"1.0": [upstream.entry()]}, "urls": [upstream.entry()], "project-status": told}
    upstream.pages[f"/pypi/foo/json {V1_JSON}"] = "application/json", json.dumps(document).encode()
    upstream.html(f'<meta content="quarantined" name="pypi:project-status"><a href="{WHEEL}">foo</a>')
    assert mirror.page()["files"] == []
    assert (
        mirror.get("/pypi/foo/json").json() | {"urls": [], "releases": {"1.0": []}}
        == mirror.get("/pypi/foo/json").json()
    )
    assert b"foo" not in mirror.get("/simple/foo/").body


def test_html_of_any_kind(mirror: Mirror, upstream: Upstream) -> None:
    to = f"{upstream.url}{WHEEL}"
    upstream.html(
        f"<HTML><META NAME='pypi:repository-version' CONTENT=1.7><abbr title=\"<a\">x</abbr><A HREF={to}>1</A>"
        f'<a data-requires-python=">=3.8,<4" data-yanked="see <a href=x>" href=\'{to}#a&amp;b=1\'>2</a>'
        f'<a\thref="&#104;ttps{to.removeprefix("https")}" data-dist-info-metadata>3</a><a name=x>4</a><a href="{to}'
    )
    assert mirror.get("/simple/foo/").body.decode() == (
        '<HTML><META NAME=\'pypi:repository-version\' CONTENT="1.4"><abbr title="<a">x</abbr>'
        f'<a HREF="{WHEEL}">1</A>'
        f'<a data-requires-python=">=3.8,<4" data-yanked="see <a href=x>" href="{WHEEL}#a&amp;b=1">2</a>'
        f'<a\thref="{WHEEL}" data-dist-info-metadata>3</a><a name=x>4</a><a href="{to}'
    )


@pytest.mark.parametrize(
    "url", ["http://index.test/x", "javascript:x", "/x", "https://me:x@index.test/", 7, True]
)
def test_provenance_is_told_by_https_only(mirror: Mirror, upstream: Upstream, url: Any) -> None:
    entries = [upstream.entry(provenance=url), upstream.entry(provenance="https://index.test/x")]
    upstream.json(*entries)
    assert [entry["provenance"] for entry in mirror.page()["files"]] == [None, "https://index.test/x"]
    upstream.html(
        f'<a href="{WHEEL}" data-provenance="{url}">1</a><a href="{WHEEL}" data-provenance="https://index.test/x">2</a>'
    )
    page = mirror.get("/simple/foo/").body.decode()
    assert page == f'<a href="{WHEEL}">1</a><a href="{WHEEL}" data-provenance="https://index.test/x">2</a>'


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[" * 9999, b"null", b'{"meta": {"api-version": "2.0"}, "files": []}', b"\xff\xfe"]
)
def test_a_page_that_is_none_is_no_page(mirror: Mirror, upstream: Upstream, body: bytes) -> None:
    upstream.pages[f"/simple/foo/ {V1_JSON}"] = V1_JSON, body
    assert mirror.get("/simple/foo/", accept=V1_JSON).status == 502
    assert "upstream's page /simple/foo/ is none" in mirror.log()


@pytest.mark.slow
def test_a_large_page_is_passed_on(mirror: Mirror, upstream: Upstream) -> None:
    upstream.json(*[upstream.entry() for _ in range(20_000)])
    anchor = f'<a href="{upstream.url}{WHEEL}#sha256=00" data-requires-python=">=3.8">foo</a><br/>\n'
    upstream.html(anchor * 20_000)
    for compressed in (False, True):
        upstream.compressed = compressed
        for path in (mirror.folder / "cache").rglob("*"):
            if path.is_file():
                path.unlink()
        assert len(mirror.page()["files"]) == 20_000
        page = mirror.get("/simple/foo/").body
        assert page.count(WHEEL.encode()) == 20_000
        assert upstream.url.encode() not in page


@pytest.mark.parametrize("form", [V1_JSON, "text/html"])
def test_a_page_of_hundreds_of_megabytes_is_none(mirror: Mirror, upstream: Upstream, form: str) -> None:
    large = upstream.pages[f"/simple/foo/ {V1_JSON}"][1] + b" " * (300 << 20)
    upstream.instead["/simple/foo/"] = lambda request: (200, {"Content-Type": form}, large)
    assert mirror.get("/simple/foo/", accept=form).status == 502
    assert mirror.server.memory() < 150 << 20
    assert (
        sum(path.stat().st_size for path in (mirror.folder / "cache").rglob("*") if path.is_file()) < 1 << 20
    )
    assert mirror.get(WHEEL).body == upstream.files[WHEEL]
    del upstream.instead["/simple/foo/"]
    time.sleep(AGE + 0.1)
    upstream.html("")
    assert mirror.get("/simple/foo/", accept=form).status == 200


def test_upstream_learns_nothing_of_clients(mirror: Mirror, upstream: Upstream) -> None:
    mirror.get(
        "/simple/foo/?a=b", accept=V1_JSON, User_Agent="pip/26", Cookie="a=b", X_Forwarded_For="192.0.2.7"
    )
    mirror.get(f"{WHEEL}?a=b", User_Agent="pip/26", Referer="https://example.org/")
    for request in upstream.asked:
        assert "?" not in request.path
        sent = {name.lower(): value for name, value in request.headers.items()}
        assert sent.keys() <= {"host", "user-agent", "accept", "cdn-loop", "range"}
        assert sent["user-agent"] == "mirrorfleet (nginx)"


# --- what a client wants ---


def test_text_html_is_the_last_resort_of_what_is_wanted_equally(mirror: Mirror, upstream: Upstream) -> None:
    """PEP 691, "Recommendations"; the whole table is in the scenario web_server."""
    upstream.html("<!DOCTYPE html>")
    for accept in ("text/html;q=0", "*/*;q=0", f"image/png, {V1_JSON};q=0"):
        assert mirror.get("/simple/foo/", accept=accept).status == 406
    for accept, kind in {
        f"text/html, {V1_JSON}": V1_JSON,
        f"text/html;q=0.30, {V1_JSON};q=0.3": V1_JSON,
        f"text/html, {V1_HTML}": V1_HTML,
        f"text/html, {V1_HTML}, {V1_JSON}": V1_JSON,
        "text/*, application/*": V1_JSON,
        f"{V1_JSON}, */*": V1_JSON,
        "text/html, */*": "text/html",
        "*/*;q=0.5": "text/html",
        "*/*, image/png": "text/html",
        f"text/html;q=0.4, {V1_JSON};q=0.3": "text/html",
    }.items():
        assert mirror.get("/simple/foo/", accept=accept).headers["Content-Type"].partition(";")[0] == kind, (
            accept
        )


# --- plain HTTP ---


def test_slashes_mean_the_same_by_plain_http_and_by_tls(
    start: Callable[..., Mirror], upstream: Upstream
) -> None:
    """An index URL with one too many would get pages whose relative URLs lead nowhere."""
    mirror = start(upstream)
    for path in ("//simple/foo/", "/simple//foo/", f"/{WHEEL}"):
        assert mirror.get(path).status == 404
