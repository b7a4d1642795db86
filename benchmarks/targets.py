"""How fast each target writes: rows per second of batches of inserts, updates and deletes, through the applier's port.

`python -m benchmarks.targets` measures all that can run here.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from cdc.core.events import UNCHANGED, Key, Row
from cdc.core.log import TopicPartition
from cdc.core.position import Position
from cdc.core.settings import TargetSettings
from cdc.core.tables import Column, TableId, TableSchema
from cdc.core.types import ColumnType, Kind
from cdc.embedded import EmbeddedMariaDB, EmbeddedPostgres
from consumers.plan.checkpoint import PartitionProgress
from consumers.plan.steps import WriteRows
from consumers.targets.open import open_target
from consumers.targets.target import Target

_ROWS: Final = 50_000
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


@dataclass(frozen=True, slots=True)
class Rates:
    """Rows per second. `partial` updates leave a large value as it is at the target."""

    target: str
    insert: int
    update: int
    partial: int
    delete: int


def main() -> int:
    with ExitStack() as servers, tempfile.TemporaryDirectory(prefix="cdc-bench-") as name:
        results = [measured(target, url) for target, url in _urls(servers, Path(name))]
    show(results)
    return 0


def _urls(servers: ExitStack, directory: Path) -> Iterator[tuple[str, str]]:
    yield "sqlite", f"sqlite:///{directory / 'target.db'}"
    yield "duckdb (generic)", f"duckdb:///{directory / 'target.duckdb'}"
    postgres = servers.enter_context(EmbeddedPostgres(directory / "postgresql", version=18))
    yield "postgresql 18", postgres.create_database("bench")
    mariadb = servers.enter_context(EmbeddedMariaDB(directory / "mariadb"))
    yield "mariadb", mariadb.create_database("bench")


def measured(name: str, url: str) -> Rates:
    with closing(open_target(TargetSettings(name="bench", url=url))) as target:
        target.open()
        target.prepare(_TABLE)
        return Rates(
            target=name,
            insert=_rate(target, lambda numbers: WriteRows(_TABLE, upserts=[_row(n, b"first") for n in numbers])),
            update=_rate(target, lambda numbers: WriteRows(_TABLE, upserts=[_row(n, b"second") for n in numbers])),
            partial=_rate(target, lambda numbers: WriteRows(_TABLE, partials=[_partial(n) for n in numbers])),
            delete=_rate(target, lambda numbers: WriteRows(_TABLE, deletes=[_key(n) for n in numbers])),
        )


def _row(number: int, name: bytes) -> Row:
    note = b"a note of some length, which says %d" % number
    return b"%d" % number, b"%b %d" % (name, number), b"12.50", b"2026-01-31 12:34:56.789", note


def _partial(number: int) -> Row:
    return b"%d" % number, b"third %d" % number, b"13.00", b"2026-02-01 00:00:00", UNCHANGED


def _key(number: int) -> Key:
    return (b"%d" % number,)


def _rate(target: Target, step: Callable[[Sequence[int]], WriteRows]) -> int:
    steps = [step(range(start, start + _BATCH)) for start in range(0, _ROWS, _BATCH)]
    begun = time.perf_counter()
    for number, each in enumerate(steps):
        with target.transaction(log_id="bench") as transaction:
            transaction.run([each])
            transaction.advance({_PARTITION: PartitionProgress(Position(1, 1, number + 1), number)})
    return round(_ROWS / (time.perf_counter() - begun))


def show(results: Sequence[Rates]) -> None:
    table = Table("target", "insert", "update", "partial update", "delete", title="rows/s")
    for each in results:
        table.add_row(each.target, *(f"{rate:,}" for rate in (each.insert, each.update, each.partial, each.delete)))
    Console(width=100).print(table)


if __name__ == "__main__":
    sys.exit(main())
