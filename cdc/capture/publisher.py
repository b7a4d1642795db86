"""Change events become the log's records: topics, partitions, keys, tombstones, barriers."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Final

from cdc.avro.alterations import alteration_record
from cdc.avro.codec import OPS, TableCodec
from cdc.avro.headers import ALTERATIONS, ALTERED, RESENT, TRUNCATED
from cdc.avro.messages import MessageCodec
from cdc.avro.names import claim_topic, topic_name
from cdc.avro.packers import UNUSUAL
from cdc.avro.packing import PackEvent
from cdc.avro.runs import RunVersion, breaks_not_null, may_run, run_of
from cdc.avro.source import SourceWriter, TransactionWriter
from cdc.avro.transactions import TransactionCodec
from cdc.capture.sizes import check_size
from cdc.core.errors import ConfigError, GapError, TopicMismatchError
from cdc.core.events import (
    Alter,
    Change,
    ChangeEvent,
    Changes,
    Commit,
    Create,
    Delete,
    Drop,
    LoadedRows,
    LogicalMessage,
    Read,
    RowFormat,
    Truncate,
    Update,
)
from cdc.core.log import Headers, LogWriter, Record, TopicSpec
from cdc.core.patterns import TablePatterns
from cdc.core.position import Position
from cdc.core.registry import SchemaRegistry
from cdc.core.settings import LogSettings
from cdc.core.state import TableState, table_record
from cdc.core.tables import TableId, TableSchema
from cdc.log.limits import record_size
from cdc.log.partitioner import partition_of

_MOST_RUN_BYTES: Final = 256 << 10

# Record's own __new__ takes twice as long.
_new_record: Final = tuple.__new__


@dataclass(slots=True)
class _Version:
    """What the events of one table version are written with."""

    codec: TableCodec
    key_id: int
    value_id: int
    topic: str
    run: bytes | None = None  # what runs say of it


@dataclass(slots=True)
class _Packing:
    """What the events of one table version that nobody reads are written with. `table` is kept, so that its id() stays
    its own.
    """

    table: TableSchema
    topic: str
    partitions: int
    named: bytes
    pack: Mapping[type[Change], PackEvent]


class Publisher:
    """Turns events into records, and makes their topics and schemas known before the first of them.

    `existing` are the log's topics with their partition counts.
    """

    def __init__(
        self,
        *,
        settings: LogSettings,
        state_topic: str,
        tables: Mapping[str, TableState],
        existing: Mapping[str, int],
        writer: LogWriter,
        registry: SchemaRegistry,
    ) -> None:
        self._prefix = prefix = settings.prefix
        self._partitions = settings.partitions
        self._max_record_bytes = settings.max_record_bytes
        self._given = [(TablePatterns([pattern]), topic) for pattern, topic in settings.topics.items()]
        self._state_topic = state_topic
        self._tables = dict(tables)
        self._barriers = {topic: _barrier(table) for topic, table in tables.items()}
        self._owners: dict[str, TableId] = {}
        self._topics: dict[TableId, str] = {}
        for topic, state in tables.items():
            claim_topic(self._owners, state.table, topic)
            self._topics[state.table] = topic
        self._existing = dict(existing)
        self._writer = writer
        self._registry = registry
        self._versions: dict[int, tuple[TableSchema, _Version]] = {}
        self._packings: dict[RowFormat, dict[int, _Packing]] = {}
        transactions = TransactionWriter()
        self._source = SourceWriter(prefix, transactions)
        self._transactions = TransactionCodec(prefix, transactions)
        self._transaction_ids: tuple[int, int] | None = None
        self._messages = MessageCodec(prefix)
        self._message_ids: tuple[int, int] | None = None

    def announce(self, tables: Sequence[TableId]) -> list[Record]:
        """Make the topics of these tables, and return the state records that tell of them.

        ConfigError if two tables would share a topic.
        """
        records: list[Record] = []
        for table in tables:
            records.extend(self._announce(table))
        return records

    def make_again(self) -> None:
        """The topics that somebody deleted, empty: a load says anew what they had."""
        gone = {table.topic: table.partitions for table in self._tables.values() if table.topic not in self._existing}
        self._writer.create_topics([TopicSpec(topic, partitions) for topic, partitions in gone.items()])
        self._existing |= gone

    def partitions(self) -> dict[str, int]:
        """The topics of all tables, and how many partitions each has."""
        return {topic: table.partitions for topic, table in self._tables.items()}

    def register(self, table: TableSchema) -> None:
        """Register the version's schemas. SchemaRefusedError if the registry does not take them."""
        self._version(table)

    def records(self, event: ChangeEvent) -> list[Record]:
        """The records of one event: its own, a delete's tombstone, and what must be in the log before its END.

        RecordTooLargeError, naming table and column, if the log would not take it.
        """
        change = event.change
        if isinstance(change, (Alter, Drop)):
            return self._altered(event, change)
        version = self._version(event.table)
        topic = version.topic
        key, value, headers, place = version.codec.encode(event, key_id=version.key_id, value_id=version.value_id)
        if isinstance(change, Truncate):
            return self._truncated(self._tables[topic], value, headers, event.position)
        partition = 0 if place is None else partition_of(place, self._tables[topic].partitions)
        headers += self._barriers[topic]
        record = Record(topic, partition, key, value, headers)
        if headers or len(value) + (len(key) if key else 0) > self._max_record_bytes:
            check_size(event, record, self._max_record_bytes)
        if isinstance(change, Delete) and key is not None:
            return [record, Record(topic, partition, key, None)]
        return [record]

    def records_of(self, changes: Changes) -> list[Record]:
        """The records of many events, as `records` gives them; the rows are not read but where something is unusual."""
        records: list[Record] = []
        add = records.append
        packings = self._packings.setdefault(changes.format, {})
        write, captured = self._source.write, self._source.captured(changes.captured_us)
        transaction, mark, limit = changes.transaction, changes.snapshot, self._max_record_bytes
        for unread in changes.unread:
            table, op, data, lsn, ordinal, table_ordinal = unread
            packing = packings.get(id(table)) or self._packing(table, changes.format)
            try:
                rows, key, place = packing.pack[op](data)
            except UNUSUAL:
                records += self.records(changes.event(unread))
                continue
            source = write(transaction, packing.named, lsn, mark, ordinal, table_ordinal)
            value = b"".join((rows, source, OPS[op], captured))
            topic = packing.topic
            partition = 0 if place is None else partition_of(place, packing.partitions)
            headers = self._barriers[topic]
            record = _new_record(Record, (topic, partition, key, value, headers))
            # Once a table was altered or truncated, all of its events have headers. Read are those that are too large.
            unsure = headers or len(value) + (len(key) if key else 0) > limit
            if unsure and record_size(record) > limit:
                check_size(changes.event(unread), record, limit)
            add(record)
            if op is Delete and key is not None:
                add(Record(topic, partition, key, None))
        return records

    def records_of_load(self, rows: LoadedRows) -> list[Record]:
        """As `records_of`, of rows of a first load: as runs, if the log takes them and keys decide nothing."""
        version = self._version(rows.table)
        topic = version.topic
        if not self._writer.takes_runs or self._tables[topic].partitions > 1 or not may_run(rows.table):
            return self.records_of(rows.changes())
        headers, most = self._barriers[topic], min(self._max_record_bytes // 2, _MOST_RUN_BYTES)
        if version.run is None:
            of = RunVersion(rows.table, topic, self._prefix, version.key_id, version.value_id)
            version.run = of.written()
        if len(version.run) > most // 2:
            return self.records_of(rows.changes())
        records: list[Record] = []
        for piece in _pieces(rows, most - len(version.run)):
            if len(piece.lines) == 1 or breaks_not_null(rows.table, piece.lines):
                records += self.records_of(piece.changes())  # which says what is wrong, or too large
            else:
                records.append(run_of(piece, version.run, topic, headers))
        return records

    def message_record(self, message: LogicalMessage) -> Record:
        """All messages go to one partition: who reads them sees them in commit order, whatever their prefix."""
        codec = self._messages
        if self._message_ids is None:
            self._message_ids = self._register(codec.topic, codec.key_schema, codec.value_schema)
        key_id, value_id = self._message_ids
        encoded = codec.encode(message, key_id=key_id, value_id=value_id)
        return Record(codec.topic, 0, encoded.key, encoded.value, encoded.headers)

    def transaction_records(self, commit: Commit, *, alterations: int = 0, resent: bool = False) -> list[Record]:
        """BEGIN and END. Written together, so that they nest in the topic while capture works on many transactions.
        `alterations` and `resent` are as in `cdc.avro.transactions.End`.
        """
        topic = self._transactions.topic
        if self._transaction_ids is None:
            self._transaction_ids = self._register(
                topic, self._transactions.key_schema, self._transactions.value_schema
            )
        key_id, value_id = self._transaction_ids
        begin, end = self._transactions.encode(commit, key_id=key_id, value_id=value_id)
        headers: Headers = ((ALTERATIONS, b"%d" % alterations),) if alterations else ()
        if resent:
            headers += ((RESENT, b""),)
        return [Record(topic, 0, begin.key, begin.value), Record(topic, 0, end.key, end.value, headers)]

    def _version(self, table: TableSchema) -> _Version:
        known = self._versions.get(id(table))
        if known is not None:
            return known[1]
        same = (version for other, version in self._versions.values() if other == table)
        version = next(same, None) or self._new_version(table)
        # The schema is kept beside its version, so that its id() stays its own.
        self._versions[id(table)] = (table, version)
        return version

    def _packing(self, table: TableSchema, form: RowFormat) -> _Packing:
        version = self._version(table)
        packers = version.codec.packers(form, key_id=version.key_id, value_id=version.value_id)
        packing = _Packing(
            table=table,
            topic=version.topic,
            partitions=self._tables[version.topic].partitions,
            named=version.codec.table_bytes,
            pack={Read: packers.after, Create: packers.after, Update: packers.after, Delete: packers.before},
        )
        self._packings[form][id(table)] = packing
        return packing

    def _new_version(self, table: TableSchema) -> _Version:
        announcement = self._announce(table.id)
        if announcement:
            self._writer.append(announcement)
        topic = self._topics[table.id]
        codec = TableCodec(table, topic, prefix=self._prefix, source=self._source)
        key_id, value_id = self._register(topic, codec.key_schema, codec.value_schema)
        return _Version(codec=codec, key_id=key_id, value_id=value_id, topic=topic)

    def _register(self, topic: str, key_schema: str | None, value_schema: str) -> tuple[int, int]:
        key_id = 0 if key_schema is None else self._registry.register(f"{topic}-key", key_schema)
        return key_id, self._registry.register(f"{topic}-value", value_schema)

    def _announce(self, table: TableId) -> list[Record]:
        given = next((topic for patterns, topic in self._given if patterns.matches(table)), None)
        topic = topic_name(self._prefix, table, given)
        known = self._topics.get(table, topic)
        if known != topic:
            raise ConfigError(
                f"table {table} has the topic {known!r} in this log, and {topic!r} in [log.topics]",
                mend="undo the change in [log.topics], or use another [log] prefix",
            )
        claim_topic(self._owners, table, topic)
        if table in self._topics:
            self._check_recorded(self._tables[topic])
            return []
        self._topics[table] = topic
        self._writer.create_topics([TopicSpec(topic, self._partitions)])
        self._existing[topic] = self._partitions
        return [self._is_now(TableState(table=table, topic=topic, partitions=self._partitions))]

    def _check_recorded(self, table: TableState) -> None:
        """Partitions that someone added stay unused: with them, keys would move. Fewer can't hold what is there."""
        there = self._existing.get(table.topic)
        if there is None:
            raise GapError(
                f"topic {table.topic!r} is gone from the log, and with it all changes of {table.table}",
                mend="`cdc capture --start-over` loads all tables again",
            )
        if there < table.partitions:
            raise TopicMismatchError(
                f"topic {table.topic!r} has {there} partitions; {table.partitions} were recorded when it was made",
                mend="restore the topic, or use another [log] prefix",
            )

    def _altered(self, event: ChangeEvent, change: Alter | Drop) -> list[Record]:
        """The table's change, and the state that later events tell it by. A new table needs no waiting for: its events
        say what it is.
        """
        records = self._announce(event.table.id)
        if isinstance(change, Alter):
            self.register(event.table)  # before anything tells of it
        topics = {self._topics[event.table.id]}
        if isinstance(change, Alter) and change.before is not None and change.before.id in self._topics:
            topics.add(self._topics[change.before.id])
        for topic in sorted(topics):
            state = self._tables[topic]
            if _is_barrier(change) or state.altered is not None:
                records.append(self._is_now(replace(state, altered=event.position)))
        return [*records, alteration_record(event, prefix=self._prefix, topic_of=self._topic_of)]

    def _topic_of(self, table: TableId) -> str:
        return self._topics.get(table) or topic_name(self._prefix, table)

    def _truncated(self, table: TableState, value: bytes, headers: Headers, position: Position) -> list[Record]:
        record = Record(table.topic, 0, None, value, headers + _barrier(replace(table, truncated=None)))
        return [record, self._is_now(replace(table, truncated=position))]

    def _is_now(self, table: TableState) -> Record:
        """What becomes of the table's topic, to be remembered by later events and by the log."""
        self._tables[table.topic] = table
        self._barriers[table.topic] = _barrier(table)
        return table_record(self._state_topic, table)


def _pieces(rows: LoadedRows, most: int) -> Iterator[LoadedRows]:
    """The rows in pieces of up to so many bytes, or of one row."""
    lines, first = rows.lines, 0
    ends = list(accumulate(map(len, lines), initial=0))
    while first < len(lines):
        last = max(bisect_right(ends, ends[first] + most) - 1, first + 1)
        yield replace(
            rows, lines=lines[first:last], ordinal=rows.ordinal + first, table_ordinal=rows.table_ordinal + first
        )
        first = last


def _is_barrier(change: Alter | Drop) -> bool:
    return isinstance(change, Drop) or change.before is not None


def _barrier(table: TableState) -> Headers:
    """Tells the reader of one partition what stands in another, so that it waits for it: a truncate, and a change of
    the table's shape.

    A truncate is written once, to partition 0: repeated in every partition it would make other readers lose rows.
    """
    barriers: Headers = ()
    if table.truncated is not None and table.partitions > 1:
        barriers = ((TRUNCATED, str(table.truncated).encode()),)
    if table.altered is not None:
        barriers = (*barriers, (ALTERED, str(table.altered).encode()))
    return barriers
