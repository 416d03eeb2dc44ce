"""The small parts: filters, guards, the upstream root, wheels, progress, backoff."""

import io
import json
import logging
import os
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from mirrorfleet.common.files import prune_empty_parents, replace_symlink, write_atomically
from mirrorfleet.common.guards import BusyError, RefusedError, Shrinking, only_one, require_free_space
from mirrorfleet.common.log import set_up
from mirrorfleet.common.progress import Snapshot, human_bytes, human_time, line
from mirrorfleet.common.wheels import NoMetadataError, sdist_metadata, wheel_metadata
from mirrorfleet.fetch.filters import is_excluded, kept_releases
from mirrorfleet.fetch.source import LeftOut, page_releases
from mirrorfleet.fetch.trouble import retry_after
from mirrorfleet.fetch.upstream import FetchError
from mirrorfleet.fetch.upstream_root import parse_root
from mirrorfleet.index.pages import project_json
from mirrorfleet.index.project import parse_project
from mirrorfleet.index.versions import newest_versions, release_of


def test_the_newest_versions_are_kept_by_pep_440() -> None:
    assert newest_versions(["1.9", "1.10", "1.2", "not a version", "2.0rc1"], 2) == {"2.0rc1", "1.10"}


def test_what_an_installer_takes_unasked_is_always_kept() -> None:
    assert newest_versions(["1.0", "2.0rc1", "2.0.dev1"], 1) == {"1.0"}
    assert newest_versions(["1.0", "2.0"], 1, yanked={"2.0"}) == {"1.0"}
    assert newest_versions(["1.0", "2.0", "3.0rc1"], 2, yanked={"2.0"}) == {"1.0", "3.0rc1"}
    assert newest_versions(["2004d", "1.0", "0.9"], 2) == {"1.0", "0.9"}
    assert newest_versions(["2004d", "2004e"], 1) == {"2004e"}
    assert newest_versions(["1.0rc1"], 1) == {"1.0rc1"}
    assert newest_versions([], 1) == set()


@pytest.mark.parametrize(
    ("filename", "version"),
    [
        ("twisted-17.4.tar.gz", "17.4"),
        ("Twisted-17.1.0.tar.bz2", "17.1.0"),
        ("Twisted-17.2.tgz", "17.2"),
        ("Twisted-17.3.tar.xz", "17.3"),
        ("Twisted-17.5-1.tar.gz", "17.5.post1"),
        ("Twisted-16.0-beta.tar.gz", "16.0b0"),
        ("Twisted-2004d.tar.gz", "2004d"),
        ("Twisted-15-py2.7.egg", "15"),
        ("Twisted-15.1-py2.7-win-amd64.egg", "15.1"),
        ("Twisted-14.win32.exe", "14"),
        ("Twisted-14.0.win-amd64-py2.7.msi", "14.0"),
        ("Twisted-13.0-1.noarch.rpm", "13.0"),
        ("Twisted-13.ZIP", "13"),
        ("twisted-18.0-cp39-none-variant.x-y-z-q.whl", "18.0"),
        ("twisted-1!2.0+local-py3-none-any.whl", "1!2.0+local"),
        ("else-1.0.tar.bz2", "else-1.0"),
        ("twisted.zip", "twisted"),
    ],
)
def test_of_every_name_that_was_ever_listed_the_release_is_read(filename: str, version: str) -> None:
    assert release_of(filename, "twisted") == version


def listed(**values: Any) -> dict[str, Any]:
    """What becomes of an entry of an upstream's page, as it would be served."""
    entry = {
        "filename": "x-1.0.tar.gz",
        "url": "/packages/aa/bb/x-1.0.tar.gz",
        "hashes": {"sha256": "ab" * 32},
        "size": 1,
    } | {key.replace("_", "-"): value for key, value in values.items()}
    page = {"name": "x", "files": [entry]}
    releases = page_releases(page, "https://index.example.org/simple/x/", "x", LeftOut())
    project = parse_project({"last_serial": 1, "releases": releases}, "x")
    (found,) = json.loads(project_json(project))["files"]
    return dict(found)


@pytest.mark.parametrize(
    ("given", "served"),
    [
        ({"yanked": ""}, {"yanked": True}),
        ({"yanked": True}, {"yanked": True}),
        ({"yanked": "broken"}, {"yanked": "broken"}),
        ({"yanked": False}, {"yanked": False}),
        ({}, {"yanked": False}),
        ({"hashes": {"sha256": "AB" * 32}}, {"hashes": {"sha256": "ab" * 32}}),
        ({"core_metadata": {"sha256": "AB" * 32}}, {"core-metadata": {"sha256": "ab" * 32}}),
        ({"upload_time": "2020-01-01T00:00:00Z"}, {"upload-time": "2020-01-01T00:00:00Z"}),
        ({"upload_time": "2020-01-01T02:00:00+02:00"}, {"upload-time": "2020-01-01T00:00:00.000000Z"}),
    ],
)
def test_every_value_of_an_upstreams_page_arrives(given: dict[str, Any], served: dict[str, Any]) -> None:
    assert served.items() <= listed(**given).items()


@pytest.mark.parametrize("time", ["2020-01-01T00:00:00", "2020-01-01", "x", None, 5])
def test_a_time_that_does_not_say_where_it_is_one_is_none(time: Any) -> None:
    assert "upload-time" not in listed(upload_time=time)


def test_a_project_of_several_words_ends_where_its_version_begins() -> None:
    assert release_of("zope.interface-3.0-final.tgz", "zope-interface") == "3.0-final"
    assert release_of("My_Project 1.0.tar.gz", "my-project") == "1.0"
    assert release_of("foo-3.2.3-2.tar.gz", "foo") == "3.2.3.post2"


@pytest.mark.parametrize(
    ("filename", "platforms", "excluded"),
    [
        ("x-1-py3-none-any.whl", ["windows", "macos", "linux"], False),
        ("x-1-cp313-cp313-win_amd64.whl", ["windows"], True),
        ("x-1-cp313-cp313-macosx_11_0_arm64.whl", ["macos"], True),
        ("x-1-cp313-cp313-manylinux_2_17_x86_64.manylinux2014_x86_64.whl", ["linux"], True),
        ("x-1-cp313-cp313-musllinux_1_2_x86_64.whl", ["linux"], True),
        ("x-1-cp313-cp313-manylinux_2_17_x86_64.whl", ["windows", "macos"], False),
        ("x-1-cp313-cp313-win_arm64.whl", ["win_arm64"], True),
        ("x-1-cp313-cp313-win_amd64.whl", ["win_arm64"], False),
        ("x-1-cp313-cp313-manylinux_2_17_x86_64.manylinux2014_x86_64.whl", ["manylinux2014_x86_64"], True),
        ("x-1-cp313-cp313-manylinux_2_28_x86_64.whl", ["manylinux2014_x86_64"], False),
        ("x-1-cp313-cp313-manylinux2014_aarch64.whl", ["manylinux2014_x86_64"], False),
        ("x-1-cp313-cp313-musllinux_1_2_x86_64.whl", ["musllinux"], True),
        ("x-1-cp313-cp313-win_amd64.whl", ["win-amd64"], True),
        ("x-1-cp313-cp313-linux_armv7l.manylinux2014_x86_64.whl", ["linux_armv7l"], False),
        ("x-1-py2.py3-none-any.whl", ["py2"], False),
        ("x-1-py2.py3-none-any.whl", ["py2", "py3"], True),
        ("x-1-py2-none-any.whl", ["py2"], True),
        ("x-1-cp27-cp27mu-manylinux1_x86_64.whl", ["py2"], True),
        ("x-1-cp27-cp27mu-manylinux1_x86_64.whl", ["py2.7"], True),
        ("x-1-cp27-cp27mu-manylinux1_x86_64.whl", ["py3"], False),
        ("x-1-cp310-cp310-win_amd64.whl", ["py3.1"], False),
        ("x-1-pp38-pypy38_pp73-win_amd64.whl", ["py3.8"], True),
        ("x-1-cp38-abi3-win_amd64.whl", ["py3.8"], False),
        ("x-1-py38-none-any.whl", ["py3.8"], False),
        ("x-1-cp38.cp39-none-win_amd64.whl", ["py3.8", "py3.9"], True),
        ("x-1-cp38.cp39-none-win_amd64.whl", ["py3.8", "linux"], False),
        ("x-1.tar.gz", ["windows", "macos", "linux", "py2", "py3"], False),
        ("x-1.exe", ["windows"], True),
        ("x-1.exe", ["macos"], False),
    ],
)
def test_a_file_is_excluded_when_all_its_platforms_are(
    filename: str, platforms: list[str], excluded: bool
) -> None:
    assert is_excluded(filename, platforms) is excluded


def test_releases_kept_and_platforms_work_together() -> None:
    releases: dict[str, list[dict[str, Any]]] = {
        "1.0": [{"filename": "x-1.0.tar.gz"}],
        "2.0": [{"filename": "x-2.0.tar.gz"}, {"filename": "x-2.0.msi"}],
    }
    assert kept_releases(releases, 1, ["windows"]) == {"2.0": [{"filename": "x-2.0.tar.gz"}]}
    assert kept_releases(releases, None, []) == releases
    only_windows = releases | {"3.0": [{"filename": "x-3.0.exe"}]}
    assert kept_releases(only_windows, 1, ["windows"]) == {"2.0": [{"filename": "x-2.0.tar.gz"}]}


def test_a_yanked_release_is_kept_after_one_that_is_not() -> None:
    releases = {
        "1.0": [{"filename": "x-1.0.tar.gz", "yanked": False}],
        "2.0": [{"filename": "x-2.0.tar.gz", "yanked": True}],
    }
    assert set(kept_releases(releases, 1, [])) == {"1.0"}
    assert set(kept_releases(releases, 2, [])) == {"1.0", "2.0"}


class Memory(dict[str, Any]):
    """What is remembered from run to run."""

    def put(self, key: str, value: Any) -> None:
        self[key] = value


@pytest.mark.parametrize(("before", "removed"), [(10, 3), (2, 2), (1, 1), (100, 21)])
def test_shrinking_too_much_is_refused(before: int, removed: int) -> None:
    with pytest.raises(RefusedError, match=f"{removed} of {before}"):
        Shrinking(0.2, 60).refuse(Memory(), before, {f"p{n}" for n in range(removed)}, "upstream")


@pytest.mark.parametrize(("before", "removed"), [(10, 2), (2, 1), (0, 0), (1, 0), (100, 20)])
def test_a_plausible_change_is_not(before: int, removed: int) -> None:
    memory = Memory()
    Shrinking(0.2, 60).refuse(memory, before, {f"p{n}" for n in range(removed)}, "upstream")
    assert memory == {}


def test_what_upstream_lacks_for_long_enough_is_believed_whatever_the_clock_did(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memory, gone, now = Memory(), {f"p{n}" for n in range(7)}, 1000.0
    monkeypatch.setattr("mirrorfleet.common.guards.time.time", lambda: now)

    def refused(leaving: set[str] = gone) -> str:
        with pytest.raises(RefusedError) as error:
            Shrinking(0.2, 60).refuse(memory, 10, leaving, "upstream")
        return str(error.value)

    assert "7 of 10 projects would disappear at once (p0, p1, p2, p3, p4, …)" in refused()
    now = 1050
    assert "believed from 1970-01-01 00:17 UTC on" in refused()
    assert "sync --allow-shrink" in refused({*gone, "p8"})  # another one is doubted from now on
    now = 1065
    assert "8 of 10" in refused({*gone, "p8"})
    now = 1111
    Shrinking(0.2, 60).refuse(memory, 10, {*gone, "p8"}, "upstream")
    assert memory["doubted"] == {}
    # Noted by a clock that was ahead: doubted from now on, and no longer than that.
    now = 9000
    refused()
    now = 2000
    refused()
    now = 2060
    Shrinking(0.2, 60).refuse(memory, 10, gone, "upstream")


def test_that_everything_is_gone_is_never_believed_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory()
    for now in (0.0, 1e9):
        monkeypatch.setattr("mirrorfleet.common.guards.time.time", lambda now=now: now)
        with pytest.raises(RefusedError, match="3 of 3") as error:
            Shrinking(0.2, 60).refuse(memory, 3, {"a", "b", "c"}, "upstream")
        assert "believed" not in str(error.value)


def test_projects_that_come_back_meanwhile_are_doubted_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    memory, now = Memory(), 0.0
    monkeypatch.setattr("mirrorfleet.common.guards.time.time", lambda: now)
    for now, leaving in ((0.0, {"a", "b", "c"}), (50.0, set()), (70.0, {"a", "b", "c"})):  # noqa: B007
        if leaving:
            with pytest.raises(RefusedError):
                Shrinking(0.2, 60).refuse(memory, 10, leaving, "upstream")
        else:
            Shrinking(0.2, 60).refuse(memory, 10, leaving, "upstream")


def test_too_little_space_is_refused(tmp_path: Path) -> None:
    require_free_space(tmp_path, 1)
    with pytest.raises(RefusedError, match="minimum_free_bytes"):
        require_free_space(tmp_path, 1 << 60)


def test_the_lock_is_held_by_one_and_freed_with_it(tmp_path: Path) -> None:
    with (
        only_one(tmp_path / "lock"),
        pytest.raises(BusyError, match=str(os.getpid())),
        only_one(tmp_path / "lock"),
    ):
        pass
    with only_one(tmp_path / "lock"):
        pass


def test_a_root_gives_names_and_serials() -> None:
    document = {
        "projects": [
            {"name": "Flask", "_last-serial": 3},
            {"name": "../x", "_last-serial": 4},
            {"name": "six", "_last-serial": 5},
        ]
    }
    root = parse_root(document, "u")
    assert root.serials == {"flask": 3, "six": 5}
    assert root.newest == 5


@pytest.mark.parametrize("document", [None, [], {}, {"projects": {}}])
def test_what_is_no_root_is_refused(document: Any) -> None:
    with pytest.raises(FetchError, match=r"^u: "):
        parse_root(document, "u")


@pytest.mark.parametrize(
    ("serials", "tells"),
    [
        ([3, 5], True),
        ([3], True),
        ([3, 5, None], True),
        ([5, 5], False),
        ([None], False),
        ([3, None, "4"], False),
        ([], True),
    ],
)
def test_serials_that_stand_still_or_miss_tell_no_changes(serials: list[Any], tells: bool) -> None:
    projects = [{"name": f"p{n}", "_last-serial": serial} for n, serial in enumerate(serials)]
    assert parse_root({"projects": projects}, "u").tells_changes() is tells


METADATA = b"Metadata-Version: 2.1\nName: X\nVersion: 1.0.0\n\nA description."


def wheel(tmp_path: Path, **members: bytes) -> Path:
    path = tmp_path / "x-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def test_metadata_is_the_one_of_the_wheel_itself(tmp_path: Path) -> None:
    members = {
        "x-1.0.dist-info/METADATA": METADATA,
        "x/_vendor/y-2.dist-info/METADATA": b"vendored",
        "y-2.dist-info/METADATA": b"vendored beside",
    }
    assert wheel_metadata(wheel(tmp_path, **members)) == METADATA


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"y-1.0.dist-info/METADATA": b"Name: y\nVersion: 1.0\n"},
        {"x-1.1.dist-info/METADATA": b"Name: x\nVersion: 1.1\n"},
        {"x-1.0.dist-info/METADATA": METADATA, "X-1.0.0.dist-info/METADATA": METADATA},
        {"x-1.0.dist-info/METADATA": b"Name: y\nVersion: 1.0\n"},
        {"x-1.0.dist-info/METADATA": b"Name: x\nVersion: 1.1\n"},
        {"x-1.0.dist-info/METADATA": b"no headers"},
        {"x-1.0.dist-info/METADATA": METADATA + b"0" * (17 << 20)},
    ],
)
def test_a_wheel_without_one_metadata_of_a_sane_size_has_none(
    tmp_path: Path, members: dict[str, bytes]
) -> None:
    with pytest.raises(NoMetadataError):
        wheel_metadata(wheel(tmp_path, **members))


@pytest.mark.parametrize("damage", [b"", b"no zip", None])
def test_a_damaged_archive_has_none(tmp_path: Path, damage: bytes | None) -> None:
    path = wheel(tmp_path, **{"x-1.0.dist-info/METADATA": METADATA + b"right" * 1000})
    data = path.read_bytes()
    path.write_bytes(data[:45] + b"\xff" * 20 + data[65:] if damage is None else damage)
    with pytest.raises(NoMetadataError):
        wheel_metadata(path)
    with pytest.raises(NoMetadataError):
        sdist_metadata(path)


def test_progress_tells_what_is_done_and_what_is_left() -> None:
    now = Snapshot("fetching", 10, 40, 2_000_000, 20.0)
    assert line(now, "six") == "fetching: project 10 of 40 (six), 2.0 MB, 100.0 kB/s, about 1 min 00 s left"
    assert line(Snapshot("dump", 2, 2, 0, 0.0), "") == "dump: project 2 of 2"
    assert [human_bytes(n) for n in (0, 999, 1500, 2.5e15)] == ["0 B", "999 B", "1.5 kB", "2500.0 TB"]
    assert [human_time(s) for s in (5, 65, 3700)] == ["5 s", "1 min 05 s", "1 h 01 min"]


def test_a_project_is_tried_at_every_run_and_then_ever_more_rarely() -> None:
    now = time.time()
    assert [retry_after(tries, 3) for tries in (1, 2)] == [0, 0]
    waits = [retry_after(tries, 3) - now for tries in (3, 4, 5, 50)]
    assert [round(wait / 3600) for wait in waits] == [1, 2, 4, 24]


def test_a_hostile_value_starts_no_log_line_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setenv("JOURNAL_STREAM", "8:1")
    set_up(verbose=False)
    logging.getLogger("mirrorfleet").warning("name %s", "x\n<0>forged")
    assert stream.getvalue() == "<4>name x\\n<0>forged\n"


def test_a_failed_write_leaves_the_former_content_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"former")
    with pytest.raises(TypeError):
        write_atomically(path, "no bytes")  # type: ignore[arg-type]
    assert path.read_bytes() == b"former"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_link_is_replaced_and_a_directory_is_not(tmp_path: Path) -> None:
    assert replace_symlink(tmp_path / "link", "a")
    assert not replace_symlink(tmp_path / "link", "a")
    assert replace_symlink(tmp_path / "link", "b")
    assert os.readlink(tmp_path / "link") == "b"
    (tmp_path / "directory").mkdir()
    with pytest.raises(OSError, match="directory"):
        replace_symlink(tmp_path / "directory", "a")


def test_only_empty_directories_below_the_root_are_pruned(tmp_path: Path) -> None:
    (tmp_path / "root/a/b/c").mkdir(parents=True)
    (tmp_path / "root/a/kept").touch()
    prune_empty_parents(tmp_path / "root/a/b/c/gone/too", tmp_path / "root")
    assert sorted(path.name for path in (tmp_path / "root/a").iterdir()) == ["kept"]
    (tmp_path / "root/a/kept").unlink()
    prune_empty_parents(tmp_path / "root/a/kept", tmp_path / "root")
    assert (tmp_path / "root").is_dir()
