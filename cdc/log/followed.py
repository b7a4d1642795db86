"""A reader of any log that knows whether there is more to read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cdc.core.log import LogReader, StoredRecord, TopicPartition


class FollowedReader:
    """A `LogReader` that tells whether all that is in the log was read."""

    def __init__(self, reader: LogReader) -> None:
        self._reader = reader
        self._assigned: set[TopicPartition] = set()
        self.topics = reader.topics
        self.offsets = reader.offsets
        self.position = reader.position
        self.retention = reader.retention
        self.pause = reader.pause
        self.resume = reader.resume
        self.commit = reader.commit
        self.close = reader.close

    def assign(self, offsets: Mapping[TopicPartition, int]) -> None:
        self._reader.assign(offsets)
        self._assigned.update(offsets)

    def unassign(self, partitions: Iterable[TopicPartition]) -> None:
        gone = list(partitions)
        self._reader.unassign(gone)
        self._assigned.difference_update(gone)

    def poll(self, max_records: int, timeout: float) -> list[StoredRecord]:
        return self._reader.poll(max_records, timeout)

    def poll_runs(self, max_records: int, timeout: float) -> list[StoredRecord]:
        return self._reader.poll_runs(max_records, timeout)

    def at_end(self) -> bool:
        return all(self.position(partition) >= self.offsets(partition).next for partition in self._assigned)
