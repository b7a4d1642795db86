"""Runs plans on MySQL and MariaDB.

What defines tables commits by itself there. So it goes over a second session, beside the transaction that has taken
the checkpoint, before any row is written; what it does a second time after a crash does no harm. A table that the open
transaction has written to in an earlier part can't be altered before it ends: that is refused.

What was defined stays when rows are rolled back. So rows that are tried again, but come before it in the source's
order, are written in the shape that their table has got.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, assert_never

from typing_extensions import override

from cdc.core import failpoints
from cdc.core.checks import Check
from cdc.core.errors import CdcError, TargetSchemaError
from cdc.core.events import Key, Row
from cdc.core.settings import TargetSettings
from cdc.core.tables import TableId, TableSchema
from consumers.plan.definitions import Definition, definitions_first
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
from consumers.targets.missing import MissingRows
from consumers.targets.mysql.alterations import Alterer
from consumers.targets.mysql.catalog import find_table
from consumers.targets.mysql.checkpoints import Checkpoints, create_checkpoint_tables
from consumers.targets.mysql.defining import Allowed, Defining, require_ended
from consumers.targets.mysql.quoting import quoted, quoted_list
from consumers.targets.mysql.replacing import MysqlReplacing, discard, features, make_alike, settle, tables_in
from consumers.targets.mysql.session import MysqlSession
from consumers.targets.mysql.statements import Statements, Trip
from consumers.targets.mysql.tables import PreparedTables
from consumers.targets.naming import flat_name
from consumers.targets.replaceable import ReplaceableTarget, Replacement, Replacing
from consumers.targets.session_target import CheckpointedTransaction, SessionTarget, as_texts, savepoint
from consumers.targets.session_target import Checkpoints as AnyCheckpoints
from consumers.targets.target import TargetTransaction


class MysqlTarget(SessionTarget[MysqlSession, PreparedTables], ReplaceableTarget):
    """See `Target`. The session holds the applier's lock and writes; the one beside makes and alters tables."""

    def __init__(self, settings: TargetSettings, applier: str | None = None) -> None:
        super().__init__(settings, applier)
        self._definer = self._new_session()
        self._defining = Defining(self._definer, self._applier)
        self._holder: MysqlSession | None = None

    @override
    def present(self, tables: Iterable[TableId]) -> Collection[TableId]:
        doing = "looking up tables"
        return [table for table in tables if find_table(self._definer, flat_name(table), doing=doing) is not None]

    @override
    def rows_of(self, table: TableSchema) -> list[Row]:
        doing, name = f"reading table {table.id}", flat_name(table.id)
        with self._aside(doing) as session:
            if find_table(session, name, doing=doing) is None:
                return []
            names = quoted_list(column.name for column in table.columns)
            return as_texts(session.query(f"SELECT {names} FROM {quoted(name)}", doing=doing))

    @override
    def checks(self) -> Iterator[Check]:
        name, doing = f"target {self._applier}", "checking"
        with self._aside(doing) as session:
            server = session.server
            grants = " ".join(str(row[0]) for row in session.query("SHOW GRANTS", doing=doing))
        yield Check(name=name, ok=True, found=f"{server.version} answers")
        if server.read_only:
            mend = "name its primary in the target's url"
            yield Check(name=name, ok=False, found="is read-only", mend=mend)
        if not any(privilege in grants for privilege in ("CREATE", "ALL PRIVILEGES", "GRANT `")):
            mend = "GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, DROP, INDEX ON the database TO its user"
            yield Check(name=name, ok=False, found="its user may not create tables", mend=mend)

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
        with self._defining.allowed(self._opened()[0]):
            make_alike(self._definer, tables)

    @override
    @contextmanager
    def replacing(self, live: str) -> Iterator[Replacing]:
        holder, doing = self._new_session(), "replacing the tables"
        try:
            holder.connect()
            with holder.transaction(doing=doing):
                checkpoint = Checkpoints(holder, live).hold()
                require_ended(holder, live)
                self._holder = holder
                yield MysqlReplacing(holder, self._definer, live=live, checkpoint=checkpoint)
        finally:
            self._holder = None
            holder.close()

    @override
    def discard(self, area: str) -> int:
        return discard(self._definer, area)

    @override
    def close(self) -> None:
        super().close()
        self._definer.close()

    @override
    def _new_session(self) -> MysqlSession:
        return MysqlSession(self._url, applier=self._applier)

    @override
    def _connect(self, session: MysqlSession) -> None:
        session.connect()
        session.lock_applier()
        self._definer.connect(for_definitions=True)
        require_ended(self._definer, self._applier)
        create_checkpoint_tables(self._definer)
        settle(self._definer, self._applier)

    @override
    def _new_tables(self, session: MysqlSession) -> PreparedTables:
        return PreparedTables(self._definer, partial(self._defining.allowed, session))

    @override
    def _checkpoints(self, session: MysqlSession) -> Checkpoints:
        return Checkpoints(session, self._applier)

    @override
    def _fence(self, checkpoints: AnyCheckpoints, log_id: str) -> None:
        if self._holder is not None:
            self._holder.execute("DO 0", doing="replacing the tables")  # or the server may take it for one that hangs
        super()._fence(checkpoints, log_id)

    @override
    @contextmanager
    def _looking(self) -> Iterator[MysqlSession]:
        """The session that is never within a transaction: to begin one would end another's."""
        if self._session is None:
            with super()._looking() as session:
                yield session
        else:
            yield self._definer

    @override
    def _begun(
        self, session: MysqlSession, tables: PreparedTables, checkpoints: AnyCheckpoints, fence: Callable[[], None]
    ) -> TargetTransaction:
        allowed = partial(self._defining.allowed, session)
        return _Transaction(session, tables, Alterer(self._definer, self._policy), allowed, checkpoints, self._missing)


class _Transaction(CheckpointedTransaction):
    """`_made` is what was defined in it, in order; `_ahead` that of it which comes after all that was not rolled back,
    in the source's order; `_refused` what could not be.
    """

    def __init__(
        self,
        session: MysqlSession,
        tables: PreparedTables,
        alterer: Alterer,
        allowed: Allowed,
        checkpoints: AnyCheckpoints,
        missing: MissingRows,
    ) -> None:
        super().__init__(checkpoints)
        self._session = session
        self._tables = tables
        self._alterer = alterer
        self._allowed = allowed
        self._missing = missing
        self._written: set[str] = set()
        self._made: list[TableStep] = []
        self._ahead: list[TableStep] = []
        self._refused: list[tuple[TableStep, CdcError]] = []

    @override
    def run(self, steps: Sequence[Step]) -> None:
        ahead = list(self._ahead)
        for step in steps:
            if isinstance(step, TableStep) and step in ahead:
                ahead.remove(step)
        ordered = definitions_first([*steps, *ahead])
        self._define_all([each for each in ordered.definitions if each.step not in self._ahead])
        self._ahead = ahead
        for step in ordered.rows:
            self._written.add(flat_name(step.table.id))
            _Writer(self._session, self._tables, step.table, self._missing).run(step)

    @override
    @contextmanager
    def savepoint(self) -> Iterator[None]:
        ahead, made = self._ahead, len(self._made)
        try:
            with savepoint(self._session, self._missing, self._tables.rolled_back):
                yield
        except CdcError:
            self._ahead = [*ahead, *self._made[made:]]
            raise

    def _define_all(self, definitions: Sequence[Definition]) -> None:
        left = self._left(definitions)
        self._made += [definition.step for definition in definitions[: len(definitions) - len(left)]]
        if left:
            with self._allowed():
                for definition in left:
                    self._define(definition)
                    self._made.append(definition.step)
                    failpoints.reached("apply.2-altered")

    def _left(self, definitions: Sequence[Definition]) -> Sequence[Definition]:
        """Those that were not done before a crash: they are done in order, and the last one that was tells. To drop
        `item` and rename `new` to it must not begin again with what is called `item` now.
        """
        for number in reversed(range(len(definitions))):
            step = definitions[number].step
            if isinstance(step, AlterTable) and step.before is not None and self._alterer.is_done(step):
                return definitions[number + 1 :]
        return definitions

    def _define(self, definition: Definition) -> None:
        for step, error in self._refused:
            if step == definition.step:
                raise error
        try:
            self._try_to_define(definition)
        except CdcError as error:
            self._refused.append((definition.step, error))
            raise

    def _try_to_define(self, definition: Definition) -> None:
        """It commits. What was prepared for the table no longer fits."""
        match definition.step:
            case AlterTable(table, before):
                old = table if before is None else before
                self._require_unwritten(old.id)
                for each in (old, table):
                    self._tables.forget(each.id)
                self._alterer.alter(definition)
                self._tables.prepare(table)  # an empty one is made too
            case DropTable(table):
                self._require_unwritten(table.id)
                self._tables.forget(table.id)
                self._alterer.drop(table.id)

    def _require_unwritten(self, table: TableId) -> None:
        """What the open transaction wrote to can't be altered beside it: it would wait for us."""
        if flat_name(table) in self._written:
            raise TargetSchemaError(
                f"table {table} was written to in one part of a large transaction and altered in a later one, which"
                " MySQL can't do: there an ALTER TABLE commits",
                mend="raise the target's batch_events above the transaction's size, or set consistency = \"key\"",
            )


class _Writer:
    """Runs the steps of one table version."""

    def __init__(
        self, session: MysqlSession, tables: PreparedTables, version: TableSchema, missing: MissingRows
    ) -> None:
        self._session = session
        self._missing = missing
        self._table = tables.prepare(version)
        self._statements = Statements(self._table, session.server)
        self._version = version
        self._doing = f"writing table {version.id}"

    def run(self, step: RowStep) -> None:
        match step:
            case WriteRows():
                self._write(step)
            case CopyRows():
                self._write(step.written())
            case TruncateTable():
                self._run(self._statements.empty())
            case MoveRow(_, old_key, row):
                self._move(old_key, row)
            case _:
                assert_never(step)

    def _write(self, step: WriteRows) -> None:
        for statement in self._statements.deletes(step.deletes):
            self._run(statement)
        self._upsert(step.upserts)
        self._require_all(self._statements.updates(step.partials), len(step.partials), "to be changed")
        self._require_all(self._statements.removals(step.removed), len(step.removed), "to be removed")
        for statement in self._statements.inserts(step.added):
            self._run(statement)

    def _upsert(self, rows: Sequence[Row]) -> None:
        if not self._table.one_key:
            rows = list(self._not_updated(rows))
        statements = self._statements.upserts if self._table.one_key else self._statements.inserts
        for statement in statements(rows):
            self._run(statement)

    def _not_updated(self, rows: Sequence[Row]) -> Iterator[Row]:
        """ON DUPLICATE KEY UPDATE would change the row that has the same value in another unique key."""
        for trip in self._statements.updates(rows):
            found = self._run(trip.statement)
            yield from (row for row, count in zip(trip.items, found, strict=True) if not count)

    def _move(self, old_key: Key, row: Row) -> None:
        (found,) = self._run(self._statements.move(old_key, row))
        self._require(found, 1, "to be moved to another key")

    def _require_all(self, trips: Iterable[Trip[Any]], wanted: int, what: str) -> None:
        self._require(sum(sum(self._run(trip.statement)) for trip in trips), wanted, what)

    def _run(self, statement: bytes) -> list[int]:
        return self._session.run(statement, doing=self._doing)

    def _require(self, done: int, wanted: int, what: str) -> None:
        self._missing.require(done, wanted, self._version.id, what)
