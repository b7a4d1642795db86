"""The steps of a plan: what a target has to do, in order, inside one of its transactions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cdc.core.events import Key, Row
from cdc.core.tables import TableSchema


@dataclass(slots=True)
class WriteRows:
    """Bring rows of one table to a new state. Within a step the order of its kinds is deletes, upserts, partials.

    For a table with a key, each key stands in one of the three at most:
    `upserts` are whole rows (no UNCHANGED); `deletes` are keys, and a row that is not there is fine; `partials` are
    rows in which some values are UNCHANGED (never a key column's): the row must be there, or the target has a gap.
    For a table without a key: `added` and `removed` whole rows, each standing for one copy of such a row; what is
    removed must be there.
    """

    table: TableSchema
    upserts: list[Row] = field(default_factory=list)
    deletes: list[Key] = field(default_factory=list)
    partials: list[Row] = field(default_factory=list)
    added: list[Row] = field(default_factory=list)
    removed: list[Row] = field(default_factory=list)


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
    which are there get in a new column, where that is not NULL.
    """

    table: TableSchema
    before: TableSchema | None
    fills: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DropTable:
    """Remove the table."""

    table: TableSchema


RowStep = WriteRows | TruncateTable | MoveRow
TableStep = AlterTable | DropTable
Step = RowStep | TableStep
