"""The envelope's `source` and `transaction`: where an event comes from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import cdc
from cdc.avro import binary
from cdc.core.errors import ProtocolViolationError
from cdc.core.events import SnapshotMark, Transaction
from cdc.core.tables import TableId

_SMALL: Final = 256
_ORDINALS: Final = tuple(binary.long(ordinal) for ordinal in range(_SMALL))
# `snapshot` is [string, null]: its branch 0 is the string.
_SNAPSHOT: Final = {mark: b"\x00" + binary.string(mark.value) for mark in SnapshotMark}


class TransactionBytes(NamedTuple):
    """What events, BEGIN and END say alike of their transaction."""

    id: bytes
    time_ms: bytes
    commit_lsn: bytes
    epoch: bytes


class TransactionWriter:
    """Writes it once for whatever comes of the same transaction in a row."""

    def __init__(self) -> None:
        self._of: Transaction | None = None
        self._written = TransactionBytes(b"", b"", b"", b"")

    def write(self, of: Transaction) -> TransactionBytes:
        if of is not self._of:
            self._of = of
            self._written = TransactionBytes(
                id=binary.string(of.id),
                time_ms=binary.long(of.commit_time_us // 1000),
                commit_lsn=binary.optional_long(of.commit_lsn),
                epoch=binary.optional_long(of.epoch),
            )
        return self._written


class SourceWriter:
    """Writes both blocks, of which most is the same for all events of a transaction."""

    def __init__(self, name: str, transactions: TransactionWriter | None = None) -> None:
        self._transactions = transactions or TransactionWriter()
        self._head = binary.string(cdc.__version__) + binary.string("postgresql") + binary.string(name)
        self._transaction: Transaction | None = None
        self._mark = SnapshotMark.NO
        self._digits = -1
        self._captured_us = -1
        self._captured = b""
        self._before_sequence = self._before_lsn = self._between = self._times = self._xid = self._rest = b""

    def write(
        self,
        transaction: Transaction,
        table: bytes,
        lsn: int | None,
        mark: SnapshotMark,
        ordinal: int,
        table_ordinal: int,
    ) -> bytes:
        """An event's `source`, with `table` as `table_bytes` has it, and then `transaction`, as the nullable field it
        is.
        """
        if transaction is not self._transaction or mark is not self._mark:
            self._begin(transaction, mark)
        text = b"" if lsn is None else b"%d" % lsn
        if len(text) != self._digits:
            self._fit(transaction, len(text))
        return b"".join(
            (
                self._before_lsn,
                text,
                self._between,
                table,
                self._xid,
                binary.NULL if lsn is None else binary.PRESENT + binary.long(lsn),
                self._rest,
                _ORDINALS[ordinal] if ordinal < _SMALL else binary.long(ordinal),
                _ORDINALS[table_ordinal] if table_ordinal < _SMALL else binary.long(table_ordinal),
            )
        )

    def captured(self, us: int) -> bytes:
        """The envelope's last three fields: when capture handled the event, which it says of many alike."""
        if us != self._captured_us:
            self._captured_us = us
            self._captured = binary.optional_long(us // 1000) + _times(us)
        return self._captured

    def _begin(self, of: Transaction, mark: SnapshotMark) -> None:
        written = self._transactions.write(of)
        self._transaction, self._mark, self._digits = of, mark, -1
        self._before_sequence = b"".join(
            (self._head, written.time_ms, _SNAPSHOT[mark], binary.string(of.database), binary.PRESENT)
        )
        self._times = _times(of.commit_time_us)
        self._xid = binary.optional_long(of.xid)
        self._rest = b"".join(
            (
                binary.NULL,  # xmin
                binary.optional_string(of.origin),
                binary.optional_long(of.origin_lsn),
                written.commit_lsn,
                written.epoch,
                binary.PRESENT,
                written.id,
            )
        )

    def _fit(self, of: Transaction, digits: int) -> None:
        """The parts around an LSN of that many digits, 0 for none, in `sequence`: `["<commit lsn>","<lsn>"]`."""
        first, last = (b'["%d","' % of.commit_lsn, b'"]') if digits else (b'["%d",null' % of.commit_lsn, b"]")
        self._digits = digits
        self._before_lsn = self._before_sequence + binary.long(len(first) + digits + len(last)) + first
        self._between = last + self._times


def _times(us: int) -> bytes:
    return binary.optional_long(us) + binary.optional_long(us * 1000)


def table_bytes(table: TableId) -> bytes:
    """What `source` says of the table."""
    return binary.string(table.schema) + binary.string(table.name)


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
        case [None, str() as lsn]:
            return None, int(lsn)
        case [str() as last_commit, str() as lsn]:
            return int(last_commit), int(lsn)
        case _:
            raise ProtocolViolationError("source.sequence is not a list of two LSNs")
