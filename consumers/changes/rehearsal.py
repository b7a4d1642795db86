"""A log in memory with transactions of your own making, to test a consumer with: no database, no broker, no files.

What is written goes the way of a real source's: through capture, Avro and the log.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from typing import Any, Final

from typing_extensions import override

from cdc.avro.names import schemas_topic
from cdc.capture.capture import Capture
from cdc.core.errors import ConfigError
from cdc.core.events import (
    UNCHANGED,
    Alter,
    Begin,
    Change,
    ChangeEvent,
    Commit,
    Create,
    Delete,
    Drop,
    FullImage,
    KeyImage,
    OldImage,
    Row,
    StreamItem,
    Truncate,
    Update,
    Value,
)
from cdc.core.events import Transaction as SourceTransaction
from cdc.core.log import Log
from cdc.core.position import Position
from cdc.core.settings import LogSettings
from cdc.core.source import LoadPoint, SlotStatus, Source, SourceIdentity
from cdc.core.tables import Column, ReplicaIdentity, TableId, TableSchema
from cdc.core.types import ColumnType, Kind
from cdc.log.memory import MemoryLog
from cdc.registry.embedded import EmbeddedRegistry
from consumers.changes.consumer import Consumer
from consumers.changes.values import text_of

_TYPES: Final = {
    "boolean": Kind.BOOLEAN,
    "smallint": Kind.INT16,
    "integer": Kind.INT32,
    "bigint": Kind.INT64,
    "real": Kind.FLOAT32,
    "double precision": Kind.FLOAT64,
    "numeric": Kind.VARIABLE_DECIMAL,
    "text": Kind.STRING,
    "bytea": Kind.BYTES,
    "date": Kind.DATE,
    "time": Kind.TIME,
    "timestamp": Kind.TIMESTAMP,
    "timestamptz": Kind.TIMESTAMPTZ,
    "interval": Kind.INTERVAL,
    "uuid": Kind.UUID,
    "jsonb": Kind.JSON,
}
_DATABASE: Final = "rehearsal"


class Rehearsal:
    """Tables are made by `table`, and change in transactions. `log` is one in memory unless another is given."""

    def __init__(self, log: Log | None = None, *, settings: LogSettings | None = None) -> None:
        self.settings = settings or LogSettings(prefix="rehearsal")
        self.log = log or MemoryLog(self.settings)
        self._source = _Script()

    def table(self, name: str, columns: Mapping[str, str | ColumnType], *, key: Sequence[str] = ()) -> TableSchema:
        """A table `schema.name`. Types are PostgreSQL's names, as far as they are simple ones, or ColumnTypes. Call it
        again with other columns to alter the table. Without a `key`, events carry the whole old row.
        """
        schema, _, bare = name.rpartition(".")
        names = list(columns)
        table = TableSchema(
            id=TableId(schema or "public", bare),
            columns=tuple(
                Column(name=each, type=_type(type_), nullable=each not in key, id=number)
                for number, (each, type_) in enumerate(columns.items(), 1)
            ),
            key=tuple(names.index(each) for each in key),
            identity=ReplicaIdentity.DEFAULT if key else ReplicaIdentity.FULL,
        )
        with self.transaction() as transaction:
            transaction.alter(table)
        return table

    @contextmanager
    def transaction(self) -> Iterator[SourceTransactionScript]:
        """Changes that are committed together at the end of the context."""
        script = SourceTransactionScript(self._source.tables_now)
        yield script
        self._source.commit(script.changes)
        self._capture()

    def consumer(self, name: str = "consumer", **options: Any) -> Consumer:
        """A consumer of this log; `options` as `Consumer` takes them."""
        return Consumer(self.log, name, settings=self.settings, **options)

    def _capture(self) -> None:
        with closing(self.log.writer()) as writer, closing(self.log.reader("capture")) as reader:
            registry = EmbeddedRegistry(self.log, writer, schemas_topic(self.settings.prefix))
            Capture(
                source=self._source,
                writer=writer,
                reader=reader,
                registry=registry,
                settings=self.settings,
                slot="rehearsal",
            ).run(self._source.is_done)
            registry.close()


class SourceTransactionScript:
    """What is done in one transaction. Rows are given by the names of columns; what is left out is NULL. Values are
    Python's, or texts as PostgreSQL writes them; `UNCHANGED` in an update is a large value that is not sent.
    """

    def __init__(self, tables: dict[TableId, TableSchema]) -> None:
        self._tables = tables
        self.changes: list[tuple[TableSchema, Change]] = []

    def insert(self, table: TableSchema, row: Mapping[str, Any]) -> None:
        self.changes.append((table, Create(_row(table, row))))

    def update(self, table: TableSchema, row: Mapping[str, Any], *, before: Mapping[str, Any] | None = None) -> None:
        """`before` is the whole old row, where the source sends it."""
        image = None if before is None else FullImage(_row(table, before))
        self.changes.append((table, Update(image, _row(table, row))))

    def delete(self, table: TableSchema, row: Mapping[str, Any]) -> None:
        """Of a table with a key, only its key is sent."""
        whole = _row(table, row)
        image: OldImage = FullImage(whole)
        if table.key:
            image = KeyImage(tuple(part for index in table.key if isinstance(part := whole[index], bytes)))
        self.changes.append((table, Delete(image)))

    def truncate(self, table: TableSchema) -> None:
        self.changes.append((table, Truncate()))

    def drop(self, table: TableSchema) -> None:
        self._tables.pop(table.id, None)
        self.changes.append((table, Drop()))

    def alter(self, table: TableSchema) -> None:
        """The table is this from here on, and new if there is none of its name."""
        self.changes.append((table, Alter(before=self._tables.get(table.id))))
        self._tables[table.id] = table


def _row(table: TableSchema, row: Mapping[str, Any]) -> Row:
    unknown = row.keys() - {column.name for column in table.columns}
    if unknown:
        raise ConfigError(f"table {table.id} has no column {min(unknown)}")
    return tuple(_value(table, column, row.get(column.name)) for column in table.columns)


def _value(table: TableSchema, column: Column, value: Any) -> Value:
    try:
        return UNCHANGED if value is UNCHANGED else text_of(value, column.type)
    except TypeError:
        raise ConfigError(
            f"table {table.id}, column {column.name}: no {column.type.name} is made of Python's {type(value).__name__}",
            mend="give PostgreSQL's text, a str: json.dumps(value), '{1,2}' for an array",
        ) from None


def _type(type_: str | ColumnType) -> ColumnType:
    if isinstance(type_, ColumnType):
        return type_
    if type_ not in _TYPES:
        raise ConfigError(f"no simple type {type_!r}", mend=f"a ColumnType, or one of {', '.join(sorted(_TYPES))}")
    return ColumnType(kind=_TYPES[type_], name=type_)


class _Script(Source):
    """A source that has what was committed here. Each session of capture reads on from where the log ends."""

    def __init__(self) -> None:
        self.tables_now: dict[TableId, TableSchema] = {}
        self._transactions: list[tuple[int, list[StreamItem]]] = []
        self._lsn = 100
        self._after = 0
        self._epoch = 1
        self._exists = False

    def commit(self, changes: Sequence[tuple[TableSchema, Change]]) -> None:
        self._lsn += 100
        transaction = SourceTransaction(
            epoch=self._epoch,
            commit_lsn=self._lsn,
            xid=self._lsn,
            commit_time_us=time.time_ns() // 1000,
            database=_DATABASE,
        )
        events: list[ChangeEvent] = []
        counts: dict[TableId, int] = {}
        for ordinal, (table, change) in enumerate(changes, 1):
            if not isinstance(change, Alter | Drop):
                counts[table.id] = counts.get(table.id, 0) + 1
            events.append(
                ChangeEvent(
                    transaction=transaction,
                    table=table,
                    change=change,
                    ordinal=ordinal,
                    table_ordinal=counts.get(table.id, 0),
                )
            )
        end = Commit(transaction, self._lsn + 1, len(events), counts)
        self._transactions.append((self._lsn + 1, [Begin(transaction), *events, end]))

    def is_done(self) -> bool:
        return not self._left()

    def _left(self) -> list[tuple[int, list[StreamItem]]]:
        return [each for each in self._transactions if each[0] > self._after]

    @override
    def identify(self) -> SourceIdentity:
        return SourceIdentity(system_id=_DATABASE, timeline=1, database=_DATABASE, flushed_lsn=self._lsn + 1)

    @override
    def tables(self) -> Sequence[TableId]:
        return list(self.tables_now)

    @override
    def slot(self) -> SlotStatus | None:
        return SlotStatus(confirmed_lsn=self._after) if self._exists else None

    @override
    def switch_point(self, timeline: int) -> int | None:
        return None

    @override
    def remember(self, notes: Sequence[tuple[Position, str]], rereading: Collection[str]) -> None:
        pass

    @override
    def left_out(self) -> Sequence[str]:
        return []

    @override
    def name(self, table: TableId) -> str:
        return str(table)

    @override
    def create(self) -> AbstractContextManager[LoadPoint]:
        return self._created()

    @contextmanager
    def _created(self) -> Iterator[LoadPoint]:
        self._exists, self._after = True, 100
        yield LoadPoint(lsn=100, snapshot="")

    @override
    def drop_slot(self) -> None:
        self._exists = False

    @override
    def load(self, at: LoadPoint, *, epoch: int, again: bool) -> Iterator[StreamItem]:
        return iter(())

    @override
    def start(self, *, epoch: int, after: int = 0) -> None:
        self._after = max(self._after, after)

    @override
    def receive(self, most: int, timeout: float) -> Iterator[StreamItem]:
        for end, items in self._left():
            yield from items
            self._after = end

    @override
    def confirm(self, lsn: int) -> None:
        pass
