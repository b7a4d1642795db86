"""What every rebuild does: tell whether it can be done, and replay the log into tables beside the live ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

from cdc.avro.names import tables_topic
from cdc.core.errors import ConfigError, GapError, LogGapError
from cdc.core.log import LogReader, TopicPartition
from cdc.core.patterns import TablePatterns
from cdc.core.position import ORIGIN
from cdc.core.settings import LogSettings, TargetSettings
from cdc.core.state import LogState
from consumers.apply.applier import Applier
from consumers.apply.beginning import begin_of_load
from consumers.plan.approach import is_partition
from consumers.plan.checkpoint import Checkpoint, PartitionProgress

_LOOK_SECONDS: Final = 0.5

Reached = Mapping[TopicPartition, PartitionProgress]


@dataclass(slots=True)
class Progress:
    """What a display shows: of the records that were in the log at the start, how many are done with."""

    doing: str = "beginning"
    records: int = 0
    of: int = 0


@dataclass(slots=True)
class Ends:
    """Where partitions began and ended in the log when the replay was started."""

    firsts: dict[TopicPartition, int] = field(default_factory=dict)
    ends: dict[TopicPartition, int] = field(default_factory=dict)

    def look(self, progress: Progress, reached: Reached) -> None:
        progress.of = sum(self.ends[partition] - first for partition, first in self.firsts.items())
        progress.records = sum(
            min(reached[partition].next_offset, self.ends[partition]) - first
            for partition, first in self.firsts.items()
            if partition in reached
        )


def ends_of(reader: LogReader, partitions: list[TopicPartition], prefix: str) -> Ends:
    """Of the tables' partitions; `ends` has the tables topic too, if there is one."""
    found = Ends()
    for partition in partitions:
        found.firsts[partition], found.ends[partition] = reader.offsets(partition)
    tables = TopicPartition(tables_topic(prefix), 0)
    if tables.topic in reader.topics():
        found.ends[tables] = reader.offsets(tables).next
    return found


def require_replayable(
    reader: LogReader, state: LogState, settings: TargetSettings, log: LogSettings, replayed: Checkpoint
) -> None:
    """See whether the log has all that the replay needs, before it begins. `replayed` is how far it has come, if it was
    begun before. Nothing may be assigned to `reader`.

    ConfigError if there is nothing to replay, LogGapError if something is gone.
    """
    if state.log_id is None:
        raise ConfigError("the log is empty", mend="start `cdc capture`")
    if log.written_by == "cdc" and (state.source is None or state.source.phase != "streaming"):
        raise ConfigError("a first load is under way: there is nothing to replay yet", mend="wait until it is done")
    if replayed.log_id not in {None, state.log_id}:
        raise GapError("a rebuild was begun from another log", mend=f"cdc rebuild {settings.name} --drop-new")
    if replayed.log_id is None:
        begin_of_load(reader, state, settings, log)
        return
    patterns = TablePatterns(settings.tables)
    for table in state.tables.values():
        for number in range(table.partitions if patterns.matches(table.table) else 0):
            partition = TopicPartition(table.topic, number)
            first, at = reader.offsets(partition).first, replayed.partitions.get(partition)
            if first > (0 if at is None else at.next_offset):
                raise LogGapError(
                    f"topic {partition.topic!r}, partition {partition.partition} no longer holds what comes after"
                    " where the rebuild was interrupted",
                    mend=f"cdc rebuild {settings.name} --drop-new, then begin it again",
                )


def is_behind(reached: Reached, live: Reached, topics: Collection[str]) -> bool:
    """Whether the live tables have something of these topics that was not replayed."""
    nothing = PartitionProgress(ORIGIN, 0)
    return any(
        reached.get(partition, nothing).position < at.position
        and reached.get(partition, nothing).next_offset < at.next_offset
        for partition, at in live.items()
        if is_partition(partition) and partition.topic in topics
    )


def advance(
    applier: Applier, ends: Ends, progress: Progress, *, done: Callable[[bool], bool], stopping: Callable[[], bool]
) -> bool:
    """Replay until `done(whether nothing came for a while)`, asked now and then. False if stopped before."""
    look_due = 0.0
    while not stopping():
        got_on = applier.step(_LOOK_SECONDS)
        ends.look(progress, applier.reached)
        if (not got_on or time.monotonic() >= look_due) and done(not got_on):
            return True
        look_due = time.monotonic() + _LOOK_SECONDS if time.monotonic() >= look_due else look_due
    applier.finish()
    return False
