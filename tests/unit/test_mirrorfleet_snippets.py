"""What the status page tells people to type, typed: real clients install from an index of one package."""

from __future__ import annotations

import hashlib
import html
import http.server
import os
import re
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
    url: str = ""
    asked: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
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
    found = Index()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, directory=str(folder), **options)

        def do_GET(self) -> None:
            found.asked.append(self.path)
            super().do_GET()

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        found.url = f"http://127.0.0.1:{server.server_port}/simple/"
        yield found
        server.shutdown()


@pytest.fixture
def told(tmp_path: Path, index: Index) -> dict[str, tuple[str, str]]:
    """By client what the page says before its comment, and after it."""
    index.asked.clear()
    (tmp_path / "site").mkdir()
    site = Site(tmp_path / "site")
    site.config["index_url"] = index.url
    assert site.publish() == 0
    found = re.findall(r'<pre id="([a-z]+)"><code>([^<]*)</code></pre>', site.read("index.html"))
    parts = {name: re.split(r"\n#.*:\n", html.unescape(text)) for name, text in found}
    assert list(parts) == ["pip", "uv", "poetry", "pdm"]
    return {name: (first, second) for name, (first, second) in parts.items()}


@dataclass
class Work:
    """A project and a home of its own, without this machine's settings."""

    folder: Path

    def run(self, command: str) -> str:
        ours = ("PIP_", "UV_", "POETRY_", "PDM_", "VIRTUAL_ENV")
        environment = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
        path = f"{ROOT / '.venv/bin'}:{ROOT / 'build/clients/bin'}:{environment['PATH']}"
        done = subprocess.run(
            ["sh", "-c", command], cwd=self.folder, capture_output=True, text=True, check=False, timeout=120,
            env=environment | {"PATH": path, "HOME": str(self.folder), "PDM_CHECK_UPDATE": "0"},
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    def project(self, more: str = "") -> None:
        (self.folder / "pyproject.toml").write_text(f"{PROJECT}\n{more}\n")

    def locked(self, name: str) -> bool:
        return 'name = "demo"' in (self.folder / name).read_text()


@pytest.fixture
def work(tmp_path: Path) -> Work:
    (tmp_path / "work").mkdir()
    return Work(tmp_path / "work")


def test_pip(told: dict[str, tuple[str, str]], work: Work, index: Index) -> None:
    now, for_good = told["pip"]
    work.run(f"{now} --target there".replace("PROJECT", "demo"))
    assert (work.folder / "there/demo-1.0.dist-info").is_dir()
    index.asked.clear()
    work.run(f"{for_good} && pip download --no-cache-dir demo")
    assert "/simple/demo/" in index.asked


def test_uv(told: dict[str, tuple[str, str]], work: Work, index: Index) -> None:
    now, for_good = told["uv"]
    work.run(f"{now} --target there".replace("PROJECT", "demo"))
    assert (work.folder / "there/demo-1.0.dist-info").is_dir()
    index.asked.clear()
    work.project(for_good)
    work.run("uv lock --no-cache")
    assert work.locked("uv.lock")
    assert "/simple/demo/" in index.asked


def test_poetry(told: dict[str, tuple[str, str]], work: Work, index: Index) -> None:
    command, text = told["poetry"]
    work.project()
    work.run(command)
    assert (
        text in (work.folder / "pyproject.toml").read_text()
    )  # what the command does is what the page says it does
    work.run("poetry lock --no-cache")
    assert work.locked("poetry.lock")
    assert "/simple/demo/" in index.asked


@pytest.mark.parametrize("part", [0, 1], ids=["command", "project"])
def test_pdm(told: dict[str, tuple[str, str]], work: Work, index: Index, part: int) -> None:
    text = told["pdm"][part]
    work.project(text if part else "")
    work.run(f"{'' if part else f'{text} && '}pdm lock")
    assert work.locked("pdm.lock")
    assert "/simple/demo/" in index.asked
