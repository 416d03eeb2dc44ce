"""Does a client get from a mirror what it would get from upstream? Of made-up upstreams, in each mode, file by file.

The seed of each upstream is in its test's name; DIFFERENTIAL_SEED=n runs that one.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from differential.allowed import LEFT_OUT, same_file, same_project
from differential.hostile import Upstream
from faults.fleet import Host, Mirror, Site, Tier2

HOUSE = Path(__file__).parents[2]
UPSTREAMS = int(os.environ.get("UPSTREAMS", "12"))
SIZE, STATES = 40, 4
FIRST = 1
SEEDS = (
    [int(os.environ["DIFFERENTIAL_SEED"])]
    if "DIFFERENTIAL_SEED" in os.environ
    else range(FIRST, FIRST + UPSTREAMS)
)


class Reader:
    """A client in a process of its own, so that it starts once."""

    def __init__(self) -> None:
        command = [HOUSE / "build/clients/bin/python", Path(__file__).with_name("reader.py")]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def read(self, url: str, projects: list[str]) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        print(
            json.dumps({"url": f"{url}/simple/", "projects": projects}), file=self._process.stdin, flush=True
        )
        found: dict[str, Any] = json.loads(self._process.stdout.readline())
        return found

    def stop(self) -> None:
        self._process.communicate()


@pytest.fixture(scope="session")
def reader() -> Iterator[Reader]:
    reader = Reader()
    yield reader
    reader.stop()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[Path], Site]]:
    sites: list[Site] = []

    def start(tree: Path) -> Site:
        sites.append(Site(tree, tmp_path / f"site{len(sites)}"))
        return sites[-1]

    yield start
    for site in sites:
        site.stop()


def differences(theirs: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    found = []
    for project, expected in theirs.items():
        here = ours[project]
        if expected is None or here is None:
            if expected is not here:
                found.append(f"{project}: {'is not here' if here is None else 'is here, and not upstream'}")
            continue
        if "unreadable" in expected or "unreadable" in here:
            # To pypi-simple a status that it does not know is an error, wherever it comes from.
            if here != expected:
                found.append(f"{project}: {here.get('unreadable')}, upstream {expected.get('unreadable')}")
            continue
        files = {
            name: one
            for name, one in expected["files"].items()
            if not any(rule(name, one) for rule in LEFT_OUT)
        }
        found += [f"{project}: {name} is not here" for name in sorted(files.keys() - here["files"].keys())]
        found += [
            f"{project}: {name} is not upstream" for name in sorted(here["files"].keys() - files.keys())
        ]
        for name in sorted(files.keys() & here["files"].keys()):
            found += [
                f"{project}: {name}: {problem}"
                for problem in same_file(name, files[name], here["files"][name])
            ]
        found += [f"{project}: {problem}" for problem in same_project(expected, here)]
    return found


def left_out(theirs: dict[str, Any]) -> int:
    return sum(
        any(rule(name, one) for rule in LEFT_OUT)
        for project in theirs.values()
        if project
        for name, one in project["files"].items()
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_a_client_gets_here_what_it_gets_upstream(
    seed: int, tmp_path: Path, reader: Reader, serve: Callable[[Path], Site]
) -> None:
    upstream = Upstream(seed, SIZE)
    settings = {"maximum_shrink_share": 1.0, "tries": 1, "timeout": 5}
    everything = {"everything": True}
    tier1 = Mirror(tmp_path / "tier1", upstream.url, [], **settings)
    config = (tier1.root / "bandersnatch.conf").read_text()
    (tier1.root / "bandersnatch.conf").write_text(config.partition("[plugins]")[0])
    tier1.configure(selection=everything)
    origin = Host(tmp_path / "origin", "origin", index_url=f"{upstream.url}/simple/", **settings)
    tier2 = Tier2(tmp_path / "tier2", str(tier1.served), maximum_shrink_share=1.0)
    hosts: list[Host] = [tier1, origin, tier2]
    sites: dict[str, Site] = {}
    ever: set[str] = set()
    try:
        for state in range(STATES):
            ever |= upstream.projects.keys()
            origin.configure(selection={"projects": sorted(ever)})
            theirs = reader.read(upstream.url, sorted(ever))
            for host in hosts:
                host.run("sync", expect=None)
                site = sites.setdefault(
                    host.root.name, serve(host.served) if host.root.name not in sites else None
                )
                found = differences(theirs, reader.read(site.url, sorted(ever)))
                assert not found, (
                    f"seed {seed} ({upstream.shape}, serials {upstream.serials}), state {state}, {host.root.name}:\n"
                    + "\n".join(found[:20])
                    + "\n"
                    + "\n".join(line for line in host.log.splitlines() if "bandersnatch: " not in line)[
                        -4000:
                    ]
                )
            upstream.step()
    finally:
        upstream.stop()
