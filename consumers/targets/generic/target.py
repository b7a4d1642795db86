"""Runs plans on any database that SQLAlchemy has a dialect for: Core statements only, run for many rows at once.

What a dialect can't do is refused by name: see `types`, `schema`, `alterations`. There is no lock that every database
has, so of two appliers of one name the later one goes on, and the earlier one stops as stale before it writes. Nor is
there a savepoint: instead the transaction is rolled back, and what it did before is done again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import sqlalchemy as sa
from typing_extensions import override

from cdc.core.checks import Check
from cdc.core.errors import CdcError, PassingError, TargetSchemaError
from cdc.core.events import Row
from cdc.core.tables import TableId, TableSchema
from consumers.plan.steps import AlterTable, CopyRows, DropTable, Step, WriteRows
from consumers.targets.generic.alterations import Alterer
from consumers.targets.generic.checkpoints import Checkpoints
from consumers.targets.generic.rows import RowWriter
from consumers.targets.generic.schema import PreparedTable, PreparedTables, create_own_tables
from consumers.targets.generic.session import GenericSession
from consumers.targets.generic.types import Forms
from consumers.targets.missing import MissingRows
from consumers.targets.naming import flat_name
from consumers.targets.session_target import CheckpointedTransaction, SessionTarget, as_texts
from consumers.targets.session_target import Checkpoints as AnyCheckpoints
from consumers.targets.target import TargetTransaction

_MOST_KEPT: Final = 50_000  # rows of a transaction, to be written again


class GenericTarget(SessionTarget[GenericSession, PreparedTables]):
    """See `Target`."""

    @override
    def present(self, tables: Iterable[TableId]) -> Collection[TableId]:
        with self._looking() as session:
            return [table for table in tables if session.has_table(flat_name(table), doing="looking up tables")]

    @override
    def rows_of(self, table: TableSchema) -> list[Row]:
        doing, name = f"reading table {table.id}", flat_name(table.id)
        with self._aside(doing) as session:
            if not session.has_table(name, doing=doing):
                return []
            named = sa.table(name, *(sa.column(column.name) for column in table.columns))
            return as_texts(session.query(sa.select(*named.columns), doing=doing))

    @override
    def checks(self) -> Iterator[Check]:
        with self._aside("checking") as session:
            Forms(session).require_texts()
        yield Check(name=f"target {self._applier}", ok=True, found=f"{session.dialect} answers (generic)")

    @override
    def _new_session(self) -> GenericSession:
        return GenericSession(self._url)

    @override
    def _connect(self, session: GenericSession) -> None:
        session.connect()
        Forms(session).require_texts()
        create_own_tables(session)

    @override
    def _new_tables(self, session: GenericSession) -> PreparedTables:
        return PreparedTables(session, Forms(session), transactional=session.defines_in_transactions())

    @override
    def _checkpoints(self, session: GenericSession) -> Checkpoints:
        return Checkpoints(session, self._applier)

    @override
    def _begun(
        self, session: GenericSession, tables: PreparedTables, checkpoints: AnyCheckpoints, fence: Callable[[], None]
    ) -> TargetTransaction:
        return _Transaction(session, tables, Alterer(session, tables, self._policy), checkpoints, self._missing, fence)


class _Transaction(CheckpointedTransaction):
    """`begin` is what it began with. `_kept` are all its steps so far; None if they are too many to keep."""

    def __init__(
        self,
        session: GenericSession,
        tables: PreparedTables,
        alterer: Alterer,
        checkpoints: AnyCheckpoints,
        missing: MissingRows,
        begin: Callable[[], None],
    ) -> None:
        super().__init__(checkpoints)
        self._session = session
        self._tables = tables
        self._alterer = alterer
        self._missing = missing
        self._begin = begin
        self._kept: list[Step] | None = []

    @override
    def run(self, steps: Sequence[Step]) -> None:
        self._run(steps)
        if self._kept is not None:
            self._kept += steps
            if sum(map(_size, self._kept)) > _MOST_KEPT:
                self._kept = None

    @override
    @contextmanager
    def savepoint(self) -> Iterator[None]:
        before = None if self._kept is None else list(self._kept)
        try:
            yield
        except PassingError:
            raise
        except CdcError as error:
            if before is None:
                raise CdcError(
                    f"{error} (in a source transaction of more than {_MOST_KEPT} rows, of which"
                    f" {self._session.dialect} can't take back a part)",
                    mend=error.mend,
                ) from None
            self._do_again(before)
            raise

    def _do_again(self, steps: Sequence[Step]) -> None:
        self._session.roll_back(doing="writing a batch")
        if self._tables.transactional:
            self._tables.rolled_back()
        self._missing.rolled_back()
        self._begin()
        self._kept = []
        self.run(steps)

    def _run(self, steps: Sequence[Step]) -> None:
        for step in steps:
            match step:
                case AlterTable(table, before):
                    for each in (table, before or table):
                        self._tables.forget(each.id)
                    self._alterer.alter(step)
                    self._prepared(table)
                case DropTable(table):
                    self._tables.forget(table.id)
                    self._alterer.drop(table.id)
                case _:
                    RowWriter(self._session, self._prepared(step.table), self._missing).run(step)

    def _prepared(self, version: TableSchema) -> PreparedTable:
        if not (self._tables.transactional or self._tables.is_prepared(version)):
            raise TargetSchemaError(
                f"table {version.id} came up in the middle of a transaction; {self._session.dialect} commits"
                " what makes tables by itself",
                mend='set consistency = "key" for this target, and start the applier again',
            )
        return self._tables.prepare_within(version)


def _size(step: Step) -> int:
    if isinstance(step, CopyRows):
        return step.count
    if not isinstance(step, WriteRows):
        return 1
    return sum(len(rows) for rows in (step.upserts, step.deletes, step.partials, step.added, step.removed))
