"""Reading what a topic holds now: for the topics of state and schemas, which are read whole."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from typing import Final

from cdc.core.errors import PassingError
from cdc.core.log import LogReader, StoredRecord, TopicPartition

_BATCH: Final = 1000
_POLL_SECONDS: Final = 1.0
_PATIENCE_SECONDS: Final = 30.0
_HOLE_SECONDS: Final = 2.0


def read_to_end(reader: LogReader, topic: str, start: int = 0) -> Iterator[StoredRecord]:
    """The records of the topic's only partition, from its first (or from the offset `start`, if that is later) to those
    that were there at the call.

    Nothing else may be assigned to `reader`. An error if the topic is not there; PassingError if the log stops giving.
    """
    partition = TopicPartition(topic, 0)
    first, end = reader.offsets(partition)
    if max(first, start) >= end:
        return
    reader.assign({partition: max(first, start)})
    try:
        yield from _read(reader, partition, end)
    finally:
        reader.unassign([partition])


def _read(reader: LogReader, partition: TopicPartition, end: int) -> Iterator[StoredRecord]:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        for record in reader.poll(_BATCH, _POLL_SECONDS):
            if record.offset < end:
                yield record
            if record.offset >= end - 1:
                return
            deadline = time.monotonic() + _PATIENCE_SECONDS
        if time.monotonic() > deadline:
            raise PassingError(f"topic {partition.topic} did not give its records up to offset {end}")


def read_from(reader: LogReader, partition: TopicPartition, start: int) -> Generator[StoredRecord, None, None]:
    """The partition's records from the offset `start` to those that were there at the call. Close it when done; nothing
    else may be assigned to `reader`.
    """
    first, end = reader.offsets(partition)
    if max(first, start) < end:
        reader.assign({partition: max(first, start)})
        try:
            yield from _read(reader, partition, end)
        finally:
            reader.unassign([partition])


def last_records(reader: LogReader, partition: TopicPartition, most: int) -> list[StoredRecord]:
    """The newest records of the partition, up to `most`, in order. Nothing else may be assigned to `reader`."""
    first, end = reader.offsets(partition)
    records: list[StoredRecord] = []
    if first < end:
        reader.assign({partition: max(first, end - most)})
        try:
            records.extend(_read(reader, partition, end))
        finally:
            reader.unassign([partition])
    return records


def last_record(reader: LogReader, partition: TopicPartition) -> StoredRecord | None:
    """The newest record that the partition holds; None if it is empty. Nothing else may be assigned to `reader`."""
    first, end = reader.offsets(partition)
    back = 1
    while first < end:
        start = max(first, end - back)
        last = _last_from(reader, partition, start, end)
        if last is not None or start == first:
            return last
        back *= 10  # the end of a Kafka partition may be control records, which no reader gets to see
    return None


def _last_from(reader: LogReader, partition: TopicPartition, start: int, end: int) -> StoredRecord | None:
    last = None
    reader.assign({partition: start})
    try:
        while last is None or last.offset < end - 1:
            records = reader.poll(_BATCH, _HOLE_SECONDS)
            if not records:
                break
            last = records[-1]
    finally:
        reader.unassign([partition])
    return last
