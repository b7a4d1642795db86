"""`cdc rebuild`: fresh tables from the log, in place of the live ones or beside them."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

ACCOUNTS = 40
SUM = 100 * ACCOUNTS
TOTAL = "SELECT (SELECT sum(n) FROM savings) + (SELECT sum(n) FROM current)"
ALL = "SELECT 's', id, n FROM savings UNION ALL SELECT 'c', id, n FROM current ORDER BY 1, 2"
PATIENCE_SECONDS = 60.0
KILLS = ("apply.3-checkpointed:3", "rebuild.1-replayed", "rebuild.2-held", "rebuild.3-replaced")


class Place:
    """A source, a log and a target of either kind, and the commands between them."""

    def __init__(self, folder: Path, source: str, target: str, name: str) -> None:
        self.source, self.target, self.folder = source, target, folder
        self.errors: list[BaseException] = []
        (folder / "cdc.toml").write_text(
            f'[source]\nurl = "{source}"\ntables = ["public.*"]\nslot = "{name}"\npublication = "{name}"\n'
            f'[log]\nurl = "sqlite:///{folder}/log.db"\nprefix = "{name}"\npartitions = 2\n'
            f'[targets.copy]\nurl = "{target}"\nbatch_events = 200\n'
        )
        with psycopg.connect(source, autocommit=True) as connection:
            for table in ("savings", "current"):
                connection.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, n int)".encode())
                connection.execute(f"INSERT INTO {table} SELECT g, 50 FROM generate_series(1, {ACCOUNTS}) g".encode())

    def query(self, sql: str) -> list[tuple]:
        if self.target.startswith("sqlite"):
            with sqlite3.connect(self.target.removeprefix("sqlite:///"), timeout=30) as lite:
                return lite.execute(sql).fetchall()
        return pg(self.target, sql)

    def rebuild(self, *options: str, failpoint: str | None = None) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if name != "CDC_FAILPOINT"}
        command = [sys.executable, "-m", "cdc", "rebuild", "copy", *options]
        return subprocess.run(
            command,
            cwd=self.folder,
            env=environment | ({"CDC_FAILPOINT": failpoint} if failpoint else {}),
            check=False,
            text=True,
            capture_output=True,
            timeout=PATIENCE_SECONDS,
        )

    def rebuilt(self, *options: str) -> str:
        done = self.rebuild(*options)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    @contextmanager
    def running(self) -> Iterator[None]:
        with subprocess.Popen([sys.executable, "-m", "cdc", "run"], cwd=self.folder) as run:
            try:
                yield
                assert run.poll() is None
            finally:
                run.terminate()
                ended = run.wait(PATIENCE_SECONDS)
        assert ended == 0

    @contextmanager
    def meanwhile(self, *works: Callable[[], None]) -> Iterator[None]:
        """Do these again and again."""
        stop = threading.Event()

        def again(work: Callable[[], None]) -> None:
            try:
                while not stop.is_set():
                    work()
            except BaseException as error:  # noqa: BLE001
                self.errors.append(error)

        threads = [threading.Thread(target=again, args=(work,)) for work in works]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert self.errors == []

    def transfer(self) -> None:
        """From an account of one table to one of the other."""
        with psycopg.connect(self.source) as connection:
            for step in range(20):
                one, other = step % ACCOUNTS + 1, (7 * step) % ACCOUNTS + 1
                connection.execute("UPDATE savings SET n = n - 1 WHERE id = %s", [one])
                connection.execute("UPDATE current SET n = n + 1 WHERE id = %s", [other])
                connection.commit()

    def read(self) -> None:
        assert self.query(TOTAL) == [(SUM,)]
        time.sleep(0.002)

    def is_equal(self) -> bool:
        return self.query(ALL) == pg(self.source, ALL)


def pg(url: str, sql: str) -> list[tuple]:
    with psycopg.connect(url) as connection:
        return connection.execute(sql.encode()).fetchall()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_loaded(place: Place) -> bool:
    try:
        return place.is_equal()
    except (psycopg.Error, sqlite3.Error):
        return False


@pytest.mark.parametrize("kind", ["postgresql", "sqlite"])
def test_a_rebuild_while_all_goes_on_killed_at_each_step(
    new_database: Callable[[], str], unique_name: str, tmp_path: Path, kind: str
) -> None:
    target = new_database() if kind == "postgresql" else f"sqlite:///{tmp_path}/copy.db"
    place = Place(tmp_path, new_database(), target, unique_name)
    with place.running():
        until(lambda: is_loaded(place))
        with place.meanwhile(place.transfer, place.read):
            for failpoint in KILLS:
                killed = place.rebuild(failpoint=failpoint)
                assert killed.returncode == -signal.SIGKILL, (failpoint, killed.stderr)
            assert "done: the old tables are in copy~old" in place.rebuilt()
        until(place.is_equal)

        refused = place.rebuild()
        assert refused.returncode == 1
        assert "2 tables that the last rebuild of target 'copy' replaced are still there" in refused.stderr
        assert place.query(
            'SELECT count(*) FROM "copy~old".savings'.replace('"."', ".")
            if kind == "postgresql"
            else 'SELECT count(*) FROM "copy~old.savings"'
        ) == [(ACCOUNTS,)]
        assert "dropped 2 tables of copy~old" in place.rebuilt("--drop-old")
        names = (
            "SELECT tablename FROM pg_tables WHERE schemaname LIKE '%~%'"
            if kind == "postgresql"
            else "SELECT name FROM sqlite_master WHERE name LIKE '%~%'"
        )
        assert place.query(names) == []
        place.transfer()
        until(place.is_equal)
    assert place.query("SELECT DISTINCT name FROM cdc_applier") == [("copy",)]
    assert place.query("SELECT DISTINCT applier FROM cdc_checkpoint") == [("copy",)]
