"""The Avro schema of an envelope -> the table it is about, and how its fields are read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cdc.avro import properties as prop
from cdc.avro.foreign import column_type
from cdc.avro.kinds import codec_of
from cdc.avro.kinds.codec import ValueCodec
from cdc.core.errors import ProtocolViolationError
from cdc.core.tables import Column, ReplicaIdentity, TableId, TableSchema
from cdc.core.types import ColumnType, Kind

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldReader:
    """A column's field: its Avro name, and how its value is read."""

    name: str
    codec: ValueCodec


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadableTable:
    """`ours`: the schema was written by cdc, so headers tell what is exact and unchanged."""

    table: TableSchema
    fields: tuple[FieldReader, ...]
    ours: bool


def table_schema_from(envelope: str, key: str | None = None) -> TableSchema:
    """The table of an envelope's schema. A connector's schema does not name the key's columns: that needs `key`.

    ProtocolViolationError if it is not an envelope's schema.
    """
    return readable_table(envelope, key).table


def readable_table(envelope: str, key: str | None = None) -> ReadableTable:
    try:
        schema = json.loads(envelope)
        row = _row(schema)
        return _ours(row) if prop.OUR_TABLE in row else _foreign(schema, row, None if key is None else json.loads(key))
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise ProtocolViolationError(
            "a schema that is not of Debezium's envelope",
            mend="Point the target at topics of change events only.",
        ) from error


def _row(schema: Json) -> Json:
    """The record of `before` or `after`, whichever stands first."""
    for field in schema["fields"]:
        if field["name"] in {"before", "after"}:
            for branch in field["type"]:
                if isinstance(branch, dict):
                    return branch
    raise ValueError("no row")


def _ours(row: Json) -> ReadableTable:
    columns = tuple(
        Column(
            name=field[prop.OUR_NAME],
            type=_our_type(field[prop.OUR_TYPE]),
            nullable=_nullable(field),
            id=field.get(prop.OUR_ID),
        )
        for field in row["fields"]
    )
    names = [column.name for column in columns]
    table = TableSchema(
        id=TableId(*row[prop.OUR_TABLE]),
        columns=columns,
        key=tuple(names.index(name) for name in row[prop.OUR_KEY]),
        identity=ReplicaIdentity(row[prop.OUR_IDENTITY]),
    )
    fields = tuple(
        FieldReader(name=field["name"], codec=codec_of(column.type))
        for field, column in zip(row["fields"], columns, strict=True)
    )
    return ReadableTable(table=table, fields=fields, ours=True)


def _our_type(said: Json) -> ColumnType:
    element = said.get("element")
    return ColumnType(
        kind=Kind(said["kind"]),
        name=said["name"],
        base=said.get("base"),
        precision=said.get("precision"),
        scale=said.get("scale"),
        length=said.get("length"),
        element=None if element is None else _our_type(element),
    )


def _nullable(field: Json) -> bool:
    return isinstance(field["type"], list) and "null" in field["type"]


def _foreign(schema: Json, row: Json, key: Json | None) -> ReadableTable:
    named = dict(_records(schema))
    columns: list[Column] = []
    fields: list[FieldReader] = []
    for field in row["fields"]:
        avro = _single(field["type"])
        ours, codec = column_type(avro, named)
        parameters = avro.get(prop.CONNECT_PARAMETERS, {}) if isinstance(avro, dict) else {}
        name = parameters.get(prop.SOURCE_NAME, field["name"])
        columns.append(Column(name=name, type=ours, nullable=_nullable(field)))
        fields.append(FieldReader(name=field["name"], codec=codec))
    positions = {field.name: i for i, field in enumerate(fields)}
    key_fields = [] if key is None else [field["name"] for field in key["fields"]]
    table = TableSchema(
        id=_table_id(schema),
        columns=tuple(columns),
        key=tuple(positions[name] for name in key_fields),
    )
    return ReadableTable(table=table, fields=tuple(fields), ours=False)


def _table_id(schema: Json) -> TableId:
    """`<prefix>.<schema>.<table>.Envelope`, as far as Avro's names allow to tell."""
    full_name = schema.get(prop.CONNECT_NAME) or f"{schema['namespace']}.{schema['name']}"
    *_, schema_name, table_name, _ = full_name.split(".")
    return TableId(schema_name, table_name)


def _single(avro: Any) -> Any:
    if not isinstance(avro, list):
        return avro
    branches = [branch for branch in avro if branch != "null"]
    if len(branches) != 1:
        raise ProtocolViolationError("a column of several Avro types: no column of Debezium has that")
    return branches[0]


def _records(part: Any) -> list[tuple[str, Json]]:
    match part:
        case {"type": "record", "name": name, "fields": list() as fields}:
            full = f"{part['namespace']}.{name}" if "namespace" in part else name
            return [(full, part), *_records([field["type"] for field in fields])]
        case {"type": "array", "items": items}:
            return _records(items)
        case {"type": dict() | list() as inner}:
            return _records(inner)
        case list():
            return [record for branch in part for record in _records(branch)]
        case _:
            return []
