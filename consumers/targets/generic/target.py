"""Runs plans on any database that SQLAlchemy has a dialect for: Core statements only, run for many rows at once.

What a dialect can't do is refused by name: see `types`, `schema`, `alterations`. There is no lock that every database
has, so of two appliers of one name the later one goes on, and the earlier one stops as stale before it writes. Nor is
there a savepoint: instead the transaction is rolled back, and what it did before is done again.
"""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, NamedTuple, assert_never

import sqlalchemy as sa
from typing_extensions import override

from cdc.core import failpoints
from cdc.core.checks import Check
from cdc.core.errors import CdcError, PassingError, StaleApplierError, TargetError, TargetSchemaError
from cdc.core.events import UNCHANGED, Key, Row
from cdc.core.log import TopicPartition
from cdc.core.position import Position
from cdc.core.settings import TargetSettings
from cdc.core.tables import TableId, TableSchema
from consumers.plan.checkpoint import Checkpoint, PartitionProgress
from consumers.plan.steps import AlterTable, DropTable, MoveRow, RowStep, Step, TruncateTable, WriteRows
from consumers.targets.generic.alterations import Alterer
from consumers.targets.generic.schema import APPLIER, CHECKPOINT, PreparedTable, Tables, create_own_tables
from consumers.targets.generic.session import GenericSession
from consumers.targets.generic.types import Forms
from consumers.targets.grouping import by_present_columns
from consumers.targets.missing import MissingRows
from consumers.targets.naming import flat_name
from consumers.targets.target import Target, TargetTransaction

_MOST_PARAMETERS: Final = 500  # of one statement; no database has a lower limit
_MOST_KEPT: Final = 50_000  # rows of a transaction, to be written again
_DOING: Final = "reading the checkpoint"


class _Open(NamedTuple):
    session: GenericSession
    tables: Tables
    forms: Forms
    transactional: bool


class GenericTarget(Target):
    """See `Target`. The applier's name is the target's, unless `applier` is given."""

    def __init__(self, settings: TargetSettings, applier: str | None = None) -> None:
        self._applier = applier or settings.name
        self._url = settings.url
        self._policy = settings.schema_changes
        self._missing = MissingRows(settings)
        self._open: _Open | None = None
        self._version = 0

    @override
    def open(self) -> Checkpoint:
        self.close()
        session = GenericSession(self._url)
        try:
            session.connect()
            forms = Forms(session)
            forms.require_texts()
            transactional = session.defines_in_transactions()
            create_own_tables(session)
            with session.transaction(doing=_DOING):
                checkpoint = _Checkpoints(session, self._applier).open()
        except CdcError:
            session.close()
            raise
        self._open = _Open(session, Tables(session, forms), forms, transactional)
        self._version = checkpoint.version
        return checkpoint

    @override
    def prepare(self, table: TableSchema) -> None:
        opened = self._opened()
        if opened.tables.prepared(table) is None:
            with opened.session.transaction(doing=f"preparing table {table.id}"):
                opened.tables.prepare(table)

    @override
    @contextmanager
    def transaction(self, *, log_id: str) -> Iterator[TargetTransaction]:
        opened = self._opened()
        checkpoints = _Checkpoints(opened.session, self._applier)
        try:
            with opened.session.transaction(doing="committing the batch"):
                begin = partial(checkpoints.compare_and_set, self._version, log_id)
                begin()
                failpoints.reached("apply.1-fenced")
                alterer = Alterer(
                    opened.session, opened.tables, opened.forms, self._policy, transactional=opened.transactional
                )
                yield _Transaction(opened, alterer, checkpoints, self._missing, begin)
        except BaseException:
            opened.tables.forget()
            self._missing.rolled_back()
            raise
        self._missing.committed()
        self._version += 1
        failpoints.reached("apply.4-committed")

    @override
    def present(self, tables: Iterable[TableId]) -> Collection[TableId]:
        session, doing = self._opened().session, "looking up tables"
        with session.transaction(doing=doing):
            return [table for table in tables if session.has_table(flat_name(table), doing=doing)]

    @override
    def left_out(self) -> Mapping[TableId, int]:
        return self._missing.left_out

    @override
    def read_checkpoint(self) -> Checkpoint:
        session = GenericSession(self._url)
        try:
            session.connect()
            with session.transaction(doing=_DOING):
                if not session.has_table(CHECKPOINT.name, doing=_DOING):
                    return Checkpoint(0, None, {})
                return _Checkpoints(session, self._applier).read()
        finally:
            session.close()

    @override
    def rows_of(self, table: TableSchema) -> list[Row]:
        doing, name = f"reading table {table.id}", flat_name(table.id)
        session = GenericSession(self._url)
        try:
            session.connect()
            with session.transaction(doing=doing):
                if not session.has_table(name, doing=doing):
                    return []
                named = sa.table(name, *(sa.column(column.name) for column in table.columns))
                rows = session.query(sa.select(*named.columns), doing=doing)
        finally:
            session.close()
        return [tuple([None if value is None else value.encode() for value in row]) for row in rows]

    @override
    def checks(self) -> Iterator[Check]:
        session = GenericSession(self._url)
        try:
            session.connect()
            Forms(session).require_texts()
        finally:
            session.close()
        yield Check(name=f"target {self._applier}", ok=True, found=f"{session.dialect} answers (generic)")

    @override
    def close(self) -> None:
        opened, self._open = self._open, None
        if opened is not None:
            opened.session.close()

    def _opened(self) -> _Open:
        if self._open is None:
            raise TargetError(f"target {self._applier!r} is not open")
        return self._open


class _Checkpoints:
    """One applier's checkpoint. The caller holds the transaction."""

    def __init__(self, session: GenericSession, applier: str) -> None:
        self._session = session
        self._applier = applier
        self._ours = APPLIER.c.name == applier

    def open(self) -> Checkpoint:
        """Raise the version (whoever held the lower one is out), and read all of it."""
        owner = f"{socket.gethostname()}:{os.getpid()}"
        taken = APPLIER.update().where(self._ours).values(version=APPLIER.c.version + 1, owner=owner)
        if self._session.execute(taken, doing=_DOING) == 0:
            row = {"name": self._applier, "version": 1, "owner": owner}
            self._session.execute_many(APPLIER.insert(), [row], doing=_DOING)
        return self.read()

    def read(self) -> Checkpoint:
        found = self._session.query(sa.select(APPLIER.c.version, APPLIER.c.log_id).where(self._ours), doing=_DOING)
        version, log_id = found[0] if found else (0, None)
        columns = CHECKPOINT.c
        partitions = self._session.query(
            sa.select(
                columns.topic,
                columns.partition,
                columns.epoch,
                columns.commit_lsn,
                columns.ordinal,
                columns.next_offset,
            ).where(columns.applier == self._applier),
            doing=_DOING,
        )
        progress = {
            TopicPartition(topic, partition): PartitionProgress(Position(epoch, lsn, ordinal), offset)
            for topic, partition, epoch, lsn, ordinal, offset in partitions
        }
        return Checkpoint(version, log_id, progress)

    def compare_and_set(self, version: int, log_id: str) -> None:
        """Take `version` to the next. StaleApplierError if it is not what the target has."""
        taken = (
            APPLIER.update()
            .where(self._ours, APPLIER.c.version == version)
            .values(version=APPLIER.c.version + 1, log_id=log_id)
        )
        if self._session.execute(taken, doing="taking the checkpoint") != 1:
            raise StaleApplierError(f"another applier took over the checkpoint of {self._applier!r}")

    def write(self, progress: Mapping[TopicPartition, PartitionProgress]) -> None:
        doing, columns = "writing the checkpoint", CHECKPOINT.c
        for partition, at in progress.items():
            epoch, commit_lsn, ordinal = at.position
            values = {"epoch": epoch, "commit_lsn": commit_lsn, "ordinal": ordinal, "next_offset": at.next_offset}
            there = CHECKPOINT.update().where(
                columns.applier == self._applier,
                columns.topic == partition.topic,
                columns.partition == partition.partition,
            )
            if self._session.execute(there.values(**values), doing=doing) == 0:
                new = {"applier": self._applier, "topic": partition.topic, "partition": partition.partition, **values}
                self._session.execute_many(CHECKPOINT.insert(), [new], doing=doing)


class _Transaction(TargetTransaction):
    """`begin` is what it began with. `_kept` are all its steps so far; None if they are too many to keep."""

    def __init__(
        self,
        opened: _Open,
        alterer: Alterer,
        checkpoints: _Checkpoints,
        missing: MissingRows,
        begin: Callable[[], None],
    ) -> None:
        self._opened = opened
        self._alterer = alterer
        self._checkpoints = checkpoints
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
                    f" {self._opened.session.dialect} can't take back a part)",
                    mend=error.mend,
                ) from None
            self._do_again(before)
            raise

    @override
    def require_constraints(self) -> None:
        """Nothing: tables are of our own making, and have no constraints that wait."""

    def _do_again(self, steps: Sequence[Step]) -> None:
        self._opened.session.roll_back(doing="writing a batch")
        if self._opened.transactional:
            self._opened.tables.forget()
        self._missing.rolled_back()
        self._begin()
        self._kept = []
        self.run(steps)

    def _run(self, steps: Sequence[Step]) -> None:
        tables = self._opened.tables
        for step in steps:
            match step:
                case AlterTable(table):
                    tables.forget()
                    self._alterer.alter(step)
                    self._prepared(table)
                case DropTable(table):
                    tables.forget()
                    self._alterer.drop(table.id)
                case _:
                    _Writer(self._opened.session, self._prepared(step.table), self._missing).run(step)

    @override
    def advance(self, progress: Mapping[TopicPartition, PartitionProgress]) -> None:
        failpoints.reached("apply.2-written")
        self._checkpoints.write(progress)
        failpoints.reached("apply.3-checkpointed")

    def _prepared(self, version: TableSchema) -> PreparedTable:
        prepared = self._opened.tables.prepared(version)
        if prepared is None and not self._opened.transactional:
            raise TargetSchemaError(
                f"table {version.id} came up in the middle of a transaction; {self._opened.session.dialect} commits"
                " what makes tables by itself",
                mend='set consistency = "key" for this target, and start the applier again',
            )
        return prepared or self._opened.tables.prepare(version)


def _size(step: Step) -> int:
    if not isinstance(step, WriteRows):
        return 1
    return sum(len(rows) for rows in (step.upserts, step.deletes, step.partials, step.added, step.removed))


class _Writer:
    """Runs the steps of one table version."""

    def __init__(self, session: GenericSession, table: PreparedTable, missing: MissingRows) -> None:
        self._session = session
        self._missing = missing
        self._version, self._table, self._codec = table
        self._columns = [self._table.c[column.name] for column in self._version.columns]
        self._doing = f"writing table {self._version.id}"

    def run(self, step: RowStep) -> None:
        match step:
            case WriteRows():
                self._write(step)
            case TruncateTable():
                self._session.execute(self._table.delete(), doing=self._doing)
            case MoveRow(_, old_key, row):
                self._require(self._count([old_key]), 1, "to be moved to another key")
                self._update([index for index, value in enumerate(row) if value is not UNCHANGED], [(old_key, row)])
            case _:
                assert_never(step)

    def _write(self, step: WriteRows) -> None:
        self._delete(step.deletes)
        # A row that is there makes room for the new one: on DuckDB ten times as fast as an UPDATE.
        self._delete([self._key_of(row) for row in step.upserts])
        self._insert(step.upserts)
        keys = [self._key_of(row) for row in step.partials]
        self._require(self._count(keys), len(keys), "to be changed")
        for present, rows in by_present_columns(step.partials).items():
            columns = [index for index in present if index not in self._version.key]
            self._update(columns, [(self._key_of(row), row) for row in rows])
        self._remove(step.removed)
        self._insert(step.added)

    def _insert(self, rows: Sequence[Row]) -> None:
        """Many rows in a statement, where the dialect has that: DuckDB's driver runs executemany row by row."""
        size = max(_MOST_PARAMETERS // len(self._columns), 1) if self._session.inserts_many_rows else 1
        whole = len(rows) // size * size
        if whole:
            statement = self._table.insert().values([self._places(place) for place in range(size)])
            for start in range(0, whole, size):
                self._session.execute(statement, self._all_parameters(rows[start : start + size]), doing=self._doing)
        rest = [self._all_parameters([row]) for row in rows[whole:]]
        self._session.execute_many(self._table.insert().values(self._places(0)), rest, doing=self._doing)

    def _places(self, place: int) -> dict[str, sa.ColumnElement[Any]]:
        """The parameters of one row of a statement."""
        return {
            column.name: form.expression(sa.bindparam(f"cdc_value_{index}_{place}", type_=form.sent))
            for index, (column, form) in enumerate(zip(self._columns, self._codec.forms, strict=True))
        }

    def _all_parameters(self, rows: Sequence[Row]) -> dict[str, Any]:
        value = self._codec.value
        return {
            f"cdc_value_{index}_{place}": value(index, each)
            for place, row in enumerate(rows)
            for index, each in enumerate(row)
        }

    def _update(self, columns: Sequence[int], rows: Iterable[tuple[Key, Row]]) -> None:
        if not columns:
            return
        forms = self._codec.forms
        values = {
            self._columns[index].name: forms[index].expression(
                sa.bindparam(f"cdc_value_{index}", type_=forms[index].sent)
            )
            for index in columns
        }
        same = [
            self._columns[index] == forms[index].expression(sa.bindparam(f"cdc_key_{index}", type_=forms[index].sent))
            for index in self._version.key
        ]
        parameters = [
            self._parameters(row, columns)
            | {
                f"cdc_key_{index}": self._codec.value(index, part)
                for index, part in zip(self._version.key, key, strict=True)
            }
            for key, row in rows
        ]
        self._session.execute_many(self._table.update().where(*same).values(values), parameters, doing=self._doing)

    def _delete(self, keys: Sequence[Key]) -> None:
        for some in self._chunks(keys):
            self._session.execute(self._table.delete().where(self._any_of(some)), doing=self._doing)

    def _count(self, keys: Sequence[Key]) -> int:
        """How many of them are there."""
        counted = sa.select(sa.func.count()).select_from(self._table)
        return sum(
            self._session.query(counted.where(self._any_of(some)), doing=self._doing)[0][0]
            for some in self._chunks(keys)
        )

    def _remove(self, rows: Sequence[Row]) -> None:
        """Of equal rows, as many as are to be removed: all go, and what is too many comes back."""
        for row, copies in Counter(rows).items():
            same = sa.and_(*(self._same(index, value) for index, value in enumerate(row)))
            counted = sa.select(sa.func.count()).select_from(self._table).where(same)
            there = self._session.query(counted, doing=self._doing)[0][0]
            self._require(min(there, copies), copies, "to be removed")
            self._session.execute(self._table.delete().where(same), doing=self._doing)
            self._insert([row] * (there - copies))

    def _chunks(self, keys: Sequence[Key]) -> Iterator[Sequence[Key]]:
        size = max(_MOST_PARAMETERS // max(len(self._version.key), 1), 1)
        for start in range(0, len(keys), size):
            yield keys[start : start + size]

    def _any_of(self, keys: Sequence[Key]) -> sa.ColumnElement[bool]:
        places = self._version.key
        if len(places) == 1:
            (place,) = places
            form, value = self._codec.forms[place], self._codec.value
            if form.sent is form.type:
                return self._columns[place].in_([value(place, part) for (part,) in keys])
            return self._columns[place].in_([self._constant(place, part) for (part,) in keys])
        return sa.or_(*(sa.and_(*(self._same(i, part) for i, part in zip(places, key, strict=True))) for key in keys))

    def _same(self, index: int, value: Any) -> sa.ColumnElement[bool]:
        column = self._columns[index]
        return column.is_(None) if value is None else column == self._constant(index, value)

    def _constant(self, index: int, value: Any) -> sa.ColumnElement[Any]:
        return self._codec.forms[index].constant(self._codec.value(index, value))

    def _parameters(self, row: Row, columns: Iterable[int]) -> dict[str, Any]:
        value = self._codec.value
        return {f"cdc_value_{index}": value(index, row[index]) for index in columns}

    def _key_of(self, row: Row) -> Key:
        return tuple([row[index] for index in self._version.key])  # type: ignore[misc]  # never NULL nor UNCHANGED

    def _require(self, done: int, wanted: int, what: str) -> None:
        self._missing.require(done, wanted, self._version.id, what)
