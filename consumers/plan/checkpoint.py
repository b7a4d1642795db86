"""How far a target has come, kept in the target itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cdc.core.errors import GapError, TargetError
from cdc.core.log import TopicPartition
from cdc.core.position import Position
from cdc.core.values import value

REBUILD: Final = "cdc rebuild"
"""Who has a checkpoint that a rebuild wrote, until the applier opens it."""


_LOWEST_MARK: Final = -3
"""Partitions below 0 are marks, see `consumers.plan.approach`."""


@value()
class PartitionProgress:
    """Events at or below `position` are in the target; the next record to read is `next_offset` (past skipped
    tombstones and control records too).
    """

    position: Position
    next_offset: int


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What the target recorded. `version` rises by one with every target transaction of this applier, and is what the
    compare-and-set compares. `log_id` names the log it belongs to (None before the first batch).
    """

    version: int
    log_id: str | None
    partitions: Mapping[TopicPartition, PartitionProgress]


def require_sound(checkpoint: Checkpoint, applier: str, *, may_be_empty: bool) -> None:
    """TargetError for what no applier writes: somebody edited the tables. `may_be_empty`: it may have a log, and
    nothing of it.
    """
    for partition, at in checkpoint.partitions.items():
        _require_numbers(partition, at, applier)
    if checkpoint.partitions and checkpoint.log_id is None:
        raise _edited(f"cdc_applier does not say of which log the checkpoint of {applier!r} is", applier)
    if checkpoint.log_id is not None and not checkpoint.partitions and not may_be_empty:
        raise TargetError(
            f"the checkpoint of {applier!r} is gone: cdc_checkpoint was emptied or dropped at the target",
            mend=f"put it back; or drop the target's tables, and DELETE FROM cdc_applier WHERE name = '{applier}': they"
            " are filled anew from the log",
        )


def require_not_ahead(reached: Mapping[TopicPartition, PartitionProgress], applier: str, epoch: int) -> None:
    """GapError if the target has reached what is beyond the log, whose latest epoch this is."""
    for partition, at in reached.items():
        if at.position.epoch > epoch:
            raise GapError(
                f"the checkpoint of {applier!r} is ahead of the log: {_where(partition)} stands in epoch"
                f" {at.position.epoch}, and the log in {epoch}",
                mend="check [log] url, this may be an older copy of it; `cdc capture --start-over` loads all again",
            )


def _require_numbers(partition: TopicPartition, at: PartitionProgress, applier: str) -> None:
    numbers = {**at.position._asdict(), "next_offset": at.next_offset, "partition": partition.partition - _LOWEST_MARK}
    for name, number in numbers.items():
        if not isinstance(number, int) or number < 0:  # SQLite takes anything
            raise _edited(f"the checkpoint of {applier!r}, {_where(partition)}: {name} can't be {number!r}", applier)


def _where(partition: TopicPartition) -> str:
    return f"partition {partition.partition} of topic {partition.topic}"


def _edited(what: str, applier: str) -> TargetError:
    return TargetError(
        f"{what}: somebody edited it",
        mend="write what was there before; or drop the target's tables, DELETE FROM cdc_checkpoint WHERE applier ="
        f" '{applier}' and DELETE FROM cdc_applier WHERE name = '{applier}': they are filled anew from the log",
    )
