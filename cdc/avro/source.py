"""The envelope's `source` and `transaction`: where an event comes from.

Of one transaction, most of both is the same for all events of a table: it is made once and joined.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

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


class SourceReader:
    """Reads what SourceWriter wrote, or a connector. Gives the same Transaction for events of one in a row."""

    def __init__(self) -> None:
        self._seen: tuple[object, ...] | None = None
        self._transaction: Transaction | None = None

    def transaction(self, source: Mapping[str, Any]) -> Transaction:
        get = source.get
        seen = (
            get("epoch"), get("commit_lsn"), get("txId"), get("ts_us"), get("ts_ms"), get("db"), get("origin"),
            get("origin_lsn"), None if get("commit_lsn") is not None else get("sequence"),
        )  # fmt: skip
        if seen == self._seen and self._transaction is not None:
            return self._transaction
        self._transaction, self._seen = _transaction(source), seen
        return self._transaction


def _transaction(source: Mapping[str, Any]) -> Transaction:
    commit_lsn, epoch, us, origin = map(source.get, ("commit_lsn", "epoch", "ts_us", "origin"))
    return Transaction(
        epoch=0 if epoch is None else epoch,
        commit_lsn=_last_commit_lsn(source) if commit_lsn is None else commit_lsn,
        xid=source.get("txId"),
        commit_time_us=source["ts_ms"] * 1000 if us is None else us,
        database=source["db"].decode(),
        origin=None if origin is None else origin.decode(),
        origin_lsn=source.get("origin_lsn"),
    )


def _last_commit_lsn(source: Mapping[str, Any]) -> int:
    """A connector says which commit it saw last, which rises with the transactions too; 0 if it has seen none."""
    sequence = source.get("sequence")
    if sequence is None:
        return 0
    match json.loads(sequence):
        case [None, *_]:
            return 0
        case [str() as lsn, *_]:
            return int(lsn)
        case _:
            raise ProtocolViolationError("source.sequence is not a list of LSNs")
