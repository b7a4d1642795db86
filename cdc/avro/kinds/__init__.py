"""The kinds of `cdc.core.types`, each with its Avro form. One short module a family."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Final

from cdc.avro.kinds import bits, floats, hstore, numbers, texts, times
from cdc.avro.kinds.arrays import array
from cdc.avro.kinds.codec import ValueCodec
from cdc.core.types import ColumnType, Kind

__all__ = ["codec_of", "seconds_digits"]

_SECONDS_DIGITS: Final = re.compile(r"\((\d)\)")

_FIXED: Final[dict[Kind, ValueCodec]] = {
    Kind.BOOLEAN: bits.BOOLEAN,
    Kind.BIT: bits.BIT,
    Kind.BYTES: bits.BYTES,
    Kind.INT16: numbers.integer(16),
    Kind.INT32: numbers.integer(32),
    Kind.INT64: numbers.integer(64),
    Kind.VARIABLE_DECIMAL: numbers.VARIABLE_DECIMAL,
    Kind.MONEY: numbers.MONEY,
    Kind.FLOAT32: floats.FLOAT32,
    Kind.FLOAT64: floats.FLOAT64,
    Kind.VECTOR: floats.VECTOR,
    Kind.HALFVEC: floats.HALFVEC,
    Kind.DATE: times.DATE,
    Kind.TIME: times.TIME,
    Kind.TIMETZ: times.TIMETZ,
    Kind.TIMESTAMP: times.TIMESTAMP,
    Kind.INTERVAL: texts.INTERVAL,
    Kind.UUID: texts.UUID,
    Kind.STRING: texts.TEXT,
    Kind.JSON: texts.TEXT,
    Kind.XML: texts.TEXT,
    Kind.LTREE: texts.TEXT,
    Kind.ENUM: texts.TEXT,
    Kind.OTHER: texts.TEXT,
    Kind.HSTORE: hstore.HSTORE,
}


def _decimal(column: ColumnType) -> ValueCodec:
    return numbers.decimal(column.precision, column.scale or 0)


def _timestamptz(column: ColumnType) -> ValueCodec:
    return times.timestamptz(seconds_digits(column))


def _bits(column: ColumnType) -> ValueCodec:
    return bits.bits(column.length)


def _array(column: ColumnType) -> ValueCodec:
    element = column.element or ColumnType(kind=Kind.OTHER, name="text")
    return array(codec_of(element), delimiter=b";" if (element.base or element.name) == "box" else b",")


_BY_TYPE: Final[dict[Kind, Callable[[ColumnType], ValueCodec]]] = {
    Kind.DECIMAL: _decimal,
    Kind.TIMESTAMPTZ: _timestamptz,
    Kind.BITS: _bits,
    Kind.ARRAY: _array,
}


@functools.lru_cache(maxsize=4096)
def codec_of(column: ColumnType) -> ValueCodec:
    """How values of that type become Avro and back."""
    made = _BY_TYPE.get(column.kind)
    return made(column) if made else _FIXED[column.kind]


def seconds_digits(column: ColumnType) -> int:
    """The p of `timestamp(p) with time zone`; 6 if it is not declared."""
    match = _SECONDS_DIGITS.search(column.name)
    return int(match[1]) if match else 6
