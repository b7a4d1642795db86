"""What every command costs before it does anything."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from typing import Final

from benchmarks.measuring import run
from benchmarks.plan import Comparison, Figures, alternate, compared, contenders
from benchmarks.results import Result
from benchmarks.stage import Stage

_HELP: Final = "cdc --help"
_PYTHON: Final = "python -c pass"
_COMMANDS: Final = {_HELP: ["-m", "cdc", "--help"], _PYTHON: ["-c", "pass"]}
_TIMES: Final = 5


def comparisons() -> Iterator[Comparison]:
    yield Comparison(path="startup/help", figure="ms", unit="ms", workload="the process", ours=_HELP, reference=_PYTHON)


def measure(stage: Stage, wanted: Sequence[Comparison], runs: int) -> list[Result]:
    """It is quick, so each run is the quickest of several."""
    return compared(wanted, alternate(contenders(wanted), runs, _lasts, stage.report))


def _lasts(name: str) -> Figures:
    return {"ms": 1000 * min(_once(name) for _ in range(_TIMES))}


def _once(name: str) -> float:
    began = time.monotonic()
    run([sys.executable, *_COMMANDS[name]])
    return time.monotonic() - began
