"""PostgreSQL's types in the neutral vocabulary: the one map from there to `ColumnType`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cdc.core.types import ColumnType, Kind

_KINDS: Final[dict[str, Kind]] = {
    "bool": Kind.BOOLEAN,
    "int2": Kind.INT16,
    "int4": Kind.INT32,
    "int8": Kind.INT64,
    "oid": Kind.INT64,
    "float4": Kind.FLOAT32,
    "float8": Kind.FLOAT64,
    "money": Kind.MONEY,
    "text": Kind.STRING,
    "varchar": Kind.STRING,
    "bpchar": Kind.STRING,
    "name": Kind.STRING,
    "char": Kind.STRING,
    "citext": Kind.STRING,
    "inet": Kind.STRING,
    "cidr": Kind.STRING,
    "macaddr": Kind.STRING,
    "macaddr8": Kind.STRING,
    "int4range": Kind.STRING,
    "int8range": Kind.STRING,
    "numrange": Kind.STRING,
    "tsrange": Kind.STRING,
    "tstzrange": Kind.STRING,
    "daterange": Kind.STRING,
    "bytea": Kind.BYTES,
    "date": Kind.DATE,
    "time": Kind.TIME,
    "timetz": Kind.TIMETZ,
    "timestamp": Kind.TIMESTAMP,
    "timestamptz": Kind.TIMESTAMPTZ,
    "interval": Kind.INTERVAL,
    "uuid": Kind.UUID,
    "json": Kind.JSON,
    "jsonb": Kind.JSON,
    "xml": Kind.XML,
    "ltree": Kind.LTREE,
    "hstore": Kind.HSTORE,
    "vector": Kind.VECTOR,
    "halfvec": Kind.HALFVEC,
}
_HEADER: Final = 4  # a type modifier that holds a length counts the varlena header in
_NO_MODIFIER: Final = -1
_SCALE_BITS: Final = 0x7FF


@dataclass(frozen=True, slots=True, kw_only=True)
class PgType:
    """A row of pg_type. `name` is typname; `category` typtype (b base, e enum, d domain, c composite …)."""

    oid: int
    schema: str
    name: str
    category: str
    element: int
    is_array: bool
    base: int
    base_modifier: int


def column_type(types: dict[int, PgType], oid: int, modifier: int, *, name: str) -> ColumnType:
    """The neutral type of a column of type `oid` with `atttypmod` `modifier`; `name` is `format_type(oid, modifier)`.

    `types` must hold the type and what it is made of (element, base). A type without a mapping is OTHER.
    """
    of = types.get(oid)
    if of is None:
        return ColumnType(kind=Kind.OTHER, name=name)
    if of.category == "d":
        # A domain's own constraints were checked at the source; what crosses is its base type.
        inner_modifier = of.base_modifier if of.base_modifier != _NO_MODIFIER else modifier
        inner = column_type(types, of.base, inner_modifier, name=name)
        return _renamed(inner, name)
    if of.is_array:
        element_name = name.removesuffix("[]")
        element = column_type(types, of.element, modifier, name=element_name)
        return ColumnType(kind=Kind.ARRAY, name=name, element=element)
    if of.category == "e":
        return ColumnType(kind=Kind.ENUM, name=name)
    return _base_type(of.name, modifier, name)


def _renamed(of: ColumnType, name: str) -> ColumnType:
    return ColumnType(
        kind=of.kind, name=name, precision=of.precision, scale=of.scale, length=of.length, element=of.element
    )


def _base_type(typname: str, modifier: int, name: str) -> ColumnType:
    match typname:
        case "numeric" if modifier != _NO_MODIFIER:
            precision, scale = _numeric_modifier(modifier)
            return ColumnType(kind=Kind.DECIMAL, name=name, precision=precision, scale=scale)
        case "numeric":
            return ColumnType(kind=Kind.VARIABLE_DECIMAL, name=name)
        case "bit":
            length = 1 if modifier == _NO_MODIFIER else modifier
            return ColumnType(kind=Kind.BIT if length == 1 else Kind.BITS, name=name, length=length)
        case "varbit":
            return ColumnType(kind=Kind.BITS, name=name, length=None if modifier == _NO_MODIFIER else modifier)
        case "varchar" | "bpchar":
            length_or_none = None if modifier == _NO_MODIFIER else modifier - _HEADER
            return ColumnType(kind=Kind.STRING, name=name, length=length_or_none)
        case _:
            return ColumnType(kind=_KINDS.get(typname, Kind.OTHER), name=name)


def _numeric_modifier(modifier: int) -> tuple[int, int]:
    """Precision and scale; the scale has 11 bits and a sign since PostgreSQL 15 (numeric.c, numeric_typmod_scale)."""
    packed = modifier - _HEADER
    return packed >> 16 & 0xFFFF, ((packed & _SCALE_BITS) ^ 1024) - 1024
