"""What made a mirror wrong under a green light, each kind by itself: serials, documents, places, files left out."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from differential.hostile import Upstream, metadata_of, sdist, sha256, wheel
from faults.fleet import Host, Mirror, Tier2

from mirrorfleet.served.tree import ServedTree
from mirrorfleet.sync.bandersnatch import _SAMPLE

Tier1 = Callable[..., Mirror]


@pytest.fixture
def upstream(request: pytest.FixtureRequest) -> Iterator[Upstream]:
    upstream = Upstream(0, 0, *getattr(request, "param", ("both", "rising")))
    upstream.release("Foo", "1.0")
    upstream.release("bar", "1.0")
    yield upstream
    upstream.stop()


@pytest.fixture
def many(upstream: Upstream) -> list[str]:
    """More projects than a sample has."""
    return [upstream.release(f"many{number}", "1.0").name for number in range(2 * _SAMPLE)]


def versions(host: Host, name: str) -> list[str]:
    return sorted(filename.split("-")[1] for filename in host.files(name))


def legacy(host: Host, name: str) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = json.loads((host.served / "pypi" / name / "json").read_bytes())
    return found


def change_state(host: Host, statement: str) -> None:
    with sqlite3.connect(host.state / "mirrorfleet.sqlite") as database:
        assert database.execute(statement).rowcount > 0
    database.close()


@pytest.mark.parametrize(
    "upstream", [("both", "constant"), ("no validators", "constant"), ("both", "missing")], indirect=True
)
def test_what_changes_under_serials_that_do_not_tell_arrives_and_its_cost_is_said(
    upstream: Upstream, tier1_of: Tier1
) -> None:
    mirror = tier1_of(upstream.url)
    assert mirror.run("sync")["good"]
    serial = mirror.page("foo")["meta"]["_last-serial"]
    upstream.release("Foo", "2.0")
    assert mirror.run("sync")["good"]
    assert versions(mirror, "foo") == ["1.0", "2.0"]
    assert mirror.page("foo")["meta"]["_last-serial"] > serial  # so that the next tier takes it
    assert mirror.run("sync")["changed"] == 0
    assert mirror.status()["compared_by_page"] == mirror.metric("compared_by_page") == 2


def test_serials_that_tell_changes_cost_a_sample_and_not_every_page(
    upstream: Upstream, many: list[str], tier1_of: Tier1
) -> None:
    mirror = tier1_of(upstream.url)
    mirror.run("sync")
    upstream.asked.clear()
    mirror.run("sync")
    pages = [path for path in upstream.asked if path.startswith("/simple/") and path != "/simple/"]
    assert len(pages) == _SAMPLE
    assert mirror.status()["compared_by_page"] == 0


def test_a_change_that_no_serial_announces_is_found_and_from_then_on_all_are(
    upstream: Upstream, many: list[str], tier1_of: Tier1
) -> None:
    mirror = tier1_of(upstream.url)
    mirror.run("sync")
    for name in many:
        project = upstream.projects[name]
        serial = project.serial
        upstream.release(project.display, "2.0")
        project.serial = serial
    upstream.serial += 1
    mirror.run("sync")
    assert "upstream's serials do not tell changes" in mirror.log
    assert mirror.run("sync")["good"]
    assert all(versions(mirror, name) == ["1.0", "2.0"] for name in many)


def test_an_upstream_that_was_restored_is_followed_without_a_person(
    upstream: Upstream, tier1_of: Tier1
) -> None:
    for _ in range(3):
        upstream.release("Foo", "3.0")
    mirror = tier1_of(upstream.url)
    mirror.run("sync")
    published = mirror.page("foo")["meta"]["_last-serial"]
    upstream.serial = 1000
    for project in upstream.projects.values():
        project.serial = upstream._next()
    del upstream.projects["foo"].entries["foo-3.0-py3-none-any.whl"]
    assert mirror.run("sync")["good"]
    assert "newest serial fell" in mirror.log
    assert int((mirror.fetched / "status").read_text()) <= upstream.serial, (
        "bandersnatch brings what comes after"
    )
    assert versions(mirror, "foo") == ["1.0"]
    upstream.release("Foo", "2.0")
    assert mirror.run("sync")["good"]
    assert versions(mirror, "foo") == ["1.0", "2.0"]
    assert mirror.page("foo")["meta"]["_last-serial"] > published + 1


@pytest.mark.parametrize("upstream", [("documents behind", "rising")], indirect=True)
def test_a_document_behind_its_page_heals_when_it_does_at_the_same_serial(
    upstream: Upstream, tier1_of: Tier1
) -> None:
    mirror = tier1_of(upstream.url)
    mirror.run("sync")
    upstream.release("Foo", "2.0")
    assert mirror.run("sync")["good"]
    assert versions(mirror, "foo") == ["1.0", "2.0"], "the page says so"
    assert legacy(mirror, "foo")["info"]["name"] == "Foo"
    assert "md5_digest" not in json.dumps(legacy(mirror, "foo")["releases"]["2.0"])
    for project in upstream.projects.values():
        project.former = None
    change_state(mirror, "UPDATE seen SET again_after = 1 WHERE again_after > 1")  # an hour has passed
    assert mirror.run("sync")["good"]
    assert "md5_digest" in json.dumps(legacy(mirror, "foo")["releases"]["2.0"])
    assert mirror.run("sync")["changed"] == 0


@pytest.mark.parametrize("upstream", [("documents behind", "rising")], indirect=True)
def test_a_document_behind_its_page_says_nothing_of_a_file_that_was_replaced(
    upstream: Upstream, tier1_of: Tier1
) -> None:
    upstream.release("Foo", "2.0")
    mirror = tier1_of(upstream.url)
    mirror.run("sync")
    filename, path = "foo-2.0-py3-none-any.whl", "/packages/aa/cc/foo-2.0-py3-none-any.whl"
    upstream.release("Foo", "3.0")  # so that the document behind names the former file
    upstream.files[path] = b"other bytes"
    entry = {"filename": filename, "url": path}
    for kind in ("sha256", "sha512"):
        upstream.projects["foo"].entries[filename] = entry | {
            "hashes": {kind: hashlib.new(kind, b"other bytes").hexdigest()}
        }
        assert mirror.run("sync")["good"]
        assert mirror.files("foo")[filename]["size"] == len(b"other bytes")
        assert "upload-time" not in mirror.files("foo")[filename]
        upstream.projects["foo"].serial = upstream._next()


@pytest.mark.parametrize("upstream", [("documents behind", "rising")], indirect=True)
def test_what_a_page_says_no_more_is_not_taken_of_a_document_behind_it(
    upstream: Upstream, tier1_of: Tier1
) -> None:
    upstream.release("Foo", "2.0")
    (filename,) = (
        name for name in upstream.projects["foo"].entries if "2.0" in name and name.endswith("whl")
    )
    upstream.projects["foo"].entries[filename]["requires-python"] = ">=3"
    mirror = tier1_of(upstream.url)
    mirror.run("sync")
    assert mirror.files("foo")[filename]["requires-python"] == ">=3"
    upstream.release("Foo", "3.0")  # so that the document behind says it still
    del upstream.projects["foo"].entries[filename]["requires-python"]
    assert mirror.run("sync")["good"]
    assert not mirror.files("foo")[filename].get("requires-python")


@pytest.mark.parametrize("mode", ["tier1", "origin"])
def test_a_name_as_long_as_a_file_may_have_is_served_in_every_tier(
    upstream: Upstream, tier1_of: Tier1, origin_of: Callable[..., Host], tmp_path: Path, mode: str
) -> None:
    """Core metadata is announced up to where its longer name fits, too."""
    listed, folder = upstream.release("Foo", "2.0").entries, "/packages/aa/bb"
    for length in (246, 247, 250, 255):
        filename = f"foo-1.{'1' * (length - len('foo-1.-py3-none-any.whl'))}-py3-none-any.whl"
        data = wheel("Foo", filename.split("-")[1], metadata_of("Foo", filename.split("-")[1]))
        upstream.files[f"{folder}/{filename}"] = data
        hashes = {"sha256": hashlib.sha256(data).hexdigest()}
        listed[filename] = {"filename": filename, "url": f"{folder}/{filename}", "hashes": hashes}
        upstream.projects["foo"].versions[filename] = filename.split("-")[1]
        upstream.projects["foo"].sizes[filename] = len(data)
    host = tier1_of(upstream.url) if mode == "tier1" else origin_of(upstream.url, ["foo", "bar"])
    for one in (host, Tier2(tmp_path / "tier2", str(host.served))):
        summary = one.run("sync")
        assert summary["good"] and not summary.get("left_out")
        found = one.files("foo")
        assert found.keys() == listed.keys()
        assert {len(name) for name in found if not found[name]["core-metadata"]} == {247, 250, 255}
        assert one.broken() == one.leftovers() == []


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[Host]], list[ServedTree]]:
    """From now on none of these hosts may serve a broken page when any of them commits; tells the commits."""

    def watch(hosts: list[Host]) -> list[ServedTree]:
        commit, commits = ServedTree.commit, list[ServedTree]()

        def looked_at(tree: ServedTree, *rest: Any) -> None:
            commits.append(tree)
            assert [one.broken() for one in hosts] == [[], []]
            commit(tree, *rest)

        monkeypatch.setattr(ServedTree, "commit", looked_at)
        return commits

    return watch


@pytest.mark.parametrize(("mode", "kind"), [("tier1", "sha256"), ("origin", "md5")])
def test_a_page_switches_with_the_bytes_of_a_file_that_change_under_its_path(
    upstream: Upstream,
    tier1_of: Tier1,
    origin_of: Callable[..., Host],
    tmp_path: Path,
    watched: Callable[[list[Host]], list[ServedTree]],
    mode: str,
    kind: str,
) -> None:
    """In a tier below, too; and where they change back."""
    host = tier1_of(upstream.url) if mode == "tier1" else origin_of(upstream.url, ["foo", "bar"])
    hosts = [host, Tier2(tmp_path / "tier2", str(host.served))]
    for one in hosts:
        one.run("sync")
    commits = watched(hosts)
    path, summary = "/packages/aa/bb/foo-1.0-py3-none-any.whl", b"Summary: other\n"
    for own in (summary, summary, b""):
        data = wheel("Foo", "1.0", metadata_of("Foo", "1.0") + own)
        upstream.release("Foo", "1.0", hashes={kind: hashlib.new(kind, data).hexdigest()}, size=len(data))
        upstream.files[path] = data
        for one in hosts:
            assert one.run("sync")["good"]
            (entry,) = one.files("foo").values()
            assert entry["hashes"]["sha256"] == hashlib.sha256(data).hexdigest()
            assert one.broken() == []
    assert commits
    for one in hosts:
        one.run("sync")
        assert one.broken() == one.leftovers() == []
    for lost in host.root.rglob(path.rpartition("/")[2]):
        lost.unlink()
    assert host.run("check")["repaired"]
    assert host.broken() == []


OWN, NONE = metadata_of("Foo", "1.0"), b""
MADE, OTHER = (metadata_of("made-by-upstream", version) for version in "12")
GIVEN_LATE = metadata_of("made-by-upstream", "3")
NOT_GIVEN = "upstream announces core metadata and does not give it"


@pytest.mark.parametrize("mode", ["tier1", "origin"])
@pytest.mark.parametrize("ending", ["-py3-none-any.whl", ".tar.gz"])
def test_a_page_switches_with_the_core_metadata_of_a_file_that_stays_the_same(
    upstream: Upstream,
    tier1_of: Tier1,
    origin_of: Callable[..., Host],
    tmp_path: Path,
    watched: Callable[[list[Host]], list[ServedTree]],
    mode: str,
    ending: str,
) -> None:
    """In a tier below, too. Of what upstream gives not, or not so, a wheel's own is served, and of an sdist none."""
    host = tier1_of(upstream.url) if mode == "tier1" else origin_of(upstream.url, ["foo", "bar"])
    hosts = [host, Tier2(tmp_path / "tier2", str(host.served))]
    filename, folder = f"foo-1.0{ending}", "/packages/aa/bb"
    path = f"{folder}/{filename}"
    data = wheel("Foo", "1.0", OWN) if ending.endswith(".whl") else sdist("Foo", "1.0")
    upstream.files[path] = data
    own = OWN if ending.endswith(".whl") else NONE
    project = upstream.projects["foo"]
    project.entries, project.versions, project.sizes = {}, {filename: "1.0"}, {filename: len(data)}
    entry = {"filename": filename, "url": path, "hashes": {"sha256": sha256(data)}, "size": len(data)}

    def announce(announced: Any, given: bytes) -> None:
        upstream.files[f"{path}.metadata"] = given
        project.entries[filename] = entry if announced is None else entry | {"core-metadata": announced}
        project.serial = upstream._next()

    def wait_an_hour() -> None:
        change_state(host, "UPDATE seen SET again_after = 1 WHERE again_after > 1")

    def run(expected: bytes, *, left_out: bool = False) -> None:
        for one in hosts:
            summary = one.run("sync")
            assert summary["good"]
            told = one.files("foo")[filename]["core-metadata"]
            assert told == ({"sha256": sha256(expected)} if expected else False)
            assert one.broken() == []
        assert host.status()["left_out"] == ({NOT_GIVEN: 1} if left_out else {})

    def by(sidecar: bytes) -> dict[str, str]:
        return {"sha256": sha256(sidecar)}

    announce(None, NONE)
    run(own)
    commits = watched(hosts)
    for announced, given, served in (
        (by(MADE), MADE, MADE),
        (by(OTHER), OTHER, OTHER),
        (by(MADE), MADE, MADE),
        (None, MADE, own),
        (by(OTHER), OTHER, OTHER),
        (True, OTHER, own),
        (by(OWN), OWN, OWN),
        (False, OWN, own),
    ):
        announce(announced, given)
        run(served)
    upstream.release("Foo", "2.0")
    asked = len(upstream.asked)
    run(own)
    assert not any(asking.endswith((".metadata", filename)) for asking in upstream.asked[asked:])
    for _ in range(2):  # beside what is the file's own, and beside what upstream made
        announce(by(GIVEN_LATE), b"not what is announced")
        run(own, left_out=True)
        asked = len(upstream.asked)
        upstream.release("Foo", "3.0")
        run(own, left_out=True)
        assert f"{path}.metadata" not in upstream.asked[asked:], "it is waited with"
        wait_an_hour()
        run(own, left_out=True)
        assert f"{path}.metadata" in upstream.asked[asked:]
        upstream.files[f"{path}.metadata"] = GIVEN_LATE
        wait_an_hour()
        run(GIVEN_LATE)
        announce(by(MADE), MADE)
        run(MADE)
    for _ in range(2):
        run(MADE)
    assert len(commits) > 30
    for one in hosts:
        assert one.leftovers() == []
    for lost in host.root.rglob(f"{filename}*"):
        lost.unlink()
    assert host.run("check")["repaired"]
    assert host.broken() == []


@pytest.mark.parametrize("mode", ["tier1", "origin"])
def test_a_rotten_file_is_had_again_from_where_upstream_keeps_it(
    upstream: Upstream, tier1_of: Tier1, origin_of: Callable[..., Host], mode: str
) -> None:
    upstream.release("Foo", "2.0", folder="/somewhere/else")
    host = tier1_of(upstream.url) if mode == "tier1" else origin_of(upstream.url, ["foo", "bar"])
    host.run("sync")
    for path in host.state.iterdir():
        path.unlink()
    host.run("sync")
    for path in host.root.rglob("foo-2.0-py3-none-any.whl"):
        path.unlink()
    summary = host.run("check")
    assert [path.rpartition("/")[2] for path in summary["repaired"]] == ["foo-2.0-py3-none-any.whl"]
    assert host.broken() == []


@pytest.mark.parametrize("more", ["#sha256=x", "?token=x"])
def test_a_lost_sidecar_is_had_again_from_beside_its_file_whatever_its_url_says(
    upstream: Upstream, tier1_of: Tier1, more: str
) -> None:
    (filename,) = upstream.projects["foo"].entries
    path = f"/packages/aa/bb/{filename}"
    upstream.files[f"{path}.metadata"] = MADE
    upstream.release("Foo", "1.0", url=path + more, **{"core-metadata": {"sha256": sha256(MADE)}})
    mirror = tier1_of(upstream.url)
    assert mirror.run("sync")["good"]
    for lost in mirror.root.rglob(f"{filename}.metadata"):
        lost.unlink()
    mirror.run("check")
    assert mirror.broken() == []


@pytest.mark.parametrize("mode", ["tier1", "origin"])
def test_what_is_left_out_is_counted_by_reason_and_named(
    upstream: Upstream, tier1_of: Tier1, origin_of: Callable[..., Host], mode: str
) -> None:
    upstream.release("Foo", "2.0", hashes={"sha256": "none"})
    upstream.release("Foo", "3.0", filename=".foo-3.0-py3-none-any.whl")
    host = tier1_of(upstream.url) if mode == "tier1" else origin_of(upstream.url, ["foo", "bar"])
    summary = host.run("sync")
    reasons = {
        "its name cannot be a file's on this host": 1,
        "its sha256 is none": 1,
    }
    assert summary["left_out"] == host.status()["left_out"] == reasons
    assert versions(host, "foo") == ["1.0"]
    metrics = (host.root / "metrics.prom").read_text()
    assert (
        'mirrorfleet_left_out_timestamp_seconds{project="foo",file="\'foo-2.0-py3-none-any.whl\'"' in metrics
    )
    since = metrics.partition("mirrorfleet_left_out_timestamp_seconds{")[2]
    upstream.release("Foo", "2.0")
    del upstream.projects["foo"].entries["foo-3.0-py3-none-any.whl"]
    assert host.run("sync")["left_out"] == {}
    assert since and "mirrorfleet_left_out_timestamp_seconds{" not in (host.root / "metrics.prom").read_text()


@pytest.mark.parametrize("folder", ["/packages/aa/bb", "/elsewhere"])
@pytest.mark.parametrize("kind", ["sha512", "md5", None])
def test_a_file_without_sha256_is_verified_by_what_there_is_and_fetched_once(
    upstream: Upstream, tier1_of: Tier1, kind: str | None, folder: str
) -> None:
    project = upstream.release("Foo", "2.0", folder=folder)
    filename = "foo-2.0-py3-none-any.whl"
    data = upstream.files[f"{folder}/{filename}"]
    entry = project.entries[filename]
    entry["hashes"] = {kind: hashlib.new(kind, data).hexdigest()} if kind else {}
    mirror = tier1_of(upstream.url)
    mirror.run("sync")
    assert mirror.files("foo")[filename]["hashes"] == {"sha256": hashlib.sha256(data).hexdigest()}
    upstream.asked.clear()
    upstream.release("Foo", "3.0")
    assert mirror.run("sync")["good"]
    assert versions(mirror, "foo") == ["1.0", "2.0", "3.0"]
    assert f"{folder}/{filename}" not in upstream.asked
    mirror.run("sync")
    assert mirror.broken() == mirror.leftovers() == []
    if kind:
        upstream.release("Foo", "4.0", hashes={kind: "0" * 32})
        assert f"a wrong hash: {kind}" in mirror.run("sync", expect=1)["failed"]["foo"]


def test_a_sync_that_a_guard_stops_is_said_where_everybody_looks(upstream: Upstream, tier1_of: Tier1) -> None:
    mirror = tier1_of(upstream.url)
    mirror.run("sync")
    assert mirror.status()["refused"] is None
    upstream.release("baz", "1.0")
    gone = {name: upstream.projects.pop(name) for name in ("foo", "bar")}
    mirror.run("sync", expect=4)
    assert "2 of 2 projects would disappear" in mirror.status()["refused"]
    upstream.projects |= gone
    assert mirror.run("sync")["good"]
    assert mirror.status()["refused"] is None


def test_a_project_that_the_index_names_and_has_no_page_of_leaves_in_the_same_run(
    upstream: Upstream, tier1_of: Tier1, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = tier1_of(upstream.url)
    for number in range(10):
        upstream.release(f"many{number}", "1.0")
    mirror.run("sync")
    upstream.release("Foo", "2.0")
    answer = upstream.answer
    gone = (404, "text/plain", b"", 0)
    monkeypatch.setattr(
        upstream, "answer", lambda path: gone if path in ("/simple/foo/", "/pypi/foo/json") else answer(path)
    )
    assert mirror.run("sync")["removed"] == 1
    assert "foo" not in mirror.names()


def test_a_wrong_hash_is_called_one_with_the_files_name(upstream: Upstream, tier1_of: Tier1) -> None:
    mirror = tier1_of(upstream.url)
    upstream.release("Foo", "2.0", hashes={"sha256": "0" * 64})
    failed = mirror.run("sync", expect=1)["failed"]["foo"]
    assert "foo-2.0-py3-none-any.whl" in failed
    assert "a wrong hash" in failed


@pytest.mark.parametrize("mode", ["tier1", "origin"])
def test_a_file_that_two_projects_name_comes_to_both_at_once(
    upstream: Upstream,
    tier1_of: Tier1,
    origin_of: Callable[..., Host],
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
) -> None:
    shared = upstream.release("Foo", "1.0", folder="/elsewhere").entries
    upstream.projects["bar"].entries = shared
    (filename,) = shared
    answer, both = upstream.answer, threading.Barrier(2)

    def together(path: str) -> tuple[int, str, bytes, int]:
        if path == f"/elsewhere/{filename}":
            with contextlib.suppress(threading.BrokenBarrierError):
                both.wait(1)
        return answer(path)

    upstream.projects["bar"].versions = upstream.projects["foo"].versions
    upstream.projects["bar"].sizes = upstream.projects["foo"].sizes
    monkeypatch.setattr(upstream, "answer", together)
    host = tier1_of(upstream.url) if mode == "tier1" else origin_of(upstream.url, ["foo", "bar"])
    assert host.run("sync")["good"]
    assert filename in host.files("foo") and filename in host.files("bar")
    assert host.broken() == host.leftovers() == []


@pytest.mark.parametrize(
    "path", ["/elsewhere/{}", "/packages-of/{}", "/packages/aa/bb/other.whl", "/packages/{}"]
)
def test_each_file_is_fetched_once_wherever_upstream_keeps_it(
    upstream: Upstream, tier1_of: Tier1, path: str
) -> None:
    path = path.format("foo-2.0-py3-none-any.whl")
    project = upstream.release("Foo", "2.0")
    upstream.files[path] = upstream.files.pop("/packages/aa/bb/foo-2.0-py3-none-any.whl")
    project.entries["foo-2.0-py3-none-any.whl"]["url"] = path
    mirror = tier1_of(upstream.url)
    assert mirror.run("sync")["good"]
    assert versions(mirror, "foo") == ["1.0", "2.0"]
    for version in ("3.0", "4.0"):
        upstream.release("Foo", version)
        assert mirror.run("sync")["good"]
    assert upstream.asked.count(path) == 1
    assert mirror.broken() == []
    # Where bandersnatch keeps it elsewhere, it is that same file: nothing lies there twice.
    names = (path.rpartition("/")[2], "foo-2.0-py3-none-any.whl")
    kept = [one for name in names for one in (mirror.fetched / "web").rglob(name)]
    assert kept and len({one.stat().st_ino for one in kept}) == 1
