"""A table version -> the Avro schemas of its keys and of its envelopes, as Kafka Connect's Avro converter writes
Debezium's. Everything of the table can be read from the envelope's schema again (`cdc.avro.tables`).
"""

from __future__ import annotations

import json
from typing import Any

import schemas as fixed
from cdc.avro import properties as prop
from cdc.avro.names import avro_namespace, field_names
from cdc.avro.typenames import debezium_name
from cdc.core.tables import Column, TableSchema
from cdc.core.types import ColumnType, Kind

Json = dict[str, Any]

_PRIMITIVES = {
    Kind.BOOLEAN: "boolean",
    Kind.BIT: "boolean",
    Kind.INT16: "int",
    Kind.INT32: "int",
    Kind.INT64: "long",
    Kind.FLOAT32: "float",
    Kind.FLOAT64: "double",
    Kind.DECIMAL: "bytes",
    Kind.MONEY: "bytes",
    Kind.BYTES: "bytes",
    Kind.BITS: "bytes",
    Kind.DATE: "int",
    Kind.TIME: "long",
    Kind.TIMESTAMP: "long",
}
"""All others are a string, an array or a record."""

_CONNECT_NAMES = {
    Kind.DECIMAL: prop.DECIMAL,
    Kind.MONEY: prop.DECIMAL,
    Kind.BITS: prop.BITS,
    Kind.DATE: "io.debezium.time.Date",
    Kind.TIME: "io.debezium.time.MicroTime",
    Kind.TIMETZ: "io.debezium.time.ZonedTime",
    Kind.TIMESTAMP: "io.debezium.time.MicroTimestamp",
    Kind.TIMESTAMPTZ: "io.debezium.time.ZonedTimestamp",
    Kind.INTERVAL: "io.debezium.time.Interval",
    Kind.UUID: "io.debezium.data.Uuid",
    Kind.JSON: "io.debezium.data.Json",
    Kind.HSTORE: "io.debezium.data.Json",
    Kind.XML: "io.debezium.data.Xml",
    Kind.LTREE: "io.debezium.data.Ltree",
    Kind.ENUM: "io.debezium.data.Enum",
    Kind.VECTOR: "io.debezium.data.DoubleVector",
    Kind.HALFVEC: "io.debezium.data.FloatVector",
}
_ITEMS = {Kind.VECTOR: "double", Kind.HALFVEC: "float"}
_MONEY_SCALE = 2
_UNDECLARED_PRECISION = 64  # what Kafka Connect's converter writes then
_UNLIMITED = 2**31 - 1  # Debezium's length of a varbit without one


def key_schema(table: TableSchema, topic: str) -> str | None:
    """The schema of the table's keys as Avro's JSON text, or None for a table without a key.

    It says nothing that the bytes don't depend on: a key's bytes hold its schema's id, and decide its partition, so
    a wider varchar must not make it another schema.
    """
    if not table.key:
        return None
    names = field_names(table.columns)
    defined: set[str] = set()
    fields = [_field(names[i], table.columns[i], _type(table.columns[i].type, {}, defined)) for i in table.key]
    return _text(_record(topic, "Key", fields))


def envelope_schema(table: TableSchema, topic: str) -> str:
    """The schema of the table's envelopes as Avro's JSON text; the same text for the same table."""
    return _text(fixed.complete(envelope(_row(table, topic), topic)))


def envelope(row: Json, topic: str) -> Json:
    """The envelope around a row's record. `source` and `transaction` are named, for `schemas` to put in."""
    fields = [
        _optional("before", row),
        _optional("after", f"{avro_namespace(topic)}.Value"),
        {"name": "source", "type": prop.SOURCE_RECORD},
        _optional("transaction", prop.TRANSACTION_BLOCK),
        {"name": "op", "type": "string"},
        _optional("ts_ms", "long"),
        _optional("ts_us", "long"),
        _optional("ts_ns", "long"),
    ]
    return {**_record(topic, "Envelope", fields), prop.CONNECT_VERSION: 2}


def _row(table: TableSchema, topic: str) -> Json:
    names = field_names(table.columns)
    defined: set[str] = set()
    fields = [
        {
            **_field(name, column, _type(column.type, _source_parameters(column), defined)),
            prop.OUR_NAME: column.name,
            **({} if column.id is None else {prop.OUR_ID: column.id}),
            prop.OUR_TYPE: _our_type(column.type),
        }
        for name, column in zip(names, table.columns, strict=True)
    ]
    return {
        **_record(topic, "Value", fields),
        prop.OUR_TABLE: list(table.id),
        prop.OUR_KEY: [column.name for column in table.key_columns],
        prop.OUR_IDENTITY: table.identity.value,
    }


def _record(topic: str, name: str, fields: list[Json]) -> Json:
    namespace = avro_namespace(topic)
    return {
        "type": "record",
        "name": name,
        "namespace": namespace,
        "fields": fields,
        prop.CONNECT_NAME: f"{namespace}.{name}",
    }


def _field(name: str, column: Column, avro_type: object) -> Json:
    return _optional(name, avro_type) if column.nullable else {"name": name, "type": avro_type}


def _optional(name: str, avro_type: object) -> Json:
    return {"name": name, "type": ["null", avro_type], "default": None}


def _type(column: ColumnType, source: dict[str, str], defined: set[str]) -> object:
    """The Avro type. `defined` are the named ones that stand in the schema already."""
    if column.kind is Kind.VARIABLE_DECIMAL:
        return _variable_decimal(defined)
    avro: Json = {"type": _PRIMITIVES.get(column.kind, "string")}
    if column.kind is Kind.ARRAY:
        element = column.element or ColumnType(kind=Kind.OTHER, name="text")
        avro = {"type": "array", "items": ["null", _type(element, {}, defined)]}
    elif column.kind in _ITEMS:
        avro = {"type": "array", "items": _ITEMS[column.kind]}
    parameters = {**_parameters(column), **source}
    decimal = _decimal(column) if column.kind in {Kind.DECIMAL, Kind.MONEY} else {}
    avro |= {key: value for key, value in decimal.items() if key != "logicalType"}
    named = prop.TSVECTOR if _is_tsvector(column) else _CONNECT_NAMES.get(column.kind)
    if named:
        avro[prop.CONNECT_VERSION] = 1
    if parameters:
        avro[prop.CONNECT_PARAMETERS] = parameters
    if named:
        avro[prop.CONNECT_NAME] = named
    if column.kind is Kind.INT16:
        avro[prop.CONNECT_TYPE] = "int16"
    avro |= {key: value for key, value in decimal.items() if key == "logicalType"}
    return avro if len(avro) > 1 else avro["type"]


def _is_tsvector(column: ColumnType) -> bool:
    """A text like any other's, but Debezium has a name for it."""
    return column.kind is Kind.OTHER and column.name == "tsvector"


def _variable_decimal(defined: set[str]) -> object:
    # One record for all columns: Avro refuses a name that is defined twice, so it carries no column's parameters.
    if prop.VARIABLE_DECIMAL in defined:
        return prop.VARIABLE_DECIMAL
    defined.add(prop.VARIABLE_DECIMAL)
    namespace, _, name = prop.VARIABLE_DECIMAL.rpartition(".")
    return {
        "type": "record",
        "name": name,
        "namespace": namespace,
        "fields": [{"name": "scale", "type": "int"}, {"name": "value", "type": "bytes"}],
        "connect.doc": "Variable scaled decimal",
        prop.CONNECT_VERSION: 1,
        prop.CONNECT_NAME: prop.VARIABLE_DECIMAL,
    }


def _decimal(column: ColumnType) -> Json:
    scale, precision = _scale(column), column.precision or _UNDECLARED_PRECISION
    shape: Json = {"scale": scale, "precision": precision}
    # Avro's own decimal has no scale below 0 or above the precision; Connect's reads its parameters.
    return {**shape, "logicalType": "decimal"} if 0 <= scale <= precision else shape


def _scale(column: ColumnType) -> int:
    return _MONEY_SCALE if column.kind is Kind.MONEY else column.scale or 0


def _parameters(column: ColumnType) -> dict[str, str]:
    match column.kind:
        case Kind.DECIMAL | Kind.MONEY:
            precision = {} if column.precision is None else {prop.DECIMAL_PRECISION: str(column.precision)}
            return {"scale": str(_scale(column)), **precision}
        case Kind.BITS:
            return {"length": str(column.length or _UNLIMITED)}
        case _:
            return {}


def _source_parameters(column: Column) -> dict[str, str]:
    length = column.type.length if column.type.precision is None else column.type.precision
    parameters = {
        prop.SOURCE_TYPE: debezium_name(column.type.name),
        prop.SOURCE_LENGTH: None if length is None else str(length),
        prop.SOURCE_SCALE: None if column.type.scale is None else str(column.type.scale),
        prop.SOURCE_NAME: column.name,
    }
    return {key: value for key, value in parameters.items() if value is not None}


def _our_type(column: ColumnType) -> Json:
    said = {
        "kind": column.kind.value,
        "name": column.name,
        "base": column.base,
        "precision": column.precision,
        "scale": column.scale,
        "length": column.length,
        "element": None if column.element is None else _our_type(column.element),
    }
    return {key: value for key, value in said.items() if value is not None}


def _text(schema: Json) -> str:
    return json.dumps(schema, ensure_ascii=False, separators=(",", ":"))
