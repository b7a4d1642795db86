"""Definitions first: the same steps, in an order for databases in which what defines a table commits by itself.

Rows that were written before their table was altered are written after it instead, in the shape that it got. Rows of a
table that is dropped later are not written at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from cdc.core.errors import TargetSchemaError
from cdc.core.events import UNCHANGED, Row, Value
from cdc.core.tables import TableSchema
from consumers.plan.alterations import same_columns
from consumers.plan.steps import (
    AlterTable,
    CopyRows,
    DropTable,
    MoveRow,
    RowStep,
    Step,
    TableStep,
    TruncateTable,
    WriteRows,
)


class Definition(NamedTuple):
    """`emptied`: all rows that the table has now go before this step, in the source's order. They may not fit what it
    becomes. `written`: rows that were written before it in the source's order follow it.
    """

    step: TableStep
    emptied: bool
    written: bool


@dataclass(slots=True)
class Ordered:
    """First all `definitions`, then all `rows`."""

    definitions: list[Definition] = field(default_factory=list)
    rows: list[RowStep] = field(default_factory=list)


def definitions_first(steps: Iterable[Step]) -> Ordered:
    """TargetSchemaError for rows that were written under another key than their table then gets."""
    ordered = Ordered()
    for step in steps:
        match step:
            case AlterTable(_, before):
                old = step.table.id if before is None else before.id
                emptied = any(isinstance(each, TruncateTable) and each.table.id == old for each in ordered.rows)
                written = any(each.table.id == old for each in ordered.rows)
                ordered.definitions.append(Definition(step, emptied, written))
                ordered.rows = [_forward(each, step) if each.table.id == old else each for each in ordered.rows]
            case DropTable(table):
                ordered.definitions.append(Definition(step, emptied=True, written=False))
                ordered.rows = [each for each in ordered.rows if each.table.id != table.id]
            case _:
                ordered.rows.append(step)
    return ordered


def _forward(step: RowStep, altered: AlterTable) -> RowStep:
    """The step on what the table became."""
    before, after = step.table, altered.table
    if isinstance(step, TruncateTable):
        return TruncateTable(after)
    sources = _sources(before, after)
    if [sources[index] for index in after.key] != list(before.key):
        raise TargetSchemaError(
            f"table {after.id}: rows were written, and then ALTER TABLE made other columns its key, in one transaction"
            " of the source; at a target whose ALTER TABLE commits by itself this can't be followed",
            mend='set consistency = "key" for this target',
        )
    fills = [
        None if source is not None else altered.fills.get(column.name)
        for source, column in zip(sources, after.columns, strict=True)
    ]

    def whole(rows: Sequence[Row]) -> list[Row]:
        return [_projected(row, sources, fills) for row in rows]

    if isinstance(step, CopyRows):
        step = step.written()
    unchanged: list[Value] = [UNCHANGED] * len(fills)
    if isinstance(step, MoveRow):
        return MoveRow(after, step.old_key, _projected(step.row, sources, unchanged))
    return WriteRows(
        after,
        upserts=whole(step.upserts),
        deletes=step.deletes,
        partials=[_projected(row, sources, unchanged) for row in step.partials],
        added=whole(step.added),
        removed=whole(step.removed),
    )


def _sources(before: TableSchema, after: TableSchema) -> list[int | None]:
    """For each column of `after`, the index that it had; None for one that is new."""
    indexes = {column: index for index, column in enumerate(before.columns)}
    had = {new: indexes[old] for old, new in same_columns(before, after)}
    return [had.get(column) for column in after.columns]


def _projected(row: Row, sources: Sequence[int | None], others: Sequence[Value]) -> Row:
    return tuple([other if source is None else row[source] for source, other in zip(sources, others, strict=True)])
