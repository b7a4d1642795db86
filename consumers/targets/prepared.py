"""What was found out about target tables, for as long as it holds: the same for every dialect."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from typing import Generic, Protocol, TypeVar

from cdc.core.tables import TableId, TableSchema

Prepared = TypeVar("Prepared")


class Transactional(Protocol):
    """Has transactions: they commit at the end, and roll back on any error."""

    def transaction(self, *, doing: str) -> AbstractContextManager[None]: ...


class PreparedVersions(ABC, Generic[Prepared]):
    """The table versions that were made ready in this session."""

    def __init__(self, session: Transactional) -> None:
        self._transactional = session
        self._prepared: dict[TableSchema, Prepared] = {}
        self._uncommitted: list[TableSchema] = []

    def prepare(self, version: TableSchema) -> Prepared:
        """In a transaction of its own, unless it was done before. TargetSchemaError if the table can't take it."""
        prepared = self._prepared.get(version)
        if prepared is None:
            with self._transactional.transaction(doing=f"preparing table {version.id}"):
                self._fence()
                prepared = self._made_ready(version)
            self._prepared[version] = prepared
        return prepared

    def prepare_within(self, version: TableSchema) -> Prepared:
        """As `prepare`, but as part of the caller's transaction; see `committed` and `rolled_back`."""
        prepared = self._prepared.get(version)
        if prepared is None:
            prepared = self._prepared[version] = self._made_ready(version)
            self._uncommitted.append(version)
        return prepared

    def forget(self, table: TableId) -> list[Prepared]:
        """The table is altered: what was found out about it no longer fits."""
        return [self._prepared.pop(version) for version in list(self._prepared) if version.id == table]

    def committed(self) -> None:
        self._uncommitted.clear()

    def rolled_back(self) -> None:
        """What the lost transaction made ready is gone, and what it forgot is back but not known any more."""
        for version in self._uncommitted:
            self._prepared.pop(version, None)
        self._uncommitted.clear()

    def _fence(self) -> None:
        """Comes first in each transaction of its own."""

    @abstractmethod
    def _made_ready(self, version: TableSchema) -> Prepared:
        """TargetSchemaError if the table can't take it."""
