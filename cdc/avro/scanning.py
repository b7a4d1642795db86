"""The usual event, read without building what nobody asks for: one regular expression for all that surrounds its rows.

Most of `source` is the same in all events of a table (versions, names), or a number. So once an event was read the
plain way, a pattern is made of it that others of the table match. It is anchored at the last place where `source` can
begin, and must reach the record's end: nothing that follows there is a user's text, so it matches where `source` is, or
not at all. What does not match is read the plain way, and so is that of which headers say more than is usual.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from cdc.avro import binary
from cdc.avro.compiled import LONGS, MALFORMED, CompiledReader, long
from cdc.avro.headers import ALTERED, TRUNCATED, UNCHANGED, read_unchanged
from cdc.core import events
from cdc.core.events import (
    Change,
    ChangeEvent,
    Create,
    Delete,
    FullImage,
    KeyImage,
    OldImage,
    Read,
    Row,
    SnapshotMark,
    Transaction,
    Update,
)
from cdc.core.log import Headers, Place
from cdc.core.tables import ReplicaIdentity, TableSchema

_USUAL_HEADERS: Final = frozenset({UNCHANGED, TRUNCATED, ALTERED})
_MARKS: Final = {b"\x00" + binary.string(mark.value): mark for mark in SnapshotMark}
_MOST_TRANSACTIONS: Final = 50_000
_ROWS: Final = 5  # where the bytes of the rows begin, behind the framing
_NUMBER: Final = rb"([\x80-\xff]*[\x00-\x7f])"
_ANY_NUMBER: Final = rb"[\x80-\xff]*[\x00-\x7f]"


class Transactions(dict[tuple[bytes, ...], Transaction]):
    """Gives the same Transaction for events of one, in whatever order the tables' events are read.

    By the commit's LSN in digits, the database's name, and the bytes of the epoch, the xid (or none) and the moment.
    """

    def __missing__(self, said: tuple[bytes, ...]) -> Transaction:
        if len(self) >= _MOST_TRANSACTIONS:
            self.clear()
        commit_lsn, database, epoch, xid, moment = said
        made = self[said] = Transaction(
            epoch=long(epoch),
            commit_lsn=int(commit_lsn),
            xid=long(xid[1:]) if xid != binary.NULL else None,
            commit_time_us=long(moment),
            database=database.decode(),
        )
        return made


class EnvelopeScanner:
    """Of one table version. `row` reads all of a row, `key` its key only, in the order of `TableSchema.key`."""

    def __init__(
        self, table: TableSchema, row: CompiledReader, key: CompiledReader, transactions: Transactions
    ) -> None:
        self._read_row = row
        self._read_key = key
        self._transactions = transactions
        self._index = {column.name: i for i, column in enumerate(table.columns)}
        self._is_full = table.identity is ReplicaIdentity.FULL
        self._said: tuple[bytes, ...] | None = None
        self._head = b""
        self._database = b""
        self._match = re.compile(b"(?!)").match  # nothing, before anything was learnt

    def learn(self, source: Mapping[str, Any]) -> None:
        """`source` of an event of the table, as fastavro reads it."""
        said = tuple(source[name] for name in ("version", "connector", "name", "db", "schema", "table"))
        if said == self._said:
            return
        self._said = said
        version, connector, name, self._database, schema, table = said
        self._head = binary.data(version) + binary.data(connector) + binary.data(name)
        pattern = (
            re.escape(self._head),
            _ANY_NUMBER,  # ts_ms
            b"(" + b"|".join(map(re.escape, _MARKS)) + b")",
            re.escape(binary.data(self._database)),
            rb'\x02.\["(\d{1,20})","(\d{1,20})"\]',  # the commit's LSN, and the event's own
            rb"\x02" + _NUMBER + rb"\x02" + _ANY_NUMBER,  # ts_us, ts_ns
            re.escape(binary.data(schema) + binary.data(table)),
            rb"(\x00|\x02" + _ANY_NUMBER + rb")",  # txId
            rb"\x02" + _ANY_NUMBER,  # lsn
            rb"\x00\x00\x00",  # xmin, origin, origin_lsn
            rb"\x02" + _ANY_NUMBER + rb"\x02" + _NUMBER,  # commit_lsn, epoch
            rb"\x02.\d+:(?:\d+|none):\2",  # transaction.id ends with the commit's LSN
            _NUMBER + _NUMBER,  # total_order, data_collection_order
            rb"\x02([rcud])",
            rb"\x02" + _ANY_NUMBER + rb"\x02" + _NUMBER + rb"\x02" + _ANY_NUMBER + rb"\Z",
        )
        self._match = re.compile(b"".join(pattern), re.DOTALL).match

    def event(self, value: bytes, said: Headers, table: TableSchema, place: Place | None) -> ChangeEvent | None:
        """The record's event; None if it has to be read the plain way, or was damaged."""
        begins = value.rfind(self._head)
        found = self._match(value, begins) if begins > _ROWS else None
        if found is None or (said and not _USUAL_HEADERS.issuperset(name for name, _ in said)):
            return None
        mark, commit_lsn, lsn, moment, xid, epoch, ordinal, table_ordinal, op, captured = found.groups()
        before: OldImage | None = None
        row: Row = ()
        at = _ROWS + 1
        try:
            if value[_ROWS]:
                before, at = self._old(value, at)
            if value[at]:
                row, at = self._read_row(value, at + 1)
                if said:
                    row = self._with_unchanged(row, said)
            else:
                at += 1
            if at != begins:
                return None
            return ChangeEvent(
                transaction=self._transactions[commit_lsn, self._database, epoch, xid, moment],
                table=table,
                change=Update(before, row) if op == b"u" and row else _change(op, before, row),
                ordinal=LONGS[ordinal],
                table_ordinal=LONGS[table_ordinal],
                lsn=int(lsn),
                captured_us=LONGS[captured],
                snapshot=_MARKS[mark],
                place=place,
            )
        except MALFORMED:
            return None

    def _old(self, value: bytes, at: int) -> tuple[OldImage, int]:
        if self._is_full:
            row, at = self._read_row(value, at)
            return FullImage(row), at
        key, at = self._read_key(value, at)
        if None in key:
            raise ValueError("a key without a value")
        return KeyImage(key), at  # type: ignore[arg-type]  # nothing but NULL is no text here

    def _with_unchanged(self, row: Row, said: Headers) -> Row:
        for name, value in said:
            if name == UNCHANGED:
                values = list(row)
                for column in read_unchanged(value):
                    values[self._index[column]] = events.UNCHANGED
                return tuple(values)
        return row


def _change(op: bytes, before: OldImage | None, row: Row) -> Change:
    """Of any op but an update."""
    if op == b"d" and before is not None and not row:
        return Delete(before)
    if op in b"cr" and row and before is None:
        return Create(row) if op == b"c" else Read(row)
    raise ValueError("rows that the op has not")
