"""Some of a log's partitions, taken by one of several appliers that share them (consistency `key`).

An event here waits for none of another partition. One that would have to (see `inbox`: a truncate, the half of a moved
row, a change of shape, and what goes on from one that the target does not have yet) ends its partition for now, and is
told as `tied`: somebody has to take all partitions as far as that, alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from cdc.avro.scanned import ScannedEvent
from cdc.core.events import UNCHANGED, UNKNOWN_KEY, Alter, ChangeEvent, Create, Delete, Drop, Truncate
from cdc.core.log import TopicPartition
from cdc.core.position import ORIGIN, Position
from consumers.plan.batch import Arrived, Batch
from consumers.plan.checkpoint import PartitionProgress
from consumers.plan.room import Room

Tied = Mapping[TopicPartition, Position]
"""Partitions whose event at this position can only be taken by who takes all of them."""


class _Entry(NamedTuple):
    event: ChangeEvent
    truncated: Position
    altered: Position
    next_offset: int
    size: int


@dataclass(slots=True)
class _Queue:
    read_position: Position
    taken: PartitionProgress
    told: PartitionProgress
    entries: deque[_Entry] = field(default_factory=deque)
    size: int = 0

    def skip(self, offset: int) -> None:
        """The record there holds nothing new. It goes with the event before it."""
        if self.entries:
            self.entries[-1] = self.entries[-1]._replace(next_offset=offset + 1)
        else:
            self.taken = PartitionProgress(self.taken.position, offset + 1)

    def pop(self) -> ChangeEvent:
        entry = self.entries.popleft()
        self.size -= entry.size
        self.taken = PartitionProgress(entry.event.position, entry.next_offset)
        return entry.event


class PartInbox:
    """As `Inbox`, of some partitions. `reached` is how far the target was with all of them when they were taken over:
    what ties partitions together goes on only when they are given up, so up to there it does not change.
    """

    def __init__(self, *, room: Room, reached: Mapping[TopicPartition, PartitionProgress]) -> None:
        self._room = room
        self._reached = reached
        self._tables: TopicPartition | None = None
        self._queues: dict[TopicPartition, _Queue] = {}
        self._refused: dict[TopicPartition, Position] = {}
        self._alteration: Position | None = None

    @property
    def tied(self) -> Tied:
        found = {
            partition: queue.entries[0].event.position
            for partition, queue in self._queues.items()
            if queue.entries and self._is_tied(partition, queue.entries[0])
        }
        if self._tables is not None and self._alteration is not None:
            found[self._tables] = self._alteration
        return found | self._refused

    def assign(self, partition: TopicPartition, progress: PartitionProgress) -> None:
        """Events of this partition will come, from `progress.next_offset`."""
        self._queues[partition] = _Queue(progress.position, taken=progress, told=progress)

    def assign_tables(self, partition: TopicPartition, progress: PartitionProgress, first: int | None = None) -> int:  # noqa: ARG002
        """As `Inbox` has it: nothing is taken of it here."""
        self._tables = partition
        return progress.next_offset

    def add(
        self,
        partition: TopicPartition,
        offset: int,
        event: ChangeEvent | None,
        truncated: Position = ORIGIN,
        *,
        altered: Position = ORIGIN,
        size: int = 0,
    ) -> None:
        """One record of the partition, in the order of offsets. One that was read before (resent) is skipped. The log
        has `size` bytes of it.
        """
        queue = self._queues[partition]
        if event is None or event.position <= queue.read_position:
            queue.skip(offset)
        else:
            queue.read_position = event.position
            queue.entries.append(_Entry(event, truncated, altered, offset + 1, size))
            queue.size += size

    def add_all(self, partition: TopicPartition, arrived: Iterable[Arrived]) -> None:
        """See `add`."""
        for offset, event, truncated, altered, size in arrived:
            self.add(partition, offset, event, truncated, altered=altered, size=size)

    def add_alteration(
        self,
        partition: TopicPartition,
        offset: int,  # noqa: ARG002  # as `Inbox` has it
        position: Position | None,
        event: ChangeEvent | None,
        topics: frozenset[str] = frozenset(),  # noqa: ARG002
    ) -> None:
        """One record of the tables topic; `event` is None if it concerns no table of this target."""
        if event is not None and position is not None and position > self._position(partition):
            self._alteration = max(self._alteration or ORIGIN, position)

    def crowded(self) -> set[TopicPartition]:
        """Partitions of which enough is here for now."""
        count = len(self._queues)
        is_full = self._room.is_full
        return {at for at, queue in self._queues.items() if is_full(len(queue.entries), queue.size, count)}

    def has_room(self) -> bool:
        """Whether more may be read of any partition."""
        return not self.crowded()

    def ends_wanted(self) -> set[str]:
        """None: nothing here depends on where a partition ends."""
        return set()

    def ends(self, topic: str, ends: Mapping[TopicPartition, int]) -> None:
        """Never asked for."""

    def refuse(self, event: ChangeEvent) -> None:
        """What was taken from this event on was not applied, for what others may bring: it is tied as well. Nothing
        more may be taken.
        """
        if event.place is None:
            raise AssertionError("only what was read from a log can wait for it")
        partition = TopicPartition(event.place.topic, event.place.partition)
        self._refused.setdefault(partition, event.position)

    @property
    def has_refused(self) -> bool:
        """Whether something was refused."""
        return bool(self._refused)

    def take(self, most: int) -> Batch:
        """About `most` events that may be applied now, in one target transaction."""
        batch = Batch()
        if self._refused:
            return batch
        for partition, queue in self._queues.items():
            while len(batch.events) < most and queue.entries and not self._is_tied(partition, queue.entries[0]):
                batch.events.append(queue.pop())
            if queue.taken != queue.told:
                batch.progress[partition] = queue.told = queue.taken
        return batch

    def _is_tied(self, partition: TopicPartition, entry: _Entry) -> bool:
        event, truncated, altered, *_ = entry
        if altered > (ORIGIN if self._tables is None else self._position(self._tables)):
            return True
        return truncated > self._position(TopicPartition(partition.topic, 0)) or ties(event)

    def _position(self, partition: TopicPartition) -> Position:
        return self._reached[partition].position if partition in self._reached else ORIGIN


def ties(event: ChangeEvent) -> bool:
    """Whether the event concerns more than its own partition."""
    if isinstance(event, ScannedEvent):
        return False
    match event.change:
        case Truncate() | Alter() | Drop() | Delete(awaits_create=True):
            return True
        case Create(moved_from=old, after=row):
            return old == UNKNOWN_KEY or (old is not None and UNCHANGED in row)
        case _:
            return False
