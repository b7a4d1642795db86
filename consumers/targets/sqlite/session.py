"""One connection to a SQLite target, and the applier's lock beside the database file."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import sqlalchemy
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import NullPool, PoolProxiedConnection

from cdc.core.errors import AlreadyRunningError, ConfigError, PassingError, TargetError
from consumers.targets.sqlite.errors import translate

_BUSY_TIMEOUT: Final = 10.0  # seconds to wait for another writer
_SETTINGS: Final = (
    "PRAGMA journal_mode = WAL",  # readers go on while we write
    # After a power cut the last transactions may be gone, but rows and checkpoint together: the log has them still.
    "PRAGMA synchronous = NORMAL",
    "PRAGMA foreign_keys = OFF",  # within a batch rows come table by table
)


class SqliteSession:
    """Transactions are explicit: with the driver's own, DDL would stand outside of them."""

    def __init__(self, url: str, *, applier: str) -> None:
        self._applier = applier
        self.path = _path(url)
        self._engine = sqlalchemy.create_engine(
            "sqlite://",
            creator=lambda: sqlite3.connect(self.path, isolation_level=None, timeout=_BUSY_TIMEOUT),
            poolclass=NullPool,
        )
        self._connection: PoolProxiedConnection | None = None
        self._enclosed = False
        self._lock: int | None = None
        self._file: tuple[int, int] | None = None

    def lock_applier(self) -> None:
        """Become the only applier of this name, until `close`. AlreadyRunningError; TargetError if there is no place
        for the lock.
        """
        self._lock = self._locked()

    def connect(self) -> None:
        """TargetError if the file can't be opened."""
        doing = "opening the target"
        try:
            self._connection = self._engine.raw_connection()
        except sqlite3.Error as error:
            raise translate(error, doing=doing) from None
        for setting in _SETTINGS:
            self.query(setting, doing=doing)
        self._file = self._identity()

    @contextmanager
    def transaction(self, *, doing: str) -> Iterator[None]:
        """Commit at the end, roll back on any error. Within `enclosing` it is a part of that one."""
        if self._enclosed:
            yield
            return
        self._require_same_file(doing)
        # Whoever only looks waits for no writer.
        self.execute("BEGIN" if self._lock is None else "BEGIN IMMEDIATE", doing=doing)
        try:
            yield
            self.execute("COMMIT", doing=doing)
        except BaseException:
            with suppress(sqlite3.Error):  # SQLite has rolled back already after some errors
                self._live().execute("ROLLBACK")
            raise

    @contextmanager
    def enclosing(self, *, doing: str) -> Iterator[None]:
        """ONE transaction, of which all transactions within are parts."""
        with self.transaction(doing=doing):
            self._enclosed = True
            try:
                yield
            finally:
                self._enclosed = False

    def query(self, sql: str, parameters: Sequence[Any] = (), *, doing: str) -> list[tuple[Any, ...]]:
        """Run one statement; its rows, if it has any."""
        try:
            rows: list[tuple[Any, ...]] = self._live().execute(sql, parameters).fetchall()
        except sqlite3.Error as error:
            raise translate(error, doing=doing) from None
        return rows

    def execute(self, sql: str, parameters: Sequence[Any] = (), *, doing: str) -> int:
        """Run one statement; how many rows it wrote."""
        try:
            return int(self._live().execute(sql, parameters).rowcount)
        except sqlite3.Error as error:
            raise translate(error, doing=doing) from None

    def execute_many(self, sql: str, rows: Iterable[Sequence[Any]], *, doing: str) -> int:
        """Run one statement for each of `rows`; how many rows all wrote."""
        try:
            return int(self._live().executemany(sql, rows).rowcount)
        except sqlite3.Error as error:
            raise translate(error, doing=doing) from None

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    def _live(self) -> Any:
        if self._connection is None:
            raise sqlite3.ProgrammingError("the connection is closed")
        return self._connection.driver_connection

    def _identity(self) -> tuple[int, int] | None:
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _require_same_file(self, doing: str) -> None:
        """What is written to a file that was removed or moved would be nowhere."""
        if self._connection is not None and self._identity() != self._file:
            raise PassingError(
                f"{doing}: the target's file was removed, moved or replaced while it was in use",
                mend="nothing, if that was meant: what is there now is filled from the log",
            )

    def _locked(self) -> int:
        """A descriptor that holds the lock; the kernel lets it go with the process. The file stays: whoever removes a
        lock file lets two in.
        """
        path = f"{self.path}.{quote(self._applier, safe='')}.lock"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise TargetError(
                f"opening the target: {error.strerror}: {path}",
                mend="make the folder in the target's url, and let this user write to it",
            ) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise AlreadyRunningError(
                f"another applier named {self._applier!r} works on this target", mend="stop it first"
            ) from None
        return descriptor


def _path(url: str) -> Path:
    mend = "sqlite:///relative/path.db or sqlite:////absolute/path.db"
    try:
        database = sqlalchemy.make_url(url).database
    except ArgumentError:
        raise ConfigError("a target's url is not a SQLite URL", mend=mend) from None
    if not database or database == ":memory:" or database.startswith("file:"):
        raise ConfigError("a SQLite target must be a file", mend=mend)
    return Path(database)
