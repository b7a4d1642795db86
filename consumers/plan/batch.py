"""What may be applied now."""

from __future__ import annotations

from dataclasses import dataclass, field

from cdc.core.events import ChangeEvent
from cdc.core.log import TopicPartition
from consumers.plan.checkpoint import PartitionProgress


@dataclass(slots=True)
class Batch:
    """Events in an order in which each key's are in commit order, and how far they bring each partition.

    One that is not `whole` is a part of a source transaction: the target's transaction stays open for the next.
    """

    events: list[ChangeEvent] = field(default_factory=list)
    progress: dict[TopicPartition, PartitionProgress] = field(default_factory=dict)
    whole: bool = True
