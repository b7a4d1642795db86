"""Where a target without a checkpoint begins in the log, if not with its earliest event.

Whatever the settings say (`latest`, an LSN, a position, a time), it is one place in the order in which the source
committed, the same for all partitions and always between two transactions: everything below it is skipped, everything
from it on is applied. So the two halves of a changed key are never parted, and a truncate or a change of shape is
either behind all partitions or ahead of all.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from datetime import datetime
from typing import Final, TypeVar, assert_never

from cdc.avro.names import tables_topic, transaction_topic
from cdc.avro.transactions import TransactionBegin, TransactionEnd, decode_boundary
from cdc.core.errors import ConfigError, LogGapError
from cdc.core.log import LogReader, StoredRecord, TopicPartition
from cdc.core.patterns import TablePatterns
from cdc.core.position import ORIGIN, Position, format_lsn
from cdc.core.registry import SchemaRegistry
from cdc.core.settings import LogSettings, TargetSettings
from cdc.core.state import LogState
from cdc.log.contents import log_state
from cdc.log.reading import last_records, read_from
from cdc.registry.decoding import Decoding
from consumers.apply.beginning import begin_of_load
from consumers.plan.checkpoint import Checkpoint, PartitionProgress

_WAIT_SECONDS: Final = 0.1
_LAST: Final = 2**63 - 1
_FEW: Final = 1_000  # records that are rather read than searched
_ENDS_BACK: Final = 50  # records of the transaction topic; half of them are ENDs

_Found = TypeVar("_Found")


def first_checkpoint(
    reader: LogReader,
    registry: SchemaRegistry,
    target: TargetSettings,
    log: LogSettings,
    *,
    stopping: Callable[[], bool],
    report: Callable[[str], None],
) -> Checkpoint | None:
    """What a new target's checkpoint is to be; one without `log_id` if it begins with the earliest event. None if
    stopped before the log was there. Nothing may be assigned to `reader`.

    LogGapError if the log no longer goes back so far.
    """
    if target.start == "earliest":
        nothing = Checkpoint(version=0, log_id=None, partitions={})
        known = log_state(reader, log) if log.written_by == "cdc" else LogState()
        begun = None if known.log_id is None else begin_of_load(reader, known, target, log)
        if begun is not None:
            report("begins with the latest first load: the log no longer holds all that came before it")
        return begun or nothing
    if log.written_by == "debezium":
        raise ConfigError(
            f"[targets.{target.name}] start: a Debezium connector's log can only be read from its earliest event:"
            " nothing in it says where a transaction ends in all partitions",
            mend='write start = "earliest"',
        )
    state = _state(reader, log, stopping)
    if state is None:
        return None
    search = _Search(reader, registry, log, target)
    floor = search.floor(state)
    report(f"begins after {format_lsn(floor.commit_lsn)}: rows from before are not there")
    patterns = TablePatterns(target.tables)
    topics = [table for table in state.tables.values() if patterns.matches(table.table)]
    partitions = [partition for table in topics for partition in table.topic_partitions]
    if tables_topic(log.prefix) in reader.topics():
        partitions.append(TopicPartition(tables_topic(log.prefix), 0))
    return Checkpoint(
        version=0,
        log_id=state.log_id,
        partitions={
            partition: PartitionProgress(floor, search.offset_after(floor, partition)) for partition in partitions
        }
        | search.transactions_after(floor),
    )


def floor_of(
    reader: LogReader, registry: SchemaRegistry, target: TargetSettings, log: LogSettings, state: LogState
) -> Position:
    """All at or below it was committed before `target.start`. LogGapError if the log no longer goes back so far."""
    return _Search(reader, registry, log, target).floor(state)


def _state(reader: LogReader, log: LogSettings, stopping: Callable[[], bool]) -> LogState | None:
    while True:
        state = log_state(reader, log)
        if state.log_id is not None:
            return state
        if stopping():
            return None
        time.sleep(_WAIT_SECONDS)


class _Search:
    def __init__(self, reader: LogReader, registry: SchemaRegistry, log: LogSettings, target: TargetSettings) -> None:
        self._reader = reader
        self._registry = registry
        self._decoding = Decoding(registry)
        self._transactions = TopicPartition(transaction_topic(log.prefix), 0)
        self._tables = tables_topic(log.prefix)
        self._target = target

    def floor(self, state: LogState) -> Position:
        """All that is at or below it is not to be applied."""
        match self._target.start:
            case "earliest":
                return ORIGIN
            case "latest":
                return self._latest(state)
            case datetime() as moment:
                return self._floor_of_time(moment, state)
            case Position(epoch, lsn, _):
                return _just_below(epoch or _epoch(state), lsn)
            case _:
                assert_never(self._target.start)

    def offset_after(self, floor: Position, partition: TopicPartition) -> int:
        """An offset from which all events above `floor` can be read, and not many others."""
        first, end = self._reader.offsets(partition)
        if first == 0 and (end <= _FEW or partition.topic == self._tables):
            return 0

        def above(record: StoredRecord) -> bool | None:
            event = self._decoding.event(record)
            return None if event is None else event.position > floor

        found = first if partition.topic == self._tables else self._first_offset(partition, above)
        if found == first and first > 0 and self._target.start != "latest" and partition.topic != self._tables:
            raise self._gap(f"topic {partition.topic!r}, partition {partition.partition} no longer holds", first)
        return found

    def transactions_after(self, floor: Position) -> dict[TopicPartition, PartitionProgress]:
        """Where the transaction topic goes on after it; nothing if there is none."""
        if self._transactions.topic not in self._reader.topics():
            return {}

        def above(record: StoredRecord) -> bool | None:
            boundary = self._boundary(record)
            return None if boundary is None else Position(boundary.epoch, boundary.commit_lsn, 1) > floor

        return {self._transactions: PartitionProgress(floor, self._first_offset(self._transactions, above))}

    def _latest(self, state: LogState) -> Position:
        """The end of the last transaction that is in the log as a whole, or what a quiet source was read up to."""
        floor = _just_below(_epoch(state), state.recorded_lsn)
        if self._transactions.topic not in self._reader.topics():
            return floor
        for record in last_records(self._reader, self._transactions, _ENDS_BACK):
            match self._boundary(record):
                case TransactionEnd(epoch=epoch, commit_lsn=lsn, last_ordinal=ordinal):
                    floor = max(floor, Position(epoch, lsn, ordinal))
                case _:
                    pass
        return floor

    def _floor_of_time(self, moment: datetime, state: LogState) -> Position:
        """The first transaction that was committed then or later is the first to be applied."""
        wanted_ms = int(moment.timestamp() * 1000)
        partition = self._transactions
        if partition.topic not in self._reader.topics():
            return ORIGIN
        first, _ = self._reader.offsets(partition)

        def not_before(record: StoredRecord) -> bool | None:
            boundary = self._boundary(record)
            return None if boundary is None else boundary.commit_time_ms >= wanted_ms

        offset = self._first_offset(partition, not_before, near=0)
        found = self._at(partition, offset, self._place)
        if found is None:
            return self._latest(state)
        if offset == first and first > 0:
            raise self._gap(f"topic {partition.topic!r} no longer holds", first)
        return found

    def _place(self, record: StoredRecord) -> Position | None:
        """Just below the transaction."""
        boundary = self._boundary(record)
        return None if boundary is None else _just_below(boundary.epoch, boundary.commit_lsn)

    def _boundary(self, record: StoredRecord) -> TransactionBegin | TransactionEnd | None:
        return None if record.value is None else decode_boundary(record.value, self._registry.schema)

    def _first_offset(
        self, partition: TopicPartition, beyond: Callable[[StoredRecord], bool | None], *, near: int = _FEW
    ) -> int:
        """A place where what stands before is not `beyond`, and what comes next is; None is said of records that tell
        nothing. It may be up to `near` records too early, but not the partition's first for that reason.

        What a crash of capture made it write twice is beyond again after it: there may be several such places, and each
        will do.
        """

        def located(record: StoredRecord) -> tuple[int, bool] | None:
            said = beyond(record)
            return None if said is None else (record.offset, said)

        first, high = self._reader.offsets(partition)
        low = first
        while low < high and (high - low > near or low == first):
            middle = (low + high) // 2
            found = self._at(partition, middle, located)
            if found is None or found[1]:
                high = middle
            else:
                low = found[0] + 1
        return low

    def _at(
        self, partition: TopicPartition, offset: int, tell: Callable[[StoredRecord], _Found | None]
    ) -> _Found | None:
        """What the first record from `offset` on tells that tells something."""
        with closing(read_from(self._reader, partition, offset)) as records:
            return next((told for record in records if (told := tell(record)) is not None), None)

    def _gap(self, what: str, first: int) -> LogGapError:
        return LogGapError(
            f"{what} its first {first} records; what target {self._target.name!r} is to begin with may be among them",
            mend='set start = "latest" or a later place; a longer [log] retention keeps more',
        )


def _just_below(epoch: int, lsn: int) -> Position:
    """Above all that was committed before `lsn`, a first load's rows too, and of no transaction that commits there."""
    return Position(epoch, lsn - 1, _LAST) if lsn else Position(epoch, 0, 0)


def _epoch(state: LogState) -> int:
    return 1 if state.source is None else state.source.epoch
