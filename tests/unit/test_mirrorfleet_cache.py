"""Which cached answers are of a file or a project. That nginx asks again afterwards is for the scenario `tiers`."""

import json
from pathlib import Path

import pytest

from mirrorfleet.cli import main

SITE = "https://upstream.fleet.test"
ALPHA = "/packages/ab/cd/alpha_beta-1.0-py3-none-any.whl"
KEYS = {
    "alpha's first slice": f"{ALPHA}bytes=0-1048575",
    "alpha's second slice": f"{ALPHA}bytes=1048576-2097151",
    "alpha's metadata": f"{ALPHA}.metadatabytes=0-1048575",
    "alpha's odd name": "/packages/ab/cf/alpha_beta-1.2%2Bcu118.zipbytes=0-1048575",
    "alpha's other release": "/packages/ab/ce/alpha_beta-1.1.tar.gzbytes=0-1048575",
    "alpha's page": f"text/html{SITE}/simple/alpha-beta/",
    "alpha's page as JSON": f"application/vnd.pypi.simple.v1+json{SITE}/simple/alpha-beta/",
    "alpha's document": f"application/json{SITE}/pypi/alpha-beta/json",
    "another's page": f"text/html{SITE}/simple/alpha/",
    "another's file": "/packages/ab/cd/alpha-1.0.tar.gzbytes=0-1048575",
    "a file of no project's name": "/packages/ab/cd/readme.txtbytes=0-1048575",
}


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    for number, (name, key) in enumerate(KEYS.items()):
        path = tmp_path / f"{number:x}" / name
        path.parent.mkdir()
        path.write_bytes(
            b"\0\x05binary\xff" * 20 + f"\nKEY: {key}\nHTTP/1.1 200 OK\r\n".encode() + b"x" * 10_000
        )
    (tmp_path / "broken").write_bytes(b"\nKEY: " + b"\xff" * 20_000)
    (tmp_path / "empty").write_bytes(b"")
    return tmp_path


def left(cache: Path) -> set[str]:
    return {path.name for path in cache.rglob("*") if path.is_file()} - {"broken", "empty"}


@pytest.mark.parametrize("what", [ALPHA, SITE + ALPHA, f"{SITE}{ALPHA}#sha256=00"])
def test_a_file_is_forgotten_with_its_metadata(
    cache: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["purge", "--cache", str(cache), what]) == 0
    assert json.loads(capsys.readouterr().out)["removed"] == 3
    assert KEYS.keys() - left(cache) == {"alpha's first slice", "alpha's second slice", "alpha's metadata"}


@pytest.mark.parametrize("name", ["alpha_beta-1.2+cu118.zip", "alpha_beta-1.2%2bcu118.zip"])
def test_a_file_is_forgotten_however_its_name_is_spelt(cache: Path, name: str) -> None:
    assert main(["purge", "--cache", str(cache), f"/packages/ab/cf/{name}"]) == 0
    assert KEYS.keys() - left(cache) == {"alpha's odd name"}


def test_a_project_is_forgotten_by_any_spelling_of_its_name(cache: Path) -> None:
    assert main(["purge", "--cache", str(cache), "Alpha_Beta"]) == 0
    assert left(cache) == {"another's page", "another's file", "a file of no project's name"}


@pytest.mark.parametrize("what", ["/etc/passwd", "../alpha", "", "/packages/", f"{SITE}/simple/alpha/"])
def test_what_is_neither_is_refused_and_nothing_is_forgotten(
    cache: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["purge", "--cache", str(cache), "alpha", what]) == 2
    assert "nor a project's name" in capsys.readouterr().err
    assert left(cache) == KEYS.keys()


def test_a_mirror_without_a_cache_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["purge", "--cache", str(tmp_path / "none"), "alpha"]) == 2
    assert "it caches nothing" in capsys.readouterr().err
