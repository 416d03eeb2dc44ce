"""What the fleet's programs note for their next run: one spoilt or newer note costs its mirror a look anew, no run."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from monitor_sandbox import Sandbox
from site_material import Site

from mirrorfleet.common.files import temporary_for

Spoil = Callable[[bytes], bytes]


def other_types(value: Any) -> Any:
    """The same keys, and at each something else than was there."""
    if isinstance(value, dict):
        return {key: other_types(one) for key, one in value.items()}
    return ["x"] if isinstance(value, str | int | float | None) else {"x": 1}


def numbers(text: str) -> Spoil:
    """Each number is another that JSON has no or no sensible word for."""

    def spoil(data: bytes) -> bytes:
        marked = json.dumps(_marked(json.loads(data)))
        return marked.replace('"a number"', text).encode()

    return spoil


def _marked(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _marked(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_marked(one) for one in value]
    return "a number" if isinstance(value, int | float) and not isinstance(value, bool) else value


SPOILT: dict[str, Spoil] = {
    "truncated": lambda data: data[: len(data) // 2],
    "empty": lambda _: b"",
    "no text": lambda _: b"\xff\xfe\x00",
    "another program's": lambda _: b'{"a": {"b": [1]}}',
    "a list": lambda data: b"[" + data + b"]",
    "nothing": lambda _: b"null",
    "other types": lambda data: json.dumps(other_types(json.loads(data))).encode(),
    "nested too deep": lambda _: b"[" * 100_000,
    "NaN": numbers("NaN"),
    "infinite": numbers("1e400"),
    "a number too large": numbers("9" * 400),
    "negative": numbers("-7"),
}
# Spoilt as files only.
HUGE = "huge"
FILES = [*SPOILT, HUGE, "a directory", "a link to nothing"]


def newer(data: bytes) -> bytes:
    return json.dumps({**json.loads(data), "told_by_a_newer_version": {"x": [1]}}).encode()


def spoil_file(path: Path, harm: str) -> None:
    data = path.read_bytes()
    path.unlink()
    if harm == HUGE:
        with path.open("wb") as stream:
            stream.write(data)
            stream.truncate(1 << 30)
    elif harm == "a directory":
        path.mkdir()
        (path / "file").touch()
    elif harm == "a link to nothing":
        path.symlink_to("nothing")
    else:
        path.write_bytes(SPOILT[harm](data))


@pytest.fixture
def sandbox(tmp_path: Path, serve: Any, authority: Any) -> Sandbox:
    """Two mirrors, each with a round and an audit behind it."""
    made = Sandbox(tmp_path, serve, authority, "one", "two")
    made.config |= {"metrics": str(tmp_path / "metrics"), "timeout": 30, "budget": 60}
    assert made.probe() == 0
    assert made.audit() == 0
    return made


def audited(sandbox: Sandbox, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Who was due, and passed."""
    capsys.readouterr()
    assert sandbox.audit("--due") == 0
    return sorted(json.loads(capsys.readouterr().out.splitlines()[-1])["verdicts"])


def json_of(path: Path) -> Any:
    def refuse(text: str) -> None:
        raise AssertionError(text)

    return json.loads(path.read_bytes(), parse_constant=refuse)


def test_a_spoilt_report_costs_its_mirror_an_audit(
    sandbox: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    report = sandbox.folder / "state/audits/one.json"
    for harm in (*FILES, "of another mirror"):
        if harm == "of another mirror":
            shutil.copy(report.with_name("two.json"), report)
        else:
            spoil_file(report, harm)
        capsys.readouterr()
        assert sandbox.probe() == 0, harm
        assert "audit" not in sandbox.one("one"), harm
        assert sandbox.one("two")["audit"]["verdict"] == "passed", harm
        assert f"audit report: {report}: " in capsys.readouterr().err, harm
        assert audited(sandbox, capsys) == ["one"], harm
        assert sandbox.report("one")["verdict"] == "passed", harm
    assert sandbox.probe() == 0
    assert sandbox.one("one")["audit"]["verdict"] == "passed"


def test_a_directory_in_the_place_of_a_report_for_people_costs_nothing(sandbox: Sandbox) -> None:
    page = sandbox.folder / "state/audits/one.html"
    spoil_file(page, "a directory")
    assert sandbox.audit() == 0
    assert b"passed" in page.read_bytes()


def test_a_report_of_a_newer_version_is_read(sandbox: Sandbox, capsys: pytest.CaptureFixture[str]) -> None:
    report = sandbox.folder / "state/audits/one.json"
    report.write_bytes(newer(report.read_bytes()))
    assert sandbox.probe() == 0
    assert sandbox.one("one")["audit"]["verdict"] == "passed"
    assert audited(sandbox, capsys) == []


def test_an_audit_that_fails_by_itself_is_that_mirrors_alone(
    sandbox: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    temporary_for(sandbox.folder / "state/audits/one.json").mkdir()
    capsys.readouterr()
    assert sandbox.audit() == 1
    out, err = capsys.readouterr()
    assert json.loads(out.splitlines()[-1])["verdicts"] == {"one": "inconclusive", "two": "passed"}
    assert "one: the audit itself failed" in err


def change_row(sandbox: Sandbox, change: Spoil) -> None:
    with contextlib.closing(sqlite3.connect(sandbox.folder / "state/probe.sqlite")) as database, database:
        ((text,),) = database.execute("SELECT document FROM track WHERE name = 'one'").fetchall()
        changed = change(text.encode())
        database.execute("UPDATE track SET document = CAST(? AS TEXT) WHERE name = 'one'", (changed,))


def test_a_spoilt_track_costs_its_mirror_its_history(
    sandbox: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audited(sandbox, capsys) == []
    for rounds, (harm, spoil) in enumerate(SPOILT.items(), 2):
        change_row(sandbox, spoil)
        capsys.readouterr()
        assert sandbox.probe() == 0, harm
        json_of(sandbox.folder / "health.json")
        assert "probe.sqlite: track of one" in capsys.readouterr().err, harm
        assert (sandbox.one("one")["good"], sandbox.one("two")["good"]) == (1, rounds), harm
    change_row(sandbox, SPOILT["other types"])
    assert audited(sandbox, capsys) == []
    assert sandbox.probe() == 0
    assert sandbox.probe() == 0
    assert sandbox.one("one")["good"] == 2


def test_a_track_of_a_newer_version_is_read(sandbox: Sandbox) -> None:
    change_row(sandbox, newer)
    assert sandbox.probe() == 0
    assert sandbox.one("one")["good"] == 2


def test_a_spoilt_file_of_tracks_is_set_aside(sandbox: Sandbox, capsys: pytest.CaptureFixture[str]) -> None:
    database = sandbox.folder / "state/probe.sqlite"
    for harm in ("truncated", "no text", "a directory", "a directory"):
        spoil_file(database, harm)
        assert audited(sandbox, capsys) == [], harm
        capsys.readouterr()
        assert sandbox.probe() == 0, harm
        assert "is corrupt and set aside" in capsys.readouterr().err, harm
        assert database.with_name("probe.sqlite.corrupt").exists(), harm
        assert sandbox.one("one")["good"] == 1, harm
        told = (sandbox.folder / "metrics").read_text()
        assert "mirrorfleet_monitor_state_set_aside_timestamp_seconds " in told, harm
        assert sandbox.probe() == 0, harm
        assert sandbox.one("one")["good"] == 2, harm


def test_what_is_known_of_the_trusted_index_may_be_spoilt(
    sandbox: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    known = sandbox.folder / "state/trusted.json"
    for harm in FILES:
        spoil_file(known, harm)
        capsys.readouterr()
        assert sandbox.audit("one") == 0, harm
        told = capsys.readouterr().err
        assert harm == "negative" or f"{known}: cannot be used" in told, harm
        assert json_of(known), harm
    assert sandbox.audit("one") == 0
    assert "cannot be used" not in capsys.readouterr().err


# --- the redirector's ---


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = Site(tmp_path, "one", "two", "three")
    assert made.publish() == 0
    return made


@pytest.mark.parametrize("harm", FILES)
def test_a_spoilt_memory_of_the_list_costs_no_mirror_its_place(
    site: Site, harm: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil_file(site.folder / "state.json", harm)
    assert site.publish() == 0
    assert f"{site.folder}/state.json: " in capsys.readouterr().err
    assert site.listed == {"one": True, "two": True, "three": True}
    json_of(site.documents / "mirrors.json")
    assert site.publish() == 0
    assert "state.json" not in capsys.readouterr().err


@pytest.mark.parametrize("harm", ["another program's", "a list", "nothing", "other types", "negative"])
@pytest.mark.parametrize("table", ["standings", "letters", "firsts", "history"])
def test_a_spoilt_row_of_it_costs_that_mirror_what_was_noted(
    site: Site, table: str, harm: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody leaves the list for it, and what was noted of the others stays."""
    site.listed_for(days=40)
    path = site.folder / "state.json"
    state = json.loads(path.read_text())
    state["firsts"] = {name: {"day": 1, "rounds": 2, "good": 2, "share": 1.0} for name in site.names}
    state[table]["one"] = json.loads(SPOILT[harm](json.dumps(state[table]["one"]).encode()))
    path.write_text(json.dumps(state))
    assert site.publish() == 0
    json_of(site.documents / "mirrors.json")
    assert site.listed == {"one": True, "two": True, "three": True}
    capsys.readouterr()
    assert site.publish() == 0
    assert "state.json" not in capsys.readouterr().err
    now = json.loads(path.read_text())
    for name in ("two", "three"):
        assert now["standings"][name] == state["standings"][name]
        assert (now["letters"][name], now["history"][name]) == (
            state["letters"][name],
            state["history"][name],
        )


def test_a_memory_of_a_newer_version_is_read(site: Site) -> None:
    path = site.folder / "state.json"
    site.listed_for(days=40)
    state = json.loads(path.read_text())
    for table in ("standings", "firsts"):
        state[table] = {name: {**one, "newer": [1]} for name, one in state[table].items()}
    path.write_bytes(newer(json.dumps(state | {"schema": 2}).encode()))
    assert site.publish() == 0
    assert json.loads(path.read_text())["standings"]["one"]["joined"] == state["standings"]["one"]["joined"]


@pytest.mark.parametrize("harm", ["a directory", "no text", HUGE])
def test_a_hold_that_cannot_be_read_holds(site: Site, harm: str) -> None:
    hold = site.folder / "holds" / "one"
    hold.write_text("updated")
    spoil_file(hold, harm)
    assert site.publish() == 0
    assert site.listed == {"one": False, "two": True, "three": True}
