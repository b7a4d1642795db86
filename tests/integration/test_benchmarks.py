"""What the benchmarks start, drains, and is equal at the end. How fast is not asked here."""

from __future__ import annotations

from types import SimpleNamespace

from benchmarks.drains import comparisons, drain
from benchmarks.paths import is_under
from benchmarks.workloads import HotKeys


def test_a_backlog_is_drained_by_all(pg_server, tmp_path):
    server = pg_server(18)
    said: list[str] = []
    stage = SimpleNamespace(source=server, target=server, folder=tmp_path, report=said.append)
    workload = HotKeys(200)
    wanted = [
        each for each in comparisons(workload) if is_under(each.path, ["capture", "drain/local", "resources/local"])
    ]
    results = drain(stage, workload, wanted, runs=1)
    assert [each.path for each in results] == [each.path for each in wanted]
    assert all(each.ours > 0 for each in results)
    assert {each.path for each in results if each.ratio} == {"capture/hot", "drain/local/hot"}
    assert not [line for line in said if "left out" in line]
