"""ENDs that were read and whose transactions were not taken yet, in the order of commits."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from typing import Final, NamedTuple

from cdc.avro.transactions import End
from cdc.core.errors import LogGapError
from cdc.core.log import TopicPartition
from cdc.core.position import Position
from consumers.plan.checkpoint import PartitionProgress
from consumers.plan.partition_queues import TransactionKey

START_OVER: Final = "`cdc capture --start-over` loads all tables again; a longer [log] retention avoids it"


class Due(NamedTuple):
    """An END that waits to be taken: it came at `offset`, and again, perhaps, at `said_at`."""

    end: End
    offset: int
    said_at: int


class DueEnds(deque[Due]):
    """Of the transaction topic, from `progress` on. All up to `applied` was taken. `moved`: since the last batch."""

    def __init__(self, topic: TopicPartition, progress: PartitionProgress, *, applied: Position, trimmed: bool) -> None:
        super().__init__()
        self.topic = topic
        self.next = progress.next_offset
        self.applied = applied
        self.moved = False
        self._trimmed = trimmed
        self._is_in_order = True

    def add(self, offset: int, end: End | None) -> Due | None:
        """One record of the topic; None for any but an END. What is due because of it, if it came late or again.

        LogGapError if the record before it is not there.
        """
        if offset != self.next:
            raise lost(self.topic, self.next, offset)
        if self._trimmed and end is not None and end.is_transaction:
            if end.position > self.applied:
                raise _trimmed(self.topic, end, self.applied)
            self._trimmed = False
        self.next = offset + 1
        # What is no transaction may stand at the place of the one after it, and has nothing to be waited for.
        if end is None or not end.is_transaction or end.position <= self.applied:
            self.moved |= not self
            return None
        due = Due(end, offset, offset)
        if not self or self[-1].end.key < end.key:
            self.append(due)
            return None
        return self._placed(due)

    def _placed(self, due: Due) -> Due:
        at = bisect_left(self, due.end.key, key=_key)
        if self[at].end.key == due.end.key:
            due = self[at] = due._replace(offset=self[at].offset)
        else:
            self.insert(at, due)
            self._is_in_order = False
        return due

    def pass_to(self, position: Position) -> None:
        """All up to this position was taken."""
        self.applied = max(self.applied, position)
        self.moved = True

    @property
    def progress(self) -> PartitionProgress:
        offset = self.next
        if self:
            offset = self[0].offset if self._is_in_order else min(due.offset for due in self)
        return PartitionProgress(self.applied, offset)


def _key(due: Due) -> TransactionKey:
    return due.end.key


def _trimmed(partition: TopicPartition, end: End, applied: Position) -> LogGapError:
    return LogGapError(
        f"topic {partition.topic!r} begins with transaction {end.id} now, and the target has all up to {applied}:"
        " transactions between may be gone",
        mend=f'go on with consistency = "key"; {START_OVER}',
    )


def lost(partition: TopicPartition, wanted: int, found: int) -> LogGapError:
    return LogGapError(
        f"topic {partition.topic!r}, partition {partition.partition}: offset {found} came after {wanted - 1}; what"
        " stood between is gone, and whole transactions can't be told without it",
        mend='transactions need topics that are not compacted (cleanup.policy = "delete"); `cdc capture --start-over`'
        ' loads all tables again, or use consistency = "key"',
    )
