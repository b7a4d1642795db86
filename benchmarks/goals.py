"""How fast cdc is to be, and how fast the results say that it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.paths import is_under
from benchmarks.results import Result


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """For all results of these paths: `least` is to be reached, `stretch` hoped for. In `unit` less is better; without
    one it is their ratio, of which more is.
    """

    name: str
    paths: tuple[str, ...]
    least: float
    stretch: float
    unit: str = ""

    def value(self, each: Result) -> float | None:
        return each.ours if self.unit else each.ratio

    def worst(self, results: Sequence[Result]) -> Result | None:
        """None if none of its paths was measured."""
        measured = [each for each in results if is_under(each.path, self.paths) and self.value(each) is not None]
        return (max if self.unit else min)(measured, key=lambda each: self.value(each) or 0.0, default=None)


GOALS: Final = (
    Goal(name="capture alone ÷ `pg_recvlogical`", paths=("capture",), least=0.5, stretch=0.95),
    Goal(
        name="end to end, local log ÷ native logical replication",
        paths=("drain/local/tpcb", "drain/local/large"),
        least=0.3,
        stretch=0.6,
    ),
    Goal(
        name="end to end, Kafka ÷ native logical replication",
        paths=("drain/kafka-*/tpcb", "drain/kafka-*/large"),
        least=0.25,
        stretch=0.5,
    ),
    Goal(name="end to end, Kafka ÷ Debezium + JDBC sink", paths=("debezium",), least=5, stretch=20),
    Goal(name="snapshot ÷ COPY pipe", paths=("snapshot/local", "snapshot/kafka-4"), least=0.4, stretch=0.8),
    Goal(
        name="p99 latency at 1,000 transactions/s",
        paths=("latency/local/1000/p99", "latency/kafka-4/1000/p99"),
        least=250,
        stretch=50,
        unit="ms",
    ),
    Goal(
        name="peak resident memory per process",
        paths=("resources/*/memory/capture", "resources/*/memory/apply"),
        least=200,
        stretch=100,
        unit="MB",
    ),
)


def goals_table(results: Sequence[Result]) -> str:
    """Markdown. What is measured is the worst of the goal's paths."""
    lines = ["| goal | at least | stretch | measured | where it is worst |", "|---|---|---|---|---|"]
    for goal in GOALS:
        worst = goal.worst(results)
        measured = ("", "not measured") if worst is None else (f"{goal.value(worst):g} {goal.unit}", worst.path)
        cells = (goal.name, f"{goal.least:g} {goal.unit}", f"{goal.stretch:g} {goal.unit}", *measured)
        lines.append(f"| {' | '.join(cell.strip() for cell in cells)} |")
    return "\n".join(lines) + "\n"
