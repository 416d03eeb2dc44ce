"""JSON Schema, as much of it as our own schemas use: a document is checked before it replaces the former one.

Tests hold it against the full implementation, but for one thing: 1.0 is no integer, for programs count with what is
one. Why this is ours is in docs/architecture.md. A keyword that is not known here is an error when a schema is
read, not a rule that is silently left out. A schema is compiled once, for a list may have thousands of mirrors.
"""

import functools
import json
import math
import re
from collections.abc import Callable
from importlib import resources
from typing import Any

from .names import escaped

# What is wrong with a value, beginning with where in it; empty when nothing is. The path is put together only then.
Check = Callable[[Any], str]

_ANNOTATIONS = {
    "$schema",
    "title",
    "description",
    "format",
    "properties",
    "additionalProperties",
    "required",
    "else",
}
_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}


_SIMPLE = {"type", "minimum", "maximum", "minLength", "maxLength", "title", "description", "format"}


class InvalidDocumentError(ValueError):
    """A document that does not keep its schema; the message says where and why."""


@functools.cache
def schema(name: str) -> dict[str, Any]:
    """One of the schemas that come with the program: registry, health, mirrors, audit."""
    text = resources.files(__package__).joinpath("schemas", f"{name}.schema.json").read_text("utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


@functools.cache
def checker(name: str) -> Check:
    return compile_schema(schema(name))


def validate(document: Any, name: str) -> None:
    """InvalidDocumentError with the first problem, if there is one."""
    if problem := checker(name)(document):
        raise InvalidDocumentError(f"{name}{problem}")


def accept(document: Any, name: str) -> Any:
    """The document as far as this version knows its keys: what wrote it may be newer. Else as `validate`."""
    try:
        validate(document, name)
    except InvalidDocumentError:
        document = _known(document, schema(name))
        validate(document, name)
    return document


def _known(value: Any, node: dict[str, Any]) -> Any:
    if isinstance(value, list):
        return [_known(one, node.get("items", {})) for one in value]
    if not isinstance(value, dict):
        return value
    inner, others = node.get("properties", {}), node.get("additionalProperties", True)
    return {
        key: _known(one, inner.get(key) or (others if isinstance(others, dict) else {}))
        for key, one in value.items()
        if key in inner or others is not False
    }


def shown(value: Any) -> str:
    text = escaped(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


def compile_schema(node: dict[str, Any]) -> Check:
    checks = [_KEYWORDS[key](node[key]) for key in node if key not in _ANNOTATIONS]
    if "type" in node and node.keys() <= _SIMPLE:
        return _simple(node, _all(checks))
    if "properties" in node or "additionalProperties" in node or "required" in node:
        checks.append(_object(node))
    if "if" in node:
        checks.append(_conditional(node))
    return _all(checks)


def _all(checks: list[Check]) -> Check:
    if len(checks) == 1:
        return checks[0]

    def check(value: Any) -> str:
        for one in checks:
            if problem := one(value):
                return problem
        return ""

    return check


def _simple(node: dict[str, Any], thorough: Check) -> Check:
    """A number or a word within bounds, of which a large fleet's documents have a million: one look, when all is well.
    What is wrong with one is for the thorough check to say."""
    kinds = node["type"] if isinstance(node["type"], list) else [node["type"]]
    allowed = frozenset(kind for name in kinds for kind in _TYPES[name])
    low, high = node.get("minimum", -math.inf), node.get("maximum", math.inf)
    least, most = node.get("minLength", 0), node.get("maxLength", math.inf)

    def check(value: Any) -> str:
        kind = type(value)
        if kind in allowed:
            if kind is str:
                if least <= len(value) <= most:
                    return ""
            elif (kind is not int and kind is not float) or low <= value <= high:
                return ""
        return thorough(value)

    return check


def _type(kinds: str | list[str]) -> Check:
    names = [kinds] if isinstance(kinds, str) else kinds
    allowed = tuple(kind for name in names for kind in _TYPES[name])
    boolean = "boolean" in names

    def check(value: Any) -> str:
        if isinstance(value, allowed) and (boolean or not isinstance(value, bool)):
            return ""
        return f" is {shown(value)}, expected {' or '.join(names)}"

    return check


def _test(holds: Callable[[Any], bool], kinds: tuple[type, ...] | type, words: str) -> Check:
    def check(value: Any) -> str:
        if not isinstance(value, kinds) or isinstance(value, bool) or holds(value):
            return ""
        return f" is {shown(value)}, expected {words}"

    return check


def _equal(allowed: list[Any]) -> Check:
    def check(value: Any) -> str:
        if any(value == one and type(value) is type(one) for one in allowed):
            return ""
        return f" is {shown(value)}, expected {' or '.join(json.dumps(one) for one in allowed)}"

    return check


def _items(node: dict[str, Any]) -> Check:
    inner = compile_schema(node)

    def check(value: Any) -> str:
        if isinstance(value, list):
            for index, one in enumerate(value):
                if problem := inner(one):
                    return f"[{index}]{problem}"
        return ""

    return check


def _unique(wanted: bool) -> Check:
    return _test(
        lambda value: not wanted or len({json.dumps(v) for v in value}) == len(value), list, "each once"
    )


def _pattern(text: str) -> Check:
    found = re.compile(re.sub(r"\$$", r"\\Z", text))  # Python's $ lets a line feed pass
    return _test(lambda value: found.search(value) is not None, str, f"to match {text}")


def _object(node: dict[str, Any]) -> Check:
    properties = {key: compile_schema(inner) for key, inner in node.get("properties", {}).items()}
    required = node.get("required", [])
    rest = node.get("additionalProperties", True)
    others = compile_schema(rest) if isinstance(rest, dict) else None

    def check(value: Any) -> str:
        if not isinstance(value, dict):
            return ""
        for key in required:
            if key not in value:
                return f" lacks {key}"
        for key, one in value.items():
            if inner := properties.get(key, others):
                if problem := inner(one):
                    return f".{shown(key)[1:-1]}{problem}"
            elif rest is False:
                return f" has the unknown key {shown(key)}"
        return ""

    return check


def _conditional(node: dict[str, Any]) -> Check:
    condition, then, otherwise = (compile_schema(node.get(key, {})) for key in ("if", "then", "else"))
    return lambda value: otherwise(value) if condition(value) else then(value)


def _read_elsewhere(_: Any) -> Check:
    """`if` is read with its `then` and `else`."""
    return lambda _: ""


_KEYWORDS: dict[str, Callable[[Any], Check]] = {
    "type": _type,
    "const": lambda one: _equal([one]),
    "enum": _equal,
    "pattern": _pattern,
    "minLength": lambda n: _test(lambda value: len(value) >= n, str, f"at least {n} characters"),
    "maxLength": lambda n: _test(lambda value: len(value) <= n, str, f"at most {n} characters"),
    "minimum": lambda n: _test(lambda value: value >= n, (int, float), f"at least {n}"),
    "maximum": lambda n: _test(lambda value: value <= n, (int, float), f"at most {n}"),
    "minItems": lambda n: _test(lambda value: len(value) >= n, list, f"at least {n} entries"),
    "maxItems": lambda n: _test(lambda value: len(value) <= n, list, f"at most {n} entries"),
    "uniqueItems": _unique,
    "items": _items,
    "allOf": lambda nodes: _all([compile_schema(node) for node in nodes]),
    "if": _read_elsewhere,
    "then": _read_elsewhere,
}
