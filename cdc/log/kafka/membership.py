"""Sharing partitions through a consumer group."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from confluent_kafka import OFFSET_END, Consumer, KafkaException
from confluent_kafka import TopicPartition as Place
from typing_extensions import override

from cdc.core.errors import PassingError
from cdc.core.log import Membership, TopicPartition
from cdc.log.kafka.client import Events, client_options, connect, made
from cdc.log.kafka.errors import translate
from cdc.log.kafka.options import Options, membership_options

_DOING: Final = "sharing the partitions"


class KafkaMembership(Membership):
    """A consumer that is only a member of its group. It fetches nothing: reading, pausing and going back are a
    reader's, whose partitions are assigned by hand.
    """

    def __init__(self, options: Options, group: str, session_timeout: float) -> None:
        self._events = Events(options["bootstrap.servers"])
        self._mine: set[TopicPartition] = set()
        self._topics: frozenset[str] = frozenset()
        self._closed = False
        settings = membership_options(options, group, session_timeout)
        self._consumer = made(lambda: Consumer(client_options(settings, self._events)))
        try:
            connect(self._consumer, lambda: None, self._events)
        except BaseException:
            self.close()
            raise

    @override
    def subscribe(self, topics: Collection[str]) -> None:
        wanted = frozenset(topics)
        if wanted != self._topics:
            self._topics = wanted
            self._consumer.subscribe(
                sorted(wanted), on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked
            )

    @override
    def partitions(self) -> frozenset[TopicPartition]:
        if self._topics:
            self._poll()
        return frozenset(self._mine)

    @override
    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._consumer.close()

    def _poll(self) -> None:
        try:
            message = self._consumer.poll(0)
        except KafkaException as error:
            raise translate(error.args[0], self._events.servers, doing=_DOING) from None
        self._events.raise_failure()
        said = None if message is None else message.error()
        if said is not None:
            translated = translate(said, self._events.servers, doing=_DOING)
            if not isinstance(translated, PassingError):
                raise translated

    def _assigned(self, consumer: Consumer, partitions: list[Place]) -> None:
        consumer.incremental_assign([Place(each.topic, each.partition, OFFSET_END) for each in partitions])
        consumer.pause(partitions)
        self._mine.update(TopicPartition(each.topic, each.partition) for each in partitions)

    def _revoked(self, consumer: Consumer, partitions: list[Place]) -> None:
        consumer.incremental_unassign(partitions)
        self._mine.difference_update(TopicPartition(each.topic, each.partition) for each in partitions)
