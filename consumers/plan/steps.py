"""The steps of a plan: what a target has to do, in order, inside one of its transactions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cdc.core.copy_text import rows_in
from cdc.core.events import Key, Row
from cdc.core.position import ORIGIN, Position
from cdc.core.tables import TableSchema


@dataclass(slots=True)
class WriteRows:
    """Bring rows of one table to a new state. Within a step the order of its kinds is deletes, upserts, partials.

    For a table with a key, each key stands in one of the three at most:
    `upserts` are whole rows (no UNCHANGED); `deletes` are keys, and a row that is not there is fine; `partials` are
    rows in which some values are UNCHANGED (never a key column's): the row must be there, or the target has a gap.
    `loaded` is a hint: all upserts are rows as a first load found them, which brings each once.
    For a table without a key: `added` and `removed` whole rows, each standing for one copy of such a row; what is
    removed must be there.
    """

    table: TableSchema
    upserts: list[Row] = field(default_factory=list)
    deletes: list[Key] = field(default_factory=list)
    partials: list[Row] = field(default_factory=list)
    loaded: bool = field(default=False, compare=False)
    added: list[Row] = field(default_factory=list)
    removed: list[Row] = field(default_factory=list)


@dataclass(slots=True)
class CopyRows:
    """Write whole rows of a table with a key, as `upserts` of WriteRows: `texts` are their lines in COPY's text format,
    `count` is how many. Each key stands in one of them at most.
    """

    table: TableSchema
    texts: list[bytes] = field(default_factory=list)
    count: int = 0

    def written(self) -> WriteRows:
        """The same, row by row."""
        width = len(self.table.columns)
        return WriteRows(self.table, upserts=[row for text in self.texts for row in rows_in(text, width)], loaded=True)


@dataclass(frozen=True, slots=True)
class TruncateTable:
    """Remove all rows."""

    table: TableSchema


@dataclass(frozen=True, slots=True)
class MoveRow:
    """Give the row at `old_key`, which must be there, the values of `row`; UNCHANGED ones stay as they are there."""

    table: TableSchema
    old_key: Key
    row: Row


@dataclass(frozen=True, slots=True)
class AlterTable:
    """Make the table `table`; `before` is what it was, None if it is new. `fills` has the canonical text that rows
    which are there get in a new column, where that is not NULL. `position` is that of the event which says so: a script
    that runs each night makes the same of the same tables again and again.
    """

    table: TableSchema
    before: TableSchema | None
    fills: Mapping[str, bytes] = field(default_factory=dict)
    position: Position = ORIGIN


@dataclass(frozen=True, slots=True)
class DropTable:
    """Remove the table. `position` as in AlterTable."""

    table: TableSchema
    position: Position = ORIGIN


RowStep = WriteRows | CopyRows | TruncateTable | MoveRow
TableStep = AlterTable | DropTable
Step = RowStep | TableStep
