"""mirror.json is read strictly; every mistake is named with its file and key."""

import json
from pathlib import Path
from typing import Any

import pytest

from mirrorfleet.common.config import ConfigError, load, parse

GOOD: dict[str, Any] = {
    "schema": 1,
    "name": "mirror1",
    "mode": "bandersnatch",
    "url": "https://mirror1.fleet.test",
    "upstream": "https://origin.fleet.test",
    "index_url": "https://origin.fleet.test/simple/",
    "selection": {
        "everything": False,
        "projects": ["six", "Zope.Interface"],
        "blocklist": [],
        "releases_kept": None,
        "platforms_excluded": ["windows"],
        "max_project_size": None,
    },
    "paths": {
        "fetched": "/srv/mirror/fetched",
        "served": "/srv/mirror/served",
        "state": "/var/lib/mirrorfleet",
        "metrics": "/var/lib/prometheus/node-exporter/mirrorfleet.prom",
        "certificate": "/etc/mirrorfleet/tls/fullchain.pem",
    },
    "bandersnatch": {"program": "/opt/bandersnatch/current/bin/bandersnatch", "config": "/etc/b.conf"},
    "minimum_free_bytes": 1073741824,
    "maximum_shrink_share": 0.2,
    "shrink_believed_after": 86400,
    "tries_before_set_aside": 3,
    "check_share_per_day": 0.02,
}


def changed(**changes: Any) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(json.dumps(GOOD))
    for dotted, value in changes.items():
        target = document
        *parents, last = dotted.split("__")
        for parent in parents:
            target = target[parent]
        if value is ...:
            del target[last]
        else:
            target[last] = value
    return document


def test_the_documented_example_is_read() -> None:
    config = parse(GOOD, "mirror.json")
    assert config.selection.projects == ("six", "zope-interface")
    assert config.paths.served == Path("/srv/mirror/served")
    assert config.selection.includes("six")
    assert not config.selection.includes("flask")


@pytest.mark.parametrize(
    ("changes", "key", "problem"),
    [
        ({"nonsense": 1}, "nonsense", "unknown key"),
        ({"paths__nonsense": "/x"}, "paths.nonsense", "unknown key"),
        ({"name": ...}, "name", "missing"),
        ({"paths__state": ...}, "paths.state", "missing"),
        ({"mode": "mirror"}, "mode", "must be one of"),
        ({"mode": ["origin"]}, "mode", "must be one of"),
        ({"name": 7}, "name", "must be a string"),
        ({"name": ""}, "name", "non-empty"),
        ({"name": "a\nb"}, "name", "control characters"),
        ({"minimum_free_bytes": True}, "minimum_free_bytes", "must be an integer"),
        ({"minimum_free_bytes": 1.5}, "minimum_free_bytes", "must be an integer"),
        ({"minimum_free_bytes": -1}, "minimum_free_bytes", "at least 0"),
        ({"maximum_shrink_share": 1.5}, "maximum_shrink_share", "at most 1"),
        ({"check_share_per_day": float("nan")}, "check_share_per_day", "finite"),
        ({"selection__everything": 1}, "selection.everything", "true or false"),
        ({"selection__projects": "six"}, "selection.projects", "must be a list"),
        ({"selection__projects": ["six", 3]}, "selection.projects[1]", "must be a string"),
        ({"selection__projects": ["six", "../x"]}, "selection.projects[1]", "not a project name"),
        ({"selection__projects": []}, "selection", "selects nothing"),
        ({"selection__everything": True}, "selection", "choose one"),
        ({"selection__releases_kept": 0}, "selection.releases_kept", "at least 1"),
        ({"paths__served": "srv/mirror"}, "paths.served", "absolute path"),
        ({"paths": []}, "paths", "must be an object"),
        ({"url": "ftp://x"}, "url", "http or https"),
        ({"schema": 2}, "schema", "must be 1"),
        ({"bandersnatch": ...}, "bandersnatch", "mode bandersnatch needs it"),
        ({"index_url": None}, "index_url", "mode bandersnatch needs it"),
        ({"mode": "rsync"}, "rsync", "mode rsync needs it"),
        ({"mode": "origin", "selection__projects": []}, "selection.projects", "no project"),
        ({"mode": "origin", "index_url": None}, "index_url", "missing"),
    ],
)
def test_a_mistake_is_named_with_file_and_key(changes: dict[str, Any], key: str, problem: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(changed(**changes), "/etc/mirror.json")
    assert str(error.value).startswith(f"/etc/mirror.json: {key}: ")
    assert problem in str(error.value)


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.json: No such file"):
        load(tmp_path / "nowhere.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ConfigError, match=r"bad\.json: not JSON"):
        load(tmp_path / "bad.json")
