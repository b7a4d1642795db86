"""Kill -9 of capture at each numbered step of its commit order, in the first load and in the stream.

Source transactions go on meanwhile, and an applier reads the log all the time, so that it sees what a crash leaves
there. In the end the target is equal: nothing lost, and nothing doubled, which shows in a table without a key.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Self

import psycopg
import pytest

from cdc.avro.messages import decode_message
from cdc.avro.names import message_topic
from cdc.cli.options import load_settings
from cdc.log.open import open_log
from cdc.log.reading import read_to_end
from cdc.wiring import open_registry
from consumers.wiring import apply_session

CONFIG = """\
[source]
url = "{source}"
tables = ["public.*"]
slot = "{name}"

[log]
url = "{log}"
prefix = "{name}"
partitions = {partitions}

[targets.replica]
url = "{target}"
"""

TABLES = {
    "items": "CREATE TABLE items (id int PRIMARY KEY, n int, body text)",
    "twins": "CREATE TABLE twins (a int, b text); ALTER TABLE twins REPLICA IDENTITY FULL",
    "whole": "CREATE TABLE whole (id int PRIMARY KEY, body text); ALTER TABLE whole REPLICA IDENTITY FULL",
}
PATIENCE_SECONDS = 180.0

# Where to die, and the how-manieth time it is reached: in the first load, in the stream just after a load that began
# again, in the stream after a restart that resumed.
KILLS = {
    "capture.1-produced": (6, 12, 3),
    "capture.2-delivered": (1, 3, 3),
    "capture.3-end-produced": (1, 3, 1),
    "capture.4-end-delivered": (1, 3, 3),
    "capture.5-confirmed": (1, 3, 1),
}


class Replication:
    """A source, a target and the commands between them."""

    def __init__(self, folder: Path, source: str, target: str, log: str, name: str, *, partitions: int) -> None:
        self.source = source
        self.target = target
        self.errors: list[BaseException] = []
        self.config = folder / "cdc.toml"
        self.config.write_text(
            CONFIG.format(source=source, target=target, log=log, name=name, partitions=partitions), encoding="utf-8"
        )
        with psycopg.connect(source, autocommit=True) as connection:
            for statement in TABLES.values():
                connection.execute(statement)
            connection.execute("INSERT INTO items SELECT g, g, repeat('x', g % 50) FROM generate_series(1, 3000) g")
            connection.execute("INSERT INTO twins SELECT g % 100, 'twin' FROM generate_series(1, 300) g")
            connection.execute("INSERT INTO whole SELECT g, g::text FROM generate_series(1, 100) g")

    def capture(self, failpoint: str | None = None) -> subprocess.Popen[bytes]:
        environment = {name: value for name, value in os.environ.items() if name != "CDC_FAILPOINT"}
        if failpoint:
            environment["CDC_FAILPOINT"] = failpoint
        command = [sys.executable, "-m", "cdc", "capture", "--config", str(self.config)]
        return subprocess.Popen(command, env=environment)

    def capture_until_killed(self, failpoint: str) -> None:
        process = self.capture(failpoint)
        try:
            assert process.wait(PATIENCE_SECONDS) == -signal.SIGKILL, f"{failpoint} was not reached"
        finally:
            process.kill()

    @contextmanager
    def capturing(self) -> Iterator[None]:
        process = self.capture()
        try:
            yield
            assert process.poll() is None, "capture ended by itself"
            process.terminate()
            assert process.wait(PATIENCE_SECONDS) == 0
        finally:
            process.kill()
            process.wait()

    @contextmanager
    def applying(self) -> Iterator[None]:
        """An applier in a thread of this process; an error of it fails the test."""
        stop = threading.Event()

        def apply() -> None:
            try:
                with apply_session(load_settings(self.config), "replica", lambda _: None) as applier:
                    applier.run(stop.is_set)
            except BaseException as error:  # noqa: BLE001 - handed to the test's own thread
                self.errors.append(error)

        thread = threading.Thread(target=apply)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
        assert not self.errors, self.errors

    def await_equal(self) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        expected = rows(self.source)
        while (found := rows(self.target)) != expected:
            assert not self.errors, self.errors
            assert time.monotonic() < deadline, difference(expected, found)
            time.sleep(0.1)  # between two looks at a database that tells no one when it changes


class Writer:
    """Transactions over all tables, without pause, until the context ends."""

    def __init__(self, url: str, seed: int) -> None:
        self._url = url
        self._dice = random.Random(seed)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write)
        self.transactions = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _write(self) -> None:
        next_id = 10_000
        with psycopg.connect(self._url) as connection:
            while not self._stop.is_set():
                for _ in range(self._dice.randint(1, 4)):
                    next_id += 1
                    connection.execute(self._statement(next_id))
                self._commit(connection)
                self._stop.wait(0.005)  # a few hundred a second: more only burdens the machine
            connection.execute("INSERT INTO items VALUES (0, 0, 'last')")
            self._commit(connection)

    def _commit(self, connection: psycopg.Connection) -> None:
        """With a message that numbers the transaction; some are not part of it."""
        connection.execute(
            "SELECT pg_logical_emit_message(%s, 'number', %s)",
            [self._dice.random() < 0.8, str(self.transactions)],
        )
        connection.commit()
        self.transactions += 1

    def _statement(self, new: int) -> str:
        old = self._dice.randint(1, 3000)
        statements = [
            f"INSERT INTO items VALUES ({new}, 0, repeat(md5('{new}'), 200))",
            f"UPDATE items SET n = n + 1 WHERE id = {old}",
            "UPDATE items SET n = n + 1 WHERE id = (SELECT max(id) FROM items)",  # its body is TOAST, and not sent
            f"UPDATE items SET id = {new} WHERE id = {old}",
            f"DELETE FROM items WHERE id = {old}",
            f"INSERT INTO twins SELECT {old % 100}, 'twin' FROM generate_series(1, 2)",
            f"UPDATE twins SET a = {old % 100} WHERE ctid = (SELECT ctid FROM twins LIMIT 1)",
            "DELETE FROM twins WHERE ctid = (SELECT ctid FROM twins LIMIT 1)",
            f"INSERT INTO whole VALUES ({new}, repeat(md5('{new}'), 200))",
            f"UPDATE whole SET id = {new} WHERE id = (SELECT max(id) FROM whole)",
        ]
        if self._dice.random() < 0.005:
            return "TRUNCATE twins"
        return self._dice.choice(statements)


def message_numbers(config: Path) -> list[int]:
    """Of the messages in the log, each once, in the order of their positions."""
    settings = load_settings(config)
    with (
        open_log(settings.log) as log,
        closing(log.reader("test")) as reader,
        closing(open_registry(settings, log)) as registry,
    ):
        records = list(read_to_end(reader, message_topic(settings.log.prefix)))
        messages = [decode_message(record.value or b"", registry.schema) for record in records]
    return [int(content) for _, content in sorted({(message.position, message.content) for message in messages})]


def rows(url: str) -> dict[str, list[str]] | None:
    """Every table's rows as text, sorted; None where a table is missing."""
    with psycopg.connect(url) as connection:
        try:
            return {
                table: [text for (text,) in connection.execute(f"SELECT t::text FROM {table} t ORDER BY 1")]
                for table in TABLES
            }
        except psycopg.errors.UndefinedTable:
            return None


def difference(expected: dict[str, list[str]] | None, found: dict[str, list[str]] | None) -> str:
    if expected is None or found is None:
        return "a table is missing at the target"
    return "; ".join(
        f"{table}: {len(expected[table])} rows expected, {len(found[table])} found,"
        f" {len(set(expected[table]) ^ set(found[table]))} differ"
        for table in TABLES
        if expected[table] != found[table]
    )


@pytest.mark.parametrize(
    ("failpoint", "partitions"),
    [*((each, 2) for each in KILLS), ("capture.1-produced", 1), ("capture.4-end-delivered", 1)],
)
def test_equal_after_kills_at(
    failpoint: str, partitions: int, tmp_path: Path, new_database: Callable[..., str], unique_name: str
) -> None:
    log = f"sqlite:///{tmp_path / 'log.db'}"
    replication = Replication(tmp_path, new_database(), new_database(), log, unique_name, partitions=partitions)
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    with replication.applying():
        with Writer(replication.source, seed) as writer:
            for time_reached in KILLS[failpoint]:
                replication.capture_until_killed(f"{failpoint}:{time_reached}")
            assert writer.transactions > 10, "changes went on while capture died"
        with replication.capturing():
            replication.await_equal()
    numbers = message_numbers(replication.config)
    assert numbers == list(range(numbers[0], writer.transactions))


def test_equal_after_kills_with_kafka(
    tmp_path: Path, new_database: Callable[..., str], unique_name: str, kafka: str
) -> None:
    replication = Replication(tmp_path, new_database(), new_database(), f"kafka://{kafka}", unique_name, partitions=3)
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    with replication.applying():
        with Writer(replication.source, seed) as writer:
            replication.capture_until_killed("capture.2-delivered:1")
            replication.capture_until_killed("capture.3-end-produced:3")
            replication.capture_until_killed("capture.1-produced:4")
            replication.capture_until_killed("kafka.sent:5")
            replication.capture_until_killed("capture.4-end-delivered:2")
        with replication.capturing():
            replication.await_equal()
    numbers = message_numbers(replication.config)
    assert numbers == list(range(numbers[0], writer.transactions))
