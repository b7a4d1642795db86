"""The first load of a table, beside the pipe that can't be beaten: COPY out, COPY in."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Sequence
from typing import Final

from benchmarks.backlog import Backlog
from benchmarks.plan import Comparison, Figures, alternate, compared, contenders
from benchmarks.replications import loaders
from benchmarks.replications.debezium import TUNED
from benchmarks.replications.native import Native
from benchmarks.replications.ours import KAFKA_4, LOCAL
from benchmarks.replications.pgcopydb import PgCopyDb
from benchmarks.results import Result
from benchmarks.stage import Stage
from benchmarks.workloads import Rows

_COPY: Final = "COPY TO STDOUT | COPY FROM STDIN"


def comparisons(rows: Rows) -> Iterator[Comparison]:
    for name, ours, reference in (
        ("local", LOCAL, _COPY),
        ("kafka-4", KAFKA_4, _COPY),
        ("native", LOCAL, Native.name),
        ("debezium", KAFKA_4, TUNED),
        ("pgcopydb", LOCAL, PgCopyDb.name),
    ):
        yield Comparison(
            path=f"snapshot/{name}", figure="rows/s", unit="rows/s", workload=rows.title, ours=ours, reference=reference
        )


def measure(rows: Rows, stage: Stage, wanted: Sequence[Comparison], runs: int) -> list[Result]:
    names = contenders(wanted)
    here = loaders(stage, [name for name in names if name != _COPY])
    backlog = Backlog(stage, rows)
    backlog.create()
    backlog.change()

    def load(name: str) -> Figures:
        seconds = _piped(backlog) if name == _COPY else _loaded(name)
        return {"rows/s": rows.changes / seconds}

    def _loaded(name: str) -> float:
        with here[name].loading(backlog) as running:
            return backlog.await_all(running.target, running.began, running.alive)

    measured = alternate([name for name in names if name == _COPY or name in here], runs, load, stage.report)
    backlog.drop()
    return compared(wanted, measured)


def _piped(backlog: Backlog) -> float:
    """Seconds, table by table."""
    with backlog.plain_target(with_rows=False) as target:
        began = time.monotonic()
        for table in backlog.tables:
            _pipe(backlog, target, table)
        return backlog.await_all(target, began, lambda: None)


def _pipe(backlog: Backlog, target: str, table: str) -> None:
    psql = str(backlog.stage.source.bin("psql"))
    read = [psql, "-d", backlog.source_url, "-c", f"COPY {table} TO STDOUT"]
    with subprocess.Popen(read, stdout=subprocess.PIPE) as reading:
        write = [psql, "-q", "-d", target, "-c", f"COPY {table} FROM STDIN"]
        subprocess.run(write, stdin=reading.stdout, check=True)
