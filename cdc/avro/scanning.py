"""The usual event, read without building what nobody asks for: one regular expression for all that surrounds its rows.

Most of `source` is the same in all events of a table (versions, names), or a number. So once an event was read the
plain way, a pattern is made of it that others of the table match. It is anchored at the last place where `source` can
begin, and must reach the record's end: nothing that follows there is a user's text, so it matches where `source` is, or
not at all. What does not match is read the plain way, and so is that of which headers say more than is usual.

Of many events an applier needs no more than their place and their key, because a later one writes the same row. So
`scan` finds those alone: the event that it gives (`scanned.py`) reads its row when it is asked for it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from cdc.avro import binary
from cdc.avro.compiled import LONGS, MALFORMED, CompiledReader, long, varint
from cdc.avro.headers import UNCHANGED, USUAL, read_unchanged
from cdc.avro.scanned import ROWS, THERE, ScannedEvent
from cdc.avro.speedups import COMPILED
from cdc.avro.speedups.surroundings import Surroundings
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
from cdc.core.log import Headers, Place, StoredRecord
from cdc.core.tables import ReplicaIdentity, TableSchema

_MARKS: Final = {b"\x00" + binary.string(mark.value): mark for mark in SnapshotMark}
_MOST_TRANSACTIONS: Final = 10_000
_MORE: Final = 128  # a byte of a number that does not end with it
_OPS: Final = frozenset(b"rcud")
_NUMBER: Final = rb"([\x80-\xff]*[\x00-\x7f])"
_ANY_NUMBER: Final = rb"[\x80-\xff]*[\x00-\x7f]"
_TIMES: Final = re.compile((rb"\x02" + _ANY_NUMBER) * 3)  # ts_ms, ts_us, ts_ns

_Found = tuple[int, int, bytes, bytes, int]
"""Where `source` begins; the op; the bytes of the transaction's id and of its moment; the event's ordinal."""


class Transactions:
    """Gives the same Transaction for events of one, in whatever order the tables' events are read."""

    def __init__(self) -> None:
        self._by_database: dict[bytes, dict[bytes, Transaction]] = defaultdict(dict)

    def of(self, database: bytes) -> dict[bytes, Transaction]:
        """The database's, by the bytes of the transaction's id and of its moment."""
        return self._by_database[database]


class Rows(NamedTuple):
    """Readers of a table version's rows. `row` reads all of a row; `key` too, and gives its key only, in the order of
    `TableSchema.key`; `only_key` stops behind the key.
    """

    row: CompiledReader
    key: CompiledReader
    only_key: CompiledReader


class EnvelopeScanner:
    """Of one table version. `decode` reads a record the plain way."""

    def __init__(
        self, table: TableSchema, rows: Rows, transactions: Transactions, decode: Callable[[StoredRecord], ChangeEvent]
    ) -> None:
        self.table = table
        self.decode = decode
        self.read_row, self.read_key, self.read_only_key = rows
        self._transactions = transactions
        self._index = {column.name: i for i, column in enumerate(table.columns)}
        self._is_full = table.identity is ReplicaIdentity.FULL
        self._said: tuple[bytes, ...] | None = None
        self._head = b""
        self._database = b""
        self.database = ""
        self._known = transactions.of(b"")
        self._captured = b""
        self._captured_us = 0
        self._times = b""
        self._match = self._match_start = re.compile(b"(?!)").match  # nothing, before anything was learnt
        self._surroundings: Surroundings | None = None

    def learn(self, source: Mapping[str, Any]) -> None:
        """`source` of an event of the table, as fastavro reads it."""
        said = tuple(source[name] for name in ("version", "connector", "name", "db", "schema", "table"))
        if said == self._said:
            return
        self._said = said
        version, connector, name, self._database, schema, table = said
        self.database = self._database.decode()
        self._known = self._transactions.of(self._database)
        self._head = binary.data(version) + binary.data(connector) + binary.data(name)
        start = b"".join(
            (
                re.escape(self._head),
                _ANY_NUMBER,  # ts_ms
                b"(" + b"|".join(map(re.escape, _MARKS)) + b")",
                re.escape(binary.data(self._database)),
                rb'\x02.\["(\d{1,20})",(?:"(\d{1,20})"|null)\]',  # the commit's LSN, and the event's own, if any
                rb"\x02" + _NUMBER + rb"\x02" + _ANY_NUMBER,  # ts_us, ts_ns
                re.escape(binary.data(schema) + binary.data(table)),
                rb"(?:\x00|\x02" + _ANY_NUMBER + rb")",  # txId
                rb"(?:\x00|\x02" + _ANY_NUMBER + rb")",  # lsn
                rb"\x00\x00\x00",  # xmin, origin, origin_lsn
                rb"\x02" + _ANY_NUMBER + rb"\x02" + _ANY_NUMBER,  # commit_lsn, epoch
                rb"\x02",  # transaction.id follows
            )
        )
        end = b"".join(
            (
                rb"(.\d+:(?:\d+|none):\2)",  # transaction.id ends with the commit's LSN
                _NUMBER + _NUMBER,  # total_order, data_collection_order
                rb"\x02([rcud])",
                rb"\x02" + _ANY_NUMBER + rb"\x02" + _NUMBER + rb"\x02" + _ANY_NUMBER + rb"\Z",
            )
        )
        self._match_start = re.compile(start, re.DOTALL).match
        self._match = re.compile(start + end, re.DOTALL).match
        if COMPILED:
            around = binary.data(self._database), binary.data(schema) + binary.data(table)
            self._surroundings = Surroundings(self._head, *around, _MARKS)

    def scan_all(self, records: Sequence[StoredRecord], first: int, framing: bytes) -> list[ScannedEvent]:
        """The events of these records, from the `first` on, up to one that has other framing, or has to be read the
        plain way.
        """
        if self._surroundings is not None:
            return self._surroundings.scan_all(records, first, framing, self, self._known, _MOST_TRANSACTIONS)
        found: list[ScannedEvent] = []
        add, known = found.append, self._known
        for i in range(first, len(records)):
            record = records[i]
            value = record[5]
            if value is None or not value.startswith(framing):
                break
            around = self._find_by_pattern(value)
            if around is None:
                break
            if record[6] and not all(header in USUAL for header, _ in record[6]):
                break
            begins, op, name, moment, ordinal = around
            transaction = known.get(name + moment)
            if transaction is None:
                try:
                    transaction = self._begun(name, moment)
                except MALFORMED:
                    break
            add(ScannedEvent(self, record, begins, op, transaction, ordinal))
        return found

    def _find_by_pattern(self, value: bytes) -> _Found | None:
        begins = value.rfind(self._head)
        found = self._match_start(value, begins) if begins > ROWS else None
        if found is None:
            return None
        at = found.end()
        try:
            end = at + 1 + (value[at] >> 1)
            name = value[at:end]
            ordinal = value[end]
            if ordinal < _MORE:
                end += 1
            elif (more := value[end + 1]) < _MORE:
                ordinal += (more << 7) - _MORE
                end += 2
            else:
                ordinal, end = varint(value, end)
            while value[end] >= _MORE:  # data_collection_order
                end += 1
            op = value[end + 2]
            if op not in _OPS or value[end + 1] != THERE:
                return None
        except MALFORMED:
            return None
        times = value[end + 3 :]
        if times != self._times:  # many in a row have the same
            if _TIMES.fullmatch(times) is None:
                return None
            self._times = times
        return begins, op, name, found[4], ordinal >> 1  # ts_us

    def _begun(self, name: bytes, moment: bytes) -> Transaction:
        """The transaction of an event that is the first of it to be met. ValueError if its id is none of ours."""
        epoch, xid, commit_lsn = name[1:].split(b":")
        if len(self._known) >= _MOST_TRANSACTIONS:
            self._known.clear()
        made = self._known[name + moment] = Transaction(
            epoch=int(epoch),
            commit_lsn=int(commit_lsn),
            xid=None if xid == b"none" else int(xid),
            commit_time_us=long(moment),
            database=self.database,
        )
        return made

    def new_row(self, record: StoredRecord) -> int:
        """Where the new row begins. ValueError if it lacks values, and so on if the record is damaged."""
        value: bytes = record.value  # type: ignore[assignment]
        if UNCHANGED in [name for name, _ in record.headers]:
            raise ValueError("values that did not change")
        return ROWS + 2 if value[ROWS] == 0 else self._old(value, ROWS + 1)[1] + 1

    def event(self, value: bytes, said: Headers, table: TableSchema, place: Place | None) -> ChangeEvent | None:
        """The record's event; None if it has to be read the plain way, or was damaged."""
        begins = value.rfind(self._head)
        found = self._match(value, begins) if begins > ROWS else None
        if found is None or (said and not USUAL.issuperset(name for name, _ in said)):
            return None
        mark, _, lsn, moment, name, ordinal, table_ordinal, op, captured = found.groups()
        before: OldImage | None = None
        row: Row = ()
        at = ROWS + 1
        try:
            if value[ROWS]:
                before, at = self._old(value, at)
            if value[at]:
                row, at = self.read_row(value, at + 1)
                if said:
                    row = self._with_unchanged(row, said)
            else:
                at += 1
            if at != begins:
                return None
            if captured != self._captured:  # many in a row have the same
                self._captured, self._captured_us = captured, long(captured)
            return ChangeEvent(
                transaction=self._known.get(name + moment) or self._begun(name, moment),
                table=table,
                change=Update(before, row) if op == b"u" and row else _change(op, before, row),
                ordinal=LONGS[ordinal],
                table_ordinal=LONGS[table_ordinal],
                lsn=None if lsn is None else int(lsn),
                captured_us=self._captured_us,
                snapshot=_MARKS[mark],
                place=place,
            )
        except MALFORMED:
            return None

    def _old(self, value: bytes, at: int) -> tuple[OldImage, int]:
        if self._is_full:
            row, at = self.read_row(value, at)
            return FullImage(row), at
        key, at = self.read_key(value, at)
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
