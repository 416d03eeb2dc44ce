"""Which index is upstream, and what it can do: real servers on loopback, real pips with real configurations."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
import threading
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pip._internal.models.index import PyPI
from upstream_probe import V1_HTML, V1_JSON, ask_pip, result_of

ENTRY = {
    "filename": "six-1.0-py3-none-any.whl",
    "url": "../../packages/six-1.0-py3-none-any.whl",
    "hashes": {"sha256": "0" * 64},
    "core-metadata": {"sha256": "0" * 64},
    "provenance": "https://index.example/provenance",
}
PAGE = json.dumps({"meta": {"api-version": "1.3"}, "files": [ENTRY]}).encode()
HTML = (
    b'<meta name="pypi:repository-version" content="1.0">'
    b'<a href="../../packages/six-1.0-py3-none-any.whl#sha256=00" data-core-metadata="sha256=00">x</a>'
)
ROOT = (
    b'{"meta": {"_last-serial": 9}, "projects": ['
    + b", ".join([b'{"_last-serial": 1, "name": "x"}'] * 9999)
    + b"]}"
)


@dataclass
class Index:
    """An index that can do everything. Tests take things away."""

    prefix: str = ""
    serial: dict[str, str] = field(default_factory=lambda: {"X-PyPI-Last-Serial": "7"})
    formats: tuple[str, ...] = ("text/html", V1_HTML, V1_JSON)
    replaced: dict[str, tuple[int, dict[str, str], bytes]] = field(default_factory=dict)
    asked: list[Any] = field(default_factory=list)

    def __call__(self, request: Any) -> tuple[int, dict[str, str], bytes]:
        self.asked.append(request)
        path = request.path.removeprefix(self.prefix)
        if path in self.replaced:
            return self.replaced[path]
        kind = request.headers["Accept"]
        kind = kind if kind in self.formats else self.formats[0]
        if path == "/simple/six/":
            return 200, {"Content-Type": kind, **self.serial}, PAGE if kind == V1_JSON else HTML
        if path == "/pypi/six/json":
            return 200, {"Content-Type": "application/json", **self.serial}, b'{"releases": {}}'
        if path == "/simple/" and kind == V1_JSON:
            return 200, {"Content-Type": kind}, ROOT
        return (200, {}, b"") if path.endswith(".metadata") else (404, {}, b"")


def probe(**params: Any) -> dict[str, Any]:
    defaults = {
        "index_url": None,
        "python": None,
        "probe_project": "six",
        "check_root": False,
        "sizes_of": [],
        "releases_kept": None,
        "mode": None,
        "ca_file": None,
        "ca_pem": "",
        "timeout": 5.0,
    }
    return result_of(defaults | params)


@pytest.fixture
def secure(serve: Any, authority: Any) -> Any:
    """Probes an index behind TLS."""

    def start(index: Any, path: str = "/simple/", **params: Any) -> dict[str, Any]:
        port = serve(index, authority.issue("localhost"))
        return probe(index_url=f"https://localhost:{port}{path}", ca_file=str(authority.pem), **params)

    return start


def test_an_index_that_can_do_everything(secure: Any) -> None:
    index = Index()
    found = secure(index, mode="bandersnatch", check_root=True)
    assert found["problems"] == []
    assert found["modes"] == {"bandersnatch": [], "cache": [], "origin": []}
    assert found["formats"] == ["html", "v1+html", "v1+json"]
    assert found["api_version"] == "1.3"
    assert found["serial_header"] == {"simple": True, "legacy": True}
    assert (found["legacy_json"], found["core_metadata"], found["provenance"]) == (True, True, True)
    assert found["root_serials"] is True
    assert found["source"] == "given"
    assert found["index_url"] == f"{found['site']}/simple/"
    assert found["file_origins"] == [found["site"]]


def test_the_list_of_projects_is_not_asked_for(secure: Any) -> None:
    index = Index()
    assert secure(index)["root_serials"] is None
    assert "/simple/" not in {request.path for request in index.asked}


def test_only_the_beginning_of_the_list_of_projects_is_read(authority: Any) -> None:
    """The server sends without end; the probe hangs up."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.issue("localhost"))
    sent: list[int] = []

    def behave(listener: socket.socket) -> None:
        index = Index()
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with closing(context.wrap_socket(connection, server_side=True)) as tls:
                asked = tls.recv(65536).decode()
                path = asked.split()[1]
                accept = next(line[8:] for line in asked.splitlines() if line.startswith("Accept: "))
                if path != "/simple/":
                    request = type("R", (), {"path": path, "headers": {"Accept": accept}})
                    status, headers, body = index(request)
                    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
                    tls.sendall(
                        f"HTTP/1.1 {status} X\r\n{lines}Content-Length: {len(body)}\r\n\r\n".encode() + body
                    )
                    continue
                try:
                    tls.sendall(f"HTTP/1.1 200 OK\r\nContent-Type: {V1_JSON}\r\n\r\n".encode() + ROOT[:-2])
                    while len(sent) < 10_000:
                        tls.sendall(b", 1" * 10_000)
                        sent.append(1)
                except OSError:
                    continue

    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        threading.Thread(target=behave, args=[listener], daemon=True).start()
        url = f"https://localhost:{listener.getsockname()[1]}/simple/"
        assert probe(index_url=url, ca_file=str(authority.pem), check_root=True)["root_serials"] is True
    assert len(sent) < 10_000


@pytest.mark.parametrize(
    ("index", "hindrance"),
    [
        (Index(serial={}), "a proxy or cache in front of the index strips it"),
        (
            Index(serial={"X-PyPI-Last-Serial": "none"}),
            "X-PyPI-Last-Serial does not come with /pypi/NAME/json",
        ),
    ],
)
def test_what_keeps_bandersnatch_from_working(index: Index, hindrance: str, secure: Any) -> None:
    found = secure(index, mode="bandersnatch", check_root=True)
    (problem,) = found["problems"]
    assert hindrance in problem["problem"]
    assert problem["next_step"] == (
        "name another upstream, or set mirror_mode: cache, "
        "or let an origin of the fleet copy from it (origins, in fleet.yml) and name that one"
    )
    assert set(problem) == {"key", "problem", "allowed", "next_step"}
    assert secure(index, mode="cache")["problems"] == []


def test_an_index_that_says_nothing_to_programs_can_only_be_cached(secure: Any) -> None:
    index = Index(formats=("text/html",), replaced={"/pypi/six/json": (404, {}, b"")})
    (problem,) = secure(index, mode="bandersnatch")["problems"]
    assert "nor does the index have PEP 691 JSON" in problem["problem"]
    assert problem["next_step"] == "name another upstream, or set mirror_mode: cache"


NO_SERIALS = (200, {"Content-Type": V1_JSON}, b'{"meta": {"_last-serial": 1}, "projects": [{"name": "x"}]}')


@pytest.mark.parametrize(
    ("index", "loss"),
    [
        (Index(replaced={"/pypi/six/json": (404, {}, b"")}), "descriptions of projects are lost"),
        (Index(replaced={"/pypi/six/json": (200, {}, b"[]")}), "descriptions of projects are lost"),
        (
            Index(replaced={"/simple/": NO_SERIALS}),
            "compares the page of every selected project, a request each",
        ),
        (Index(formats=("text/html",)), "status and provenance of projects"),
    ],
)
def test_what_is_lost_with_an_index_that_lacks_something(index: Index, loss: str, secure: Any) -> None:
    found = secure(index, mode="bandersnatch", check_root=True)
    assert found["problems"] == []
    assert any(loss in told for told in found["losses"]["bandersnatch"])
    assert found["losses"]["cache"] == []
    assert secure(Index(), check_root=True)["losses"] == {"bandersnatch": [], "cache": [], "origin": []}


def test_an_old_index_of_html_only(secure: Any) -> None:
    found = secure(Index(formats=("text/html",)), mode="origin")
    assert found["formats"] == ["html"]
    assert found["api_version"] == "1.0"
    assert found["core_metadata"]
    assert "no PEP 691 JSON" in found["problems"][0]["problem"]


def test_an_index_below_a_path(secure: Any) -> None:
    found = secure(Index(prefix="/api/pypi/all"), "/api/pypi/all/simple")
    assert found["site"].endswith("/api/pypi/all")
    assert found["index_url"].endswith("/api/pypi/all/simple/")
    assert found["modes"]["bandersnatch"] == []


def test_an_index_at_another_place(secure: Any) -> None:
    index = Index()
    index.replaced["/+simple/six/"] = (200, {"Content-Type": V1_JSON}, PAGE)
    found = secure(index, "/+simple/")
    assert found["site"] == ""
    assert found["modes"]["bandersnatch"] == [
        "the index is not at SITE/simple/, where bandersnatch looks for it"
    ]
    assert found["modes"]["cache"] == []


def test_metadata_that_is_offered_and_not_there(secure: Any) -> None:
    index = Index(replaced={"/packages/six-1.0-py3-none-any.whl.metadata": (404, {}, b"")})
    assert not secure(index)["core_metadata"]


def test_an_index_without_tls(serve: Any) -> None:
    found = probe(index_url=f"http://localhost:{serve(Index())}/simple/", mode="bandersnatch")
    assert found["reachable"]
    assert "has no TLS" in found["problems"][0]["problem"]


@pytest.mark.parametrize(
    ("answer", "said", "next_step"),
    [
        ((401, {}, b""), "asks for credentials", "pip's configuration"),
        ((403, {}, b""), "refuses us", "let this host in"),
        ((404, {}, b""), "has no such project", "probe_project"),
        ((500, {}, b""), "is no index", ""),
        ((200, {"Content-Type": "application/json"}, b"{}"), "is no index", ""),
        ((200, {"Content-Type": V1_JSON}, b"[]"), "is no PEP 691 page", ""),
        (
            (200, {"Content-Type": V1_JSON}, b'{"meta": {"api-version": "1.0"}, "files": []}'),
            "names no files",
            "",
        ),
        ((200, {"Content-Type": V1_JSON}, b"[" * 99999), "is no PEP 691 page", ""),
        ((200, {"Content-Type": "text/html"}, b"<h1>Log in</h1>"), "names no files", ""),
        ((302, {"Location": "ftp://elsewhere.example/"}, b""), "unknown url type: ftp", ""),
    ],
)
def test_what_is_no_index(answer: Any, said: str, next_step: str, secure: Any) -> None:
    found = secure(Index(replaced={"/simple/six/": answer}))
    assert not found["reachable"]
    (problem,) = found["problems"]
    assert said in problem["problem"]
    assert next_step in problem["next_step"]


def test_redirects_are_followed_and_loops_end(secure: Any) -> None:
    moved = Index()
    moved.replaced["/old/six/"] = (301, {"Location": "/simple/six/"}, b"")
    assert secure(moved, "/old/")["reachable"]
    loop = Index(replaced={"/simple/six/": (302, {"Location": "/simple/six/"}, b"")})
    assert not secure(loop)["reachable"]


def test_an_unknown_authority_names_the_way_out(serve: Any, authority: Any) -> None:
    port = serve(Index(), authority.issue("localhost"))
    (problem,) = probe(index_url=f"https://localhost:{port}/simple/")["problems"]
    assert "is not trusted" in problem["problem"]
    assert "ca_file" in problem["next_step"]
    assert probe(index_url=f"https://localhost:{port}/simple/", ca_pem=authority.pem.read_text())["reachable"]


def test_a_ca_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nonsense")
    for path in ("/no/such/file", str(tmp_path / "ca.pem")):
        (problem,) = probe(index_url="https://localhost/simple/", ca_file=path)["problems"]
        assert f"the CA file {path} cannot be used" in problem["problem"]


def test_refused_hanging_and_no_tls(serve: Any) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
        (problem,) = probe(index_url=f"https://localhost:{port}/simple/", timeout=0.2)["problems"]
        assert "does not answer in time" in problem["problem"]
    (problem,) = probe(index_url=f"https://localhost:{port}/simple/")["problems"]
    assert "refuses the connection" in problem["problem"]
    (problem,) = probe(index_url=f"https://localhost:{serve(Index())}/simple/")["problems"]
    assert "TLS with localhost failed" in problem["problem"]


@pytest.mark.parametrize(
    "url",
    [
        "ftp://a.example/simple/",
        "simple",
        "https:///simple/",
        "https://a.example/simple/?x=1",
        "file:///etc/passwd",
    ],
)
def test_urls_that_are_none(url: str) -> None:
    (problem,) = probe(index_url=url)["problems"]
    assert "is no index URL" in problem["problem"]


def test_credentials_are_used_and_not_shown(secure: Any, serve: Any, authority: Any) -> None:
    index = Index()
    port = serve(index, authority.issue("localhost"))
    found = probe(index_url=f"https://me:s%C3%A9cret@localhost:{port}/simple/", ca_file=str(authority.pem))
    assert found["reachable"]
    assert "cret" not in json.dumps(found)
    assert "bWU6c8OpY3JldA==" in index.asked[0].headers["Authorization"]
    (problem,) = probe(index_url="ftp://me:secret@a.example/")["problems"]
    assert "secret" not in problem["problem"]


@pytest.mark.parametrize(
    "answer",
    [
        (200, {"Content-Type": V1_JSON}, PAGE.replace(b"../../packages", b"https://me:secret@files.example")),
        (302, {"Location": "https://me:secret@no-such-name.invalid/six/"}, b""),
        (302, {"Location": "ftp://me:secret@files.example/six/"}, b""),
        (200, {"Content-Type": V1_JSON}, b"[]"),
    ],
    ids=["files", "moved", "moved to no index", "no page"],
)
def test_credentials_in_what_an_index_says_are_not_shown(answer: Any, secure: Any) -> None:
    assert "secret" not in json.dumps(secure(Index(replaced={"/simple/six/": answer})))


@pytest.mark.parametrize(
    ("config", "environment"),
    [
        ("index-url = https://me:secret@no-such-name.invalid/simple/", {}),
        ("[global]\nindex-url = https://me:secret@[::/simple/", {}),
        ("[global]\nindex-url = https://me:secret@no-such-name.invalid/simple/", {}),
        ("[global]\nindex-url = https://me:sec@ret@no-such-name.invalid/simple/", {}),
        ("", {"PIP_INDEX_URL": "https://me:secret@no-such-name.invalid:port/simple/"}),
        ("[global]\nproxy = http://me:secret@no-such-name.invalid:1", {}),
        ("", {"HTTPS_PROXY": "http://me:secret@no-such-name.invalid:1"}),
    ],
)
def test_credentials_of_pips_configuration_are_not_shown(
    config: str, environment: dict[str, str], tmp_path: Path
) -> None:
    if "index" not in (config + str(environment)).lower():
        environment = environment | {"PIP_INDEX_URL": "https://no-such-name.invalid/simple/"}
    found = ask(tmp_path, config, **environment)
    assert found["problems"], found
    assert "secret" not in json.dumps(found)


def test_credentials_of_an_argument_are_not_shown(tmp_path: Path) -> None:
    found = ask(tmp_path, arguments={"index_url": "https://me:secret@no-such-name.invalid/simple/"})
    assert found["problems"]  # and up to ansible-core 2.20 what it was called with
    assert "secret" not in json.dumps(found)


def ask(
    tmp_path: Path, config: str = "", arguments: dict[str, Any] | None = None, **environment: str
) -> dict[str, Any]:
    """The module's result in a process of its own, with a configuration of pip's."""
    (tmp_path / "pip.conf").write_text(config)
    clean = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PIP_CONFIG_FILE": str(tmp_path / "pip.conf")}
    library = Path(__file__).resolve().parents[2] / "library" / "upstream_probe.py"
    done = subprocess.run(
        [sys.executable, library],
        input=json.dumps({"ANSIBLE_MODULE_ARGS": {"timeout": 5} | (arguments or {})}),
        env=clean | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_index_of_pips_configuration(tmp_path: Path, serve: Any, authority: Any) -> None:
    port = serve(Index(), authority.issue("localhost"))
    config = f"[global]\nindex-url = https://localhost:{port}/simple\ncert = {authority.pem}\n"
    found = ask(tmp_path, config)
    assert found["problems"] == []
    assert (found["source"], found["index_url"]) == ("configured", f"https://localhost:{port}/simple/")


def test_the_environment_comes_before_pips_configuration(tmp_path: Path, serve: Any, authority: Any) -> None:
    port = serve(Index(), authority.issue("localhost"))
    found = ask(
        tmp_path,
        "[global]\nindex-url = https://no-such-name.invalid/simple/\n",
        PIP_INDEX_URL=f"https://localhost:{port}/simple/",
        PIP_CERT=str(authority.pem),
    )
    assert found["reachable"], found["problems"]
    assert found["source"] == "configured"


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_authorities_of_the_environment_are_pips_and_no_given_indexs(
    name: str, tmp_path: Path, serve: Any, authority: Any
) -> None:
    url = f"https://localhost:{serve(Index(), authority.issue('localhost'))}/simple/"
    bundle = {name: str(authority.pem)}
    found = ask(tmp_path, PIP_INDEX_URL=url, **bundle)
    assert found["reachable"], found["problems"]
    assert not ask(tmp_path, arguments={"index_url": url}, PIP_CERT=str(authority.pem), **bundle)["reachable"]


def test_the_proxy_of_pips_configuration_is_asked(tmp_path: Path, serve: Any) -> None:
    index = Index()
    config = f"[global]\nindex-url = http://no-such-name.invalid/simple/\nproxy = http://127.0.0.1:{serve(index)}\n"
    ask(tmp_path, config)
    assert index.asked[0].path == "http://no-such-name.invalid/simple/six/"


def test_a_pip_that_uses_no_index(tmp_path: Path) -> None:
    (problem,) = ask(tmp_path, "[global]\nno-index = true\n")["problems"]
    assert "no-index" in problem["problem"]


def test_the_index_built_into_pip() -> None:
    """Without configuration, what pip itself would use: read from pip, and nothing asked of it here."""
    found = ask_pip(sys.executable)
    assert found["built_in"] == PyPI.simple_url


def test_a_python_without_pip(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    (problem,) = probe(python=str(tmp_path / "bare" / "bin" / "python"))["problems"]
    assert "does not tell its index: ModuleNotFoundError: No module named 'pip'" in problem["problem"]
    (problem,) = probe(python="/no/such/python")["problems"]
    assert "/no/such/python cannot be asked" in problem["problem"]
    assert "index_url" in problem["next_step"]


def test_the_size_of_a_selection_is_added_up_from_the_pages(serve: Any) -> None:
    sizes = [{**ENTRY, "size": 1000}, {**ENTRY, "size": 500}, {**ENTRY}]
    page = {"meta": {"api-version": "1.3"}, "files": sizes, "versions": ["1.0", "2.0", "3.0"]}
    index = Index(replaced={"/simple/big/": (200, {"Content-Type": V1_JSON}, json.dumps(page).encode())})
    url = f"http://127.0.0.1:{serve(index)}/simple/"
    assert probe(index_url=url)["selection_bytes"] == 0
    assert probe(index_url=url, sizes_of=["big", "big", "absent"])["selection_bytes"] == 3000
    assert probe(index_url=url, sizes_of=["big"], releases_kept=2)["selection_bytes"] == 1000


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_where_files_are_redirected_is_seen(status: int, secure: Any, serve: Any, authority: Any) -> None:
    """Each host on the way; what the last one answers to a second request is not asked."""
    asked: list[Any] = []

    def refuse(request: Any) -> tuple[int, dict[str, str], bytes]:
        asked.append(request)
        return 403, {}, b""

    last = f"https://localhost:{serve(refuse, authority.issue('localhost'))}"

    def send_on(request: Any) -> tuple[int, dict[str, str], bytes]:
        return 302, {"Location": f"{last}/x?signed"}, b""

    between = f"https://localhost:{serve(send_on, authority.issue('localhost'))}"
    file = "/packages/six-1.0-py3-none-any.whl"
    found = secure(Index(replaced={file: (status, {"Location": f"{between}/x"}, b"")}), mode="cache")
    assert found["file_redirects"] == sorted([between, last])
    assert found["problems"] == []
    assert [(request.method, request.path) for request in asked] == [("GET", "/x?signed")]


def test_files_that_are_redirected_out_of_tls_are_a_problem_of_caches(secure: Any, serve: Any) -> None:
    store = f"http://localhost:{serve(lambda _: (200, {}, b'x'))}"
    file = "/packages/six-1.0-py3-none-any.whl"
    found = secure(Index(replaced={file: (302, {"Location": f"{store}/x"}, b"")}), mode="cache")
    assert f"files are redirected to {store}, which has no TLS" in found["problems"][0]["problem"]
    assert found["modes"]["bandersnatch"] == []


def test_files_that_are_not_redirected(secure: Any) -> None:
    assert secure(Index())["file_redirects"] == []
    missing = Index(
        replaced={
            "/packages/six-1.0-py3-none-any.whl": (302, {"Location": "https://no-such-name.invalid/"}, b"")
        }
    )
    assert secure(missing)["file_redirects"] == ["https://no-such-name.invalid"]
