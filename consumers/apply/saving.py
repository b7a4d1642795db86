"""What was taken is written to the target, and committed with how far it brings the partitions."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Final

from cdc.core.failpoints import reached
from cdc.core.log import LogReader, TopicPartition
from cdc.core.runs import counted
from cdc.core.state import LogState
from cdc.core.tables import TableId
from consumers.apply.delivery import Delivery, Waiting
from consumers.apply.entering import Reached
from consumers.apply.letters import DeadLetters
from consumers.apply.present import PresentTables
from consumers.plan.approach import is_partition
from consumers.plan.batch import Batch
from consumers.plan.checkpoint import PartitionProgress
from consumers.targets.target import Target

_SETTLE_SECONDS: Final = 1.0  # a checkpoint that only moves offsets is written when nothing else comes
_committed_us: Final = attrgetter("transaction.commit_time_us")


@dataclass(slots=True)
class Progress:
    """What a display shows. `lag_us` is from the newest applied event's commit at the source to its commit here.
    `left_out` counts changes of rows that a target never had, because it began late.
    """

    events: int = 0
    left_out: int = 0
    batches: int = 0
    lag_us: int = 0
    dead_letters: int = 0


class Saving:
    """Writes to one open target; `reached` is how far that is. Given `tables`, it looks whether they are there.
    `put_back` gets the events that have to wait, after the commit of what was before them.
    """

    def __init__(
        self,
        target: Target,
        delivery: Delivery,
        reader: LogReader,
        letters: DeadLetters | None,
        *,
        progress: Progress,
        put_back: Callable[[Waiting], None],
        report: Callable[[str], None],
    ) -> None:
        self._target = target
        self._delivery = delivery
        self._reader = reader
        self._letters = letters
        self._progress = progress
        self._put_back = put_back
        self._report = report
        self.tables: PresentTables | None = None
        self._reached: dict[TopicPartition, PartitionProgress] = {}
        self._unsaved: dict[TopicPartition, PartitionProgress] = {}
        self._unsaved_since = 0.0
        self._written = 0  # events, in the target's open transaction
        self._newest_us = 0
        self._said_left_out: set[TableId] = set()

    def begin(self, checkpoint: Reached) -> None:
        """The target says that it is so far."""
        self._reached = dict(checkpoint)

    @property
    def reached(self) -> Reached:
        return self._reached

    @property
    def is_whole(self) -> bool:
        """Whether all that was written is committed."""
        return not self._written

    def note(self, progress: Reached) -> None:
        """To be saved with what comes next."""
        self._unsaved.update(progress)

    def write(self, batch: Batch, state: LogState) -> None:
        """Commit it too, unless it is a part of a transaction whose other parts come in later batches."""
        if batch.progress and not self._unsaved:
            self._unsaved_since = time.monotonic()
        self._unsaved.update(batch.progress)
        if batch.events:
            if self.tables is not None:
                self.tables.look(batch.events, state.tables)
            self._delivery.write(batch.events, log_id=log_id_of(state))
            self._written += counted(batch.events)
            self._newest_us = max(self._newest_us, *map(_committed_us, batch.events))
        if not batch.whole:
            return
        if self._written:
            self.save(state)
            self._progress.events += self._written
            self._progress.batches += 1
            self._progress.lag_us = time.time_ns() // 1000 - self._newest_us
            self._written = self._newest_us = 0
            self._count_left_out()
            self._remember_tables(state)
        elif self._unsaved and time.monotonic() - self._unsaved_since >= _SETTLE_SECONDS:
            self.save(state)

    def save(self, state: LogState) -> None:
        """Commit what was written, with how far it brings the partitions; perhaps only past tombstones and resent
        events.
        """
        if not self._unsaved:
            return
        self._unsaved = dict(self._delivery.commit(self._unsaved, log_id=log_id_of(state)))
        self._reached.update(self._unsaved)
        self._put_back(self._delivery.waiting)
        if self._letters is not None:
            self._progress.dead_letters = self._letters.count
        self._reader.commit(
            {partition: at.next_offset for partition, at in self._unsaved.items() if is_partition(partition)}
        )
        self._unsaved = {}
        reached("apply.5-offsets-committed")

    def abandon(self) -> None:
        """Take back the part of a transaction that was written."""
        self._delivery.abandon()
        self._written = self._newest_us = 0

    def _remember_tables(self, state: LogState) -> None:
        marks = {} if self.tables is None else self.tables.news(state.tables)
        if marks:
            self._delivery.commit(marks, log_id=log_id_of(state))
            self._reached.update(marks)

    def _count_left_out(self) -> None:
        left_out = self._target.left_out()
        for table in left_out.keys() - self._said_left_out:
            self._said_left_out.add(table)
            self._report(f"table {table}: changes of rows from before this target began are left out, and counted")
        self._progress.left_out = sum(left_out.values())


def log_id_of(state: LogState) -> str:
    """Known once an applier has started."""
    if state.log_id is None:
        raise AssertionError("nothing is applied before the log is known")
    return state.log_id
