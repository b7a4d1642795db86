"""Writing the local log."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from typing_extensions import override

from cdc.core.errors import CdcError, LogError
from cdc.core.log import LogWriter, Record, TopicPartition, TopicSpec
from cdc.core.settings import LogSettings
from cdc.log.limits import check_sizes, keyless_in_compacted, require_partitions, unknown_partition
from cdc.log.local.database import checkpoint_and_truncate, open_for_writing, transaction, translated
from cdc.log.local.layout import OFFSET_BITS, pack_headers
from cdc.log.local.lock import lock_for_writing
from cdc.log.local.retention import give_space_back, remove_older

_ROWS_AT_ONCE: Final = 50_000  # waiting rows beyond this are stored by `append` itself
_RETENTION_SECONDS: Final = 60.0
_WAL_BYTES: Final = 64 << 20
_HOUR_MS: Final = 3_600_000

_Row = tuple[int, int, bytes | None, bytes | None, bytes | None]


@dataclass(slots=True)
class _Partition:
    number: int
    next_offset: int
    compacted: bool


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
        self._rows: list[_Row] = []
        self._compacting: dict[tuple[int, bytes], int] = {}
        self._touched: dict[int, _Partition] = {}
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
        now_ms = int(self._clock() * 1000)
        add = self._rows.append
        for topic, number, key, value, headers in records:
            partition = partitions[topic, number]
            place = partition.number << OFFSET_BITS | partition.next_offset
            partition.next_offset += 1
            add((place, now_ms, key, value, pack_headers(headers) if headers else None))
            if partition.compacted and key is not None:
                self._compacting[partition.number, key] = place
        self._touched.update((partition.number, partition) for partition in partitions.values())
        self._ticket += 1
        if len(self._rows) >= _ROWS_AT_ONCE:
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
        if self._rows:
            with self._failing():
                with transaction(self._connection):
                    self._write()
                self._bound_wal()
            self._rows = []
            self._compacting = {}
            self._touched = {}
        self._durable = self._ticket

    def _write(self) -> None:
        execute_many = self._connection.executemany
        execute_many("INSERT INTO records VALUES (?, ?, ?, ?, ?)", self._rows)
        if self._compacting:
            self._compact()
        execute_many(
            "UPDATE partitions SET next_offset = ? WHERE number = ?",
            [(partition.next_offset, number) for number, partition in self._touched.items()],
        )

    def _compact(self) -> None:
        """Of each key written now, keep the last record only."""
        latest = [(number, key, place) for (number, key), place in self._compacting.items()]
        kept = {place for _, _, place in latest}
        compacted = {number for number, _, _ in latest}
        self._connection.executemany(
            "DELETE FROM records WHERE place = (SELECT place FROM latest WHERE partition_number = ? AND key = ?)",
            [(number, key) for number, key, _ in latest],
        )
        self._connection.executemany(
            "DELETE FROM records WHERE place = ?",
            [(row[0],) for row in self._rows if row[0] >> OFFSET_BITS in compacted and row[0] not in kept],
        )
        self._connection.executemany("REPLACE INTO latest VALUES (?, ?, ?)", latest)

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
