"""Reading from Kafka."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final, TypeVar

import tenacity
from confluent_kafka import Consumer, KafkaException, Message
from confluent_kafka import TopicPartition as Place
from typing_extensions import override

from cdc.core.log import Headers, LogReader, Offsets, Retention, StoredRecord, TopicPartition
from cdc.log.assignment import Assignment
from cdc.log.kafka.client import HEARD_OF_SECONDS, Events, client_options, connect, made, topics_of
from cdc.log.kafka.errors import GONE, LEADERLESS, OUT_OF_RANGE, PARTITION_END, translate
from cdc.log.kafka.options import Options, consumer_options
from cdc.log.kafka.topics import retention_of
from cdc.log.limits import check_offset, missing_partition, rewritten_partition, unknown_partition

_ASK_SECONDS: Final = 10.0
_LOOK_SECONDS: Final = 10.0
_AT_ONCE: Final = 2_000  # messages
_Answer = TypeVar("_Answer")
_INTERNAL: Final = "__"  # __consumer_offsets and the like


class KafkaReader(LogReader):
    """Assigned partitions only: the group is a name for lag displays, and is never joined.

    Pausing takes a partition out of librdkafka's hands and resuming gives it back at our own place: exact, whatever
    librdkafka had fetched ahead.
    """

    def __init__(self, options: Options, group: str) -> None:
        self._options = options
        self._events = Events(options["bootstrap.servers"])
        self._assignment = Assignment()
        self._closed = False
        self._known: dict[str, int] = {}
        self._missing_since: dict[TopicPartition, float] = {}
        self._look_due = time.monotonic() + _LOOK_SECONDS
        self._consumer = made(lambda: Consumer(client_options(consumer_options(options, group), self._events)))
        # A broker answers a connection's requests in turn: on the one that fetches, a question about offsets waits for
        # the fetch before it, 100 ms when there is nothing new. So questions have connections of their own.
        self._asking = made(lambda: Consumer(client_options(consumer_options(options, group), self._events)))
        try:
            connect(self._asking, lambda: self._asking.poll(0), self._events)
        except BaseException:
            self.close()
            raise

    @override
    def topics(self) -> dict[str, int]:
        topics = topics_of(self._asking, self._events)
        return {name: count for name, count in topics.items() if not name.startswith(_INTERNAL)}

    @override
    def offsets(self, partition: TopicPartition) -> Offsets:
        held = self._held_by(partition)
        if held is None:
            raise unknown_partition(partition)
        return held

    @override
    def retention(self, topics: Collection[str]) -> dict[str, Retention]:
        return retention_of(topics, self._options, self._events)

    @override
    def assign(self, offsets: Mapping[TopicPartition, int]) -> None:
        for partition, offset in offsets.items():
            held = self._held_by(partition)
            if held is None:
                raise missing_partition(partition, offset)
            check_offset(partition, offset, held)
        self._stop(self._being_read(offsets))
        self._assignment.assign(offsets)
        self._start(offsets)

    @override
    def unassign(self, partitions: Iterable[TopicPartition]) -> None:
        going = self._assignment.assigned(partitions)
        self._stop(self._being_read(going))
        self._assignment.unassign(going)

    @override
    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        self._stop(self._assignment.pause(partitions))

    @override
    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        self._start(self._assignment.resume(partitions))

    @override
    def poll(self, max_records: int, timeout: float) -> list[StoredRecord]:
        records = self._consume(max_records, 0)
        deadline = time.monotonic() + timeout
        while not records and (left := deadline - time.monotonic()) > 0:
            # `consume` waits for all that it is asked for: so wait for one (or for a partition's end), and take what
            # came with it.
            records = self._consume(1, left)
            if records and max_records > 1:
                records += self._consume(max_records - 1, 0)
        if not records:
            self._asking.poll(0)  # else its events would pile up
            self._look_around()
        return records

    @override
    def position(self, partition: TopicPartition) -> int:
        return self._assignment.next_offset(partition)

    @override
    def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        with contextlib.suppress(KafkaException):  # for lag displays only
            self._consumer.commit(offsets=_places(offsets), asynchronous=True)

    @override
    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._asking.close()
            self._consumer.close()

    def _being_read(self, partitions: Iterable[TopicPartition]) -> list[TopicPartition]:
        return [partition for partition in partitions if self._assignment.reading_from(partition) is not None]

    def _start(self, partitions: Iterable[TopicPartition]) -> None:
        places = _places({partition: self._assignment.next_offset(partition) for partition in partitions})
        if places:
            self._know({place.topic for place in places})
            self._consumer.incremental_assign(places)

    def _know(self, topics: set[str]) -> None:
        """Let librdkafka learn of topics before they are assigned: else it asks for their leaders only at its next
        look around, which is up to a second away.
        """
        if not topics <= self._known.keys():
            self._known = topics_of(self._consumer, self._events)

    def _stop(self, partitions: Iterable[TopicPartition]) -> None:
        places = [Place(*partition) for partition in partitions]
        if places:
            self._consumer.incremental_unassign(places)

    def _consume(self, most: int, timeout: float) -> list[StoredRecord]:
        """Some at a time: a message keeps all in memory that was fetched with it."""
        records: list[StoredRecord] = []
        places: dict[tuple[str | None, int | None], int | None] = {}  # the next offset of each partition
        while most > 0:
            wanted = min(most, _AT_ONCE)
            try:
                messages = self._consumer.consume(wanted, timeout)
            except KafkaException as error:
                raise translate(error.args[0], self._events.servers, doing="reading") from None
            self._events.raise_failure()
            self._take(messages, records, places)
            if len(messages) < wanted:
                break
            most, timeout = most - wanted, 0
        for place, following in places.items():
            if following is not None:
                self._assignment.advance(TopicPartition(*place), following)  # type: ignore[arg-type]
        return records

    def _take(
        self,
        messages: Iterable[Message],
        records: list[StoredRecord],
        places: dict[tuple[str | None, int | None], int | None],
    ) -> None:
        add, new = records.append, tuple.__new__  # StoredRecord's own __new__ takes twice as long
        topic: str | None = None
        partition: int | None = None
        expected: int | None = None
        for message in messages:
            error = message.error()
            if error is not None and error.code() != PARTITION_END:
                self._raise_for(message)
            if message.partition() != partition or message.topic() != topic:  # many in a row are of one
                places[topic, partition] = expected
                topic, partition = place = message.topic(), message.partition()
                if place not in places:
                    places[place] = self._assignment.reading_from(TopicPartition(*place))  # type: ignore[arg-type]
                expected = places[place]
            offset: int = message.offset()  # type: ignore[assignment]
            if expected is None or offset < expected:
                continue  # fetched before a pause
            if error is not None:
                expected = offset  # what lies before the end has no record for us
                continue
            expected = offset + 1
            headers = message.headers()
            said = _headers(headers) if headers else ()
            add(
                new(
                    StoredRecord,
                    (topic, partition, offset, message.timestamp()[1], message.key(), message.value(), said),
                )
            )
        places[topic, partition] = expected

    def _raise_for(self, message: Message) -> None:
        error = message.error()
        assert error is not None
        partition = TopicPartition(message.topic() or "", message.partition() or 0)
        expected = self._assignment.reading_from(partition)
        if expected is None:
            return
        if error.code() in GONE:
            raise missing_partition(partition, expected)
        if error.code() in OUT_OF_RANGE:
            check_offset(partition, expected, self.offsets(partition))
            raise rewritten_partition(partition, expected)
        where = f"reading partition {partition.partition} of topic {partition.topic}"
        raise translate(error, self._events.servers, doing=where)

    def _look_around(self) -> None:
        """An outage and a deleted topic both look like a quiet log: librdkafka waits for either to pass. So ask."""
        now = time.monotonic()
        if self._events.down or now >= self._look_due:
            there = topics_of(self._asking, self._events)
            self._events.down = False
            missing = {at for at in self._assignment.turns() if at.partition >= there.get(at.topic, 0)}
            self._missing_since = {at: self._missing_since.get(at, now) for at in missing}
            for partition, since in self._missing_since.items():
                if now - since > HEARD_OF_SECONDS:  # else one broker may not have heard of it yet
                    raise missing_partition(partition, self._assignment.next_offset(partition))
            self._look_due = now + (HEARD_OF_SECONDS / 2 if missing else _LOOK_SECONDS)

    def _held_by(self, partition: TopicPartition) -> Offsets | None:
        try:
            found = _settled(self._asking.get_watermark_offsets, Place(*partition), timeout=_ASK_SECONDS, cached=False)
        except KafkaException as error:
            if error.args[0].code() in GONE:
                return None
            where = f"asking for the offsets of partition {partition.partition} of topic {partition.topic}"
            raise translate(error.args[0], self._events.servers, doing=where) from None
        return Offsets(*found)


def _settled(ask: Callable[..., _Answer], *arguments: object, **options: object) -> _Answer:
    """Ask again while a partition has no leader yet, or a new one: a moment after it was made, or a broker went. For a
    while also if it is not known: by one broker, perhaps.
    """
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception(lambda error: _code(error) in LEADERLESS | GONE),
        wait=tenacity.wait_fixed(0.05),
        stop=_is_settled,
        reraise=True,
    )(ask, *arguments, **options)


def _is_settled(state: tenacity.RetryCallState) -> bool:
    error = None if state.outcome is None else state.outcome.exception()
    patience = HEARD_OF_SECONDS if _code(error) in GONE else _ASK_SECONDS
    return (state.seconds_since_start or 0.0) > patience


def _code(error: BaseException | None) -> int | None:
    return error.args[0].code() if isinstance(error, KafkaException) else None


def _places(offsets: Mapping[TopicPartition, int]) -> list[Place]:
    return [Place(*partition, offset) for partition, offset in offsets.items()]


def _headers(headers: Mapping[str, str | bytes | None] | Iterable[tuple[str, str | bytes | None]]) -> Headers:
    """Other producers may write headers without a value, which ours can't be: they come as empty ones."""
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    return tuple((name, value.encode() if isinstance(value, str) else value or b"") for name, value in pairs)
