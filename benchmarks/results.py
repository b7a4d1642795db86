"""What was measured: one JSON file."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from cdc.avro.speedups import COMPILED

RESULTS: Final = Path(__file__).with_name("results.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """`ours` and `reference` are medians in `unit`, `ratio` is ours ÷ reference; `runs` has every run of both, in their
    order. Without a reference they are None, and its runs are empty.
    """

    path: str
    ours: float
    reference: float | None
    reference_name: str | None
    ratio: float | None
    unit: str
    runs: dict[str, list[float]]
    workload: str
    machine: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """What came out of the runs of a path."""

    path: str
    unit: str
    workload: str
    ours: Sequence[float]
    reference: Sequence[float] = ()
    reference_name: str | None = None


def result(runs: Runs) -> Result:
    ours, reference = ([rounded(each) for each in series] for series in (runs.ours, runs.reference))
    mine, theirs = statistics.median(ours), statistics.median(reference) if reference else None
    return Result(
        path=runs.path,
        ours=rounded(mine),
        reference=None if theirs is None else rounded(theirs),
        reference_name=runs.reference_name if reference else None,
        ratio=rounded(mine / theirs) if theirs else None,
        unit=runs.unit,
        runs={"ours": ours, "reference": reference},
        workload=runs.workload,
        machine=machine(),
    )


def rounded(value: float) -> float:
    """To three digits or to whole numbers, whichever says more."""
    return round(value) if abs(value) >= 1000 else float(f"{value:.3g}")


def machine() -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    python = f"Python {platform.python_version()}, cdc {'compiled' if COMPILED else 'not compiled'}"
    return f"{os.cpu_count()} processors, {memory:.0f} GB, {platform.system()}, {python}"


def write(path: Path, results: Sequence[Result], *, keep: Sequence[Result] = ()) -> None:
    """`keep` are those of an earlier run; what was measured again takes their place."""
    measured = {each.path: each for each in (*keep, *results)}
    path.write_text(json.dumps([asdict(each) for each in measured.values()], indent=1) + "\n")


def read(path: Path) -> list[Result]:
    return [Result(**each) for each in json.loads(path.read_text())] if path.exists() else []
