"""Reading mirror.json, the one configuration file of every verb.

The file is written by configuration management, so a wrong key is a mistake upstream of us:
it is reported with its file and key and nothing is guessed.
"""

import dataclasses
import json
import math
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .guards import Shrinking
from .log import without_credentials
from .names import InvalidNameError, project_name

SCHEMA = 1
Kind = typing.TypeVar("Kind")
Mode = Literal["bandersnatch", "origin", "rsync", "cache"]


class ConfigError(Exception):
    """The configuration is unusable; the message names file and key."""

    def __init__(self, what: str) -> None:
        super().__init__(without_credentials(what))


def bounded(minimum: float, maximum: float | None = None, **options: Any) -> Any:
    return field(metadata={"minimum": minimum, "maximum": maximum}, **options)


@dataclass(frozen=True)
class Selection:
    everything: bool = False
    projects: tuple[str, ...] = ()
    blocklist: tuple[str, ...] = ()
    releases_kept: int | None = bounded(1, default=None)
    platforms_excluded: tuple[str, ...] = ()
    max_project_size: int | None = bounded(1, default=None)

    def includes(self, name: str) -> bool:
        if name in self.blocklist:
            return False
        return self.everything or name in self.projects


@dataclass(frozen=True)
class Paths:
    fetched: Path
    served: Path
    state: Path
    metrics: Path | None = None
    certificate: Path | None = None


@dataclass(frozen=True)
class Bandersnatch:
    program: Path
    config: Path
    timeout: int = bounded(1, default=86400)  # seconds one run may take


@dataclass(frozen=True)
class Rsync:
    source: str  # rsync://tier1/mirror, or host:/path, or a local directory
    program: str = "rsync"
    options: tuple[str, ...] = ()  # for instance a password file or --rsh for TLS
    timeout: int = bounded(1, default=120)  # seconds without a byte before rsync gives up
    full_pass_hours: float = bounded(0, default=168)  # longest time between full passes


@dataclass(frozen=True)
class Config:
    name: str
    mode: Mode
    url: str
    paths: Paths
    schema: int = SCHEMA
    upstream: str | None = None
    index_url: str | None = None
    selection: Selection = Selection()
    bandersnatch: Bandersnatch | None = None
    rsync: Rsync | None = None
    local_packages: Path | None = None
    workers: int = bounded(1, 64, default=8)
    timeout: float = bounded(1, default=60)  # seconds without a byte from upstream
    tries: int = bounded(1, 20, default=4)  # of one download within a run
    minimum_free_bytes: int = bounded(0, default=1 << 30)
    maximum_shrink_share: float = bounded(0, 1, default=0.2)
    shrink_believed_after: float = bounded(0, default=86400)  # seconds
    tries_before_set_aside: int = bounded(1, default=3)
    check_share_per_day: float = bounded(0, 1, default=0.02)

    @property
    def shrinking(self) -> Shrinking:
        return Shrinking(self.maximum_shrink_share, self.shrink_believed_after)

    @property
    def database(self) -> Path:
        return self.paths.state / "mirrorfleet.sqlite"


_NAMES = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a string",
    Path: "an absolute path",
}


def _fail(where: str, problem: str) -> typing.NoReturn:
    raise ConfigError(f"{where}: {problem}")


def _scalar(kind: type, value: Any, where: str) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is Path and isinstance(value, str) and value.startswith("/") and "\0" not in value:
        return Path(value)
    if type(value) is not kind:
        _fail(where, f"must be {_NAMES[kind]}, not {json.dumps(value)[:80]}")
    if isinstance(value, float) and not math.isfinite(value):
        _fail(where, "must be a finite number")
    if isinstance(value, str) and (not value or any(ord(c) < 32 for c in value)):
        _fail(where, "must be a non-empty string without control characters")
    return value


def _value(kind: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        return None if value is None else _value(args[0], value, where)
    if origin is Literal:
        if value not in args:
            _fail(where, f"must be one of {', '.join(args)}, not {json.dumps(value)[:80]}")
        return value
    if origin in (tuple, list):
        if not isinstance(value, list):
            _fail(where, f"must be a list, not {json.dumps(value)[:80]}")
        return origin(_value(args[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            _fail(where, f"must be an object, not {json.dumps(value)[:80]}")
        return {key: _value(args[1], item, f"{where}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(kind):
        return _record(kind, value, where)
    return _scalar(kind, value, where)


def _record(kind: Any, data: Any, where: str) -> Any:
    if not isinstance(data, dict):
        _fail(where, "must be an object")
    fields: dict[str, Any] = {f.name: f for f in dataclasses.fields(kind)}
    prefix = where if where.endswith(": ") else f"{where}."
    for key in data:
        if key not in fields:
            _fail(f"{prefix}{key}", f"unknown key; known keys are {', '.join(sorted(fields))}")
    hints = typing.get_type_hints(kind)
    values = {}
    for name, declared in fields.items():
        if name not in data:
            if declared.default is declared.default_factory is dataclasses.MISSING:
                _fail(f"{prefix}{name}", "missing")
            continue
        value = _value(hints[name], data[name], f"{prefix}{name}")
        minimum, maximum = declared.metadata.get("minimum"), declared.metadata.get("maximum")
        if value is not None and minimum is not None and value < minimum:
            _fail(f"{prefix}{name}", f"must be at least {minimum}, not {value}")
        if value is not None and maximum is not None and value > maximum:
            _fail(f"{prefix}{name}", f"must be at most {maximum}, not {value}")
        values[name] = value
    return kind(**values)


def _checked_names(names: tuple[str, ...], where: str) -> tuple[str, ...]:
    checked = []
    for i, name in enumerate(names):
        try:
            checked.append(project_name(name))
        except InvalidNameError as error:
            _fail(f"{where}[{i}]", str(error))
    return tuple(dict.fromkeys(checked))


def parse(data: Any, source: str) -> Config:
    """Check a decoded document; `source` is the file named in errors."""
    config: Config = _record(Config, data, f"{source}: ")
    at = f"{source}: "
    if config.schema != SCHEMA:
        _fail(f"{at}schema", f"must be {SCHEMA}, not {config.schema}")
    for key in ("url", "upstream", "index_url"):
        value = getattr(config, key)
        if value is not None and not value.startswith(("https://", "http://")):
            _fail(f"{at}{key}", f"must be an http or https URL, not {value!r}")
    needed = {"bandersnatch": ("bandersnatch", "index_url"), "rsync": ("rsync",), "origin": (), "cache": ()}
    for key in needed[config.mode]:
        if getattr(config, key) is None:
            _fail(f"{at}{key}", f"missing; mode {config.mode} needs it")
    selection = dataclasses.replace(
        config.selection,
        projects=_checked_names(config.selection.projects, f"{at}selection.projects"),
        blocklist=_checked_names(config.selection.blocklist, f"{at}selection.blocklist"),
    )
    if selection.everything and selection.projects:
        _fail(f"{at}selection", "names projects and everything: choose one")
    if config.mode == "bandersnatch" and not (selection.everything or selection.projects):
        _fail(f"{at}selection", "selects nothing; name projects or set everything to true")
    if config.mode == "origin":
        if selection.everything:
            _fail(f"{at}selection.everything", "an origin dumps named projects only")
        if not selection.projects and config.local_packages is None:
            _fail(f"{at}selection.projects", "names no project and there are no local_packages")
        if selection.projects and config.index_url is None:
            _fail(f"{at}index_url", "missing; mode origin with selection.projects needs it")
    return dataclasses.replace(config, selection=selection)


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not JSON: {error}") from error


def load(path: Path) -> Config:
    return parse(read_json(path), str(path))


def load_as(kind: type[Kind], path: Path) -> Kind:
    """A verb's own configuration file, by the same rules: its keys are the fields of a dataclass."""
    found: Kind = _record(kind, read_json(path), f"{path}: ")
    return found
