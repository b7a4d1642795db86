"""How fast each target writes batches of inserts, updates and deletes, through the applier's port."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from benchmarks.plan import Comparison, Figures, alternate, compared, contenders
from benchmarks.results import Result
from benchmarks.stage import Stage
from cdc.core.events import UNCHANGED, Key, Row
from cdc.core.log import TopicPartition
from cdc.core.position import Position
from cdc.core.settings import TargetSettings
from cdc.core.tables import Column, TableId, TableSchema
from cdc.core.types import ColumnType, Kind
from cdc.embedded import EmbeddedMariaDB
from consumers.plan.checkpoint import PartitionProgress
from consumers.plan.steps import WriteRows
from consumers.targets.open import open_target
from consumers.targets.target import Target

_BATCH: Final = 10_000  # the default of `batch_events`
_PARTITION: Final = TopicPartition("bench.public.item", 0)
_TYPES: Final = {
    "id": ColumnType(kind=Kind.INT64, name="bigint"),
    "name": ColumnType(kind=Kind.STRING, name="text"),
    "price": ColumnType(kind=Kind.DECIMAL, name="numeric(10,2)", precision=10, scale=2),
    "seen": ColumnType(kind=Kind.TIMESTAMP, name="timestamp without time zone"),
    "note": ColumnType(kind=Kind.STRING, name="text"),
}
_TABLE: Final = TableSchema(
    id=TableId("public", "item"),
    columns=tuple(Column(name=name, type=type_, nullable=name != "id") for name, type_ in _TYPES.items()),
    key=(0,),
)


_TARGETS: Final = {"sqlite": "SQLite", "postgresql": "PostgreSQL 18", "mariadb": "MariaDB", "duckdb": "DuckDB, generic"}
_WRITES: Final = ("insert", "update", "partial-update", "delete")
"""A partial update leaves a large value as it is at the target."""


def comparisons(count: int) -> Iterator[Comparison]:
    for name, target in _TARGETS.items():
        for write in _WRITES:
            yield Comparison(
                path=f"targets/{name}/{write}",
                figure=write,
                unit="rows/s",
                workload=f"{count:,} rows of 5 columns, {_BATCH:,} in a transaction",
                ours=target,
            )


def measure(count: int, stage: Stage, wanted: Sequence[Comparison], runs: int) -> list[Result]:
    with ExitStack() as servers:
        mariadb = servers.enter_context(EmbeddedMariaDB(stage.folder / "mariadb"))

        def write(target: str) -> Figures:
            with TemporaryDirectory(dir=stage.folder) as folder:
                return _measured(_urls(stage, mariadb, Path(folder))[target](), count)

        return compared(wanted, alternate(contenders(wanted), runs, write, stage.report))


def _urls(stage: Stage, mariadb: EmbeddedMariaDB, folder: Path) -> Mapping[str, Callable[[], str]]:
    """What makes each target's empty database."""
    name = folder.name.lower()
    urls = (
        lambda: f"sqlite:///{folder / 'target.db'}",
        lambda: stage.target.create_database(name),
        lambda: mariadb.create_database(name),
        lambda: f"duckdb:///{folder / 'target.duckdb'}",
    )
    return dict(zip(_TARGETS.values(), urls, strict=True))


def _measured(url: str, count: int) -> Figures:
    steps: tuple[Callable[[Sequence[int]], WriteRows], ...] = (
        lambda numbers: WriteRows(_TABLE, upserts=[_row(n, b"first") for n in numbers]),
        lambda numbers: WriteRows(_TABLE, upserts=[_row(n, b"second") for n in numbers]),
        lambda numbers: WriteRows(_TABLE, partials=[_partial(n) for n in numbers]),
        lambda numbers: WriteRows(_TABLE, deletes=[_key(n) for n in numbers]),
    )
    with closing(open_target(TargetSettings(name="bench", url=url))) as target:
        target.open()
        target.prepare(_TABLE)
        return {write: _rate(target, step, count) for write, step in zip(_WRITES, steps, strict=True)}


def _row(number: int, name: bytes) -> Row:
    note = b"a note of some length, which says %d" % number
    return b"%d" % number, b"%b %d" % (name, number), b"12.50", b"2026-01-31 12:34:56.789", note


def _partial(number: int) -> Row:
    return b"%d" % number, b"third %d" % number, b"13.00", b"2026-02-01 00:00:00", UNCHANGED


def _key(number: int) -> Key:
    return (b"%d" % number,)


def _rate(target: Target, step: Callable[[Sequence[int]], WriteRows], count: int) -> float:
    steps = [step(range(start, start + _BATCH)) for start in range(0, count, _BATCH)]
    begun = time.perf_counter()
    for number, each in enumerate(steps):
        with target.transaction(log_id="bench") as transaction:
            transaction.run([each])
            transaction.advance({_PARTITION: PartitionProgress(Position(1, 1, number + 1), number)})
    return count / (time.perf_counter() - begun)
