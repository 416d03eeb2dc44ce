"""Bringing a pair into use: by one rename of a link, kept if the web server takes it; then what uses it is reloaded."""

from __future__ import annotations

import shutil
from pathlib import Path

from . import store
from .common import Config, FailedError, one_line, run


def active(unit: str) -> bool:
    return run("systemctl", "--no-pager", "is-active", "--quiet", unit).returncode == 0


def test_web_server(config: Config) -> str:
    """What nginx says against its configuration, certificate included; nothing when it is right, or not used."""
    if "nginx.service" not in config["units"] or not active("nginx.service"):
        return ""
    done = run("/usr/sbin/nginx", "-t", "-q")
    return done.stderr.strip() or f"nginx -t ended with {done.returncode}" if done.returncode else ""


def bring_into_use(pairs: Path, name: str, config: Config) -> None:
    """The folder of this name becomes `current`, or the former one stays and this one goes."""
    former = store.in_use(pairs)
    store.point_at(pairs, name)
    if wrong := test_web_server(config):
        if former and former != name:
            store.point_at(pairs, former)
            shutil.rmtree(pairs / name)
        raise FailedError(
            f"The new certificate is here, but nginx refuses its configuration: {one_line(wrong)}.",
            "Correct the configuration; the running one is untouched.",
        )
    for unit in config["units"]:
        if active(unit) and (done := run("systemctl", "--no-pager", "reload-or-restart", unit)).returncode:
            raise FailedError(
                f"The new certificate is here, but {unit} did not take it: {one_line(done.stderr)}.",
                f"See systemctl status {unit}.",
            )
    for old in pairs.iterdir():
        if old.is_dir() and not old.is_symlink() and old.name not in {name, former, "new"}:
            shutil.rmtree(old)
