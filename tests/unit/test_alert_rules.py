"""The alert rules fire on what they are about, and each of their thresholds, waits and labels is held by a test."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests/unit/alert_rules_test.yml"
RULES = ROOT / "roles/monitoring_server/files/mirrorfleet.rules.yml"
ALERTS = [
    rule
    for group in yaml.safe_load(RULES.read_text())["groups"]
    for rule in group["rules"]
    if "alert" in rule
]
OPPOSITE = {">": "<=", "<": ">=", ">=": "<", "<=": ">", "==": "!=", "!=": "=="}
COMPARED = re.compile(r" (>=|<=|==|!=|>|<) (?:(\d+(?:\.\d+)?)\b)?")


def promtool(tests: Path) -> tuple[int, str]:
    command = [ROOT / "build/promtool", "test", "rules", tests]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_the_alert_rules_fire_on_what_they_are_about() -> None:
    code, said = promtool(TESTS)
    assert code == 0, said


def mutants(rule: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """What is another rule, and what it differs in."""
    expr = rule["expr"]
    for found in COMPARED.finditer(expr):
        sign, number = found.groups()
        others = [OPPOSITE[sign]] + ([">"] if sign == ">=" else [])
        changes = {f" {other} {number or ''}" for other in others}
        if number:
            values = (
                {0.5, 2.0} if sign in ("==", "!=") else {float(number) / 2 or 1.0, float(number) * 2 or 1.0}
            )
            changes |= {f" {sign} {value}" for value in values}
        for change in sorted(changes):
            mutated = expr[: found.start()] + change + expr[found.end() :]
            yield f"{expr[found.start() - 20 : found.end()]} is now{change}", rule | {"expr": mutated}
    if "for" in rule:
        number, unit = int(rule["for"][:-1]), rule["for"][-1]
        yield "without its wait", {key: value for key, value in rule.items() if key != "for"}
        yield "waits twice as long", rule | {"for": f"{2 * number}{unit}"}
    else:
        yield "waits an hour", rule | {"for": "1h"}
    for key, value in rule["labels"].items():
        yield f"without {key}", rule | {"labels": {k: v for k, v in rule["labels"].items() if k != key}}
        other = "operator" if value == "coordinator" else "coordinator"
        yield f"{key} is now {other}", rule | {"labels": rule["labels"] | {key: other}}


def asked(test: dict[str, Any], alert: str, name: str) -> dict[str, list[Any]]:
    """What a test asks of an alert, asked of a rule that has another name; what mails say is not asked."""
    checks = [
        check
        | {
            "alertname": name,
            "exp_alerts": [{"exp_labels": one["exp_labels"]} for one in check["exp_alerts"]],
        }
        for check in test.get("alert_rule_test", [])
        if check["alertname"] == alert
    ]
    of_it = f'alertname="{alert}"'
    shown = json.dumps([check for check in test.get("promql_expr_test", []) if of_it in check["expr"]])
    shown = shown.replace(json.dumps(of_it)[1:-1], json.dumps(f'alertname="{name}"')[1:-1])
    return {"alert_rule_test": checks, "promql_expr_test": json.loads(shown)}


def test_each_threshold_wait_and_label_of_a_rule_is_held_by_a_test(tmp_path: Path) -> None:
    """Rules that differ in one of these are found wrong; all that a test is about at once, each by its name."""
    alive, forms = {}, dict[str, list[tuple[str, dict[str, Any]]]]()
    for rule in ALERTS:
        bare = {key: value for key, value in rule.items() if key != "annotations"}
        forms[rule["alert"]] = [(rule["alert"], bare)]
        for number, (what, other) in enumerate(mutants(bare)):
            name = f"{rule['alert']}_{number}"
            forms[rule["alert"]].append((name, other | {"alert": name}))
            alive[name] = what
    assert len(alive) > 7 * len(ALERTS)
    document = yaml.safe_load(TESTS.read_text())
    for test in document["tests"]:
        rules, checks = list[Any](), dict[str, list[Any]]()
        for alert, found in forms.items():
            for name, rule in found:
                of_it = asked(test, alert, name)
                rules += [rule] if any(of_it.values()) else []
                checks = {key: checks.get(key, []) + values for key, values in of_it.items()}
        path = tmp_path / "tests.yml"
        path.write_text(json.dumps(document | {"rule_files": ["rules.yml"], "tests": [test | checks]}))
        path.with_name("rules.yml").write_text(json.dumps({"groups": [{"name": "forms", "rules": rules}]}))
        said = promtool(path)[1]
        red = {name for both in re.findall(r'alertname: (\w+)|alertname=\\?"(\w+)', said) for name in both}
        assert red & forms.keys() == set(), f"{test['name']}: {said}"
        alive = {name: what for name, what in alive.items() if name not in red}
    assert alive == {}
