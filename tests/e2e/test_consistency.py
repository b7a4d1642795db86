"""Targets whose consistency, or whose tables, change between two starts."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from replica import Replica
from target_databases import DuckDB, MariaDB

from cdc.avro.names import transaction_topic
from cdc.core.errors import ConfigError, LogGapError
from cdc.core.log import TopicPartition
from cdc.core.settings import LogSettings
from cdc.log.memory import MemoryLog

TABLES = ["one", "two"]
SMALL = 5_000  # transactions


class Pair:
    def __init__(self, replica: Replica, source: str, target: str) -> None:
        self.replica, self.source, self.target = replica, source, target
        self.dice = random.Random(7)

    def run(self, transactions: int) -> None:
        """Transactions over both tables, key changes and truncates among them."""
        with psycopg.connect(self.source) as connection:
            for _ in range(transactions):
                for _ in range(self.dice.randint(1, 6)):
                    connection.execute(self._statement())
                connection.commit()

    def _statement(self) -> str:
        table, one, two = self.dice.choice(TABLES), self.dice.randint(1, 40), self.dice.randint(1, 40)
        if self.dice.random() < 0.03:
            return f"TRUNCATE {table}"
        return self.dice.choice(
            [
                f"INSERT INTO {table} VALUES ({one}, 1, repeat('x', 3000)) ON CONFLICT (id) DO UPDATE SET n = {two}",
                f"UPDATE {table} SET n = n + 1 WHERE id = {one}",
                f"UPDATE {table} SET id = {two} WHERE id = {one} AND NOT EXISTS (SELECT FROM {table} WHERE id = {two})",
                f"DELETE FROM {table} WHERE id = {one}",
            ]
        )

    def assert_equal(self, *tables: str) -> None:
        for table in tables or TABLES:
            assert rows(self.target, table) == rows(self.source, table)

    def apply_a_bit(self, steps: int) -> None:
        """An applier that stops somewhere."""
        applier, _ = self.replica._opened_applier("copy")
        for _ in range(steps):
            applier.step(0.0)
        self.replica.reopen()


def rows(url: str, table: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(f"SELECT * FROM {table} ORDER BY 1".encode()).fetchall()


def filled(source: str) -> str:
    with psycopg.connect(source, autocommit=True) as connection:
        for table in TABLES:
            connection.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, n int, body text)")
            connection.execute(f"ALTER TABLE {table} ALTER body SET STORAGE EXTERNAL")
            connection.execute(f"INSERT INTO {table} SELECT g, g, repeat('y', 3000) FROM generate_series(1, 20) g")
    return source


@pytest.fixture
def pair(new_database: Callable[..., str], unique_name: str) -> Iterator[Pair]:
    source, target = filled(new_database()), new_database()
    settings = LogSettings(prefix=unique_name, partitions=3)
    options = {"copy": {"batch_events": 10}}
    with Replica(source, {"copy": target}, name=unique_name, log_settings=settings, options=options) as replica:
        yield Pair(replica, source, target)


def test_consistency_changes_at_any_point(pair: Pair) -> None:
    pair.replica.capture()
    pair.run(30)
    pair.replica.capture()
    for round_, consistency in enumerate(["key", "transaction", "key", "key", "transaction", "transaction"]):
        pair.replica.set_options("copy", consistency=consistency)
        pair.apply_a_bit(round_ + 2)
        pair.run(10)
        pair.replica.capture()
    for consistency in ["transaction", "key", "transaction"]:
        pair.replica.set_options("copy", consistency=consistency)
        pair.run(10)
        pair.replica.catch_up()
        pair.assert_equal()


@pytest.mark.parametrize("stops", [0, 1, 3])
def test_a_table_that_a_target_gets_later_is_caught_up_first(stops: int, pair: Pair) -> None:
    pair.replica.set_options("copy", tables=("public.one",))
    pair.run(20)
    pair.replica.catch_up()
    pair.assert_equal("one")
    with psycopg.connect(pair.target) as connection:
        assert connection.execute("SELECT to_regclass('two')").fetchone() == (None,)
    pair.run(20)
    pair.replica.capture()
    pair.replica.set_options("copy", tables=("public.*",))
    for steps in range(stops):
        pair.apply_a_bit(steps + 1)
        pair.run(3)
    pair.replica.catch_up()
    pair.assert_equal()
    pair.run(10)
    pair.replica.catch_up()
    pair.assert_equal()


def test_a_table_that_a_target_loses_for_a_while(pair: Pair) -> None:
    pair.replica.catch_up()
    pair.replica.set_options("copy", tables=("public.one",))
    with psycopg.connect(pair.source) as connection:
        for table in TABLES:
            connection.execute(f"UPDATE {table} SET n = 77 WHERE id = 3")
            connection.execute(f"INSERT INTO {table} SELECT g, g FROM generate_series(100, 120) g")
    pair.replica.catch_up()
    pair.assert_equal("one")
    pair.replica.set_options("copy", tables=("public.*",))
    with psycopg.connect(pair.source) as connection:
        for table in TABLES:
            connection.execute(f"UPDATE {table} SET n = 78 WHERE id = 4")
    pair.replica.catch_up()
    pair.assert_equal()


def test_whole_transactions_at_databases_of_other_kinds(
    new_database: Callable[..., str], new_mariadb: Callable[[], str], unique_name: str, tmp_path: Path
) -> None:
    """Rows come, go, and change their keys in one transaction, large ones among them."""
    source, maria, duck = filled(new_database()), MariaDB(new_mariadb()), DuckDB(tmp_path)
    targets = {"maria": maria.url, "duck": duck.url}
    settings = LogSettings(prefix=unique_name, partitions=3)
    options = {target: {"batch_events": 10} for target in targets}
    with Replica(source, targets, name=unique_name, log_settings=settings, options=options) as replica:
        pair = Pair(replica, source, "")
        replica.capture()
        for _ in range(2):
            pair.run(40)
            with psycopg.connect(source) as connection:
                connection.execute("UPDATE one SET id = id + 1000; UPDATE one SET id = id - 1000; UPDATE two SET n = n")
            replica.catch_up()
            for table in TABLES:
                query = f"SELECT * FROM {table} ORDER BY 1"
                assert maria.values(query) == duck.execute(query) == rows(source, table)


def test_without_its_transaction_topic_a_target_stops(pair: Pair) -> None:
    """Retention, compaction, or somebody took records out of it."""
    pair.replica.catch_up()
    pair.run(5)
    pair.replica.capture()
    pair.replica.reopen()
    log = pair.replica.log
    assert isinstance(log, MemoryLog)
    topic = transaction_topic(pair.replica._log_settings.prefix)
    with closing(log.reader("test")) as reader:
        end = reader.offsets(TopicPartition(topic, 0)).next
    log.trim(TopicPartition(topic, 0), end - 1)
    with pytest.raises(LogGapError, match="transaction"):
        pair.replica.apply("copy")


@pytest.mark.parametrize("kept", [True, False])
def test_from_key_to_transaction_where_the_first_ends_are_gone(kept: bool, pair: Pair) -> None:
    """It can be told that none is missing while the log still has one of what the target has."""
    pair.replica.set_options("copy", consistency="key")
    pair.run(20)
    pair.replica.catch_up()
    log, topic = pair.replica.log, TopicPartition(transaction_topic(pair.replica._log_settings.prefix), 0)
    assert isinstance(log, MemoryLog)
    with closing(log.reader("test")) as reader:
        before = reader.offsets(topic).next
    pair.run(20)
    pair.replica.capture()
    log.trim(topic, before - 4 if kept else before + 4)
    pair.replica.set_options("copy", consistency="transaction")
    if kept:
        pair.replica.catch_up()
        pair.assert_equal()
    else:
        with pytest.raises(LogGapError, match="may be gone"):
            pair.replica.catch_up()


def test_a_compacted_topic_is_refused(pair: Pair) -> None:
    pair.replica.capture()
    log, prefix = pair.replica.log, pair.replica._log_settings.prefix
    assert isinstance(log, MemoryLog)
    log._partitions[TopicPartition(f"{prefix}.public.one", 0)].compacted = True
    with pytest.raises(ConfigError, match=f"topic '{prefix}.public.one' is compacted"):
        pair.replica.apply("copy")
    pair.replica.set_options("copy", consistency="key")
    pair.replica.catch_up()
    pair.assert_equal()


def test_small_transactions_share_a_target_transaction(pair: Pair) -> None:
    pair.replica.set_options("copy", batch_events=10_000)
    pair.replica.catch_up()

    def version() -> int:
        with psycopg.connect(pair.target) as target:
            return int(target.execute("SELECT version FROM cdc_applier").fetchone()[0])

    before = version()
    with psycopg.connect(pair.source, autocommit=True) as source:
        source.execute(
            f"DO $$ BEGIN FOR i IN 1..{SMALL} LOOP INSERT INTO one VALUES (1000 + i, i); COMMIT; END LOOP; END $$"
        )
    pair.replica.capture()
    began = time.perf_counter()
    pair.replica.apply("copy")
    print(f"{SMALL / (time.perf_counter() - began):,.0f} transactions a second")
    assert version() - before < SMALL / 100
    pair.assert_equal("one")
