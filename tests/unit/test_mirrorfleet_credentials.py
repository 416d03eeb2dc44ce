"""User and password of an upstream's URL are used, and told nowhere: no log, summary, document, metric or state."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mirrorfleet.common import log
from mirrorfleet.common.config import ConfigError, parse
from mirrorfleet.served.state import State
from mirrorfleet.served.status import status_document

SECRET = "s3cret"
URLS = [
    (f"https://me:{SECRET}@index.example/simple/", "https://index.example/simple/"),
    (f"see rsync://me:{SECRET}@tier1/mirror, and that", "see rsync://tier1/mirror, and that"),
    (f"http://{SECRET}@a.example:8080", "http://a.example:8080"),
    (f"https://me:{SECRET}@{SECRET}@a.example/", "https://a.example/"),
    ("https://a.example/@scope/x@1.0", "https://a.example/@scope/x@1.0"),
    ('{"a":"https://a.example","b":"c@d"}', '{"a":"https://a.example","b":"c@d"}'),
    ("mail c@a.example about https://a.example now", "mail c@a.example about https://a.example now"),
]


@pytest.mark.parametrize(("text", "told"), URLS)
def test_a_text_without_credentials(text: str, told: str) -> None:
    assert log.without_credentials(text) == told


def document(folder: Path, **changes: Any) -> dict[str, Any]:
    paths = {name: str(folder / name) for name in ("fetched", "served", "state")}
    return {
        "name": "one",
        "mode": "origin",
        "url": "https://one.example",
        "tries": 1,
        "paths": paths | {"metrics": str(folder / "told.prom")},
    } | changes


def run(folder: Path, verb: str, **changes: Any) -> str:
    """All that a run leaves behind, on screen and on disk."""
    (folder / "mirror.json").write_text(json.dumps(document(folder, **changes)))
    done = subprocess.run(
        [sys.executable, "-m", "mirrorfleet.cli", verb, "-v", "-c", folder / "mirror.json"],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "src")},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode != 0 and done.stderr
    left = [file for file in folder.rglob("*") if file.is_file() and file.name != "mirror.json"]
    return done.stdout + done.stderr + "".join(file.read_bytes().decode("latin-1") for file in left)


@pytest.mark.parametrize(
    ("verb", "changes"),
    [
        (
            "dump",
            {"index_url": f"http://me:{SECRET}@127.0.0.1:9/simple/", "selection": {"projects": ["six"]}},
        ),
        ("dump", {"index_url": f"ftp://me:{SECRET}@127.0.0.1:9/simple/", "selection": {"projects": ["six"]}}),
        ("sync", {"mode": "cache", "upstream": f"http://me:{SECRET}@127.0.0.1:9"}),
        ("sync", {"mode": "rsync", "rsync": {"source": f"rsync://me:{SECRET}@127.0.0.1:9/mirror"}}),
    ],
)
def test_a_run_that_fails_tells_no_password(verb: str, changes: dict[str, Any], tmp_path: Path) -> None:
    assert SECRET not in run(tmp_path, verb, **changes)


def test_the_public_status_names_upstream_without_them(tmp_path: Path) -> None:
    changes = {"index_url": f"https://me:{SECRET}@index.example/simple/", "selection": {"projects": ["six"]}}
    config = parse(document(tmp_path, **changes), "mirror.json")
    with State(config.database) as state:
        assert status_document(config, state, 1)["upstream"] == "https://index.example/simple/"


def test_an_unusable_configuration_is_told_without_them() -> None:
    with pytest.raises(ConfigError) as caught:
        parse(document(Path("/x"), index_url=f"ftp://me:{SECRET}@index.example/simple/"), "mirror.json")
    assert "index.example" in str(caught.value) and SECRET not in str(caught.value)


def test_a_traceback_is_logged_without_them(capsys: pytest.CaptureFixture[str]) -> None:
    log.set_up(verbose=False)
    try:
        raise ValueError(f"https://me:{SECRET}@index.example/")
    except ValueError:
        logging.getLogger("any").exception("it failed")
    said = capsys.readouterr().err
    assert "index.example" in said and SECRET not in said
