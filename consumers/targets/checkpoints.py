"""The checkpoint's tables, the same in every target: one row for an applier, one for each of its partitions."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from cdc.core.errors import StaleApplierError
from cdc.core.log import TopicPartition
from cdc.core.position import Position
from consumers.plan.checkpoint import Checkpoint, PartitionProgress

_METADATA = sa.MetaData()
APPLIERS = sa.Table(
    "cdc_applier",
    _METADATA,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("log_id", sa.Text),
    sa.Column("updated_us", sa.BigInteger, nullable=False),
)
PARTITIONS = sa.Table(
    "cdc_checkpoint",
    _METADATA,
    sa.Column("applier", sa.Text, primary_key=True),
    sa.Column("topic", sa.Text, primary_key=True),
    sa.Column("part", sa.Integer, primary_key=True),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("commit_lsn", sa.BigInteger, nullable=False),
    sa.Column("ordinal", sa.BigInteger, nullable=False),
    sa.Column("next_offset", sa.BigInteger, nullable=False),
    sa.Column("updated_us", sa.BigInteger, nullable=False),
)


def create(connection: sa.Connection, applier: str) -> None:
    """Make the tables and the applier's row, where they are missing."""
    _METADATA.create_all(connection, checkfirst=True)
    there = connection.execute(sa.select(APPLIERS.c.name).where(APPLIERS.c.name == applier)).first()
    if there is None:
        connection.execute(APPLIERS.insert().values(name=applier, version=0, log_id=None, updated_us=_now_us()))


def read(connection: sa.Connection, applier: str) -> Checkpoint:
    """The applier's checkpoint; an empty one if it has never been here."""
    if not sa.inspect(connection).has_table(APPLIERS.name):
        return Checkpoint(version=0, log_id=None, partitions={})
    row = connection.execute(sa.select(APPLIERS).where(APPLIERS.c.name == applier)).first()
    partitions = {
        TopicPartition(found.topic, found.part): PartitionProgress(
            Position(found.epoch, _unsigned(found.commit_lsn), found.ordinal), found.next_offset
        )
        for found in connection.execute(sa.select(PARTITIONS).where(PARTITIONS.c.applier == applier))
    }
    return Checkpoint(version=row.version if row else 0, log_id=row.log_id if row else None, partitions=partitions)


def take(connection: sa.Connection, applier: str, version: int, *, log_id: str) -> None:
    """Compare-and-set: the first thing in a target transaction. StaleApplierError if another applier was here since."""
    taken = connection.execute(
        APPLIERS.update()
        .where(APPLIERS.c.name == applier, APPLIERS.c.version == version)
        .values(version=version + 1, log_id=log_id, updated_us=_now_us())
    )
    if taken.rowcount != 1:
        raise StaleApplierError(
            f"another applier wrote with the checkpoint of {applier!r} since this one began",
            mend="stop one of them; the other goes on from the checkpoint",
        )


def write(connection: sa.Connection, applier: str, progress: Mapping[TopicPartition, PartitionProgress]) -> None:
    """Record how far these partitions are."""
    if not progress:
        return
    now = _now_us()
    places: list[dict[str, Any]] = [{"a": applier, "t": place.topic, "p": place.partition} for place in progress]
    connection.execute(
        PARTITIONS.delete().where(
            PARTITIONS.c.applier == sa.bindparam("a"),
            PARTITIONS.c.topic == sa.bindparam("t"),
            PARTITIONS.c.part == sa.bindparam("p"),
        ),
        places,
    )
    rows = [
        {
            "applier": applier,
            "topic": place.topic,
            "part": place.partition,
            "epoch": at.position.epoch,
            "commit_lsn": _signed(at.position.commit_lsn),
            "ordinal": at.position.ordinal,
            "next_offset": at.next_offset,
            "updated_us": now,
        }
        for place, at in progress.items()
    ]
    connection.execute(PARTITIONS.insert(), rows)


def _signed(lsn: int) -> int:
    return lsn - (1 << 64) if lsn >= 1 << 63 else lsn


def _unsigned(lsn: int) -> int:
    return lsn + (1 << 64) if lsn < 0 else lsn


def _now_us() -> int:
    return time.time_ns() // 1000
