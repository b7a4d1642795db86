"""Tables and steps for tests of targets, and the databases that they run over."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cdc.core.events import Row
from cdc.core.log import TopicPartition
from cdc.core.position import Position
from cdc.core.tables import Column, TableId, TableSchema
from cdc.core.types import ColumnType, Kind
from consumers.plan.checkpoint import PartitionProgress
from consumers.plan.steps import MoveRow, Step, TruncateTable, WriteRows
from consumers.targets.target import Target

ONE = TopicPartition("shop.public.orders", 0)
TWO = TopicPartition("shop.public.orders", 1)


def at(ordinal: int) -> PartitionProgress:
    return PartitionProgress(Position(1, 0x1_0000_0000, ordinal), ordinal)


def text(name: str, *, nullable: bool = True) -> Column:
    return Column(name=name, type=ColumnType(kind=Kind.STRING, name="text"), nullable=nullable)


def version(*columns: Column, key: tuple[int, ...] = (0,), name: str = "orders", schema: str = "public") -> TableSchema:
    return TableSchema(id=TableId(schema, name), columns=columns, key=key)


ORDERS = version(text("id", nullable=False), text("a"), text("b"))
KEYLESS = version(text("a"), text("b"), key=(), name="keyless")


DATABASES = ["sqlite", "duckdb", "mariadb", "postgresql-15", "postgresql-16", "postgresql-18"]
# But for the generic target, which has no lock, and writes to tables of its own only.
WITH_LOCK = WITH_TABLES_OF_OTHERS = pytest.mark.parametrize(
    "database", [name for name in DATABASES if name != "duckdb"], indirect=True
)
ON_DUCKDB = pytest.mark.parametrize("database", ["duckdb"], indirect=True)
ON_POSTGRESQL = pytest.mark.parametrize("database", ["postgresql-15", "postgresql-16", "postgresql-18"], indirect=True)


def apply(target: Target, *steps: WriteRows | TruncateTable | MoveRow, ordinal: int = 1) -> None:
    for step in steps:
        target.prepare(step.table)
    advance(target, {ONE: at(ordinal)}, *steps)


def advance(
    target: Target,
    progress: dict[TopicPartition, PartitionProgress],
    *steps: Step,
    log_id: str = "log",
) -> None:
    with target.transaction(log_id=log_id) as transaction:
        transaction.run(steps)
        transaction.advance(progress)


def upserted(target: Target, *rows: Row, table: TableSchema = ORDERS) -> None:
    apply(target, WriteRows(table, upserts=list(rows)))


def numbered(name: str, number: int, *, nullable: bool = True) -> Column:
    return replace(text(name, nullable=nullable), id=number)
