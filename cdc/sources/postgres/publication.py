"""The publication: which tables the source decodes for us."""

from __future__ import annotations

from collections.abc import Sequence

from cdc.core.errors import SourceError
from cdc.core.tables import TableId
from cdc.sources.postgres.catalog import Query, SourceTable, quote_identifier, quote_literal, quote_table


def ensure_publication(query: Query, name: str, tables: Sequence[SourceTable]) -> None:
    """Create the publication for exactly these tables, or check that the one that is there has them all.

    Changes of a partitioned table are published as the partitioned table's own. SourceError with the statement that
    mends it, if tables are missing or if the publication leaves out a kind of change.
    """
    rows = query(
        "SELECT pubinsert, pubupdate, pubdelete, pubtruncate, pubviaroot FROM pg_publication"
        f" WHERE pubname = {quote_literal(name)}",
        doing="looking at the publication",
    )
    if not rows:
        _create(query, name, tables)
        return
    quoted = quote_identifier(name)
    if not all(rows[0]):
        raise SourceError(
            f"publication {name!r} leaves out changes that the targets need",
            mend=f"ALTER PUBLICATION {quoted} SET (publish = 'insert, update, delete, truncate',"
            " publish_via_partition_root = true)",
        )
    missing = {table.id for table in tables} - published_tables(query, name)
    if missing:
        listed = ", ".join(quote_table(table) for table in sorted(missing))
        raise SourceError(
            f"publication {name!r} lacks {len(missing)} configured table(s): {', '.join(map(str, sorted(missing)))}",
            mend=f"ALTER PUBLICATION {quoted} ADD TABLE {listed}; then `cdc capture --start-over` loads them all again",
        )


def published_tables(query: Query, name: str) -> set[TableId]:
    rows = query(
        f"SELECT schemaname, tablename FROM pg_publication_tables WHERE pubname = {quote_literal(name)}",
        doing="looking at the publication",
    )
    return {TableId(schema, table) for schema, table in rows}


def _create(query: Query, name: str, tables: Sequence[SourceTable]) -> None:
    foreign = [table.id for table in tables if not table.owned]
    if foreign:
        raise SourceError(
            f"publication {name!r} is missing, and only the owner of {', '.join(map(str, foreign))} may publish it",
            mend=f"as owner or superuser: {creation_statement(name, [table.id for table in tables])}",
        )
    query(creation_statement(name, [table.id for table in tables]), doing=f"creating publication {name!r}")


def creation_statement(name: str, tables: Sequence[TableId]) -> str:
    listed = ", ".join(quote_table(table) for table in tables)
    return f"CREATE PUBLICATION {quote_identifier(name)} FOR TABLE {listed} WITH (publish_via_partition_root = true)"
