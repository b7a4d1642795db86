"""The name of a type as Debezium's `column.propagate.source.type` says it (`VARCHAR`, `_INT4`), and back to SQL."""

from __future__ import annotations

import re
from typing import Final

_SHORT: Final = {
    "smallint": "int2",
    "integer": "int4",
    "bigint": "int8",
    "real": "float4",
    "double precision": "float8",
    "boolean": "bool",
    "character varying": "varchar",
    "character": "bpchar",
    "bit varying": "varbit",
    "time without time zone": "time",
    "time with time zone": "timetz",
    "timestamp without time zone": "timestamp",
    "timestamp with time zone": "timestamptz",
}
_LONG: Final = {short: name for name, short in _SHORT.items()}
_TAKING_LENGTH: Final = {"varchar", "bpchar", "varbit", "bit"}
_MODIFIERS: Final = re.compile(r"\([^)]*\)")
_SCHEMA: Final = re.compile(r'^(?:"(?:[^"]|"")*"|[^".]+)\.(?=.)')


def debezium_name(sql: str) -> str:
    """Without schema and modifiers."""
    bare = _SCHEMA.sub("", sql.removesuffix("[]"), count=1)
    name = " ".join(_MODIFIERS.sub(" ", bare).split())
    unquoted = name[1:-1].replace('""', '"') if name.startswith('"') else name
    short = _SHORT.get(unquoted, unquoted)
    return (f"_{short}" if sql.endswith("[]") else short).upper()


def sql_name(debezium: str, length: int | None, scale: int | None) -> str:
    name = debezium.lower()
    if name.startswith("_"):
        return sql_name(name[1:], length, scale) + "[]"
    long = _LONG.get(name, name)
    if name == "numeric" and length:  # Debezium says 0 of one without precision
        return f"{long}({length},{scale or 0})"
    return f"{long}({length})" if name in _TAKING_LENGTH and length is not None else long
