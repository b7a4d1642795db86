"""Records as the file holds them: many of a partition in one block, because a row of a table costs SQLite more than
all else that is done for a record (writing one took 4 µs, measured, and takes 1.8 in blocks).

A block's body: the number of its fields for each record (2, or 3 if one has headers), lengths as 32-bit numbers (all
keys, all values, all headers; -1 for NULL), then the fields' bytes in the same order. All of it little-endian.

A run is a block of its own: a byte that says so, and the body of the one record that it is in form.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator, Sequence
from itertools import accumulate, groupby, pairwise
from typing import Final

from cdc.core.errors import ProtocolViolationError
from cdc.core.log import Headers, Record, Run, StoredRecord, StoredRun, TopicPartition

_BYTES: Final = 256 << 10  # of a block, about: a reader reads whole ones
_RECORDS: Final = 2_000
_SWAPPED: Final = sys.byteorder == "big"
_WIDTH: Final = 4  # of a length
_ABSENT: Final = -1
_RUN: Final = 0xFF  # in place of the number of fields


def blocks(records: Sequence[Record]) -> Iterator[Sequence[Record]]:
    """These records in pieces, each for one block."""
    if Run in map(type, records):
        yield from _around_runs(records)
        return
    first = size = 0
    for at, (_, _, key, value, _) in enumerate(records):
        more = (len(key) if key else 0) + (len(value) if value else 0)
        if at > first and (size + more > _BYTES or at - first == _RECORDS):  # what is large is in a block of its own
            yield records[first:at]
            first, size = at, 0
        size += more
    if first < len(records):
        yield records[first:]


def _around_runs(records: Sequence[Record]) -> Iterator[Sequence[Record]]:
    """A run is a block of its own."""
    for is_run, some in groupby(records, lambda record: isinstance(record, Run)):
        if is_run:
            yield from ([run] for run in some)
        else:
            yield from blocks(list(some))


def count_of(records: Sequence[Record]) -> int:
    """How many records these are, for who reads them."""
    if Run not in map(type, records):
        return len(records)
    return sum(record.rows if isinstance(record, Run) else 1 for record in records)


def packed(records: Sequence[Record]) -> bytes:
    """A block's body."""
    first = records[0]
    if isinstance(first, Run):
        return bytes((_RUN,)) + packed([Record(*first)])
    _, _, *columns = zip(*records, strict=True)
    keys, values, headers = columns
    fields = [*keys, *values]
    count = 2
    if any(headers):
        count = 3
        fields += map(pack_headers, headers)
    if None in fields:
        lengths = array("i", [_ABSENT if each is None else len(each) for each in fields])
        fields = [each for each in fields if each is not None]
    else:
        lengths = array("i", map(len, fields))
    if _SWAPPED:
        lengths.byteswap()
    return b"".join((bytes((count,)), lengths.tobytes(), *fields))


def unpacked(body: bytes, count: int, partition: TopicPartition, offset: int, timestamp_ms: int) -> list[StoredRecord]:
    """The records of a block which is no run: so many, from that offset on."""
    topic, number = partition
    lengths = array("i")
    at = 1 + count * body[0] * _WIDTH
    lengths.frombytes(body[1:at])
    if _SWAPPED:
        lengths.byteswap()
    fields: list[bytes | None]
    if _ABSENT in lengths:
        ends = accumulate((max(length, 0) for length in lengths), initial=at)
        fields = [
            None if length == _ABSENT else body[start:end]
            for length, (start, end) in zip(lengths, pairwise(ends), strict=True)
        ]
    else:
        fields = [body[start:end] for start, end in pairwise(accumulate(lengths, initial=at))]
    keys, values = fields[:count], fields[count : 2 * count]
    new = tuple.__new__  # not the tuple's own `_make`, which takes twice as long
    if len(fields) == 2 * count:
        return [
            new(StoredRecord, (topic, number, place, timestamp_ms, key, value, ()))
            for place, (key, value) in enumerate(zip(keys, values, strict=True), offset)
        ]
    return [
        new(StoredRecord, (topic, number, place, timestamp_ms, key, value, unpack_headers(headers or b"")))
        for place, (key, value, headers) in enumerate(zip(keys, values, fields[2 * count :], strict=True), offset)
    ]


def is_run(body: bytes) -> bool:
    """Whether a block's body is that of a run."""
    return body[0] == _RUN


def unpacked_run(body: bytes, count: int, partition: TopicPartition, offset: int, timestamp_ms: int) -> StoredRun:
    """The run of such a block, as `unpacked`. ProtocolViolationError if it has another number of records."""
    (only,) = unpacked(body[1:], 1, partition, offset, timestamp_ms)
    run = StoredRun(*only)
    if run.rows != count:
        raise ProtocolViolationError(f"{run.where}: a run of {run.rows} rows in a block of {count} records")
    return run


def pack_headers(headers: Headers) -> bytes:
    """Names and values, each after its length in four bytes."""
    if not headers:
        return b""
    made = bytearray()
    for name, value in headers:
        for part in (name.encode(), value):
            made += len(part).to_bytes(4) + part
    return bytes(made)


def unpack_headers(made: bytes) -> Headers:
    parts: list[bytes] = []
    at = 0
    while at < len(made):
        start = at + 4
        at = start + int.from_bytes(made[at:start])
        parts.append(made[start:at])
    return tuple((name.decode(), value) for name, value in zip(parts[::2], parts[1::2], strict=True))
