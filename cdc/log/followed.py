"""A reader of any log that knows whether there is more to read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cdc.core.log import LogReader, StoredRecord, TopicPartition


class FollowedReader:
    """A `LogReader` that tells whether all that is in the log was read."""

    def __init__(self, reader: LogReader) -> None:
        self._reader = reader
        self._next: dict[TopicPartition, int] = {}
        self.topics = reader.topics
        self.offsets = reader.offsets
        self.retention = reader.retention
        self.pause = reader.pause
        self.resume = reader.resume
        self.commit = reader.commit
        self.close = reader.close

    def assign(self, offsets: Mapping[TopicPartition, int]) -> None:
        self._reader.assign(offsets)
        self._next.update(offsets)

    def unassign(self, partitions: Iterable[TopicPartition]) -> None:
        gone = list(partitions)
        self._reader.unassign(gone)
        for partition in gone:
            self._next.pop(partition, None)

    def poll(self, max_records: int, timeout: float) -> list[StoredRecord]:
        return self._noted(self._reader.poll(max_records, timeout))

    def poll_runs(self, max_records: int, timeout: float) -> list[StoredRecord]:
        return self._noted(self._reader.poll_runs(max_records, timeout))

    def at_end(self) -> bool:
        return all(at >= self._reader.offsets(partition).next for partition, at in self._next.items())

    def _noted(self, records: list[StoredRecord]) -> list[StoredRecord]:
        for record in records:
            self._next[TopicPartition(record.topic, record.partition)] = record.next_offset
        return records
