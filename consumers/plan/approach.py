"""How a target comes to where whole source transactions can be applied (consistency `transaction`).

Up to there its events are applied per key. That is so for

- a first load, which is no transaction of the source, and for all of the epochs before it,
- what a target that was applied per key so far lacks of the furthest of its events: its partitions don't stand at the
  same transaction,
- a table that is new to the target, or that it did not get for a while, up to where the others are.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

from cdc.core.events import ChangeEvent
from cdc.core.log import TopicPartition
from cdc.core.position import ORIGIN, Position
from consumers.plan.checkpoint import PartitionProgress

_JOINING: Final = -1
_TABLE: Final = -2
_PARTITIONS: Final = -3  # the lowest: `consumers.plan.checkpoint` knows
_UNDER_WAY, _DONE, _LEFT, _AWAY = range(4)
_PASSED_BY: Final = PartitionProgress(ORIGIN, _LEFT)
_MOST_EVENTS: Final = (1 << 63) - 1

Reached = Mapping[TopicPartition, PartitionProgress]


@dataclass(frozen=True, slots=True)
class Approach:
    """What is applied per key: all before the source's transactions of `epoch`, and of each topic what is not beyond
    `up_to`. `joining` are the topics of tables that are new to the target. It takes until an END at or beyond `until`
    is in the log: a transaction of which the target has something may not be there as a whole before.
    """

    epoch: int
    up_to: Mapping[str, Position] = field(default_factory=dict)
    joining: frozenset[str] = frozenset()
    until: Position = ORIGIN

    def takes(self, topic: str, event: ChangeEvent) -> bool:
        of = event.transaction
        return of.xid is None or of.epoch < self.epoch or event.position <= self.up_to.get(topic, ORIGIN)

    def begun(self) -> dict[TopicPartition, PartitionProgress]:
        """What to checkpoint before anything else, so that a restart goes on with it."""
        return {joining(topic): PartitionProgress(self.up_to[topic], _UNDER_WAY) for topic in self.joining}

    def done(self) -> dict[TopicPartition, PartitionProgress]:
        """What to checkpoint after it."""
        return {joining(topic): PartitionProgress(self.up_to[topic], _DONE) for topic in self.joining}


def joining(topic: str) -> TopicPartition:
    """Under what a checkpoint says that a topic joined later: up to which position its events are applied per key, and
    in place of an offset whether that is under way or done; or that ENDs have gone by without it; or that the target
    does not get it any more, and up to where it then had the changes of tables' shapes.
    """
    return TopicPartition(topic, _JOINING)


def claimed() -> dict[TopicPartition, PartitionProgress]:
    """What a checkpoint has, before anything else, of a target that is only claimed for its log."""
    return {joining("~claimed"): _PASSED_BY}


def is_partition(partition: TopicPartition) -> bool:
    """Whether it is one of the log's, and not what `joining`, `table_of` or `partitions_of` gives."""
    return partition.partition >= 0


def table_of(topic: str) -> TopicPartition:
    """Under what a checkpoint says whether the topic's table is there."""
    return TopicPartition(topic, _TABLE)


def partitions_of(topic: str) -> TopicPartition:
    """Under what a checkpoint says how many partitions a connector's topic had, in place of an offset."""
    return TopicPartition(topic, _PARTITIONS)


def approach(reached: Reached, topics: Collection[str], transactions: TopicPartition, epoch: int) -> Approach | None:
    """What a target that has `reached` this of a log in its `epoch` still has to go through; None if it is through.

    `topics` are those whose events the target gets, that of changes of shape included.
    """
    applied = reached[transactions].position if transactions in reached else ORIGIN
    furthest = furthest_of(reached)
    if furthest > applied:
        return Approach(epoch, dict.fromkeys(topics, whole(furthest)), until=furthest)
    up_to: dict[str, Position] = {}
    for topic, stage in _stages(reached, topics).items():
        if stage == _UNDER_WAY:
            up_to[topic] = reached[joining(topic)].position
        elif stage in {_LEFT, _AWAY} and applied > ORIGIN:
            up_to[topic] = applied
    if not up_to and applied.epoch >= epoch:
        return None
    return Approach(epoch, up_to, frozenset(up_to))


def left(reached: Reached, topics: Collection[str], tables: TopicPartition) -> dict[TopicPartition, PartitionProgress]:
    """What to checkpoint of those that the target had and is not to get any more: while it goes on without them, the
    ENDs that count their events go by, and so do changes of their tables' shapes, which stand in `tables`.

    `topics` are all that it goes on with, those of transactions and tables included.
    """
    had = {partition.topic for partition in reached if is_partition(partition)}
    gone = {partition.topic for partition in reached} - set(topics)
    away = PartitionProgress(reached[tables].position if tables in reached else ORIGIN, _AWAY)
    marks = {topic: away if topic in had else _PASSED_BY for topic in gone}
    stages = _stages(reached, gone)
    return {joining(topic): mark for topic, mark in marks.items() if stages[topic] != mark.next_offset}


def returned(reached: Reached, topics: Collection[str]) -> dict[TopicPartition, PartitionProgress]:
    """What to checkpoint of those of these topics that `left`, and that the target gets again."""
    return {joining(topic): _PASSED_BY for topic in topics if left_at(reached, topic) is not None}


def joined_by_key(reached: Reached, topics: Collection[str]) -> dict[TopicPartition, PartitionProgress]:
    """What to checkpoint before these topics are applied per key: of those that are new, that ENDs have gone by."""
    new = [topic for topic, at in _stages(reached, topics).items() if at != _DONE and joining(topic) not in reached]
    return {joining(topic): _PASSED_BY for topic in new}


def joining_now(reached: Reached, topics: Collection[str]) -> set[str]:
    """Those of which the target has nothing, or nothing new since it did not get them for a while."""
    return {topic for topic, at in _stages(reached, topics).items() if at in {_LEFT, _AWAY}}


def left_at(reached: Reached, topic: str) -> Position | None:
    """Up to where the target had the changes of tables' shapes when the topic `left`; None if it gets it."""
    at = reached.get(joining(topic))
    return at.position if at is not None and at.next_offset == _AWAY else None


def _stages(reached: Reached, topics: Collection[str]) -> dict[str, int]:
    """What the checkpoint says of these topics. One that it does not know is as one that left."""
    known = {partition.topic for partition in reached if is_partition(partition)}
    return {
        topic: reached[joining(topic)].next_offset
        if joining(topic) in reached
        else (_DONE if topic in known else _LEFT)
        for topic in topics
    }


def furthest_of(reached: Reached) -> Position:
    """The position of the newest event that the target has."""
    return max(
        (progress.position for partition, progress in reached.items() if is_partition(partition)), default=ORIGIN
    )


def whole(position: Position) -> Position:
    """Beyond all events of the transaction that it stands in."""
    return position._replace(ordinal=_MOST_EVENTS)
