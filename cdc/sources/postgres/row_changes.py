"""What one message of a row means for a table of a known version: one change, or two where a key changed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from cdc.core.errors import FidelityError, ProtocolViolationError
from cdc.core.events import (
    UNCHANGED,
    Change,
    Create,
    Delete,
    FullImage,
    Key,
    KeyImage,
    OldImage,
    Row,
    RowFormat,
    Truncate,
    Update,
)
from cdc.core.tables import TableSchema
from cdc.pgoutput import messages as wire
from cdc.pgoutput import rows
from cdc.pgoutput.decoder import decode
from cdc.pgoutput.stream import message_in

RowMessage = wire.RowMessage | wire.Truncate


def changes_of(table: TableSchema, message: RowMessage) -> Iterator[Change]:
    """What a message does to the rows of a table of this version."""
    match message:
        case wire.Insert(_, new):
            yield Create(_whole(table, new))
        case wire.Update(_, old, new):
            yield from _update(table, old, new)
        case wire.Delete(_, old):
            yield Delete(_old_image(table, old))
        case wire.Truncate():
            yield Truncate()


def _update(table: TableSchema, old: wire.OldTuple | None, new: Row) -> Iterator[Change]:
    before = None if old is None else _old_image(table, old)
    after = _filled(table, before, _as_wide(table, new))
    old_key = None if before is None else _key_of(table, before)
    new_key = row_key(table, after)
    if old_key is not None and table.key and old_key != new_key:
        yield Delete(_required(before), moved_to=new_key, awaits_create=UNCHANGED in after)
        yield Create(after, moved_from=old_key)
    else:
        yield Update(before if isinstance(before, FullImage) else None, after)


def row_key(table: TableSchema, row: Row) -> Key:
    """The key columns' values of a row. ProtocolViolationError if one is NULL or was not sent."""
    key = tuple(row[index] for index in table.key)
    if not all(isinstance(value, bytes) for value in key):
        raise ProtocolViolationError(f"table {table.id}: a key column came without a value")
    return key  # type: ignore[return-value]  # all() above is not seen as a narrowing


def _key_of(table: TableSchema, image: OldImage) -> Key:
    return image.key if isinstance(image, KeyImage) else row_key(table, image.row)


def _as_wide(table: TableSchema, row: Row) -> Row:
    """The row itself, if it has a value for each column that its Relation message announced."""
    if len(row) != len(table.columns):
        raise ProtocolViolationError(f"table {table.id}: a row of {len(row)} values for {len(table.columns)} columns")
    return row


def _whole(table: TableSchema, row: Row) -> Row:
    """A new row has all its values, but for one that an update moved into the publication's row filter."""
    if UNCHANGED in _as_wide(table, row):
        raise FidelityError(
            f"table {table.id}: an update moved a row into the publication's row filter, without its large values",
            mend=f"ALTER TABLE {table.id} REPLICA IDENTITY FULL, or publish the table without a row filter",
        )
    return row


def _old_image(table: TableSchema, old: wire.OldTuple) -> OldImage:
    row = _as_wide(table, old.values)
    return FullImage(row) if isinstance(old, wire.FullTuple) else KeyImage(row_key(table, row))


def _filled(table: TableSchema, before: OldImage | None, after: Row) -> Row:
    """`after` with what the old image knows of the values that were not sent again."""
    if before is None or UNCHANGED not in after:
        return after
    if isinstance(before, FullImage):
        known = before.row
    else:
        by_index = dict(zip(table.key, before.key, strict=True))
        known = tuple(by_index.get(index, UNCHANGED) for index in range(len(after)))
    return tuple(old if new is UNCHANGED else new for old, new in zip(known, after, strict=True))


def _required(image: OldImage | None) -> OldImage:
    if image is None:
        raise ProtocolViolationError("a changed key without its old image")
    return image


def _change_in(table: TableSchema, frame: bytes) -> Change:
    """The change of a frame that was taken for a usual one."""
    framed = message_in(frame)
    message = None if framed is None else decode(framed[1])
    if not isinstance(message, (wire.Insert, wire.Update, wire.Delete)):
        raise ProtocolViolationError("a change of a row was taken for what it is not")
    (change,) = changes_of(table, message)
    return change


ROW_FORMAT: Final = RowFormat(
    reading=rows.reading, names={"value_at": rows.value_at}, change=_change_in, tuple_at=rows.FIRST_VALUE
)
