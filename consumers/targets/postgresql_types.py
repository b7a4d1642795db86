"""What each kind of column is declared as in a PostgreSQL target that does not know the source's own type."""

from __future__ import annotations

from typing import Final

from cdc.core.types import ColumnType, Kind

FALLBACKS: Final[dict[Kind, str]] = {
    Kind.BOOLEAN: "boolean",
    Kind.INT16: "smallint",
    Kind.INT32: "integer",
    Kind.INT64: "bigint",
    Kind.FLOAT32: "real",
    Kind.FLOAT64: "double precision",
    Kind.DECIMAL: "numeric",
    Kind.VARIABLE_DECIMAL: "numeric",
    Kind.MONEY: "money",
    Kind.STRING: "text",
    Kind.BYTES: "bytea",
    Kind.DATE: "date",
    Kind.TIME: "time",
    Kind.TIMETZ: "time with time zone",
    Kind.TIMESTAMP: "timestamp",
    Kind.TIMESTAMPTZ: "timestamp with time zone",
    Kind.INTERVAL: "interval",
    Kind.UUID: "uuid",
    Kind.JSON: "json",
    Kind.XML: "text",
    Kind.LTREE: "text",
    Kind.ENUM: "text",
    Kind.HSTORE: "text",
    Kind.BIT: "bit(1)",
    Kind.BITS: "bit varying",
    Kind.VECTOR: "text",
    Kind.HALFVEC: "text",
    Kind.OTHER: "text",
}


def fallback(column_type: ColumnType) -> str:
    """A type that holds the canonical text of every value of `column_type` exactly."""
    if column_type.kind is Kind.ARRAY:
        if column_type.element is None or column_type.element.kind is Kind.OTHER:
            return "text"
        return f"{fallback(column_type.element)}[]"
    if column_type.kind is Kind.DECIMAL:
        return f"numeric({column_type.precision},{column_type.scale})"
    return FALLBACKS[column_type.kind]
