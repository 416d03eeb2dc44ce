"""The metrics file: valid exposition text, true values, hostile names inert."""

import re
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirrorfleet.common.config import parse
from mirrorfleet.common.exposition import render
from mirrorfleet.common.reasons import Reason
from mirrorfleet.served import metrics
from mirrorfleet.served.state import Published, State

_SAMPLE = re.compile(r'([a-z_]+)(?:\{((?:[a-z]+="(?:[^"\\\n]|\\.)*",?)*)\})? (\S+)')


def split(text: str) -> tuple[str, str, str]:
    match = _SAMPLE.fullmatch(text)
    assert match or text.startswith(("# HELP ", "# TYPE ")), text
    return (match[1], match[2], match[3]) if match else ("", "", "")


def unescape(value: str) -> str:
    return re.sub(r"\\(.)", lambda m: "\n" if m[1] == "n" else m[1], value)


@given(
    st.dictionaries(st.sampled_from(["name", "mode", "path"]), st.text()),
    st.floats(allow_nan=False, allow_infinity=False),
)
def test_a_sample_is_read_back(labels: dict[str, str], value: float) -> None:
    text = render([("mirrorfleet_x", "Help.", [(labels, value)])]).decode()
    head, kind, sample = text.split("\n", 2)
    assert (head, kind) == ("# HELP mirrorfleet_x Help.", "# TYPE mirrorfleet_x gauge")
    match = _SAMPLE.fullmatch(sample.removesuffix("\n"))
    assert match
    assert float(match[3]) == value
    pairs = re.findall(r'([a-z]+)="((?:[^"\\\n]|\\.)*)"', match[2] or "")
    assert {key: unescape(text) for key, text in pairs} == labels


def nobody(_: Any) -> tuple[int, dict[str, str], bytes]:
    return 404, {}, b""


def test_the_file_says_what_the_state_says(tmp_path: Path, serve: Any, authority: Any) -> None:
    port = serve(nobody, authority.issue("mirror1.fleet.test", days=1))
    config = parse(
        {
            "name": 'mirror "1"',
            "mode": "cache",
            "url": f"https://mirror1.fleet.test:{port}",
            "paths": {
                "fetched": str(tmp_path),
                "served": str(tmp_path / "absent"),
                "state": str(tmp_path / "state"),
                "metrics": str(tmp_path / "mirrorfleet.prom"),
                "certificate": "/etc/mirrorfleet/tls/fullchain.pem",
            },
        },
        "mirror.json",
    )
    with State(config.database) as state:
        state.set_project("six", Published("id", 7, "s-7-0"), 3, 1000)
        state.put("serial", 7)
        state.put("last_success_at", 1000.5)
        for tries in range(3):
            state.record_trouble("bad", Reason("words", "wrong hash"), tries)
        state.record_trouble("new", Reason("words", "timeout"), 0)
        metrics.write(config, state)
        text = (tmp_path / "mirrorfleet.prom").read_text()
    values = {name: float(value) for name, _, value in map(split, text.splitlines()) if name}
    assert values["mirrorfleet_serial"] == 7
    assert values["mirrorfleet_projects"] == 1
    assert values["mirrorfleet_files"] == 3
    assert values["mirrorfleet_bytes"] == 1000
    assert values["mirrorfleet_last_success_timestamp_seconds"] == 1000.5
    assert 'mirrorfleet_stuck_projects{reason="wrong hash"} 1\n' in text
    assert 'mirrorfleet_late_projects{reason="timeout"} 1\n' in text
    assert 'mirrorfleet_failing_timestamp_seconds{project="new",reason="timeout"} ' in text
    assert values["mirrorfleet_free_bytes"] > 0
    expiry = values["mirrorfleet_certificate_expiry_timestamp_seconds"]
    assert abs(expiry - (time.time() + 86400)) < 3600
    assert 'name="mirror \\"1\\""' in text
    assert "mirrorfleet_upstream_serial" not in text  # unknown is left out, not zero


def test_the_certificates_end_is_that_of_what_is_served(serve: Any, authority: Any) -> None:
    """To who comes by either family, whoever trusts it, an ended one too."""
    for host, days in (("127.0.0.1", 3.0), ("::1", 5.0), ("127.0.0.1", -2.0)):
        port = serve(nobody, authority.issue("mirror1.fleet.test", days=days), host)
        expiry = metrics.certificate_expiry(f"https://mirror1.fleet.test:{port}")
        assert expiry is not None
        assert abs(expiry - (time.time() + days * 86400)) < 3600


def test_a_server_that_shows_no_certificate_is_logged_and_left_out(
    serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    for one in (port, serve(nobody)):
        caplog.clear()
        assert metrics.certificate_expiry(f"https://mirror1.fleet.test:{one}", ("127.0.0.1",)) is None
        assert "served for mirror1.fleet.test cannot be seen: 127.0.0.1: " in caplog.text
