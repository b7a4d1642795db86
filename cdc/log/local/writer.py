"""Writing the local log."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from typing_extensions import override

from cdc.core.errors import CdcError, LogError
from cdc.core.log import LogWriter, Record, TopicPartition, TopicSpec
from cdc.core.settings import LogSettings
from cdc.log.limits import check_sizes, keyless_in_compacted, require_partitions, unknown_partition
from cdc.log.local.blocks import blocks, count_of, packed
from cdc.log.local.database import checkpoint_and_truncate, open_for_writing, transaction, translated
from cdc.log.local.layout import place_of
from cdc.log.local.lock import lock_for_writing
from cdc.log.local.retention import give_space_back, remove_older

_RECORDS_AT_ONCE: Final = 50_000  # waiting records beyond this are stored by `append` itself
_RETENTION_SECONDS: Final = 60.0
_WAL_BYTES: Final = 64 << 20
_HOUR_MS: Final = 3_600_000

_Block = tuple[int, int, int, bytes]


@dataclass(slots=True, eq=False)
class _Partition:
    """`waiting` are records that are not stored yet. The first of them gets `next_offset`."""

    number: int
    next_offset: int
    compacted: bool
    waiting: list[Record] = field(default_factory=list)

    def blocks(self, now_ms: int) -> Iterator[_Block]:
        """Rows for all that waits."""
        pieces = [[record] for record in self.waiting] if self.compacted else blocks(self.waiting)
        offset = self.next_offset
        for piece in pieces:
            count = count_of(piece)
            yield place_of(self.number, offset), count, now_ms, packed(piece)
            offset += count

    def stored(self) -> None:
        """What waited is."""
        self.next_offset += count_of(self.waiting)
        self.waiting = []


class LocalWriter(LogWriter):
    """Group commit: `append` collects, `poll` stores all of it in one transaction, on disk when it returns.

    One of `only` one topic leaves retention and the WAL to the log's writer: see `cdc.log.local.database`.
    """

    def __init__(self, path: Path, settings: LogSettings, clock: Callable[[], float], only: str | None = None) -> None:
        self._path = path
        self._wal = Path(f"{path}-wal")
        self._limit = settings.max_record_bytes
        self._only = only
        self._retention_ms = 0 if only else settings.retention_hours * _HOUR_MS
        self._clock = clock
        self._partitions: dict[tuple[str, int], _Partition] = {}
        self._counts: dict[str, int] = {}
        self._waiting: list[_Partition] = []  # those with records that are not stored yet
        self._waiting_records = 0
        self._ticket = 0
        self._durable = 0
        self._failure: CdcError | None = None
        self._retention_due = 0.0
        self._wal_limit = _WAL_BYTES
        self._lock = lock_for_writing(path, only)
        try:
            self._connection = open_for_writing(path, alone=only is None)
            self._load_topics()
        except BaseException:
            self._lock.close()
            raise

    @property
    @override
    def takes_runs(self) -> bool:
        return True

    @override
    def create_topics(self, topics: Iterable[TopicSpec]) -> None:
        with self._failing(), transaction(self._connection):
            self._load_topics()  # another writer may have made them
            missing = [spec for spec in topics if self._is_missing(spec)]
            for spec in missing:
                self._create(spec)
        self._load_topics()

    @override
    def append(self, records: Sequence[Record]) -> int:
        self._raise_failure()
        check_sizes(records, self._limit)
        partitions = {place: self._partition_at(*place) for place in {record[:2] for record in records}}
        self._check_keys(records, partitions)
        for partition in partitions.values():
            if not partition.waiting:
                self._waiting.append(partition)
        adders = {place: partition.waiting.append for place, partition in partitions.items()}
        for record in records:
            adders[record[:2]](record)
        self._waiting_records += len(records)
        self._ticket += 1
        if self._waiting_records >= _RECORDS_AT_ONCE:
            self._store()
        return self._ticket

    @override
    def poll(self, timeout: float) -> int:
        self._raise_failure()
        self._store()
        if self._retention_ms and self._clock() >= self._retention_due:
            self._remove_old()
        return self._durable

    @override
    def close(self) -> None:
        self._connection.close()
        self._lock.close()

    def _store(self) -> None:
        if self._waiting:
            with self._failing():
                with transaction(self._connection):
                    self._write()
                self._bound_wal()
            self._waiting = []
            self._waiting_records = 0
        self._durable = self._ticket

    def _write(self) -> None:
        now_ms = int(self._clock() * 1000)
        for partition in self._waiting:
            self._connection.executemany("INSERT INTO blocks VALUES (?, ?, ?, ?)", partition.blocks(now_ms))
            if partition.compacted:
                self._compact(partition)
            partition.stored()
        self._connection.executemany(
            "UPDATE partitions SET next_offset = ? WHERE number = ?",
            [(partition.next_offset, partition.number) for partition in self._waiting],
        )

    def _compact(self, partition: _Partition) -> None:
        """Of each key written now, keep the last record only."""
        number = partition.number
        places = [place_of(number, offset) for offset, _ in enumerate(partition.waiting, partition.next_offset)]
        latest = {record.key: place for record, place in zip(partition.waiting, places, strict=True)}
        kept = set(latest.values())
        self._connection.executemany(
            "DELETE FROM blocks WHERE place = (SELECT place FROM latest WHERE partition_number = ? AND key = ?)",
            [(number, key) for key in latest],
        )
        self._connection.executemany(
            "DELETE FROM blocks WHERE place = ?", [(place,) for place in places if place not in kept]
        )
        self._connection.executemany(
            "REPLACE INTO latest VALUES (?, ?, ?)", [(number, key, place) for key, place in latest.items()]
        )

    def _bound_wal(self) -> None:
        """Readers that come in one after the other can keep SQLite's own checkpoints from ever starting the WAL over:
        when it has grown, wait for them once.
        """
        if self._only is None and self._wal_bytes() > self._wal_limit:
            checkpoint_and_truncate(self._connection)
            self._wal_limit = self._wal_bytes() + _WAL_BYTES

    def _wal_bytes(self) -> int:
        try:
            return self._wal.stat().st_size
        except FileNotFoundError:
            return 0

    def _remove_old(self) -> None:
        now = self._clock()
        with self._failing():
            with transaction(self._connection):
                more = remove_older(self._connection, int(now * 1000) - self._retention_ms)
            give_space_back(self._connection)
        self._retention_due = now + (0.0 if more else _RETENTION_SECONDS)

    def _is_missing(self, spec: TopicSpec) -> bool:
        count = self._counts.get(spec.name)
        if count is not None:
            require_partitions(spec, count)
        return count is None

    def _create(self, spec: TopicSpec) -> None:
        self._connection.execute("INSERT INTO topics VALUES (?, ?, ?)", _spec_row(spec))
        self._connection.executemany(
            "INSERT INTO partitions (topic, partition) VALUES (?, ?)",
            [(spec.name, partition) for partition in range(spec.partitions)],
        )

    def _load_topics(self) -> None:
        with self._failing():
            rows = self._connection.execute(
                "SELECT topic, partition, number, next_offset, compacted, partitions FROM partitions "
                "JOIN topics ON name = topic"
            ).fetchall()
        for topic, partition, number, next_offset, compacted, count in rows:
            self._counts[topic] = count
            self._partitions.setdefault((topic, partition), _Partition(number, next_offset, bool(compacted)))

    def _partition_at(self, topic: str, number: int) -> _Partition:
        partition = self._partitions.get((topic, number))
        if partition is None or self._only not in {None, topic}:
            raise unknown_partition(TopicPartition(topic, number))
        return partition

    def _check_keys(self, records: Sequence[Record], partitions: Mapping[tuple[str, int], _Partition]) -> None:
        if any(partition.compacted for partition in partitions.values()):
            for record in records:
                if record.key is None and partitions[record[:2]].compacted:
                    raise keyless_in_compacted(record.topic)

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        """An error in here ends the writer: nothing may be written after a hole."""
        try:
            with translated(self._path):
                yield
        except CdcError as error:
            self._failure = error
            raise
        except BaseException:
            self._failure = LogError(f"writing {self._path} was interrupted", mend="open the log again")
            raise

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure


def _spec_row(spec: TopicSpec) -> tuple[str, int, bool]:
    return spec.name, spec.partitions, spec.compacted
