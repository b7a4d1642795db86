"""How topics lie in the SQLite file.

A record's place is one integer: the partition's number, shifted by 40 bits, plus the offset. It is the table's rowid,
so a partition is one range of one B-tree, in order. Against a WITHOUT ROWID key (partition, offset) that writes a third
faster (measured), and it keeps large values out of the inner pages.
"""

from __future__ import annotations

from typing import Final

from cdc.core.log import Headers

APPLICATION_ID: Final = 0x6364634C  # "cdcL"
VERSION: Final = 1
OFFSET_BITS: Final = 40
OFFSET_MASK: Final = (1 << OFFSET_BITS) - 1

# `next_offset` is kept, because it must not go back when all records are gone. `latest` has the last record of each key
# of the compacted topics.
TABLES: Final = """
CREATE TABLE topics (
    name TEXT PRIMARY KEY, partitions INTEGER NOT NULL, compacted INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE partitions (
    number INTEGER PRIMARY KEY, topic TEXT NOT NULL REFERENCES topics, partition INTEGER NOT NULL,
    first_offset INTEGER NOT NULL DEFAULT 0, next_offset INTEGER NOT NULL DEFAULT 0, UNIQUE (topic, partition)
);
CREATE TABLE records (
    place INTEGER PRIMARY KEY, timestamp_ms INTEGER NOT NULL, key BLOB, value BLOB, headers BLOB
);
CREATE TABLE latest (
    partition_number INTEGER NOT NULL, key BLOB NOT NULL, place INTEGER NOT NULL, PRIMARY KEY (partition_number, key)
) WITHOUT ROWID;
"""


def place_of(partition_number: int, offset: int) -> int:
    return partition_number << OFFSET_BITS | offset


def pack_headers(headers: Headers) -> bytes | None:
    """Names and values, each after its length in four bytes; None if there are no headers."""
    if not headers:
        return None
    packed = bytearray()
    for name, value in headers:
        for part in (name.encode(), value):
            packed += len(part).to_bytes(4) + part
    return bytes(packed)


def unpack_headers(packed: bytes | None) -> Headers:
    if packed is None:
        return ()
    parts: list[bytes] = []
    at = 0
    while at < len(packed):
        start = at + 4
        at = start + int.from_bytes(packed[at:start])
        parts.append(packed[start:at])
    return tuple((name.decode(), value) for name, value in zip(parts[::2], parts[1::2], strict=True))
