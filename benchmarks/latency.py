"""How long after its commit a transaction is visible at the target, while others come at a steady rate.

Both moments are of the machine's one clock: the commit's is PostgreSQL's own (`track_commit_timestamp`), visible is
what a session at the target sees, which looks again and again.
"""

from __future__ import annotations

import subprocess
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final

import psycopg2

from benchmarks.backlog import Backlog
from benchmarks.measuring import LONGEST_SECONDS, WaitedInVainError, execute
from benchmarks.plan import Comparison, Figures, alternate, compared, contenders
from benchmarks.replications import replications
from benchmarks.replications.debezium import TUNED
from benchmarks.replications.native import Native
from benchmarks.replications.ours import KAFKA_4, LOCAL
from benchmarks.replications.replication import Running
from benchmarks.results import Result
from benchmarks.stage import Stage
from benchmarks.workloads import Pulses

RATES: Final = (100, 1_000, 5_000)
_CLIENTS: Final = 32  # so many commits share a flush of the WAL
_LOOK_SECONDS: Final = 0.002
_WARM_UP_RATE: Final = 1_000
_PULSE: Final = """\
\\set n :n + 1
INSERT INTO pulse VALUES (:client_id + :first, :n, 'a pulse');
"""
_REACHED: Final = """\
SELECT client, (SELECT max(n) FROM pulse WHERE pulse.client = clients.client)
FROM generate_series({first}, {last}) AS clients (client)
"""
_COMMITS: Final = """\
SELECT client, n, extract(epoch FROM pg_xact_commit_timestamp(xmin))::float8
FROM pulse WHERE client BETWEEN {first} AND {last}
"""


def comparisons(pulses: Pulses) -> Iterator[Comparison]:
    pairs = (("local", LOCAL, Native.name), ("kafka-4", KAFKA_4, Native.name), ("debezium", KAFKA_4, TUNED))
    for rate in RATES:
        workload = f"{pulses.title}, {rate:,}/s"
        for name, ours, reference in pairs:
            for figure, unit in (("p50", "ms"), ("p99", "ms"), ("reached", "transactions/s")):
                yield Comparison(
                    path=f"latency/{name}/{rate}/{figure}",
                    figure=f"{rate}/{figure}",
                    unit=unit,
                    workload=workload,
                    ours=ours,
                    reference=reference,
                )


def measure(pulses: Pulses, seconds: int, stage: Stage, wanted: Sequence[Comparison], runs: int) -> list[Result]:
    """Each run is a start, a warm-up, and every rate for so many seconds."""
    rates = [rate for rate in RATES if any(each.figure.startswith(f"{rate}/") for each in wanted)]
    here = replications(stage, contenders(wanted))

    def one_run(name: str) -> Figures:
        figures: dict[str, float] = {}
        backlog = Backlog(stage, pulses)
        backlog.create()
        here[name].prepare(backlog)
        backlog.change()
        with here[name].resumed(backlog) as running:
            backlog.await_all(running.target, running.began, running.alive)
            # A JVM that has just started compiles itself meanwhile, and answers slowly.
            _pulse(backlog, running, _WARM_UP_RATE, seconds)
            for rate in rates:
                figures |= _pulse(backlog, running, rate, seconds)
            backlog.expect()
            backlog.await_all(running.target, running.began, running.alive)
        here[name].forget()
        backlog.drop()
        return figures

    return compared(wanted, alternate(list(here), runs, one_run, stage.report))


@dataclass(frozen=True, slots=True)
class Look:
    """What was visible at the target: the last pulse of each client. `at` is in seconds of the epoch."""

    at: float
    reached: dict[int, int]


def _pulse(backlog: Backlog, running: Running, rate: int, seconds: int) -> Figures:
    """Milliseconds from commit to visible, of the pulses of one rate."""
    first = execute(backlog.source_url, "SELECT coalesce(max(client) + 1, 0) FROM pulse")[0][0]
    span = {"first": first, "last": first + _CLIENTS - 1}
    script = backlog.stage.folder / "pulse.sql"
    script.write_text(_PULSE)
    pgbench = [str(backlog.stage.source.bin("pgbench")), "-n", "-f", str(script), "-c", str(_CLIENTS), "-j", "2"]
    pgbench += ["-R", str(rate), "-T", str(seconds), "-D", "n=0", "-D", f"first={first}", "-d", backlog.source_url]
    with subprocess.Popen(pgbench, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as writing:
        looks = list(_looks(running, _REACHED.format(**span), lambda: writing.poll() is None))
    commits = execute(backlog.source_url, _COMMITS.format(**span))
    looks += _last_looks(running, _REACHED.format(**span), commits)
    times = sorted(at for _, _, at in commits)
    lasted = sorted(latencies(looks, commits))
    return {
        f"{rate}/p50": _percentile(lasted, 50) * 1000,
        f"{rate}/p99": _percentile(lasted, 99) * 1000,
        f"{rate}/reached": len(times) / max(times[-1] - times[0], 1e-3),
    }


def _looks(running: Running, query: str, going_on: Callable[[], bool]) -> Iterator[Look]:
    with closing(psycopg2.connect(running.target)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        while going_on():
            cursor.execute(query)
            rows: list[tuple[Any, ...]] = cursor.fetchall()
            yield Look(time.time(), {client: n for client, n in rows if n is not None})
            time.sleep(_LOOK_SECONDS)


def _last_looks(running: Running, query: str, commits: Sequence[tuple[Any, ...]]) -> Iterator[Look]:
    """Until all pulses are there."""
    last: dict[int, int] = {}
    for client, n, _ in commits:
        last[client] = max(n, last.get(client, 0))
    deadline = time.monotonic() + LONGEST_SECONDS
    for look in _looks(running, query, lambda: True):
        yield look
        if look.reached == last:
            return
        running.alive()
        if time.monotonic() > deadline:
            raise WaitedInVainError("pulses are missing at the target")


def latencies(looks: Sequence[Look], commits: Sequence[tuple[Any, ...]]) -> Iterator[float]:
    """Seconds, of each pulse. What a client wrote becomes visible in its order."""
    reached = {client: [look.reached.get(client, 0) for look in looks] for client, _, _ in commits}
    for client, n, at in commits:
        yield looks[bisect_left(reached[client], n)].at - at


def _percentile(ordered: Sequence[float], percent: int) -> float:
    return ordered[min(len(ordered) * percent // 100, len(ordered) - 1)]
