"""Canonical text (see `cdc.core.types`) -> Python values, and back for those who write tests.

A value that no Python value of its type is equal to (a date `infinity` or of the year 10000, the time 24:00) is an
error, never a near one; its text can always be had.
"""

from __future__ import annotations

import datetime as dt
import json
import re
import uuid
from collections.abc import Callable, Iterator
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any, Final, TypeVar

from cdc.avro.kinds.codec import InexactError
from cdc.avro.kinds.hstore import HSTORE
from cdc.core.types import ColumnType, Kind

Convert = Callable[[bytes], Any]
"""ValueError for a text that has no Python value."""

_Read = TypeVar("_Read")

_BEYOND: Final = re.compile(r"^-?infinity$|^24:|^\d{5,}|BC$| 24:")


def _text(text: bytes) -> str:
    return text.decode()


def _boolean(text: bytes) -> bool:
    return text in {b"t", b"1"}


def _decimal(text: bytes) -> Decimal:
    try:
        return Decimal(text.decode())
    except InvalidOperation:
        raise ValueError("no decimal") from None


def _money(text: bytes) -> Decimal:
    """Within arrays it has what PostgreSQL writes with it: `$1,234.50`."""
    return _decimal(text.replace(b"$", b"").replace(b",", b""))


def _bytes(text: bytes) -> bytes:
    if not text.startswith(b"\\x"):
        raise ValueError("no bytea in hex")
    return bytes.fromhex(text[2:].decode())


def _moment(read: Callable[[str], _Read]) -> Callable[[bytes], _Read]:
    def convert(text: bytes) -> _Read:
        said = text.decode()
        if _BEYOND.search(said):
            raise ValueError("beyond Python's years and hours")
        return read(said)

    return convert


def _vector(text: bytes) -> list[float]:
    inner = text.decode().strip("[]")
    return [float(item) for item in inner.split(",")] if inner else []


def _hstore(text: bytes) -> dict[str, str | None]:
    try:
        pairs = HSTORE.encode(text)
    except InexactError as inexact:
        pairs = inexact.datum
    found: dict[str, str | None] = json.loads(pairs)
    return found


_CONVERTS: Final[dict[Kind, Convert]] = {
    Kind.BOOLEAN: _boolean,
    Kind.BIT: _boolean,
    Kind.INT16: int,
    Kind.INT32: int,
    Kind.INT64: int,
    Kind.FLOAT32: float,
    Kind.FLOAT64: float,
    Kind.DECIMAL: _decimal,
    Kind.VARIABLE_DECIMAL: _decimal,
    Kind.MONEY: _money,
    Kind.BYTES: _bytes,
    Kind.DATE: _moment(dt.date.fromisoformat),
    Kind.TIME: _moment(dt.time.fromisoformat),
    Kind.TIMETZ: _moment(dt.time.fromisoformat),
    Kind.TIMESTAMP: _moment(dt.datetime.fromisoformat),
    Kind.TIMESTAMPTZ: _moment(dt.datetime.fromisoformat),
    Kind.UUID: lambda text: uuid.UUID(text.decode()),
    Kind.HSTORE: _hstore,
    Kind.VECTOR: _vector,
    Kind.HALFVEC: _vector,
}


@lru_cache(maxsize=4096)
def convert_of(column: ColumnType) -> Convert:
    """How values of that type become Python's. Those of all others (JSON, intervals, ranges …) are `str`."""
    if column.kind is Kind.ARRAY:
        element = column.element or ColumnType(kind=Kind.OTHER, name="text")
        delimiter = b";" if (element.base or element.name) == "box" else b","
        return _array(convert_of(element), delimiter)
    return _CONVERTS.get(column.kind, _text)


def _array(item: Convert, delimiter: bytes) -> Convert:
    """Lists, in lists where there are more dimensions. Bounds other than 1 (`[0:1]={1,2}`) have no place in a list."""
    token = re.compile(rb'([{}])|%b|"((?:[^"\\]|\\.)*)"|([^"\\{}%b]+)' % (delimiter, delimiter), re.DOTALL)

    def convert(text: bytes) -> list[Any]:
        if not text.startswith(b"{"):
            raise ValueError("an array whose bounds do not begin at 1")
        outer: list[Any] = []
        stack = [outer]
        for match in _tokens(token, text):
            brace, quoted, bare = match.groups()
            if brace == b"{":
                inner: list[Any] = []
                stack[-1].append(inner)
                stack.append(inner)
            elif brace == b"}":
                stack.pop()
            elif quoted is not None:
                stack[-1].append(item(re.sub(rb"\\(.)", rb"\1", quoted, flags=re.DOTALL)))
            elif bare is not None:
                stack[-1].append(None if bare == b"NULL" else item(bare))
            if not stack:
                break
        if len(stack) != 1 or len(outer) != 1:
            raise ValueError("no array")
        found: list[Any] = outer[0]
        return found

    return convert


def _tokens(token: re.Pattern[bytes], text: bytes) -> Iterator[re.Match[bytes]]:
    at = 0
    while at < len(text):
        match = token.match(text, at)
        if match is None:
            raise ValueError("no array")
        yield match
        at = match.end()


def text_of(value: Any, column: ColumnType) -> bytes | None:  # noqa: PLR0911  # a table
    """The canonical text of a Python value; a `str` is taken to be it. TypeError for a value that has no text here:
    json, arrays and intervals come as `str`.
    """
    match value:
        case None:
            return None
        case str():
            return value.encode()
        case bool():
            return (b"1" if value else b"0") if column.kind is Kind.BIT else (b"t" if value else b"f")
        case float():
            said = repr(value).replace("inf", "Infinity").replace("nan", "NaN")
            return said.removesuffix(".0").encode()
        case bytes():
            return b"\\x" + value.hex().encode()
        case dt.datetime():
            if value.tzinfo is None:
                return _trimmed(value.isoformat(" "))
            return _trimmed(value.astimezone(dt.UTC).replace(tzinfo=None).isoformat(" ")) + b"+00"
        case dt.time():
            return _trimmed(value.isoformat())
        case int() | Decimal() | dt.date() | uuid.UUID():
            return str(value).encode()
        case _:
            raise TypeError("a value without a text")


def _trimmed(moment: str) -> bytes:
    clock, point, fraction = moment.partition(".")
    digits = fraction.rstrip("0")
    return f"{clock}{point}{digits}".rstrip(".").encode()
