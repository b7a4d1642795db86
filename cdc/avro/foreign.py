"""Columns of a schema that a Debezium connector wrote: from Avro's and Connect's types to ours.

Also in the forms that its other settings give: milliseconds (`time.precision.mode = adaptive`), Connect's own dates
and times, and intervals in microseconds.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from cdc.avro import properties as prop
from cdc.avro.kinds import arrays, codec_of
from cdc.avro.kinds.codec import PLACEHOLDER, ValueCodec
from cdc.avro.kinds.floats import float64_text
from cdc.avro.typenames import sql_name
from cdc.core.errors import ProtocolViolationError
from cdc.core.types import ColumnType, Kind

_PRIMITIVES: Final = {
    "boolean": (Kind.BOOLEAN, "boolean"),
    "int": (Kind.INT32, "integer"),
    "long": (Kind.INT64, "bigint"),
    "float": (Kind.FLOAT32, "real"),
    "double": (Kind.FLOAT64, "double precision"),
    "string": (Kind.STRING, "text"),
    "bytes": (Kind.BYTES, "bytea"),
}
_POINT: Final = "io.debezium.data.geometry.Point"
_NAMED: Final = {
    prop.VARIABLE_DECIMAL: (Kind.VARIABLE_DECIMAL, "numeric"),
    "io.debezium.time.Date": (Kind.DATE, "date"),
    "org.apache.kafka.connect.data.Date": (Kind.DATE, "date"),
    "io.debezium.time.Time": (Kind.TIME, "time without time zone"),
    "org.apache.kafka.connect.data.Time": (Kind.TIME, "time without time zone"),
    "io.debezium.time.MicroTime": (Kind.TIME, "time without time zone"),
    "io.debezium.time.NanoTime": (Kind.TIME, "time without time zone"),
    "io.debezium.time.ZonedTime": (Kind.TIMETZ, "time with time zone"),
    "io.debezium.time.Timestamp": (Kind.TIMESTAMP, "timestamp without time zone"),
    "org.apache.kafka.connect.data.Timestamp": (Kind.TIMESTAMP, "timestamp without time zone"),
    "io.debezium.time.MicroTimestamp": (Kind.TIMESTAMP, "timestamp without time zone"),
    "io.debezium.time.NanoTimestamp": (Kind.TIMESTAMP, "timestamp without time zone"),
    "io.debezium.time.ZonedTimestamp": (Kind.TIMESTAMPTZ, "timestamp with time zone"),
    "io.debezium.time.Interval": (Kind.INTERVAL, "interval"),
    "io.debezium.time.MicroDuration": (Kind.INTERVAL, "interval"),
    "io.debezium.data.Uuid": (Kind.UUID, "uuid"),
    "io.debezium.data.Json": (Kind.JSON, "jsonb"),
    "io.debezium.data.Xml": (Kind.XML, "xml"),
    "io.debezium.data.Ltree": (Kind.LTREE, "ltree"),
    "io.debezium.data.Enum": (Kind.ENUM, "text"),
    prop.TSVECTOR: (Kind.OTHER, "tsvector"),
    _POINT: (Kind.OTHER, "point"),
    "io.debezium.data.DoubleVector": (Kind.VECTOR, "vector"),
    "io.debezium.data.FloatVector": (Kind.HALFVEC, "halfvec"),
}
_SHARED: Final = {  # types that share their Avro form with another
    "BIT": (Kind.BIT, "bit(1)"),
    "MONEY": (Kind.MONEY, "money"),
    "HSTORE": (Kind.HSTORE, "hstore"),
}
_SHARED_KINDS: Final = {Kind.BOOLEAN, Kind.DECIMAL, Kind.JSON}
# An array stands for UNCHANGED in a form that its items can have: the placeholder's bytes, or a UUID made of them.
_UNAVAILABLE_ITEMS: Final = {
    **{kind: list(PLACEHOLDER) for kind in (Kind.INT32, Kind.INT64, Kind.DATE)},
    Kind.UUID: [str(uuid.UUID(bytes=hashlib.md5(PLACEHOLDER, usedforsecurity=False).digest(), version=3)).encode()],
}
_CENTS: Final = 2  # money's digits behind the point, unless the connector's `money.fraction.digits` says otherwise
_UNLIMITED: Final = 2**31 - 1
_IN_MILLISECONDS: Final = {
    "io.debezium.time.Time",
    "io.debezium.time.Timestamp",
    "org.apache.kafka.connect.data.Time",
    "org.apache.kafka.connect.data.Timestamp",
}
_ENDS_OF_LONG: Final = (2**63 - 1, -(2**63))
_IN_NANOSECONDS: Final = {"io.debezium.time.NanoTime", "io.debezium.time.NanoTimestamp"}

Named = Mapping[str, Mapping[str, Any]]


def column_type(avro: object, named: Named) -> tuple[ColumnType, ValueCodec]:
    """Our type of an Avro type that is no union, and how its values are read. `named` are the schema's records.

    ProtocolViolationError for what no PostgreSQL connector writes, or what we have no text form for.
    """
    shape = _shape(avro, named)
    if shape["type"] == "array" and prop.CONNECT_NAME not in shape:
        return _array(shape, named)
    ours = _scalar(shape)
    return ours, _read_as_written(shape.get(prop.CONNECT_NAME), codec_of(ours))


def _shape(avro: object, named: Named) -> Mapping[str, Any]:
    match avro:
        case str() if avro in named:
            return named[avro]
        case str():
            return {"type": avro}
        case {"type": dict() as inner}:
            return inner
        case dict():
            return avro
        case _:
            raise ProtocolViolationError("an Avro type that no column of Debezium has (a union of several)")


def _array(shape: Mapping[str, Any], named: Named) -> tuple[ColumnType, ValueCodec]:
    items = shape["items"]
    inner = [part for part in items if part != "null"] if isinstance(items, list) else [items]
    if len(inner) != 1:
        raise ProtocolViolationError("an array of several types: no column of Debezium has it")
    element, codec = column_type(inner[0], named)
    parameters = shape.get(prop.CONNECT_PARAMETERS, {})
    name = _source_name(parameters) or f"{element.name}[]"
    if name.endswith("[]"):
        element = replace(element, name=name[:-2])
    array = arrays.array(codec)
    if element.kind in _UNAVAILABLE_ITEMS:
        array = replace(array, unavailable=_UNAVAILABLE_ITEMS[element.kind])
    return ColumnType(kind=Kind.ARRAY, name=name, element=element), array


def _scalar(shape: Mapping[str, Any]) -> ColumnType:
    parameters = shape.get(prop.CONNECT_PARAMETERS, {})
    kind, name = _kind(shape, parameters)
    source = parameters.get(prop.SOURCE_TYPE, "")
    if kind is Kind.BYTES and source not in {"", "BYTEA"}:
        kind, name = Kind.OTHER, "text"  # a type that the connector does not know: its text form
    if kind is Kind.STRING and source == "BYTEA":
        raise ProtocolViolationError(
            "bytea as base64 or hexadecimal text would be stored as that text",
            mend="Set binary.handling.mode = bytes at the connector.",
        )
    of_cents = kind is not Kind.DECIMAL or _number(parameters.get("scale")) == _CENTS
    if kind in _SHARED_KINDS and source in _SHARED and of_cents:
        kind, name = _SHARED[source]
    length = _number(parameters.get("length" if kind is Kind.BITS else prop.SOURCE_LENGTH))
    if length == _UNLIMITED:
        length = None
    name = _source_name(parameters) or (f"{name}({length})" if kind is Kind.BITS and length else name)
    if kind is Kind.DECIMAL:
        precision = _number(parameters.get(prop.DECIMAL_PRECISION))
        scale = _number(parameters.get("scale")) or 0
        sized = f"numeric({precision},{scale})" if precision else "numeric"
        return ColumnType(kind=kind, name=sized, precision=precision, scale=scale)
    if kind is Kind.VARIABLE_DECIMAL:
        name = "numeric"
    with_length = kind in {Kind.BITS, Kind.STRING}
    return ColumnType(kind=kind, name=name, length=length if with_length else None)


def _kind(shape: Mapping[str, Any], parameters: Mapping[str, str]) -> tuple[Kind, str]:
    named = shape.get(prop.CONNECT_NAME)
    if named == prop.DECIMAL:
        return Kind.DECIMAL, "numeric"
    if named == prop.BITS:
        return Kind.BITS, "bit varying"
    if named in _NAMED:
        return _NAMED[named]
    if shape.get(prop.CONNECT_TYPE) in {"int16", "int8"}:
        return Kind.INT16, "smallint"
    primitive = _PRIMITIVES.get(shape["type"])
    if primitive is None or named is not None:
        what = named or parameters.get(prop.SOURCE_TYPE) or shape["type"]
        raise ProtocolViolationError(
            f"the type {what} has no text form here",
            mend="Leave the column out at the connector (column.exclude.list), or capture the table with cdc.",
        )
    return primitive


def _source_name(parameters: Mapping[str, str]) -> str | None:
    source = parameters.get(prop.SOURCE_TYPE)
    if source is None:
        return None
    length = _number(parameters.get(prop.SOURCE_LENGTH))
    return sql_name(source, None if length == _UNLIMITED else length, _number(parameters.get(prop.SOURCE_SCALE)))


def _number(text: str | None) -> int | None:
    return None if text is None else int(text)


def _read_as_written(named: str | None, codec: ValueCodec) -> ValueCodec:
    if named in _IN_MILLISECONDS:
        return replace(codec, decode=_first(lambda n: n * 1000, codec.decode))
    if named in _IN_NANOSECONDS:
        return replace(codec, decode=_first(_whole_microseconds, codec.decode))
    if named == "io.debezium.time.MicroDuration":
        return replace(codec, decode=_duration_text)
    if named == _POINT:
        return replace(codec, decode=_point_text)
    return codec


def _first(convert: Callable[[int], int], decode: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    return lambda datum: decode(convert(datum))


def _whole_microseconds(nanoseconds: int) -> int:
    if nanoseconds in _ENDS_OF_LONG:
        return nanoseconds  # infinity, in any unit
    us, rest = divmod(nanoseconds, 1000)
    if rest:
        raise ValueError("finer than a microsecond")
    return us


def _point_text(point: Mapping[str, float]) -> bytes:
    return b"(%b,%b)" % (float64_text(point["x"]), float64_text(point["y"]))


def _duration_text(us: int) -> bytes:
    seconds, fraction = divmod(abs(us), 1_000_000)
    digits = f".{fraction:06d}".rstrip("0") if fraction else ""
    return f"PT{'-' if us < 0 else ''}{seconds}{digits}S".encode()
