"""Whether a log keeps what a target needs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Final

from cdc.avro.transactions import End
from cdc.core.errors import ConfigError, GapError
from cdc.core.log import LogReader, Retention, StoredRecord, TopicPartition
from cdc.core.position import Position
from cdc.core.settings import LogSettings, TargetSettings
from cdc.core.state import LogState
from cdc.log.limits import check_offset
from cdc.log.reading import last_records
from consumers.apply.beginning import begin_of_load, partitions_of, resumed
from consumers.plan.approach import whole
from consumers.plan.checkpoint import Checkpoint

_ENDS_BACK: Final = 50  # records of the transaction topic; half of them are ENDs


def require_kept(reader: LogReader, tables: Collection[str], transactions: str, report: Callable[[str], None]) -> None:
    """ConfigError if one of these topics is compacted; a report if a table's events go before their ENDs."""
    kept = reader.retention([*tables, transactions])
    compacted = _compacted(kept)
    if compacted:
        raise ConfigError(
            f"topic {compacted[0]!r} is compacted: whole transactions need all of its records",
            mend='set its cleanup.policy to "delete" (and load again if records are gone already:'
            ' `cdc capture --start-over`), or use consistency = "key"',
        )
    ends = kept[transactions].ms if transactions in kept else None
    for topic in sorted(kept):
        ms = kept[topic].ms
        if ms is not None and (ends is None or ms < ends):
            report(
                f"topic {topic!r} keeps its records for {ms} ms, and the transaction topic for"
                f" {'ever' if ends is None else f'{ends} ms'}: a target that is further behind than that stops"
            )


def warn_of_compacted(reader: LogReader, tables: Collection[str], report: Callable[[str], None]) -> None:
    """Per key only the last record of each is needed, but a delete's is its tombstone, which says no position, and goes
    after a time; and a changed key has two halves.
    """
    for topic in _compacted(reader.retention(tables)):
        report(
            f"warning: topic {topic!r} is compacted: a target that is behind misses deletes of which only the tombstone"
            ' is left; set its cleanup.policy to "delete"'
        )


def _compacted(kept: Mapping[str, Retention]) -> list[str]:
    return sorted(topic for topic, retention in kept.items() if retention.compacted)


def require_readable(
    reader: LogReader, state: LogState, target: TargetSettings, log: LogSettings, checkpoint: Checkpoint
) -> None:
    """GapError if a target can't go on from its checkpoint: it is another log's, or the log no longer holds all that
    comes after it.
    """
    require_of_log(checkpoint.log_id, state.log_id, target.name)
    there = reader.topics()
    needed = [partition for partition in partitions_of(state, target, log) if partition.topic in there]
    if checkpoint.log_id is not None:
        for partition in needed:
            at = checkpoint.partitions.get(partition)
            if at is not None:
                at = resumed(reader, state.load, partition, at)
                check_offset(partition, at.next_offset, reader.offsets(partition))
    elif target.start == "earliest" and len(needed) == len(partitions_of(state, target, log)):
        begin_of_load(reader, state, target, log)


def look_beyond(
    reader: LogReader,
    end_of: Callable[[StoredRecord], End | None],
    transactions: TopicPartition,
    furthest: Position,
    report: Callable[[str], None],
) -> None:
    """Say so if a target has `furthest`, and the log no transaction so far. It may be that one is being written, or
    written again after a crash of capture; but if the log does not get there, nothing is applied, nor an error. Nothing
    may be assigned to `reader`.
    """
    if transactions.topic not in reader.topics():
        return
    ends = [end_of(record) for record in last_records(reader, transactions, _ENDS_BACK)]
    newest = max((end.position for end in ends if end is not None), default=None)
    if newest is not None and furthest > whole(newest) and furthest != whole(furthest):
        report(
            f"the checkpoint stands at {furthest}, beyond {newest}, the last transaction that the log has as a whole:"
            " what comes up to there counts as applied (if it was edited, rebuild the target)"
        )


def require_of_log(of_checkpoint: str | None, of_log: str | None, target: str) -> None:
    """GapError if the checkpoint is another log's."""
    if of_log is not None and of_checkpoint not in {None, of_log}:
        raise GapError(
            f"the checkpoint in target {target!r} belongs to another log",
            mend=f"correct [log] url and prefix; or, if it is its log from now on, `cdc rebuild {target}`; or drop its"
            " tables, and its rows in cdc_applier, cdc_checkpoint and cdc_letter",
        )
