"""What goes on with what an update of the system has replaced: asked of real processes by the task's own words."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

TASKS = Path(__file__).parents[2] / "playbooks/tasks/system.yml"
LIBRARY = next(Path("/usr/lib").glob("*/libz.so.1"))  # as every Debian has it
RUNS = "import ctypes, sys; ctypes.CDLL(sys.argv[1]); print(flush=True); sys.stdin.read()"


@pytest.mark.parametrize("replaced", [True, False])
def test_an_nginx_whose_libraries_were_replaced_is_to_start_anew(tmp_path: Path, replaced: bool) -> None:
    (asks,) = (
        one["ansible.builtin.shell"]
        for one in yaml.safe_load(TASKS.read_text())
        if "ansible.builtin.shell" in one
    )
    library, pid = tmp_path / "libpcre2-8.so.0", tmp_path / "nginx.pid"
    shutil.copy(LIBRARY, library)
    # This machine may be due for a reboot itself, and may have needrestart.
    asks = asks.replace("/run/nginx.pid", str(pid)).replace("/run/reboot-required", str(tmp_path / "reboot"))
    asks = asks.replace("needrestart", "no-needrestart")
    with subprocess.Popen(
        [sys.executable, "-c", RUNS, library], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as nginx:
        assert nginx.stdin and nginx.stdout and nginx.stdout.readline()
        pid.write_text(f"{nginx.pid}\n")
        if replaced:
            library.unlink()  # as dpkg does, which puts another one there
            shutil.copy(LIBRARY, library)
        said = subprocess.run(["sh", "-c", asks], capture_output=True, text=True, check=True).stdout
        nginx.stdin.close()
    assert said.split() == (["nginx"] if replaced else [])
