"""From the Avro bytes of a row to canonical texts, as `cdc.avro.compiled` has it.

https://avro.apache.org/docs/1.12.0/specification/#binary-encoding
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from cdc.avro.kinds.codec import ValueCodec
from cdc.avro.packers import PLAIN_TEXTS
from cdc.avro.speedups.civil import text_of
from cdc.core.events import Value
from cdc.core.types import ColumnType, Kind

# What stands there.
_DATA, _LONG, _FLAG, _FLOAT, _DOUBLE = range(5)
# What becomes of it. OTHER is left to the kinds of Python.
_OTHER, _PLAIN, _INTEGER, _DECIMAL, _BOOLEAN, _TIMESTAMP, _TIMESTAMPTZ = range(7)
_MOST_SCALE = 18
_MICROSECONDS = len("2026-01-31T12:34:56.000000Z")
_ZERO, _DASH, _T, _COLON, _POINT, _Z = b"0-T:.Z"

_PRIMITIVES = {
    "string": _DATA,
    "bytes": _DATA,
    "int": _LONG,
    "long": _LONG,
    "boolean": _FLAG,
    "float": _FLOAT,
    "double": _DOUBLE,
}
_SIZES = {"boolean": 1, "float": 4, "double": 8}
_FORMS = {
    Kind.INT16: _INTEGER,
    Kind.INT32: _INTEGER,
    Kind.INT64: _INTEGER,
    Kind.BOOLEAN: _BOOLEAN,
    Kind.TIMESTAMP: _TIMESTAMP,
    Kind.TIMESTAMPTZ: _TIMESTAMPTZ,
    Kind.DECIMAL: _DECIMAL,
    **dict.fromkeys((*PLAIN_TEXTS, Kind.UUID), _PLAIN),
}
_float32 = struct.Struct("<f").unpack_from
_float64 = struct.Struct("<d").unpack_from


class Field(NamedTuple):
    """`primitive` is its Avro type, of which a nullable field is a union with null."""

    primitive: str
    nullable: bool
    type: ColumnType
    codec: ValueCodec


class RowReader:
    """`read` is a CompiledReader of rows that begin with these fields; it gives the `wanted` ones, in that order."""

    def __init__(self, fields: Sequence[Field], wanted: Sequence[int]) -> None:
        self._count = len(fields)
        self._primitives = bytes(_PRIMITIVES[field.primitive] for field in fields)
        self._nullable = bytes(field.nullable for field in fields)
        self._sizes = bytes(_SIZES.get(field.primitive, 0) for field in fields)
        self._wanted = bytes(i in wanted for i in range(self._count))
        forms = [_form(field) for field in fields]
        self._forms = bytes(form for form, _ in forms)
        self._scales = bytes(scale for _, scale in forms)
        self._decoders = [field.codec.decode for field in fields]
        ascending = sorted(wanted)
        self._order = None if ascending == list(wanted) else [ascending.index(i) for i in wanted]
        self._after = 0

    def read(self, data: bytes, at: int) -> tuple[tuple[Value, ...], int]:
        """See CompiledReader. Raises one of MALFORMED."""
        values: list[Value] = []
        length = len(data)
        for i in range(self._count):
            if self._nullable[i]:
                branch = data[at]
                at += 1
                if branch == 0:
                    if self._wanted[i]:
                        values.append(None)
                    continue
                if branch != 2:
                    raise ValueError("no branch of a nullable field")
            primitive = self._primitives[i]
            n = 0
            if primitive <= _LONG:
                n = self._number(data, at)
                at = self._after  # at once: whatever Python runs may let another thread read
            start = at
            size = n >> 1 if primitive == _DATA else self._sizes[i]
            if size > length - at or (primitive == _DATA and n & 1):
                raise ValueError("a value that is not all there")
            at += size
            if self._wanted[i]:
                values.append(self._text(i, n, data, start, at))
        if self._order is None:
            return tuple(values), at
        return tuple([values[i] for i in self._order]), at

    def _number(self, data: bytes, at: int) -> int:
        """The unsigned number that stands there, of up to 64 bits. It ends at `_after`."""
        n = data[at]
        at += 1
        if n > 127:
            n &= 127
            shift = 0
            while True:
                shift += 7
                bits = data[at]
                at += 1
                if shift == 63 and bits > 1:
                    raise ValueError("a number of more than 64 bits")
                n |= (bits & 127) << shift
                if bits < 128:
                    break
        self._after = at
        return n

    def _text(self, i: int, n: int, data: bytes, start: int, end: int) -> bytes:
        primitive = self._primitives[i]
        if primitive == _DATA:
            return self._text_of_data(i, data, start, end)
        if primitive == _LONG:
            return self._text_of_long(i, (n >> 1) ^ -(n & 1))
        return self._text_of_fixed(i, data, start)

    def _text_of_data(self, i: int, data: bytes, start: int, end: int) -> bytes:
        form = self._forms[i]
        text: bytes | None = None
        if form == _PLAIN:
            text = data[start:end]
            if not text.isascii():
                text.decode()
        elif form == _DECIMAL:
            text = _decimal_text(data, start, end, self._scales[i])
        elif form == _TIMESTAMPTZ:
            text = _timestamptz_text(data, start, end)
        if text is None:
            text = self._decoders[i](data[start:end])
        return text

    def _text_of_long(self, i: int, n: int) -> bytes:
        form = self._forms[i]
        if form == _INTEGER:
            return f"{n}".encode("ascii")
        text: bytes | None = None
        if form == _TIMESTAMP:
            text = text_of(n)
        if text is None:
            text = self._decoders[i](n)
        return text

    def _text_of_fixed(self, i: int, data: bytes, at: int) -> bytes:
        primitive = self._primitives[i]
        datum: bool | float
        if primitive == _FLAG:
            if self._forms[i] == _BOOLEAN:
                return b"t" if data[at] != 0 else b"f"
            datum = data[at] != 0
        else:
            (datum,) = _float32(data, at) if primitive == _FLOAT else _float64(data, at)
        text: bytes = self._decoders[i](datum)
        return text


def _form(field: Field) -> tuple[int, int]:
    """The form of its values, and the scale of decimals."""
    form = _FORMS.get(field.type.kind, _OTHER)
    if form == _DECIMAL:
        scale = field.type.scale or 0
        return (form, scale) if 0 <= scale <= _MOST_SCALE else (_OTHER, 0)
    return form, 0


def _decimal_text(data: bytes, start: int, end: int, scale: int) -> bytes | None:
    """None if it is negative, less than 1, or has more than 64 bits."""
    if not 1 <= end - start <= 8 or data[start] > 127:
        return None
    n = 0
    at = start
    while at < end:
        n = n << 8 | data[at]
        at += 1
    digits = f"{n}".encode("ascii")
    if not scale:
        return digits
    whole = len(digits) - scale
    if whole < 1:
        return None
    return digits[:whole] + b"." + digits[whole:]


def _timestamptz_text(data: bytes, start: int, end: int) -> bytes | None:
    """Of `2026-01-31T12:34:56.789000Z`; None if it is another form."""
    if end - start != _MICROSECONDS:
        return None
    if (
        data[start + 4] != _DASH
        or data[start + 7] != _DASH
        or data[start + 10] != _T
        or data[start + 13] != _COLON
        or data[start + 16] != _COLON
        or data[start + 19] != _POINT
        or data[start + 26] != _Z
    ):
        return None
    year = 0
    at = start
    while at < end - 1:
        digit = data[at] - _ZERO
        if digit < 0 or digit > 9:
            if at - start not in {4, 7, 10, 13, 16, 19}:
                return None
        elif at < start + 4:
            year += digit
        at += 1
    if not year:
        return None
    last = end - 1
    while data[last - 1] == _ZERO:
        last -= 1
    if data[last - 1] == _POINT:
        last -= 1
    return data[start : start + 10] + b" " + data[start + 11 : last] + b"+00"
