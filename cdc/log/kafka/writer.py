"""Writing to Kafka."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final

from confluent_kafka import KafkaError, KafkaException, Message, Producer
from typing_extensions import override

from cdc.core.errors import LogError
from cdc.core.log import LogWriter, Record, TopicPartition, TopicSpec
from cdc.core.settings import LogSettings
from cdc.log.kafka.client import Events, client_options, connect, made, topics_of
from cdc.log.kafka.errors import translate
from cdc.log.kafka.options import Options, producer_options
from cdc.log.kafka.topics import create_topics
from cdc.log.limits import check_sizes, unknown_partition

_WAIT_SECONDS: Final = 0.1  # at a time: signals are handled in between
_REASON_SECONDS: Final = 2.0


class _Call:
    """One call of `append`: its delivery reports come in here. The ticket is durable when none is missing."""

    __slots__ = ("_events", "missing", "ticket")

    def __init__(self, ticket: int, records: int, events: Events) -> None:
        self.ticket = ticket
        self.missing = records
        self._events = events

    def __call__(self, error: KafkaError | None, message: Message) -> None:
        if error is None:
            self.missing -= 1
        else:
            where = f"writing partition {message.partition()} of topic {message.topic()}"
            self._events.fail(translate(error, self._events.servers, doing=where))


class KafkaWriter(LogWriter):
    """An idempotent producer without holes. While no broker can be reached it keeps trying; nothing times out."""

    def __init__(self, options: Options, settings: LogSettings) -> None:
        self._options = options
        self._settings = settings
        self._events = Events(options["bootstrap.servers"])
        self._calls: deque[_Call] = deque()
        self._ticket = 0
        self._durable = 0
        self._closed = False
        self._producer = made(
            lambda: Producer(client_options(producer_options(options, settings.max_record_bytes), self._events))
        )
        try:
            self._topics = connect(self._producer, lambda: self._producer.poll(0), self._events)
        except BaseException:
            self.close()
            raise

    @override
    def create_topics(self, topics: Iterable[TopicSpec]) -> None:
        self._events.raise_failure()
        self._topics = create_topics(topics, self._options, self._settings, self._events)

    @override
    def append(self, records: Sequence[Record]) -> int:
        self._events.raise_failure()
        check_sizes(records, self._settings.max_record_bytes)
        self._check_partitions({record[:2] for record in records})
        self._ticket += 1
        call = _Call(self._ticket, len(records), self._events)
        self._calls.append(call)
        try:
            for record in records:
                self._produce(record, call)
        except BaseException:
            # Half of the call is under way: whatever came next would come after a hole.
            self._events.fail(LogError("writing to Kafka was interrupted", mend="open the log again"))
            raise
        return self._ticket

    @override
    def poll(self, timeout: float) -> int:
        deadline = time.monotonic() + timeout
        before = self._durable
        self._serve(0)
        while self._calls and self._durable == before and (left := deadline - time.monotonic()) > 0:
            self._serve(min(left, _WAIT_SECONDS))
        return self._durable

    @override
    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._producer.purge(blocking=False)  # else closing waits for what may never be delivered
            # It complains about the gap that giving records up leaves. None of them was said to be durable.
            with contextlib.suppress(KafkaException):
                self._producer.close()

    def _serve(self, timeout: float) -> None:
        try:
            if self._producer.poll(timeout):
                self._events.down = False
        except KafkaException as error:
            self._fail_fatally(error.args[0])
        self._events.raise_failure()
        while self._calls and not self._calls[0].missing:
            self._durable = self._calls.popleft().ticket

    def _fail_fatally(self, fatal: KafkaError) -> None:
        """First librdkafka tells that it gives up, then, in the delivery reports, why."""
        deadline = time.monotonic() + _REASON_SECONDS
        while self._events.failure is None and time.monotonic() < deadline:
            with contextlib.suppress(KafkaException):
                self._producer.poll(_WAIT_SECONDS)
        self._events.fail(translate(fatal, self._events.servers, doing="writing"))

    def _produce(self, record: Record, call: _Call) -> None:
        topic, partition, key, value, headers = record
        while True:
            try:
                self._producer.produce(topic, value, key, partition, call, headers=list(headers) if headers else None)
            except BufferError:
                self._serve(_WAIT_SECONDS)  # the queue is full: delivery reports make room
            except KafkaException as error:
                self._fail_fatally(error.args[0])
                self._events.raise_failure()
            else:
                return

    def _check_partitions(self, partitions: Iterable[tuple[str, int]]) -> None:
        """A topic that is not there must not spring up with the broker's defaults."""
        for topic, number in partitions:
            if not self._knows(topic, number):
                self._topics = topics_of(self._producer, self._events)
                if not self._knows(topic, number):
                    raise unknown_partition(TopicPartition(topic, number))

    def _knows(self, topic: str, number: int) -> bool:
        return 0 <= number < self._topics.get(topic, 0)
