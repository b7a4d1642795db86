"""A registry inside the log: a compacted topic of schemas, whose records look like those of Confluent's `_schemas`.

It checks no compatibility (mode NONE): what refuses a schema is a registry that others share.
"""

from __future__ import annotations

import json
import time
from typing import Final

from typing_extensions import override

from cdc.core.errors import PassingError, ProtocolViolationError, RegistryError, UnknownSchemaError
from cdc.core.log import Log, LogReader, LogWriter, Record, StoredRecord, TopicSpec
from cdc.core.registry import SchemaRegistry
from cdc.log.reading import read_to_end

_POLL_SECONDS: Final = 0.1
_PATIENCE_SECONDS: Final = 30.0


class EmbeddedRegistry(SchemaRegistry):
    """Schemas in `topic` of `log`. Registering needs the log's `writer`, which may be shared with others: polling it
    here loses nothing, because `poll` always tells the highest durable ticket.
    """

    def __init__(self, log: Log, writer: LogWriter | None, topic: str) -> None:
        self._log = log
        self._writer = writer
        self._topic = topic
        self._reader: LogReader | None = None
        self._schemas: dict[int, str] = {}
        self._ids: dict[str, int] = {}
        self._subjects: dict[str, list[int]] = {}
        self._next_offset = 0

    @override
    def register(self, subject: str, schema: str) -> int:
        known = self._registered(subject, schema)
        if known is None:
            self._read()
            known = self._registered(subject, schema)
        return self._store(subject, schema) if known is None else known

    @override
    def schema(self, schema_id: int) -> str:
        if schema_id not in self._schemas:
            self._read()
        try:
            return self._schemas[schema_id]
        except KeyError:
            raise UnknownSchemaError(
                f"no schema has id {schema_id} in topic {self._topic}",
                mend="check [registry] url: the events were written with another registry",
            ) from None

    @override
    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _registered(self, subject: str, schema: str) -> int | None:
        schema_id = self._ids.get(schema)
        return schema_id if schema_id in self._subjects.get(subject, ()) else None

    def _store(self, subject: str, schema: str) -> int:
        if self._writer is None:
            raise RegistryError(f"schemas of topic {self._topic} are open for reading only here")
        schema_id = self._ids.get(schema) or max(self._schemas, default=0) + 1
        version = len(self._subjects.get(subject, ())) + 1
        key = {"keytype": "SCHEMA", "subject": subject, "version": version, "magic": 1}
        value = {"subject": subject, "version": version, "id": schema_id, "schema": schema, "deleted": False}
        self._write(self._writer, Record(self._topic, 0, json.dumps(key).encode(), json.dumps(value).encode()))
        self._keep(subject, schema_id, schema)
        return schema_id

    def _write(self, writer: LogWriter, record: Record) -> None:
        if self._topic not in self._opened().topics():
            writer.create_topics([TopicSpec(self._topic, compacted=True, single=True)])
        ticket = writer.append([record])
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while writer.poll(_POLL_SECONDS) < ticket:
            if time.monotonic() > deadline:
                raise PassingError(f"the log does not take a schema for topic {self._topic}")

    def _read(self) -> None:
        """Read what has come since the last time."""
        reader = self._opened()
        if self._topic in reader.topics():
            for record in read_to_end(reader, self._topic, self._next_offset):
                self._learn(record)
                self._next_offset = record.offset + 1

    def _opened(self) -> LogReader:
        if self._reader is None:
            self._reader = self._log.reader(self._topic)
        return self._reader

    def _learn(self, record: StoredRecord) -> None:
        if record.value is None:
            return
        try:
            value = json.loads(record.value)
            self._keep(value["subject"], int(value["id"]), value["schema"])
        except (ValueError, KeyError, TypeError) as error:
            raise ProtocolViolationError(
                f"topic {record.topic}, offset {record.offset}: damaged schema record ({type(error).__name__})",
                mend="check [log] prefix: the topic of schemas must be written by cdc only",
            ) from None

    def _keep(self, subject: str, schema_id: int, schema: str) -> None:
        self._schemas[schema_id] = schema
        self._ids.setdefault(schema, schema_id)
        ids = self._subjects.setdefault(subject, [])
        if schema_id not in ids:
            ids.append(schema_id)
