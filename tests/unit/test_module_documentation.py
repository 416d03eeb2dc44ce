"""Our modules as Ansible documents and runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
MODULES = ("ask_index", "host_generation", "host_preflight", "host_status", "sign_lists", "upstream_probe")


def documentation(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "library" / f"{name}.yml").read_text())
    return found


def options(documented: dict[str, Any]) -> dict[str, Any]:
    """An argument specification, as the documentation tells it."""
    spec = {}
    for name, option in documented.items():
        spec[name] = {
            key: option[key]
            for key in ("type", "elements", "required", "default", "choices")
            if key in option
        }
        if "suboptions" in option:
            spec[name]["options"] = options(option["suboptions"])
    return spec


@pytest.mark.parametrize("name", MODULES)
def test_documentation_names_the_very_options(name: str) -> None:
    documented = documentation(name)["DOCUMENTATION"]
    assert documented["module"] == name
    assert options(documented["options"]) == import_module(name).ARGUMENTS


@pytest.mark.parametrize("name", MODULES)
def test_examples_use_known_options(name: str) -> None:
    for task in yaml.safe_load(documentation(name)["EXAMPLES"]):
        assert set(task[name]) <= set(import_module(name).ARGUMENTS)


def run(name: str, arguments: dict[str, Any], **internal: Any) -> dict[str, Any]:
    """The module's result, run as Ansible does on a host."""
    done = subprocess.run(
        [sys.executable, ROOT / "library" / f"{name}.py"],
        input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments | internal}),
        capture_output=True,
        text=True,
        check=False,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    assert found.get("failed", False) == (done.returncode != 0)
    return found


def test_ansible_finds_and_runs_them(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            Path(sys.executable).parent / "ansible",
            "localhost",
            "--check",
            "-m",
            "host_preflight",
            "-a",
            "ports=1",
        ],
        cwd=tmp_path,
        env={**os.environ, "ANSIBLE_LIBRARY": str(ROOT / "library"), "ANSIBLE_LOCAL_TEMP": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert '"changed": false' in done.stdout, done.stdout + done.stderr
    assert '"problems": [' in done.stdout


def test_host_preflight_in_check_mode() -> None:
    found = run("host_preflight", {}, _ansible_check_mode=True)
    assert not found["changed"]
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))


def test_upstream_probe_in_check_mode() -> None:
    found = run(
        "upstream_probe", {"index_url": "https://no-such-name.invalid/simple/"}, _ansible_check_mode=True
    )
    assert not found["reachable"]
    assert found["problems"][0]["problem"] == "the name no-such-name.invalid does not resolve"


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("upstream_probe", {"probe_project": "../six"}, "probe_project is '../six'"),
        ("upstream_probe", {"mode": "rsync"}, "value of mode must be one of"),
        ("host_preflight", {"disk": [{"path": "srv", "bytes": 1}]}, "disk path 'srv' is not absolute"),
        ("host_preflight", {"ports": ["http"]}, "ports"),
    ],
)  # fmt: skip
def test_wrong_arguments_fail_with_words(
    name: str, arguments: dict[str, Any], said: str, tmp_path: Path
) -> None:
    found = run(name, arguments)
    assert found.get("failed")
    assert said in found["msg"]
