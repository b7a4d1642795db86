"""The results as tables of docs/performance.md: `python -m benchmarks.document` writes them there again."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Final

from benchmarks.goals import goals_table
from benchmarks.paths import HEADINGS, group
from benchmarks.results import RESULTS, Result, read, rounded

DOCUMENT: Final = Path(__file__).parents[1] / "docs" / "performance.md"
_BEGIN: Final = "<!-- made by `python -m benchmarks.document` from benchmarks/results.json -->\n"
_END: Final = "<!-- end -->\n"


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
    name = (each.reference_name or "").replace("|", "\\|")
    return [each.path, each.workload, each.unit, ours, reference, name, ratio]


def _spread(runs: Sequence[float]) -> str:
    """Median (lowest-highest)."""
    if not runs:
        return ""
    median = _figure(rounded(statistics.median(runs)))
    return median if len(runs) == 1 else f"{median} ({_figure(min(runs))}–{_figure(max(runs))})"  # noqa: RUF001


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}"


def documented(document: str, results: Sequence[Result]) -> str:
    """The document with the tables of these results in their place."""
    before, begin, rest = document.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    assert end, "the document has no place for the tables"
    return f"{before}{begin}{goals_table(results)}\n{tables(results)}{end}{after}"


def write_document() -> None:
    DOCUMENT.write_text(documented(DOCUMENT.read_text(), read(RESULTS)))


if __name__ == "__main__":
    write_document()
