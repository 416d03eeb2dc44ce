"""What there is to look at: names of projects that the monitor learnt, and what became of them at the trusted index.

Nobody fetches the trusted index's list. Names come from parts of mirrors' own lists and from what wheels require; what
the trusted index said of those that were drawn tells which changed lately and which are gone. Everything here may be
lost: it is learnt again.
"""

import contextlib
import logging
import random
import re
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

from ..common.database import check, is_corrupt, set_aside, set_aside_at
from ..common.guards import BusyError, only_one
from ..common.names import InvalidNameError, own_name, project_name
from .client import JSON_V1, PIP_FILE, CheckError, Line
from .reference import Page
from .settings import Selection

log = logging.getLogger(__name__)

CLAIMED_BYTES = 512 << 10  # read of a mirror's list of projects in one audit
LEARNT = 500  # names kept of one such part, so that no mirror alone decides what others are asked for
NAMES_KEPT = 20_000
RECENT = 2 * 86400  # seconds for which a project counts as changed lately
GONE_KEPT = 90 * 86400  # seconds for which one that was removed is asked for
_ENTRY = re.compile(rb'\{[^{}]*"name"\s*:\s*"([^"\\]{1,255})"[^{}]*\}')
_SERIAL = re.compile(rb'"_last-serial"\s*:\s*([0-9]{1,18})\b')
_REQUIRES = re.compile(rb"^Requires-Dist:[ \t]*([A-Za-z0-9][A-Za-z0-9._-]*)", re.MULTILINE | re.IGNORECASE)
_chance = random.SystemRandom()
Kind = TypeVar("Kind")


@dataclass(frozen=True)
class Claims:
    """What a mirror's own list of projects (PEP 691) says, or a part of it."""

    named: Mapping[str, int | None] = field(default_factory=dict)  # serials by project, in its order
    whole: bool = False
    about: int = 0  # projects in the whole list, as far as its length tells

    def lacks(self, projects: Iterable[str]) -> list[str]:
        """Those that it would name here, and does not."""
        if not self.named:
            return []
        first, last = min(self.named), max(self.named)
        return [one for one in projects if one not in self.named and (self.whole or first < one < last)]


async def claims(line: Line) -> Claims:
    """The list, when it is short, else a part at a place that is drawn by chance. Whether it keeps to the standard is a
    rule of its own (conformance.py): nothing is claimed by one that cannot be read."""
    wanted = PIP_FILE | {"Accept": JSON_V1}
    try:
        head = (await line.ask("/simple/", wanted, method="HEAD")).expect(200, JSON_V1)
        told = head.headers.get("content-length", "")
        length = int(told) if re.fullmatch(r"[0-9]{1,12}", told) else 0
        if length > CLAIMED_BYTES:
            first = _chance.randrange(length - CLAIMED_BYTES)
            wanted |= {"Range": f"bytes={first}-{first + CLAIMED_BYTES - 1}"}
        answer = await line.ask("/simple/", wanted, limit=CLAIMED_BYTES)
    except CheckError:
        return Claims()
    if answer.status not in (200, 206):
        return Claims()
    named: dict[str, int | None] = {}
    for entry in _ENTRY.finditer(answer.body):
        with contextlib.suppress(InvalidNameError):
            serial = _SERIAL.search(entry[0])
            named[project_name(entry[1].decode("utf-8", "replace"))] = int(serial[1]) if serial else None
    whole = answer.status == 200 and length <= CLAIMED_BYTES and len(answer.body) < CLAIMED_BYTES
    about = len(named) if whole or not answer.body else round(len(named) * length / len(answer.body))
    return Claims(named, whole, max(about, len(named)))


def required(metadata: bytes) -> set[str]:
    """The projects that a wheel's core metadata requires: what others need is much used."""
    found = set()
    for one in _REQUIRES.findall(metadata):
        with contextlib.suppress(InvalidNameError):
            found.add(project_name(one.decode()))
    return found


class Draw(NamedTuple):
    names: list[str]  # each once, in no order
    even: frozenset[str]  # those of them for which each had the same chance
    population: int


class _Row(NamedTuple):
    changed: int | None
    gone: int | None
    used: int


class Population:
    """The names in one SQLite file, shared by the service and by audits. A file that is spoilt is set aside."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "projects.sqlite"

    @property
    def set_aside_at(self) -> float | None:
        """When a spoilt file was last set aside, in Unix seconds."""
        return set_aside_at(self._path)

    def learn(self, named: Mapping[str, int | None], since: int | None = None) -> None:
        """At most LEARNT names from a mirror's list, half of them those that changed after the serial `since`.

        That is what the mirror says: what counts is what the trusted index says when it is asked for them.
        """
        now = int(time.time())
        changed = [one for one, serial in named.items() if serial and since is not None and serial > since]
        lately = _some(changed, LEARNT // 2)
        others = _some([one for one in named if one not in lately], LEARNT - len(lately))
        rows = [(name, now if at else None) for at, names in enumerate((others, lately)) for name in names]

        def put(db: sqlite3.Connection) -> None:
            db.executemany("INSERT OR IGNORE INTO project (name, changed) VALUES (?, ?)", rows)
            marked = [(now, name, since) for name in lately]
            db.executemany("UPDATE project SET changed = ? WHERE name = ? AND serial <= ?", marked)
            _prune(db, now)

        self._with(put, None)

    def need(self, names: Iterable[str]) -> None:
        """Others require these."""
        rows = [(name,) for name in names]
        add = "INSERT INTO project (name, used) VALUES (?, 1) ON CONFLICT DO UPDATE SET used = used + 1"
        self._with(lambda db: db.executemany(add, rows), None)

    def saw(self, project: str, page: Page | None) -> None:
        """What the trusted index says of a project now; None when it has none."""
        now = int(time.time())

        def put(db: sqlite3.Connection) -> None:
            query = "SELECT digest, changed, gone FROM project WHERE name = ?"
            digest, changed, gone = db.execute(query, (project,)).fetchone() or ("", None, None)
            if page is None:
                gone, serial = gone or now, None
            else:
                newest = max((file.uploaded for file in page.files), default=0)
                if digest and digest != page.digest:
                    changed = now
                elif not digest:  # nobody knows what it was; a new project is one that changed
                    changed = min(newest, now) if newest > now - RECENT else None
                digest, serial, gone = page.digest, page.serial, (gone or now) if page.quarantined else None
            db.execute(
                "INSERT INTO project (name, serial, digest, changed, gone) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO"
                " UPDATE SET serial=excluded.serial, digest=excluded.digest, changed=excluded.changed,"
                " gone=excluded.gone",
                (project, serial, digest, changed, gone),
            )
            _prune(db, now)

        self._with(put, None)

    def gone(self, limit: float) -> list[str]:
        """What the trusted index has had no longer, or in quarantine, since before `limit` (seconds since 1970)."""
        query = "SELECT name FROM project WHERE gone <= ?"
        return self._with(lambda db: [name for (name,) in db.execute(query, (int(limit),))], [])

    def draw(
        self, count: int, selection: Selection, known: Collection[str], claimed: Claims | None = None
    ) -> Draw:
        """At most `count` projects of those that a mirror is to have, by chance that nobody can foresee.

        A quarter are for what its list lacks or has beside its selection, a quarter for what changed lately, a quarter
        for what is `known` to a person or required by others; what these leave, at least a quarter, is drawn evenly.
        Without a selection that is from the names that were learnt and, by half, from those that the mirror claims.
        """
        claimed, now = claimed or Claims(), int(time.time())
        rows = self._with(_rows, dict[str, _Row]())
        there: Collection[str] = (
            [one for one, row in rows.items() if row.gone is None]
            if selection.projects is None
            else selection.projects
        )
        there = {one for one in (*there, *known) if selection.includes(one)}
        own = [one for one in claimed.named if selection.comparable(one)]
        beside = [one for one in own if one not in there]
        everybody = there | set(own)
        population = len(everybody)
        if selection.projects is None and not claimed.whole:
            population = max(population, claimed.about)
        if len(everybody) <= count:
            return Draw(_some(everybody, count), frozenset(everybody), population)
        quarter = count // 4
        recent = [one for one in there if one in rows and _recent(rows[one].changed, now)]
        weights = {one: rows[one].used for one in there if one in rows and rows[one].used}
        used = _some([one for one in known if one in there], quarter // 2)
        if weights:
            used += _chance.choices(list(weights), list(weights.values()), k=quarter - len(used))
        odd = claimed.lacks(there) + (beside if selection.projects is not None else [])
        chosen = {*_some(odd, quarter), *_some(recent, quarter), *used}
        left = max(count - len(chosen), 0)
        if selection.projects is None and own:
            even = {*_some(own, left // 2), *_some(there, left - left // 2)}
        else:
            even = set(_some(there, left))
        return Draw(_some(chosen | even, count), frozenset(even), population)

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with contextlib.closing(sqlite3.connect(self._path, timeout=10)) as db, db:
            db.execute(
                "CREATE TABLE IF NOT EXISTS project (name TEXT PRIMARY KEY, serial INTEGER, digest TEXT NOT NULL"
                " DEFAULT '', changed INTEGER, gone INTEGER, used INTEGER NOT NULL DEFAULT 0) STRICT"
            )
            yield db

    def _with(self, work: Callable[[sqlite3.Connection], Kind], otherwise: Kind) -> Kind:
        """What `work` finds, or else `otherwise`: that names are not remembered stops no measurement."""
        for _ in range(2):
            try:
                with self._open() as db:
                    return work(db)
            except sqlite3.Error as error:
                log.warning("%s: %s", self._path, error)
                if not self._spoilt(error):
                    break
                self._heal()
        return otherwise

    def _spoilt(self, error: sqlite3.Error) -> bool:
        return is_corrupt(error) or self._path.is_dir()

    def _heal(self) -> None:
        """Set a spoilt file aside, if it is the same still: service and audits may find it spoilt at once."""
        try:
            with only_one(self._path.with_suffix(".lock"), patience=1):
                try:
                    with self._open() as db:
                        check(db)
                except sqlite3.DatabaseError as error:
                    if not self._spoilt(error):
                        return
                    aside = set_aside(self._path)
                    log.error(
                        "%s is corrupt and set aside as %s; names are learnt anew: %s",
                        self._path,
                        aside,
                        error,
                    )
        except (BusyError, OSError) as problem:
            log.warning("%s: %s", self._path, problem)


def _rows(db: sqlite3.Connection) -> dict[str, _Row]:
    found = {}
    for name, *row in db.execute("SELECT name, changed, gone, used FROM project"):
        with contextlib.suppress(InvalidNameError):
            found[own_name(name)] = _Row(*row)
    return found


def _prune(db: sqlite3.Connection, now: int) -> None:
    """No more than NAMES_KEPT, those first to leave of which least is known; and no time that is ahead."""
    db.execute("UPDATE project SET changed = ? WHERE changed > ?", (now, now))
    db.execute("UPDATE project SET gone = ? WHERE gone > ?", (now, now))
    db.execute("DELETE FROM project WHERE gone < ?", (now - GONE_KEPT,))
    (count,) = db.execute("SELECT count(*) FROM project").fetchone()
    if count > NAMES_KEPT:
        db.execute(
            "DELETE FROM project WHERE name IN (SELECT name FROM project ORDER BY (gone IS NOT NULL)"
            " + (changed IS NOT NULL) + (used > 0) + (digest != ''), random() LIMIT ?)",
            (count - NAMES_KEPT,),
        )


def _recent(changed: int | None, now: int) -> bool:
    return changed is not None and now - RECENT < changed <= now


def _some(names: Collection[str], count: int) -> list[str]:
    return _chance.sample(list(names), min(len(names), count))
