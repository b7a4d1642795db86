"""The log's ports: topics of partitions of records, as Kafka has them.

Both adapters (Kafka, the local SQLite log) and the one in memory pass one conformance suite,
`tests/contract/test_log.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple, Protocol, Self

from typing_extensions import override

from cdc.core.errors import ConfigError


class TopicPartition(NamedTuple):
    topic: str
    partition: int


class Place(NamedTuple):
    """Where a record is."""

    topic: str
    partition: int
    offset: int


Headers = tuple[tuple[str, bytes], ...]


class Record(NamedTuple):
    """What is written. A None value is a tombstone: the last record of its key in a compacted topic."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


class StoredRecord(NamedTuple):
    """What is read. `timestamp_ms` is when the log took it, in ms since 1970."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers

    @property
    def where(self) -> str:
        """In words, for errors."""
        return f"topic {self.topic!r}, partition {self.partition}, offset {self.offset}"

    @property
    def next_offset(self) -> int:
        """Where what follows it may stand."""
        return self.offset + 1


class Run(Record):
    """Rows of one table that a first load found, written as one record by a log of which only cdc's own readers read:
    a record in form, whose key is the `head` (see `cdc.avro.runs`), and whose value is COPY's text. Who reads the log
    finds a record of each row, with an offset of its own.
    """

    __slots__ = ()

    @property
    def rows(self) -> int:
        return run_rows(self.key)


class StoredRun(StoredRecord):
    """A run that is read as one; `offset` is that of its first record."""

    __slots__ = ()

    @property
    def rows(self) -> int:
        return run_rows(self.key)

    @property
    @override
    def next_offset(self) -> int:
        return self.offset + self.rows


def run_rows(head: bytes | None) -> int:
    """How many rows a run has: its head begins with that, in four bytes."""
    return int.from_bytes((head or b"")[:4], "big")


class Offsets(NamedTuple):
    """The offsets that a partition holds: `first` is the oldest still there, `next` the one the next record gets."""

    first: int
    next: int


class Retention(NamedTuple):
    """What the log keeps of a topic: of each key the last record only, if compacted; for `ms` only, unless None."""

    compacted: bool
    ms: int | None


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """A topic to create. A compacted one keeps the last record of each key, for ever; any other keeps all for as
    long as the log's `retention` says. Of a `single` one the first partition is used; more that are there do no harm.
    """

    name: str
    partitions: int = 1
    compacted: bool = False
    single: bool = False


class LogWriter(Protocol):
    """Appends records durably. One thread; may be opened by one process at a time for a prefix.

    Errors are LogError; after one, the writer is of no more use (nothing later may be written past a hole).
    """

    @property
    def takes_runs(self) -> bool:
        """Whether a `Run` may be among the records."""
        return False

    def create_topics(self, topics: Iterable[TopicSpec]) -> None:
        """Create those that are missing. TopicMismatchError if one exists with another number of partitions."""

    def append(self, records: Sequence[Record]) -> int:
        """Hand over records, and return a ticket: a number that rises with every call. Within a partition, records
        are stored in the order handed over, without holes. Returns before they are durable, and perhaps before
        anything is done with them (`poll` does it); blocks when too much is under way. RecordTooLargeError if a record
        is above the log's limit: then none of this call is written.
        """

    def poll(self, timeout: float) -> int:
        """Make progress for up to `timeout` seconds (returning early when a ticket became durable), and return the
        highest ticket such that all records handed over with it or before are durable (0: none yet).
        """

    def close(self) -> None:
        """Let go of everything, at once. What is not durable yet may or may not get written."""


class LogReader(Protocol):
    """Reads records of assigned partitions, each partition in order. One thread."""

    def topics(self) -> dict[str, int]:
        """All topics with their number of partitions."""

    def offsets(self, partition: TopicPartition) -> Offsets:
        """What the partition holds now (asked of the log, not from a cache)."""

    def retention(self, topics: Collection[str]) -> dict[str, Retention]:
        """What the log keeps of these topics; of those that are not there, or of which it may not tell us, nothing."""

    def assign(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Read these partitions too, from these offsets (again, if assigned already). Others stay as they are.

        LogGapError if an offset is below the first that is still there, or above the next.
        """

    def unassign(self, partitions: Iterable[TopicPartition]) -> None:
        """Read these no longer."""

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        """Return no records of these from `poll` until resumed; their place is kept."""

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        """Undo `pause`."""

    def poll(self, max_records: int, timeout: float) -> list[StoredRecord]:
        """Up to `max_records` records of assigned partitions that are not paused; waits up to `timeout` seconds for
        the first. Empty if there is none.
        """

    def poll_runs(self, max_records: int, timeout: float) -> list[StoredRecord]:
        """As `poll`, but records that were written as a run may come as one `StoredRun`. The last of them may bring
        more than `max_records`.
        """
        return self.poll(max_records, timeout)

    def position(self, partition: TopicPartition) -> int:
        """The offset from which an assigned partition is read on. It passes offsets that have no record (any more),
        too, as `poll` comes to them: it reaches `offsets(partition).next`, even if the last record is further back.
        """

    def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Publish next offsets for lag displays only; need not be durable. The truth is in the target's
        checkpoint.
        """

    def close(self) -> None: ...


class Membership(Protocol):
    """One of several processes that share partitions: each is one member's, as long as they all hear of each other.
    One thread.

    It says who should take a partition, not who may: for some moments two can have the same one.
    """

    def subscribe(self, topics: Collection[str]) -> None:
        """Share the partitions of these topics, and of no others."""

    def partitions(self) -> frozenset[TopicPartition]:
        """Those that are this member's now. Call it often: a member that does not, for minutes, is taken for gone."""

    def close(self) -> None:
        """Leave; the others get what it had."""


class Log(Protocol):
    """A log at a URL. Makes writers and readers; opening one of them is what connects."""

    def writer(self, *, only: str | None = None) -> LogWriter:
        """A writer; there may be one at a time. With `only`, one that writes that topic and no other: such writers may
        be open beside it, one of each topic.
        """

    def reader(self, group: str) -> LogReader:
        """A reader; `group` names it in the log's own lag displays."""

    def membership(self, group: str, session_timeout: float) -> Membership:
        """Become a member of `group`; one that was silent for `session_timeout` seconds is taken for gone. ConfigError
        if this kind of log is read by one applier of a target at a time.
        """
        del group, session_timeout
        raise ConfigError(
            "appliers can share the partitions of a log at kafka:// only",
            mend="leave out --shared: a second applier then stands by",
        )

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
