"""Rows in COPY's text format, without touching single values.

Most values hold nothing that has to be escaped, and looking for it in all at once takes a fraction of the time that
escaping takes: so that is done only with rows that need it. Their fields are joined by markers that start with NUL,
which no text of PostgreSQL can hold; what is special to COPY is escaped in all of it at once, and the markers become
COPY's separators. https://www.postgresql.org/docs/current/sql-copy.html#id-1.9.3.55.9.2
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
_ESCAPED: Final = {b"\\": rb"\\", b"\t": rb"\t", b"\n": rb"\n", b"\r": rb"\r"}  # the backslash first: all have it then
_MARKED: Final = {_FIELD_END: b"\t", _LINE_END: b"\n", _NULL: rb"\N"}
_FIRST_ROWS: Final = 10
_ROWS_AT_ONCE: Final = 500
_BYTES_AT_ONCE: Final = 256 << 10  # they are in memory several times meanwhile


def copy_lines(part: int | None, rows: Sequence[Row], *, doing: str, columns: Sequence[str]) -> Iterator[bytes]:
    """The lines of `rows`, some at a time, each with `part` (if any) as its first field. UNCHANGED is written as NULL:
    the statement that reads these lines must leave it alone. `columns` are the names of the rows' columns.

    FidelityError if a value holds NUL.
    """
    remaining = iter(rows)
    at_once = _FIRST_ROWS
    while chunk := list(islice(remaining, at_once)):
        lines = _lines(b"" if part is None else b"%d%b" % (part, b"\t" if chunk[0] else b""), chunk)
        if lines is None:
            raise FidelityError(
                f"{doing}, column {_with_nul(chunk, columns)}: PostgreSQL's text can't hold the character NUL (U+0000)",
                mend="remove it at the source",
            )
        yield lines
        # About as many bytes as that, if what comes is like what went; one small row does not make many large ones.
        at_once = max(1, min(_ROWS_AT_ONCE, 4 * at_once, _BYTES_AT_ONCE * len(chunk) // len(lines)))


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


def _lines(before: bytes, rows: Sequence[Row]) -> bytes | None:
    """Each with `before` in front of it. None if a value holds NUL."""
    lines: list[bytes] = []
    values: list[bytes] = []  # of each row, with nothing between them
    join, join_line = b"".join, b"\t".join
    for row in rows:
        try:  # UNCHANGED is rare, and looking for it takes time
            if None in row:
                values.append(join(filter(None, row)))  # type: ignore[arg-type]
                lines.append(join_line([rb"\N" if field is None else field for field in row]))  # type: ignore[misc]
            else:
                values.append(join(row))  # type: ignore[arg-type]
                lines.append(join_line(row))  # type: ignore[arg-type]
        except TypeError:
            values.append(join([field for field in row if not (field is None or field is UNCHANGED)]))
            lines.append(join_line([rb"\N" if field is None or field is UNCHANGED else field for field in row]))
    together = join(values)
    if b"\0" in together:
        return None
    special = [raw for raw in _ESCAPED if raw in together]
    if special:
        places = {place for raw in special for place, text in enumerate(values) if raw in text}
        for place, line in zip(places, _escaped_lines([rows[place] for place in places]), strict=True):
            lines[place] = line
    return before + (b"\n" + before).join(lines) + b"\n"


def _escaped_lines(rows: Sequence[Row]) -> list[bytes]:
    joined: list[bytes] = []
    for row in rows:
        try:
            joined.append(_FIELD_END.join(row))  # type: ignore[arg-type]
        except TypeError:
            joined.append(_FIELD_END.join([_NULL if field is None or field is UNCHANGED else field for field in row]))
    text = _LINE_END.join(joined)
    for raw, replacement in (*_ESCAPED.items(), *_MARKED.items()):
        text = text.replace(raw, replacement)
    return text.split(b"\n")


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
