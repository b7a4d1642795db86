"""Drain one backlog of pgbench's standard workload in four ways, and print changes per second of each.

Every contender has a slot that was made before the backlog, so all read the same WAL. Servers run on this machine too.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import psycopg2
from rich.console import Console
from rich.table import Table

from cdc.embedded.postgres import EmbeddedPostgres

CLIENTS = 8
TABLES = ("pgbench_accounts", "pgbench_branches", "pgbench_history", "pgbench_tellers")
CONFIG = """\
[source]
url = "{source}"
tables = ["public.*"]
slot = "end_to_end"
publication = "bench"

[log]
url = "sqlite:///{log}"
prefix = "bench"

[targets.copy]
url = "{target}"
"""


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--transactions", type=int, default=10_000, help="of pgbench in the backlog; 4 changes each")
    parser.add_argument("--runs", type=int, default=3, help="of capture alone, alternating with pg_recvlogical")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results.json"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cdc-bench-") as folder:
        results = Bench(Path(folder), arguments.transactions, arguments.runs).run()
    arguments.json.write_text(json.dumps({"machine": machine(), "results": results}, indent=2) + "\n")
    show(results)
    return 0


class Bench:
    def __init__(self, folder: Path, transactions: int, runs: int) -> None:
        self._folder = folder
        self._transactions = transactions // CLIENTS * CLIENTS
        self._runs = runs

    @property
    def changes(self) -> int:
        return 4 * self._transactions

    def run(self) -> list[dict[str, Any]]:
        settings = {
            "wal_level": "logical",
            "max_wal_size": "8GB",
            "max_wal_senders": "20",
            "max_replication_slots": "20",
        }
        with (
            EmbeddedPostgres(self._folder / "source", version=18, settings=settings) as source,
            EmbeddedPostgres(self._folder / "target", version=18, settings=settings) as target,
        ):
            self._source, self._target = source, target
            self._prepare()
            capture, recvlogical = self._capture_runs()
            native = self._native()
            ours = self._end_to_end()
        return [
            result("capture alone, into a log that throws away", capture, recvlogical, "pg_recvlogical -f /dev/null"),
            result("end to end, local log, PostgreSQL target", [ours], [native], "PostgreSQL's logical replication"),
        ]

    def _prepare(self) -> None:
        """The tables, every contender's slot and first load, and then the backlog."""
        source, target = self._source, self._target
        source.create_database("bench")
        for name in ("native", "ours"):
            target.create_database(name)
        self._pgbench("-i", "-q", "-s", "5")
        execute(source.url("bench"), "ALTER TABLE pgbench_history ADD COLUMN hid bigserial PRIMARY KEY")
        execute(source.url("bench"), f"CREATE PUBLICATION bench FOR TABLE {', '.join(TABLES)}")
        self._first_loads()
        for number in range(self._runs):
            for contender in ("capture", "recv"):
                slot = f"{contender}_{number}"
                execute(source.url("bench"), f"SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')")
        self._pgbench("-n", "-c", str(CLIENTS), "-j", "2", "-t", str(self._transactions // CLIENTS))

    def _first_loads(self) -> None:
        """Bring both targets to the state before the backlog, and stop both replications there."""
        dump = [str(self._source.bin("pg_dump")), "--schema-only", "--no-publications", "-d", self._source.url("bench")]
        schema = subprocess.run(dump, check=True, capture_output=True).stdout
        psql = [str(self._target.bin("psql")), "-q", "-d", self._target.url("native")]
        subprocess.run(psql, input=schema, check=True, stdout=subprocess.DEVNULL)
        connection = f"host=127.0.0.1 port={self._source.port} user=postgres dbname=bench"
        create = f"CREATE SUBSCRIPTION native CONNECTION '{connection}' PUBLICATION bench"
        execute(self._target.url("native"), create, autocommit=True)
        unready = "SELECT count(*) FROM pg_subscription_rel WHERE srsubstate <> 'r'"
        wait_until(lambda: execute(self._target.url("native"), unready) == [(0,)])
        execute(self._target.url("native"), "ALTER SUBSCRIPTION native DISABLE")
        with self._ours():
            wait_until(lambda: self._equal("ours"))

    def _capture_runs(self) -> tuple[list[float], list[float]]:
        capture, recvlogical = [], []
        for number in range(self._runs):
            capture.append(self._capture_alone(f"capture_{number}"))
            recvlogical.append(self._recvlogical(f"recv_{number}"))
        return capture, recvlogical

    def _capture_alone(self, slot: str) -> float:
        """Decode, assemble, encode: all but the log. In a process of its own, as capture is one."""
        command = [sys.executable, "-m", "benchmarks.capture_alone", self._source.url("bench"), slot, str(self.changes)]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    def _recvlogical(self, slot: str) -> float:
        end = execute(self._source.url("bench"), "SELECT pg_current_wal_lsn()")[0][0]
        command = [str(self._source.bin("pg_recvlogical")), "-d", self._source.url("bench"), "-S", slot, "--start"]
        command += ["-f", os.devnull, "-o", "proto_version=1", "-o", "publication_names=bench", "--endpos", end]
        began = time.monotonic()
        subprocess.run(command, check=True, capture_output=True)
        return self.changes / (time.monotonic() - began)

    def _native(self) -> float:
        began = time.monotonic()
        execute(self._target.url("native"), "ALTER SUBSCRIPTION native ENABLE")
        wait_until(lambda: self._history("native") == self._transactions)
        lasted = time.monotonic() - began
        wait_until(lambda: self._equal("native"))
        execute(self._target.url("native"), "ALTER SUBSCRIPTION native DISABLE")
        return self.changes / lasted

    def _end_to_end(self) -> float:
        began = time.monotonic()
        with self._ours():
            wait_until(lambda: self._history("ours") == self._transactions)
            lasted = time.monotonic() - began
            wait_until(lambda: self._equal("ours"))
        return self.changes / lasted

    def _history(self, database: str) -> int:
        return int(execute(self._target.url(database), "SELECT count(*) FROM pgbench_history")[0][0])

    def _equal(self, database: str) -> bool:
        """Ground truth: every row of every table."""
        for table in TABLES:
            sums = f"SELECT count(*), sum(hashtextextended(t::text, 0)::numeric) FROM {table} t"
            try:
                found = execute(self._target.url(database), sums)
            except psycopg2.errors.UndefinedTable:
                found = [(0, None)]
            if found != execute(self._source.url("bench"), sums):
                return False
        return True

    def _ours(self) -> _Running:
        config = self._folder / "cdc.toml"
        config.write_text(
            CONFIG.format(
                source=self._source.url("bench"), target=self._target.url("ours"), log=self._folder / "log.db"
            )
        )
        return _Running(config)

    def _pgbench(self, *arguments: str) -> None:
        command = [str(self._source.bin("pgbench")), *arguments, "-d", self._source.url("bench")]
        subprocess.run(command, check=True, capture_output=True)


class _Running:
    """Capture and applier, each a process."""

    def __init__(self, config: Path) -> None:
        self._config = config
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> None:
        for command in (["capture"], ["apply", "copy"]):
            arguments = [sys.executable, "-m", "cdc", *command, "--config", str(self._config)]
            self._processes.append(subprocess.Popen(arguments, stderr=subprocess.DEVNULL))

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.wait()


def result(path: str, ours: Sequence[float], reference: Sequence[float], name: str) -> dict[str, Any]:
    mine, theirs = statistics.median(ours), statistics.median(reference)
    return {
        "path": path,
        "ours": round(mine),
        "reference": round(theirs),
        "reference_name": name,
        "ratio": round(mine / theirs, 3),
        "unit": "changes/s",
        "runs": {"ours": [round(each) for each in ours], "reference": [round(each) for each in reference]},
    }


def show(results: Iterable[dict[str, Any]]) -> None:
    table = Table("path", "cdc", "reference", "", "ratio")
    for each in results:
        table.add_row(
            each["path"], f"{each['ours']:,}", f"{each['reference']:,}", each["reference_name"], str(each["ratio"])
        )
    Console(soft_wrap=True).print(table)


def machine() -> dict[str, Any]:
    return {"processors": os.cpu_count(), "platform": platform.platform(), "python": platform.python_version()}


def execute(url: str, sql: str, *, autocommit: bool = False) -> list[tuple[Any, ...]]:
    connection = psycopg2.connect(url)
    connection.autocommit = autocommit
    try:
        with connection.cursor() as cursor:
            cursor.execute(sql)
            rows = cursor.fetchall() if cursor.description else []
        connection.commit()
        return rows
    finally:
        connection.close()


def wait_until(true: Callable[[], bool], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise SystemExit("the replicas did not become equal in time")
        time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main())
