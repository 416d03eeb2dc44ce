"""What was published and what is still to do, in one SQLite file that survives a kill at any moment.

The served tree is the truth about pages; the state only says what need not be looked at again and
what is to be removed. Losing it costs one full pass, never a wrong page (`agreement`).
"""

import json
import sqlite3
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..common.log import without_credentials
from ..common.reasons import Reason

_SCHEMA = """
CREATE TABLE IF NOT EXISTS value (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS project (
    name TEXT PRIMARY KEY, identity TEXT NOT NULL, serial INTEGER NOT NULL, snapshot TEXT NOT NULL,
    files INTEGER NOT NULL, bytes INTEGER NOT NULL) WITHOUT ROWID;
-- Every file that a page names or is about to name. A file is unwanted when no project holds it.
CREATE TABLE IF NOT EXISTS file (
    path TEXT NOT NULL, project TEXT NOT NULL, size INTEGER NOT NULL, sha256 TEXT NOT NULL,
    core_metadata TEXT, PRIMARY KEY (path, project)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS file_of_project ON file (project);
-- Paths below the served tree to delete once run `after` is over; packages/ also leave the fetched tree.
CREATE TABLE IF NOT EXISTS removal (path TEXT PRIMARY KEY, after INTEGER NOT NULL) WITHOUT ROWID;
-- Projects whose disappearance from the fetched tree was decided, with the reason.
CREATE TABLE IF NOT EXISTS leaving (name TEXT PRIMARY KEY, reason TEXT NOT NULL) WITHOUT ROWID;
-- Projects that failed to be fetched, until they succeed.
CREATE TABLE IF NOT EXISTS trouble (
    name TEXT PRIMARY KEY, tries INTEGER NOT NULL, since REAL NOT NULL, retry_after REAL NOT NULL,
    reason TEXT NOT NULL, kind TEXT NOT NULL) WITHOUT ROWID;
-- Files of the private tree whose fetch was begun, until their project is published.
CREATE TABLE IF NOT EXISTS fetching (path TEXT PRIMARY KEY, project TEXT NOT NULL) WITHOUT ROWID;
-- What was found when upstream was last asked for a project, and when to ask again though nothing announces a change.
CREATE TABLE IF NOT EXISTS seen (
    name TEXT PRIMARY KEY, serial INTEGER NOT NULL, document TEXT NOT NULL, validator TEXT NOT NULL,
    again_after REAL, tries INTEGER NOT NULL) WITHOUT ROWID;
-- The newest serial of a project that is given and is not that of what is published.
CREATE TABLE IF NOT EXISTS given (name TEXT PRIMARY KEY, serial INTEGER NOT NULL) WITHOUT ROWID;
-- Files that upstream lists and that are not served, and since when.
CREATE TABLE IF NOT EXISTS left_out (
    project TEXT NOT NULL, filename TEXT NOT NULL, reason TEXT NOT NULL, since REAL NOT NULL,
    PRIMARY KEY (project, filename)) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Published:
    identity: str
    serial: int
    snapshot: str


@dataclass(frozen=True)
class Wanted:
    path: str
    size: int
    sha256: str
    core_metadata: str | None = None


@dataclass(frozen=True)
class Checked:
    """A file of the tree as it has to be."""

    path: str
    project: str
    size: int
    sha256: str
    core_metadata: str | None


@dataclass(frozen=True)
class Trouble:
    name: str
    tries: int
    since: float
    retry_after: float
    reason: str
    kind: str


@dataclass(frozen=True)
class Seen:
    """`serial` is what upstream's root index said, `document` the stamp of what bandersnatch had brought."""

    serial: int
    document: str
    validator: str = ""
    again_after: float | None = None  # Unix seconds
    tries: int = 0


NEVER = Seen(-1, "")  # of what was not asked for yet; no index gives such a serial


@dataclass(frozen=True)
class LeftOut:
    project: str
    filename: str
    reason: str
    since: float


class State:
    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, isolation_level=None, timeout=30)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.executescript(_SCHEMA)
        with suppress(sqlite3.OperationalError):  # of a state from before reasons had kinds
            self._db.execute("ALTER TABLE trouble ADD COLUMN kind TEXT NOT NULL DEFAULT ''")

    def __enter__(self) -> "State":
        return self

    def __exit__(self, *exc: object) -> None:
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    # Single values

    def get(self, key: str, default: Any = None) -> Any:
        row = self._db.execute("SELECT value FROM value WHERE key = ?", (key,)).fetchone()
        return default if row is None else json.loads(row[0])

    def put(self, key: str, value: Any) -> None:
        self._db.execute("INSERT OR REPLACE INTO value VALUES (?, ?)", (key, json.dumps(value)))

    def next_run(self) -> int:
        run = int(self.get("run", 0)) + 1
        self.put("run", run)
        return run

    # Projects

    def projects(self) -> dict[str, Published]:
        rows = self._db.execute("SELECT name, identity, serial, snapshot FROM project")
        return {name: Published(*rest) for name, *rest in rows}

    def serials(self) -> list[tuple[str, int]]:
        return self._db.execute("SELECT name, serial FROM project ORDER BY name").fetchall()

    def newest_serial(self) -> int:
        return int(self._db.execute("SELECT coalesce(max(serial), 0) FROM project").fetchone()[0])

    def is_published(self, name: str) -> bool:
        return self._db.execute("SELECT 1 FROM project WHERE name = ?", (name,)).fetchone() is not None

    def published(self, name: str) -> Published | None:
        row = self._db.execute(
            "SELECT identity, serial, snapshot FROM project WHERE name = ?", (name,)
        ).fetchone()
        return None if row is None else Published(*row)

    def totals(self) -> tuple[int, int, int]:
        """Projects, files, bytes."""
        row = self._db.execute(
            "SELECT count(*), coalesce(sum(files), 0), coalesce(sum(bytes), 0) FROM project"
        )
        projects, files, size = row.fetchone()
        return projects, files, size

    def set_project(self, name: str, published: Published, files: int, size: int) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO project VALUES (?, ?, ?, ?, ?, ?)",
            (name, published.identity, published.serial, published.snapshot, files, size),
        )

    def note_given(self, name: str, serial: int) -> None:
        self._db.execute(
            "INSERT INTO given VALUES (?, ?) ON CONFLICT DO UPDATE SET serial = max(serial, excluded.serial)",
            (name, serial),
        )

    def serial_given(self, name: str) -> int:
        """The newest serial that a project ever had here, 0 where it had none."""
        row = self._db.execute(
            "SELECT max(serial) FROM (SELECT serial FROM project WHERE name = :name"
            " UNION ALL SELECT serial FROM given WHERE name = :name)",
            {"name": name},
        ).fetchone()
        return int(row[0] or 0)

    def drop_project(self, name: str) -> None:
        self._db.execute(
            "INSERT INTO given SELECT name, serial FROM project WHERE name = ?"
            " ON CONFLICT DO UPDATE SET serial = max(serial, excluded.serial)",
            (name,),
        )
        self._db.execute("DELETE FROM project WHERE name = ?", (name,))
        self._db.execute("DELETE FROM left_out WHERE project = ?", (name,))

    # Files

    def files_of(self, name: str) -> dict[str, Wanted]:
        rows = self._db.execute(
            "SELECT path, size, sha256, core_metadata FROM file WHERE project = ?", (name,)
        )
        return {row[0]: Wanted(*row) for row in rows}

    def projects_with_files(self) -> set[str]:
        return {row[0] for row in self._db.execute("SELECT DISTINCT project FROM file")}

    def claim(self, name: str, files: Iterable[Wanted]) -> None:
        """Note files before they are linked, so that none is forgotten by a kill."""
        self._db.executemany(
            "INSERT INTO file VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET size = excluded.size,"
            " sha256 = excluded.sha256, core_metadata = coalesce(excluded.core_metadata,"
            " CASE WHEN sha256 = excluded.sha256 THEN core_metadata END)",
            ((f.path, name, f.size, f.sha256, f.core_metadata) for f in files),
        )

    def release(self, name: str, paths: Iterable[str]) -> None:
        self._db.executemany(
            "DELETE FROM file WHERE project = ? AND path = ?", ((name, path) for path in paths)
        )

    def is_wanted(self, path: str) -> bool:
        return self._db.execute("SELECT 1 FROM file WHERE path = ? LIMIT 1", (path,)).fetchone() is not None

    def files_after(self, path: str, limit: int) -> list[Checked]:
        """In path order, from behind `path`."""
        rows = self._db.execute(
            "SELECT path, project, size, sha256, core_metadata FROM file"
            " WHERE path > ? ORDER BY path LIMIT ?",
            (path, limit),
        )
        return [Checked(*row) for row in rows]

    def checked_file(self, path: str) -> list[Checked]:
        rows = self._db.execute(
            "SELECT path, project, size, sha256, core_metadata FROM file WHERE path IN (?, ?)",
            (path, path.removesuffix(".metadata")),
        )
        return [Checked(*row) for row in rows]

    def forget_identity(self, name: str) -> None:
        """Have the next run look at a project again."""
        self._db.execute("UPDATE project SET identity = '' WHERE name = ?", (name,))

    def begin_fetching(self, project: str, paths: Iterable[str]) -> None:
        self._db.executemany("INSERT OR REPLACE INTO fetching VALUES (?, ?)", ((p, project) for p in paths))

    def fetching(self) -> list[tuple[str, str]]:
        return self._db.execute("SELECT path, project FROM fetching").fetchall()

    def end_fetching(self, paths: Iterable[str]) -> None:
        self._db.executemany("DELETE FROM fetching WHERE path = ?", ((path,) for path in paths))

    # Removals

    def schedule_removal(self, paths: Iterable[str], after: int) -> None:
        self._db.executemany(
            "INSERT INTO removal VALUES (?, ?) ON CONFLICT DO UPDATE SET after = min(after, excluded.after)",
            ((path, after) for path in paths),
        )

    def cancel_removal(self, paths: Iterable[str]) -> None:
        self._db.executemany("DELETE FROM removal WHERE path = ?", ((path,) for path in paths))

    def due_removals(self, run: int) -> list[str]:
        rows = self._db.execute("SELECT path FROM removal WHERE after < ? ORDER BY path", (run,))
        return [row[0] for row in rows]

    def scheduled_removals(self) -> set[str]:
        return {row[0] for row in self._db.execute("SELECT path FROM removal")}

    # Decided departures

    def decide_leaving(self, names: Iterable[str], reason: str) -> None:
        self._db.executemany("INSERT OR REPLACE INTO leaving VALUES (?, ?)", ((n, reason) for n in names))

    def leaving(self) -> dict[str, str]:
        return dict(self._db.execute("SELECT name, reason FROM leaving"))

    def left(self, names: Iterable[str]) -> None:
        self._db.executemany("DELETE FROM leaving WHERE name = ?", ((name,) for name in names))

    # Projects in trouble

    def troubles(self) -> dict[str, Trouble]:
        rows = self._db.execute("SELECT name, tries, since, retry_after, reason, kind FROM trouble")
        return {row[0]: Trouble(*row) for row in rows}

    def trouble(self, name: str) -> Trouble | None:
        row = self._db.execute(
            "SELECT name, tries, since, retry_after, reason, kind FROM trouble WHERE name = ?", (name,)
        ).fetchone()
        return None if row is None else Trouble(*row)

    def record_trouble(self, name: str, reason: Reason, retry_after: float) -> None:
        self._db.execute(
            "INSERT INTO trouble VALUES (?, 1, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET tries = tries + 1,"
            " retry_after = excluded.retry_after, reason = excluded.reason, kind = excluded.kind",
            (name, time.time(), retry_after, without_credentials(reason), reason.kind),
        )

    def failing_by_reason(self, allowed: int) -> tuple[dict[str, int], dict[str, int]]:
        """How many projects are late, by kind of reason, and how many set aside after so many tries."""
        late, aside, troubles = Counter[str](), Counter[str](), self.troubles()
        for trouble in troubles.values():
            (aside if trouble.tries >= allowed else late)[trouble.kind] += 1
        for told in self.get("uncounted", {}).values():  # by fetch/trouble.py
            late.update(told)
        if waiting := set(self.get("waiting", [])) - troubles.keys():
            late["not asked for"] = len(waiting)
        return dict(sorted(late.items())), dict(sorted(aside.items()))

    def clear_trouble(self, names: Iterable[str]) -> None:
        self._db.executemany("DELETE FROM trouble WHERE name = ?", ((name,) for name in names))

    # What upstream was found to say

    def seen(self) -> dict[str, Seen]:
        rows = self._db.execute("SELECT name, serial, document, validator, again_after, tries FROM seen")
        return {row[0]: Seen(*row[1:]) for row in rows}

    def see(self, name: str, seen: Seen) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO seen VALUES (?, ?, ?, ?, ?, ?)",
            (name, seen.serial, seen.document, seen.validator, seen.again_after, seen.tries),
        )

    def forget_seen(self, names: Iterable[str] | None = None) -> None:
        """Have upstream asked for these again, or for all."""
        if names is None:
            self._db.execute("DELETE FROM seen")
        else:
            self._db.executemany("DELETE FROM seen WHERE name = ?", ((name,) for name in names))

    # Files that upstream lists and that are not served

    def leave_out(self, project: str, files: dict[str, str]) -> None:
        """These, and no others, of a project."""
        rows = self._db.execute("SELECT filename, since FROM left_out WHERE project = ?", (project,))
        since, now = dict(rows.fetchall()), time.time()
        self._db.execute("DELETE FROM left_out WHERE project = ?", (project,))
        self._db.executemany(
            "INSERT INTO left_out VALUES (?, ?, ?, ?)",
            (
                (project, name, without_credentials(why), min(since.get(name, now), now))
                for name, why in files.items()
            ),
        )

    def left_out(self, limit: int = -1) -> list[LeftOut]:
        """Those that were left out longest first."""
        rows = self._db.execute(
            "SELECT project, filename, reason, since FROM left_out ORDER BY since, project, filename LIMIT ?",
            (limit,),
        )
        return [LeftOut(*row) for row in rows]

    def left_out_by_reason(self) -> dict[str, int]:
        rows = self._db.execute("SELECT reason, count(*) FROM left_out GROUP BY reason ORDER BY reason")
        return dict(rows.fetchall())
