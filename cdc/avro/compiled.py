"""Readers of rows that are compiled once for each schema: from Avro's bytes to canonical texts, with nothing between.

The function's source is made from the list of fields, so that it has neither a loop over columns nor a call for each.
It reads what fastavro would (the tests compare both), but for what it can't read at all, arrays and records: then there
is no such reader. What is wrong with the bytes it does not say: it raises one of `MALFORMED`, or ends elsewhere than
where the row ends, and whoever calls it asks the plain reader (`cdc.avro.rows.RowReader`), which has words for it.

Where `cdc.avro.speedups` is compiled to C, it reads in their place.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from cdc.avro import binary
from cdc.avro.kinds import codec_of, texts
from cdc.avro.kinds.codec import ValueCodec
from cdc.avro.kinds.numbers import int_text
from cdc.avro.speedups import COMPILED
from cdc.avro.speedups.reading import Field, RowReader
from cdc.core.events import Value
from cdc.core.types import ColumnType

CompiledReader = Callable[[bytes, int], tuple[tuple[Value, ...], int]]
"""The values of the row that begins there, and where it ends."""

MALFORMED: Final = (ValueError, IndexError, KeyError, TypeError, OverflowError, struct.error)
_WORD: Final = 8
_LONGEST: Final = 63  # bits of a long, of which the tenth byte has one more

# An int or long: seven bits a byte, lowest first. Nearly all have one byte or two.
_VARINT: Final = """\
    n = data[at]
    if n < 128:
        at += 1
    elif (b := data[at + 1]) < 128:
        n += (b << 7) - 128
        at += 2
    else:
        n, at = varint(data, at)
"""
_DATA: Final = f"""\
{_VARINT}\
    if n & 1:
        raise ValueError("a negative length")
    end = at + (n >> 1)
    datum = data[at:end]
    at = end
"""
_LONG: Final = f"{_VARINT}    datum = (n >> 1) ^ -(n & 1)\n"
_BOOLEAN: Final = "    datum = data[at] != 0\n    at += 1\n"
_FLOAT: Final = "    (datum,) = float32(data, at)\n    at += 4\n"
_DOUBLE: Final = "    (datum,) = float64(data, at)\n    at += 8\n"
_READING: Final = {
    "string": _DATA,
    "bytes": _DATA,
    "int": _LONG,
    "long": _LONG,
    "boolean": _BOOLEAN,
    "float": _FLOAT,
    "double": _DOUBLE,
}
_NAMES: Final[dict[str, Any]] = {
    "float32": struct.Struct("<f").unpack_from,
    "float64": struct.Struct("<d").unpack_from,
}


def varint(data: bytes, at: int) -> tuple[int, int]:
    """The unsigned number that stands there, and where it ends."""
    n = shift = 0
    while True:
        b = data[at]
        at += 1
        n |= (b & 127) << shift
        if shift == _LONGEST and b > 1:
            raise ValueError("a number of more than 64 bits")
        if b < 128:
            return n, at
        shift += 7


class _Longs(dict[bytes, int]):
    """Numbers by their bytes, which are all of a number's. It keeps the small ones."""

    def __missing__(self, data: bytes) -> int:
        n = _joined(data) if len(data) <= _WORD else varint(data, 0)[0]
        return (n >> 1) ^ -(n & 1)


def _joined(data: bytes) -> int:
    """The number of up to eight bytes of seven bits each: by twos, by fours, by eights."""
    n = int.from_bytes(data, "little")
    n = (n & 0x007F007F007F007F) | (n & 0x7F007F007F007F00) >> 1
    n = (n & 0x00003FFF00003FFF) | (n & 0x3FFF00003FFF0000) >> 2
    return (n & 0x000000000FFFFFFF) | (n & 0x0FFFFFFF00000000) >> 4


LONGS: Final = _Longs({binary.long(n): n for n in range(8192)})
long: Final = LONGS.__getitem__


def row_reader(
    types: Sequence[object], columns: Sequence[ColumnType], wanted: Sequence[int] | None = None, *, to_end: bool = True
) -> CompiledReader | None:
    """A reader of the record whose fields have these Avro types (as parsed JSON, logical types or not). It gives the
    values of the `wanted` fields (else of all), in that order. None if a type is one that it can't read. If not
    `to_end`, it stops behind the last field that is wanted.
    """
    order = range(len(types)) if wanted is None else wanted
    count = len(types) if to_end else max(order, default=-1) + 1
    fields = [
        Field(*_primitive(avro), column, codec_of(column))
        for avro, column in zip(types[:count], columns[:count], strict=True)
    ]
    if any(field.primitive not in _READING for field in fields):
        return None
    return RowReader(fields, order).read if COMPILED else made_reader(fields, order)


def made_reader(fields: Sequence[Field], order: Sequence[int]) -> CompiledReader:
    """The function that is made of source."""
    names: dict[str, Any] = {**_NAMES, "varint": varint}
    lines = ["def read(data, at):\n"]
    for number, (primitive, nullable, _, codec) in enumerate(fields):
        reading = _READING[primitive] + (_text(number, codec, names) if number in order else "")
        lines.append(_nullable(number, reading) if nullable else reading)
    lines.append(f"    return ({''.join(f'v{number}, ' for number in order)}), at\n")
    exec("".join(lines), names)  # noqa: S102  # made of numbers and of the pieces above alone: nothing of a schema
    read: CompiledReader = names["read"]
    return read


def _text(number: int, codec: ValueCodec, names: dict[str, Any]) -> str:
    """`datum` becomes the value's text."""
    if codec.decode is int_text:
        return f'    v{number} = b"%d" % datum\n'
    if codec.decode is texts.utf8:
        return f"    if not datum.isascii():\n        datum.decode()\n    v{number} = datum\n"
    names[f"decode{number}"] = codec.decode
    return f"    v{number} = decode{number}(datum)\n"


def _nullable(number: int, reading: str) -> str:
    present = "".join(f"    {line}\n" for line in reading.splitlines())
    return f"""\
    branch = data[at]
    at += 1
    if branch == 2:
{present}\
    elif branch == 0:
        v{number} = None
    else:
        raise ValueError("no branch of a nullable field")
"""


def _primitive(avro: object) -> tuple[str, bool]:
    """Its name, and whether it may be null. No name of a primitive for any other type."""
    match avro:
        case str():
            return avro, False
        case ["null", other]:
            name, nullable = _primitive(other)
            return ("", False) if nullable else (name, True)
        case {"type": str() as name}:
            return name, False
        case {"type": dict() as inner}:
            return _primitive(inner)
        case _:
            return "", False


def row_types(envelope: Mapping[str, Any]) -> list[object]:
    """The Avro types of a row's fields, from the parsed schema of the envelope (one of ours)."""
    (row,) = (
        branch
        for field in envelope["fields"]
        if field["name"] == "before"
        for branch in field["type"]
        if isinstance(branch, dict)
    )
    return [field["type"] for field in row["fields"]]
