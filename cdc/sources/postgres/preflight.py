"""What a PostgreSQL source must be able to do, looked at before anything is made there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cdc.core.checks import Check
from cdc.core.errors import CdcError, SourceError
from cdc.core.patterns import TablePatterns
from cdc.core.settings import SourceSettings
from cdc.core.tables import ReplicaIdentity, TableId
from cdc.sources.postgres.catalog import Query, SourceTable, capturable_tables
from cdc.sources.postgres.ddl import may_make_triggers, triggers_present
from cdc.sources.postgres.publication import creation_statement, publishes_via_root
from cdc.sources.postgres.quoting import quote_identifier, quote_literal, quote_table
from cdc.sources.postgres.uncapturable import require_capturable

_OLDEST = 140000  # the oldest major version that PostgreSQL still mended when this was written


def require(query: Query, settings: SourceSettings) -> None:
    """SourceError for the first check that is not ok."""
    for check in server_checks(query, settings):
        if not check.ok:
            raise SourceError(f"{check.name}: {check.found}", mend=check.mend)


def checks(query: Query, settings: SourceSettings) -> Iterator[Check]:
    """All checks: the server's, then the tables'."""
    yield from server_checks(query, settings)
    yield from _table_checks(query, settings)
    yield from _publication_check(query, settings)
    yield _triggers_check(query, settings)


def server_checks(query: Query, settings: SourceSettings) -> Iterator[Check]:
    """What has to be right before capture can start at all."""
    doing = "checking the source"
    version, wal_level, replication = query(
        "SELECT current_setting('server_version_num')::int, current_setting('wal_level'),"
        " rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user",
        doing=doing,
    )[0]
    yield Check(
        name="source version",
        ok=version >= _OLDEST,
        found=f"PostgreSQL {version // 10000}.{version % 10000}",
        mend=None if version >= _OLDEST else "upgrade the source to PostgreSQL 14 or newer",
    )
    yield Check(
        name="source wal_level",
        ok=wal_level == "logical",
        found=f"wal_level is {wal_level}",
        mend=None if wal_level == "logical" else "ALTER SYSTEM SET wal_level = logical; then restart PostgreSQL",
    )
    role = query("SELECT current_user", doing=doing)[0][0]
    yield Check(
        name="source role",
        ok=replication,
        found=f"role {role} {'may' if replication else 'may not'} replicate",
        mend=None if replication else f"ALTER ROLE {quote_identifier(role)} REPLICATION",
    )
    yield _slot_check(query, settings.slot)
    yield _walsender_check(query, settings.slot)


def _slot_check(query: Query, slot: str) -> Check:
    there, used, most = query(
        f"SELECT count(*) FILTER (WHERE slot_name = {quote_literal(slot)}), count(*),"
        " current_setting('max_replication_slots')::int FROM pg_replication_slots",
        doing="checking the source",
    )[0]
    ok = there > 0 or used < most
    return Check(
        name="source replication slots",
        ok=ok,
        found=f"slot {slot!r} exists" if there else f"{used} of {most} slots are used",
        mend=None
        if ok
        else f"ALTER SYSTEM SET max_replication_slots = {most + 5}; then restart PostgreSQL; or drop an unused slot"
        " (SELECT slot_name, active FROM pg_replication_slots)",
    )


def _walsender_check(query: Query, slot: str) -> Check:
    used, most = query(
        "SELECT count(*), current_setting('max_wal_senders')::int FROM pg_stat_replication"
        f" WHERE pid IS DISTINCT FROM (SELECT active_pid FROM pg_replication_slots"
        f" WHERE slot_name = {quote_literal(slot)})",
        doing="checking the source",
    )[0]
    return Check(
        name="source WAL senders",
        ok=used < most,
        found=f"{used} of {most} are used by others",
        mend=None if used < most else f"ALTER SYSTEM SET max_wal_senders = {most + 5}; then restart PostgreSQL",
    )


def _captured(query: Query, settings: SourceSettings) -> list[SourceTable]:
    patterns = TablePatterns(settings.tables)
    tables = capturable_tables(query, via_root=publishes_via_root(query, settings.publication))
    return [table for table in tables if patterns.matches(table.id)]


def _table_checks(query: Query, settings: SourceSettings) -> Iterator[Check]:
    """Whether each pattern names a table, and whether its changes can be told."""
    captured = _captured(query, settings)
    try:
        require_capturable(query, settings, captured)
    except CdcError as error:
        yield Check(name="source tables", ok=False, found=str(error), mend=error.mend)
    else:
        yield Check(name="source tables", ok=True, found=f"{len(captured)} tables match")
    yield _rights_check(query, [table.id for table in captured])
    yield from _policies_check(query, captured)
    for table in captured:
        yield _identity_check(table)


def _rights_check(query: Query, tables: Sequence[TableId]) -> Check:
    """Whether the role may read them as a first load does, which locks them too: a grant of columns is not enough."""
    lacking = query(
        "SELECT current_user, n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.relkind IN ('r', 'p')"
        " AND NOT (has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')) ORDER BY 2, 3",
        doing="checking the source",
    )
    refused = [TableId(schema, name) for _, schema, name in lacking if TableId(schema, name) in tables]
    if not refused:
        return Check(name="source rights", ok=True, found="the role may read the tables")
    role = quote_identifier(lacking[0][0])
    schemas = ", ".join(sorted({quote_identifier(table.schema) for table in refused}))
    names = ", ".join(map(quote_table, refused))
    return Check(
        name="source rights",
        ok=False,
        found=f"role {lacking[0][0]} may not read {refused[0]}"
        + (f" and {len(refused) - 1} more of the tables" if len(refused) > 1 else ""),
        mend=f"GRANT USAGE ON SCHEMA {schemas} TO {role}; GRANT SELECT ON {names} TO {role}",
    )


def _policies_check(query: Query, tables: Sequence[SourceTable]) -> Iterator[Check]:
    """Nothing, unless row-level security would hide rows from the role: the stream has their changes all the same."""
    oids = ", ".join(str(table.oid) for table in tables)
    hidden = query(
        f"SELECT oid::bigint, current_user FROM unnest(ARRAY[{oids}]::oid[]) AS oid WHERE row_security_active(oid)",
        doing="checking the source",
    )
    if hidden:
        names = [str(table.id) for table in tables if table.oid in {oid for oid, _ in hidden}]
        yield Check(
            name="source row-level security",
            ok=False,
            found=f"policies hide rows of {', '.join(names)} from role {hidden[0][1]}",
            mend=f"ALTER ROLE {quote_identifier(hidden[0][1])} BYPASSRLS",
        )


def _identity_check(table: SourceTable) -> Check:
    name = f"table {table.id}"
    quoted = quote_table(table.id)
    full = f"ALTER TABLE {quoted} REPLICA IDENTITY FULL"
    match table.identity:
        case ReplicaIdentity.DEFAULT if not table.has_key:
            return Check(
                name=name,
                ok=True,
                found="has no primary key: the source itself refuses updates and deletes of it while it is published",
                mend=f"add a primary key, or {full}",
            )
        case ReplicaIdentity.NOTHING:
            return Check(
                name=name,
                ok=True,
                found="has REPLICA IDENTITY NOTHING: the source itself refuses updates and deletes of it",
                mend=f"ALTER TABLE {quoted} REPLICA IDENTITY DEFAULT",
            )
        case ReplicaIdentity.FULL if not table.has_key:
            return Check(name=name, ok=True, found="has no key: rows are told apart by all of their columns")
        case _:
            return Check(name=name, ok=True, found="has a key")


def _triggers_check(query: Query, settings: SourceSettings) -> Check:
    name = "source schema changes"
    if triggers_present(query, settings.publication):
        return Check(name=name, ok=True, found="event triggers tell of them")
    if may_make_triggers(query):
        return Check(name=name, ok=True, found="the first capture will make event triggers that tell of them")
    return Check(
        name=name,
        ok=True,
        found="no event triggers tell of them: they are noticed with a table's next row, and some not at all"
        " (docs/schema-changes.md)",
        mend="have a superuser run what `cdc triggers` prints",
    )


def _publication_check(query: Query, settings: SourceSettings) -> Iterator[Check]:
    name = settings.publication
    there = query(f"SELECT FROM pg_publication WHERE pubname = {quote_literal(name)}", doing="checking the source")
    if there:
        yield Check(name="source publication", ok=True, found=f"{name!r} exists")
        return
    captured = _captured(query, settings)
    foreign = [table.id for table in captured if not table.owned]
    ((role, database, may_create),) = query(
        "SELECT current_user, current_database(), has_database_privilege(current_database(), 'CREATE')",
        doing="checking the source",
    )
    if not foreign and not may_create:
        yield Check(
            name="source publication",
            ok=False,
            found=f"{name!r} is missing, and role {role} may not make it in database {database}",
            mend=f"GRANT CREATE ON DATABASE {quote_identifier(database)} TO {quote_identifier(role)}",
        )
        return
    yield Check(
        name="source publication",
        ok=not foreign,
        found=f"{name!r} is missing; only the owner of {foreign[0]} may make it"
        if foreign
        else f"{name!r} will be made by the first capture",
        mend=creation_statement(query, name, [table.id for table in captured]) if foreign else None,
    )
