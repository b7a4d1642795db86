"""A registry inside the log: a compacted topic of schemas, as Confluent's `_schemas` is one.

It checks no compatibility (mode NONE): what refuses a schema is a registry that others share.
"""

from __future__ import annotations

import json
from typing import Final

from typing_extensions import override

from cdc.core.errors import ProtocolViolationError, RegistryError, UnknownSchemaError
from cdc.core.log import Log, LogReader, LogWriter, Record, StoredRecord
from cdc.core.registry import SchemaRegistry
from cdc.log.reading import read_to_end

_POLL_SECONDS: Final = 0.1


class EmbeddedRegistry(SchemaRegistry):
    """Schemas in `topic` of `log`; registering needs the log's `writer`, which may be shared with others."""

    def __init__(self, log: Log, writer: LogWriter | None, topic: str) -> None:
        self._log = log
        self._writer = writer
        self._topic = topic
        self._reader: LogReader | None = None
        self._schemas: dict[int, str] = {}
        self._ids: dict[str, int] = {}
        self._versions: dict[str, list[int]] = {}

    @override
    def register(self, subject: str, schema: str) -> int:
        if self._writer is None:
            raise RegistryError("the embedded registry is open for reading only")
        if not self._schemas:
            self._read()
        known = self._ids.get(schema)
        if known is not None and known in self._versions.get(subject, ()):
            return known
        schema_id = known or len(self._schemas) + 1
        version = len(self._versions.get(subject, ())) + 1
        key = json.dumps({"keytype": "SCHEMA", "subject": subject, "version": version})
        value = json.dumps({"subject": subject, "version": version, "id": schema_id, "schema": schema})
        ticket = self._writer.append([Record(self._topic, 0, key.encode(), value.encode())])
        while self._writer.poll(_POLL_SECONDS) < ticket:
            pass
        self._keep(subject, schema_id, schema)
        return schema_id

    @override
    def schema(self, schema_id: int) -> str:
        if schema_id not in self._schemas:
            self._read()
        try:
            return self._schemas[schema_id]
        except KeyError:
            raise UnknownSchemaError(
                f"no schema has id {schema_id} in topic {self._topic!r}",
                mend="check [registry] url: the events were written with another registry",
            ) from None

    @override
    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _read(self) -> None:
        """Read the whole topic: schemas are few."""
        if self._reader is None:
            self._reader = self._log.reader(f"{self._topic}-reader")
        if self._topic not in self._reader.topics():
            return
        for record in read_to_end(self._reader, self._topic):
            self._learn(record)

    def _learn(self, record: StoredRecord) -> None:
        if record.value is None:
            return
        try:
            value = json.loads(record.value)
            self._keep(value["subject"], int(value["id"]), value["schema"])
        except (ValueError, KeyError, TypeError) as error:
            raise ProtocolViolationError(
                f"topic {record.topic!r}, offset {record.offset}: damaged schema record ({type(error).__name__})"
            ) from None

    def _keep(self, subject: str, schema_id: int, schema: str) -> None:
        self._schemas[schema_id] = schema
        self._ids[schema] = schema_id
        versions = self._versions.setdefault(subject, [])
        if schema_id not in versions:
            versions.append(schema_id)
