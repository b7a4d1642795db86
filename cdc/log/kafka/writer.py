"""Writing to Kafka."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from confluent_kafka import KafkaError, KafkaException, Message, Producer
from typing_extensions import override

from cdc.core.errors import LogError
from cdc.core.failpoints import reached
from cdc.core.log import LogWriter, Record, TopicPartition, TopicSpec
from cdc.core.settings import LogSettings
from cdc.log.kafka.client import HEARD_OF_SECONDS, Events, client_options, connect, logger, made, topics_of
from cdc.log.kafka.errors import translate
from cdc.log.kafka.options import Options, producer_options
from cdc.log.kafka.topics import create_topics
from cdc.log.limits import check_sizes, unknown_partition

_WAIT_SECONDS: Final = 0.1  # at a time: signals are handled in between
_REASON_SECONDS: Final = 2.0
_SLOW_SECONDS: Final = 10.0
# Records; who has more waits. Capture, which bounds the bytes under way, never has: for as long as no broker can be
# reached it would wait here, where it does not answer its source.
_MOST_WAITING: Final = 500_000
_LOT: Final = 8_000  # records; fewer are sent when `poll` is called, as more may come at once


class KafkaWriter(LogWriter):
    """An idempotent producer without holes. While no broker can be reached it keeps trying; nothing times out.

    librdkafka gets records in lots: while one is under way, all that comes waits here for the next. It would wait there
    too, as an idempotent producer has one request of a partition under way once it holds five records; but there its
    thread asks again and again, without a pause, whether the request is done. A slower broker makes lots larger.
    """

    def __init__(self, options: Options, settings: LogSettings) -> None:
        self._options = options
        self._settings = settings
        self._events = Events(options["bootstrap.servers"])
        self._waiting: deque[Sequence[Record]] = deque()
        self._waiting_records = 0
        self._is_due = False  # whether what waits goes with whatever comes next
        self._ticket = 0
        self._sent = 0
        self._durable = 0
        self._sent_at = 0.0
        self._said_slow = False
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
        self._waiting.append(records)
        self._waiting_records += len(records)
        if self._waiting_records >= _LOT or self._is_due:
            self._go_on()
        while self._waiting_records > _MOST_WAITING:
            self._serve(_WAIT_SECONDS)
            self._go_on()
        return self._ticket

    @override
    def poll(self, timeout: float) -> int:
        deadline = time.monotonic() + timeout
        before = self._durable
        self._serve(0)
        if self._durable == before:
            self._go_on()
        else:
            self._is_due = True  # with what may follow from it
        while self._durable == before < self._ticket:
            self._go_on()
            left = deadline - time.monotonic()
            if left <= 0:
                break
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

    def _go_on(self) -> None:
        """Send what waits, if nothing is under way."""
        if self._waiting and self._durable < self._sent:
            self._serve(0)
        if not self._waiting or self._durable < self._sent:
            return
        waiting, self._waiting, self._waiting_records = self._waiting, deque(), 0
        self._is_due = False
        try:
            while waiting:
                self._produce(waiting.popleft())  # librdkafka has a copy then: never hold both of all
        except BaseException:
            # Half of it is under way: whatever came next would come after a hole.
            self._events.fail(LogError("writing to Kafka was interrupted", mend="open the log again"))
            raise
        self._sent, self._sent_at = self._ticket, time.monotonic()
        reached("kafka.sent")

    def _serve(self, timeout: float) -> None:
        """What was sent is durable once all delivery reports are in, and none told of a failure."""
        # While it is flushed, nothing lingers.
        self._take_reports(self._producer.flush if timeout else self._producer.poll, timeout)
        if self._durable == self._sent:
            return
        if not len(self._producer):
            self._durable = self._sent
            self._events.down = self._said_slow = False
        elif not self._said_slow and time.monotonic() - self._sent_at > _SLOW_SECONDS:
            self._said_slow = True
            logger.warning(
                "Kafka has not taken for %.0f s what was written; trying again until it does (has each partition a"
                " leader, and as many replicas in sync as min.insync.replicas asks for?)",
                _SLOW_SECONDS,
            )

    def _take_reports(self, take: Callable[[float], object], timeout: float) -> None:
        try:
            take(timeout)
        except KafkaException as error:
            self._fail_fatally(error.args[0])
        self._events.raise_failure()

    def _fail_fatally(self, fatal: KafkaError) -> None:
        """First librdkafka tells that it gives up, then, in the delivery reports, why."""
        deadline = time.monotonic() + _REASON_SECONDS
        while self._events.failure is None and time.monotonic() < deadline:
            with contextlib.suppress(KafkaException):
                self._producer.poll(_WAIT_SECONDS)
        self._events.fail(translate(fatal, self._events.servers, doing="writing"))

    def _produce(self, records: Iterable[Record]) -> None:
        produce, refused = self._producer.produce, self._refused
        for topic, partition, key, value, headers in records:
            while True:
                try:
                    if headers:
                        produce(topic, value, key, partition, refused, headers=list(headers))
                    else:
                        produce(topic, value, key, partition, refused)
                except BufferError:
                    self._take_reports(self._producer.poll, _WAIT_SECONDS)  # the queue is full: they make room
                except KafkaException as error:
                    self._fail_fatally(error.args[0])
                    self._events.raise_failure()
                else:
                    break

    def _refused(self, error: KafkaError | None, message: Message) -> None:
        """A record that can't be written. Of those that were, nobody calls (`delivery.report.only.error`)."""
        if error is not None:
            where = f"writing partition {message.partition()} of topic {message.topic()}"
            self._events.fail(translate(error, self._events.servers, doing=where))

    def _check_partitions(self, partitions: Iterable[tuple[str, int]]) -> None:
        """A topic that is not there must not spring up with the broker's defaults."""
        for topic, number in partitions:
            if not self._knows(topic, number) and not self._hears_of(topic, number):
                raise unknown_partition(TopicPartition(topic, number))

    def _hears_of(self, topic: str, number: int) -> bool:
        deadline = time.monotonic() + HEARD_OF_SECONDS
        while True:
            self._topics = topics_of(self._producer, self._events)
            if self._knows(topic, number) or time.monotonic() > deadline:
                return self._knows(topic, number)
            time.sleep(_WAIT_SECONDS)

    def _knows(self, topic: str, number: int) -> bool:
        return 0 <= number < self._topics.get(topic, 0)
