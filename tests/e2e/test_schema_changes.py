"""Changes of a table's shape arrive at their place in the stream, at targets of all kinds."""

from __future__ import annotations

import json
import random
import sqlite3
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Self

import psycopg
import pytest
from pair import Pair, columns, rows
from target_databases import DuckDB, MariaDB

from cdc.core.errors import TargetSchemaError
from cdc.core.settings import LogSettings
from cdc.log.open import open_log

Databases = Callable[..., str]
VERSIONS = [15, 16, 18]


@pytest.fixture(params=VERSIONS)
def pair(request: pytest.FixtureRequest, new_database: Databases, tmp_path: Path, unique_name: str) -> Iterator[Pair]:
    """The newest has a MariaDB and a DuckDB too."""
    version = request.param
    flat = [MariaDB(request.getfixturevalue("new_mariadb")()), DuckDB(tmp_path)] if version == VERSIONS[-1] else []
    made = Pair(new_database(version=version), new_database(version=version), tmp_path, unique_name, flat=flat)
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


# MySQL can't follow rows and another key in one transaction.
OTHER_KEYS = {"other key", "wider key", "no key", "identity index"}
ON_EACH_VERSION = ["add with default", "rename", "using", "drop and add the same name", "not null", "wider key"]


@pytest.mark.parametrize(
    ("pair", "change"),
    [*((18, change) for change in ALTERATIONS), *((old, each) for old in (15, 16) for each in ON_EACH_VERSION)],
    indirect=["pair"],
)
def test_an_altered_table(pair, change):
    statements = ALTERATIONS[change]
    if change in OTHER_KEYS and pair.flat:
        pair.replica.set_options("mariadb", consistency="key")
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


# -- what a target lets happen ---------------------------------------------------------------------------------------


@pytest.fixture
def make_pair(new_database: Databases, tmp_path: Path, unique_name: str) -> Iterator[Callable[..., Pair]]:
    with ExitStack() as resources:

        def make(**options: object) -> Pair:
            pair = Pair(new_database(), new_database(), tmp_path, unique_name, **options)
            pair.run(
                "CREATE TABLE item (id int PRIMARY KEY, name text NOT NULL)",
                "INSERT INTO item VALUES (1, 'a'), (2, 'b')",
            )
            resources.enter_context(pair.replica)
            resources.callback(pair.writer.close)
            pair.assert_equal("item")
            return pair

        yield make


def test_add_only_adds_and_keeps(make_pair):
    pair = make_pair(schema_changes="add-only")
    pair.run("ALTER TABLE item ADD COLUMN extra int DEFAULT 5", "INSERT INTO item VALUES (3, 'c', 6)")
    pair.assert_equal("item")
    pair.run("ALTER TABLE item DROP COLUMN name", "INSERT INTO item VALUES (4, 7)", "CREATE TABLE fresh (id int)")
    pair.replica.catch_up()
    kept = [("1", "a", "5"), ("2", "b", "5"), ("3", "c", "6"), ("4", None, "7")]
    assert sorted(rows(pair.target, "item")) == sorted((extra, id_, name) for id_, name, extra in kept)
    assert pair.lite_rows("item", ["id", "name", "extra"]) == kept
    assert columns(pair.target, "fresh")
    pair.run("DROP TABLE item")
    pair.replica.catch_up()
    assert columns(pair.target, "item")


@pytest.mark.parametrize(
    ("change", "row"),
    [
        ("ADD COLUMN extra int NOT NULL DEFAULT 5", "(3, 'c', 6)"),
        ("ALTER COLUMN name DROP NOT NULL", "(3, NULL)"),
    ],
)
def test_add_only_follows_what_adds_also_where_it_takes_a_new_table(make_pair, change, row):
    pair = make_pair(schema_changes="add-only")
    pair.run(f"ALTER TABLE item {change}", f"INSERT INTO item VALUES {row}")
    pair.assert_equal("item")


@pytest.mark.parametrize("target", ["pg", "lite"])
def test_add_only_stops_at_what_would_change(make_pair, target):
    pair = make_pair(schema_changes="add-only")
    pair.run("ALTER TABLE item RENAME COLUMN name TO title")
    pair.replica.capture()
    with pytest.raises(TargetSchemaError, match="add-only") as stopped:
        pair.replica.apply(target)
    assert 'RENAME COLUMN "name" TO "title"' in stopped.value.mend


def test_stop_waits_for_people_and_goes_on_when_they_have_followed(make_pair):
    pair = make_pair(schema_changes="stop")
    pair.run("ALTER TABLE item ADD COLUMN extra int NOT NULL DEFAULT 5", "INSERT INTO item VALUES (3, 'c', 6)")
    pair.replica.capture()
    before = rows(pair.target, "item")
    with pytest.raises(TargetSchemaError, match="stop") as stopped:
        pair.replica.apply("pg")
    assert rows(pair.target, "item") == before
    statements = stopped.value.mend.removeprefix("at the target: ").removesuffix("; then start the applier again")
    with psycopg.connect(pair.target, autocommit=True) as target:
        target.execute(statements.encode())
    pair.replica.reopen()
    pair.replica.apply("pg")
    assert rows(pair.target, "item") == rows(pair.source, "item")


@pytest.mark.parametrize("target", ["pg", "lite"])
@pytest.mark.parametrize("policy", ["stop", "add-only"])
def test_a_renamed_table_waits_for_people(make_pair, policy, target):
    """And goes on with it, and with another of its old name, when they have followed."""
    pair = make_pair(schema_changes=policy)
    pair.run("ALTER TABLE item RENAME TO thing", "INSERT INTO thing VALUES (3, 'c')")
    pair.replica.capture()
    with pytest.raises(TargetSchemaError, match=policy) as stopped:
        pair.replica.apply(target)
    statements = stopped.value.mend.removeprefix("at the target: ").removesuffix("; then start the applier again")
    with psycopg.connect(pair.target) if target == "pg" else sqlite3.connect(pair.lite) as connection:
        connection.execute(statements)
    pair.run("CREATE TABLE item (id int PRIMARY KEY)", "INSERT INTO item VALUES (1)", "DELETE FROM thing WHERE id = 1")
    pair.replica.reopen()
    pair.replica.capture()
    pair.replica.apply(target)
    with psycopg.connect(pair.target) if target == "pg" else sqlite3.connect(pair.lite) as connection:
        assert connection.execute("SELECT id FROM thing ORDER BY 1").fetchall() == [(2,), (3,)]
        assert connection.execute("SELECT id FROM item").fetchall() == [(1,)]


@pytest.mark.parametrize("batch_events", [10_000, 2])
@pytest.mark.parametrize("consistency", ["transaction", "key"])
@pytest.mark.parametrize("target", ["pg", "lite"])
def test_people_follow_a_migration_in_one_transaction(make_pair, target, consistency, batch_events):
    """Change by change: what stands before each of them is applied, in the shape that it needs."""
    pair = make_pair(schema_changes="stop", consistency=consistency, batch_events=batch_events)
    pair.run("CREATE TABLE other (id int PRIMARY KEY)", "INSERT INTO other VALUES (1)")
    pair.assert_equal("other")
    pair.in_one(
        "INSERT INTO item VALUES (3, 'c'), (4, 'd'), (5, 'e')",
        "INSERT INTO other VALUES (2)",
        "DROP TABLE other",
        "ALTER TABLE item ADD COLUMN title text",
        "UPDATE item SET title = upper(name)",
        "ALTER TABLE item DROP COLUMN name",
        "DELETE FROM item WHERE id = 4",
        "ALTER TABLE item RENAME TO thing",
        "INSERT INTO thing VALUES (6, 'F'), (7, 'G')",
    )
    pair.run("INSERT INTO thing VALUES (8, 'H')")
    pair.replica.capture()
    for _ in range(4):
        with pytest.raises(TargetSchemaError, match="stop") as stopped:
            pair.replica.apply(target)
        statements = stopped.value.mend.removeprefix("at the target: ").removesuffix("; then start the applier again")
        if target == "pg":
            with psycopg.connect(pair.target) as connection:
                connection.execute(statements)
        else:
            with closing(sqlite3.connect(pair.lite)) as lite:
                lite.executescript(statements)
        pair.replica.reopen()
    pair.replica.apply(target)
    with psycopg.connect(pair.target) if target == "pg" else sqlite3.connect(pair.lite) as connection:
        found = connection.execute("SELECT id, title FROM thing ORDER BY id").fetchall()
    assert found == [(1, "A"), (2, "B"), (3, "C"), (5, "E"), (6, "F"), (7, "G"), (8, "H")]


@pytest.mark.parametrize(
    "change",
    [
        "ADD COLUMN extra text NOT NULL DEFAULT 'it''s; \"new\"'",
        "ALTER COLUMN name DROP NOT NULL",
        "ADD COLUMN extra int, ALTER COLUMN extra SET NOT NULL",
        "ALTER COLUMN name TYPE int USING length(name)",
        "DROP CONSTRAINT item_pkey, ADD PRIMARY KEY (name)",
        "DROP COLUMN name",
    ],
)
def test_sqlite_goes_on_when_people_ran_what_makes_a_table_anew(make_pair, change):
    pair = make_pair(schema_changes="stop")
    if "SET NOT NULL" in change:
        pair.run("TRUNCATE item")
    pair.run(f"ALTER TABLE item {change}", "UPDATE item SET id = 7 WHERE id = 1")
    pair.replica.capture()
    with pytest.raises(TargetSchemaError, match="stop") as stopped:
        pair.replica.apply("lite")
    statements = stopped.value.mend.removeprefix("at the target: ").removesuffix("; then start the applier again")
    with closing(sqlite3.connect(pair.lite)) as lite:
        lite.executescript(statements)
    pair.replica.reopen()
    pair.replica.apply("lite")
    names = [name for name, *_ in columns(pair.source, "item")]
    assert pair.lite_rows("item", names) == rows(pair.source, "item")


def test_sqlite_tables_with_constraints_of_their_own_are_changed_by_people(make_pair):
    """What stands before the change is applied, in the shape that it needs."""
    pair = make_pair()
    with closing(sqlite3.connect(pair.lite)) as lite:
        lite.executescript(
            "DROP TABLE item; CREATE TABLE item (id INTEGER PRIMARY KEY NOT NULL, name TEXT NOT NULL UNIQUE);"
            " INSERT INTO item VALUES (1, 'a'), (2, 'b')"
        )
    pair.replica.reopen()
    pair.in_one(
        "INSERT INTO item VALUES (3, 'c')",
        "ALTER TABLE item ADD COLUMN extra int NOT NULL DEFAULT 5",
        "INSERT INTO item VALUES (4, 'd', 6)",
    )
    pair.replica.capture()
    with pytest.raises(TargetSchemaError, match=r"unique \(name\)"):
        pair.replica.apply("lite")
    assert pair.lite_rows("item", ["id", "name"]) == [("1", "a"), ("2", "b"), ("3", "c")]
    with closing(sqlite3.connect(pair.lite)) as lite:
        lite.execute("ALTER TABLE item ADD COLUMN extra INTEGER NOT NULL DEFAULT 0")
    pair.replica.reopen()
    pair.replica.apply("lite")
    assert pair.lite_rows("item", ["id", "name", "extra"]) == [
        ("1", "a", "5"),
        ("2", "b", "5"),
        ("3", "c", "5"),
        ("4", "d", "6"),
    ]


def test_a_target_with_columns_of_its_own(make_pair):
    pair = make_pair()
    with psycopg.connect(pair.target, autocommit=True) as target:
        target.execute("ALTER TABLE item ADD COLUMN seen timestamptz DEFAULT now()")
    pair.run("ALTER TABLE item ADD COLUMN extra int", "UPDATE item SET extra = 1", "ALTER TABLE item DROP COLUMN name")
    pair.replica.catch_up()
    assert [name for name, *_ in columns(pair.target, "item")] == ["extra", "id", "seen"]


# -- a source that lets nobody make event triggers ---------------------------------------------------------------------


@pytest.fixture
def plain_pair(pg_server, new_database: Databases, tmp_path: Path, unique_name: str) -> Iterator[Pair]:
    """The tables' owner captures; it is no superuser."""
    server, source = pg_server(18), new_database()
    role = f"owner_{unique_name}"
    server.create_user(role, "secret", "LOGIN REPLICATION")
    database = source.rpartition("/")[2]
    with psycopg.connect(source, autocommit=True) as admin:
        admin.execute(f'GRANT CREATE ON DATABASE "{database}" TO {role}; GRANT ALL ON SCHEMA public TO {role}'.encode())
    pair = Pair(server.url(database, role, "secret"), new_database(), tmp_path, unique_name)
    pair.run("CREATE TABLE item (id int PRIMARY KEY, name text)", "INSERT INTO item VALUES (1, 'a'), (2, 'b')")
    with pair.replica:
        pair.assert_equal("item")
        yield pair
        pair.writer.close()


@pytest.mark.parametrize(
    "statements",
    [
        ["ALTER TABLE item ADD COLUMN extra int NOT NULL DEFAULT 4"],
        ["ALTER TABLE item ADD COLUMN extra float DEFAULT random()"],
        ["ALTER TABLE item DROP COLUMN name"],
        ["ALTER TABLE item RENAME COLUMN name TO title"],
        ["ALTER TABLE item ALTER COLUMN name TYPE int USING length(name)"],
        ["ALTER TABLE item ALTER COLUMN id TYPE bigint"],
    ],
    ids=lambda statements: statements[0].removeprefix("ALTER TABLE item "),
)
def test_without_event_triggers_the_next_row_tells(plain_pair, statements):
    plain_pair.run(*statements, "INSERT INTO item (id) VALUES (3)", "DELETE FROM item WHERE id = 2")
    plain_pair.replica.catch_up()
    names = [name for name, *_ in columns(plain_pair.source, "item")]
    assert [name for name, *_ in columns(plain_pair.target, "item")] == names
    assert rows(plain_pair.target, "item") == rows(plain_pair.source, "item")
    assert plain_pair.lite_rows("item", names) == rows(plain_pair.source, "item")


def test_without_event_triggers_a_new_table_is_found_at_the_next_start(plain_pair):
    plain_pair.run("CREATE TABLE fresh (id int PRIMARY KEY)", "INSERT INTO fresh VALUES (1)")
    plain_pair.replica.reopen()
    plain_pair.run("INSERT INTO fresh VALUES (2)")
    plain_pair.assert_equal("fresh", "item")


# -- many partitions, a crash, writers meanwhile -----------------------------------------------------------------------


def test_while_people_write_and_capture_crashes(new_database, tmp_path, unique_name, kafka):
    """Four partitions of Kafka, concurrent writers, and sessions of capture that end anywhere, also in a reading."""
    settings = LogSettings(url=f"kafka://{kafka}", prefix=unique_name, partitions=4)
    source, target = new_database(), new_database()
    pair = Pair(source, target, tmp_path, unique_name, log=open_log(settings), log_settings=settings)
    pair.run(
        "CREATE TABLE item (id int PRIMARY KEY, name text, n int)",
        "INSERT INTO item SELECT g, 'name ' || g, 0 FROM generate_series(1, 2000) g",
    )
    changes = [
        "ALTER TABLE item ADD COLUMN extra float DEFAULT random()",
        "ALTER TABLE item RENAME COLUMN name TO title",
        "ALTER TABLE item ALTER COLUMN n TYPE bigint",
        "ALTER TABLE item DROP COLUMN extra",
        "ALTER TABLE item RENAME TO thing; ALTER TABLE thing RENAME TO item",
        "ALTER TABLE item ALTER n TYPE text USING 'n' || n; ALTER TABLE item ALTER n TYPE int USING substr(n, 2)::int",
        "ALTER TABLE item ADD COLUMN last int NOT NULL DEFAULT 1",
    ]
    with pair.replica, Writers(source) as writers:
        pair.replica.catch_up()
        for number, change in enumerate(changes):
            pair.run(change)
            writers.await_more()
            for _ in range(5 * number):
                pair.replica.step_capture()
            pair.replica.reopen()
            writers.check()
        writers.stop()
        pair.assert_equal("item")
    pair.writer.close()


class Writers:
    """Two threads that change rows of `item` until they are stopped."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stopping = threading.Event()
        self._written = threading.Semaphore(0)
        self._threads = [threading.Thread(target=self._write, args=[seed]) for seed in range(2)]
        self._errors: list[psycopg.Error] = []

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        self.check()

    def check(self) -> None:
        assert not self._errors

    def await_more(self) -> None:
        for _ in range(100):
            assert self._written.acquire(timeout=30)

    def _write(self, seed: int) -> None:
        chance = random.Random(seed)
        try:
            with psycopg.connect(self._url, autocommit=True) as connection:
                while not self._stopping.is_set():
                    key = chance.randrange(1, 2000) * 2 + seed
                    with suppress(psycopg.errors.UndefinedTable, psycopg.errors.DatatypeMismatch):
                        connection.execute(chance.choice(STATEMENTS), {"key": key, "other": key + 4000 * seed + 2})
                    self._written.release()
                    self._stopping.wait(0.005)  # a few hundred a second: more only burdens the machine
        except psycopg.Error as error:
            self._errors.append(error)


STATEMENTS = [
    "UPDATE item SET n = n + 1 WHERE id = %(key)s",
    "DELETE FROM item WHERE id = %(key)s",
    "INSERT INTO item (id, n) VALUES (%(key)s, 1) ON CONFLICT DO NOTHING",
]


def test_a_table_that_the_registry_refuses_stops_alone_until_it_is_mended(make_pair, unique_name, schema_registry_url):
    pair = make_pair(registry=schema_registry_url)
    pair.run("CREATE TABLE other (id int PRIMARY KEY)")
    pair.replica.catch_up()
    config = f"{schema_registry_url}/config/{unique_name}.public.item-value"
    put(config, {"compatibility": "BACKWARD"})
    pair.run("ALTER TABLE item ALTER COLUMN name TYPE int USING 1", "UPDATE item SET name = 5 WHERE id = 1")
    pair.run("INSERT INTO other VALUES (1)")
    pair.replica.catch_up()
    assert rows(pair.target, "other") == [("1",)]
    assert [name for *_, name in rows(pair.target, "item")] == ["a", "b"]
    pair.replica.reopen()
    pair.run("INSERT INTO other VALUES (2)")
    pair.replica.catch_up()
    assert [name for *_, name in rows(pair.target, "item")] == ["a", "b"]
    put(config, {"compatibility": "NONE"})
    pair.replica.reopen()
    pair.assert_equal("item", "other")


def put(url: str, body: object) -> None:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"}, method="PUT")
    with urllib.request.urlopen(request) as response:
        assert response.status == 200
