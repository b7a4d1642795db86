"""What comes from the log, and what may be applied now."""

from __future__ import annotations

from dataclasses import dataclass, field

from cdc.core.events import ChangeEvent
from cdc.core.log import TopicPartition
from cdc.core.position import Position
from consumers.plan.checkpoint import PartitionProgress

Arrived = tuple[int, ChangeEvent | None, Position, Position, int]
"""A record: its offset, its event (None if it holds none), the truncate and the change of shape it goes on from, and
the bytes that the log has of it.
"""


@dataclass(slots=True)
class Batch:
    """Events in an order in which each key's are in commit order, and how far they bring each partition.

    One that is not `whole` is a part of a source transaction: the target's transaction stays open for the next.
    """

    events: list[ChangeEvent] = field(default_factory=list)
    progress: dict[TopicPartition, PartitionProgress] = field(default_factory=dict)
    whole: bool = True
