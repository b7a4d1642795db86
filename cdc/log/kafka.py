"""Kafka, through confluent-kafka (librdkafka).

The producer leaves no holes: idempotence alone lets event 1 time out, event 2 be delivered and the resend put 1 after
2. So nothing ever times out (`message.timeout.ms = 0`), a hole is fatal (`enable.gapless.guarantee`), and one failed delivery
report ends the writer.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import confluent_kafka as ck
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from typing_extensions import override

from cdc.core.errors import CdcError, ConfigError, LogError, LogGapError, PassingError, TopicMismatchError
from cdc.core.log import Log, LogReader, LogWriter, Offsets, Record, StoredRecord, TopicPartition, TopicSpec
from cdc.core.settings import LogSettings
from cdc.log.sizes import require_size

_Client = TypeVar("_Client")
_TIMEOUT: Final = 15.0
_LOGGER: Final = logging.getLogger(__name__)
_ROOM_SECONDS: Final = 0.1

# What a user must not change, because a promise rests on it.
_PROMISED: Final[dict[str, Any]] = {
    "acks": "all",
    "enable.idempotence": True,
    "enable.gapless.guarantee": True,
    "message.timeout.ms": 0,
}
_OWN: Final = frozenset(
    {*_PROMISED, "bootstrap.servers", "request.required.acks", "delivery.timeout.ms", "partitioner", "group.id"}
    | {"enable.auto.commit", "auto.offset.reset", "enable.auto.offset.store", "transactional.id", "retries"}
)
_AUTHENTICATION: Final = {ck.KafkaError._AUTHENTICATION, ck.KafkaError.SASL_AUTHENTICATION_FAILED}  # noqa: SLF001
_DENIED: Final = {
    ck.KafkaError.TOPIC_AUTHORIZATION_FAILED,
    ck.KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    ck.KafkaError.GROUP_AUTHORIZATION_FAILED,
}


class KafkaLog(Log):
    """`kafka://host:9092,host:9092`."""

    def __init__(self, settings: LogSettings) -> None:
        forbidden = sorted(_OWN & settings.options.keys())
        if forbidden:
            raise ConfigError(
                f"[log.options] {forbidden[0]} is set by cdc itself", mend="remove it: what cdc promises rests on it"
            )
        self._settings = settings
        self._servers = settings.url.removeprefix("kafka://").rstrip("/")

    @override
    def __enter__(self) -> Self:
        return self

    @override
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    @override
    def writer(self) -> KafkaLogWriter:
        return KafkaLogWriter(self._client_options(), self._settings, self._servers)

    @override
    def reader(self, group: str) -> KafkaLogReader:
        return KafkaLogReader(self._client_options(), group, self._servers)

    def _client_options(self) -> dict[str, Any]:
        return {"bootstrap.servers": self._servers, "client.id": "cdc", **self._settings.options}


class KafkaLogWriter(LogWriter):
    """Tickets are counted by outstanding delivery reports; the durable one is where the first of them is still out."""

    def __init__(self, options: Mapping[str, Any], settings: LogSettings, servers: str) -> None:
        self._settings = settings
        self._servers = servers
        self._failure: CdcError | None = None
        self._ticket = 0
        self._durable = 0
        self._under_way: deque[_Ticket] = deque()
        self._admin = _made(lambda: AdminClient(dict(options), logger=_LOGGER))
        self._producer = _made(
            lambda: ck.Producer(
                {
                    **options,
                    **_PROMISED,
                    "linger.ms": 5,
                    "compression.type": "lz4",
                    "message.max.bytes": settings.max_record_bytes,
                    "queue.buffering.max.messages": 500_000,
                    "error_cb": self._on_error,
                },
                logger=_LOGGER,
            )
        )
        _metadata(self._admin, servers)

    @override
    def create_topics(self, topics: Iterable[TopicSpec]) -> None:
        wanted = {topic.name: topic for topic in topics}
        self._check_existing(wanted)
        existing = _metadata(self._admin, self._servers)
        missing = [self._new_topic(topic) for topic in wanted.values() if topic.name not in existing]
        if missing:
            for name, created in self._admin.create_topics(missing, operation_timeout=_TIMEOUT).items():
                self._await_created(name, created)
            self._await_metadata({topic.topic for topic in missing})
            self._check_existing(wanted)

    @override
    def append(self, records: Sequence[Record]) -> int:
        self._raise_failure()
        for record in records:
            require_size(record, self._settings.max_record_bytes)
        self._ticket += 1
        ticket = _Ticket(self._ticket, len(records))
        self._under_way.append(ticket)

        def delivered(error: ck.KafkaError | None, message: ck.Message) -> None:
            if error is None:
                ticket.outstanding -= 1
            else:
                self._fail(error, message.topic())

        for record in records:
            self._produce(record, delivered)
        return self._ticket

    @override
    def poll(self, timeout: float) -> int:
        before = self._advanced()
        self._producer.poll(0 if self._durable > before else timeout)
        self._advanced()
        self._raise_failure()
        return self._durable

    @override
    def close(self) -> None:
        self._producer.purge()
        self._producer.poll(0)

    def _advanced(self) -> int:
        """Move `durable` up; what it was before."""
        before = self._durable
        while self._under_way and self._under_way[0].outstanding == 0:
            self._durable = self._under_way.popleft().number
        return before

    def _produce(self, record: Record, delivered: Callable[[ck.KafkaError | None, ck.Message], None]) -> None:
        while True:
            try:
                self._producer.produce(
                    record.topic,
                    value=record.value,
                    key=record.key,
                    partition=record.partition,
                    headers=list(record.headers),
                    on_delivery=delivered,
                )
            except BufferError:
                # The queue is full: let delivery reports make room. A short wait, so that signals are heard.
                self._producer.poll(_ROOM_SECONDS)
                self._raise_failure()
            except ck.KafkaException as error:
                self._fail(error.args[0], record.topic)
                self._raise_failure()
            else:
                return

    def _on_error(self, error: ck.KafkaError) -> None:
        if error.fatal() or error.code() in _AUTHENTICATION:
            self._fail(error, None)

    def _fail(self, error: ck.KafkaError, topic: str | None) -> None:
        if self._failure is None:
            self._failure = _translated(
                error, "writing" if topic is None else f"writing topic {topic!r}", self._servers
            )

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _check_existing(self, wanted: Mapping[str, TopicSpec]) -> None:
        existing = _metadata(self._admin, self._servers)
        for name, topic in wanted.items():
            there = existing.get(name)
            if there is not None and there != topic.partitions:
                raise TopicMismatchError(
                    f"topic {name!r} has {there} partitions, not {topic.partitions}",
                    mend=f"set [log] partitions to {there}, or use another [log] prefix",
                )

    def _new_topic(self, topic: TopicSpec) -> NewTopic:
        retention = self._settings.retention_hours * 3_600_000 or -1
        config = {"max.message.bytes": str(self._settings.max_record_bytes)}
        if topic.compacted:
            config["cleanup.policy"] = "compact"
        else:
            config |= {"cleanup.policy": "delete", "retention.ms": str(retention), "retention.bytes": "-1"}
        return NewTopic(topic.name, topic.partitions, self._settings.replication_factor, config=config)

    def _await_created(self, name: str, created: Any) -> None:
        try:
            created.result(_TIMEOUT)
        except ck.KafkaException as error:
            kafka_error = error.args[0]
            if kafka_error.code() == ck.KafkaError.TOPIC_ALREADY_EXISTS:
                return
            if kafka_error.code() == ck.KafkaError.INVALID_REPLICATION_FACTOR:
                raise LogError(
                    f"topic {name!r} can't have {self._settings.replication_factor} replicas: {kafka_error.str()}",
                    mend="set [log] replication_factor to at most the number of brokers",
                ) from None
            raise _translated(kafka_error, f"creating topic {name!r}", self._servers) from None

    def _await_metadata(self, names: set[str]) -> None:
        deadline = time.monotonic() + _TIMEOUT
        while not names <= _metadata(self._admin, self._servers).keys():
            if time.monotonic() > deadline:
                raise PassingError(f"{self._servers}: topics {sorted(names)} were created, but are not known yet")


class _Ticket:
    """One call of append."""

    __slots__ = ("number", "outstanding")

    def __init__(self, number: int, outstanding: int) -> None:
        self.number = number
        self.outstanding = outstanding


class KafkaLogReader(LogReader):
    """Explicitly assigned partitions; no consumer group decides anything here."""

    def __init__(self, options: Mapping[str, Any], group: str, servers: str) -> None:
        self._servers = servers
        self._consumer = _made(
            lambda: ck.Consumer(
                {
                    **options,
                    "group.id": group,
                    "enable.auto.commit": False,
                    "enable.auto.offset.store": False,
                    "auto.offset.reset": "error",
                    "fetch.wait.max.ms": 50,
                    "queued.max.messages.kbytes": 16_384,
                    "error_cb": self._on_error,
                },
                logger=_LOGGER,
            )
        )
        self._failure: CdcError | None = None
        self._assigned: set[TopicPartition] = set()

    @override
    def topics(self) -> dict[str, int]:
        return _metadata(self._consumer, self._servers)

    @override
    def offsets(self, partition: TopicPartition) -> Offsets:
        try:
            found = self._consumer.get_watermark_offsets(ck.TopicPartition(*partition), timeout=_TIMEOUT, cached=False)
        except ck.KafkaException as error:
            raise _translated(error.args[0], f"asking for offsets of {_named(partition)}", self._servers) from None
        if found is None:
            raise PassingError(f"{self._servers} did not say in time which offsets {_named(partition)} has")
        return Offsets(*found)

    @override
    def assign(self, offsets: Mapping[TopicPartition, int]) -> None:
        for partition, offset in offsets.items():
            held = self.offsets(partition)
            if not held.first <= offset <= held.next:
                raise _gap(partition, f"holds offsets {held.first} to {held.next}; offset {offset} was asked for")
        self.unassign(self._assigned & offsets.keys())
        self._consumer.incremental_assign([ck.TopicPartition(*place, offset) for place, offset in offsets.items()])
        self._assigned |= offsets.keys()

    @override
    def unassign(self, partitions: Iterable[TopicPartition]) -> None:
        going = [partition for partition in partitions if partition in self._assigned]
        if going:
            self._consumer.incremental_unassign([ck.TopicPartition(*partition) for partition in going])
            self._assigned.difference_update(going)

    @override
    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        self._consumer.pause([ck.TopicPartition(*partition) for partition in partitions])

    @override
    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        self._consumer.resume([ck.TopicPartition(*partition) for partition in partitions])

    @override
    def poll(self, max_records: int, timeout: float) -> list[StoredRecord]:
        records = [self._record(message) for message in self._consume(max_records, timeout)]
        if self._failure is not None:
            raise self._failure
        return records

    @override
    def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        places = [ck.TopicPartition(*partition, offset) for partition, offset in offsets.items()]
        try:
            self._consumer.commit(offsets=places, asynchronous=True)
        except ck.KafkaException as error:
            _LOGGER.warning("offsets for lag displays were not committed: %s", error.args[0].str())

    @override
    def close(self) -> None:
        self._consumer.close()

    def _consume(self, most: int, timeout: float) -> list[ck.Message]:
        """What is there; waits for the first only (consume() alone waits for all of them, or for its whole timeout)."""
        try:
            first = self._consumer.poll(timeout)
            if first is None:
                return []
            return [first, *self._consumer.consume(most - 1, 0)] if most > 1 else [first]
        except ck.KafkaException as error:
            raise _translated(error.args[0], "reading", self._servers) from None

    def _record(self, message: ck.Message) -> StoredRecord:
        error = message.error()
        partition = TopicPartition(message.topic() or "", message.partition() or 0)
        if error is not None:
            if error.code() in {ck.KafkaError._AUTO_OFFSET_RESET, ck.KafkaError.OFFSET_OUT_OF_RANGE}:  # noqa: SLF001
                raise _gap(partition, "no longer holds the offset that comes next")
            raise _translated(error, f"reading {_named(partition)}", self._servers)
        headers = tuple((str(name), _bytes(value)) for name, value in message.headers() or ())
        return StoredRecord(
            *partition, message.offset() or 0, message.timestamp()[1], message.key(), message.value(), headers
        )

    def _on_error(self, error: ck.KafkaError) -> None:
        if error.fatal() or error.code() in _AUTHENTICATION:
            self._failure = _translated(error, "reading", self._servers)


def _bytes(value: str | bytes | None) -> bytes:
    return value.encode() if isinstance(value, str) else value or b""


def _made(make: Callable[[], _Client]) -> _Client:
    try:
        return make()
    except ck.KafkaException as error:
        raise ConfigError(
            f"[log] Kafka refuses an option: {error.args[0].str()}", mend="correct [log.options]"
        ) from None


def _metadata(client: Any, servers: str) -> dict[str, int]:
    try:
        topics = client.list_topics(timeout=_TIMEOUT).topics
    except ck.KafkaException as error:
        raise _translated(error.args[0], "asking for topics", servers) from None
    return {name: len(topic.partitions) for name, topic in topics.items()}


def _translated(error: ck.KafkaError, doing: str, servers: str) -> CdcError:
    what = f"Kafka at {servers}, {doing}: {error.str()}"
    if error.code() in _AUTHENTICATION:
        return LogError(what, mend="correct the credentials in [log.options]")
    if error.code() in _DENIED:
        return LogError(what, mend="grant the principal of [log.options] access to the topics of this prefix")
    if error.code() == ck.KafkaError.UNKNOWN_TOPIC_OR_PART or error.code() == ck.KafkaError._UNKNOWN_PARTITION:  # noqa: SLF001
        return LogError(what, mend="was the topic deleted? `cdc capture --start-over` loads all tables again")
    if error.code() == ck.KafkaError.MSG_SIZE_TOO_LARGE:
        return LogError(what, mend="raise [log] max_record_bytes and the topic's max.message.bytes")
    if error.fatal() and not error.retriable():
        return PassingError(what)  # the producer is of no more use; a new session resends from the confirmed LSN
    return PassingError(what, mend="check [log] url and that the brokers run and can be reached")


def _gap(partition: TopicPartition, what: str) -> LogGapError:
    return LogGapError(
        f"{_named(partition)} {what}",
        mend="`cdc capture --start-over` loads all tables again; a longer [log] retention avoids it",
    )


def _named(partition: TopicPartition) -> str:
    return f"topic {partition.topic!r}, partition {partition.partition}"
