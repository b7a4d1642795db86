"""An order of a plan's steps that foreign keys accept, as far as there is one. Pure.

Within a target transaction the order between tables is free. Rows go before rows come, children before the parents
that they refer to; then rows come, parents before their children; rows of a parent go last, because children may move
away from them first. Where the tables refer to each other in a circle, or a constraint wants it otherwise, the target
refuses the plan, and it is run again in the source's order: this here only makes that rare.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet

from cdc.core.tables import TableId
from cdc.core.types import has_one_text
from consumers.plan.steps import AlterTable, CopyRows, DropTable, RowStep, Step, TruncateTable, WriteRows

References = Mapping[TableId, AbstractSet[TableId]]
"""By table, those that its foreign keys refer to."""


def in_order(steps: Sequence[Step], references: References) -> list[Step]:
    """The steps, reordered between tables. What becomes of a table itself keeps its place."""
    if not references:
        return list(steps)
    ordered: list[Step] = []
    rows: list[RowStep] = []
    for step in steps:
        if isinstance(step, AlterTable | DropTable):
            ordered += [*_rows_in_order(rows, references), step]
            rows = []
        else:
            rows.append(step)
    return [*ordered, *_rows_in_order(rows, references)]


def _rows_in_order(steps: list[RowStep], references: References) -> list[RowStep]:
    tables = dict.fromkeys(step.table.id for step in steps)
    inside = {table: references.get(table, frozenset()) & tables.keys() - {table} for table in tables}
    if not any(inside.values()):
        return steps
    referred = frozenset(parent for parents in inside.values() for parent in parents)
    by_table = {table: [step for step in steps if step.table.id == table] for table in tables}
    first: dict[TableId, list[RowStep]] = {}
    last: dict[TableId, list[RowStep]] = {}
    between: dict[TableId, list[RowStep]] = {}
    for table, own in by_table.items():
        first[table], between[table], last[table] = _parted(own, is_parent=table in referred)
    down = _parents_first(inside)
    up = down[::-1]
    return [
        *(step for table in up for step in first[table]),
        *(step for table in down for step in between[table]),
        *(step for table in up for step in last[table]),
    ]


def _parted(steps: list[RowStep], *, is_parent: bool) -> tuple[list[RowStep], list[RowStep], list[RowStep]]:
    """What of a table's steps makes rows go, what makes them come, and what makes a parent's go."""
    first: list[RowStep] = []
    if isinstance(steps[0], TruncateTable):
        first, steps = steps[:1], steps[1:]
    copies, step = steps[:-1], steps[-1] if steps else None
    if not isinstance(step, WriteRows) or not (step.deletes or step.removed):
        return first, steps, []
    if not all(isinstance(each, CopyRows) for each in copies) or (copies and not is_parent):
        return first, steps, []
    # What comes must not take the place of what goes: '1.0' is written over 1, and then 1 is deleted.
    if is_parent and not all(has_one_text(column.type) for column in step.table.key_columns):
        return first, steps, []
    going = WriteRows(step.table, deletes=step.deletes, removed=step.removed)
    coming = WriteRows(step.table, upserts=step.upserts, partials=step.partials, added=step.added, loaded=step.loaded)
    comes = [coming] if coming.upserts or coming.partials or coming.added else []
    return ([*first], [*copies, *comes], [going]) if is_parent else ([*first, going], [*comes], [])


def _parents_first(inside: Mapping[TableId, Iterable[TableId]]) -> list[TableId]:
    """Depth first; where they go round in a circle, it is broken anywhere."""
    found: dict[TableId, None] = {}
    begun: set[TableId] = set()
    for root in inside:
        path = [(root, iter(inside[root]))] if root not in begun else []
        begun.add(root)
        while path:
            table, parents = path[-1]
            parent = next((each for each in parents if each not in begun), None)
            if parent is None:
                found[table] = None
                path.pop()
            else:
                begun.add(parent)
                path.append((parent, iter(inside[parent])))
    return list(found)
