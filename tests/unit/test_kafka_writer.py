"""In which lots records go to librdkafka, and when they are durable. Brokers' part is in tests/integration."""

from __future__ import annotations

from contextlib import closing

import pytest
from confluent_kafka import KafkaError

from cdc.capture.capture import _MOST_BYTES_UNDER_WAY
from cdc.core.errors import LogError, PassingError
from cdc.core.log import Record
from cdc.core.settings import LogSettings
from cdc.log.kafka import writer as kafka_writer
from cdc.log.kafka.log import KafkaLog


class Producer:
    """Keeps what it is given until it is told what the broker said of it."""

    def __init__(self, options):
        self.under_way = []
        self.interrupted_at = None

    def produce(self, topic, value, key, partition, report):
        if len(self.under_way) == self.interrupted_at:
            raise KeyboardInterrupt
        self.under_way.append((value, report))

    def delivered(self, count):
        """The binding calls nobody for what was written."""
        del self.under_way[:count]

    def refuse(self):
        _, report = self.under_way.pop(0)
        report(KafkaError(KafkaError.REQUEST_TIMED_OUT), Refused())

    def poll(self, timeout):
        return 0

    def flush(self, timeout):
        return len(self.under_way)

    def purge(self, *, blocking):
        self.under_way.clear()

    def close(self):
        pass

    def __len__(self):
        return len(self.under_way)

    @property
    def values(self):
        return [value for value, _ in self.under_way]


class Refused:
    def topic(self):
        return "t"

    def partition(self):
        return 0


@pytest.fixture
def writer(monkeypatch):
    monkeypatch.setattr(kafka_writer, "Producer", Producer)
    monkeypatch.setattr(kafka_writer, "connect", lambda *_: {"t": 2, "ends": 1})
    with closing(KafkaLog(LogSettings(url="kafka://nobody:1")).writer()) as opened:
        yield opened


@pytest.fixture
def producer(writer):
    return writer._producer


def of(*values, topic="t"):
    return [Record(topic, 0, b"k", value) for value in values]


def test_what_comes_while_a_lot_is_under_way_waits_and_goes_together(writer, producer):
    writer.append(of(b"1"))
    writer.append(of(b"2"))
    assert producer.values == []  # more may come at once
    writer.poll(0)
    assert producer.values == [b"1", b"2"]

    writer.append(of(b"3"))
    writer.append(of(b"4", topic="ends"))
    writer.poll(0)
    assert producer.values == [b"1", b"2"]

    producer.delivered(1)
    writer.poll(0)
    assert producer.values == [b"2"]

    producer.delivered(1)
    assert writer.poll(0) == 2
    writer.poll(0)
    assert producer.values == [b"3", b"4"]


def test_what_follows_from_a_lot_goes_with_what_waits_for_it(writer, producer):
    writer.append(of(b"event 1"))
    writer.poll(0)
    writer.append(of(b"event 2"))
    producer.delivered(1)
    assert writer.poll(0) == 1
    assert producer.values == []
    writer.append(of(b"end 1", topic="ends"))
    assert producer.values == [b"event 2", b"end 1"]


def test_what_waits_goes_also_if_nothing_follows(writer, producer):
    writer.append(of(b"1"))
    writer.poll(0)
    writer.append(of(b"2"))
    producer.delivered(1)
    assert writer.poll(0) == 1
    assert writer.poll(0) == 1
    assert producer.values == [b"2"]


def test_a_large_lot_goes_at_once(writer, producer, monkeypatch):
    monkeypatch.setattr(kafka_writer, "_LOT", 3)
    writer.append(of(b"1", b"2"))
    assert producer.values == []
    writer.append(of(b"3"))
    assert producer.values == [b"1", b"2", b"3"]


def test_a_ticket_is_durable_when_all_of_its_lot_is(writer, producer):
    assert writer.append(of(b"1")) == 1
    assert writer.poll(0) == 0
    assert writer.append(of(b"2", b"3")) == 2
    assert writer.append(of(b"4")) == 3
    assert writer.poll(0) == 0
    producer.delivered(1)
    assert writer.poll(0) == 1
    assert writer.poll(0) == 1
    producer.delivered(2)
    assert writer.poll(0) == 1
    producer.delivered(1)
    assert writer.poll(0) == 3


def test_nothing_is_durable_and_nothing_goes_on_after_a_refusal(writer, producer):
    writer.append(of(b"1", b"2"))
    writer.poll(0)
    writer.append(of(b"3"))
    producer.refuse()
    producer.delivered(1)
    for _ in range(2):
        with pytest.raises(PassingError, match="writing partition 0 of topic t"):
            writer.poll(0)
    with pytest.raises(PassingError):
        writer.append(of(b"4"))
    assert producer.values == []


def test_nothing_goes_on_after_a_lot_that_was_cut_short(writer, producer):
    producer.interrupted_at = 1
    writer.append(of(b"1", b"2"))
    with pytest.raises(KeyboardInterrupt):
        writer.poll(0)
    producer.delivered(1)
    with pytest.raises(LogError, match="interrupted"):
        writer.poll(0)
    with pytest.raises(LogError, match="interrupted"):
        writer.append(of(b"3"))
    assert producer.values == []


def test_who_has_too_much_waiting_waits(writer, producer, monkeypatch):
    monkeypatch.setattr(kafka_writer, "_MOST_WAITING", 3)
    flushed = []
    monkeypatch.setattr(producer, "flush", lambda _: flushed.append(producer.values) or producer.delivered(1))
    writer.append(of(b"1", b"2"))
    writer.poll(0)
    writer.append(of(b"3", b"4", b"5"))
    assert flushed == []
    writer.append(of(b"6"))
    assert flushed == [[b"1", b"2"], [b"2"]]
    assert producer.values == [b"3", b"4", b"5", b"6"]


def test_who_bounds_the_bytes_under_way_never_waits(writer, producer, monkeypatch):
    """Capture goes on with its steps, in which it answers the source, while no broker can be reached."""

    def flush(_):
        raise AssertionError("append waits for the broker")

    monkeypatch.setattr(producer, "flush", flush)
    half_an_event = 75  # bytes: of a delete of the smallest row, and of its tombstone
    lot = of(*[b"x" * (half_an_event - 1)] * 4000)
    for _ in range(_MOST_BYTES_UNDER_WAY // (half_an_event * len(lot)) + 1):
        writer.append(lot)
    assert writer.poll(0) == 0


def test_a_topic_that_the_broker_has_not_heard_of_yet_is_waited_for(writer, producer, monkeypatch):
    answers = [{}, {"new": 1}, {"new": 2}]
    monkeypatch.setattr(kafka_writer, "topics_of", lambda *_: answers.pop(0))
    monkeypatch.setattr(kafka_writer, "_WAIT_SECONDS", 0)
    writer.append([Record("new", 1, b"k", b"1")])
    writer.poll(0)
    assert producer.values == [b"1"]


def test_a_topic_that_no_broker_hears_of_is_refused(writer, producer, monkeypatch):
    monkeypatch.setattr(kafka_writer, "topics_of", lambda *_: {})
    monkeypatch.setattr(kafka_writer, "HEARD_OF_SECONDS", 0)
    with pytest.raises(LogError, match="the log has no partition 1 of topic new"):
        writer.append([Record("new", 1, b"k", b"1")])
    assert producer.values == []
