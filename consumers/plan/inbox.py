"""Records that were read and not applied yet: a queue for each partition, and what may be taken from them now.

Within a partition events are taken in order. Two things tie partitions together (consistency `key`):

- A **truncate** stands in partition 0 of its topic, but concerns all partitions. It is taken when every other partition
  has been taken up to it: each stands at an event beyond it, or was read up to where it ended after the truncate had been
  read. Events beyond it say so (`cdc.truncated`), and wait until it was taken.
- A **changed key with UNCHANGED values** is a Delete in one partition and a Create in another. They are taken
  together, when both are next, so that the row can be moved.

Both wait only for events at lower positions, or for each other, so the lowest never waits and there is no deadlock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from cdc.core.errors import GapError
from cdc.core.events import UNCHANGED, ChangeEvent, Create, Delete, Truncate
from cdc.core.log import TopicPartition
from cdc.core.position import ORIGIN, Position
from consumers.plan.checkpoint import PartitionProgress


class Entry(NamedTuple):
    """A record of a partition. `event` is None for what only moves the offset (a tombstone, an event seen before)."""

    offset: int
    event: ChangeEvent | None
    truncated: Position


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

    def pop(self) -> ChangeEvent | None:
        entry = self.entries.popleft()
        position = self.taken.position if entry.event is None else entry.event.position
        self.taken = PartitionProgress(position, entry.offset + 1)
        return entry.event


@dataclass(slots=True)
class Batch:
    """Events in an order in which each key's are in commit order, and how far they bring each partition."""

    events: list[ChangeEvent] = field(default_factory=list)
    progress: dict[TopicPartition, PartitionProgress] = field(default_factory=dict)


class Inbox:
    """Holds what was read. The caller pauses partitions that are `crowded`, and answers `ends_wanted`."""

    def __init__(self, *, crowded_at: int) -> None:
        self._crowded_at = crowded_at
        self._queues: dict[TopicPartition, _Queue] = {}
        self._topics: dict[str, list[TopicPartition]] = {}
        self._ends: dict[str, Mapping[TopicPartition, int]] = {}
        self._touched: set[TopicPartition] = set()

    def assign(self, partition: TopicPartition, progress: PartitionProgress) -> None:
        """Events of this partition will come, from `progress.next_offset`."""
        self._queues[partition] = _Queue(deque(), progress.position, progress.next_offset, progress)
        self._topics.setdefault(partition.topic, []).append(partition)

    def add(
        self, partition: TopicPartition, offset: int, event: ChangeEvent | None, truncated: Position = ORIGIN
    ) -> None:
        """One record of the partition, in the order of offsets. What is at or below the highest position already read is
        a resend, and is skipped.
        """
        queue = self._queues[partition]
        if event is not None:
            if event.position <= queue.read_position:
                event = None
            else:
                queue.read_position = event.position
        queue.entries.append(Entry(offset, event, truncated))
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
        """Up to about `most` events that may be applied now, in one target transaction."""
        batch = Batch()
        touched: set[TopicPartition] = set()
        moving = True
        while moving and len(batch.events) < most:
            moving = False
            for partition, queue in self._queues.items():
                before = queue.taken
                batch.events.extend(self._takeable(partition, queue, most - len(batch.events)))
                if queue.taken != before:
                    touched.add(partition)
                    moving = True
        for partition, queue in self._queues.items():
            if (
                queue.taken.next_offset != batch.progress.get(partition, queue.taken).next_offset
                or partition in touched
            ):
                batch.progress[partition] = queue.taken
        return batch

    def _takeable(self, partition: TopicPartition, queue: _Queue, most: int) -> Iterator[ChangeEvent]:
        taken = 0
        while taken < most and (entry := queue.head()) is not None and entry.event is not None:
            event = entry.event
            if not self._reached(TopicPartition(partition.topic, 0), entry.truncated, partition):
                return
            if isinstance(event.change, Truncate):
                if not self._others_are_at(partition, event.position):
                    return
                self._ends.pop(partition.topic, None)
            elif isinstance(event.change, Delete) and event.change.awaits_create:
                partner = self._partner(partition, event)
                if partner is None:
                    return
                queue.pop()
                yield event
                partner.head()
                event = _some(partner.head()).event  # type: ignore[assignment]
                partner.pop()
                yield event
                taken += 2
                continue
            elif _is_second_half(event):
                return
            queue.pop()
            yield event
            taken += 1
