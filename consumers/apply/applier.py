"""The applier: topics to one target, per key in order, each event once (consistency `key`).

The commit order, in every target transaction (`Target.transaction` keeps 1 to 4):

1. open the target transaction and take the checkpoint row compare-and-set, so that a zombie fails before it writes,
2. write rows,
3. write the checkpoint,
4. commit,
5. commit the offsets to the log, for lag displays only: on restart the checkpoint in the target is the truth.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from cdc.avro.names import state_topic, tables_topic
from cdc.core.errors import GapError, LogGapError
from cdc.core.events import Alter, ChangeEvent, Drop
from cdc.core.failpoints import reached
from cdc.core.log import LogReader, StoredRecord, TopicPartition
from cdc.core.patterns import TablePatterns
from cdc.core.position import ORIGIN
from cdc.core.registry import SchemaRegistry
from cdc.core.settings import TargetSettings, WrittenBy
from cdc.core.state import LogState, TableState
from cdc.core.tables import TableSchema
from cdc.registry.decoding import Decoding, barriers
from consumers.apply.connector import BEGIN_AGAIN, ConnectorLog
from consumers.apply.delivery import Delivery
from consumers.plan.as_text import AsText
from consumers.plan.checkpoint import Checkpoint, PartitionProgress
from consumers.plan.inbox import Batch, Inbox, is_resent
from consumers.targets.target import Target

_START_OVER: Final = "`cdc capture --start-over` loads all tables again"
_IDLE_SECONDS: Final = 0.1  # the longest wait for a record; a stop is noticed within it
_SETTLE_SECONDS: Final = 1.0  # a checkpoint that only moves offsets is written when nothing else comes


@dataclass(slots=True)
class Progress:
    """What a display shows. `lag_us` is from the newest applied event's commit at the source to its commit here."""

    events: int = 0
    batches: int = 0
    lag_us: int = 0


class Applier:
    """One session, from opening the target to a stop or an error; after an error, make a new one."""

    def __init__(
        self,
        *,
        reader: LogReader,
        registry: SchemaRegistry,
        target: Target,
        settings: TargetSettings,
        prefix: str,
        written_by: WrittenBy = "cdc",
        report: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._reader = reader
        self._connector = ConnectorLog(reader, prefix, report) if written_by == "debezium" else None
        self._target = target
        self._delivery = Delivery(target)
        self._settings = settings
        self._patterns = TablePatterns(settings.tables)
        self._decoding = Decoding(registry, seen=AsText(settings.as_text).seen)
        self._state_topic = state_topic(prefix)
        self._tables_topic = tables_topic(prefix)
        self._state = LogState()
        self._checkpoint = Checkpoint(version=0, log_id=None, partitions={})
        self._inbox = Inbox(
            crowded_at=4 * settings.batch_events,
            resent=is_resent if self._connector is None else self._connector.resent,
        )
        self._paused: set[TopicPartition] = set()
        self._unsaved: dict[TopicPartition, PartitionProgress] = {}
        self._unsaved_since = 0.0
        self._report = report
        self.progress = Progress()

    def run(self, stopping: Callable[[], bool], *, applying: Callable[[], None] = lambda: None) -> None:
        """Apply until `stopping()`. What was applied is committed, with its checkpoint, at every moment.

        `applying` is called once target and log are there.
        """
        if not self.start(stopping):
            return
        applying()
        while not stopping():
            self.step(_IDLE_SECONDS)
        self.finish()

    def start(self, stopping: Callable[[], bool] = lambda: False) -> bool:
        """Open the target, and wait for the log to say what it is. False if stopped before."""
        self._checkpoint = self._target.open()
        if not self._find_log(stopping):
            return False
        self._follow_tables()
        return True

    def finish(self) -> None:
        """Write the checkpoint of what brought no rows."""
        self._save_progress()

    def step(self, timeout: float) -> int:
        """Read what is there (waiting up to `timeout` seconds for the first record) and apply what may be applied. The
        number of events applied.
        """
        self._read(timeout)
        self._learn_ends()
        batch = self._inbox.take(self._settings.batch_events)
        self._apply(batch)
        self._pause_crowded()
        return len(batch.events)

    def _read(self, timeout: float) -> None:
        for record in self._reader.poll(self._settings.batch_events, timeout):
            self._add(record)
        self._look_at_connector()

    def _find_log(self, stopping: Callable[[], bool]) -> bool:
        """Follow the state topic, or the connector's topics, until it is known which log this is; False if stopped
        before.
        """
        if self._connector is not None:
            self._look_at_connector()
            if self._state.log_id is None:
                self._report("waiting for the connector to make its topics")
        elif not self._find_state_topic(stopping):
            return False
        while self._state.log_id is None:
            if stopping():
                return False
            # Nothing is applied yet: a table's record may be read before the log's own.
            self._read(_IDLE_SECONDS)
            self._pause_crowded()
        return True

    def _find_state_topic(self, stopping: Callable[[], bool]) -> bool:
        topic = TopicPartition(self._state_topic, 0)
        waiting = False
        while topic.topic not in self._reader.topics():
            if not waiting:
                self._report("waiting for capture to start the log")
                waiting = True
            if stopping():
                return False
            time.sleep(_IDLE_SECONDS)
        self._reader.assign({topic: self._reader.offsets(topic).first})
        return True

    def _follow_tables(self) -> None:
        """Follow the tables topic; a log that cdc did not write has none."""
        partition = TopicPartition(self._tables_topic, 0)
        if partition.topic in self._reader.topics():
            start = PartitionProgress(ORIGIN, self._reader.offsets(partition).first)
            progress = self._checkpoint.partitions.get(partition, start)
            self._inbox.assign_tables(partition, progress)
            self._reader.assign({partition: progress.next_offset})

    def _add(self, record: StoredRecord) -> None:
        partition = TopicPartition(record.topic, record.partition)
        if record.topic == self._state_topic:
            self._learn_state(self._state.with_record(record))
        elif record.topic == self._tables_topic:
            self._add_alteration(partition, record)
        else:
            truncated, altered = barriers(record)
            event = self._decoding.event(record)
            if event is not None and self._connector is not None:
                self._connector.require_applicable(event, record.topic)
            self._inbox.add(partition, record.offset, event, truncated=truncated, altered=altered)

    def _add_alteration(self, partition: TopicPartition, record: StoredRecord) -> None:
        found = self._decoding.alteration(record)
        if found is None:
            self._inbox.add(partition, record.offset, None)
            return
        event = found.event
        before = event.change.before if isinstance(event.change, Alter) else None
        is_ours = self._patterns.matches(event.table.id)
        was_ours = is_ours if before is None else self._patterns.matches(before.id)
        if is_ours and was_ours:
            self._inbox.add(partition, record.offset, event, topics=found.topics)
        elif before is not None and found.topic_before is not None and was_ours:
            # Renamed to what is not ours: for us it is gone, and its name may be another table's now.
            gone = replace(event, table=before, change=Drop())
            self._inbox.add(partition, record.offset, gone, topics=frozenset({found.topic_before}))
        elif before is not None and is_ours:
            raise self._unknown_rows(event, before)
        else:
            self._inbox.add(partition, record.offset, None)

    def _unknown_rows(self, event: ChangeEvent, before: TableSchema) -> GapError:
        return GapError(
            f"table {before.id} was renamed to {event.table.id}, which is one of target {self._settings.name!r};"
            " the rows that it had before are not",
            mend="`cdc capture --start-over` loads all tables again; or exclude it in the target's tables",
        )

    def _look_at_connector(self) -> None:
        if self._connector is not None:
            self._connector.look()
            self._learn_state(self._connector.state)

    def _learn_state(self, state: LogState) -> None:
        known, self._state = self._state.tables, state
        log_id = self._state.log_id
        if log_id is not None and self._checkpoint.log_id not in {None, log_id}:
            raise GapError(
                f"the checkpoint in target {self._settings.name!r} belongs to another log",
                mend="correct [log] url and prefix; or drop the target's tables and its rows in cdc_applier and"
                " cdc_checkpoint to fill it from this log",
            )
        for topic in self._state.tables.keys() - known.keys():
            table = self._state.tables[topic]
            if self._patterns.matches(table.table):
                self._assign(table)

    def _assign(self, table: TableState) -> None:
        start: dict[TopicPartition, int] = {}
        for number in range(table.partitions):
            partition = TopicPartition(table.topic, number)
            progress = self._checkpoint.partitions.get(partition)
            if progress is None:
                progress = PartitionProgress(ORIGIN, self._beginning(partition))
            start[partition] = progress.next_offset
            self._inbox.assign(partition, progress)
        self._reader.assign(start)

    def _beginning(self, partition: TopicPartition) -> int:
        first = self._reader.offsets(partition).first
        if first > 0:
            raise LogGapError(
                f"topic {partition.topic!r}, partition {partition.partition} no longer holds its first {first} records,"
                f" and target {self._settings.name!r} has none of them",
                mend=f"{_START_OVER if self._connector is None else BEGIN_AGAIN}; a longer retention avoids it",
            )
        return first

    def _learn_ends(self) -> None:
        for topic in self._inbox.ends_wanted():
            state = self._state.tables.get(topic)
            partitions = [TopicPartition(topic, number) for number in range(1 if state is None else state.partitions)]
            self._inbox.ends(topic, {partition: self._reader.offsets(partition).next for partition in partitions})

    def _apply(self, batch: Batch) -> None:
        if not batch.progress:
            return self._save_progress_in_time()
        if not self._unsaved:
            self._unsaved_since = time.monotonic()
        self._unsaved.update(batch.progress)
        if not batch.events:
            return self._save_progress_in_time()
        self._delivery.write(batch.events, log_id=self._log_id)
        self._delivery.commit(self._unsaved, log_id=self._log_id)
        self._commit_offsets()
        self.progress.events += len(batch.events)
        self.progress.batches += 1
        newest = max(event.transaction.commit_time_us for event in batch.events)
        self.progress.lag_us = time.time_ns() // 1000 - newest
        return None

    def _save_progress_in_time(self) -> None:
        if self._unsaved and time.monotonic() - self._unsaved_since >= _SETTLE_SECONDS:
            self._save_progress()

    def _save_progress(self) -> None:
        """Write a checkpoint that only moves offsets, past tombstones and resent events."""
        if self._unsaved:
            self._delivery.commit(self._unsaved, log_id=self._log_id)
            self._commit_offsets()

    def _commit_offsets(self) -> None:
        self._reader.commit({partition: progress.next_offset for partition, progress in self._unsaved.items()})
        self._unsaved = {}
        reached("apply.5-offsets-committed")

    def _pause_crowded(self) -> None:
        """Stop reading partitions that wait for others: memory stays bounded."""
        crowded = self._inbox.crowded()
        if crowded != self._paused:
            self._reader.pause(crowded - self._paused)
            self._reader.resume(self._paused - crowded)
            self._paused = crowded

    @property
    def _log_id(self) -> str:
        if self._state.log_id is None:
            raise AssertionError("nothing is applied before the log is known")
        return self._state.log_id
