r"""Rows in the text format of PostgreSQL's COPY: fields between tabs, `\N` is NULL, backslash escapes.

https://www.postgresql.org/docs/current/sql-copy.html#id-1.9.3.55.9.2
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from cdc.core.errors import ProtocolViolationError
from cdc.core.events import Row

_ESCAPES: Final = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}
NULL: Final = rb"\N"


def parse_copy_line(line: bytes) -> Row:
    """The values of a line, which may end with its line feed. ProtocolViolationError for an escape that COPY lacks."""
    fields = line.removesuffix(b"\n").split(b"\t")
    if b"\\" not in line:
        return tuple(fields)
    try:
        return tuple([None if field == NULL else _unescaped(field) for field in fields])
    except KeyError:
        raise ProtocolViolationError("a damaged line of COPY's text: an escape that there is none of") from None


def rows_in(text: bytes, width: int) -> list[Row]:
    """The rows of `width` values each of so many lines, each of which ends with its line feed. ProtocolViolationError
    if they are others.
    """
    lines = text.split(b"\n")[:-1]
    rows = [parse_copy_line(line) if width else () for line in lines]
    if not {width}.issuperset(map(len, rows)):
        raise ProtocolViolationError(f"a damaged line of COPY's text: not of {width} values")
    return rows


def copy_text(rows: Iterable[Row]) -> bytes:
    """Lines of these rows, which hold no UNCHANGED."""
    return b"".join([b"%b\n" % b"\t".join(map(_escaped, row)) for row in rows])


def _unescaped(field: bytes) -> bytes:
    if b"\\" not in field:
        return field
    head, *rest = field.split(b"\\")
    parts = [head]
    escaped_backslash = False
    for part in rest:
        if escaped_backslash:
            parts.append(part)
            escaped_backslash = False
        elif part:
            parts.append(_ESCAPES[part[:1]] + part[1:])
        else:
            parts.append(b"\\")
            escaped_backslash = True
    if escaped_backslash:
        raise KeyError(b"")  # it ends within an escape
    return b"".join(parts)


def _escaped(value: object) -> bytes:
    if value is None:
        return NULL
    assert isinstance(value, bytes)
    text = value.replace(b"\\", rb"\\")
    return text.replace(b"\t", rb"\t").replace(b"\n", rb"\n").replace(b"\r", rb"\r")
