"""We read others' topics: what Debezium's PostgreSQL connector writes is applied to a database."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

import psycopg
import pytest

from cdc.cli.options import load_settings
from cdc.core.position import ORIGIN
from cdc.core.settings import RegistrySettings
from cdc.demo.processes import Processes
from cdc.registry.confluent import ConfluentRegistry
from cdc.registry.decoding import Decoding
from consumers.status import Status, read_status

PATIENCE_SECONDS = 180.0
CONFIG = """\
[log]
url = "kafka://{kafka}"
prefix = "{name}"
written_by = "debezium"

[registry]
url = "{registry}"

[targets.copy]
url = "{target}"
tables = ["public.*", "!public.made"]
"""
SCHEMA = """
CREATE TYPE pair AS (a int, b text);
CREATE TABLE items (id int PRIMARY KEY, n int, body text, blob bytea, doc jsonb, tags text[], whole text NOT NULL);
ALTER TABLE items ALTER body SET STORAGE EXTERNAL, ALTER blob SET STORAGE EXTERNAL, ALTER doc SET STORAGE EXTERNAL,
    ALTER tags SET STORAGE EXTERNAL, ALTER whole SET STORAGE EXTERNAL;
CREATE TABLE fulls (id int PRIMARY KEY, n int, body text);
ALTER TABLE fulls REPLICA IDENTITY FULL, ALTER body SET STORAGE EXTERNAL;
CREATE TABLE pairs (a int, b text, note text NOT NULL, at pair, PRIMARY KEY (b, a));
"""
BEFORE = """
INSERT INTO items SELECT g, g, big, big::bytea, to_jsonb(big), ARRAY[big, NULL], big
    FROM generate_series(1, 100) g, LATERAL (SELECT repeat(md5(g::text), 100)) AS x (big);
INSERT INTO fulls SELECT g, g, repeat(md5(g::text), 100) FROM generate_series(1, 50) g;
INSERT INTO pairs SELECT g % 10, 'b' || g, 'first', (g, 'x')::pair FROM generate_series(1, 40) g;
"""
CHANGES = (
    "INSERT INTO items SELECT g, g, 'small', 'small', '3', '{}', '' FROM generate_series(101, 200) g",
    "UPDATE items SET n = n + 1 WHERE id % 3 = 0",  # large values stay as they are, and are not sent
    "UPDATE items SET id = id + 1000 WHERE id % 10 = 1",  # the same, and the row moves
    "UPDATE items SET body = 'no longer large', doc = NULL WHERE id % 10 = 2",
    "DELETE FROM items WHERE id % 7 = 0",
    "UPDATE fulls SET n = n + 1 WHERE id % 2 = 0; UPDATE fulls SET id = id + 1000 WHERE id % 5 = 0",
    "UPDATE pairs SET a = a + 100 WHERE a < 3; UPDATE pairs SET note = note || ' again' WHERE a > 3",
    "DELETE FROM pairs WHERE a = 5; INSERT INTO pairs VALUES (5, 'b5', 'back', NULL)",
    "UPDATE kinds SET a_text = 'changed', a_bytea = NULL WHERE id = 1",
)
TABLES = ("kinds", "items", "fulls", "pairs")


class Databases(NamedTuple):
    source: str
    target: str


@pytest.fixture
def databases(new_database) -> Databases:
    return Databases(new_database(), new_database())


class Replication:
    """A connector, and `cdc apply` behind it."""

    def __init__(self, name: str, databases: Databases, processes: Processes, connect: Any, applied: Path) -> None:
        self.name = name
        self._databases = databases
        self._processes = processes
        self._connect = connect
        self._applied = applied

    def await_equal(self, *tables: str) -> None:
        unequal = list(tables)

        def equal() -> bool:
            unequal[:] = self._unequal(tables)
            return not unequal

        self._await(equal, unequal)

    def await_count(self, table: str, count: int) -> None:
        self._await(lambda: self._count(table) == count, f"{table} has not {count} rows")

    def status(self) -> Status:
        """What `cdc status` says."""
        return read_status(load_settings(self._applied.with_name("cdc.toml")))

    def said(self) -> str:
        """What the applier reported."""
        return self._applied.read_text()

    def _await(self, is_so: Callable[[], bool], otherwise: object) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not is_so():
            self._processes.require_running()
            self._connect.require_running()
            assert time.monotonic() < deadline, otherwise
            time.sleep(0.1)  # between two looks at databases that tell no one when they change

    def _count(self, table: str) -> int | None:
        try:
            return fetch(self._databases.target, f"SELECT count(*)::int FROM {table}")[0][0]
        except psycopg.errors.UndefinedTable:
            return None

    def _unequal(self, tables: tuple[str, ...]) -> list[str]:
        try:
            source, target = self._databases
            return [table for table in tables if rows(source, table) != rows(target, table)]
        except psycopg.errors.UndefinedTable as missing:
            return [str(missing)]


@pytest.fixture
def replicate(tmp_path, databases, unique_name, kafka, schema_registry_url, connect, postgres_connector):
    """`with replicate(settings) as replication:` with these settings of the connector."""

    @contextmanager
    def running(settings: dict[str, str], *, partitions: int = 2) -> Iterator[Replication]:
        config = tmp_path / "cdc.toml"
        config.write_text(
            CONFIG.format(name=unique_name, kafka=kafka, registry=schema_registry_url, target=databases.target)
        )
        with Processes(config) as processes:
            processes.start("apply", "apply", "copy")
            try:
                connect.add(unique_name, postgres_connector(unique_name, databases.source, settings, partitions))
                yield Replication(unique_name, databases, processes, connect, config.with_name("apply.log"))
            finally:
                connect.remove(unique_name)

    return running


def test_every_change_arrives(databases, replicate, recommended, kinds):
    execute(databases.source, kinds.types, SCHEMA, kinds.ddl("kinds"), BEFORE, kinds.insert("kinds"))
    execute(databases.target, kinds.types, "CREATE TYPE pair AS (a int, b text)")
    with replicate(recommended) as replication:
        replication.await_equal(*TABLES)
        execute(databases.source, *CHANGES, kinds.insert("kinds", 11))
        replication.await_equal(*TABLES)


def test_a_connector_with_default_settings(databases, replicate, kinds):
    """Then the target's columns have the types that Connect knows; of intervals something is lost on the way."""
    execute(databases.source, kinds.types, kinds.ddl("kinds"), kinds.insert("kinds"))
    execute(databases.target, kinds.types)
    with replicate({"skipped.operations": "none"}, partitions=1) as replication:
        replication.await_count("kinds", 3)
        for name, kind in kinds.columns.items():
            if name != "an_interval":
                cast = f"::int::{kind.type}" if name == "a_bit" else f"::{kind.type}"
                found = fetch(databases.target, f"SELECT {name}{cast}::text FROM kinds ORDER BY id")
                assert found == fetch(databases.source, f"SELECT {name}::text FROM kinds ORDER BY id"), name
        execute(databases.source, "TRUNCATE kinds; INSERT INTO kinds (id) VALUES (7)")
        replication.await_count("kinds", 1)
        status = replication.status()
        assert status.log["phase"] == "written by a Debezium connector"
        assert status.log["tables"] == 1
        assert status.targets["copy"]["error"] is None
    assert fetch(databases.target, "SELECT id FROM kinds") == [(7,)]


def test_what_the_connector_sends_twice_is_applied_once(
    databases, replicate, connect, topics, schema_registry_url, unique_name
):
    """SIGKILL of Kafka Connect while transactions overlap: it goes on from offsets that it saved some time ago."""
    execute(
        databases.source,
        "CREATE TABLE moves (id int PRIMARY KEY, n int, body text)",
        "ALTER TABLE moves ALTER body SET STORAGE EXTERNAL",
        "INSERT INTO moves SELECT g, 0, repeat('x', 3000) FROM generate_series(1, 60) g",
    )
    topic = f"{unique_name}.public.moves"
    with replicate({}) as replication:
        replication.await_equal("moves")
        with Writers(databases.source):
            connect.await_saved_offsets()
            sent = topics.count(topic)
            await_true(lambda: topics.count(topic) > sent + 50)
            connect.kill()
            connect.start()
        replication.await_equal("moves")
        assert "sends events again" in replication.said()
    with closing(ConfluentRegistry(RegistrySettings(url=schema_registry_url))) as registry:
        decoding = Decoding(registry)
        events = [decoding.event(record) for record in topics.read(topic)]
    times = Counter((event.position, repr(event.change)) for event in events if event and event.position > ORIGIN)
    assert max(times.values()) > 1, "the connector sent nothing twice"


class Writers:
    """Transactions that overlap, without pause, until the context ends."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._write, args=(number,)) for number in (1, 2, 3)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _write(self, number: int) -> None:
        dice, new = random.Random(number), 10_000_000 * number
        with psycopg.connect(self._url) as connection:
            while not self._stop.is_set():
                with contextlib.suppress(psycopg.errors.DeadlockDetected), connection.transaction():
                    for _ in range(dice.randint(1, 5)):
                        new += 10
                        connection.execute(self._statement(dice, dice.randint(1, 60), new))
                self._stop.wait(0.02)  # a hundred a second: more only burdens the machine

    @staticmethod
    def _statement(dice: random.Random, old: int, new: int) -> str:
        return dice.choice(
            [
                f"UPDATE moves SET n = n + 1 WHERE id = {old}",  # the body is large, and not sent
                f"UPDATE moves SET n = n + 1 WHERE id = (SELECT max(id) FROM moves WHERE id < {new})",
                f"UPDATE moves SET id = {new} WHERE id = {old}",
                f"DELETE FROM moves WHERE id = {old}",
                f"INSERT INTO moves VALUES ({old}, 0, repeat('y', 3000)) ON CONFLICT (id) DO UPDATE SET n = -1",
                f"INSERT INTO moves SELECT g, 0, repeat('z', 3000) FROM generate_series({new}, {new} + 5) g",
            ]
        )


def await_true(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)  # between two looks at a log that tells no one when it grows


def rows(url: str, table: str) -> list[tuple[Any, ...]]:
    return fetch(url, f"SELECT t::text FROM {table} t ORDER BY 1")


def fetch(url: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(query).fetchall()


def execute(url: str, *statements: str) -> None:
    """Each in a transaction of its own."""
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)
