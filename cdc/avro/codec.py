"""Change events of one table version -> framed Avro keys and values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, assert_never

from cdc.avro import binary, headers
from cdc.avro.framing import header
from cdc.avro.packers import UNUSUAL
from cdc.avro.packing import EventPackers, event_packers, row_packers
from cdc.avro.rows import Packed, RowWriter
from cdc.avro.schemas import envelope_schema, key_schema
from cdc.avro.source import SourceWriter, table_bytes
from cdc.core.errors import FidelityError
from cdc.core.events import (
    Alter,
    Change,
    ChangeEvent,
    Create,
    Delete,
    Drop,
    FullImage,
    Key,
    KeyImage,
    OldImage,
    Read,
    Row,
    RowFormat,
    Truncate,
    Unchanged,
    Update,
)
from cdc.core.log import Headers
from cdc.core.tables import ReplicaIdentity, TableSchema
from cdc.core.types import has_one_text

OPS: Final[dict[type[Change], bytes]] = {
    Read: b"\x02r",
    Create: b"\x02c",
    Update: b"\x02u",
    Delete: b"\x02d",
    Truncate: b"\x02t",
}


class EncodedEvent(NamedTuple):
    """A record of the table's topic. A delete's tombstone is the caller's to write. With a key, `place` decides the
    partition: it is the same for equal keys, also where their texts, and so their bytes, differ.
    """

    key: bytes | None
    value: bytes
    headers: Headers
    place: bytes | None = None


_Rows = tuple[bytes, bytes, bytes | None, bytes | None, Headers]
"""The rows of an envelope: bytes of `before` and `after`, of the key's fields, of those of them that decide the key's
partition, and headers.
"""


class TableCodec:
    """Encodes the events of one table version. `prefix` is the log's, which the events name as their connector's.

    `key_schema` (None for a table without a key) and `value_schema` are what to register. Codecs may share `source`,
    which is cheapest for the events of one transaction in a row.

    Usual rows, which are nearly all, go through compiled packers; what those refuse is written plainly.
    """

    def __init__(self, table: TableSchema, topic: str, *, prefix: str, source: SourceWriter | None = None) -> None:
        self.table = table
        self.key_schema = key_schema(table, topic)
        self.value_schema = envelope_schema(table, topic)
        self._rows = RowWriter(table)
        self._pack_row, self._pack_key = row_packers(table, self._rows.fillers)
        self._source = source or SourceWriter(prefix)
        self.table_bytes = table_bytes(table.id)
        self._has_key = bool(table.key)
        self._usual_image = FullImage if table.identity is ReplicaIdentity.FULL else KeyImage
        self._placing = [place for place, column in enumerate(table.key_columns) if has_one_text(column.type)]

    def encode(self, event: ChangeEvent, *, key_id: int, value_id: int) -> EncodedEvent:
        """FidelityError, naming table and column, for a value that is none of its column's type."""
        change = event.change
        try:
            before, after, key, place, said = self._usual(change)
        except UNUSUAL:
            before, after, key, place, said = self._plain(change, key_id)
        value = b"".join(
            (
                header(value_id),
                before,
                after,
                self._source.write(
                    event.transaction, self.table_bytes, event.lsn, event.snapshot, event.ordinal, event.table_ordinal
                ),
                OPS[type(change)],
                self._source.captured(event.captured_us),
            )
        )
        if key is None or not self._has_key:
            return EncodedEvent(None, value, said)
        framed = header(key_id) + key
        return EncodedEvent(framed, value, said, framed if place is key else place)

    def packers(self, form: RowFormat, *, key_id: int, value_id: int) -> EventPackers:
        """For events that nobody read: their beginning, as `encode` writes it, or one of UNUSUAL."""
        return event_packers(self.table, self._rows.fillers, form, key=header(key_id), value=header(value_id))

    # -- what is usual: compiled ---------------------------------------------------------------------------------------

    def _usual(self, change: Change) -> _Rows:
        """Raises one of UNUSUAL for all that needs a closer look."""
        if type(change) is Update:
            after, key, place = self._pack_row(change.after)
            return binary.NULL if change.before is None else self._usual_old(change.before)[0], after, key, place, ()
        if type(change) is Delete and change.moved_to is None and not change.awaits_create:
            before, key, place = self._usual_old(change.before)
            return before, binary.NULL, key, place, ()
        if type(change) is Read or (type(change) is Create and change.moved_from is None):
            after, key, place = self._pack_row(change.after)
            return binary.NULL, after, key, place, ()
        raise TypeError(change)

    def _usual_old(self, image: OldImage) -> tuple[bytes, bytes, bytes]:
        if type(image) is not self._usual_image:
            raise TypeError(image)
        return self._pack_row(image.row) if isinstance(image, FullImage) else self._pack_key(image.key)

    # -- whatever it is: plain -----------------------------------------------------------------------------------------

    def _plain(self, change: Change, key_id: int) -> _Rows:
        match change:
            case Read(after):
                return self._written(None, after)
            case Create(after, moved_from):
                return self._moved(self._written(None, after), headers.OLD_KEY, moved_from, key_id)
            case Update(before, after):
                return self._written(before, after)
            case Delete(before, moved_to, awaits_create):
                old, new, key, place, said = self._moved(self._deleted(before), headers.NEW_KEY, moved_to, key_id)
                return old, new, key, place, (*said, (headers.AWAITS_CREATE, b"")) if awaits_create else said
            case Truncate():
                return binary.NULL, binary.NULL, None, None, ()
            case Alter() | Drop():
                raise AssertionError("what becomes of a table is not in its topic: see cdc.avro.alterations")
            case _:
                assert_never(change)

    def _written(self, before: OldImage | None, after: Row) -> _Rows:
        packed = self._rows.row(after)
        old = None if before is None else self._image(before)
        return (
            binary.NULL if old is None else binary.PRESENT + old.record,
            binary.PRESENT + packed.record,
            *self._keyed(self._key_of(after, packed, old)),
            self._headers(old, packed, before),
        )

    def _deleted(self, before: OldImage) -> _Rows:
        old = self._image(before)
        keyed = self._keyed([old.parts[i] for i in self.table.key])
        return binary.PRESENT + old.record, binary.NULL, *keyed, self._headers(old, None, before)

    def _keyed(self, parts: Sequence[bytes]) -> tuple[bytes, bytes]:
        key = b"".join(parts)
        return key, key if len(self._placing) == len(parts) else b"".join([parts[i] for i in self._placing])

    def _image(self, before: OldImage) -> Packed:
        match before:
            case KeyImage(key):
                return self._rows.key_row(key)
            case FullImage(row):
                return self._rows.row(row)
            case _:
                assert_never(before)

    def _key_of(self, after: Row, packed: Packed, old: Packed | None) -> list[bytes]:
        """The key's bytes are those of its fields in the row. A key that is UNCHANGED stands in the old image."""
        parts = []
        for i in self.table.key:
            if after[i] is not Unchanged.UNCHANGED:
                parts.append(packed.parts[i])
            elif old is not None:
                parts.append(old.parts[i])
            else:
                raise FidelityError(
                    f"{self.table.id}.{self.table.columns[i].name}: the source did not send a key column's value",
                    mend=f"ALTER TABLE {self.table.id} REPLICA IDENTITY FULL",
                )
        return parts

    def _moved(self, rows: _Rows, name: str, key: Key | None, key_id: int) -> _Rows:
        if key is None:
            return rows
        before, after, own_key, place, said = rows
        packed = self._rows.key(key)
        said = ((name, header(key_id) + packed.record), *said)
        return before, after, own_key, place, _with_exact(said, packed) if packed.exact else said

    def _headers(self, old: Packed | None, new: Packed | None, before: OldImage | None) -> Headers:
        exact = {
            part: packed.exact
            for part, packed in (("before", old), ("after", new))
            if packed is not None and packed.exact
        }
        said: Headers = ()
        if before is not None and type(before) is not self._usual_image:
            said += ((headers.BEFORE, b"key" if isinstance(before, KeyImage) else b"full"),)
        if new is not None and new.unchanged:
            said += ((headers.UNCHANGED, headers.write_unchanged(new.unchanged)),)
        if exact:
            said += ((headers.EXACT, headers.write_exact(exact)),)
        return said


def _with_exact(said: Headers, moved: Packed) -> Headers:
    parts = next((headers.read_exact(value) for name, value in said if name == headers.EXACT), {})
    others = tuple(item for item in said if item[0] != headers.EXACT)
    return (*others, (headers.EXACT, headers.write_exact({**parts, "moved": moved.exact})))
