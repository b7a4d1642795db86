"""`docs/performance.md` says what the last benchmark measured."""

from __future__ import annotations

import re
import statistics

import pytest

from benchmarks.__main__ import parts
from benchmarks.document import DOCUMENT, documented, tables
from benchmarks.goals import GOALS
from benchmarks.paths import HEADINGS, group, is_under
from benchmarks.results import RESULTS, Runs, read, result

PATHS = [each.path for quick in (True, False) for part in parts(quick=quick) for each in part.comparisons]


def test_the_document_has_the_tables_of_the_results():
    document = DOCUMENT.read_text()
    assert documented(document, read(RESULTS)) == document, "run `python -m benchmarks.document`"


def test_results_are_of_paths_that_are_measured():
    assert {each.path for each in read(RESULTS)} <= set(PATHS)
    assert {group(path) for path in PATHS} == set(HEADINGS)


@pytest.mark.parametrize("quick", [True, False])
def test_each_path_is_measured_once(quick):
    paths = [each.path for part in parts(quick=quick) for each in part.comparisons]
    assert len(paths) == len(set(paths))


@pytest.mark.parametrize("each", read(RESULTS), ids=lambda each: each.path)
def test_medians_and_ratios_are_of_the_runs(each):
    again = result(
        Runs(
            path=each.path,
            unit=each.unit,
            workload=each.workload,
            ours=each.runs["ours"],
            reference=each.runs["reference"],
            reference_name=each.reference_name,
        )
    )
    assert (again.ours, again.reference, again.ratio) == (each.ours, each.reference, each.ratio)
    assert each.ours == pytest.approx(statistics.median(each.runs["ours"]), rel=0.01)


@pytest.mark.parametrize("goal", GOALS, ids=lambda goal: goal.name)
def test_goals_are_of_paths_that_are_measured(goal):
    assert all(any(is_under(path, [each]) for path in PATHS) for each in goal.paths)


def test_every_row_has_as_many_cells_as_its_heading():
    pipe = result(
        Runs(path="snapshot/local", unit="rows/s", workload="", ours=[1.0], reference=[2.0], reference_name="a | b")
    )
    (heading, _, row) = tables([pipe]).splitlines()[3:]
    assert len(re.findall(r"(?<!\\)\|", row)) == len(re.findall(r"\|", heading))
