"""A log in memory: for users' own tests. It goes through the conformance suite of the real ones."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from typing_extensions import override

from cdc.avro.runs import RunReader
from cdc.core.errors import LogError
from cdc.core.log import (
    Log,
    LogReader,
    LogWriter,
    Offsets,
    Record,
    Retention,
    Run,
    StoredRecord,
    StoredRun,
    TopicPartition,
    TopicSpec,
)
from cdc.core.settings import LogSettings
from cdc.log.assignment import Assignment, share
from cdc.log.limits import (
    check_offset,
    check_sizes,
    keyless_in_compacted,
    missing_partition,
    require_partitions,
    unknown_partition,
)


@dataclass(slots=True)
class _Partition:
    compacted: bool
    first: int = 0
    next: int = 0
    records: dict[int, StoredRecord] = field(default_factory=dict)
    runs: dict[int, StoredRun] = field(default_factory=dict)
    latest: dict[bytes, int] = field(default_factory=dict)

    def store(self, record: Record, timestamp_ms: int) -> None:
        if self.compacted and record.key is not None:
            self.records.pop(self.latest.get(record.key, -1), None)
            self.latest[record.key] = self.next
        stored = StoredRecord(
            record.topic, record.partition, self.next, timestamp_ms, record.key, record.value, record.headers
        )
        if isinstance(record, Run):
            run = self.runs[self.next] = StoredRun(*stored)
            self.records |= {each.offset: each for each in RunReader().records(run)}
            self.next = run.next_offset
        else:
            self.records[self.next] = stored
            self.next += 1

    def trim(self, first: int) -> None:
        for offset in range(self.first, first):
            self.records.pop(offset, None)
            self.runs.pop(offset, None)
        self.first = max(self.first, first)

    def read(self, start: int, most: int, *, runs: bool) -> list[StoredRecord]:
        found: list[StoredRecord] = []
        while start < self.next and most > 0:
            record: StoredRecord | None = self.runs.get(start) if runs else None
            record = record or self.records.get(start)
            start = start + 1 if record is None else record.next_offset
            if record is not None:
                found.append(record)
                most -= record.next_offset - record.offset
        return found


class MemoryLog(Log):
    """Topics that live as long as this object. One writer at a time, any number of readers, in any threads.

    It keeps everything; `trim` does what retention does elsewhere. `committed` shows what readers published.
    """

    def __init__(self, settings: LogSettings | None = None) -> None:
        self._limit = (settings or LogSettings()).max_record_bytes
        self._partitions: dict[TopicPartition, _Partition] = {}
        self._counts: dict[str, int] = {}
        self._changed = threading.Condition()
        self._writing: set[str | None] = set()
        self.committed: dict[str, dict[TopicPartition, int]] = defaultdict(dict)

    @override
    def writer(self, *, only: str | None = None) -> LogWriter:
        with self._changed:
            if only in self._writing:
                raise LogError("the log in memory has a writer already", mend="close it first")
            self._writing.add(only)
        return _MemoryWriter(self, only)

    @override
    def reader(self, group: str) -> LogReader:
        return _MemoryReader(self, group)

    @override
    def __enter__(self) -> Self:
        return self

    @override
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def trim(self, partition: TopicPartition, first: int) -> None:
        """Remove all records below the offset `first`, as retention does."""
        with self._changed:
            self._partitions[partition].trim(first)

    def topics(self) -> dict[str, int]:
        return dict(self._counts)

    def create(self, topics: Iterable[TopicSpec]) -> None:
        with self._changed:
            for spec in topics:
                count = self._counts.setdefault(spec.name, spec.partitions)
                require_partitions(spec, count)
                for partition in range(count):
                    self._partitions.setdefault(TopicPartition(spec.name, partition), _Partition(spec.compacted))

    def check(self, records: Sequence[Record]) -> None:
        """Raise what is wrong with these records."""
        check_sizes(records, self._limit)
        for record in records:
            partition = TopicPartition(record.topic, record.partition)
            stored = self._partitions.get(partition)
            if stored is None:
                raise unknown_partition(partition)
            if stored.compacted and record.key is None:
                raise keyless_in_compacted(record.topic)

    def store(self, records: Sequence[Record]) -> None:
        now = time.time_ns() // 1_000_000
        with self._changed:
            for record in records:
                self._partitions[TopicPartition(record.topic, record.partition)].store(record, now)
            self._changed.notify_all()

    def offsets(self, partition: TopicPartition) -> Offsets | None:
        with self._changed:
            stored = self._partitions.get(partition)
            return None if stored is None else Offsets(stored.first, stored.next)

    def retention(self, topics: Collection[str]) -> dict[str, Retention]:
        with self._changed:
            there = [topic for topic in topics if topic in self._counts]
            return {topic: Retention(self._partitions[TopicPartition(topic, 0)].compacted, None) for topic in there}

    def take(self, assignment: Assignment, most: int, timeout: float, *, runs: bool) -> list[StoredRecord]:
        deadline = time.monotonic() + timeout
        with self._changed:
            while not (records := self._take_now(assignment, most, runs=runs)):
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
        return records

    def _take_now(self, assignment: Assignment, most: int, *, runs: bool) -> list[StoredRecord]:
        records: list[StoredRecord] = []
        turns = assignment.turns()
        for done, partition in enumerate(turns):
            stored, start = self._partitions[partition], assignment.next_offset(partition)
            check_offset(partition, start, Offsets(stored.first, stored.next))
            found = stored.read(start, share(most, len(turns) - done), runs=runs)
            if found:
                most -= sum(record.next_offset - record.offset for record in found)
                assignment.advance(partition, found[-1].next_offset)
                records += found
        return records

    def release_writer(self, only: str | None) -> None:
        self._writing.discard(only)


class _MemoryWriter(LogWriter):
    def __init__(self, log: MemoryLog, only: str | None) -> None:
        self._log = log
        self._only = only
        self._waiting: list[Record] = []
        self._ticket = 0
        self._durable = 0
        self._open = True

    @property
    @override
    def takes_runs(self) -> bool:
        return True

    @override
    def create_topics(self, topics: Iterable[TopicSpec]) -> None:
        self._log.create(topics)

    @override
    def append(self, records: Sequence[Record]) -> int:
        self._log.check(records)
        self._waiting += records
        self._ticket += 1
        return self._ticket

    @override
    def poll(self, timeout: float) -> int:
        self._log.store(self._waiting)
        self._waiting = []
        self._durable = self._ticket
        return self._durable

    @override
    def close(self) -> None:
        if self._open:
            self._open = False
            self._log.release_writer(self._only)


class _MemoryReader(LogReader):
    def __init__(self, log: MemoryLog, group: str) -> None:
        self._log = log
        self._group = group
        self._assignment = Assignment()

    @override
    def topics(self) -> dict[str, int]:
        return self._log.topics()

    @override
    def offsets(self, partition: TopicPartition) -> Offsets:
        held = self._log.offsets(partition)
        if held is None:
            raise unknown_partition(partition)
        return held

    @override
    def retention(self, topics: Collection[str]) -> dict[str, Retention]:
        return self._log.retention(topics)

    @override
    def assign(self, offsets: Mapping[TopicPartition, int]) -> None:
        for partition, offset in offsets.items():
            held = self._log.offsets(partition)
            if held is None:
                raise missing_partition(partition, offset)
            check_offset(partition, offset, held)
        self._assignment.assign(offsets)

    @override
    def unassign(self, partitions: Iterable[TopicPartition]) -> None:
        self._assignment.unassign(partitions)

    @override
    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        self._assignment.pause(partitions)

    @override
    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        self._assignment.resume(partitions)

    @override
    def poll(self, max_records: int, timeout: float) -> list[StoredRecord]:
        return self._log.take(self._assignment, max_records, timeout, runs=False)

    @override
    def poll_runs(self, max_records: int, timeout: float) -> list[StoredRecord]:
        return self._log.take(self._assignment, max_records, timeout, runs=True)

    @override
    def position(self, partition: TopicPartition) -> int:
        return self._assignment.next_offset(partition)

    @override
    def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        self._log.committed[self._group].update(offsets)

    @override
    def close(self) -> None:
        pass
