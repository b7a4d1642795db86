"""The one neutral vocabulary of column types, and the canonical text of a value of each.

Sources map their types to it once, Avro maps from it and back once, each target dialect maps from it once. A value
crosses the pipeline as its **canonical text**, in UTF-8 bytes: PostgreSQL's own text form under fixed settings
(`DateStyle = ISO`, `TimeZone = UTC`, `IntervalStyle = iso_8601`, `bytea_output = hex`, `extra_float_digits = 1`,
`lc_monetary = C`). A PostgreSQL source sends it as it is, and COPY takes it as it is; only who needs a typed value
builds one.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final


class Kind(enum.Enum):
    """What a column holds. Each line: the canonical text of a value."""

    BOOLEAN = "boolean"  # t | f
    INT16 = "int16"  # -12
    INT32 = "int32"
    INT64 = "int64"  # also PostgreSQL's oid
    FLOAT32 = "float32"  # shortest text that reads back exactly; NaN, Infinity, -Infinity
    FLOAT64 = "float64"
    DECIMAL = "decimal"  # 12.50, with `precision` and `scale`; NaN
    VARIABLE_DECIMAL = "variable-decimal"  # 12.50, any precision and scale; NaN, Infinity, -Infinity
    MONEY = "money"  # 1234.50, -0.05: a decimal of scale 2 (a PostgreSQL source may send $1,234.50)
    STRING = "string"  # the text itself; also citext, inet, cidr, macaddr, ranges
    BYTES = "bytes"  # \x0aff
    DATE = "date"  # 2026-01-31, 0044-03-15 BC, infinity, -infinity
    TIME = "time"  # 12:34:56.789, 24:00:00
    TIMETZ = "timetz"  # 12:34:56.789+02
    TIMESTAMP = "timestamp"  # 2026-01-31 12:34:56.789, infinity, -infinity
    TIMESTAMPTZ = "timestamptz"  # 2026-01-31 12:34:56.789+00
    INTERVAL = "interval"  # P1Y2M3DT4H5M6.7S
    UUID = "uuid"  # 9f1c1a36-…, lower case
    JSON = "json"  # the text itself; json and jsonb
    XML = "xml"
    LTREE = "ltree"
    ENUM = "enum"  # the label
    HSTORE = "hstore"  # "a"=>"1", "b"=>NULL
    BIT = "bit"  # 1: bit(1)
    BITS = "bits"  # 0101: bit(n) with `length`, varbit
    ARRAY = "array"  # {1,NULL,3}: PostgreSQL's array text over the canonical text of `element`
    VECTOR = "vector"  # [1,2.5]: pgvector
    HALFVEC = "halfvec"
    OTHER = "other"  # PostgreSQL's text form of any other type


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnType:
    """One column's type.

    `name` is the source's own SQL name with modifiers (`character varying(10)`, `public.mood`), so that a target of
    the same kind can declare exactly that type. `base` is what a domain is over, called likewise; all else is the
    base's. `precision` and `scale` belong to DECIMAL (scale may be negative or above precision, as PostgreSQL allows);
    `length` is the n of bit(n), varchar(n), char(n); `element` belongs to ARRAY.
    """

    kind: Kind
    name: str
    base: str | None = None
    precision: int | None = None
    scale: int | None = None
    length: int | None = None
    element: ColumnType | None = None


_ONE_TEXT: Final = {
    Kind.BOOLEAN,
    Kind.INT16,
    Kind.INT32,
    Kind.INT64,
    Kind.DECIMAL,
    Kind.MONEY,
    Kind.STRING,
    Kind.BYTES,
    Kind.DATE,
    Kind.TIME,
    Kind.TIMETZ,
    Kind.TIMESTAMP,
    Kind.TIMESTAMPTZ,
    Kind.UUID,
    Kind.LTREE,
    Kind.ENUM,
    Kind.BIT,
    Kind.BITS,
}
_OF_SEVERAL_TEXTS: Final = ("citext", "bpchar", "numrange")


def has_one_text(column: ColumnType) -> bool:
    """Whether equal values always have the same text. Not so: the numerics 1.0 and 1.00, the floats 0 and -0, the
    intervals of a day and of 24 hours, `a` and `A` in citext.
    """
    if column.element is not None:
        return has_one_text(column.element)
    return column.kind in _ONE_TEXT and not (column.base or column.name).endswith(_OF_SEVERAL_TEXTS)
