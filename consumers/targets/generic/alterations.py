"""A table is altered by making it anew: SQLAlchemy Core has no ALTER TABLE, and databases differ in theirs.

All in the caller's transaction, so only where a database can roll such statements back.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from cdc.core.errors import TargetSchemaError
from cdc.core.settings import SchemaChanges
from cdc.core.tables import TableId, TableSchema
from consumers.plan.alterations import AddColumn, Alteration, DropColumn, RenameColumn, alterations
from consumers.plan.steps import AlterTable
from consumers.targets.generic.schema import PreparedTables, Shape, StoredColumn
from consumers.targets.generic.session import GenericSession
from consumers.targets.generic.types import MADE_ANEW, RowCodec, type_named
from consumers.targets.naming import flat_name
from consumers.targets.policy import Done, is_left_alone, may_drop, require_allowed

_ASIDE: Final = "cdc_aside"


class Alterer:
    """Follows the source's changes of tables, as far as `policy` lets it."""

    def __init__(self, session: GenericSession, tables: PreparedTables, policy: SchemaChanges) -> None:
        self._session = session
        self._tables = tables
        self._policy = policy

    def alter(self, step: AlterTable) -> None:
        """Bring the table to the step's version. One that is not there is left to whoever writes to it first."""
        if step.before is None:
            return
        here, there = step.before.id, self._tables.shape_of(step.before.id)
        if there is None:
            here, there = step.table.id, self._tables.shape_of(step.table.id)
        if there is None:
            return
        wanted = self._tables.wanted(step.table)
        followed = [each for each in alterations(step) if not is_left_alone(each, self._policy)]
        if not followed or (here == step.table.id and set(there) == set(wanted) and not _replaces(followed)):
            return
        self._require_possible(step.table.id)
        require_allowed(step.table.id, [Done(each, [f"{each!r}"]) for each in followed], self._policy)
        self._make_anew(step, here, there, followed)

    def drop(self, table: TableId) -> None:
        there = self._tables.shape_of(table)
        if there is not None and may_drop(table, f"DROP TABLE {flat_name(table)}", self._policy):
            self._require_possible(table)
            doing = f"dropping table {table}"
            self._session.define(sa.schema.DropTable(_named(flat_name(table), there)), doing=doing)
            self._tables.unrecord(table)

    def _make_anew(self, step: AlterTable, here: TableId, there: Shape, followed: list[Alteration]) -> None:
        doing = f"altering table {step.table.id}"
        sources = _sources(there, followed, step.table)
        kept = tuple(
            column._replace(nullable=True, in_key=False)
            for column in there
            if column.name not in {*sources.values(), *(each.name for each in step.table.columns)}
            and not _is_dropped(column.name, followed)
        )
        old = _named(flat_name(here), there)
        if flat_name(here) == flat_name(step.table.id):
            aside = self._define(step.table, _ASIDE, kept, doing)
            self._copy(step, sources, there, kept, aside, flat_name(here))
            self._session.define(sa.schema.DropTable(old), doing=doing)
            new = self._define(step.table, flat_name(step.table.id), kept, doing)
            names = [column.name for column in new.columns]
            everything = new.insert().from_select(names, sa.select(*(aside.c[name] for name in names)))
            self._session.execute(everything, doing=doing)
            self._session.define(sa.schema.DropTable(aside), doing=doing)
        else:
            new = self._define(step.table, flat_name(step.table.id), kept, doing)
            self._copy(step, sources, there, kept, new, flat_name(here))
            self._session.define(sa.schema.DropTable(old), doing=doing)
            self._tables.unrecord(here)
        self._tables.record(step.table.id, (*self._tables.wanted(step.table), *kept))

    def _define(self, version: TableSchema, name: str, kept: Shape, doing: str) -> sa.Table:
        table = self._tables.defined(version, name)
        for column in kept:
            table.append_column(sa.Column(column.name, type_named(column.form), nullable=True))
        self._session.define(sa.schema.CreateTable(table), doing=doing)
        return table

    def _copy(
        self, step: AlterTable, sources: dict[str, str], there: Shape, kept: Shape, new: sa.Table, name: str
    ) -> None:
        doing, old = f"altering table {step.table.id}", _named(name, there)
        codec = RowCodec(step.table, self._tables.forms)
        selected: list[sa.ColumnElement[object]] = []
        for index, (column, form) in enumerate(zip(step.table.columns, codec.forms, strict=True)):
            source = sources.get(column.name)
            if source is None:
                value = codec.value(index, step.fills.get(column.name))
                selected.append(sa.cast(form.constant(value), form.type))
            else:
                same = any(each.name == source and each.form == form.name for each in there)
                selected.append(old.c[source] if same else sa.cast(old.c[source], form.type))
        selected += [old.c[column.name] for column in kept]
        names = [*(column.name for column in step.table.columns), *(column.name for column in kept)]
        self._session.execute(new.insert().from_select(names, sa.select(*selected)), doing=doing)

    def _require_possible(self, table: TableId) -> None:
        if not self._tables.transactional:
            raise TargetSchemaError(
                f"table {table} was changed at the source; {self._session.dialect} commits what defines tables by"
                " itself, so that a crash in between could lose rows",
                mend=MADE_ANEW,
            )


def _sources(there: Shape, followed: list[Alteration], version: TableSchema) -> dict[str, str]:
    """By the new names of columns, what they are called at the target now; those that are added have none."""
    called = {column.name: column.name for column in there if not _is_dropped(column.name, followed)}
    for each in followed:
        if isinstance(each, RenameColumn) and each.old in called:
            called[each.new] = called.pop(each.old)
    added = {each.column.name for each in followed if isinstance(each, AddColumn)}
    brought = {column.name for column in version.columns} - added
    return {new: old for new, old in called.items() if new in brought}


def _is_dropped(name: str, followed: list[Alteration]) -> bool:
    return any(isinstance(each, DropColumn) and each.name == name for each in followed)


def _replaces(followed: list[Alteration]) -> bool:
    """Whether another column has the name of one that is there."""
    return any(isinstance(each, AddColumn | DropColumn | RenameColumn) for each in followed)


def _named(name: str, shape: Shape) -> sa.Table:
    """As SQLAlchemy needs it to read from and drop."""
    return sa.Table(name, sa.MetaData(), *(_column(column) for column in shape))


def _column(column: StoredColumn) -> sa.Column[object]:
    return sa.Column(column.name, sa.types.NULLTYPE)
