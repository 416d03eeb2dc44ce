"""The dashboard for those who run Grafana: each expression is one that Prometheus takes, of metrics that are there."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from monitor_sandbox import Sandbox
from site_material import Site

from mirrorfleet.common.config import Config, Paths
from mirrorfleet.common.reasons import Reason
from mirrorfleet.served import metrics
from mirrorfleet.served.state import State

ROOT = Path(__file__).resolve().parents[2]
FILES = ROOT / "roles/monitoring_server/files"
DASHBOARD = json.loads((FILES / "dashboard.json").read_text())
RULES = yaml.safe_load((FILES / "mirrorfleet.rules.yml").read_text())
# Not ours: of Prometheus itself, the blackbox exporter, Alertmanager and node_exporter. The scenario monitoring_server
# sees that they are there.
OTHERS = {
    "ALERTS", "up", "probe_success", "probe_duration_seconds",
    "alertmanager_notifications_total", "alertmanager_notifications_failed_total",
    "node_filesystem_avail_bytes", "node_filesystem_size_bytes",
    "node_network_transmit_bytes_total", "node_network_receive_bytes_total",
}  # fmt: skip


def expressions() -> Iterator[str]:
    """As Grafana sends them."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", []):
            yield target["expr"].replace("$__rate_interval", "5m").replace("$mirror", "one|two")


def named(expression: str) -> set[str]:
    """The metrics of an expression: words that are neither function, nor label, nor keyword, nor text."""
    text = re.sub(r'"(?:[^"\\]|\\.)*"', "", expression)
    text = re.sub(
        r"\{[^}]*\}|\[[^\]]*\]|\b(?:by|on|ignoring|without|group_left|group_right) *\([^)]*\)", " ", text
    )
    words = re.findall(r"[A-Za-z_:][A-Za-z0-9_:]*\b(?! *\()", text)
    return set(words) - {"and", "or", "unless", "bool", "by", "on", "group_left"}


@pytest.fixture
def known(tmp_path: Path, serve: Any, authority: Any) -> set[str]:
    """What our own programs tell and what is recorded of it."""
    sandbox = Sandbox(tmp_path, serve, authority)
    sandbox.config["metrics"] = str(tmp_path / "probe.prom")
    sandbox.add("one")
    sandbox.add("two", ipv6=False).fault = "wrong byte"
    sandbox.audit()
    sandbox.probe()
    found = (tmp_path / "probe.prom").read_text()
    sandbox.config["reference"]["url"] = "https://index.example.test:1"
    (tmp_path / "state/probe.sqlite").write_bytes(b"no database")
    sandbox.probe()
    found += (tmp_path / "probe.prom").read_text()
    certificate = (ROOT / "roles/tls/files/mirror_certificate/program.py").read_text()
    provided = (ROOT / "roles/tls/files/mirror_certificate/provided.py").read_text()
    routes = (ROOT / "src/mirrorfleet/route/run.py").read_text()
    update = (ROOT / "playbooks/tasks/note_step.yml").read_text()
    names = (ROOT / "roles/host_baseline/files/mirrorfleet_names.py").read_text()
    return (
        set(re.findall(r"^# TYPE (\w+)", found, re.MULTILINE))
        | _of_a_redirector(tmp_path / "redirector")
        | {f"mirrorfleet_route_{name}" for name in re.findall(r'^ +one\("(\w+)",', routes, re.MULTILINE)}
        | set(re.findall(r'metric = "(mirrorfleet_name_\w+)"', names))
        | _of_a_mirror(tmp_path)
        | set(re.findall(r"^ +# TYPE (\w+)", update, re.MULTILINE))
        | {
            f"mirrorfleet_acme_{name}"
            for name in re.findall(r'^    "\w+": \(\s*"(\w+)",', certificate, re.MULTILINE)
        }
        | {
            f"mirrorfleet_provided_{name}"
            for name in re.findall(r'^        "(\w+)": \("', provided, re.MULTILINE)
        }
        | {rule["record"] for group in RULES["groups"] for rule in group["rules"] if "record" in rule}
        | OTHERS
    )


def _of_a_redirector(folder: Path) -> set[str]:
    folder.mkdir()
    site = Site(folder)
    (folder / "holds/one").write_text("being updated from here\n")
    site.config["metrics"] = str(folder / "list.prom")
    assert site.publish() == 0
    return set(re.findall(r"^# TYPE (\w+)", (folder / "list.prom").read_text(), re.MULTILINE))


def _of_a_mirror(folder: Path) -> set[str]:
    for name in ("fetched", "served"):
        (folder / name).mkdir()
    paths = Paths(folder / "fetched", folder / "served", folder / "of-mirror", metrics=folder / "m.prom")
    config = Config(
        schema=1, name="one", mode="bandersnatch", url="https://one.example.test", upstream=None, paths=paths
    )
    with State(config.database) as state:
        state.put("last_run", {"good": True, "ended": 5.0, "seconds": 1.0})
        for name in ("six", "idna", "six", "six"):
            state.record_trouble(name, Reason("another one", "wrong hash"), 0.0)
        state.leave_out("six", {"six-1.0.egg": "its sha256 is none"})
        state.put("last_success_at", 5.0)
        state.put("set_aside_at", 5.0)
        metrics.write(config, state)
    return set(re.findall(r"^# TYPE (\w+)", (folder / "m.prom").read_text(), re.MULTILINE))


def test_prometheus_takes_every_expression(tmp_path: Path) -> None:
    rules = [{"record": f"panel:{number}", "expr": text} for number, text in enumerate(expressions())]
    assert len(rules) > 20
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = subprocess.run(
        [ROOT / "build/promtool", "check", "rules", path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_metric_of_dashboard_and_rules_is_told_by_somebody(known: set[str]) -> None:
    asked = {name: "the dashboard" for text in expressions() for name in named(text)}
    for group in RULES["groups"]:
        for rule in group["rules"]:
            asked |= {name: rule.get("alert", rule.get("record")) for name in named(rule["expr"])}
            # Within queries of annotations.
            told = json.dumps(rule.get("annotations", {}))
            asked |= dict.fromkeys(re.findall(r"\bmirrorfleet_\w+|\bprobe_\w+", told), rule.get("alert", ""))
    assert {name: where for name, where in asked.items() if name not in known} == {}


def test_panels_have_places_of_their_own() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, f"{panel['title']} lies on {taken[x, y]}"
                taken[x, y] = panel["title"]
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
