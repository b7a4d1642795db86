"""PostgreSQL's array text <-> Avro arrays of nullable items.

Avro says arrays of one dimension from 1. An array of more dimensions or with other bounds
(`[0:1]={a,b}`) has no form there, and travels as text.
https://www.postgresql.org/docs/current/arrays.html#ARRAYS-IO
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from cdc.avro import binary
from cdc.avro.kinds.codec import PLACEHOLDER, Datum, InexactError, ValueCodec

_ESCAPED: Final = re.compile(rb"\\(.)", re.DOTALL)
_TO_ESCAPE: Final = re.compile(rb'(["\\])')
_BOUNDS: Final = re.compile(rb"(?:\[-?\d+:-?\d+\])+=\{")


def array(item: ValueCodec, *, delimiter: bytes = b",") -> ValueCodec:
    """An array of such items. Every type separates its items by a comma, except `box`."""
    items = re.compile(rb'(?:"((?:[^"\\]|\\.)*)"|([^"\\{}%b]+))(%b|\Z)' % (delimiter, delimiter), re.DOTALL)
    must_quote = re.compile(rb'[\s"\\{}%b]' % delimiter)

    def encode(text: bytes) -> list[Datum]:
        datum, exact = [], True
        for value in _values(items, text):
            try:
                datum.append(None if value is None else item.encode(value))
            except InexactError as inexact:
                exact = False
                datum.append(inexact.datum)
        if not exact or decode(datum) != text:
            raise InexactError(datum)
        return datum

    def decode(datum: Sequence[Datum]) -> bytes:
        return b"{%b}" % delimiter.join(_quoted(value, item, must_quote) for value in datum)

    def write(datum: Sequence[Datum]) -> bytes:
        return binary.array([binary.NULL if value is None else binary.PRESENT + item.write(value) for value in datum])

    unavailable = [item.unavailable] if item.unavailable == PLACEHOLDER else None
    return ValueCodec(encode=encode, decode=decode, write=write, stand_in=[], unavailable=unavailable)


def _quoted(value: Datum, item: ValueCodec, must_quote: re.Pattern[bytes]) -> bytes:
    if value is None:
        return b"NULL"
    text = item.decode(value)
    if text and must_quote.search(text) is None and text.upper() != b"NULL":
        return text
    return b'"' + _TO_ESCAPE.sub(rb"\\\1", text) + b'"'


def _values(items: re.Pattern[bytes], text: bytes) -> Iterator[bytes | None]:
    if text == b"{}":
        return
    if _BOUNDS.match(text) or text.startswith(b"{{"):
        raise InexactError(None)
    if not (text.startswith(b"{") and text.endswith(b"}")):
        raise ValueError("not an array")
    at, end = 1, len(text) - 1
    while True:
        match = items.match(text, at, end)
        if match is None:
            raise ValueError("not an array")
        quoted, bare, delimiter = match.groups()
        if quoted is not None:
            yield _ESCAPED.sub(rb"\1", quoted)
        else:
            yield None if bare == b"NULL" else bare
        at = match.end()
        if not delimiter:
            return
