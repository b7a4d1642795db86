"""The main job on pgbench's standard workload, into PostgreSQL and SQLite."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psycopg2
import pytest

from cdc.demo.compare import differences, postgres_table, sqlite_table
from cdc.demo.processes import Processes

TABLES = ("pgbench_accounts", "pgbench_branches", "pgbench_history", "pgbench_tellers")
CATCH_UP_SECONDS = 180
TRANSACTIONS_A_SECOND = 250

CONFIG = """\
[source]
url = "{source}"
tables = ["public.*"]
slot = "{name}"

[log]
url = "{log}"
prefix = "{name}"
partitions = {partitions}

[targets.postgres]
url = "{target}"

[targets.lite]
url = "sqlite:///{lite}"
"""


class Pipeline:
    """A pgbench database, its configuration, and what runs on them."""

    def __init__(self, folder: Path, source: str, target: str, log: str, pgbench: Path, *, partitions: int) -> None:
        self.source = source
        self.target = target
        self.lite = folder / "lite.db"
        self.config = folder / "cdc.toml"
        self._pgbench = pgbench
        name = "bench_" + source.rpartition("/")[2]
        self.config.write_text(
            CONFIG.format(
                source=source, target=target, log=log, partitions=partitions, lite=self.lite, name=name.lower()
            )
        )

    def initialize(self, scale: int) -> None:
        self._run("-i", "-q", "-s", str(scale))
        execute(self.source, "ALTER TABLE pgbench_history ADD COLUMN hid bigserial PRIMARY KEY")

    def workload(self, seconds: int) -> subprocess.Popen[bytes]:
        """At a rate that the pipeline keeps up with: it works all the time, and nothing is left to wait for."""
        load = ["-c", "8", "-j", "2", "-T", str(seconds), "--rate", str(TRANSACTIONS_A_SECOND)]
        command = [str(self._pgbench), "-n", *load, "-d", self.source]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def differences(self) -> list[str]:
        found: list[str] = []
        for table in TABLES:
            expected = postgres_table(self.source, table)
            for name, rows in (
                ("postgres", postgres_table(self.target, table)),
                ("lite", sqlite_table(self.lite, table, self.source)),
            ):
                found += [f"{name}: {line}" for line in differences(table, expected, rows)]
        return found

    def _run(self, *arguments: str) -> None:
        subprocess.run([str(self._pgbench), *arguments, "-d", self.source], check=True, capture_output=True)


@pytest.fixture
def new_pipeline(
    tmp_path: Path, new_database: Callable[..., str], pg_server: Callable[..., object]
) -> Callable[..., Pipeline]:
    pgbench = pg_server(18).bin("pgbench")  # type: ignore[attr-defined]
    return partial(Pipeline, tmp_path, new_database(version=18), new_database(version=18), pgbench=pgbench)


@pytest.fixture
def pipeline(new_pipeline: Callable[..., Pipeline], kafka: str) -> Pipeline:
    return new_pipeline(log=f"kafka://{kafka}", partitions=4)


def start_all(processes: Processes) -> None:
    processes.start("capture", "capture")
    processes.start("postgres", "apply", "postgres")
    processes.start("lite", "apply", "lite")


def test_replicated_while_it_runs(pipeline: Pipeline) -> None:
    pipeline.initialize(scale=1)
    with Processes(pipeline.config) as processes:
        start_all(processes)
        running = pipeline.workload(seconds=15)
        assert running.wait() == 0
        await_equal(pipeline, processes)


def test_equal_after_random_kills(pipeline: Pipeline) -> None:
    """Kill -9 of capture and of the appliers at random moments, some of them in the first load."""
    pipeline.initialize(scale=1)
    kill_at_random(pipeline, longest=2.0)


def test_equal_after_random_kills_in_a_first_load(new_pipeline: Callable[..., Pipeline], tmp_path: Path) -> None:
    """Whose rows come together through the local log."""
    pipeline = new_pipeline(log=f"sqlite:///{tmp_path}/log.db", partitions=1)
    pipeline.initialize(scale=4)
    kill_at_random(pipeline, longest=3.0)


def kill_at_random(pipeline: Pipeline, longest: float) -> None:
    """While pgbench works. `longest`: between two kills, in seconds."""
    dice = random.Random()
    seed = dice.randrange(1 << 32)
    print(f"seed {seed}")
    dice.seed(seed)
    commands = {"capture": ("capture",), "postgres": ("apply", "postgres"), "lite": ("apply", "lite")}
    kills = 0
    with Processes(pipeline.config) as processes:
        start_all(processes)
        running = pipeline.workload(seconds=15)
        while running.poll() is None:
            time.sleep(dice.uniform(0.1, longest))  # the moment is what is random here: nothing is awaited
            victim = dice.choice(list(commands))
            processes.kill(victim)
            processes.start(victim, *commands[victim])
            kills += 1
        assert running.returncode == 0
        assert kills >= 5
        await_equal(pipeline, processes)


def await_equal(pipeline: Pipeline, processes: Processes) -> None:
    """Compare whenever the row counts agree, until nothing differs."""
    deadline = time.monotonic() + CATCH_UP_SECONDS
    while True:
        processes.require_running()
        if counts(pipeline.source) == counts(pipeline.target):
            found = pipeline.differences()
            if not found:
                return
        else:
            found = ["the row counts differ"]
        assert time.monotonic() < deadline, found
        time.sleep(0.5)  # between two looks at databases that tell no one when they change


def counts(url: str) -> list[int] | None:
    try:
        return [int(execute(url, f"SELECT count(*) FROM {table}")[0][0]) for table in TABLES]
    except psycopg2.errors.UndefinedTable:
        return None


def execute(url: str, sql: str) -> list[tuple[object, ...]]:
    connection = psycopg2.connect(url)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()
