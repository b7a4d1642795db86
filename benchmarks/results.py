"""What was measured: one JSON file, and the same as tables in docs/performance.md.

`python -m benchmarks.results` writes the tables of the JSON file into the document again.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from itertools import groupby
from pathlib import Path
from typing import Final

_ROOT: Final = Path(__file__).parents[1]
RESULTS: Final = _ROOT / "benchmarks" / "results.json"
DOCUMENT: Final = _ROOT / "docs" / "performance.md"
_BEGIN: Final = "<!-- made by `python -m benchmarks.results` from benchmarks/results.json -->\n"
_END: Final = "<!-- end -->\n"


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
    ours, reference = ([_rounded(each) for each in series] for series in (runs.ours, runs.reference))
    mine, theirs = statistics.median(ours), statistics.median(reference) if reference else None
    return Result(
        path=runs.path,
        ours=_rounded(mine),
        reference=None if theirs is None else _rounded(theirs),
        reference_name=runs.reference_name if reference else None,
        ratio=_rounded(mine / theirs) if theirs else None,
        unit=runs.unit,
        runs={"ours": ours, "reference": reference},
        workload=runs.workload,
        machine=machine(),
    )


def _rounded(value: float) -> float:
    """To three digits or to whole numbers, whichever says more."""
    return round(value) if abs(value) >= 1000 else float(f"{value:.3g}")


def machine() -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} processors, {memory:.0f} GB, {platform.system()}, Python {platform.python_version()}"


def is_under(path: str, patterns: Iterable[str]) -> bool:
    """A pattern matches a path or one that it begins: `capture`, `drain/*/tpcb`."""
    return any(fnmatch(path, pattern) or fnmatch(path, f"{pattern}/*") for pattern in patterns)


def write(path: Path, results: Sequence[Result], *, keep: Sequence[Result] = ()) -> None:
    """`keep` are those of an earlier run; what was measured again takes their place."""
    measured = {each.path: each for each in (*keep, *results)}
    path.write_text(json.dumps([asdict(each) for each in measured.values()], indent=1) + "\n")


def read(path: Path) -> list[Result]:
    return [Result(**each) for each in json.loads(path.read_text())] if path.exists() else []


# -- tables -----------------------------------------------------------------------------------------------------------

HEADINGS: Final[Mapping[str, str]] = {
    "capture": "Capture alone",
    "drain": "Backlog, end to end",
    "debezium": "Backlog through Kafka, beside Debezium",
    "latency": "Latency",
    "snapshot": "First load",
    "resources": "Processor, memory, bytes",
    "startup": "Start-up",
    "targets": "Targets",
}
"""The first part of a path, and what it is called; in the document's order."""


def group(path: str) -> str:
    return path.partition("/")[0]


def tables(results: Iterable[Result]) -> str:
    """Markdown: a table for each group of paths."""
    order = list(HEADINGS)
    ordered = sorted(results, key=lambda each: order.index(group(each.path)))
    parts = [_table(HEADINGS[name], list(each)) for name, each in groupby(ordered, lambda one: group(one.path))]
    return "\n".join(parts)


def _table(heading: str, results: Sequence[Result]) -> str:
    machines = "; ".join(dict.fromkeys(each.machine for each in results))
    lines = [f"### {heading}", f"{machines}.", ""]
    lines += ["| path | workload | unit | cdc | reference | | ratio |", "|---|---|---|---|---|---|---|"]
    lines += [f"| {' | '.join(_cells(each))} |" for each in results]
    return "\n".join(lines) + "\n"


def _cells(each: Result) -> list[str]:
    ours, reference = (_spread(each.runs[name]) for name in ("ours", "reference"))
    ratio = "" if each.ratio is None else f"{each.ratio:g}"
    return [each.path, each.workload, each.unit, ours, reference, each.reference_name or "", ratio]


def _spread(runs: Sequence[float]) -> str:
    """Median (lowest-highest)."""
    if not runs:
        return ""
    median = _figure(_rounded(statistics.median(runs)))
    return median if len(runs) == 1 else f"{median} ({_figure(min(runs))}–{_figure(max(runs))})"  # noqa: RUF001


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}"


def documented(document: str, results: Iterable[Result]) -> str:
    """The document with the tables of these results in their place."""
    before, begin, rest = document.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    assert end, "the document has no place for the tables"
    return before + begin + tables(results) + end + after


def document() -> None:
    DOCUMENT.write_text(documented(DOCUMENT.read_text(), read(RESULTS)))


if __name__ == "__main__":
    document()
