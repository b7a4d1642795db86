"""How topics lie in the SQLite file.

Records are in blocks (see `blocks.py`): of a compacted topic each alone, of others all that came together. A block's
place is one integer: the partition's number, shifted by 40 bits, plus its first offset. It is the table's rowid, so a
partition is one range of one B-tree, in order.
"""

from __future__ import annotations

from typing import Final

APPLICATION_ID: Final = 0x6364634C  # "cdcL"
VERSION: Final = 3
WITHOUT_RUNS: Final = 2  # as it was before: all that it has is as it is now
OFFSET_BITS: Final = 40
OFFSET_MASK: Final = (1 << OFFSET_BITS) - 1

# `next_offset` is kept, because it must not go back when all records are gone. `latest` has the place of the last
# record of each key of the compacted topics.
TABLES: Final = """
CREATE TABLE topics (
    name TEXT PRIMARY KEY, partitions INTEGER NOT NULL, compacted INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE partitions (
    number INTEGER PRIMARY KEY, topic TEXT NOT NULL REFERENCES topics, partition INTEGER NOT NULL,
    first_offset INTEGER NOT NULL DEFAULT 0, next_offset INTEGER NOT NULL DEFAULT 0, UNIQUE (topic, partition)
);
CREATE TABLE blocks (
    place INTEGER PRIMARY KEY, records INTEGER NOT NULL, timestamp_ms INTEGER NOT NULL, body BLOB NOT NULL
);
CREATE TABLE latest (
    partition_number INTEGER NOT NULL, key BLOB NOT NULL, place INTEGER NOT NULL, PRIMARY KEY (partition_number, key)
) WITHOUT ROWID;
"""


def place_of(partition_number: int, offset: int) -> int:
    return partition_number << OFFSET_BITS | offset
