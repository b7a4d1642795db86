"""Opening the SQLite file, and its errors translated.

The log's writer is the only one that checkpoints: readers open the file read-only, so they can't, not even when they
are the last to close it; writers of one topic beside it don't but as the last to close it, when nobody else has it
open. So the WAL has one master, also on the SQLite versions (before 3.51.3) in which two connections that checkpoint at
the same instant can damage the file: https://www.sqlite.org/wal.html#walresetbug
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import quote

from cdc.core.errors import CdcError, LogError, PassingError
from cdc.log.local.layout import APPLICATION_ID, TABLES, VERSION, WITHOUT_RUNS

_BUSY_SECONDS: Final = 5.0
_CHECKPOINT_MS: Final = 500
_CHECKPOINT_PAGES: Final = 4096  # 16 MiB of WAL, in pages of 4 KiB
_WAL_LIMIT: Final = 64 << 20
_ANOTHER_FILE: Final = "name another file in [log] url"


def open_for_writing(path: Path, *, alone: bool = True) -> sqlite3.Connection:
    """Open the file, and make the log in it if it is new. One that is not `alone` has the log's writer beside it."""
    with translated(path):
        connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        with translated(path):
            if not holds_log(connection, path):
                _create(connection)
            elif alone and _version(connection) == WITHOUT_RUNS:
                connection.execute(f"PRAGMA user_version = {VERSION}")  # refused from now on by who can't read runs
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES if alone else 0}")
            connection.execute(f"PRAGMA journal_size_limit = {_WAL_LIMIT}")
    except BaseException:
        connection.close()
        raise
    return connection


def open_for_reading(path: Path) -> sqlite3.Connection | None:
    """A read-only connection; None while no writer has made the log yet."""
    if not path.exists():
        return None
    with translated(path):
        connection = sqlite3.connect(
            f"file:{quote(str(path))}?mode=ro",
            uri=True,
            timeout=_BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
        )
    try:
        with translated(path):
            ready = holds_log(connection, path)
    except BaseException:
        connection.close()
        raise
    if not ready:
        connection.close()
        return None
    return connection


def holds_log(connection: sqlite3.Connection, path: Path) -> bool:
    """Whether the file holds a log (False: it is empty). LogError if it holds anything else."""
    with snapshot(connection):  # else a log that is made at this moment would seem half of one
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        version = _version(connection)
        is_empty = not connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    if application == APPLICATION_ID:
        if version not in {VERSION, WITHOUT_RUNS}:
            raise LogError(
                f"{path} has layout {version}, and this version of cdc knows layout {VERSION}",
                mend="install the version of cdc that wrote it"
                + (", or a newer one" if version > VERSION else "; or move it away and load all tables again"),
            )
        return True
    if application or version or not is_empty:
        raise LogError(f"{path} is a database of something else", mend=_ANOTHER_FILE)
    return False


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _create(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # so that retention can give space back
    connection.execute("PRAGMA journal_mode = WAL")
    with transaction(connection):
        for statement in TABLES.split(";"):
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {VERSION}")


def checkpoint_and_truncate(connection: sqlite3.Connection) -> None:
    """Move the WAL into the file and empty it; give up if a reader does not end its transaction soon."""
    connection.execute(f"PRAGMA busy_timeout = {_CHECKPOINT_MS}")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    connection.execute(f"PRAGMA busy_timeout = {int(_BUSY_SECONDS * 1000)}")


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All or nothing, for the writer."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextmanager
def snapshot(connection: sqlite3.Connection) -> Iterator[None]:
    """One state of the log for several reads; ended soon, for it keeps the WAL from starting over."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """SQLite's errors as ours."""
    try:
        yield
    except sqlite3.Error as error:
        raise _translate(error, path) from None


def _translate(error: sqlite3.Error, path: Path) -> CdcError:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    what = f"{path}: {error}"
    if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return PassingError(f"{path} is locked by another program", mend=f"end what else has {path} open")
    return LogError(what, mend=_MENDS.get(code, "check the folder and the file that [log] url names"))


_MENDS: Final = {
    sqlite3.SQLITE_NOTADB: _ANOTHER_FILE,
    sqlite3.SQLITE_FULL: "make room on its disk, then start again: nothing that was reported as stored is lost",
    sqlite3.SQLITE_READONLY: "give this user the right to write the file and its folder",
    sqlite3.SQLITE_CANTOPEN: "make its folder, and give this user the right to write there",
    sqlite3.SQLITE_PERM: "give this user the right to write the file and its folder",
    sqlite3.SQLITE_CORRUPT: "restore the file, or move it away and load all tables again",
    sqlite3.SQLITE_IOERR: "check the disk: what was reported as stored before is safe in the file",
}
