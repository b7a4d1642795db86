"""Every shape of row, from a real source through a local log into a PostgreSQL and a SQLite target, compared there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import psycopg
import pytest
from replication import VERSIONS, Replication, quoted

from cdc.core.errors import ConfigError, TargetSchemaError
from cdc.core.tables import TableId

LARGE = "(SELECT string_agg(md5(g::text || {seed}), '') FROM generate_series(1, 100) g)"  # out of line where EXTERNAL


# ---- replica identities, keys, TOAST --------------------------------------------------------------------------------

IDENTITIES: Final = {"by_default": "DEFAULT", "whole": "FULL", "coded": "USING INDEX coded_code"}


@VERSIONS
def test_replica_identities(version: int, new_replication: Callable[..., Replication]) -> None:
    """Updates of values and of keys, also several of one row in one batch, with values that are not sent again."""
    replication = new_replication(version=version)
    for table, identity in IDENTITIES.items():
        replication.execute(
            f"CREATE TABLE {table} (id int PRIMARY KEY, code int NOT NULL, n int, large text)",
            f"ALTER TABLE {table} ALTER large SET STORAGE EXTERNAL",
            f"CREATE UNIQUE INDEX {table}_code ON {table} (code)",
            f"ALTER TABLE {table} REPLICA IDENTITY {identity}",
            f"INSERT INTO {table} SELECT i, 100 + i, 0, {LARGE.format(seed='i')} FROM generate_series(1, 12) i",
        )
    replication.synchronize(*IDENTITIES)
    for table in IDENTITIES:
        replication.execute(
            f"INSERT INTO {table} SELECT i, 100 + i, 0, {LARGE.format(seed='i')} FROM generate_series(13, 20) i",
            f"UPDATE {table} SET n = 1 WHERE id <= 18",
            f"UPDATE {table} SET id = id + 100 WHERE id % 3 = 0",
            f"UPDATE {table} SET code = -code WHERE id % 3 = 1",
            f"UPDATE {table} SET id = -id, code = code + 1000, n = NULL, large = NULL WHERE id = 5",
            f"UPDATE {table} SET n = n + 1, large = large || 'x' WHERE id % 4 = 0",
            f"DELETE FROM {table} WHERE id IN (2, 4, 103)",
        )
    replication.synchronize(*IDENTITIES)
    for table in IDENTITIES:
        replication.transaction(
            f"UPDATE {table} SET n = 2 WHERE id = 7",
            f"UPDATE {table} SET id = 1007, code = 1007 WHERE id = 7",
            f"UPDATE {table} SET n = 3 WHERE id = 1007",
            f"UPDATE {table} SET id = 2007, code = 2007 WHERE id = 1007",
            f"UPDATE {table} SET n = 4 WHERE id = 2007",
            f"DELETE FROM {table} WHERE id = 10",
            f"UPDATE {table} SET id = 10, code = 10, n = 5 WHERE id = 11",
            f"UPDATE {table} SET id = 7, code = 7 WHERE id = 2007",
        )
    replication.synchronize(*IDENTITIES)


@VERSIONS
def test_replica_identity_nothing(version: int, new_replication: Callable[..., Replication]) -> None:
    replication = new_replication(version=version)
    replication.execute(
        "CREATE TABLE items (id int PRIMARY KEY, n int)",
        "ALTER TABLE items REPLICA IDENTITY NOTHING",
        "INSERT INTO items VALUES (1, 1), (2, 2)",
    )
    replication.synchronize("items")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        replication.execute("UPDATE items SET n = 1")
    replication.transaction("INSERT INTO items VALUES (3, NULL)")
    replication.synchronize("items")
    replication.transaction("TRUNCATE items", "INSERT INTO items VALUES (1, 3)")
    replication.synchronize("items")


@pytest.mark.parametrize("identity", ["DEFAULT", "FULL"])
@pytest.mark.parametrize("batch_events", [1, 10_000])
def test_keys_swapped_through_a_third(identity: str, batch_events: int, replication: Replication) -> None:
    """With values that are not sent again, so that only a move keeps them."""
    replication.applying("postgres", batch_events=batch_events)
    replication.applying("sqlite", batch_events=batch_events)
    replication.execute(
        "CREATE TABLE items (a int, b text, n int, large text, PRIMARY KEY (a, b))",
        "ALTER TABLE items ALTER large SET STORAGE EXTERNAL",
        f"ALTER TABLE items REPLICA IDENTITY {identity}",
        f"INSERT INTO items SELECT i, 'x', i, {LARGE.format(seed='i')} FROM generate_series(1, 9) i",
    )
    replication.synchronize("items")
    swap = (
        "UPDATE items SET a = -1 WHERE a = {0}",
        "UPDATE items SET a = {0} WHERE a = {1}",
        "UPDATE items SET a = {1} WHERE a = -1",
    )
    replication.transaction(*(statement.format(1, 2) for statement in swap))
    replication.transaction(
        *(statement.format(3, 4) for statement in swap),
        "UPDATE items SET n = n * 10 WHERE a IN (3, 4)",
        *(statement.format(4, 5) for statement in swap),
        "UPDATE items SET b = 'y', n = -n WHERE a = 5",  # a part of the key
        "UPDATE items SET a = 50, b = 'z', large = 'new' WHERE a = 5",
        "UPDATE items SET a = 5, b = 'x' WHERE a = 50",
    )
    replication.transaction(
        "DELETE FROM items WHERE a = 6",
        "UPDATE items SET a = 6 WHERE a = 7",
        "INSERT INTO items VALUES (7, 'x', 0, '')",
    )
    replication.synchronize("items")


def test_keys_swapped_in_one_statement(replication: Replication) -> None:
    """Only a deferrable key lets a statement do it; such a key tells the source nothing, so whole rows have to."""
    replication.execute(
        "CREATE TABLE items (id int PRIMARY KEY DEFERRABLE, body text)",
        "ALTER TABLE items REPLICA IDENTITY FULL",
        "INSERT INTO items VALUES (1, 'one'), (2, 'two'), (3, 'three')",
    )
    replication.synchronize("items")
    replication.execute("UPDATE items SET id = 3 - id WHERE id < 3")
    replication.transaction(
        "SET CONSTRAINTS ALL DEFERRED",
        "UPDATE items SET id = 3 WHERE id = 1",
        "UPDATE items SET id = 1 WHERE body = 'three'",
    )
    replication.synchronize("items")
    assert replication.at_target("postgres", TableId("public", "items"))[1] == [
        ("one", "2"),
        ("three", "1"),
        ("two", "3"),
    ]


def test_keys_swapped_by_delete_and_insert(replication: Replication) -> None:
    replication.execute(
        "CREATE TABLE items (id int PRIMARY KEY, body text)", "INSERT INTO items VALUES (1, 'one'), (2, 'two')"
    )
    replication.synchronize("items")
    replication.transaction("DELETE FROM items", "INSERT INTO items VALUES (1, 'two'), (2, 'one')")
    replication.synchronize("items")


def test_a_key_with_included_columns(replication: Replication) -> None:
    replication.execute(
        "CREATE TABLE items (id int, body text, PRIMARY KEY (id) INCLUDE (body))",
        "CREATE TABLE coded (code int NOT NULL, body text)",
        "CREATE UNIQUE INDEX coded_key ON coded (code) INCLUDE (body)",
        "ALTER TABLE coded REPLICA IDENTITY USING INDEX coded_key",
        "CREATE TABLE whole (id int, body text, PRIMARY KEY (id) INCLUDE (body))",
        "ALTER TABLE whole REPLICA IDENTITY FULL",
        *(f"INSERT INTO {table} VALUES (1, NULL), (2, 'two')" for table in ("items", "coded", "whole")),
    )
    replication.synchronize("items", "coded", "whole")
    for table in ("items", "coded", "whole"):
        replication.execute(f"UPDATE {table} SET body = 'changed'", f"DELETE FROM {table} WHERE body = 'two'")
    replication.synchronize("items", "coded", "whole")


@VERSIONS
def test_tables_without_a_key(version: int, new_replication: Callable[..., Replication]) -> None:
    replication = new_replication(version=version)
    replication.execute(
        "CREATE TABLE bag (a int, b text, large text)",
        "ALTER TABLE bag ALTER large SET STORAGE EXTERNAL",
        "ALTER TABLE bag REPLICA IDENTITY FULL",
        "CREATE TABLE appended (a int, b text)",
        f"INSERT INTO bag SELECT i % 3, NULLIF('x' || i % 2, 'x0'), {LARGE.format(seed='i % 2')}"
        " FROM generate_series(1, 30) i",
        "INSERT INTO appended SELECT i % 3, NULL FROM generate_series(1, 30) i",
    )
    replication.synchronize("bag", "appended")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        replication.execute("DELETE FROM appended")
    replication.execute(
        "INSERT INTO appended VALUES (1, NULL), (1, NULL), (1, '')",
        "UPDATE bag SET a = a + 1 WHERE ctid IN (SELECT ctid FROM bag WHERE a = 1 LIMIT 2)",
        "DELETE FROM bag WHERE ctid IN (SELECT ctid FROM bag WHERE a = 2 AND b IS NULL LIMIT 1)",
        "INSERT INTO bag VALUES (NULL, NULL, NULL), (NULL, NULL, NULL)",
        "UPDATE bag SET b = b WHERE a = 0",
    )
    replication.transaction(
        "UPDATE bag SET a = a + 1", "UPDATE bag SET a = a + 1 WHERE a > 2", "DELETE FROM bag WHERE a = 4"
    )
    replication.synchronize("bag", "appended")


# ---- names ----------------------------------------------------------------------------------------------------------

NAMES: Final = (
    "with space", 'quote"d', "dot.ted", "über", "ÜBER", "Upper", "select", "percent%s", "back\\slash", "apo'strophe",
    "semi;--", "a" * 63, "ü" * 31, "1digit", "$dollar", "tab\tbed", "line\nbroken", "cdc", "_", "-",
)  # fmt: skip


@VERSIONS
def test_names_that_need_quoting(version: int, new_replication: Callable[..., Replication]) -> None:
    replication = new_replication(version=version)
    tables = [TableId(schema, name) for schema in ("public", 'S "x".y') for name in NAMES]
    replication.capturing("*.*")
    replication.naming_topics({'public."-"': "public.dash", '"S ""x"".y"."-"': "other.dash"})
    replication.execute('CREATE SCHEMA "S ""x"".y"')
    for table in tables:
        columns = ", ".join(f"{quoted(name)} text" for name in NAMES if name != table.name)
        replication.execute(f"CREATE TABLE {quoted(*table)} ({quoted(table.name)} int PRIMARY KEY, {columns})")
        replication.execute(f"INSERT INTO {quoted(*table)} SELECT i, i, i FROM generate_series(1, 3) i")
    replication.synchronize(*tables)
    for table in tables:
        other = next(name for name in NAMES if name != table.name)
        replication.execute(
            f"UPDATE {quoted(*table)} SET {quoted(other)} = 'changed' WHERE {quoted(table.name)} = 1",
            f"UPDATE {quoted(*table)} SET {quoted(table.name)} = 4 WHERE {quoted(table.name)} = 2",
            f"DELETE FROM {quoted(*table)} WHERE {quoted(table.name)} = 3",
        )
    replication.synchronize(*tables)


def test_columns_whose_avro_names_are_equal(replication: Replication) -> None:
    replication.execute(
        'CREATE TABLE items ("a b" int, "a_b" int, "a-b" int, "ü" text, "ö" text, "_" text, "A b" int,'
        ' PRIMARY KEY ("a b", "a-b"))',
        "INSERT INTO items VALUES (1, 2, 3, 'u', 'o', '_', 4)",
    )
    replication.applying("sqlite", "*.*", "!public.items")  # SQLite does not tell the columns "a b" and "A b" apart
    replication.synchronize("items")
    replication.execute(
        "UPDATE items SET a_b = 5, ü = NULL", 'UPDATE items SET "a-b" = 6', "INSERT INTO items VALUES (7, 8, 9)"
    )
    replication.synchronize("items")


def test_tables_whose_topics_are_equal_are_refused(replication: Replication) -> None:
    replication.execute(
        'CREATE SCHEMA "a.b"', "CREATE SCHEMA a", 'CREATE TABLE "a.b".c (id int)', 'CREATE TABLE a."b.c" (id int)'
    )
    replication.capturing('"a.b".*', "a.*")
    with pytest.raises(ConfigError, match=r'"a"\."b\.c" and "a\.b"\."c" would share the topic'):
        replication.capture()


def test_tables_whose_names_sqlite_does_not_tell_apart_are_refused(replication: Replication) -> None:
    replication.execute('CREATE TABLE "Items" (id int)', "CREATE TABLE items (id int)", "INSERT INTO items VALUES (1)")
    replication.capture()
    replication.apply("postgres")
    replication.execute('INSERT INTO "Items" VALUES (2)')
    replication.capture()
    replication.apply("postgres")
    with pytest.raises(TargetSchemaError, match="Items"):
        replication.apply("sqlite")


# ---- columns --------------------------------------------------------------------------------------------------------


def test_1600_columns(replication: Replication) -> None:
    columns = ", ".join(f"c{i} smallint" for i in range(1, 1600))
    values = ", ".join(f"i + {i}" for i in range(1, 1600))
    for table, key in (("wide", "PRIMARY KEY"), ("bag", "")):
        replication.execute(
            f"CREATE TABLE {table} (id int {key}, {columns})",
            f"ALTER TABLE {table} REPLICA IDENTITY {'DEFAULT' if key else 'FULL'}",
            f"INSERT INTO {table} SELECT i, {values} FROM generate_series(1, 3) i",
        )
    replication.synchronize("wide", "bag")
    for table in ("wide", "bag"):
        replication.execute(
            f"INSERT INTO {table} SELECT i, {values} FROM generate_series(4, 6) i",
            f"UPDATE {table} SET c1599 = NULL, c1 = -1 WHERE id = 1",
            f"UPDATE {table} SET id = 9 WHERE id = 2",
            f"DELETE FROM {table} WHERE id = 3",
        )
    replication.synchronize("wide", "bag")


def test_1600_columns_some_of_them_not_sent_again(replication: Replication) -> None:
    columns = ", ".join(f"c{i} smallint" for i in range(2, 1600))
    replication.execute(
        f"CREATE TABLE wide (id int PRIMARY KEY, large text, {columns})",
        "ALTER TABLE wide ALTER large SET STORAGE EXTERNAL",
        f"INSERT INTO wide SELECT i, {LARGE.format(seed='i')}, i, i FROM generate_series(1, 5) i",
    )
    replication.synchronize("wide")
    replication.execute("UPDATE wide SET c2 = 7 WHERE id < 3", "UPDATE wide SET id = id + 10 WHERE id > 3")
    replication.transaction(
        "UPDATE wide SET id = 20 WHERE id = 1",
        "UPDATE wide SET id = 1 WHERE id = 2",
        "UPDATE wide SET id = 2 WHERE id = 20",
    )
    replication.synchronize("wide")


def test_a_table_of_zero_columns(replication: Replication) -> None:
    replication.execute("CREATE TABLE nothing ()", "ALTER TABLE nothing REPLICA IDENTITY FULL")
    replication.execute(*["INSERT INTO nothing DEFAULT VALUES"] * 3)
    replication.applying("sqlite", "*.*", "!public.nothing")
    replication.synchronize("nothing")
    replication.execute(*["INSERT INTO nothing DEFAULT VALUES"] * 2, "DELETE FROM nothing WHERE ctid = '(0,1)'")
    replication.synchronize("nothing")
    assert len(replication.at_target("postgres", TableId("public", "nothing"))[1]) == 4

    replication.applying("sqlite")
    with pytest.raises(TargetSchemaError, match="it has no columns"):
        replication.apply("sqlite")
