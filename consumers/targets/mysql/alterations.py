"""ALTER TABLE for the source's: one statement that also marks the table with the change that it followed.

A crash between it and the checkpoint is harmless: the mark says that it was done. Without one, a second time could
hurt: after `DROP b, RENAME a TO b` it would drop what was `a`. No other change has the same mark, though it makes the
same of the table: a script that puts a new table in an old one's place runs each night.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from typing import Final, assert_never

from cdc.core.settings import SchemaChanges
from cdc.core.tables import Column, TableId
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
    is_additive,
)
from consumers.plan.definitions import Definition
from consumers.plan.steps import AlterTable
from consumers.targets.mysql.catalog import ExistingTable, TargetColumn, find_table, folded, marked
from consumers.targets.mysql.quoting import quoted, quoted_list, text_literal
from consumers.targets.mysql.session import MysqlSession
from consumers.targets.mysql.tables import claim_of, declaration, full_declaration
from consumers.targets.mysql.types import RowCodec, keeps_exactly
from consumers.targets.naming import flat_name
from consumers.targets.policy import Done, is_left_alone, may_drop, require_allowed

_INTEGER_WIDTH: Final = re.compile(r"^(tinyint|smallint|int|bigint)\(\d+\)")


class Alterer:
    """Each of its statements commits. What somebody did at the target by hand is not done again."""

    def __init__(self, definer: MysqlSession, policy: SchemaChanges) -> None:
        self._definer = definer
        self._policy = policy

    def alter(self, definition: Definition) -> None:
        """Bring the table to the step's version, unless it was done before a crash. One that is not there is left to
        whoever writes to it first. If rows follow that come before it, NOT NULL waits: they may be what fills it.
        """
        step = definition.step
        assert isinstance(step, AlterTable)
        if step.before is None or self.is_done(step):
            return
        doing = f"altering table {step.table.id}"
        name = flat_name(step.before.id)
        table = find_table(self._definer, name, doing=doing)
        if table is None:
            name = flat_name(step.table.id)
            table = find_table(self._definer, name, doing=doing)
        if table is None:
            return
        collation = self._definer.server.collation
        change = _Change(step, name, table, self._policy, collation, relaxed=definition.written)
        statement = change.statement()
        require_allowed(step.table.id, change.done(statement), self._policy)
        if definition.emptied:
            self._definer.execute(f"DELETE FROM {quoted(name)}", doing=doing)
        for update in change.updates():
            self._definer.run(update, doing=doing)
        self._claim(step, name)
        self._definer.run(statement, doing=doing)

    def is_done(self, step: AlterTable) -> bool:
        """Whether the table's mark says so."""
        name, doing = flat_name(step.table.id), f"altering table {step.table.id}"
        table = find_table(self._definer, name, doing=doing)
        return table is not None and table.mark == _mark(step)

    def drop(self, table: TableId) -> None:
        name, doing = flat_name(table), f"dropping table {table}"
        statement = f"DROP TABLE {quoted(name)}"
        there = find_table(self._definer, name, doing=doing)
        if there is not None and may_drop(table, statement, self._policy):
            # Others' references to it are to be seen.
            self._definer.execute("SET SESSION foreign_key_checks = 1", doing=doing)
            try:
                self._definer.execute(statement, doing=doing)
            finally:
                self._definer.execute("SET SESSION foreign_key_checks = 0", doing=doing)
            self._forget_claim(name, doing)

    def _claim(self, step: AlterTable, name: str) -> None:
        """The new name is this table's before it has it: so nobody else comes in between."""
        doing = f"altering table {step.table.id}"
        new = flat_name(step.table.id)
        if new != name:
            self._forget_claim(name, doing)
        self._definer.execute(
            "INSERT INTO cdc_table (name, source_schema, source_table) VALUES (%s, %s, %s) ON DUPLICATE KEY UPDATE"
            " source_schema = VALUES(source_schema), source_table = VALUES(source_table)",
            (claim_of(self._definer, new), *step.table.id),
            doing=doing,
        )

    def _forget_claim(self, name: str, doing: str) -> None:
        self._definer.execute("DELETE FROM cdc_table WHERE name = %s", (claim_of(self._definer, name),), doing=doing)


def _mark(step: AlterTable) -> str:
    """Tells this change from all others: 16 hexadecimal digits."""
    return hashlib.sha256(f"{step.position} {step.table!r}".encode()).hexdigest()[:16]


class _Change:
    """What has to be done to a table that is there. Pure."""

    def __init__(
        self,
        step: AlterTable,
        name: str,
        table: ExistingTable,
        policy: SchemaChanges,
        collation: str,
        *,
        relaxed: bool,
    ) -> None:
        self._step = step
        self._name = name
        self._table = table
        self._policy = policy
        self._collation = collation
        self._relaxed = relaxed
        self._alterations = [each for each in alterations(step) if not is_left_alone(each, policy)]
        self._renamed = dict(self._renames())

    def statement(self) -> bytes:
        clauses = [clause for each in self._alterations for clause in self._clauses(each)]
        clauses += [b" ".join(clause) for clause in self._columns()]
        comment = marked(self._table.comment, _mark(self._step))
        clauses.append(b"COMMENT = " + text_literal(comment.encode()))
        return f"ALTER TABLE {quoted(self._name)} ".encode() + b", ".join(clauses)

    def done(self, statement: bytes) -> list[Done]:
        """The statement, for the alteration that the policy minds most."""
        effective = [each for each in self._alterations if [*self._clauses(each)] or self._touches_columns(each)]
        effective.sort(key=is_additive)
        return [Done(effective[0], [statement.decode()])] if effective else []

    def updates(self) -> Iterator[bytes]:
        """A column of an added one's name may have stayed from before, or somebody has made it: its rows get the fill
        all the same.
        """
        for each in self._alterations:
            if isinstance(each, AddColumn) and (there := self._there(each.column.name)) is not None:
                index = self._step.table.columns.index(each.column)
                value = RowCodec(self._step.table, {index: there.declared}).value(index, each.fill)
                yield f"UPDATE {quoted(self._name)} SET {quoted(each.column.name)} = ".encode() + value

    def _there(self, name: str) -> TargetColumn | None:
        """The column that has this name when the statement adds columns."""
        if folded(name) in {folded(new) for new in self._renamed.values()}:
            return None
        gone = {folded(each.name) for each in self._alterations if isinstance(each, DropColumn)}
        gone |= {folded(old) for old in self._renamed}
        return None if folded(name) in gone else self._table.columns.get(folded(name))

    def _clauses(self, alteration: Alteration) -> Iterator[bytes]:
        """None if the target is so already."""
        match alteration:
            case RenameTable(_, new):
                if flat_name(new) != self._name:
                    yield f"RENAME TO {quoted(flat_name(new))}".encode()
            case DropColumn(name):
                if folded(name) in self._table.columns:
                    yield f"DROP COLUMN {quoted(name)}".encode()
            case AddColumn(column, fill):
                if self._there(column.name) is None:
                    yield self._added(column, fill)
            case ChangeKey(names):
                yield from self._changed_key(names)
            case RenameColumn() | ChangeType() | SetNullable():
                pass  # see `_columns`
            case _:
                assert_never(alteration)

    def _added(self, column: Column, fill: bytes | None) -> bytes:
        """The default stays: every row brings all its values, and another statement might not come to run."""
        declared = f"ADD COLUMN {quoted(column.name)} {full_declaration(self._step.table, column, self._collation)}"
        null = "" if column.nullable else " NOT NULL"
        if fill is None:
            return f"{declared}{null}".encode()
        value = RowCodec(self._step.table).value(self._step.table.columns.index(column), fill)
        return f"{declared}{null} DEFAULT (".encode() + value + b")"

    def _changed_key(self, names: Sequence[str]) -> Iterator[bytes]:
        wanted = frozenset(folded(name) for name in names)
        new_names = {folded(old): folded(new) for old, new in self._renamed.items()}
        keys = [frozenset(new_names.get(part, part) for part in key) for key in self._table.unique_keys.values()]
        if names and wanted not in keys:
            yield f"ADD PRIMARY KEY ({quoted_list(names)})".encode()
        elif not names and self._table.has_primary_key and not self._has_key_already():
            yield b"DROP PRIMARY KEY"

    def _has_key_already(self) -> bool:
        primary = self._table.unique_keys["PRIMARY"]
        return primary == {folded(column.name) for column in self._step.table.key_columns}

    def _renames(self) -> Iterator[tuple[str, str]]:
        """From what a column is called at the target to what it will be: one statement needs no names in between."""
        names = {column.name: column.name for column in self._table.columns.values()}
        for each in self._alterations:
            if isinstance(each, RenameColumn):
                old = next((old for old, new in names.items() if folded(new) == folded(each.old)), None)
                if old is not None:
                    names[old] = each.new
        kept = {folded(each.name) for each in self._alterations if isinstance(each, DropColumn)}
        for old, new in names.items():
            # If both are there, it was done by hand.
            stays = folded(new) in self._table.columns.keys() - kept - {folded(o) for o, n in names.items() if o != n}
            if old != new and not (stays and folded(old) != folded(new)):
                yield old, new

    def _columns(self) -> Iterator[list[bytes]]:
        """What columns that stay become."""
        gone = {folded(each.name) for each in self._alterations if isinstance(each, DropColumn)}
        added = {folded(each.column.name) for each in self._alterations if isinstance(each, AddColumn)}
        brought = {folded(column.name): column for column in self._step.table.columns}
        for key, there in self._table.columns.items():
            name = self._renamed.get(there.name, there.name)
            column = brought.get(folded(name))
            if key in gone or there.generated:
                continue
            if column is None:
                if not there.optional:  # new rows bring nothing for a column that is only here any more
                    yield self._redefined(there, name, there.full_type, nullable=True)
                continue
            type_ = self._retyped(there, column)
            nullable = self._nullable(there, column, was_added=folded(name) in added)
            if type_ is not None or nullable is not there.nullable:
                yield self._redefined(there, name, type_ or self._as_it_is(there), nullable=nullable)
            elif there.name != name:
                yield [f"RENAME COLUMN {quoted(there.name)} TO {quoted(name)}".encode()]

    def _touches_columns(self, alteration: Alteration) -> bool:
        match alteration:
            case RenameColumn(old, _):
                return any(folded(old) == folded(name) for name in self._renamed)
            case ChangeType(_, column) | SetNullable(column):
                there = self._before(column)
                return there is not None and (
                    self._retyped(there, column) is not None or there.nullable is not column.nullable
                )
            case _:
                return False

    def _before(self, column: Column) -> TargetColumn | None:
        old = next((old for old, new in self._renamed.items() if folded(new) == folded(column.name)), column.name)
        return self._table.columns.get(folded(old))

    def _redefined(self, there: TargetColumn, name: str, type_: str, *, nullable: bool) -> list[bytes]:
        null = "NULL" if nullable else "NOT NULL"
        return [f"CHANGE COLUMN {quoted(there.name)} {quoted(name)} {type_} {null}".encode()]

    def _as_it_is(self, there: TargetColumn) -> str:
        collation = there.declared.collation
        return there.full_type if collation is None else f"{there.full_type} COLLATE {collation}"

    def _nullable(self, there: TargetColumn, column: Column, *, was_added: bool) -> bool:
        changes = any(isinstance(each, SetNullable) and each.column.name == column.name for each in self._alterations)
        in_key = column in self._step.table.key_columns
        if was_added or changes:
            return (column.nullable or (self._relaxed and there.nullable)) and not in_key
        return there.nullable and not in_key

    def _retyped(self, there: TargetColumn, column: Column) -> str | None:
        """A column that we declared follows; one that somebody declared wider stays, if it keeps what comes now."""
        before = self._step.before
        assert before is not None
        old = self._old_version(there)
        wanted = declaration(self._step.table, column)
        if old is not None and declaration(before, old) == wanted and keeps_exactly(column.type, there.declared):
            return None
        ours = old is not None and _is(there.full_type, declaration(before, old))
        if _is(there.full_type, wanted) or not (ours or not keeps_exactly(column.type, there.declared)):
            return None
        return full_declaration(self._step.table, column, self._collation)

    def _old_version(self, there: TargetColumn) -> Column | None:
        assert self._step.before is not None
        same = [each for each in self._step.before.columns if folded(each.name) == folded(there.name)]
        return same[0] if same else None


def _is(full_type: str, declared: str) -> bool:
    """Whether information_schema says this of a type of ours. MariaDB still tells how wide integers are shown."""
    return _INTEGER_WIDTH.sub(r"\1", full_type) == _INTEGER_WIDTH.sub(r"\1", declared.lower())
