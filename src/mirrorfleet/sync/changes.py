"""What changed at the tier above since the last pass, by its change journal."""

import json
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..common.files import entries, remove
from ..common.names import InvalidNameError, own_name, shown
from ..fetch.fetched import MAX_DOCUMENT
from ..fetch.rsync import Transfer, TransferError
from ..served.journal import BadJournalError, Head, parse_head, read_lines, segment_name
from ..served.state import State
from ..served.status import last_modified
from ..served.tree import SNAPSHOT

log = logging.getLogger(__name__)


@dataclass
class Changes:
    """What the journal says since the last pass, the last word on each project."""

    pages: dict[str, str] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    refused: int = 0

    def read(self, lines: Iterable[list[Any]]) -> None:
        for line in lines:
            try:
                self._read(line)
            except (InvalidNameError, ValueError, TypeError, IndexError) as error:
                self.refused += 1
                log.warning("journal: refused: %s", shown(str(error)))

    def _read(self, line: list[Any]) -> None:
        if line[0] == "page":
            name, snapshot = own_name(line[1]), str(line[2])
            if not SNAPSHOT.fullmatch(snapshot):
                raise ValueError(f"not a snapshot: {shown(snapshot)}")
            self.pages[name] = snapshot
            self.gone.discard(name)
        elif line[0] == "gone":
            name = own_name(line[1])
            self.gone.add(name)
            self.pages.pop(name, None)


@dataclass(frozen=True)
class Said:
    """What the tier above says about itself, taken before anything else."""

    head: Head
    serial: int
    fetched_at: float | None


class Above:
    """The tier above; what is read of it is kept in `copy` from one pass to the next."""

    def __init__(self, source: str, transfer: Transfer, copy: Path, state: State) -> None:
        self._source, self._transfer, self._copy, self._state = source, transfer, copy, state

    def ask(self) -> Said:
        names = ["journal/head.json", "mirror.json", "last-modified"]
        # With them the segment that is read next: nothing new then costs one connection.
        if position := self._state.get("pull_position"):
            names.append(f"journal/{segment_name(position['segment'])}")
        self._transfer.fetch(names, self._copy, largest=MAX_DOCUMENT)
        try:
            head = parse_head((self._copy / "journal/head.json").read_bytes())
            serial = int(json.loads((self._copy / "mirror.json").read_bytes())["serial"])
        except (OSError, BadJournalError, ValueError, KeyError, TypeError) as error:
            raise TransferError(f"{self._source} is no mirror of a fleet: {error}") from error
        self._state.put("upstream_serial", serial)
        return Said(head, serial, self._last_modified())

    def _last_modified(self) -> float | None:
        """When the tier above last had everything: later is impossible for us, and for it as well."""
        at = last_modified(self._copy)
        return None if at is None else min(at, time.time())

    def follow(self, head: Head) -> tuple[Changes | None, dict[str, Any]]:
        """The changes since the last pass, None when the journal does not tell; and where to go on."""
        position = self._state.get("pull_position") or {}
        first = position.get("segment", 0)
        whole = position.get("generation") == head.generation and head.oldest <= first <= head.newest
        if not whole:
            remove(self._copy / "journal")
            first = head.newest
        numbers = range(first, head.newest + 1)
        # Asked for with the head; unless it was rotated meanwhile, and then it may have grown before.
        if not (whole and first == head.newest):
            segments = (f"journal/{segment_name(number)}" for number in numbers)
            self._transfer.fetch(segments, self._copy, largest=MAX_DOCUMENT)
        changes, consumed, broken = Changes(), 0, 0
        for number in numbers:
            try:
                data = (self._copy / "journal" / segment_name(number)).read_bytes()
            except FileNotFoundError:
                whole = False
                continue
            offset = position["offset"] if whole and number == first else 0
            if offset > len(data):  # of a tier above that was restored
                whole, offset = False, 0
            lines, length, bad = read_lines(data[offset:])
            consumed, broken = offset + length, broken + bad
            if whole:
                changes.read(lines)
        for entry in entries(self._copy / "journal"):
            if entry.name.endswith(".jsonl") and entry.name < segment_name(head.newest):
                remove(Path(entry.path))
        if broken or changes.refused:
            # What they meant to say is found by comparing.
            log.warning("journal: %d broken and %d refused lines", broken, changes.refused)
            whole = False
        after = {"generation": head.generation, "segment": head.newest, "offset": consumed}
        return (changes if whole else None), after
