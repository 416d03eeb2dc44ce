"""An origin that dumps another index: every shape of upstream, and every way it misbehaves."""

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faults.fleet import Host, Origin, Site

from mirrorfleet.common import guards
from mirrorfleet.fetch import upstream

PROJECTS = ["alpha", "beta", "gamma-delta"]
JSON_TYPE = "application/vnd.pypi.simple.v1+json"


class Dump(Host):
    def __init__(self, root: Path, upstream: str, **selection: Any) -> None:
        super().__init__(
            root, "origin", index_url=f"{upstream}/simple/", selection={"projects": PROJECTS} | selection
        )

    def contents(self, name: str) -> list[tuple[Any, ...]]:
        return [
            (e["filename"], e["size"], e["hashes"], e["yanked"], e["core-metadata"], e.get("upload-time"))
            for e in self.page(name)["files"]
        ]


@pytest.fixture
def dump(tmp_path: Path, site: Site) -> Dump:
    return Dump(tmp_path / "dump", site.url)


def contents(host: Host, name: str) -> list[tuple[Any, ...]]:
    return Dump.contents(host, name)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"^/simple/": {"body": "<!DOCTYPE html><a href=x>x</a>", "type": "text/html"}},
        {"^/pypi/": 404},
    ],
    ids=["both", "legacy document only", "PEP 691 only"],
)
def test_an_index_of_any_shape_is_dumped(
    origin: Origin, site: Site, dump: Dump, shape: dict[str, Any]
) -> None:
    origin.facts("alpha", yanked={"1.0": "because <this>"})
    origin.publish()
    site.faults(shape)
    assert dump.run("sync")["changed"] == 3
    assert dump.names() == PROJECTS
    for name in PROJECTS:
        assert dump.contents(name) == contents(origin, name)
    assert dump.broken() == dump.leftovers() == []
    assert dump.run("sync")["changed"] == 0


def test_an_index_without_any_readable_page_is_refused(site: Site, dump: Dump) -> None:
    site.faults({"^/simple/": {"body": "<html>", "type": "text/html"}, "^/pypi/": 404})
    failed = dump.run("sync", expect=1)["failed"]
    assert sorted(failed) == PROJECTS
    assert "offers neither PEP 691 JSON nor /pypi/alpha/json" in failed["alpha"]


def test_what_changes_upstream_arrives_with_a_serial_of_our_own(
    origin: Origin, site: Site, dump: Dump
) -> None:
    dump.run("sync")
    before = {name: dump.page(name)["meta"]["_last-serial"] for name in PROJECTS}
    origin.release("alpha", "3.0")
    origin.facts("gamma-delta", status="quarantined", reason="malware")
    origin.publish()
    assert dump.run("sync")["changed"] == 2
    after = {name: dump.page(name)["meta"]["_last-serial"] for name in PROJECTS}
    assert after["beta"] == before["beta"]
    assert min(after["alpha"], after["gamma-delta"]) > max(before.values())
    assert dump.page("gamma-delta")["files"] == []
    assert dump.page("gamma-delta")["project-status"] == {"status": "quarantined", "reason": "malware"}
    origin.delete("beta")
    origin.publish()
    dump.run("sync")
    assert dump.names() == ["alpha", "gamma-delta"]
    dump.run("sync", expect=None)
    assert dump.broken() == dump.leftovers() == []


def test_bad_files_fail_their_projects_alone_and_heal(origin: Origin, site: Site, dump: Dump) -> None:
    dump.run("sync")
    for name in PROJECTS:
        origin.release(name, "3.0")
    origin.release("good", "1.0")
    origin.publish()
    dump.configure(selection={"projects": [*PROJECTS, "good"]}, timeout=2)
    site.faults({r"alpha-3.*whl$": "corrupt", r"beta-3.*whl$": "truncate", r"gamma_delta-3.*whl$": "hang"})
    failed = dump.run("sync", expect=1)["failed"]
    assert sorted(failed) == PROJECTS
    assert "sha256" in failed["alpha"]
    assert "imeout" in failed["gamma-delta"]
    for name in PROJECTS:
        assert len(dump.files(name)) == 4
    assert len(dump.files("good")) == 2
    assert dump.reasons() == ({"connection": 1, "timeout": 1, "wrong hash": 1}, {})
    site.faults({"^/packages/": "slow"})
    dump.run("sync")
    for name in PROJECTS:
        assert len(dump.files(name)) == 6
    dump.run("sync")
    assert dump.broken() == dump.leftovers() == []
    assert dump.reasons() == ({}, {})


def test_a_project_that_keeps_failing_is_tried_ever_more_rarely(
    origin: Origin, site: Site, dump: Dump, monkeypatch: pytest.MonkeyPatch
) -> None:
    dump.configure(tries_before_set_aside=2)
    dump.run("sync")
    origin.release("alpha", "3.0")
    origin.publish()
    site.faults({r"alpha-3.*whl$": "corrupt"})
    assert list(dump.run("sync", expect=1)["failed"]) == ["alpha"]
    assert list(dump.run("sync")["failed"]) == ["alpha"]
    assert "set aside after 2 tries" in dump.log and dump.status()["set_aside"] == ["alpha"]
    site.faults({})
    assert dump.run("sync")["changed"] == 0  # its time has not come
    assert len(dump.files("alpha")) == 4 and dump.status()["set_aside"] == ["alpha"]
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 86400.0)
    assert dump.run("sync")["changed"] == 1
    assert dump.status()["set_aside"] == []


def test_what_fails_at_once_is_upstreams_fault_and_tried_in_the_next_run(site: Site, dump: Dump) -> None:
    dump.configure(tries_before_set_aside=1)
    dump.run("sync")
    site.faults({"^/(simple|pypi)/": 503})
    dump.run("sync", expect=1)
    assert dump.reasons() == ({"HTTP error": len(PROJECTS)}, {})
    site.faults({})
    dump.run("sync")
    assert dump.reasons() == ({}, {})


def test_a_file_that_is_absent_is_not_an_absent_project(origin: Origin, site: Site, dump: Dump) -> None:
    dump.run("sync")
    origin.release("alpha", "3.0")
    origin.publish()
    site.faults({r"alpha-3\.0\.tar\.gz$": 404})
    summary = dump.run("sync", expect=1)
    assert list(summary["failed"]) == ["alpha"]
    assert summary["removed"] == 0
    assert len(dump.files("alpha")) == 4


def test_an_upstream_that_forgot_everything_is_refused(site: Site, dump: Dump) -> None:
    dump.run("sync")
    site.faults({"^/(simple|pypi)/": 404})
    dump.run("sync", expect=4)
    assert "3 of 3 projects would disappear" in dump.log
    site.faults({"^/(simple|pypi)/": 503})
    dump.run("sync", expect=1)
    site.faults({"^/(simple|pypi)/": {"redirect": "/simple/alpha/"}})
    dump.run("sync", expect=1)
    assert "TooManyRedirects" in dump.log
    assert dump.names() == PROJECTS
    assert dump.broken() == []


def test_a_disk_without_room_for_the_next_file_ends_the_run_with_one_line(
    origin: Origin, dump: Dump, monkeypatch: pytest.MonkeyPatch
) -> None:
    dump.run("sync")
    for name in PROJECTS:
        origin.release(name, "3.0")
    origin.publish()
    with monkeypatch.context() as patch:
        patch.setattr(guards, "free_bytes", lambda _: dump.document.get("minimum_free_bytes", 1 << 30) + 100)
        dump.run("sync", expect=4)
        (line,) = [line for line in dump.log.splitlines() if "ERROR" in line]
        assert "bytes free, fewer than the" in line and "Traceback" not in dump.log
        assert "bytes free" in dump.status()["refused"]
    dump.run("sync")
    assert all(len(dump.files(name)) == 6 for name in PROJECTS)


def test_a_page_of_any_length_is_not_read_to_its_end(dump: Dump, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "MAX_PAGE", 500)
    assert "longer than 500 bytes" in dump.run("sync", expect=1)["failed"]["alpha"]


def test_the_selection_is_applied(origin: Origin, site: Site, tmp_path: Path) -> None:
    dump = Dump(tmp_path / "newest", site.url, releases_kept=1)
    dump.run("sync")
    assert {entry["filename"] for entry in dump.page("alpha")["files"]} == {
        "alpha-2.0-py3-none-any.whl",
        "alpha-2.0.tar.gz",
    }
    dump.configure(selection={"projects": ["alpha", "beta"], "blocklist": ["beta"], "max_project_size": 10})
    summary = dump.run("sync")
    assert (summary["good"], summary["failed"]) == (True, {})
    assert "project alpha leaves: larger than max_project_size" in dump.log
    assert dump.names() == []


OLD_NAMES = {
    "alpha-1.0.tar.bz2": "1.0",
    "alpha-1.1.tgz": "1.1",
    "alpha-1.2.tar.xz": "1.2",
    "alpha-1.3-2.zip": "1.3.post2",
    "alpha-1.4-beta.tar.gz": "1.4b0",
    "alpha-2004d.tar.gz": "2004d",
    "alpha-1.5-py2.7.egg": "1.5",
    "alpha-1.6.win32.exe": "1.6",
    "alpha-1.7-1.noarch.rpm": "1.7",
}


@pytest.mark.parametrize("legacy", [True, False], ids=["both", "PEP 691 only"])
def test_every_file_that_upstream_lists_is_served_under_its_name(
    site: Site, dump: Dump, legacy: bool
) -> None:
    """Also those of kinds and versions that a strict parser refuses: what cannot be parsed does exist."""
    data = "what is in it"
    files = [
        {
            "filename": name,
            "url": f"{site.url}/old/{name}",
            "hashes": {"sha256": hashlib.sha256(data.encode()).hexdigest()},
            "size": len(data),
        }
        for name in OLD_NAMES
    ]
    page = {"meta": {"api-version": "1.1"}, "name": "alpha", "files": files, "versions": []}
    releases = {
        version: [
            {
                "filename": name,
                "url": f"{site.url}/old/{name}",
                "digests": files[0]["hashes"],
                "size": len(data),
            }
        ]
        for name, version in OLD_NAMES.items()
    }
    document = {"info": {"name": "alpha", "version": "1.7"}, "releases": releases, "last_serial": 9}
    site.faults(
        {
            "^/simple/alpha/": {"body": json.dumps(page), "type": JSON_TYPE},
            "^/pypi/alpha/": {"body": json.dumps(document), "type": "application/json"} if legacy else 404,
            "^/old/": {"body": data, "type": "application/octet-stream"},
        }
    )
    dump.run("sync")
    assert sorted(entry["filename"] for entry in dump.page("alpha")["files"]) == sorted(OLD_NAMES)
    assert sorted(dump.page("alpha")["versions"]) == sorted(set(OLD_NAMES.values()))
    assert dump.broken() == []


def test_a_release_whose_name_no_page_can_carry_loses_no_file(site: Site, dump: Dump) -> None:
    """Of an index of documents alone, whose releases are named by nothing else."""
    entry = {"filename": "alpha-1.0.zip", "url": f"{site.url}/old/alpha-1.0.zip", "size": 1}
    entry["digests"] = {"sha256": hashlib.sha256(b"x").hexdigest()}
    document = {
        "info": {"name": "alpha", "version": "1.0"},
        "releases": {"1.0\x07": [entry]},
        "last_serial": 9,
    }
    site.faults(
        {
            "^/simple/alpha/": 404,
            "^/pypi/alpha/": {"body": json.dumps(document), "type": "application/json"},
            "^/old/": {"body": "x", "type": "application/octet-stream"},
        }
    )
    dump.run("sync")
    assert list(dump.files("alpha")) == ["alpha-1.0.zip"]
    assert dump.page("alpha")["versions"] == ["1.0"]


def test_an_origins_own_newest_release_is_the_newest_that_an_installer_takes(origin: Origin) -> None:
    for version in ("9.0", "10.0", "11.0rc1", "12.0"):
        origin.release("beta", version)
    origin.facts("beta", yanked={"12.0": "broken"})
    origin.publish()
    assert json.loads((origin.served / "pypi/beta/json").read_bytes())["info"]["version"] == "10.0"


def test_hostile_documents_stay_in_their_place(origin: Origin, site: Site, dump: Dump) -> None:
    page = origin.page("alpha")
    good = page["files"][0]
    page["files"] = [
        good | {"filename": "../../alpha-1.0.tar.gz"},
        good | {"filename": "alpha-1.0.tar.gz" + "x" * 5000},
        good | {"filename": "alpha-9.0.tar.gz", "url": "file:///etc/passwd"},
        good | {"filename": "alpha-9.1.tar.gz", "hashes": {"sha256": "../../../etc"}},
        good | {"filename": "alpha-9.2.tar.gz", "hashes": None},
        good | {"filename": "alpha-9.3.tar.gz", "size": "big"},
        "no entry",
        good | {"url": f"{site.url}{good['url'].removeprefix('../..')}"},
    ]
    site.faults({"^/simple/alpha/$": {"body": json.dumps(page), "type": JSON_TYPE}, "^/pypi/alpha/": 404})
    dump.run("sync")
    assert list(dump.files("alpha")) == [good["filename"]]
    assert dump.broken() == dump.leftovers() == []
    assert {path.name for path in dump.root.iterdir()} <= {
        "fetched",
        "served",
        "state",
        "mirror.json",
        "metrics.prom",
    }


def test_a_local_project_comes_before_upstreams_of_that_name(
    origin: Origin, tmp_path: Path, serve: Callable[[Path], Site]
) -> None:
    other = Origin(tmp_path / "other")
    other.release("alpha", "99.0")
    other.configure(index_url=f"{serve(origin.served).url}/simple/", selection={"projects": PROJECTS})
    other.run("sync")
    assert list(other.files("alpha")) == ["alpha-99.0-py3-none-any.whl", "alpha-99.0.tar.gz"]
    assert len(other.files("beta")) == 4
