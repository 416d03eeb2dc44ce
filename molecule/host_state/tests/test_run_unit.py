"""run_unit on real hosts: a oneshot unit's log on the coordinator's screen while it runs, and what it came to."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[3]

UNIT = """[Service]
Type=oneshot
ExecStart=/bin/sh -c "%s"
"""
# For a file, a minute at most.
WAIT = "timeout 60 sh -c 'until [ -e /run/told ]; do sleep 0.2; done'"
UNITS = {
    "told.service": f"echo one; {WAIT}; echo two",
    "failing.service": "echo reading; echo cannot go on; exit 3",
    "slow.service": "echo begun; sleep 600",
    "silent.service": "sleep 13",
}


@pytest.fixture(autouse=True)
def units(host):
    for name, script in UNITS.items():
        host.check_output("printf '%%s' %s >/run/systemd/system/%s", UNIT % script, name)
    host.check_output("systemctl daemon-reload")
    yield
    names = " ".join(UNITS)
    host.check_output(
        f"rm -f /run/told; systemctl stop {names}; systemctl reset-failed; cd /run/systemd/system && rm {names}"
    )


@pytest.fixture
def run(host, scenario):
    def command(*arguments, **options):
        name = host.backend.host
        return subprocess.Popen(
            [sys.executable, "-m", "ansible", "adhoc", "-i", HOUSE / "molecule/inventory.py", name, "-m", "run_unit",
             "-a", json.dumps(options), *arguments],
            cwd=HOUSE, env=scenario.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    return command


def test_its_log_is_shown_while_it_runs(host, run):
    # What an earlier run said is not told again.
    host.check_output("touch /run/told; systemctl start told.service; rm /run/told")
    playing, said = run(unit="told.service"), []
    for line in playing.stdout:
        said.append(line)
        if line == f"    {host.backend.host}: one\n":
            assert host.run("systemctl is-active told.service").stdout.strip() == "activating"
            host.check_output("touch /run/told")
            break
    rest = playing.communicate(timeout=60)[0]
    assert playing.returncode == 0, "".join(said)
    assert rest.count(": two\n") == 1, "".join(said)
    assert f"{host.backend.host}: one" not in rest


def test_one_that_logs_nothing_is_told_all_the_same(host, run):
    said = run(unit="silent.service").communicate(timeout=120)[0]
    assert f"    {host.backend.host}: silent.service is activating, start (" in said
    assert said.count("is activating") in (2, 3)  # 13 seconds long, each ten


def test_one_that_fails_says_why_and_what_to_do(host, run):
    playing = run(unit="failing.service")
    said = playing.communicate(timeout=60)[0]
    assert playing.returncode != 0
    assert "failing.service failed (exit-code). Its last lines:" in said
    assert "cannot go on" in said
    assert "Mend the cause and run this playbook again" in said


def test_one_that_takes_too_long_goes_on_by_itself(host, run):
    playing = run(unit="slow.service", timeout=3)
    said = playing.communicate(timeout=60)[0]
    assert playing.returncode != 0
    assert "slow.service still runs after 3 s. It goes on by itself" in said
    assert host.run("systemctl is-active slow.service").stdout.strip() == "activating"


def test_check_mode_runs_nothing(host, run):
    playing = run("--check", unit="failing.service")
    assert "CHANGED" in playing.communicate(timeout=60)[0]
    assert host.run("systemctl is-failed failing.service").rc != 0


def test_what_is_no_service_is_refused(run):
    playing = run(unit="told.timer")
    assert "'told.timer' is no service; name one with its suffix" in playing.communicate(timeout=60)[0]
    assert playing.returncode != 0
