"""What must be durable before something else is handed to the log, whatever else is under way."""

from __future__ import annotations

from contextlib import closing, contextmanager
from itertools import pairwise

from cdc.avro.headers import TRUNCATED
from cdc.avro.names import transaction_topic
from cdc.capture.capture import Capture
from cdc.core.events import Begin, ChangeEvent, Commit, Create, Heartbeat, Read, Transaction, Truncate
from cdc.core.log import Record
from cdc.core.settings import LogSettings
from cdc.core.source import LoadPoint, SourceIdentity
from cdc.core.tables import Column, TableId, TableSchema
from cdc.core.types import ColumnType, Kind
from cdc.log.memory import MemoryLog
from cdc.log.reading import read_to_end
from cdc.registry.embedded import EmbeddedRegistry
from consumers.changes.rehearsal import Rehearsal

TEXT = ColumnType(kind=Kind.STRING, name="text")
TABLE = TableSchema(id=TableId("public", "items"), columns=(Column(name="id", type=TEXT, nullable=False),), key=(0,))
TOPIC = "cdc.public.items"
TRANSACTION = Transaction(epoch=1, commit_lsn=99, xid=None, commit_time_us=0, database="shop")


class LoadingSource:
    """Has these changes in its first load, and nothing after."""

    def __init__(self, changes):
        self.started = False
        self._events = [
            ChangeEvent(transaction=TRANSACTION, table=TABLE, change=change, ordinal=at, table_ordinal=at)
            for at, change in enumerate(changes, 1)
        ]

    def identify(self):
        return SourceIdentity(system_id="1", timeline=1, database="shop", flushed_lsn=0)

    def left_out(self):
        return []

    def tables(self):
        return [TABLE.id]

    def slot(self):
        return None

    def remember(self, notes, rereading):
        assert not notes
        assert not rereading

    def switch_point(self, timeline):
        return None

    @contextmanager
    def create(self):
        yield LoadPoint(lsn=100, snapshot="1")

    def load(self, at, *, epoch, again):
        counts = {TABLE.id: len(self._events)}
        return iter([Begin(TRANSACTION), *self._events, Commit(TRANSACTION, 100, len(self._events), counts)])

    def start(self, *, epoch, after=0):
        self.started = True

    def confirm(self, lsn):
        pass


class WatchedWriter:
    """Notes the records of the table's topic: what was handed over before each, and how far all was durable then."""

    def __init__(self, writer):
        self._writer = writer
        self._durable = 0
        self.create_topics = writer.create_topics
        self.noted = []

    def append(self, records):
        ticket = self._writer.append(records)
        self.noted += [(record, ticket, self._durable) for record in records if record.topic == TOPIC]
        return ticket

    def poll(self, timeout):
        self._durable = self._writer.poll(timeout)
        return self._durable


def test_a_truncate_is_durable_after_all_before_it_and_before_all_after_it():
    """Else a reader of another partition could find an event that goes on from a truncate that is nowhere."""
    log = MemoryLog()
    writer, reader = WatchedWriter(log.writer()), log.reader("capture")
    source = LoadingSource([Create((b"a",)), Create((b"b",)), Truncate(), Create((b"a",)), Create((b"b",))])
    registry = EmbeddedRegistry(log, writer, "schemas")
    settings = LogSettings(partitions=2)
    Capture(source=source, writer=writer, reader=reader, registry=registry, settings=settings, slot="slot").run(
        lambda: source.started
    )

    *before, (truncate, ticket, durable), first, second = writer.noted
    assert truncate.key is None
    assert durable >= max(ticket for _, ticket, _ in before)
    for record, _, durable in (first, second):
        assert TRUNCATED in dict(record.headers)
        assert durable >= ticket


def test_large_rows_of_a_load_are_not_kept_until_there_are_many():
    settings = LogSettings(max_record_bytes=16 << 20)
    log = MemoryLog(settings)
    writer, reader = WatchedWriter(log.writer()), log.reader("capture")
    source = LoadingSource([Read((b"%d" % n * (3 << 20),)) for n in range(9)])
    registry = EmbeddedRegistry(log, writer, "schemas")
    Capture(source=source, writer=writer, reader=reader, registry=registry, settings=settings, slot="slot").run(
        lambda: source.started
    )
    assert len(writer.noted) == 9
    assert len({ticket for _, ticket, _ in writer.noted}) == 3


class StuckWriter(WatchedWriter):
    """Nothing of the table becomes durable any more."""

    def __init__(self, writer):
        super().__init__(writer)
        self.asked = 0

    def poll(self, timeout):
        if not self.noted:
            return super().poll(timeout)
        self.asked += 1
        assert self.asked < 100, "it waits for the log, though it is to stop"
        return self._durable


def test_a_stop_does_not_wait_for_a_log_out_of_reach(monkeypatch):
    monkeypatch.setattr("cdc.capture.capture._MOST_BYTES_UNDER_WAY", 100_000)
    log = MemoryLog()
    writer, reader = StuckWriter(log.writer()), log.reader("capture")
    source = LoadingSource([Read((b"%d" % number * 300,)) for number in range(6000)])
    registry = EmbeddedRegistry(log, writer, "schemas")
    Capture(source=source, writer=writer, reader=reader, registry=registry, settings=LogSettings(), slot="slot").run(
        lambda: writer.asked > 10
    )
    assert not source.started


class DeafWriter(WatchedWriter):
    """From some moment on nothing becomes durable any more."""

    def __init__(self, writer, out_of_reach):
        super().__init__(writer)
        self._out_of_reach = out_of_reach
        self.asked = 0

    def poll(self, timeout):
        if not self._out_of_reach(self):
            return super().poll(timeout)
        self.asked += 1
        assert self.asked < 100, "it waits for the log, though it is to stop"
        return self._durable


class QuietSource(LoadingSource):
    """Its WAL grows, without anything for us."""

    def __init__(self):
        super().__init__([])

    def receive(self, most, timeout):
        yield Heartbeat(500)


def run_until_stuck(source, monkeypatch, out_of_reach):
    """The log is out of reach from some moment on, and a stop comes while it is waited for. The log's writer."""
    monkeypatch.setattr("cdc.capture.capture._STOP_SECONDS", 0.0)
    log = MemoryLog()
    writer = DeafWriter(log.writer(), out_of_reach)
    registry = EmbeddedRegistry(log, writer, "schemas")
    capture = Capture(
        source=source,
        writer=writer,
        reader=log.reader("capture"),
        registry=registry,
        settings=LogSettings(),
        slot="slot",
    )
    capture.run(lambda: writer.asked > 10)
    return writer


def test_a_stop_does_not_wait_for_a_quiet_sources_progress_to_be_recorded(monkeypatch):
    source = QuietSource()
    assert run_until_stuck(source, monkeypatch, lambda _: source.started).asked > 10


def test_a_stop_does_not_take_all_of_a_table_that_is_read_again(monkeypatch):
    monkeypatch.setattr("cdc.capture.capture._MOST_BYTES_UNDER_WAY", 100_000)
    stuck = run_until_stuck(StreamingSource([100_000]), monkeypatch, lambda writer: writer.noted)
    assert len(stuck.noted) < 10_000


class StreamingSource(LoadingSource):
    """An empty table, and then a backlog: transactions of so many events, one in each answer."""

    def __init__(self, sizes):
        super().__init__([])
        self._sizes = list(sizes)
        self._lsn = 200

    @property
    def is_read(self):
        return self.started and not self._sizes

    def receive(self, most, timeout):
        if not self._sizes:
            return
        size = self._sizes.pop(0)
        self._lsn += 10
        of = Transaction(epoch=1, commit_lsn=self._lsn, xid=self._lsn, commit_time_us=0, database="shop")
        yield Begin(of)
        for at in range(1, size + 1):
            yield ChangeEvent(
                transaction=of, table=TABLE, change=Create((b"%d" % at,)), ordinal=at, table_ordinal=at, lsn=self._lsn
            )
        yield Commit(of, self._lsn + 1, size, {TABLE.id: size})


class CountingWriter(WatchedWriter):
    """Notes how many events there were at each look."""

    def __init__(self, writer):
        super().__init__(writer)
        self.looks = [0]

    def poll(self, timeout):
        if len(self.noted) > self.looks[-1]:
            self.looks.append(len(self.noted))
        return super().poll(timeout)


def lots_of(sizes):
    """How many events the log got before each look at it."""
    log = MemoryLog()
    writer, source = CountingWriter(log.writer()), StreamingSource(sizes)
    registry = EmbeddedRegistry(log, writer, "schemas")
    capture = Capture(
        source=source,
        writer=writer,
        reader=log.reader("capture"),
        registry=registry,
        settings=LogSettings(),
        slot="slot",
    )
    capture.run(lambda: source.is_read)
    return [after - before for before, after in pairwise(writer.looks)]


def test_a_backlog_goes_to_the_log_in_lots(monkeypatch):
    monkeypatch.setattr("cdc.capture.capture._LOT", 1500)
    assert lots_of([600] * 7) == [1800, 1800, 600]


def test_lots_of_large_rows_are_smaller(monkeypatch):
    monkeypatch.setattr("cdc.capture.capture._LOT_BYTES", 1)
    assert lots_of([600] * 3) == [600] * 3


def test_what_is_no_backlog_goes_at_once():
    assert lots_of([600, 3, 2]) == [603, 2]


def test_an_end_that_a_capture_wrote_late_is_not_the_newest():
    """It stood still, its connection was cut, another one went on, and it sent what it had under way when it woke."""
    shop = Rehearsal()
    orders = shop.table("public.orders", {"id": "bigint"}, key=["id"])
    topic = transaction_topic(shop.settings.prefix)

    def insert(number):
        with shop.transaction() as transaction:
            transaction.insert(orders, {"id": number})

    for number in range(3):
        insert(number)
    with closing(shop.log.writer()) as writer, closing(shop.log.reader("test")) as reader:
        early = [*read_to_end(reader, topic)][:4]
        ticket = writer.append([Record(topic, 0, each.key, each.value) for each in early])
        assert writer.poll(1.0) == ticket
    insert(3)
    with shop.consumer() as consumer:
        changes = [change for batch in consumer.batches(follow=False) for change in batch]
    assert [change.key["id"] for change in changes if change.key] == [0, 1, 2, 3]
