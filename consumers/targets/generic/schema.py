"""The tables of a generic target: our own, and those that the applier has made.

What a table of others keeps can't be asked of every database. So the applier writes only to tables that it made; what
each was made of stands in `cdc_table`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from typing_extensions import override

from cdc.core.errors import TargetError, TargetSchemaError
from cdc.core.tables import TableId, TableSchema
from consumers.targets.generic.session import GenericSession
from consumers.targets.generic.types import MADE_ANEW, Form, Forms, RowCodec
from consumers.targets.naming import flat_name
from consumers.targets.prepared import PreparedVersions
from consumers.targets.schema_check import refuse_own_table

_OURS: Final = sa.MetaData()

APPLIER: Final = sa.Table(
    "cdc_applier",
    _OURS,
    sa.Column("name", sa.String(255), primary_key=True),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("log_id", sa.String(255)),
    sa.Column("owner", sa.String(500), nullable=False),
)
CHECKPOINT: Final = sa.Table(
    "cdc_checkpoint",
    _OURS,
    sa.Column("applier", sa.String(255), primary_key=True),
    sa.Column("topic", sa.String(500), primary_key=True),
    sa.Column("partition", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("commit_lsn", sa.BigInteger, nullable=False),
    sa.Column("ordinal", sa.BigInteger, nullable=False),
    sa.Column("next_offset", sa.BigInteger, nullable=False),
)
TABLE: Final = sa.Table(
    "cdc_table",
    _OURS,
    sa.Column("folded_name", sa.String(300), primary_key=True),
    sa.Column("source_schema", sa.String(255), nullable=False),
    sa.Column("source_table", sa.String(255), nullable=False),
    sa.Column("shape", sa.Text, nullable=False),
)


class StoredColumn(NamedTuple):
    """`form` is a name of `Form`; `in_key` whether it is of the primary key."""

    name: str
    form: str
    nullable: bool
    in_key: bool


Shape = tuple[StoredColumn, ...]


class PreparedTable(NamedTuple):
    version: TableSchema
    table: sa.Table
    codec: RowCodec


def create_own_tables(session: GenericSession) -> None:
    """Those that are missing."""
    doing = "creating the checkpoint tables"
    for table in _OURS.sorted_tables:
        with session.transaction(doing=doing):
            if not session.has_table(table.name, doing=doing):
                session.define(sa.schema.CreateTable(table), doing=doing)


class PreparedTables(PreparedVersions[PreparedTable]):
    """See `PreparedVersions`. `transactional`: whether the database can roll back what defines tables."""

    def __init__(self, session: GenericSession, forms: Forms, *, transactional: bool) -> None:
        super().__init__(session)
        self._session = session
        self.forms = forms
        self.transactional = transactional

    def is_prepared(self, version: TableSchema) -> bool:
        return version in self._prepared

    def shape_of(self, table: TableId) -> Shape | None:
        """What the table was made of; None if it was not made."""
        found = self._claimed(flat_name(table), doing=f"looking up table {table}")
        return found[1] if found and found[0] == table else None

    def record(self, table: TableId, shape: Shape) -> None:
        """The name is this table's from now on."""
        doing = f"preparing table {table}"
        self.unrecord(table)
        row = {
            "folded_name": flat_name(table).lower(),
            "source_schema": table.schema,
            "source_table": table.name,
            "shape": json.dumps(shape),
        }
        self._session.execute_many(TABLE.insert(), [row], doing=doing)

    def unrecord(self, table: TableId) -> None:
        gone = TABLE.delete().where(TABLE.c.folded_name == flat_name(table).lower())
        self._session.execute(gone, doing=f"preparing table {table}")

    def wanted(self, version: TableSchema) -> Shape:
        codec = RowCodec(version, self.forms)
        return tuple(
            StoredColumn(column.name, form.name, column.nullable, index in version.key)
            for index, (column, form) in enumerate(zip(version.columns, codec.forms, strict=True))
        )

    def defined(self, version: TableSchema, name: str) -> sa.Table:
        """For SQLAlchemy, under that name."""
        forms = RowCodec(version, self.forms).forms
        columns: list[Any] = [
            sa.Column(column.name, form.type, nullable=column.nullable, autoincrement=False)
            for column, form in zip(version.columns, forms, strict=True)
        ]
        if version.key:
            columns.append(sa.PrimaryKeyConstraint(*(column.name for column in version.key_columns)))
        return sa.Table(name, sa.MetaData(), *columns)

    @override
    def _made_ready(self, version: TableSchema) -> PreparedTable:
        name, doing = flat_name(version.id), f"preparing table {version.id}"
        codec = RowCodec(version, self.forms)
        self._refuse_impossible(version, name, codec.forms)
        wanted, found = self.wanted(version), self._claimed(name, doing=doing)
        table = self.defined(version, name)
        if found is not None and found[0] != version.id:
            raise TargetSchemaError(
                f"source tables {found[0]} and {version.id} would both be {name!r} at the target",
                mend="exclude one of them in the target's tables",
            )
        there = self._session.has_table(name, doing=doing)
        if there and (found is None or not _takes(found[1], wanted)):
            raise _not_ours(name, None if found is None else found[1], wanted)
        if not there:
            # The record first: a database may commit the rest by itself.
            self.record(version.id, wanted)
            self._session.define(sa.schema.CreateTable(table), doing=f"creating table {version.id}")
        return PreparedTable(version, table, codec)

    def _claimed(self, name: str, *, doing: str) -> tuple[TableId, Shape] | None:
        columns = (TABLE.c.source_schema, TABLE.c.source_table, TABLE.c.shape)
        rows = self._session.query(sa.select(*columns).where(TABLE.c.folded_name == name.lower()), doing=doing)
        if not rows:
            return None
        try:
            shape = tuple(StoredColumn(*column) for column in json.loads(rows[0][2]))
        except (TypeError, ValueError):
            raise TargetError(f"cdc_table was edited at the target: its shape of {name!r} can't be read") from None
        return TableId(rows[0][0], rows[0][1]), shape

    def _refuse_impossible(self, version: TableSchema, name: str, forms: Sequence[Form]) -> None:
        refuse_own_table(version, name.lower())
        names = {column.name.lower() for column in version.columns}
        compared = version.key or range(len(version.columns))
        reason = None
        if not names or len(names) < len(version.columns):
            reason = "it has no columns" if not names else "case may not tell its columns apart"
        elif any(forms[index].name == "text" for index in compared) and not self.forms.compares_exactly():
            reason = "texts that differ are equal there (by case, accents or blanks at the end), and would be one key"
        if reason is not None:
            raise TargetSchemaError(
                f"table {version.id} can't be in {self._session.dialect}: {reason}",
                mend="exclude it in the target's tables",
            )


def _takes(there: Shape, wanted: Shape) -> bool:
    """Columns that are only there must take NULL."""
    present = {column.name: column for column in there}
    brought = {column.name for column in wanted}
    same = all(
        (found := present.get(column.name)) is not None
        and (found.form, found.in_key) == (column.form, column.in_key)
        and (found.nullable or not column.nullable)
        for column in wanted
    )
    return same and all(column.nullable for column in there if column.name not in brought)


def _not_ours(name: str, there: Shape | None, wanted: Shape) -> TargetSchemaError:
    if there is None:
        what = f"target table {name!r} is there, and was not made by the applier: what it keeps can't be told here"
    else:
        found, asked = ({column.name for column in shape} for shape in (there, wanted))
        differ = sorted(asked - found) or sorted(found - asked) or _differing(there, wanted)
        what = f"target table {name!r} has not the source's columns: {', '.join(differ)}"
    return TargetSchemaError(what, mend=MADE_ANEW)


def _differing(there: Iterable[StoredColumn], wanted: Iterable[StoredColumn]) -> list[str]:
    return sorted({column.name for column in {*there} ^ {*wanted}})
