"""Forgetting what the web server's pull-through cache keeps of a file or a project.

nginx has no command for this. Each cached answer is a file that names in its head what it is the answer to
("KEY: …"); removing it makes the next request ask upstream again, for nginx takes a cached file that is gone
for a miss. Every head is read, however the keys are made up: half a minute for a million answers.
"""

import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ..common.config import ConfigError
from ..common.files import remove
from ..common.names import SIDECAR, InvalidNameError, project_name, shown
from ..fetch.local import version_of

log = logging.getLogger(__name__)

_HEAD = 8192
_KEY = b"\nKEY: "


class BadTargetError(ConfigError):
    """What is neither a path of a file nor a project."""


def target(raw: str) -> tuple[str, str]:
    """What is to be forgotten: ("file", its path) or ("project", its name)."""
    path = urlsplit(raw).path if "//" in raw else raw
    if path.startswith("/packages/") and len(path) > len("/packages/"):
        return "file", unquote(path)
    try:
        return "project", project_name(raw)
    except InvalidNameError as error:
        raise BadTargetError(
            f"{shown(raw)} is neither the URL or path of a file (/packages/…) nor a project's name"
        ) from error


def _key(path: str) -> str:
    with suppress(FileNotFoundError), open(path, "rb") as stream:
        key = stream.read(_HEAD).partition(_KEY)[2].partition(b"\n")[0]
        return key.decode("utf-8", "replace")
    return ""


def _answers(directory: Path) -> Iterator[tuple[str, str]]:
    """Every cached answer: its file, and the path that was asked for."""
    for folder, _, names in os.walk(directory):
        for name in names:
            path = os.path.join(folder, name)
            key = _key(path)
            # "/packages/…bytes=0-1048575" for a slice of a file, "text/html" and a URL for a page.
            asked = urlsplit(key[key.find("http") :]).path if "://" in key else key.partition("bytes=")[0]
            yield path, unquote(asked)


def _is_of(asked: str, files: set[str], projects: set[str]) -> bool:
    if asked.removesuffix(SIDECAR) in files:
        return True
    try:
        if "/packages/" in asked:
            return version_of(asked.rpartition("/")[2].removesuffix(SIDECAR))[0] in projects
        *_, above, name, end = asked.split("/")
        return (above, end) in {("simple", ""), ("pypi", "json")} and name in projects
    except (InvalidNameError, ValueError):
        return False


def purge(directory: Path, targets: Iterable[str]) -> int:
    """Remove every cached answer that is of one of the targets; how many there were."""
    wanted = [target(raw) for raw in targets]
    files = {name for kind, name in wanted if kind == "file"}
    projects = {name for kind, name in wanted if kind == "project"}
    removed = 0
    for path, asked in _answers(directory):
        if _is_of(asked, files, projects) and remove(Path(path)):
            log.info("forgotten: %s", asked)
            removed += 1
    return removed
