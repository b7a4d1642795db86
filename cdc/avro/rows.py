"""Rows of one table version <-> Avro bytes, with what the bytes can't say beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cdc.avro import binary
from cdc.avro.headers import Texts
from cdc.avro.kinds import codec_of
from cdc.avro.kinds.codec import Datum, InexactError
from cdc.avro.kinds.texts import utf8
from cdc.avro.tables import FieldReader
from cdc.core.errors import FidelityError, ProtocolViolationError
from cdc.core.events import UNCHANGED, Key, Row, Value
from cdc.core.tables import Column, TableSchema
from cdc.core.types import Kind


@dataclass(slots=True)
class Packed:
    """The bytes of each field, and by column what they don't say."""

    parts: list[bytes]
    exact: dict[str, bytes] = field(default_factory=dict)
    unchanged: list[str] = field(default_factory=list)

    @property
    def record(self) -> bytes:
        return b"".join(self.parts)


@dataclass(frozen=True, slots=True)
class _Packer:
    """One column's way from text to bytes. `null` is None where the field can't be null."""

    pack: Callable[[bytes], bytes]
    pack_datum: Callable[[Datum], bytes]
    null: bytes | None
    filler: bytes
    unavailable: bytes


class RowWriter:
    """Writes rows and keys. `fillers` are the bytes of fields of which nothing is known."""

    def __init__(self, table: TableSchema) -> None:
        self._table = table
        self._packers = tuple(_packer(column) for column in table.columns)
        self.fillers = [packer.filler for packer in self._packers]

    def row(self, row: Row) -> Packed:
        packed = Packed(parts=[])
        add = packed.parts.append
        if len(row) != len(self._packers):
            raise FidelityError(f"{self._table.id}: a row of {len(row)} values for {len(self._packers)} columns")
        for i, value in enumerate(row):
            packer = self._packers[i]
            if value is None:
                add(self._null(i))
            elif value is UNCHANGED:
                packed.unchanged.append(self._table.columns[i].name)
                add(packer.unavailable)
            else:
                try:
                    add(packer.pack(value))
                except InexactError as inexact:
                    add(self._inexact(i, value, inexact.datum, packed))
                except ValueError as error:
                    raise self._refused(i) from error
        return packed

    def key(self, key: Key) -> Packed:
        """The key alone."""
        packed = Packed(parts=[])
        for i, text in zip(self._table.key, key, strict=True):
            packed.parts.append(self._one(i, text, packed))
        return packed

    def key_row(self, key: Key) -> Packed:
        """A row of which nothing but the key is known: all else is null."""
        packed = Packed(parts=self.fillers.copy())
        for i, text in zip(self._table.key, key, strict=True):
            packed.parts[i] = self._one(i, text, packed)
        return packed

    def _one(self, i: int, text: bytes, packed: Packed) -> bytes:
        try:
            return self._packers[i].pack(text)
        except InexactError as inexact:
            return self._inexact(i, text, inexact.datum, packed)
        except ValueError as error:
            raise self._refused(i) from error

    def _inexact(self, i: int, text: bytes, datum: Datum, packed: Packed) -> bytes:
        try:
            packed.exact[self._table.columns[i].name] = utf8(text)
        except ValueError as error:
            raise self._refused(i) from error
        packer = self._packers[i]
        return packer.filler if datum is None else packer.pack_datum(datum)

    def _null(self, i: int) -> bytes:
        null = self._packers[i].null
        if null is None:
            raise FidelityError(
                f"{self._table.id}.{self._table.columns[i].name}: NULL in a column that has none",
                mend="`cdc capture --start-over` loads all tables again",
            )
        return null

    def _refused(self, i: int) -> FidelityError:
        column = self._table.columns[i]
        mend = _MEND.get(column.type.kind, "Leave the table out of [source] tables, and report the type.")
        return FidelityError(
            f"{self._table.id}.{column.name}: the source sent what is no text of {column.type.name}", mend=mend
        )


_SETTINGS = "Let the source role's settings be those of cdc: ALTER ROLE … RESET ALL, without DateStyle and the like."
_MEND = dict.fromkeys((Kind.DATE, Kind.TIME, Kind.TIMETZ, Kind.TIMESTAMP, Kind.TIMESTAMPTZ, Kind.INTERVAL), _SETTINGS)
_MEND |= {
    Kind.MONEY: "Set lc_monetary = 'C' for the source role.",
    Kind.BYTES: "Set bytea_output = 'hex' for the source role.",
}
_MEND |= dict.fromkeys(
    (Kind.STRING, Kind.JSON, Kind.XML, Kind.LTREE, Kind.ENUM, Kind.OTHER),
    "Store the text in UTF-8 at the source; this is not.",
)


def _packer(column: Column) -> _Packer:
    codec = codec_of(column.type)
    encode, write = codec.encode, codec.write
    unavailable = codec.unavailable
    if column.nullable:
        present = binary.PRESENT
        return _Packer(
            pack=lambda text: present + write(encode(text)),
            pack_datum=lambda datum: present + write(datum),
            null=binary.NULL,
            filler=binary.NULL,
            unavailable=binary.NULL if unavailable is None else present + write(unavailable),
        )
    return _Packer(
        pack=lambda text: write(encode(text)),
        pack_datum=write,
        null=None,
        filler=write(codec.stand_in),
        unavailable=write(codec.stand_in if unavailable is None else unavailable),
    )


class RowReader:
    """Reads rows and keys from fastavro's records."""

    def __init__(self, table: TableSchema, fields: Sequence[FieldReader]) -> None:
        self._table = table
        self._fields = tuple((reader.name, reader.codec.decode) for reader in fields)
        self._unavailable = tuple(_placeholders(reader) for reader in fields)
        self._index = {column.name: i for i, column in enumerate(table.columns)}
        self._key_fields = tuple(self._fields[i] for i in table.key)

    def row(self, record: Mapping[str, Any], exact: Texts, unchanged: Sequence[str] = ()) -> Row:
        said: dict[int, Value] = {self._at(column): text for column, text in exact.items()}
        for column in unchanged:
            said[self._at(column)] = UNCHANGED
        values: list[Value] = []
        for i, (name, decode) in enumerate(self._fields):
            datum = record[name]
            if i in said:  # the field holds what need not be a value of its type
                values.append(said[i])
            else:
                values.append(None if datum is None else decode(datum))
        return tuple(values)

    def foreign_row(self, record: Mapping[str, Any]) -> Row:
        """A row of a connector's, in which only the placeholder says that a value is UNCHANGED."""
        values: list[Value] = []
        for (name, decode), placeholders in zip(self._fields, self._unavailable, strict=True):
            datum = record[name]
            if datum is None:
                values.append(None)
            else:
                values.append(UNCHANGED if datum in placeholders else decode(datum))
        return tuple(values)

    def key(self, record: Mapping[str, Any], exact: Texts) -> Key:
        """Of a key's record, or of a row's."""
        texts = []
        for i, (name, decode) in zip(self._table.key, self._key_fields, strict=True):
            text = exact.get(self._table.columns[i].name)
            datum = record.get(name)
            if text is None and datum is None:
                raise ProtocolViolationError(f"{self._table.id}: a key without {self._table.columns[i].name}")
            texts.append(decode(datum) if text is None else text)
        return tuple(texts)

    def _at(self, column: str) -> int:
        try:
            return self._index[column]
        except KeyError:
            raise ProtocolViolationError(
                f"{self._table.id}: a header names the column {column}, which it lacks"
            ) from None


def _placeholders(reader: FieldReader) -> tuple[Datum, ...]:
    unavailable = reader.codec.unavailable
    if not isinstance(unavailable, bytes):
        return () if unavailable is None else (unavailable,)
    return (unavailable, b'{"%b":"%b"}' % (unavailable, unavailable))  # hstore's, as a connector writes it
