"""Reading Avro bytes with fastavro, guarded: whatever is wrong with them is a ProtocolViolationError."""

from __future__ import annotations

import io
import json
from typing import Any

from fastavro import parse_schema, schemaless_reader

from cdc.core.errors import ProtocolViolationError

_MALFORMED = (EOFError, IndexError, KeyError, MemoryError, OverflowError, RecursionError, TypeError, ValueError)


class AvroReader:
    """Reads records of one schema, given as Avro's JSON text.

    Strings come out as bytes (UTF-8) and logical types as their primitives: fastavro's Decimal rounds, its dates end
    in the year 9999, and most texts pass on as bytes.
    """

    def __init__(self, schema: str) -> None:
        try:
            self._schema = parse_schema(_physical(json.loads(schema)))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ProtocolViolationError("not an Avro schema") from error
        except Exception as error:  # fastavro's own errors share no base but this
            raise ProtocolViolationError(f"not an Avro schema: {type(error).__name__}") from error

    def read(self, data: bytes, offset: int) -> dict[str, Any]:
        """The record that stands there, up to the end of `data`. ProtocolViolationError for anything else."""
        stream = io.BytesIO(data)
        stream.seek(offset)
        try:
            record = schemaless_reader(stream, self._schema, None)
        except _MALFORMED as error:
            raise ProtocolViolationError(f"malformed Avro at byte {stream.tell()} of {len(data)}") from error
        if stream.tell() != len(data):
            raise ProtocolViolationError(f"{len(data) - stream.tell()} bytes too many behind an Avro record")
        assert isinstance(record, dict)
        return record


def _physical(part: Any) -> Any:  # noqa: PLR0911 - one case a shape of schema
    """The same bytes' schema without what only says how to show them."""
    match part:
        case "string":
            return "bytes"
        case list():
            return [_physical(branch) for branch in part]
        case {"type": "record", "fields": fields}:
            physical = [{"name": field["name"], "type": _physical(field["type"])} for field in fields]
            return {**_identity(part), "type": "record", "fields": physical}
        case {"type": "array", "items": items}:
            return {"type": "array", "items": _physical(items)}
        case {"type": "map", "values": values}:
            return {"type": "map", "values": _physical(values)}
        case {"type": "enum" | "fixed"}:
            return {key: value for key, value in part.items() if key != "logicalType"}
        case {"type": inner}:
            return _physical(inner)
        case _:
            return part


def _identity(part: dict[str, Any]) -> dict[str, Any]:
    return {key: part[key] for key in ("name", "namespace") if key in part}
