"""Whether the log takes a change, said in the words of who has to mend it: table, column, setting."""

from __future__ import annotations

from collections.abc import Iterator
from typing import assert_never

from cdc.core.errors import RecordTooLargeError
from cdc.core.events import Alter, ChangeEvent, Create, Delete, Drop, FullImage, OldImage, Read, Truncate, Update, Value
from cdc.core.log import Record
from cdc.core.tables import Column, TableSchema
from cdc.core.types import Kind
from cdc.log.limits import record_size


def check_size(event: ChangeEvent, record: Record, limit: int) -> None:
    """RecordTooLargeError if the event's `record` is above `limit` bytes."""
    size = record_size(record)
    if size <= limit:
        return
    bytes_of_it, column = max((_size(column, value), column.name) for column, value in _values(event))
    raise RecordTooLargeError(
        f"table {event.table.id}, column {column}: a change of {size:,} bytes, {bytes_of_it:,} of them in that column,"
        f" is above [log] max_record_bytes ({limit:,})",
        mend=f"raise [log] max_record_bytes to {size:,} or more (and with Kafka max.message.bytes of topic"
        f" {record.topic}), or leave the table out of [source] tables",
    )


def _values(event: ChangeEvent) -> Iterator[tuple[Column, Value]]:
    match event.change:
        case Read(after) | Create(after):
            yield from zip(event.table.columns, after, strict=True)
        case Update(before, after):
            yield from zip(event.table.columns, after, strict=True)
            if before is not None:
                yield from _old_values(event.table, before)
        case Delete(before):
            yield from _old_values(event.table, before)
        case Truncate() | Alter() | Drop():
            pass
        case _:
            assert_never(event.change)


def _old_values(table: TableSchema, image: OldImage) -> Iterator[tuple[Column, Value]]:
    if isinstance(image, FullImage):
        yield from zip(table.columns, image.row, strict=True)
    else:
        yield from zip(table.key_columns, image.key, strict=True)


def _size(column: Column, value: Value) -> int:
    if not isinstance(value, bytes):
        return 0
    return len(value) // 2 - 1 if column.type.kind is Kind.BYTES else len(value)  # \x, and two digits a byte
