"""What was read of partitions and not taken yet, as it stands there; and how it is taken of many at once."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Collection
from operator import itemgetter
from typing import Any, Final

from cdc.avro.scanned import ScannedEvent
from cdc.core.events import Alter, ChangeEvent, Create, Delete, Drop, Truncate
from cdc.core.log import TopicPartition
from cdc.core.position import ORIGIN, Position
from consumers.plan.batch import Arrived
from consumers.plan.checkpoint import PartitionProgress

TransactionKey = tuple[int, int]  # epoch and commit LSN

_event: Final[Callable[[Arrived], Any]] = itemgetter(1)
_size: Final = itemgetter(4)
_TAKEN: Final[Arrived] = (0, None, ORIGIN, ORIGIN, 0)


class PartitionQueue:
    """Events in the order of their positions. `taken` is the position of the last one that was taken, and `next_taken`
    the offset of what is to be taken next. `moved`: since the last batch.

    Of what has a place but is no event here (another target's change of shape), `truncated` is the position: the order
    of commits says what comes after a truncate, so that nobody asks for it.
    """

    __slots__ = (
        "_first",
        "_last",
        "_read",
        "_skipped",
        "id",
        "moved",
        "next_read",
        "next_taken",
        "size",
        "taken",
        "waiting",
    )

    def __init__(self, partition: TopicPartition, progress: PartitionProgress) -> None:
        self.id = partition
        self.waiting: list[Arrived] = []  # behind what was taken, which goes once it is the greater part
        self._first = 0
        self.size = 0  # bytes of what waits, in the log
        self.next_read = self.next_taken = progress.next_offset
        self.taken = self._read = progress.position
        self._last: Arrived | None = None
        # Offsets of waiting events that records follow which hold nothing new, and what is to be taken after those.
        self._skipped: deque[tuple[int, int]] = deque()
        self.moved = False

    def __len__(self) -> int:
        """How many events wait."""
        return len(self.waiting) - self._first

    @property
    def read(self) -> Position:
        """The position that was read last."""
        if self._last is not None:
            self._read, self._last = position_of(self._last), None
        return self._read

    def read_again(self, first: int, applied: Position) -> None:
        """From the offset `first`: what stands beyond `applied` is to be taken, even if it was passed by."""
        self.next_read = first
        self._read = max(self._read, applied)

    def noted(self, last: Arrived, size: int) -> None:
        """`waiting` was extended up to this one, by `size` bytes."""
        self._last = last
        self.size += size

    def skip(self, offset: int) -> None:
        """The record there, the one after what was read last, holds nothing new. It goes with the event before it, so
        that any number take no room.
        """
        self.next_read = offset + 1
        if not len(self):
            self._passed(offset + 1)
            return
        last = self.waiting[-1][0]
        if self._skipped and self._skipped[-1][0] == last:
            self._skipped.pop()
        self._skipped.append((last, offset + 1))

    def first_position(self) -> Position:
        """Of the event that is to be taken next."""
        return position_of(self.waiting[self._first])

    def at(self, number: int) -> Arrived:
        """The one that is to be taken after so many others."""
        return self.waiting[self._first + number]

    def count(self, up_to: TransactionKey) -> int:
        """How many events wait of transactions up to this one."""
        first = self._first
        if first == len(self.waiting) or key_of(self.waiting[first]) > up_to:
            return 0
        return bisect_right(self.waiting, up_to, lo=first, key=key_of) - first

    def count_before(self, position: Position) -> int:
        """How many wait up to this position."""
        return bisect_right(self.waiting, position, lo=self._first, key=position_of) - self._first

    def take(self, count: int) -> list[Arrived]:
        """So many, at least one."""
        end = self._first + count
        run = self.waiting[self._first : end]
        if end > len(self.waiting) // 2:
            del self.waiting[:end]
            self._first = 0
        else:
            self.waiting[self._first : end] = [_TAKEN] * count
            self._first = end
        self.size -= sum(map(_size, run))
        last = run[-1]
        self.taken = position_of(last)
        behind = last[0] + 1
        while self._skipped and self._skipped[0][0] <= last[0]:
            at, following = self._skipped.popleft()
            if at == last[0]:
                behind = following
        self._passed(behind)
        return run

    def _passed(self, next_taken: int) -> None:
        """Never back: some of the tables topic is read again."""
        self.next_taken = max(self.next_taken, next_taken)
        self.moved = True

    @property
    def progress(self) -> PartitionProgress:
        return PartitionProgress(self.taken, self.next_taken)


Runs = list[tuple[PartitionQueue, int]]
"""How much is to be taken of which partitions, at least one event of each."""


class PartitionQueues(dict[TopicPartition, PartitionQueue]):
    """All partitions of a target. `dropped` counts events that were taken and given to nobody."""

    def __init__(self) -> None:
        super().__init__()
        self.topics: dict[str, list[PartitionQueue]] = {}
        self.tables: PartitionQueue | None = None
        self.dropped = 0

    def assign(self, partition: TopicPartition, progress: PartitionProgress) -> PartitionQueue:
        queue = self[partition] = PartitionQueue(partition, progress)
        self.topics.setdefault(partition.topic, []).append(queue)
        return queue

    def runs(self, up_to: TransactionKey) -> Runs:
        """All that is here of transactions up to this one."""
        counts = ((queue, queue.count(up_to)) for queue in self.values())
        return [(queue, count) for queue, count in counts if count]

    def drop(self, runs: Runs) -> set[TransactionKey]:
        """The transactions of which these were. There are no changes of shape among them."""
        dropped: set[TransactionKey] = set()
        for queue, count in runs:
            dropped.update(map(key_of, queue.take(count)))
            self.dropped += count
        return dropped

    def take(
        self, runs: Runs, wanted: Collection[str] | None = None, without: Collection[TransactionKey] = ()
    ) -> list[ChangeEvent]:
        """These events, if they are of topics that are `wanted` (else all are), `without` those of some transactions;
        and changes of shape. Tables are in the order of their first event.
        """
        taken: list[Arrived] = []
        for queue, count in sorted(runs, key=_first_of_run):
            run = queue.take(count)
            if without:
                run = [each for each in run if key_of(each) not in without]
            if wanted is None or queue is self.tables or queue.id.topic in wanted:
                taken += run
                self.dropped += count - len(run)
            else:
                self.dropped += count
        events = [*map(_event, taken)]
        if {*map(type, events)} != {ScannedEvent} and any(map(_is_placed, events)):
            taken.sort(key=_place)
            events = [each[1] for each in taken if each[1] is not None]
        return events


def with_both_halves(runs: Runs) -> Runs:
    """Without the last event, if that is the first half of a moved row: it is moved by both together."""
    if not runs:
        return runs
    last, count = max(runs, key=lambda run: position_of(run[0].at(run[1] - 1)))
    if not _is_first_half(last.at(count - 1)[1]):
        return runs
    fewer = [(queue, count - (queue is last)) for queue, count in runs]
    return [(queue, count) for queue, count in fewer if count]


def key_of(arrived: Arrived) -> TransactionKey:
    event = arrived[1]
    if event is None:
        return arrived[2][:2]
    of = event.transaction
    return of.epoch, of.commit_lsn


def position_of(arrived: Arrived) -> Position:
    event = arrived[1]
    return arrived[2] if event is None else event.position


def _first_of_run(run: tuple[PartitionQueue, int]) -> Position:
    return run[0].first_position()


def _place(arrived: Arrived) -> tuple[Position, bool]:
    """A change of shape stands where the event stands that it comes before."""
    event = arrived[1]
    return position_of(arrived), event is not None and not event.defines_table


def _is_placed(event: ChangeEvent | None) -> bool:
    """Whether what other partitions have must stand on the right side of it."""
    if event is None:
        return True
    if isinstance(event, ScannedEvent):
        return False
    match event.change:
        case Truncate() | Alter() | Drop():
            return True
        case Delete(moved_to=moved) | Create(moved_from=moved):
            return moved is not None
        case _:
            return False


def _is_first_half(event: ChangeEvent | None) -> bool:
    """Of a changed key; whatever values its Create has, foreign keys of a target may act on a delete."""
    if event is None or isinstance(event, ScannedEvent):
        return False
    return isinstance(event.change, Delete) and event.change.moved_to is not None
