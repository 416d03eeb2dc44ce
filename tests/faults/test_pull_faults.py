"""A tier-2 with the real rsync, against a tier-1 that changes, loses, breaks and lies."""

import contextlib
import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from faults.fleet import DEADLINE, Daemon, Host, Origin, Tier2

from mirrorfleet.common.wheels import MAX_METADATA
from mirrorfleet.served.tree import PAGES, snapshot_name

PROJECTS = ["alpha", "beta", "gamma-delta"]


def same(left: Host, right: Host) -> None:
    assert left.names() == right.names()
    assert left.status()["serial"] == right.status()["serial"]
    for name in right.names():
        for page in (f"simple/{name}/index.html", f"simple/{name}/index.v1_json", f"pypi/{name}/json"):
            assert (left.served / page).read_bytes() == (right.served / page).read_bytes()
    assert left.broken() == []


def rewrite_journal(origin: Origin, *lines: str) -> None:
    """What a tier-1 that is broken or hostile could write."""
    segment = max((origin.served / "journal").glob("*.jsonl"))
    with segment.open("a") as stream:
        stream.writelines(f"{line}\n" for line in lines)


def test_a_pull_brings_what_changed_and_a_chain_works(origin: Origin, tier2: Tier2, tmp_path: Path) -> None:
    assert tier2.run("sync")["changed"] == 3
    same(tier2, origin)
    assert tier2.run("sync")["changed"] == 0
    assert "full pass" not in tier2.log
    tier3 = Tier2(tmp_path / "tier3", str(tier2.served))
    tier3.run("pull")
    origin.release("alpha", "3.0")
    origin.withdraw("beta", "1.0")
    origin.facts("beta", yanked={"2.0": "because"})
    origin.delete("gamma-delta")
    origin.publish()
    for tier in (tier2, tier3):
        summary = tier.run("sync")
        assert (summary["changed"], summary["removed"]) == (2, 1)
        assert "full pass" not in tier.log
        same(tier, origin)
    for host in (origin, tier2, tier3):
        # The web server leads through this link: from now on it answers 404.
        assert not (host.served / "pages/gamma-delta/cur").is_symlink()
    for tier in (tier2, tier3):
        tier.run("sync")
        assert tier.leftovers() == []
        assert (tier.served / "last-modified").read_text() == (origin.served / "last-modified").read_text()


def test_what_changes_within_a_second_is_seen(origin: Origin, tier2: Tier2) -> None:
    tier2.run("sync")
    told = origin.served / "mirror.json"
    at = told.stat().st_mtime_ns // 10**9 * 10**9
    origin.release("beta", "3.0")
    origin.publish()
    # As if both states of the tier-1 were of one second, which they often are.
    os.utime(told, ns=(at + 1, at + 1))
    size = told.stat().st_size
    os.utime(tier2.fetched / "upstream/mirror.json", ns=(at, at))
    assert (tier2.fetched / "upstream/mirror.json").stat().st_size == size
    tier2.run("sync")
    same(tier2, origin)


def test_a_reinstalled_tier1_is_compared_with(origin: Origin, tier2: Tier2) -> None:
    tier2.run("sync")
    origin.release("beta", "3.0")
    shutil.rmtree(origin.served / "journal")
    origin.publish()
    assert tier2.run("sync")["changed"] == 1
    assert "full pass" in tier2.log
    same(tier2, origin)
    assert tier2.run("sync")["changed"] == 0
    assert "full pass" not in tier2.log


def test_a_journal_that_was_rotated_away_is_compared_with(origin: Origin, tier2: Tier2) -> None:
    tier2.run("sync")
    origin.release("beta", "3.0")
    origin.publish()
    journal = origin.served / "journal"
    head = json.loads((journal / "head.json").read_text())
    (journal / "00000001.jsonl").unlink()
    (journal / "00000009.jsonl").write_text("")
    (journal / "head.json").write_text(json.dumps(head | {"oldest": 9, "newest": 9}))
    assert tier2.run("sync")["changed"] == 1
    assert "full pass" in tier2.log
    same(tier2, origin)


def test_lines_that_are_none_are_refused_and_made_up_for(origin: Origin, tier2: Tier2) -> None:
    tier2.run("sync")
    rewrite_journal(
        origin,
        "half a line [",
        "[" * 100_000,
        "{}",
        '["page", "../../etc", "s-1-0123456789abcdef"]',
        '["page", "alpha", "../../../etc"]',
        '["page", "alpha", "s-1-0123456789abcde\\u0000"]',
        '["page", "' + "x" * 5000 + '", "s-1-0123456789abcdef"]',
        '["page", 7]',
        '["gone", "../alpha"]',
    )
    origin.release("beta", "3.0")
    origin.publish()
    tier2.run("sync")
    assert "journal: 3 broken and 6 refused lines" in tier2.log
    same(tier2, origin)
    tier2.run("sync")
    assert "full pass" not in tier2.log


def test_a_line_being_written_is_left_for_the_next_pass(origin: Origin, tier2: Tier2) -> None:
    tier2.run("sync")
    segment = max((origin.served / "journal").glob("*.jsonl"))
    whole = segment.read_bytes()
    segment.write_bytes(whole + b'["page", "al')
    assert tier2.run("sync")["changed"] == 0
    assert "broken" not in tier2.log
    segment.write_bytes(whole + b'["page", "alpha", "s-1-0123456789abcdef"]\n')
    assert list(tier2.run("sync", expect=1)["incomplete"]) == ["alpha"]


def spoil(path: Path, fault: str) -> None:
    data = path.read_bytes()
    path.unlink()
    if fault == "rotten":
        path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    if fault == "truncated":
        path.write_bytes(data[:-1])
    if fault == "symlink":
        path.symlink_to("/etc/passwd")


def test_bad_files_at_the_tier1_keep_their_projects_pages(origin: Origin, tier2: Tier2) -> None:
    spoiled = {
        f"{fault}-{kind}": (fault, pattern)
        for fault in ("lost", "rotten", "truncated", "symlink")
        for kind, pattern in (("file", "-3.0.tar.gz"), ("sidecar", "-3.0-py3-none-any.whl.metadata"))
    }
    for name in spoiled:
        origin.release(name, "1.0")
    origin.publish()
    tier2.run("sync")
    for name in ("beta", *spoiled):
        origin.release(name, "3.0")
    origin.publish()
    good: dict[Path, bytes] = {}
    for name, (fault, pattern) in spoiled.items():
        path = next((origin.served / "packages").rglob(f"{name.replace('-', '_')}{pattern}"))
        good[path] = path.read_bytes()
        spoil(path, fault)
    assert sorted(tier2.run("sync", expect=1)["incomplete"]) == sorted(spoiled)
    assert tier2.broken() == []
    for name in spoiled:
        assert len(tier2.files(name)) == 2
    assert "beta-3.0.tar.gz" in tier2.files("beta")
    for path, data in good.items():
        path.unlink(missing_ok=True)
        path.write_bytes(data)
    tier2.run("sync")
    same(tier2, origin)
    tier2.run("sync")
    assert tier2.leftovers() == []


def test_a_rotten_project_at_the_tier1_is_set_aside_and_the_clock_goes_on(
    origin: Origin, tier2: Tier2
) -> None:
    tier2.configure(tries_before_set_aside=2)
    tier2.run("sync")
    before = tier2.status()
    for name in ("alpha", "beta"):
        origin.release(name, "3.0")
    time.sleep(1.1)  # last-modified has a resolution of a second
    origin.publish()
    lost = next((origin.served / "packages").rglob("alpha-3.0.tar.gz"))
    data = lost.read_bytes()
    lost.unlink()
    assert list(tier2.run("sync", expect=1)["incomplete"]) == ["alpha"]
    assert tier2.status()["last_success"] == before["last_success"]
    assert tier2.reasons() == ({"not found": 1}, {})
    summary = tier2.run("sync")
    assert list(summary["incomplete"]) == ["alpha"]
    assert tier2.status()["set_aside"] == ["alpha"]
    assert tier2.reasons() == ({}, {"not found": 1})
    assert "project alpha is set aside after 2 tries: packages/" in tier2.log
    assert tier2.status()["last_success"] == origin.status()["last_success"] > before["last_success"]
    assert tier2.status()["serial"] == origin.status()["serial"]
    assert "beta-3.0.tar.gz" in tier2.files("beta")
    assert "alpha-3.0.tar.gz" not in tier2.files("alpha")
    time.sleep(1.1)
    origin.release("gamma-delta", "3.0")
    origin.publish()
    assert tier2.run("sync")["incomplete"] == {}  # it is not asked for at each run
    assert "gamma_delta-3.0.tar.gz" in tier2.files("gamma-delta")
    assert tier2.status()["set_aside"] == ["alpha"]
    assert tier2.status()["last_success"] == origin.status()["last_success"]
    lost.write_bytes(data)
    assert tier2.run("pull", "--full")["changed"] == 1
    assert tier2.status()["set_aside"] == []
    same(tier2, origin)


def test_a_project_that_is_set_aside_is_tried_again_when_it_changes_or_is_due_and_forgotten_when_gone(
    origin: Origin, tier2: Tier2, monkeypatch: pytest.MonkeyPatch
) -> None:
    tier2.configure(tries_before_set_aside=1)
    tier2.run("sync")
    for name in PROJECTS:
        origin.release(name, "3.0")
    origin.publish()
    lost = [
        path
        for name in ("alpha", "beta", "gamma_delta")
        for path in origin.served.rglob(f"{name}-3.0.tar.gz")
    ]
    kept = [path.read_bytes() for path in lost]
    for path in lost:
        path.unlink()
    assert sorted(tier2.run("sync")["incomplete"]) == PROJECTS
    for path, data in zip(lost, kept, strict=True):
        path.write_bytes(data)
    origin.release("alpha", "4.0")
    origin.delete("gamma-delta")
    origin.publish()
    assert tier2.run("sync")["changed"] == 1
    assert tier2.status()["set_aside"] == ["beta"]
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 7300.0)
    assert tier2.run("sync")["changed"] == 1
    assert tier2.status()["set_aside"] == []
    same(tier2, origin)


def test_what_fails_at_once_is_the_tier1s_fault_and_stops_the_clock(origin: Origin, tier2: Tier2) -> None:
    tier2.configure(tries_before_set_aside=1)
    tier2.run("sync")
    before = tier2.status()
    names = [f"many-{number}" for number in range(11)]
    for name in names:
        origin.release(name, "1.0")
    origin.publish()
    for path in list((origin.served / "packages").rglob("many_*.tar.gz")):
        path.unlink()
    for _ in range(2):
        assert sorted(tier2.run("sync", expect=1)["incomplete"]) == sorted(names)
        assert tier2.reasons() == ({"not found": 11}, {})
        assert tier2.status()["last_success"] == before["last_success"]


# A lease (fcntl(2)) tells when rsync opens a file that it has listed and is about to send, and keeps it waiting.
GROWS = """
import fcntl, os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGIO})
waiting = [os.open(path, os.O_RDWR) for path in sys.argv[1:]]
for file in waiting:
    fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print("ready", flush=True)
while waiting:
    signal.sigwait({signal.SIGIO})
    for file in [one for one in waiting if fcntl.fcntl(one, fcntl.F_GETLEASE) != fcntl.F_WRLCK]:
        os.ftruncate(file, 300 << 20)
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        waiting.remove(file)
"""


@contextlib.contextmanager
def growing(*paths: Path) -> Iterator[None]:
    """A sender that lists some bytes of each and sends 300 MB."""
    with subprocess.Popen([sys.executable, "-c", GROWS, *paths], stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None and holder.stdout.readline() == b"ready\n"
            yield
            assert holder.wait(DEADLINE) == 0
        finally:
            holder.kill()


@pytest.mark.parametrize("listed", ["as it is", "as announced"])
def test_what_is_larger_than_announced_never_reaches_the_disk(
    origin: Origin, tier2: Tier2, tmp_path: Path, listed: str
) -> None:
    """A hostile tier-1: a file that its page announces as some bytes, and a sidecar, are of hundreds of megabytes."""
    most = tmp_path / "most"
    watched = tmp_path / "rsync"
    # What the stage holds after each transfer, and a partial file is kept to be seen.
    watched.write_text(
        f'#!/bin/sh\nrsync --partial "$@"; code=$?\ndu -sb {tier2.fetched} | cut -f1 >> {most}\nexit $code\n'
    )
    watched.chmod(0o755)
    tier2.configure(rsync={**tier2.document["rsync"], "program": str(watched)})
    tier2.run("sync")
    for name in PROJECTS:
        origin.release(name, "3.0")
    origin.release("gamma-delta", "4.0", size=1_000_000)
    origin.publish()
    large = []
    for pattern in ("alpha-3.0.tar.gz", "beta-3.0-py3-none-any.whl.metadata"):
        path = next((origin.served / "packages").rglob(pattern))
        data = path.read_bytes()
        path.unlink()
        path.write_bytes(data)
        large.append(path)
        if listed == "as it is":
            os.truncate(path, 300 << 20)
    with growing(*large) if listed == "as announced" else contextlib.nullcontext():
        assert sorted(tier2.run("sync", expect=1)["incomplete"]) == ["alpha", "beta"]
    assert "gamma_delta-4.0.tar.gz" in tier2.files("gamma-delta")
    # A page does not say how long a sidecar is: what is too long for any is cut there.
    assert max(map(int, most.read_text().split())) < 3_000_000 + MAX_METADATA * (listed == "as announced")
    assert tier2.broken() == []


def snapshot_of(origin: Origin, name: str) -> Path:
    return origin.served / "pages" / name / os.readlink(origin.served / "pages" / name / "cur")


def test_pages_that_are_not_what_their_name_says_are_refused(origin: Origin, tier2: Tier2) -> None:
    tier2.run("sync")
    changed = dict(zip(PROJECTS, PAGES, strict=True))
    for name in changed:
        origin.release(name, "3.0")
    origin.publish()
    paths = [snapshot_of(origin, name) / page for name, page in changed.items()]
    good = {path: path.read_bytes() for path in paths}
    for path, data in good.items():
        path.write_bytes(data.replace(b"-3.0", b"-6.6"))
    incomplete = tier2.run("sync", expect=1)["incomplete"]
    assert sorted(incomplete) == PROJECTS
    assert all("another hash" in reason for reason in incomplete.values())
    for name in PROJECTS:
        assert len(tier2.files(name)) == 4
    for path, data in good.items():
        path.write_bytes(data)
    tier2.run("sync")
    same(tier2, origin)


def announce(origin: Origin, name: str, contents: dict[str, bytes]) -> Path:
    """Pages of a project that its tier-1 names rightly, whatever they say."""
    serial = json.loads(contents["simple/index.v1_json"])["meta"]["_last-serial"]
    snapshot = snapshot_of(origin, name).parent / snapshot_name(serial, contents)
    for page, data in contents.items():
        (snapshot / page).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / page).write_bytes(data)
    rewrite_journal(origin, json.dumps(["page", name, snapshot.name]))
    return snapshot


def test_hostile_pages_with_a_right_name_are_refused(origin: Origin, tier2: Tier2) -> None:
    hostile: dict[str, tuple[dict[str, Any], str]] = {
        "escaping": ({"url": "../../packages/../../../etc/passwd", "filename": "passwd"}, "not a page"),
        "elsewhere": ({"url": "https://elsewhere.test/packages/a/x.whl"}, "not a file of this tree"),
        "negative": ({"size": -1}, "size or hash"),
        "unhashed": ({"hashes": {"sha256": "../../etc"}}, "size or hash"),
        "mistyped": ({"core-metadata": {"sha256": 7}}, "not a page"),
        "hashless": ({"hashes": 7}, "not a page"),
    }
    for name in hostile:
        origin.release(name, "1.0")
    origin.publish()
    tier2.run("sync")
    for name, (change, _) in hostile.items():
        former = snapshot_of(origin, name)
        contents = {page: (former / page).read_bytes() for page in PAGES}
        document = json.loads(contents["simple/index.v1_json"])
        document["files"][0] |= change
        contents["simple/index.v1_json"] = json.dumps(document).encode()
        announce(origin, name, contents)
    before = {name: tier2.page(name) for name in hostile}
    incomplete = tier2.run("sync", expect=1)["incomplete"]
    for name, (_, message) in hostile.items():
        assert message in incomplete[name]
        assert tier2.page(name) == before[name]
    assert tier2.broken() == []


def exchange(origin: Origin, name: str, path: str, data: bytes) -> None:
    """What a tier-1 that was installed anew may do: other bytes are under a path, and its pages say so."""
    former = snapshot_of(origin, name)
    was = hashlib.sha256((origin.served / path).read_bytes()).hexdigest().encode()
    now = hashlib.sha256(data).hexdigest().encode()
    contents = {page: (former / page).read_bytes().replace(was, now) for page in PAGES}
    (origin.served / path).unlink()
    (origin.served / path).write_bytes(data)
    snapshot = announce(origin, name, contents)
    (former.parent / "cur").unlink()
    (former.parent / "cur").symlink_to(snapshot.name)


@pytest.mark.parametrize("what", ["file", "sidecar"])
def test_bytes_that_change_under_their_path_switch_with_the_page_or_not_at_all(
    origin: Origin, tier2: Tier2, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """After each step of a run, as whoever reads then or a kill would find it."""
    tier2.run("sync")
    wheel = origin.files("alpha")["alpha-1.0-py3-none-any.whl"]["url"].removeprefix("../../")
    path = wheel if what == "file" else f"{wheel}.metadata"
    former = (origin.served / path).read_bytes()
    other = former[:-1] + bytes([former[-1] ^ 1])
    exchange(origin, "alpha", path, other)
    mixes: list[list[str]] = []

    def watched(step: Any) -> Any:
        def done(*arguments: Any, **options: Any) -> None:
            step(*arguments, **options)
            mixes.append(tier2.broken())

        return done

    with monkeypatch.context() as patch:
        for name in ("replace", "rename", "link", "unlink"):
            patch.setattr(os, name, watched(getattr(os, name)))
        assert tier2.run("sync")["changed"] == 1
    assert len(mixes) > 5 and not any(mixes)

    def place() -> Path:
        here = tier2.files("alpha")["alpha-1.0-py3-none-any.whl"]["url"].removeprefix("../../")
        return tier2.served / (here if what == "file" else f"{here}.metadata")

    assert place().read_bytes() == other
    assert tier2.run("pull", "--full")["changed"] == 0
    tier3 = Tier2(tmp_path / "tier3", str(tier2.served))
    tier3.run("sync")
    same(tier3, tier2)
    # What rots is had again, and from then on by the path that the tier above has it by.
    place().unlink()
    tier2.run("check", expect=None)
    tier2.run("sync")
    assert place().read_bytes() == other
    exchange(origin, "alpha", path, former)
    for _ in range(3):
        tier2.run("sync")
    assert place().read_bytes() == former
    assert tier2.broken() == tier2.leftovers() == []


def test_a_tier1_that_lost_its_projects_is_not_followed(origin: Origin, tier2: Tier2) -> None:
    tier2.run("sync")
    shutil.rmtree(origin.served / "pages")
    (origin.served / "pages").mkdir()
    tier2.run("pull", "--full", expect=4)
    assert "would disappear" in tier2.log
    assert tier2.names() == PROJECTS
    assert tier2.broken() == []


@pytest.mark.parametrize("absent", ["journal", "mirror.json"])
def test_a_source_that_is_no_mirror_is_refused(origin: Origin, tier2: Tier2, absent: str) -> None:
    (origin.served / absent).rename(origin.root / "away")
    tier2.run("sync", expect=1)
    assert "is no mirror of a fleet" in tier2.log
    assert not (tier2.fetched / "stage").exists()


def test_a_tier1_that_is_down_changes_nothing(tier2: Tier2, daemon: Daemon) -> None:
    tier2.run("sync")
    fresh = tier2.status()["last_success"]
    daemon.stop()
    tier2.run("sync", expect=1)
    assert "rsync from rsync://" in tier2.log
    assert tier2.broken() == []
    assert tier2.status()["last_success"] == fresh


def test_a_project_that_a_kill_left_switched_but_not_noted_is_noted_as_it_is_served(
    origin: Origin, tier2: Tier2
) -> None:
    tier2.run("sync")
    state = tier2.state / "mirrorfleet.sqlite"
    before = state.with_name("before")
    with contextlib.closing(sqlite3.connect(state)) as db:
        db.execute("VACUUM INTO ?", (str(before),))
    origin.release("beta", "3.0")
    origin.publish()
    tier2.run("sync")
    # The served tree is of now, what was noted is of then.
    for path in tier2.state.glob("mirrorfleet.sqlite*"):
        path.unlink()
    before.rename(state)
    (tier2.served / "pages/_root/cur").unlink()
    tier2.run("sync")
    assert "1 projects are noted as they are served, 0 are not" in tier2.log
    same(tier2, origin)
    tier2.run("sync")
    assert tier2.leftovers() == []


def test_a_listing_that_broke_off_takes_nothing_away(origin: Origin, tier2: Tier2, tmp_path: Path) -> None:
    tier2.run("sync")
    broken = tmp_path / "rsync"
    # rsync ends with 23 when the other side cannot read a directory: what it lists is not all there is.
    broken.write_text('#!/bin/sh\nrsync "$@" | grep -v beta; case "$*" in *list-only*) exit 23;; esac\n')
    broken.chmod(0o755)
    settings = tier2.document["rsync"]
    tier2.configure(rsync={**settings, "program": str(broken)}, maximum_shrink_share=1.0)
    tier2.run("pull", "--full", expect=1)
    assert "exit 23" in tier2.log
    tier2.configure(rsync=settings)
    assert tier2.names() == PROJECTS
    assert tier2.broken() == []


def test_a_full_pass_is_an_audit(origin: Origin, tier2: Tier2) -> None:
    tier2.run("sync")
    next((tier2.served / "packages").rglob("alpha-1.0.tar.gz")).unlink()
    next((tier2.served / "packages").rglob("beta-1.0*.metadata")).unlink()
    (tier2.served / "pages/gamma-delta/cur").unlink()
    assert tier2.run("pull", "--full")["changed"] == 3
    same(tier2, origin)
    assert tier2.leftovers() == []


def test_a_tier2_may_select(origin: Origin, tier2: Tier2) -> None:
    tier2.configure(selection={"projects": ["alpha", "beta"]})
    tier2.run("sync")
    assert tier2.names() == ["alpha", "beta"]
    tier2.configure(selection={"blocklist": ["beta"]})
    tier2.run("sync")
    assert tier2.names() == ["alpha", "gamma-delta"]
    tier2.run("sync")
    assert tier2.leftovers() == []
