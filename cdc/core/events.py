"""Change events, and what surrounds them in a stream of transactions."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from cdc.core.log import Place
from cdc.core.position import Position
from cdc.core.tables import TableId, TableSchema
from cdc.core.values import value


class Unchanged(enum.Enum):
    """The type of `UNCHANGED`: a stored-out-of-line (TOAST) value that the source did not send because it did not
    change. It is not NULL, and must never be written to a target.
    """

    UNCHANGED = "unchanged"


UNCHANGED: Final = Unchanged.UNCHANGED


Value = bytes | None | Literal[Unchanged.UNCHANGED]
"""Canonical text (see `cdc.core.types`), NULL, or UNCHANGED."""

Row = tuple[Value, ...]
"""A value for each column of the event's TableSchema, in its order."""

Key = tuple[bytes, ...]
"""Canonical text of each key column, in the order of `TableSchema.key`."""

UNKNOWN_KEY: Final[Key] = ()
"""Where a row moved to, or from, when the log does not say."""


@value()
class KeyImage:
    """All that is known of an old row: its key."""

    key: Key


@value()
class FullImage:
    """A whole old row (replica identity FULL). Never holds UNCHANGED."""

    row: Row


OldImage = KeyImage | FullImage


@value()
class Read:
    """A row found by a snapshot (`op=r`)."""

    after: Row


@value()
class Create:
    """A new row (`op=c`).

    `moved_from` is set on the second half of a changed key: the row at that key moved here. Only then `after` may hold
    UNCHANGED values: those of the row at the old key.
    """

    after: Row
    moved_from: Key | None = None


@value()
class Update:
    """A row changed in place (`op=u`); its key did not. `after` may hold UNCHANGED values if `before` is not full."""

    before: OldImage | None
    after: Row


@value()
class Delete:
    """A row went (`op=d`). `moved_to` is set on the first half of a changed key.

    `awaits_create`: the second half, a Create, holds UNCHANGED values. Then the row must be moved there: deleting it
    would lose them.
    """

    before: OldImage
    moved_to: Key | None = None
    awaits_create: bool = False


@dataclass(frozen=True, slots=True)
class Truncate:
    """All rows of the table went (`op=t`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alter:
    """The table is of the event's version from here on; `before` is what it was, None if it is new.

    `fills` has the canonical text that rows older than a new column hold in it, where that is not NULL. `note` is the
    source's own description of the table, for itself to read again.
    """

    before: TableSchema | None
    fills: Mapping[str, bytes] = field(default_factory=dict)
    note: str = "{}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """The table is gone, and its rows with it. `note` as in `Alter`."""

    note: str = "{}"


RowChange = Read | Create | Update | Delete | Truncate
TableChange = Alter | Drop
Change = RowChange | TableChange


class SnapshotMark(enum.StrEnum):
    """Debezium's `source.snapshot`: where an event stands in a snapshot."""

    NO = "false"
    FIRST = "first"
    FIRST_IN_TABLE = "first_in_data_collection"
    YES = "true"
    LAST_IN_TABLE = "last_in_data_collection"
    LAST = "last"
    INCREMENTAL = "incremental"


@value(kw_only=True)
class Transaction:
    """What all events of one source transaction have in common.

    `commit_time_us` is in microseconds since 1970 UTC. `xid` is None for what is no transaction of the source (a
    snapshot, a non-transactional message). `origin` names the replication origin it came from.
    """

    epoch: int
    commit_lsn: int
    xid: int | None
    commit_time_us: int
    database: str
    origin: str | None = None
    origin_lsn: int | None = None

    @property
    def id(self) -> str:
        """The same for all events of the transaction and at each resend; unique in a log."""
        return f"{self.epoch}:{self.xid or 'none'}:{self.commit_lsn}"


@value(kw_only=True)
class ChangeEvent:
    """One change of one row (or one truncate of one table).

    `ordinal` numbers the events of the transaction from 1, `table_ordinal` those of the same table. `lsn` is the
    change's own place in the WAL. `captured_us` is the time (µs since 1970) at which capture handled it. `place` is
    where the log holds it, for one that was read from there.
    """

    transaction: Transaction
    table: TableSchema
    change: Change
    ordinal: int
    table_ordinal: int
    lsn: int | None = None
    captured_us: int = 0
    snapshot: SnapshotMark = SnapshotMark.NO
    place: Place | None = field(default=None, compare=False)

    @property
    def defines_table(self) -> bool:
        """Whether the change is one of the table itself."""
        return isinstance(self.change, Alter | Drop)

    @property
    def position(self) -> Position:
        # Not by Position's own __new__, which takes twice as long: this is asked for several times for each change.
        return tuple.__new__(Position, (self.transaction.epoch, self.transaction.commit_lsn, self.ordinal))


RowOp = type[Read] | type[Create] | type[Update] | type[Delete]

UnreadChange = tuple[TableSchema, RowOp, bytes, int | None, int, int]
"""A change whose row nobody has read yet: table, what was done, the bytes that the source sent, and as in ChangeEvent
`lsn`, `ordinal`, `table_ordinal`. No class of its own: to make one would take as long as to pass it on.
"""


@dataclass(frozen=True, slots=True, eq=False)
class RowFormat:
    """How a source sends a row, for those who compile functions that read it.

    `reading(n)` gives lines of Python. From `data`, what the source sent of a change of a table with n columns, they
    take the texts of all columns to v0, v1, …, None for NULL. Of anything unusual they may raise a ValueError or
    IndexError. `names` are the names that they use. `change` is the plain way, whose say it is then.

    `tuple_at` is where the row's first value stands, if it stands there as pgoutput's TupleData has it and ends with
    `data`: for readers that are compiled already.
    """

    reading: Callable[[int], Sequence[str]]
    names: Mapping[str, object]
    change: Callable[[TableSchema, bytes], Change]
    tuple_at: int | None = None


@value()
class Changes:
    """Usual changes of one transaction, one after the other: those that are one event, whatever the rows hold. Nearly
    all are, and who only passes them on need not build an event for each. `captured_us` and `snapshot` as in
    ChangeEvent.
    """

    transaction: Transaction
    unread: Sequence[UnreadChange]
    format: RowFormat
    captured_us: int
    snapshot: SnapshotMark = SnapshotMark.NO

    def event(self, unread: UnreadChange) -> ChangeEvent:
        """One of them, read."""
        table, _, data, lsn, ordinal, table_ordinal = unread
        return ChangeEvent(
            transaction=self.transaction,
            table=table,
            change=self.format.change(table, data),
            ordinal=ordinal,
            table_ordinal=table_ordinal,
            lsn=lsn,
            captured_us=self.captured_us,
            snapshot=self.snapshot,
        )

    def events(self) -> Iterator[ChangeEvent]:
        return map(self.event, self.unread)


@value()
class LoadedRows:
    """Rows of one table that a source's first load found: lines of COPY's text. `ordinal` and `table_ordinal` are those
    of the first row's event, the others follow; `captured_us` as in ChangeEvent. `format` reads a line.
    """

    transaction: Transaction
    table: TableSchema
    lines: Sequence[bytes]
    ordinal: int
    table_ordinal: int
    captured_us: int
    format: RowFormat

    def changes(self) -> Changes:
        """The same, one by one."""
        return Changes(
            transaction=self.transaction,
            unread=[
                (self.table, Read, line, None, self.ordinal + at, self.table_ordinal + at)
                for at, line in enumerate(self.lines)
            ],
            format=self.format,
            captured_us=self.captured_us,
            snapshot=SnapshotMark.YES,
        )


_OUR_PREFIX: Final = "cdc."


@dataclass(frozen=True, slots=True)
class LogicalMessage:
    """`pg_logical_emit_message` (`op=m`). A non-transactional one is a transaction of its own, with ordinal 0.

    `message_ordinal` numbers those of the transaction that are published (all but `ours`), from 1.
    """

    transaction: Transaction
    prefix: str
    content: bytes
    ordinal: int
    lsn: int
    captured_us: int = 0
    message_ordinal: int = 1

    @property
    def ours(self) -> bool:
        """Whether cdc wrote it to itself, by its prefix. Such messages are nobody else's, and not published."""
        return self.prefix.startswith(_OUR_PREFIX)

    @property
    def position(self) -> Position:
        return Position(self.transaction.epoch, self.transaction.commit_lsn, self.ordinal)


@value()
class Begin:
    """The events that follow belong to `transaction`."""

    transaction: Transaction


@value()
class Commit:
    """The transaction is complete. `end_lsn` is what may be confirmed to the source once the log holds all of it.

    `event_counts` says how many events each table had; a changed key counts both its events. `messages` counts its
    logical messages, without cdc's own.
    """

    transaction: Transaction
    end_lsn: int
    last_ordinal: int
    event_counts: dict[TableId, int] = field(default_factory=dict)
    messages: int = 0


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The source has nothing to send up to `lsn`, as far as it has looked."""

    lsn: int


@dataclass(frozen=True, slots=True)
class Rereading:
    """Rows of a table changed without events: it is being read again (`active`), and its events are held back until it
    has been; or it has been, and its truncate, new version and rows follow. `name` is the source's own for the table.
    `versions` are what it was (if it was known) and what it is (if it is still there). The log must remember this.
    """

    name: str
    active: bool
    versions: tuple[TableSchema, ...] = ()


StreamItem = Begin | ChangeEvent | Changes | LoadedRows | LogicalMessage | Commit | Heartbeat | Rereading
