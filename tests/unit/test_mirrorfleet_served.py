"""The served tree at every instant."""

from pathlib import Path

import pytest

from mirrorfleet.served import tree as served
from mirrorfleet.served.tree import ServedTree


def test_a_project_that_comes_back_never_shows_the_pages_it_left_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = ServedTree.__new__(ServedTree)
    tree.root, tree.pages = tmp_path, tmp_path / "pages"
    for snapshot in ("s-1-old", "s-2-new"):
        (tree.pages / "six" / snapshot / "simple").mkdir(parents=True)
        (tree.pages / "six" / snapshot / "simple/index.html").write_text(snapshot)
    (tree.pages / "six/cur").symlink_to("s-1-old")  # its files are deleted, its pages not yet
    for directory in ("simple", "pypi"):
        (tmp_path / directory).mkdir()
    seen = []
    really = served.replace_symlink

    def looked_at(link: Path, target: str) -> None:
        really(link, target)
        page = tmp_path / "simple/six/index.html"
        seen.append(page.read_text() if page.exists() else None)

    monkeypatch.setattr(served, "replace_symlink", looked_at)
    tree._switch("six", "s-2-new")
    assert seen[-1] == "s-2-new"
    assert "s-1-old" not in seen
