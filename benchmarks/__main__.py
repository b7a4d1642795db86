"""Measure cdc beside PostgreSQL's own tools and other systems, in turn, on the same data and the same servers."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from benchmarks import drains, latency, snapshots, startup, targets
from benchmarks.document import tables, write_document
from benchmarks.paths import is_under
from benchmarks.plan import Comparison
from benchmarks.results import RESULTS, Result, machine, read, write
from benchmarks.stage import Stage
from benchmarks.workloads import HotKeys, LargeTransactions, OneChange, Pulses, Rows, TpcB, WideRows, Workload

_EPILOG: Final = """\
Paths begin with capture, drain, debezium, latency, snapshot, resources, startup or targets; `--list` prints them all.
docs/performance.md says what they are.
"""

Measure = Callable[[Stage, Sequence[Comparison], int], list[Result]]


@dataclass(frozen=True, slots=True)
class Part:
    """Comparisons that are measured together, and how."""

    comparisons: Sequence[Comparison]
    measure: Measure


def parts(*, quick: bool) -> Iterator[Part]:
    workloads: list[Workload] = (
        [TpcB(2_000, scale=1), LargeTransactions(20_000), WideRows(2_000), HotKeys(10_000)]
        if quick
        else [TpcB(120_000, scale=5), LargeTransactions(1_000_000), WideRows(100_000), HotKeys(200_000)]
    )
    for workload in workloads:
        yield _drain(workload, drains.comparisons(workload))
    pulses, seconds = Pulses(), 3 if quick else 10
    yield Part(list(latency.comparisons(pulses)), lambda *given: latency.measure(pulses, seconds, *given))
    rows = Rows(20_000 if quick else 1_000_000)
    yield Part(list(snapshots.comparisons(rows)), lambda *given: snapshots.measure(rows, *given))
    one = OneChange()
    yield _drain(one, drains.starting(one))
    yield Part(list(startup.comparisons()), startup.measure)
    count = 10_000 if quick else 50_000
    yield Part(list(targets.comparisons(count)), lambda *given: targets.measure(count, *given))


def _drain(workload: Workload, comparisons: Iterable[Comparison]) -> Part:
    return Part(list(comparisons), lambda stage, wanted, runs: drains.drain(stage, workload, wanted, runs))


def chosen(all_parts: Iterable[Part], only: Sequence[str]) -> list[Part]:
    """What is left of each, if anything is."""
    left = [
        replace(part, comparisons=[each for each in part.comparisons if is_under(each.path, only)])
        for part in all_parts
    ]
    return [part for part in left if part.comparisons]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__, epilog=_EPILOG)
    parser.add_argument(
        "--only", nargs="+", default=["*"], metavar="PATH", help="or the beginning, or a pattern of some"
    )
    parser.add_argument("--quick", action="store_true", help="little data, one run: shows that all works, not how fast")
    parser.add_argument("--runs", type=int, help="of each contender in turn; 3, with --quick 1")
    parser.add_argument("--json", type=Path, help="results of other paths stay in it; with --quick none is written")
    parser.add_argument("--list", action="store_true", help="print the paths and what each is compared with")
    arguments = parser.parse_args()
    wanted = chosen(parts(quick=arguments.quick), arguments.only)
    if not wanted:
        parser.error("no such path: see --list")
    if arguments.list:
        for each in (comparison for part in wanted for comparison in part.comparisons):
            sys.stdout.write(f"{each.path}: {each.ours} beside {each.reference or 'nothing'}; {each.workload}\n")
        return 0
    # As an installation has it. Else each process that is started compiles all that it imports, half a second long.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that servers and files go with us
    json = arguments.json or (None if arguments.quick else RESULTS)
    measure(wanted, arguments.runs or (1 if arguments.quick else 3), json)
    return 0


def measure(wanted: Iterable[Part], runs: int, json: Path | None) -> None:
    """What was measured is written after each part."""
    earlier = read(json) if json else []
    results: list[Result] = []
    with Stage() as stage:
        stage.report(machine())
        for part in wanted:
            results += part.measure(stage, part.comparisons, runs)
            if json:
                write(json, results, keep=earlier)
            if json == RESULTS:
                write_document()
    sys.stdout.write(f"\n{tables(results)}")


if __name__ == "__main__":
    sys.exit(main())
