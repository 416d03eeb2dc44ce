"""Gates ask a mirror by a pip and a uv that nothing of the host's own reaches: configuration, proxies, authorities."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import filter_loader
from ansible.template import Templar, trust_as_template

HOUSE = Path(__file__).parents[2]
NAME = "gated-1.0-py3-none-any.whl"
NOWHERE = "http://127.0.0.1:9"


def wheel() -> bytes:
    made, info = io.BytesIO(), "gated-1.0.dist-info"
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("gated.py", "")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: gated\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(
            f"{info}/RECORD", f"gated.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n"
        )
    return made.getvalue()


def command(playbook: str, task: str, url: str, elsewhere: dict[str, str]) -> str:
    """The task's own text, as Ansible would run it, with what lies elsewhere on this machine."""
    found = yaml.safe_load((HOUSE / "playbooks" / playbook).read_text())
    tasks = found[0].get("tasks", found)
    (shell,) = [one["ansible.builtin.shell"] for one in tasks if one["name"].startswith(task)]
    variables = {
        "fleet_inputs": {"urls": [url]},
        "item": f"{url}/simple/",
        "fleet_gate_project": "gated",
    }
    filter_loader.add_directory(str(HOUSE / "filter_plugins"))
    text = str(Templar(loader=DataLoader(), variables=variables).template(trust_as_template(str(shell))))
    for there, here in elsewhere.items():
        assert there in text
        text = text.replace(there, here)
    return text


TASKS = {"gate": ("tasks/pip.yml", "By a real pip"), "demo": ("demo.yml", "By pip and by uv")}


@pytest.mark.parametrize("playbook", ["gate", "demo"])
def test_nothing_of_the_hosts_own_reaches_a_gate(
    playbook: str, serve: Any, authority: Any, tmp_path: Path
) -> None:
    made, asked = wheel(), []

    def answer(request: Any) -> tuple[int, dict[str, str], bytes]:
        asked.append(request.path)
        if request.path == "/simple/gated/":
            return 200, {"Content-Type": "text/html"}, f'<a href="/{NAME}">{NAME}</a>'.encode()
        return (200, {}, made) if request.path == f"/{NAME}" else (404, {}, b"")

    url = f"https://localhost:{serve(answer, authority.issue('localhost'))}"
    elsewhere = {
        "/etc/ssl/certs/ca-certificates.crt": str(authority.pem),
        **(
            {
                "runuser --user nobody -- ": "",
                'chown nobody "$folder"; ': "",
                "/opt/mirrorfleet/current/bin/python": sys.executable,
            }
            if playbook == "gate"
            else {"/opt/uv/current/bin/uv": str(Path(sys.executable).with_name("uv"))}
        ),
    }
    text = command(*TASKS[playbook], url, elsewhere)
    (tmp_path / "pip.conf").write_text(f"[global]\nindex-url = {NOWHERE}/simple/\nrequire-hashes = true\n")
    (tmp_path / "no-authority.pem").write_text("")
    (tmp_path / "uv.toml").write_text("offline = true\n")
    hostile = {
        "HOME": str(tmp_path),
        "PATH": os.environ["PATH"],
        "PIP_CONFIG_FILE": str(tmp_path / "pip.conf"),
        "PIP_INDEX_URL": f"{NOWHERE}/simple/",
        "PIP_NO_INDEX": "1",
        "UV_CONFIG_FILE": str(tmp_path / "uv.toml"),
        "UV_INDEX_URL": f"{NOWHERE}/simple/",
        "UV_OFFLINE": "1",
        "PYTHONPATH": str(tmp_path),
        **{
            name: str(tmp_path / "no-authority.pem")
            for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT", "SSL_CERT_FILE")
        },
        **dict.fromkeys(("http_proxy", "https_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"), NOWHERE),
    }
    (tmp_path / "sitecustomize.py").write_text("raise SystemExit('what the host has came along')\n")
    done = subprocess.run(
        ["/bin/sh", "-c", text], env=hostile, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert f"/{NAME}" in asked
    if playbook == "demo":
        assert done.stdout.splitlines() == ["pip: 1.0", "uv: 1.0"]
