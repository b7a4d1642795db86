"""What the source's catalog says, asked through any function that runs SQL."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from cdc.core.tables import Column, ReplicaIdentity, TableId, TableSchema
from cdc.sources.postgres.types import PgType, column_type

# Without the columns that the index only includes.
_KEY_OF_INDEX: Final = "(i.indkey::smallint[])[0 : i.indnkeyatts - 1]"


class Query(Protocol):
    """Runs one SELECT and returns its rows as Python values."""

    def __call__(self, sql: str, *, doing: str) -> list[tuple[Any, ...]]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceColumn:
    """A column as pgoutput's Relation message or pg_attribute tells it."""

    name: str
    type_oid: int
    type_modifier: int
    is_identity: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceTable:
    """A table that may be captured."""

    oid: int
    id: TableId
    identity: ReplicaIdentity
    has_key: bool
    owned: bool
    estimated_rows: int


def quote_identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def quote_literal(text: str) -> str:
    """A string constant that means the same under every setting of standard_conforming_strings."""
    escaped = text.replace("\\", "\\\\").replace("'", "''")
    return f"E'{escaped}'" if "\\" in text else f"'{escaped}'"


def quote_table(table: TableId) -> str:
    return f"{quote_identifier(table.schema)}.{quote_identifier(table.name)}"


def capturable_tables(query: Query) -> list[SourceTable]:
    """Every permanent table that is not a partition (a partitioned one stands for its leaves), without the system's."""
    rows = query(
        """
        SELECT c.oid, n.nspname, c.relname, c.relreplident::text,
               EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary AND i.indimmediate),
               pg_has_role(c.relowner, 'USAGE'), greatest(c.reltuples, 0)::bigint
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND NOT c.relispartition
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
            owned=owned,
            estimated_rows=rows_,
        )
        for oid, schema, name, identity, has_key, owned, rows_ in rows
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
    """Builds table versions. Types are asked for once and kept: an oid never changes what it means."""

    def __init__(self, query: Query) -> None:
        self._query = query
        self._types: dict[int, PgType] = {}
        self._type_names: dict[tuple[int, int], str] = {}

    def table_schema(
        self, oid: int, table: TableId, identity: ReplicaIdentity, columns: Sequence[SourceColumn]
    ) -> TableSchema:
        """The version of `table` that has these columns.

        The key: under replica identity DEFAULT and INDEX the columns that the source marks; under FULL and NOTHING
        (where it marks all, or none) the primary key. Columns of the key are not nullable, of any other the stream does
        not tell, so they are.
        """
        self._learn({(column.type_oid, column.type_modifier) for column in columns})
        if identity in {ReplicaIdentity.DEFAULT, ReplicaIdentity.INDEX}:
            key_names = {column.name for column in columns if column.is_identity}
        else:
            key_names = self.primary_key(oid)
        return TableSchema(
            id=table,
            columns=tuple(
                Column(
                    name=column.name,
                    type=column_type(
                        self._types,
                        column.type_oid,
                        column.type_modifier,
                        name=self._type_names[column.type_oid, column.type_modifier],
                    ),
                    nullable=column.name not in key_names,
                )
                for column in columns
            ),
            key=tuple(index for index, column in enumerate(columns) if column.name in key_names),
            identity=identity,
        )

    def columns(self, oid: int) -> list[SourceColumn]:
        """The columns that pgoutput publishes of a table, in its order: neither dropped nor generated."""
        rows = self._query(
            f"""
            SELECT a.attname, a.atttypid, a.atttypmod, coalesce(a.attnum = ANY ({_KEY_OF_INDEX}), false)
            FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
            LEFT JOIN pg_index i ON i.indrelid = c.oid AND i.indimmediate AND CASE c.relreplident
                WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident ELSE false END
            WHERE a.attrelid = {oid} AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
            ORDER BY a.attnum
            """,
            doing="reading the source's columns",
        )
        return [
            SourceColumn(name=name, type_oid=type_oid, type_modifier=modifier, is_identity=key)
            for name, type_oid, modifier, key in rows
        ]

    def primary_key(self, oid: int) -> set[str]:
        """The names of the columns of the primary key; empty if there is none or if it is deferrable."""
        rows = self._query(
            f"""
            SELECT a.attname FROM pg_index i
            JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY ({_KEY_OF_INDEX})
            WHERE i.indrelid = {oid} AND i.indisprimary AND i.indimmediate
            """,
            doing="reading the source's primary keys",
        )
        return {name for (name,) in rows}

    def _learn(self, wanted: Iterable[tuple[int, int]]) -> None:
        unknown = sorted(set(wanted) - self._type_names.keys())
        if not unknown:
            return
        values = ", ".join(f"({oid}::oid, {modifier})" for oid, modifier in unknown)
        names = self._query(
            f"SELECT t, m, format_type(t, m) FROM (VALUES {values}) AS v(t, m)", doing="reading the source's types"
        )
        for oid, modifier, name in names:
            self._type_names[oid, modifier] = name
        self._learn_types({oid for oid, _ in unknown})

    def _learn_types(self, oids: set[int]) -> None:
        """Ask for these types and all that they are made of."""
        rows = self._query(
            f"""
            WITH RECURSIVE made_of(oid) AS (
                SELECT unnest(ARRAY[{", ".join(map(str, sorted(oids)))}]::oid[])
              UNION
                SELECT part FROM made_of JOIN pg_type t ON t.oid = made_of.oid,
                LATERAL (VALUES (t.typelem), (t.typbasetype)) AS parts(part) WHERE part <> 0
            )
            SELECT t.oid, n.nspname, t.typname, t.typtype::text, t.typelem,
                   t.typelem <> 0 AND t.typsubscript = 'array_subscript_handler'::regproc
                       AND t.typname NOT IN ('int2vector', 'oidvector'), t.typbasetype, t.typtypmod
            FROM made_of JOIN pg_type t ON t.oid = made_of.oid JOIN pg_namespace n ON n.oid = t.typnamespace
            """,
            doing="reading the source's types",
        )
        for oid, schema, name, category, element, is_array, base, base_modifier in rows:
            self._types[oid] = PgType(
                oid=oid,
                schema=schema,
                name=name,
                category=category,
                element=element,
                is_array=is_array,
                base=base,
                base_modifier=base_modifier,
            )
