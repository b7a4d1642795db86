"""pgoutput's messages become transactions of change events. Pure: what a table is comes from `versions`, and the rows
of one that has to be read again from `rereads`.

Positions are counted here, before any filter: a table that is not captured, or no longer, takes its ordinals all the
same, so that a resend under other settings gives every event the number it had.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Final, NamedTuple, Protocol

from cdc.core.errors import ProtocolViolationError
from cdc.core.events import (
    Alter,
    Begin,
    Change,
    ChangeEvent,
    Changes,
    Commit,
    Create,
    Delete,
    Drop,
    LogicalMessage,
    Rereading,
    Row,
    RowOp,
    SnapshotMark,
    StreamItem,
    Transaction,
    Truncate,
    UnreadChange,
    Update,
)
from cdc.core.tables import ReplicaIdentity, TableId, TableSchema
from cdc.pgoutput import messages as wire
from cdc.pgoutput.decoder import decode
from cdc.pgoutput.rows import head_of
from cdc.pgoutput.stream import MESSAGE, XLOG_DATA
from cdc.sources.postgres import ddl
from cdc.sources.postgres.descriptions import TableDescription
from cdc.sources.postgres.overlay import merged
from cdc.sources.postgres.row_changes import ROW_FORMAT, RowMessage, changes_of
from cdc.sources.postgres.snapshots import Snapshot
from cdc.sources.postgres.versions import Altered, Outcome, Versions, name_of, partitions_in

MARKER: Final = "cdc.reread"
_ROWS_OF_ONE_TIME: Final = 1000
_Rest = wire.Origin | wire.Relation | wire.Type | wire.Truncate | wire.LogicalMessage

_UsualTable = tuple[TableSchema, TableId, int, int]
"""A table whose changes are usual, its name, how many columns it has, and the mark of the old row that it sends."""

_USUAL_OPS: Final[dict[tuple[int, int], RowOp]] = {
    (ord("I"), ord("N")): Create,
    (ord("U"), ord("N")): Update,
    (ord("D"), ord("K")): Delete,
    (ord("D"), ord("O")): Delete,
}
"""By the kind of message, and the mark of the first row in it: what is one event, whatever that row holds."""


class Reading(NamedTuple):
    """A table as a snapshot saw it. `description` is None if it is gone; iterate `rows` once, before `close`."""

    oid: int
    description: TableDescription | None
    snapshot: Snapshot
    rows: Iterable[Row]
    close: Callable[[], None] = lambda: None


class Rereads(Protocol):
    """Tables that are being read again."""

    def begin(self, oid: int) -> None:
        """Start to read this table, from the start if it is being read already."""

    def finished(self, attempt: str) -> Reading | None:
        """The reading whose marker this is; None if it was given up, or was another process's."""


class Assembler:
    """Feed it every message of the stream in order.

    `captured` says whether a table's events are wanted. `now_us` is the time; call `take_time` when messages come in,
    which is the time that all their events tell.
    """

    def __init__(
        self,
        *,
        epoch: int,
        database: str,
        versions: Versions,
        rereads: Rereads,
        captured: Callable[[TableId], bool],
        now_us: Callable[[], int],
    ) -> None:
        self._epoch = epoch
        self._database = database
        self._versions = versions
        self._rereads = rereads
        self._captured = captured
        self._now_us = now_us
        self._held: dict[int, list[tuple[int, RowMessage]]] = {}
        self._relations: dict[int, wire.Relation] = {}
        self._unresolved: set[int] = set()
        self._usual_tables: dict[int, _UsualTable] = {}
        self._begin: wire.Begin | None = None
        self._origin: wire.Origin | None = None
        self._transaction: Transaction | None = None
        self._captured_us = 0
        self._last_ordinal = 0
        self._counts: dict[TableId, int] = {}
        self._messages = 0

    @property
    def in_transaction(self) -> bool:
        """Whether the stream stands between a Begin and its Commit."""
        return self._begin is not None

    def take_time(self) -> None:
        self._captured_us = self._now_us()

    def take(self, frame: bytes, others: Iterator[bytes]) -> tuple[Sequence[StreamItem], bytes | None]:
        """What `frame` and the `others` after it mean, as long as they are usual: transactions whose changes need no
        look at their rows. And the first frame that is not usual, None if all were; what is in it is to be fed.
        """
        items: list[StreamItem] = []
        left: bytes | None = frame
        while left is not None and left[:1] == b"w":
            kind = left[MESSAGE : MESSAGE + 1]
            if kind == b"B":
                self.feed(decode(left[MESSAGE:]), 0)
                left = next(others, None)
            elif kind == b"C" and not self._versions.rewrote:
                items += self.feed(decode(left[MESSAGE:]), 0)
                left = next(others, None)
            else:
                before, left = left, self._take_changes(left, others, items)
                if left is before:
                    break
        return items, left

    def _take_changes(self, frame: bytes, others: Iterator[bytes], items: list[StreamItem]) -> bytes | None:
        """Add the usual changes that begin with `frame`, and return the frame after them."""
        if self._begin is None:
            return frame
        unread: list[UnreadChange] = []
        ordinal, counts, tables = self._last_ordinal, self._counts, self._usual_tables
        left: bytes | None = frame
        while left is not None:
            try:
                kind_of_frame, lsn, kind, oid, mark, width = head_of(left)
            except struct.error:
                break
            op = _USUAL_OPS.get((kind, mark))
            if op is None or kind_of_frame != XLOG_DATA:
                break
            usual = tables.get(oid) or self._usual_table(oid)
            if usual is None:
                break
            table, name, columns, old_mark = usual
            if width != columns or (op is Delete and mark != old_mark):
                break
            ordinal += 1
            counts[name] = table_ordinal = counts.get(name, 0) + 1
            unread.append((table, op, left, lsn, ordinal, table_ordinal))
            left = next(others, None)
        if unread:
            self._last_ordinal = ordinal
            items += self._open()
            items.append(Changes(self._opened, unread, ROW_FORMAT, self._captured_us))
        return left

    def _usual_table(self, oid: int) -> _UsualTable | None:
        table = self._versions.captured(oid)
        if table is None or oid not in self._relations or oid in self._unresolved or oid in self._held:
            return None
        old_mark = b"O" if table.identity is ReplicaIdentity.FULL else b"K"
        self._usual_tables[oid] = usual = (table, table.id, len(table.columns), ord(old_mark))
        return usual

    def feed(self, message: wire.Message, lsn: int) -> Iterable[StreamItem]:
        """What one message means. `lsn` is its own place in the WAL, from the frame around it."""
        match message:
            case wire.Begin():
                self._start(message)
                return ()
            case wire.Commit():
                return self._commit(message)
            case wire.Insert() | wire.Update() | wire.Delete():
                return self._row_changed(message.relation_oid, message, lsn)
            case _:
                self._usual_tables.clear()  # what tables are may be told, or a reading of one end
                return self._other(message, lsn)

    def _other(self, message: _Rest, lsn: int) -> Iterator[StreamItem]:
        match message:
            case wire.Relation():
                self._relations[message.oid] = message
                self._unresolved.add(message.oid)
            case wire.Truncate():
                for oid in message.relation_oids:
                    yield from self._row_changed(oid, message, lsn)
            case wire.Origin():
                self._origin = message
            case wire.LogicalMessage():
                yield from self._logical_message(message)
            case wire.Type():
                pass  # the catalog is asked for a type when a table that has it comes by

    def hold(self, oid: int) -> Iterator[StreamItem]:
        """Hold the table's events back, and have it read again."""
        self._usual_tables.pop(oid, None)
        self._held.setdefault(oid, [])  # what is held already may be what the next snapshot does not see either
        self._versions.hold(oid)
        self._rereads.begin(oid)
        yield Rereading(name_of(oid), active=True)

    def _start(self, message: wire.Begin) -> None:
        if self._begin is not None:
            raise ProtocolViolationError("Begin inside a transaction")
        self._begin = message
        self._origin = None
        self._transaction = None
        self._last_ordinal = 0
        self._counts = {}
        self._messages = 0
        if self._versions.begin(self._epoch, message.final_lsn):
            self._usual_tables.clear()

    @property
    def _xid(self) -> int:
        if self._begin is None:
            raise ProtocolViolationError("a change outside of any transaction")
        return self._begin.xid

    def _open(self) -> tuple[Begin, ...]:
        """The transaction's Begin, once: it waits for the first event because Origin comes after pgoutput's Begin."""
        if self._transaction is not None:
            return ()
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
        return (Begin(self._transaction),)

    @property
    def _opened(self) -> Transaction:
        if self._transaction is None:
            raise ProtocolViolationError("a change outside of any transaction")
        return self._transaction

    def _commit(self, message: wire.Commit) -> Iterator[StreamItem]:
        yield from self._open()
        if self._transaction is None or message.commit_lsn != self._transaction.commit_lsn:
            raise ProtocolViolationError("Commit does not belong to the Begin before it")
        if self._versions.rewrote:
            for oid in self._versions.rewritten():
                yield from self.hold(oid)
        yield Commit(self._transaction, message.end_lsn, self._last_ordinal, self._counts, self._messages)
        self._begin = None
        self._transaction = None

    def _row_changed(self, oid: int, message: RowMessage, lsn: int) -> Iterator[StreamItem]:
        if oid in self._unresolved:
            yield from self._resolve(oid)
        elif oid not in self._relations:
            raise ProtocolViolationError(f"a change of relation {oid} before its Relation message")
        yield from self._open()
        first = self._last_ordinal + 1
        self._last_ordinal += 2 if _may_be_two(message) else 1
        held = self._held.get(oid)
        table = self._versions.schema(oid) if self._versions.is_captured(oid) else None
        if held is not None:
            held.append((self._xid, message))
        elif table is not None:
            for ordinal, change in enumerate(changes_of(table, message), first):
                yield self._event(table, change, ordinal, lsn)

    def _resolve(self, oid: int) -> Iterator[StreamItem]:
        """See whether the Relation that announces a change says something new."""
        self._usual_tables.clear()
        self._unresolved.discard(oid)
        if oid in self._held:
            return
        for outcome in self._versions.relation(self._relations[oid]):
            yield from self._open()
            # It stands where the event stands that comes next, and takes no number of its own.
            yield from self._outcome(outcome, self._last_ordinal + 1)

    def _outcome(self, outcome: Outcome, ordinal: int) -> Iterator[StreamItem]:
        if isinstance(outcome, Altered):
            yield self._event(outcome.table, outcome.change, ordinal, None)
        else:
            yield from self.hold(outcome.oid)

    def _event(self, table: TableSchema, change: Change, ordinal: int, lsn: int | None) -> ChangeEvent:
        if isinstance(change, Alter | Drop):
            table_ordinal = 0
        else:
            table_ordinal = self._counts[table.id] = self._counts.get(table.id, 0) + 1
        return ChangeEvent(
            transaction=self._opened,
            table=table,
            change=change,
            ordinal=ordinal,
            table_ordinal=table_ordinal,
            lsn=lsn,
            captured_us=self._captured_us,
        )

    def _described(self, message: wire.LogicalMessage) -> Iterator[StreamItem]:
        # Numbers for all that it may mean, so that a resend, with other tables known, numbers what follows alike.
        first = self._last_ordinal
        self._last_ordinal += partitions_in(message.content)
        for ordinal, outcome in enumerate(self._versions.described(message.content), first):
            yield from self._outcome(outcome, ordinal)

    def _reread(self, attempt: str) -> Iterator[StreamItem]:
        """A table was read again; its marker is here: all that the reading found, and what it did not see."""
        reading = self._rereads.finished(attempt)
        if reading is not None:
            yield from self._take_place(reading)
            reading.close()

    def _take_place(self, reading: Reading) -> Iterator[StreamItem]:
        held = self._held.pop(reading.oid)
        before = self._versions.schema(reading.oid)
        now = None if reading.description is None else reading.description.schema()
        versions = tuple(version for version in (before, now) if version is not None)
        yield Rereading(name_of(reading.oid), active=False, versions=versions)
        if before is not None:
            # First: a table whose values change their type, or must not be NULL, has no rows when it is altered.
            yield self._next_event(before, Truncate())
        for outcome in self._versions.read(reading.oid, reading.description):
            self._last_ordinal += 1
            yield from self._outcome(outcome, self._last_ordinal)
        table = self._versions.schema(reading.oid)
        if table is None or reading.description is None:
            return  # dropped meanwhile
        unseen = (
            change for xid, message in held if not reading.snapshot.sees(xid) for change in changes_of(table, message)
        )
        for read in merged(table, reading.rows, unseen):
            yield replace(self._next_event(table, read), snapshot=SnapshotMark.INCREMENTAL)

    def _next_event(self, table: TableSchema, change: Change) -> ChangeEvent:
        self._last_ordinal += 1
        if not self._last_ordinal % _ROWS_OF_ONE_TIME:
            self.take_time()  # a large table is read for long
        return self._event(table, change, self._last_ordinal, None)

    def _logical_message(self, message: wire.LogicalMessage) -> Iterator[StreamItem]:
        if message.prefix == ddl.PAD:
            return  # its place among other changes is left to chance, so it takes no number
        if message.transactional:
            yield from self._open()
            if self._transaction is None:
                raise ProtocolViolationError("a transactional message outside of any transaction")
            self._last_ordinal += 1
            if message.prefix == ddl.PREFIX:
                yield from self._described(message)
            elif message.prefix == MARKER:
                yield from self._reread(message.content.decode(errors="replace"))
            else:
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
            captured_us=self._captured_us,
            message_ordinal=message_ordinal,
        )


def _may_be_two(message: RowMessage) -> bool:
    """Whether the change takes two numbers, because a changed key makes it two events. What decides is only what the
    source sent, so that a resend numbers all events of the transaction alike, whatever is captured or known then.
    """
    return isinstance(message, wire.Update) and message.old is not None
