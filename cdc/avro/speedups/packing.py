"""From a row that the source sent as pgoutput's TupleData to the beginning of an event, as `cdc.avro.packing` has it.

https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from cdc.avro.kinds import seconds_digits
from cdc.avro.packers import PLAIN_TEXTS, packer_of
from cdc.avro.speedups.civil import us_of
from cdc.core.tables import TableSchema
from cdc.core.types import ColumnType, Kind

# Forms of values. OTHER is left to the packers of Python.
_OTHER, _PLAIN, _INTEGER, _DECIMAL, _BOOLEAN, _TIMESTAMP, _TIMESTAMPTZ = range(7)
_ANY_SCALE = 255
_MOST_DIGITS = 18  # that surely are a number of 64 bits
_SECONDS = len("2026-01-31 12:34:56")
_TEXT, _NULL = b"tn"
_TRUE, _FALSE = b"tf"
_MINUS, _POINT, _ZERO, _PLUS, _T, _Z = b"-.0+TZ"

_FORMS = {
    **dict.fromkeys(PLAIN_TEXTS, _PLAIN),
    Kind.INT16: _INTEGER,
    Kind.INT32: _INTEGER,
    Kind.INT64: _INTEGER,
    Kind.DECIMAL: _DECIMAL,
    Kind.VARIABLE_DECIMAL: _DECIMAL,
    Kind.BOOLEAN: _BOOLEAN,
    Kind.TIMESTAMP: _TIMESTAMP,
    Kind.TIMESTAMPTZ: _TIMESTAMPTZ,
}
_BITS = {Kind.INT16: 16, Kind.INT32: 32, Kind.INT64: 64}


class EventPacker:
    """`pack` is a PackEvent for rows of which the `known` columns have values; the others get their `fillers`.

    The first value's mark stands at `begins`. `around` are the bytes before the row, after it, and before the key;
    `placing` are the columns of the key that decide its partition.
    """

    def __init__(
        self,
        table: TableSchema,
        known: Collection[int],
        fillers: Sequence[bytes],
        *,
        begins: int,
        around: tuple[bytes, bytes, bytes],
        placing: Sequence[int],
    ) -> None:
        forms = [_form(column.type) for column in table.columns]
        self._begins = begins
        self._count = len(forms)
        self._known = bytes(i in known for i in range(self._count))
        self._nullable = bytes(column.nullable for column in table.columns)
        self._in_key = bytes(i in table.key for i in range(self._count))
        self._forms = bytes(form for form, _ in forms)
        self._sizes = bytes(size for _, size in forms)
        self._packers = [packer_of(column.type) for column in table.columns]
        self._fillers = list(fillers)
        self._head, self._tail, self._key_head = around
        self._key = list(table.key)
        self._placing = list(placing)

    def pack(self, data: bytes) -> tuple[bytes, bytes | None, bytes | None]:
        """See PackEvent. Raises one of UNUSUAL."""
        out = bytearray(self._head)
        keys: list[bytes] = [b""] * self._count if self._key else []
        at = self._begins
        length = len(data)
        for i in range(self._count):
            mark = data[at]
            at += 1
            begins = len(out)
            if mark == _TEXT:
                start = at + 4
                size = data[at]
                size = size << 8 | data[at + 1]
                size = size << 8 | data[at + 2]
                size = size << 8 | data[at + 3]
                at = start + size
                if at > length:
                    raise ValueError("a text that is not all there")
                if self._known[i]:
                    if self._nullable[i]:
                        out.append(2)
                    self._put(i, data, start, at, out)
                else:
                    out += self._fillers[i]
            elif mark != _NULL:
                raise ValueError("neither a text nor NULL")
            elif not self._known[i]:
                out += self._fillers[i]
            elif self._nullable[i] and not self._in_key[i]:
                out.append(0)
            else:
                raise ValueError("NULL where there is none")
            if self._in_key[i]:
                keys[i] = bytes(out[begins:])
        if at != length:
            raise ValueError("more than a row")
        out += self._tail
        return self._with_key(out, keys)

    def _with_key(self, out: bytearray, keys: list[bytes]) -> tuple[bytes, bytes | None, bytes | None]:
        """`keys` are the fields of the key's columns."""
        if not self._key:
            return bytes(out), None, None
        key = self._key_head + b"".join([keys[i] for i in self._key])
        if len(self._placing) == len(self._key):
            return bytes(out), key, key
        return bytes(out), key, b"".join([keys[i] for i in self._placing])

    def _put(self, i: int, data: bytes, start: int, end: int, out: bytearray) -> None:
        """The value whose text stands there."""
        form = self._forms[i]
        done = False
        if form == _PLAIN:
            done = _put_text(out, data, start, end)
        elif form == _INTEGER:
            done = _put_integer(out, data, start, end, self._sizes[i])
        elif form == _DECIMAL:
            done = _put_decimal(out, data, start, end, self._sizes[i])
        elif form == _TIMESTAMP:
            done = _put_timestamp(out, data, start, end)
        elif form == _TIMESTAMPTZ:
            done = _put_timestamptz(out, data, start, end, self._sizes[i])
        elif form == _BOOLEAN:
            done = _put_boolean(out, data, start, end)
        if not done:
            out += self._packers[i](data[start:end])


def _form(column: ColumnType) -> tuple[int, int]:
    """The form of its values; and the bits of integers, the scale of decimals, the digits of a second's fraction."""
    form = _FORMS.get(column.kind, _OTHER)
    if column.kind is Kind.VARIABLE_DECIMAL:
        return form, _ANY_SCALE
    if form == _DECIMAL:
        scale = column.scale or 0
        return (form, scale) if 0 <= scale <= _MOST_DIGITS else (_OTHER, 0)
    if form == _TIMESTAMPTZ:
        return form, seconds_digits(column)
    return form, _BITS.get(column.kind, 0)


# Each of these writes a usual value, or nothing, and says which.


def _put_text(out: bytearray, data: bytes, start: int, end: int) -> bool:
    text = data[start:end]
    if not text.isascii():
        text.decode()
    _put_long(out, end - start)
    out += text
    return True


def _put_boolean(out: bytearray, data: bytes, start: int, end: int) -> bool:
    if end - start != 1 or (data[start] != _TRUE and data[start] != _FALSE):
        return False
    out.append(data[start] == _TRUE)
    return True


def _put_integer(out: bytearray, data: bytes, start: int, end: int, bits: int) -> bool:
    at = start
    negative = at < end and data[at] == _MINUS
    if negative:
        at += 1
    digits = end - at
    if digits < 1 or digits > _MOST_DIGITS or (data[at] == _ZERO and (negative or digits > 1)):
        return False
    n = 0
    while at < end:
        digit = data[at] - _ZERO
        if digit < 0 or digit > 9:
            return False
        n = n * 10 + digit
        at += 1
    if negative:
        n = -n
    if bits < 64:
        limit = 1  # and then, as C would shift an int
        limit <<= bits - 1
        if n < -limit or n >= limit:
            return False
    _put_long(out, n)
    return True


def _put_decimal(out: bytearray, data: bytes, start: int, end: int, scale: int) -> bool:
    """Of that scale, or of any, which is then written before the number."""
    first = start
    if first < end and data[first] == _MINUS:
        first += 1
    if end - first > _MOST_DIGITS + 1:  # one may be the point
        return False
    at = first
    point = -1
    n = 0
    while at < end:
        digit = data[at] - _ZERO
        if 0 <= digit <= 9:
            n = n * 10 + digit
        elif data[at] == _POINT and point < 0:
            point = at
        else:
            return False
        at += 1
    whole = end - first if point < 0 else point - first
    fraction = 0 if point < 0 else end - point - 1
    if whole < 1 or whole + fraction > _MOST_DIGITS or (point >= 0 and not fraction):
        return False
    if (data[first] == _ZERO and whole > 1) or (first > start and not n):
        return False
    if scale == _ANY_SCALE:
        _put_long(out, fraction)
    elif fraction != scale:
        return False
    _put_number(out, -n if first > start else n)
    return True


def _put_number(out: bytearray, n: int) -> None:
    """Two's complement, big-endian, of as many bytes as it takes, after their number."""
    size = 1
    limit = 128
    while size < 8 and (n >= limit or n < -limit):
        size += 1
        limit <<= 8
    out.append(2 * size)
    shift = 8 * (size - 1)
    while shift >= 0:
        out.append((n >> shift) & 255)
        shift -= 8


def _put_timestamp(out: bytearray, data: bytes, start: int, end: int) -> bool:
    us = us_of(data, start, end)
    if us is None:
        return False
    _put_long(out, us)
    return True


def _put_timestamptz(out: bytearray, data: bytes, start: int, end: int, precision: int) -> bool:
    """In ISO 8601, with so many digits of a second."""
    last = end - 3
    if last < start or data[last] != _PLUS or data[last + 1] != _ZERO or data[last + 2] != _ZERO:
        return False
    fraction = last - start - _SECONDS  # with its point
    whole = precision + 1 if precision else 0
    if fraction > whole or us_of(data, start, last) is None:
        return False
    _put_long(out, _SECONDS + whole + 1)
    at = start
    while at < last:
        out.append(_T if at == start + 10 else data[at])
        at += 1
    while fraction < whole:
        out.append(_ZERO if fraction else _POINT)
        fraction += 1
    out.append(_Z)
    return True


def _put_long(out: bytearray, n: int) -> None:
    """As `cdc.avro.binary.long`."""
    z = (n << 1) ^ (n >> 63)
    while z > 127:
        out.append((z & 127) | 128)
        z >>= 7
    out.append(z)
