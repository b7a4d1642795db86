"""Runs plans on PostgreSQL: COPY into staging tables, then one statement for each table and kind of change."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import count
from typing import Final, assert_never

from typing_extensions import override

from cdc.core.checks import Check
from cdc.core.errors import AlreadyRunningError, FidelityError
from cdc.core.events import UNCHANGED, Key, Row
from cdc.core.settings import TargetSettings
from cdc.core.tables import TableId, TableSchema
from consumers.plan.ordering import in_order
from consumers.plan.steps import (
    AlterTable,
    CopyRows,
    DropTable,
    MoveRow,
    RowStep,
    Step,
    TableStep,
    TruncateTable,
    WriteRows,
)
from consumers.targets.grouping import by_present_columns
from consumers.targets.identifiers import quoted, quoted_list
from consumers.targets.missing import MissingRows
from consumers.targets.postgresql.alterations import Alterer
from consumers.targets.postgresql.catalog import find_table
from consumers.targets.postgresql.checkpoints import Checkpoints
from consumers.targets.postgresql.copying import copy_lines, text_lines
from consumers.targets.postgresql.replacing import (
    PostgresReplacing,
    drop_tables,
    features,
    make_alike,
    present_of,
    tables_in,
)
from consumers.targets.postgresql.session import PostgresSession
from consumers.targets.postgresql.silence import Silence
from consumers.targets.postgresql.statements import TableStatements, empty_staging
from consumers.targets.postgresql.tables import PreparedTables
from consumers.targets.replaceable import ReplaceableTarget, Replacement, Replacing
from consumers.targets.session_target import CheckpointedTransaction, SessionTarget, as_texts, savepoint
from consumers.targets.session_target import Checkpoints as AnyCheckpoints
from consumers.targets.target import SharedTarget, TargetTransaction

# Rows may then come in any order where the target's constraints are DEFERRABLE, whatever they are by themselves.
_DEFER: Final = "SET CONSTRAINTS ALL DEFERRED"


class PostgresTarget(SessionTarget[PostgresSession, PreparedTables], ReplaceableTarget):
    """See `Target`."""

    def __init__(self, settings: TargetSettings, applier: str | None = None) -> None:
        super().__init__(settings, applier)
        self._silence = Silence(self._applier, settings.session_timeout)
        self._alive_seconds = settings.session_timeout / 4

    @property
    @override
    def is_server(self) -> bool:
        return True

    @override
    def keep_alive(self) -> None:
        self._opened()[0].keep_alive(self._alive_seconds)

    @override
    def present(self, tables: Iterable[TableId]) -> Collection[TableId]:
        with self._looking() as session:
            return present_of(session, tables)

    @override
    def shared(self) -> SharedTarget:
        from consumers.targets.postgresql.shared import PostgresShare  # noqa: PLC0415  # it is one of us

        return PostgresShare(self._settings, self._applier)

    @override
    def rows_of(self, table: TableSchema) -> list[Row]:
        doing = f"reading table {table.id}"
        with self._aside(doing) as session:
            if find_table(session, table.id) is None:
                return []
            names = quoted_list(column.name for column in table.columns)
            name = f"{quoted(table.id.schema)}.{quoted(table.id.name)}"
            return as_texts(session.query(f"SELECT {names} FROM {name}", doing=doing))

    @override
    def checks(self) -> Iterator[Check]:
        name, doing = f"target {self._applier}", "checking"
        with self._aside(doing) as session:
            ((may_create, read_only, version),) = session.query(
                "SELECT has_schema_privilege('public', 'CREATE'), current_setting('transaction_read_only') = 'on',"
                " current_setting('server_version')",
                doing=doing,
            )
        yield Check(name=name, ok=True, found=f"PostgreSQL {version} answers")
        if read_only:
            mend = "name its primary in the target's url, or set default_transaction_read_only = off for its role"
            yield Check(name=name, ok=False, found="takes no writes: a standby, or set so", mend=mend)
        if not may_create:
            mend = "GRANT CREATE ON SCHEMA public TO <the role in the target's url>"
            yield Check(name=name, ok=False, found="its role may not create tables in schema public", mend=mend)

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
        make_alike(self._opened()[0], tables)

    @override
    @contextmanager
    def replacing(self, live: str) -> Iterator[Replacing]:
        session, _ = self._opened()
        with session.enclosing(doing="replacing the tables"):
            checkpoint = Checkpoints(session, live).hold()
            yield PostgresReplacing(session, applier=self._applier, live=live, checkpoint=checkpoint)

    @override
    def discard(self, area: str) -> int:
        session, _ = self._opened()
        with session.transaction(doing="dropping tables"):
            Checkpoints(session, self._applier).forget()
            return drop_tables(session, area)

    @override
    def moves(self, table: TableSchema) -> bool:
        return self._opened()[1].moves(table)

    @override
    def _new_session(self) -> PostgresSession:
        return PostgresSession(self._url, applier=self._applier)

    @override
    def _connect(self, session: PostgresSession) -> None:
        session.connect()
        self._lock(session)

    @override
    def _new_tables(self, session: PostgresSession) -> PreparedTables:
        return PreparedTables(session)

    @override
    def _checkpoints(self, session: PostgresSession) -> Checkpoints:
        return Checkpoints(session, self._applier)

    @override
    def _begun(
        self, session: PostgresSession, tables: PreparedTables, checkpoints: AnyCheckpoints, fence: Callable[[], None]
    ) -> TargetTransaction:
        session.execute(_DEFER, doing="beginning a batch")
        return _Writer(session, tables, Alterer(session, self._policy), checkpoints, self._missing)

    def _lock(self, session: PostgresSession) -> None:
        try:
            self._take_lock(session)
        except AlreadyRunningError:
            self._silence.end(session)  # for the next one who tries
            raise

    def _take_lock(self, session: PostgresSession) -> None:
        session.lock_applier()


class _Writer(CheckpointedTransaction):
    """Writes one transaction. Parts are numbered through it, so that no step meets the staged rows of another."""

    def __init__(
        self,
        session: PostgresSession,
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
        self._parts = count(1)
        self._used: set[str] = set()

    @override
    def run(self, steps: Sequence[Step]) -> None:
        for step in in_order(steps, self._tables.references):
            self._run(step)
        self._leave_nothing_staged()

    @override
    def savepoint(self) -> AbstractContextManager[None]:
        return savepoint(self._session, self._missing, self._part_rolled_back)

    @override
    def require_constraints(self) -> None:
        self._session.execute(f"SET CONSTRAINTS ALL IMMEDIATE; {_DEFER}", doing="checking deferred constraints")

    def _run(self, step: Step) -> None:
        if isinstance(step, TableStep):
            self.require_constraints()  # ALTER TABLE refuses a table that still has some to check
        match step:
            case AlterTable(table, before):
                if before is not None:
                    self._forget(before.id)
                self._forget(table.id)
                self._alterer.alter(step)
                self._tables.prepare_within(table)
            case DropTable(table):
                self._forget(table.id)
                self._alterer.drop(table.id)
            case _:
                self._run_on_rows(step)

    def _part_rolled_back(self) -> None:
        self._tables.rolled_back()
        self._used.clear()

    def _forget(self, table: TableId) -> None:
        for statements in self._tables.forget(table):
            self._used.difference_update(statements.stagings)

    def _run_on_rows(self, step: RowStep) -> None:
        statements = self._tables.prepare_within(step.table)
        match step:
            case CopyRows():
                self._copy(statements, step)
            case WriteRows():
                self._write(statements, step)
            case TruncateTable():
                self._session.execute(statements.truncate(), doing=f"truncating table {statements.table}")
                self._tables.filling.emptied(statements)
            case MoveRow(_, old_key, row):
                self._move(statements, old_key, row)
            case _:
                assert_never(step)

    def _leave_nothing_staged(self) -> None:
        if self._used:
            self._session.execute(empty_staging(sorted(self._used)), doing="committing the batch")
            self._used.clear()

    def _write(self, table: TableStatements, step: WriteRows) -> None:
        if step.deletes:
            self._execute(table, self._staged_keys(table, step.deletes), table.delete)
        if step.upserts and not (step.loaded and self._tables.filling.fill(table, _lines(None, step.upserts, table))):
            self._execute(table, self._staged(table, step.upserts), table.upsert)
        for present, rows in by_present_columns(step.partials).items():
            part = self._staged(table, rows)
            done = self._execute(table, part, lambda part, present=present: table.update(part, present))  # type: ignore[misc]
            self._missing.require(done, len(rows), table.table, "to be changed")
        if step.removed:
            done = self._execute(table, self._staged(table, step.removed), table.remove)
            self._missing.require(done, len(step.removed), table.table, "to be removed")
        if step.added:
            self._execute(table, self._staged(table, step.added), table.insert)

    def _copy(self, table: TableStatements, step: CopyRows) -> None:
        if len(table.written) < len(table.names):
            self._write(table, step.written())
        elif not self._tables.filling.fill(table, iter(step.texts)):
            part = self._staged_lines(table, lambda part: text_lines(part, step.texts))
            self._execute(table, part, table.upsert)

    def _move(self, table: TableStatements, old_key: Key, row: Row) -> None:
        part = self._staged(table, [row])
        old_part = self._staged_keys(table, [old_key])
        present = [index for index, value in enumerate(row) if value is not UNCHANGED]
        done = self._execute(table, part, lambda part: table.move(part, old_part, present))
        self._missing.require(done, 1, table.table, "to be moved to another key")

    def _staged(self, table: TableStatements, rows: Sequence[Row]) -> int:
        return self._staged_lines(table, lambda part: _lines(part, rows, table))

    def _staged_lines(self, table: TableStatements, lines: Callable[[int | None], Iterator[bytes]]) -> int:
        """`lines` gives them with a part's number in front, if any."""
        part = next(self._parts)
        doing = f"writing table {table.table}"
        self._used.update(table.stagings)
        if table.widest:
            self._session.execute(table.clear(), doing=doing)
        chunks = lines(None if table.widest else part)
        self._session.copy_in(table.copy(table.written), chunks, doing=doing, columns=table.names)
        for column in table.verified:
            self._verify(table, column, table.changed(part, column))
        return part

    def _staged_keys(self, table: TableStatements, keys: Sequence[Key]) -> int:
        part = next(self._parts)
        doing = f"writing table {table.table}"
        self._used.update(table.stagings)
        lines = copy_lines(part, keys, doing=doing, columns=[table.names[index] for index in table.key])
        self._session.copy_in(table.copy_keys(), lines, doing=doing, columns=table.names)
        for column in set(table.verified).intersection(table.key):
            self._verify(table, column, table.changed_key(part, column))
        return part

    def _verify(self, table: TableStatements, column: int, count_changed: str) -> None:
        where = f"writing table {table.table}, column {table.names[column]}"
        ((changed,),) = self._session.query(count_changed, doing=where)
        if changed:
            raise FidelityError(
                f"{where}: {table.types[column]} would change {changed} of its values",
                mend=f"give {table.types[column]} the definition that it has at the source, or declare the column text",
            )

    def _execute(self, table: TableStatements, part: int, statement: Callable[[int], str]) -> int:
        return self._session.execute(statement(part), doing=f"writing table {table.table}")


def _lines(part: int | None, rows: Sequence[Row], table: TableStatements) -> Iterator[bytes]:
    """The values of the written columns."""
    names = [table.names[index] for index in table.written]
    if len(table.written) < len(table.names):
        rows = [tuple([row[index] for index in table.written]) for row in rows]
    return copy_lines(part, rows, doing=f"writing table {table.table}", columns=names)
