"""ALTER TABLE for the source's, as far as SQLite has it: what it has not is done by making the table anew.

https://www.sqlite.org/lang_altertable.html#otheralter
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final, assert_never

from cdc.core.errors import UnfollowedError
from cdc.core.settings import SchemaChanges
from cdc.core.tables import TableId
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
from consumers.targets.naming import flat_name
from consumers.targets.policy import Done, is_left_alone, may_drop, require_allowed
from consumers.targets.schema_check import MADE_ANEW
from consumers.targets.sqlite.catalog import TargetColumn, columns_of, constraints_of, folded
from consumers.targets.sqlite.session import SqliteSession
from consumers.targets.sqlite.types import RowCodec, Stored, declared_type

_DROPPED: Final = "cdc_dropped_"
_ANEW: Final = "cdc_anew"
# A default that needs no parentheses, and is not allowed them where it is a name: that is a text then.
_BARE_DEFAULT: Final = re.compile(r"\w+|[\"`\[].*", re.DOTALL)

_Statement = tuple[str, tuple[Stored, ...]]


class Alterer:
    """Runs inside the caller's transaction, which an error rolls back. What somebody did at the target by hand is not
    done again.
    """

    def __init__(self, session: SqliteSession, policy: SchemaChanges) -> None:
        self._session = session
        self._policy = policy

    def alter(self, step: AlterTable) -> None:
        """Bring the table to the step's version. One that is not there is left to whoever writes to it first."""
        if step.before is None:
            return
        doing = f"altering table {step.table.id}"
        name = flat_name(step.before.id)
        if not columns_of(self._session, name, doing=doing):
            name = flat_name(step.table.id)
        done: list[Done] = []
        for alteration in alterations(step):
            columns = columns_of(self._session, name, doing=doing)
            if not columns:
                return
            if is_left_alone(alteration, self._policy):
                continue
            statements = list(self._statements(alteration, name, columns, step))
            for sql, parameters in statements:
                self._session.execute(sql, parameters, doing=doing)
            there = isinstance(alteration, AddColumn) and _has(columns, alteration.column.name)
            done.append(Done(alteration, [] if there else [sql for sql, _ in statements]))
            if isinstance(alteration, RenameTable):
                name = flat_name(alteration.new)
                self._claim(alteration, doing)
        require_allowed(step.table.id, done, self._policy)
        self._make_anew(step, name, doing)

    def drop(self, table: TableId) -> None:
        name, doing = flat_name(table), f"dropping table {table}"
        statement = f"DROP TABLE {quoted(name)}"
        if columns_of(self._session, name, doing=doing) and may_drop(table, statement, self._policy):
            self._session.execute(statement, doing=doing)
            self._session.execute("DELETE FROM cdc_table WHERE name = ?", (name,), doing=doing)

    def _claim(self, renamed: RenameTable, doing: str) -> None:
        """The new name is the table's in place of the old one, whoever renamed it."""
        gone = "DELETE FROM cdc_table WHERE name = ? AND source_schema = ? AND source_table = ?"
        self._session.execute(gone, (flat_name(renamed.old), *renamed.old), doing=doing)
        taken = "INSERT OR REPLACE INTO cdc_table (name, source_schema, source_table) VALUES (?, ?, ?)"
        self._session.execute(taken, (flat_name(renamed.new), *renamed.new), doing=doing)

    def _statements(
        self, alteration: Alteration, name: str, columns: list[TargetColumn], step: AlterTable
    ) -> Iterator[_Statement]:
        """None if the target is so already, or if it takes a new table."""
        alter = f"ALTER TABLE {quoted(name)}"
        present = {folded(column.name): column for column in columns}
        match alteration:
            case RenameTable(_, new):
                if flat_name(new) != name:
                    yield f"{alter} RENAME TO {quoted(flat_name(new))}", ()
            case DropColumn(column):
                if folded(column) in present:
                    yield f"{alter} RENAME COLUMN {quoted(column)} TO {quoted(_DROPPED + column)}", ()
            case RenameColumn(old, new):
                if folded(old) in present and (folded(new) not in present or folded(new) == folded(old)):
                    yield f"{alter} RENAME COLUMN {quoted(old)} TO {quoted(new)}", ()
            case AddColumn(column, fill):
                if folded(column.name) not in present:
                    yield f"{alter} ADD COLUMN {quoted(column.name)} {declared_type(column.type)}", ()
                index = step.table.columns.index(column)
                yield (
                    f"UPDATE {quoted(name)} SET {quoted(column.name)} = ?",
                    (RowCodec(step.table).value(index, fill),),
                )
            case ChangeType() | SetNullable() | ChangeKey():
                pass  # compared as a whole at the end
            case _:
                assert_never(alteration)

    def _make_anew(self, step: AlterTable, name: str, doing: str) -> None:
        """Where types, NOT NULL, the key or dropped columns ask for it."""
        columns = columns_of(self._session, name, doing=doing)
        wanted = [self._wanted(column, step) for column in columns]
        key = [column.name for column in step.table.key_columns]
        has_key = [column.name for column in sorted(columns, key=lambda c: c.key_place) if column.key_place]
        same_key = {folded(part) for part in key} == {folded(part) for part in has_key}
        if same_key and all(new == old for old, new in zip(columns, wanted, strict=True)):
            return
        kept = [column for column in wanted if column is not None]
        self._require_plain(step.table.id, name, columns, _create(name, kept, key), doing)
        brought = {column.name.lower() for column in step.table.columns}
        same = same_key and all(
            new == old for old, new in zip(columns, wanted, strict=True) if old.name.lower() in brought
        )
        done = [] if same else [Done(ChangeKey(tuple(key)), [_create(name, kept, key)])]
        require_allowed(step.table.id, done, self._policy)
        # Views and triggers name the table: they are not to be looked at while it is away.
        self._session.query("PRAGMA legacy_alter_table = ON", doing=doing)
        try:
            self._replace(name, kept, key, doing)
        finally:
            self._session.query("PRAGMA legacy_alter_table = OFF", doing=doing)

    def _replace(self, name: str, columns: list[TargetColumn], key: list[str], doing: str) -> None:
        """With its indexes and triggers, but for the indexes on columns that go."""
        others = self._session.query(
            "SELECT sql FROM sqlite_master AS m WHERE tbl_name = ? COLLATE NOCASE AND type IN ('index', 'trigger')"
            " AND sql IS NOT NULL AND NOT EXISTS"
            " (SELECT 1 FROM pragma_index_xinfo(m.name) AS x WHERE m.type = 'index' AND x.name LIKE ? ESCAPE '!')",
            (name, f"{_DROPPED.replace('_', '!_')}%"),
            doing=doing,
        )
        names = quoted_list(column.name for column in columns)
        for sql in (
            _create(_ANEW, columns, key),
            f"INSERT INTO {quoted(_ANEW)} ({names}) SELECT {names} FROM {quoted(name)}",
            f"DROP TABLE {quoted(name)}",
            f"ALTER TABLE {quoted(_ANEW)} RENAME TO {quoted(name)}",
            *(sql for (sql,) in others),
        ):
            self._session.execute(sql, doing=doing)

    def _wanted(self, column: TargetColumn, step: AlterTable) -> TargetColumn | None:
        """What a column that is there becomes; None if it goes."""
        if column.name.startswith(_DROPPED):
            return None
        brought = next((each for each in step.table.columns if folded(each.name) == folded(column.name)), None)
        if brought is None:
            return column._replace(not_null=column.not_null and column.default is not None)
        changed = any(
            isinstance(each, ChangeType | AddColumn | SetNullable) and each.column.name == brought.name
            for each in alterations(step)
        )
        if not changed:
            return column
        return column._replace(declared=declared_type(brought.type), not_null=not brought.nullable)

    def _require_plain(
        self, table: TableId, name: str, columns: Iterable[TargetColumn], wanted: str, doing: str
    ) -> None:
        """What a new table would lose is for people to keep."""
        lost = sorted(set(constraints_of(self._session, name, doing=doing)))
        lost += [f"generated column {column.name}" for column in columns if column.generated]
        if lost:
            raise UnfollowedError(
                f"table {table} was changed at the source; at the target it has {', '.join(lost)}, which making it"
                " anew would lose",
                mend=f"at the target, give it this shape by hand, with what you want to keep of that:"
                f" {wanted}; then start the applier again. Or {MADE_ANEW}",
            )


def _has(columns: Iterable[TargetColumn], name: str) -> bool:
    return any(column.name.lower() == name.lower() for column in columns)


def _create(name: str, columns: Iterable[TargetColumn], key: Iterable[str]) -> str:
    parts = [
        f"{quoted(column.name)} {column.declared}{' NOT NULL' if column.not_null else ''}{_default(column)}"
        for column in columns
    ]
    names = quoted_list(key)
    if names:
        parts.append(f"PRIMARY KEY ({names})")
    return f"CREATE TABLE {quoted(name)} ({', '.join(parts)})"


def _default(column: TargetColumn) -> str:
    """SQLite tells an expression without the parentheses that it must have."""
    if column.default is None:
        return ""
    return f" DEFAULT {column.default if _BARE_DEFAULT.fullmatch(column.default) else f'({column.default})'}"
