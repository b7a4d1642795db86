"""What SQLite can't do, or does without a word: handled, or refused by name."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from target_databases import Sqlite
from target_steps import KEYLESS, ONE, ORDERS, advance, apply, at, numbered, text, upserted, version

from cdc.core.errors import ConstraintError, TargetSchemaError, UnfollowedError
from cdc.core.events import UNCHANGED
from cdc.core.tables import Column
from cdc.core.types import ColumnType, Kind
from consumers.plan.steps import AlterTable, MoveRow, WriteRows
from consumers.targets.sqlite import SqliteTarget
from consumers.targets.sqlite.session import SqliteSession
from consumers.targets.target import Target


@pytest.fixture
def database(tmp_path: Path) -> Sqlite:
    return Sqlite(tmp_path)


@pytest.fixture
def target(database: Sqlite) -> Iterator[Target]:
    with database.opened() as target:
        yield target


def run_script(database: Sqlite, mend: str | None) -> None:
    """As people do it, in a connection that differs from ours."""
    statements = str(mend).removeprefix("at the target: ").removesuffix("; then start the applier again")
    with closing(sqlite3.connect(database.url.removeprefix("sqlite:///"))) as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.executescript(statements)
        assert not connection.in_transaction


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


# -- what changes rows without a word --------------------------------------------------------------------------------


def test_a_number_that_may_be_null_is_not_a_row_s_own(database, target):
    """SQLite gives a NULL there the next number."""
    database.execute("CREATE TABLE orders (n integer PRIMARY KEY, id TEXT NOT NULL UNIQUE)")
    number = Column(name="n", type=INTEGER)
    with pytest.raises(TargetSchemaError, match="column n: INTEGER PRIMARY KEY") as raised:
        target.prepare(version(number, text("id", nullable=False), key=(1,)))
    assert raised.value.mend
    table = version(replace(number, nullable=False), text("id", nullable=False), key=(1,))
    upserted(target, (b"7", b"a"), table=table)
    assert database.rows(table) == [(b"7", b"a")]


@pytest.mark.parametrize(
    "clause", ["b TEXT NOT NULL ON CONFLICT REPLACE DEFAULT 'none'", "b TEXT, UNIQUE (a) on\nconflict ignore"]
)
def test_conflicts_that_are_settled_silently_are_refused(database, target, clause):
    database.execute(f"CREATE TABLE orders (id TEXT PRIMARY KEY, a TEXT, {clause})")
    with pytest.raises(TargetSchemaError, match="'orders' has ON CONFLICT") as raised:
        target.prepare(ORDERS)
    assert raised.value.mend


# -- tables that are made anew ---------------------------------------------------------------------------------------

BEFORE = version(replace(NUMBER, id=1), numbered("a", 2, nullable=False), numbered("b", 3))


def altered(*columns: Column, key: tuple[int, ...] = (0,), **fills: bytes) -> AlterTable:
    return AlterTable(version(*columns, key=key), BEFORE, fills=fills)


ID, A, B = BEFORE.columns
DROPPED = altered(ID, A)
ADDED = altered(ID, A, B, numbered("c", 4))
REQUIRED = altered(ID, A, B, numbered("c", 4, nullable=False), c=b'it\'s; "new"\n\\')
NULLABLE = altered(ID, replace(A, nullable=True), B)
NOT_NULL = altered(ID, A, replace(B, nullable=False))
RETYPED = altered(ID, replace(A, type=INTEGER), B)
REKEYED = altered(ID, A, B, key=(1,))
RENAMED = altered(ID, replace(A, name="title"), B)
EVERYTHING = AlterTable(
    replace(
        version(replace(ID, type=A.type), replace(A, name="title"), numbered("c", 4)),
        id=ORDERS.id._replace(name="moved"),
    ),
    BEFORE,
    fills={"c": b"c"},
)

ROWS = [(b"1", b"7", b"y"), (b"2", b"8", b"z")]


def changed(step: AlterTable) -> list[tuple[bytes | None, ...]]:
    """The rows as they are after the step."""
    before = {column.id: index for index, column in enumerate(BEFORE.columns)}
    return [
        tuple(row[before[each.id]] if each.id in before else step.fills.get(each.name) for each in step.table.columns)
        for row in ROWS
    ]


def test_a_table_made_anew_keeps_the_defaults_of_the_target_s_own_columns(database, target):
    defaults = {
        "seen": "(datetime('now'))",
        "stamp": "CURRENT_TIMESTAMP",
        "sum": "(1 + 2)",
        "minus": "-5",
        "hex": "X'00ff'",
        "quoted": "'it''s (x)'",
        "bare": "word",
        "double": '"two words"',
        "yes": "true",
    }
    columns = ", ".join(f"{name} DEFAULT {default}" for name, default in defaults.items())
    database.execute(f"CREATE TABLE orders (id INTEGER PRIMARY KEY NOT NULL, a TEXT NOT NULL, b TEXT, {columns})")
    upserted(target, *ROWS, table=BEFORE)
    advance(target, {ONE: at(2)}, REQUIRED)
    apply(target, WriteRows(REQUIRED.table, upserts=[(b"3", b"x", b"y", b"z")]), ordinal=3)
    found = database.execute(f"SELECT {', '.join(defaults)} FROM orders WHERE seen > '2020' AND stamp > '2020'")
    assert [row[2:] for row in found] == [(3, -5, b"\x00\xff", "it's (x)", "word", "two words", 1)] * 3


OWN = {
    "unique (a)": "CREATE TABLE orders (id INTEGER PRIMARY KEY NOT NULL, a TEXT NOT NULL UNIQUE, b TEXT)",
    "unique (a, b)": "CREATE TABLE orders (id INTEGER PRIMARY KEY NOT NULL, a TEXT NOT NULL, b TEXT, UNIQUE (a, b))",
    "check": "CREATE TABLE orders (id INTEGER PRIMARY KEY NOT NULL, a TEXT NOT NULL, b TEXT, Check\n(b <> 'bad'))",
    "collation": "CREATE TABLE orders (id INTEGER PRIMARY KEY NOT NULL, a TEXT NOT NULL collate nocase, b TEXT)",
    "AUTOINCREMENT": "CREATE TABLE orders (id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, a TEXT NOT NULL, b TEXT)",
    "ON CONFLICT": "CREATE TABLE orders (id INTEGER PRIMARY KEY NOT NULL ON CONFLICT FAIL, a TEXT NOT NULL, b TEXT)",
    "STRICT": "CREATE TABLE orders (id INTEGER PRIMARY KEY NOT NULL, a TEXT NOT NULL, b TEXT) STRICT",
    "WITHOUT ROWID": "CREATE TABLE orders (id INTEGER PRIMARY KEY NOT NULL, a TEXT NOT NULL, b TEXT) WITHOUT ROWID",
    "foreign key b to other": "CREATE TABLE orders (id INTEGER PRIMARY KEY NOT NULL, a TEXT NOT NULL,"
    " b TEXT REFERENCES other)",
    "generated column g": "CREATE TABLE orders (id INTEGER PRIMARY KEY NOT NULL, a TEXT NOT NULL, b TEXT, g AS (id))",
}


@pytest.mark.parametrize("policy", ["follow", "add-only", "stop"])
@pytest.mark.parametrize("own", OWN)
def test_what_a_new_table_would_lack_is_for_people_to_keep(database, policy, own):
    """What ALTER TABLE can do does not lose it."""
    database.execute(OWN[own])
    with database.opened(schema_changes=policy) as target:
        upserted(target, *ROWS, table=BEFORE)
        with pytest.raises(UnfollowedError, match=rf"orders.* has .*{re.escape(own)}") as raised:
            advance(target, {ONE: at(2)}, REQUIRED)
        assert '"c" TEXT NOT NULL, PRIMARY KEY ("id")' in str(raised.value.mend)
        assert database.rows(BEFORE) == ROWS
        database.execute("ALTER TABLE orders ADD COLUMN c TEXT NOT NULL DEFAULT ''")
        advance(target, {ONE: at(2)}, REQUIRED)
        assert database.rows(REQUIRED.table) == changed(REQUIRED)


def test_words_in_texts_names_and_comments_are_no_constraints(database, target):
    database.execute(
        "CREATE TABLE orders (id INTEGER PRIMARY KEY NOT NULL, -- CHECK (id > 0)\n a TEXT NOT NULL COLLATE binary,"
        """ b TEXT, "COLLATE" TEXT DEFAULT 'CHECK ( COLLATE x', [CHECK (] TEXT, `AUTOINCREMENT` /* ON CONFLICT */)"""
    )
    upserted(target, *ROWS, table=BEFORE)
    assert isinstance(target, SqliteTarget)
    assert not [word for word in target.features([BEFORE.id])[BEFORE.id] if not word.startswith("column ")]
    advance(target, {ONE: at(2)}, REQUIRED)
    assert database.rows(REQUIRED.table) == changed(REQUIRED)


def test_a_rebuild_tells_what_it_would_not_take_along(database, target):
    assert isinstance(target, SqliteTarget)
    for own, statement in OWN.items():
        database.execute("DROP TABLE IF EXISTS orders")
        database.execute(statement)
        said = ", ".join(target.features([BEFORE.id])[BEFORE.id])
        assert own in said or "GENERATED" in said


def test_a_key_and_types_of_the_target_s_own_stay(database):
    """Where nothing happened to the source's."""
    database.execute(
        "CREATE TABLE orders (own INTEGER PRIMARY KEY, id BIGINT NOT NULL UNIQUE, a VARCHAR(9) NOT NULL UNIQUE, b TEXT)"
    )
    with database.opened(schema_changes="add-only") as target:
        upserted(target, *ROWS, table=BEFORE)
        wider = version(replace(ID, type=ColumnType(kind=Kind.INT64, name="bigint")), A, B, numbered("c", 4))
        step = AlterTable(wider, BEFORE, fills={"c": b"c"})
        advance(target, {ONE: at(2)}, step)
    assert database.rows(wider) == changed(step)
    assert database.execute("SELECT own, typeof(own) FROM orders") == [(1, "integer"), (2, "integer")]
    declared = database.execute("SELECT type, pk FROM pragma_table_info('orders')")
    assert declared == [("INTEGER", 1), ("BIGINT", 0), ("VARCHAR(9)", 0), ("TEXT", 0), ("TEXT", 0)]


# -- what a policy leaves to people ----------------------------------------------------------------------------------

STEPS = {
    "added": ADDED,
    "added with values": REQUIRED,
    "nullable": NULLABLE,
    "not null": NOT_NULL,
    "type": RETYPED,
    "key": REKEYED,
    "dropped": DROPPED,
    "renamed": RENAMED,
    "everything": EVERYTHING,
}
ADDITIVE = ["added", "added with values", "nullable"]


@pytest.fixture
def watched(database: Sqlite) -> Sqlite:
    """With what people made at the table, and at others."""
    with database.opened() as target:
        upserted(target, *ROWS, table=BEFORE)
    database.execute("CREATE TABLE child (item INTEGER REFERENCES orders ON DELETE CASCADE)")
    database.execute("INSERT INTO child VALUES (1)")
    database.execute("CREATE TABLE heard (what TEXT)")
    database.execute("CREATE INDEX by_id ON orders (id -- and no other\n)")
    database.execute("CREATE VIEW ids AS SELECT id FROM orders")
    database.execute(
        "CREATE TRIGGER hear AFTER INSERT ON orders BEGIN\n  INSERT INTO heard VALUES (new.id);\n  SELECT 1; -- ;\nEND"
    )
    return database


def require_followed(database: Sqlite, step: AlterTable) -> None:
    """Table and rows are as the step makes them, and as a new table would be; and what people made is there."""
    name = step.table.id.name
    assert database.rows(step.table) == changed(step)
    ((found,),) = database.execute(f"SELECT sql FROM sqlite_master WHERE name = '{name}'")
    assert "cdc_" not in found
    columns = {column.name: column for column in step.table.columns}
    key = [column.name for column in step.table.key_columns]
    for of, declared, not_null, place in database.execute(
        f"SELECT name, type, \"notnull\", pk FROM pragma_table_info('{name}')"
    ):
        column = columns.pop(of)
        assert declared == ("INTEGER" if column.type == INTEGER else "TEXT")
        assert bool(not_null) is not column.nullable
        assert place == (key.index(of) + 1 if of in key else 0)
    assert not columns
    assert database.execute("SELECT id FROM ids ORDER BY 1") == database.execute(f'SELECT id FROM "{name}" ORDER BY 1')
    assert database.execute("SELECT item FROM child") == [(1,)]
    assert database.execute(f"SELECT name FROM sqlite_master WHERE type = 'index' AND tbl_name = '{name}' AND sql > ''")
    heard = len(database.execute("SELECT * FROM heard"))
    row = tuple(b"9" for _ in step.table.columns)
    with database.opened() as target:
        apply(target, WriteRows(step.table, upserts=[row]), ordinal=9)
    assert len(database.execute("SELECT * FROM heard")) == heard + 1


@pytest.mark.parametrize("change", ADDITIVE)
def test_add_only_follows_what_it_promises(watched, change):
    with watched.opened(schema_changes="add-only") as target:
        advance(target, {ONE: at(2)}, STEPS[change])
    require_followed(watched, STEPS[change])


@pytest.mark.parametrize(
    ("policy", "change"),
    [
        *(("stop", change) for change in STEPS),
        *(("add-only", change) for change in STEPS if change not in [*ADDITIVE, "dropped", "everything"]),
    ],
)
def test_people_run_the_statements_and_the_applier_goes_on(watched, policy, change):
    step = STEPS[change]
    shape = "SELECT type, name, sql FROM sqlite_master ORDER BY 1, 2"
    before = watched.execute(shape)
    with watched.opened(schema_changes=policy) as target:
        with pytest.raises(UnfollowedError, match=policy) as raised:
            advance(target, {ONE: at(2)}, step)
        assert watched.rows(BEFORE) == ROWS
        assert watched.execute(shape) == before
    run_script(watched, raised.value.mend)
    with watched.opened(schema_changes=policy) as target:
        advance(target, {ONE: at(2)}, step)
    require_followed(watched, step)


def test_a_column_that_people_added_without_its_values_gets_them(database):
    """And what is left to be done is said again, so that it can be run."""
    with database.opened(schema_changes="stop") as target:
        upserted(target, *ROWS, table=BEFORE)
        database.execute("ALTER TABLE orders ADD COLUMN c VARCHAR(20)")
        with pytest.raises(UnfollowedError, match="stop") as raised:
            advance(target, {ONE: at(2)}, REQUIRED)
    run_script(database, raised.value.mend)
    with database.opened(schema_changes="stop") as target:
        advance(target, {ONE: at(2)}, REQUIRED)
    assert database.rows(REQUIRED.table) == changed(REQUIRED)


@pytest.mark.parametrize(
    ("type_", "fill", "stored"),
    [
        (ColumnType(kind=Kind.INT64, name="bigint"), b"-9223372036854775808", -9223372036854775808),
        (ColumnType(kind=Kind.FLOAT64, name="double precision"), b"1e+22", 1e22),
        (ColumnType(kind=Kind.FLOAT64, name="double precision"), b"0.1", 0.1),
        (ColumnType(kind=Kind.FLOAT64, name="double precision"), b"-Infinity", float("-inf")),
        (ColumnType(kind=Kind.BOOLEAN, name="boolean"), b"t", 1),
        (ColumnType(kind=Kind.BYTES, name="bytea"), rb"\x00ff", b"\x00\xff"),
        (ColumnType(kind=Kind.DECIMAL, name="numeric"), b"1.50", "1.50"),
        (ColumnType(kind=Kind.STRING, name="text"), b"'; ?; --", "'; ?; --"),
    ],
)
def test_the_values_of_a_new_column_are_told_as_sql(database, type_, fill, stored):
    column = Column(name="c", type=type_, nullable=False, id=4)
    with database.opened(schema_changes="stop") as target:
        upserted(target, *ROWS, table=BEFORE)
        with pytest.raises(UnfollowedError) as raised:
            advance(target, {ONE: at(2)}, altered(ID, A, B, column, c=fill))
    run_script(database, raised.value.mend)
    assert database.execute("SELECT c FROM orders") == [(stored,), (stored,)]


def test_of_a_column_that_stayed_and_comes_again_nothing_old_is_left(database):
    again = altered(ID, A, replace(B, id=4))
    with database.opened(schema_changes="add-only") as target:
        upserted(target, *ROWS, table=BEFORE)
        advance(target, {ONE: at(2)}, again)
    assert database.rows(again.table) == changed(again) == [(b"1", b"7", None), (b"2", b"8", None)]
