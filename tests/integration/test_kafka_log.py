"""What only Kafka has: options, the broker's refusals, outages, partitions as librdkafka computes them."""

import logging
import time
import uuid
from contextlib import closing, suppress

import pytest
from confluent_kafka import Consumer, KafkaException, Producer
from confluent_kafka import TopicPartition as Place
from confluent_kafka.admin import AdminClient, ConfigResource
from confluent_kafka.cimpl import NewTopic

from cdc.core.errors import ConfigError, LogError, LogGapError, PassingError, RecordTooLargeError
from cdc.core.log import Offsets, Record, TopicPartition, TopicSpec
from cdc.core.settings import LogSettings
from cdc.log.kafka import KafkaLog, client
from cdc.log.kafka import reader as reading
from cdc.log.partitioner import partition_of
from cdc.log.reading import last_record, last_records, read_to_end

_PATIENCE = 20.0  # seconds; nothing takes that long
_NOBODY = "127.0.0.1:9"  # the discard port: nothing listens there


@pytest.fixture
def topic():
    return f"t-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def admin(kafka):
    with AdminClient({"bootstrap.servers": kafka}) as made:
        yield made


def log_at(servers, **settings):
    return KafkaLog(LogSettings(url=f"kafka://{servers}", **settings))


def wait_for(done):
    deadline = time.monotonic() + _PATIENCE
    while not done():
        assert time.monotonic() < deadline, "waited in vain"


def store(writer, records):
    ticket = writer.append(records)
    wait_for(lambda: writer.poll(0.5) >= ticket)


def nothing_under_way(writer):
    with suppress(KafkaException):
        writer._producer.poll(0.1)
    return len(writer._producer) == 0


def make_otherwise(admin, topic, **config):
    """A topic that somebody else made."""
    new = NewTopic(topic, 1, 1, config={name.replace("_", "."): value for name, value in config.items()})
    admin.create_topics([new])[topic].result()


# -- options --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "acks",
        "request.required.acks",
        "enable.idempotence",
        "enable.gapless.guarantee",
        "message.timeout.ms",
        "auto.offset.reset",
        "enable.auto.commit",
        "group.id",
        "transactional.id",
    ],
)
def test_an_option_that_would_break_a_promise_is_refused(name):
    with pytest.raises(ConfigError, match=rf"\[log.options\] {name} can't be set"):
        log_at(_NOBODY, options={name: "1"})


def test_an_unknown_option_is_a_configuration_error():
    with pytest.raises(ConfigError, match=r'"no\.such\.option"') as refused:
        log_at(_NOBODY, options={"no.such.option": "1"}).writer()
    assert "[log.options]" in refused.value.mend


def test_options_reach_librdkafka(kafka, topic):
    with closing(log_at(kafka, options={"compression.type": "zstd", "fetch.min.bytes": "1"}).writer()) as writer:
        writer.create_topics([TopicSpec(topic, 1)])
        store(writer, [Record(topic, 0, b"k", b"v")])


def test_credentials_in_the_url_are_refused_and_not_shown():
    with pytest.raises(ConfigError, match="holds credentials") as refused:
        log_at("user:secret@host:9092")
    assert "secret" not in f"{refused.value} {refused.value.mend}"


# -- topics ---------------------------------------------------------------------------------------------------------


def test_topics_are_configured_to_keep_what_was_promised(kafka, admin, topic):
    with closing(log_at(kafka, retention_hours=2, max_record_bytes=5_000_000).writer()) as writer:
        writer.create_topics([TopicSpec(topic, 1), TopicSpec(f"{topic}-c", 1, compacted=True)])
    with closing(log_at(kafka).writer()) as writer:
        writer.create_topics([TopicSpec(f"{topic}-ever", 1)])

    def config(name):
        resource = ConfigResource(ConfigResource.Type.TOPIC, name)
        return {each.name: each.value for each in admin.describe_configs([resource])[resource].result().values()}

    assert config(topic)["cleanup.policy"] == "delete"
    assert config(topic)["retention.ms"] == str(2 * 3_600_000)
    assert config(topic)["retention.bytes"] == "-1"
    assert int(config(topic)["max.message.bytes"]) > 5_000_000
    assert config(f"{topic}-c")["cleanup.policy"] == "compact"
    assert config(f"{topic}-ever")["retention.ms"] == "-1"


def test_more_replicas_than_brokers_are_refused(kafka, topic):
    with closing(log_at(kafka, replication_factor=3).writer()) as writer:
        with pytest.raises(LogError, match=f"making topic {topic}") as refused:
            writer.create_topics([TopicSpec(topic, 1)])
        assert "[log] replication_factor" in refused.value.mend


def test_writing_to_a_topic_that_nobody_made_makes_none(kafka, admin, topic):
    with closing(log_at(kafka).writer()) as writer, pytest.raises(LogError, match=f"topic {topic}"):
        writer.append([Record(topic, 0, b"k", b"v")])

    assert topic not in admin.list_topics(timeout=10).topics


# -- refusals -------------------------------------------------------------------------------------------------------


def test_what_the_broker_finds_too_large_ends_the_writer_without_a_hole(kafka, admin, topic):
    make_otherwise(admin, topic, max_message_bytes="1000")
    one_by_one = {"compression.type": "none", "linger.ms": "0", "batch.num.messages": "1"}
    with closing(log_at(kafka, options=one_by_one).writer()) as writer:
        store(writer, [Record(topic, 0, b"k", b"v")])

        def write() -> None:
            """The broker may be quick enough to refuse the first record before the second is handed over."""
            writer.append([Record(topic, 0, b"k", b"v" * 2000), Record(topic, 0, b"k", b"v")])
            writer.append([Record(topic, 0, b"k", b"v")])
            wait_for(lambda: writer.poll(0.5) >= 3)

        with pytest.raises(RecordTooLargeError, match=f"partition 0 of topic {topic}") as refused:
            write()
        assert "max.message.bytes" in refused.value.mend
        with pytest.raises(RecordTooLargeError):
            writer.append([Record(topic, 0, b"k", b"v")])
        with pytest.raises(RecordTooLargeError):
            writer.poll(0)
        give_up = time.monotonic() + 2
        while time.monotonic() < give_up and not nothing_under_way(writer):
            """Without the guarantee, the third record would get there now."""
    with closing(log_at(kafka).reader("r")) as reader:
        assert reader.offsets(TopicPartition(topic, 0)) == Offsets(0, 1)


def test_a_deleted_topic_is_a_gap_for_its_reader(kafka, admin, topic, monkeypatch):
    monkeypatch.setattr(reading, "_LOOK_SECONDS", 0.2)
    monkeypatch.setattr(reading, "HEARD_OF_SECONDS", 0.2)
    log = log_at(kafka)
    with closing(log.writer()) as writer, closing(log.reader("r")) as reader:
        writer.create_topics([TopicSpec(topic, 1)])
        store(writer, [Record(topic, 0, b"k", b"v")])
        reader.assign({TopicPartition(topic, 0): 0})
        wait_for(lambda: reader.poll(1, 1))
        admin.delete_topics([topic])[topic].result()

        with pytest.raises(LogGapError, match=f"no partition 0 of topic {topic}, to be read from offset 1"):
            wait_for(lambda: reader.poll(1, 0.5))


def test_a_deleted_topic_does_not_come_back_by_being_written_to(kafka, admin, topic):
    log = log_at(
        kafka, options={"topic.metadata.propagation.max.ms": "1000", "topic.metadata.refresh.interval.ms": "200"}
    )
    with closing(log.writer()) as writer, closing(log.reader("r")) as reader:
        writer.create_topics([TopicSpec(topic, 1)])
        store(writer, [Record(topic, 0, b"k", b"v")])
        admin.delete_topics([topic])[topic].result()

        # What librdkafka says of it depends on where it is just then; whoever opens the log again sees what is missing.
        with pytest.raises((LogError, PassingError), match=topic):
            wait_for(lambda: store(writer, [Record(topic, 0, b"k", b"v")]))
        assert topic not in reader.topics()


# -- outages --------------------------------------------------------------------------------------------------------


def test_brokers_that_do_not_answer_are_a_passing_error(monkeypatch, capfd):
    monkeypatch.setattr(client, "_CONNECT_SECONDS", 0.5)
    log = log_at(_NOBODY, options={"sasl.password": "secret", "sasl.username": "me"})

    for connect in (log.writer, lambda: log.reader("r")):
        with pytest.raises(PassingError, match=_NOBODY) as refused:
            connect()
        assert "secret" not in f"{refused.value} {refused.value.mend}"
    assert "rdkafka" not in capfd.readouterr().err


def test_wrong_credentials_are_no_passing_error(kafka):
    """The broker speaks no SASL: what it answers to a SASL handshake, librdkafka takes as a refusal."""
    options = {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN"}
    log = log_at(kafka, options={**options, "sasl.username": "me", "sasl.password": "secret"})

    with pytest.raises(LogError, match=kafka) as refused:
        log.writer()
    assert "[log.options]" in refused.value.mend
    assert "secret" not in str(refused.value)


def test_librdkafka_writes_to_our_logger_only(kafka, topic, caplog, capfd):
    caplog.set_level(logging.DEBUG, logger="cdc.log.kafka")
    with closing(log_at(kafka, options={"debug": "broker"}).writer()) as writer:
        writer.create_topics([TopicSpec(topic, 1)])
        store(writer, [Record(topic, 0, b"k", b"v")])

    assert any("#producer-" in record.getMessage() for record in caplog.records)
    assert "rdkafka" not in capfd.readouterr().err


def test_closing_does_not_wait_for_what_is_under_way(kafka, topic):
    log = log_at(kafka, options={"linger.ms": "60000"})
    with closing(log.writer()) as writer:
        writer.create_topics([TopicSpec(topic, 1)])
        writer.append([Record(topic, 0, b"k", b"v")] * 1000)
        started = time.monotonic()
        writer.close()

    assert time.monotonic() - started < 5


def test_a_full_queue_is_waited_for(kafka, topic):
    log = log_at(kafka, options={"queue.buffering.max.messages": "1000"})
    with closing(log.writer()) as writer, closing(log.reader("r")) as reader:
        writer.create_topics([TopicSpec(topic, 1)])
        store(writer, [Record(topic, 0, b"k", b"v")] * 20_000)

        assert reader.offsets(TopicPartition(topic, 0)) == Offsets(0, 20_000)


# -- what others write and see --------------------------------------------------------------------------------------


def test_keys_go_to_the_partitions_that_librdkafka_would_choose(kafka, topic):
    keys = {b"", b"21", b"foobar", *(uuid.uuid4().bytes[: 1 + n % 16] for n in range(200))}
    log = log_at(kafka)
    with closing(log.writer()) as writer, closing(log.reader("r")) as reader:
        writer.create_topics([TopicSpec(topic, 7)])
        producer = Producer({"bootstrap.servers": kafka, "partitioner": "murmur2"})
        for key in keys:
            producer.produce(topic, key=key)
        assert producer.flush(_PATIENCE) == 0
        producer.close()
        reader.assign(dict.fromkeys([TopicPartition(topic, partition) for partition in range(7)], 0))
        chosen = {}
        wait_for(lambda: chosen.update({r.key: r.partition for r in reader.poll(1000, 1)}) or len(chosen) == len(keys))

    assert chosen == {key: partition_of(key, 7) for key in keys}


def test_headers_without_a_value_come_as_empty_ones(kafka, topic):
    log = log_at(kafka)
    with closing(log.writer()) as writer, closing(log.reader("r")) as reader:
        writer.create_topics([TopicSpec(topic, 1)])
        producer = Producer({"bootstrap.servers": kafka})
        producer.produce(topic, value=b"v", headers=[("none", None), ("some", b"1")])
        assert producer.flush(_PATIENCE) == 0
        producer.close()
        reader.assign({TopicPartition(topic, 0): 0})
        found = []
        wait_for(lambda: found.extend(reader.poll(1, 1)) or found)

    assert found[0].headers == (("none", b""), ("some", b"1"))


def test_what_transactions_leave_at_the_end_is_passed(kafka, topic):
    """Other people's producers: the broker's own record of each, and all that one of them took back."""
    log, partition = log_at(kafka), TopicPartition(topic, 0)
    with closing(log.writer()) as writer, closing(log.reader("r")) as reader:
        writer.create_topics([TopicSpec(topic, 1)])
        producer = Producer({"bootstrap.servers": kafka, "transactional.id": topic})
        producer.init_transactions(_PATIENCE)
        producer.begin_transaction()
        producer.produce(topic, value=b"last")
        producer.commit_transaction(_PATIENCE)
        producer.begin_transaction()
        producer.produce(topic, value=b"taken back")
        producer.flush(_PATIENCE)
        producer.abort_transaction(_PATIENCE)
        producer.close()
        wait_for(lambda: reader.offsets(partition) == Offsets(0, 4))

        found = []
        reader.assign({partition: 0})
        wait_for(lambda: found.extend(reader.poll(10, 0.2)) or reader.position(partition) == 4)
        assert [record.value for record in found] == [b"last"]
        reader.unassign([partition])
        assert [record.value for record in read_to_end(reader, topic)] == [b"last"]
        assert list(read_to_end(reader, topic, 1)) == []
        assert last_records(reader, partition, 3) == []
        assert last_record(reader, partition).value == b"last"


def test_committed_offsets_show_in_the_groups_lag(kafka, topic):
    log = log_at(kafka)
    partition = TopicPartition(topic, 0)
    with closing(log.writer()) as writer, closing(log.reader(f"group-{topic}")) as reader:
        writer.create_topics([TopicSpec(topic, 1)])
        store(writer, [Record(topic, 0, b"k", b"v")] * 5)
        reader.assign({partition: 0})
        reader.commit({partition: 3})

        display = Consumer({"bootstrap.servers": kafka, "group.id": f"group-{topic}"})

        def shown():
            reader.poll(1, 0.1)  # serves the commit too, whether a record is left or not
            return display.committed([Place(*partition)], 10)[0].offset == 3

        try:
            wait_for(shown)
        finally:
            display.close()
