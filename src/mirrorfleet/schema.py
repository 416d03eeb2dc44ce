"""JSON Schema, as much of it as our own schemas use: a document is checked before it replaces the former one.

Tests hold it against the full implementation. A keyword that is not known here is an error when a schema is
read, not a rule that is silently left out. A schema is compiled once, for a list may have thousands of mirrors.
"""

import functools
import json
import re
from collections.abc import Callable, Iterator
from importlib import resources
from typing import Any

Check = Callable[[Any, str], Iterator[str]]

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
    for problem in checker(name)(document, name):
        raise InvalidDocumentError(problem)


def shown(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


def compile_schema(node: dict[str, Any]) -> Check:
    checks = [_KEYWORDS[key](node[key]) for key in node if key not in _ANNOTATIONS]
    if "properties" in node or "additionalProperties" in node or "required" in node:
        checks.append(_object(node))
    if "if" in node:
        checks.append(_conditional(node))

    def check(value: Any, where: str) -> Iterator[str]:
        for one in checks:
            yield from one(value, where)

    return check


def _type(kinds: str | list[str]) -> Check:
    names = [kinds] if isinstance(kinds, str) else kinds
    allowed = tuple(kind for name in names for kind in _TYPES[name])
    boolean = "boolean" in names

    def check(value: Any, where: str) -> Iterator[str]:
        if not isinstance(value, allowed) or (isinstance(value, bool) and not boolean):
            yield f"{where} is {shown(value)}, expected {' or '.join(names)}"

    return check


def _test(holds: Callable[[Any], bool], kinds: tuple[type, ...] | type, words: str) -> Check:
    def check(value: Any, where: str) -> Iterator[str]:
        if isinstance(value, kinds) and not isinstance(value, bool) and not holds(value):
            yield f"{where} is {shown(value)}, expected {words}"

    return check


def _equal(allowed: list[Any]) -> Check:
    def check(value: Any, where: str) -> Iterator[str]:
        if not any(value == one and type(value) is type(one) for one in allowed):
            yield f"{where} is {shown(value)}, expected {' or '.join(json.dumps(one) for one in allowed)}"

    return check


def _items(node: dict[str, Any]) -> Check:
    inner = compile_schema(node)

    def check(value: Any, where: str) -> Iterator[str]:
        if isinstance(value, list):
            for index, one in enumerate(value):
                yield from inner(one, f"{where}[{index}]")

    return check


def _unique(wanted: bool) -> Check:
    return _test(
        lambda value: not wanted or len({json.dumps(v) for v in value}) == len(value), list, "each once"
    )


def _pattern(text: str) -> Check:
    found = re.compile(re.sub(r"\$$", r"\\Z", text))  # Python's $ lets a line feed pass
    return _test(lambda value: found.search(value) is not None, str, f"to match {text}")


def _all_of(nodes: list[dict[str, Any]]) -> Check:
    checks = [compile_schema(node) for node in nodes]

    def check(value: Any, where: str) -> Iterator[str]:
        for one in checks:
            yield from one(value, where)

    return check


def _object(node: dict[str, Any]) -> Check:
    properties = {key: compile_schema(inner) for key, inner in node.get("properties", {}).items()}
    required = node.get("required", [])
    rest = node.get("additionalProperties", True)
    others = compile_schema(rest) if isinstance(rest, dict) else None

    def check(value: Any, where: str) -> Iterator[str]:
        if not isinstance(value, dict):
            return
        for key in required:
            if key not in value:
                yield f"{where} lacks {key}"
        for key, one in value.items():
            if inner := properties.get(key, others):
                yield from inner(one, f"{where}.{shown(key)[1:-1]}")
            elif rest is False:
                yield f"{where} has the unknown key {shown(key)}"

    return check


def _conditional(node: dict[str, Any]) -> Check:
    condition = compile_schema(node["if"])
    then, otherwise = (compile_schema(node.get(key, {})) for key in ("then", "else"))

    def check(value: Any, where: str) -> Iterator[str]:
        holds = next(condition(value, where), None) is None
        yield from (then if holds else otherwise)(value, where)

    return check


_NOTHING: Callable[[Any], Check] = lambda _: lambda *_: iter(())  # noqa: E731 - `if` is read with its then and else
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
    "allOf": _all_of,
    "if": _NOTHING,
    "then": _NOTHING,
}
