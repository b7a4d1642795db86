"""The schema registry's port."""

from __future__ import annotations

from typing import Protocol


class SchemaRegistry(Protocol):
    """Keeps Avro schemas under subjects (`<topic>-key`, `<topic>-value`) and numbers them. Safe to retry.

    Both adapters (embedded in the log, Confluent's REST) pass `tests/contract/test_registry.py`.
    """

    def register(self, subject: str, schema: str) -> int:
        """Make `schema` (Avro JSON text) the subject's newest version, durably, and return its id: the same id for the
        same schema. SchemaRefusedError if the registry refuses it (409 or 422); RegistryError for anything else.
        """

    def schema(self, schema_id: int) -> str:
        """The Avro JSON text with that id. UnknownSchemaError if there is none."""

    def close(self) -> None: ...
