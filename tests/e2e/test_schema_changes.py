"""Changes of a table's shape arrive at their place in the stream, at PostgreSQL and SQLite targets."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from replica import Replica

Databases = Callable[..., str]
VERSIONS = [15, 16, 18]


class Pair:
    """A source, a PostgreSQL and a SQLite target of it, and a connection to write with."""

    def __init__(self, source: str, target: str, folder: Path, name: str, **options: object) -> None:
        self.source, self.target, self.lite = source, target, folder / "replica.db"
        targets = {"pg": target, "lite": f"sqlite:///{self.lite}"}
        self.replica = Replica(source, targets, name=name, options=options)
        self.writer = psycopg.connect(source, autocommit=True)

    def run(self, *statements: str) -> None:
        for statement in statements:
            self.writer.execute(statement)

    def in_one(self, *statements: str) -> None:
        with self.writer.transaction():
            self.run(*statements)

    def assert_equal(self, *tables: str) -> None:
        self.replica.catch_up()
        for table in tables:
            expected = columns(self.source, table)
            found = columns(self.target, table)
            if not any(is_key for *_, is_key in expected):  # then the target's key is what rows are told apart by
                expected, found = [each[:3] for each in expected], [each[:3] for each in found]
            assert found == expected
            assert rows(self.target, table) == rows(self.source, table)
            names = [name for name, *_ in columns(self.source, table)]
            assert self.lite_rows(table, names) == rows(self.source, table)

    def assert_gone(self, table: str) -> None:
        self.replica.catch_up()
        assert columns(self.target, table) == []
        with sqlite3.connect(self.lite) as lite:
            assert lite.execute("SELECT 1 FROM sqlite_master WHERE name = ?", [table]).fetchall() == []

    def lite_rows(self, table: str, names: list[str]) -> list[tuple[str | None, ...]]:
        listed = ", ".join(f'"{name}"' for name in names)
        with sqlite3.connect(self.lite) as lite:
            present = [name for (name,) in lite.execute("SELECT name FROM pragma_table_info(?)", [table])]
            assert sorted(present) == sorted(names)
            found = lite.execute(f'SELECT {listed} FROM "{table}"').fetchall()
        return sorted((tuple(None if value is None else str(value) for value in row) for row in found), key=repr)


def columns(url: str, table: str) -> list[tuple[str, str, bool, bool]]:
    """Name, type, NOT NULL and whether in the primary key; in alphabetical order: a target's may differ."""
    with psycopg.connect(url) as connection:
        found = connection.execute(
            "SELECT a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,"
            " coalesce(a.attnum = ANY (i.indkey), false)"
            " FROM pg_attribute a LEFT JOIN pg_index i ON i.indrelid = a.attrelid AND i.indisprimary"
            " WHERE a.attrelid = to_regclass(%s) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY 1",
            [f'"{table}"'],
        )
        return found.fetchall()  # type: ignore[return-value]


def rows(url: str, table: str) -> list[tuple[str | None, ...]]:
    names = [name for name, *_ in columns(url, table)]
    with psycopg.connect(url, options="-c TimeZone=UTC -c IntervalStyle=iso_8601") as connection:
        listed = ", ".join(f'"{name}"::text' for name in names)
        found = connection.execute(f'SELECT {listed} FROM "{table}"'.encode()).fetchall()
    return sorted(found, key=repr)


@pytest.fixture(params=VERSIONS)
def pair(request: pytest.FixtureRequest, new_database: Databases, tmp_path: Path, unique_name: str) -> Iterator[Pair]:
    version = request.param
    made = Pair(new_database(version=version), new_database(version=version), tmp_path, unique_name)
    made.run(
        "CREATE TABLE item (id int PRIMARY KEY, name text NOT NULL, price numeric(8,2), note text)",
        "INSERT INTO item SELECT g, 'name ' || g, g, CASE WHEN g % 2 = 0 THEN 'n' END FROM generate_series(1, 50) g",
        "CREATE TABLE other (id int PRIMARY KEY, v text)",
    )
    with made.replica:
        yield made
        made.writer.close()


def test_empty_tables_are_made(pair):
    pair.assert_equal("item", "other")


ALTERATIONS = {
    "add": ["ALTER TABLE item ADD COLUMN extra int"],
    "add with default": ["ALTER TABLE item ADD COLUMN extra text NOT NULL DEFAULT 'it''s \\ \"new\"'"],
    "add with volatile default": ["ALTER TABLE item ADD COLUMN extra double precision DEFAULT random()"],
    "add array with default": ["ALTER TABLE item ADD COLUMN extra int[] DEFAULT '{1,NULL}'"],
    "drop": ["ALTER TABLE item DROP COLUMN note"],
    "rename": ["ALTER TABLE item RENAME COLUMN note TO remark"],
    "drop and add the same name": ["ALTER TABLE item DROP COLUMN note", "ALTER TABLE item ADD COLUMN note text"],
    "drop and add in one": ["ALTER TABLE item DROP COLUMN note, ADD COLUMN note int DEFAULT 3"],
    "swap names": [
        "ALTER TABLE item RENAME COLUMN note TO x",
        "ALTER TABLE item RENAME COLUMN name TO note",
        "ALTER TABLE item RENAME COLUMN x TO name",
    ],
    "widen": ["ALTER TABLE item ALTER COLUMN price TYPE numeric(12,4)"],
    "widen key": ["ALTER TABLE item ALTER COLUMN id TYPE bigint"],
    "narrow": ["ALTER TABLE item ALTER COLUMN price TYPE integer"],
    "using": ["ALTER TABLE item ALTER COLUMN name TYPE integer USING length(name)"],
    "using, same type": ["ALTER TABLE item ALTER COLUMN name TYPE text USING upper(name)"],
    "to varchar": ["ALTER TABLE item ALTER COLUMN name TYPE varchar(40)"],
    "not null": ["UPDATE item SET note = '' WHERE note IS NULL", "ALTER TABLE item ALTER COLUMN note SET NOT NULL"],
    "null": ["ALTER TABLE item ALTER COLUMN name DROP NOT NULL", "UPDATE item SET name = NULL WHERE id = 3"],
    "default": ["ALTER TABLE item ALTER COLUMN note SET DEFAULT 'x'"],
    "other key": ["ALTER TABLE item DROP CONSTRAINT item_pkey", "ALTER TABLE item ADD PRIMARY KEY (name)"],
    "wider key": ["ALTER TABLE item DROP CONSTRAINT item_pkey", "ALTER TABLE item ADD PRIMARY KEY (name, id)"],
    "identity full": ["ALTER TABLE item REPLICA IDENTITY FULL"],
    "no key": ["ALTER TABLE item REPLICA IDENTITY FULL", "ALTER TABLE item DROP CONSTRAINT item_pkey"],
    "identity index": [
        "CREATE UNIQUE INDEX item_name ON item (name)",
        "ALTER TABLE item REPLICA IDENTITY USING INDEX item_name",
        "ALTER TABLE item DROP CONSTRAINT item_pkey",
        "ALTER TABLE item ALTER COLUMN id DROP NOT NULL",
    ],
    "timestamps": [
        "ALTER TABLE item ADD COLUMN t timestamp DEFAULT '2020-01-01 01:02:03'",
        "SET TimeZone = 'UTC'",
        "ALTER TABLE item ALTER COLUMN t TYPE timestamptz",
    ],
}
ROWS_BEFORE = ["UPDATE item SET price = 1 WHERE id = 5", "DELETE FROM item WHERE id = 6"]
ROWS_AFTER = ["UPDATE item SET price = 2 WHERE id = 7", "DELETE FROM item WHERE id = 8"]


@pytest.mark.parametrize("statements", ALTERATIONS.values(), ids=ALTERATIONS)
@pytest.mark.parametrize("pair", [15, 18], indirect=True)
def test_an_altered_table(pair, statements):
    pair.assert_equal("item")
    pair.run(*ROWS_BEFORE)
    if statements[0].startswith("SET") or any("SET TimeZone" in each for each in statements):
        pair.run(*statements)
    else:
        pair.in_one(*ROWS_BEFORE, *statements, *ROWS_AFTER)
    pair.run(*ROWS_AFTER)
    pair.assert_equal("item", "other")
    pair.replica.reopen()
    pair.run("UPDATE item SET price = 3 WHERE id = 9", "DELETE FROM item WHERE id = 10")
    pair.assert_equal("item")


def test_a_renamed_table_takes_its_rows_along(pair):
    pair.assert_equal("item")
    pair.in_one(*ROWS_BEFORE, "ALTER TABLE item RENAME TO article", "UPDATE article SET note = 'renamed' WHERE id = 1")
    pair.assert_equal("article")
    pair.assert_gone("item")
    pair.run("CREATE TABLE item (other_id text PRIMARY KEY)", "INSERT INTO item VALUES ('new')")
    pair.assert_equal("article", "item")


def test_tables_that_swap_names(pair):
    pair.assert_equal("item")
    pair.in_one(
        "INSERT INTO other VALUES (1, 'o')",
        "ALTER TABLE item RENAME TO x",
        "ALTER TABLE other RENAME TO item",
        "ALTER TABLE x RENAME TO other",
        "INSERT INTO item VALUES (2, 'p')",
        "DELETE FROM other WHERE id < 10",
    )
    pair.assert_equal("item", "other")


def test_a_dropped_table_and_one_of_its_name(pair):
    pair.assert_equal("item")
    pair.run(*ROWS_BEFORE, "DROP TABLE item")
    pair.assert_gone("item")
    pair.in_one("CREATE TABLE item (id text PRIMARY KEY)", "INSERT INTO item VALUES ('a')")
    pair.assert_equal("item")
    pair.in_one("DROP TABLE item", "CREATE TABLE item (id int PRIMARY KEY)", "INSERT INTO item VALUES (1)")
    pair.assert_equal("item", "other")


def test_a_new_table(pair):
    pair.assert_equal("item")
    pair.in_one("CREATE TABLE fresh (id int PRIMARY KEY, v text)", "INSERT INTO fresh VALUES (1, 'a')")
    pair.run("INSERT INTO fresh VALUES (2, 'b')")
    pair.assert_equal("fresh", "item")


def test_a_table_made_with_its_rows(pair):
    pair.assert_equal("item")
    pair.run("CREATE TABLE copied AS SELECT * FROM item", "ALTER TABLE copied REPLICA IDENTITY FULL")
    pair.run("DELETE FROM copied WHERE id < 3")
    pair.assert_equal("copied", "item")


def test_a_schema_that_is_renamed(pair):
    pair.replica.catch_up()
    pair.run("ALTER TABLE other SET SCHEMA public")
    pair.assert_equal("other")


def test_partitions_attached_and_detached(pair):
    pair.run(
        "CREATE TABLE part (id int PRIMARY KEY, v text) PARTITION BY RANGE (id)",
        "CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (100)",
        "INSERT INTO part SELECT g, 'a' FROM generate_series(1, 20) g",
    )
    pair.assert_equal("part")
    pair.run(
        "CREATE TABLE part_2 (id int PRIMARY KEY, v text)",
        "INSERT INTO part_2 SELECT g, 'b' FROM generate_series(100, 120) g",
    )
    pair.assert_equal("part", "part_2")
    pair.run(
        "ALTER TABLE part ATTACH PARTITION part_2 FOR VALUES FROM (100) TO (200)",
        "UPDATE part SET v = 'c' WHERE id = 101",
    )
    pair.assert_equal("part")
    pair.assert_gone("part_2")
    pair.run("ALTER TABLE part ADD COLUMN n int NOT NULL DEFAULT 4", "INSERT INTO part VALUES (50, 'd', 5)")
    pair.assert_equal("part")
    pair.run("ALTER TABLE part DETACH PARTITION part_1", "INSERT INTO part VALUES (150, 'e', 6)")
    pair.assert_equal("part")
    pair.run("DROP TABLE part_2")
    pair.assert_equal("part")


@pytest.mark.parametrize("pair", [18], indirect=True)
def test_a_type_made_and_dropped_while_running(pair):
    pair.assert_equal("item")
    pair.run(
        "CREATE TYPE mood AS ENUM ('sad', 'glad')",
        "ALTER TABLE item ADD COLUMN m mood DEFAULT 'glad'",
        "UPDATE item SET m = 'sad' WHERE id = 3",
    )
    pair.replica.catch_up()
    expected = sorted((str(row[2]), row[1]) for row in rows(pair.source, "item"))
    pair.run("DROP TYPE mood CASCADE", "UPDATE item SET note = 'after' WHERE id = 4")
    pair.assert_equal("item")
    assert expected


def test_what_was_written_before_a_restart_and_read_after_it(pair):
    """The stream still has the old shape when the catalog has the new one."""
    pair.assert_equal("item")
    pair.replica.reopen()
    pair.run(
        *ROWS_BEFORE,
        "ALTER TABLE item DROP COLUMN note",
        "UPDATE item SET price = 8 WHERE id = 11",
        "ALTER TABLE item ADD COLUMN note int NOT NULL DEFAULT 9",
        "UPDATE item SET note = 10 WHERE id = 12",
        "ALTER TABLE item RENAME TO thing",
        "UPDATE thing SET note = 11 WHERE id = 13",
    )
    pair.assert_equal("thing")
