"""The change journal that lets the next tier transfer what changed instead of comparing everything.

journal/head.json names the generation and the range of segments; journal/NNNNNNNN.jsonl are
append-only segments of one JSON array a line:

    ["file", path, size, sha256]   a file or sidecar is there
    ["page", project, snapshot]    about to be the project's current snapshot; its files are listed above
    ["root", snapshot]             likewise for the root index
    ["gone", project]              the project left
    ["delete", path]               a path below the tree's root is about to be deleted

A reader keeps (generation, segment, offset) and consumes whole lines only. A writer killed in the
middle of a line leaves a broken one, which readers skip: what it announced has not been published.
"""

import json
import os
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..common.files import named, remove, write_atomically

Line = tuple[str | int, ...]
SEGMENT_BYTES = 4 << 20
SEGMENTS_KEPT = 64


@dataclass(frozen=True)
class Head:
    generation: str
    oldest: int
    newest: int

    def encode(self) -> bytes:
        return json.dumps({"schema": 1, **vars(self)}).encode() + b"\n"


class BadJournalError(ValueError):
    """Not a journal this program can follow."""


def parse_head(data: bytes) -> Head:
    try:
        document = json.loads(data)
        if document["schema"] != 1:
            raise BadJournalError(f"schema {document['schema']}")
        head = Head(str(document["generation"]), int(document["oldest"]), int(document["newest"]))
    except (ValueError, KeyError, TypeError) as error:
        raise BadJournalError(f"unreadable head: {error}") from error
    if not (0 < head.oldest <= head.newest < 10**8) or not head.generation.isalnum():
        raise BadJournalError("head out of range")
    return head


def segment_name(number: int) -> str:
    return f"{number:08d}.jsonl"


class Journal:
    def __init__(
        self, root: Path, segment_bytes: int = SEGMENT_BYTES, segments_kept: int = SEGMENTS_KEPT
    ) -> None:
        self._root = root
        self._segment_bytes = segment_bytes
        self._segments_kept = segments_kept
        root.mkdir(parents=True, exist_ok=True)
        try:
            self.head = parse_head((root / "head.json").read_bytes())
        except (FileNotFoundError, BadJournalError):
            self._begin_generation()
        self._end_broken_line()

    def _begin_generation(self) -> None:
        for old in self._root.glob("*.jsonl"):
            remove(old)
        self.head = Head(secrets.token_hex(8), 1, 1)
        self._segment(1).touch(0o644)
        write_atomically(self._root / "head.json", self.head.encode())

    def _segment(self, number: int) -> Path:
        return self._root / segment_name(number)

    def _end_broken_line(self) -> None:
        with self._segment(self.head.newest).open("ab+") as stream:
            if stream.tell():
                stream.seek(-1, os.SEEK_END)
                if stream.read(1) != b"\n":
                    stream.write(b"\n")

    def append(self, lines: Iterable[Line]) -> None:
        """Write the lines durably; they are readable when this returns."""
        data = b"".join(json.dumps(line, separators=(",", ":")).encode() + b"\n" for line in lines)
        if not data:
            return
        segment = self._segment(self.head.newest)
        with named(segment), segment.open("ab") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
            full = stream.tell() >= self._segment_bytes
        if full:
            self._rotate()

    def _rotate(self) -> None:
        newest = self.head.newest + 1
        oldest = max(self.head.oldest, newest - self._segments_kept + 1)
        self._segment(newest).touch(0o644)
        former = self.head
        self.head = Head(former.generation, oldest, newest)
        write_atomically(self._root / "head.json", self.head.encode())
        for number in range(former.oldest, oldest):
            remove(self._segment(number))


def announced_snapshots(root: Path) -> Iterator[tuple[str, str]]:
    """Every project and snapshot that a journal announced; the root index has no name. Order and repeats as written."""
    for segment in sorted(root.glob("*.jsonl")):
        for line in read_lines(segment.read_bytes())[0]:
            match line:
                case ["page", str(name), str(snapshot)]:
                    yield name, snapshot
                case ["root", str(snapshot)]:
                    yield "", snapshot


def read_lines(data: bytes) -> tuple[list[list[Any]], int, int]:
    """The whole lines in `data`, how many bytes they took, and how many were broken."""
    consumed = data.rfind(b"\n") + 1
    lines, broken = [], 0
    for raw in data[:consumed].splitlines():
        try:
            line = json.loads(raw)
        except (ValueError, RecursionError):
            broken += 1
            continue
        if isinstance(line, list) and line and isinstance(line[0], str):
            lines.append(line)
        else:
            broken += 1
    return lines, consumed, broken
