"""Drain one backlog in several ways, in turn; print changes per second, and write them to a JSON file."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from benchmarks import contenders
from benchmarks.backlog import Backlog
from cdc.embedded.postgres import EmbeddedPostgres

_SETTINGS: Final = {"wal_level": "logical", "max_wal_size": "8GB", "max_wal_senders": "20"}
_PROGRESS: Final = Console(stderr=True, highlight=False, soft_wrap=True)

Contender = Callable[[Backlog], float]


@dataclass(frozen=True, slots=True)
class Comparison:
    path: str
    ours: Contender
    reference: Contender
    reference_name: str


COMPARISONS: Final = (
    Comparison("capture alone", contenders.capture_alone, contenders.pg_recvlogical, "pg_recvlogical -f /dev/null"),
    Comparison("end to end, local log", contenders.end_to_end, contenders.native, "native logical replication"),
)


@dataclass(frozen=True, slots=True)
class Result:
    """Medians, in changes per second; `runs` has every run of both, in their order."""

    path: str
    ours: int
    reference: int
    reference_name: str
    ratio: float
    unit: str
    runs: dict[str, list[int]]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--transactions", type=int, default=30_000, help="of pgbench in the backlog; 4 changes each")
    parser.add_argument("--scale", type=int, default=5, help="of pgbench; 100,000 accounts each")
    parser.add_argument("--runs", type=int, default=3, help="of each contender")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results.json"))
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="cdc-bench-") as name,
        EmbeddedPostgres(Path(name) / "source", version=18, settings=_SETTINGS) as source,
        EmbeddedPostgres(Path(name) / "target", version=18, settings=_SETTINGS) as target,
    ):
        backlog = Backlog(source, target, Path(name), scale=arguments.scale, transactions=arguments.transactions)
        backlog.prepare(_PROGRESS.print)
        results = [compare(comparison, backlog, arguments.runs) for comparison in COMPARISONS]
    workload = f"pgbench TPC-B, scale {arguments.scale}, {backlog.changes:,} changes"
    report = {"machine": machine(), "workload": workload, "results": [asdict(result) for result in results]}
    arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    show(workload, results)
    return 0


def compare(comparison: Comparison, backlog: Backlog, runs: int) -> Result:
    """Alternate between both, so that what the machine does meanwhile meets both."""
    ours, reference = [], []
    for _ in range(runs):
        ours.append(_measure(comparison.path, "cdc", comparison.ours, backlog))
        reference.append(_measure(comparison.path, comparison.reference_name, comparison.reference, backlog))
    mine, theirs = statistics.median(ours), statistics.median(reference)
    return Result(
        path=comparison.path,
        ours=round(mine),
        reference=round(theirs),
        reference_name=comparison.reference_name,
        ratio=round(mine / theirs, 3),
        unit="changes/s",
        runs={"ours": ours, "reference": reference},
    )


def _measure(path: str, name: str, contender: Contender, backlog: Backlog) -> int:
    rate = round(backlog.changes / contender(backlog))
    _PROGRESS.print(f"{path}: {name}: {rate:,} changes/s")
    return rate


def show(workload: str, results: Iterable[Result]) -> None:
    table = Table("path", "cdc", "reference", "", "ratio", title=workload)
    for each in results:
        table.add_row(
            each.path, _figure(each.runs["ours"]), _figure(each.runs["reference"]), each.reference_name, str(each.ratio)
        )
    Console(width=120).print(table)


def _figure(runs: Sequence[int]) -> str:
    return f"{statistics.median(runs):,.0f} ({min(runs):,}-{max(runs):,})"


def machine() -> dict[str, str | int | None]:
    return {"processors": os.cpu_count(), "platform": platform.platform(), "python": platform.python_version()}


if __name__ == "__main__":
    sys.exit(main())
