"""The envelope's `source` and `transaction`: where an event comes from.

Of one transaction, most of both is the same for all events of a table: it is made once and joined.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import cdc
from cdc.avro import binary
from cdc.core.errors import ProtocolViolationError
from cdc.core.events import SnapshotMark, Transaction
from cdc.core.tables import TableId

# `snapshot` is [string, null]: its branch 0 is the string.
_SNAPSHOT: Final = {mark: b"\x00" + binary.string(mark.value) for mark in SnapshotMark}


class SourceWriter:
    """Writes both blocks for the events of one table. Cheap for the events of one transaction in a row."""

    def __init__(self, name: str, table: TableId) -> None:
        self._head = binary.string(cdc.__version__) + binary.string("postgresql") + binary.string(name)
        self._table = binary.string(table.schema) + binary.string(table.name)
        self._transaction: Transaction | None = None
        self._before_snapshot = self._before_sequence = self._before_lsn = self._after_lsn = self._id = b""
        self._sequence = ""

    def source(self, transaction: Transaction, lsn: int | None, mark: SnapshotMark) -> bytes:
        if transaction is not self._transaction:
            self._begin(transaction)
        sequence = f'{self._sequence}"{lsn}"]' if lsn is not None else f"{self._sequence}null]"
        return b"".join(
            (
                self._before_snapshot,
                _SNAPSHOT[mark],
                self._before_sequence,
                binary.optional_string(sequence),
                self._before_lsn,
                binary.optional_long(lsn),
                self._after_lsn,
            )
        )

    def block(self, transaction: Transaction, ordinal: int, table_ordinal: int) -> bytes:
        """`transaction`, as the nullable field it is."""
        if transaction is not self._transaction:
            self._begin(transaction)
        return self._id + binary.long(ordinal) + binary.long(table_ordinal)

    def _begin(self, of: Transaction) -> None:
        us = of.commit_time_us
        self._transaction = of
        self._before_snapshot = self._head + binary.long(us // 1000)
        self._before_sequence = binary.string(of.database)
        self._sequence = f'["{of.commit_lsn}",'
        self._before_lsn = b"".join(
            (
                binary.optional_long(us),
                binary.optional_long(us * 1000),
                self._table,
                binary.optional_long(of.xid),
            )
        )
        self._after_lsn = b"".join(
            (
                binary.NULL,  # xmin
                binary.optional_string(of.origin),
                binary.optional_long(of.origin_lsn),
                binary.optional_long(of.commit_lsn),
                binary.optional_long(of.epoch),
            )
        )
        self._id = binary.PRESENT + binary.string(of.id)


class Place(NamedTuple):
    """Where a connector's event stands, see `connector_place`."""

    commit_lsn: int
    lsn: int


def connector_place(source: Mapping[str, Any]) -> Place:
    """A connector does not know its transaction's commit, but `source.sequence` has the end of the last one before it
    (null until the connector has seen one; then the event's own LSN stands for it), which rises with the transactions,
    and the event's LSN, which rises within one. Both are the same when the connector sends an event again.

    The rows of a first snapshot come before every other event of that connector: `(0, 0)`. Their LSN does not say so:
    a transaction that was under way meanwhile has lower ones.
    """
    if _is_snapshot(source):
        return Place(0, 0)
    last_commit, lsn = _sequence(source)
    return Place(lsn if last_commit is None else last_commit, lsn)


class SourceReader:
    """Reads what SourceWriter wrote, or a connector. Gives the same Transaction for events of one in a row."""

    def __init__(self) -> None:
        self._seen: tuple[object, ...] | None = None
        self._transaction: Transaction | None = None

    def transaction(self, source: Mapping[str, Any]) -> Transaction:
        get = source.get
        seen = (
            get("epoch"), get("commit_lsn"), get("txId"), get("ts_us"), get("ts_ms"), get("db"), get("origin"),
            get("origin_lsn"), None if get("commit_lsn") is not None else (get("sequence"), get("snapshot")),
        )  # fmt: skip
        if seen == self._seen and self._transaction is not None:
            return self._transaction
        self._transaction, self._seen = _transaction(source), seen
        return self._transaction


def _transaction(source: Mapping[str, Any]) -> Transaction:
    commit_lsn, epoch, us, origin = map(source.get, ("commit_lsn", "epoch", "ts_us", "origin"))
    return Transaction(
        epoch=0 if epoch is None else epoch,
        commit_lsn=connector_place(source).commit_lsn if commit_lsn is None else commit_lsn,
        xid=source.get("txId"),
        commit_time_us=source["ts_ms"] * 1000 if us is None else us,
        database=source["db"].decode(),
        origin=None if origin is None else origin.decode(),
        origin_lsn=source.get("origin_lsn"),
    )


def _is_snapshot(source: Mapping[str, Any]) -> bool:
    """Rows of an incremental snapshot are events among others: the connector sees to their order."""
    mark = SnapshotMark((source.get("snapshot") or b"false").decode())
    return mark not in {SnapshotMark.NO, SnapshotMark.INCREMENTAL}


def _sequence(source: Mapping[str, Any]) -> tuple[int | None, int]:
    match json.loads(source.get("sequence") or b"null"):
        case [str() | None as last_commit, str() as lsn]:
            return None if last_commit is None else int(last_commit), int(lsn)
        case _:
            raise ProtocolViolationError("source.sequence is not a list of two LSNs")
