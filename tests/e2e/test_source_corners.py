"""What people do at a source without telling capture: disks put back, filters, tables that come from elsewhere."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from replication import TARGETS, Databases, Replication

from cdc.core.errors import GapError
from cdc.core.tables import TableId
from cdc.embedded import EmbeddedPostgres
from tests.replica import Replica

READING_AGAIN = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'cdc capture (reading a table again)'"


def test_a_source_that_is_put_back_to_an_earlier_state(
    own_postgres: Callable[..., EmbeddedPostgres], tmp_path: Path, unique_name: str
) -> None:
    """By a snapshot of its disk: cluster, timeline and slot are as they were then, and nothing seems to be missing."""
    server, snapshot = own_postgres(), tmp_path / "snapshot"
    with Replica(server.url(), {}, name=unique_name) as replica:

        def insert(rows: str) -> None:
            with psycopg.connect(server.url(), autocommit=True) as connection:
                connection.execute(f"INSERT INTO items SELECT * FROM {rows}".encode())

        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute("CREATE TABLE items (id int PRIMARY KEY)")
        replica.capture()
        replica.close()
        server.stop()
        copy(server.data_directory, snapshot)
        server.start()
        insert("generate_series(1, 1000)")
        replica.capture()
        replica.close()
        server.stop()
        shutil.rmtree(server.data_directory)
        copy(snapshot, server.data_directory)
        server.start()
        insert("generate_series(2001, 2010)")
        with pytest.raises(GapError, match="put back to an earlier state") as raised:
            replica.capture()
        assert "--start-over" in str(raised.value.mend)


def copy(folder: Path, to: Path) -> None:
    subprocess.run(["cp", "--archive", folder, to], check=True)  # with its owner


@pytest.mark.parametrize("version", [15, 18])
def test_a_publication_that_chooses_rows(version: int, new_replication: Callable[..., Replication]) -> None:
    replication, items = new_replication(version=version), TableId("public", "items")

    def require_chosen() -> None:
        replication.catch_up()
        names, rows = replication.at_source(items)
        chosen = [row for row in rows if row[names.index("region")] == "eu"]
        for target in TARGETS:
            assert replication.at_target(target, items) == (names, chosen)

    replication.execute(
        "CREATE TABLE items (id int PRIMARY KEY, region text)",
        "ALTER TABLE items REPLICA IDENTITY FULL",
        "INSERT INTO items VALUES (1, 'eu'), (2, 'us'), (3, NULL)",
    )
    replication.publish("FOR TABLE items WHERE (region = 'eu')")
    require_chosen()
    replication.execute(
        "INSERT INTO items VALUES (4, 'eu'), (5, 'us')",
        "UPDATE items SET region = 'us' WHERE id = 1",
        "UPDATE items SET region = 'eu' WHERE id = 2",
    )
    require_chosen()
    replication.execute("ALTER TABLE items ALTER id TYPE bigint")  # all rows are read again
    require_chosen()


def test_a_partition_that_is_unlogged_for_a_while(replication: Replication) -> None:
    """What is written to it meanwhile is not in the WAL."""
    replication.execute(
        "CREATE TABLE sales (id int PRIMARY KEY) PARTITION BY RANGE (id)",
        "CREATE TABLE sales_first PARTITION OF sales FOR VALUES FROM (0) TO (100)",
        "INSERT INTO sales VALUES (1)",
    )
    replication.synchronize("sales")
    replication.execute(
        "ALTER TABLE sales_first SET UNLOGGED",
        "INSERT INTO sales VALUES (2)",
        "DELETE FROM sales WHERE id = 1",
        "ALTER TABLE sales_first SET LOGGED",
        "INSERT INTO sales VALUES (3)",
    )
    replication.synchronize("sales")


def test_only_a_few_tables_are_read_again_at_once(replication: Replication) -> None:
    tables = [f"t{number}" for number in range(8)]
    replication.execute(*(f"CREATE TABLE {table} AS SELECT 1 AS id" for table in tables))
    replication.synchronize(*tables)
    replication.transaction(*(f"ALTER TABLE {table} ADD extra float DEFAULT random()" for table in tables))
    with psycopg.connect(replication.source.info.dsn) as holder:
        holder.execute(f"LOCK TABLE {', '.join(tables)} IN ACCESS EXCLUSIVE MODE".encode())
        while replication.source.execute(READING_AGAIN).fetchone() == (0,):
            replication.step_capture()
        for _ in range(10):
            replication.step_capture()
            assert replication.source.execute(READING_AGAIN).fetchone() <= (3,)
    replication.synchronize(*tables)


def test_a_table_that_is_written_to_is_captured_once_nobody_does(
    replication: Replication, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is added to the publication under a lock, for which neither capture nor other writers wait for long."""
    monkeypatch.setattr("cdc.sources.postgres.source._LOOK_SECONDS", 0.1)
    replication.execute("CREATE TABLE items (id int PRIMARY KEY)", "CREATE TABLE busy (id int PRIMARY KEY)")
    replication.capturing("public.items")
    replication.synchronize("items")
    with psycopg.connect(replication.source.info.dsn) as writer:
        writer.execute("INSERT INTO busy VALUES (1)")
        replication.capturing("public.items", "public.busy")
        replication.execute("INSERT INTO items VALUES (1)", "INSERT INTO busy VALUES (2)")
        replication.synchronize("items")
        assert not is_published(replication, "busy")
    while not is_published(replication, "busy"):
        replication.step_capture()
    replication.execute("INSERT INTO busy VALUES (3)")
    replication.synchronize("busy", "items")


def test_a_new_table_at_which_the_event_trigger_failed(replication: Replication, unique_name: str) -> None:
    """Somebody holds the publication, and who makes the table does not wait for locks: so it is not published."""
    replication.execute("CREATE TABLE items (id int PRIMARY KEY)")
    replication.synchronize("items")
    address = replication.source.info.dsn
    with psycopg.connect(address) as holder, psycopg.connect(address, autocommit=True) as maker:
        holder.execute(f"ALTER PUBLICATION {unique_name} SET (publish = 'insert')".encode())
        maker.execute("SET lock_timeout = '50ms'")
        maker.execute("CREATE TABLE more (id int PRIMARY KEY)")
        maker.execute("INSERT INTO more VALUES (1)")
        holder.rollback()
    assert not is_published(replication, "more")
    while not is_published(replication, "more"):
        replication.step_capture()
    assert any("could not describe a schema change (canceling" in said for said in replication.reported)
    replication.execute("INSERT INTO more VALUES (2)")
    replication.synchronize("items", "more")


def is_published(replication: Replication, table: str) -> bool:
    found = replication.source.execute("SELECT FROM pg_publication_tables WHERE tablename = %s", [table])
    return found.fetchone() is not None


# ---- a source that lets nobody make event triggers -------------------------------------------------------------------


@pytest.fixture
def plain(
    pg_server: Callable[[int], EmbeddedPostgres], new_database: Databases, tmp_path: Path, unique_name: str
) -> Iterator[Replication]:
    """Captured by the tables' owner, who is no superuser."""
    server, source, role = pg_server(18), new_database(), f"owner_{unique_name}"
    server.create_user(role, "secret", "LOGIN REPLICATION")
    database = source.rpartition("/")[2]
    with psycopg.connect(source, autocommit=True) as admin:
        admin.execute(f'GRANT CREATE ON DATABASE "{database}" TO {role}; GRANT ALL ON SCHEMA public TO {role}'.encode())
    with (
        Replication(tmp_path, server.url(database, role, "secret"), new_database(), unique_name) as replication,
        closing(replication.source),
        closing(replication.target),
    ):
        yield replication


def test_a_table_that_comes_from_elsewhere_brings_its_rows(
    plain: Replication, pg_server: Callable[[int], EmbeddedPostgres], unique_name: str
) -> None:
    plain.execute(
        "CREATE TABLE items (id int PRIMARY KEY)",
        "CREATE SCHEMA far",
        "CREATE TABLE far.moved AS SELECT id FROM generate_series(1, 3) AS id",
    )
    with psycopg.connect(pg_server(18).url(plain.source.info.dbname), autocommit=True) as admin:
        admin.execute(f"CREATE PUBLICATION {unique_name} FOR ALL TABLES".encode())
    plain.capturing("public.*")
    plain.synchronize("items")
    plain.execute("ALTER TABLE far.moved SET SCHEMA public", "INSERT INTO moved VALUES (4)")
    plain.synchronize("items", "moved")
    plain.close()
    with psycopg.connect(pg_server(18).url(plain.source.info.dbname), autocommit=True) as admin:
        admin.execute(f"DROP PUBLICATION {unique_name}".encode())  # which the tables' owner may not


def test_new_tables_of_which_one_inherits_from_the_other(plain: Replication, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cdc.sources.postgres.source._LOOK_SECONDS", 0.1)
    plain.execute("CREATE TABLE items (id int PRIMARY KEY)")
    plain.synchronize("items")
    plain.transaction(
        "CREATE TABLE parent (id int PRIMARY KEY)",
        "CREATE TABLE child (PRIMARY KEY (id)) INHERITS (parent)",
        "INSERT INTO parent VALUES (1)",
        "INSERT INTO child VALUES (2)",
    )
    while not (is_published(plain, "parent") and is_published(plain, "child")):
        plain.step_capture()
    plain.synchronize("items", "parent", "child")
