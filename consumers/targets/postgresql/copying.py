r"""Rows in COPY's text format, without touching single values.

Fields are joined by markers that start with NUL, which no text of PostgreSQL can hold; then whatever is special to COPY
is escaped in the whole text at once, and the markers become COPY's separators.
https://www.postgresql.org/docs/current/sql-copy.html#id-1.9.3.55.9.2
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final

from cdc.core.errors import CdcError, FidelityError
from cdc.core.events import UNCHANGED, Row

_FIELD_END: Final = b"\0f"
_LINE_END: Final = b"\0l"
_NULL: Final = b"\0N"
_FIRST_ROWS: Final = 10
_ROWS_AT_ONCE: Final = 500
_BYTES_AT_ONCE: Final = 256 << 10  # escaping a text takes several times its memory


def copy_lines(part: int | None, rows: Sequence[Row], *, doing: str, columns: Sequence[str]) -> Iterator[bytes]:
    """The lines of `rows`, some at a time, each with `part` (if any) as its first field. UNCHANGED is written as NULL:
    the statement that reads these lines must leave it alone. `columns` are the names of the rows' columns.

    FidelityError if a value holds NUL.
    """
    remaining = iter(rows)
    at_once = _FIRST_ROWS
    while chunk := list(islice(remaining, at_once)):
        lines = _lines(b"" if part is None else b"%d%b" % (part, _FIELD_END if chunk[0] else b""), chunk)
        if lines is None:
            raise FidelityError(
                f"{doing}, column {_with_nul(chunk, columns)}: PostgreSQL's text can't hold the character NUL (U+0000)",
                mend="remove it at the source",
            )
        yield lines
        # About as many bytes as that, if what comes is like what went.
        at_once = max(1, min(_ROWS_AT_ONCE, _BYTES_AT_ONCE * len(chunk) // len(lines)))


def text_lines(part: int | None, texts: Sequence[bytes]) -> Iterator[bytes]:
    """Lines that are in COPY's text format already, each with `part` (if any) as its first field."""
    if part is None:
        yield from texts
        return
    before = b"%d\t" % part
    for text in texts:
        yield before + text[:-1].replace(b"\n", b"\n" + before) + b"\n"


def _with_nul(rows: list[Row], columns: Sequence[str]) -> str:
    return next(
        column
        for row in rows
        for column, value in zip(columns, row, strict=True)
        if isinstance(value, bytes) and b"\0" in value
    )


def _lines(before: bytes, rows: list[Row]) -> bytes | None:
    """Each with `before` in front of it. None if a value holds NUL."""
    joined: list[bytes] = []
    join = _FIELD_END.join
    nulls = 0
    for row in rows:
        if None not in row:
            try:
                joined.append(join(row))  # type: ignore[arg-type]  # UNCHANGED is rare, and looking for it takes time
            except TypeError:
                pass
            else:
                continue
        nulls += row.count(None) + row.count(UNCHANGED)  # what stands for them could be a value, too
        joined.append(join([field if isinstance(field, bytes) else _NULL for field in row]))
    text = before + (_LINE_END + before).join(joined)
    ends = (sum(map(len, rows)) or len(rows)) - 1  # of fields and lines; without columns, of lines alone
    markers = ends + before.count(b"\0") * len(rows) + nulls
    if text.count(b"\0") != markers:
        return None
    return (
        text.replace(b"\\", rb"\\")
        .replace(b"\t", rb"\t")
        .replace(b"\n", rb"\n")
        .replace(b"\r", rb"\r")
        .replace(_FIELD_END, b"\t")
        .replace(_LINE_END, b"\n")
        .replace(_NULL, rb"\N")
        + b"\n"
    )


class Chunks:
    """The file that psycopg2's `copy_expert` reads: it sends what `read` returns, whatever its size.

    An error of the chunks it would report as a cancelled statement; it is kept in `failure`.
    """

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self.failure: CdcError | None = None

    def read(self, _size: int = -1, /) -> bytes:
        try:
            return next(self._chunks, b"")
        except CdcError as error:
            self.failure = error
            raise

    def readline(self, _size: int = -1, /) -> bytes:
        return self.read()
