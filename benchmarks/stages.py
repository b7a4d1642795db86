"""Where capture's time goes: `python -m benchmarks.stages` prints the microseconds of CPU that each of its stages takes
for a change, of three workloads.

The stream is read once, and the stages then run over it in memory, in chunks. The figure is the
median of the quicker half of all chunks, so that other work on the machine disturbs it little.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from benchmarks.measuring import execute
from benchmarks.null_log import NullWriter
from benchmarks.workloads import LargeTransactions, TpcB, WideRows, Workload
from cdc.capture.pipeline import Pipeline
from cdc.capture.publisher import Publisher
from cdc.cli.garbage import collect_rarely
from cdc.core.events import ChangeEvent, Changes, Commit, StreamItem
from cdc.core.log import Record
from cdc.core.settings import LogSettings
from cdc.embedded.postgres import EmbeddedPostgres
from cdc.pgoutput.decoder import decode
from cdc.pgoutput.stream import message_in
from cdc.sources.postgres.assembler import Assembler
from cdc.sources.postgres.catalog import Catalog
from cdc.sources.postgres.connection import ReplicationConnection
from cdc.sources.postgres.database import SourceDatabase
from cdc.sources.postgres.versions import Versions

_NAME: Final = "stages"
_MESSAGES: Final = 1_000  # in a chunk
_QUIET_SECONDS: Final = 2.0
_STAGES: Final = ("read", "assemble", "encode", "BEGIN and END", "hand over")
_OPTIONS: Final = f"(proto_version '1', publication_names '{_NAME}', messages 'true')"

Seconds = dict[str, float]


class Stages:
    """The stages of one stream. `run` measures one chunk."""

    def __init__(self, database: SourceDatabase) -> None:
        catalog = Catalog(database.query, _NAME, generated=False)
        self._assembler = Assembler(
            epoch=1,
            database=_NAME,
            versions=Versions(publication=_NAME, generated=False, captured=lambda _: True, look_up=catalog.look_up),
            rereads=_NoRereads(),
            captured=lambda _: True,
            now_us=lambda: time.time_ns() // 1000,
        )
        writer = NullWriter()
        self._pipeline = Pipeline(writer.append)
        self._publisher = Publisher(
            settings=LogSettings(prefix="bench", partitions=4),
            state_topic="state",
            tables={},
            existing={},
            writer=writer,
            registry=_Numbers(),
        )

    def run(self, frames: Sequence[bytes]) -> tuple[int, Seconds]:
        """How many changes there were, and what each stage took."""
        took: Seconds = {}
        items = _timed(took, "assemble", lambda: self._assemble(frames))
        changes = [item for item in items if isinstance(item, Changes | ChangeEvent)]
        commits = [item for item in items if isinstance(item, Commit) and item.event_counts]
        records = _timed(took, "encode", lambda: self._encode(changes))
        ends = _timed(took, "BEGIN and END", lambda: [self._publisher.transaction_records(each) for each in commits])
        _timed(took, "hand over", lambda: self._hand_over(records, ends))
        return sum(len(item.unread) if isinstance(item, Changes) else 1 for item in changes), took

    def _assemble(self, frames: Sequence[bytes]) -> list[StreamItem]:
        self._assembler.take_time()
        items: list[StreamItem] = []
        rest = iter(frames)
        for frame in rest:
            usual, other = self._assembler.take(frame, rest)
            items += usual
            message = None if other is None else message_in(other)
            if message is not None:
                items += self._assembler.feed(decode(message[1]), message[0])
        return items

    def _encode(self, changes: Sequence[Changes | ChangeEvent]) -> list[Record]:
        records: list[Record] = []
        for each in changes:
            records += self._publisher.records_of(each) if isinstance(each, Changes) else self._publisher.records(each)
        return records

    def _hand_over(self, records: Sequence[Record], ends: Sequence[list[Record]]) -> None:
        self._pipeline.produce(records)
        for number, end in enumerate(ends):
            self._pipeline.end(end, number + 1)
        self._pipeline.advance(1 << 60)


class _Numbers:
    """A registry that numbers."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}

    def register(self, subject: str, schema: str) -> int:
        return self._ids.setdefault(schema, len(self._ids) + 1)

    def schema(self, schema_id: int) -> str:
        raise AssertionError("nothing is read")

    def close(self) -> None:
        """Nothing is open."""


class _NoRereads:
    def begin(self, oid: int) -> None:
        raise AssertionError(f"table {oid} would be read again")

    def finished(self, attempt: str) -> None:
        raise AssertionError(f"table was read again: {attempt}")


def _timed(took: Seconds, stage: str, work: Callable[[], Any]) -> Any:
    began = time.process_time()
    made = work()
    took[stage] = time.process_time() - began
    return made


def measure(server: EmbeddedPostgres, workload: Workload) -> dict[str, float]:
    """The microseconds of each stage for a change."""
    url = server.create_database(workload.name)
    workload.create(server, url)
    execute(url, f"CREATE PUBLICATION {_NAME} FOR ALL TABLES")
    execute(url, f"SELECT pg_create_logical_replication_slot('{workload.name}', 'pgoutput')")
    workload.change(server, url)
    frames, read_seconds = _read(url, workload.name)
    with SourceDatabase(url, application_name=_NAME) as database:
        stages = Stages(database)
        chunks = [stages.run(frames[start : start + _MESSAGES]) for start in range(0, len(frames), _MESSAGES)]
    figures = {"read": read_seconds / workload.changes * 1e6}
    for stage in _STAGES[1:]:
        costs = sorted(took[stage] / changes * 1e6 for changes, took in chunks if changes > _MESSAGES // 4)
        figures[stage] = statistics.median(costs[: len(costs) // 2 + 1])
    return figures


def _read(url: str, slot: str) -> tuple[list[bytes], float]:
    """The whole stream, and the CPU seconds that it took."""
    frames: list[bytes] = []
    with ReplicationConnection(url, application_name=_NAME) as connection:
        connection.start_stream(f'START_REPLICATION SLOT "{slot}" LOGICAL 0/0 {_OPTIONS}', doing="reading")
        began = time.process_time()
        while batch := connection.receive(_MESSAGES, _QUIET_SECONDS if frames else 60.0):
            frames += batch
            seconds = time.process_time() - began
    return frames, seconds


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stages", description=__doc__)
    parser.add_argument(
        "--changes", type=int, default=100_000, help="of each workload but the wide one, which has 4,000"
    )
    changes = parser.parse_args().changes
    workloads: list[Workload] = [
        TpcB(transactions=changes // 32 * 8, scale=1),
        LargeTransactions(changes=changes),
        WideRows(changes=4_000),
    ]
    collect_rarely()
    settings = {"wal_level": "logical", "max_wal_size": "8GB"}
    with (
        tempfile.TemporaryDirectory(prefix="cdc-stages-") as folder,
        EmbeddedPostgres(Path(folder), version=18, settings=settings) as server,
    ):
        results = [measure(server, workload) for workload in workloads]
    table = Table("µs of CPU for a change", *(workload.name for workload in workloads))
    for stage in _STAGES:
        table.add_row(stage, *(f"{figures[stage]:.1f}" for figures in results))
    table.add_row("sum", *(f"{sum(figures.values()):.1f}" for figures in results))
    Console(width=100).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
