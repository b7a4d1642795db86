"""The neutral vocabulary in SQLite's types.

| kind | declared | stored |
|---|---|---|
| integers | INTEGER | integer |
| floats | REAL | real; Infinity is one, NaN and -0 can't be stored |
| boolean | BOOLEAN | 0 or 1 |
| bytes | BLOB | blob |
| all others | TEXT | canonical text: decimals, times, json … exactly as they are |

What is declared decides a column's affinity, and that changes what is stored: text that looks like a number turns into
one in a NUMERIC column, and loses its scale. Hence TEXT for decimals. https://www.sqlite.org/datatype3.html
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from cdc.core.errors import FidelityError
from cdc.core.events import UNCHANGED, Value
from cdc.core.patterns import column_pattern
from cdc.core.tables import TableSchema
from cdc.core.types import ColumnType, Kind
from consumers.targets.schema_check import MADE_ANEW_AS_TEXT

Stored = int | float | str | bytes | None

_INTEGERS: Final = {Kind.INT16, Kind.INT32, Kind.INT64}
_FLOATS: Final = {Kind.FLOAT32, Kind.FLOAT64}
# Which affinities leave a value of what we declare as it is.
_KEEPING: Final = {
    "INTEGER": {"INTEGER", "NUMERIC", "BLOB"},
    "BOOLEAN": {"INTEGER", "NUMERIC", "BLOB"},
    "REAL": {"REAL", "BLOB"},
    "TEXT": {"TEXT", "BLOB"},
    "BLOB": {"INTEGER", "NUMERIC", "REAL", "TEXT", "BLOB"},
}
_AFFINITIES: Final = {  # the first that is found in the declared type, in this order
    "INT": "INTEGER",
    "CHAR": "TEXT",
    "CLOB": "TEXT",
    "TEXT": "TEXT",
    "BLOB": "BLOB",
    "REAL": "REAL",
    "FLOA": "REAL",
    "DOUB": "REAL",
}


def declared_type(source: ColumnType) -> str:
    if source.kind in _INTEGERS:
        return "INTEGER"
    if source.kind in _FLOATS:
        return "REAL"
    return {Kind.BOOLEAN: "BOOLEAN", Kind.BYTES: "BLOB"}.get(source.kind, "TEXT")


def keeps_exactly(source: ColumnType, declared: str) -> bool:
    """Whether a column declared so stores what we write as it is."""
    return _affinity(declared) in _KEEPING[declared_type(source)]


def _affinity(declared: str) -> str:
    upper = declared.upper()
    if not upper:
        return "BLOB"
    return next((affinity for sign, affinity in _AFFINITIES.items() if sign in upper), "NUMERIC")


class RowCodec:
    """The values of one table version as SQLite stores them."""

    def __init__(self, version: TableSchema) -> None:
        self._version = version
        self._converters = [_converter(column.type) for column in version.columns]

    def value(self, index: int, value: Value) -> Stored:
        """One column's value. FidelityError if SQLite can't hold it."""
        if value is None or value is UNCHANGED:
            return None
        try:
            return self._converters[index](value)
        except ValueError as error:
            table, column = self._version.id, self._version.columns[index]
            reason = error.args[0] if isinstance(error, _InexactError) else "it is not a value of its type"
            raise FidelityError(
                f"table {table}, column {column.name}: SQLite can't store a value of type {column.type.name}: {reason}",
                mend=f"add {column_pattern(table, column.name)!r} to the target's as_text, and {MADE_ANEW_AS_TEXT}",
            ) from None


class _InexactError(ValueError):
    """SQLite would store something else."""


def _converter(source: ColumnType) -> Callable[[bytes], Stored]:
    match source.kind:
        case Kind.INT16 | Kind.INT32 | Kind.INT64:
            return int
        case Kind.FLOAT32 | Kind.FLOAT64:
            return _real
        case Kind.BOOLEAN:
            return _boolean
        case Kind.BYTES:
            return _blob
        case Kind.MONEY:
            return _money
        case _:
            return bytes.decode


def _real(text: bytes) -> float:
    number = float(text)
    if math.isnan(number):
        raise _InexactError("NaN would become NULL")
    if number == 0 and text.startswith(b"-"):
        raise _InexactError("the sign of -0 would be lost")  # a whole REAL is stored as an integer on disk
    return number


def _boolean(text: bytes) -> int:
    if text not in {b"t", b"f"}:
        raise ValueError
    return int(text == b"t")


def _blob(text: bytes) -> bytes:
    if not text.startswith(rb"\x"):
        raise ValueError
    return bytes.fromhex(text[2:].decode("ascii"))


def _money(text: bytes) -> str:
    """A PostgreSQL source may say `$1,234.50` for 1234.50."""
    return text.replace(b"$", b"").replace(b",", b"").decode()


def literal(value: Stored) -> str:
    """The value in SQL's text."""
    match value:
        case None:
            return "NULL"
        case bytes():
            return f"X'{value.hex()}'"
        case str():
            return "'" + value.replace("'", "''") + "'"
        case float() if math.isinf(value):
            return "9e999" if value > 0 else "-9e999"
        case _:
            return repr(value)
