"""Writes rows: Core statements, run for many rows at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, assert_never

import sqlalchemy as sa

from cdc.core.events import UNCHANGED, Key, Row
from consumers.plan.steps import CopyRows, MoveRow, RowStep, TruncateTable, WriteRows
from consumers.targets.generic.schema import PreparedTable
from consumers.targets.generic.session import GenericSession
from consumers.targets.grouping import by_present_columns
from consumers.targets.missing import MissingRows

_MOST_PARAMETERS: Final = 500  # of one statement; no database has a lower limit


class RowWriter:
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
            case CopyRows():
                self._write(step.written())
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
