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


def read_to_end(reader: LogReader, topic: str, start: int = 0) -> Iterator[StoredRecord]:
    """The records of the topic's only partition, from its first (or from the offset `start`, if that is later) to those
    that were there at the call.

    Nothing else may be assigned to `reader`. An error if the topic is not there; PassingError if the log stops giving.
    """
    return read_from(reader, TopicPartition(topic, 0), start)


def read_from(reader: LogReader, partition: TopicPartition, start: int) -> Generator[StoredRecord, None, None]:
    """The partition's records from the offset `start` to those that were there at the call. Close it when done; nothing
    else may be assigned to `reader`.
    """
    first, end = reader.offsets(partition)
    yield from _read(reader, partition, max(first, start), end)


def last_records(reader: LogReader, partition: TopicPartition, most: int) -> list[StoredRecord]:
    """The newest records of the partition, up to `most`, in order. Nothing else may be assigned to `reader`."""
    first, end = reader.offsets(partition)
    return list(_read(reader, partition, max(first, end - most), end))


def last_record(reader: LogReader, partition: TopicPartition) -> StoredRecord | None:
    """The newest record that the partition holds; None if it is empty. Nothing else may be assigned to `reader`."""
    first, end = reader.offsets(partition)
    back = 1
    while first < end:
        start = max(first, end - back)
        last: StoredRecord | None = next(reversed(list(_read(reader, partition, start, end))), None)
        if last is not None or start == first:
            return last
        back *= 10  # the end of a partition may be what no reader gets to see
    return None


def _read(reader: LogReader, partition: TopicPartition, start: int, end: int) -> Generator[StoredRecord, None, None]:
    """The last offsets may be without records: Kafka's own records of transactions, deleted tombstones."""
    if start >= end:
        return
    reader.assign({partition: start})
    try:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while (before := reader.position(partition)) < end:
            yield from [record for record in reader.poll(_BATCH, _POLL_SECONDS) if record.offset < end]
            now = time.monotonic()
            if reader.position(partition) > before:
                deadline = now + _PATIENCE_SECONDS
            elif now > deadline:
                raise PassingError(f"topic {partition.topic} did not give its records up to offset {end}")
    finally:
        reader.unassign([partition])
