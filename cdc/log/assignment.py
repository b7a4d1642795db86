"""Where a reader stands in each of its partitions, and whose turn it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cdc.core.log import TopicPartition


class Assignment:
    """Next offsets of the assigned partitions; those paused keep theirs."""

    def __init__(self) -> None:
        self._next: dict[TopicPartition, int] = {}
        self._paused: set[TopicPartition] = set()
        self._turn = 0

    def assign(self, offsets: Mapping[TopicPartition, int]) -> None:
        self._next.update(offsets)
        self._paused.difference_update(offsets)

    def unassign(self, partitions: Iterable[TopicPartition]) -> None:
        for partition in partitions:
            self._next.pop(partition, None)
            self._paused.discard(partition)

    def pause(self, partitions: Iterable[TopicPartition]) -> list[TopicPartition]:
        """Those that were not paused before."""
        changed = [p for p in dict.fromkeys(partitions) if p in self._next and p not in self._paused]
        self._paused.update(changed)
        return changed

    def resume(self, partitions: Iterable[TopicPartition]) -> list[TopicPartition]:
        """Those that were paused before."""
        changed = [p for p in dict.fromkeys(partitions) if p in self._paused]
        self._paused.difference_update(changed)
        return changed

    def turns(self) -> list[TopicPartition]:
        """The partitions to read, another one first each time, so that none waits for ever behind a busy one."""
        reading = [partition for partition in self._next if partition not in self._paused]
        if not reading:
            return reading
        self._turn = (self._turn + 1) % len(reading)
        return reading[self._turn :] + reading[: self._turn]

    def next_offset(self, partition: TopicPartition) -> int:
        return self._next[partition]

    def reading_from(self, partition: TopicPartition) -> int | None:
        """The next offset to read; None if the partition is not assigned, or paused."""
        return None if partition in self._paused else self._next.get(partition)

    def advance(self, partition: TopicPartition, next_offset: int) -> None:
        self._next[partition] = next_offset

    def assigned(self, partitions: Iterable[TopicPartition]) -> list[TopicPartition]:
        """Those of `partitions` that are assigned."""
        return [partition for partition in dict.fromkeys(partitions) if partition in self._next]


def share(left: int, partitions: int) -> int:
    """How many of `left` records the next of so many partitions may take."""
    return -(-left // partitions)
