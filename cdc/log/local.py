"""The local log: topics in one SQLite file, for one machine.

WAL mode: one process writes while others read. `synchronous = FULL`: a ticket is reported when its commit is on disk.
https://www.sqlite.org/wal.html
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

from typing_extensions import override

from cdc.core.errors import CdcError, ConfigError, LogError, LogGapError, PassingError, TopicMismatchError
from cdc.core.log import (
    Headers,
    Log,
    LogReader,
    LogWriter,
    Offsets,
    Record,
    StoredRecord,
    TopicPartition,
    TopicSpec,
)
from cdc.core.settings import LogSettings
from cdc.log.sizes import require_size

_LAYOUT: Final = 1
_LOOK_SECONDS: Final = 0.004  # between two looks for new records: a read of one counter
_TRIM_SECONDS: Final = 60.0
_BUSY_SECONDS: Final = 30.0

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS topics (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, partitions INTEGER NOT NULL, compacted INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS partitions (
    topic INTEGER NOT NULL, partition INTEGER NOT NULL, first INTEGER NOT NULL, next INTEGER NOT NULL,
    PRIMARY KEY (topic, partition)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS records (
    topic INTEGER NOT NULL, partition INTEGER NOT NULL, offset INTEGER NOT NULL, timestamp_ms INTEGER NOT NULL,
    key BLOB, value BLOB, headers TEXT,
    PRIMARY KEY (topic, partition, offset)
) WITHOUT ROWID;
"""


class LocalLog(Log):
    """`sqlite:///relative.db` or `sqlite:////absolute.db`."""

    def __init__(self, settings: LogSettings) -> None:
        path = settings.url.removeprefix("sqlite:///")
        if path == settings.url or not path:
            raise ConfigError(
                "[log] url has no file name",
                mend="sqlite:///cdc-log.db is a file here, sqlite:////var/lib/cdc/log.db there",
            )
        self._settings = settings
        self._path = Path(path)

    @override
    def __enter__(self) -> Self:
        return self

    @override
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    @override
    def writer(self) -> LocalLogWriter:
        return LocalLogWriter(self._path, self._settings)

    @override
    def reader(self, group: str) -> LocalLogReader:
        return LocalLogReader(self._path)


class _Topic:
    """A topic as the writer knows it."""

    __slots__ = ("compacted", "id", "next", "partitions")

    def __init__(self, topic: int, partitions: int, *, compacted: bool, following: dict[int, int]) -> None:
        self.id = topic
        self.partitions = partitions
        self.compacted = compacted
        self.next = following


class LocalLogWriter(LogWriter):
    """The one writer of the file, by a lock that the kernel lets go when the process dies."""

    def __init__(self, path: Path, settings: LogSettings) -> None:
        self._path = path
        self._most_bytes = settings.max_record_bytes
        self._retention_ms = settings.retention_hours * 3_600_000
        self._trim_due = 0.0
        self._topics: dict[str, _Topic] = {}
        self._pending: list[Record] = []
        self._ticket = 0
        self._durable = 0
        self._lock = _locked(path)
        try:
            self._database = _connect(path)
            with _translated(path):
                _prepare(self._database, path)
                self._load_topics()
        except BaseException:
            self._lock.close()
            raise

    @override
    def create_topics(self, topics: Iterable[TopicSpec]) -> None:
        with _translated(self._path), _transaction(self._database):
            for topic in topics:
                known = self._topics.get(topic.name)
                if known is None:
                    self._create(topic)
                elif known.partitions != topic.partitions:
                    raise TopicMismatchError(
                        f"topic {topic.name!r} has {known.partitions} partitions, not {topic.partitions}",
                        mend=f"set [log] partitions to {known.partitions}, or use another [log] prefix",
                    )

    @override
    def append(self, records: Sequence[Record]) -> int:
        for record in records:
            require_size(record, self._most_bytes)
            topic = self._topics.get(record.topic)
            if topic is None or not 0 <= record.partition < topic.partitions:
                raise LogError(f"topic {record.topic!r} has no partition {record.partition}")
        self._pending.extend(records)
        self._ticket += 1
        return self._ticket

    @override
    def poll(self, timeout: float) -> int:
        if self._pending:
            with _translated(self._path), _transaction(self._database):
                self._write(self._pending)
            self._pending = []
            self._durable = self._ticket
        elif self._durable < self._ticket:
            self._durable = self._ticket  # tickets of no records
        self._trim()
        return self._durable

    @override
    def close(self) -> None:
        self._database.close()
        self._lock.close()

    def _write(self, records: Sequence[Record]) -> None:
        now_ms = time.time_ns() // 1_000_000
        rows = []
        touched: set[tuple[int, int]] = set()
        for record in records:
            topic = self._topics[record.topic]
            offset = topic.next[record.partition]
            topic.next[record.partition] = offset + 1
            touched.add((topic.id, record.partition))
            if topic.compacted:
                self._database.execute(
                    "DELETE FROM records WHERE topic = ? AND partition = ? AND key IS ?",
                    (topic.id, record.partition, record.key),
                )
                self._insert([_row(topic.id, record, offset, now_ms)])
            else:
                rows.append(_row(topic.id, record, offset, now_ms))
        self._insert(rows)
        following = {(topic.id, number): at for topic in self._topics.values() for number, at in topic.next.items()}
        self._database.executemany(
            "UPDATE partitions SET next = ? WHERE topic = ? AND partition = ?",
            [(following[place], *place) for place in touched],
        )

    def _insert(self, rows: list[tuple[Any, ...]]) -> None:
        self._database.executemany("INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?)", rows)

    def _create(self, topic: TopicSpec) -> None:
        cursor = self._database.execute(
            "INSERT INTO topics (name, partitions, compacted) VALUES (?, ?, ?)",
            (topic.name, topic.partitions, topic.compacted),
        )
        number = cursor.lastrowid or 0
        self._database.executemany(
            "INSERT INTO partitions VALUES (?, ?, 0, 0)", [(number, each) for each in range(topic.partitions)]
        )
        self._topics[topic.name] = _Topic(
            number, topic.partitions, compacted=topic.compacted, following=dict.fromkeys(range(topic.partitions), 0)
        )

    def _load_topics(self) -> None:
        following: dict[int, dict[int, int]] = {}
        for topic, partition, at in self._database.execute("SELECT topic, partition, next FROM partitions"):
            following.setdefault(topic, {})[partition] = at
        for number, name, partitions, compacted in self._database.execute(
            "SELECT id, name, partitions, compacted FROM topics"
        ):
            self._topics[name] = _Topic(number, partitions, compacted=bool(compacted), following=following[number])

    def _trim(self) -> None:
        """Delete what is older than the retention, now and then, a bounded number of records at a time."""
        if not self._retention_ms or time.monotonic() < self._trim_due:
            return
        self._trim_due = time.monotonic() + _TRIM_SECONDS
        oldest_ms = time.time_ns() // 1_000_000 - self._retention_ms
        with _translated(self._path), _transaction(self._database):
            for topic in self._topics.values():
                if not topic.compacted:
                    for partition in topic.next:
                        self._trim_partition(topic.id, partition, oldest_ms)

    def _trim_partition(self, topic: int, partition: int, oldest_ms: int) -> None:
        place = (topic, partition)
        kept = self._database.execute(
            "SELECT min(offset) FROM (SELECT offset, timestamp_ms FROM records WHERE topic = ? AND partition = ?"
            " ORDER BY offset LIMIT 100000) WHERE timestamp_ms >= ?",
            (*place, oldest_ms),
        ).fetchone()[0]
        if kept is None:
            kept = self._database.execute(
                "SELECT coalesce(max(offset) + 1, 0) FROM (SELECT offset FROM records WHERE topic = ? AND partition = ?"
                " ORDER BY offset LIMIT 100000)",
                place,
            ).fetchone()[0]
        self._database.execute("DELETE FROM records WHERE topic = ? AND partition = ? AND offset < ?", (*place, kept))
        self._database.execute(
            "UPDATE partitions SET first = max(first, ?) WHERE topic = ? AND partition = ?", (kept, *place)
        )


class LocalLogReader(LogReader):
    """Reads by short queries, each its own read transaction, so that the WAL can always be checkpointed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._database: sqlite3.Connection | None = None
        self._ids: dict[str, int] = {}
        self._at: dict[TopicPartition, int] = {}
        self._paused: set[TopicPartition] = set()
        self._version = -1
        self._more = False

    @override
    def topics(self) -> dict[str, int]:
        if self._connected() is None:
            return {}
        rows = self._query("SELECT name, partitions, id FROM topics")
        self._ids = {name: number for name, _, number in rows}
        return {name: partitions for name, partitions, _ in rows}

    @override
    def offsets(self, partition: TopicPartition) -> Offsets:
        rows = self._query(
            "SELECT first, next FROM partitions WHERE topic = ? AND partition = ?",
            (self._id(partition.topic), partition.partition),
        )
        if not rows:
            raise LogError(f"topic {partition.topic!r} has no partition {partition.partition}")
        return Offsets(*rows[0])

    @override
    def assign(self, offsets: Mapping[TopicPartition, int]) -> None:
        for partition, offset in offsets.items():
            held = self.offsets(partition)
            if not held.first <= offset <= held.next:
                raise LogGapError(
                    f"topic {partition.topic!r}, partition {partition.partition} holds offsets {held.first} to"
                    f" {held.next}; offset {offset} was asked for",
                    mend="`cdc capture --start-over` loads all tables again; a longer [log] retention avoids it",
                )
            self._at[partition] = offset
        self._more = True

    @override
    def unassign(self, partitions: Iterable[TopicPartition]) -> None:
        for partition in partitions:
            self._at.pop(partition, None)
            self._paused.discard(partition)

    @override
    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        self._paused.update(partitions)

    @override
    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        self._paused.difference_update(partitions)
        self._more = True

    @override
    def poll(self, max_records: int, timeout: float) -> list[StoredRecord]:
        deadline = time.monotonic() + timeout
        while True:
            if self._changed():
                records = self._read(max_records)
                if records:
                    return records
            if time.monotonic() >= deadline:
                return []
            time.sleep(_LOOK_SECONDS)

    @override
    def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Nothing here shows lags of its own: `cdc status` reads the checkpoints."""

    @override
    def close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    def _changed(self) -> bool:
        """Whether there may be something to read: more than the last poll took, or a commit since."""
        if self._connected() is None:
            return False
        version = self._query("PRAGMA data_version")[0][0]
        changed = self._more or version != self._version
        self._version = version
        return changed

    def _read(self, most: int) -> list[StoredRecord]:
        """A fair share of each partition; what one does not use is left for the next poll."""
        self._more = False
        wanted = [partition for partition in self._at if partition not in self._paused]
        records: list[StoredRecord] = []
        if wanted:
            share = max(1, most // len(wanted))
            for partition in wanted:
                found = self._read_partition(partition, min(share, most - len(records)))
                self._more |= len(found) >= share or len(records) + len(found) >= most
                records.extend(found)
                if len(records) >= most:
                    break
        if self._more:
            self._rotate()
        return records

    def _rotate(self) -> None:
        """Let another partition come first next time."""
        first = next(iter(self._at), None)
        if first is not None:
            self._at[first] = self._at.pop(first)

    def _read_partition(self, partition: TopicPartition, most: int) -> list[StoredRecord]:
        at = self._at[partition]
        rows = self._query(
            "SELECT offset, timestamp_ms, key, value, headers FROM records"
            " WHERE topic = ? AND partition = ? AND offset >= ? ORDER BY offset LIMIT ?",
            (self._id(partition.topic), partition.partition, at, most),
        )
        if rows:
            if rows[0][0] > at:
                self._check_not_trimmed(partition, at)
            self._at[partition] = rows[-1][0] + 1
        return [
            StoredRecord(*partition, offset, timestamp, key, value, _headers(headers))
            for offset, timestamp, key, value, headers in rows
        ]

    def _check_not_trimmed(self, partition: TopicPartition, at: int) -> None:
        """A hole is compaction's, unless the partition begins after it."""
        held = self.offsets(partition)
        if at < held.first:
            raise LogGapError(
                f"topic {partition.topic!r}, partition {partition.partition} was trimmed up to {held.first}, and offset"
                f" {at} was not read yet",
                mend="`cdc capture --start-over` loads all tables again; a longer [log] retention avoids it",
            )

    def _id(self, topic: str) -> int:
        if topic not in self._ids:
            self.topics()
        try:
            return self._ids[topic]
        except KeyError:
            raise LogError(
                f"the log has no topic {topic!r}", mend="start capture first; check [log] url and prefix"
            ) from None

    def _connected(self) -> sqlite3.Connection | None:
        """The connection, or None while the writer has not made the file yet."""
        if self._database is None:
            if not self._path.exists():
                return None
            database = _connect(self._path)
            with _translated(self._path):
                ready = database.execute("SELECT count(*) FROM sqlite_master WHERE name = 'records'").fetchone()[0]
                if not ready:
                    database.close()
                    return None
                _check_layout(database, self._path)
            self._database = database
        return self._database

    def _query(self, sql: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        database = self._connected()
        if database is None:
            raise LogError(f"{self._path} holds no log yet", mend="start capture first; check [log] url")
        with _translated(self._path):
            return database.execute(sql, values).fetchall()


def _row(topic: int, record: Record, offset: int, now_ms: int) -> tuple[Any, ...]:
    headers = _headers_text(record.headers) if record.headers else None
    return (topic, record.partition, offset, now_ms, record.key, record.value, headers)


def _headers_text(headers: Headers) -> str:
    return json.dumps([(name, value.decode("latin-1")) for name, value in headers])


def _headers(text: str | None) -> Headers:
    return () if text is None else tuple((name, value.encode("latin-1")) for name, value in json.loads(text))


def _locked(path: Path) -> IO[bytes]:
    lock_path = Path(f"{path}-lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = lock_path.open("ab")
    except OSError as error:
        raise LogError(
            f"{lock_path} can't be written: {error.strerror}", mend="check the folder in [log] url"
        ) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise LogError(
            f"another capture writes to {path}", mend="stop it first, or give this one a [log] url of its own"
        ) from None
    lock.truncate(0)
    lock.write(str(os.getpid()).encode())
    lock.flush()
    return lock


def _connect(path: Path) -> sqlite3.Connection:
    with _translated(path):
        return sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)


def _prepare(database: sqlite3.Connection, path: Path) -> None:
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    _check_layout(database, path)
    database.executescript(_SCHEMA)
    database.execute(f"PRAGMA user_version = {_LAYOUT}")


def _check_layout(database: sqlite3.Connection, path: Path) -> None:
    version = database.execute("PRAGMA user_version").fetchone()[0]
    if version > _LAYOUT:
        raise LogError(f"{path} was written by a newer version of cdc (layout {version})", mend="upgrade cdc")
    others = database.execute(
        "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name NOT IN ('topics', 'partitions', 'records')"
    ).fetchone()[0]
    if version == 0 and others:
        raise LogError(f"{path} is a database of something else", mend="name another file in [log] url")


@contextmanager
def _transaction(database: sqlite3.Connection) -> Iterator[None]:
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        database.execute("ROLLBACK")
        raise
    database.execute("COMMIT")


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except CdcError:
        raise
    except sqlite3.OperationalError as error:
        said = str(error)
        if "locked" in said or "busy" in said:
            raise PassingError(f"{path} is locked by another process") from None
        raise LogError(f"{path}: {said}", mend="check space, permissions and the folder in [log] url") from None
    except sqlite3.DatabaseError as error:
        raise LogError(f"{path}: {error}", mend="name another file in [log] url, or restore this one") from None
