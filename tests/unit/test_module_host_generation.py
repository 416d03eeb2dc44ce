"""One generation of a host's configuration, kept and brought back."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import host_generation
import pytest


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    """Of a host: a folder with a file, a link and a folder; a file of its own, for few to read."""
    etc = tmp_path / "etc"
    (etc / "nginx/sites-enabled").mkdir(parents=True)
    (etc / "nginx/nginx.conf").write_text("listen 80;\n")
    (etc / "nginx/modules").symlink_to("/usr/lib/nginx/modules")
    (etc / "mirror.json").write_text("{}\n")
    (etc / "mirror.json").chmod(0o640)
    return etc


def ask(etc: Path, state: str, *, check: bool = False, **more: Any) -> dict[str, Any]:
    paths = [str(etc / name) for name in ("nginx", "mirror.json", "extra.conf")]
    return host_generation.result_of(
        {"paths": paths, "folder": str(etc / "former"), "state": state, "anew": False} | more, check=check
    )


def told(etc: Path) -> dict[str, Any]:
    return {
        str(one.relative_to(etc)): host_generation.entry(one)
        for one in host_generation.below(etc)
        if "former" not in one.parts and one != etc
    }


def spoil(etc: Path) -> None:
    (etc / "nginx/nginx.conf").write_text("listen 81;\n")
    (etc / "nginx/nginx.conf").chmod(0o600)
    (etc / "nginx/sites-enabled").rmdir()
    (etc / "nginx/sites-enabled").write_text("a file now")
    (etc / "nginx/modules").unlink()
    (etc / "nginx/modules").mkdir()
    (etc / "nginx/modules/brought.conf").write_text("")
    (etc / "nginx/conf.d").mkdir()
    (etc / "nginx/conf.d/brought.conf").write_text("")
    (etc / "extra.conf").mkdir()


def test_what_was_there_is_back_and_what_was_not_is_gone(etc: Path) -> None:
    before = told(etc)
    assert not ask(etc, "kept")["there"]
    assert (etc / "former").stat().st_mode & 0o777 == 0o700
    os.utime(etc / "mirror.json", (1, 2))
    ask(etc, "kept", anew=True)
    spoil(etc)
    (etc / "mirror.json").unlink()
    wanted = [str(etc / name) for name in ("nginx", "mirror.json", "extra.conf")]
    assert ask(etc, "restored", check=True) == {"changed": True, "there": True, "paths": wanted}
    assert told(etc) != before, "it was only asked"
    assert ask(etc, "restored") == {"changed": True, "there": True, "paths": wanted}
    assert told(etc) == before and (etc / "mirror.json").stat().st_mtime == 2
    assert ask(etc, "restored") == {"changed": False, "there": True, "paths": []}


def test_a_generation_is_replaced_only_where_that_is_meant(etc: Path) -> None:
    before = told(etc)
    ask(etc, "kept")
    spoil(etc)
    assert ask(etc, "kept")["there"], "of an update that is not at its end"
    ask(etc, "restored")
    assert told(etc) == before
    (etc / "nginx/nginx.conf").write_text("listen 82;\n")
    ask(etc, "kept", anew=True, check=True)
    assert ask(etc, "restored", check=True)["paths"] == [str(etc / "nginx")]
    ask(etc, "kept", anew=True)
    assert ask(etc, "restored", check=True)["paths"] == []


def test_one_that_was_killed_while_it_was_kept_is_none(etc: Path) -> None:
    (etc / "former.new/etc").mkdir(parents=True)
    assert ask(etc, "restored") == {"changed": False, "there": False, "paths": []}
    ask(etc, "kept")
    assert not os.path.lexists(etc / "former.new") and ask(etc, "restored", check=True)["paths"] == []
