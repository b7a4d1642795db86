"""Runs plans on SQLite: prepared statements, each run for all rows of its kind."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import assert_never

from typing_extensions import override

from cdc.core.checks import Check
from cdc.core.events import UNCHANGED, Key, Row
from cdc.core.tables import TableId, TableSchema
from consumers.plan.checkpoint import Checkpoint
from consumers.plan.steps import (
    AlterTable,
    CopyRows,
    DropTable,
    MoveRow,
    RowStep,
    Step,
    TruncateTable,
    WriteRows,
)
from consumers.targets.checkpoints import NOTHING
from consumers.targets.grouping import by_present_columns
from consumers.targets.identifiers import quoted, quoted_list
from consumers.targets.missing import MissingRows
from consumers.targets.naming import flat_name
from consumers.targets.replaceable import ReplaceableTarget, Replacement, Replacing
from consumers.targets.session_target import CheckpointedTransaction, SessionTarget, as_texts, savepoint
from consumers.targets.session_target import Checkpoints as AnyCheckpoints
from consumers.targets.sqlite.alterations import Alterer
from consumers.targets.sqlite.catalog import columns_of
from consumers.targets.sqlite.checkpoints import Checkpoints
from consumers.targets.sqlite.replacing import SqliteReplacing, drop_tables, features, tables_in
from consumers.targets.sqlite.session import SqliteSession
from consumers.targets.sqlite.tables import PreparedTable, PreparedTables, compared, row_id
from consumers.targets.sqlite.types import Stored
from consumers.targets.target import TargetTransaction


class SqliteTarget(SessionTarget[SqliteSession, PreparedTables], ReplaceableTarget):
    """See `Target`."""

    @override
    def read_checkpoint(self) -> Checkpoint:
        return super().read_checkpoint() if self._new_session().path.exists() else NOTHING

    @override
    def present(self, tables: Iterable[TableId]) -> Collection[TableId]:
        with self._looking() as session:
            return [table for table in tables if columns_of(session, flat_name(table), doing="looking up tables")]

    @override
    def rows_of(self, table: TableSchema) -> list[Row]:
        doing, name = f"reading table {table.id}", flat_name(table.id)
        if not self._new_session().path.exists():
            return []
        with self._aside(doing) as session:
            if not columns_of(session, name, doing=doing):
                return []
            names = quoted_list(column.name for column in table.columns)
            return as_texts(session.query(f"SELECT {names} FROM {quoted(name)}", doing=doing))

    @override
    def checks(self) -> Iterator[Check]:
        path = self._new_session().path
        folder = path.absolute().parent
        there = folder.is_dir()
        found = f"{path} exists" if path.exists() else f"{path} will be made"
        name = f"target {self._applier}"
        yield Check(
            name=name,
            ok=there,
            found=found if there else f"folder {folder} does not exist",
            mend=None if there else f"mkdir -p {folder}",
        )
        for place in (folder, path):
            if place.exists() and not os.access(place, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
                yield Check(
                    name=name, ok=False, found=f"{place} can't be written to", mend=f"chmod u+w {place}, as its owner"
                )

    @override
    def tables_in(self, area: str) -> list[TableId]:
        with self._looking() as session:
            return tables_in(session, area)

    @override
    def features(self, tables: Iterable[TableId]) -> Mapping[TableId, frozenset[str]]:
        with self._looking() as session:
            return features(session, tables)

    @override
    def make_alike(self, tables: Sequence[Replacement]) -> None:
        """Nothing: an index's name is one in the whole file, and still the live table's."""

    @override
    @contextmanager
    def replacing(self, live: str) -> Iterator[Replacing]:
        session, _ = self._opened()
        with session.enclosing(doing="replacing the tables"):
            checkpoint = Checkpoints(session, live).read()
            yield SqliteReplacing(session, applier=self._applier, live=live, checkpoint=checkpoint)

    @override
    def discard(self, area: str) -> int:
        session, _ = self._opened()
        with session.transaction(doing="dropping tables"):
            Checkpoints(session, self._applier).forget()
            return drop_tables(session, area)

    @override
    def _new_session(self) -> SqliteSession:
        return SqliteSession(self._url, applier=self._applier)

    @override
    def _connect(self, session: SqliteSession) -> None:
        session.lock_applier()
        session.connect()

    @override
    def _new_tables(self, session: SqliteSession) -> PreparedTables:
        return PreparedTables(session)

    @override
    def _checkpoints(self, session: SqliteSession) -> Checkpoints:
        return Checkpoints(session, self._applier)

    @override
    def _begun(
        self, session: SqliteSession, tables: PreparedTables, checkpoints: AnyCheckpoints, fence: Callable[[], None]
    ) -> TargetTransaction:
        return _Transaction(session, tables, Alterer(session, self._policy), checkpoints, self._missing)


class _Transaction(CheckpointedTransaction):
    def __init__(
        self,
        session: SqliteSession,
        tables: PreparedTables,
        alterer: Alterer,
        checkpoints: AnyCheckpoints,
        missing: MissingRows,
    ) -> None:
        super().__init__(checkpoints)
        self._session = session
        self._tables = tables
        self._alterer = alterer
        self._missing = missing

    @override
    def run(self, steps: Sequence[Step]) -> None:
        for step in steps:
            match step:
                case AlterTable(table, before):
                    if before is not None:
                        self._tables.forget(before.id)
                    self._tables.forget(table.id)
                    self._alterer.alter(step)
                    self._tables.prepare_within(table)
                case DropTable(table):
                    self._tables.forget(table.id)
                    self._alterer.drop(table.id)
                case _:
                    _Writer(self._session, self._tables.prepare_within(step.table), self._missing).run(step)

    @override
    def savepoint(self) -> AbstractContextManager[None]:
        return savepoint(self._session, self._missing, self._tables.rolled_back)


class _Writer:
    """Runs the steps of one table version."""

    def __init__(self, session: SqliteSession, table: PreparedTable, missing: MissingRows) -> None:
        self._session = session
        self._table = table
        self._missing = missing
        self._version = table.version
        self._doing = f"writing table {table.version.id}"

    def run(self, step: RowStep) -> None:
        match step:
            case WriteRows():
                self._write(step)
            case CopyRows():
                self._write(step.written())
            case TruncateTable():
                self._session.execute(f"DELETE FROM {quoted(self._table.name)}", doing=self._doing)
            case MoveRow(_, old_key, row):
                self._move(old_key, row)
            case _:
                assert_never(step)

    def _write(self, step: WriteRows) -> None:
        if step.deletes:
            sql = f"DELETE FROM {quoted(self._table.name)} WHERE {self._same_key()}"
            self._session.execute_many(sql, map(self._key, step.deletes), doing=self._doing)
        if step.upserts:
            self._insert(step.upserts, f" ON CONFLICT ({self._compared(self._version.key)}) {self._on_conflict()}")
        for present, rows in by_present_columns(step.partials).items():
            self._update(present, rows)
        if step.removed:
            self._remove(step.removed)
        if step.added:
            self._insert(step.added, "")

    def _insert(self, rows: Sequence[Row], on_conflict: str) -> None:
        written = self._table.written
        places = ", ".join("?" * len(written))
        # By a name of our own: a table called `excluded` would be what `excluded` means.
        name = f"{quoted(self._table.name)} AS cdc_row"
        sql = f"INSERT INTO {name} ({self._names(written)}) VALUES ({places}){on_conflict}"
        self._session.execute_many(sql, (self._values(row, written) for row in rows), doing=self._doing)

    def _on_conflict(self) -> str:
        others = [index for index in self._table.written if index not in self._version.key]
        sets = ", ".join(f"{self._name(index)} = excluded.{self._name(index)}" for index in others)
        return f"DO UPDATE SET {sets}" if sets else "DO NOTHING"

    def _update(self, present: Sequence[int], rows: Sequence[Row]) -> None:
        key = self._version.key
        # The key is set to itself where nothing else is: the row must be there all the same.
        columns = [index for index in present if index in self._table.written and index not in key] or list(key[:1])
        sql = f"UPDATE {quoted(self._table.name)} SET {self._sets(columns)} WHERE {self._same_key()}"
        indexes = [*columns, *key]
        done = self._session.execute_many(sql, (self._values(row, indexes) for row in rows), doing=self._doing)
        self._missing.require(done, len(rows), self._version.id, "to be changed")

    def _move(self, old_key: Key, row: Row) -> None:
        columns = [index for index in self._table.written if row[index] is not UNCHANGED]
        sql = f"UPDATE {quoted(self._table.name)} SET {self._sets(columns)} WHERE {self._same_key()}"
        done = self._session.execute(sql, (*self._values(row, columns), *self._key(old_key)), doing=self._doing)
        self._missing.require(done, 1, self._version.id, "to be moved to another key")

    def _remove(self, rows: Sequence[Row]) -> None:
        """Of equal rows, as many as are to be removed. IS: NULL is the same as NULL."""
        written = self._table.written
        name, number = quoted(self._table.name), row_id(self._version)
        # Not a chain of ANDs: SQLite refuses those of more than 1,000.
        same = f"({self._compared(written)}) IS ({', '.join('?' * len(written))})"
        sql = f"DELETE FROM {name} WHERE {number} IN (SELECT {number} FROM {name} WHERE {same} LIMIT ?)"
        copies = Counter(self._values(row, written) for row in rows)
        parameters = ((*row, count) for row, count in copies.items())
        done = self._session.execute_many(sql, parameters, doing=self._doing)
        self._missing.require(done, len(rows), self._version.id, "to be removed")

    def _values(self, row: Row, columns: Sequence[int]) -> tuple[Stored, ...]:
        value = self._table.codec.value
        return tuple([value(index, row[index]) for index in columns])

    def _key(self, key: Key) -> tuple[Stored, ...]:
        value = self._table.codec.value
        return tuple([value(index, part) for index, part in zip(self._version.key, key, strict=True)])

    def _name(self, index: int) -> str:
        return quoted(self._version.columns[index].name)

    def _names(self, columns: Sequence[int]) -> str:
        return quoted_list(self._version.columns[index].name for index in columns)

    def _compared(self, columns: Sequence[int]) -> str:
        return ", ".join(compared(self._version.columns[index]) for index in columns)

    def _sets(self, columns: Sequence[int]) -> str:
        return ", ".join(f"{self._name(index)} = ?" for index in columns)

    def _same_key(self) -> str:
        return " AND ".join(f"{compared(self._version.columns[index])} = ?" for index in self._version.key)
