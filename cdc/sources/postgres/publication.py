"""The publication: which tables the source decodes for us."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cdc.core.errors import SourceError
from cdc.core.tables import TableId
from cdc.sources.postgres.catalog import Query, SourceTable
from cdc.sources.postgres.quoting import quote_identifier, quote_literal, quote_table

_GENERATED_SINCE: Final = 180000
_LOCK_SECONDS: Final = 1


def ensure_publication(query: Query, name: str, tables: Sequence[SourceTable]) -> list[SourceTable]:
    """Create the publication for exactly these tables, or find those that the one that is there lacks, for `publish`.

    Changes of partitions are published as their root's, unless a publication that is there says otherwise. SourceError
    with the statement that mends it, if this role may not do it, or if the publication leaves out a kind of change.
    """
    rows = query(
        "SELECT pubinsert, pubupdate, pubdelete, pubtruncate FROM pg_publication"
        f" WHERE pubname = {quote_literal(name)}",
        doing="looking at the publication",
    )
    if not rows:
        _create(query, name, tables)
        return []
    quoted = quote_identifier(name)
    if not all(rows[0]):
        raise SourceError(
            f"publication {name!r} leaves out changes that the targets need",
            mend=f"ALTER PUBLICATION {quoted} SET (publish = 'insert, update, delete, truncate')",
        )
    published = published_tables(query, name)
    missing = [table for table in tables if table.id not in published]
    if missing:
        _require_ownership(query, name, missing)
    return missing


def _require_ownership(query: Query, name: str, missing: Sequence[SourceTable]) -> None:
    rows = query(
        f"SELECT pg_has_role(pubowner, 'USAGE') FROM pg_publication WHERE pubname = {quote_literal(name)}",
        doing="looking at the publication",
    )
    if rows and rows[0][0] and all(table.owned for table in missing):
        return
    named = ", ".join(str(table.id) for table in missing)
    quoted = ", ".join(quote_table(table.id) for table in missing)
    raise SourceError(
        f"publication {name!r} lacks {len(missing)} configured table(s): {named}",
        mend=f"as their owner: ALTER PUBLICATION {quote_identifier(name)} ADD TABLE"
        f" {quoted}; then `cdc capture --start-over` loads them all again",
    )


def publish(query: Query, name: str, table: TableId) -> None:
    """Add a table to the publication; rows that it has already are not published by that.

    Once nobody is writing to it: what a transaction wrote before the table was published is not streamed, and a
    snapshot does not see it before the transaction ends. LockTimeoutError if somebody goes on writing: whoever comes to
    write waits behind us, so not for long. Tables that inherit from it are tables of their own.
    """
    only = f"ONLY {quote_table(table)}"
    query(
        f"BEGIN; SET LOCAL lock_timeout = '{_LOCK_SECONDS}s'; LOCK TABLE {only} IN SHARE MODE;"
        f" ALTER PUBLICATION {quote_identifier(name)} ADD TABLE {only}; COMMIT",
        doing=f"adding table {table} to publication {name!r}",
    )


def publishes_generated(query: Query, name: str) -> bool:
    """Whether it publishes stored generated columns (PostgreSQL 18); so it will if there is no publication yet."""
    if not _can_publish_generated(query):
        return False
    rows = query(
        f"SELECT pubgencols = 's' FROM pg_publication WHERE pubname = {quote_literal(name)}",
        doing="looking at the publication",
    )
    return not rows or bool(rows[0][0])


def publishes_via_root(query: Query, name: str) -> bool:
    """Whether changes of partitions are published as their root's; so they will be if there is no publication yet."""
    rows = query(
        f"SELECT pubviaroot FROM pg_publication WHERE pubname = {quote_literal(name)}",
        doing="looking at the publication",
    )
    return not rows or bool(rows[0][0])


def _can_publish_generated(query: Query) -> bool:
    rows = query("SELECT current_setting('server_version_num')::int", doing="looking at the publication")
    return bool(rows[0][0] >= _GENERATED_SINCE)


def published_tables(query: Query, name: str) -> set[TableId]:
    rows = query(
        f"SELECT schemaname, tablename FROM pg_publication_tables WHERE pubname = {quote_literal(name)}",
        doing="looking at the publication",
    )
    return {TableId(schema, table) for schema, table in rows}


def _create(query: Query, name: str, tables: Sequence[SourceTable]) -> None:
    statement = creation_statement(query, name, [table.id for table in tables])
    foreign = [table.id for table in tables if not table.owned]
    if foreign:
        raise SourceError(
            f"publication {name!r} is missing, and only the owner of {', '.join(map(str, foreign))} may publish it",
            mend=f"as owner or superuser: {statement}",
        )
    query(statement, doing=f"creating publication {name!r}")


def creation_statement(query: Query, name: str, tables: Sequence[TableId]) -> str:
    """With all that the source can publish: PostgreSQL 18 has stored generated columns too."""
    listed = ", ".join(f"ONLY {quote_table(table)}" for table in tables)
    generated = ", publish_generated_columns = stored" if _can_publish_generated(query) else ""
    return (
        f"CREATE PUBLICATION {quote_identifier(name)} FOR TABLE {listed}"
        f" WITH (publish_via_partition_root = true{generated})"
    )
