"""How SQLite holds each kind of column: the declared type, and the stored value of a canonical text.

Declared types matter: SQLite derives an affinity from them, and NUMERIC affinity would turn `12.50` into 12.5. So what
has to stay exact text is declared TEXT. https://www.sqlite.org/datatype3.html
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from cdc.core.errors import FidelityError
from cdc.core.tables import Column, TableId
from cdc.core.types import Kind

Stored = int | float | str | bytes | None

_INTEGERS: Final = frozenset({Kind.INT16, Kind.INT32, Kind.INT64})
_FLOATS: Final = frozenset({Kind.FLOAT32, Kind.FLOAT64})


def declared(kind: Kind) -> str:
    """The type to declare a column with."""
    if kind in _INTEGERS or kind is Kind.BOOLEAN:
        return "INTEGER"
    if kind in _FLOATS:
        return "REAL"
    return "BLOB" if kind is Kind.BYTES else "TEXT"


def stored(table: TableId, column: Column) -> Callable[[bytes], Stored]:
    """The function from canonical text to what SQLite stores: integers, floats, 0 and 1, bytes; any other as text."""
    kind = column.type.kind
    if kind in _INTEGERS:
        return int
    if kind is Kind.BOOLEAN:
        return _boolean
    if kind is Kind.BYTES:
        return _bytes
    if kind in _FLOATS:
        return _Float(table, column)
    return bytes.decode


def _boolean(text: bytes) -> int:
    return int(text == b"t")


def _bytes(text: bytes) -> bytes:
    return bytes.fromhex(text[2:].decode())


class _Float:
    """SQLite has no NaN: it would store NULL."""

    def __init__(self, table: TableId, column: Column) -> None:
        self._where = f"{table}.{column.name}"

    def __call__(self, text: bytes) -> float:
        if text == b"NaN":
            raise FidelityError(
                f"column {self._where}: SQLite can't hold NaN in a REAL column",
                mend="leave the table out of the target's tables, or change the value at the source",
            )
        return float(text)
