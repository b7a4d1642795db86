"""Event triggers at the source that write every change of a table's shape into the stream, where it happens.

pgoutput says only names and types of a table's columns, and only with its next row; today's catalog may already be
ahead of the stream. So the source itself says, in the transaction of the DDL, what the table has become: by a
transactional logical message with prefix `cdc.ddl`, in JSON:

| message | means |
|---|---|
| `{"table": {…}, "tag": "ALTER TABLE", "reread": false}` | the table is this now; with `reread`, rows changed unseen |
| `{"rewritten": oid}` | the rows of this table (or of its root) are being changed without events |
| `{"dropped": oid}` | the table, or a partition, is gone |
| `{"failed": "…"}` | the trigger itself failed; the DDL did not |

A new table that matches `[source] tables` is added to the publication in the transaction that creates it, so that none
of its rows is missed. Event triggers need a superuser; `docs/schema-changes.md` says what is lost without them.
https://www.postgresql.org/docs/current/event-trigger-definition.html
"""

from __future__ import annotations

from typing import Final

from cdc.core.errors import SourceError
from cdc.core.patterns import TablePatterns
from cdc.sources.postgres.catalog import Query
from cdc.sources.postgres.descriptions import describe_sql
from cdc.sources.postgres.quoting import quote_identifier, quote_literal

PREFIX: Final = "cdc.ddl"
# Logical decoding sorts the parts of a transaction that had savepoints by LSN, and gives a message the LSN of its end,
# which is where the next record begins: a row written right after a message can come before it. Something of no meaning
# after each message keeps them apart. (This function's own EXCEPTION is such a savepoint.)
PAD: Final = "cdc.pad"
_SCHEMA: Final = "cdc"
# AT_REWRITE_ALTER_PERSISTENCE (what was written while it was unlogged is not in the WAL), AT_REWRITE_DEFAULT_VAL,
# AT_REWRITE_COLUMN_REWRITE (event_trigger.h).
_REWRITES_VALUES: Final = 1 | 2 | 4
# In UTF-8, as JSON is, whatever the database's encoding: pgoutput converts texts, but not what a message holds.
_EMIT: Final = (
    f"PERFORM pg_logical_emit_message(true, '{PREFIX}', convert_to(said::text, 'UTF8'));"
    f" PERFORM pg_logical_emit_message(true, '{PAD}', '');"
)
_LONGEST_NAME: Final = 63 - len("_rewrite")
_EVENTS: Final = {"end": "ddl_command_end", "drop": "sql_drop", "rewrite": "table_rewrite"}
_SETTINGS: Final = (
    "SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET DateStyle = 'ISO' SET TimeZone = 'UTC'"
    " SET IntervalStyle = 'iso_8601' SET bytea_output = 'hex' SET extra_float_digits = 1 SET lc_monetary = 'C'"
    " SET array_nulls = 'on' SET quote_all_identifiers = 'off'"
)


def triggers_present(query: Query, publication: str) -> bool:
    """Whether all of them are there and fire."""
    names = ", ".join(quote_literal(_name(publication, event)) for event in _EVENTS)
    rows = query(
        f"SELECT count(*) FROM pg_event_trigger WHERE evtname IN ({names}) AND evtenabled = 'A'",
        doing="looking at the event triggers",
    )
    return bool(rows[0][0] == len(_EVENTS))


def may_make_triggers(query: Query) -> bool:
    rows = query("SELECT rolsuper FROM pg_roles WHERE rolname = current_user", doing="looking at the role's rights")
    return bool(rows[0][0])


def ensure_triggers(query: Query, publication: str, patterns: TablePatterns) -> bool:
    """Make them, or bring them up to date. False if this role may not and they are not there."""
    if not may_make_triggers(query):
        return triggers_present(query, publication)
    source = function_body(publication, patterns)
    there = query(
        "SELECT p.prosrc FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace"
        " JOIN pg_roles r ON r.oid = p.proowner JOIN pg_roles s ON s.oid = n.nspowner"
        f" WHERE n.nspname = '{_SCHEMA}' AND p.proname = {quote_literal(_function(publication))}"
        " AND p.prosecdef AND r.rolsuper AND s.rolsuper",
        doing="looking at the event triggers",
    )
    if there != [(source,)] or not triggers_present(query, publication):
        query(creation_script(publication, patterns), doing="making the event triggers")
    return triggers_present(query, publication)


def drop_triggers(query: Query, publication: str) -> bool:
    """Drop what `ensure_triggers` made. Whether there was something."""
    rows = query(
        "SELECT FROM pg_event_trigger WHERE evtname IN"
        f" ({', '.join(quote_literal(_name(publication, event)) for event in _EVENTS)})",
        doing="looking at the event triggers",
    )
    function = f"{_SCHEMA}.{quote_identifier(_function(publication))}"
    if rows and not may_make_triggers(query):
        statements = [f"DROP EVENT TRIGGER {quote_identifier(_name(publication, event))}" for event in _EVENTS]
        raise SourceError(
            "only a superuser may drop the event triggers; all else is gone",
            mend=f"as superuser: {'; '.join(statements)}; DROP FUNCTION {function}()",
        )
    for event in _EVENTS if rows else ():
        query(
            f"DROP EVENT TRIGGER IF EXISTS {quote_identifier(_name(publication, event))}",
            doing="dropping the event triggers",
        )
    # Not to_regproc: it wants USAGE of the schema, which is a superuser's.
    if query(
        "SELECT FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace"
        f" WHERE n.nspname = '{_SCHEMA}' AND p.proname = {quote_literal(_function(publication))}",
        doing="looking at the event triggers",
    ):
        query(f"DROP FUNCTION {function}()", doing="dropping the event triggers")
        others = query(
            f"SELECT FROM pg_proc WHERE pronamespace = '{_SCHEMA}'::regnamespace", doing="looking at the event triggers"
        )
        if not others:
            query(f"DROP SCHEMA {_SCHEMA}", doing="dropping the event triggers")
    return bool(rows)


def creation_script(publication: str, patterns: TablePatterns) -> str:
    """What a superuser runs once, in the source's database."""
    function = f"{_SCHEMA}.{quote_identifier(_function(publication))}"
    body = _dollar_quoted(function_body(publication, patterns))
    names = [quote_identifier(_name(publication, event)) for event in _EVENTS]
    # What an ordinary user has made under these names must not become part of what superusers run.
    statements = [
        *(f"DROP EVENT TRIGGER IF EXISTS {name}" for name in names),
        f"CREATE SCHEMA IF NOT EXISTS {_SCHEMA}",
        f"ALTER SCHEMA {_SCHEMA} OWNER TO CURRENT_USER",
        f"DROP FUNCTION IF EXISTS {function}()",
        f"CREATE FUNCTION {function}() RETURNS event_trigger LANGUAGE plpgsql {_SETTINGS} AS {body}",
    ]
    for event, when in _EVENTS.items():
        name = quote_identifier(_name(publication, event))
        statements += [
            f"CREATE EVENT TRIGGER {name} ON {when} EXECUTE FUNCTION {function}()",
            f"ALTER EVENT TRIGGER {name} ENABLE ALWAYS",  # under session_replication_role = replica too
        ]
    return "BEGIN;\n" + ";\n".join(statements) + ";\nCOMMIT"


def function_body(publication: str, patterns: TablePatterns) -> str:
    """One function for all three events. Whatever fails in it must not fail the user's DDL: that is a warning, and a
    message that says so.
    """
    included, excluded = patterns.regexes("\x01")
    wanted = f"(n.nspname || E'\\x01' || c.relname) ~ {_regex(included)}"
    if excluded is not None:
        wanted += f" AND (n.nspname || E'\\x01' || c.relname) !~ {_regex(excluded)}"
    name = quote_literal(publication)
    return f"""
DECLARE
    publication CONSTANT text := {name};
    via_root CONSTANT boolean := coalesce((SELECT pubviaroot FROM pg_publication WHERE pubname = {name}), true);
    one record;
    described text;
    said json;
    added boolean;
BEGIN
    IF TG_EVENT = 'table_rewrite' THEN
        IF pg_event_trigger_table_rewrite_reason() & {_REWRITES_VALUES} <> 0 THEN
            said := json_build_object(
                'publication', publication,
                'rewritten', coalesce(
                    CASE WHEN via_root THEN pg_partition_root(pg_event_trigger_table_rewrite_oid()) END,
                    pg_event_trigger_table_rewrite_oid())::oid::bigint);
        {_EMIT}
        END IF;
        RETURN;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_publication WHERE pubname = publication) OR TG_TAG LIKE '% PUBLICATION' THEN
        RETURN;
    END IF;
    IF TG_EVENT = 'sql_drop' THEN
        FOR one IN
            SELECT DISTINCT objid FROM pg_event_trigger_dropped_objects()
            WHERE classid = 'pg_class'::regclass AND objsubid = 0 AND object_type = 'table' AND NOT is_temporary
        LOOP
            said := json_build_object(
                'publication', publication, 'dropped', one.objid::bigint);
        {_EMIT}
        END LOOP;
    END IF;
    FOR one IN
        WITH RECURSIVE commanded(oid) AS (
            SELECT objid FROM pg_event_trigger_ddl_commands()
            WHERE TG_EVENT = 'ddl_command_end' AND classid = 'pg_class'::regclass AND NOT in_extension
          UNION
            SELECT c.oid FROM pg_event_trigger_ddl_commands() d JOIN pg_class c ON c.relnamespace = d.objid
            WHERE TG_EVENT = 'ddl_command_end' AND d.classid = 'pg_namespace'::regclass
          UNION
            SELECT objid FROM pg_event_trigger_dropped_objects()
            WHERE TG_EVENT = 'sql_drop' AND classid = 'pg_class'::regclass AND objsubid <> 0
        ),
        -- What is done to a table is done to those that inherit from it, too, which nothing names.
        named(oid) AS (
            SELECT oid FROM commanded
          UNION
            SELECT i.inhrelid FROM named JOIN pg_inherits i ON i.inhparent = named.oid
            JOIN pg_class c ON c.oid = i.inhrelid AND NOT c.relispartition
        ),
        -- The tables that changes are published as.
        published(oid) AS (
            SELECT coalesce(pg_partition_root(oid)::oid, oid) FROM named WHERE via_root
          UNION
            SELECT oid FROM named WHERE NOT via_root
          UNION
            SELECT t.relid FROM named, pg_partition_tree(named.oid) t WHERE NOT via_root
        ),
        members AS MATERIALIZED (
            SELECT schemaname, tablename FROM pg_publication_tables WHERE pubname = publication
        ),
        -- DETACH PARTITION names the partitioned table only; the table that it leaves behind is published no more.
        detached(oid) AS (
            SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE TG_TAG = 'ALTER TABLE' AND EXISTS (SELECT FROM named JOIN pg_class USING (oid) WHERE relkind = 'p')
              AND c.relkind = 'r' AND NOT c.relispartition AND (n.nspname, c.relname) NOT IN (TABLE members)
        )
        SELECT c.oid, (n.nspname, c.relname) IN (TABLE members) AS member
        FROM (TABLE published UNION TABLE detached) AS tables
        JOIN pg_class c ON c.oid = tables.oid JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE (c.relkind = 'r' OR c.relkind = 'p' AND via_root) AND c.relpersistence = 'p'
          AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'
          AND ((n.nspname, c.relname) IN (TABLE members) OR ({wanted}))
        ORDER BY c.oid
    LOOP
        added := false;
        IF NOT one.member THEN
            EXECUTE format('ALTER PUBLICATION %I ADD TABLE ONLY %s', publication, one.oid::regclass);
            added := TG_TAG <> 'CREATE TABLE';
        END IF;
        {_into(describe_sql("one.oid", name))}
        said := json_build_object(
            'publication', publication, 'table', described::json, 'tag', TG_TAG, 'reread', added);
        {_EMIT}
    END LOOP;
EXCEPTION WHEN OTHERS THEN
    RAISE WARNING 'cdc could not follow this command: %', SQLERRM;
    said := json_build_object(
        'publication', publication, 'failed', SQLERRM);
        {_EMIT}
END
"""


def _into(select: str) -> str:
    """The SELECT of one text as plpgsql that puts it into `described`."""
    return f"described := ({select});"


def _regex(regex: str) -> str:
    return quote_literal(f"^(?:{regex})$")


def _dollar_quoted(text: str) -> str:
    tag = "$cdc$"
    while tag in text:
        tag = f"$x{tag[1:]}"
    return f"{tag}{text}{tag}"


def _function(publication: str) -> str:
    return _name(publication, "ddl")


def _name(publication: str, event: str) -> str:
    """At most 63 bytes, which is all that PostgreSQL keeps of a name; the event's own part whole."""
    return f"{publication.encode()[:_LONGEST_NAME].decode(errors='ignore')}_{event}"
