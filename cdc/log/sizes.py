"""How large a record may be."""

from __future__ import annotations

from typing import Final

from cdc.core.errors import RecordTooLargeError
from cdc.core.log import Record

_OVERHEAD: Final = 512  # of a record and its batch in Kafka's own format, generously


def record_size(record: Record) -> int:
    """About what the record takes in a log, in bytes."""
    headers = sum(len(name) + len(value) + 16 for name, value in record.headers)
    return len(record.key or b"") + len(record.value or b"") + headers + _OVERHEAD


def require_size(record: Record, most: int) -> None:
    """RecordTooLargeError if the record is above the log's limit."""
    size = record_size(record)
    if size > most:
        raise RecordTooLargeError(
            f"a record of {size:,} bytes for topic {record.topic!r} is above the limit of {most:,}",
            mend=f"raise [log] max_record_bytes to at least {size} (and the topic's max.message.bytes)",
        )
