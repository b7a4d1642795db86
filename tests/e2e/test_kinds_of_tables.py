"""Partitioned, inherited, unlogged and other tables, and their truncates, from a real source into two targets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import pytest
from replication import TARGETS, VERSIONS, Replication

from cdc.core.errors import ConfigError, SourceError
from cdc.core.tables import TableId

LARGE = "(SELECT string_agg(md5(g::text || {seed}), '') FROM generate_series(1, 100) g)"  # out of line where EXTERNAL


# ---- kinds of tables ------------------------------------------------------------------------------------------------

PARTITIONED: Final = (
    "CREATE TABLE sales (id int, region text, n int, large text, PRIMARY KEY (id, region)) PARTITION BY LIST (region)",
    "CREATE TABLE sales_east PARTITION OF sales FOR VALUES IN ('east')",
    # Another order of columns, and one that is gone.
    "CREATE TABLE sales_west (large text, gone int, region text NOT NULL, id int NOT NULL, n int)",
    "ALTER TABLE sales_west DROP gone",
    "ALTER TABLE sales ATTACH PARTITION sales_west FOR VALUES IN ('west')",
    "ALTER TABLE sales_east ALTER large SET STORAGE EXTERNAL",
    "ALTER TABLE sales_west ALTER large SET STORAGE EXTERNAL",
    f"INSERT INTO sales SELECT i, (ARRAY['east', 'west'])[i % 2 + 1], i, {LARGE.format(seed='i')} FROM generate_series(1, 9) i",  # noqa: E501
)
PARTITION_CHANGES: Final = (
    "UPDATE sales SET n = -n WHERE id < 5",
    "UPDATE sales SET region = CASE region WHEN 'east' THEN 'west' ELSE 'east' END WHERE id > 7",  # elsewhere
    "UPDATE sales SET id = id + 100 WHERE id = 5",
    "DELETE FROM sales WHERE id = 6",
    "UPDATE sales_east SET n = 0 WHERE id = 7",
    "CREATE TABLE sales_north PARTITION OF sales FOR VALUES IN ('north')",
    "INSERT INTO sales VALUES (20, 'north', 1, 'new'), (21, 'north', 1, 'new')",
    "UPDATE sales SET n = 2, region = 'north' WHERE id = 1",
)


@VERSIONS
@pytest.mark.parametrize("identity", ["DEFAULT", "FULL"])
def test_partitions_through_their_root(
    identity: str, version: int, new_replication: Callable[..., Replication]
) -> None:
    replication = new_replication(version=version)
    replication.execute(*PARTITIONED)
    for table in ("sales", "sales_east", "sales_west"):
        replication.execute(f"ALTER TABLE {table} REPLICA IDENTITY {identity}")
    replication.synchronize("sales")
    replication.execute(*PARTITION_CHANGES)
    replication.transaction(
        "UPDATE sales SET id = 30, n = 3 WHERE id = 20", "UPDATE sales SET region = 'east' WHERE id = 30"
    )
    replication.synchronize("sales")
    replication.transaction("TRUNCATE sales", "INSERT INTO sales VALUES (1, 'east', 1, NULL)")
    replication.synchronize("sales")


def test_partitions_that_have_another_identity_than_their_root(replication: Replication) -> None:
    replication.execute(
        *PARTITIONED,
        "ALTER TABLE sales REPLICA IDENTITY FULL",  # which the partitions don't take over
        "ALTER TABLE sales_west REPLICA IDENTITY FULL",
    )
    replication.synchronize("sales")
    replication.execute(*PARTITION_CHANGES, "DELETE FROM sales WHERE id IN (2, 3)")
    replication.synchronize("sales")


@pytest.mark.parametrize("tables", ["public.sales", "public.*"])
def test_partitions_attached_and_detached(tables: str, replication: Replication) -> None:
    """Rows come and go with them, and no change says so: the table is read again."""
    replication.execute(
        *PARTITIONED,
        "CREATE TABLE sales_south (LIKE sales INCLUDING ALL)",
        "INSERT INTO sales_south VALUES (60, 'south', 1, '')",
        "CREATE TABLE sales_empty (LIKE sales INCLUDING ALL)",
    )
    replication.capturing(tables)
    replication.synchronize("sales")
    replication.execute(
        "ALTER TABLE sales DETACH PARTITION sales_east",
        "INSERT INTO sales_east VALUES (50, 'east', 1, '')",
        "ALTER TABLE sales ATTACH PARTITION sales_south FOR VALUES IN ('south')",
        "UPDATE sales SET n = 2 WHERE id = 60",
        "ALTER TABLE sales ATTACH PARTITION sales_empty FOR VALUES IN ('empty')",
        "INSERT INTO sales VALUES (61, 'empty', 1, '')",
    )
    replication.synchronize("sales", *(["sales_east"] if tables == "public.*" else []))
    replication.execute("UPDATE sales SET n = 3", "UPDATE sales_east SET n = 3", "DROP TABLE sales_empty")
    replication.synchronize("sales", *(["sales_east"] if tables == "public.*" else []))


@VERSIONS
@pytest.mark.parametrize("tables", ["public.sales_*", "public.*"])
def test_partitions_as_tables_of_their_own(
    tables: str, version: int, new_replication: Callable[..., Replication]
) -> None:
    """A publication of the user's that does not publish via the root."""
    replication = new_replication(version=version)
    replication.execute(*PARTITIONED)
    replication.publish("FOR TABLE sales WITH (publish_via_partition_root = false)")
    replication.capturing(tables)
    leaves = ["sales_east", "sales_west", "sales_north"]
    replication.synchronize(*leaves[:2])
    replication.execute(*PARTITION_CHANGES)
    replication.transaction(
        "UPDATE sales SET id = 30, n = 3 WHERE id = 20", "UPDATE sales SET region = 'east' WHERE id = 30"
    )
    replication.synchronize(*leaves)
    replication.transaction("TRUNCATE sales", "INSERT INTO sales VALUES (1, 'east', 1, NULL)", "TRUNCATE sales_west")
    replication.execute(
        "ALTER TABLE sales DETACH PARTITION sales_east",
        "INSERT INTO sales_east VALUES (7, 'north-east', 7, NULL)",
        "ALTER TABLE sales ATTACH PARTITION sales_east FOR VALUES IN ('east', 'north-east')",
        "UPDATE sales_east SET n = 9",
        "INSERT INTO sales VALUES (2, 'north-east', 1, NULL)",
        "ALTER TABLE sales ADD more int DEFAULT 7",
        "UPDATE sales SET more = 8 WHERE id = 2",
    )
    replication.synchronize(*leaves)
    replication.execute("ALTER TABLE sales DETACH PARTITION sales_east", "UPDATE sales_east SET n = 10")
    replication.synchronize(*leaves)
    replication.capturing("public.sales")
    with pytest.raises(
        ConfigError, match=r"public\.sales is partitioned, and the publication publishes its partitions"
    ):
        replication.capture()


def test_inherited_tables(replication: Replication) -> None:
    replication.execute(
        "CREATE TABLE parent (id int PRIMARY KEY, n int)",
        "CREATE TABLE child (more text, PRIMARY KEY (id)) INHERITS (parent)",
        "CREATE TABLE grandchild (PRIMARY KEY (id)) INHERITS (child)",
        "CREATE TABLE other (n int)",
        "ALTER TABLE other REPLICA IDENTITY FULL",
        "CREATE TABLE other_child () INHERITS (other)",
        "ALTER TABLE other_child REPLICA IDENTITY FULL",
        "INSERT INTO parent VALUES (1, 1), (2, 2)",
        "INSERT INTO child VALUES (1, 10, 'a'), (3, 30, 'b')",
        "INSERT INTO grandchild VALUES (1, 100, 'c')",
        "INSERT INTO other VALUES (1)",
        "INSERT INTO other_child VALUES (1), (2)",
    )
    tables = ["parent", "child", "grandchild", "other", "other_child"]
    replication.synchronize(*tables)
    replication.execute(
        "UPDATE parent SET n = n + 1",
        "DELETE FROM parent WHERE id = 3",
        "UPDATE child SET more = 'd', id = 5 WHERE id = 1",
        "UPDATE other SET n = n + 1 WHERE n = 1",
    )
    replication.synchronize(*tables)
    replication.transaction("TRUNCATE parent", "INSERT INTO child VALUES (9, 9, '')", "TRUNCATE ONLY other")
    replication.synchronize(*tables)


def test_a_parent_without_its_children(replication: Replication) -> None:
    replication.execute(
        "CREATE TABLE parent (id int PRIMARY KEY, n int)",
        "CREATE TABLE child (more text, PRIMARY KEY (id)) INHERITS (parent)",
        "INSERT INTO parent VALUES (1, 1)",
        "INSERT INTO child VALUES (2, 2, '')",
    )
    replication.capturing("public.parent")
    replication.synchronize("parent")
    replication.execute("UPDATE parent SET n = 5", "INSERT INTO child VALUES (3, 3, '')")
    replication.synchronize("parent")


@VERSIONS
def test_generated_columns(version: int, new_replication: Callable[..., Replication]) -> None:
    """Those that the source does not publish the target generates; it may generate those that come, too."""
    replication = new_replication(version=version)
    generated = "twice int GENERATED ALWAYS AS (n * 2) STORED"
    for table in ("items", "again"):
        replication.execute(
            f"CREATE TABLE {table} (id int PRIMARY KEY, {generated}, n int, large text)",
            f"INSERT INTO {table} (id, n) VALUES (1, 1), (2, NULL)",
        )
    replication.target.execute(f"CREATE TABLE again (id int PRIMARY KEY, n int, large text, {generated})")
    if version < 18:
        replication.target.execute(f"CREATE TABLE items (id int PRIMARY KEY, n int, large text, {generated})")
        replication.applying("sqlite", "!public.items", "!public.again", "*.*")
    replication.synchronize("items", "again")
    for table in ("items", "again"):
        replication.execute(
            f"UPDATE {table} SET n = 5, id = 3 WHERE id = 2", f"INSERT INTO {table} (id, n) VALUES (4, 4)"
        )
        replication.execute(f"UPDATE {table} SET n = 5 WHERE id = 1", f"DELETE FROM {table} WHERE id = 4")
    replication.synchronize("items", "again")


def test_virtual_columns(replication: Replication) -> None:
    """No source publishes them."""
    virtual = "twice int GENERATED ALWAYS AS (n * 2) VIRTUAL"
    replication.execute(f"CREATE TABLE items (id int PRIMARY KEY, n int, {virtual})", "INSERT INTO items VALUES (1, 1)")
    replication.target.execute(f"CREATE TABLE items (id int PRIMARY KEY, n int, {virtual})")
    replication.applying("sqlite", "!public.items", "*.*")
    replication.synchronize("items")
    replication.execute("UPDATE items SET n = 3")
    replication.synchronize("items")


@pytest.mark.parametrize("publishes", ["none", "stored"])
def test_a_publication_that_chooses_columns(publishes: str, replication: Replication) -> None:
    """The load reads the columns and rows that the stream will bring."""
    replication.execute(
        "CREATE TABLE items (id int PRIMARY KEY, n int, secret text, twice int GENERATED ALWAYS AS (n * 2) STORED)",
        "CREATE TABLE listed (id int PRIMARY KEY, n int, secret text, twice int GENERATED ALWAYS AS (n * 2) STORED)",
        "INSERT INTO items VALUES (1, 1, 'x')",
        "INSERT INTO listed VALUES (1, 1, 'x')",
    )
    replication.publish(
        "FOR TABLE items, listed (id, twice)"
        f" WITH (publish_via_partition_root = true, publish_generated_columns = {publishes})"
    )
    replication.synchronize()
    replication.execute("INSERT INTO items VALUES (2, 2, 'y')", "INSERT INTO listed VALUES (2, 2, 'y')")
    replication.synchronize()
    wanted = {
        "items": ["id", "n", "secret", "twice"] if publishes == "stored" else ["id", "n", "secret"],
        "listed": ["id", "twice"],
    }
    for name in TARGETS:
        for table, columns in wanted.items():
            found, rows = replication.at_target(name, TableId("public", table))
            assert found == columns
            assert len(rows) == 2


def test_a_key_that_is_not_published_as_a_whole_is_refused(replication: Replication) -> None:
    replication.execute(
        'CREATE TABLE listed (a int, "the b" int, n int, PRIMARY KEY (a, "the b"))',
        "INSERT INTO listed VALUES (1, 1, 1), (1, 2, 1)",
    )
    replication.publish("FOR TABLE listed (a, n) WITH (publish_via_partition_root = true)")
    with pytest.raises(SourceError, match=r'lists columns of public\.listed, but not "the b" of its key') as raised:
        replication.capture()
    assert "add" in str(raised.value.mend)
    replication.close()
    replication.execute(f'ALTER PUBLICATION {replication._source_settings.publication} SET TABLE listed (a, "the b")')
    replication.synchronize()
    for name in TARGETS:
        _, rows = replication.at_target(name, TableId("public", "listed"))
        assert len(rows) == 2


def test_not_null_that_older_rows_do_not_keep(replication: Replication) -> None:
    """PostgreSQL 18 has NOT NULL … NOT VALID."""
    replication.execute(
        "CREATE TABLE items (id int PRIMARY KEY, n int)",
        "INSERT INTO items VALUES (1, NULL), (2, 2)",
        "ALTER TABLE items ADD CONSTRAINT given NOT NULL n NOT VALID",
    )
    replication.synchronize("items")
    replication.execute("INSERT INTO items VALUES (3, 3)", "UPDATE items SET n = 1 WHERE id = 1")
    replication.execute("ALTER TABLE items VALIDATE CONSTRAINT given", "INSERT INTO items VALUES (4, 4)")
    replication.synchronize("items")


NOT_CAPTURED: Final = {
    "public.quick": "public.quick is unlogged",
    "public.shown": "public.shown is a view",
    "public.sales_east": "public.sales_east is a partition of public.sales",
    "pg_temp_*.mine": "is temporary",
    "public.stored": "public.stored is a materialized view",
    "public.nowhere": "no table of the source that can be captured matches 'public.nowhere'$",
}


def test_a_pattern_that_names_what_can_not_be_captured_is_told_so(replication: Replication) -> None:
    replication.execute(
        "CREATE TABLE items (id int PRIMARY KEY)",
        "CREATE UNLOGGED TABLE quick (id int PRIMARY KEY)",
        "CREATE TEMPORARY TABLE mine (id int PRIMARY KEY)",
        "CREATE VIEW shown AS SELECT * FROM items",
        "CREATE MATERIALIZED VIEW stored AS SELECT * FROM items",
        *PARTITIONED[:2],
    )
    for pattern, said in NOT_CAPTURED.items():
        replication.capturing("public.items", pattern)
        with pytest.raises(ConfigError, match=said):
            replication.capture()


def test_unlogged_and_temporary_tables_are_left_out(replication: Replication) -> None:
    replication.capturing("*.*")
    replication.execute("CREATE TABLE items (id int PRIMARY KEY)", "CREATE UNLOGGED TABLE quick (id int)")
    replication.synchronize()
    replication.execute(
        "INSERT INTO items VALUES (1)",
        "INSERT INTO quick VALUES (1)",
        "CREATE TEMPORARY TABLE mine (id int)",
        "INSERT INTO mine VALUES (1)",
    )
    replication.synchronize("items")
    assert replication.target.execute("SELECT to_regclass('quick'), to_regclass('mine')").fetchone() == (None, None)


PARTITIONS_REFUSED: Final = {
    r"sales_quick of public\.sales is unlogged": (
        "CREATE UNLOGGED TABLE sales_quick PARTITION OF sales FOR VALUES IN ('quick')",
    ),
    r"sales_east of public\.sales has another REPLICA IDENTITY": (
        "ALTER TABLE sales_east ALTER n SET NOT NULL",
        "CREATE UNIQUE INDEX sales_east_n ON sales_east (n)",
        "ALTER TABLE sales_east REPLICA IDENTITY USING INDEX sales_east_n",
    ),
    r"sales_far of public\.sales is a foreign table": (
        "CREATE FOREIGN DATA WRAPPER nowhere",
        "CREATE SERVER far FOREIGN DATA WRAPPER nowhere",
        "ALTER TABLE sales DROP CONSTRAINT sales_pkey",
        "CREATE FOREIGN TABLE sales_far PARTITION OF sales FOR VALUES IN ('far') SERVER far",
    ),
}


@pytest.mark.parametrize("said", PARTITIONS_REFUSED)
def test_a_partition_whose_changes_would_not_be_told_is_refused(said: str, replication: Replication) -> None:
    replication.execute(*PARTITIONED[:2], *PARTITIONS_REFUSED[said])
    with pytest.raises(SourceError, match=said):
        replication.capture()


# ---- truncates ------------------------------------------------------------------------------------------------------


@VERSIONS
def test_truncates(version: int, new_replication: Callable[..., Replication]) -> None:
    replication = new_replication(version=version)
    tables = ["a", "b", "detail", "bag"]
    replication.execute(
        "CREATE TABLE a (id int PRIMARY KEY, n int)",
        "CREATE TABLE b (id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, n int)",
        "CREATE TABLE detail (id int PRIMARY KEY, a int REFERENCES a)",
        "CREATE TABLE bag (n int)",
        "ALTER TABLE bag REPLICA IDENTITY FULL",
        "INSERT INTO a SELECT i, i FROM generate_series(1, 9) i",
        "INSERT INTO b (n) SELECT i FROM generate_series(1, 9) i",
        "INSERT INTO detail SELECT i, i FROM generate_series(1, 9) i",
        "INSERT INTO bag SELECT 1 FROM generate_series(1, 9)",
    )
    replication.synchronize(*tables)
    replication.transaction(
        "INSERT INTO b (n) VALUES (10)",
        "UPDATE bag SET n = 2",
        "TRUNCATE b, bag RESTART IDENTITY",
        "INSERT INTO b (n) VALUES (11), (12)",
        "INSERT INTO bag VALUES (5)",
    )
    replication.synchronize(*tables)
    replication.execute("TRUNCATE a CASCADE", "INSERT INTO a VALUES (1, 1)", "INSERT INTO detail VALUES (1, 1)")
    replication.synchronize(*tables)
    replication.transaction("INSERT INTO a VALUES (2, 2)", "TRUNCATE a, b, detail, bag", "TRUNCATE bag")
    replication.synchronize(*tables)
    replication.transaction("SAVEPOINT s", "TRUNCATE a CASCADE", "ROLLBACK TO s", "INSERT INTO a VALUES (3, 3)")
    replication.synchronize(*tables)
