"""A log that throws away, and a registry that numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cdc.core.log import Record, TopicSpec
from cdc.core.registry import SchemaRegistry


class NullWriter:
    """Everything is durable at once, and gone."""

    def __init__(self) -> None:
        self._ticket = 0

    def create_topics(self, topics: Iterable[TopicSpec]) -> None:
        """There are none."""

    def append(self, records: Sequence[Record]) -> int:
        self._ticket += 1
        return self._ticket

    def poll(self, timeout: float) -> int:
        return self._ticket

    def close(self) -> None:
        """Nothing is open."""


class NullRegistry:
    """Numbers of its own for what it is given; what another registry has, it has too."""

    def __init__(self, other: SchemaRegistry) -> None:
        self._other = other
        self._ids: dict[str, int] = {}

    def register(self, subject: str, schema: str) -> int:
        return self._ids.setdefault(schema, len(self._ids) + 1)

    def schema(self, schema_id: int) -> str:
        return self._other.schema(schema_id)

    def close(self) -> None:
        """Nothing is open."""
