"""The registry: what the inventory says of a fleet's mirrors, as the control node wrote it.

A record that keeps not its schema is kept with what is wrong with it, so that one bad record costs one mirror
its place and not the fleet its list.
"""

import functools
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .config import ConfigError
from .schema import Check, InvalidDocumentError, compile_schema, schema, shown, validate


@dataclass(frozen=True)
class Registry:
    fleet: dict[str, Any]
    mirrors: dict[str, dict[str, Any]]  # by name, in the order of the file
    wrong: dict[str, str]  # by name, why a record cannot be used


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
        problem = next(_record()(record, "record"), "")
        if times[name] > 1:
            problem = "the registry has several records of that name"
        if problem:
            wrong[name] = problem
    return Registry(document["fleet"], mirrors, wrong)


def load(path: Path) -> Registry:
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not JSON: {error}") from error
    return parse(document, str(path))
