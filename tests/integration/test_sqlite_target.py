"""What SQLite can't do, or does without a word: handled, or refused by name."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from target_databases import Sqlite
from target_steps import KEYLESS, ORDERS, apply, text, upserted, version

from cdc.core.errors import ConstraintError, TargetSchemaError
from cdc.core.events import UNCHANGED
from cdc.core.tables import Column
from cdc.core.types import ColumnType, Kind
from consumers.plan.steps import MoveRow, WriteRows
from consumers.targets.sqlite.session import SqliteSession
from consumers.targets.target import Target


@pytest.fixture
def database(tmp_path: Path) -> Sqlite:
    return Sqlite(tmp_path)


@pytest.fixture
def target(database: Sqlite) -> Iterator[Target]:
    with database.opened() as target:
        yield target


# -- texts that a column's collation takes for equal -----------------------------------------------------------------

COLLATIONS = pytest.mark.parametrize("collation", ["NOCASE", "RTRIM"])


@COLLATIONS
def test_removed_rows_are_compared_byte_for_byte(database, target, collation):
    database.execute(f"CREATE TABLE keyless (a TEXT COLLATE {collation}, b TEXT)")
    apply(target, WriteRows(KEYLESS, added=[(b"a", None), (b"A", None), (b"a ", None)]))
    apply(target, WriteRows(KEYLESS, removed=[(b"A", None), (b"a ", None)]))
    assert database.rows(KEYLESS) == [(b"a", None)]


@COLLATIONS
def test_keys_that_a_looser_collation_takes_for_equal_stay_apart(database, target, collation):
    """Also with the index that the error asks for."""
    database.execute(f"CREATE TABLE orders (id TEXT COLLATE {collation}, a TEXT, b TEXT)")
    with pytest.raises(TargetSchemaError, match="orders") as raised:
        target.prepare(ORDERS)
    database.execute(str(raised.value.mend))
    upserted(target, *((key, b"x", b"y") for key in (b"a", b"A", b"a ", b"B", b"b", b"b ")))
    apply(target, WriteRows(ORDERS, deletes=[(b"A",), (b"a ",)], partials=[(b"b", b"new", UNCHANGED)]))
    apply(target, MoveRow(ORDERS, (b"b ",), (b"c", UNCHANGED, UNCHANGED)))
    assert database.rows(ORDERS) == [
        (b"B", b"x", b"y"),
        (b"a", b"x", b"y"),
        (b"b", b"new", b"y"),
        (b"c", b"x", b"y"),
    ]


def test_an_upsert_does_not_take_another_row_for_its_own(database, target):
    """What else is unique at the target refuses it, as ever."""
    database.execute("CREATE TABLE orders (id TEXT COLLATE NOCASE, a TEXT, b TEXT)")
    database.execute("CREATE UNIQUE INDEX exact ON orders (id COLLATE BINARY)")
    database.execute("CREATE UNIQUE INDEX loose ON orders (id)")
    upserted(target, (b"a", b"x", b"y"))
    with pytest.raises(ConstraintError):
        upserted(target, (b"A", b"z", b"z"))
    upserted(target, (b"a", b"w", b"y"))
    assert database.rows(ORDERS) == [(b"a", b"w", b"y")]


INTEGER = ColumnType(kind=Kind.INT32, name="integer")
NUMBER = Column(name="id", type=INTEGER, nullable=False)


@pytest.mark.parametrize(
    "table",
    [
        ORDERS,
        version(NUMBER, text("a"), text("b")),
        version(NUMBER, text("a", nullable=False), text("b"), key=(0, 1)),
    ],
    ids=["text", "integer", "both"],
)
def test_rows_are_found_by_an_index(database, target, table, monkeypatch):
    ran: list[str] = []
    execute, execute_many = SqliteSession.execute, SqliteSession.execute_many
    monkeypatch.setattr(SqliteSession, "execute", lambda *args, **named: ran.append(args[1]) or execute(*args, **named))
    monkeypatch.setattr(
        SqliteSession, "execute_many", lambda *args, **named: ran.append(args[1]) or execute_many(*args, **named)
    )
    upserted(target, (b"1", b"x", b"y"), (b"2", b"x", b"y"), (b"3", b"x", b"y"), table=table)
    key = [b"2", b"x"][: len(table.key)]
    apply(target, WriteRows(table, deletes=[tuple(key)], partials=[(b"1", b"x", b"z")]))
    apply(target, MoveRow(table, (b"3", b"x")[: len(table.key)], (b"4", b"x", UNCHANGED)))
    assert database.rows(table) == [(b"1", b"x", b"z"), (b"4", b"x", b"y")]
    found = [sql for sql in ran if sql.startswith(("DELETE", "UPDATE")) and '"orders" ' in sql]
    assert len(found) == 3
    with closing(sqlite3.connect(database.url.removeprefix("sqlite:///"))) as connection:
        for sql in found:
            ((*_, found_by),) = connection.execute(f"EXPLAIN QUERY PLAN {sql}", [None] * sql.count("?")).fetchall()
            assert found_by.startswith("SEARCH")
            assert found_by.count("=?") == len(table.key)
