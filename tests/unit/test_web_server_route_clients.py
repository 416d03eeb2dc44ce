"""A redirector as clients see it that know its URL alone: pip, uv, poetry and pdm; and mirrors with any fault."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import random
import select
import shutil
import socket
import socketserver
import subprocess
import sys
import threading
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mirror_material import FILES, METADATA, path_of
from mirror_material import wheel as material_wheel
from monitor_sandbox import Sandbox

from mirrorfleet import cli
from mirrorfleet.route.pools import Client, route
from tests.nginx_material import Names, Nginx
from tests.unit.test_web_server_route import (
    BEFORE_ANY_BYTE,
    WITHIN_THE_BODY,
    Fleet,
    blackhole,
    break_one,
    fleet_in,
    mirror,
    with_each_fault,
)

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
CLIENTS = ROOT / "build/clients/bin"
UV = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}") or "uv"
JSON, HTML = "JSON", "text/html"


class Anywhere(socketserver.ThreadingTCPServer):
    """A proxy for CONNECT to which every name is this host: clients believe what no DNS says."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Tunnel)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Tunnel(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        port = int(self.rfile.readline().split()[1].rpartition(b":")[2])
        while self.rfile.readline().strip():
            pass
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)) as there:
            self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
            ends = {self.connection: there, there: self.connection}
            while True:
                for one in select.select([*ends], [], [])[0]:
                    if not (data := one.recv(65536)):
                        return
                    ends[one].sendall(data)


@pytest.fixture(scope="module")
def tunnel() -> Iterator[str]:
    with Anywhere() as server:
        yield server.url
        server.shutdown()


def wheel(name: str, size: int, says: str = "good") -> bytes:
    """A wheel with a module that says a word, and with so many bytes that nothing compresses."""
    info = f"{name}-1.0.dist-info"
    files = {
        f"{name}.py": f"word = {says!r}\n".encode(),
        f"{name}.bin": random.Random(name).randbytes(size),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"]).encode()
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)
    return made.getvalue()


def wheel_of(name: str, folder: str = "ab") -> str:
    return f"/packages/{folder}/cd/{name}-1.0-py3-none-any.whl"


def publish(fleet: Fleet, name: str, size: int, folder: str = "ab") -> str:
    """A wheel with its metadata and a page that lists it; the path of the wheel."""
    path, content = wheel_of(name, folder), wheel(name, size)
    metadata = zipfile.ZipFile(io.BytesIO(content)).read(f"{name}-1.0.dist-info/METADATA")
    fleet.put(path, content)
    fleet.put(f"{path}.metadata", metadata)
    digests = {"sha256": hashlib.sha256(content).hexdigest()}
    core = {"sha256": hashlib.sha256(metadata).hexdigest()}
    file = {
        "filename": path.rpartition("/")[2],
        "url": f"../..{path}",
        "hashes": digests,
        "core-metadata": core,
    }
    file |= {"size": len(content), "upload-time": "2026-01-01T00:00:00Z", "yanked": False}
    page = {"meta": {"api-version": "1.1"}, "name": name, "versions": ["1.0"], "files": [file]}
    folder = fleet.tree / f"pages/{name}/s-1-ab/simple"
    folder.mkdir(parents=True)
    (folder.parents[1] / "cur").symlink_to("s-1-ab")
    (folder / "index.v1_json").write_text(json.dumps(page))
    anchor = (
        f'<a href="{file["url"]}#sha256={digests["sha256"]}" data-core-metadata="sha256={core["sha256"]}">'
    )
    (folder / "index.html").write_text(
        f"<!DOCTYPE html><html><body>{anchor}{file['filename']}</a></body></html>"
    )
    return path


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, authority: Any) -> Iterator[Fleet]:
    """One for all installations, each of a large project of its own: who asks for a file again is sent elsewhere."""
    with fleet_in(tmp_path_factory.mktemp("index"), authority) as made:
        publish(made, "little", 100)
        made.options["web_server_route_small"] = 10_000
        made.patient = False
        made.name = "127.0.0.1"
        made.start()
        yield made


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment for poetry and pdm to install into; each test has projects of its own."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    return folder


class Clients:
    """Real ones that know one index URL. Their timeouts are short, their tries are their own."""

    def __init__(self, authority: Any, tunnel: str, environment: Path) -> None:
        self.environment = environment
        ours = ("PIP_", "UV_", "POETRY_", "PDM_", "VIRTUAL_ENV", "SSL_", "REQUESTS_", "CURL_")
        pem = str(authority.pem)
        self.variables = {key: value for key, value in os.environ.items() if not key.startswith(ours)} | {
            "PIP_CONFIG_FILE": os.devnull, "PIP_CERT": pem, "UV_NO_CONFIG": "1", "UV_NO_CACHE": "1",
            "UV_HTTP_TIMEOUT": "3", "SSL_CERT_FILE": pem, "REQUESTS_CA_BUNDLE": pem, "POETRY_REQUESTS_TIMEOUT": "3",
            "PDM_REQUEST_TIMEOUT": "3", "PDM_CHECK_UPDATE": "0", "HTTPS_PROXY": tunnel, "https_proxy": tunnel,
            "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", "VIRTUAL_ENV": str(environment),
        }  # fmt: skip
        # pdm heeds no proxy, so that its Python is told where names lead.
        (environment / "names").mkdir()
        (environment / "names/sitecustomize.py").write_text(
            "import socket\nasked = socket.getaddrinfo\nsocket.getaddrinfo = lambda host, *more, **options: asked("
            "'127.0.0.1' if str(host).endswith('.test') else host, *more, **options)\n"
        )

    def install(self, client: str, index: str, folder: Path, *projects: str) -> tuple[int, str, Path]:
        """Exit code, what was said, and where the modules are now if all went well."""
        work = folder / f"{client}-{time.monotonic_ns()}"
        work.mkdir()
        target = (
            work / "target" if client in ("pip", "uv") else next(self.environment.glob("lib/*/site-packages"))
        )
        commands = {
            "pip": [CLIENTS / "pip", "install", "--no-cache-dir", "--disable-pip-version-check", "--timeout", "3",
                    "--target", target, "--index-url", index, *projects],
            "uv": [UV, "pip", "install", "--target", target, "--default-index", index, *projects],
            "poetry": [CLIENTS / "poetry", "install", "--no-cache", "--no-interaction", "--no-root"],
            "pdm": [CLIENTS / "pdm", "install", "--no-self", "--no-isolation"],
        }  # fmt: skip
        # uv may not read it as a project of its own.
        if client in ("poetry", "pdm"):
            (work / "pyproject.toml").write_text(
                f'[project]\nname = "work"\nversion = "1"\nrequires-python = ">=3.11"\ndependencies = {[*projects]}\n'
                f'[[tool.poetry.source]]\nname = "fleet"\nurl = "{index}"\npriority = "primary"\n'
                f'[[tool.pdm.source]]\nname = "pypi"\nurl = "{index}"\n'
            )
        given = self.variables | {"HOME": str(work), "XDG_CACHE_HOME": str(work / "cache")}
        if client == "pdm":
            given["PYTHONPATH"] = str(self.environment / "names")
        ran = subprocess.run(
            [str(word) for word in commands[client]], env=given, cwd=work, capture_output=True, text=True,
            timeout=180, check=False,
        )  # fmt: skip
        return ran.returncode, ran.stdout + ran.stderr, target


@pytest.fixture(scope="module")
def clients(authority: Any, tunnel: str, environment: Path) -> Clients:
    return Clients(authority, tunnel, environment)


def url_of(fleet: Fleet, label: str = "", form: str = JSON) -> str:
    """Of its index, which answers in one format only."""
    assert fleet.nginx
    port = fleet.nginx.port if form == JSON else int(fleet.nginx.of_one_type[form].rpartition(":")[2])
    return f"http://127.0.0.1:{port}{label}/simple/"


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory, authority: Any) -> Iterator[Fleet]:
    """One with a mirror for each fault among its mirrors, which have the same share as the three that are well."""
    with fleet_in(tmp_path_factory.mktemp("faulty"), authority) as made, blackhole() as nowhere:
        made.options["web_server_route_small"] = 10_000
        made.patient = False
        made.name = "127.0.0.1"
        records = [mirror(name, one.port) for name, one in made.mirrors.items()]
        made.start(*records, *with_each_fault(made, nowhere, weight=100))
        yield made


@pytest.mark.parametrize("form", [JSON, HTML])
@pytest.mark.parametrize("client", ["pip", "uv", "poetry", "pdm"])
def test_no_installation_fails_for_what_is_seen_before_a_byte(
    faulty: Fleet, clients: Clients, client: str, form: str
) -> None:
    """A project for each fault, whose wheel is in the slot of the mirror that has it. No prober has seen it yet."""
    routing, paths = route(faulty.records), {}
    publish(faulty, little := f"little{client}{form[:4].lower()}", 100)
    # Which page a client read makes no difference to a fault.
    for number, fault in enumerate(BEFORE_ANY_BYTE if form == JSON else ["404"]):
        project = f"p{number}{client}{form[:4].lower()}"
        folder = next(
            folder
            for folder in (f"{one:03x}" for one in range(4096))
            if routing.choose(Client("127.0.0.1"), wheel_of(project, folder)).candidates[0]
            == fault.replace(" ", "-")
        )
        paths[project] = publish(faulty, project, 20_000, folder)
    code, said, target = clients.install(client, url_of(faulty, form=form), faulty.folder, *paths, little)
    assert code == 0, said
    for project in (*paths, little):
        assert (target / f"{project}.py").read_text() == "word = 'good'\n"
    served = {
        path: [name for name, one in faulty.mirrors.items() if one.gets(path)] for path in paths.values()
    }
    assert {len(names) for names in served.values()} <= {0, 1}, served
    assert {name for names in served.values() for name in names} <= {"a", "b", "c"}, served


@pytest.mark.parametrize("client", ["pip", "uv", "poetry", "pdm"])
@pytest.mark.parametrize("fault", ["", *WITHIN_THE_BODY])
def test_no_installation_fails(index: Fleet, clients: Clients, client: str, fault: str) -> None:
    """Where a mirror breaks off within a file, clients are sent elsewhere when they come back; poetry does not."""
    project = f"{fault or 'well'}{client}"
    path = publish(index, project, 400_000)
    first, second, _ = route(index.records).choose(Client("127.0.0.1"), path).candidates
    break_one(index, first, fault)
    code, said, target = clients.install(client, url_of(index), index.folder, project, "little")
    if client == "poetry" and fault in ("cut", "stalled"):
        assert code != 0 and f"Cannot install {project}" in said
        way_out = url_of(index, f"/without/{first}")
        code, said, target = clients.install(client, way_out, index.folder, project, "little")
    index.mirrors[first].fault = ""
    assert code == 0, said
    assert (target / f"{project}.bin").read_bytes() == random.Random(project).randbytes(400_000)
    assert (target / "little.py").is_file()
    served = {name: one.gets(path) for name, one in index.mirrors.items() if one.gets(path)}
    if fault in ("", "slow"):
        assert served == {first: 1}
    else:
        assert served.keys() == {first, second}


@pytest.mark.parametrize(
    ("client", "way_out"),
    [("pip", "/without/{}"), ("uv", "/trusted"), ("poetry", "/without/{}"), ("pdm", "/trusted")],
)
def test_a_tampered_wheel_is_refused_and_a_label_is_the_way_out(
    index: Fleet, clients: Clients, client: str, way_out: str
) -> None:
    project = f"tampered{client}"
    path = publish(index, project, 400_000)
    first = index.mirrors[index.first(path)]
    first.evil = wheel(project, 400_000, "evil")
    assert len(first.evil) == (index.tree / path.lstrip("/")).stat().st_size
    first.fault = "tampered"
    code, said, target = clients.install(client, url_of(index), index.folder, project)
    if client == "pdm":  # which tries again by itself, and is sent elsewhere
        assert code == 0 and f"Install {project} 1.0 failed" in said, said
    else:
        assert code != 0 and "hash" in said.lower(), said
        assert not (target / f"{project}.bin").exists()
        label = way_out.format(first.name)
        code, said, target = clients.install(client, url_of(index, label), index.folder, project)
        assert code == 0, said
    first.fault = ""
    assert (target / f"{project}.py").read_text() == "word = 'good'\n"
    assert first.gets(path) == 1


PATIENCE = dict.fromkeys(
    ("800ms;", "1500ms;"), "30s;"
)  # with mirrors, for which this machine may be too busy
SIX = "six-1.0-py3-none-any.whl"


class Measured:
    """A redirector before mirrors that a monitor measures and audits, which decides to whom clients are sent."""

    def __init__(self, folder: Path, sandbox: Sandbox, names: int) -> None:
        self.folder, self.sandbox = folder, sandbox
        sandbox.config |= {"timeout": 20, "budget": 60}
        for name in ("one", "two"):
            sandbox.add(name)
        sandbox.write()
        entries = [
            {key: one[key] for key in ("name", "url", "urls", "mode", "tier", "location", "bandwidth")}
            | {"address_families": one["address_families"], "operator": {"name": "A"}, "serial": 1, "listed": True}
            | {"code": "listed", "reason": "", "since": 1, "next": "", "last_modified": 1, "score": None}
            | {"availability": None}
            for one in sandbox.registry["mirrors"]
        ]  # fmt: skip
        listed = {
            "schema": 1,
            "fleet": "f",
            "agreement_version": "1",
            "staleness_limit": 86400,
            "mirrors": entries,
        }
        (folder / "mirrors.json").write_text(json.dumps(listed))
        self.follow()
        self.nginx = Nginx(
            folder, sandbox.authority.issue("127.0.0.1"), names, "127.0.0.1", PATIENCE,
            web_server_routes=str(folder / "routes.conf"), web_server_route_small=300,
            web_server_route_ca=str(sandbox.authority.pem), web_server_on_miss="pass",
            web_server_upstream_index=f"{sandbox.config['reference']['url']}/simple/",
            web_server_upstream_ca=str(sandbox.authority.pem),
        )  # fmt: skip
        self.index = f"http://127.0.0.1:{self.nginx.port}/simple/"
        self.follow()

    def follow(self) -> None:
        """A round of the monitor, and a run of the redirector after it."""
        self.sandbox.probe()
        told = {
            key: str(self.folder / name)
            for key, name in (("registry", "registry.json"), ("list", "mirrors.json"))
        }
        told |= {"output": str(self.folder / "routes.conf")}
        reload = ["kill", "-HUP", str(self.nginx._server.pid)] if hasattr(self, "nginx") else []
        config = told | {
            "health": [str(self.folder / "health.json")],
            "families": ["ipv4"],
            "test": [],
            "reload": reload,
        }
        (self.folder / "route.json").write_text(json.dumps(config))
        assert cli.main(["route", "-c", str(self.folder / "route.json")]) == 0

    def candidates(self) -> list[str]:
        url = f"{self.index.removesuffix('/simple/')}/route?file={path_of('six', SIX)}&address=127.0.0.1"
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url) as answer:
            return [name for name in json.load(answer)["candidates"] if name]

    def until(self, *names: str) -> None:
        ends = time.monotonic() + 20
        while self.candidates() != [*names]:
            assert time.monotonic() < ends, self.candidates()
            time.sleep(0.05)  # a reload takes effect in a moment, of which nginx tells nobody


@pytest.fixture
def measured(
    tmp_path: Path, serve: Any, authority: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Measured]:
    info = "six-1.0.dist-info"
    about = {
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    }
    about[f"{info}/RECORD"] = f"six.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n".encode()
    monkeypatch.setitem(FILES["six"], SIX, material_wheel(METADATA, **about))
    (names := Names()).start()
    found = Measured(tmp_path, Sandbox(tmp_path, serve, authority), names.port)
    yield found
    found.nginx.stop()


def twin(content: bytes) -> bytes:
    """As large, and as good a wheel; another module is in it."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as whole, zipfile.ZipFile(made, "w") as other:
        for name in whole.namelist():
            other.writestr(zipfile.ZipInfo(name), whole.read(name).replace(b"some bytes", b"evil bytes"))
    assert len(made.getvalue()) == len(content) and made.getvalue() != content
    return made.getvalue()


@pytest.mark.parametrize("what", ["wheel", "metadata"])
def test_a_tampered_mirror_is_caught_by_client_and_audit_and_routed_around(
    measured: Measured, clients: Clients, what: str
) -> None:
    first, other = measured.candidates()
    evil, wheel_path = measured.sandbox.mirrors[first], path_of("six", SIX)
    if what == "wheel":
        evil.replaced[wheel_path] = 200, {"Accept-Ranges": "bytes"}, twin(FILES["six"][SIX])
        code, said, _ = clients.install("uv", measured.index, measured.folder, "six==1.0")
        assert code != 0 and "hash mismatch" in said.lower(), said
    else:
        evil.metadata = METADATA + b"Requires-Dist: evil\n"
        url = next(one["url"] for one in measured.sandbox.registry["mirrors"] if one["name"] == first)
        code, said, _ = clients.install("uv", f"{url}/simple/", measured.folder, "six==1.0")
        assert code != 0 and "hash mismatch" in said.lower(), said
        # Metadata come from the redirector, so that its clients never see a mirror's.
        code, said, _ = clients.install("uv", measured.index, measured.folder, "six==1.0")
        assert code == 0, said
    assert measured.sandbox.audit() == 1
    assert measured.sandbox.report(first)["verdict"] == "tampered"
    assert measured.sandbox.report(other)["verdict"] == "passed"
    measured.follow()
    measured.until(other)
    evil.asked.clear()
    code, said, target = clients.install("uv", measured.index, measured.folder, "six==1.0")
    assert code == 0, said
    assert (target / "six.py").is_file()
    assert evil.asked == []
    assert any(path == wheel_path for _, path, _ in measured.sandbox.mirrors[other].asked)
