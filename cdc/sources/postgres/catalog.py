"""What the source's catalog says, asked through any function that runs SQL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from cdc.core.tables import ReplicaIdentity, TableId
from cdc.sources.postgres.descriptions import TableDescription, describe_sql
from cdc.sources.postgres.quoting import quote_literal


class Query(Protocol):
    """Runs one SELECT and returns its rows as Python values."""

    def __call__(self, sql: str, *, doing: str) -> list[tuple[Any, ...]]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceTable:
    """A table that may be captured."""

    oid: int
    id: TableId
    identity: ReplicaIdentity
    has_key: bool
    partitioned: bool
    owned: bool
    estimated_rows: int


def capturable_tables(query: Query, *, via_root: bool) -> list[SourceTable]:
    """Every permanent table, without the system's. A partitioned one stands for its partitions if changes are published
    `via_root`; else they stand for themselves.
    """
    kinds = "c.relkind IN ('r', 'p') AND NOT c.relispartition" if via_root else "c.relkind = 'r'"
    rows = query(
        f"""
        SELECT c.oid, n.nspname, c.relname, c.relreplident::text,
               EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary AND i.indimmediate),
               c.relkind = 'p', pg_has_role(c.relowner, 'USAGE'), greatest(c.reltuples, 0)::bigint
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE {kinds} AND c.relpersistence = 'p'
          AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\\_toast%'
        ORDER BY n.nspname, c.relname
        """,
        doing="listing the source's tables",
    )
    return [
        SourceTable(
            oid=oid,
            id=TableId(schema, name),
            identity=ReplicaIdentity(identity),
            has_key=has_key,
            partitioned=partitioned,
            owned=owned,
            estimated_rows=rows_,
        )
        for oid, schema, name, identity, has_key, partitioned, owned, rows_ in rows
    ]


def storage(query: Query, tables: Sequence[SourceTable]) -> set[tuple[int, int | None]]:
    """The file that each table, or each of its partitions, is stored in: another one after it was rewritten or
    truncated.
    """
    oids = ", ".join(str(table.oid) for table in tables)
    rows = query(
        "SELECT part::oid::bigint, pg_relation_filenode(part)::bigint"
        f" FROM unnest(ARRAY[{oids}]::oid[]) AS tables(root),"
        " LATERAL (SELECT root::regclass AS part UNION SELECT relid FROM pg_partition_tree(root)) AS parts",
        doing="looking at the source's tables",
    )
    return {(part, file) for part, file in rows}


class Catalog:
    """What a table is today."""

    def __init__(self, query: Query, publication: str, *, generated: bool) -> None:
        self._query = query
        self._publication = publication
        self._generated = generated

    def describe(self, oid: int) -> TableDescription | None:
        """The table as it is now; None if it is gone."""
        rows = self._query(
            describe_sql(str(oid), quote_literal(self._publication)), doing="reading the source's columns"
        )
        return TableDescription.from_json(rows[0][0], generated=self._generated) if rows else None
