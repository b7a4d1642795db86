"""A backlog drained by everybody in turn: changes per second; what it took of processor, memory and log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from benchmarks.backlog import Backlog
from benchmarks.capturing import capture_alone, pg_recvlogical
from benchmarks.plan import Comparison, Figures, alternate, compared, contenders
from benchmarks.processes import Usage
from benchmarks.replications import replications
from benchmarks.replications.debezium import DEFAULTS, TUNED
from benchmarks.replications.native import Native
from benchmarks.replications.ours import APPLY, CAPTURE, KAFKA_1, KAFKA_4, LOCAL, Ours
from benchmarks.replications.replication import Replication
from benchmarks.results import Result
from benchmarks.stage import Stage
from benchmarks.workloads import OneChange, TpcB, Workload

_ALONE: Final = "cdc, capture alone"
_RECEIVER: Final = "pg_recvlogical -f /dev/null"


ALL: Final = "all"
"""Processes together."""


def comparisons(workload: Workload) -> Iterator[Comparison]:
    def compare(path: str, figure: str, unit: str, ours: str, reference: str | None = None) -> Comparison:
        where = f"{path}/{workload.name}"
        return Comparison(path=where, figure=figure, unit=unit, workload=workload.title, ours=ours, reference=reference)

    yield compare("capture", "changes/s", "changes/s", _ALONE, _RECEIVER)
    for name, ours in (("local", LOCAL), ("kafka-1", KAFKA_1), ("kafka-4", KAFKA_4)):
        yield compare(f"drain/{name}", "changes/s", "changes/s", ours, Native.name)
    if isinstance(workload, TpcB):  # one is enough: Debezium takes longer than all others together
        yield compare("debezium/batch-500", "changes/s", "changes/s", KAFKA_4, DEFAULTS)
    yield compare("debezium/tuned", "changes/s", "changes/s", KAFKA_4, TUNED)
    for name, ours, peer in (("local", LOCAL, None), ("kafka-4", KAFKA_4, TUNED)):
        yield compare(f"resources/{name}/log", "log", "bytes / change", ours, peer)
        for process, beside in ((ALL, peer), (CAPTURE, None), (APPLY, None)):
            yield compare(f"resources/{name}/cpu/{process}", f"cpu, {process}", "s / 100,000 changes", ours, beside)
            yield compare(f"resources/{name}/memory/{process}", f"memory, {process}", "MB at most", ours, beside)


def starting(workload: OneChange) -> Iterator[Comparison]:
    """From the start of the processes to the one change at the target."""
    for name, ours, reference in (("local", LOCAL, Native.name), ("kafka-4", KAFKA_4, DEFAULTS)):
        yield Comparison(
            path=f"startup/first-event/{name}",
            figure="s",
            unit="s",
            workload=workload.title,
            ours=ours,
            reference=reference,
        )


def drain(stage: Stage, workload: Workload, wanted: Sequence[Comparison], runs: int) -> list[Result]:
    """All of `wanted` from one backlog."""
    names = contenders(wanted)
    # Capture alone starts from what the local log has.
    needed = dict.fromkeys(LOCAL if name == _ALONE else name for name in names if name != _RECEIVER)
    here = replications(stage, needed)
    backlog = Backlog(stage, workload)
    backlog.create()
    for replication in here.values():
        replication.prepare(backlog)
    backlog.change()

    def measure(name: str) -> Figures:
        if name == _RECEIVER:
            return _rate(backlog, pg_recvlogical(backlog))
        if name == _ALONE:
            local = here[LOCAL]
            assert isinstance(local, Ours)
            return _rate(backlog, capture_alone(backlog, local))
        return _drained(backlog, here[name])

    left = [name for name in names if name in (*here, _ALONE, _RECEIVER)]
    measured = alternate(left, runs, measure, stage.report)
    for replication in here.values():
        replication.forget()
    backlog.drop()
    return compared(wanted, measured)


def _rate(backlog: Backlog, seconds: float) -> Figures:
    return {"changes/s": backlog.changes / seconds}


def _drained(backlog: Backlog, replication: Replication) -> Figures:
    with replication.resumed(backlog) as running:
        lasted = backlog.await_all(running.target, running.began, running.alive)
        figures = {"changes/s": backlog.changes / lasted, "s": lasted}
        for process, used in _with_sum(running.usages()).items():
            figures[f"cpu, {process}"] = used.cpu_seconds * 100_000 / backlog.changes
            figures[f"memory, {process}"] = used.memory_bytes / 1e6
        if running.log_bytes is not None:
            figures["log"] = running.log_bytes() / backlog.changes
    return figures


def _with_sum(usages: Mapping[str, Usage]) -> dict[str, Usage]:
    """Of peaks: more than they ever had at once, perhaps."""
    if not usages:
        return {}
    cpu = sum(each.cpu_seconds for each in usages.values())
    return {**usages, ALL: Usage(cpu, sum(each.memory_bytes for each in usages.values()))}
