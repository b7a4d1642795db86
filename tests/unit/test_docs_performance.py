"""`docs/performance.md` says what the last benchmark measured."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest

from benchmarks.__main__ import chosen, parts
from benchmarks.document import DOCUMENT, documented
from benchmarks.goals import GOALS
from benchmarks.paths import HEADINGS, group, is_under
from benchmarks.plan import Comparison, PeerFailedError, alternate, compared
from benchmarks.results import RESULTS, Runs, read, result, write

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


def test_a_goal_is_judged_by_its_worst():
    capture, memory = GOALS[0], GOALS[-1]
    half, full = (
        result(Runs(path=path, unit="", workload="", ours=[ours], reference=[2.0], reference_name="x"))
        for path, ours in (("capture/hot", 1.0), ("capture/wide", 2.0))
    )
    small, large = (
        result(Runs(path=f"resources/local/memory/{process}/hot", unit="MB", workload="", ours=[megabytes]))
        for process, megabytes in (("capture", 80.0), ("apply", 90.0))
    )
    results = [full, half, small, large]
    assert capture.worst(results) == half
    assert memory.worst(results) == large
    assert memory.worst([half]) is None


def test_some_paths_are_chosen():
    (part,) = chosen(parts(quick=True), ["drain/*/hot", "capture/hot"])
    assert [each.path for each in part.comparisons] == [
        "capture/hot",
        "drain/local/hot",
        "drain/kafka-1/hot",
        "drain/kafka-4/hot",
    ]
    assert is_under("drain/local/hot", ["drain"])
    assert not is_under("drain/local/hot", ["drai", "local"])


def test_a_run_of_some_paths_keeps_the_others(tmp_path: Path):
    path = tmp_path / "results.json"
    one, two = (
        result(Runs(path=name, unit="s", workload="", ours=[1.0, 2.0, 4.0])) for name in ("capture/hot", "capture/wide")
    )
    write(path, [one, two])
    newer = result(Runs(path="capture/hot", unit="s", workload="", ours=[3.0]))
    write(path, [newer], keep=read(path))
    assert read(path) == [newer, two]


def test_a_peer_that_fails_is_left_out():
    said: list[str] = []

    def measure(name: str) -> dict[str, float]:
        if name == "theirs":
            raise PeerFailedError("out of memory")
        return {"changes/s": 4.0}

    measured = alternate(["ours", "theirs"], 2, measure, said.append)
    assert measured == {"ours": [{"changes/s": 4.0}] * 2}
    assert any("out of memory" in line for line in said)
    compared_with = Comparison(
        path="debezium/hot", figure="changes/s", unit="changes/s", workload="", ours="ours", reference="theirs"
    )
    (left,) = compared([compared_with], measured)
    assert (left.ours, left.reference, left.reference_name, left.ratio) == (4.0, None, None, None)
