"""Plain YAML: the data that a file holds, and the line each value stands on.

A record is data that somebody else wrote. So of YAML only this is taken: one document of mappings with text keys,
lists and scalars. Tags, anchors, aliases and merge keys are refused, and so is a key that stands twice. Plain scalars
mean what the core schema of YAML 1.2 says (https://yaml.org/spec/1.2.2/, 10.3): NO is Norway, a date is text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from plugin_utils.values import MAX_DEPTH, MAX_NAMES, shown

MAX_BYTES = 16_000_000
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_NULL = {"", "~", "null", "Null", "NULL"}
_TRUE = {"true", "True", "TRUE"}
_FALSE = {"false", "False", "FALSE"}
_INTEGER = re.compile(r"[-+]?[0-9]{1,40}")
_BASED = re.compile(r"0o[0-7]{1,40}|0x[0-9a-fA-F]{1,40}")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_SPECIAL = {
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}

Place = tuple[str | int, ...]


class UnreadableError(ValueError):
    """A file that holds no plain YAML: what is wrong, on which line and column, and the way out."""

    def __init__(self, problem: str, mark: Any = None, next_step: str = "", key: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.line = mark.line + 1 if mark else 0
        self.column = mark.column + 1 if mark else 0
        self.next_step = next_step
        self.key = key
        self.file = ""  # where it is another one than whoever tells it would think
        self.allowed = "plain YAML, one mapping (docs/inventory.md)"

    def told(self, host: str, file: str) -> dict[str, Any]:
        """The problem as reports hold them."""
        file = self.file or file
        return {
            "host": host, "file": file, "line": self.line, "column": self.column, "key": self.key,
            "problem": self.problem, "allowed": self.allowed,
            "next_step": self.next_step or f"correct {file}",
        }  # fmt: skip


@dataclass
class Document:
    """What a file says, and where."""

    values: dict[str, Any]
    file: str = ""
    lines: dict[Place, int] = field(default_factory=dict)

    def line(self, path: Place) -> int:
        """The line of a value; of what is not there, that of what should hold it; 0 when nothing is known."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.lines:
                return self.lines[path[:length]]
        return 0


def read(path: Path, named: str = "") -> Document:
    """The document of a file. Raises UnreadableError; whoever calls says which file it is."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UnreadableError(
                f"has {path.stat().st_size} bytes", None, f"at most {MAX_BYTES} bytes are read"
            )
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UnreadableError(f"cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise UnreadableError(f"is no UTF-8 text (byte {error.start})", None, "save it as UTF-8") from error
    return parse(text, named or str(path))


def parse(text: str, file: str = "") -> Document:
    document = Document({}, file)
    events: Iterator[Any] = yaml.parse(text, Loader=LOADER)
    try:
        found = _Reader(events, document).whole()
    except yaml.MarkedYAMLError as error:
        said = ", ".join(part for part in (error.context, error.problem) if part)
        raise UnreadableError(f"is no YAML: {said}", error.problem_mark or error.context_mark) from error
    except yaml.YAMLError as error:  # a character that YAML does not allow
        raise UnreadableError(f"is no YAML: {' '.join(str(error).split())[:200]}") from error
    if found is None:
        found = {}
    if not isinstance(found, dict):
        raise UnreadableError("holds no mapping at its top", None, "write KEY: VALUE, a line each")
    document.values = found
    return document


class _Reader:
    """Builds the values of one document from YAML's events."""

    def __init__(self, events: Iterator[Any], document: Document) -> None:
        self.events, self.document = events, document
        self.left = 4 * MAX_NAMES

    def whole(self) -> Any:
        next(self.events)  # the stream begins
        event = next(self.events)
        if isinstance(event, yaml.StreamEndEvent):
            return None
        value = self.value(next(self.events), ())
        next(self.events)  # the document ends
        event = next(self.events)
        if not isinstance(event, yaml.StreamEndEvent):
            raise UnreadableError(
                "holds more than one document", event.start_mark, "one document a file: remove the line '---'"
            )
        return value

    def value(self, event: Any, path: Place) -> Any:
        self.left -= 1
        if len(path) > MAX_DEPTH or self.left < 0:
            raise UnreadableError(
                "is too large or nested too deeply",
                event.start_mark,
                f"at most {MAX_DEPTH} levels",
                dotted(path),
            )
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise UnreadableError(
                f"has the YAML {'alias *' if isinstance(event, yaml.AliasEvent) else 'anchor &'}{event.anchor}",
                event.start_mark,
                "write the value out",
                dotted(path),
            )
        if event.tag is not None:
            raise UnreadableError(
                f"has the YAML tag {shown(event.tag)}",
                event.start_mark,
                "remove the tag: a record is plain data",
                dotted(path),
            )
        if isinstance(event, yaml.ScalarEvent):
            return event.value if event.style else plain_scalar(event.value)
        return self.mapping(path) if isinstance(event, yaml.MappingStartEvent) else self.sequence(path)

    def sequence(self, path: Place) -> list[Any]:
        found: list[Any] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            inner = (*path, len(found))
            self.document.lines[inner] = event.start_mark.line + 1
            found.append(self.value(event, inner))
        return found

    def mapping(self, path: Place) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            key = self.value(event, path) if isinstance(event, yaml.ScalarEvent) else None
            mark = event.start_mark
            if isinstance(event, yaml.ScalarEvent) and not event.style and event.value == "<<":
                raise UnreadableError("has a YAML merge key (<<)", mark, "write the keys out", dotted(path))
            if not isinstance(key, str):
                raise UnreadableError(
                    f"has the key {shown(event.value) if isinstance(event, yaml.ScalarEvent) else 'of several values'},"
                    " which is no text",
                    mark,
                    "text as keys, in quotes if need be",
                    dotted(path),
                )
            inner = (*path, key)
            if key in found:
                raise UnreadableError(
                    f"stands twice, also in line {self.document.lines[inner]}",
                    mark,
                    "remove one of the two",
                    dotted(inner),
                )
            self.document.lines[inner] = mark.line + 1
            found[key] = self.value(next(self.events), inner)
        return found


def plain_scalar(text: str) -> Any:
    """What a scalar without quotes means by YAML 1.2's core schema."""
    if text in _NULL:
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    if _INTEGER.fullmatch(text):
        return int(text)
    if _BASED.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text):
        return float(text)
    return _SPECIAL.get(text, text)


def dotted(path: Place) -> str:
    """A place in a document as messages name it: keys by dots, entries of lists counted from 1."""
    return ".".join(
        str(part + 1) if isinstance(part, int) else part if part.isprintable() else shown(part)[1:-1]
        for part in path
    )
