"""In which way an applier takes records, for where its target stands, and from where on it reads them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final, NamedTuple

from cdc.avro.names import tables_topic, transaction_topic
from cdc.avro.transactions import collection_name
from cdc.core.errors import LogGapError
from cdc.core.events import ChangeEvent
from cdc.core.log import LogReader, TopicPartition
from cdc.core.patterns import TablePatterns
from cdc.core.position import ORIGIN, Position
from cdc.core.settings import LogSettings, TargetSettings
from cdc.core.state import LogState, TableState
from consumers.apply.beginning import below, resumed
from consumers.apply.connector import BEGIN_AGAIN
from consumers.apply.kept import require_kept, warn_of_compacted
from consumers.plan.approach import Approach, approach, furthest_of, joined_by_key, left, returned, whole
from consumers.plan.checkpoint import PartitionProgress
from consumers.plan.inbox import Inbox
from consumers.plan.part import PartInbox
from consumers.plan.room import Room
from consumers.plan.transactions import TransactionInbox

_START_OVER: Final = "`cdc capture --start-over` loads all tables again"
_ENDS_BACK: Final = 1_000  # records of the transaction topic among which its newest END surely is

AnyInbox = Inbox | TransactionInbox | PartInbox
Reached = Mapping[TopicPartition, PartitionProgress]


class Entered(NamedTuple):
    """`unsaved` is to be written with the next checkpoint."""

    inbox: AnyInbox
    approaching: Approaching | None
    unsaved: Reached


class Entrance:
    """Of one applier: `held` and `until` are its own; `resent` tells events that come a second time (see `Inbox`). What
    is asked is always of a state of the log, and of how far the target has come.
    """

    def __init__(
        self,
        reader: LogReader,
        settings: TargetSettings,
        log: LogSettings,
        *,
        resent: Callable[[Position, ChangeEvent], bool],
        held: Collection[TopicPartition] | None,
        until: Position | None,
        report: Callable[[str], None],
    ) -> None:
        self._reader = reader
        self._settings = settings
        self._mend = _START_OVER if log.written_by == "cdc" else BEGIN_AGAIN
        self._patterns = TablePatterns(settings.tables)
        self._tables_topic = tables_topic(log.prefix)
        self._transactions = TopicPartition(transaction_topic(log.prefix), 0)
        self._resent = resent
        self._held = held
        self._until = until
        self._report = report

    def tables(self, state: LogState) -> list[TableState]:
        """The target's."""
        return [table for table in state.tables.values() if self._patterns.matches(table.table)]

    def enter(self, state: LogState, reached: Reached, *, approached: bool, load: bool) -> Entered:
        """The way that is due. `approached`: all that comes before whole transactions was taken. `load`: what comes is
        still to be approached. The transaction topic is assigned, if there is one to read.
        """
        room = Room(4 * self._settings.batch_events)
        if self._held is not None:
            return Entered(PartInbox(room=room, reached=dict(reached)), None, {})
        if self._until is not None:
            until = self._until
            return Entered(Inbox(room=room, takes=lambda _, event: event.position <= until), None, {})
        topics = [table.topic for table in self.tables(state)]
        changes = TopicPartition(self._tables_topic, 0)
        gone = left(reached, [*topics, changes.topic, self._transactions.topic], changes)
        moved = {**gone, **returned(reached, topics)}
        if self._settings.consistency == "key":
            warn_of_compacted(self._reader, topics, self._report)
            joined = joined_by_key(reached, topics) if self._transactions in reached else {}
            return Entered(Inbox(room=room, resent=self._resent), None, {**moved, **joined})
        topics.append(changes.topic)
        if approached:
            return Entered(self._transaction_inbox(state, reached, floor=whole(furthest_of(reached))), None, {})
        to = approach(reached, topics, self._transactions, epoch_of(state))
        if to is None and load:
            to = Approach(epoch_of(state))
        if to is None:
            return Entered(self._transaction_inbox(state, reached, floor=furthest_of(reached)), None, moved)
        inbox = Inbox(room=room, takes=to.takes)
        self._look_for_ends()
        return Entered(inbox, Approaching(to, self._reader, self._partitions), {**moved, **to.begun()})

    def introduce(self, inbox: TransactionInbox, tables: Iterable[TableState]) -> None:
        """Tell it of tables that are new in the log."""
        for table in tables:
            inbox.know(collection_name(table.table), table.topic if self._patterns.matches(table.table) else None)

    def progress_of(self, partition: TopicPartition, state: LogState, reached: Reached) -> PartitionProgress:
        """From where on a table's partition is read. LogGapError if that is gone."""
        at = reached.get(partition)
        return self._beginning(partition, state) if at is None else self._resumed(partition, at, state, reached)

    def _resumed(
        self, partition: TopicPartition, at: PartitionProgress, state: LogState, reached: Reached
    ) -> PartitionProgress:
        """All of a topic's partitions from a load, if one is: half of a moved row may wait for what another lost."""
        load, table = state.load, state.tables.get(partition.topic)
        if load is None or load.epoch <= at.position.epoch:
            return at
        for each in [partition] if table is None else table.topic_partitions:
            its = reached.get(each)
            if its is not None and resumed(self._reader, load, each, its) != its:
                return PartitionProgress(below(load), load.begin(*partition))
        return at

    def _partitions(self, state: LogState) -> list[TopicPartition]:
        """All that bring what an approach takes."""
        tables = [partition for table in self.tables(state) for partition in table.topic_partitions]
        return [*tables, TopicPartition(self._tables_topic, 0)]

    def _look_for_ends(self) -> None:
        """Follow the newest ENDs: an approach ends with one."""
        if self._transactions.topic in self._reader.topics():
            first, end = self._reader.offsets(self._transactions)
            self._reader.assign({self._transactions: max(first, end - _ENDS_BACK)})

    def _transaction_inbox(self, state: LogState, reached: Reached, *, floor: Position) -> TransactionInbox:
        topics = [table.topic for table in self.tables(state)]
        require_kept(self._reader, topics, self._transactions.topic, self._report)
        progress, trimmed = self._progress_of_transactions(state, reached)
        inbox = TransactionInbox(
            room=Room(max(2, self._settings.batch_events)),  # both halves of a moved row
            transactions=self._transactions,
            progress=progress,
            epoch=epoch_of(state),
            floor=floor,
            trimmed=trimmed,
        )
        self.introduce(inbox, state.tables.values())
        self._reader.assign({self._transactions: progress.next_offset})
        return inbox

    def _progress_of_transactions(self, state: LogState, reached: Reached) -> tuple[PartitionProgress, bool]:
        """And whether records before it are gone, of which the target may have nothing."""
        first, load = self._reader.offsets(self._transactions).first, state.load
        if self._transactions in reached or first == 0 or (load and first <= load.begin(*self._transactions)):
            return self.progress_of(self._transactions, state, reached), False
        return PartitionProgress(ORIGIN, first), True

    def _beginning(self, partition: TopicPartition, state: LogState) -> PartitionProgress:
        """Of what is new to the target: the earliest record, or the latest first load if that is gone."""
        first, load = self._reader.offsets(partition).first, state.load
        if first > 0 and load is not None and first <= load.begin(*partition):
            return PartitionProgress(below(load), load.begin(*partition))
        if first > 0:
            raise LogGapError(
                f"topic {partition.topic!r}, partition {partition.partition} no longer holds its first {first} records,"
                f" and target {self._settings.name!r} has none of them",
                mend=f"{self._mend}; a longer retention avoids it",
            )
        return PartitionProgress(ORIGIN, first)


class Approaching:
    """Whole transactions begin once the log has an END that is far enough, and all that was in `partitions` by then was
    taken.
    """

    def __init__(
        self, to: Approach, reader: LogReader, partitions: Callable[[LogState], Iterable[TopicPartition]]
    ) -> None:
        self._to = to
        self._reader = reader
        self._partitions = partitions
        self._newest_end = ORIGIN
        self._ends: dict[TopicPartition, int] | None = None

    def add_end(self, position: Position) -> None:
        self._newest_end = max(self._newest_end, position)

    def is_over(self, state: LogState, inbox: Inbox) -> bool:
        is_loaded = state.source is not None and state.source.phase == "streaming"
        if self._ends is None and is_loaded and self._newest_end >= self._to.until:
            self._ends = {partition: self._reader.offsets(partition).next for partition in self._partitions(state)}
        return self._ends is not None and inbox.is_past(self._ends)

    def done(self) -> Reached:
        """What the checkpoint then says of it."""
        return self._to.done()


def epoch_of(state: LogState) -> int:
    return 0 if state.source is None else state.source.epoch
