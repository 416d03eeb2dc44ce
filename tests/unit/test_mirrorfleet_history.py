"""The prober's questions to Prometheus, against a real one with a month of data."""

from __future__ import annotations

import http.server
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from monitor_sandbox import Sandbox

from mirrorfleet.common.schema import schema
from mirrorfleet.monitor import history

ROOT = Path(__file__).resolve().parents[2]
DAY, STEP = 86400, 1200


def series(name: str, labels: str, since: int, until: int, value: Any) -> Iterator[str]:
    for at in range(since, until, STEP):
        yield f"{name}{{{labels}}} {value(at)} {at}\n"


def a_month(now: int) -> str:
    """Of `one`: IPv6 down half of the day three days ago, two hours behind the day before, and `two` is new."""
    today = now // DAY
    first = (today - 32) * DAY + STEP // 2  # so that none is on the border of two days

    def success(at: int) -> int:
        return int(not (at // DAY == today - 3 and at % DAY < DAY // 2))

    lines = ["# TYPE mirrorfleet_probe_success gauge\n"]
    lines += series("mirrorfleet_probe_success", 'mirror="one",family="ipv4"', first, now, lambda _: 1)
    lines += series("mirrorfleet_probe_success", 'mirror="one",family="ipv6"', first, now, success)
    joined = (today - 1) * DAY + STEP // 2
    lines += series("mirrorfleet_probe_success", 'mirror="two",family="ipv4"', joined, now, lambda _: 0)
    lines += ["# TYPE mirrorfleet_probe_lag_seconds gauge\n"]
    lines += series(
        "mirrorfleet_probe_lag_seconds", 'mirror="one"', first, now,
        lambda at: 7200 if at // DAY == today - 4 and at % DAY > DAY // 2 else 0,
    )  # fmt: skip
    lines += ["# TYPE probe_success gauge\n"]
    lines += series(
        "probe_success", 'mirror="one",job="mirror"', first, now, lambda at: int(at // DAY != today - 5)
    )
    lines += series("probe_success", 'job="other"', first, now, lambda _: 0)
    return "".join([*lines, "# EOF\n"])


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("prometheus")
    (folder / "month").write_text(a_month(int(time.time())))
    (folder / "prometheus.yml").write_text("scrape_configs: []\n")
    make = [
        ROOT / "build/promtool", "tsdb", "create-blocks-from", "--max-block-duration=744h", "openmetrics",
        folder / "month", folder / "data",
    ]  # fmt: skip
    subprocess.run(make, check=True, capture_output=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [
        ROOT / "build/prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--web.listen-address={address}",
        f"--storage.tsdb.path={folder / 'data'}", "--storage.tsdb.retention.time=90d",
    ]  # fmt: skip
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as server:
        try:
            _wait_until_ready(f"http://{address}", folder / "log")
            yield f"http://{address}"
        finally:
            server.terminate()


def _wait_until_ready(url: str, log: Path) -> None:
    for _ in range(300):
        try:
            with urllib.request.urlopen(f"{url}/-/ready", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise AssertionError(log.read_text())


def test_a_month_of_days(prometheus: str) -> None:
    now = int(time.time())
    days = range(now // DAY - 29, now // DAY + 1)
    found = history.ask(prometheus, 30, now, 10)
    one = found.row("available", "one", days)
    assert len(one) == 30
    assert one[-4] == pytest.approx(0.5, abs=0.01)
    assert [value for at, value in enumerate(one[:29]) if at != 26] == [1.0] * 28
    assert found.row("available", "two", days)[:29] == [None] * 28 + [0.0]
    assert found.row("behind", "one", days)[:29] == [0.0] * 25 + [7200.0] + [0.0] * 3
    assert found.row("behind", "two", days) == [None] * 30
    assert found.row("independent", "one", days)[:29] == [1.0] * 24 + [0.0] + [1.0] * 4
    assert set(found.independent) == {"one"}
    assert history.told(found, "two", days) is None


def test_a_day_so_far_is_told_as_the_last(prometheus: str) -> None:
    """At six, three days ago, half of nothing was good: IPv6 was down until noon."""
    today = int(time.time()) // DAY
    found = history.ask(prometheus, 30, (today - 3) * DAY + DAY // 4, 10)
    assert found.available["one"][today - 3] == 0.0
    assert found.available["one"][today - 4] == 1.0
    assert max(found.available["one"]) == today - 3


@pytest.fixture
def sandbox(tmp_path: Path, serve: Any, authority: Any) -> Sandbox:
    return Sandbox(tmp_path, serve, authority)


def test_the_prober_tells_what_prometheus_remembers(sandbox: Sandbox, prometheus: str) -> None:
    sandbox.add("one")
    sandbox.add("three")
    sandbox.config["prometheus"] = prometheus
    assert sandbox.probe() == 0
    jsonschema.validate(sandbox.health, schema("health"), jsonschema.Draft202012Validator)
    one, three = sandbox.one("one"), sandbox.one("three")
    assert one["days"][-4] == pytest.approx(0.5, abs=0.01)
    assert one["history"]["behind"][-5] == 7200
    assert one["history"]["independent"][-6] == 0
    assert one["days"][-1] == 1.0  # today by its own count
    assert (three["days"][:29], three["days"][29]) == ([None] * 29, 1.0)
    assert "history" not in three


def test_without_prometheus_its_own_counts_stay(sandbox: Sandbox, capsys: pytest.CaptureFixture[str]) -> None:
    sandbox.add("one")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        sandbox.config["prometheus"] = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        assert sandbox.probe() == 0
    assert "Connection refused" in capsys.readouterr().err
    assert sandbox.one()["days"][-1] == 1.0
    assert "history" not in sandbox.one()


@pytest.mark.parametrize(
    ("status", "body", "problem"),
    [
        (200, b"<html>", "not what its API promises"),
        (
            200,
            b'{"data": {"result": [{"values": [[1, "x"]], "metric": {"mirror": "one"}}]}}',
            "not what its API",
        ),
        (200, b'{"data": {"result": [{"values": [[1, "2"]], "metric": {}}]}}', "not what its API promises"),
        (503, b"Service Unavailable", "HTTP 503: Service Unavailable"),
        (422, b'{"error": "query processing would load too many samples"}', "HTTP 422: .*too many samples"),
    ],
)
def test_an_answer_that_is_none_is_told(status: int, body: bytes, problem: str) -> None:
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            with pytest.raises(history.HistoryError, match=problem):
                history.ask(f"http://127.0.0.1:{server.server_port}", 30, int(time.time()), 5)
        finally:
            server.shutdown()


def test_samples_that_are_no_numbers_are_no_samples(prometheus: str, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = "min by (mirror) (0 * avg_over_time(mirrorfleet_probe_success[{span}s]) / 0)"
    monkeypatch.setattr(history, "QUERIES", {"available": nothing})
    assert history.ask(prometheus, 30, int(time.time()), 10).available == {}


@pytest.mark.parametrize(
    "url", ["http://192.0.2.1:9090", "https://127.0.0.1:9090", "http://127.0.0.1:9090/?x", "x"]
)
def test_only_this_host_is_asked(sandbox: Sandbox, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    sandbox.add("one")
    sandbox.config["prometheus"] = url
    assert sandbox.probe() == 2
    assert "prometheus: must be http://127.0.0.1[:PORT][/PATH]" in capsys.readouterr().err
