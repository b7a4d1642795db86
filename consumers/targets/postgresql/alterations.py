"""ALTER TABLE for the source's: what the target does not have yet, as far as the policy lets us."""

from __future__ import annotations

from collections.abc import Iterator
from typing import assert_never

from cdc.core.errors import FidelityError
from cdc.core.settings import SchemaChanges
from cdc.core.tables import Column, TableId
from cdc.core.types import ColumnType, Kind
from consumers.plan.alterations import (
    AddColumn,
    Alteration,
    ChangeKey,
    ChangeType,
    DropColumn,
    RenameColumn,
    RenameTable,
    SetNullable,
    alterations,
)
from consumers.plan.steps import AlterTable
from consumers.targets.identifiers import quoted, quoted_list
from consumers.targets.policy import Done, is_left_alone, may_drop, require_allowed
from consumers.targets.postgresql.catalog import ExistingTable, TargetColumn, find_table, resolve_types
from consumers.targets.postgresql.session import PostgresSession
from consumers.targets.postgresql.statements import own_rows
from consumers.targets.postgresql.types import (
    all_names,
    declaration,
    fallback,
    keeps_exactly,
    modifiers_in,
    names_of,
)


class Alterer:
    """Runs inside the caller's transaction, which an error rolls back. What somebody did at the target by hand is not
    done again.
    """

    def __init__(self, session: PostgresSession, policy: SchemaChanges) -> None:
        self._session = session
        self._policy = policy

    def alter(self, step: AlterTable) -> None:
        """Bring the table to the step's version. One that is not there is left to whoever writes to it first."""
        if step.before is None:
            return
        self._session.lock_definitions()
        here = step.before.id if self._find(step.before.id) is not None else step.table.id
        done: list[Done] = []
        for alteration in alterations(step):
            table = self._find(here)
            if table is None:
                return
            if is_left_alone(alteration, self._policy):
                continue
            statements = list(self._statements(alteration, table, here))
            for statement in statements:
                self._session.execute(statement, doing=f"altering table {here}")
            # A column that is there only gets the value that its rows have at the source.
            there = isinstance(alteration, AddColumn) and any(c.name == alteration.column.name for c in table.columns)
            done.append(Done(alteration, [] if there else statements))
            if isinstance(alteration, RenameTable):
                here = alteration.new
        require_allowed(step.table.id, done, self._policy)
        self._let_kept_columns_be_null(step, here)

    def drop(self, table: TableId) -> None:
        statement = f"DROP TABLE {_name(table)}"
        if self._find(table) is not None and may_drop(table, statement, self._policy):
            self._session.execute(statement, doing=f"dropping table {table}")

    def _find(self, table: TableId) -> ExistingTable | None:
        return find_table(self._session, table)

    def _statements(self, alteration: Alteration, table: ExistingTable, here: TableId) -> Iterator[str]:
        """None if the target is so already."""
        alter = f"ALTER TABLE {_name(here)}"
        columns = {column.name: column for column in table.columns}
        match alteration:
            case RenameTable(_, new):
                yield from self._renamed(here, new)
            case DropColumn(name):
                if name in columns:
                    yield f"{alter} DROP COLUMN {quoted(name)}"
            case RenameColumn(old, new):
                if old in columns and new not in columns:
                    yield f"{alter} RENAME COLUMN {quoted(old)} TO {quoted(new)}"
            case ChangeType(before, column):
                there = columns.get(column.name)
                if there is not None:
                    yield from self._retyped(alter, before, column, there)
            case AddColumn(column, fill):
                rows = own_rows(here, partitioned=table.partitioned)
                yield from self._added(here, rows, column, fill, columns.get(column.name))
            case SetNullable(column):
                there = columns.get(column.name)
                if there is not None and there.not_null is column.nullable:
                    action = "DROP NOT NULL" if column.nullable else "SET NOT NULL"
                    yield f"{alter} ALTER COLUMN {quoted(column.name)} {action}"
            case ChangeKey():
                yield from _rekeyed(alter, alteration, table)
            case _:
                assert_never(alteration)

    def _renamed(self, old: TableId, new: TableId) -> Iterator[str]:
        if old.schema != new.schema:
            there = "SELECT 1 FROM pg_namespace WHERE nspname = %s"
            if not self._session.query(there, (new.schema,), doing=f"renaming table {old}"):
                yield f"CREATE SCHEMA {quoted(new.schema)}"
            yield f"ALTER TABLE {_name(old)} SET SCHEMA {quoted(new.schema)}"
        if old.name != new.name:
            yield f"ALTER TABLE {_name(TableId(new.schema, old.name))} RENAME TO {quoted(new.name)}"

    def _added(
        self, here: TableId, rows: str, column: Column, fill: bytes | None, there: TargetColumn | None
    ) -> Iterator[str]:
        """A column of that name may have stayed from before, or somebody has made it: its rows get the fill all the
        same.
        """
        name, (type_, _) = quoted(column.name), self._type(column)
        value = "NULL" if fill is None else _literal(fill.decode())
        if fill is not None and _may_change(column.type):
            self._require_kept(value, type_ if there is None else there.type, column, here)
        if there is not None:
            yield f"UPDATE {rows} SET {name} = {value} WHERE {name}::text IS DISTINCT FROM {value}::{type_}::text"
            return
        null = "" if column.nullable else " NOT NULL"
        default = "" if fill is None else f" DEFAULT {value}"
        yield f"ALTER TABLE {_name(here)} ADD COLUMN {name} {type_}{default}{null}"
        if fill is not None:
            yield f"ALTER TABLE {_name(here)} ALTER COLUMN {name} DROP DEFAULT"

    def _require_kept(self, value: str, type_: str, column: Column, here: TableId) -> None:
        """FidelityError if the value would be another one in that type: what rows bring is compared, too."""
        where = f"altering table {here}, column {column.name}"
        if self._session.query(f"SELECT {value}::{type_}::text IS DISTINCT FROM {value}", doing=where) == [(True,)]:
            raise FidelityError(
                f"{where}: {type_} would change the value that the rows get which are there",
                mend=f"give {type_} the definition that it has at the source, or add the column as text",
            )

    def _retyped(self, alter: str, before: ColumnType, column: Column, there: TargetColumn) -> Iterator[str]:
        """A column that we declared follows; one that somebody declared wider stays, if it keeps what comes now."""
        wanted, resolved = self._type(column)
        if there.type == wanted:
            return
        if self._is_ours(there, before) or not keeps_exactly(column.type, resolved, there.declared):
            name = quoted(column.name)
            yield f"{alter} ALTER COLUMN {name} TYPE {wanted} USING {name}::text::{wanted}"

    def _is_ours(self, there: TargetColumn, before: ColumnType) -> bool:
        """Whether the column is what we declare for the source's type. That calls a user's type `public.mood`; what it
        is called here depends on the search path.
        """
        here = resolve_types(self._session, names_of(before))
        declared = {(type_, modifiers_in(name)) for name, type_ in here.items()}
        return there.type == fallback(before) or (there.declared.base, modifiers_in(there.type)) in declared

    def _type(self, column: Column) -> tuple[str, dict[str, str]]:
        """What to declare here, and what this server calls those of the source's types that it knows."""
        resolved = resolve_types(self._session, all_names(column.type))
        return declaration(column.type, resolved), resolved

    def _let_kept_columns_be_null(self, step: AlterTable, here: TableId) -> None:
        """New rows bring nothing for a column that is only here any more."""
        table = self._find(here)
        brought = {column.name for column in step.table.columns}
        for column in () if table is None else table.columns:
            if column.name not in brought and column.required:
                statement = f"ALTER TABLE {_name(here)} ALTER COLUMN {quoted(column.name)} DROP NOT NULL"
                self._session.execute(statement, doing=f"altering table {here}")


def _rekeyed(alter: str, change: ChangeKey, table: ExistingTable) -> Iterator[str]:
    """A primary key of the target's own stays."""
    primary = table.primary_key
    if not change.names:
        if primary is not None and primary.columns == frozenset(change.old):
            yield f"{alter} DROP CONSTRAINT {quoted(primary.constraint)}"
    elif frozenset(change.names) not in table.unique_keys:
        yield f"{alter} ADD {'PRIMARY KEY' if primary is None else 'UNIQUE'} ({quoted_list(change.names)})"


def _may_change(source: ColumnType) -> bool:
    """Whether it may have fields, which may be narrower here (see `DeclaredType.may_change`)."""
    return source.kind is Kind.OTHER if source.element is None else _may_change(source.element)


def _name(table: TableId) -> str:
    return f"{quoted(table.schema)}.{quoted(table.name)}"


def _literal(text: str) -> str:
    """A string constant that means the same under every setting of standard_conforming_strings."""
    escaped = text.replace("\\", "\\\\").replace("'", "''")
    return f"E'{escaped}'" if "\\" in text else f"'{escaped}'"
