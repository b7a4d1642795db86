"""The applier: topics to one target, in order, each event once.

In consistency `key` the changes of each key are in order; in `transaction` each target transaction holds whole source
transactions, in the order of their commits (see `consumers.plan.transactions`, and `approach` for how it gets there).

The commit order, in every target transaction (`Target.transaction` keeps 1 to 4):

1. open the target transaction and take the checkpoint row compare-and-set, so that a zombie fails before it writes,
2. write rows,
3. write the checkpoint,
4. commit,
5. commit the offsets to the log, for lag displays only: on restart the checkpoint in the target is the truth.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import groupby
from operator import itemgetter
from typing import Final

from cdc.avro.names import state_topic, tables_topic, transaction_topic
from cdc.core.errors import AlreadyRunningError, TargetChangedError, TargetError
from cdc.core.events import ChangeEvent
from cdc.core.log import LogReader, StoredRecord, TopicPartition
from cdc.core.patterns import TablePatterns
from cdc.core.position import ORIGIN, Position
from cdc.core.registry import SchemaRegistry
from cdc.core.settings import LogSettings, TargetSettings, WrittenBy
from cdc.core.state import LogState, TableState
from cdc.log.contents import table_versions
from cdc.registry.decoding import Decoding
from consumers.apply.arrivals import Arrivals
from consumers.apply.connector import ConnectorLog
from consumers.apply.delivery import Delivery, Waiting
from consumers.apply.entering import AnyInbox, Approaching, Entrance, Reached, epoch_of
from consumers.apply.joining import Joining
from consumers.apply.kept import look_beyond, require_of_log
from consumers.apply.letters import DeadLetters
from consumers.apply.meanwhile import Meanwhile, alone
from consumers.apply.present import PresentTables
from consumers.apply.saving import Progress, Saving, log_id_of
from consumers.apply.standby import opened
from consumers.apply.start import first_checkpoint
from consumers.apply.waiting import WaitingPartitions
from consumers.plan.approach import claimed, furthest_of
from consumers.plan.as_text import AsText
from consumers.plan.checkpoint import Checkpoint, PartitionProgress, require_not_ahead, require_sound
from consumers.plan.inbox import Inbox, is_resent
from consumers.plan.mapping import EventMapping
from consumers.plan.part import PartInbox, Tied
from consumers.plan.transactions import TransactionInbox
from consumers.targets.target import Target

_IDLE_SECONDS: Final = 0.1  # the longest wait for a record; a stop is noticed within it
_place: Final = itemgetter(0, 1)  # a record's topic and partition
_READ_ON: Final = 1_000  # records at a time, while the target is written


class Applier:
    """One session, from opening the target to a stop or an error; after an error, make a new one.

    With `held` it takes these partitions only: others take the others (see `consumers.apply.sharing`).
    With `area` its tables are there (`consumers.plan.beside`). With `until` nothing above that position is applied, and
    what is comes in the order of each key. What it does counts in `progress`, if that is given.
    """

    def __init__(
        self,
        *,
        reader: LogReader,
        registry: SchemaRegistry,
        target: Target,
        settings: TargetSettings,
        prefix: str,
        written_by: WrittenBy = "cdc",
        delivery: Delivery | None = None,
        letters: DeadLetters | None = None,
        standby: bool = False,
        held: Collection[TopicPartition] | None = None,
        area: str | None = None,
        until: Position | None = None,
        progress: Progress | None = None,
        report: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._reader = reader
        self._connector = ConnectorLog(reader, prefix, report) if written_by == "debezium" else None
        self._target = target
        self._mapping = EventMapping(settings, area=area)
        self._letters = letters
        self._standby = standby
        self._held = held
        self._until = until
        self._waiting: WaitingPartitions | None = None
        self._writes_elsewhere = delivery is not None
        beside = Meanwhile(self._read_on).run if target.is_server else alone
        self._delivery = delivery or Delivery(target, self._mapping, letters, self._may_wait, beside)
        self._settings = settings
        self._prefix = prefix
        self._log_settings = LogSettings(prefix=prefix, written_by=written_by)
        self._patterns = TablePatterns(settings.tables)
        self._registry = registry
        self._decoding = Decoding(registry, seen=AsText(settings.as_text).seen)
        self._state_topic = state_topic(prefix)
        self._tables_topic = tables_topic(prefix)
        self._transactions = TopicPartition(transaction_topic(prefix), 0)
        self._entrance = Entrance(
            reader,
            settings,
            self._log_settings,
            resent=is_resent if self._connector is None else self._connector.resent,
            held=held,
            until=until,
            report=report,
        )
        self._state = LogState()
        self._state_offset = 0
        self._log_of_checkpoint: str | None = None
        self._superseded = False
        self._read_error: Exception | None = None
        self._approaching: Approaching | None = None
        self._inbox: AnyInbox | None = None
        self._paused: set[TopicPartition] = set()
        self._got_on = False
        self._is_crowded = False
        self._report = report
        self._arrivals = Arrivals(self._decoding, self._connector, self._patterns.matches)
        self.progress = progress or Progress()
        self._saving = Saving(
            target, self._delivery, reader, letters, progress=self.progress, put_back=self._put_back, report=report
        )

    def run(
        self,
        stopping: Callable[[], bool],
        *,
        applying: Callable[[], None] = lambda: None,
        got_on: Callable[[], None] = lambda: None,
    ) -> None:
        """Apply until `stopping()`. What was applied is committed, with its checkpoint, at every moment.

        `applying` is called once target and log are there, `got_on` whenever something was applied.
        """
        if not self.start(stopping, applying):
            return
        applying()
        while not stopping():
            if self.step(_IDLE_SECONDS):
                got_on()
        self.finish()

    def start(
        self, stopping: Callable[[], bool] = lambda: False, standing_by: Callable[[], None] = lambda: None
    ) -> bool:
        """Open the target, and wait for the log to say what it is. False if stopped before. `standing_by` is called if
        another applier is at work.
        """
        checkpoint = self._opened(stopping, standing_by)
        if checkpoint is None:
            return False
        name = self._settings.name
        require_sound(checkpoint, name, may_be_empty=self._held is not None or self._settings.start != "earliest")
        self._log_of_checkpoint = checkpoint.log_id
        self._saving.begin(checkpoint.partitions)
        if self._letters is not None:
            self._letters.open()
            self.progress.dead_letters = self._letters.count
        if self._mapping.hides:
            self._look_at_mapping()

        def stopping_alive() -> bool:
            self._target.keep_alive()
            return stopping()

        if checkpoint.log_id is None and not self._begin(stopping_alive):
            return False
        if self._connector is None and self._held is None:
            furthest = furthest_of(self.reached)
            look_beyond(self._reader, self._decoding.end, self._transactions, furthest, self._report)
        if not self._find_log(stopping_alive):
            return False
        if self._connector is None:
            require_not_ahead(self.reached, name, epoch_of(self._state))
            if self._letters is not None:
                self._letters.require_same_names(
                    {table.topic: self._mapping.name(table.table) for table in self._our_tables()}
                )
            self._look_at_joining()
        self._saving.tables = PresentTables(self._target, name, self._mapping.name, self.reached)
        self._enter()
        return True

    def _opened(self, stopping: Callable[[], bool], standing_by: Callable[[], None]) -> Checkpoint | None:
        def standby(error: AlreadyRunningError) -> None:
            self._report(f"standing by: {error}")
            standing_by()

        try:
            if not self._standby:
                return self._target.open()
            return opened(self._target, self._reader, stopping=stopping, standby=standby, report=self._report)
        except TargetChangedError as error:  # to open is to look at cdc's own tables only
            raise TargetError(
                f"{error}: somebody altered cdc's own tables at the target",
                mend="put them back as they were; or drop them and the target's tables: all is filled anew then",
            ) from None

    def _look_at_mapping(self) -> None:
        """Refuse what makes no sense for the tables as they are now, and say what hides nothing: it may be misspelt."""
        tables = [table for table in table_versions(self._reader, self._prefix) if self._patterns.matches(table.id)]
        self._mapping.require_sense(tables)
        for pattern in self._mapping.unmatched(tables) if tables else ():
            self._report(f"exclude_columns or mask: {pattern!r} matches no column of the tables as they are now")

    def _look_at_joining(self) -> None:
        """Refuse a table that joins too late to be followed. A delivery that was given writes to no tables."""
        if self._writes_elsewhere:
            return
        state = TopicPartition(self._state_topic, 0)
        joining = Joining(
            self._reader, self._decoding, prefix=self._prefix, target=self._settings.name, reached=self.reached
        )
        self._reader.unassign([state])
        joining.require_one_shape(
            self._our_tables(), lambda partition: self._entrance.progress_of(partition, self._state, self.reached)
        )
        self._reader.assign({state: self._state_offset})

    def _begin(self, stopping: Callable[[], bool]) -> bool:
        """Give a new target its first checkpoint, if it is not to begin with the earliest event. False if stopped
        before. Written at once: where it begins must not depend on when it is started again.
        """
        begun = first_checkpoint(
            self._reader, self._registry, self._settings, self._log_settings, stopping=stopping, report=self._report
        )
        if begun is not None and begun.log_id is not None:
            self._delivery.commit(begun.partitions, log_id=begun.log_id)
            self._log_of_checkpoint = begun.log_id
            self._saving.begin(begun.partitions)
        return begun is not None

    @property
    def reached(self) -> Reached:
        """How far the target is."""
        return self._saving.reached

    @property
    def is_whole(self) -> bool:
        """Whether all that was taken is committed: no transaction has come in part."""
        return self._saving.is_whole

    @property
    def partitions(self) -> list[TopicPartition]:
        """Those that hold the target's tables."""
        return [partition for table in self._our_tables() for partition in table.topic_partitions]

    def is_past(self, ends: Mapping[TopicPartition, int]) -> bool:
        """Whether all that is to be applied of what stands before these offsets was (only with `until`)."""
        return isinstance(self._inbox, Inbox) and self._inbox.is_past(ends)

    def finish(self) -> None:
        """Write the checkpoint of what brought no rows. A transaction that came in part is left for the next start."""
        self._saving.abandon()
        self._saving.save(self._state)

    def claim(self) -> None:
        """Write to the target which log its checkpoint belongs to, before anything is applied."""
        self._delivery.commit(claimed(), log_id=self.log_id)

    def leave(self) -> None:
        """Read nothing any more, so that another can be made with the same reader."""
        self._saving.abandon()
        partitions = [partition for table in self._state.tables.values() for partition in table.topic_partitions]
        others = [TopicPartition(topic, 0) for topic in (self._state_topic, self._tables_topic)]
        self._reader.unassign([*partitions, *others, self._transactions])

    @property
    def topics(self) -> frozenset[str]:
        """Those of the target's tables, as far as they are known."""
        return frozenset(table.topic for table in self._our_tables())

    @property
    def other_topics(self) -> frozenset[str]:
        """Those of tables that the target does not get."""
        return frozenset(self._state.tables) - self.topics

    @property
    def tied(self) -> Tied:
        """What it can't take with the partitions that it holds."""
        return self._inbox.tied if isinstance(self._inbox, PartInbox) else {}

    @property
    def has_refused(self) -> bool:
        """Whether it can't go on with the partitions that it holds, because the target refused an event of them."""
        return isinstance(self._inbox, PartInbox) and self._inbox.has_refused

    def step(self, timeout: float) -> bool:
        """Read what is there (waiting up to `timeout` seconds for the first record) and apply what may be applied.
        Whether that was anything.
        """
        self._read(timeout)
        got_on = self._take()
        while self._learn_ends():
            got_on |= self._take()
        self._pause_crowded(got_on=got_on)
        self._look_at_approach()
        self._target.keep_alive()
        self._got_on = got_on
        return got_on

    def _take(self) -> bool:
        if self._is_over or self._read_error is not None:
            return False
        batch = self._the_inbox.take(self._settings.batch_events)
        self._saving.write(batch, self._state)
        return bool(batch.events or batch.progress)

    def _read(self, timeout: float) -> None:
        if self._read_error is not None:
            raise self._read_error
        # What is left of what was read before must not wait for more; nor does more come while that is enough.
        if not (self._got_on and self._is_crowded):
            self._add_read(self._settings.batch_events, 0 if self._got_on or self._is_over else timeout)
        self._look_at_connector()
        if self._is_over:  # not earlier: what was polled must not go into another inbox
            is_superseded, self._superseded = self._superseded, False
            self._begin_again(load=not is_superseded)

    @property
    def _is_over(self) -> bool:
        """Whether nothing may be taken from the inbox any more."""
        return self._superseded or (isinstance(self._inbox, TransactionInbox) and self._inbox.holds_load)

    def _add_read(self, most: int, timeout: float) -> bool:
        """Whether there was anything to read."""
        # Whole transactions count events, and what else is handed out are events: only tables are filled by runs.
        runs = isinstance(self._inbox, Inbox) and not self._writes_elsewhere
        found = self._reader.poll_runs(most, timeout) if runs else self._reader.poll(most, timeout)
        for place, records in groupby(found, key=_place):
            self._add(TopicPartition(*place), records)
        return bool(found)

    def _read_on(self) -> bool:
        """Read a little of what comes next, while the target is written. Whether there may be more. What is wrong with
        it is said when it is read for itself.
        """
        if self._read_error is not None or self._is_over or not self._the_inbox.has_room():
            return False
        if self._waiting is not None and self._waiting.has_any:
            return False  # it might come again before what it waits for
        try:
            return self._add_read(_READ_ON, 0)
        except Exception as error:  # noqa: BLE001  # nothing of it is lost
            self._read_error = error
            return False

    def _find_log(self, stopping: Callable[[], bool]) -> bool:
        """Read the state topic to its end and until it says which log this is, or look at the connector's topics;
        False if stopped before.
        """
        end = 0
        if self._connector is not None:
            self._look_at_connector()
            if self._state.log_id is None:
                self._report("waiting for the connector to make its topics")
        elif self._find_state_topic(stopping):
            end = self._reader.offsets(TopicPartition(self._state_topic, 0)).next
        else:
            return False
        while self._state.log_id is None or self._state_offset < end:
            if stopping():
                return False
            self._read(_IDLE_SECONDS)
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

    # -- how records are taken -----------------------------------------------------------------------------------

    def _enter(self, *, approached: bool = False, load: bool = False) -> None:
        """Begin to take records in the way that is due where the target stands, from there."""
        tables = self._our_tables()
        for table in tables:
            self._mapping.name(table.table)  # refused before anything is applied, if two tables have one name
        entered = self._entrance.enter(self._state, self.reached, approached=approached, load=load)
        self._inbox, self._approaching = entered.inbox, entered.approaching
        self._saving.note(entered.unsaved)
        # Whole transactions are in the order in which the source took them: nothing comes later that they could need.
        self._waiting = WaitingPartitions(self._reader, self._inbox) if isinstance(self._inbox, Inbox) else None
        self._reader.resume(self._paused)
        self._paused = set()
        self._follow_tables()
        for table in tables:
            self._assign(table)

    def _look_at_approach(self) -> None:
        """Begin with whole transactions once all that comes before them was taken."""
        if self._approaching is None or not isinstance(self._inbox, Inbox):
            return
        if self._is_over or self._read_error is not None:
            return
        if self._approaching.is_over(self._state, self._inbox):
            self._saving.note(self._approaching.done())
            self._saving.save(self._state)
            self._enter(approached=True)

    def _begin_again(self, *, load: bool = False) -> None:
        """The log's source was loaded anew: what is under way is superseded. Or a `load` comes that is still to be
        approached.
        """
        self._saving.abandon()
        self._saving.save(self._state)
        self._reader.unassign([self._transactions])
        self._enter(load=load)

    def _follow_tables(self) -> None:
        """Follow the tables topic; a log that cdc did not write has none."""
        partition = TopicPartition(self._tables_topic, 0)
        if partition.topic in self._reader.topics():
            first = self._reader.offsets(partition).first
            progress = self.reached.get(partition, PartitionProgress(ORIGIN, first))
            # Whole transactions come in the order of commits, and some of the topic is read again with them.
            is_in_order = isinstance(self._inbox, TransactionInbox)
            self._arrivals.passed = furthest_of(self.reached) if is_in_order else progress.position
            self._reader.assign({partition: self._the_inbox.assign_tables(partition, progress, first)})

    def _our_tables(self) -> list[TableState]:
        return self._entrance.tables(self._state)

    # -- records -------------------------------------------------------------------------------------------------

    def _add(self, partition: TopicPartition, records: Iterable[StoredRecord]) -> None:
        if partition.topic == self._state_topic:
            for record in records:
                self._state_offset = record.offset + 1
                self._learn_state(self._state.with_record(record))
        elif partition == self._transactions:
            self._arrivals.add_ends(self._the_inbox, self._approaching, records)
        elif partition.topic == self._tables_topic:
            loaded = epoch_of(self._state) if self._until is None else self._until.epoch
            self._arrivals.add_alterations(self._the_inbox, partition, records, loaded=loaded)
        else:
            self._arrivals.add_events(self._the_inbox, partition, [*records])

    def _look_at_connector(self) -> None:
        if self._connector is not None:
            self._connector.look()
            self._learn_state(self._connector.state)

    def _learn_state(self, state: LogState) -> None:
        known, self._state = self._state, state
        require_of_log(self._log_of_checkpoint, state.log_id, self._settings.name)
        if self._letters is not None:
            self._letters.require_own_topic(state.tables)
        if self._inbox is None:
            return  # `_enter` looks at all of it
        for topic in state.tables.keys() - known.tables.keys():
            table = state.tables[topic]
            if self._patterns.matches(table.table):
                self._mapping.name(table.table)
                self._assign(table)
            if isinstance(self._inbox, TransactionInbox):
                self._entrance.introduce(self._inbox, [table])
        is_another_epoch = known.source != state.source and epoch_of(state) != epoch_of(known)
        if is_another_epoch and self._settings.consistency == "transaction":
            self._superseded = True

    def _assign(self, table: TableState) -> None:
        if self._connector is not None:
            self._saving.note(self._connector.begun(table, self.reached))
        start: dict[TopicPartition, int] = {}
        for partition in table.topic_partitions:
            if self._held is not None and partition not in self._held:
                continue
            progress = self._entrance.progress_of(partition, self._state, self.reached)
            start[partition] = progress.next_offset
            self._the_inbox.assign(partition, progress)
        self._reader.assign(start)

    def _learn_ends(self) -> bool:
        """Ask the log what the inbox wants to know of it. Whether that was anything."""
        wanted = self._the_inbox.ends_wanted()
        for topic in wanted:
            state = self._state.tables.get(topic)
            partitions = [TopicPartition(topic, 0)] if state is None else state.topic_partitions
            self._the_inbox.ends(topic, {partition: self._reader.offsets(partition).next for partition in partitions})
        return bool(wanted)

    def _put_back(self, waiting: Waiting) -> None:
        """Events that have to wait are read again."""
        if self._waiting is not None and waiting:
            self._waiting.begin(waiting, self._saving.reached)
            self._paused.difference_update(waiting)  # they are assigned anew

    def _may_wait(self, event: ChangeEvent) -> bool:
        if isinstance(self._inbox, PartInbox):
            self._inbox.refuse(event)
            return True
        return self._waiting is not None and self._waiting.may_wait(event)

    def _pause_crowded(self, *, got_on: bool) -> None:
        """Stop reading partitions that wait for others: memory stays bounded. While the applier gets on, it is enough
        to read nothing: a reader forgets what it fetched of a partition that it pauses.
        """
        crowded = self._the_inbox.crowded()
        self._is_crowded = bool(crowded)
        paused = crowded & self._paused if got_on else crowded
        if self._waiting is not None:
            paused |= self._waiting.paused()
        if paused != self._paused:
            self._reader.pause(paused - self._paused)
            self._reader.resume(self._paused - paused)
            self._paused = paused

    @property
    def log_id(self) -> str:
        """Known once it has started."""
        return log_id_of(self._state)

    @property
    def _the_inbox(self) -> AnyInbox:
        if self._inbox is None:
            raise AssertionError("nothing but the state topic is read before the log is known")
        return self._inbox
