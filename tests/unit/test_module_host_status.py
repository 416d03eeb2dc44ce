"""What a host says of itself: read from real files, links, processes and certificates; nothing is asked of others."""

from __future__ import annotations

import datetime
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import host_status
import pytest

CERTIFICATE_DAYS = 30


class Host:
    """A host in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.configuration, self.programs = folder, folder / "etc", folder / "opt"
        for path in (self.configuration / "tls", self.programs):
            path.mkdir(parents=True)

    def put(self, path: str, content: Any) -> Path:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content if isinstance(content, str) else json.dumps(content))
        return file

    def runs(self, program: str, version: str) -> None:
        (self.programs / program / version).mkdir(parents=True)
        (self.programs / program / "current").symlink_to(self.programs / program / version)

    def says(self, since: int | None = None, **more: Any) -> dict[str, Any]:
        parameters = {
            "configuration": str(self.configuration),
            "programs": str(self.programs),
            "disk": str(self.folder / "srv/mirror/served"),
            "since": since,
            "access_log": str(self.folder / "access.log"),
        }
        return host_status.result_of(parameters, **more)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_a_bare_host_says_that_it_is_bare(host: Host) -> None:
    found = host.says()
    assert not found["provisioned"] and found["certificate_expires"] is None
    assert not {"mirrorfleet", "bandersnatch"} & found["versions"].keys()
    assert not {"tree", "list", "holds", "health"} & found.keys()
    assert abs(found["at"] - time.time()) < 5
    # Of a path that is not there yet: where it will be.
    assert found["disk"]["path"] == str(host.folder)
    assert 0 < found["disk"]["free"] <= found["disk"]["total"]


def test_a_mirror(host: Host, authority: Any) -> None:
    shutil.copy(
        authority.issue("one.example.org", days=CERTIFICATE_DAYS), host.configuration / "tls/fullchain.pem"
    )
    host.runs("mirrorfleet", "0.1.0")
    host.runs("bandersnatch", "8.2.0")
    served = host.folder / "srv/mirror/served"
    host.put("etc/mirror.json", {"mode": "bandersnatch", "paths": {"served": str(served)}})
    told = {
        "serial": 7,
        "last_success": "2026-11-27T15:00:00Z",
        "set_aside": ["six", "idna"],
        "left_out": {"no sha256": 2, "no name": 1},
        "compared_by_page": 9,
        "refused": "2 of 3 would disappear",
    }
    host.put("srv/mirror/served/mirror.json", told)
    found = host.says()
    assert found["provisioned"]
    assert found["versions"]["mirrorfleet"] == "0.1.0" and found["versions"]["bandersnatch"] == "8.2.0"
    assert found["tree"] == {
        "mode": "bandersnatch",
        "last_sync": 1795791600,
        "serial": 7,
        "set_aside": 2,
        "left_out": 3,
        "compared_by_page": 9,
        "refused": "2 of 3 would disappear",
    }
    assert found["certificate_expires"] == pytest.approx(time.time() + CERTIFICATE_DAYS * 86400, abs=600)


def test_a_redirector(host: Host) -> None:
    entry = {
        "listed": False,
        "code": "held",
        "reason": "held: x",
        "since": 5,
        "next": "",
        "withdrawn": [{"family": "ipv6"}],
        "operator": {"name": "A"},
    }
    documents, state = host.folder / "list", host.put("state.json", "{}")
    metrics = host.put("list.prom", "# TYPE x gauge\nmirrorfleet_list_refused 1\nmirrorfleet_list_kept 0\n")
    host.put("list/mirrors.json", {"mirrors": [{"name": "one"} | entry]})
    host.put("holds/one", "being updated\n")
    host.put("held-by/one", "anna on laptop\n")
    host.put("holds/two", "by hand\n")
    host.put("holds/.three", "a file of an editor")
    config = {"documents": documents, "state": state, "metrics": metrics, "holds": host.folder / "holds"}
    host.put("etc/list.json", {key: str(path) for key, path in config.items()})
    os.utime(host.folder / "holds/one", (9, 9))
    found = host.says()
    assert found["list"]["refused"] and not found["list"]["kept"]
    assert found["list"]["at"] == int(state.stat().st_mtime)
    assert found["list"]["mirrors"] == {"one": {key: one for key, one in entry.items() if key != "operator"}}
    assert found["holds"]["one"] == {"reason": "being updated", "since": 9, "by": "anna on laptop"}
    assert found["holds"].keys() == {"one", "two"} and found["holds"]["two"]["by"] == ""


def test_a_monitor(host: Host) -> None:
    seen = dict.fromkeys(host_status.OF_HEALTH, 1) | {"problem": "connection refused"}
    health = {
        "at": 8,
        "reference": {"problem": "", "serial": 7},
        "mirrors": {"one": seen | {"days": [1.0] * 30}},
    }
    host.put("etc/monitor.json", {"health": str(host.put("health.json", health))})
    assert host.says()["health"] == {"at": 8, "problem": "", "mirrors": {"one": seen}}


def test_what_a_mirror_is_in_the_middle_of_is_told_and_half_of_it_is_an_update_too(host: Host) -> None:
    assert "update" not in host.says()
    noted = {"step": "gate", "since": 9, "by": "ada on laptop", "gated": {"mirrorfleet": "0.1.0"}}
    host.put("etc/update.json", noted)
    assert host.says()["update"] == noted
    for spoilt in ("", "{", "[]"):
        host.put("etc/update.json", spoilt)
        assert host.says()["update"] == {"step": "unknown"}


def test_what_passed_the_gate_before_is_told_and_what_of_it_is_there(host: Host) -> None:
    host.runs("mirrorfleet", "0.1.0")
    noted = {
        "at": 9,
        "update": {},
        "versions": {"mirrorfleet": "0.1.0", "bandersnatch": "8.1.0", "nginx": "1"},
    }
    host.put("etc/former.json", noted)
    assert host.says()["former"] == noted | {"installed": ["mirrorfleet"]}
    for spoilt in ({"versions": {"mirrorfleet": ["../x"], "bandersnatch": ""}}, {"versions": "0.1.0"}):
        host.put("etc/former.json", spoilt)
        assert host.says()["former"] == spoilt | {"installed": []}


@pytest.mark.parametrize("spoilt", ["", "{", "[]", '{"mirrors": 5}', "nul"])
def test_what_is_half_there_is_not_told_and_ends_nothing(host: Host, spoilt: str) -> None:
    """As on a host whose provisioning was stopped, or whose disk was full."""
    paths = {key: str(host.folder / key) for key in ("documents", "state", "holds")}
    host.put("etc/list.json", paths)
    host.put("documents/mirrors.json", spoilt)
    host.put("etc/monitor.json", {"health": str(host.put("health.json", spoilt))})
    host.put("etc/mirror.json", spoilt)
    host.put("etc/tls/fullchain.pem", spoilt)
    found = host.says()
    assert found["list"]["mirrors"] == {} == found["health"]["mirrors"]
    assert found["health"]["at"] is None and found["certificate_expires"] is None


def test_an_nginx_that_was_replaced_below_itself_is_told(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real process whose program's file is gone says which version it is, as nginx does after an upgrade."""
    program = host.folder / "nginx"
    # A program that answers to -v as nginx does, and waits otherwise.
    shutil.copy(shutil.which("bash") or "/bin/bash", program)
    process = subprocess.Popen([program, "-c", "read x"], stdin=subprocess.PIPE)
    said = host_status.said_by

    def answer(*command: str, stream: str = "stdout") -> str:
        if command[0] == "dpkg-query":
            return "1.26.3-3+deb13u2"
        if command[-1] == "-v":
            assert stream == "stderr", "where nginx says it"
            assert said(command[0], "--version").startswith("GNU bash"), (
                "the program itself is run, gone or not"
            )
            return "nginx version: nginx/1.26.2"
        return said(*command)

    proc = host.folder / "proc"
    (proc / str(process.pid)).mkdir(parents=True)
    (proc / f"{process.pid}/comm").write_text("nginx\n")
    (proc / f"{process.pid}/exe").symlink_to(f"/proc/{process.pid}/exe")
    monkeypatch.setattr(host_status, "said_by", answer)
    monkeypatch.setattr(host_status.os, "readlink", lambda path: _really(path, process.pid))
    try:
        assert host.says(proc=proc)["nginx"] == "running"
        program.unlink()
        found = host.says(proc=proc)
        assert found["nginx"] == "runs what 1.26.3-3+deb13u2 was to replace"
        assert found["versions"]["nginx"] == "1.26.2"
    finally:
        process.communicate()
    shutil.rmtree(proc)
    proc.mkdir()
    assert host.says(proc=proc)["nginx"] == "stopped"


_READLINK = os.readlink


def _really(path: Any, process: int) -> str:
    """Of the test's own folder of processes what the kernel's says."""
    return _READLINK(f"/proc/{process}/exe" if str(path).endswith(f"{process}/exe") else path)


def test_a_program_that_never_ends_is_not_waited_for(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_status, "DEADLINE", 0.2)
    began = time.monotonic()
    assert host_status.said_by("sleep", "60") == ""
    assert time.monotonic() - began < 5
    assert host_status.said_by("no-such-program") == ""


def test_a_warning_of_a_program_is_no_answer() -> None:
    assert host_status.said_by("sh", "-c", "echo answer; echo warning >&2") == "answer"
    assert host_status.said_by("sh", "-c", "echo answer; echo warning >&2", stream="stderr") == "warning"
    assert host_status.said_by("sh", "-c", "echo answer; exit 1") == ""


def logged(at: int, status: int, uri: str = "/simple/six/") -> str:
    """As the role nginx has it written."""
    moment = datetime.datetime.fromtimestamp(at, datetime.UTC).isoformat()
    return (
        json.dumps(
            {"time": moment, "method": "GET", "uri": uri, "status": status, "bytes": 7}, separators=(",", ":")
        )
        + "\n"
    )


def test_the_requests_of_a_while_are_counted_and_those_that_failed(host: Host) -> None:
    assert "served" not in host.says()
    assert host.says(since=1000)["served"] == {"requests": 0, "failed": 0}
    host.put("access.log.1", "".join(logged(at, 200) for at in range(900, 1100)))
    # As processes of nginx write them: not quite in order. Words of a client are no status.
    now = [
        logged(1000 + at // 9 + (3 if at % 7 == 0 else 0), 502 if at % 500 == 0 else 200)
        for at in range(9000)
    ]
    host.put("access.log", "".join([*now, logged(2100, 404, '/"status":500,"bytes":'), "half a li"]))
    assert host.says(since=1000)["served"] == {"requests": 9101, "failed": 18}
    late = [json.loads(line) for line in now]
    after = [one for one in late if datetime.datetime.fromisoformat(one["time"]).timestamp() >= 1700]
    failed = sum(one["status"] == 502 for one in after)
    assert host.says(since=1700)["served"] == {"requests": len(after) + 1, "failed": failed}
