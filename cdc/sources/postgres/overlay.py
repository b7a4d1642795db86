"""A table's rows as a snapshot saw them, and what was changed after it, made one. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from cdc.core.errors import ProtocolViolationError
from cdc.core.events import UNCHANGED, Change, Create, Delete, FullImage, Key, OldImage, Read, Row, Truncate, Update
from cdc.core.tables import TableSchema


def merged(schema: TableSchema, rows: Iterable[Row], changes: Iterable[Change]) -> Iterator[Read]:
    """The table's rows after `rows`, which a snapshot saw, and `changes`, which came after it."""
    overlay: _KeyedOverlay | _KeylessOverlay = _KeyedOverlay(schema) if schema.key else _KeylessOverlay(schema)
    for change in changes:
        overlay.add(change)
    for row in overlay.over(rows):
        yield Read(row)


class _Gone:
    """A row that was deleted."""


_GONE: Final = _Gone()


@dataclass(frozen=True, slots=True)
class _Partial:
    """`row` with UNCHANGED values, which are those of the row that was read at `base`."""

    base: Key
    row: Row


class _KeyedOverlay:
    def __init__(self, schema: TableSchema) -> None:
        self._schema = schema
        self._now: dict[Key, Row | _Partial | _Gone] = {}
        self._truncated = False

    def add(self, change: Change) -> None:
        match change:
            case Create(after, moved_from):
                self._write(self._key(after) if moved_from is None else moved_from, after)
            case Update(before, after):
                base = self._key(before.row) if isinstance(before, FullImage) else self._key(after)
                self._write(base, after)
            case Delete(before, moved_to):
                if moved_to is None:
                    self._now[self._key_of(before)] = _GONE
            case Truncate():
                self._now.clear()
                self._truncated = True
            case _:
                raise ProtocolViolationError("a change that is none of a row's")

    def over(self, rows: Iterable[Row]) -> Iterator[Row]:
        bases = {outcome.base for outcome in self._now.values() if isinstance(outcome, _Partial)}
        known: dict[Key, Row] = {}
        if not self._truncated:
            for row in rows:
                key = self._key(row)
                if key in bases:
                    known[key] = row
                if key not in self._now:
                    yield row
        for outcome in self._now.values():
            if isinstance(outcome, _Partial):
                yield _filled(outcome.row, known[outcome.base])
            elif not isinstance(outcome, _Gone):
                yield outcome

    def _write(self, old_key: Key, after: Row) -> None:
        known = self._now.get(old_key)
        outcome: Row | _Partial = after
        if UNCHANGED in after:
            if isinstance(known, _Partial):
                outcome = _Partial(known.base, _filled(after, known.row))
            elif isinstance(known, tuple):
                outcome = _filled(after, known)
            else:
                outcome = _Partial(old_key, after)
            if isinstance(outcome, _Partial) and UNCHANGED not in outcome.row:
                outcome = outcome.row
        new_key = self._key(after)
        if new_key != old_key:
            self._now[old_key] = _GONE
        self._now[new_key] = outcome

    def _key_of(self, image: OldImage) -> Key:
        return self._key(image.row) if isinstance(image, FullImage) else image.key

    def _key(self, row: Row) -> Key:
        return tuple([row[index] for index in self._schema.key])  # type: ignore[misc]  # a key has no NULL


class _KeylessOverlay:
    def __init__(self, schema: TableSchema) -> None:
        self._schema = schema
        self._copies: Counter[Row] = Counter()
        self._truncated = False

    def add(self, change: Change) -> None:
        match change:
            case Create(after):
                self._copies[after] += 1
            case Update(FullImage(old), after):
                self._copies[old] -= 1
                self._copies[_filled(after, old)] += 1
            case Delete(FullImage(old)):
                self._copies[old] -= 1
            case Truncate():
                self._copies.clear()
                self._truncated = True
            case _:
                raise ProtocolViolationError(f"table {self._schema.id}: nothing says which row changed")

    def over(self, rows: Iterable[Row]) -> Iterator[Row]:
        for row in () if self._truncated else rows:
            if self._copies.get(row, 0) < 0:
                self._copies[row] += 1
            else:
                yield row
        yield from (+self._copies).elements()


def _filled(row: Row, known: Row) -> Row:
    return tuple([old if new is UNCHANGED else new for new, old in zip(row, known, strict=True)])
