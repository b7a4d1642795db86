"""What applying costs: microseconds of the applier's own processor time per event, and events per second, of a log that
is there already, local or in Kafka, into PostgreSQL or SQLite.

`python -m benchmarks.applying` writes the log, without a source, and has one applier drain it. The applier's processor
time says little about what else the machine does meanwhile, and so is what to compare before and after a change.

A new target begins key by key, to find where whole transactions begin; then it reads again what it met: a tenth of all
records, through Kafka with 4 partitions. That is counted.
"""

from __future__ import annotations

import argparse
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from cdc.avro.names import schemas_topic, state_topic, tables_topic, transaction_topic
from cdc.capture.publisher import Publisher
from cdc.cli.garbage import collect, collect_rarely
from cdc.core.events import Change, ChangeEvent, Commit, Create, Delete, KeyImage, Transaction, Update
from cdc.core.log import Log, Record, TopicSpec
from cdc.core.settings import Consistency, LogSettings, TargetSettings
from cdc.core.state import SourceState, log_record, source_record
from cdc.core.tables import Column, TableId, TableSchema
from cdc.core.types import ColumnType, Kind
from cdc.embedded import EmbeddedKafka, EmbeddedPostgres
from cdc.log.open import open_log
from cdc.registry.embedded import EmbeddedRegistry
from consumers.apply.applier import Applier
from consumers.targets.open import open_target

_PREFIX: Final = "bench"
_ACCOUNTS: Final = 100_000
_IN_A_LARGE_TRANSACTION: Final = 20_000
_IN_A_WIDE_TRANSACTION: Final = 100
_APPENDED_AT_ONCE: Final = 2_000

_INT: Final = ColumnType(kind=Kind.INT32, name="integer")
_BIGINT: Final = ColumnType(kind=Kind.INT64, name="bigint")
_TEXT: Final = ColumnType(kind=Kind.STRING, name="text")
_TIMESTAMP: Final = ColumnType(kind=Kind.TIMESTAMP, name="timestamp without time zone")
_TIMESTAMPTZ: Final = ColumnType(kind=Kind.TIMESTAMPTZ, name="timestamp with time zone")
_NUMERIC: Final = ColumnType(kind=Kind.DECIMAL, name="numeric(10,2)", precision=10, scale=2)
_BOOLEAN: Final = ColumnType(kind=Kind.BOOLEAN, name="boolean")


def _char(length: int) -> ColumnType:
    return ColumnType(kind=Kind.STRING, name=f"character({length})", length=length)


def _table(table: str, /, **types: ColumnType) -> TableSchema:
    """Its first column is its key."""
    columns = tuple(Column(name=name, type=type_, nullable=i > 0) for i, (name, type_) in enumerate(types.items()))
    return TableSchema(id=TableId("public", table), columns=columns, key=(0,))


ACCOUNTS: Final = _table("pgbench_accounts", aid=_INT, bid=_INT, abalance=_INT, filler=_char(84))
TELLERS: Final = _table("pgbench_tellers", tid=_INT, bid=_INT, tbalance=_INT, filler=_char(84))
BRANCHES: Final = _table("pgbench_branches", bid=_INT, bbalance=_INT, filler=_char(88))
HISTORY: Final = _table(
    "pgbench_history", hid=_BIGINT, tid=_INT, bid=_INT, aid=_INT, delta=_INT, mtime=_TIMESTAMP, filler=_char(22)
)
ITEMS: Final = _table("items", id=_BIGINT, name=_TEXT, price=_NUMERIC, sold=_BOOLEAN, seen=_TIMESTAMPTZ, note=_TEXT)
WIDE: Final = _table(
    "wide",
    id=_BIGINT,
    **{f"t{n}": _TEXT for n in range(25)},
    **{f"n{n}": _BIGINT for n in range(12)},
    **{f"d{n}": _NUMERIC for n in range(6)},
    **{f"s{n}": _TIMESTAMP for n in range(6)},
)

Changes = list[tuple[TableSchema, Change]]
"""Those of one transaction."""


def tpcb(changes: int) -> Iterator[Changes]:
    """pgbench's standard workload at scale 1: 4 changes a transaction, 2 of them of few, hot rows."""
    pick = random.Random(1)  # the same at each run
    for number in range(changes // 4):
        account, teller, delta = pick.randint(1, _ACCOUNTS), pick.randint(1, 10), pick.randint(-5000, 5000)
        aid, tid, amount = b"%d" % account, b"%d" % teller, b"%d" % delta
        moment = b"2026-11-21 12:%02d:%02d.%05d1" % (number // 60_000 % 60, number // 1000 % 60, number % 1000)
        yield [
            (ACCOUNTS, Update(None, (aid, b"1", amount, b" " * 84))),
            (TELLERS, Update(None, (tid, b"1", amount, None))),
            (BRANCHES, Update(None, (b"1", amount, None))),
            (HISTORY, Create((b"%d" % (number + 1), tid, b"1", aid, amount, moment, None))),
        ]


def large(changes: int) -> Iterator[Changes]:
    """Large transactions of one table of six columns: three of four are inserts, the others update, or delete, what was
    inserted.
    """
    for start in range(0, changes, _IN_A_LARGE_TRANSACTION):
        yield [_item(number) for number in range(start, min(start + _IN_A_LARGE_TRANSACTION, changes))]


def _item(number: int) -> tuple[TableSchema, Change]:
    if number % 4 != 3:
        return ITEMS, Create(_item_row(number, b"name"))
    if number % 8 == 3:
        return ITEMS, Update(None, _item_row(number - 1, b"other name"))
    return ITEMS, Delete(KeyImage((b"%d" % (number - 2),)))


def _item_row(number: int, name: bytes) -> tuple[bytes | None, ...]:
    seen = b"2026-11-21 %02d:%02d:%02d.%05d1+00" % (
        number // 3600 % 24,
        number // 60 % 60,
        number % 60,
        number % 99_999,
    )
    price = b"%d.%02d" % (number % 10_000, number % 100)
    note = None if number % 5 == 0 else b"a note of some length, which says %d" % number
    sold = b"t" if number % 2 else b"f"
    return b"%d" % number, b"%b %d" % (name, number), price, sold, seen, note


def wide(changes: int) -> Iterator[Changes]:
    """Rows of 50 columns and 2 kB: inserts, then updates of all."""
    pick = random.Random(1)
    texts = [pick.randbytes(32).hex().encode() for _ in range(1_000)]
    for start in range(0, changes, _IN_A_WIDE_TRANSACTION):
        numbers = range(start, min(start + _IN_A_WIDE_TRANSACTION, changes))
        yield [(WIDE, _wide_change(number, changes // 2, texts)) for number in numbers]


def _wide_change(number: int, rows: int, texts: list[bytes]) -> Change:
    at = number % rows
    row = (
        b"%d" % at,
        *(texts[(number + at * n) % len(texts)] for n in range(25)),
        *(b"%d" % (at * 1_000_003 + n) for n in range(12)),
        *(b"%d.%02d" % (at // 7 + n, at % 100) for n in range(6)),
        *(b"2026-01-01 %02d:%02d:%02d" % (n, at // 60 % 60, at % 60) for n in range(6)),
    )
    return Create(row) if number < rows else Update(None, row)


WORKLOADS: Final[dict[str, Callable[[int], Iterator[Changes]]]] = {"tpcb": tpcb, "large": large, "wide": wide}


def write_log(log: Log, settings: LogSettings, transactions: Iterator[Changes]) -> int:
    """A whole log of these; how many events it has."""
    topics = [
        TopicSpec(state_topic(settings.prefix), 1, compacted=True),
        TopicSpec(tables_topic(settings.prefix), 1, compacted=True),
    ]
    source = SourceState(epoch=1, system_id="1", timeline=1, database="bench", slot="bench", phase="streaming")
    with closing(log.writer()) as writer:
        writer.create_topics([*topics, TopicSpec(transaction_topic(settings.prefix), 1)])
        registry = EmbeddedRegistry(log, writer, schemas_topic(settings.prefix))
        publisher = Publisher(
            settings=settings, state_topic=topics[0].name, tables={}, existing={}, writer=writer, registry=registry
        )
        ticket = writer.append([log_record(topics[0].name, "bench"), source_record(topics[0].name, source)])
        records: list[Record] = []
        events = 0
        for number, changes in enumerate(transactions, start=1):
            events += len(changes)
            records += _published(publisher, number, changes)
            if len(records) > _APPENDED_AT_ONCE:
                ticket = writer.append(records)
                records = []
        ticket = writer.append(records) if records else ticket
        while writer.poll(1) < ticket:
            pass
        registry.close()
    return events


def _published(publisher: Publisher, number: int, changes: Changes) -> Iterator[Record]:
    """A transaction's records."""
    now_us = 1_795_000_000_000_000 + number * 1000
    transaction = Transaction(
        epoch=1, commit_lsn=0x1000000 + number * 1000, xid=number, commit_time_us=now_us, database="bench"
    )
    counts: dict[TableId, int] = {}
    for ordinal, (table, change) in enumerate(changes, start=1):
        counts[table.id] = counts.get(table.id, 0) + 1
        yield from publisher.records(
            ChangeEvent(
                transaction=transaction,
                table=table,
                change=change,
                ordinal=ordinal,
                table_ordinal=counts[table.id],
                lsn=transaction.commit_lsn - 500 + ordinal,
                captured_us=now_us + 500,
            )
        )
    yield from publisher.transaction_records(Commit(transaction, transaction.commit_lsn + 48, len(changes), counts))


@dataclass(frozen=True, slots=True)
class Cost:
    """`processor_us` is the applier's per event; `memory_mb` is the most that this process had, the log's making
    included.
    """

    workload: str
    target: str
    consistency: str
    events_per_second: int
    processor_us: float
    transactions: int
    memory_mb: int


def applied(log: Log, prefix: str, workload: str, url: str, consistency: Consistency, events: int) -> Cost:
    """One applier drains the log."""
    collect()  # as `cdc apply` does
    settings = TargetSettings(name="copy", url=url, consistency=consistency)
    with closing(log.reader("bench")) as reader, closing(open_target(settings)) as target:
        registry = EmbeddedRegistry(log, None, schemas_topic(prefix))
        applier = Applier(reader=reader, registry=registry, target=target, settings=settings, prefix=prefix)
        applier.start()
        began, began_process = time.perf_counter(), time.process_time()
        while applier.progress.events < events:
            applier.step(1.0)
        applier.finish()
        lasted, worked = time.perf_counter() - began, time.process_time() - began_process
        registry.close()
        return Cost(
            workload=workload,
            target=url.partition(":")[0],
            consistency=consistency,
            events_per_second=round(events / lasted),
            processor_us=round(worked / events * 1e6, 2),
            transactions=applier.progress.batches,
            memory_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.applying", description=__doc__)
    parser.add_argument("--changes", type=int, default=200_000, help="of each workload")
    parser.add_argument("--workload", choices=[*WORKLOADS], action="append")
    parser.add_argument("--consistency", choices=["transaction", "key"], action="append")
    parser.add_argument("--log", choices=["local", "kafka"], default="local")
    parser.add_argument("--partitions", type=int, default=1, help="of each table's topic")
    parser.add_argument("--target", choices=["postgresql", "sqlite"], action="append")
    arguments = parser.parse_args()
    found: list[Cost] = []
    collect_rarely()
    with ExitStack() as resources, tempfile.TemporaryDirectory(prefix="cdc-bench-") as name:
        folder = Path(name)
        targets = _Targets(resources, folder)
        kafka = EmbeddedKafka(folder / "kafka") if arguments.log == "kafka" else None
        if kafka is not None:
            resources.enter_context(kafka)
        for workload in arguments.workload or WORKLOADS:
            url = f"sqlite:///{folder / workload}.db" if kafka is None else f"kafka://{kafka.bootstrap_servers}"
            settings = LogSettings(url=url, prefix=f"{_PREFIX}-{workload}", partitions=arguments.partitions)
            log = open_log(settings)
            events = write_log(log, settings, WORKLOADS[workload](arguments.changes))
            found += [
                applied(log, settings.prefix, workload, targets.made(target), consistency, events)
                for target in arguments.target or ["postgresql", "sqlite"]
                for consistency in arguments.consistency or ["transaction", "key"]
            ]
    show(found)
    return 0


class _Targets:
    """New databases, with as many accounts as pgbench makes where that counts."""

    def __init__(self, resources: ExitStack, folder: Path) -> None:
        self._resources = resources
        self._folder = folder
        self._server: EmbeddedPostgres | None = None
        self._count = 0

    def made(self, target: str) -> str:
        self._count += 1
        if target == "sqlite":
            return f"sqlite:///{self._folder / f'target{self._count}.db'}"
        if self._server is None:
            self._server = self._resources.enter_context(EmbeddedPostgres(self._folder / "postgresql", version=18))
        return self._server.create_database(f"bench{self._count}")


def show(costs: list[Cost]) -> None:
    table = Table("workload", "target", "consistency", "events/s", "applier's µs/event", "transactions", "MB")
    for each in costs:
        table.add_row(
            each.workload,
            each.target,
            each.consistency,
            f"{each.events_per_second:,}",
            f"{each.processor_us:.1f}",
            f"{each.transactions:,}",
            f"{each.memory_mb:,}",
        )
    Console(width=110).print(table)


if __name__ == "__main__":
    sys.exit(main())
