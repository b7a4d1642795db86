"""What source tables are called in a target that has no schemas, or keeps to one."""

from __future__ import annotations

from cdc.core.tables import TableId


def flat_name(table: TableId) -> str:
    """`name` for the schema public, else `schema.name`."""
    return table.name if table.schema == "public" else f"{table.schema}.{table.name}"
