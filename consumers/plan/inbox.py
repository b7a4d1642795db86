"""Records that were read and not applied yet: a queue for each partition, and what may be taken from them now.

Within a partition events are taken in order. Three things tie partitions together (consistency `key`):

- A **truncate** stands in partition 0 of its topic, but concerns all partitions. It is taken when every other
  partition has been taken up to it: each stands at an event beyond it, or was read up to where it ended after the
  truncate had been read. Events beyond it say so (`cdc.truncated`), and wait until it was taken.
- A **changed key with UNCHANGED values** is a Delete in one partition and a Create in another. They are taken
  together, when both are next, so that the row can be moved. A connector's are, whatever values they have: its Delete
  does not say.
- A **change of a table's shape** stands in the tables topic. It is taken as a truncate is, when all partitions of the
  table's topics have been taken up to it. Events beyond it say so (`cdc.altered`), and wait until it was taken.

All wait only for events at lower positions, or for each other, so the lowest never waits and there is no deadlock.

A new epoch begins each table with a truncate, and may cut off what was under way: then the other half of a moved row
never comes. So once an event of a newer epoch was read, what is left of older ones is dropped. It counts as taken when
the truncate is: a restart before that must not find some of it without the rest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from cdc.avro.scanned import ScannedEvent
from cdc.core.errors import GapError
from cdc.core.events import UNCHANGED, UNKNOWN_KEY, Alter, ChangeEvent, Create, Delete, Drop, Truncate
from cdc.core.log import TopicPartition
from cdc.core.position import ORIGIN, Position
from cdc.core.runs import rows_of
from consumers.plan.batch import Arrived, Batch
from consumers.plan.checkpoint import PartitionProgress
from consumers.plan.room import Room


class _Entry(NamedTuple):
    """An event, the truncate and the change of shape that it goes on from, the topics that it concerns itself as a
    change of shape, the offset of what is to be taken after it, and the bytes that it has in the log.
    """

    event: ChangeEvent
    truncated: Position
    altered: Position
    topics: frozenset[str]
    next_offset: int
    size: int


@dataclass(slots=True)
class _Queue:
    """`taken` is how far `take` has come, and `told` what it said of that in a batch. `dropped` is how far events that
    were dropped will bring it. `next_at` is where the next event stands, if it was given back and not read again yet.
    `events` and `size` count what waits, and its bytes.
    """

    read_position: Position
    next_read: int
    taken: PartitionProgress
    told: PartitionProgress
    dropped: PartitionProgress | None = None
    next_at: Position | None = None
    entries: deque[_Entry] = field(default_factory=deque)
    events: int = 0
    size: int = 0

    def add(self, entry: _Entry) -> None:
        self.entries.append(entry)
        self.events += rows_of(entry.event)
        self.size += entry.size

    def skip(self, offset: int) -> None:
        """The record there holds nothing new. It goes with the event before it, so that any number take no room."""
        if self.entries:
            self.entries[-1] = self.entries[-1]._replace(next_offset=offset + 1)
        elif self.dropped is not None:
            self.dropped = PartitionProgress(self.dropped.position, offset + 1)
        else:
            self.taken = PartitionProgress(self.taken.position, offset + 1)

    def next_position(self, otherwise: Position) -> Position:
        """Where its next event stands, if it is known."""
        return self.entries[0].event.position if self.entries else self.next_at or otherwise

    def drop_before(self, epoch: int) -> None:
        while self.entries and self.entries[0].event.transaction.epoch < epoch:
            entry = self._popped()
            self.dropped = PartitionProgress(entry.event.position, entry.next_offset)

    def pass_dropped(self) -> None:
        if self.dropped is not None:
            self.taken, self.dropped = self.dropped, None

    def pop(self) -> ChangeEvent:
        entry = self._popped()
        self.taken, self.dropped = PartitionProgress(entry.event.position, entry.next_offset), None
        return entry.event

    def _popped(self) -> _Entry:
        entry = self.entries.popleft()
        self.events -= rows_of(entry.event)
        self.size -= entry.size
        return entry


def is_resent(read: Position, event: ChangeEvent) -> bool:
    """Whether the event was read before, the last one that was read being at `read`."""
    return event.position <= read


def takes_all(_topic: str, _event: ChangeEvent) -> bool:
    return True


class Inbox:
    """Holds what was read. The caller pauses partitions that are `crowded`, and answers `ends_wanted`.

    `takes` says whether an event of a topic is to be taken at all: the first that is not ends its partition.
    """

    def __init__(
        self,
        *,
        room: Room,
        resent: Callable[[Position, ChangeEvent], bool] = is_resent,
        takes: Callable[[str, ChangeEvent], bool] = takes_all,
    ) -> None:
        self._room = room
        self._resent = resent
        self._takes = takes
        self._tables: TopicPartition | None = None
        self._queues: dict[TopicPartition, _Queue] = {}
        self._topics: dict[str, list[TopicPartition]] = {}
        self._ends: dict[str, Mapping[TopicPartition, int]] = {}
        self._epochs: dict[str, int] = {}
        self._truncated: dict[str, Position] = {}
        self._altered = ORIGIN
        self._in_runs = 0  # rows that a batch has beyond one for each of its events

    def assign(self, partition: TopicPartition, progress: PartitionProgress) -> None:
        """Events of this partition will come, from `progress.next_offset`."""
        self._queues[partition] = _Queue(progress.position, progress.next_offset, taken=progress, told=progress)
        self._topics.setdefault(partition.topic, []).append(partition)

    def give_back(self, partition: TopicPartition, progress: PartitionProgress, next_at: Position) -> None:
        """What was taken of this partition from `progress` on was not applied, and will be read again from there. The
        first event of it stands at `next_at`.
        """
        self._queues[partition] = _Queue(
            progress.position, progress.next_offset, taken=progress, told=progress, next_at=next_at
        )

    def taken(self, partition: TopicPartition) -> PartitionProgress:
        return self._queues[partition].taken

    def others_beyond(
        self, partition: TopicPartition, position: Position, end: Callable[[TopicPartition], int]
    ) -> bool:
        """Whether all other partitions were taken up to the position: what is next of them is beyond it, or nothing is,
        up to the `end` (next offset) of theirs.
        """
        return all(
            queue.taken.position >= position
            or queue.next_position(ORIGIN) > position
            or (not queue.entries and queue.next_at is None and queue.next_read >= end(other))
            for other, queue in self._queues.items()
            if other != partition
        )

    def assign_tables(self, partition: TopicPartition, progress: PartitionProgress, first: int | None = None) -> int:  # noqa: ARG002
        """As `assign`, of the tables topic, whose records begin at offset `first`. From where on it is to be read."""
        self._tables = partition
        self.assign(partition, progress)
        return progress.next_offset

    def add(
        self,
        partition: TopicPartition,
        offset: int,
        event: ChangeEvent | None,
        truncated: Position = ORIGIN,
        *,
        altered: Position = ORIGIN,
        topics: frozenset[str] = frozenset(),
        size: int = 0,
    ) -> None:
        """One record of the partition, in the order of offsets. One that was `resent` is skipped. A change of a table's
        shape concerns `topics`. The log has `size` bytes of it.
        """
        queue = self._queues[partition]
        queue.next_read = offset + 1
        queue.next_at = None
        if event is None or self._resent(queue.read_position, event):
            queue.skip(offset)
        else:
            queue.read_position = event.position
            entry = _Entry(event, truncated, altered, topics, offset + 1, size)
            queue.add(entry)
            if truncated != ORIGIN or altered != ORIGIN or topics or _truncates(event):
                self._forget_ends(partition, entry)
            # What a table has become does not end with an epoch; nor does anything for one that is not to be taken.
            if partition != self._tables and self._takes(partition.topic, event):
                self._drop_before(event.transaction.epoch, partition)

    def add_all(self, partition: TopicPartition, arrived: Iterable[Arrived]) -> None:
        """See `add`."""
        for offset, event, truncated, altered, size in arrived:
            self.add(partition, offset, event, truncated, altered=altered, size=size)

    def add_alteration(
        self,
        partition: TopicPartition,
        offset: int,
        position: Position | None,
        event: ChangeEvent | None,
        topics: frozenset[str] = frozenset(),
    ) -> None:
        """One record of the tables topic; `event` is None if it concerns no table of this target. Then it was taken all
        the same, as its table may come to the target later; not by one that will see it as a part of a transaction.
        """
        self.add(partition, offset, event, topics=topics)
        queue = self._queues[partition]
        if event is None and position is not None and self._takes is takes_all and not queue.entries:
            queue.taken = PartitionProgress(max(queue.taken.position, position), queue.taken.next_offset)

    def is_past(self, ends: Mapping[TopicPartition, int]) -> bool:
        """Whether all that is to be taken of what stands before these offsets was."""
        return all(
            not self._takes(partition.topic, queue.entries[0].event)
            if queue.entries
            else queue.next_read >= ends.get(partition, 0)
            for partition, queue in self._queues.items()
        )

    def crowded(self) -> set[TopicPartition]:
        """Partitions of which enough is here for now."""
        count = len(self._queues)
        is_full = self._room.is_full
        return {at for at, queue in self._queues.items() if is_full(queue.events, queue.size, count)}

    def has_room(self) -> bool:
        """Whether more may be read of any partition."""
        return not self.crowded()

    def ends_wanted(self) -> set[str]:
        """Topics of which `ends` must be told before a waiting event can be judged."""
        return {topic for topic in self._waiting_topics() if topic not in self._ends}

    def ends(self, topic: str, ends: Mapping[TopicPartition, int]) -> None:
        """Where each partition of the topic ends (its next offset), asked of the log after `ends_wanted` named it."""
        self._ends[topic] = ends

    def take(self, most: int) -> Batch:
        """About `most` events that may be applied now, in one target transaction."""
        batch = Batch()
        self._in_runs = 0
        if self._tables is not None and self._next_is_alteration():
            self._take_from(self._tables, self._queues[self._tables], batch.events, 1)
        taken = -1 if not batch.events else most
        while taken < len(batch.events) < most - self._in_runs:
            # One partition's progress may be what another waits for: go round until nothing moves.
            taken = len(batch.events)
            for partition, queue in self._queues.items():
                if partition != self._tables:
                    self._take_from(partition, queue, batch.events, most)
        for partition, queue in self._queues.items():
            if queue.taken != queue.told:
                batch.progress[partition] = queue.told = queue.taken
        return batch

    def _forget_ends(self, partition: TopicPartition, entry: _Entry) -> None:
        """What is read may be the first to tell of something to wait for: ends told before may be too early for it."""
        event, truncated, altered, topics, *_ = entry
        if _truncates(event):
            self._ends.pop(partition.topic, None)
        elif truncated > self._truncated.get(partition.topic, ORIGIN):
            self._truncated[partition.topic] = truncated
            self._ends.pop(partition.topic, None)
        if altered > self._altered and self._tables is not None:
            self._altered = altered
            self._ends.pop(self._tables.topic, None)
        for topic in topics:
            self._ends.pop(topic, None)

    def _drop_before(self, epoch: int, partition: TopicPartition) -> None:
        """Drop what newer epochs than its own were read of; `epoch` is that of the event read last."""
        newest = self._epochs.setdefault(partition.topic, epoch)
        if epoch < newest:
            self._queues[partition].drop_before(newest)
        elif epoch > newest:
            self._epochs[partition.topic] = epoch
            for other in self._topics[partition.topic]:
                self._queues[other].drop_before(epoch)

    def _take_from(self, partition: TopicPartition, queue: _Queue, events: list[ChangeEvent], most: int) -> None:
        while len(events) < most - self._in_runs and queue.entries:
            event, truncated, altered, topics, *_ = queue.entries[0]
            if not self._takes(partition.topic, event) or not self._altered_up_to(altered):
                return
            if not self._truncated_up_to(truncated, partition):
                return
            match None if isinstance(event, ScannedEvent) else event.change:
                case Truncate():
                    if not self._others_stand_beyond(event.position, partition):
                        break
                    for place in self._topics[partition.topic]:
                        self._queues[place].pass_dropped()
                case Alter() | Drop():
                    # Alone in its batch: where people have to follow it, what they did must be checkpointed before
                    # anything that comes after it is tried.
                    if not events and self._all_stand_beyond(event, topics):
                        events.append(queue.pop())
                    break
                case Delete(awaits_create=True):
                    other = self._queue_of_create(event, partition)
                    if other is None:
                        return
                    events += [queue.pop(), other.pop()]
                    continue
                case Create(moved_from=old, after=row) if old == UNKNOWN_KEY or (old is not None and UNCHANGED in row):
                    self._require_delete(event, partition)
                    return  # its Delete takes it along
                case _:
                    self._in_runs += rows_of(event) - 1
            events.append(queue.pop())

    def _truncated_up_to(self, position: Position, partition: TopicPartition) -> bool:
        """Whether the truncate at `position`, which stands in partition 0, was taken."""
        if position == ORIGIN:
            return True
        first = TopicPartition(partition.topic, 0)
        if self._queues[first].taken.position >= position:
            return True
        if self._stands_beyond(first, position):
            raise GapError(
                f"topic {partition.topic!r} no longer holds the truncate at {position}, which partition"
                f" {partition.partition} goes on from",
                mend="`cdc capture --start-over` loads all tables again; a longer [log] retention avoids it",
            )
        return False

    def _next_is_alteration(self) -> bool:
        queue = self._queues[self._tables] if self._tables is not None else None
        return queue is not None and bool(queue.entries)

    def _altered_up_to(self, position: Position) -> bool:
        """Whether the change of shape at `position`, which stands in the tables topic, was taken."""
        if position == ORIGIN:
            return True
        if self._tables is None:
            return False
        if self._queues[self._tables].taken.position >= position:
            return True
        if self._stands_beyond(self._tables, position):
            raise GapError(
                f"topic {self._tables.topic!r} no longer holds the change of a table at {position}, which later events"
                " go on from",
                mend="`cdc capture --start-over` loads all tables again; that topic must be kept for ever",
            )
        return False

    def _all_stand_beyond(self, event: ChangeEvent, topics: frozenset[str]) -> bool:
        """Whether all partitions of the topics were taken up to the event. A new table needs not wait: its first events
        make it as well.
        """
        if isinstance(event.change, Alter) and event.change.before is None:
            return True
        if not topics <= self._topics.keys():
            return False  # not all heard of yet
        partitions = (partition for topic in topics for partition in self._topics[topic])
        return all(self._stands_before(partition, event.position) for partition in partitions)

    def _stands_before(self, partition: TopicPartition, position: Position) -> bool:
        """As `_stands_beyond`, but what is next may stand at `position` itself: in the tables topic, a change that only
        the next event of the table told of stands where that event does.
        """
        queue = self._queues[partition]
        at_it = bool(queue.entries) and queue.entries[0].event.position == position
        return at_it or self._stands_beyond(partition, position)

    def _others_stand_beyond(self, position: Position, partition: TopicPartition) -> bool:
        """Whether all of the topic's other partitions were taken up to `position`."""
        others = (other for other in self._topics[partition.topic] if other != partition)
        return all(self._stands_beyond(other, position) for other in others)

    def _stands_beyond(self, partition: TopicPartition, position: Position) -> bool:
        """Whether nothing up to `position` is left in the partition: what is next stands beyond it, or nothing is left
        up to where the log ended when it held that position already.
        """
        queue, ends = self._queues[partition], self._ends.get(partition.topic)
        if queue.entries or queue.next_at is not None:
            return queue.next_position(ORIGIN) > position
        return ends is not None and queue.next_read >= ends[partition]

    def _queue_of_create(self, delete: ChangeEvent, partition: TopicPartition) -> _Queue | None:
        """The queue in which the Create of this Delete comes next; None if it does not come next in any yet. GapError
        if it can't come any more.
        """
        wanted = delete.position._replace(ordinal=delete.ordinal + 1)
        may_come = False
        for other in self._topics[partition.topic]:
            queue = self._queues[other]
            next_one = 1 if other == partition else 0  # not the Delete itself
            stands_at = queue.entries[next_one].event.position if len(queue.entries) > next_one else ORIGIN
            if stands_at == wanted:
                return queue
            may_come |= stands_at < wanted
        if not may_come:
            raise GapError(
                f"topic {partition.topic!r} lacks the second half of the changed key at {delete.position}",
                mend="load the table again",
            )
        return None

    def _require_delete(self, create: ChangeEvent, partition: TopicPartition) -> None:
        """GapError if no partition can bring the Delete of this Create any more."""
        wanted = create.position._replace(ordinal=create.ordinal - 1)
        others = (self._queues[other] for other in self._topics[partition.topic] if other != partition)
        if not any(queue.next_position(queue.read_position) <= wanted for queue in others):
            raise GapError(
                f"topic {partition.topic!r} lacks the first half of the changed key at {create.position}",
                mend="load the table again; a topic of which only the last record of each key is kept (cleanup.policy ="
                " compact) may lose halves",
            )

    def _waiting_topics(self) -> set[str]:
        """Topics that the next event of a partition waits for: until all of them were taken up to it, or until what it
        goes on from was.
        """
        wanted: set[str] = set()
        for partition, queue in self._queues.items():
            if not queue.entries:
                continue
            event, truncated, altered, topics, *_ = queue.entries[0]
            first = self._queues[TopicPartition(partition.topic, 0)]
            if _truncates(event) or first.taken.position < truncated:
                wanted.add(partition.topic)
            wanted |= topics & self._topics.keys()
            if self._tables is not None and self._queues[self._tables].taken.position < altered:
                wanted.add(self._tables.topic)
        return wanted


def _truncates(event: ChangeEvent) -> bool:
    return not isinstance(event, ScannedEvent) and isinstance(event.change, Truncate)
