"""Replacing tables by others of the same shape: PostgreSQL moves them between schemas, in one transaction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from typing_extensions import override

from cdc.core.errors import TargetError
from cdc.core.tables import TableId
from consumers.plan.checkpoint import Checkpoint
from consumers.targets.identifiers import quoted
from consumers.targets.postgresql.checkpoints import Checkpoints
from consumers.targets.postgresql.session import PostgresSession
from consumers.targets.replaceable import Replacement, Replacing

# Below deadlock_timeout: we give up before the server looks for a deadlock, which it could end by failing a reader.
_LOCK_WAIT: Final = "500ms"
_SWAPPING: Final = "replacing the tables"

_PRESENT: Final = """
SELECT n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND (n.nspname, c.relname) IN (SELECT * FROM unnest(%s::text[], %s::text[]))
"""
_FEATURES: Final = """
WITH t AS (
    SELECT c.oid, n.nspname, c.relname, c.relkind, c.relrowsecurity
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p') AND (n.nspname, c.relname) IN (SELECT * FROM unnest(%s::text[], %s::text[]))
)
SELECT t.nspname::text, t.relname::text,
    'column ' || quote_ident(a.attname) || ' ' || format_type(a.atttypid, a.atttypmod)
    || CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END
    || CASE WHEN a.attidentity <> '' THEN ' IDENTITY' WHEN a.attgenerated <> '' THEN ' GENERATED'
            WHEN a.atthasdef THEN ' DEFAULT' ELSE '' END
FROM t JOIN pg_attribute a ON a.attrelid = t.oid WHERE a.attnum > 0 AND NOT a.attisdropped
UNION ALL
SELECT t.nspname, t.relname, 'privileges on column ' || quote_ident(a.attname)
FROM t JOIN pg_attribute a ON a.attrelid = t.oid WHERE a.attacl IS NOT NULL AND NOT a.attisdropped
UNION ALL
SELECT t.nspname, t.relname, CASE c.contype WHEN 'f' THEN 'foreign key ' WHEN 'c' THEN 'check ' ELSE 'constraint ' END
    || quote_ident(c.conname)
FROM t JOIN pg_constraint c ON c.conrelid = t.oid WHERE c.contype NOT IN ('p', 'n', 't')
UNION ALL
SELECT t.nspname, t.relname, 'foreign key ' || quote_ident(c.conname) || ' of ' || quote_ident(o.relname)
FROM t JOIN pg_constraint c ON c.confrelid = t.oid JOIN pg_class o ON o.oid = c.conrelid
WHERE c.contype = 'f' AND c.conrelid <> t.oid
UNION ALL
SELECT t.nspname, t.relname, 'trigger ' || quote_ident(g.tgname)
FROM t JOIN pg_trigger g ON g.tgrelid = t.oid WHERE NOT g.tgisinternal
UNION ALL
SELECT t.nspname, t.relname, 'policy ' || quote_ident(p.polname) FROM t JOIN pg_policy p ON p.polrelid = t.oid
UNION ALL
SELECT DISTINCT t.nspname, t.relname, 'policy ' || quote_ident(p.polname) || ' of ' || p.polrelid::regclass::text
FROM t JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = t.oid
    AND d.classid = 'pg_policy'::regclass
JOIN pg_policy p ON p.oid = d.objid WHERE p.polrelid <> t.oid
UNION ALL
SELECT t.nspname, t.relname, 'row level security' FROM t WHERE relrowsecurity
UNION ALL
SELECT t.nspname, t.relname, 'partitions' FROM t WHERE relkind = 'p'
UNION ALL
SELECT t.nspname, t.relname, 'inheritance with ' || i.inhparent::regclass::text || ', ' || i.inhrelid::regclass::text
FROM t JOIN pg_inherits i ON t.oid IN (i.inhparent, i.inhrelid)
UNION ALL
SELECT t.nspname, t.relname, 'publication ' || quote_ident(p.pubname)
FROM t JOIN pg_publication_rel r ON r.prrelid = t.oid JOIN pg_publication p ON p.oid = r.prpubid
UNION ALL
SELECT t.nspname, t.relname, 'statistics ' || quote_ident(s.stxname)
FROM t JOIN pg_statistic_ext s ON s.stxrelid = t.oid
UNION ALL
SELECT DISTINCT t.nspname, t.relname, CASE WHEN w.relkind = 'm' THEN 'materialized view ' ELSE 'rule on ' END
    || w.oid::regclass::text
FROM t JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = t.oid
    AND d.classid = 'pg_rewrite'::regclass
JOIN pg_rewrite r ON r.oid = d.objid JOIN pg_class w ON w.oid = r.ev_class
WHERE w.relkind <> 'v' OR r.rulename <> '_RETURN' -- the query of a view is renewed, its other rules are not
UNION ALL
SELECT t.nspname, t.relname, 'function ' || d.objid::regprocedure::text
FROM t JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = t.oid
    AND d.classid = 'pg_proc'::regclass
"""

# Indexes that are no constraint's: those that people made.
_INDEXES: Final = """
SELECT i.relname::text, pg_get_indexdef(i.oid),
       format('CREATE %%sINDEX %%I ON %%I.%%I USING ', CASE WHEN x.indisunique THEN 'UNIQUE ' END, i.relname,
              n.nspname, c.relname)
FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_class c ON c.oid = x.indrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relname = %s AND NOT EXISTS (SELECT FROM pg_constraint o WHERE o.conindid = i.oid)
"""

# With an empty search_path their texts name every table with its schema.
_VIEWS: Final = """
SELECT DISTINCT format('%%I.%%I', n.nspname, v.relname), array_to_string(v.reloptions, ', '), pg_get_viewdef(v.oid)
FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid JOIN pg_class v ON v.oid = r.ev_class
JOIN pg_namespace n ON n.oid = v.relnamespace
JOIN pg_class t ON t.oid = d.refobjid JOIN pg_namespace tn ON tn.oid = t.relnamespace
WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass AND v.relkind = 'v'
  AND (tn.nspname, t.relname) IN (SELECT * FROM unnest(%s::text[], %s::text[]))
"""

_OWNER: Final = """
SELECT pg_get_userbyid(c.relowner)::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relname = %s
"""
_GRANTS: Final = """
SELECT g.privilege_type, CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(g.grantee)) END,
       g.is_grantable
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, aclexplode(c.relacl) g
WHERE n.nspname = %s AND c.relname = %s AND g.grantee <> c.relowner
"""
_COLUMN_GRANTS: Final = """
SELECT format('%%s (%%I)', g.privilege_type, a.attname),
       CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(g.grantee)) END, g.is_grantable
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND NOT a.attisdropped, aclexplode(a.attacl) g
WHERE n.nspname = %s AND c.relname = %s AND g.grantee <> c.relowner
"""


def name_of(table: TableId) -> str:
    return f"{quoted(table.schema)}.{quoted(table.name)}"


def tables_in(session: PostgresSession, area: str) -> list[TableId]:
    rows = session.query(
        "SELECT n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.relkind IN ('r', 'p') AND (n.nspname = %s OR starts_with(n.nspname::text, %s)) ORDER BY 1, 2",
        (area, f"{area}~"),
        doing="looking up tables",
    )
    return [TableId(*row) for row in rows]


def present_of(session: PostgresSession, tables: Iterable[TableId]) -> set[TableId]:
    """Those of the tables that are there."""
    return {TableId(*row) for row in session.query(_PRESENT, _as_arrays(tables), doing="looking up tables")}


def features(session: PostgresSession, tables: Iterable[TableId]) -> dict[TableId, frozenset[str]]:
    found: dict[TableId, set[str]] = {}
    rows = session.query(_FEATURES, _as_arrays(tables), doing="looking at the tables")
    for schema, name, feature in rows:
        found.setdefault(TableId(schema, name), set()).add(feature)
    return {table: frozenset(of) for table, of in found.items()}


def make_alike(session: PostgresSession, tables: Sequence[Replacement]) -> None:
    """The live tables' indexes, in transactions of their own, and statistics for the planner."""
    for live, new, _ in tables:
        if new is None:
            continue
        doing = f"making table {new} like {live}"
        with session.transaction(doing=doing):
            there = {name for name, _, _ in session.query(_INDEXES, tuple(new), doing=doing)}
            for name, text, head in session.query(_INDEXES, tuple(live), doing=doing):
                if name not in there:
                    unique = "UNIQUE " if head.startswith("CREATE UNIQUE ") else ""
                    made = f"CREATE {unique}INDEX {quoted(name)} ON {name_of(new)} USING "
                    session.execute(made + _after(head, text), doing=f"{doing}, index {name}")
            session.execute(f"ANALYZE {name_of(new)}", doing=doing)


def _after(head: str, text: str) -> str:
    if not text.startswith(head):
        raise TargetError(f"an index can't be taken along: {text}", mend="drop it, and make it again after the rebuild")
    return text.removeprefix(head)


def drop_tables(session: PostgresSession, area: str) -> int:
    """With their schemas, if nobody put anything else there."""
    tables = tables_in(session, area)
    doing = "dropping tables"
    if tables:
        session.execute(f"DROP TABLE {', '.join(map(name_of, tables))}", doing=doing)
    for schema in sorted({table.schema for table in tables}):
        drop_if_empty(session, schema)
    return len(tables)


def drop_if_empty(session: PostgresSession, schema: str) -> None:
    """Whatever is in a schema depends on it."""
    doing = f"dropping schema {schema}"
    empty = session.query(
        "SELECT 1 FROM pg_namespace n WHERE nspname = %s AND NOT EXISTS"
        " (SELECT FROM pg_depend WHERE refclassid = 'pg_namespace'::regclass AND refobjid = n.oid)",
        (schema,),
        doing=doing,
    )
    if empty:
        session.execute(f"DROP SCHEMA {quoted(schema)}", doing=doing)


class PostgresReplacing(Replacing):
    """Within the session's transaction."""

    def __init__(self, session: PostgresSession, *, applier: str, live: str, checkpoint: Checkpoint) -> None:
        self._session = session
        self._applier = applier
        self._live_name = live
        self.live = checkpoint

    @override
    def replace(self, tables: Sequence[Replacement]) -> None:
        session = self._session
        live_ones = present_of(session, (table.live for table in tables))
        gone = [table for table in tables if table.live in live_ones]
        session.execute("SET CONSTRAINTS ALL IMMEDIATE", doing=_SWAPPING)  # ALTER TABLE refuses what waits for more
        if gone:
            session.execute(f"SET LOCAL lock_timeout = '{_LOCK_WAIT}'", doing=_SWAPPING)
            names = ", ".join(sorted(name_of(table.live) for table in gone))
            session.execute(f"LOCK TABLE {names} IN ACCESS EXCLUSIVE MODE", doing="waiting for readers of the tables")
            session.execute("SET LOCAL lock_timeout = 0", doing=_SWAPPING)
        views = self._views(table.live for table in gone)
        for live, new, _ in gone:
            if new is not None:
                self._grant_alike(live, new)
        for live, _, old in gone:
            self._move(live, old.schema)
        for live, new, _ in tables:
            if new is not None:
                self._move(new, live.schema)
        for name, options, text in views:
            with_options = f" WITH ({options})" if options else ""
            session.execute(f"CREATE OR REPLACE VIEW {name}{with_options} AS {text}", doing=f"renewing view {name}")
        for schema in sorted({table.new.schema for table in tables if table.new is not None}):
            drop_if_empty(session, schema)
        Checkpoints(session, self._applier).hand_over(self._live_name)

    def _views(self, tables: Iterable[TableId]) -> list[tuple[Any, ...]]:
        """Those that read the tables: they know them by number, and would go on with the old ones."""
        self._session.execute("SET LOCAL search_path = ''", doing=_SWAPPING)
        return self._session.query(_VIEWS, _as_arrays(tables), doing="looking up views")

    def _grant_alike(self, live: TableId, new: TableId) -> None:
        doing = f"granting on table {new} what is granted on {live}"
        # ALTER DEFAULT PRIVILEGES may have given the new one what was revoked on the live one. REVOKE takes from the
        # columns too, where people have granted what the live one's have.
        on_columns = self._session.query(_COLUMN_GRANTS, tuple(new), doing=doing)
        for grantee in sorted({grantee for _, grantee, _ in self._session.query(_GRANTS, tuple(new), doing=doing)}):
            self._session.execute(f"REVOKE ALL ON {name_of(new)} FROM {grantee} CASCADE", doing=doing)
        for privilege, grantee, grantable in [*self._session.query(_GRANTS, tuple(live), doing=doing), *on_columns]:
            option = " WITH GRANT OPTION" if grantable else ""
            self._session.execute(f"GRANT {privilege} ON {name_of(new)} TO {grantee}{option}", doing=doing)
        ((owner,),) = self._session.query(_OWNER, tuple(live), doing=doing)
        ((ours,),) = self._session.query(_OWNER, tuple(new), doing=doing)
        if owner != ours:
            self._session.execute(f"ALTER TABLE {name_of(new)} OWNER TO {quoted(owner)}", doing=doing)

    def _move(self, table: TableId, schema: str) -> None:
        doing = f"moving table {table}"
        if not self._session.query("SELECT 1 FROM pg_namespace WHERE nspname = %s", (schema,), doing=doing):
            self._session.execute(f"CREATE SCHEMA {quoted(schema)}", doing=doing)
        self._session.execute(f"ALTER TABLE {name_of(table)} SET SCHEMA {quoted(schema)}", doing=doing)


def _as_arrays(tables: Iterable[TableId]) -> tuple[list[str], list[str]]:
    tables = list(tables)
    return [table.schema for table in tables], [table.name for table in tables]
