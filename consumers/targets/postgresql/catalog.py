"""What a target database has: tables, columns, unique keys, types."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from cdc.core.errors import TargetError, TargetSchemaError
from cdc.core.tables import TableId
from consumers.targets.postgresql.session import PostgresSession
from consumers.targets.postgresql.types import DeclaredType, modifiers_in

_TABLE_KINDS: Final = {"r", "p"}  # ordinary and partitioned


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetColumn:
    """`type` is the column's own, or what its domain is over: values are staged in it (a domain may refuse NULL, which
    stands for what is not staged). `required`: a new row must bring a value for it. `folds`: its collation calls texts
    equal that are not.
    """

    name: str
    declared: DeclaredType
    type: str
    generated: bool
    not_null: bool
    required: bool
    folds: bool


class PrimaryKey(NamedTuple):
    constraint: str
    columns: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExistingTable:
    """`unique_keys` are sets of columns; each column with the operator by which its values are equal there.
    `folding_indexes` names, for such a set, a unique index by whose collation texts are equal that are not.
    `refers_to` are the tables of its foreign keys. `is_acted_on`: a foreign key of some table does something to that
    table's rows when one here is deleted. `partitioned`: its rows are in tables of their own. `hides_rows`: policies
    may pass rows over when we write.
    """

    columns: tuple[TargetColumn, ...]
    unique_keys: Mapping[frozenset[str], Mapping[str, str]]
    folding_indexes: Mapping[frozenset[str], str]
    primary_key: PrimaryKey | None
    refers_to: frozenset[TableId]
    is_acted_on: bool
    partitioned: bool
    hides_rows: bool


def find_table(session: PostgresSession, table: TableId) -> ExistingTable | None:
    """The table as it is now. TargetSchemaError if the name belongs to something else."""
    doing = f"looking up table {table}"
    found = session.query(
        "SELECT c.oid::bigint, c.relkind::text, row_security_active(c.oid),"
        " to_regclass('_timescaledb_catalog.hypertable') IS NOT NULL"
        " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %s AND c.relname = %s",
        tuple(table),
        doing=doing,
    )
    if not found:
        return None
    oid, kind, has_policies, has_hypertables = found[0]
    if kind not in _TABLE_KINDS:
        raise TargetSchemaError(f"target {table} is not a table", mend="rename or drop it at the target")
    unique_keys, folding_indexes = _unique_keys(session, oid, doing)
    return ExistingTable(
        columns=_columns(session, oid, doing),
        unique_keys=unique_keys,
        folding_indexes=folding_indexes,
        primary_key=_primary_key(session, oid, doing),
        refers_to=_refers_to(session, oid, doing),
        is_acted_on=_is_acted_on(session, oid, doing),
        partitioned=kind == "p" or (has_hypertables and _is_hypertable(session, table, doing)),
        hides_rows=has_policies and _hides_rows(session, oid, doing),
    )


def _is_hypertable(session: PostgresSession, table: TableId, doing: str) -> bool:
    """TimescaleDB's: an ordinary table to PostgreSQL, which other ones inherit, and all rows are in those."""
    sql = "SELECT 1 FROM _timescaledb_catalog.hypertable WHERE schema_name = %s AND table_name = %s"
    return bool(session.query(sql, tuple(table), doing=doing))


def _hides_rows(session: PostgresSession, oid: int, doing: str) -> bool:
    """Whether policies may keep rows from what we read, update or delete: these are passed over without a word. What
    policies do not let in (WITH CHECK) is an error.
    """
    rows = session.query(
        """
        WITH ours AS (
            SELECT polpermissive AS permissive, polcmd::text AS command, pg_get_expr(polqual, polrelid) AS lets_see
            FROM pg_policy
            WHERE polrelid = %s
              AND EXISTS (SELECT FROM unnest(polroles) AS role WHERE role = 0 OR pg_has_role(role, 'USAGE'))
        )
        SELECT EXISTS (SELECT FROM ours WHERE NOT permissive AND lets_see <> 'true')
            OR EXISTS (
                SELECT FROM unnest('{r,w,d}'::text[]) AS done -- SELECT, UPDATE, DELETE
                WHERE NOT EXISTS (
                    SELECT FROM ours WHERE permissive AND command IN ('*', done) AND lets_see = 'true'
                )
            )
        """,
        (oid,),
        doing=doing,
    )
    return rows == [(True,)]


def _columns(session: PostgresSession, oid: int, doing: str) -> tuple[TargetColumn, ...]:
    rows = session.query(
        """
        WITH RECURSIVE inside AS (
            SELECT a.attnum, 0 AS depth, a.atttypid AS type, a.atttypmod AS modifier
            FROM pg_attribute a WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped
            UNION ALL
            SELECT i.attnum, i.depth + 1, CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE e.oid END,
                   CASE t.typtype WHEN 'd' THEN t.typtypmod ELSE i.modifier END
            FROM inside i JOIN pg_type t ON t.oid = i.type LEFT JOIN pg_type e ON e.typarray = t.oid
            WHERE t.typtype = 'd' OR e.oid IS NOT NULL
        )
        SELECT a.attname::text, a.attgenerated <> '', a.attnotnull,
               a.attnotnull AND NOT a.atthasdef AND a.attidentity = '', coalesce(NOT l.collisdeterministic, false),
               json_agg(json_build_array(
                   format_type(i.type, i.modifier), format_type(i.type, NULL),
                   t.typnamespace = 'pg_catalog'::regnamespace, t.typtype = 'c',
                   EXISTS (SELECT FROM pg_type e WHERE e.typarray = t.oid)
               ) ORDER BY i.depth) FILTER (WHERE t.typtype <> 'd')
        FROM pg_attribute a JOIN inside i ON i.attnum = a.attnum JOIN pg_type t ON t.oid = i.type
        LEFT JOIN pg_collation l ON l.oid = a.attcollation
        WHERE a.attrelid = %s
        GROUP BY a.attnum, a.attname, a.attgenerated, a.attnotnull, a.atthasdef, a.attidentity, l.collisdeterministic
        ORDER BY a.attnum
        """,
        (oid, oid),
        doing=doing,
    )
    return tuple(
        TargetColumn(
            name=name,
            generated=generated,
            not_null=not_null,
            required=required,
            folds=folds,
            type=types[0][0],
            declared=_declared(types),
        )
        for name, generated, not_null, required, folds, types in rows
    )


def _primary_key(session: PostgresSession, oid: int, doing: str) -> PrimaryKey | None:
    rows = session.query(
        "SELECT c.conname::text, json_agg(a.attname)"
        " FROM pg_constraint c JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = ANY (c.conkey)"
        " WHERE c.conrelid = %s AND c.contype = 'p' GROUP BY c.conname",
        (oid,),
        doing=doing,
    )
    return PrimaryKey(rows[0][0], frozenset(rows[0][1])) if rows else None


def _refers_to(session: PostgresSession, oid: int, doing: str) -> frozenset[TableId]:
    rows = session.query(
        "SELECT DISTINCT n.nspname::text, c.relname::text FROM pg_constraint f JOIN pg_class c ON c.oid = f.confrelid"
        " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE f.conrelid = %s AND f.contype = 'f'",
        (oid,),
        doing=doing,
    )
    return frozenset(TableId(*row) for row in rows)


def _is_acted_on(session: PostgresSession, oid: int, doing: str) -> bool:
    rows = session.query(
        "SELECT 1 FROM pg_constraint WHERE confrelid = %s AND contype = 'f' AND confdeltype NOT IN ('a', 'r') LIMIT 1",
        (oid,),
        doing=doing,
    )
    return bool(rows)


def _declared(types: list[tuple[str, str, bool, bool, bool]]) -> DeclaredType:
    """Of a type and, if it is an array, what it is made of."""
    (whole, base, built_in, composite, is_array), *inner = types
    if is_array:
        return DeclaredType(base=base, built_in=built_in, element=_declared(inner))
    modifiers = modifiers_in(whole) if built_in else ""
    return DeclaredType(base=base, modifiers=modifiers, built_in=built_in, composite=composite)


def _unique_keys(
    session: PostgresSession, oid: int, doing: str
) -> tuple[dict[frozenset[str], dict[str, str]], dict[frozenset[str], str]]:
    """The sets of columns that ON CONFLICT can name: unique, not deferrable, on columns, for all rows; and of their
    indexes those whose collation folds: ON CONFLICT goes by all that are on its columns.

    Operators come with their schema: an extension's own need not be on the search path.
    """
    rows = session.query(
        """
        SELECT json_object_agg(a.attname, format('OPERATOR(%%I.%%s)', n.nspname, o.oprname)),
               CASE WHEN bool_or(NOT l.collisdeterministic) THEN i.indexrelid::regclass::text END
        FROM pg_index i
        JOIN LATERAL unnest(i.indkey::smallint[], i.indclass::oid[], i.indcollation::oid[])
            WITH ORDINALITY AS k (attnum, class, sorting, nth)
            ON k.nth <= i.indnkeyatts
        JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
        JOIN pg_opclass c ON c.oid = k.class
        JOIN pg_amop m ON m.amopfamily = c.opcfamily AND m.amopstrategy = 3 -- equal, in a B-tree
            AND m.amoplefttype = c.opcintype AND m.amoprighttype = c.opcintype
        JOIN pg_operator o ON o.oid = m.amopopr JOIN pg_namespace n ON n.oid = o.oprnamespace
        LEFT JOIN pg_collation l ON l.oid = k.sorting
        WHERE i.indrelid = %s AND i.indisunique AND i.indimmediate AND i.indisvalid
          AND i.indpred IS NULL AND i.indexprs IS NULL
        GROUP BY i.indexrelid
        """,
        (oid,),
        doing=doing,
    )
    keys = {frozenset(operators): operators for operators, _ in rows}
    return keys, {frozenset(operators): index for operators, index in rows if index is not None}


def resolve_types(session: PostgresSession, names: Iterable[str]) -> dict[str, str]:
    """What this server calls those of the types that it knows, without modifiers. `to_regtype` takes nothing but a
    whole type name, so what it knows is safe to stand in a statement.
    """
    wanted = sorted(names)
    resolved = _resolved(session, wanted)
    if resolved is None:
        # PostgreSQL before 16 fails on what does not even look like a type (`int unsigned`).
        resolved = {}
        for name in wanted:
            resolved |= _resolved(session, [name]) or {}
    return resolved


def _resolved(session: PostgresSession, names: list[str]) -> dict[str, str] | None:
    """Of those that are known; None if one is no name of a type."""
    doing = "looking up types"
    session.execute("SAVEPOINT looking_up", doing=doing)
    try:
        rows = session.query(
            "SELECT name, format_type(to_regtype(name), NULL) FROM unnest(%s) AS names (name)"
            " WHERE to_regtype(name) IS NOT NULL",
            (names,),
            doing=doing,
        )
    except TargetError:
        session.execute("ROLLBACK TO SAVEPOINT looking_up", doing=doing)
        return None
    session.execute("RELEASE SAVEPOINT looking_up", doing=doing)
    return dict(rows)
