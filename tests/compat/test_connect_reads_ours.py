"""Others read our topics: Kafka Connect's Avro converter, and Debezium's JDBC sink behind it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from typing import Any, NamedTuple

import psycopg
import pytest

from cdc.demo.processes import Processes

PATIENCE_SECONDS = 180.0
TABLES = ("kinds", "items", "pairs", "emptied")
SCHEMA = """
CREATE TABLE items (id int PRIMARY KEY, n int, body text);
CREATE TABLE pairs (a int, b text, note text NOT NULL, PRIMARY KEY (b, a));
CREATE TABLE emptied (id int PRIMARY KEY);
"""
BEFORE = """
INSERT INTO items SELECT g, g, repeat('x', g) FROM generate_series(1, 100) g;
INSERT INTO pairs SELECT g % 10, 'b' || g, 'first' FROM generate_series(1, 40) g;
INSERT INTO emptied SELECT g FROM generate_series(1, 10) g;
"""
CHANGES = """
INSERT INTO items SELECT g, g, repeat(md5(g::text), 300) FROM generate_series(101, 200) g;
UPDATE items SET n = n + 1 WHERE id % 3 = 0;
UPDATE items SET id = id + 1000 WHERE id % 10 = 1;
DELETE FROM items WHERE id % 7 = 0;
UPDATE pairs SET a = a + 100 WHERE a < 3;
UPDATE pairs SET note = NULLIF(b, 'b1') || ' again' WHERE b <> 'b1';
DELETE FROM pairs WHERE a = 5;
INSERT INTO pairs VALUES (5, 'b5', 'back');
UPDATE kinds SET a_text = 'changed', a_bytea = NULL WHERE id = 1;
TRUNCATE emptied;
"""


class Replication(NamedTuple):
    prefix: str
    source: str
    target: str


@pytest.fixture(scope="module")
def replication(pg_server, capture_config, connect, kinds) -> Iterator[Replication]:
    """Changes of all kinds, captured to Kafka, and brought to a database by Debezium's JDBC sink."""
    name = f"t_{uuid.uuid4().hex[:12]}"
    server = pg_server(18)
    source, target = server.create_database(name), server.create_database(f"{name}_target")
    prepare = [kinds.types, SCHEMA, kinds.ddl("kinds"), "ALTER TABLE items REPLICA IDENTITY FULL"]
    execute(source, *prepare, BEFORE, kinds.insert("kinds"), kinds.ddl("made"), kinds.insert("made"))
    execute(target, *prepare)
    with Processes(capture_config(name, source)) as processes:
        processes.start("capture", "capture")
        try:
            connect.add(name, sink(name, target))
            await_equal(source, target, ("kinds",), processes, connect)
            execute(source, CHANGES, kinds.insert("kinds", 11))
            await_equal(source, target, TABLES, processes, connect)
            yield Replication(name, source, target)
        finally:
            connect.remove(name)
    server.drop_database(name)
    server.drop_database(f"{name}_target")


def sink(prefix: str, target: str) -> dict[str, str]:
    """The settings that docs/debezium.md gives. `stringtype` lets PostgreSQL read a text as its column's type."""
    _, _, address = target.rpartition("@")
    return {
        "connector.class": "io.debezium.connector.jdbc.JdbcSinkConnector",
        "topics.regex": rf"{prefix}\.public\..*",
        "connection.url": f"jdbc:postgresql://{address}?stringtype=unspecified",
        "connection.username": "postgres",
        "connection.password": "not asked for",
        "insert.mode": "upsert",
        "primary.key.mode": "record_key",
        "delete.enabled": "true",
        "truncate.enabled": "true",
        "schema.evolution": "basic",
        "collection.name.format": "${source.table}",
    }


def test_the_jdbc_sink_brings_every_change(replication):
    for table in TABLES:
        assert rows(replication.target, table) == rows(replication.source, table), table


def test_the_jdbc_sink_makes_columns_of_the_sources_types(replication, kinds):
    """A table that the sink made itself, from the semantic types that the converter gave it."""
    made = dict(
        fetch(
            replication.target,
            "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute"
            " WHERE attrelid = 'made'::regclass AND attnum > 0",
        )
    )
    wanted = {name: kind.type for name, kind in kinds.columns.items()}
    others = {name: made[name] for name in wanted if made[name] != wanted[name]}
    # Debezium's sink makes those of its own connector's events, too.
    assert others == {
        "any_numeric": "double precision",
        "a_money": "numeric(38,2)",
        "an_interval": "text",
        "a_mood": "text",
        "an_email": "text",
    }
    for name, kind in kinds.columns.items():
        if name != "any_numeric":
            found = fetch(replication.target, f"SELECT {name}::{kind.type}::text FROM made ORDER BY id")
            assert found == fetch(replication.source, f"SELECT {name}::text FROM made ORDER BY id"), name


@pytest.fixture(scope="module")
def seen(replication, topics, connect_view) -> list[tuple[Any, Any]]:
    """Keys and values of the events of `kinds`, as Connect's converter gives them to a sink."""
    return connect_view(
        [event for event in topics.read(f"{replication.prefix}.public.kinds") if event.value is not None]
    )


def test_connects_converter_sees_debeziums_types(replication, kinds, seen):
    for key, value in seen:
        fields = by_name(key["schema"])
        assert {name: field["type"] for name, field in fields.items()} == {"id": "int64"}
        assert key["schema"]["name"] == f"{replication.prefix}.public.kinds.Key"
        envelope = by_name(value["schema"])
        assert list(envelope) == ["before", "after", "source", "transaction", "op", "ts_ms", "ts_us", "ts_ns"]
        assert envelope["source"]["name"] == "io.debezium.connector.postgresql.Source"
        assert envelope["transaction"]["name"] == "event.block"
        columns = by_name(envelope["after"])
        assert columns.pop("id")["type"] == "int64"
        assert {name: (field["type"], field.get("name")) for name, field in columns.items()} == {
            name: kind.seen for name, kind in kinds.columns.items()
        }
        assert all(field["optional"] for field in columns.values())
    assert {value["payload"]["op"] for _, value in seen} == {"r", "c", "u"}


def test_connects_converter_sees_the_values(seen):
    after = {(key["payload"]["id"], value["payload"]["op"]): value["payload"]["after"] for key, value in seen}
    row = after[1, "r"]
    expected = {
        "id": 1,
        "a_bit": True,
        "bits": "JQg=",
        "a_smallint": -32768,
        "a_text": "hé\n\U0001f600",
        "a_char": "ab   ",
        "a_numeric": "40Fm5Xs=",
        "any_numeric": {"scale": 4, "value": "PN5v/5cy3oJc0H6WqyE="},
        "a_date": -719162,
        "a_time": 86_399_999_999,
        "a_timetz": "12:34:56.789Z",
        "a_timestamp": 1_769_862_896_123_456,
        "a_timestamptz": "2026-01-31T12:34:56.123456Z",
        "an_interval": "P1Y2M3DT4H5M6.7S",
        "a_bytea": "AP8=",
        "a_mood": "happy",
        "integers": [1, None, 3],
        "texts": ["a", "b c", None],
    }
    assert {name: row[name] for name in expected} == expected
    assert set(after[13, "c"].values()) == {13, None}
    assert after[1, "u"] == {**row, "a_text": "changed", "a_bytea": None}


def by_name(schema: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {field["field"]: field for field in schema["fields"]}


def await_equal(source: str, target: str, tables: tuple[str, ...], processes: Processes, connect: Any) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while unequal := [table for table in tables if rows(source, table) != rows(target, table)]:
        processes.require_running()
        connect.require_running()
        assert time.monotonic() < deadline, unequal
        time.sleep(0.1)  # between two looks at databases that tell no one when they change


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
