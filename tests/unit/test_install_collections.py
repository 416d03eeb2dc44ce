"""Collections come from Galaxy where it answers and from the pinned wheel where not: real ansible-galaxy, real pip."""

from __future__ import annotations

import hashlib
import http.server
import io
import json
import os
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

WHEEL = "ansible-12.3.0-py3-none-any.whl"
SCRIPT = Path(__file__).parents[2] / "requirements/install_collections.py"
MANIFEST = {"namespace": "some", "name": "thing", "version": "1.2.3", "authors": [], "dependencies": {}}


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


README = b"Some thing.\n"


def files_of(readme: bytes = README, version: str = "1.2.3") -> dict[str, bytes]:
    """A collection of one file."""
    entry = {"name": "README.md", "ftype": "file", "chksum_type": "sha256", "chksum_sha256": digest(README)}
    files = json.dumps({"files": [entry | {"format": 1}], "format": 1}).encode()
    listing = {
        "name": "FILES.json",
        "ftype": "file",
        "chksum_type": "sha256",
        "chksum_sha256": digest(files),
        "format": 1,
    }
    about = {
        "collection_info": MANIFEST | {"version": version},
        "file_manifest_file": listing,
        "format": 1,
    }
    return {"MANIFEST.json": json.dumps(about).encode(), "FILES.json": files, "README.md": readme}


def artifact() -> bytes:
    """What Galaxy hands out."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, data in files_of().items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return stream.getvalue()


@pytest.fixture
def galaxy() -> Iterator[str]:
    """A Galaxy of one collection, by its API's version 3."""
    data = artifact()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            here = f"http://127.0.0.1:{server.server_port}"
            collection = "/api/v3/collections/some/thing/"
            version = {"version": "1.2.3", "href": f"{collection}versions/1.2.3/"}
            answers: dict[str, Any] = {
                "/api/": {"available_versions": {"v3": "v3/"}},
                collection: {"highest_version": version},
                f"{collection}versions/": {"data": [version], "meta": {"count": 1}, "links": {"next": None}},
                f"{collection}versions/1.2.3/": {
                    "version": "1.2.3",
                    "namespace": {"name": "some"},
                    "collection": {"name": "thing"},
                    "name": "thing",
                    "download_url": f"{here}/some-thing-1.2.3.tar.gz",
                    "artifact": {"sha256": digest(data), "size": len(data)},
                    "metadata": {"dependencies": {}},
                    "signatures": [],
                    "href": f"{collection}versions/1.2.3/",
                },
            }
            path = self.path.partition("?")[0]
            body = data if path.endswith(".tar.gz") else json.dumps(answers.get(path, {})).encode()
            self.send_response(200 if path in answers or body is data else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/api/"
    server.shutdown()
    thread.join()


def wheel(folder: Path, version: str = "1.2.3", **changed: bytes) -> None:
    """An `ansible` wheel that carries the collection in that version."""
    info = "ansible-12.3.0.dist-info"
    with zipfile.ZipFile(folder / WHEEL, "w") as archive:
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: ansible\nVersion: 12.3.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
        for name, data in (files_of(version=version) | changed).items():
            archive.writestr(f"ansible_collections/some/thing/{name}", data)
        archive.writestr("ansible_collections/other/thing/README.md", "Not asked for.\n")


def install(
    folder: Path, galaxy: str, version: str = "1.2.3", **pinned: str
) -> subprocess.CompletedProcess[str]:
    """With the hashes of what is there, unless others are pinned."""
    made = folder / WHEEL
    pins = {
        WHEEL: digest(made.read_bytes()) if made.exists() else "none",
        "some.thing-1.2.3/MANIFEST.json": digest(files_of()["MANIFEST.json"]),
    } | pinned
    (folder / "pins").write_text("".join(f"{value}  {name}\n" for name, value in pins.items()))
    requirements = folder / "requirements.yml"
    requirements.write_text(f"collections:\n  - name: some.thing\n    version: {version}\n")
    return subprocess.run(
        [sys.executable, SCRIPT, requirements, folder / "collections", folder / "pins"],
        env=os.environ
        | {
            "HOME": str(folder),
            "ANSIBLE_GALAXY_SERVER": galaxy,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(folder),
        },
        capture_output=True,
        text=True,
        check=False,
    )


def readme(folder: Path) -> str:
    return (folder / "collections/ansible_collections/some/thing/README.md").read_text()


def test_from_galaxy_where_it_answers(tmp_path: Path, galaxy: str) -> None:
    done = install(tmp_path, galaxy)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "from Galaxy: some.thing\n"
    assert readme(tmp_path) == README.decode()


NOBODY = "http://127.0.0.1:9/api/"


@pytest.mark.slow
def test_from_the_wheel_where_galaxy_does_not_answer(tmp_path: Path) -> None:
    wheel(tmp_path)
    done = install(tmp_path, NOBODY)
    assert done.returncode == 0, done.stderr
    assert "Galaxy does not answer; from the ansible==12.3.0 wheel: some.thing" in done.stdout
    assert readme(tmp_path) == README.decode()
    assert not (tmp_path / "collections/ansible_collections/other").exists()


@pytest.mark.slow
def test_a_wheel_with_another_version_is_refused(tmp_path: Path) -> None:
    wheel(tmp_path, "1.2.4")
    done = install(tmp_path, NOBODY)
    assert done.returncode != 0
    assert (
        "some.thing: requirements.yml pins 1.2.3, ansible==12.3.0 carries 1.2.4; pin the same." in done.stderr
    )


def test_only_exact_versions_are_accepted(tmp_path: Path) -> None:
    done = install(tmp_path, NOBODY, '">=1.0"')
    assert done.returncode != 0
    assert "exact versions only, not some.thing >=1.0" in done.stderr


def refused(folder: Path, done: subprocess.CompletedProcess[str], name: str) -> None:
    """The file is named, and nothing of it is there; what was there before is."""
    assert done.returncode != 0
    assert f"{name} has the sha256 " in done.stderr and "Nothing was installed" in done.stderr
    assert list((folder / "collections").rglob("*")) == []


@pytest.mark.slow
def test_a_wheel_of_another_hash_is_refused(tmp_path: Path) -> None:
    wheel(tmp_path)
    refused(tmp_path, install(tmp_path, NOBODY, **{WHEEL: "0" * 64}), WHEEL)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"MANIFEST.json": files_of()["MANIFEST.json"] + b" "}, "MANIFEST.json"),
        ({"FILES.json": files_of()["FILES.json"] + b" "}, "FILES.json"),
        ({"README.md": b"changed"}, "README.md"),
        ({"plugins/modules/more.py": b"changed"}, "plugins/modules/more.py"),
    ],
)
def test_a_collection_of_another_hash_is_refused(
    changed: dict[str, bytes], name: str, tmp_path: Path
) -> None:
    wheel(tmp_path, **changed)
    refused(tmp_path, install(tmp_path, NOBODY), f"some.thing-1.2.3/{name}")


def test_what_galaxy_gives_is_compared_too(tmp_path: Path, galaxy: str) -> None:
    name = "some.thing-1.2.3/MANIFEST.json"
    refused(tmp_path, install(tmp_path, galaxy, **{name: "0" * 64}), name)


def test_everything_that_is_installed_here_is_pinned() -> None:
    pinned = (SCRIPT.parent / "collections.sha256").read_text()
    for one in yaml.safe_load((SCRIPT.parents[1] / "requirements.yml").read_text())["collections"]:
        assert f"  {one['name']}-{one['version']}/MANIFEST.json\n" in pinned
    assert f"  {WHEEL}\n" in pinned
