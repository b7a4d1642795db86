"""Target tables: created where they are missing, checked where they are there, and made ready for writing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import count

from typing_extensions import override

from cdc.core.errors import TargetSchemaError
from cdc.core.tables import TableId, TableSchema
from cdc.core.types import ColumnType
from consumers.targets.identifiers import quoted, quoted_list
from consumers.targets.postgresql.catalog import ExistingTable, find_table, resolve_types
from consumers.targets.postgresql.filling import Filling
from consumers.targets.postgresql.session import PostgresSession
from consumers.targets.postgresql.statements import TableStatements
from consumers.targets.postgresql.types import (
    all_names,
    declaration,
    fallback,
    ignores_case,
    keeps_exactly,
    may_change,
    names_of,
)
from consumers.targets.prepared import PreparedVersions
from consumers.targets.schema_check import refuse_own_table, require_same_columns


class PreparedTables(PreparedVersions[TableStatements]):
    """See `PreparedVersions`. As temporary tables do, they end with the session."""

    def __init__(self, session: PostgresSession, fence: Callable[[], None] = lambda: None) -> None:
        """`fence` is called first in each transaction of its own."""
        super().__init__(session)
        self._session = session
        self._compare = fence
        self._numbers = count(1)
        self.references: dict[TableId, frozenset[TableId]] = {}
        self._acted_on: dict[TableId, bool] = {}
        self.filling = Filling(session)

    @override
    def forget(self, table: TableId) -> list[TableStatements]:
        """Its staging tables go, too."""
        gone = super().forget(table)
        self.filling.forget(gone)
        for staging in (staging for statements in gone for staging in statements.stagings):
            self._session.execute(f"DROP TABLE pg_temp.{staging}", doing=f"altering table {table}")
        return gone

    @override
    def _fence(self) -> None:
        self._compare()

    @override
    def _made_ready(self, version: TableSchema) -> TableStatements:
        if version.id.schema == "public":
            refuse_own_table(version, version.id.name)
        names = {name for column in version.columns for name in all_names(column.type)}
        resolved = resolve_types(self._session, names)
        table = find_table(self._session, version.id) or self._created(version, resolved)
        _require_fitting(version, table, resolved)
        by_name = {column.name: column for column in table.columns}
        columns = [by_name[column.name] for column in version.columns]
        statements = TableStatements(
            table=version.id,
            partitioned=table.partitioned,
            staging=f"cdc_staging_{next(self._numbers)}",
            names=tuple(column.name for column in columns),
            key=version.key,
            equal=table.unique_keys.get(frozenset(column.name for column in version.key_columns), {}),
            written=tuple(index for index, column in enumerate(columns) if not column.generated),
            types=tuple(column.type for column in columns),
            verified=tuple(
                index
                for index, (column, there) in enumerate(zip(version.columns, columns, strict=True))
                if may_change(column.type, resolved, there.declared)
            ),
        )
        self._session.execute(statements.create_staging(), doing=f"preparing table {version.id}")
        if table.refers_to:
            self.references[version.id] = table.refers_to
        self._acted_on[version.id] = table.is_acted_on
        return statements

    def moves(self, version: TableSchema) -> bool:
        """See `Target.moves`. Of what is not prepared yet, nobody knows."""
        return version not in self._prepared or self._acted_on[version.id]

    def _created(self, version: TableSchema, resolved: dict[str, str]) -> ExistingTable:
        doing = f"creating table {version.id}"
        self._session.lock_definitions()
        table = find_table(self._session, version.id)  # another applier may have made it while we waited
        if table is None:
            schema = version.id.schema
            if not self._session.query("SELECT 1 FROM pg_namespace WHERE nspname = %s", (schema,), doing=doing):
                self._session.execute(f"CREATE SCHEMA {quoted(schema)}", doing=doing)
            self._session.execute(_create_table(version, resolved), doing=doing)
            table = find_table(self._session, version.id)
        if table is None:
            raise TargetSchemaError(f"target table {version.id} went away while it was being created")
        return table


def _create_table(version: TableSchema, resolved: dict[str, str]) -> str:
    columns = [
        f"{quoted(column.name)} {declaration(column.type, resolved)}{'' if column.nullable else ' NOT NULL'}"
        for column in version.columns
    ]
    if version.key:
        columns.append(f"PRIMARY KEY ({quoted_list(column.name for column in version.key_columns)})")
    return f"CREATE TABLE {quoted(version.id.schema)}.{quoted(version.id.name)} ({', '.join(columns)})"


def _plain(source: ColumnType, resolved: Mapping[str, str]) -> str:
    """As `_declaration`, but without domains, which may be other ones here."""
    return next((name for name in reversed(names_of(source)) if name in resolved), fallback(source))


def _require_fitting(version: TableSchema, table: ExistingTable, resolved: dict[str, str]) -> None:
    optional = [column.name for column in table.columns if column.generated or not column.required]
    require_same_columns(
        version.id, (column.name for column in version.columns), (column.name for column in table.columns), optional
    )
    target = f"{quoted(version.id.schema)}.{quoted(version.id.name)}"
    key = [column.name for column in version.key_columns]
    if key and frozenset(key) not in table.unique_keys:
        raise TargetSchemaError(
            f"target table {version.id} has no unique key on {', '.join(key)} (one that is not deferrable)",
            mend=f"ALTER TABLE {target} ADD UNIQUE ({quoted_list(key)})",
        )
    by_name = {column.name: column for column in table.columns}
    for column in version.columns:
        there = by_name[column.name]
        if not there.generated and not keeps_exactly(column.type, resolved, there.declared):
            raise TargetSchemaError(
                f"target table {version.id}, column {column.name}: {there.type} would change values of the source's"
                f" {column.type.name} silently",
                mend=f"ALTER TABLE {target} ALTER COLUMN {quoted(column.name)} TYPE {_plain(column.type, resolved)}",
            )
    _require_telling_apart(version, table, target)
    if table.hides_rows:
        raise TargetSchemaError(
            f"target table {version.id} has row-level security, which may hide rows from the applier: it would neither"
            " change nor delete them",
            mend=f"CREATE POLICY cdc ON {target} TO <the role in the target's url> USING (true), without restrictive"
            " policies for that role; or ALTER ROLE <that role> BYPASSRLS",
        )


def _require_telling_apart(version: TableSchema, table: ExistingTable, target: str) -> None:
    """Rows whose keys differ at the source must not become one."""
    by_name = {column.name: column for column in table.columns}
    for column in version.key_columns:
        there = by_name[column.name]
        loosely_typed = there.declared.ignores_case and not ignores_case(column.type)
        if loosely_typed or there.folds:
            text = "text" if there.declared.element is None else "text[]"
            raise TargetSchemaError(
                f"target table {version.id}, key column {column.name}: to its type {there.type} or its collation keys"
                " that differ at the source may be one (by case or accents)",
                mend=f"ALTER TABLE {target} ALTER COLUMN {quoted(column.name)}"
                f' TYPE {text if loosely_typed else there.type} COLLATE "C"',
            )
    index = table.folding_indexes.get(frozenset(column.name for column in version.key_columns))
    if index is not None:
        raise TargetSchemaError(
            f"target table {version.id}: to the collation of its unique index {index} keys that differ at the source"
            " may be one (by case or accents)",
            mend=f"DROP INDEX {index}",
        )
