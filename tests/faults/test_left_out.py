"""What a selection leaves out is the same in every mode: our filters in the real bandersnatch, no run without."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from faults.fleet import BANDERSNATCH, Host, Mirror, Origin, Site, sdist, wheel

# By the order in which they are kept: the newest final one, the newest others, names that PEP 440 does not know.
RELEASES = ["2.0", "4.0", "3.0rc1", "1.0", "2004d", "1.0-dev-r1"]


@pytest.fixture
def upstream(origin: Origin, site: Site) -> Site:
    """One project with a final release, an older one, a pre-release, a yanked one, and names of before PEP 440."""
    for version in ("3.0rc1", "4.0"):
        origin.release("alpha", version)
    origin.facts("alpha", yanked={"4.0": "broken"})
    origin.publish()
    pages = Path(os.path.realpath(origin.served / "simple/alpha")).parent
    page, document = pages / "simple/index.v1_json", pages / "pypi/json"
    listed, known = json.loads(page.read_bytes()), json.loads(document.read_bytes())
    for version in ("2004d", "1.0-dev-r1"):
        name, data = f"alpha-{version}.tar.gz", sdist("alpha", version)
        digest = hashlib.sha256(data).hexdigest()
        path = f"packages/{digest[:2]}/{digest[2:4]}/{digest[4:]}/{name}"
        (origin.served / path).parent.mkdir(parents=True)
        (origin.served / path).write_bytes(data)
        entry = {"filename": name, "size": len(data), "yanked": False}
        listed["files"].append(entry | {"url": f"../../{path}", "hashes": {"sha256": digest}})
        like = known["releases"]["1.0"][0]
        known["releases"][version] = [
            like
            | entry
            | {"url": f"{site.url}/{path}", "digests": {"sha256": digest}, "packagetype": "sdist"}
        ]
    page.write_text(json.dumps(listed))
    document.write_text(json.dumps(known))
    return site


def files(releases: list[str]) -> set[str]:
    wheels = {f"alpha-{release}-py3-none-any.whl" for release in releases if "d" not in release}
    return wheels | {f"alpha-{release}.tar.gz" for release in releases}


def test_a_mirror_keeps_what_an_origin_keeps_and_fetches_nothing_else(
    upstream: Site, serve: Callable[[Path], Site], tmp_path: Path
) -> None:
    mirror = Mirror(tmp_path / "mirror", upstream.url, ["alpha", "beta"])
    dump = Host(tmp_path / "dump", "origin", index_url=f"{upstream.url}/simple/")
    for kept in (1, 2, 3, 5, 9):
        mirror.select(["alpha", "beta"], releases_kept=kept)
        dump.configure(selection={"projects": ["alpha", "beta"], "releases_kept": kept})
        for host in (mirror, dump):
            assert host.run("sync")["good"]
            assert set(host.files("alpha")) == files(RELEASES[:kept])
            assert host.broken() == []
        brought = (mirror.fetched / "web/packages").rglob("alpha*")
        assert {path.name for path in brought if path.suffix != ".metadata"} == files(RELEASES[:kept])
        info = json.loads((mirror.served / "pypi/alpha/json").read_bytes())["info"]
        assert info["version"] in RELEASES[:kept]
        if kept in (1, 9):  # the next tier keeps as many others, of what is there
            below = Mirror(tmp_path / f"below{kept}", serve(mirror.served).url, ["alpha", "beta"])
            below.select(["alpha", "beta"], releases_kept=10 - kept)
            assert below.run("sync")["good"]
            assert set(below.files("alpha")) == files(RELEASES[:1])


def test_a_release_of_which_the_platforms_leave_nothing_is_none_of_the_newest(
    origin: Origin, site: Site, tmp_path: Path
) -> None:
    for tag in ("cp313-cp313-win_arm64", "cp313-cp313-manylinux_2_28_x86_64"):
        (origin.local / f"beta/beta-3.0-{tag}.whl").write_bytes(wheel("beta", "3.0"))
    (origin.local / "beta/beta-2.0-py2.py3-none-any.whl").write_bytes(wheel("beta", "2.0"))
    origin.publish()
    selection = {"releases_kept": 1, "platforms_excluded": ["windows", "linux", "py2"]}
    mirror = Mirror(tmp_path / "mirror", site.url, ["beta"])
    mirror.select(["beta"], **selection)
    dump = Host(
        tmp_path / "dump",
        "origin",
        index_url=f"{site.url}/simple/",
        selection={"projects": ["beta"], **selection},
    )
    for host in (mirror, dump):
        assert host.run("sync")["good"]
        assert sorted(host.files("beta")) == [
            "beta-2.0-py2.py3-none-any.whl",
            "beta-2.0-py3-none-any.whl",
            "beta-2.0.tar.gz",
        ]
        assert host.broken() == []
    brought = (mirror.fetched / "web/packages").rglob("*.whl")
    assert {path.name.split("-")[1] for path in brought} == {"2.0"}


def test_without_our_filters_no_run_begins(upstream: Site, tmp_path: Path) -> None:
    """bandersnatch passes over the name of a plugin that it does not have, and would mirror every release."""
    mirror = Mirror(tmp_path / "mirror", upstream.url, ["alpha"])
    mirror.select(["alpha"], releases_kept=1, platforms_excluded=["windows"])
    mirror.configure(bandersnatch=mirror.document["bandersnatch"] | {"program": str(BANDERSNATCH)})
    mirror.run("sync", expect=4)
    lacking = "mirrorfleet_names, mirrorfleet_newest, mirrorfleet_places, mirrorfleet_platforms"
    assert f"has no plugin {lacking}, and would fetch what" in mirror.log
    assert not (mirror.fetched / "web").exists()


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ("keep = 1", "keep = 0"),
        ("keep = 1", "keep = some"),
        ("keep = 1", "kept = 1"),
        ("excluded = windows", "excluded ="),
        ("excluded = windows", "platforms = windows"),
    ],
)
def test_a_filter_that_does_not_say_what_it_leaves_out_lets_nothing_begin(
    upstream: Site, tmp_path: Path, before: str, now: str
) -> None:
    mirror = Mirror(tmp_path / "mirror", upstream.url, ["alpha"])
    mirror.select(["alpha"], releases_kept=1, platforms_excluded=["windows"])
    config = mirror.root / "bandersnatch.conf"
    config.write_text(config.read_text().replace(before, now))
    mirror.run("sync", expect=1)
    assert "bandersnatch did not get through: exit code 1" in mirror.log
    assert not (mirror.fetched / "web/packages").exists()
