"""What is made of measurements. What is measured: tests/integration/test_benchmarks.py."""

from __future__ import annotations

from pathlib import Path

from benchmarks.__main__ import chosen, parts
from benchmarks.goals import GOALS
from benchmarks.latency import Look, latencies
from benchmarks.paths import is_under
from benchmarks.plan import Comparison, PeerFailedError, alternate, compared
from benchmarks.results import Runs, read, result, write


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


def test_a_pulse_is_visible_when_its_client_has_reached_it():
    looks = [Look(10.0, {}), Look(11.0, {7: 2}), Look(12.0, {7: 3, 8: 1})]
    commits = [(7, 1, 9.5), (7, 2, 10.5), (7, 3, 11.75), (8, 1, 10.0)]
    assert list(latencies(looks, commits)) == [1.5, 0.5, 0.25, 2.0]
