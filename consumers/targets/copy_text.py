r"""Rows as PostgreSQL's COPY text format.

https://www.postgresql.org/docs/current/sql-copy.html: tabs between fields, `\N` for NULL, backslash escapes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from cdc.core.events import UNCHANGED, Value

_SPECIAL: Final = re.compile(rb"[\\\t\n\r]")
_ESCAPES: Final = {b"\\": rb"\\", b"\t": rb"\t", b"\n": rb"\n", b"\r": rb"\r"}


def copy_lines(rows: Iterable[Sequence[Value]]) -> bytes:
    """The rows, a line each. ValueError for UNCHANGED, which is no value."""
    return b"".join([_line(row) for row in rows])


def _line(row: Sequence[Value]) -> bytes:
    return b"\t".join([_field(value) for value in row]) + b"\n"


def _field(value: Value) -> bytes:
    if value is None:
        return rb"\N"
    if value is UNCHANGED:
        raise ValueError("an UNCHANGED value can't be written")
    if _SPECIAL.search(value) is None:
        return value
    return _SPECIAL.sub(lambda found: _ESCAPES[found[0]], value)
