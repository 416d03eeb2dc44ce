"""The publisher: what is served after each change of the fetched tree, and what is gone."""

import hashlib
import io
import json
import os
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from mirrorfleet.common.config import Config, parse
from mirrorfleet.common.files import TEMPORARY
from mirrorfleet.common.guards import RefusedError
from mirrorfleet.served.journal import read_lines
from mirrorfleet.served.state import State
from mirrorfleet.served.tree import Result, ServedTree
from mirrorfleet.sync.publish import Publisher, publish

METADATA = b"Metadata-Version: 2.1\nName: six\nVersion: 1.0\n"


def wheel(content: bytes = b"code", version: str = "1.0") -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(zipfile.ZipInfo("six/__init__.py"), content)
        archive.writestr(
            zipfile.ZipInfo(f"six-{version}.dist-info/METADATA"), METADATA.replace(b"1.0", version.encode())
        )
    return stream.getvalue()


class Fleet:
    """A fetched tree to change and a publisher to run."""

    def __init__(self, root: Path, **changes: Any) -> None:
        self.root = root
        self.fetched, self.served = root / "fetched", root / "served"
        (self.fetched / "web/json").mkdir(parents=True)
        document: dict[str, Any] = {
            "name": "origin",
            "mode": "origin",
            "url": "https://origin.fleet.test",
            "local_packages": "/nowhere",
            "paths": {"fetched": str(self.fetched), "served": str(self.served), "state": str(root / "state")},
        }
        self.config: Config = parse(document | changes, "mirror.json")

    def package(self, filename: str, data: bytes, **fields: Any) -> dict[str, Any]:
        sha256 = hashlib.sha256(data).hexdigest()
        path = f"packages/{sha256[:2]}/{sha256[2:4]}/{sha256[4:]}/{filename}"
        target = self.fetched / "web" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        return {
            "filename": filename,
            "url": f"https://files.test/{path}",
            "size": len(data),
            "digests": {"sha256": sha256},
            **fields,
        }

    def project(self, name: str, serial: int, *entries: dict[str, Any], **fields: Any) -> None:
        document = {
            "info": {"name": name, "version": "1.0"},
            "releases": {"1.0": list(entries)},
            "last_serial": serial,
            **fields,
        }
        replacement = self.fetched / "web/json/.new"
        replacement.write_text(json.dumps(document))
        replacement.replace(self.fetched / "web/json" / name)

    def publish(self, **options: Any) -> Result:
        with State(self.config.database) as state:
            return publish(self.config, state, **options)

    def page(self, name: str) -> Any:
        return json.loads((self.served / "simple" / name / "index.v1_json").read_bytes())

    def packages(self) -> set[str]:
        return {path.name for path in (self.served / "packages").rglob("*") if path.is_file()}

    def fetched_packages(self) -> set[str]:
        return {path.name for path in (self.fetched / "web/packages").rglob("*") if path.is_file()}

    def journal(self) -> list[list[Any]]:
        segments = sorted((self.served / "journal").glob("*.jsonl"))
        return read_lines(b"".join(segment.read_bytes() for segment in segments))[0]


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path)


def test_a_project_is_served_in_both_formats_with_its_files(fleet: Fleet) -> None:
    fleet.project(
        "six", 7, fleet.package("six-1.0-py3-none-any.whl", wheel()), fleet.package("six-1.0.tar.gz", b"s")
    )
    assert fleet.publish(fetched_at=0).changed == 1
    page = fleet.page("six")
    assert page["meta"]["_last-serial"] == 7
    for entry in page["files"]:
        # A URL's "../.." leads out of /simple/six/, whatever the symlink's target is.
        served = fleet.served / entry["url"].removeprefix("../../")
        assert served.stat().st_size == entry["size"]
        assert hashlib.sha256(served.read_bytes()).hexdigest() == entry["hashes"]["sha256"]
    html = (fleet.served / "simple/six/index.html").read_text()
    assert html.count("<a ") == 2
    assert json.loads((fleet.served / "pypi/six/json").read_bytes())["last_serial"] == 7
    root = json.loads((fleet.served / "simple/index.v1_json").read_bytes())
    assert root["projects"] == [{"name": "six", "_last-serial": 7}]
    assert os.readlink(fleet.served / "pages/six/cur").startswith("s-7-")
    assert (fleet.served / "last-modified").read_text() == "19700101T00:00:00\n"
    assert json.loads((fleet.served / "mirror.json").read_text())["projects"] == 1


def test_the_sidecar_is_the_wheels_own_metadata_with_its_true_hash(fleet: Fleet) -> None:
    wrong = {"sha256": "0" * 64}
    entry = fleet.package("six-1.0-py3-none-any.whl", wheel(), **{"core-metadata": wrong})
    fleet.project("six", 7, entry, fleet.package("broken-1.0-py3-none-any.whl", b"no zip"))
    fleet.publish()
    broken, good = fleet.page("six")["files"]
    assert broken["core-metadata"] is False
    sidecar = fleet.served / (good["url"].removeprefix("../../") + ".metadata")
    assert sidecar.read_bytes() == METADATA
    assert good["core-metadata"] == {"sha256": hashlib.sha256(METADATA).hexdigest()}
    digest = f'="sha256={hashlib.sha256(METADATA).hexdigest()}"'
    html = (fleet.served / "simple/six/index.html").read_text()
    assert html.count("data-core-metadata" + digest) == html.count("data-dist-info-metadata" + digest) == 1


def test_upstreams_sidecar_is_used_when_its_hash_is_as_announced(fleet: Fleet) -> None:
    theirs = METADATA + b"Summary: as upstream serves it\n"
    entry = fleet.package(
        "six-1.0-py3-none-any.whl",
        wheel(),
        **{"core-metadata": {"sha256": hashlib.sha256(theirs).hexdigest()}},
    )
    path = entry["url"].removeprefix("https://files.test/") + ".metadata"
    (fleet.fetched / "web" / path).write_bytes(theirs)
    fleet.project("six", 7, entry)
    fleet.publish()
    assert (fleet.served / path).read_bytes() == theirs


def test_a_sidecar_that_one_project_names_is_not_replaced_by_anothers(fleet: Fleet) -> None:
    """In one run, and in the next: each page names what is there, or nothing."""
    theirs = METADATA + b"Summary: as upstream serves it\n"
    digest = {"sha256": hashlib.sha256(theirs).hexdigest()}
    entry = fleet.package("six-1.0-py3-none-any.whl", wheel())
    path = entry["url"].removeprefix("https://files.test/") + ".metadata"
    (fleet.fetched / "web" / path).write_bytes(theirs)
    fleet.project("one", 7, entry | {"core-metadata": digest})
    fleet.project("two", 7, entry)
    fleet.publish()
    fleet.project("three", 8, entry)
    fleet.publish()
    told = [fleet.page(name)["files"][0]["core-metadata"] for name in ("one", "two", "three")]
    assert told == [digest, False, False]
    assert (fleet.served / path).read_bytes() == theirs


def test_nothing_changed_writes_nothing(fleet: Fleet) -> None:
    fleet.project("six", 7, fleet.package("six-1.0-py3-none-any.whl", wheel()))
    fleet.publish()
    fleet.publish()  # the former root's grace run
    before = {
        path: path.lstat().st_mtime_ns for path in fleet.served.rglob("*") if path.name != "mirror.json"
    }
    journal = fleet.journal()
    assert fleet.publish().changed == 0
    after = {path: path.lstat().st_mtime_ns for path in fleet.served.rglob("*") if path.name != "mirror.json"}
    assert {p for p in before | after if before.get(p) != after.get(p)} <= {fleet.served}
    assert fleet.journal() == journal


def test_a_replaced_document_with_the_same_content_changes_no_page(fleet: Fleet) -> None:
    entry = fleet.package("six-1.0-py3-none-any.whl", wheel())
    fleet.project("six", 7, entry)
    fleet.publish()
    snapshot = os.readlink(fleet.served / "pages/six/cur")
    fleet.project("six", 7, entry)
    fleet.publish()
    assert os.readlink(fleet.served / "pages/six/cur") == snapshot
    assert len(list((fleet.served / "pages/six").iterdir())) == 2


@pytest.mark.parametrize("fault", ["missing", "truncated", "directory", "symlink"])
def test_an_incomplete_project_keeps_its_previous_page(fleet: Fleet, fault: str) -> None:
    old = fleet.package("six-1.0.tar.gz", b"old")
    fleet.project("six", 7, old)
    fleet.project("other", 8, fleet.package("other-1.0.tar.gz", b"other"))
    fleet.publish()
    new = fleet.package("six-2.0.tar.gz", b"new one")
    path = fleet.fetched / "web" / new["url"].removeprefix("https://files.test/")
    path.unlink()
    if fault == "truncated":
        path.write_bytes(b"new")
    if fault == "directory":
        path.mkdir()
    if fault == "symlink":
        path.symlink_to(fleet.fetched / "web" / old["url"].removeprefix("https://files.test/"))
    fleet.project("six", 9, old, new)
    fleet.project("other", 10, fleet.package("other-1.0.tar.gz", b"other 2"))
    assert list(fleet.publish().incomplete) == ["six"]
    assert [f["filename"] for f in fleet.page("six")["files"]] == ["six-1.0.tar.gz"]
    assert fleet.page("other")["meta"]["_last-serial"] == 10
    path.rmdir() if fault == "directory" else path.unlink(missing_ok=True)
    path.write_bytes(b"new one")
    assert fleet.publish().incomplete == {}
    assert fleet.page("six")["meta"]["_last-serial"] == 9


def test_a_removed_file_outlives_its_page_by_one_run(fleet: Fleet) -> None:
    kept, dropped = fleet.package("six-2.0.tar.gz", b"2"), fleet.package("six-1.0-py3-none-any.whl", wheel())
    fleet.project("six", 7, kept, dropped)
    fleet.publish()
    fleet.project("six", 8, kept)
    fleet.publish()
    assert [f["filename"] for f in fleet.page("six")["files"]] == ["six-2.0.tar.gz"]
    assert "six-1.0-py3-none-any.whl" in fleet.packages()
    fleet.publish()
    assert fleet.packages() == {"six-2.0.tar.gz"}
    assert fleet.fetched_packages() == {"six-2.0.tar.gz"}
    assert len(list((fleet.served / "packages").iterdir())) == 1  # no empty directories
    assert len(list((fleet.served / "pages/six").iterdir())) == 2  # cur and its snapshot


def test_a_file_that_comes_back_in_its_grace_run_stays(fleet: Fleet) -> None:
    entry = fleet.package("six-1.0.tar.gz", b"1")
    other = fleet.package("six-2.0.tar.gz", b"2")
    for serial, entries in ((7, [entry, other]), (8, [other]), (9, [entry, other])):
        fleet.project("six", serial, *entries)
        fleet.publish()
    fleet.publish()
    assert fleet.packages() == {"six-1.0.tar.gz", "six-2.0.tar.gz"}


def test_a_file_of_two_projects_stays_while_one_names_it(fleet: Fleet) -> None:
    entry = fleet.package("shared-1.0.tar.gz", b"shared")
    for name in ("one", "two"):
        fleet.project(name, 7, entry)
    fleet.publish()
    fleet.project("one", 8)
    for _ in range(3):
        fleet.publish()
    assert fleet.packages() == {"shared-1.0.tar.gz"}


def test_a_quarantined_projects_files_go_at_once_and_its_page_says_so(fleet: Fleet) -> None:
    entry = fleet.package("six-1.0-py3-none-any.whl", wheel())
    fleet.project("six", 7, entry)
    fleet.publish()
    fleet.project("six", 8, entry, **{"project-status": {"status": "quarantined", "reason": "malware"}})
    fleet.publish()
    assert fleet.page("six")["files"] == []
    assert fleet.page("six")["project-status"] == {"status": "quarantined", "reason": "malware"}
    assert (
        'name="pypi:project-status" content="quarantined"'
        in (fleet.served / "simple/six/index.html").read_text()
    )
    assert fleet.packages() == set()
    assert fleet.fetched_packages() == set()


def test_a_deleted_project_leaves_the_root_its_pages_and_its_files(fleet: Fleet) -> None:
    for name in ("a", "b", "c"):
        fleet.project(name, 7, fleet.package(f"{name}-1.0.tar.gz", name.encode()))
    fleet.publish()
    (fleet.fetched / "web/json/b").unlink()
    assert fleet.publish().removed == 1
    assert not os.path.lexists(fleet.served / "simple/b")
    assert not os.path.lexists(fleet.served / "pypi/b")
    root = json.loads((fleet.served / "simple/index.v1_json").read_bytes())
    assert [entry["name"] for entry in root["projects"]] == ["a", "c"]
    fleet.publish()
    assert fleet.packages() == {"a-1.0.tar.gz", "c-1.0.tar.gz"}
    assert not (fleet.served / "pages/b").exists()


def test_a_tree_that_lost_its_projects_is_refused(fleet: Fleet) -> None:
    for name in ("a", "b", "c"):
        fleet.project(name, 7, fleet.package(f"{name}-1.0.tar.gz", name.encode()))
    fleet.publish()
    for name in ("a", "b"):
        (fleet.fetched / "web/json" / name).unlink()
    with pytest.raises(RefusedError, match="2 of 3 projects"):
        fleet.publish()
    assert fleet.page("a")["files"]
    with State(fleet.config.database) as state, state.transaction():
        state.decide_leaving(["a"], "deselected")
    assert fleet.publish().removed == 2  # one decided, one alone is plausible


def test_all_gone_can_be_allowed(fleet: Fleet) -> None:
    fleet.project("a", 7)
    fleet.publish()
    (fleet.fetched / "web/json/a").unlink()
    with pytest.raises(RefusedError):
        fleet.publish()
    assert fleet.publish(allow_shrink=True).removed == 1


def test_hostile_entries_are_refused_and_the_rest_is_served(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    good = fleet.package("six-1.0.tar.gz", b"good")
    outside = good | {"filename": "passwd", "url": "https://files.test/packages/../../../etc/passwd"}
    long = good | {"filename": "x" * 5000}
    fleet.project("six", 7, good, outside, long, good | {"filename": None}, good | {"size": "1"})
    (fleet.fetched / "web/json/Not_Normal").write_text("{}")
    (fleet.fetched / "web/json/..evil").write_text("{}")
    fleet.publish()
    assert [f["filename"] for f in fleet.page("six")["files"]] == ["six-1.0.tar.gz"]
    assert "not a path component: '..'" in caplog.text
    assert "5000 characters" in caplog.text
    assert "Not_Normal" in caplog.text
    assert {path.name for path in fleet.root.iterdir()} == {"fetched", "served", "state"}


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"releases": {}, "last_serial": NaN}', "[" * 100_000])
def test_an_unreadable_document_is_that_projects_problem_alone(fleet: Fleet, text: str) -> None:
    fleet.project("good", 7)
    (fleet.fetched / "web/json/bad").write_text(text)
    result = fleet.publish()
    assert list(result.incomplete) == ["bad"]
    assert result.changed == 1


def test_two_files_that_cannot_both_exist_are_that_projects_problem_alone(fleet: Fleet) -> None:
    fleet.project("good", 7, fleet.package("good-1.0.tar.gz", b"good"))
    fleet.publish()
    file = fleet.package("x-1.0.tar.gz", b"x")
    (fleet.served / file["url"].removeprefix("https://files.test/")).mkdir(parents=True)
    fleet.project("bad", 8, file)
    fleet.project("good", 9)
    result = fleet.publish()
    assert list(result.incomplete) == ["bad"]
    assert fleet.page("good")["meta"]["_last-serial"] == 9


def test_an_older_serial_does_not_replace_a_newer_page(fleet: Fleet) -> None:
    fleet.project("six", 9, fleet.package("six-2.0.tar.gz", b"2"))
    fleet.publish()
    fleet.project("six", 8, fleet.package("six-1.0.tar.gz", b"1"))
    assert "older" in fleet.publish().incomplete["six"]
    assert fleet.page("six")["meta"]["_last-serial"] == 9


def test_the_journal_names_files_then_pages_then_deletions(fleet: Fleet) -> None:
    entry = fleet.package("six-1.0-py3-none-any.whl", wheel())
    path = entry["url"].removeprefix("https://files.test/")
    fleet.project("six", 7, entry)
    fleet.project("other", 7)
    fleet.publish()
    snapshot = os.readlink(fleet.served / "pages/six/cur")
    root = os.readlink(fleet.served / "pages/_root/cur")
    lines = fleet.journal()
    assert lines.index(["file", path, entry["size"], entry["digests"]["sha256"]]) < lines.index(
        ["page", "six", snapshot]
    )
    assert any(line[:2] == ["file", path + ".metadata"] for line in lines)
    assert lines[-1] == ["root", root]
    (fleet.fetched / "web/json/six").unlink()
    fleet.publish()
    assert fleet.journal()[len(lines) :][-1] == ["gone", "six"]
    fleet.publish()
    assert ["delete", path] in fleet.journal()
    assert ["delete", path + ".metadata"] in fleet.journal()


def test_left_over_temporary_files_of_a_killed_fetch_go(fleet: Fleet) -> None:
    entry = fleet.package("six-1.0.tar.gz", b"1")
    path = fleet.fetched / "web" / entry["url"].removeprefix("https://files.test/")
    (path.parent / ".six-1.0.tar.gz.k2j3h4").write_bytes(b"half")
    fleet.project("six", 7, entry)
    fleet.publish()
    assert fleet.fetched_packages() == {"six-1.0.tar.gz"}


@pytest.mark.parametrize(
    "step",
    ["_provide_files", "_write_snapshot", "_switch", "_confirm", "_publish_root", "_delete_what_is_due"],
)
def test_a_run_cut_at_any_step_is_completed_by_the_next(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    old, new = (
        fleet.package("six-1.0.tar.gz", b"1"),
        fleet.package("six-2.0-py3-none-any.whl", wheel(version="2.0")),
    )
    fleet.project("six", 7, old)
    fleet.project("gone", 7, fleet.package("gone-1.0.tar.gz", b"gone"))
    fleet.project("stays", 7)
    fleet.publish()
    fleet.project("six", 8, new)
    fleet.project("never", 8, fleet.package("never-1.0.tar.gz", b"never"))
    (fleet.fetched / "web/json/gone").unlink()

    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Publisher if hasattr(Publisher, step) else ServedTree, step, cut)
        with pytest.raises(KeyboardInterrupt):
            fleet.publish()
    (fleet.fetched / "web/json/never").unlink()  # it left while we were down
    for _ in range(3):
        fleet.publish(allow_shrink=True)
    assert fleet.page("six")["meta"]["_last-serial"] == 8
    assert fleet.packages() == {"six-2.0-py3-none-any.whl", "six-2.0-py3-none-any.whl.metadata"}
    assert {path.name for path in (fleet.served / "pages").iterdir()} == {"_root", "six", "stays"}
    assert not [path for path in fleet.served.rglob("*") if path.name.startswith(TEMPORARY)]


def test_a_lost_state_costs_a_pass_and_nothing_else(fleet: Fleet) -> None:
    fleet.project("six", 7, fleet.package("six-1.0-py3-none-any.whl", wheel()))
    fleet.publish()
    snapshot = os.readlink(fleet.served / "pages/six/cur")
    fleet.config.database.unlink()
    assert fleet.publish().changed == 1
    assert os.readlink(fleet.served / "pages/six/cur") == snapshot


def test_last_modified_is_the_start_of_the_run_that_reached_upstream(fleet: Fleet) -> None:
    fleet.project("six", 7)
    fleet.publish()
    assert not (fleet.served / "last-modified").exists()
    at = time.time()
    fleet.publish(fetched_at=at)
    stamp = (fleet.served / "last-modified").read_text()
    assert stamp == time.strftime("%Y%m%dT%H:%M:%S\n", time.gmtime(at))
    fleet.publish()
    assert (fleet.served / "last-modified").read_text() == stamp
