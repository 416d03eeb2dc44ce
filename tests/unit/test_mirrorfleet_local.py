"""A fleet's own packages: what is wrong with one is told, with what is allowed, and stops that project alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from faults.fleet import Origin, sdist, wheel

from mirrorfleet.common.names import InvalidNameError
from mirrorfleet.fetch.local import local_document
from mirrorfleet.index.project import BadDocumentError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "foo"
    folder.mkdir()
    (folder / "foo-1.0.0-py3-none-any.whl").write_bytes(wheel("foo", "1.0.0"))
    return folder


@pytest.mark.parametrize(
    ("facts", "problem"),
    [
        ([], r"project.json: is no object; allowed: "),
        ({"yank": {"1.0": "bad"}}, r"unknown key 'yank'; allowed: status, reason, yanked"),
        ({"status": "Quarantined"}, r"status is 'Quarantined'; allowed: active, archived, quarantined, depr"),
        ({"status": None}, r"status is None; allowed: active"),
        ({"status": "archived", "reason": 7}, r"reason is 7; allowed: a text"),
        ({"yanked": ["1.0"]}, r"yanked is \['1.0'\]; allowed: file names or versions"),
        ({"yanked": {"1.0": None}}, r"yanked is .* allowed: .* a reason that may be empty"),
        ({"yanked": {"1.0": True}}, r"yanked is .* allowed: .* a reason that may be empty"),
        ({"yanked": {"9.9": "bad"}}, r"yanked names '9.9', which is not here; allowed: files of the folder"),
        ("{", r"project.json: not JSON"),
    ],
)
def test_what_is_wrong_is_told_with_what_is_allowed(folder: Path, facts: Any, problem: str) -> None:
    (folder / "project.json").write_text(facts if facts == "{" else json.dumps(facts))
    with pytest.raises(BadDocumentError, match=problem):
        local_document("foo", folder)


@pytest.mark.parametrize("version", ["1.0", "1.0.0", "v1", "foo-1.0.0-py3-none-any.whl"])
def test_a_version_is_one_however_it_is_written(folder: Path, version: str) -> None:
    (folder / "project.json").write_text(json.dumps({"yanked": {version: ""}}))
    ((entry,),) = local_document("foo", folder)[0]["releases"].values()
    assert (entry["yanked"], entry["yanked_reason"]) == (True, None)


@pytest.mark.parametrize("name", ["bar-1.0-py3-none-any.whl", "foo-3.2.3-2.zip", "foo-x.tar.gz"])
def test_a_file_that_is_not_the_projects_is_named(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"")
    with pytest.raises(InvalidNameError, match=name):
        local_document("foo", folder)


def test_what_is_no_package_is_left_out_and_counted_and_a_mistake_stops_its_project_alone(
    tmp_path: Path,
) -> None:
    origin = Origin(tmp_path / "origin")
    for name in ("foo", "bar", "baz"):
        origin.release(name, "1.0")
    origin.facts("bar", status="gone")
    for name in ("foo-1.1.tar.bz2", "foo-1.2-py2.7.egg", "._foo-1.0.tar.gz"):
        (origin.local / "foo" / name).write_bytes(sdist("foo", "1.1"))
    summary = origin.run("sync", expect=None)
    assert list(summary["failed"]) == ["bar"]
    assert "status is 'gone'" in summary["failed"]["bar"]
    assert origin.names() == ["baz", "foo"]
    assert summary["left_out"] == {"a local package's name ends with .whl, .tar.gz or .zip": 2}
    assert origin.broken() == []
