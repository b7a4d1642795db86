"""Removing records that are older than the retention, little by little."""

from __future__ import annotations

import sqlite3
from typing import Final

from cdc.log.local.layout import OFFSET_MASK, place_of

_RECORDS_AT_ONCE: Final = 20_000
_FREE_PAGES: Final = 2_000

_OLDEST = "SELECT place, records, timestamp_ms FROM blocks WHERE place >= ? AND place <= ? ORDER BY place"


def remove_older(connection: sqlite3.Connection, before_ms: int) -> bool:
    """Remove the records of each partition that come before its first one of `before_ms` or later; compacted topics
    keep theirs. True if there is more to remove. In the caller's transaction.
    """
    partitions = connection.execute(
        "SELECT number, first_offset, next_offset FROM partitions JOIN topics ON name = topic "
        "WHERE NOT compacted AND first_offset < next_offset"
    ).fetchall()
    more = [_remove(connection, number, first, following, before_ms) for number, first, following in partitions]
    return any(more)


def give_space_back(connection: sqlite3.Connection) -> None:
    """Shorten the file by some of the pages that are free. Not inside a transaction."""
    # Only `executescript` runs this statement to its end: it gives a row without columns for each page.
    connection.executescript(f"PRAGMA incremental_vacuum({_FREE_PAGES})")


def _remove(connection: sqlite3.Connection, number: int, first: int, following: int, before_ms: int) -> bool:
    """Whether the partition may hold more that is too old."""
    places = (place_of(number, first), place_of(number, OFFSET_MASK))
    kept, old = following, 0
    for place, records, timestamp_ms in connection.execute(_OLDEST, places):
        if timestamp_ms >= before_ms or old >= _RECORDS_AT_ONCE:
            kept = place & OFFSET_MASK
            break
        old += records
    if kept > first:
        connection.execute("DELETE FROM blocks WHERE place >= ? AND place < ?", (places[0], place_of(number, kept)))
        connection.execute("UPDATE partitions SET first_offset = ? WHERE number = ?", (kept, number))
    return old >= _RECORDS_AT_ONCE
