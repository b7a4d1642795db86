"""What a table is at one moment, as the source's catalog says it: in JSON, so that the source itself can write it into
the stream at the very point where it changed (`cdc.sources.postgres.ddl`), and so that the log can keep it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Self

from cdc.core.errors import ProtocolViolationError
from cdc.core.tables import Column, ReplicaIdentity, TableId, TableSchema
from cdc.sources.postgres.types import TYPE_COLUMNS, PgType, column_type

_STORED: Final = "s"  # pg_attribute.attgenerated


def describe_sql(oid: str, publication: str) -> str:
    """A SELECT of one JSON text: the table whose oid the SQL expression `oid` gives; no row if there is none.

    A column's fill is the value of the rows that are older than it (`attmissingval`, an array of one): ADD COLUMN …
    DEFAULT writes none of them; a NOT NULL that is NOT VALID (PostgreSQL 18) leaves NULLs in them. `prattrs` is not
    named as a column, because PostgreSQL 14 has none. https://www.postgresql.org/docs/current/catalog-pg-attribute.html
    """
    return f"""
    SELECT json_build_object(
        'oid', c.oid::bigint, 'schema', n.nspname, 'name', c.relname, 'identity', c.relreplident::text,
        'columns', (
            SELECT coalesce(json_agg(json_build_array(
                a.attnum, a.attname, a.atttypid::bigint, a.atttypmod, format_type(a.atttypid, a.atttypmod),
                a.attnotnull AND NOT EXISTS (
                    SELECT FROM pg_constraint k
                    WHERE k.conrelid = c.oid AND k.contype = 'n' AND NOT k.convalidated AND k.conkey = ARRAY[a.attnum]),
                a.attgenerated::text,
                CASE
                    WHEN a.atthasmissing THEN {_unwrapped("a")}
                    WHEN c.relkind = 'p' THEN (
                        SELECT {_unwrapped("l")}
                        FROM pg_partition_tree(c.oid) t JOIN pg_attribute l ON l.attrelid = t.relid
                        WHERE t.isleaf AND l.attname = a.attname AND l.atthasmissing LIMIT 1)
                END) ORDER BY a.attnum), '[]')
            FROM pg_attribute a
            WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        ),
        'primary_key', (
            SELECT (i.indkey::int2[])[0:i.indnkeyatts - 1] FROM pg_index i
            WHERE i.indrelid = c.oid AND i.indisprimary AND i.indimmediate
        ),
        'identity_key', (
            SELECT (i.indkey::int2[])[0:i.indnkeyatts - 1] FROM pg_index i
            WHERE i.indrelid = c.oid AND i.indisreplident
        ),
        'published', (
            SELECT to_jsonb(r) -> 'prattrs' FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
            WHERE r.prrelid = c.oid AND p.pubname = {publication}
        ),
        -- The view knows when a filter does not count; it looks at all tables, so only where there is one.
        'filter', (
            SELECT (SELECT to_jsonb(t) ->> 'rowfilter' FROM pg_publication_tables t
                    WHERE t.pubname = {publication} AND t.schemaname = n.nspname AND t.tablename = c.relname)
            FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
            WHERE r.prrelid = c.oid AND p.pubname = {publication} AND to_jsonb(r) ->> 'prqual' IS NOT NULL
        ),
        'parts', (
            SELECT coalesce(json_agg(t.relid::oid::bigint), '[]') FROM pg_partition_tree(c.oid) t
            WHERE c.relkind = 'p' AND t.isleaf
        ),
        'types', (
            {
        types_sql(
            "SELECT a.atttypid FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped"
        )
    }
        ))::text
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = {oid}
    """


def _unwrapped(attribute: str) -> str:
    """The text of the one element of `attmissingval`, whose type SQL does not know (anyarray): so it can't be picked
    out. The array's own text can't be read as text[]: between elements of some types (box) stands no comma.
    """
    return f"array_to_string({attribute}.attmissingval, '')"


def types_sql(oids: str) -> str:
    """A SELECT of one JSON array: the types whose oids the SELECT `oids` gives, and all that they are made of.

    OFFSET 0 has each type looked up by its oid: the planner expects hundreds of them, and would read all of pg_type,
    which has two for each table.
    """
    return f"""
            WITH RECURSIVE made_of(oid) AS (
                {oids}
              UNION
                SELECT part FROM made_of, LATERAL (SELECT * FROM pg_type WHERE oid = made_of.oid OFFSET 0) AS t,
                LATERAL (VALUES (t.typelem), (t.typbasetype)) AS parts(part) WHERE part <> 0
            )
            SELECT coalesce(json_agg(json_build_array({TYPE_COLUMNS})), '[]')
            FROM made_of, LATERAL (SELECT * FROM pg_type WHERE oid = made_of.oid OFFSET 0) AS t
            JOIN pg_namespace n ON n.oid = t.typnamespace"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnDescription:
    """`number` is pg_attribute's attnum, a column's identity for as long as it lives; None if nothing told it.

    `fill` is the canonical text of the value in rows that are older than the column; None is NULL.
    """

    number: int | None
    name: str
    type_oid: int
    type_modifier: int
    type_name: str
    nullable: bool
    generated: str = ""
    fill: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TableDescription:
    """`key` holds the names of the key's columns, in its order. `parts` are the oids of its partitions, `hidden` the
    numbers of the columns that are not published. `filter` is a condition in SQL: rows that do not meet it are not.
    """

    oid: int
    id: TableId
    identity: ReplicaIdentity
    columns: tuple[ColumnDescription, ...]
    key: tuple[str, ...]
    parts: frozenset[int] = frozenset()
    hidden: frozenset[int] = frozenset()
    types: tuple[PgType, ...] = ()
    filter: str | None = None

    @classmethod
    def from_json(cls, text: str, *, generated: bool) -> Self:
        """Of what `describe_sql` gave. `generated` is whether the publication publishes stored generated columns.

        Only published columns are in it. ProtocolViolationError if it is not such a text.
        """
        try:
            said = json.loads(text)
            published = said["published"]
            columns = tuple(
                ColumnDescription(
                    number=number,
                    name=name,
                    type_oid=oid,
                    type_modifier=modifier,
                    type_name=type_name,
                    nullable=not not_null,
                    generated=kind,
                    fill=fill,
                )
                for number, name, oid, modifier, type_name, not_null, kind, fill in said["columns"]
                if _is_published(number, kind, published, generated=generated)
            )
            identity = ReplicaIdentity(said["identity"])
            key = said["identity_key"] if identity is ReplicaIdentity.INDEX else said["primary_key"]
            names = {column.number: column.name for column in columns}
            return cls(
                oid=said["oid"],
                id=TableId(said["schema"], said["name"]),
                identity=identity,
                columns=columns,
                key=tuple(sorted((names[number] for number in key or () if number in names), key=_order(columns))),
                parts=frozenset(said["parts"]),
                hidden=frozenset(each[0] for each in said["columns"]) - names.keys(),
                types=tuple(PgType.of_row(each) for each in said["types"]),
                filter=said.get("filter"),  # which triggers that an older version made do not tell
            )
        except (ValueError, KeyError, TypeError) as error:
            raise ProtocolViolationError(f"a table's description is damaged ({error})") from None

    def to_json(self) -> dict[str, Any]:
        """What `restored` reads: the log keeps it."""
        return {
            "oid": self.oid,
            "table": list(self.id),
            "identity": self.identity.value,
            "columns": [[getattr(column, name) for name in _COLUMN_FIELDS] for column in self.columns],
            "key": list(self.key),
            "parts": sorted(self.parts),
            "hidden": sorted(self.hidden),
            "types": [[getattr(each, name) for name in _TYPE_FIELDS] for each in self.types],
            "filter": self.filter,
        }

    @classmethod
    def restored(cls, said: Mapping[str, Any]) -> Self:
        try:
            return cls(
                oid=said["oid"],
                id=TableId(*said["table"]),
                identity=ReplicaIdentity(said["identity"]),
                columns=tuple(
                    ColumnDescription(**dict(zip(_COLUMN_FIELDS, each, strict=True))) for each in said["columns"]
                ),
                key=tuple(said["key"]),
                parts=frozenset(said["parts"]),
                hidden=frozenset(said["hidden"]),
                types=tuple(PgType.of_row(each) for each in said["types"]),
                filter=said.get("filter"),  # not in what an older version wrote
            )
        except (ValueError, KeyError, TypeError) as error:
            raise ProtocolViolationError(f"a table's description is damaged ({error})") from None

    def schema(self) -> TableSchema:
        types = {each.oid: each for each in self.types}
        names = [column.name for column in self.columns]
        return TableSchema(
            id=self.id,
            columns=tuple(
                Column(
                    name=column.name,
                    type=column_type(types, column.type_oid, column.type_modifier, name=column.type_name),
                    nullable=column.nullable and column.name not in self.key,
                    id=column.number,
                )
                for column in self.columns
            ),
            key=tuple(names.index(name) for name in self.key),
            identity=self.identity,
        )

    def fills(self) -> dict[str, bytes]:
        return {column.name: column.fill.encode() for column in self.columns if column.fill is not None}

    def at(self, table: TableId) -> Self:
        return replace(self, id=table)


_COLUMN_FIELDS: Final = tuple(ColumnDescription.__dataclass_fields__)
_TYPE_FIELDS: Final = tuple(PgType.__dataclass_fields__)


def _is_published(number: int, kind: str, published: Sequence[int] | None, *, generated: bool) -> bool:
    if published is not None:
        return number in published
    return kind == "" or (generated and kind == _STORED)


def _order(columns: Sequence[ColumnDescription]) -> Any:
    places = {column.name: place for place, column in enumerate(columns)}
    return places.__getitem__
