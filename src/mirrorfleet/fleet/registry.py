"""The registry: what the inventory says of a fleet's mirrors, as the control node wrote it.

A record that keeps not its schema is kept with what is wrong with it, so that one bad record costs one mirror
its place and not the fleet its list. Of a record that is wrong already in the inventory, the control node writes
the name and the problem.
"""

import functools
import logging
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..common.config import ConfigError, read_json
from ..common.files import entries
from ..common.schema import Check, InvalidDocumentError, compile_schema, schema, shown, validate
from .evidence import printable

log = logging.getLogger(__name__)

LONGEST_REASON = 1000  # characters of a hold's


@dataclass(frozen=True)
class Registry:
    fleet: dict[str, Any]
    mirrors: dict[str, dict[str, Any]]  # by name, in the order of the file
    wrong: dict[str, str]  # by name, why a record cannot be used


_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_HOST = re.compile(rf"(?=.{{1,253}}\Z)({_LABEL}\.)+{_LABEL}\Z")
_PAGE = re.compile(r"https?://[A-Za-z0-9.-]+(:[0-9]+)?(/[A-Za-z0-9._~+/-]*)?\Z")


def host_of(url: str) -> str:
    """The host of a mirror's URL, fit for a zone."""
    host = url.split("/")[2].partition(":")[0]
    if not _HOST.fullmatch(host):
        raise InvalidDocumentError(f"{shown(url)}: {shown(host)} is no DNS name")
    return host


def page_of(url: str) -> str:
    """A URL that is fit for a document as it is."""
    if not _PAGE.fullmatch(url):
        raise InvalidDocumentError(f"{shown(url)} is no URL")
    return url


def _problem(record: Any) -> str:
    """What is wrong with a record: a document may not be lost for one of them."""
    if isinstance(record, dict) and isinstance(record.get("problem"), str):
        return printable(record["problem"])
    if problem := _record()(record):
        return f"record{problem}"
    if not re.fullmatch(r"[^/\x00.][^/\x00]*", record["name"]):
        return f"its name {shown(record['name'])} is no name for a file"
    try:
        for url in (record["url"], *record["urls"]):
            host_of(page_of(url))
        page_of(record["operator"].get("url", "https://example.org"))
    except InvalidDocumentError as error:
        return str(error)
    return ""


@functools.cache
def _record() -> Check:
    return compile_schema(schema("registry")["properties"]["mirrors"]["items"])


def parse(document: Any, source: str) -> Registry:
    """The registry; ConfigError when no part of it can be trusted."""
    records = document.get("mirrors") if isinstance(document, dict) else None
    if not isinstance(records, list):
        raise ConfigError(f"{source}: is no registry: it has no list of mirrors")
    try:
        validate(document | {"mirrors": []}, "registry")
    except InvalidDocumentError as error:
        raise ConfigError(f"{source}: {error}") from error
    mirrors, wrong = {}, {}
    names = [record.get("name") if isinstance(record, dict) else None for record in records]
    times = Counter(name for name in names if isinstance(name, str))
    for index, (name, record) in enumerate(zip(names, records, strict=True)):
        if not isinstance(name, str) or not name:
            raise ConfigError(f"{source}: mirrors[{index}] has no name but {shown(name)}")
        mirrors[name] = record
        problem = _problem(record)
        if times[name] > 1:
            problem = "the registry has several records of that name"
        if problem:
            wrong[name] = problem
    return Registry(document["fleet"], mirrors, wrong)


def load(path: Path) -> Registry:
    return parse(read_json(path), str(path))


def holds(folder: Path | None) -> dict[str, str]:
    """By name why a mirror is held: the folder has a file for each."""
    found = {}
    for entry in entries(folder) if folder else ():
        if entry.name.startswith("."):
            continue
        try:
            with open(entry.path, encoding="utf-8", errors="replace") as stream:
                found[entry.name] = stream.read(LONGEST_REASON)
        except FileNotFoundError:  # released this moment
            continue
        except OSError as error:  # who is held stays so
            log.warning("%s: %s", entry.path, error.strerror)
            found[entry.name] = ""
    return found
