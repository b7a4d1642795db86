"""Schema changes that meet something else: other names, other patterns, other people. Each was found by a review."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from pair import Pair, columns, rows

from cdc.core.errors import TargetSchemaError
from cdc.core.settings import LogSettings

Databases = Callable[..., str]


@pytest.fixture
def make_pair(new_database: Databases, tmp_path: Path, unique_name: str) -> Iterator[Callable[..., Pair]]:
    made: list[Pair] = []

    def make(**options: object) -> Pair:
        pair = Pair(new_database(), new_database(), tmp_path, unique_name, **options)
        made.append(pair)
        pair.run(
            "CREATE TABLE item (id int PRIMARY KEY, name text NOT NULL, c int)",
            "INSERT INTO item SELECT g, 'n' || g, g FROM generate_series(1, 5) g",
        )
        pair.assert_equal("item")
        return pair

    yield make
    for pair in made:
        pair.writer.close()
        pair.replica.__exit__(None, None, None)


@pytest.fixture
def pair(make_pair: Callable[..., Pair]) -> Pair:
    return make_pair()


def capturing(pair: Pair, *tables: str) -> None:
    pair.replica._source_settings = replace(pair.replica._source_settings, tables=tables)
    pair.replica.reopen()


def test_a_default_whose_array_has_another_delimiter(pair):
    pair.run("ALTER TABLE item ADD COLUMN b box DEFAULT '((1,1),(0,0))'")
    pair.assert_equal("item")


def test_a_generated_column_that_becomes_an_ordinary_one(pair):
    pair.run(
        "CREATE TABLE g (id int PRIMARY KEY, d int GENERATED ALWAYS AS (id * 2) STORED)", "INSERT INTO g VALUES (1)"
    )
    pair.replica.catch_up()
    pair.run("ALTER TABLE g ALTER d DROP EXPRESSION", "INSERT INTO g VALUES (2, 9)")
    pair.assert_equal("g")


def test_a_table_made_with_rows_that_becomes_a_partition_at_once(pair):
    pair.run(
        "CREATE TABLE root (id int, v text, PRIMARY KEY (id)) PARTITION BY RANGE (id)",
        "CREATE TABLE p0 PARTITION OF root FOR VALUES FROM (0) TO (10)",
        "INSERT INTO root VALUES (1, 'a')",
    )
    pair.replica.catch_up()
    pair.in_one(
        "CREATE TABLE p1 AS SELECT 11 AS id, 'x'::text AS v",
        "ALTER TABLE p1 ALTER id SET NOT NULL",
        "ALTER TABLE root ATTACH PARTITION p1 FOR VALUES FROM (10) TO (20)",
    )
    pair.assert_equal("root")
    pair.run("INSERT INTO root VALUES (12, 'y')")
    pair.assert_equal("root")
    pair.assert_gone("p1")


def test_a_table_that_is_rewritten_and_renamed_out_of_sight(pair):
    capturing(pair, "public.*", "!public.secret*")
    pair.in_one("ALTER TABLE item ALTER c TYPE bigint", "ALTER TABLE item RENAME TO secret")
    pair.run("INSERT INTO secret VALUES (99, 's', 1)")
    pair.replica.catch_up()
    assert columns(pair.target, "secret") == []


def test_a_parent_s_change_rewrites_what_inherits_from_it(pair):
    pair.run(
        "CREATE TABLE parent (id int PRIMARY KEY, t text)",
        "CREATE TABLE child (PRIMARY KEY (id)) INHERITS (parent)",
        "INSERT INTO child VALUES (1, 'a')",
    )
    pair.replica.catch_up()
    pair.run("ALTER TABLE parent ALTER t TYPE text USING upper(t)", "INSERT INTO child VALUES (2, 'b')")
    pair.assert_equal("child")


def test_a_parent_s_change_is_that_of_what_inherits_from_it(pair):
    pair.run(
        "CREATE TABLE parent (id int PRIMARY KEY, t text NOT NULL)",
        "CREATE TABLE child (PRIMARY KEY (id)) INHERITS (parent)",
        "CREATE TABLE grandchild (PRIMARY KEY (id)) INHERITS (child)",
        "CREATE TABLE other (PRIMARY KEY (id)) INHERITS (parent)",
        *(f"INSERT INTO {table} VALUES (1, 'a')" for table in ("grandchild", "other")),
    )
    pair.replica.catch_up()
    pair.run("ALTER TABLE parent ALTER t DROP NOT NULL", "INSERT INTO grandchild VALUES (2, NULL)")
    pair.run("ALTER TABLE parent ADD COLUMN n int DEFAULT 5", "ALTER TABLE parent RENAME COLUMN t TO u")
    pair.assert_equal("grandchild", "other")


def test_a_type_that_only_writes_the_same_rows_in_another_way(pair):
    """To PostgreSQL cidr is as good as inet, and it rewrites nothing."""
    pair.run(
        "CREATE TABLE host (id int PRIMARY KEY, a cidr)",
        "INSERT INTO host VALUES (1, '10.0.0.1')",
    )
    pair.replica.catch_up()
    assert pair.lite_rows("host", ["a", "id"]) == [("10.0.0.1/32", "1")]
    pair.run("ALTER TABLE host ALTER a TYPE inet")
    pair.replica.catch_up()
    assert pair.lite_rows("host", ["a", "id"]) == [("10.0.0.1", "1")]


def test_a_table_with_a_topic_of_its_own_name(make_pair, unique_name):
    pair = make_pair(log_settings=LogSettings(prefix=unique_name, topics={"public.item": "public.given"}))
    pair.run("ALTER TABLE item ADD COLUMN x int", "INSERT INTO item VALUES (12, 'a', 2, 2)")
    pair.assert_equal("item")


def test_a_table_renamed_out_of_a_target_and_one_of_its_name(make_pair):
    pair = make_pair(tables=("public.item",))
    pair.run(
        "ALTER TABLE item RENAME TO item_old",
        "CREATE TABLE item (id int PRIMARY KEY, name text NOT NULL, c int)",
        "INSERT INTO item VALUES (100, 'x', 1)",
    )
    pair.assert_equal("item")


def test_two_changes_that_wait_for_people(make_pair):
    pair = make_pair(schema_changes="stop")
    pair.run(
        "ALTER TABLE item ADD COLUMN a int",
        "INSERT INTO item VALUES (50, 'q', 1, 1)",
        "ALTER TABLE item DROP COLUMN c",
        "INSERT INTO item VALUES (51, 'q', 1)",
    )
    pair.replica.capture()
    for _ in range(2):
        with pytest.raises(TargetSchemaError, match="stop") as stopped:
            pair.replica.apply("pg")
        statements = stopped.value.mend.removeprefix("at the target: ").removesuffix("; then start the applier again")
        with psycopg.connect(pair.target, autocommit=True) as target:
            target.execute(statements.encode())
        pair.replica.reopen()
    pair.replica.apply("pg")
    assert rows(pair.target, "item") == rows(pair.source, "item")


def test_nobody_else_drops_a_target_s_table_or_stops_capture(pair):
    role = f"rogue_{pair.replica._source_settings.slot}"
    (oid,) = pair.writer.execute("SELECT 'item'::regclass::oid::int").fetchone()
    forged = json.dumps({"publication": pair.replica._source_settings.publication, "dropped": oid})
    pair.run(f"CREATE ROLE {role}", f"SET ROLE {role}")
    for message in (forged, "x", "{}", "[1]"):
        pair.writer.execute("SELECT pg_logical_emit_message(true, 'cdc.ddl', %s)", [message])
    pair.run("RESET ROLE", f"DROP ROLE {role}", "DELETE FROM item WHERE id = 1")
    pair.assert_equal("item")


def test_what_others_made_under_our_names_is_not_run_by_superusers(new_database, tmp_path, unique_name):
    pair = Pair(new_database(), new_database(), tmp_path, unique_name)
    role, database = f"owner_{unique_name}", pair.source.rpartition("/")[2]
    function = f"cdc.{unique_name}_ddl()"
    pair.run(
        "CREATE TABLE item (id int PRIMARY KEY)",
        f"CREATE ROLE {role}",
        f'GRANT CREATE ON DATABASE "{database}" TO {role}',
        f"SET ROLE {role}",
        "CREATE SCHEMA cdc",
        f"CREATE FUNCTION {function} RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'",
        "RESET ROLE",
    )
    with pair.replica:
        pair.replica.capture()
        pair.run(f"SET ROLE {role}")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            pair.run(f"CREATE OR REPLACE FUNCTION {function} RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'")
        pair.run("RESET ROLE", f"DROP OWNED BY {role}", f"DROP ROLE {role}")
    pair.writer.close()


def test_patterns_that_exclude_a_table_for_a_while(pair):
    pair.run("CREATE TABLE b (id int PRIMARY KEY)", "INSERT INTO b VALUES (1)")
    pair.assert_equal("b")
    capturing(pair, "public.*", "!public.b")
    pair.replica.catch_up()
    pair.run("INSERT INTO b VALUES (2)", "ALTER TABLE b ADD COLUMN v int", "INSERT INTO b VALUES (3)")
    pair.replica.catch_up()
    capturing(pair, "public.*")
    pair.run("INSERT INTO b VALUES (4)")
    pair.assert_equal("b", "item")


def test_the_only_table_is_dropped_while_capture_is_away(pair):
    capturing(pair, "public.item")
    pair.replica.catch_up()
    pair.replica.close()
    pair.run("UPDATE item SET c = 0", "DROP TABLE item", "CREATE TABLE unrelated (i int)")
    pair.assert_gone("item")


def test_views_and_indexes_at_a_sqlite_target(pair):
    with sqlite3.connect(pair.lite) as lite:
        lite.execute("CREATE VIEW v AS SELECT id, name FROM item")
        lite.execute("CREATE UNIQUE INDEX on_c ON item (c)")
        lite.execute("CREATE INDEX on_name ON item (name)")
    pair.run("ALTER TABLE item DROP COLUMN c", "ALTER TABLE item ALTER name TYPE varchar(40)")
    pair.assert_equal("item")
    with sqlite3.connect(pair.lite) as lite:
        assert len(lite.execute("SELECT * FROM v").fetchall()) == 5
        indexes = lite.execute("SELECT name FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL").fetchall()
    assert indexes == [("on_name",)]
