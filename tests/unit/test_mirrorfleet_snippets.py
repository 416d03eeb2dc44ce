"""What the status page tells people to type, typed: real clients install from an index of one package."""

from __future__ import annotations

import hashlib
import html
import http.server
import os
import re
import shutil
import ssl
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from site_material import Site

ROOT = Path(__file__).resolve().parents[2]
PROJECT = '[project]\nname = "work"\nversion = "1"\nrequires-python = ">=3.11"\ndependencies = ["demo"]\n'


@dataclass
class Index:
    authority: Path | None
    url: str = ""
    asked: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of one package."""
    folder = tmp_path_factory.mktemp("index")
    page = folder / "simple" / "demo"
    page.mkdir(parents=True)
    wheel = page / "demo-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        about = "demo-1.0.dist-info/"
        archive.writestr(f"{about}METADATA", "Metadata-Version: 2.1\nName: demo\nVersion: 1.0\n")
        archive.writestr(f"{about}WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}RECORD", f"{about}METADATA,,\n{about}WHEEL,,\n{about}RECORD,,\n")
    sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest()
    (page / "index.html").write_text(f'<a href="{wheel.name}#sha256={sha256}">{wheel.name}</a>')
    return folder


@pytest.fixture(params=["public", "authority"])
def index(request: pytest.FixtureRequest, folder: Path, authority: Any) -> Iterator[Index]:
    """It, served; by TLS with a certificate of an authority that no client knows, where that is what is tried."""
    secure = request.param == "authority"
    found = Index(authority=authority.pem if secure else None)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, directory=str(folder), **options)

        def do_GET(self) -> None:
            found.asked.append(self.path)
            super().do_GET()

        def log_message(self, *_: Any) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        def finish_request(self, request: Any, client_address: Any) -> None:
            if secure:
                try:
                    request = context.wrap_socket(request, server_side=True)
                except OSError:
                    return  # a client that does not trust it
            super().finish_request(request, client_address)

    if secure:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(authority.issue("127.0.0.1"))
    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        found.url = f"http{'s' if secure else ''}://127.0.0.1:{server.server_port}/simple/"
        yield found
        server.shutdown()


@pytest.fixture
def site(tmp_path: Path, index: Index) -> Site:
    (tmp_path / "site").mkdir()
    site = Site(tmp_path / "site")
    site.config["index_url"] = index.url
    if index.authority:
        site.config["authority"] = str(index.authority)
        site.registry["mirrors"][0]["tls_mode"] = "private_ca"
    assert site.publish() == 0
    return site


@pytest.fixture
def told(site: Site, index: Index) -> dict[str, list[str]]:
    """By client what the page says, split at its comments."""
    index.asked.clear()
    found = re.findall(r'<pre id="([a-z]+)"><code>([^<]*)</code></pre>', site.read("index.html"))
    parts = {name: re.split(r"\n#.*:\n", html.unescape(text)) for name, text in found}
    assert list(parts) == ["authority"] * bool(index.authority) + ["pip", "uv", "poetry", "pdm"]
    return parts


@dataclass
class Work:
    """A project and a home of its own, without this machine's settings."""

    folder: Path

    def run(self, command: str) -> str:
        ours = ("PIP_", "UV_", "POETRY_", "PDM_", "VIRTUAL_ENV", "SSL_", "REQUESTS_", "CURL_")
        environment = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
        path = f"{ROOT / '.venv/bin'}:{ROOT / 'build/clients/bin'}:{environment['PATH']}"
        done = subprocess.run(
            ["sh", "-ec", command], cwd=self.folder, capture_output=True, text=True, check=False, timeout=120,
            env=environment | {"PATH": path, "HOME": str(self.folder), "PDM_CHECK_UPDATE": "0"},
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    def project(self, more: str = "") -> None:
        (self.folder / "pyproject.toml").write_text(f"{PROJECT}\n{more}\n")

    def locked(self, name: str) -> bool:
        return 'name = "demo"' in (self.folder / name).read_text()


@pytest.fixture
def work(tmp_path: Path, site: Site) -> Work:
    """With the authority's certificate, if the site has one, saved where a person types."""
    (tmp_path / "work").mkdir()
    if (site.documents / "authority.pem").exists():
        shutil.copy(site.documents / "authority.pem", tmp_path / "work")
    return Work(tmp_path / "work")


def test_pip(told: dict[str, list[str]], work: Work, index: Index) -> None:
    now, for_good = told["pip"]
    work.run(f"{now} --target there".replace("PROJECT", "demo"))
    assert (work.folder / "there/demo-1.0.dist-info").is_dir()
    index.asked.clear()
    work.run(f"{for_good}\ncd /\npip download --no-cache-dir --dest {work.folder} demo")
    assert "/simple/demo/" in index.asked


def test_uv(told: dict[str, list[str]], work: Work, index: Index) -> None:
    now, for_good, *trust = told["uv"]
    work.run(f"{now} --target there".replace("PROJECT", "demo"))
    assert (work.folder / "there/demo-1.0.dist-info").is_dir()
    index.asked.clear()
    work.project(for_good)
    work.run("\n".join([*trust, "uv lock --no-cache"]))
    assert work.locked("uv.lock")
    assert "/simple/demo/" in index.asked


def test_poetry(told: dict[str, list[str]], work: Work, index: Index) -> None:
    command, text = told["poetry"]
    work.project()
    work.run(command)
    assert (
        text in (work.folder / "pyproject.toml").read_text()
    )  # what the command does is what the page says it does
    work.run("poetry lock --no-cache")
    assert work.locked("poetry.lock")
    assert "/simple/demo/" in index.asked


@pytest.mark.parametrize("part", [-2, -1], ids=["command", "project"])
def test_pdm(told: dict[str, list[str]], work: Work, index: Index, part: int) -> None:
    *trust, command, text = told["pdm"]
    work.project(text if part == -1 else "")
    work.run("\n".join([*trust, *([command] if part == -2 else []), "pdm lock"]))
    assert work.locked("pdm.lock")
    assert "/simple/demo/" in index.asked


def test_the_files_that_are_ready(site: Site, work: Work, index: Index) -> None:
    """pip.conf names the authority in the person's home; uv is told by its environment."""
    work.run(f"PIP_CONFIG_FILE={site.documents}/pip.conf pip download --no-cache-dir --no-deps demo")
    assert "/simple/demo/" in index.asked
    index.asked.clear()
    trust = "SSL_CERT_FILE=authority.pem " if index.authority else ""
    assert ("SSL_CERT_FILE" in site.read("uv.toml")) is bool(index.authority)
    work.run(f"{trust}uv pip install --no-cache --config-file {site.documents}/uv.toml --target there demo")
    assert "/simple/demo/" in index.asked


def test_the_environment_of_an_image(site: Site, work: Work, index: Index) -> None:
    """The lines for a container image in docs/clients.md."""
    text = (ROOT / "docs/clients.md").read_text()
    lines = re.findall("^ENV (.*)$", text, re.MULTILINE)
    assert [line.partition("=")[0] for line in lines] == [
        "PIP_INDEX_URL", "UV_DEFAULT_INDEX", "PIP_CERT", "SSL_CERT_FILE",
    ]  # fmt: skip
    kept = lines if index.authority else lines[:2]
    told = " ".join(kept).replace("https://MIRROR/simple/", index.url)
    told = told.replace("/etc/authority.pem", f"{work.folder}/authority.pem")
    for command in (
        "pip download --no-cache-dir --no-deps demo",
        "uv pip install --no-cache --target there demo",
    ):
        index.asked.clear()
        work.run(f"{told} {command}")
        assert "/simple/demo/" in index.asked


@pytest.mark.parametrize("index", ["authority"], indirect=True)
def test_the_authority_is_named_and_needed(
    site: Site, told: dict[str, list[str]], work: Work, authority: Any, index: Index
) -> None:
    page = site.read("index.html")
    (said,) = re.findall(r'<p class="hash">([0-9A-F:]{95})</p>', page)
    assert "Test authority" in page
    assert work.run(told["authority"][0]).strip().lower() == f"sha256 fingerprint={said}".lower()
    assert (site.documents / "authority.pem").read_text() == authority.pem.read_text()
    assert ("--cert authority.pem" in site.read("mirror/one.html")) is True
    assert "authority" not in site.read("mirror/two.html")  # whose certificate is from elsewhere
    with pytest.raises(AssertionError, match="certificate"):
        work.run(f"pip download --no-cache-dir --retries 0 --index-url {index.url} demo")
    with pytest.raises(AssertionError, match="certificate"):
        work.run(f"uv pip install --no-cache --target there --default-index {index.url} demo")
