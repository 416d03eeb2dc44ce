"""What a program of ours noted for a later run: a note may be spoilt, or of a newer version, and is read as such."""

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from .schema import shown

LARGEST = 64 << 20  # bytes of a file of notes
AGREED = 2**53  # numbers beyond it are not the same to all who read JSON (RFC 8259, section 6)


def decode(data: bytes | str) -> Any:
    """A JSON document; ValueError where it is none, or has a number that is not finite or larger than 2**53."""
    try:
        return json.loads(data, parse_int=_integer, parse_float=_number, parse_constant=_number)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def _integer(text: str) -> int:
    if len(text) > len(str(AGREED)) or abs(value := int(text)) > AGREED:
        raise ValueError(f"{text[:20]}… is too large a number")
    return value


def _number(text: str) -> float:
    if not math.isfinite(value := float(text)) or abs(value) > AGREED:
        raise ValueError(f"{text[:20]} is no number to reckon with")
    return value


def read(path: Path) -> Any:
    """The JSON document in a file, None where there is no file; ValueError or OSError where it cannot be used."""
    try:
        with path.open("rb") as stream:
            data = stream.read(LARGEST + 1)
    except FileNotFoundError:
        if path.is_symlink():
            raise
        return None
    if len(data) > LARGEST:
        raise ValueError(f"it has more than {LARGEST} bytes")
    if (found := decode(data)) is None:
        raise ValueError("it says nothing")
    return found


def fit(kind: Any, value: Any) -> Any:
    """What was decoded, as a dataclass or what its fields are made of; ValueError where it is not of that kind.

    Keys that a dataclass does not know are a newer version's, and left out.
    """
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin is types.UnionType:
        return None if value is None and type(None) in args else fit(args[0], value)
    if origin is Literal:
        holds = isinstance(value, str) and value in args
    elif dataclasses.is_dataclass(kind):
        return _record(kind, value)
    elif origin is not None:
        return _many(origin, args, value, kind)
    else:
        holds = type(value) is kind or (kind is float and type(value) is int)
    return _expect(holds, value, kind)


def _many(origin: Any, args: tuple[Any, ...], value: Any, kind: Any) -> Any:
    if origin in (dict, Mapping):
        return {
            key: fit(args[1], inner) for key, inner in _expect(isinstance(value, dict), value, kind).items()
        }
    _expect(isinstance(value, list), value, kind)
    kinds = [args[0]] * len(value) if origin is list or args[-1] is Ellipsis else args
    _expect(len(kinds) == len(value), value, kind)
    return origin(fit(one, inner) for one, inner in zip(kinds, value, strict=True))


def _record(kind: Any, value: Any) -> Any:
    _expect(isinstance(value, dict), value, kind)
    hints, found = typing.get_type_hints(kind), {}
    for one in dataclasses.fields(kind):
        if one.name in value:
            found[one.name] = inner = fit(hints[one.name], value[one.name])
            if "minimum" in one.metadata and inner is not None:  # common.config.bounded
                low, high = one.metadata["minimum"], one.metadata["maximum"]
                _expect(low <= inner <= (math.inf if high is None else high), inner, one.name)
        elif one.default is one.default_factory is dataclasses.MISSING:
            raise ValueError(f"it lacks {one.name}")
    return kind(**found)


def _expect(holds: bool, value: Any, kind: Any) -> Any:
    if not holds:
        raise ValueError(f"{shown(value)} is no {getattr(kind, '__name__', kind)}")
    return value
