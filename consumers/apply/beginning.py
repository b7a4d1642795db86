"""Where a target begins that is to have everything: with the earliest event, or with the latest first load if the log
no longer holds what came before that; and where one goes on that was away for too long. A load has all rows, and
truncates first, so all come to the same.
"""

from __future__ import annotations

from typing import Final

from cdc.avro.names import tables_topic, transaction_topic
from cdc.core.errors import LogGapError
from cdc.core.log import LogReader, TopicPartition
from cdc.core.patterns import TablePatterns
from cdc.core.position import Position
from cdc.core.settings import LogSettings, TargetSettings
from cdc.core.state import LoadState, LogState
from consumers.plan.checkpoint import Checkpoint, PartitionProgress

_MOST: Final = (1 << 63) - 1


def begin_of_load(reader: LogReader, state: LogState, target: TargetSettings, log: LogSettings) -> Checkpoint | None:
    """The checkpoint of a target that begins with the latest load; None if the log still holds all from its earliest
    event on. LogGapError if it does not even hold that load any more.
    """
    needed = partitions_of(state, target, log)
    firsts = {partition: reader.offsets(partition).first for partition in needed}
    if not any(firsts.values()):
        return None
    load = state.load
    for partition, first in firsts.items():
        if first > (0 if load is None else load.begin(*partition)):
            raise _gap(partition, first, target)
    if load is None:
        return None
    tables = TopicPartition(tables_topic(log.prefix), 0)
    floor = below(load)
    return Checkpoint(
        version=0,
        log_id=state.log_id,
        partitions={partition: PartitionProgress(floor, load.begin(*partition)) for partition in [*needed, tables]},
    )


def resumed(
    reader: LogReader, load: LoadState | None, partition: TopicPartition, reached: PartitionProgress
) -> PartitionProgress:
    """From where a target goes on that has `reached` this of a partition: from there; or from a load that came later,
    if the log no longer holds what comes next, or was put back to an earlier state: then it gave the load offsets that
    the target has read already.
    """
    if load is None or load.epoch <= reached.position.epoch:
        return reached
    begin = load.begin(*partition)
    if reached.next_offset > begin or reached.next_offset < reader.offsets(partition).first <= begin:
        return PartitionProgress(below(load), begin)
    return reached


def below(load: LoadState) -> Position:
    """Above all of the epochs before the load's, and below all of its own."""
    return Position(load.epoch - 1, _MOST, _MOST)


def partitions_of(state: LogState, target: TargetSettings, log: LogSettings) -> list[TopicPartition]:
    """Of the topics from which records go after a time."""
    patterns = TablePatterns(target.tables)
    found = [
        partition
        for table in state.tables.values()
        if patterns.matches(table.table)
        for partition in table.topic_partitions
    ]
    if target.consistency == "transaction" and log.written_by == "cdc":
        found.append(TopicPartition(transaction_topic(log.prefix), 0))
    return found


def _gap(partition: TopicPartition, first: int, target: TargetSettings) -> LogGapError:
    return LogGapError(
        f"topic {partition.topic!r}, partition {partition.partition} no longer holds its first {first} records,"
        f" and target {target.name!r} needs them: no first load is in the log as a whole",
        mend="`cdc capture --start-over` loads all tables again; a longer [log] retention avoids it",
    )
