"""ALTER TABLE for the source's, as far as SQLite has it: what it has not is done by making the table anew.

https://www.sqlite.org/lang_altertable.html#otheralter
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple, assert_never

from cdc.core.errors import UnfollowedError
from cdc.core.settings import SchemaChanges
from cdc.core.tables import TableId, TableSchema
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
from consumers.targets.policy import is_allowed, is_left_alone, may_drop, waits_for_people
from consumers.targets.schema_check import MADE_ANEW
from consumers.targets.sqlite.catalog import TargetColumn, columns_of, constraints_of, folded
from consumers.targets.sqlite.session import SqliteSession
from consumers.targets.sqlite.types import RowCodec, Stored, declared_type, keeps_exactly, literal

_DROPPED: Final = "cdc_dropped_"
_ANEW: Final = "cdc_anew"
# Views and triggers name the table: they are not to be looked at while it is away.
_NOT_LOOKING: Final = "PRAGMA legacy_alter_table = ON"
_LOOKING: Final = "PRAGMA legacy_alter_table = OFF"
# A default that needs no parentheses, and is not allowed them where it is a name: that is a text then.
_BARE_DEFAULT: Final = re.compile(r"\w+|[\"`\[].*", re.DOTALL)


class _Statement(NamedTuple):
    """`values` end it."""

    head: str
    values: tuple[Stored, ...] = ()

    @property
    def sql(self) -> str:
        return self.head + ", ".join("?" * len(self.values))

    @property
    def text(self) -> str:
        """As people can run it."""
        return self.head + ", ".join(map(literal, self.values))


class _Shape(NamedTuple):
    """What a new table would bring."""

    columns: tuple[TargetColumn, ...]
    key: tuple[str, ...]


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
        changes: list[Alteration] = []
        altered: list[str] = []
        for alteration in alterations(step):
            columns = columns_of(self._session, name, doing=doing)
            if not columns:
                return
            if is_left_alone(alteration, self._policy):
                continue
            statements = list(self._statements(alteration, name, columns, step))
            for statement in statements:
                self._session.execute(statement.sql, statement.values, doing=doing)
            altered += [statement.text for statement in statements]
            # A column that is there only gets the value that its rows have at the source.
            if statements and not (isinstance(alteration, AddColumn) and _has(columns, alteration.column.name)):
                changes.append(alteration)
            if isinstance(alteration, RenameTable):
                name = flat_name(alteration.new)
                self._claim(alteration, doing)
        reshaping, anew = self._anew(step, name, doing)
        if not all(is_allowed(each, self._policy) for each in [*changes, *reshaping]):
            raise waits_for_people(step.table.id, _script(altered, anew), self._policy)
        if anew:
            self._make_anew(anew, doing)

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
                    yield _Statement(f"{alter} RENAME TO {quoted(flat_name(new))}")
            case DropColumn(column):
                if folded(column) in present:
                    yield _Statement(f"{alter} RENAME COLUMN {quoted(column)} TO {quoted(_DROPPED + column)}")
            case RenameColumn(old, new):
                if folded(old) in present and (folded(new) not in present or folded(new) == folded(old)):
                    yield _Statement(f"{alter} RENAME COLUMN {quoted(old)} TO {quoted(new)}")
            case AddColumn(column, fill):
                there = folded(column.name) in present
                if not there:
                    yield _Statement(f"{alter} ADD COLUMN {quoted(column.name)} {declared_type(column.type)}")
                if there or fill is not None:
                    value = RowCodec(step.table).value(step.table.columns.index(column), fill)
                    yield _Statement(f"UPDATE {quoted(name)} SET {quoted(column.name)} = ", (value,))
            case ChangeType() | SetNullable() | ChangeKey():
                pass  # see `_anew`
            case _:
                assert_never(alteration)

    def _anew(self, step: AlterTable, name: str, doing: str) -> tuple[list[Alteration], list[str]]:
        """What takes a new table, and the statements that make it; none if the table is so already. UnfollowedError if
        it would lack what people made at this one.
        """
        columns = columns_of(self._session, name, doing=doing)
        key = [column.name for column in sorted(columns, key=lambda each: each.key_place) if column.key_place]
        there = wanted = _Shape(tuple(columns), tuple(key))
        reshaping: list[Alteration] = []
        for alteration in alterations(step):
            before, wanted = wanted, _reshaped(wanted, alteration, step.table)
            if wanted != before:
                reshaping.append(alteration)
        wanted = _without_dropped(wanted, step.table)
        if wanted == there:
            return [], []
        self._require_plain(step.table.id, name, there, wanted, doing)
        # With its indexes and triggers, but for the indexes on columns that go.
        attached = self._session.query(
            "SELECT sql FROM sqlite_master AS m WHERE tbl_name = ? COLLATE NOCASE AND type IN ('index', 'trigger')"
            " AND sql IS NOT NULL AND NOT EXISTS"
            " (SELECT 1 FROM pragma_index_xinfo(m.name) AS x WHERE m.type = 'index' AND x.name LIKE ? ESCAPE '!')",
            (name, f"{_DROPPED.replace('_', '!_')}%"),
            doing=doing,
        )
        names = quoted_list(column.name for column in wanted.columns)
        return reshaping, [
            _create(_ANEW, wanted),
            f"INSERT INTO {quoted(_ANEW)} ({names}) SELECT {names} FROM {quoted(name)}",
            f"DROP TABLE {quoted(name)}",
            f"ALTER TABLE {quoted(_ANEW)} RENAME TO {quoted(name)}",
            *(sql for (sql,) in attached),
        ]

    def _make_anew(self, statements: Iterable[str], doing: str) -> None:
        self._session.query(_NOT_LOOKING, doing=doing)
        try:
            for statement in statements:
                self._session.execute(statement, doing=doing)
        finally:
            self._session.query(_LOOKING, doing=doing)

    def _require_plain(self, table: TableId, name: str, there: _Shape, wanted: _Shape, doing: str) -> None:
        """What a new table would lose is for people to keep."""
        lost = sorted(set(constraints_of(self._session, name, doing=doing)))
        lost += [f"generated column {column.name}" for column in there.columns if column.generated]
        kept = wanted._replace(columns=tuple(column for column in wanted.columns if not column.generated))
        if lost:
            raise UnfollowedError(
                f"table {table} was changed at the source; at the target it has {', '.join(lost)}, which making it"
                " anew would lose",
                mend=f"at the target, give it this shape by hand, with what you want to keep of that:"
                f" {_create(name, kept)}; then start the applier again. Or {MADE_ANEW}",
            )


def _reshaped(shape: _Shape, alteration: Alteration, version: TableSchema) -> _Shape:
    """With what ALTER TABLE can't do."""
    match alteration:
        case AddColumn() | ChangeType() | SetNullable():
            name = folded(alteration.column.name)
            columns = (_redefined(each, alteration) if folded(each.name) == name else each for each in shape.columns)
            return shape._replace(columns=tuple(columns))
        case ChangeKey():
            key = tuple(column.name for column in version.key_columns)
            same = set(map(folded, key)) == set(map(folded, shape.key))
            return shape if same else shape._replace(key=key)
        case RenameTable() | DropColumn() | RenameColumn():
            return shape
        case _:
            assert_never(alteration)


def _redefined(there: TargetColumn, alteration: AddColumn | ChangeType | SetNullable) -> TargetColumn:
    """A type that we declared follows; one that somebody declared stays, if it keeps what comes now."""
    column = alteration.column
    ours = isinstance(alteration, ChangeType) and there.declared == declared_type(alteration.before)
    stays = isinstance(alteration, SetNullable) or (keeps_exactly(column.type, there.declared) and not ours)
    return there._replace(
        declared=there.declared if stays else declared_type(column.type),
        not_null=there.not_null if isinstance(alteration, ChangeType) else not column.nullable,
    )


def _without_dropped(shape: _Shape, version: TableSchema) -> _Shape:
    """New rows bring nothing for a column that is only here any more. A key of the target's own goes with its
    column.
    """
    brought = {folded(column.name) for column in version.columns}
    return _Shape(
        tuple(
            column if column.optional or folded(column.name) in brought else column._replace(not_null=False)
            for column in shape.columns
            if not column.name.startswith(_DROPPED)
        ),
        () if any(part.startswith(_DROPPED) for part in shape.key) else shape.key,
    )


def _script(altered: Sequence[str], anew: Sequence[str]) -> Sequence[str]:
    """What people can run as a whole, with what our connection does. `cdc_dropped_…` is what goes."""
    if anew:
        return ["PRAGMA foreign_keys = OFF", "BEGIN", *altered, _NOT_LOOKING, *anew, _LOOKING, "COMMIT"]
    return altered if len(altered) == 1 else ["BEGIN", *altered, "COMMIT"]


def _has(columns: Iterable[TargetColumn], name: str) -> bool:
    return any(folded(column.name) == folded(name) for column in columns)


def _create(name: str, shape: _Shape) -> str:
    parts = [
        f"{quoted(column.name)} {column.declared}{' NOT NULL' if column.not_null else ''}{_default(column)}"
        for column in shape.columns
    ]
    if shape.key:
        parts.append(f"PRIMARY KEY ({quoted_list(shape.key)})")
    return f"CREATE TABLE {quoted(name)} ({', '.join(parts)})"


def _default(column: TargetColumn) -> str:
    """SQLite tells an expression without the parentheses that it must have."""
    if column.default is None:
        return ""
    return f" DEFAULT {column.default if _BARE_DEFAULT.fullmatch(column.default) else f'({column.default})'}"
