"""Columns that a target holds as text, because its own type has no place for some of their values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from cdc.core.patterns import ColumnPatterns
from cdc.core.tables import TableSchema
from cdc.core.types import ColumnType, Kind

_TEXT: Final = ColumnType(kind=Kind.STRING, name="text")


class AsText:
    """`patterns` are globs over `schema.table.column`."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._patterns = ColumnPatterns(patterns)

    def seen(self, table: TableSchema) -> TableSchema:
        """The table as the target is to see it: a value's canonical text is a text in every dialect."""
        columns = tuple(
            replace(column, type=_TEXT) if self._patterns.matches(table.id, column.name) else column
            for column in table.columns
        )
        return table if columns == table.columns else replace(table, columns=columns)
