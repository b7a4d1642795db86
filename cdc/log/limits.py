"""What a record weighs, and what a partition still holds: the checks that all logs make alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cdc.core.errors import LogError, LogGapError, RecordTooLargeError, TopicMismatchError
from cdc.core.log import Headers, Offsets, Record, TopicPartition, TopicSpec

_HEADER_LENGTHS: Final = 10  # two lengths as varints of up to five bytes


def check_sizes(records: Sequence[Record], limit: int) -> None:
    """RecordTooLargeError for the first record above `limit` bytes."""
    for topic, partition, key, value, headers in records:
        if not headers and (len(value) if value else 0) + (len(key) if key else 0) <= limit:
            continue  # nearly all, quickly
        size = _size(key, value, headers)
        if size > limit:
            raise too_large(topic, partition, size, limit)


def record_size(record: Record) -> int:
    """What counts against the limit, in bytes."""
    return _size(record.key, record.value, record.headers)


def _size(key: bytes | None, value: bytes | None, headers: Headers) -> int:
    size = (len(key) if key else 0) + (len(value) if value else 0)
    if headers:
        size += sum(len(name.encode()) + len(content) + _HEADER_LENGTHS for name, content in headers)
    return size


def too_large(topic: str, partition: int, size: int, limit: int) -> RecordTooLargeError:
    return RecordTooLargeError(
        f"a record of {size:,} bytes for partition {partition} of topic {topic} is above [log] max_record_bytes "
        f"({limit:,})",
        mend="raise [log] max_record_bytes (and max.message.bytes of a Kafka topic that exists), or leave the large "
        "column out",
    )


def check_offset(partition: TopicPartition, offset: int, held: Offsets) -> None:
    """LogGapError if reading can't go on at `offset`."""
    if offset < held.first:
        raise LogGapError(
            f"{_name(partition)} no longer holds offset {offset}: its first is {held.first}, "
            f"{held.first - offset} offsets were removed before they were read",
            mend="`cdc capture --start-over` loads all tables again; a longer [log] retention avoids it",
        )
    if offset > held.next:
        raise LogGapError(
            f"{_name(partition)} never held offset {offset}: its next is {held.next}",
            mend="check [log] url: this is another log, or one that lost its end; `cdc capture --start-over` loads all "
            "tables again",
        )


def rewritten_partition(partition: TopicPartition, offset: int) -> LogGapError:
    """For a reader whose place the log once lost, and then gave to something else."""
    return LogGapError(
        f"{_name(partition)} lost its end, and got another one: what stands before offset {offset} now was not read",
        mend="`cdc capture --start-over` loads all tables again; brokers that elect out-of-sync replicas"
        " (unclean.leader.election), or a replication factor of 1, lose what they acknowledged",
    )


def unknown_partition(partition: TopicPartition) -> LogError:
    return LogError(f"the log has no {_name(partition)}", mend="start capture first: it makes the topics")


def missing_partition(partition: TopicPartition, offset: int) -> LogGapError:
    """For a reader that has a place in a partition which is not there."""
    return LogGapError(
        f"the log has no {_name(partition)}, to be read from offset {offset}",
        mend="check [log] url and prefix; if the topic was deleted, `cdc capture --start-over` loads all tables again",
    )


def require_partitions(spec: TopicSpec, there: int) -> None:
    """TopicMismatchError if the topic, which exists, has another number of partitions."""
    if there != spec.partitions and not spec.single:
        raise TopicMismatchError(
            f"topic {spec.name} has {there} partitions, not {spec.partitions}",
            mend=f"set [log] partitions to {there}, or choose another [log] prefix (more partitions for a topic that "
            "has records would move keys)",
        )


def keyless_in_compacted(topic: str) -> LogError:
    return LogError(f"a record without a key for topic {topic}, which is compacted and needs one")


def _name(partition: TopicPartition) -> str:
    return f"partition {partition.partition} of topic {partition.topic}"
