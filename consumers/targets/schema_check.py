"""Whether a table that is there can take the events of a source table: the same for every dialect."""

from __future__ import annotations

from collections.abc import Iterable

from cdc.avro.names import topic_name
from cdc.core.errors import TargetSchemaError
from cdc.core.tables import TableId, TableSchema
from consumers.plan.letters import INDEX

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
        mend="give it the source's columns (ALTER TABLE … ADD COLUMN, DROP COLUMN or DROP NOT NULL), or have it made"
        f" anew: {refill(table)}",
    )


def refill(table: TableId) -> str:
    """What makes the applier create and fill a table again, from what the log holds of it."""
    topic = topic_name("", table).replace("_", "!_")
    return f"stop the applier, drop the table, and DELETE FROM cdc_checkpoint WHERE topic LIKE '%{topic}' ESCAPE '!'"


def refuse_own_table(version: TableSchema, name: str) -> None:
    table = version.id
    if name in OWN_TABLES and version != INDEX:
        raise TargetSchemaError(
            f"source table {table} has the name of one of our own tables at the target",
            mend="exclude it in the target's tables",
        )
