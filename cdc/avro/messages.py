"""The message topic: logical decoding messages (`pg_logical_emit_message`)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final

import schemas
from cdc.avro import binary
from cdc.avro.codec import EncodedEvent
from cdc.avro.framing import header, unframe
from cdc.avro.names import message_topic
from cdc.avro.reader import AvroReader
from cdc.avro.source import SourceReader, SourceWriter, table_bytes
from cdc.core.errors import ProtocolViolationError
from cdc.core.events import LogicalMessage, SnapshotMark
from cdc.core.tables import TableId

_NO_TABLE: Final = table_bytes(TableId("", ""))


class MessageCodec:
    """Encodes the records of the topic `topic`."""

    def __init__(self, prefix: str) -> None:
        self.topic = message_topic(prefix)
        self.key_schema = json.dumps(schemas.load("message_key"), separators=(",", ":"))
        self.value_schema = json.dumps(schemas.load("message_value"), separators=(",", ":"))
        self._source = SourceWriter(prefix)

    def encode(self, message: LogicalMessage, *, key_id: int, value_id: int) -> EncodedEvent:
        prefix = binary.optional_string(message.prefix)
        value = b"".join(
            (
                header(value_id),
                binary.string("m"),
                binary.optional_long(message.captured_us // 1000),
                self._source.write(
                    message.transaction,
                    _NO_TABLE,
                    message.lsn,
                    SnapshotMark.NO,
                    message.ordinal,
                    message.message_ordinal,
                ),
                prefix,
                binary.PRESENT + binary.data(message.content),
                binary.optional_long(message.captured_us),
            )
        )
        return EncodedEvent(header(key_id) + prefix, value, ())


def decode_message(value: bytes, schema: Callable[[int], str]) -> LogicalMessage:
    """A record of the message topic; `schema` gives the text of an id. ProtocolViolationError for anything else."""
    schema_id, offset = unframe(value)
    record = _reader(schema(schema_id)).read(value, offset)
    try:
        return _read(record)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ProtocolViolationError("not a logical message's record") from error


@lru_cache(maxsize=16)
def _reader(schema: str) -> AvroReader:
    return AvroReader(schema)


def _read(record: Mapping[str, Any]) -> LogicalMessage:
    source, block, message = record["source"], record["transaction"], record["message"]
    captured_us = record.get("ts_us")
    return LogicalMessage(
        transaction=SourceReader().transaction(source),
        prefix=(message["prefix"] or b"").decode(),
        content=message["content"] or b"",
        ordinal=0 if block is None else block["total_order"],
        lsn=source["lsn"] or 0,
        captured_us=(record["ts_ms"] or 0) * 1000 if captured_us is None else captured_us,
        message_ordinal=1 if block is None else block["data_collection_order"],
    )
