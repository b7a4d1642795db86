"""A moment of the source's past (`--until`): an LSN, a position or a time -> a place between two transactions."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final

from cdc.avro.names import state_topic, transaction_topic
from cdc.avro.transactions import TransactionEnd, decode_boundary
from cdc.core.config_values import start
from cdc.core.errors import ConfigError, LogGapError
from cdc.core.log import LogReader, TopicPartition
from cdc.core.position import Position, format_lsn
from cdc.core.registry import SchemaRegistry
from cdc.core.settings import LogSettings, TargetSettings
from cdc.core.state import LogState
from cdc.log.reading import last_records, read_to_end
from consumers.apply.beginning import begin_of_load
from consumers.apply.start import floor_of

_MOST: Final = (1 << 63) - 1
_ENDS_BACK: Final = 50  # records of the transaction topic; half of them are ENDs

Moment = Position | datetime


def read_moment(text: str) -> Moment:
    """What stands after `--until`. ConfigError."""
    mend = "write an LSN, a position, or a time with its zone: 2026-01-31T12:00:00Z"
    try:
        found = start(text)
    except ConfigError:
        found = "latest"
    if isinstance(found, str):
        raise ConfigError(f"--until {text!r} is no moment", mend=mend)
    return found


class Past:
    """The log's, as far as one target is concerned. Nothing may be assigned to `reader`."""

    def __init__(
        self, reader: LogReader, registry: SchemaRegistry, target: TargetSettings, log: LogSettings, state: LogState
    ) -> None:
        self._reader = reader
        self._registry = registry
        self._target = target
        self._log = log
        self._state = state

    def position_at(self, moment: Moment) -> Position:
        """All transactions committed at the moment or before it stand at or below it, no other does.

        ConfigError if the log has not come so far yet, LogGapError if it does not go back so far.
        """
        found = self._of_time(moment) if isinstance(moment, datetime) else self._of_position(moment)
        load = self._state.load
        from_load = begin_of_load(self._reader, self._state, self._target, self._log) is not None
        if load is not None and found[:2] < (load.epoch, load.commit_lsn) and (from_load or found.epoch == load.epoch):
            raise LogGapError(
                f"the log begins with a first load, as of {format_lsn(load.commit_lsn)} in epoch {load.epoch}; nothing"
                " in it tells how the source was before",
                mend="name a later moment",
            )
        return found

    def _of_position(self, moment: Position) -> Position:
        epoch = moment.epoch or (1 if self._state.source is None else self._state.source.epoch)
        known, _ = self._end()
        if (epoch, moment.commit_lsn) > known:
            raise ConfigError(
                f"the log has come to {format_lsn(known[1])} of epoch {known[0]}, and not to"
                f" {format_lsn(moment.commit_lsn)} of epoch {epoch}",
                mend="name an earlier moment, or try again when capture has come there",
            )
        return Position(epoch, moment.commit_lsn, _MOST)

    def _of_time(self, moment: datetime) -> Position:
        _, known = self._end()
        if moment > known:
            raise ConfigError(
                f"the log has come to {known.isoformat()}, and not to {moment.isoformat()}",
                mend="name an earlier moment, or try again when capture has come there",
            )
        after = replace(self._target, start=moment + timedelta(milliseconds=1))  # commits are known to the ms
        return floor_of(self._reader, self._registry, after, self._log, self._state)

    def _end(self) -> tuple[tuple[int, int], datetime]:
        """Up to where the log has everything: epoch and LSN, and the source's time."""
        epoch = 1 if self._state.source is None else self._state.source.epoch
        end, end_ms = (epoch, self._state.recorded_lsn), 0
        for record in read_to_end(self._reader, state_topic(self._log.prefix)):
            if record.key == b"recorded":
                end_ms = max(end_ms, record.timestamp_ms)
        transactions = TopicPartition(transaction_topic(self._log.prefix), 0)
        for record in last_records(self._reader, transactions, _ENDS_BACK):
            if record.value is not None:
                said = decode_boundary(record.value, self._registry.schema)
                if isinstance(said, TransactionEnd):
                    end, end_ms = max(end, (said.epoch, said.end_lsn)), max(end_ms, said.commit_time_ms)
        return end, datetime.fromtimestamp(end_ms / 1000, UTC)
