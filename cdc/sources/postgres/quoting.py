"""SQL identifiers and constants of the source, quoted."""

from __future__ import annotations

from cdc.core.tables import TableId


def quote_identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def quote_literal(text: str) -> str:
    """A string constant that means the same under every setting of standard_conforming_strings."""
    escaped = text.replace("\\", "\\\\").replace("'", "''")
    return f"E'{escaped}'" if "\\" in text else f"'{escaped}'"


def quote_table(table: TableId) -> str:
    return f"{quote_identifier(table.schema)}.{quote_identifier(table.name)}"
