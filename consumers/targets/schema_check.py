"""Whether a table that is there can take the events of a source table: the same for every dialect."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from cdc.core.errors import TargetSchemaError
from cdc.core.tables import TableId, TableSchema
from consumers.plan.letters import INDEX

# Not one table alone: the log's earlier events of it may go on from shapes, or names, that the target is beyond.
MADE_ANEW: Final = (
    "have the target's tables made anew from the log: cdc rebuild with the target's name (and --leave-behind, to give"
    " up what people made at them)"
)
MADE_ANEW_AS_TEXT: Final = (
    "have the target's tables made anew from the log, with the column's new type: cdc rebuild with the target's"
    " name and --leave-behind (a live column's type counts as made by people)"
)
OWN_TABLES = frozenset({"cdc_applier", "cdc_checkpoint", "cdc_table", "cdc_letter"})


def require_same_columns(
    table: TableId, wanted: Iterable[str], present: Iterable[str], optional: Iterable[str]
) -> None:
    """The target must have the `wanted` columns, in any order, and no others but `optional` ones: those that a new row
    need not bring.
    """
    wanted_set, present_set = set(wanted), set(present)
    missing = sorted(wanted_set - present_set)
    extra = sorted(present_set - wanted_set - set(optional))
    if not missing and not extra:
        return
    found = [f"lacks {', '.join(missing)}"] if missing else []
    found += [f"needs a value for {', '.join(extra)}, which the source has not"] if extra else []
    raise TargetSchemaError(
        f"target table {table} {', and '.join(found)}",
        mend=f"give it the source's columns (ALTER TABLE … ADD COLUMN, DROP COLUMN or DROP NOT NULL), or {MADE_ANEW}",
    )


def refuse_own_table(version: TableSchema, name: str) -> None:
    table = version.id
    if name in OWN_TABLES and version != INDEX:
        raise TargetSchemaError(
            f"source table {table} has the name of one of our own tables at the target",
            mend="exclude it in the target's tables",
        )
