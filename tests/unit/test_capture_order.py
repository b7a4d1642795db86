"""Capture's commit order over streams of any transactions, handed over in heaps of any size, to a log that is durable
when it likes: what stands in the log, and what the source is told, at every moment.
"""

from contextlib import nullcontext, suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc.avro.transactions import TransactionEnd, decode_boundary
from cdc.capture import capture as module
from cdc.capture.capture import Capture
from cdc.core.errors import SchemaRefusedError
from cdc.core.events import (
    Begin,
    ChangeEvent,
    Commit,
    Create,
    Delete,
    Heartbeat,
    KeyImage,
    LogicalMessage,
    Transaction,
    Truncate,
)
from cdc.core.log import StoredRecord, TopicPartition
from cdc.core.settings import LogSettings
from cdc.core.source import LoadPoint, SlotStatus, SourceIdentity
from cdc.core.tables import Column, TableId, TableSchema
from cdc.core.types import ColumnType, Kind
from cdc.log.memory import MemoryLog
from cdc.registry.decoding import Decoding
from cdc.registry.embedded import EmbeddedRegistry

TEXT = ColumnType(kind=Kind.STRING, name="text")
TABLES = [
    TableSchema(id=TableId("public", name), columns=(Column(name="id", type=TEXT, nullable=False),), key=(0,))
    for name in ("a", "b", "refused")
]
SLOT_AT = 100


class _KilledError(Exception):
    """As a SIGKILL: nothing that comes after it is done."""


def transaction(number, kinds):
    """Its items as the source gives them, and its end_lsn."""
    lsn = SLOT_AT + 10 * number
    of = Transaction(epoch=1, commit_lsn=lsn, xid=number, commit_time_us=0, database="shop")
    items, counts, messages = [Begin(of)], {}, 0
    for ordinal, (kind, at) in enumerate(kinds, 1):
        table = TABLES[at]
        if kind == "message":
            messages += 1
            items.append(
                LogicalMessage(
                    transaction=of,
                    prefix="p",
                    content=b"",
                    ordinal=ordinal,
                    lsn=lsn,
                    captured_us=0,
                    message_ordinal=messages,
                )
            )
            continue
        counts[table.id] = counts.get(table.id, 0) + 1
        key = (b"%d" % (ordinal % 3),)
        change = {"create": Create(key), "delete": Delete(KeyImage(key)), "truncate": Truncate()}[kind]
        items.append(
            ChangeEvent(
                transaction=of, table=table, change=change, ordinal=ordinal, table_ordinal=counts[table.id], lsn=lsn
            )
        )
    return [*items, Commit(of, lsn + 5, len(kinds), counts, messages)], lsn + 5


class Stream:
    """Gives all that ends above `after`, in heaps of these sizes. A heartbeat says so when all was given."""

    def __init__(self, transactions, heaps, log):
        self._transactions = transactions
        self._heaps = heaps
        self._log = log
        self._items = []
        self.loaded = False
        self.confirmed = 0
        self.flushed = max((end for _, end in transactions), default=SLOT_AT)

    def identify(self):
        return SourceIdentity(system_id="1", timeline=1, database="shop", flushed_lsn=self.flushed + 1)

    def left_out(self):
        return []

    def tables(self):
        return [TABLES[0].id]

    def name(self, table):
        return str(table)

    def slot(self):
        return SlotStatus(confirmed_lsn=self.confirmed or SLOT_AT) if self.loaded else None

    def remember(self, notes, rereading):
        pass

    def switch_point(self, timeline):
        return None

    def create(self):
        self.loaded = True
        return nullcontext(LoadPoint(lsn=SLOT_AT, snapshot="1"))

    def load(self, at, *, epoch, again):
        return iter(())

    def start(self, *, epoch, after=0):
        self._items = [item for items, end in self._transactions if end > after for item in items]

    def receive(self, most, timeout):
        size = next(self._heaps)
        heap, self._items = self._items[:size], self._items[size:]
        yield from heap
        if not self._items:
            yield Heartbeat(self.flushed + 1)

    @property
    def is_empty(self):
        return not self._items

    def confirm(self, lsn):
        assert lsn >= self.confirmed
        self.confirmed = lsn
        durable = self._log.durable_ends()
        for _, end in self._transactions:
            if end <= lsn:
                assert end in durable or end in self._log.empty, (lsn, end, durable)


class SlowWriter:
    """Reports what was appended only so far as `lags` says, and ends the process when `left` appends were made."""

    def __init__(self, log, lags, empty):
        self._writer = log.writer()
        self._lags = lags
        self.left = 10_000
        self._ticket = self._durable = 0
        self._appended = []  # (ticket, record)
        self.empty = empty
        self.schema = self.decoding = None
        self.known = frozenset()
        self.create_topics = self._writer.create_topics
        self.close = self._writer.close

    def append(self, records):
        self.left -= 1
        if self.left < 0:
            raise _KilledError
        self._ticket += 1
        for record in records:
            end = self._end_of(record)
            if end is not None:
                events = [ticket for ticket, other in self._appended if _stands_in(other, end, self.decoding)]
                assert all(ticket <= self._durable for ticket in events), "an END before its events are durable"
            self._appended.append((self._ticket, record))
        self._writer.append(records)
        return self._ticket

    def poll(self, timeout):
        self._writer.poll(0)
        self._durable = min(self._ticket, self._durable + next(self._lags))
        return self._durable

    def durable_ends(self):
        ends = [self._end_of(record) for ticket, record in self._appended if ticket <= self._durable]
        return {end.end_lsn for end in ends if end is not None} | self.known

    def all_ends(self):
        """A log that was killed may have had more than it reported."""
        return {end.end_lsn for _, record in self._appended if (end := self._end_of(record)) is not None}

    def _end_of(self, record):
        if record.topic != "cdc.transaction" or record.value is None:
            return None
        return _end_in(record.value, self.schema)


def _end_in(value, schema):
    found = decode_boundary(value, schema)
    return found if isinstance(found, TransactionEnd) else None


def _stands_in(record, end, decoding):
    if not record.topic.startswith("cdc.public.") or record.value is None:
        return False
    return _event(record, decoding).transaction.commit_lsn == end.commit_lsn


def _event(record, decoding):
    return decoding.event(StoredRecord(record.topic, record.partition, 0, 0, record.key, record.value, record.headers))


class Refusing:
    """The registry, which takes no table of that name."""

    def __init__(self, registry):
        self._registry = registry
        self.schema = registry.schema

    def register(self, subject, schema):
        if "refused" in subject:
            raise SchemaRefusedError("no", mend="none")
        return self._registry.register(subject, schema)


def records(log, topic):
    reader = log.reader("test")
    if topic not in reader.topics():
        return []
    found = []
    for number in range(reader.topics()[topic]):
        partition = TopicPartition(topic, number)
        reader.assign({partition: 0})
        while reader.offsets(partition).next > sum(1 for each in found if each.partition == number):
            found += reader.poll(1000, 0)
        reader.unassign([partition])
    return found


kinds = st.tuples(st.sampled_from(["create", "create", "create", "delete", "truncate", "message"]), st.integers(0, 2))


@settings(max_examples=150, deadline=None)
@given(
    data=st.data(),
    transactions=st.lists(st.lists(kinds, max_size=5), max_size=8),
    sizes=st.lists(st.integers(0, 12), min_size=1, max_size=5),
    lags=st.lists(st.integers(0, 2), max_size=5),
)
def test_the_order_of_commits_is_kept_whatever_is_handed_over_together(data, transactions, sizes, lags):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_MOST_RECORDS", data.draw(st.integers(1, 6)))
        patch.setattr(module, "_RECORD_SECONDS", 0.0)
        stream_of = [transaction(number, each) for number, each in enumerate(transactions, 1)]
        log = MemoryLog()
        # Refused tables' events are left out of the END's counts; with nothing else there is no END.
        empty = {
            end
            for (items, end), each in zip(stream_of, transactions, strict=True)
            if not any(kind == "message" or at != 2 for kind, at in each)
        }
        confirmed, ends_known = 0, frozenset()
        for left in [*data.draw(st.lists(st.integers(0, 20), max_size=2)), 10_000]:
            writer = SlowWriter(log, _round([*lags, 1]), empty)
            writer.known = ends_known
            registry = EmbeddedRegistry(log, writer, "schemas")
            writer.schema, writer.decoding = registry.schema, Decoding(registry)
            source = Stream(stream_of, _round([*sizes, 3]), writer)
            source.loaded, source.confirmed = confirmed > 0, confirmed
            capture = Capture(
                source=source,
                writer=writer,
                reader=log.reader("capture"),
                registry=Refusing(registry),
                settings=LogSettings(partitions=2),
                slot="slot",
            )
            with suppress(_KilledError):
                capture.start()
                writer.left = left
                confirmed = max(confirmed, SLOT_AT)
                for _ in range(200):
                    capture.step()
                    if source.is_empty:
                        break
                capture.finish()
            confirmed = max(confirmed, source.confirmed) if source.loaded else 0
            writer.close()
            ends_known |= writer.all_ends()
            decoding, schema = writer.decoding, writer.schema
        ends = [_end_in(record.value, schema) for record in records(log, "cdc.transaction")]
        assert list(dict.fromkeys(sorted(end.end_lsn for end in ends if end is not None))) == sorted(
            end for _, end in stream_of if end not in empty
        )
        for name in ("a", "b"):
            wanted = {
                item.position
                for items, _ in stream_of
                for item in items
                if isinstance(item, ChangeEvent) and item.table.id.name == name
            }
            read, here = {0: (0, 0, 0), 1: (0, 0, 0)}, set()
            for record in records(log, f"cdc.public.{name}"):
                event = decoding.event(record)
                if event is not None and event.position > read[record.partition]:
                    read[record.partition] = event.position
                    assert event.position not in here
                    here.add(event.position)
            assert here == wanted


def _round(numbers):
    while True:
        yield from numbers
