"""What every target does: tables of any name, and tables that are there already."""

from __future__ import annotations

import pytest
from target_databases import REFUSED
from target_steps import ON_DUCKDB, ON_POSTGRESQL, ORDERS, WITH_TABLES_OF_OTHERS, apply, text, upserted, version

from cdc.core.errors import (
    TargetSchemaError,
)
from cdc.core.events import UNCHANGED, Row
from cdc.core.tables import Column
from cdc.core.types import ColumnType, Kind
from consumers.plan.steps import MoveRow, WriteRows

NAMES = [
    'q"uote',
    "do.t",
    "per%cent %s",
    "UPPER",
    "with space",
    "select",
    "é\u00fc",
    "x" * 63,
    "back\\slash",
    "a;b--",
    "1st",
    "c0",
]


def test_any_name_will_do(database, target):
    columns = [text(name, nullable=index > 0) for index, name in enumerate(NAMES)]
    for name, schema in [*((name, "public") for name in NAMES), ("t", 'we"ird. schema %')]:
        table = version(*columns, name=name, schema=schema)
        row: Row = tuple(b"%d" % index for index in range(len(NAMES)))
        upserted(target, row, table=table)
        apply(target, WriteRows(table, partials=[(b"0", b"new", *[UNCHANGED] * (len(NAMES) - 2))]))
        apply(target, MoveRow(table, (b"0",), (b"9", *[UNCHANGED] * (len(NAMES) - 1))))
        assert database.rows(table) == [(b"9", b"new", *row[2:])]


def test_prepare_again_and_after_reopening(database):
    for _ in range(2):
        with database.opened() as target:
            target.prepare(ORDERS)
            target.prepare(version(*ORDERS.columns))
            upserted(target, (b"1", b"x", b"y"))
    assert database.rows(ORDERS) == [(b"1", b"x", b"y")]


@WITH_TABLES_OF_OTHERS
def test_another_order_of_columns_is_fine(database, target):
    database.execute(
        f"CREATE TABLE orders (b {database.text}, a {database.text}, id {database.key} PRIMARY KEY NOT NULL)"
    )
    upserted(target, (b"1", b"x", b"y"))
    assert database.rows(ORDERS) == [(b"1", b"x", b"y")]


@ON_DUCKDB
def test_a_table_of_others_is_refused(database, target):
    database.execute("CREATE TABLE orders (id text PRIMARY KEY, a text, b text)")
    with pytest.raises(TargetSchemaError, match=r"orders.* was not made by the applier") as raised:
        target.prepare(ORDERS)
    assert "drop all of them" in str(raised.value.mend)


@WITH_TABLES_OF_OTHERS
@pytest.mark.parametrize(
    ("columns", "named"),
    [("id KEY PRIMARY KEY, a TEXT", "b"), ("id KEY PRIMARY KEY, a TEXT, b TEXT, extra TEXT NOT NULL", "extra")],
)
def test_other_columns_are_refused_by_name(database, target, columns, named):
    declared = columns.replace("PRIMARY KEY", "primary key").replace("KEY", database.key)
    database.execute(f"CREATE TABLE orders ({declared.replace('TEXT', database.text)})")
    with pytest.raises(TargetSchemaError, match=rf"orders.*\b{named}\b") as raised:
        target.prepare(ORDERS)
    assert raised.value.mend


@WITH_TABLES_OF_OTHERS
def test_a_table_without_a_unique_key_is_refused(database, target):
    text_ = database.text
    database.execute(f"CREATE TABLE orders (id {text_}, a {text_}, b {text_})")
    with pytest.raises(TargetSchemaError, match="orders") as raised:
        target.prepare(ORDERS)
    database.execute(str(raised.value.mend))
    upserted(target, (b"1", b"x", b"y"))


def test_a_version_with_a_new_column_is_refused(target):
    target.prepare(ORDERS)
    with pytest.raises(TargetSchemaError, match="new_one"):
        target.prepare(version(*ORDERS.columns, text("new_one")))


def test_what_is_not_null_at_the_source_is_not_null_here(database, target):
    table = version(text("id", nullable=False), text("a", nullable=False), text("b"))
    target.prepare(table)
    with pytest.raises(REFUSED):
        database.execute("INSERT INTO orders (id, b) VALUES ('1', '2')")


@WITH_TABLES_OF_OTHERS
def test_columns_that_the_target_generates_are_left_to_it(database, target):
    database.execute(
        f"CREATE TABLE orders (id {database.key} PRIMARY KEY NOT NULL, a {database.text},"
        f" b {database.text} GENERATED ALWAYS AS ({database.exclamation}) STORED)"
    )
    upserted(target, (b"1", b"x", b"x!"))
    upserted(target, (b"1", b"y", b"y!"))
    apply(target, WriteRows(ORDERS, partials=[(b"1", b"z", UNCHANGED)]))
    assert database.rows(ORDERS) == [(b"1", b"z", b"z!")]


@ON_POSTGRESQL
def test_an_identity_column_takes_the_source_s_values(database, target):
    database.execute("CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a text, b text)")
    number = Column(name="id", type=ColumnType(kind=Kind.INT32, name="integer"), nullable=False)
    table = version(number, text("a"), text("b"))
    upserted(target, (b"7", b"x", b"y"), table=table)
    upserted(target, (b"7", b"z", b"y"), table=table)
    assert database.rows(table) == [(b"7", b"z", b"y")]
