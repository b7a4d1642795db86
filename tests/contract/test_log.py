"""What every log does: in memory, the local one, Kafka."""

import signal
import subprocess
import sys
import threading
import time
import uuid
from contextlib import ExitStack, closing

import pytest
from confluent_kafka import TopicPartition as Place
from confluent_kafka.admin import AdminClient

from cdc.core.errors import GapError, LogError, LogGapError, RecordTooLargeError, TopicMismatchError
from cdc.core.log import Offsets, Record, TopicPartition, TopicSpec
from cdc.core.settings import LogSettings
from cdc.log.kafka import KafkaLog
from cdc.log.local import LocalLog
from cdc.log.memory import MemoryLog
from cdc.log.reading import last_record, last_records, read_to_end

_PATIENCE = 20.0  # seconds; nothing takes that long


class MemoryHarness:
    url = None
    compacts_at_once = True

    def __init__(self):
        self._log = None

    def log(self, **settings):
        self._log = self._log or MemoryLog(LogSettings(**settings))
        return self._log

    def age(self):
        pass

    def trim(self, writer, partition, first):
        self._log.trim(partition, first)


class LocalHarness:
    compacts_at_once = True

    def __init__(self, folder):
        self.url = f"sqlite:///{folder / 'log.db'}"
        self._later = 0.0

    def log(self, **settings):
        return LocalLog(
            LogSettings(url=self.url, retention_hours=1, **settings), clock=lambda: time.time() + self._later
        )

    def age(self):
        self._later += 2 * 3600

    def trim(self, writer, partition, first):
        writer.poll(0)


class KafkaHarness:
    compacts_at_once = False

    def __init__(self, servers):
        self._servers = servers
        self.url = f"kafka://{servers}"

    def log(self, **settings):
        return KafkaLog(LogSettings(url=self.url, **settings))

    def age(self):
        pass

    def trim(self, writer, partition, first):
        with AdminClient({"bootstrap.servers": self._servers}) as admin:
            for removed in admin.delete_records([Place(*partition, first)]).values():
                removed.result()


@pytest.fixture(params=["memory", "local", "kafka"])
def harness(request, tmp_path):
    match request.param:
        case "memory":
            return MemoryHarness()
        case "local":
            return LocalHarness(tmp_path)
        case "kafka":
            return KafkaHarness(request.getfixturevalue("kafka"))


@pytest.fixture
def opened():
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def log(harness):
    return harness.log()


@pytest.fixture
def writer(log, opened):
    return opened.enter_context(closing(log.writer()))


@pytest.fixture
def reader(log, writer, opened):
    return opened.enter_context(closing(log.reader("test")))


@pytest.fixture
def topic():
    return f"t-{uuid.uuid4().hex[:12]}"


def make(writer, topic, partitions=1, *, compacted=False):
    writer.create_topics([TopicSpec(topic, partitions, compacted=compacted)])
    return [TopicPartition(topic, partition) for partition in range(partitions)]


def store(writer, records):
    ticket = writer.append(records)
    wait_for(lambda: writer.poll(0.5) >= ticket)
    return ticket


def wait_for(done):
    deadline = time.monotonic() + _PATIENCE
    while not done():
        assert time.monotonic() < deadline, "waited in vain"


def numbered(topic, numbers, partition=0):
    return [Record(topic, partition, b"k%d" % n, b"v%d" % n) for n in numbers]


def read(reader, count, batch=1000):
    """The next `count` records; fails if they don't come, or more of them."""
    records = []
    deadline = time.monotonic() + _PATIENCE
    while len(records) < count and time.monotonic() < deadline:
        records += reader.poll(min(batch, count - len(records)), 0.5)
    assert len(records) == count
    return records


def values(records):
    return [record.value for record in records]


def offsets(records):
    return [record.offset for record in records]


# -- topics ---------------------------------------------------------------------------------------------------------


def test_topics_are_made_once_and_shown_with_their_partitions(writer, reader, topic):
    make(writer, topic, 3)
    make(writer, topic, 3)

    assert reader.topics()[topic] == 3


def test_a_topic_with_another_number_of_partitions_is_refused_naming_both(writer, topic):
    make(writer, topic, 3)

    with pytest.raises(TopicMismatchError, match=rf"{topic} has 3 partitions, not 4") as refused:
        make(writer, topic, 4)
    assert "[log] partitions" in refused.value.mend


def test_a_topic_of_which_one_partition_is_used_may_have_more(writer, reader, topic):
    make(writer, topic, 3)

    writer.create_topics([TopicSpec(topic, single=True)])

    assert reader.topics()[topic] == 3


def test_offsets_of_a_new_partition_are_zero(writer, reader, topic):
    (partition,) = make(writer, topic)

    assert reader.offsets(partition) == Offsets(0, 0)


def test_what_is_not_there_is_an_error(writer, reader, topic):
    make(writer, topic)

    with pytest.raises(LogError, match=f"partition 1 of topic {topic}"):
        reader.offsets(TopicPartition(topic, 1))
    with pytest.raises(LogError, match=f"topic {topic}-other"):
        writer.append([Record(f"{topic}-other", 0, b"k", b"v")])
    assert f"{topic}-other" not in reader.topics()


# -- writing --------------------------------------------------------------------------------------------------------


def test_tickets_rise_and_a_durable_one_is_there_for_other_readers(log, writer, topic, opened):
    (partition,) = make(writer, topic)
    other = opened.enter_context(closing(log.reader("other")))
    assert writer.poll(0) == 0
    tickets = []
    durable = 0
    for batch in range(20):
        tickets.append(writer.append(numbered(topic, range(batch * 10, batch * 10 + 10))))
        durable = writer.poll(0.05)
        assert other.offsets(partition).next >= 10 * sum(ticket <= durable for ticket in tickets)
    wait_for(lambda: writer.poll(0.5) == tickets[-1])

    assert tickets == sorted(set(tickets))
    assert other.offsets(partition) == Offsets(0, 200)


def test_a_call_without_records_gets_a_ticket_too(writer, topic):
    make(writer, topic)
    store(writer, numbered(topic, range(3)))

    store(writer, [])


def test_records_come_back_as_they_were(writer, reader, topic):
    (partition,) = make(writer, topic)
    written = [
        Record(topic, 0, b"key", b"value"),
        Record(topic, 0, None, b"no key"),
        Record(topic, 0, b"tombstone", None),
        Record(topic, 0, None, None),
        Record(topic, 0, b"", b""),
        Record(topic, 0, b"\x00\xff", bytes(range(256)), (("a", b"1"), ("a", b""), ("näme", bytes(range(256))))),
    ]
    before_ms = int(time.time() * 1000)
    store(writer, written)
    reader.assign({partition: 0})

    records = read(reader, len(written))

    assert [Record(r.topic, r.partition, r.key, r.value, r.headers) for r in records] == written
    assert offsets(records) == list(range(len(written)))
    assert all(before_ms <= record.timestamp_ms <= int(time.time() * 1000) for record in records)


def test_order_is_kept_within_each_partition(writer, reader, topic):
    partitions = make(writer, topic, 3)
    for start in range(0, 3000, 100):
        writer.append([Record(topic, n % 3, b"k", b"%d" % n) for n in range(start, start + 100)])
    store(writer, [])
    reader.assign(dict.fromkeys(partitions, 0))

    records = read(reader, 3000, batch=97)

    for partition in range(3):
        mine = [record for record in records if record.partition == partition]
        assert values(mine) == [b"%d" % n for n in range(partition, 3000, 3)]
        assert offsets(mine) == list(range(1000))


def test_a_large_batch(writer, reader, topic):
    partitions = make(writer, topic, 2)
    store(writer, [Record(topic, n % 2, b"k%d" % n, b"v" * 200) for n in range(50_000)])
    reader.assign(dict.fromkeys(partitions, 0))

    records = read(reader, 50_000, batch=10_000)

    assert sorted((r.partition, r.offset) for r in records) == [(p, o) for p in range(2) for o in range(25_000)]


def test_a_record_above_the_limit_is_refused_and_none_of_its_call_is_written(harness, topic):
    log = harness.log(max_record_bytes=2000)
    with closing(log.writer()) as writer, closing(log.reader("test")) as reader:
        (partition,) = make(writer, topic)
        large = Record(topic, 0, b"k", b"v" * 1900, (("h", b"x" * 100),))

        with pytest.raises(RecordTooLargeError, match=rf"partition 0 of topic {topic}") as refused:
            writer.append([*numbered(topic, range(3)), large])
        store(writer, [])

        assert "max_record_bytes" in str(refused.value)
        assert "max_record_bytes" in refused.value.mend
        assert reader.offsets(partition) == Offsets(0, 0)


def test_records_up_to_the_limit_are_taken_many_at_once(harness, topic):
    log = harness.log(max_record_bytes=2000)
    with closing(log.writer()) as writer, closing(log.reader("test")) as reader:
        (partition,) = make(writer, topic)
        largest = Record(topic, 0, b"k", b"v" * 1999)

        store(writer, [largest] * 500 + numbered(topic, range(5000)))

        assert reader.offsets(partition) == Offsets(0, 5500)


# -- reading --------------------------------------------------------------------------------------------------------


def test_assign_reads_from_that_offset_and_again_from_another(writer, reader, topic):
    (partition,) = make(writer, topic)
    store(writer, numbered(topic, range(100)))

    reader.assign({partition: 60})
    assert offsets(read(reader, 20, batch=7)) == list(range(60, 80))
    reader.assign({partition: 10})
    assert offsets(read(reader, 90)) == list(range(10, 100))
    assert reader.poll(10, 0.05) == []


def test_assign_at_the_end_reads_what_comes(writer, reader, topic):
    (partition,) = make(writer, topic)
    store(writer, numbered(topic, range(5)))
    reader.assign({partition: 5})
    assert reader.poll(10, 0.05) == []

    store(writer, numbered(topic, range(5, 7)))

    assert values(read(reader, 2)) == [b"v5", b"v6"]


def test_assigning_one_partition_leaves_the_others_as_they_are(writer, reader, topic):
    first, second = make(writer, topic, 2)
    store(writer, numbered(topic, range(10)) + numbered(topic, range(10), partition=1))
    reader.assign({first: 0})
    read(reader, 4)

    reader.assign({second: 8})

    assert sorted((r.partition, r.offset) for r in read(reader, 8)) == [(0, n) for n in range(4, 10)] + [(1, 8), (1, 9)]


def test_unassigned_partitions_are_read_no_longer(writer, reader, topic):
    first, second = make(writer, topic, 2)
    store(writer, numbered(topic, range(10)) + numbered(topic, range(10), partition=1))
    reader.assign({first: 0, second: 0})
    reader.poll(1, 5)

    reader.unassign([first])
    reader.assign({second: 0})

    assert {r.partition for r in read(reader, 10)} == {1}
    assert reader.poll(10, 0.05) == []


def test_a_paused_partition_keeps_its_place(writer, reader, topic):
    first, second = make(writer, topic, 2)
    store(writer, numbered(topic, range(50)) + numbered(topic, range(50), partition=1))
    reader.assign({first: 0, second: 0})
    seen = [record for record in read(reader, 30, batch=3) if record.partition == 0]

    reader.pause([first])
    while_paused = [record for _ in range(20) for record in reader.poll(10, 0.02)]
    store(writer, numbered(topic, range(50, 60)))
    while_paused += reader.poll(10, 0.05)
    reader.resume([first])
    seen += [record for record in read(reader, 60 - len(seen)) if record.partition == 0]

    assert {record.partition for record in while_paused} <= {1}
    assert offsets(seen) == list(range(60))


def test_poll_returns_no_more_than_asked_and_waits_no_longer_than_told(writer, reader, topic):
    (partition,) = make(writer, topic)
    store(writer, numbered(topic, range(10)))
    reader.assign({partition: 0})

    assert len(read(reader, 3)) == 3
    read(reader, 7)
    started = time.monotonic()
    assert reader.poll(10, 0.2) == []
    assert 0.15 < time.monotonic() - started < 5


def test_poll_wakes_up_when_a_record_comes(log, writer, topic, opened):
    (partition,) = make(writer, topic)
    reader = opened.enter_context(closing(log.reader("waiting")))
    reader.assign({partition: 0})
    reader.poll(1, 0.3)
    found = []
    waiting = threading.Thread(target=lambda: found.extend(reader.poll(10, _PATIENCE)))
    waiting.start()

    store(writer, numbered(topic, range(1)))
    waiting.join(_PATIENCE / 2)

    assert values(found) == [b"v0"]


def test_commit_is_accepted_and_changes_nothing(writer, reader, topic):
    (partition,) = make(writer, topic)
    store(writer, numbered(topic, range(10)))
    reader.assign({partition: 0})
    read(reader, 3)

    reader.commit({partition: 3})

    assert offsets(read(reader, 7)) == list(range(3, 10))


# -- gaps -----------------------------------------------------------------------------------------------------------


def test_assign_above_the_end_is_a_gap(writer, reader, topic):
    (partition,) = make(writer, topic)
    store(writer, numbered(topic, range(10)))

    with pytest.raises(LogGapError, match="never held offset 11: its next is 10"):
        reader.assign({partition: 11})


def test_assign_of_a_topic_that_is_gone_is_a_gap(writer, reader, topic):
    make(writer, topic)

    with pytest.raises(LogGapError, match=f"no partition 0 of topic {topic}-gone"):
        reader.assign({TopicPartition(f"{topic}-gone", 0): 7})


def trimmed(harness, writer, topic):
    (partition,) = make(writer, topic)
    store(writer, numbered(topic, range(5)))
    harness.age()
    store(writer, numbered(topic, range(5, 10)))
    harness.trim(writer, partition, 5)
    return partition


def test_assign_below_the_first_offset_that_is_left_is_a_gap(harness, writer, reader, topic):
    partition = trimmed(harness, writer, topic)

    assert reader.offsets(partition) == Offsets(5, 10)
    with pytest.raises(LogGapError, match="no longer holds offset 4: its first is 5"):
        reader.assign({partition: 4})
    reader.assign({partition: 5})
    assert offsets(read(reader, 5)) == list(range(5, 10))


def test_a_reader_that_is_overtaken_by_retention_stops(harness, writer, reader, topic):
    (partition,) = make(writer, topic)
    store(writer, numbered(topic, range(5)))
    reader.assign({partition: 0})
    read(reader, 2)
    reader.pause([partition])
    harness.age()
    store(writer, numbered(topic, range(5, 10)))
    harness.trim(writer, partition, 5)
    reader.resume([partition])

    with pytest.raises(GapError, match="no longer holds offset 2: its first is 5"):
        wait_for(lambda: reader.poll(10, 0.2))


def test_the_next_offset_stays_when_all_records_are_gone(harness, writer, reader, topic):
    (partition,) = make(writer, topic)
    store(writer, numbered(topic, range(5)))
    harness.age()
    harness.trim(writer, partition, 5)
    assert reader.offsets(partition) == Offsets(5, 5)

    writer.close()
    with closing(harness.log().writer()) as following:
        store(following, numbered(topic, range(5, 6)))

    assert reader.offsets(partition) == Offsets(5, 6)


# -- compaction -----------------------------------------------------------------------------------------------------


def test_a_compacted_topic_keeps_the_last_record_of_each_key(harness, writer, reader, topic):
    (partition,) = make(writer, topic, compacted=True)
    for generation in range(3):
        store(writer, [Record(topic, 0, b"k%d" % key, b"%d" % generation) for key in (1, 2, 1)])
    store(writer, [Record(topic, 0, b"k2", None), Record(topic, 0, b"k3", b"only")])
    harness.age()
    writer.poll(0)

    records = list(read_to_end(reader, topic))

    assert {record.key: record.value for record in records} == {b"k1": b"2", b"k2": None, b"k3": b"only"}
    assert offsets(records) == sorted(offsets(records))
    assert records[-1].offset == 10
    assert reader.offsets(partition).next == 11
    assert not harness.compacts_at_once or len(records) == 3


def test_what_is_kept_of_topics(writer, reader, topic):
    make(writer, f"{topic}.a")
    make(writer, f"{topic}.b", compacted=True)
    kept = reader.retention([f"{topic}.a", f"{topic}.b", f"{topic}.none"])
    assert {name: retention.compacted for name, retention in kept.items()} == {f"{topic}.a": False, f"{topic}.b": True}
    assert [retention.ms for retention in kept.values()] == [None, None]


def test_a_compacted_topic_is_read_on_from_any_place(writer, reader, topic):
    (partition,) = make(writer, topic, compacted=True)
    store(writer, [Record(topic, 0, b"k", b"%d" % n) for n in range(10)])
    reader.assign({partition: 3})

    last = []
    wait_for(lambda: last.extend(reader.poll(100, 0.5)) or (last and last[-1].offset == 9))
    store(writer, [Record(topic, 0, b"k", b"new")])

    assert values(read(reader, 1)) == [b"new"]


def test_a_compacted_topic_takes_no_record_without_a_key(writer, topic):
    make(writer, topic, compacted=True)

    with pytest.raises(LogError, match=topic):
        store(writer, [Record(topic, 0, None, b"v")])


# -- whole topics ---------------------------------------------------------------------------------------------------


def test_reading_to_the_end_and_the_last_records(writer, reader, topic):
    (partition,) = make(writer, topic)
    assert list(read_to_end(reader, topic)) == []
    assert last_record(reader, partition) is None
    store(writer, numbered(topic, range(2500)))

    assert values(read_to_end(reader, topic)) == [b"v%d" % n for n in range(2500)]
    assert last_record(reader, partition).value == b"v2499"
    assert values(last_records(reader, partition, 3)) == [b"v2497", b"v2498", b"v2499"]
    assert reader.poll(10, 0.05) == []


def test_the_position_is_where_a_partition_is_read_on(writer, reader, topic):
    first, second = make(writer, topic, 2)
    store(writer, numbered(topic, range(5)))
    reader.assign({first: 1, second: 0})
    assert (reader.position(first), reader.position(second)) == (1, 0)

    read(reader, 2)
    assert reader.position(first) == 3
    reader.pause([first])
    store(writer, numbered(topic, range(5, 7)) + numbered(topic, range(1), second.partition))
    read(reader, 1)
    assert (reader.position(first), reader.position(second)) == (3, 1)

    reader.resume([first])
    assert offsets(read(reader, 4)) == [3, 4, 5, 6]
    assert reader.position(first) == reader.offsets(first).next == 7
    reader.assign({first: 4})
    assert reader.position(first) == 4
    assert offsets(read(reader, 3)) == [4, 5, 6]


# -- processes ------------------------------------------------------------------------------------------------------

_WRITE_FOR_EVER = """
import sys
from cdc.core.log import Record, TopicSpec
from cdc.core.settings import LogSettings
from cdc.log.open import open_log

url, topic = sys.argv[1:]
writer = open_log(LogSettings(url=url)).writer()
writer.create_topics([TopicSpec(topic, 2)])
tickets = {0: 0}
written = 0
while True:
    ticket = writer.append([Record(topic, n % 2, b"k", b"%d" % n) for n in range(written, written + 50)])
    written += 50
    tickets[ticket] = written
    print(tickets[writer.poll(0.001)], flush=True)
"""


@pytest.fixture
def process(harness, topic):
    """Another process that writes, and tells how many records were durable after each poll."""
    if harness.url is None:
        pytest.skip("no other process sees this log")
    command = [sys.executable, "-c", _WRITE_FOR_EVER, harness.url, topic]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as started:
        try:
            yield started
        finally:
            started.kill()


def wait_for_records(process, count):
    for line in process.stdout:
        if int(line) >= count:
            return
    pytest.fail("the writing process ended")


def test_reading_while_another_process_writes(harness, process, topic):
    wait_for_records(process, 100)
    with closing(harness.log().reader("test")) as reader:
        partitions = [TopicPartition(topic, partition) for partition in range(2)]
        reader.assign(dict.fromkeys(partitions, 0))

        records = read(reader, 5000, batch=500)

    for partition in range(2):
        mine = [record for record in records if record.partition == partition]
        assert offsets(mine) == list(range(len(mine)))
        assert values(mine) == [b"%d" % n for n in range(partition, 2 * len(mine), 2)]


def test_what_was_durable_when_the_writer_was_killed_is_there_without_holes(harness, process, topic):
    wait_for_records(process, 2000)
    process.send_signal(signal.SIGKILL)
    durable = max([2000, *(int(line) for line in process.stdout.read().split("\n")[:-1])])
    process.wait()
    log = harness.log()
    with closing(log.writer()) as writer, closing(log.reader("test")) as reader:
        partitions = [TopicPartition(topic, partition) for partition in range(2)]
        store(writer, [Record(topic, partition, b"k", b"after") for partition in range(2)])
        # Not before: what the killed process had sent may still have been on its way.
        ends = [reader.offsets(partition).next - 1 for partition in partitions]
        reader.assign(dict.fromkeys(partitions, 0))

        records = read(reader, sum(ends) + 2)

        assert sum(ends) >= durable
        for partition in range(2):
            mine = [record for record in records if record.partition == partition]
            expected = [b"%d" % n for n in range(partition, 2 * ends[partition], 2)]
            assert values(mine) == [*expected, b"after"]
            assert offsets(mine) == list(range(len(mine)))


def test_a_writer_of_one_topic_works_beside_the_log_s(harness, writer, reader, topic):
    beside = f"{topic}.beside"
    writer.create_topics([TopicSpec(topic, 1)])
    with closing(harness.log().writer(only=beside)) as own:
        own.create_topics([TopicSpec(beside, 1, compacted=True)])
        for number in range(3):
            for each, name in ((writer, topic), (own, beside)):
                ticket = each.append([Record(name, 0, b"%d" % number, b"x")])
                deadline = time.monotonic() + _PATIENCE
                while each.poll(0.1) < ticket:
                    assert time.monotonic() < deadline
    for name in (topic, beside):
        assert [record.key for record in read_to_end(reader, name)] == [b"0", b"1", b"2"]
