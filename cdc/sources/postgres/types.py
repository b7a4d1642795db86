"""PostgreSQL's types in the neutral vocabulary: the one map from there to `ColumnType`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Self

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
}
_OF_EXTENSIONS: Final[dict[tuple[str, str], Kind]] = {
    ("citext", "citext"): Kind.STRING,
    ("ltree", "ltree"): Kind.LTREE,
    ("hstore", "hstore"): Kind.HSTORE,
    ("vector", "vector"): Kind.VECTOR,
    ("vector", "halfvec"): Kind.HALFVEC,
}
_BUILT_IN: Final = "pg_catalog"
_HEADER: Final = 4  # a type modifier that holds a length counts the varlena header in
_NO_MODIFIER: Final = -1
_SCALE_BITS: Final = 0x7FF


@dataclass(frozen=True, slots=True, kw_only=True)
class PgType:
    """A row of pg_type. `name` is typname; `category` typtype (b base, e enum, d domain, c composite …). `base_name` is
    `format_type` of what a domain is over; `extension` names the one that the type belongs to.
    """

    oid: int
    schema: str
    name: str
    category: str
    element: int
    is_array: bool
    base: int
    base_modifier: int
    base_name: str | None = None
    extension: str | None = None

    @classmethod
    def of_row(cls, row: Sequence[Any]) -> Self:
        """Of a row of `TYPE_COLUMNS`."""
        names = tuple(cls.__dataclass_fields__)
        return cls(**dict(zip(names, row, strict=True)))


TYPE_COLUMNS: Final = """
    t.oid::bigint, n.nspname, t.typname, t.typtype::text, t.typelem::bigint,
    t.typelem <> 0 AND t.typsubscript = 'array_subscript_handler'::regproc
        AND t.typname NOT IN ('int2vector', 'oidvector'),
    t.typbasetype::bigint, t.typtypmod,
    CASE t.typtype WHEN 'd' THEN format_type(t.typbasetype, t.typtypmod) END,
    (SELECT e.extname FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
     WHERE d.classid = 'pg_type'::regclass AND d.objid = t.oid AND d.deptype = 'e'
         AND d.refclassid = 'pg_extension'::regclass)
"""
"""A PgType's fields, in their order, of `pg_type t JOIN pg_namespace n`."""


def column_type(types: dict[int, PgType], oid: int, modifier: int, *, name: str) -> ColumnType:
    """The neutral type of a column of type `oid` with `atttypmod` `modifier`; `name` is `format_type(oid, modifier)`.

    `types` must hold the type and what it is made of (element, base). A type without a mapping is OTHER.
    """
    of = types.get(oid)
    if of is None:
        return ColumnType(kind=Kind.OTHER, name=name)
    if of.category == "d":
        # A domain's own constraints were checked at the source; what crosses is its base type.
        inner = column_type(types, of.base, of.base_modifier, name=of.base_name or "")
        return replace(inner, name=name, base=inner.base or inner.name)
    if of.is_array:
        element = column_type(types, of.element, modifier, name=name.removesuffix("[]"))
        return ColumnType(kind=Kind.ARRAY, name=name, element=element)
    if of.category == "e":
        return ColumnType(kind=Kind.ENUM, name=name)
    if of.schema == _BUILT_IN:
        return _built_in(of.name, modifier, name)
    return ColumnType(kind=_OF_EXTENSIONS.get((of.extension or "", of.name), Kind.OTHER), name=name)


def kinds_by_name() -> dict[str, Kind]:
    """What pg_type calls the types that have a kind of their own, built-in ones and those of extensions. Without those
    whose kind depends on a modifier: numeric, bit, varbit.
    """
    return {**_KINDS, **{name: kind for (_, name), kind in _OF_EXTENSIONS.items()}}


def _built_in(typname: str, modifier: int, name: str) -> ColumnType:
    match typname:
        case "numeric" if modifier != _NO_MODIFIER:
            precision, scale = _numeric_modifier(modifier)
            return ColumnType(kind=Kind.DECIMAL, name=name, precision=precision, scale=scale)
        case "numeric":
            return ColumnType(kind=Kind.VARIABLE_DECIMAL, name=name)
        case "bit" | "varbit":
            # `bit` is bit(1); without a modifier is only what was declared as "bit", in quotes.
            length = None if modifier == _NO_MODIFIER else modifier
            kind = Kind.BIT if typname == "bit" and length == 1 else Kind.BITS
            return ColumnType(kind=kind, name=name, length=length)
        case "varchar" | "bpchar":
            length_or_none = None if modifier == _NO_MODIFIER else modifier - _HEADER
            return ColumnType(kind=Kind.STRING, name=name, length=length_or_none)
        case _:
            return ColumnType(kind=_KINDS.get(typname, Kind.OTHER), name=name)


def _numeric_modifier(modifier: int) -> tuple[int, int]:
    """Precision and scale; the scale has 11 bits and a sign since PostgreSQL 15 (numeric.c, numeric_typmod_scale)."""
    packed = modifier - _HEADER
    return packed >> 16 & 0xFFFF, ((packed & _SCALE_BITS) ^ 1024) - 1024
