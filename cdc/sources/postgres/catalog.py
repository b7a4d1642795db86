"""What the source's catalog says, asked through any function that runs SQL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from cdc.core.tables import ReplicaIdentity, TableId
from cdc.pgoutput import messages as wire
from cdc.sources.postgres.descriptions import (
    ColumnDescription,
    TableDescription,
    describe_sql,
    types_from_json,
    types_sql,
)
from cdc.sources.postgres.quoting import quote_literal
from cdc.sources.postgres.types import PgType
from cdc.sources.postgres.versions import agrees


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

    def look_up(self, relation: wire.Relation) -> TableDescription:
        """The table that a Relation message names, which nobody has described: as it is today, if that is what the
        message says; else what the message says. Then columns have no numbers, and their types are today's.
        """
        today = self.describe(relation.oid)
        if today is not None and agrees(today, relation):
            return today
        names = self._type_names({(column.type_oid, column.type_modifier) for column in relation.columns})
        marked = relation.identity in {ReplicaIdentity.DEFAULT, ReplicaIdentity.INDEX}
        primary = set() if today is None else set(today.key)
        key = tuple(c.name for c in relation.columns if (c.is_identity if marked else c.name in primary))
        return TableDescription(
            oid=relation.oid,
            id=TableId(relation.schema, relation.name),
            identity=relation.identity,
            columns=tuple(
                ColumnDescription(
                    number=None,
                    name=column.name,
                    type_oid=column.type_oid,
                    type_modifier=column.type_modifier,
                    type_name=names[column.type_oid, column.type_modifier],
                    nullable=True,
                )
                for column in relation.columns
            ),
            key=key,
            types=self._types({column.type_oid for column in relation.columns}),
        )

    def _type_names(self, wanted: set[tuple[int, int]]) -> dict[tuple[int, int], str]:
        if not wanted:
            return {}
        values = ", ".join(f"({oid}::oid, {modifier})" for oid, modifier in sorted(wanted))
        rows = self._query(
            f"SELECT t, m, format_type(t, m) FROM (VALUES {values}) AS v(t, m)", doing="reading the source's types"
        )
        return {(oid, modifier): name for oid, modifier, name in rows}

    def _types(self, oids: set[int]) -> tuple[PgType, ...]:
        """These types and all that they are made of."""
        if not oids:
            return ()
        wanted = f"SELECT unnest(ARRAY[{', '.join(map(str, sorted(oids)))}]::oid[])"
        rows = self._query(f"SELECT ({types_sql(wanted)})::text", doing="reading the source's types")
        return types_from_json(rows[0][0])
