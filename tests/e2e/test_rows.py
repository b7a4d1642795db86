"""Every shape of row, from a real source through a local log into a PostgreSQL and a SQLite target, compared there."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Final

import psycopg
import pytest
from psycopg import sql

from cdc.avro.messages import decode_message
from cdc.avro.names import schemas_topic
from cdc.avro.transactions import TransactionBegin, TransactionEnd, decode_boundary
from cdc.cli.tail import tail
from cdc.core.errors import ConfigError, SourceError, TargetSchemaError
from cdc.core.events import LogicalMessage
from cdc.core.log import StoredRecord
from cdc.core.settings import LogSettings
from cdc.core.tables import TableId
from cdc.log.open import open_log
from cdc.log.reading import read_to_end
from cdc.registry.embedded import EmbeddedRegistry
from cdc.sources.postgres.database import SourceDatabase
from cdc.sources.postgres.source import PostgresSource
from consumers.targets.naming import flat_name
from tests.replica import Replica

Databases = Callable[..., str]
Texts = tuple[str | None, ...]

MARKER: Final = "replica"  # the prefix of the messages that Replica writes
TARGETS: Final = ("postgres", "sqlite")
VERSIONS = pytest.mark.parametrize("version", [15, 16, 18])


class Replication(Replica):
    """A source, a local log and two targets. Tables are named as they are stored: `items` is public.items."""

    def __init__(self, folder: Path, source: str, target: str, name: str) -> None:
        self.replica = folder / "replica.db"
        self.log_settings = LogSettings(url=f"sqlite:///{folder / 'log.db'}", prefix=name, partitions=3)
        self.source = psycopg.connect(source, autocommit=True)
        self.target = psycopg.connect(target, autocommit=True)
        super().__init__(
            source,
            {"postgres": target, "sqlite": f"sqlite:///{self.replica}"},
            name=name,
            log=open_log(self.log_settings),
            log_settings=self.log_settings,
        )

    def capturing(self, *tables: str) -> None:
        """Capture these tables only."""
        self.close()
        self._source_settings = replace(self._source_settings, tables=tables)

    def naming_topics(self, topics: dict[str, str]) -> None:
        """Give the tables of these patterns these topics."""
        self.close()
        self._log_settings = replace(self._log_settings, topics=topics)

    def applying(self, target: str, *tables: str, batch_events: int = 10_000) -> None:
        """Apply these tables only to this target."""
        self.close()
        self._targets[target] = replace(self._targets[target], tables=tables or ("*.*",), batch_events=batch_events)

    def publish(self, what: str) -> None:
        """Make the publication as a user would, with all its wishes."""
        self.execute(f"CREATE PUBLICATION {self._source_settings.publication} {what}")

    def execute(self, *statements: str) -> None:
        for statement in statements:
            self.source.execute(statement)

    def transaction(self, *statements: str) -> None:
        with self.source.transaction():
            self.execute(*statements)

    def synchronize(self, *tables: str | TableId) -> None:
        """Bring all that is committed to the targets, and compare these tables."""
        self.catch_up()
        for table in tables:
            self.require_equal(table)

    def records(self, topic: str) -> list[StoredRecord]:
        """All that a topic of one partition holds."""
        with closing(self.log.reader("test")) as reader:
            return list(read_to_end(reader, f"{self.log_settings.prefix}.{topic}"))

    def message(self, record: StoredRecord) -> LogicalMessage:
        assert record.value is not None
        return decode_message(record.value, self._schema)

    def boundary(self, record: StoredRecord) -> TransactionBegin | TransactionEnd:
        assert record.value is not None
        return decode_boundary(record.value, self._schema)

    def _schema(self, schema_id: int) -> str:
        with closing(EmbeddedRegistry(self.log, None, schemas_topic(self.log_settings.prefix))) as registry:
            return registry.schema(schema_id)

    def require_equal(self, table: str | TableId) -> None:
        table = TableId("public", table) if isinstance(table, str) else table
        columns, expected = self.at_source(table)
        for name in self._targets:
            if self._takes(name, table):
                found_columns, found = self.at_target(name, table)
                assert found_columns == columns
                assert found == expected, f"{table} at {name}"

    def _takes(self, target: str, table: TableId) -> bool:
        return f"!{table.schema}.{table.name}" not in self._targets[target].tables

    def at_source(self, table: TableId) -> tuple[list[str], list[Texts]]:
        return _texts(self.source, table)

    def at_target(self, name: str, table: TableId) -> tuple[list[str], list[Texts]]:
        """Columns by name, and rows, as text."""
        if name == "postgres":
            return _texts(self.target, table)
        with closing(sqlite3.connect(self.replica)) as replica:
            cursor = replica.execute(f'SELECT * FROM "{flat_name(table).replace(chr(34), chr(34) * 2)}"')
            names = [column[0] for column in cursor.description]
            places = sorted(range(len(names)), key=names.__getitem__)
            rows = [tuple(None if row[i] is None else str(row[i]) for i in places) for row in cursor]
            return sorted(names), _sorted(rows)


def _texts(connection: psycopg.Connection, table: TableId) -> tuple[list[str], list[Texts]]:
    """A table's columns, sorted, and its own rows (not those of tables that inherit it) as text."""
    ((partitioned, oid),) = connection.execute(
        "SELECT relkind = 'p', c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace"
        " WHERE nspname = %s AND relname = %s",
        table,
    ).fetchall()
    found = connection.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped", [oid]
    )
    names = sorted(name for (name,) in found)
    query = sql.SQL("SELECT {} FROM {} {}").format(
        sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(name)) for name in names),
        sql.SQL("" if partitioned else "ONLY"),
        sql.Identifier(*table),
    )
    return names, _sorted(connection.execute(query).fetchall())


def _quoted(*names: str) -> str:
    return ".".join('"' + name.replace('"', '""') + '"' for name in names)


def _sorted(rows: Sequence[Texts]) -> list[Texts]:
    return sorted(rows, key=lambda row: [(value is None, value or "") for value in row])


@pytest.fixture
def new_replication(tmp_path: Path, new_database: Databases, unique_name: str) -> Iterator[Callable[..., Replication]]:
    """`new_replication(version=18)`: from a source of that version to a target of the newest."""
    with ExitStack() as made:

        def replication(*, version: int = 18) -> Replication:
            opened = Replication(tmp_path, new_database(version=version), new_database(), unique_name)
            made.enter_context(closing(opened.source))
            made.enter_context(closing(opened.target))
            return made.enter_context(opened)

        yield replication


@pytest.fixture
def replication(new_replication: Callable[..., Replication]) -> Replication:
    return new_replication()


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
        columns = ", ".join(f"{_quoted(name)} text" for name in NAMES if name != table.name)
        replication.execute(f"CREATE TABLE {_quoted(*table)} ({_quoted(table.name)} int PRIMARY KEY, {columns})")
        replication.execute(f"INSERT INTO {_quoted(*table)} SELECT i, i, i FROM generate_series(1, 3) i")
    replication.synchronize(*tables)
    for table in tables:
        other = next(name for name in NAMES if name != table.name)
        replication.execute(
            f"UPDATE {_quoted(*table)} SET {_quoted(other)} = 'changed' WHERE {_quoted(table.name)} = 1",
            f"UPDATE {_quoted(*table)} SET {_quoted(table.name)} = 4 WHERE {_quoted(table.name)} = 2",
            f"DELETE FROM {_quoted(*table)} WHERE {_quoted(table.name)} = 3",
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


# ---- transactions ---------------------------------------------------------------------------------------------------


def test_a_transaction_of_10_000_savepoints(replication: Replication) -> None:
    replication.execute("CREATE TABLE items (id int PRIMARY KEY, n int)", "INSERT INTO items VALUES (0, 0)")
    replication.synchronize("items")
    replication.execute(
        """
        DO $$ BEGIN FOR i IN 1..10000 LOOP
            BEGIN
                INSERT INTO items VALUES (i, 0);
                IF i % 50 = 0 THEN UPDATE items SET n = i WHERE id = 0; END IF;
                IF i % 3 = 0 THEN RAISE EXCEPTION 'rolled back'; END IF;
            EXCEPTION WHEN raise_exception THEN NULL;
            END;
        END LOOP; END $$
        """
    )
    replication.synchronize("items")


@VERSIONS
def test_prepared_transactions(version: int, new_replication: Callable[..., Replication]) -> None:
    """They come when they are committed, in that order, and never if they are rolled back."""
    replication = new_replication(version=version)
    replication.execute("CREATE TABLE items (id int PRIMARY KEY, n int)", "INSERT INTO items VALUES (1, 1), (2, 2)")
    replication.synchronize("items")

    def prepare(name: str, *statements: str) -> None:
        replication.execute("BEGIN", *statements, f"PREPARE TRANSACTION '{replication.log_settings.prefix}{name}'")

    def end(how: str, name: str) -> None:
        replication.execute(f"{how} PREPARED '{replication.log_settings.prefix}{name}'")

    prepare("a", "UPDATE items SET n = 10 WHERE id = 1", "INSERT INTO items VALUES (3, 3)")
    prepare("b", "DELETE FROM items WHERE id = 2")
    replication.execute("INSERT INTO items VALUES (4, 4)")
    replication.synchronize("items")
    end("ROLLBACK", "b")
    end("COMMIT", "a")
    replication.execute("UPDATE items SET n = n + 1")
    replication.synchronize("items")


TEN_THOUSAND_TABLES: Final = """
    DO $$ BEGIN FOR i IN 1..10000 LOOP
        EXECUTE format('CREATE TABLE many.t%s (n int)', i);
    END LOOP; END $$
"""


def test_three_of_10_000_tables(
    new_replication: Callable[..., Replication], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What is asked of the source does not grow with the tables that are not captured, whatever is published."""
    asked: list[str] = []
    query = SourceDatabase.query

    def listened(self: SourceDatabase, sql: str, *, doing: str) -> list[tuple[object, ...]]:
        asked.append(sql)
        return query(self, sql, doing=doing)

    monkeypatch.setattr(SourceDatabase, "query", listened)
    replication = new_replication()
    tables = [TableId("many", f"t{number}") for number in (1, 5000, 10000)]
    replication.execute("SET synchronous_commit = off", "CREATE SCHEMA many", TEN_THOUSAND_TABLES)
    replication.execute(
        *(f"ALTER TABLE {table} ADD id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY" for table in tables)
    )
    replication.execute(*(f"INSERT INTO {table} (n) VALUES (1)" for table in tables))
    replication.capturing("many.t1", "many.t5000", "many.t10000")
    for publication in ("of three", "of all"):
        asked.clear()
        replication.synchronize(*tables)
        for number in range(1, 10001, 200):
            replication.execute(f"INSERT INTO many.t{number} (n) VALUES (2)")
        replication.execute("UPDATE many.t1 SET n = n + 1", "DELETE FROM many.t5000 WHERE id = 1")
        replication.synchronize(*tables)
        assert len(asked) < 50, publication
        replication.close()
        replication.execute(f"DROP PUBLICATION {replication.log_settings.prefix}")
        replication.publish("FOR ALL TABLES WITH (publish_via_partition_root = true)")


# ---- logical messages -----------------------------------------------------------------------------------------------

# Published and not, in and outside of transactions, with rows and without.
MESSAGES: Final = (
    (
        "BEGIN",
        "SELECT pg_logical_emit_message(true, 'audit', 'who')",
        "INSERT INTO items VALUES (1)",
        "SELECT pg_logical_emit_message(true, 'cdc.own', '')",
        "SELECT pg_logical_emit_message(true, 'größe', '\\xff00'::bytea)",
        "COMMIT",
    ),
    ("SELECT pg_logical_emit_message(true, 'alone', '')",),
    ("SELECT pg_logical_emit_message(true, 'cdc.own', '')",),
    ("SELECT pg_logical_emit_message(false, 'at once', 'now')",),
    ("SELECT pg_logical_emit_message(false, 'cdc.own', '')",),
    (
        "BEGIN",
        "SELECT pg_logical_emit_message(false, 'kept', '')",
        "SELECT pg_logical_emit_message(true, 'rolled back', '')",
        "INSERT INTO items VALUES (2)",
        "ROLLBACK",
    ),
)


@VERSIONS
def test_messages(version: int, new_replication: Callable[..., Replication]) -> None:
    replication = new_replication(version=version)
    replication.execute("CREATE TABLE items (id int PRIMARY KEY)", "INSERT INTO items VALUES (0)")
    replication.synchronize("items")
    for statements in MESSAGES:
        replication.execute(*statements)
    replication.synchronize("items")

    read = [(record, replication.message(record)) for record in replication.records("message")]
    found = [(record, message) for record, message in read if message.prefix != MARKER]
    assert [(m.prefix, m.content, m.ordinal, m.message_ordinal) for _, m in found] == [
        ("audit", b"who", 1, 1),
        ("größe", b"\xff\x00", 4, 2),
        ("alone", b"", 1, 1),
        ("at once", b"now", 0, 1),
        ("kept", b"", 0, 1),
    ]
    assert found[1][0].key is not None
    assert found[1][0].key[5:] == b"\x02\x0e" + "größe".encode()
    assert [message.transaction.xid is None for _, message in found] == [False, False, False, True, True]
    positions = [message.position for _, message in read]
    assert positions == sorted(set(positions))

    boundaries = [replication.boundary(record) for record in replication.records("transaction")]
    assert [type(each) for each in boundaries] == [TransactionBegin, TransactionEnd] * (len(boundaries) // 2)
    ends = {each.id: each for each in boundaries if isinstance(each, TransactionEnd)}
    counted = "LOGICAL_DECODING_MESSAGE"
    assert [(e.event_count, e.event_counts, e.last_ordinal) for e in (ends[m.transaction.id] for _, m in found)] == [
        (3, {"public.items": 1, counted: 2}, 4),
        (3, {"public.items": 1, counted: 2}, 4),
        (1, {counted: 1}, 1),
        (1, {counted: 1}, 0),
        (1, {counted: 1}, 0),
    ]
    assert len(ends) == len({message.transaction.id for _, message in read}) + 1  # the load's


def test_messages_survive_restarts(replication: Replication) -> None:
    """What is confirmed is not sent again, and nothing is left out."""
    replication.execute("CREATE TABLE items (id int PRIMARY KEY)")
    for number in range(4):
        replication.execute(f"SELECT pg_logical_emit_message({str(number % 2 == 0).lower()}, 'number', '{number}')")
        replication.synchronize()
        replication.reopen()
    messages = [replication.message(record) for record in replication.records("message")]
    assert [message.content for message in messages if message.prefix == "number"] == [b"1", b"2", b"3"]


def test_what_is_in_the_log_is_not_written_again(replication: Replication, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the log would end with an END that the slot may be ahead of, when a crash comes before the next one."""
    replication.execute("CREATE TABLE items (id int PRIMARY KEY)")
    replication.synchronize()
    with monkeypatch.context() as unconfirmed:
        unconfirmed.setattr(PostgresSource, "confirm", lambda *_: None)
        replication.execute("INSERT INTO items VALUES (1)", "INSERT INTO items VALUES (2)")
        replication.synchronize("items")
        replication.reopen()
    replication.execute("INSERT INTO items VALUES (3)")
    replication.synchronize("items")
    ends = [replication.boundary(record).id for record in replication.records("transaction")][1::2]
    assert len(ends) == len(set(ends))


def test_tail_shows_messages(replication: Replication, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    replication.execute("CREATE TABLE items (id int PRIMARY KEY)")
    replication.synchronize()
    replication.transaction(
        "INSERT INTO items VALUES (1)",
        "SELECT pg_logical_emit_message(true, 'audit', 'who')",
        "SELECT pg_logical_emit_message(true, 'audit', '\\xff'::bytea)",
    )
    replication.synchronize("items")
    replication.close()
    config = tmp_path / "cdc.toml"
    config.write_text(
        f'[source]\nurl = "postgresql://nowhere/x"\ntables = ["*.*"]\n'
        f'[log]\nurl = "{replication.log_settings.url}"\nprefix = "{replication.log_settings.prefix}"\n'
    )
    tail(None, config, from_start=True, count=5, as_json=True)
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    shown = [{name: one.get(name) for name in ("op", "table", "prefix", "content", "content_hex")} for one in said]
    assert {"op": "m", "table": None, "prefix": "audit", "content": "who", "content_hex": None} in shown
    assert {"op": "m", "table": None, "prefix": "audit", "content": None, "content_hex": "ff"} in shown
    assert {"op": "c", "table": "public.items", "prefix": None, "content": None, "content_hex": None} in shown
    tail(["public.*"], config, from_start=True, count=1)
    assert "  c  public.items  after id=1" in capsys.readouterr().out


# ---- large transactions ---------------------------------------------------------------------------------------------

ROWS: Final = 40_000  # a million takes minutes, and no more memory
CONFIG: Final = """\
[source]
url = "{source}"
tables = ["public.*"]
slot = "{name}"
publication = "{name}"
[log]
url = "sqlite:///{folder}/log.db"
prefix = "{name}"
partitions = 3
[targets.postgres]
url = "{target}"
batch_events = 1000
[targets.sqlite]
url = "sqlite:///{folder}/replica.db"
batch_events = 1000
"""
# Runs one part of cdc until it has done so many events, and prints its peak of resident memory in MB.
RUN: Final = """
import sys
from pathlib import Path
from cdc.cli.options import load_settings
from cdc.wiring import capture_session
from consumers.wiring import apply_session

config, part, events = load_settings(Path(sys.argv[1])), sys.argv[2], int(sys.argv[3])
session = capture_session(config, print) if part == "capture" else apply_session(config, part, print)
with session as running:
    running.run(lambda: running.progress.events >= events)
(peak,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(int(peak.split()[1]) // 1024)  # kB; getrusage's would be the parent's, if that was larger before the exec
"""


def test_memory_does_not_grow_with_a_transaction(tmp_path: Path, new_database: Databases, unique_name: str) -> None:
    source, target = new_database(), new_database()
    config = tmp_path / "cdc.toml"
    config.write_text(CONFIG.format(source=source, target=target, folder=tmp_path, name=unique_name))

    def peak(part: str, events: int) -> int:
        command = [sys.executable, "-c", RUN, str(config), part, str(events)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
        return int(done.stdout.splitlines()[-1])

    with psycopg.connect(source, autocommit=True) as connection:
        connection.execute("CREATE TABLE items (id int PRIMARY KEY, n int, body text)")
        connection.execute("INSERT INTO items VALUES (0, 0, 'first')")
        # Two events: what became of the table counts as one.
        small = {part: peak(part, 2) for part in ("capture", *TARGETS)}
        connection.execute(
            "INSERT INTO items SELECT i, i, repeat('x', 1000) FROM generate_series(1, %s) i" % ROWS  # noqa: UP031
        )
        large = {part: peak(part, ROWS) for part in ("capture", *TARGETS)}
        expected = connection.execute("SELECT count(*), sum(n), sum(length(body)) FROM items").fetchone()
    print(f"peak of resident memory in MB: {small} for 1 row, {large} for {ROWS} rows in one transaction")
    assert {part: large[part] - small[part] < 25 for part in large} == dict.fromkeys(large, True), (small, large)
    with psycopg.connect(target) as connection:
        assert connection.execute("SELECT count(*), sum(n), sum(length(body)) FROM items").fetchone() == expected
    with closing(sqlite3.connect(tmp_path / "replica.db")) as replica:
        assert replica.execute("SELECT count(*), sum(n), sum(length(body)) FROM items").fetchone() == expected
