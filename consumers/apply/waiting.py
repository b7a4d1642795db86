"""Partitions that wait for others (consistency `key`): their next event is refused for what other rows are.

Partitions are applied independently, so that a row may come before the one that its foreign key names, or before the
one went that had its unique value. Its partition then waits, unread, until all others have been applied beyond the
event, or to where they end. Only if it is refused after that too, and again a moment later (what stands earlier in the
source may become durable later), nothing is to be waited for.

This does not mend what others brought too early: a parent that is gone already, a unique value that a later row has.
Only `consistency = "transaction"` applies all of a source's constraints in its order.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cdc.core.events import ChangeEvent
from cdc.core.log import LogReader, TopicPartition
from cdc.core.position import ORIGIN, Position
from consumers.plan.checkpoint import PartitionProgress
from consumers.plan.inbox import Inbox

_LOOK_SECONDS: Final = 0.05
_MOMENT_SECONDS: Final = 1.0


@dataclass(slots=True)
class _Waiting:
    """`alone_since` is when nothing was left to wait for."""

    position: Position
    paused: bool = True
    alone_since: float | None = None


class WaitingPartitions:
    """Gives partitions back to an inbox, and says which are not to be read for now."""

    def __init__(self, reader: LogReader, inbox: Inbox) -> None:
        self._reader = reader
        self._inbox = inbox
        self._waiting: dict[TopicPartition, _Waiting] = {}
        self._look_due = 0.0

    def may_wait(self, event: ChangeEvent) -> bool:
        """Whether there is still something to wait for."""
        if event.place is None:
            return False
        known = self._waiting.get(TopicPartition(event.place.topic, event.place.partition))
        if known is None or known.position != event.position or known.alone_since is None:
            return True
        return time.monotonic() - known.alone_since < _MOMENT_SECONDS

    def begin(
        self, waiting: Mapping[TopicPartition, ChangeEvent], done: Mapping[TopicPartition, PartitionProgress]
    ) -> None:
        """These events have to wait; `done` is how far the target is with all partitions."""
        for partition, event in waiting.items():
            if event.place is None:
                raise AssertionError("only what was read from a log can wait for it")
            known_done = done.get(partition)
            start = PartitionProgress(ORIGIN if known_done is None else known_done.position, event.place.offset)
            self._inbox.give_back(partition, start, event.position)
            self._reader.assign({partition: start.next_offset})
            known = self._waiting.get(partition)
            if known is None or known.position != event.position:
                self._waiting[partition] = _Waiting(event.position)
            else:
                known.paused = True

    @property
    def has_any(self) -> bool:
        return bool(self._waiting)

    def paused(self) -> set[TopicPartition]:
        """What is not to be read now: looked at again from time to time."""
        if self._waiting and time.monotonic() >= self._look_due:
            self._look_due = time.monotonic() + _LOOK_SECONDS
            self._look()
        return {partition for partition, waiting in self._waiting.items() if waiting.paused}

    def _look(self) -> None:
        passed = [partition for partition in self._waiting if self._has_passed(partition)]
        for partition in passed:
            del self._waiting[partition]
        alone = [waiting for partition, waiting in self._waiting.items() if self._is_alone(partition, waiting)]
        for waiting in alone:
            waiting.alone_since = waiting.alone_since or time.monotonic()
        if alone:
            # Together, for rows that refer to each other: a deferred constraint takes them in one transaction.
            for waiting in self._waiting.values():
                waiting.paused = False

    def _has_passed(self, partition: TopicPartition) -> bool:
        return self._inbox.taken(partition).position >= self._waiting[partition].position

    def _is_alone(self, partition: TopicPartition, waiting: _Waiting) -> bool:
        return waiting.paused and self._inbox.others_beyond(partition, waiting.position, self._end)

    def _end(self, partition: TopicPartition) -> int:
        """The offset up to which there is something to read; 0 if nothing is: the last ones may have no records."""
        end = self._reader.offsets(partition).next
        return 0 if self._reader.position(partition) >= end else end
