"""Change events for users' own programs. See docs/python-api.md."""

from cdc.core.events import UNCHANGED
from cdc.core.position import Position
from consumers.changes.change import Change, Operation, Row
from consumers.changes.checkpoints import CheckpointStore, LogCheckpoints, SqlCheckpoints
from consumers.changes.consumer import Batch, Consumer, Transaction

__all__ = [
    "UNCHANGED",
    "Batch",
    "Change",
    "CheckpointStore",
    "Consumer",
    "LogCheckpoints",
    "Operation",
    "Position",
    "Row",
    "SqlCheckpoints",
    "Transaction",
]
