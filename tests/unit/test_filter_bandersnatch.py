"""bandersnatch.conf: read back by bandersnatch's own parser and plugins."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from bandersnatch.configuration import (  # type: ignore[import-untyped]
    BandersnatchConfig,
    Singleton,
    validate_config_values,
)
from bandersnatch.mirror import BandersnatchMirror  # type: ignore[import-untyped]
from faults.fleet import bandersnatch
from fleet_bandersnatch import GUARDS, FilterModule
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mirrorfleet.common.names import served_path
from mirrorfleet.fetch import bandersnatch as ours
from mirrorfleet.fetch.plugins import Names, Places
from plugin_utils.contract import PLATFORMS

RENDER = FilterModule().filters()["bandersnatch_config"]
NOTHING: dict[str, Any] = {
    "everything": False,
    "projects": [],
    "blocklist": [],
    "releases_kept": None,
    "platforms_excluded": [],
    "max_project_size": None,
}


def config(**selection: Any) -> dict[str, Any]:
    return {
        "name": "one",
        "mode": "bandersnatch",
        "upstream": "https://origin.example.org/root",
        "paths": {"fetched": "/srv/mirror/fetched"},
        "selection": NOTHING | selection,
    }


def read(text: str, tmp_path: Path) -> BandersnatchConfig:
    """The text as bandersnatch reads it, defaults and all."""
    path = tmp_path / "bandersnatch.conf"
    path.write_text(text)
    Singleton._instances.clear()
    return BandersnatchConfig(path)


def lines(value: str) -> list[str]:
    return [line for line in value.split("\n") if line]


@pytest.mark.parametrize("version", ["6.8.0", "8.2.0"])
def test_bandersnatch_reads_what_was_meant(version: str, tmp_path: Path) -> None:
    text = RENDER(config(projects=["six", "Zope_Interface"]), version, workers=10, timeout=5)
    found = read(text, tmp_path)
    assert found["mirror"]["master"] == "https://origin.example.org/root"
    assert found["mirror"]["directory"] == "/srv/mirror/fetched"
    assert found.getint("mirror", "workers") == 10
    assert found.getfloat("mirror", "timeout") == 5
    assert not found.getboolean("mirror", "hash-index")
    assert lines(found["allowlist"]["packages"]) == ["six", "zope-interface"]
    assert lines(found["plugins"]["enabled"]) == [*GUARDS, "allowlist_project"]
    checked = validate_config_values(found)
    assert checked.json_save
    assert checked.release_files_save
    assert checked.compare_method == "stat"
    if version == "6.8.0":
        assert checked.api_method == "simple"


def test_the_old_series_gets_only_options_it_knows(tmp_path: Path) -> None:
    Singleton._instances.clear()
    known = set(BandersnatchConfig()["mirror"]) | {"directory"}
    assert set(read(RENDER(config(everything=True), "6.8.0"), tmp_path)["mirror"]) <= known


@settings(max_examples=60, deadline=None)
@given(
    projects=st.lists(
        st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,20}[A-Za-z0-9])?", fullmatch=True), max_size=8
    ),
    blocked=st.lists(st.from_regex(r"[a-z0-9]{1,8}", fullmatch=True), max_size=4),
    kept=st.none() | st.integers(-2, 5),
    platforms=st.lists(st.sampled_from(PLATFORMS), max_size=4),
    size=st.none() | st.integers(-1, 2**40),
    everything=st.booleans(),
    version=st.sampled_from(["6.8.0", "8.2.0"]),
)
def test_what_is_rendered_is_what_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    projects: list[str],
    blocked: list[str],
    kept: int | None,
    platforms: list[str],
    size: int | None,
    everything: bool,
    version: str,
) -> None:
    """parse(render(x)) == x for every selection that is accepted; everything only when asked for."""
    chosen = config(
        everything=everything,
        projects=projects,
        blocklist=blocked,
        releases_kept=kept,
        platforms_excluded=platforms,
        max_project_size=size,
    )
    try:
        text = RENDER(chosen, version)
    except AnsibleFilterError:
        return
    found = read(text, tmp_path_factory.mktemp("conf"))
    enabled = lines(found["plugins"]["enabled"])
    assert {*GUARDS} <= {*enabled}
    assert ("allowlist_project" in enabled) == (not everything)
    if not everything:
        names = lines(found["allowlist"]["packages"])
        assert names
        assert [name.replace("-", "") for name in names] == [
            "".join(c for c in name.lower() if c.isalnum()) for name in projects
        ]
    assert ("blocklist_project" in enabled) == bool(blocked)
    if blocked:
        assert lines(found["blocklist"]["packages"]) == blocked
    if platforms:
        assert "mirrorfleet_platforms" in enabled
        assert found["mirrorfleet_platforms"]["excluded"].split() == platforms
    if kept is not None:
        assert "mirrorfleet_newest" in enabled
        assert int(found["mirrorfleet_newest"]["keep"]) == kept > 0
    if size is not None:
        assert int(found["size_project_metadata"]["max_package_size"]) == size > 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"selection": NOTHING}, "selects nothing"),
        ({"selection": {}}, "selects nothing"),
        ({"selection": None}, "mirror_selection: is nothing (null)"),
        ({"selection": NOTHING | {"surprise": 1}}, "mirror_selection.surprise: is no known key"),
        ({"selection": NOTHING | {"everything": "yes"}}, "mirror_selection.everything: is text"),
        ({"selection": NOTHING | {"everything": 1}}, "mirror_selection.everything: is a whole number"),
        ({"selection": NOTHING | {"projects": ["six", ""]}}, "no project name"),
        ({"selection": NOTHING | {"projects": ["six\n[plugins]"]}}, "no project name"),
        ({"selection": NOTHING | {"projects": ["%(here)s"]}}, "no project name"),
        ({"selection": NOTHING | {"projects": ["six"], "platforms_excluded": ["py4"]}}, "is 'py4'"),
        ({"upstream": "https://a.example/%(x)s"}, "mirror_upstream: has the path"),
        ({"upstream": "https://a.example/x\nmaster = https://b.example"}, "mirror_upstream: is"),
        ({"upstream": "http://a.example"}, "without TLS"),
        ({"upstream": None}, "mirror_upstream: is nothing"),
        ({"paths": {"fetched": "/srv/../etc"}}, "paths.fetched"),
        ({"paths": {"fetched": "/srv/a\nb"}}, "paths.fetched"),
        ({"paths": {"fetched": "srv"}}, "paths.fetched"),
        ({"paths": []}, "paths.fetched"),
        ({"mode": "rsync"}, "mirror_mode: is 'rsync'"),
    ],
)
def test_refusals(change: dict[str, Any], said: str) -> None:
    with pytest.raises(AnsibleFilterError) as caught:
        RENDER(config(projects=["six"]) | change, "6.8.0")
    assert said in str(caught.value)
    assert "one: " in str(caught.value)


@pytest.mark.parametrize("version", ["7.0.0", "9.0.0", "6.7.0", "8", "latest", "8.2.0\n", None, 8.2])
def test_versions_nobody_has_read_are_refused(version: Any) -> None:
    with pytest.raises(AnsibleFilterError, match=r"fleet_versions\.bandersnatch"):
        RENDER(config(projects=["six"]), version)


@pytest.mark.parametrize(
    "tuning", [{"workers": 11}, {"workers": 0}, {"timeout": 0}, {"compare_method": "size"}, {"worker": 1}]
)
def test_tuning_that_bandersnatch_would_not_take(tuning: dict[str, Any]) -> None:
    with pytest.raises(AnsibleFilterError, match="allowed"):
        RENDER(config(projects=["six"]), "8.2.0", **tuning)


def test_an_upstream_without_tls_when_asked_for(tmp_path: Path) -> None:
    chosen = config(projects=["six"]) | {"upstream": "http://origin.example.org"}
    found = read(RENDER(chosen, "8.2.0", allow_http=True), tmp_path)
    assert found.getboolean("mirror", "allow-non-https")


# Filters keep state in their classes, so each question gets a process of its own.
ASK = """
import json, pathlib, sys
from bandersnatch.configuration import BandersnatchConfig
from bandersnatch.filter import LoadedFilters
BandersnatchConfig(pathlib.Path(sys.argv[1]))
filters = LoadedFilters()
project = {"info": {"name": "Six", "version": "3"}, "releases": {v: [{"size": 10}] for v in ("1", "2", "3")}}
other = {"info": {"name": "other", "version": "1"}, "releases": {"1": [{"size": 10}]}}
def passes(plugins, metadata):
    return all(plugin.filter(metadata) for plugin in plugins)
json.dump({
    "six": not any(p.check_match(name="six") for p in filters.filter_project_plugins()),
    "other": not any(p.check_match(name="other") for p in filters.filter_project_plugins()),
    "releases": [v for v in "123" if passes(filters.filter_release_plugins(), project | {"version": v})],
    "files": [name for name in ("six-3-py3-none-any.whl", "six-3-cp313-cp313-win_amd64.whl", "six-3.tar.gz")
              if passes(filters.filter_release_file_plugins(),
                        {"release_file": {"filename": name, "url": f"https://files.test/packages/a/{name}"}})],
    "small": passes(filters.filter_metadata_plugins(), project),
}, sys.stdout)
"""
ALL_RELEASES = ["1", "2", "3"]
ALL_FILES = ["six-3-py3-none-any.whl", "six-3-cp313-cp313-win_amd64.whl", "six-3.tar.gz"]


@pytest.mark.parametrize(
    ("selection", "answer"),
    [
        ({"projects": ["SIX"]}, {"six": True, "other": False}),
        ({"everything": True}, {"six": True, "other": True}),
        ({"everything": True, "blocklist": ["six"]}, {"six": False, "other": True}),
        ({"projects": ["six"], "releases_kept": 2}, {"releases": ["2", "3"], "other": False}),
        (
            {"projects": ["six"], "platforms_excluded": ["windows"]},
            {"files": ["six-3-py3-none-any.whl", "six-3.tar.gz"]},
        ),
        ({"everything": True, "max_project_size": 29}, {"small": False}),
        ({"everything": True, "max_project_size": 30}, {"small": True}),
    ],
)
def test_the_real_plugins_do_what_the_selection_says(
    selection: dict[str, Any], answer: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "bandersnatch.conf"
    path.write_text(RENDER(config(**selection), "6.8.0"))
    done = subprocess.run(
        [bandersnatch().with_name("python"), "-c", ASK, path], capture_output=True, text=True, check=True
    )
    everything = {"six": True, "other": True, "releases": ALL_RELEASES, "files": ALL_FILES, "small": True}
    found = json.loads(done.stdout)
    assert found == everything | {"other": found["other"]} | answer


def test_the_guards_that_are_always_enabled_are_those_that_a_run_wants() -> None:
    assert {*GUARDS} == ours.GUARDS == {Names.name, Places.name}


FILES = ["six-1.0.tar.gz", "six;1.0.zip"]
PIECES = [*"/;?#%@[\\ é", "//", "packages", "a", "..", ".", "%2e", "%2F", "%5c", "%00", "host:1", *FILES]


@settings(max_examples=300, deadline=None)
@given(
    host=st.sampled_from(["", "https://files.test", "//files.test"]),
    pieces=st.lists(st.sampled_from(PIECES), max_size=12).map("".join),
    name=st.sampled_from(FILES),
    ends_well=st.booleans(),
)
@example(host="https://files.test", pieces="/packages/a/", name=FILES[0], ends_well=True)
@example(host="https://files.test", pieces="/packages/../../", name=FILES[0], ends_well=True)
@example(host="https://files.test", pieces="/packages/a/", name=FILES[1], ends_well=True)
@example(host="https://[files.test", pieces="/packages/a/", name=FILES[0], ends_well=True)
def test_bandersnatch_is_given_no_url_but_of_the_place_that_a_file_is_served_from(
    host: str, pieces: str, name: str, ends_well: bool
) -> None:
    url = host + pieces + (name if ends_well else "")
    if not Places().filter({"release_file": {"url": url, "filename": name}}):
        return
    mirror = SimpleNamespace(webdir=Path("/web"), download_mirror=None)
    path, _ = BandersnatchMirror.populate_download_urls(mirror, {"url": url})
    written = BandersnatchMirror._file_url_to_local_path(mirror, path)
    assert written == Path("/web") / served_path(url, name) == Path(os.path.normpath(written))


@pytest.mark.parametrize(
    "entry", [{}, {"filename": "x.zip"}, {"url": 1, "filename": "x.zip"}, {"url": "", "filename": []}]
)
def test_a_file_of_which_upstream_says_nonsense_is_not_brought(entry: dict[str, Any]) -> None:
    assert not Places().filter({"release_file": entry})


@pytest.mark.parametrize("name", ["/etc/cron-d/six", "a/b", "six six", "", "..", "six\n", 6, None])
def test_what_is_no_name_is_no_project(name: Any) -> None:
    assert not Names().filter({"info": {"name": name}})
    assert Names().filter({"info": {"name": "Zope.Interface"}})
