"""How far a target has come, kept in the target itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cdc.core.log import TopicPartition
from cdc.core.position import Position
from cdc.core.values import value

REBUILD: Final = "cdc rebuild"
"""Who has a checkpoint that a rebuild wrote, until the applier opens it."""


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
