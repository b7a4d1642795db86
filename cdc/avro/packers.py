"""One column's way from canonical text to Avro bytes in one step, for the values that are usual.

The kinds of `cdc.avro.kinds` take two, text -> datum -> bytes, and have the say: a packer gives the same bytes, or it
raises one of UNUSUAL, and then they are asked. So a packer may refuse whatever is rare. Checked byte for byte, over
values of all kinds, in the tests.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final, TypeVar

from cdc.avro import binary
from cdc.avro.kinds import codec_of
from cdc.avro.kinds.codec import InexactError
from cdc.avro.kinds.texts import is_uuid
from cdc.core.types import ColumnType, Kind

Packer = Callable[[bytes], bytes]

UNUSUAL: Final = (ValueError, TypeError, AttributeError, KeyError, IndexError, OverflowError, InexactError)
"""What a packer raises for a value that it leaves to the kinds, NULL and UNCHANGED among them."""

PLAIN_TEXTS: Final = frozenset({Kind.STRING, Kind.JSON, Kind.XML, Kind.LTREE, Kind.ENUM, Kind.OTHER})
"""Kinds whose Avro form is the text itself, whatever it holds."""

_Made = TypeVar("_Made")
_MOST_REMEMBERED: Final = 4096
_POINT: Final = ord(".")
_ZERO: Final = ord("0")
_MINUTE: Final = len("2026-01-31 12:34")
_SECONDS_US: Final = {b":%02d" % second: second * 1_000_000 for second in range(60)}
_MICROSECONDS: Final = 6
_DAY_US: Final = 86_400_000_000
_DOUBLE: Final = struct.Struct("<d").pack
_NO_EXPONENT: Final = 1e15
_SIZES: Final = tuple(binary.long(size) for size in range(64))
"""Of the bytes of numbers; none that is larger is usual."""


def packer_of(column: ColumnType) -> Packer:
    """How values of that type are written."""
    made = _PACKERS.get(column.kind)
    return _in_two_steps(column) if made is None else made(column)


def _in_two_steps(column: ColumnType) -> Packer:
    codec = codec_of(column)
    encode, write = codec.encode, codec.write
    return lambda text: write(encode(text))


class _Memo(dict[bytes, _Made]):
    """What was made of the texts that came last."""

    def __init__(self, make: Callable[[bytes], _Made]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, text: bytes) -> _Made:
        made = self._make(text)
        if len(self) >= _MOST_REMEMBERED:
            self.clear()
        self[text] = made
        return made


def _remembered(column: ColumnType) -> Packer:
    """For types of few values, or whose values come in heaps."""
    return _Memo(_in_two_steps(column)).__getitem__


def _integer(bits: int) -> Callable[[ColumnType], Packer]:
    limit = 1 << (bits - 1)
    long = binary.long

    def pack(text: bytes) -> bytes:
        n = int(text)
        # A number that begins with another digit than 0 has one text; most are such.
        if (not text.isdigit() or text[0] == _ZERO) and b"%d" % n != text:
            raise ValueError(text)
        if not -limit <= n < limit:
            raise ValueError(text)
        return long(n)

    return lambda _: pack


def _decimal(column: ColumnType) -> Packer:
    scale = column.scale or 0
    if scale < 0:
        return _in_two_steps(column)
    return _fixed_point(scale) if scale else _whole_number


def _whole_number(text: bytes) -> bytes:
    n = int(text)
    if b"%d" % n != text:
        raise ValueError(text)
    return _number(n)


def _fixed_point(scale: int) -> Packer:
    point = -scale - 1

    def pack(text: bytes) -> bytes:
        digits = text[:point] + text[-scale:]
        if digits.isdigit() and text[0] != _ZERO and text[point] == _POINT and len(digits) > scale:
            # Most: a number without a sign that begins with another digit than 0 has one text.
            n = int(digits)
            size = (n.bit_length() >> 3) + 1
            return _SIZES[size] + n.to_bytes(size, "big")
        whole, _, fraction = text.partition(b".")
        if len(fraction) != scale:
            raise ValueError(text)
        return _point_number(whole, fraction)

    return pack


def _point_number(whole: bytes, fraction: bytes) -> bytes:
    digits = whole + fraction
    n = int(digits)
    if b"%d" % n == digits and whole[-1:].isdigit():
        return _number(n)
    if whole == b"0" and fraction.isdigit():
        return _number(n)
    raise ValueError(digits)


def _variable_decimal(_: ColumnType) -> Packer:
    def pack(text: bytes) -> bytes:
        whole, point, fraction = text.partition(b".")
        if not point:
            return b"\x00" + _whole_number(text)
        if not fraction:
            raise ValueError(text)
        return binary.long(len(fraction)) + _point_number(whole, fraction)

    return pack


def _number(n: int) -> bytes:
    size = (n + (n < 0)).bit_length() // 8 + 1
    return binary.long(size) + n.to_bytes(size, "big", signed=True)


def _float64(_: ColumnType) -> Packer:
    def pack(text: bytes) -> bytes:
        value = float(text)
        if not -_NO_EXPONENT < value < _NO_EXPONENT or repr(value).removesuffix(".0").encode() != text:
            raise ValueError(text)
        return _DOUBLE(value)

    return pack


def _uuid(_: ColumnType) -> Packer:
    def pack(text: bytes) -> bytes:
        if is_uuid(text) is None:
            raise ValueError(text)
        return b"\x48" + text

    return pack


def _fraction_us(digits: bytes) -> int:
    """The microseconds of a second's decimals, which don't end in a zero."""
    if not digits.isdigit() or len(digits) > _MICROSECONDS or digits[-1] == _ZERO:
        raise ValueError(digits)
    return int(digits.ljust(_MICROSECONDS, b"0"))


def _time_of(column: ColumnType, minute: int, limit_us: int) -> Packer:
    """What counts microseconds: the text up to the minute has `minute` characters, then come seconds and decimals."""
    encode = codec_of(column).encode
    minutes = _Memo[int](lambda text: encode(text + b":00"))
    second = minute + len(":00")
    long = binary.long

    def pack(text: bytes) -> bytes:
        us = minutes[text[:minute]] + _SECONDS_US[text[minute:second]]
        if len(text) > second:
            if text[second] != _POINT:
                raise ValueError(text)
            us += _fraction_us(text[second + 1 :])
        if us > limit_us:
            raise ValueError(text)
        return long(us)

    return pack


def _time(column: ColumnType) -> Packer:
    return _time_of(column, len("12:34"), _DAY_US)


def _timestamp(column: ColumnType) -> Packer:
    return _time_of(column, _MINUTE, 1 << 63)


def _timestamptz(column: ColumnType) -> Packer:
    encode = codec_of(column).encode
    precision = len(encode(b"2000-01-01 00:00:00+00")) - len("2000-01-01T00:00:00Z")  # with the point
    minutes = _Memo[bytes](lambda minute: encode(minute + b":00+00")[:_MINUTE])
    length = binary.long(len("2000-01-01T00:00:00Z") + precision)
    second_at = _MINUTE + len(":00")

    def pack(text: bytes) -> bytes:
        second, fraction = text[_MINUTE:second_at], text[second_at:-3]
        if text[-3:] != b"+00" or second not in _SECONDS_US:
            raise ValueError(text)
        if not fraction:
            fraction = b"."[:precision]
        elif fraction[0] != _POINT or len(fraction) > precision:
            raise ValueError(text)
        else:
            _fraction_us(fraction[1:])
        return b"%b%b%b%bZ" % (length, minutes[text[:_MINUTE]], second, fraction.ljust(precision, b"0"))

    return pack


_PACKERS: Final[dict[Kind, Callable[[ColumnType], Packer]]] = {
    Kind.BOOLEAN: _remembered,
    Kind.BIT: _remembered,
    Kind.DATE: _remembered,
    Kind.INT16: _integer(16),
    Kind.INT32: _integer(32),
    Kind.INT64: _integer(64),
    Kind.DECIMAL: _decimal,
    Kind.VARIABLE_DECIMAL: _variable_decimal,
    Kind.FLOAT64: _float64,
    Kind.UUID: _uuid,
    Kind.TIME: _time,
    Kind.TIMESTAMP: _timestamp,
    Kind.TIMESTAMPTZ: _timestamptz,
}
