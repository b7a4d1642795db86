"""Relations that can't be captured, and why: for the user who names one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cdc.core.errors import ConfigError, SourceError
from cdc.core.patterns import TablePatterns
from cdc.core.settings import SourceSettings
from cdc.core.tables import TableId
from cdc.sources.postgres.catalog import Query, SourceTable
from cdc.sources.postgres.publication import publishes_via_root
from cdc.sources.postgres.quoting import quote_literal, quote_table


def require_capturable(
    query: Query, settings: SourceSettings, captured: Sequence[SourceTable], *, gone: Iterable[TableId] = ()
) -> None:
    """ConfigError if a pattern matches none of these tables, SourceError if changes of one of them can't be had.

    A pattern may also match a table that is `gone` by now: its last events may still be to come.
    """
    unmatched = TablePatterns(settings.tables).unmatched([*(table.id for table in captured), *gone])
    if unmatched:
        raise _no_table_matches(query, unmatched, via_root=publishes_via_root(query, settings.publication))
    _require_partitions_to_tell(query, captured)
    _require_whole_keys(query, settings.publication, captured)


def _no_table_matches(query: Query, patterns: Iterable[str], *, via_root: bool) -> ConfigError:
    """With what the patterns match instead."""
    reasons = []
    others = _others(query, via_root=via_root)
    for pattern in patterns:
        alone = TablePatterns([pattern])
        found = [f"{relation} is {why}" for relation, why in others if alone.matches(relation)]
        reasons.append(f"{pattern!r}{f' ({found[0]})' if found else ''}")
    return ConfigError(
        f"[source] tables: no table of the source that can be captured matches {', '.join(reasons)}",
        mend="correct the pattern, or create the table first",
    )


def _require_partitions_to_tell(query: Query, tables: Sequence[SourceTable]) -> None:
    """The first load would copy rows of partitions whose changes never reach the WAL, or don't say which row."""
    roots = ", ".join(str(table.oid) for table in tables if table.partitioned)
    if not roots:
        return
    rows = query(
        f"""
        SELECT rn.nspname, r.relname, n.nspname, c.relname, c.relkind::text, c.relpersistence::text
        FROM unnest(ARRAY[{roots}]::oid[]) AS tables(root) CROSS JOIN LATERAL pg_partition_tree(root) t
        JOIN pg_class r ON r.oid = root JOIN pg_namespace rn ON rn.oid = r.relnamespace
        JOIN pg_class c ON c.oid = t.relid JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE t.isleaf AND c.oid <> r.oid AND (c.relkind = 'f' OR c.relpersistence <> 'p'
           OR c.relreplident IN ('d', 'i') AND NOT {_key_of("r")} <@ {_key_of("c")})
        ORDER BY 1, 2, 3, 4
        """,
        doing="looking at the source's partitions",
    )
    for root_schema, root_name, schema, name, kind, persistence in rows:
        root, partition = TableId(root_schema, root_name), TableId(schema, name)
        quoted = quote_table(partition)
        if kind == "f":
            what = "is a foreign table: its changes are not in the source's WAL"
            mend = f"detach it, or leave {root} out of [source] tables"
        elif persistence != "p":
            what, mend = "is unlogged: its changes are not in the source's WAL", f"ALTER TABLE {quoted} SET LOGGED"
        else:
            what = "has another REPLICA IDENTITY: its updates and deletes would lack the root's key"
            mend = f"ALTER TABLE {quoted} REPLICA IDENTITY as {root} has it, or FULL"
        raise SourceError(f"partition {partition} of {root} {what}", mend=mend)


def _require_whole_keys(query: Query, publication: str, tables: Sequence[SourceTable]) -> None:
    """A part of a key does not tell rows apart: targets would keep one of those that have it in common."""
    rows = query(
        f"""
        SELECT n.nspname, c.relname, string_agg(quote_ident(k.name), ', ' ORDER BY a.attnum)
        FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid
        JOIN pg_class c ON c.oid = r.prrelid JOIN pg_namespace n ON n.oid = c.relnamespace
        CROSS JOIN LATERAL unnest({_key_of("c")}) AS k(name)
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname::text = k.name
        WHERE p.pubname = {quote_literal(publication)}
            AND c.oid = ANY (ARRAY[{", ".join(str(table.oid) for table in tables)}]::oid[])
            AND jsonb_typeof(to_jsonb(r) -> 'prattrs') = 'array' AND NOT to_jsonb(r) -> 'prattrs' @> to_jsonb(a.attnum)
        GROUP BY 1, 2 ORDER BY 1, 2
        """,
        doing="looking at the publication's column lists",
    )
    for schema, name, missing in rows:
        table = TableId(schema, name)
        raise SourceError(
            f"publication {publication!r} lists columns of {table}, but not {missing} of its key: nothing would tell"
            " its rows apart",
            mend=f"add {missing} to the list, or leave {table} out of [source] tables",
        )


def _key_of(table: str) -> str:
    """The names of the columns of the key of `table`, an alias of pg_class, as an array."""
    return f"""
        ARRAY(SELECT a.attname::text FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid
            AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])
            WHERE i.indrelid = {table}.oid AND CASE {table}.relreplident WHEN 'i' THEN i.indisreplident
                ELSE i.indisprimary AND i.indimmediate END)"""


def _others(query: Query, *, via_root: bool) -> list[tuple[TableId, str]]:
    rows = query(
        f"""
        SELECT n.nspname, c.relname,
            CASE WHEN c.relpersistence = 't' THEN 'temporary'
                WHEN c.relpersistence = 'u' THEN 'unlogged: its changes are not in the WAL'
                WHEN c.relkind = 'v' THEN 'a view'
                WHEN c.relkind = 'm' THEN 'a materialized view'
                WHEN c.relkind = 'f' THEN 'a foreign table'
                WHEN c.relkind = 'p' AND {not via_root} THEN
                    'partitioned, and the publication publishes its partitions as tables of their own'
                WHEN c.relispartition THEN
                    'a partition of ' || (SELECT rn.nspname || '.' || r.relname FROM pg_class r
                        JOIN pg_namespace rn ON rn.oid = r.relnamespace WHERE r.oid = pg_partition_root(c.oid))
                    || ', which the publication publishes it as'
            END
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname NOT IN ('pg_catalog', 'information_schema')
        ORDER BY n.nspname, c.relname
        """,
        doing="listing the source's relations",
    )
    return [(TableId(schema, name), why) for schema, name, why in rows if why is not None]
