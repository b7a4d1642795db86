"""pgoutput's messages become transactions of change events. Pure: schemas come from the caller's `resolve`.

Positions are counted here, before any filter: a table that is not captured, or no longer, takes its ordinals all the
same, so that a resend under other settings gives every event the number it had.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count

from cdc.core.errors import FidelityError, ProtocolViolationError
from cdc.core.events import (
    UNCHANGED,
    Begin,
    Change,
    ChangeEvent,
    Commit,
    Create,
    Delete,
    FullImage,
    Key,
    KeyImage,
    LogicalMessage,
    OldImage,
    Row,
    StreamItem,
    Transaction,
    Truncate,
    Update,
)
from cdc.core.tables import TableId, TableSchema
from cdc.pgoutput import messages as wire


class Assembler:
    """Feed it every message of the stream in order.

    `resolve` gives the table version that a Relation message announces, `captured` says whether its events are wanted,
    `now_us` is the time at which an event is handled.
    """

    def __init__(
        self,
        *,
        epoch: int,
        database: str,
        resolve: Callable[[wire.Relation], TableSchema],
        captured: Callable[[TableId], bool],
        now_us: Callable[[], int],
    ) -> None:
        self._epoch = epoch
        self._database = database
        self._resolve = resolve
        self._captured = captured
        self._now_us = now_us
        self._tables: dict[int, TableSchema] = {}
        self._unresolved: dict[int, wire.Relation] = {}
        self._begin: wire.Begin | None = None
        self._origin: wire.Origin | None = None
        self._transaction: Transaction | None = None
        self._ordinals = count(1)
        self._last_ordinal = 0
        self._counts: dict[TableId, int] = {}
        self._messages = 0

    @property
    def in_transaction(self) -> bool:
        """Whether the stream stands between a Begin and its Commit."""
        return self._begin is not None

    def feed(self, message: wire.Message, lsn: int) -> Iterator[StreamItem]:
        """What one message means. `lsn` is its own place in the WAL, from the frame around it."""
        match message:
            case wire.Insert(oid, new):
                table = self._table(oid)
                yield from self._change(table, Create(_whole(table, new)), lsn)
            case wire.Update(oid, old, new):
                table = self._table(oid)
                yield from self._update(table, old, new, lsn)
            case wire.Delete(oid, old):
                table = self._table(oid)
                yield from self._change(table, Delete(_old_image(table, old)), lsn)
            case wire.Begin():
                self._start(message)
            case wire.Commit():
                yield from self._commit(message)
            case wire.Relation():
                self._unresolved[message.oid] = message
            case wire.Truncate():
                for oid in message.relation_oids:
                    yield from self._change(self._table(oid), Truncate(), lsn)
            case wire.Origin():
                self._origin = message
            case wire.LogicalMessage():
                yield from self._logical_message(message)
            case wire.Type():
                pass  # the catalog is asked for a type when a table that has it comes by

    def _start(self, message: wire.Begin) -> None:
        if self._begin is not None:
            raise ProtocolViolationError("Begin inside a transaction")
        self._begin = message
        self._origin = None
        self._transaction = None
        self._ordinals = count(1)
        self._last_ordinal = 0
        self._counts = {}
        self._messages = 0

    def _open(self) -> Iterator[StreamItem]:
        """The transaction's Begin, once: it waits for the first event because Origin comes after pgoutput's Begin."""
        if self._transaction is not None:
            return
        if self._begin is None:
            raise ProtocolViolationError("a change outside of any transaction")
        self._transaction = Transaction(
            epoch=self._epoch,
            commit_lsn=self._begin.final_lsn,
            xid=self._begin.xid,
            commit_time_us=self._begin.commit_time_us,
            database=self._database,
            origin=self._origin.name if self._origin else None,
            origin_lsn=self._origin.origin_lsn if self._origin else None,
        )
        yield Begin(self._transaction)

    def _commit(self, message: wire.Commit) -> Iterator[StreamItem]:
        yield from self._open()
        if self._transaction is None or message.commit_lsn != self._transaction.commit_lsn:
            raise ProtocolViolationError("Commit does not belong to the Begin before it")
        yield Commit(self._transaction, message.end_lsn, self._last_ordinal, self._counts, self._messages)
        self._begin = None
        self._transaction = None

    def _table(self, oid: int) -> TableSchema:
        relation = self._unresolved.pop(oid, None)
        if relation is not None:
            self._tables[oid] = self._resolve(relation)
        try:
            return self._tables[oid]
        except KeyError:
            raise ProtocolViolationError(f"a change of relation {oid} before its Relation message") from None

    def _change(self, table: TableSchema, change: Change, lsn: int) -> Iterator[StreamItem]:
        yield from self._open()
        ordinal = next(self._ordinals)
        self._last_ordinal = ordinal
        if not self._captured(table.id):
            return
        table_ordinal = self._counts.get(table.id, 0) + 1
        self._counts[table.id] = table_ordinal
        if self._transaction is None:
            raise ProtocolViolationError("a change outside of any transaction")
        yield ChangeEvent(
            transaction=self._transaction,
            table=table,
            change=change,
            ordinal=ordinal,
            table_ordinal=table_ordinal,
            lsn=lsn,
            captured_us=self._now_us(),
        )

    def _update(self, table: TableSchema, old: wire.OldTuple | None, new: Row, lsn: int) -> Iterator[StreamItem]:
        before = None if old is None else _old_image(table, old)
        after = _filled(table, before, _as_wide(table, new))
        old_key = None if before is None else _key_of(table, before)
        new_key = row_key(table, after)
        if old_key is not None and table.key and old_key != new_key:
            half = Delete(_required(before), moved_to=new_key, awaits_create=UNCHANGED in after)
            yield from self._change(table, half, lsn)
            yield from self._change(table, Create(after, moved_from=old_key), lsn)
        else:
            yield from self._change(table, Update(before if isinstance(before, FullImage) else None, after), lsn)

    def _logical_message(self, message: wire.LogicalMessage) -> Iterator[StreamItem]:
        if message.transactional:
            yield from self._open()
            if self._transaction is None:
                raise ProtocolViolationError("a transactional message outside of any transaction")
            self._last_ordinal = next(self._ordinals)
            said = self._said(message, self._transaction, self._last_ordinal, self._messages + 1)
            self._messages += not said.ours
            yield said
            return
        # It stands outside of every transaction, possibly of an aborted one, and may share its LSN with the next
        # commit: ordinal 0 sorts it before that.
        own = Transaction(
            epoch=self._epoch,
            commit_lsn=message.lsn,
            xid=None,
            commit_time_us=self._now_us(),
            database=self._database,
        )
        yield Begin(own)
        said = self._said(message, own, 0, 1)
        yield said
        yield Commit(own, message.lsn, 0, messages=int(not said.ours))

    def _said(
        self, message: wire.LogicalMessage, of: Transaction, ordinal: int, message_ordinal: int
    ) -> LogicalMessage:
        return LogicalMessage(
            transaction=of,
            prefix=message.prefix,
            content=message.content,
            ordinal=ordinal,
            lsn=message.lsn,
            captured_us=self._now_us(),
            message_ordinal=message_ordinal,
        )


def row_key(table: TableSchema, row: Row) -> Key:
    """The key columns' values of a row. ProtocolViolationError if one is NULL or was not sent."""
    key = tuple(row[index] for index in table.key)
    if not all(isinstance(value, bytes) for value in key):
        raise ProtocolViolationError(f"table {table.id}: a key column came without a value")
    return key  # type: ignore[return-value]  # all() above is not seen as a narrowing


def _key_of(table: TableSchema, image: OldImage) -> Key:
    return image.key if isinstance(image, KeyImage) else row_key(table, image.row)


def _as_wide(table: TableSchema, row: Row) -> Row:
    """The row itself, if it has a value for each column that its Relation message announced."""
    if len(row) != len(table.columns):
        raise ProtocolViolationError(f"table {table.id}: a row of {len(row)} values for {len(table.columns)} columns")
    return row


def _whole(table: TableSchema, row: Row) -> Row:
    """A new row has all its values, but for one that an update moved into the publication's row filter."""
    if UNCHANGED in _as_wide(table, row):
        raise FidelityError(
            f"table {table.id}: an update moved a row into the publication's row filter, without its large values",
            mend=f"ALTER TABLE {table.id} REPLICA IDENTITY FULL, or publish the table without a row filter",
        )
    return row


def _old_image(table: TableSchema, old: wire.OldTuple) -> OldImage:
    row = _as_wide(table, old.values)
    return FullImage(row) if isinstance(old, wire.FullTuple) else KeyImage(row_key(table, row))


def _filled(table: TableSchema, before: OldImage | None, after: Row) -> Row:
    """`after` with what the old image knows of the values that were not sent again."""
    if before is None or UNCHANGED not in after:
        return after
    if isinstance(before, FullImage):
        known = before.row
    else:
        by_index = dict(zip(table.key, before.key, strict=True))
        known = tuple(by_index.get(index, UNCHANGED) for index in range(len(after)))
    return tuple(old if new is UNCHANGED else new for old, new in zip(known, after, strict=True))


def _required(image: OldImage | None) -> OldImage:
    if image is None:
        raise ProtocolViolationError("a changed key without its old image")
    return image
