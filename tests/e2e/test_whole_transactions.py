"""Readers of a target look on while capture and its applier are killed: what holds between the source's transactions
holds at every moment.

Money moves between accounts in two tables, whose topics have several partitions: its sum stays. Some transactions touch
every account, and are larger than a batch. A journal is truncated and written anew in each of some: it has two rows.

CDC_TEST_KILLS says how many times, 6 by default.
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import psycopg
import pytest

ACCOUNTS = 700
TOTAL = 2 * ACCOUNTS * 100
EXPECTED = (TOTAL, 2, 0)
KILLS = int(os.environ.get("CDC_TEST_KILLS", "6"))
PATIENCE_SECONDS = 180.0
CONFIG = """\
[source]
url = "{source}"
tables = ["public.*"]
slot = "{name}"

[log]
url = "{log}"
prefix = "{name}"
partitions = 3

[targets.copy]
url = "{copy}"
batch_events = 300
consistency = "{consistency}"

[targets.lite]
url = "{lite}"
batch_events = 300
consistency = "{consistency}"
"""
TABLES = ["accounts", "savings", "journal"]
SOURCE = (
    "CREATE TABLE accounts (id int PRIMARY KEY, balance bigint, note text)",
    "CREATE TABLE savings (id int PRIMARY KEY, balance bigint, note text)",
    "CREATE TABLE journal (id bigint PRIMARY KEY, balance bigint, note text)",
    "ALTER TABLE accounts ALTER note SET STORAGE EXTERNAL",
    f"INSERT INTO accounts SELECT g, 100, repeat('x', 3000) FROM generate_series(1, {ACCOUNTS}) g",
    f"INSERT INTO savings SELECT g, 100, 'y' FROM generate_series(1, {ACCOUNTS}) g",
    "INSERT INTO journal VALUES (1, 5, ''), (2, -5, '')",
)
LOOK = """
    SELECT (SELECT sum(balance) FROM accounts) + (SELECT sum(balance) FROM savings), (SELECT count(*) FROM journal),
        (SELECT sum(balance) FROM journal)
"""


class Bank(threading.Thread):
    """Its transactions keep the sum of all balances, and two rows in the journal that sum to nothing."""

    def __init__(self, url: str, dice: random.Random) -> None:
        super().__init__()
        self._url = url
        self._dice = dice
        self._stopping = threading.Event()
        self.transactions = 0
        self._new = 10_000

    def run(self) -> None:
        with psycopg.connect(self._url) as connection:
            while not self._stopping.is_set():
                kinds = [self._transfer] * 12 + [self._move_key] * 4 + [self._close_account, self._rewrite_journal]
                for statement in self._dice.choice(kinds)() if self._dice.random() > 0.01 else self._touch_all():
                    connection.execute(statement)
                connection.commit()
                self.transactions += 1
                self._stopping.wait(0.01)  # more would only burden the machine

    def stop(self) -> None:
        self._stopping.set()
        self.join()

    def _transfer(self) -> list[str]:
        amount, one, two = self._dice.randint(-50, 50), self._any("accounts"), self._any("savings")
        return [
            f"UPDATE accounts SET balance = balance - {amount} WHERE id = {one}",
            f"UPDATE savings SET balance = balance + {amount} WHERE id = {two}",
        ]

    def _move_key(self) -> list[str]:
        """Into another partition, most of the time; the note is not sent."""
        self._new += 1
        return [f"UPDATE accounts SET id = {self._new} WHERE id = {self._any('accounts')}", *self._transfer()]

    def _close_account(self) -> list[str]:
        self._new += 1
        closed = self._any("accounts")
        return [
            f"INSERT INTO accounts SELECT {self._new}, balance, note FROM accounts WHERE id = {closed}",
            f"DELETE FROM accounts WHERE id = {closed}",
        ]

    def _rewrite_journal(self) -> list[str]:
        self._new += 1
        return [
            "TRUNCATE journal",
            f"INSERT INTO journal VALUES ({2 * self._new}, 5, ''), ({2 * self._new + 1}, -5, '')",
            *self._transfer(),
        ]

    def _touch_all(self) -> list[str]:
        return ["UPDATE accounts SET balance = balance + 1", "UPDATE savings SET balance = balance - 1"]

    def _any(self, table: str) -> str:
        """The same row in all statements of a transaction: what is new has the highest id."""
        return f"(SELECT id FROM {table} ORDER BY id OFFSET {self._dice.randrange(ACCOUNTS)} LIMIT 1)"


class Reader(threading.Thread):
    """Looks at a target again and again; `wrong` is what it must not have seen."""

    def __init__(self, look: Callable[[], tuple[int, ...]], stopping: threading.Event) -> None:
        super().__init__()
        self._look = look
        self._stopping = stopping
        self.looks = 0
        self.wrong: list[tuple[int, ...]] = []

    def run(self) -> None:
        while not self._stopping.is_set():
            seen = tuple(map(int, self._look()))
            self.looks += 1
            if seen != EXPECTED:
                self.wrong.append(seen)


class Site:
    def __init__(self, folder: Path, source: str, copy: str, log: str, name: str, consistency: str) -> None:
        self.source, self.copy, self.lite = source, copy, folder / "lite.db"
        self._config = folder / "cdc.toml"
        text = CONFIG.format(
            source=source, copy=copy, log=log, name=name, lite=f"sqlite:///{self.lite}", consistency=consistency
        )
        self._config.write_text(text, encoding="utf-8")
        with psycopg.connect(source, autocommit=True) as connection:
            for statement in SOURCE:
                connection.execute(statement)

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-m", "cdc", *command, "--config", str(self._config)])

    def rows(self, target: str) -> dict[str, list[tuple[object, ...]]]:
        query = "SELECT id, balance, note FROM {} ORDER BY id"
        if target == "lite":
            with closing(sqlite3.connect(self.lite)) as connection:
                return {table: connection.execute(query.format(table)).fetchall() for table in TABLES}
        with psycopg.connect(getattr(self, target)) as connection:
            return {table: connection.execute(query.format(table).encode()).fetchall() for table in TABLES}

    def look(self) -> tuple[int, ...]:
        with psycopg.connect(self.source) as connection:
            return tuple(map(int, connection.execute(LOOK).fetchone() or ()))

    def await_equal(self) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        expected = self.rows("source")
        for target in ("copy", "lite"):
            while not self._is(target, expected):
                assert time.monotonic() < deadline, f"{target} is not equal"
                time.sleep(0.1)  # between two looks at a database that tells no one when it changes

    def _is(self, target: str, expected: dict[str, list[tuple[object, ...]]]) -> bool:
        with suppress(psycopg.errors.UndefinedTable, sqlite3.OperationalError):
            return self.rows(target) == expected
        return False

    def await_progress(self, commits: int) -> None:
        """Until both targets have this many more commits: of each start, something is to be killed."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        wanted = [version + commits for version in self._versions()]
        while any(now < then for now, then in zip(self._versions(), wanted, strict=True)):
            assert time.monotonic() < deadline, "the targets don't get on"
            time.sleep(0.02)  # between two looks

    def _versions(self) -> list[int]:
        query = "SELECT version FROM cdc_applier"
        with psycopg.connect(self.copy) as copy, closing(sqlite3.connect(self.lite)) as lite:
            found = [copy.execute(query).fetchone(), lite.execute(query).fetchone()]
        return [0 if row is None else row[0] for row in found]

    @contextmanager
    def readers(self) -> Iterator[list[Reader]]:
        stopping = threading.Event()
        with ExitStack() as stack:
            looks: list[Callable[[], tuple[int, ...]]] = []
            for _ in range(2):
                server = stack.enter_context(psycopg.connect(self.copy, autocommit=True))
                looks.append(lambda server=server: server.execute(LOOK).fetchone())  # type: ignore[misc]
            file = stack.enter_context(closing(sqlite3.connect(self.lite, check_same_thread=False)))
            looks.append(lambda: file.execute(LOOK).fetchone())
            readers = [Reader(look, stopping) for look in looks]
            for reader in readers:
                reader.start()
            try:
                yield readers
            finally:
                stopping.set()
                for reader in readers:
                    reader.join()


def kill(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.timeout(1800)  # CDC_TEST_KILLS may ask for minutes
@pytest.mark.parametrize("log", ["kafka", "local"])
def test_no_reader_sees_part_of_a_transaction(
    log: str, tmp_path: Path, new_database: Callable[..., str], unique_name: str, request: pytest.FixtureRequest
) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    url = f"kafka://{request.getfixturevalue('kafka')}" if log == "kafka" else f"sqlite:///{tmp_path / 'log.db'}"
    consistency = os.environ.get("CDC_TEST_CONSISTENCY", "transaction")
    site = Site(tmp_path, new_database(), new_database(), url, unique_name, consistency)
    commands = [("capture",), ("apply", "copy"), ("apply", "lite")]
    processes = {command: site.start(*command) for command in commands}
    try:
        site.await_equal()  # a first load is no transaction
        bank = Bank(site.source, random.Random(seed))
        with site.readers() as readers:
            bank.start()
            for number in range(KILLS):
                victim = commands[number % len(commands)]
                kill(processes[victim])
                processes[victim] = site.start(*victim)
                site.await_progress(dice.randint(1, 5))
            bank.stop()
            assert site.look() == EXPECTED, "the bank itself lost money"
            site.await_equal()
    finally:
        for process in processes.values():
            kill(process)
    looks = [reader.looks for reader in readers]
    print(f"{bank.transactions} transactions, {KILLS} kills, {sum(looks)} looks")
    assert [reader.wrong[:3] for reader in readers] == [[], [], []]
    assert min(looks) > 10
    assert bank.transactions > 10
