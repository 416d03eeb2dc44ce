"""The history of each mirror: what rounds found, summed up, and kept from one life of the service to the next."""

import contextlib
import functools
import json
import logging
import sqlite3
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..common import notes
from ..common.clock import by_now
from ..common.config import Kind
from ..common.database import check, is_corrupt, set_aside, set_aside_at
from ..common.schema import Check, compile_schema, schema
from ..fleet import evidence
from ..fleet.health import described
from . import history
from .reference import Reference

log = logging.getLogger(__name__)

HOUR, DAY = 3600, 86400
DAYS_KEPT, HOURS_KEPT = 30, 24


@dataclass
class Found:
    """What one round found in one family."""

    address: str = ""
    serial: int | None = None
    last_modified: int | None = None
    certificate_expires: int | None = None
    failure: dict[str, str] | None = None
    tampered: bool = False
    refused: str = ""  # by what guard its last sync was stopped, as it says itself


@dataclass
class Track:
    """The history of a mirror; its sums are kept by hour for a day and by day for thirty."""

    measured_at: int = 0
    good: int = 0
    bad: int = 0
    since: int | None = None
    well: bool = False  # good in a family, and fresh as far as the fleet's limit asks for it
    well_families: list[str] = field(default_factory=list)
    well_since: int | None = None  # when the last of them became so
    last_good: int | None = None
    problem: str = ""
    families: dict[str, str] = field(default_factory=dict)
    rounds: dict[str, dict[str, Any]] = field(default_factory=dict)  # by family, as standing.Rounds
    addresses: list[str] = field(default_factory=list)
    serial: int | None = None
    last_modified: int | None = None
    lag: int | None = None
    refused: str = ""
    certificate_expires: int | None = None
    tampered_at: int | None = None
    tampered: str = ""  # what had a wrong hash then
    proof: dict[str, str] = field(default_factory=dict)  # the same, and which address gave it
    failures: list[evidence.Failure] = field(default_factory=list)  # of the present row of failed rounds
    # hour, rounds, good, seconds, seconds², hours behind
    hours: list[tuple[float, float, float, float, float, float]] = field(default_factory=list)
    days: list[tuple[float, float, float]] = field(default_factory=list)  # day, rounds, good

    def add(
        self, found: dict[str, Found], reference: Reference, seconds: float, now: int, staleness_limit: int
    ) -> None:
        self._set_back(now)
        failures = [one.failure for one in found.values() if one.failure]
        good = not failures
        if self.measured_at == 0 or good != (self.good > 0):
            self.since = now
        self.measured_at = now
        self.good, self.bad = (self.good + 1, 0) if good else (0, self.bad + 1)
        self.last_good = now if good else self.last_good
        self.problem = described(failures) if failures else ""
        self.families = {
            name: one.failure["problem"][:300] if one.failure else "" for name, one in found.items()
        }
        self.rounds = {name: _row(self.rounds.get(name), one) for name, one in found.items()}
        self.addresses = sorted({one.address for one in found.values() if one.address})
        # What a failed round did not get to know is no news.
        if whole := [one for one in found.values() if not one.failure]:
            self.serial = least(one.serial for one in whole)
            self.last_modified = least(one.last_modified for one in whole)
            self.refused = next((one.refused for one in whole if one.refused), "")
        self.lag = reference.lag(self.serial, now)
        self.certificate_expires = (
            least(one.certificate_expires for one in found.values()) or self.certificate_expires
        )
        self.failures = evidence.kept(self.failures if self.bad > 1 else [], failures, now)
        if tampered := [one for one in found.values() if one.tampered and one.failure]:
            self.tampered_at, self.tampered = now, described([one.failure for one in tampered if one.failure])
            self.proof = _proof(tampered[0])
        age = max(now - self.last_modified, 0) if self.last_modified else 0
        fresh = max(age, self.lag or 0) <= staleness_limit
        well = [name for name, row in sorted(self.rounds.items()) if row["good"] and fresh]
        if set(well) - set(self.well_families):
            self.well_since = now
        self.well, self.well_families = bool(well), well
        behind = age / HOUR
        self._count(now, good, seconds, behind)

    def _set_back(self, now: int) -> None:
        """What a clock that was ahead noted, and has come back."""
        self.since, self.well_since = by_now(self.since, now), by_now(self.well_since, now)
        self.last_good, self.tampered_at = by_now(self.last_good, now), by_now(self.tampered_at, now)
        self.hours = [one for one in self.hours if one[0] <= now // HOUR]
        self.days = [one for one in self.days if one[0] <= now // DAY]

    def _count(self, now: int, good: bool, seconds: float, behind: float) -> None:
        hour, day = now // HOUR, now // DAY
        if not self.hours or self.hours[-1][0] != hour:
            self.hours = [*(one for one in self.hours if one[0] > hour - HOURS_KEPT), (hour, 0, 0, 0, 0, 0)]
        if not self.days or self.days[-1][0] != day:
            self.days = [*(one for one in self.days if one[0] > day - DAYS_KEPT), (day, 0, 0)]
        _, rounds, well, sum_, squares, late = self.hours[-1]
        spent = seconds if good else 0
        self.hours[-1] = (hour, rounds + 1, well + good, sum_ + spent, squares + spent * spent, late + behind)
        _, rounds, well = self.days[-1]
        self.days[-1] = (day, rounds + 1, well + good)

    @property
    def settled(self) -> int:
        """Rounds in a row that were alike in every family."""
        return min((max(row["good"], row["bad"]) for row in self.rounds.values()), default=0)

    def day(self) -> dict[str, float]:
        rounds, good, seconds, squares, behind = (sum(one[at] for one in self.hours) for at in range(1, 6))
        mean = seconds / good if good else 0.0
        return {
            "rounds": int(rounds),
            "good": int(good),
            "duration": round(mean, 4),
            "deviation": round(max(squares / good - mean * mean, 0) ** 0.5, 4) if good else 0.0,
            "delay": round(behind / rounds, 4) if rounds else 0.0,
        }

    def today(self, now: int) -> dict[str, int]:
        day, rounds, good = self.days[-1] if self.days else (0, 0, 0)
        same = day == now // DAY
        return {"rounds": int(rounds) if same else 0, "good": int(good) if same else 0}

    def month(self, now: int, remembered: list[float | None] | None = None) -> list[float | None]:
        """The share of good rounds of each day. What is remembered of days that ended comes first."""
        days = month_of(now)
        shares = {int(day): good / rounds for day, rounds, good in self.days if rounds}
        shares |= {day: one for day, one in zip(days[:-1], remembered or [], strict=False) if one is not None}
        return [history.share(shares.get(day)) for day in days]

    def document(self, now: int, memory: history.History, name: str) -> dict[str, Any]:
        told = asdict(self)
        for own in ("hours", "failures", "tampered", "well_families", *([] if self.proof else ["proof"])):
            del told[own]
        days = month_of(now)
        told |= {"day": self.day(), "today": self.today(now)}
        told["days"] = self.month(now, memory.row("available", name, days))
        if rows := history.told(memory, name, days):
            told["history"] = rows
        return told


def _row(former: dict[str, Any] | None, found: Found) -> dict[str, Any]:
    """Rounds in a row of one family."""
    if found.failure:
        return {"good": 0, "bad": (former or {}).get("bad", 0) + 1, "problem": described([found.failure])}
    return {"good": (former or {}).get("good", 0) + 1, "bad": 0, "problem": ""}


def _proof(found: Found) -> dict[str, str]:
    failure = found.failure or {}
    said = f"{failure['check']}: {failure['problem']}"[:500]
    return {"family": failure["family"], "address": found.address, "found": said}


def month_of(now: int) -> range:
    """Thirty days, today last."""
    return range(now // DAY - DAYS_KEPT + 1, now // DAY + 1)


def least(values: Any) -> int | None:
    return min((value for value in values if value is not None), default=None)


@functools.cache
def _told() -> Check:
    """Whether what is told of a mirror can be."""
    return compile_schema(schema("health")["properties"]["mirrors"]["additionalProperties"])


def _track(text: str) -> Track:
    """As it was saved; ValueError when it cannot be used, by what would be told of it."""
    track: Track = notes.fit(Track, notes.decode(text))
    if not track.measured_at:
        raise ValueError("it is of no round")
    if problem := _told()(track.document(track.measured_at, history.History(), "")):
        raise ValueError(f"it{problem}")
    return track


class Store:
    """Histories and the reference's serials, from one life of the service to the next.

    Who `heals` holds the lock of the service: a file that is spoilt is set aside, and a new one begun.
    """

    def __init__(self, path: Path, *, heals: bool = False) -> None:
        self._path = path
        try:
            self._open()
        except sqlite3.DatabaseError as error:
            if not heals or not (is_corrupt(error) or path.is_dir()):
                raise
            aside = set_aside(path)
            log.error("%s is corrupt and set aside as %s; histories begin anew: %s", path, aside, error)
            self._open()

    def _open(self) -> None:
        self._database = sqlite3.connect(self._path)
        self._database.text_factory = lambda data: data.decode("utf-8", "replace")
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=NORMAL")
        with self._database:
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS track (name TEXT PRIMARY KEY, document TEXT) STRICT"
            )
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS serial (serial INTEGER PRIMARY KEY, at INTEGER) STRICT"
            )
        check(self._database)

    @property
    def set_aside_at(self) -> float | None:
        """When a spoilt file was last set aside, in Unix seconds."""
        return set_aside_at(self._path)

    def tracks(self) -> dict[str, Track]:
        """Of each mirror; one whose row cannot be used has none, and begins anew."""
        found = {}
        for name, text in self._database.execute("SELECT name, document FROM track"):
            try:
                found[name] = _track(text or "")
            except ValueError as error:
                log.error("%s: track of %s cannot be used: %s", self._path, name, error)
        return found

    def serials(self) -> list[tuple[int, int]]:
        return [
            (at, serial)
            for serial, at in self._database.execute("SELECT serial, at FROM serial ORDER BY serial")
        ]

    def save(self, tracks: dict[str, Track], serials: list[tuple[int, int]]) -> None:
        with self._database:
            rows = [(name, json.dumps(asdict(track))) for name, track in tracks.items()]
            self._database.executemany("INSERT OR REPLACE INTO track VALUES (?, ?)", rows)
            self._database.executemany(
                "INSERT OR IGNORE INTO serial VALUES (?, ?)", [(serial, at) for at, serial in serials]
            )

    def close(self) -> None:
        self._database.close()


def saved(path: Path, what: Callable[[Store], Kind], otherwise: Kind) -> Kind:
    """What the service saved; `otherwise` where its file cannot be used, which is for the service to heal."""
    try:
        with contextlib.closing(Store(path)) as store:
            return what(store)
    except sqlite3.Error as error:
        log.error("%s: %s", path, error)
        return otherwise
