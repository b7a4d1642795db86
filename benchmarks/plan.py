"""What is compared with what. Who measures it says what came out of one run as figures by their names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.results import Result, Runs, result

Figures = Mapping[str, float]


class PeerFailedError(Exception):
    """Another system could not do it; what it said. The others go on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """`ours` and `reference` are names of contenders; of each run of both the same figure is taken."""

    path: str
    figure: str
    unit: str
    workload: str
    ours: str
    reference: str | None = None


def contenders(comparisons: Iterable[Comparison]) -> list[str]:
    """All that these compare, each once."""
    names = [name for each in comparisons for name in (each.ours, each.reference) if name is not None]
    return list(dict.fromkeys(names))


def alternate(
    names: Sequence[str], runs: int, measure: Callable[[str], Figures], report: Callable[[str], None]
) -> dict[str, list[Figures]]:
    """`runs` times each in turn, so that what the machine does meanwhile meets all. Without peers that failed."""
    measured: dict[str, list[Figures]] = {name: [] for name in names}
    for _ in range(runs):
        for name in list(measured):
            try:
                figures = measure(name)
            except PeerFailedError as error:
                report(f"{name} is left out: it failed\n{error}")
                del measured[name]
                continue
            measured[name].append(figures)
            report(f"{name}: {', '.join(f'{key} {value:,.6g}' for key, value in figures.items())}")
    return measured


def compared(comparisons: Iterable[Comparison], measured: Mapping[str, Sequence[Figures]]) -> list[Result]:
    def series(name: str | None, figure: str) -> list[float]:
        """Empty if that contender has no such figure."""
        return [each[figure] for each in measured.get(name or "", ()) if figure in each]

    return [
        result(
            Runs(
                path=each.path,
                unit=each.unit,
                workload=each.workload,
                ours=series(each.ours, each.figure),
                reference=series(each.reference, each.figure),
                reference_name=each.reference,
            )
        )
        for each in comparisons
    ]
