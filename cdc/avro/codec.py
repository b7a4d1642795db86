"""Change events of one table version -> framed Avro keys and values."""

from __future__ import annotations

from typing import NamedTuple, assert_never

from cdc.avro import binary, headers
from cdc.avro.framing import header
from cdc.avro.rows import Packed, RowWriter
from cdc.avro.schemas import envelope_schema, key_schema
from cdc.avro.source import SourceWriter
from cdc.core.errors import FidelityError
from cdc.core.events import (
    Alter,
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
    Truncate,
    Unchanged,
    Update,
)
from cdc.core.log import Headers
from cdc.core.tables import ReplicaIdentity, TableSchema
from cdc.core.types import has_one_text


class EncodedEvent(NamedTuple):
    """A record of the table's topic. A delete's tombstone is the caller's to write. With a key, `place` decides the
    partition: it is the same for equal keys, also where their texts, and so their bytes, differ.
    """

    key: bytes | None
    value: bytes
    headers: Headers
    place: bytes | None = None


class _Rows(NamedTuple):
    """The rows of an envelope: their nullable fields' bytes, those of the key's columns, and what goes into headers."""

    before: bytes
    after: bytes
    key: list[bytes] | None
    headers: Headers


class TableCodec:
    """Encodes the events of one table version. `prefix` is the log's, which the events name as their connector's.

    `key_schema` (None for a table without a key) and `value_schema` are what to register.
    """

    def __init__(self, table: TableSchema, topic: str, *, prefix: str) -> None:
        self.table = table
        self.key_schema = key_schema(table, topic)
        self.value_schema = envelope_schema(table, topic)
        self._rows = RowWriter(table)
        self._source = SourceWriter(prefix, table.id)
        self._usual_image = FullImage if table.identity is ReplicaIdentity.FULL else KeyImage
        self._captured: tuple[int, bytes] = (0, _captured(0))
        self._placing = [place for place, column in enumerate(table.key_columns) if has_one_text(column.type)]

    def encode(self, event: ChangeEvent, *, key_id: int, value_id: int) -> EncodedEvent:
        """FidelityError, naming table and column, for a value that is none of its column's type."""
        op, rows = self._change(event, key_id)
        if event.captured_us != self._captured[0]:
            self._captured = event.captured_us, _captured(event.captured_us)
        value = b"".join(
            (
                header(value_id),
                rows.before,
                rows.after,
                self._source.source(event.transaction, event.lsn, event.snapshot),
                self._source.block(event.transaction, event.ordinal, event.table_ordinal),
                op,
                self._captured[1],
            )
        )
        if rows.key is None:
            return EncodedEvent(None, value, rows.headers)
        key = header(key_id) + b"".join(rows.key)
        exact = len(self._placing) == len(rows.key)
        place = key if exact else b"".join([rows.key[place] for place in self._placing])
        return EncodedEvent(key, value, rows.headers, place)

    def _change(self, event: ChangeEvent, key_id: int) -> tuple[bytes, _Rows]:
        match event.change:
            case Read(after):
                return b"\x02r", self._written(None, after)
            case Create(after, moved_from):
                return b"\x02c", self._moved(self._written(None, after), headers.OLD_KEY, moved_from, key_id)
            case Update(before, after):
                return b"\x02u", self._written(before, after)
            case Delete(before, moved_to, awaits_create):
                rows = self._moved(self._deleted(before), headers.NEW_KEY, moved_to, key_id)
                if awaits_create:
                    rows = rows._replace(headers=(*rows.headers, (headers.AWAITS_CREATE, b"")))
                return b"\x02d", rows
            case Truncate():
                return b"\x02t", _Rows(binary.NULL, binary.NULL, None, ())
            case Alter() | Drop():
                raise AssertionError("what becomes of a table is not in its topic: see cdc.avro.alterations")
            case _:
                assert_never(event.change)

    def _written(self, before: OldImage | None, after: Row) -> _Rows:
        packed = self._rows.row(after)
        old = None if before is None else self._image(before)
        said = self._headers(old, packed, before)
        return _Rows(
            before=binary.NULL if old is None else binary.PRESENT + old.record,
            after=binary.PRESENT + packed.record,
            key=self._key_of(after, packed, old),
            headers=said,
        )

    def _deleted(self, before: OldImage) -> _Rows:
        old = self._image(before)
        key = [old.parts[i] for i in self.table.key] if self.table.key else None
        return _Rows(binary.PRESENT + old.record, binary.NULL, key, self._headers(old, None, before))

    def _image(self, before: OldImage) -> Packed:
        match before:
            case KeyImage(key):
                return self._rows.key_row(key)
            case FullImage(row):
                return self._rows.row(row)
            case _:
                assert_never(before)

    def _key_of(self, after: Row, packed: Packed, old: Packed | None) -> list[bytes] | None:
        """The key's bytes are those of its fields in the row. A key that is UNCHANGED stands in the old image."""
        if not self.table.key:
            return None
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
        packed = self._rows.key(key)
        said = ((name, header(key_id) + packed.record), *rows.headers)
        if packed.exact:
            said = _with_exact(said, packed)
        return rows._replace(headers=said)

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


def _captured(us: int) -> bytes:
    return binary.optional_long(us // 1000) + binary.optional_long(us) + binary.optional_long(us * 1000)
