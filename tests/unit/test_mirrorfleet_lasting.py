"""Verbs that go on: one process, as systemd starts it, told by what it depends on."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mirrorfleet.common.guards import only_one

ROOT = Path(__file__).resolve().parents[2]
DEADLINE = 30


class Service:
    """`mirrorfleet list --every` over a fleet of one mirror, and who listens as systemd does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.holds = folder / "holds"
        self.holds.mkdir()
        self.registry = folder / "registry.json"
        self.tell("One")
        config = {
            "registry": str(self.registry),
            "documents": str(folder / "documents"),
            "state": str(folder / "state.json"),
            "holds": str(self.holds),
            "health": [str(folder / "health.json")],
        }
        (folder / "documents").mkdir()
        self.config = folder / "list.json"
        self.config.write_text(json.dumps(config))
        self.listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.listening.bind(str(folder / "notify"))
        self.listening.settimeout(DEADLINE)
        self.process: subprocess.Popen[str] | None = None

    def start(self, every: str = "3600") -> subprocess.Popen[str]:
        self.process = subprocess.Popen(
            # A shell that started the tests in the background has its Ctrl-C ignored, by all that it starts.
            [
                "env",
                "--default-signal=INT",
                sys.executable,
                "-m",
                "mirrorfleet.cli",
                "list",
                "-c",
                self.config,
                "--every",
                every,
            ],
            env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "NOTIFY_SOCKET": str(self.folder / "notify")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        return self.process

    def tell(self, name: str) -> None:
        fleet = {
            "name": name,
            "coordinator": {"name": "C", "email": "c@fleet.test"},
            "agreement_version": "1",
            "staleness_limit": 86400,
        }
        made = self.registry.with_suffix(".new")
        made.write_text(json.dumps({"schema": 1, "fleet": fleet, "origins": [], "mirrors": []}))
        made.replace(self.registry)

    def ran(self) -> None:
        """Waits for a run's end, as systemd hears of it."""
        assert self.listening.recv(100) == b"READY=1\nWATCHDOG=1"

    def rests(self) -> bool:
        self.listening.settimeout(1.5)
        with contextlib.suppress(TimeoutError):
            self.listening.recv(100)
            return False
        self.listening.settimeout(DEADLINE)
        return True

    def published(self) -> Any:
        return json.loads((self.folder / "documents/mirrors.json").read_text())["fleet"]

    def ends(self) -> tuple[int, str]:
        assert self.process
        _, said = self.process.communicate(timeout=DEADLINE)
        return self.process.returncode, said


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    found = Service(tmp_path)
    yield found
    if found.process and found.process.poll() is None:
        found.process.kill()
        found.process.wait()
    found.listening.close()


def test_it_works_at_once_when_what_it_depends_on_changes_and_rests_else(service: Service) -> None:
    service.start()
    service.ran()
    assert service.published() == "One"
    assert service.rests()
    service.tell("Two")
    service.ran()
    assert service.published() == "Two"
    (service.holds / "mirror").write_text("reason")
    service.ran()
    (service.holds / "mirror").unlink()
    service.ran()
    assert service.rests()


def test_it_works_again_and_again_and_outlives_a_run_that_fails(service: Service) -> None:
    kept = service.registry.read_text()
    service.registry.write_text("{")
    service.start("0.2")
    for _ in range(3):
        service.ran()
    assert not (service.folder / "documents/mirrors.json").exists()
    service.registry.write_text(kept)
    deadline = time.monotonic() + DEADLINE
    while not (service.folder / "documents/mirrors.json").exists():
        assert time.monotonic() < deadline
        service.ran()
    assert service.process and service.process.poll() is None


def test_a_run_that_waited_for_another_goes_by_what_is_configured_then(service: Service) -> None:
    with only_one(service.folder / "state.lock"):
        service.start()
        deadline = time.monotonic() + DEADLINE
        while not waits(service):
            assert time.monotonic() < deadline
            time.sleep(0.05)  # another process' open files are looked at; nothing tells of them
        config = json.loads(service.config.read_text())
        service.config.write_text(json.dumps(config | {"index_url": "https://new.example.test"}))
    service.ran()
    assert "https://new.example.test" in (service.folder / "documents/pip.conf").read_text()


def waits(service: Service) -> bool:
    """For the lock, which it has opened."""
    assert service.process
    handles = Path(f"/proc/{service.process.pid}/fd")
    with contextlib.suppress(FileNotFoundError):  # one that was closed meanwhile
        return any(str(one.readlink()).endswith("state.lock") for one in handles.iterdir())
    return False


def test_it_ends_when_it_is_told(service: Service) -> None:
    process = service.start()
    service.ran()
    process.send_signal(signal.SIGTERM)
    assert service.ends()[0] == 128 + signal.SIGTERM
    process = service.start()
    service.ran()
    process.send_signal(signal.SIGINT)
    assert service.ends()[0] == 1


def test_a_configuration_that_is_wrong_is_told_and_ends_it(service: Service) -> None:
    service.config.write_text('{"registry": 1}')
    service.start()
    code, said = service.ends()
    assert code == 2
    assert "list.json" in said


@pytest.mark.parametrize("every", ["0", "-1", "nan", "soon"])
def test_an_interval_that_is_none_is_refused(service: Service, every: str) -> None:
    service.start(every)
    code, said = service.ends()
    assert code == 2
    assert "--every" in said
