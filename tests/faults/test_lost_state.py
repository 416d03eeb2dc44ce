"""The state is lost, of another moment than the tree, or corrupt: a run makes it anew from what is served."""

import functools
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from faults.fleet import Host, Mirror, Origin, Tier2

PROJECTS = ["alpha", "beta", "gamma-delta"]


class Pair:
    """An origin and what follows it."""

    def __init__(self, origin: Origin, host: Host) -> None:
        self.origin, self.host = origin, host

    def run(self) -> None:
        if self.host is not self.origin:
            self.origin.publish()
        self.host.run("sync")


@pytest.fixture(params=["origin", "mirror", "tier2"])
def pair(request: pytest.FixtureRequest, origin: Origin) -> Pair:
    for host in {request.param, "origin"}:
        request.getfixturevalue(host).configure(maximum_shrink_share=0.5)
    pair = Pair(origin, request.getfixturevalue(request.param))
    if isinstance(pair.host, Mirror):
        pair.host.select([*PROJECTS, "delta"])
    pair.run()
    return pair


def keep(folder: Path, where: Path) -> Callable[[], None]:
    """A copy of what is there; and how it comes back."""
    shutil.copytree(folder, where, symlinks=True)

    def bring_back() -> None:
        shutil.rmtree(folder)
        shutil.copytree(where, folder, symlinks=True)

    return bring_back


def ends_as_the_origin(pair: Pair) -> None:
    host, origin = pair.host, pair.origin
    expected = sorted(path.name for path in origin.local.iterdir())
    assert host.names() == expected == sorted(link.name for link in (host.served / "simple").glob("[!i]*"))
    for name in expected:
        assert sorted(host.files(name)) == sorted(path.name for path in (origin.local / name).glob("*[lz]"))
    assert host.broken() == []
    for _ in range(2):
        pair.run()
    assert host.broken() == []
    host.run("check")
    assert host.broken() == host.leftovers() == []


def change(origin: Origin) -> None:
    origin.release("alpha", "3.0")
    origin.withdraw("alpha", "1.0")
    origin.delete("beta")


def test_a_state_that_is_lost_is_made_anew_and_what_upstream_removed_leaves(pair: Pair) -> None:
    change(pair.origin)
    fresh = pair.host.status()["last_success"]
    serial = pair.host.status()["serial"]
    shutil.rmtree(pair.host.state)
    pair.run()
    assert "3 projects are noted as they are served" in pair.host.log
    assert pair.host.status()["serial"] > serial
    assert pair.host.status()["last_success"] >= fresh
    ends_as_the_origin(pair)


def test_an_older_state_that_is_restored_takes_nothing_away(pair: Pair, tmp_path: Path) -> None:
    pair.origin.withdraw("gamma-delta", "1.0")
    pair.run()  # its files are about to be deleted
    bring_back = keep(pair.host.state, tmp_path / "kept")
    pair.origin.release("gamma-delta", "1.0")
    change(pair.origin)
    pair.run()
    bring_back()
    pair.run()
    ends_as_the_origin(pair)


def test_an_older_tree_that_is_restored_is_brought_up_to_date(pair: Pair, tmp_path: Path) -> None:
    bring_back = keep(pair.host.served, tmp_path / "kept")
    change(pair.origin)
    pair.origin.release("delta", "1.0")
    pair.run()
    pair.run()
    bring_back()
    pair.run()
    ends_as_the_origin(pair)


def test_tree_and_state_of_any_two_times_end_as_the_origin(pair: Pair, tmp_path: Path) -> None:
    """Each of former, new and lost of one with each of the other, in an order that is another each time."""
    host, folders = pair.host, (pair.host.served, pair.host.state)
    kept = {"former": [keep(folder, tmp_path / f"former-{folder.name}") for folder in folders]}
    change(pair.origin)
    pair.origin.release("delta", "1.0")
    pair.run()
    kept["new"] = [keep(folder, tmp_path / f"new-{folder.name}") for folder in folders]
    kept["lost"] = [functools.partial(shutil.rmtree, folder) for folder in folders]
    serial, files = host.status()["serial"], host.files("alpha").keys()
    times = [(tree, state) for tree in kept for state in kept if (tree, state) != ("new", "new")]
    random.shuffle(times)
    for tree, state in times:
        kept[tree][0]()
        kept[state][1]()
        pair.run()
        where = f"tree {tree}, state {state}, of {times}"
        assert host.names() == ["alpha", "delta", "gamma-delta"], where
        assert host.files("alpha").keys() == files, where
        assert host.status()["serial"] >= serial, where
        assert host.broken() == [], where
        pair.run()
        assert host.broken() == host.leftovers() == list((host.served / "pages").glob("beta")) == [], where


def test_a_lost_state_keeps_what_a_mirror_says_of_itself_while_upstream_is_away(
    mirror: Mirror, site: object
) -> None:
    mirror.run("sync")
    before = mirror.status()
    shutil.rmtree(mirror.state)
    site.stop()  # type: ignore[attr-defined]
    mirror.run("sync", expect=1)
    assert mirror.names() == PROJECTS
    after = mirror.status()
    for key in ("serial", "projects", "files", "bytes", "last_success"):
        assert after[key] == before[key]
    root = json.loads((mirror.served / "simple/index.v1_json").read_bytes())
    assert root["meta"]["_last-serial"] == before["serial"]


@pytest.mark.parametrize("damage", ["no database", "a page of it", "at its end"])
def test_a_corrupt_state_is_set_aside_and_made_anew(pair: Pair, damage: str) -> None:
    database = pair.host.state / "mirrorfleet.sqlite"
    data = database.read_bytes()
    for beside in pair.host.state.glob("mirrorfleet.sqlite-*"):
        beside.unlink()
    if damage == "no database":
        spoilt = b"\xff" * len(data)
    elif damage == "a page of it":
        spoilt = data[:8192] + b"\xa5" * (len(data) - 8192)
    else:
        spoilt = data[: len(data) // 2 // 4096 * 4096]
    database.write_bytes(spoilt)
    change(pair.origin)
    pair.run()
    assert (pair.host.state / "mirrorfleet.sqlite.corrupt").read_bytes()[:100] == spoilt[:100]
    assert "is corrupt and set aside" in pair.host.log
    assert pair.host.metric("state_set_aside_timestamp_seconds") > 0
    ends_as_the_origin(pair)


def test_a_tree_and_a_state_of_one_moment_are_not_compared(tier2: Tier2) -> None:
    tier2.run("sync")
    tier2.run("sync")
    assert "noted as they are served" not in tier2.log
    assert "full pass" not in tier2.log


@pytest.mark.parametrize("wanted", [False, True])
def test_a_project_that_a_kill_left_half_removed_is_there_or_gone_altogether(
    origin: Origin, wanted: bool
) -> None:
    """Its first link had left; whether upstream has it still, or again."""
    (origin.served / "simple/beta").unlink()
    (origin.served / "journal/moment").write_bytes(b"")
    if not wanted:
        origin.delete("beta")
    origin.publish()
    assert ("beta" in origin.names()) == wanted
    for link in ("simple/beta", "pypi/beta", "pages/beta/cur"):
        assert (origin.served / link).is_symlink() == wanted, link
    for _ in range(2):
        origin.publish()
    assert origin.broken() == origin.leftovers() == []
