"""Truncates, moved rows with TOAST values, tables without key, and a start over, through a log of 4 partitions."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import psycopg2
import pytest

from cdc.demo.processes import Processes

CONFIG = """\
[source]
url = "{source}"
tables = ["public.*"]
slot = "{name}"

[log]
url = "{log}"
prefix = "{name}"
partitions = 4

[targets.copy]
url = "{target}"
"""
SCHEMA = """
CREATE TABLE big (id bigint PRIMARY KEY, small int, wide text);
ALTER TABLE big ALTER wide SET STORAGE EXTERNAL;
CREATE TABLE big_full (id bigint PRIMARY KEY, small int, wide text);
ALTER TABLE big_full ALTER wide SET STORAGE EXTERNAL;
ALTER TABLE big_full REPLICA IDENTITY FULL;
CREATE TABLE bag (a int, b text);
ALTER TABLE bag REPLICA IDENTITY FULL;
INSERT INTO big SELECT i, i, repeat(md5(i::text), 100) FROM generate_series(1, 200) i;
INSERT INTO big_full SELECT i, i, repeat(md5(i::text), 100) FROM generate_series(1, 50) i;
INSERT INTO bag SELECT i % 5, NULLIF('x' || i % 3, 'x0') FROM generate_series(1, 60) i;
"""
TABLES = ("big", "big_full", "bag")


@pytest.fixture(params=["local log, embedded registry", "Kafka, Confluent-compatible registry"])
def config(request: pytest.FixtureRequest, tmp_path: Path, new_database: Callable[..., str], unique_name: str) -> Path:
    log, registry = f"sqlite:///{tmp_path / 'log.db'}", ""
    if request.param.startswith("Kafka"):
        log = f"kafka://{request.getfixturevalue('kafka')}"
        registry = f'[registry]\nurl = "{request.getfixturevalue("schema_registry_url")}"\n'
    source, target = new_database(version=18), new_database(version=18)
    execute(source, SCHEMA)
    path = tmp_path / "cdc.toml"
    path.write_text(CONFIG.format(source=source, target=target, log=log, name=unique_name) + registry)
    path.with_suffix(".urls").write_text(f"{source}\n{target}")
    return path


def test_every_shape_of_row_arrives(config: Path) -> None:
    source, target = urls(config)
    dice = random.Random(5)
    with Processes(config) as processes:
        processes.start("capture", "capture")
        processes.start("copy", "apply", "copy")
        await_equal(source, target, processes)
        for round_number in range(12):
            for _ in range(20):
                change_something(source, dice)
            if round_number % 4 == 2:
                execute(source, "TRUNCATE big, bag; INSERT INTO big SELECT i, -i, 'new' FROM generate_series(1, 90) i")
            if round_number == 6:
                processes.kill("copy")
                processes.start("copy", "apply", "copy")
        await_equal(source, target, processes)


def test_start_over_leaves_nothing_behind(config: Path) -> None:
    """Rows that were deleted while no slot watched must not stay at the target, and none may double."""
    source, target = urls(config)
    with Processes(config) as processes:
        processes.start("copy", "apply", "copy")
        processes.start("capture", "capture")
        await_equal(source, target, processes)
        processes.kill("capture")
        slot = config.read_text().split('slot = "')[1].split('"')[0]
        await_inactive(source, slot)
        execute(source, f"SELECT pg_drop_replication_slot('{slot}')")
        execute(source, "DELETE FROM big WHERE id <= 20; DELETE FROM bag WHERE a = 1; INSERT INTO bag VALUES (9, 'z')")
        processes.start("capture", "capture", "--start-over")
        await_equal(source, target, processes)
        execute(source, "UPDATE big SET id = id + 1000, small = 0 WHERE id < 30; DELETE FROM bag WHERE a = 2")
        await_equal(source, target, processes)


def change_something(source: str, dice: random.Random) -> None:
    key, other = dice.randint(1, 200), dice.randint(201, 9999)
    statements = [
        f"UPDATE big SET small = small + 1 WHERE id = {key}",
        f"UPDATE big SET id = {other} WHERE id = {key} AND NOT EXISTS (SELECT FROM big WHERE id = {other})",
        f"UPDATE big SET id = {other}, wide = '' WHERE id = {key} AND NOT EXISTS (SELECT FROM big WHERE id = {other})",
        f"UPDATE big_full SET id = {other} WHERE id = {key} AND NOT EXISTS (SELECT FROM big_full WHERE id = {other})",
        f"UPDATE big_full SET small = NULL WHERE id < {key}",
        f"DELETE FROM big WHERE id = {key}",
        f"INSERT INTO big VALUES ({key}, 1, repeat('w', 9000)) ON CONFLICT (id) DO UPDATE SET wide = excluded.wide",
        f"INSERT INTO bag VALUES ({key % 5}, 'again'), ({key % 5}, 'again')",
        f"DELETE FROM bag WHERE ctid = (SELECT ctid FROM bag WHERE a = {key % 5} LIMIT 1)",
        f"UPDATE bag SET a = a + 1 WHERE ctid = (SELECT ctid FROM bag WHERE a = {key % 5} LIMIT 1)",
    ]
    execute(source, "; ".join(dice.sample(statements, 3)))


def await_equal(source: str, target: str, processes: Processes) -> None:
    deadline = time.monotonic() + 60
    while True:
        processes.require_running()
        unequal = [table for table in TABLES if rows(source, table) != rows(target, table)]
        if not unequal:
            return
        assert time.monotonic() < deadline, unequal
        time.sleep(0.1)  # between two looks at databases that tell no one when they change


def await_inactive(source: str, slot: str) -> None:
    while execute(source, f"SELECT FROM pg_replication_slots WHERE slot_name = '{slot}' AND active"):
        time.sleep(0.05)


def rows(url: str, table: str) -> list[tuple[object, ...]] | None:
    try:
        return sorted(execute(url, f"SELECT t::text FROM {table} t"))  # type: ignore[type-var]
    except psycopg2.errors.UndefinedTable:
        return None


def urls(config: Path) -> tuple[str, str]:
    source, target = config.with_suffix(".urls").read_text().split("\n")
    return source, target


def execute(url: str, sql: str) -> list[tuple[object, ...]]:
    connection = psycopg2.connect(url)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()
