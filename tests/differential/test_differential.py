"""Does a client get from a mirror what it would get from upstream? Of made-up upstreams, in each mode, file by file.

The seed of each upstream is in its test's name; DIFFERENTIAL_SEED=n runs that one. The first is not made by chance.
"""

from __future__ import annotations

import itertools
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from differential.allowed import CACHE, COPY, Rules, same_choice
from differential.conftest import CACHE_FORGETS
from differential.hostile import Upstream
from differential.small import Small
from faults.fleet import Host, Mirror, Tier2

HOUSE = Path(__file__).parents[2]
UPSTREAMS = int(os.environ.get("UPSTREAMS", "12"))
SIZE, STATES = 40, 4
FIRST = 1
SEEDS: list[int | str] = (
    [int(os.environ["DIFFERENTIAL_SEED"])]
    if "DIFFERENTIAL_SEED" in os.environ
    else ["small", *range(FIRST, FIRST + UPSTREAMS)]
)


def differences(theirs: dict[str, Any], ours: dict[str, Any], rules: Rules = COPY) -> list[str]:
    found = []
    for project, expected in theirs.items():
        here = ours[project]
        if expected is None or here is None:
            if expected is not here and not any(rule(expected) for rule in rules.late):
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
            if not any(rule(name, one) for rule in rules.left_out)
        }
        found += [f"{project}: {name} is not here" for name in sorted(files.keys() - here["files"].keys())]
        found += [
            f"{project}: {name} is not upstream" for name in sorted(here["files"].keys() - files.keys())
        ]
        for name in sorted(files.keys() & here["files"].keys()):
            found += [
                f"{project}: {name}: {problem}"
                for problem in rules.same_file(name, files[name], here["files"][name])
            ]
        found += [f"{project}: {problem}" for problem in rules.same_project(expected, here)]
    return found


# What HTML has no place for; of hashes it has one.
NOT_IN_HTML = ("bytes", "size", "uploaded")


def differences_of_forms(pages: dict[str, Any], documents: dict[str, Any]) -> list[str]:
    """Whether who reads HTML gets what who reads JSON does."""
    found = []
    for project, document in documents.items():
        page = pages[project]
        if document is None or page is None or "unreadable" in document:
            if (document is None) is not (page is None):
                found.append(f"{project}: JSON {document}, HTML {page}")
            continue
        if page.keys() != document.keys() or page["files"].keys() != document["files"].keys():
            found.append(f"{project}: JSON {document}, HTML {page}")
            continue
        found += [
            f"{project}: {key} is {document[key]!r} in JSON, {page[key]!r} in HTML"
            for key in ("status", "reason")
            if page[key] != document[key]
        ]
        for name, theirs in document["files"].items():
            ours = page["files"][name]
            told = {key: value for key, value in ours.items() if key not in NOT_IN_HTML}
            expected = {key: value for key, value in theirs.items() if key not in NOT_IN_HTML}
            expected["hashes"] = {"sha256": theirs["hashes"]["sha256"]}
            for one in (told, expected):
                one["metadata"] = one["metadata"] is not None
            if told != expected:
                found.append(f"{project}: {name}: JSON {expected}, HTML {told}")
    return found


def other_urls(pages: dict[str, Any], documents: dict[str, Any]) -> list[str]:
    """Files that HTML has at another URL than JSON."""
    found = []
    for project, document in documents.items():
        ours, theirs = ((one or {}).get("files", {}) for one in (pages[project], document))
        found += [
            f"{project}: {name} is at {ours[name]['url']} in HTML, at {theirs[name]['url']} in JSON"
            for name in ours.keys() & theirs.keys()
            if ours[name]["url"] != theirs[name]["url"]
        ]
    return found


QUESTIONS = 1  # of each state, asked at upstream and every mirror: some 0.2 s of CPU each
WAYS = ["newest", "prerelease", "cooldown", "source", "pinned"]


def questions(
    chance: random.Random, upstream: Upstream, theirs: dict[str, Any]
) -> list[tuple[str, str, str]]:
    """Of a sample of projects, which client to ask, for what, and in which way.

    None is asked for that pypi-simple cannot read, by whose reading of the files a choice is judged.
    """
    asked = []
    read = [one for one in upstream.projects.values() if one.entries and "files" in theirs[one.name]]
    for project in chance.sample(read, 4 * QUESTIONS if isinstance(upstream, Small) else QUESTIONS):
        client, way = chance.choice(["pip", "uv"]), chance.choice(WAYS)
        if way == "pinned":  # also to what is yanked
            version = chance.choice(sorted(set(project.versions.values())))
            asked.append((client, f"{project.name}=={version}", "newest"))
        else:
            asked.append((client, project.name, way))
    return asked


def note_documents(theirs: dict[str, Any], upstream: Upstream) -> None:
    """The upload times that only documents say, which are behind their pages."""
    for project in upstream.projects.values() if upstream.shape == "documents behind" else ():
        files = (theirs[project.name] or {}).get("files", {})
        for entry in itertools.chain.from_iterable((project.former or {"releases": {}})["releases"].values()):
            listed = project.entries.get(entry["filename"], {})
            if (
                "upload-time" not in listed
                and listed.get("hashes") == entry["digests"]
                and entry["filename"] in files
            ):
                files[entry["filename"]]["told"] = entry["upload_time_iso_8601"]


@pytest.mark.chance
@pytest.mark.parametrize("seed", SEEDS)
def test_a_client_gets_here_what_it_gets_upstream(
    seed: int | str,
    tmp_path: Path,
    reader: Any,
    chooser: Any,
    serve: Callable[[Path], str],
    cache_of: Callable[[str], str],
    tier1_of: Callable[..., Mirror],
    origin_of: Callable[..., Host],
) -> None:
    upstream = Small() if seed == "small" else Upstream(int(seed), SIZE)
    tier1 = tier1_of(upstream.url, maximum_shrink_share=1.0)
    origin = origin_of(upstream.url, sorted(upstream.projects), maximum_shrink_share=1.0)
    tier2 = Tier2(tmp_path / "tier2", str(tier1.served), maximum_shrink_share=1.0)
    html_only = upstream.form == "HTML only"
    # Without pages for programs there is nothing to mirror: such an index can only be cached, and preflight says so.
    hosts: list[Host] = [] if html_only else [tier1, origin, tier2]
    sites: dict[str, str] = {}
    cache, forgotten = cache_of(upstream.url), 0.0
    ever: set[str] = set()
    former: dict[tuple[str, str], Any] = {}
    chance = random.Random(seed)

    def compare(state: int, name: str, url: str, log: str = "", rules: Rules = COPY) -> None:
        ours = reader.read(url, sorted(ever), html=html_only)
        found = differences(theirs, ours, rules)
        # JSON and HTML of a project change together.
        changed = {project: one for project, one in ours.items() if one != former.get((name, project), ...)}
        former.update({(name, project): one for project, one in changed.items()})
        pages = reader.read(url, sorted(changed), html=True, fetch=False)
        if rules is COPY:
            found += differences_of_forms(pages, changed)
        elif not html_only:
            there = reader.read(upstream.url, sorted(changed), html=True, fetch=False)
            found += differences(there, pages, rules) + other_urls(pages, changed)
        for question, wanted, taken in zip(asked, chosen, chooser.choose(url, asked), strict=True):
            project = question[1].partition("==")[0]
            files, entries = theirs[project]["files"], upstream.projects[project].entries
            if not same_choice(wanted, taken, files, entries, rules):
                found.append(f"{question}: {taken}, upstream {wanted}; its page has {list(entries.values())}")
        assert not found, (
            f"seed {seed} ({upstream.form}, {upstream.shape}, serials {upstream.serials}), state {state}, {name}:\n"
            + "\n".join(found[:20])
            + "\n"
            + "\n".join(line for line in log.splitlines() if "bandersnatch: " not in line)[-4000:]
        )

    try:
        for state in range(STATES):
            ever |= upstream.projects.keys()
            origin.configure(selection={"projects": sorted(ever)})
            theirs = reader.read(upstream.url, sorted(ever), html=html_only)
            note_documents(theirs, upstream)
            asked = questions(chance, upstream, theirs)
            chosen = chooser.choose(upstream.url, asked)
            for host in hosts:
                host.run("sync", expect=None)
                if host.root.name not in sites:
                    sites[host.root.name] = serve(host.served)
                compare(state, host.root.name, sites[host.root.name], host.log)
            time.sleep(max(forgotten - time.monotonic(), 0))
            compare(state, "cache", cache, rules=CACHE)
            forgotten = time.monotonic() + CACHE_FORGETS
            upstream.step()
    finally:
        upstream.stop()
