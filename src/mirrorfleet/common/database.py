"""SQLite files that were spoilt: told apart from what is wrong with a program, and kept under another name."""

import contextlib
import os
import sqlite3
from pathlib import Path

from .files import remove


def is_corrupt(error: BaseException) -> bool:
    """Whether SQLite says that a file is no database or a spoilt one."""
    if isinstance(error, BaseExceptionGroup):
        return any(map(is_corrupt, error.exceptions))
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return isinstance(error, sqlite3.DatabaseError) and code in (
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
    )


def check(connection: sqlite3.Connection) -> None:
    """Read a database's structure, all of it; an error of which `is_corrupt` holds where it is spoilt."""
    for (problem,) in connection.execute("PRAGMA quick_check(1)"):
        if problem != "ok":
            error = sqlite3.DatabaseError(problem)
            error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise error


def set_aside(path: Path) -> Path:
    """Keep a corrupt database, and no other than the last, under another name; who calls holds the lock of all runs."""
    aside = _aside_of(path)
    # Its log first: a new database must not find it.
    for end in ("-wal", "-shm", "-journal", ""):
        there, then = path.with_name(path.name + end), aside.with_name(aside.name + end)
        remove(then)
        if there.exists():
            os.replace(there, then)
    os.utime(aside)
    return aside


def set_aside_at(path: Path) -> float | None:
    """When the database of this name was last set aside, in Unix seconds."""
    with contextlib.suppress(OSError):
        return _aside_of(path).stat().st_mtime
    return None


def _aside_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.corrupt")
