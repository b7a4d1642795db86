"""The target as of a moment of the past, in tables beside the live ones, which nothing is done to (`--until`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from cdc.core.errors import TargetError
from cdc.core.log import LogReader, TopicPartition
from cdc.core.position import Position
from consumers.apply.applier import Applier
from consumers.plan.checkpoint import Checkpoint, PartitionProgress
from consumers.rebuild.replay import Progress, advance, ends_of
from consumers.targets.target import Target

# Under what the copy's checkpoint says of which moment it is, and in place of an offset whether it is there.
_MOMENT: Final = TopicPartition("~until", -1)


def require_same_moment(checkpoint: Checkpoint, until: Position, target: str) -> None:
    """TargetError if the copy that was begun is of another moment."""
    begun = checkpoint.partitions.get(_MOMENT)
    if begun is not None and begun.position != until:
        raise TargetError(
            f"target {target!r} has a copy of another moment, as of {begun.position}",
            mend=f"cdc rebuild {target} --drop-until drops it",
        )


class Copy:
    """One session. `applier` applies up to `until`, into `target`."""

    def __init__(self, *, applier: Applier, target: Target, reader: LogReader, prefix: str, until: Position) -> None:
        self._applier = applier
        self._target = target
        self._reader = reader
        self._prefix = prefix
        self._until = until
        self.progress = Progress()

    def run(self, stopping: Callable[[], bool], *, replaying: Callable[[], None] = lambda: None) -> bool:
        """False if stopped before: the next start goes on from there."""
        if not self._applier.start(stopping):
            return False
        replaying()
        self._mark(done=False)
        self.progress.doing = "replaying"
        ends = ends_of(self._reader, self._applier.partitions, self._prefix)
        if not advance(
            self._applier, ends, self.progress, done=lambda _: self._applier.is_past(ends.ends), stopping=stopping
        ):
            return False
        self._applier.finish()
        self._mark(done=True)
        return True

    def _mark(self, *, done: bool) -> None:
        with self._target.transaction(log_id=self._applier.log_id) as transaction:
            transaction.advance({_MOMENT: PartitionProgress(self._until, int(done))})
