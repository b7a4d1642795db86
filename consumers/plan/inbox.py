"""Records that were read and not applied yet: a queue for each partition, and what may be taken from them now.

Within a partition events are taken in order. Three things tie partitions together (consistency `key`):

- A **truncate** stands in partition 0 of its topic, but concerns all partitions. It is taken when every other
  partition has been taken up to it: each stands at an event beyond it, or was read up to where it ended after the
  truncate had been read. Events beyond it say so (`cdc.truncated`), and wait until it was taken.
- A **changed key with UNCHANGED values** is a Delete in one partition and a Create in another. They are taken
  together, when both are next, so that the row can be moved.

- A **change of a table's shape** stands in the tables topic. It is taken as a truncate is, when all partitions of the
  table's topics have been taken up to it; events beyond it say so (`cdc.altered`).

All wait only for events at lower positions, or for each other, so the lowest never waits and there is no deadlock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from cdc.core.errors import GapError
from cdc.core.events import UNCHANGED, Alter, ChangeEvent, Create, Delete, Drop, Truncate
from cdc.core.log import TopicPartition
from cdc.core.position import ORIGIN, Position
from consumers.plan.checkpoint import PartitionProgress


class Entry(NamedTuple):
    """A record of a partition. `event` is None for what only moves the offset (a tombstone, an event seen before).

    `truncated` and `altered` are the barriers that it stands beyond; `topics` are those it is a barrier for itself.
    """

    offset: int
    event: ChangeEvent | None
    truncated: Position
    altered: Position
    topics: frozenset[str]


@dataclass(slots=True)
class _Queue:
    entries: deque[Entry]
    read_position: Position
    next_read: int
    taken: PartitionProgress

    def head(self) -> Entry | None:
        """The next event; what only moves the offset is taken on the way."""
        while self.entries and self.entries[0].event is None:
            self.pop()
        return self.entries[0] if self.entries else None

    def second(self) -> ChangeEvent | None:
        """The event after the head."""
        events = (entry.event for entry in self.entries if entry.event is not None)
        next(events, None)
        return next(events, None)

    def pop(self) -> Entry:
        entry = self.entries.popleft()
        position = self.taken.position if entry.event is None else entry.event.position
        self.taken = PartitionProgress(position, entry.offset + 1)
        return entry


@dataclass(slots=True)
class Batch:
    """Events in an order in which each key's are in commit order, and how far they bring each partition."""

    events: list[ChangeEvent] = field(default_factory=list)
    progress: dict[TopicPartition, PartitionProgress] = field(default_factory=dict)


class Inbox:
    """Holds what was read. The caller pauses partitions that are `crowded`, and answers `ends_wanted`."""

    def __init__(self, *, crowded_at: int) -> None:
        self._crowded_at = crowded_at
        self._tables: TopicPartition | None = None
        self._queues: dict[TopicPartition, _Queue] = {}
        self._topics: dict[str, list[TopicPartition]] = {}
        self._ends: dict[str, Mapping[TopicPartition, int]] = {}

    def assign(self, partition: TopicPartition, progress: PartitionProgress) -> None:
        """Events of this partition will come, from `progress.next_offset`."""
        self._queues[partition] = _Queue(deque(), progress.position, progress.next_offset, progress)
        self._topics.setdefault(partition.topic, []).append(partition)

    def assign_tables(self, partition: TopicPartition, progress: PartitionProgress) -> None:
        """As `assign`, of the tables topic."""
        self._tables = partition
        self.assign(partition, progress)

    def add(
        self,
        partition: TopicPartition,
        offset: int,
        event: ChangeEvent | None,
        *,
        truncated: Position = ORIGIN,
        altered: Position = ORIGIN,
        topics: frozenset[str] = frozenset(),
    ) -> None:
        """One record of the partition, in the order of offsets. What is at or below the highest position already
        read is a resend, and is skipped.
        """
        queue = self._queues[partition]
        if event is not None:
            if event.position <= queue.read_position:
                event = None
            else:
                queue.read_position = event.position
        if event is not None and isinstance(event.change, Truncate):
            topics = frozenset({partition.topic})
        for topic in topics:
            self._ends.pop(topic, None)  # asked before this barrier was read, and so perhaps too early
        queue.entries.append(Entry(offset, event, truncated, altered, topics))
        queue.next_read = offset + 1

    def crowded(self) -> set[TopicPartition]:
        """Partitions of which enough is here for now."""
        return {partition for partition, queue in self._queues.items() if len(queue.entries) >= self._crowded_at}

    def ends_wanted(self) -> set[str]:
        """Topics of which `ends` must be told before a waiting event can be judged."""
        return {topic for topic in self._waiting_topics() if topic not in self._ends}

    def ends(self, topic: str, ends: Mapping[TopicPartition, int]) -> None:
        """Where each partition of the topic ends (its next offset), asked of the log after `ends_wanted` named it."""
        self._ends[topic] = ends

    def take(self, most: int) -> Batch:
        """About `most` events that may be applied now, in one target transaction."""
        batch = Batch()
        before = {partition: queue.taken for partition, queue in self._queues.items()}
        taken = -1
        while taken < len(batch.events) < most:
            # One partition's progress may be what another waits for: go round until nothing moves.
            taken = len(batch.events)
            for partition, queue in self._queues.items():
                self._take_from(partition, queue, batch.events, most)
        batch.progress = {
            partition: queue.taken for partition, queue in self._queues.items() if queue.taken != before[partition]
        }
        return batch

    def _take_from(self, partition: TopicPartition, queue: _Queue, events: list[ChangeEvent], most: int) -> None:
        while len(events) < most and (entry := queue.head()) is not None:
            event = _event(entry)
            if not self._truncated_up_to(entry.truncated, partition) or not self._altered_up_to(entry.altered):
                return
            match event.change:
                case Truncate() | Drop() | Alter():
                    if _is_barrier(event) and not self._others_stand_at(event.position, partition, entry.topics):
                        return
                case Delete(awaits_create=True):
                    other = self._queue_of_create(event, partition)
                    if other is None:
                        return
                    events.append(_event(queue.pop()))
                    other.head()
                    events.append(_event(other.pop()))
                    continue
                case Create(moved_from=old) if old is not None and UNCHANGED in event.change.after:
                    return  # its Delete takes it along
                case _:
                    pass
            events.append(_event(queue.pop()))

    def _truncated_up_to(self, position: Position, partition: TopicPartition) -> bool:
        """Whether the truncate at `position`, which stands in partition 0, was taken."""
        first = TopicPartition(partition.topic, 0)
        queue = self._queues[first]
        if partition == first or queue.taken.position >= position:
            return True
        ends = self._ends.get(partition.topic)
        if ends is not None and not queue.entries and queue.next_read >= ends[first]:
            raise GapError(
                f"topic {partition.topic!r} no longer holds the truncate at {position}, which partition"
                f" {partition.partition} goes on from",
                mend="`cdc capture --start-over` loads all tables again; a longer [log] retention avoids it",
            )
        return False

    def _altered_up_to(self, position: Position) -> bool:
        """Whether the change of shape at `position`, which stands in the tables topic, was taken."""
        if position == ORIGIN:
            return True
        if self._tables is None:
            return False
        queue = self._queues[self._tables]
        if queue.taken.position >= position:
            return True
        ends = self._ends.get(self._tables.topic)
        if ends is not None and not queue.entries and queue.next_read >= ends[self._tables]:
            raise GapError(
                f"topic {self._tables.topic!r} no longer holds the change of a table at {position}, which later events"
                " come after",
                mend="`cdc capture --start-over` loads all tables again; keep that topic for ever",
            )
        return False

    def _others_stand_at(self, position: Position, partition: TopicPartition, topics: frozenset[str]) -> bool:
        """Whether all other partitions of the topics were taken up to `position`."""
        for topic in topics:
            if topic not in self._topics:
                return False  # not heard of yet
            ends = self._ends.get(topic)
            for other in self._topics[topic]:
                if other == partition:
                    continue
                queue = self._queues[other]
                entry = queue.head()
                if entry is None:
                    if ends is None or queue.next_read < ends[other]:
                        return False
                elif _event(entry).position < position:
                    return False
        return True

    def _queue_of_create(self, delete: ChangeEvent, partition: TopicPartition) -> _Queue | None:
        """The queue in which the Create of this Delete comes next; None if it does not come next in any yet."""
        wanted = delete.position._replace(ordinal=delete.ordinal + 1)
        for other in self._topics[partition.topic]:
            queue = self._queues[other]
            event = queue.second() if other == partition else _event_or_none(queue.head())
            if event is not None and event.position == wanted:
                return queue
        return None

    def _waiting_topics(self) -> set[str]:
        """Topics that the next event of some partition waits for: to stand at it, or to tell what it stands beyond."""
        wanted: set[str] = set()
        for partition, queue in self._queues.items():
            entry = queue.head()
            if entry is None:
                continue
            if _is_barrier(_event(entry)):
                wanted |= entry.topics & self._topics.keys()
            if not self._seen(partition, entry.truncated):
                wanted.add(partition.topic)
            if self._tables is not None and self._queues[self._tables].taken.position < entry.altered:
                wanted.add(self._tables.topic)
        return wanted

    def _seen(self, partition: TopicPartition, truncated: Position) -> bool:
        first = TopicPartition(partition.topic, 0)
        return partition == first or self._queues[first].taken.position >= truncated


def _is_barrier(event: ChangeEvent) -> bool:
    """A new table is none: its first events may come before it, and make it themselves."""
    match event.change:
        case Truncate() | Drop():
            return True
        case Alter(before=before):
            return before is not None
        case _:
            return False


def _event(entry: Entry) -> ChangeEvent:
    if entry.event is None:
        raise AssertionError("the head of a queue is always an event")
    return entry.event


def _event_or_none(entry: Entry | None) -> ChangeEvent | None:
    return None if entry is None else entry.event
