"""Reading the local log."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Collection, Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

from typing_extensions import override

from cdc.avro.runs import RunReader
from cdc.core.errors import LogError
from cdc.core.log import LogReader, Offsets, Retention, StoredRecord, StoredRun, TopicPartition
from cdc.log.assignment import Assignment, share
from cdc.log.limits import check_offset, missing_partition, unknown_partition
from cdc.log.local.blocks import is_run, unpacked, unpacked_run
from cdc.log.local.database import open_for_reading, snapshot, translated
from cdc.log.local.layout import OFFSET_MASK, place_of

_TICK_SECONDS: Final = 0.004  # between two looks at a counter that changes with every commit: 1.5 % of a core
_MOST_BYTES: Final = 32 << 20  # of one poll

_MOST_LEFT: Final = 100_000  # records of all partitions

_STATE = "SELECT topic, partition, number, first_offset, next_offset FROM partitions"
_BLOCKS = (
    "SELECT place, records, timestamp_ms, body FROM blocks"
    " WHERE place >= coalesce((SELECT max(place) FROM blocks WHERE place BETWEEN :first AND :next), :next)"
    " AND place <= :last ORDER BY place"
)


class _Held(NamedTuple):
    number: int
    offsets: Offsets


class LocalReader(LogReader):
    """Reads in short transactions, so that the writer can always start the WAL over.

    The file may come later: until then there are no topics.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._assignment = Assignment()
        self._runs = RunReader()
        self._left: dict[TopicPartition, list[StoredRecord]] = {}  # of the block that was read last, in order
        self._version = -1
        self._behind = True

    @override
    def topics(self) -> dict[str, int]:
        connection = self._opened()
        if connection is None:
            return {}
        with translated(self._path):
            return dict(connection.execute("SELECT name, partitions FROM topics").fetchall())

    @override
    def offsets(self, partition: TopicPartition) -> Offsets:
        held = self._held_by(partition)
        if held is None:
            raise unknown_partition(partition)
        return held

    @override
    def retention(self, topics: Collection[str]) -> dict[str, Retention]:
        """The writer's settings say for how long: the same for all."""
        connection = self._opened()
        if connection is None:
            return {}
        with translated(self._path):
            rows = connection.execute("SELECT name, compacted FROM topics").fetchall()
        return {name: Retention(bool(compacted), None) for name, compacted in rows if name in topics}

    @override
    def assign(self, offsets: Mapping[TopicPartition, int]) -> None:
        for partition, offset in offsets.items():
            held = self._held_by(partition)
            if held is None:
                raise missing_partition(partition, offset)
            check_offset(partition, offset, held)
        self._assignment.assign(offsets)
        self._forget(offsets)
        self._behind = True

    @override
    def unassign(self, partitions: Iterable[TopicPartition]) -> None:
        going = self._assignment.assigned(partitions)
        self._assignment.unassign(going)
        self._forget(going)

    @override
    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        self._forget(self._assignment.pause(partitions))

    @override
    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        self._behind = bool(self._assignment.resume(partitions)) or self._behind

    @override
    def poll(self, max_records: int, timeout: float) -> list[StoredRecord]:
        return self._poll(max_records, timeout, runs=False)

    @override
    def poll_runs(self, max_records: int, timeout: float) -> list[StoredRecord]:
        return self._poll(max_records, timeout, runs=True)

    def _poll(self, max_records: int, timeout: float, *, runs: bool) -> list[StoredRecord]:
        deadline = time.monotonic() + timeout
        while True:
            with translated(self._path):
                records = self._take(max_records, runs=runs)
            left = deadline - time.monotonic()
            if records or left <= 0:
                return records
            time.sleep(min(_TICK_SECONDS, left))

    @override
    def position(self, partition: TopicPartition) -> int:
        return self._assignment.next_offset(partition)

    @override
    def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Nothing: the local log has no lag display of its own, and a reader writes nothing here."""

    @override
    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _take(self, most: int, *, runs: bool) -> list[StoredRecord]:
        """What there is to read now, a fair share of each partition that has something."""
        connection = self._opened()
        if connection is None or not self._news(connection):
            return []
        records: list[StoredRecord] = []
        taken = size = 0
        with snapshot(connection):
            state = _state(connection)
            waiting = [partition for partition in self._assignment.turns() if self._has_more(partition, state)]
            for done, partition in enumerate(waiting):
                if taken >= most or size >= _MOST_BYTES:
                    break
                found, count, bytes_read = self._read(
                    connection, partition, state[partition], share(most - taken, len(waiting) - done), runs=runs
                )
                records += found
                taken += count
                size += bytes_read
            self._behind = any(self._has_more(partition, state) for partition in waiting)
        if sum(map(len, self._left.values())) > _MOST_LEFT:
            self._left.clear()  # they are read again
        return records

    def _news(self, connection: sqlite3.Connection) -> bool:
        """Whether anything was committed since the last look, or was left then."""
        version = connection.execute("PRAGMA data_version").fetchone()[0]
        news = self._behind or version != self._version
        self._version = version
        return bool(news)

    def _has_more(self, partition: TopicPartition, state: Mapping[TopicPartition, _Held]) -> bool:
        held, offset = state.get(partition), self._assignment.next_offset(partition)
        if held is None:
            raise missing_partition(partition, offset)
        check_offset(partition, offset, held.offsets)
        return offset < held.offsets.next

    def _read(
        self, connection: sqlite3.Connection, partition: TopicPartition, held: _Held, most: int, *, runs: bool
    ) -> tuple[list[StoredRecord], int, int]:
        """Up to `most` records, fewer if they are large; how many, and their size in bytes. With `runs` the last may be
        a run that brings more.
        """
        records = self._left.pop(partition, [])
        following = records[-1].offset + 1 if records else self._assignment.next_offset(partition)
        count, size = len(records), 0
        is_all = False
        if count < most:
            places = {
                "first": place_of(held.number, held.offsets.first),
                "next": place_of(held.number, following),
                "last": place_of(held.number, OFFSET_MASK),
            }
            with closing(connection.execute(_BLOCKS, places)) as blocks:
                for place, block_count, timestamp_ms, body in blocks:
                    offset = place & OFFSET_MASK
                    if offset + block_count > following:
                        size += len(body)
                        block = (body, block_count, partition, offset, timestamp_ms)
                        if not is_run(body):
                            records += unpacked(*block)[max(following - offset, 0) :]
                        elif runs and offset >= following:
                            records.append(unpacked_run(*block))
                        else:
                            records += self._runs.records(unpacked_run(*block))[max(following - offset, 0) :]
                        count += offset + block_count - max(following, offset)
                        following = offset + block_count
                    if count >= most or size >= _MOST_BYTES:
                        break
                else:
                    is_all = True
        if count > most and not isinstance(records[-1], StoredRun):
            keep = len(records) - (count - most)
            self._left[partition] = records[keep:]
            records, count, following = records[:keep], most, records[keep].offset
            is_all = False
        # Past the last record of a compacted topic there may be offsets without records.
        self._assignment.advance(partition, held.offsets.next if is_all else following)
        return records, count, size

    def _forget(self, partitions: Iterable[TopicPartition]) -> None:
        for partition in partitions:
            self._left.pop(partition, None)

    def _held_by(self, partition: TopicPartition) -> Offsets | None:
        connection = self._opened()
        if connection is None:
            return None
        with translated(self._path):
            row = connection.execute(
                "SELECT first_offset, next_offset FROM partitions WHERE topic = ? AND partition = ?", partition
            ).fetchone()
        return None if row is None else Offsets(*row)

    def _opened(self) -> sqlite3.Connection | None:
        if self._connection is None:
            self._file = _identity(self._path)
            self._connection = open_for_reading(self._path)
        elif _identity(self._path) != self._file:
            raise LogError(
                f"{self._path} was moved or replaced by another file while it was read",
                mend="start again to read the new file; a target then says whether it has a gap",
            )
        return self._connection


def _state(connection: sqlite3.Connection) -> dict[TopicPartition, _Held]:
    return {
        TopicPartition(topic, partition): _Held(number, Offsets(first, following))
        for topic, partition, number, first, following in connection.execute(_STATE)
    }


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
