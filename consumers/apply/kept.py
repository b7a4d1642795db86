"""Whether a log keeps what a target needs."""

from __future__ import annotations

from collections.abc import Callable, Collection

from cdc.core.errors import ConfigError, GapError
from cdc.core.log import LogReader
from cdc.core.settings import LogSettings, TargetSettings
from cdc.core.state import LogState
from cdc.log.limits import check_offset
from consumers.apply.beginning import begin_of_load, partitions_of, resumed
from consumers.plan.checkpoint import Checkpoint


def require_kept(reader: LogReader, tables: Collection[str], transactions: str, report: Callable[[str], None]) -> None:
    """ConfigError if one of these topics is compacted; a report if a table's events go before their ENDs."""
    kept = reader.retention([*tables, transactions])
    compacted = sorted(topic for topic, retention in kept.items() if retention.compacted)
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


def require_of_log(of_checkpoint: str | None, of_log: str | None, target: str) -> None:
    """GapError if the checkpoint is another log's."""
    if of_log is not None and of_checkpoint not in {None, of_log}:
        raise GapError(
            f"the checkpoint in target {target!r} belongs to another log",
            mend="correct [log] url and prefix; or drop the target's tables and its rows in cdc_applier and"
            " cdc_checkpoint to fill it from this log",
        )
