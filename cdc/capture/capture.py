"""The capture loop. It knows ports only; what it must not get wrong is in `pipeline` and `continuity`."""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, assert_never

from cdc.avro.alterations import Alteration, read_alteration
from cdc.avro.names import message_topic, schemas_topic, state_topic, tables_topic, transaction_topic
from cdc.avro.transactions import TransactionEnd, decode_boundary
from cdc.capture.continuity import Load, Resume, decide, timeline_began
from cdc.capture.pipeline import Pipeline
from cdc.capture.publisher import Publisher
from cdc.core.errors import SchemaRefusedError
from cdc.core.events import (
    Alter,
    Begin,
    ChangeEvent,
    Changes,
    Commit,
    Drop,
    Heartbeat,
    LoadedRows,
    LogicalMessage,
    Read,
    Rereading,
    StreamItem,
    Truncate,
)
from cdc.core.failpoints import reached
from cdc.core.log import LogReader, LogWriter, Record, TopicPartition, TopicSpec
from cdc.core.registry import SchemaRegistry
from cdc.core.settings import LogSettings
from cdc.core.source import LoadPoint, Source, SourceIdentity
from cdc.core.state import (
    LoadState,
    Phase,
    SourceState,
    TableState,
    load_record,
    log_record,
    read_state,
    recorded_record,
    rereading_record,
    source_record,
)
from cdc.core.tables import TableId, TableSchema
from cdc.log.reading import last_records, read_to_end

# Of the stream, between two looks at the log. With more, the source waits while they are worked on, and they fall out
# of the processor's cache (5,000: an eighth to a quarter slower, measured); with fewer, each look costs.
_MOST_MESSAGES: Final = 2_000
_MOST_ROWS: Final = 5_000  # the same, of a load
_MOST_ROW_BYTES: Final = 8 << 20
_MOST_RECORDS: Final = 2_000  # before they are handed to the log
_MOST_BYTES_UNDER_WAY: Final = 16 << 20
_IDLE_SECONDS: Final = 0.1  # the longest wait for either side; a stop is noticed within it
_BUSY_SECONDS: Final = 0.01  # the longest wait for the log, while the source may have more
_MANY: Final = 500  # events taken at once: the source has a backlog
# Of a backlog, events that go to the log together (what it does for a few takes as long), and their bytes: so that some
# are on their way while others are taken.
_LOT: Final = 8_000
_LOT_BYTES: Final = 8 << 20
_RECORD_SECONDS: Final = 10.0  # between two records of a quiet source's progress
_MOST_DANGLING_BEGINS: Final = 1_000
_STOP_SECONDS: Final = 10.0  # to get what is under way into the log after a stop


class _StoppedError(Exception):
    """In the middle of something that is done again by the next start."""


@dataclass(slots=True)
class Progress:
    """What a display shows. `commit_time_us` is the newest published transaction's; `rereading` are the source's names
    of the tables that are being read again, whose events are held back.
    """

    events: int = 0
    transactions: int = 0
    confirmed_lsn: int = 0
    commit_time_us: int = 0
    rereading: set[str] = field(default_factory=set)


class Capture:
    """One session of capture, from opening the source to a stop or an error; after an error, make a new one.

    The session remembers nothing that is not in the log or at the source.
    """

    def __init__(
        self,
        *,
        source: Source,
        writer: LogWriter,
        reader: LogReader,
        registry: SchemaRegistry,
        settings: LogSettings,
        slot: str,
        report: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._source = source
        self._writer = writer
        self._reader = reader
        self._registry = registry
        self._settings = settings
        self._slot = slot
        self._report = report
        self._state_topic = state_topic(settings.prefix)
        self._pipeline = Pipeline(writer.append)
        self._publisher: Publisher | None = None
        self._records: list[Record] = []
        self._ends: list[tuple[list[Record], int]] = []
        self._reread: list[str] = []
        self._bytes_looked_at = 0
        self._read_again: deque[tuple[int, list[str]]] = deque()
        self._refused_names: set[str] = set()
        self._streaming = False
        self._refused: set[TableId] = set()
        self._skipped: dict[TableId, int] = {}
        self._alterations = 0  # in the transaction that is being taken
        self._resent_up_to = 0
        self._timeline_began = 0
        self._heartbeat_lsn = 0
        self._record_due = 0.0
        self._stopping: Callable[[], bool] = lambda: False
        self._stop_due: float | None = None
        self.progress = Progress()

    def run(
        self, stopping: Callable[[], bool], *, start_over: bool = False, streaming: Callable[[], None] = lambda: None
    ) -> None:
        """Capture until `stopping()`; then get what is under way into the log, confirm it and return.

        `streaming` is called once the stream has begun.
        """
        try:
            if not self.start(stopping, start_over=start_over):
                return
            streaming()
            while not stopping():
                self.step()
        except _StoppedError:
            pass  # what was not confirmed comes again
        self.finish()

    def start(self, stopping: Callable[[], bool] = lambda: False, *, start_over: bool = False) -> bool:
        """Load if need be, and begin the stream. False if stopped before."""
        self._stopping = stopping
        epoch = self._prepare(start_over=start_over)
        if epoch is None:
            return False
        # What the log has, confirmed or not, is not asked for again: an END that was written again would stand last in
        # the log, and the slot ahead of it.
        self._source.start(epoch=epoch, after=self.progress.confirmed_lsn)
        self._streaming = True
        self._report("streaming")
        return True

    def step(self) -> None:
        """Take in what the source has sent (waiting a little if there is nothing to do), and bring the log forward."""
        lot, has_backlog = 0, True
        while has_backlog and lot < _LOT and not self._has_lot and not self._is_full:
            before = self.progress.events
            self._take(self._source.receive(_MOST_MESSAGES, _IDLE_SECONDS if self._pipeline.idle else 0.0))
            has_backlog = self.progress.events - before >= _MANY
            lot += self.progress.events - before
        # With a backlog nothing is waited for: there is more to take meanwhile.
        waits = not self._pipeline.idle and not (has_backlog and lot)
        self._advance(_BUSY_SECONDS if waits else 0.0)
        self._record_heartbeat()

    @property
    def captured_lsn(self) -> int:
        """All that was committed at the source below it is durable in the log."""
        confirmed = self.progress.confirmed_lsn
        return max(self._heartbeat_lsn, confirmed) if self._pipeline.idle else confirmed

    # -- before the stream ---------------------------------------------------------------------------------------

    def _prepare(self, *, start_over: bool) -> int | None:
        """Make topics, find out where we stand, load if need be. The epoch to stream in, or None if stopped before."""
        prefix = self._settings.prefix
        self._writer.create_topics(
            [
                TopicSpec(self._state_topic, compacted=True, single=True),
                TopicSpec(schemas_topic(prefix), compacted=True, single=True),
                TopicSpec(tables_topic(prefix), compacted=True, single=True),
                TopicSpec(transaction_topic(prefix), single=True),
                TopicSpec(message_topic(prefix), single=True),
            ]
        )
        state = read_state(read_to_end(self._reader, self._state_topic))
        history = [
            read_alteration(record.value) for record in read_to_end(self._reader, tables_topic(prefix)) if record.value
        ]
        self._source.remember([(each.event.position, each.note) for each in history], state.rereading)
        identity = self._source.identify()
        self._timeline_began = timeline_began(identity.timeline, self._source.switch_point)
        decision = decide(
            state,
            identity,
            self._source.slot(),
            slot_name=self._slot,
            published_lsn=0 if start_over else self._published_lsn(),  # whose schema may be what was lost
            switch_point=self._source.switch_point,
            start_over=start_over,
        )
        self._publisher = Publisher(
            settings=self._settings,
            state_topic=self._state_topic,
            tables=_with_alterations(state.tables, history),
            existing=self._reader.topics(),
            writer=self._writer,
            registry=self._registry,
        )
        if isinstance(decision, Load):
            self._publisher.make_again()
        self._pipeline.produce(self._publisher.announce(self._source.tables()))
        self._pipeline.produce(
            [
                rereading_record(self._state_topic, name, active=True)
                for name in self._source.left_out()
                if name not in state.rereading
            ]
        )
        if state.log_id is None:
            self._store([log_record(self._state_topic, uuid.uuid4().hex)])
        match decision:
            case Load():
                return self._load(decision, identity)
            case Resume(epoch):
                if state.source != (now := self._source_state(identity, epoch, "streaming")):
                    self._store([source_record(self._state_topic, now)])
                self.progress.confirmed_lsn = max(self._published_lsn(), state.recorded_lsn)
                # What was committed by now may have been written by an earlier session, up to before its END.
                self._resent_up_to = identity.flushed_lsn
                return epoch
        assert_never(decision)

    def _published_lsn(self) -> int:
        """The end_lsn of the newest END in the log; 0 if there is none. A kill may have left BEGINs after it; and older
        ENDs a capture that stood still, while another one went on, and then sent what it had under way.
        """
        topic = TopicPartition(transaction_topic(self._settings.prefix), 0)
        records = last_records(self._reader, topic, _MOST_DANGLING_BEGINS)
        boundaries = [decode_boundary(each.value, self._registry.schema) for each in records if each.value is not None]
        ends = [(each.epoch, each.end_lsn) for each in boundaries if isinstance(each, TransactionEnd)]
        return max(ends)[1] if ends else 0

    def _load(self, decision: Load, identity: SourceIdentity) -> int | None:
        epoch = decision.epoch
        self._store([self._source_record(identity, epoch, "creating")])
        if decision.drop_slot:
            self._source.drop_slot()
        with self._source.create() as at:
            self._store([self._load_record(at, epoch), self._source_record(identity, epoch, "loading")])
            if not self._load_rows(at, epoch, again=decision.again):
                return None
        self._drain()
        # Empty tables have no END to say that the log reaches up to the slot.
        self._store([recorded_record(self._state_topic, at.lsn), self._source_record(identity, epoch, "streaming")])
        return epoch

    def _load_record(self, at: LoadPoint, epoch: int) -> Record:
        """Where this load begins in the log: whoever reads from there gets every row, and all that comes after."""
        prefix = self._settings.prefix
        topics = {**self._the_publisher.partitions(), tables_topic(prefix): 1, transaction_topic(prefix): 1}
        begins = {
            topic: tuple(self._reader.offsets(TopicPartition(topic, number)).next for number in range(count))
            for topic, count in topics.items()
        }
        return load_record(self._state_topic, LoadState(epoch=epoch, commit_lsn=at.lsn - 1, begins=begins))

    def _load_rows(self, at: LoadPoint, epoch: int, *, again: bool) -> bool:
        """Publish all rows. False if stopped in between: the next start loads again."""
        items = self._source.load(at, epoch=epoch, again=again)
        try:
            for batch in _batches(items):
                self._require_time()
                self._take(batch)
                self._advance(0.0)
                self._make_room()
        except _StoppedError:
            self._report("stopped during the first load: the next start begins it again")
            return False
        return True

    def _source_record(self, identity: SourceIdentity, epoch: int, phase: Phase) -> Record:
        return source_record(self._state_topic, self._source_state(identity, epoch, phase))

    def _source_state(self, identity: SourceIdentity, epoch: int, phase: Phase) -> SourceState:
        return SourceState(
            epoch=epoch,
            system_id=identity.system_id,
            timeline=identity.timeline,
            database=identity.database,
            slot=self._slot,
            phase=phase,
            began=self._timeline_began,
        )

    # -- the stream ----------------------------------------------------------------------------------------------

    def _take(self, items: Iterable[StreamItem]) -> None:
        """Hand the records of these items to the log. Those of many transactions go together."""
        for item in items:
            self._take_one(item)
            if len(self._records) >= _MOST_RECORDS:
                self._hand_over()
                self._make_room()
        self._hand_over()

    def _take_changes(self, changes: Changes) -> None:
        if not self._refused:
            try:
                self._records += self._the_publisher.records_of(changes)
            except SchemaRefusedError:
                pass  # which of them, and what becomes of the others, is seen one by one
            else:
                self.progress.events += len(changes.unread)
                return
        for event in changes.events():
            self._take_one(event)

    def _take_one(self, item: StreamItem) -> None:
        match item:
            case LoadedRows():
                self._records += self._the_publisher.records_of_load(item)
                self.progress.events += len(item.lines)
            case Changes():
                self._take_changes(item)
            case Begin():
                pass
            case Commit():
                self._end(item)
            case ChangeEvent() if self._is_refused(item):
                self._skipped[item.table.id] = self._skipped.get(item.table.id, 0) + _counted(item)
            case ChangeEvent(change=Truncate() | Alter() | Drop()):
                # A barrier: whoever reads it finds in the log all that came before it.
                self._hand_over()
                self._drain()
                # What comes after it says so, and may be read from another partition first.
                self._store(self._records_of(item))
                self._alterations += isinstance(item.change, Alter | Drop) and not self._is_refused(item)
                self.progress.events += 1
            case ChangeEvent():
                self._records += self._records_of(item)
                self.progress.events += 1
            case Heartbeat(lsn):
                self._heartbeat_lsn = lsn
            case LogicalMessage():
                if not item.ours:
                    self._records.append(self._the_publisher.message_record(item))
                    self.progress.events += 1
            case Rereading(name, active=True):
                self.progress.rereading.add(name)
                self._hand_over()
                self._drain()  # an earlier reading's end may be on its way, and must not come after this
                self._records.append(rereading_record(self._state_topic, name, active=True))
            case Rereading(name, versions=versions):
                self._records += self._registered(name, versions)
                self._reread.append(name)

    def _hand_over(self) -> None:
        """What was taken goes to the log: first the records, then the ENDs that have to wait for them."""
        records, self._records = self._records, []
        ends, self._ends = self._ends, []
        self._pipeline.produce(records)
        for end, end_lsn in ends:
            self._pipeline.end(end, end_lsn)

    def _records_of(self, event: ChangeEvent) -> list[Record]:
        """The event's records. A table whose new version the registry refuses stops here, and the others go on: the
        next start reads it again.
        """
        try:
            return self._the_publisher.records(event)
        except SchemaRefusedError as refused:
            if not self._streaming:
                raise
            self._skipped[event.table.id] = self._skipped.get(event.table.id, 0) + _counted(event)
            return self._stopped(self._source.name(event.table.id), {event.table.id}, refused)

    def _registered(self, name: str, versions: Sequence[TableSchema]) -> list[Record]:
        """See whether the registry takes a table that was read again, before its truncate."""
        try:
            for version in versions[-1:]:
                self._the_publisher.register(version)
        except SchemaRefusedError as refused:
            return self._stopped(name, {version.id for version in versions}, refused)
        return []

    def _stopped(self, name: str, tables: set[TableId], refused: SchemaRefusedError) -> list[Record]:
        self._refused |= tables
        self._refused_names.add(name)
        self._report(
            f"error: table {' = '.join(map(str, sorted(tables)))} stops here, the others go on: {refused}\n"
            f"  mend: {refused.mend}; then start capture again, which reads the table again"
        )
        return [rereading_record(self._state_topic, name, active=True)]

    def _is_refused(self, event: ChangeEvent) -> bool:
        if not self._refused:
            return False
        if isinstance(event.change, Alter) and event.change.before and event.change.before.id in self._refused:
            self._refused.add(event.table.id)  # under its new name too
        return event.table.id in self._refused

    def _without_skipped(self, commit: Commit) -> Commit:
        skipped, self._skipped = self._skipped, {}
        if not skipped:
            return commit
        left = {table: count - skipped.get(table, 0) for table, count in commit.event_counts.items()}
        return replace(commit, event_counts={table: count for table, count in left.items() if count})

    @property
    def _has_lot(self) -> bool:
        """Whether the log was handed enough since it was last looked at."""
        return self._pipeline.bytes_under_way - self._bytes_looked_at >= _LOT_BYTES

    @property
    def _is_full(self) -> bool:
        return self._pipeline.bytes_under_way >= _MOST_BYTES_UNDER_WAY

    def _make_room(self) -> None:
        """Wait for the log; not once we are to stop, as it may be out of reach. Nor is all taken then that is there: it
        may be a large table that is read again.
        """
        if self._has_lot:
            self._advance(0.0)
        while self._is_full and not self._stopping():
            self._advance(_IDLE_SECONDS)
        if self._is_full or self._is_late:
            raise _StoppedError

    def _require_time(self) -> None:
        """Not once we are to stop."""
        if self._stopping():
            raise _StoppedError

    @property
    def _is_late(self) -> bool:
        """Whether a stop leaves no more time to get things into the log."""
        if self._stop_due is None and self._stopping():
            self._stop_due = time.monotonic() + _STOP_SECONDS
        return self._stop_due is not None and time.monotonic() >= self._stop_due

    def _end(self, commit: Commit) -> None:
        commit = self._without_skipped(commit)
        alterations, self._alterations = self._alterations, 0
        if not commit.event_counts and not commit.messages and not alterations:
            # Nothing of it is captured: for the log it never was, only that the source was read up to here.
            self._records += self._read_again_records(self._take_reread())
            self._heartbeat_lsn = commit.end_lsn
            return
        resent = commit.transaction.commit_lsn <= self._resent_up_to
        records = self._the_publisher.transaction_records(commit, alterations=alterations, resent=resent)
        self._ends.append((records, commit.end_lsn))
        self._read_again.append((commit.end_lsn, self._take_reread()))
        self.progress.transactions += 1
        self.progress.commit_time_us = commit.transaction.commit_time_us

    def _take_reread(self) -> list[str]:
        names, self._reread = self._reread, []
        return names

    def _read_again_records(self, names: list[str]) -> list[Record]:
        self.progress.rereading.difference_update(names)
        return [
            rereading_record(self._state_topic, name, active=False) for name in names if name not in self._refused_names
        ]

    def _advance(self, timeout: float) -> None:
        confirmable = self._pipeline.advance(self._writer.poll(timeout))
        self._confirm(confirmable)
        # Not before the END is durable: until then the table has to be read again after a crash.
        while self._read_again and self._read_again[0][0] <= self.progress.confirmed_lsn:
            self._pipeline.produce(self._read_again_records(self._read_again.popleft()[1]))
        self._bytes_looked_at = self._pipeline.bytes_under_way

    def _confirm(self, lsn: int) -> None:
        moved = lsn > self.progress.confirmed_lsn
        self.progress.confirmed_lsn = max(lsn, self.progress.confirmed_lsn)
        self._source.confirm(self.progress.confirmed_lsn)
        if moved:
            reached("capture.5-confirmed")

    def _record_heartbeat(self) -> None:
        """Let a quiet source's WAL go: what was read without finding anything for us is confirmed too, once recorded.

        Only with nothing in flight: the position is past everything that was received.
        """
        lsn = self._heartbeat_lsn
        if lsn <= self.progress.confirmed_lsn or not self._pipeline.idle or time.monotonic() < self._record_due:
            return
        self._store([recorded_record(self._state_topic, lsn)])
        self._record_due = time.monotonic() + _RECORD_SECONDS
        self._confirm(lsn)

    def finish(self) -> None:
        """Get what is under way into the log, and confirm it; give up if that takes too long."""
        self._stopping = lambda: True
        while not self._pipeline.idle and not self._is_late:
            self._advance(_IDLE_SECONDS)

    def _store(self, records: list[Record]) -> None:
        """Write records and wait until they are durable."""
        self._pipeline.produce(records)
        self._drain()

    def _drain(self) -> None:
        """Wait until all that was handed to the log is durable, ENDs that were due with it included."""
        while not self._pipeline.idle:
            if self._is_late:
                raise _StoppedError
            self._advance(_IDLE_SECONDS)

    @property
    def _the_publisher(self) -> Publisher:
        if self._publisher is None:
            raise AssertionError("the stream was read before the session was prepared")
        return self._publisher


def _counted(event: ChangeEvent) -> int:
    """What the event adds to its table's count in the END."""
    return 0 if isinstance(event.change, Alter | Drop) else 1


def _with_alterations(tables: Mapping[str, TableState], history: Iterable[Alteration]) -> dict[str, TableState]:
    """The tables' latest changes of shape, from the tables topic itself: the state topic may be ahead of it."""
    latest = {topic: each.event.position for each in history for topic in each.topics}
    return {
        topic: state if state.altered is None else replace(state, altered=latest.get(topic))
        for topic, state in tables.items()
    }


def _batches(items: Iterable[StreamItem]) -> Iterator[list[StreamItem]]:
    """Of a load, so that rows of any size leave memory as it is."""
    batch: list[StreamItem] = []
    rows = size = 0
    for item in items:
        batch.append(item)
        if isinstance(item, LoadedRows):
            rows += len(item.lines)
            size += sum(map(len, item.lines))
        elif isinstance(item, ChangeEvent) and isinstance(item.change, Read):
            rows += 1
            size += sum([len(value) for value in item.change.after if isinstance(value, bytes)])
        if rows >= _MOST_ROWS or size >= _MOST_ROW_BYTES:
            yield batch
            batch, rows, size = [], 0, 0
    if batch:
        yield batch
