"""SQLite as a target: whole batches by executemany, in explicit BEGIN IMMEDIATE transactions.

A table of schema `public` keeps its name; one of another schema is called `schema.table`, with the dot.
"""

from __future__ import annotations

import fcntl
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool
from typing_extensions import override

from cdc.core.checks import Check
from cdc.core.errors import (
    AlreadyRunningError,
    CdcError,
    ConfigError,
    GapError,
    PassingError,
    TargetError,
    TargetSchemaError,
)
from cdc.core.events import UNCHANGED, Row, Value
from cdc.core.failpoints import reached
from cdc.core.log import TopicPartition
from cdc.core.settings import TargetSettings
from cdc.core.tables import TableId, TableSchema
from consumers.plan.checkpoint import Checkpoint, PartitionProgress
from consumers.plan.steps import MoveRow, Step, TruncateTable, WriteRows
from consumers.targets import checkpoints
from consumers.targets.sqlite_types import Stored, declared, stored
from consumers.targets.target import Target

_BUSY_SECONDS: Final = 30.0


class SqliteTarget(Target):
    """The file at `settings.url` (`sqlite:///relative.db`, `sqlite:////absolute.db`)."""

    def __init__(self, settings: TargetSettings) -> None:
        path = settings.url.removeprefix("sqlite:///")
        if path == settings.url or path in {"", ":memory:"}:
            raise ConfigError(
                f"[targets.{settings.name}] url has no file name", mend="sqlite:///replica.db is a file in this folder"
            )
        self._name = settings.name
        self._path = Path(path)
        self._engine = sa.create_engine(
            "sqlite://",
            creator=lambda: sqlite3.connect(self._path, timeout=_BUSY_SECONDS, isolation_level=None),
            poolclass=NullPool,
        )
        self._connection: sa.Connection | None = None
        self._lock: IO[bytes] | None = None
        self._version = 0
        self._writers: dict[TableId, tuple[TableSchema, _Writer]] = {}
        self._names: dict[str, TableId] = {}

    @override
    def open(self) -> Checkpoint:
        self._lock = self._locked()
        with _translated(self._path, "opening"):
            self._connection = self._engine.connect()
            self._connection.exec_driver_sql("PRAGMA journal_mode = WAL")
            self._connection.exec_driver_sql("PRAGMA synchronous = FULL")
            self._connection.commit()
        with self._transaction("opening the checkpoint") as connection:
            checkpoints.create(connection, self._name)
            checkpoint = checkpoints.read(connection, self._name)
        self._version = checkpoint.version
        return checkpoint

    @override
    def read_checkpoint(self) -> Checkpoint:
        if not self._path.exists():
            return Checkpoint(version=0, log_id=None, partitions={})
        with _translated(self._path, "reading the checkpoint"), self._engine.connect() as connection:
            return checkpoints.read(connection, self._name)

    @override
    def checks(self) -> Iterator[Check]:
        folder = self._path.absolute().parent
        found = f"{self._path} exists" if self._path.exists() else f"{self._path} will be made"
        yield Check(
            name=f"target {self._name}",
            ok=folder.is_dir(),
            found=found if folder.is_dir() else f"folder {folder} does not exist",
            mend=None if folder.is_dir() else f"mkdir -p {folder}",
        )

    @override
    def prepare(self, table: TableSchema) -> None:
        known = self._writers.get(table.id)
        if known is not None and (known[0] is table or known[0] == table):
            return
        name = table_name(table.id)
        other = self._names.setdefault(name.lower(), table.id)
        if other != table.id:
            raise TargetSchemaError(
                f"tables {other} and {table.id} would both be called {name!r} in SQLite, which ignores case",
                mend=f"leave one of them out of [targets.{self._name}] tables",
            )
        with self._transaction(f"preparing table {name}") as connection:
            existing = _columns(connection, name)
            if existing:
                _require_same_columns(table, name, existing)
                _require_unique_key(connection, table, name)
            else:
                connection.exec_driver_sql(_creation(table, name))
        self._writers[table.id] = (table, _Writer(table, name))

    @override
    def apply(
        self, steps: Sequence[Step], progress: Mapping[TopicPartition, PartitionProgress], *, log_id: str
    ) -> None:
        with self._transaction("applying") as connection:
            checkpoints.take(connection, self._name, self._version, log_id=log_id)
            reached("apply.1-fenced")
            cursor = connection.connection.cursor()
            for step in steps:
                with _translated(self._path, f"writing table {table_name(step.table.id)}"):
                    self._writer(step.table).run(cursor, step)
            reached("apply.2-written")
            checkpoints.write(connection, self._name, progress)
            reached("apply.3-checkpointed")
        reached("apply.4-committed")
        self._version += 1

    @override
    def close(self) -> None:
        self._writers = {}
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.close()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _writer(self, table: TableSchema) -> _Writer:
        """The writer of this version: several may stand in one batch."""
        known = self._writers.get(table.id)
        if known is None or (known[0] is not table and known[0] != table):
            known = self._writers[table.id] = (table, _Writer(table, table_name(table.id)))
        return known[1]

    @contextmanager
    def _transaction(self, doing: str) -> Iterator[sa.Connection]:
        """An explicit one, DDL included: the driver's own would let a leading DDL survive a rollback."""
        if self._connection is None:
            raise PassingError("the target is not open")
        connection = self._connection
        with _translated(self._path, doing):
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.exec_driver_sql("ROLLBACK")
                connection.rollback()
                raise
            connection.exec_driver_sql("COMMIT")
            connection.commit()

    def _locked(self) -> IO[bytes]:
        """A lock file beside the database, for each applier's name; the kernel lets it go when the process dies."""
        path = Path(f"{self._path}-{self._name}-lock")
        try:
            lock = path.open("ab")
        except OSError as error:
            raise TargetError(
                f"{path} can't be written: {error.strerror}", mend="make the folder, or correct the target's url"
            ) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise AlreadyRunningError(
                f"another applier of target {self._name!r} is at work on {self._path}", mend="stop it first"
            ) from None
        return lock


class _Writer:
    """The statements of one table version."""

    def __init__(self, table: TableSchema, name: str) -> None:
        self._table = table
        self._name = _quoted(name)
        self._columns = [column.name for column in table.columns]
        self._key = [column.name for column in table.key_columns]
        self._stored = [stored(table.id, column) for column in table.columns]

    def run(self, cursor: Any, step: Step) -> None:
        match step:
            case WriteRows():
                self._write(cursor, step)
            case TruncateTable():
                cursor.execute(f"DELETE FROM {self._name}")
            case MoveRow():
                present = [index for index, value in enumerate(step.row) if value is not UNCHANGED]
                values = [*self._values(step.row, present), *self._key_values(step.old_key)]
                cursor.execute(self._update_statement(present), values)
                self._require(cursor.rowcount, 1, "moved")

    def _write(self, cursor: Any, step: WriteRows) -> None:
        if step.deletes:
            cursor.executemany(
                f"DELETE FROM {self._name} WHERE {_equal(self._key)}", [self._key_values(key) for key in step.deletes]
            )
        if step.upserts:
            cursor.executemany(self._upsert_statement(), self._rows(step.upserts))
        for row in step.partials:
            present = [index for index, value in enumerate(row) if value is not UNCHANGED]
            key = tuple(row[index] for index in self._table.key)
            cursor.execute(self._update_statement(present), [*self._values(row, present), *self._key_values(key)])
            self._require(cursor.rowcount, 1, "updated in part")
        for values, count in Counter(self._rows(step.removed)).items():
            self._remove(cursor, values, count)
        if step.added:
            cursor.executemany(self._insert_statement(), self._rows(step.added))

    def _remove(self, cursor: Any, values: tuple[Stored, ...], count: int) -> None:
        same = " AND ".join(f"{_quoted(name)} IS ?" for name in self._columns) or "true"
        cursor.execute(
            f"DELETE FROM {self._name} WHERE rowid IN (SELECT rowid FROM {self._name} WHERE {same} LIMIT ?)",
            (*values, count),
        )
        self._require(cursor.rowcount, count, "removed")

    def _rows(self, rows: Sequence[Row]) -> list[tuple[Stored, ...]]:
        every = range(len(self._columns))
        return [self._values(row, every) for row in rows]

    def _values(self, row: Sequence[Value], indexes: Sequence[int]) -> tuple[Stored, ...]:
        return tuple(self._value(row[index], index) for index in indexes)

    def _value(self, value: Value, index: int) -> Stored:
        if value is None:
            return None
        if value is UNCHANGED:
            raise ValueError("an UNCHANGED value can't be written")
        return self._stored[index](value)

    def _key_values(self, key: Sequence[Value]) -> tuple[Stored, ...]:
        return tuple(self._value(value, index) for index, value in zip(self._table.key, key, strict=True))

    def _insert_statement(self) -> str:
        if not self._columns:
            return f"INSERT INTO {self._name} ({_quoted(_NO_COLUMN)}) VALUES (NULL)"
        listed = ", ".join(map(_quoted, self._columns))
        return f"INSERT INTO {self._name} ({listed}) VALUES ({', '.join('?' * len(self._columns))})"

    def _upsert_statement(self) -> str:
        others = [name for name in self._columns if name not in self._key]
        assigned = ", ".join(f"{_quoted(name)} = excluded.{_quoted(name)}" for name in others)
        action = f"DO UPDATE SET {assigned}" if others else "DO NOTHING"
        return f"{self._insert_statement()} ON CONFLICT ({', '.join(map(_quoted, self._key))}) {action}"

    def _update_statement(self, present: Sequence[int]) -> str:
        assigned = ", ".join(f"{_quoted(self._columns[index])} = ?" for index in present)
        return f"UPDATE {self._name} SET {assigned} WHERE {_equal(self._key)}"

    def _require(self, count: int, expected: int, what: str) -> None:
        if count != expected:
            raise GapError(
                f"table {self._table.id}: {expected} row(s) had to be {what}, {count} were there to be: the target was"
                " changed by something else, or lacks events",
                mend="`cdc capture --start-over` loads all tables again",
            )


_NO_COLUMN: Final = "cdc_no_columns"  # SQLite has no table without columns


def table_name(table: TableId) -> str:
    """What the table is called in SQLite."""
    return table.name if table.schema == "public" else str(table)


def _creation(table: TableSchema, name: str) -> str:
    parts = [
        f"{_quoted(column.name)} {declared(column.type.kind)}{'' if column.nullable else ' NOT NULL'}"
        for column in table.columns
    ] or [_quoted(_NO_COLUMN)]
    if table.key:
        parts.append(f"PRIMARY KEY ({', '.join(_quoted(column.name) for column in table.key_columns)})")
    return f"CREATE TABLE {_quoted(name)} ({', '.join(parts)})"


def _columns(connection: sa.Connection, name: str) -> list[str]:
    return [row[1] for row in connection.exec_driver_sql(f"PRAGMA table_info({_quoted(name)})")]


def _require_same_columns(table: TableSchema, name: str, existing: Sequence[str]) -> None:
    expected = {column.name for column in table.columns} or {_NO_COLUMN}
    missing, extra = sorted(expected - set(existing)), sorted(set(existing) - expected)
    if missing or extra:
        differences = [f"lacks {', '.join(missing)}"] * bool(missing) + [f"also has {', '.join(extra)}"] * bool(extra)
        raise TargetSchemaError(
            f"table {name} of the target {' and '.join(differences)}",
            mend="rename or drop the target's table, so that it is made anew; or give it the source's columns",
        )


def _require_unique_key(connection: sa.Connection, table: TableSchema, name: str) -> None:
    if not table.key:
        return
    key = {column.name for column in table.key_columns}
    info = connection.exec_driver_sql(f"PRAGMA table_info({_quoted(name)})").all()
    candidates = [{row[1] for row in info if row[5]}]
    for index in connection.exec_driver_sql(f"PRAGMA index_list({_quoted(name)})").all():
        if index[2] and not index[4]:
            columns = connection.exec_driver_sql(f"PRAGMA index_info({_quoted(index[1])})").all()
            candidates.append({column[2] for column in columns})
    if key not in candidates:
        listed = ", ".join(_quoted(column.name) for column in table.key_columns)
        raise TargetSchemaError(
            f"table {name} of the target has no unique index over its key ({', '.join(sorted(key))})",
            mend=f"CREATE UNIQUE INDEX {_quoted(f'{name}_key')} ON {_quoted(name)} ({listed})",
        )


def _equal(columns: Sequence[str]) -> str:
    return " AND ".join(f"{_quoted(name)} = ?" for name in columns)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


@contextmanager
def _translated(path: Path, doing: str) -> Iterator[None]:
    try:
        yield
    except CdcError:
        raise
    except (DBAPIError, sqlite3.Error) as error:
        origin = error.orig if isinstance(error, DBAPIError) else error
        said = str(origin)
        if "locked" in said or "busy" in said:
            raise PassingError(f"target {path}, {doing}: another process holds the database's lock") from None
        raise TargetError(f"target {path}, {doing}: {said}", mend="check the file, its folder and free space") from None
