"""What of a host's undoing can be asked without a host; the rest is molecule/host_baseline/tests/test_undo.py."""

from __future__ import annotations

from pathlib import Path

import host_undo


def test_folders_that_were_made_for_what_is_removed_go_when_they_are_empty(tmp_path: Path) -> None:
    page = tmp_path / "www/html/index.html"
    page.parent.mkdir(parents=True)
    (tmp_path / "kept").touch()
    host_undo.remove(page)
    host_undo.remove_empty_parents(page)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert Path("/opt").is_dir()
    host_undo.remove_empty_parents(Path("/opt/no-such-thing"))
    assert Path("/opt").is_dir()
