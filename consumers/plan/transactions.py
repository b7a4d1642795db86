"""Records that were read and not applied yet, taken as whole source transactions (consistency `transaction`).

The transaction topic says, in commit order, which transactions there are, and how many events each has in every table
(an END). Events of a transaction come in many partitions, in each of them in the order of positions. The ENDs are taken
one by one. A transaction is complete when as many distinct events of it are here as its END counts, of the tables that
this target has, and the changes of shape that it counts. Its events are then taken in the order of their ordinals.

- **A resend** of capture, after a crash, repeats events with the positions that they had: what is not above the
  position last read from its partition is skipped. It may also leave out what an earlier session wrote (of a table that
  is to be read again), so counts don't prove anything of an END that may be a resent one. It says so, and its
  partitions are read up to where they ended after it.
- **Events that no END counts** were never all in the log, or are of a table that is to be read again. They are dropped,
  but not changes of shape: a capture that began again goes on from what the tables topic has, and says it only once.
  Later events tell which change they go on from; they wait until it was read.
- **A transaction larger than a batch** is taken in parts, all for one target transaction. A part has what no partition
  can still bring anything before: up to the lowest position read among the partitions that are not beyond the
  transaction.
- **A transaction with a change of shape** is taken by itself.

Partitions of which enough was read are `crowded`, the transaction topic too. Nothing deadlocks: what is crowded with
events up to the current END gives some away, and what is crowded with later ones has no more of the current. Changes of
shape are read on while the current transaction's events wait for one.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, Final, NamedTuple

from cdc.avro.scanned import ScannedEvent
from cdc.avro.transactions import MESSAGES, End
from cdc.core.errors import GapError, LogGapError
from cdc.core.events import ChangeEvent, Delete
from cdc.core.log import TopicPartition
from cdc.core.position import ORIGIN, Position
from consumers.plan.approach import whole
from consumers.plan.batch import Arrived, Batch
from consumers.plan.checkpoint import PartitionProgress
from consumers.plan.room import Room

_TransactionKey = tuple[int, int]  # epoch and commit LSN

# An applier that got on looks at once for what comes next, and waits only if that is nothing. Before it has waited in
# vain for about a second, it is too early to ask a log where it ends: that takes as long as many records.
_QUIET: Final = 10
_MOST_LOOKS: Final = 50  # at an END that lacks something, while other tables are never quiet
_ALL_TOGETHER: Final = 4  # partitions' room for events, for all of them; what has larger rows fills the room for bytes
_START_OVER: Final = "`cdc capture --start-over` loads all tables again; a longer [log] retention avoids it"


class _Entry(NamedTuple):
    """An event, or the place of another target's change of shape; the offset of what is to be taken after it. `number`
    counts the entries that its partition has had, up to it, and `size` their bytes in the log.
    """

    position: Position
    event: ChangeEvent | None
    partition: _Partition
    next_offset: int
    number: int
    size: int


@dataclass(slots=True, eq=False)
class _Partition:
    """`number` and `size` are those of the entry that was read last, `number_taken` and `size_taken` of the one that
    was taken last; `taken` is its position, and `next_taken` the offset of what is to be taken next. `skipped` says
    where that is behind records which hold nothing new. `moved`: since the last batch.
    """

    id: TopicPartition
    read: Position
    next_read: int
    taken: Position
    next_taken: int
    number: int = 0
    size: int = 0
    number_taken: int = 0
    size_taken: int = 0
    last_offset: int = 0
    skipped: dict[int, int] = field(default_factory=dict)
    moved: bool = False

    def note(
        self, position: Position, event: ChangeEvent | None, size: int, transaction: _Transaction, topic: str
    ) -> None:
        """The record read last is an entry of that transaction."""
        self.read = position
        self.last_offset = self.next_read
        self.number += 1
        self.size += size
        entry = (position, event, self, self.next_read, self.number, self.size)
        transaction.entries.append(tuple.__new__(_Entry, entry))
        transaction.counts[topic] = transaction.counts.get(topic, 0) + 1

    def skip(self) -> bool:
        """The record read last holds nothing new. It goes with the event before it, so that any number take no room.
        Whether that was taken already.
        """
        if self.number > self.number_taken:
            self.skipped[self.last_offset] = self.next_read
            return False
        self.next_taken = self.next_read
        return True

    def take(self, last: _Entry) -> None:
        """All up to this entry was taken."""
        self.taken, _, _, self.next_taken, self.number_taken, self.size_taken = last
        if self.skipped:
            self.next_taken = self.skipped.get(last.next_offset, last.next_offset)
            self.skipped = {at: to for at, to in self.skipped.items() if at > last.next_offset}


@dataclass(slots=True)
class _Transaction:
    """What is here of one, and how many events were read of each topic, those that were taken in part included.
    `altered` is the latest change of shape that they go on from.
    """

    entries: list[_Entry]
    counts: dict[str, int]
    altered: Position = ORIGIN


@dataclass(slots=True)
class _Due:
    """An END that waits to be taken, and what it wants of each topic (once all its tables are known). It was looked at
    so many times while it was the first and lacked something.
    """

    said: End
    key: _TransactionKey
    offset: int
    said_at: int
    wanted: dict[str, int] | None = None
    in_parts: bool = False
    looks: int = 0


class TransactionInbox:
    """Holds what was read. `floor`: all that stands at or below it was taken before. ENDs of an epoch after `epoch`
    wait for another inbox. With `trimmed`, records before `progress` are gone from the transaction topic: what comes
    first there must have been taken before, or else ENDs are missing between.
    """

    def __init__(
        self,
        *,
        room: Room,
        transactions: TopicPartition,
        progress: PartitionProgress,
        epoch: int,
        floor: Position,
        trimmed: bool = False,
    ) -> None:
        self._room = room
        self._trimmed = trimmed
        self._transactions = transactions
        self._epoch = epoch
        self.next_end = progress.next_offset
        self._applied = max(progress.position, floor)
        self._tables: TopicPartition | None = None
        self._partitions: dict[TopicPartition, _Partition] = {}
        self._topics: dict[str, list[TopicPartition]] = {}
        self._names: dict[str, str | None] = {MESSAGES: None}
        self._open: dict[_TransactionKey, _Transaction] = {}
        self._open_keys: deque[_TransactionKey] = deque()  # in order, without the new ones
        self._new_keys: list[_TransactionKey] = []
        self._due: deque[_Due] = deque()
        self._due_by_key: dict[_TransactionKey, _Due] = {}
        self._log_ends: dict[str, tuple[int, Mapping[TopicPartition, int]]] = {}
        self._progress: dict[TopicPartition, PartitionProgress] = {}  # but of those that were moved
        self._moved: list[_Partition] = []
        self._taken: dict[_Partition, _Entry] = {}  # the last of each, not noted in the partitions yet
        self._usual: Mapping[str, int] | None = None  # the counts of an END, and what it wants
        self._usual_wanted: dict[str, int] = {}
        self._is_in_order = True
        self._quiet = 0  # times that `take` was called since anything was read
        self._awaits_shape = False
        self.dropped = 0
        self.holds_load = False

    def assign(self, partition: TopicPartition, progress: PartitionProgress) -> None:
        """Events of this partition will come, from `progress.next_offset`."""
        at, offset = progress.position, progress.next_offset
        self._partitions[partition] = _Partition(partition, at, offset, at, offset)
        self._topics.setdefault(partition.topic, []).append(partition)

    def assign_tables(self, partition: TopicPartition, progress: PartitionProgress) -> None:
        """As `assign`, of the tables topic."""
        self._tables = partition
        self.assign(partition, progress)

    def know(self, name: str, topic: str | None) -> None:
        """What ENDs call `name` is in `topic`; None for a table that this target does not have."""
        self._names[name] = topic
        self._usual = None

    def add(
        self,
        partition: TopicPartition,
        offset: int,
        event: ChangeEvent | None,
        truncated: Position = ORIGIN,
        *,
        altered: Position = ORIGIN,
        size: int = 0,
    ) -> None:
        """One record; see `add_all`."""
        self.add_all(partition, [(offset, event, truncated, altered, size)])

    def add_all(self, partition: TopicPartition, arrived: Iterable[Arrived]) -> None:
        """Records of the partition, in the order of offsets. LogGapError if the one before one is not there. The
        order of commits says what comes after a truncate.
        """
        here, topic, new = self._partitions[partition], partition.topic, tuple.__new__
        key: _TransactionKey | None = None
        transaction = _Transaction([], {})
        self._quiet = 0
        for offset, event, _, altered, size in arrived:
            if offset != here.next_read:
                raise _lost(partition, here.next_read, offset)
            here.next_read = offset + 1
            if event is None:
                self._skip(here)
                continue
            of = event.transaction
            # Not by Position's own __new__, which takes twice as long.
            position = new(Position, (of.epoch, of.commit_lsn, event.ordinal))
            if position <= here.read:
                self._skip(here)
            else:
                if key != position[:2]:
                    key = position[:2]
                    transaction = self._open.get(key) or self._opened(key)
                here.note(position, event, size, transaction, topic)
                transaction.altered = max(transaction.altered, altered)
            if of.xid is None and self._is_new_load(position):
                self.holds_load = True

    def _is_new_load(self, position: Position) -> bool:
        return position.epoch == self._epoch and position > self._applied

    def add_alteration(
        self,
        partition: TopicPartition,
        offset: int,
        position: Position | None,
        event: ChangeEvent | None,
        topics: frozenset[str] = frozenset(),  # noqa: ARG002
    ) -> None:
        """One record of the tables topic. `event` is None if it concerns no table of this target; it counts anyway."""
        here = self._partitions[partition]
        here.next_read = offset + 1  # a compacted topic may have holes
        self._quiet = 0
        if position is None or position <= here.read:
            self._skip(here)
            return
        transaction = self._open.get(position[:2]) or self._opened(position[:2])
        here.note(position, event, 0, transaction, partition.topic)

    def add_end(self, offset: int, end: End | None) -> None:
        """One record of the transaction topic; None for any but an END. LogGapError if one before it is not there."""
        if offset != self.next_end:
            raise _lost(self._transactions, self.next_end, offset)
        if self._trimmed and end is not None and end.end.is_transaction:
            if end.position > self._applied:
                raise _trimmed(self._transactions, end, self._applied)
            self._trimmed = False
        self.next_end = offset + 1
        self._quiet = 0
        # What is no transaction may stand at the place of the one after it, and has nothing to be waited for.
        if end is None or not end.end.is_transaction or end.position <= self._applied:
            if not self._due:
                self._progress[self._transactions] = PartitionProgress(self._applied, self.next_end)
            return
        key = end.key
        again = self._due_by_key.get(key)
        if again is not None:
            again.said, again.wanted, again.said_at = end, None, offset
            return
        due = self._due_by_key[key] = _Due(end, key, offset, said_at=offset)
        self._due.append(due)
        if len(self._due) > 1 and self._due[-2].key > key:
            self._due = deque(sorted(self._due, key=lambda each: each.key))
            self._is_in_order = False

    def crowded(self) -> set[TopicPartition]:
        """Partitions of which enough is here for now."""
        crowded = {partition for partition, here in self._partitions.items() if self._is_crowded(here)}
        if self._awaits_shape and self._tables is not None:
            crowded.discard(self._tables)
        return crowded | {self._transactions} if len(self._due) >= self._room.events else crowded

    def has_room(self) -> bool:
        """Whether more may be read of any partition: of one that is crowded, too, while others have little. As always,
        a single event is not too much.
        """
        events = sum(here.number - here.number_taken for here in self._partitions.values())
        size = sum(here.size - here.size_taken for here in self._partitions.values())
        has_bytes = size < self._room.size or events <= 1
        return has_bytes and events < _ALL_TOGETHER * self._room.events and len(self._due) < self._room.events

    def _is_crowded(self, here: _Partition) -> bool:
        waiting = here.number - here.number_taken
        return self._room.is_full(waiting, here.size - here.size_taken, len(self._partitions))

    def ends_wanted(self) -> set[str]:
        """Topics of which `ends` must be told before the current END can be judged."""
        if not self._due:
            return set()
        due = self._due[0]
        is_stuck = self._quiet > _QUIET or due.looks > _MOST_LOOKS
        if due.wanted is None or not (due.said.resent or due.in_parts or is_stuck):
            return set()
        involved = self._involved(due) | ({self._tables.topic} if self._tables is not None else set())
        return {topic for topic in involved if self._ends_of(topic, due) is None}

    def ends(self, topic: str, ends: Mapping[TopicPartition, int]) -> None:
        """Where each partition of the topic ends (its next offset), asked of the log after `ends_wanted` named it."""
        self._log_ends[topic] = self.next_end, ends

    def take(self, most: int) -> Batch:
        """Whole transactions of about `most` events in all, or a part of one (then the batch is not `whole`).

        GapError if events of a transaction are missing.
        """
        batch, nothing = Batch(), _Transaction([], {})
        last: End | None = None  # that was taken and is not noted yet
        self._quiet += 1
        self._awaits_shape = False
        self._sort_open()
        while self._due and len(batch.events) < most:
            due = self._due[0]
            if self._take_usual(due, batch):
                last = due.said
                continue
            self._note_taken(last)
            last = None
            if self._open_keys and self._open_keys[0] < due.key and self._drop_before(due.key, batch):
                batch.whole = not due.in_parts
                break
            here = self._open.get(due.key, nothing)
            alone = due.in_parts or due.said.alterations > 0 or self._changes_shape(here)
            if (alone and batch.events) or not self._is_known(due) or not self._is_altered(due, here):
                break
            if not self._is_complete(due, here):
                due.looks += 1
                if not batch.events:
                    self._take_part(due, here, batch, most)
                break
            self._take_whole(due, here, batch)
            if due.in_parts or (alone and batch.events):
                break
        self._note_taken(last)
        self._settle()
        if batch.whole:
            batch.progress, self._progress = self._progress, {}
            for moved in self._moved:
                batch.progress[moved.id] = PartitionProgress(moved.taken, moved.next_taken)
                moved.moved = False
            self._moved = []
        return batch

    def _opened(self, key: _TransactionKey) -> _Transaction:
        self._new_keys.append(key)
        transaction = self._open[key] = _Transaction([], {})
        return transaction

    def _sort_open(self) -> None:
        if not self._new_keys:
            return
        self._new_keys.sort()
        if self._open_keys and self._open_keys[-1] > self._new_keys[0]:
            self._open_keys = deque(sorted([*self._open_keys, *self._new_keys]))
        else:
            self._open_keys += self._new_keys
        self._new_keys = []

    def _skip(self, here: _Partition) -> None:
        if here.skip():
            self._move(here)

    def _move(self, here: _Partition) -> None:
        if not here.moved:
            here.moved = True
            self._moved.append(here)

    def _drop_before(self, key: _TransactionKey, batch: Batch) -> bool:
        """Drop events of transactions that have no END: one would have come before the current one. Whether a change of
        shape among them has to be taken first, in a batch of its own. Those of a later epoch, its load too, are for
        another inbox: an END may be read before the state topic tells of its epoch.
        """
        while self._open_keys and self._open_keys[0] < key and self._open_keys[0][0] <= self._epoch:
            transaction = self._open[self._open_keys[0]]
            if batch.events and self._changes_shape(transaction):
                return True
            del self._open[self._open_keys.popleft()]
            batch.events += self._pass(sorted(transaction.entries, key=self._place), {}, transaction)
            # So that what it was is not beyond where the target stands, after a restart too.
            self._applied = max(self._applied, whole(transaction.entries[0].position))
            self._progress[self._transactions] = PartitionProgress(self._applied, self._first_due_offset())
            if self._changes_shape(transaction) and batch.events:
                return True
        return False

    def _changes_shape(self, transaction: _Transaction) -> bool:
        return self._tables is not None and self._tables.topic in transaction.counts

    def _is_altered(self, due: _Due, transaction: _Transaction) -> bool:
        """Whether the change of shape that its events go on from was read. GapError if it can't be any more."""
        if transaction.altered is ORIGIN or self._tables is None:
            return True
        if self._partitions[self._tables].read >= transaction.altered:
            return True
        self._awaits_shape = True  # which may be beyond more changes than there is room for
        ends = self._ends_of(self._tables.topic, due)
        if ends is not None and self._partitions[self._tables].next_read >= ends[self._tables]:
            raise GapError(
                f"topic {self._tables.topic!r} no longer holds the change of a table at {transaction.altered}, which"
                f" transaction {due.said.end.id} goes on from",
                mend="`cdc capture --start-over` loads all tables again; that topic must be kept for ever",
            )
        return False

    def _is_known(self, due: _Due) -> bool:
        """Whether the state topic, which tells of a table before any END does, was read far enough."""
        if due.said.end.epoch > self._epoch:
            return False
        if due.wanted is None:
            counts = due.said.end.event_counts
            if counts is self._usual and not due.said.alterations:
                due.wanted = self._usual_wanted
                return True
            if not self._names.keys() >= counts.keys():
                return False
            due.wanted = {}
            for name, count in counts.items():
                topic = self._names[name]
                if topic is not None:
                    due.wanted[topic] = due.wanted.get(topic, 0) + count
            if due.said.alterations and self._tables is not None:
                due.wanted[self._tables.topic] = due.said.alterations
            elif self._topics.keys() >= due.wanted.keys():
                self._usual, self._usual_wanted = counts, due.wanted
        return self._topics.keys() >= due.wanted.keys()

    def _is_complete(self, due: _Due, here: _Transaction) -> bool:
        wanted = due.wanted or {}
        if here.counts == wanted and not due.said.resent:
            return True
        if not all(here.counts.get(topic, 0) >= count for topic, count in wanted.items()):
            return False
        return not due.said.resent or not wanted or not self._unfinished(due)

    def _unfinished(self, due: _Due) -> list[_Partition]:
        """Partitions that may still bring events of this transaction."""
        key = due.key
        unfinished = []
        for topic in self._involved(due):
            ends = self._ends_of(topic, due)
            for partition in self._topics[topic]:
                here = self._partitions[partition]
                at_end = ends is not None and here.next_read >= ends[partition]
                if here.read[:2] <= key and not at_end:
                    unfinished.append(here)
        return unfinished

    def _involved(self, due: _Due) -> set[str]:
        return set(due.wanted or ())

    def _ends_of(self, topic: str, due: _Due) -> Mapping[TopicPartition, int] | None:
        asked_at, ends = self._log_ends.get(topic, (0, {}))
        return ends if asked_at > due.said_at else None

    def _take_usual(self, due: _Due, batch: Batch) -> bool:
        """Take the transaction if it is complete, and like the one before it. Else it needs a closer look."""
        said, key = due.said, due.key
        if said.end.event_counts is not self._usual or said.alterations or said.resent or due.in_parts:
            return False
        here = self._open.get(key)
        if here is None or here.counts != self._usual_wanted or here.altered is not ORIGIN:
            return False
        if self._open_keys[0] != key or key[0] > self._epoch:
            return False
        here.entries.sort(key=_position)
        taken, add = self._taken, batch.events.append
        for entry in here.entries:
            taken[entry[2]] = entry
            add(entry[1])  # type: ignore[arg-type]  # a change of shape would count
        del self._open[key], self._due_by_key[key]
        self._open_keys.popleft()
        self._due.popleft()
        return True

    def _note_taken(self, last: End | None) -> None:
        """All transactions up to this one, if any, were taken."""
        if last is not None:
            self._applied = last.position
            self._progress[self._transactions] = PartitionProgress(self._applied, self._first_due_offset())

    def _take_whole(self, due: _Due, here: _Transaction, batch: Batch) -> None:
        if self._open.pop(due.key, None) is not None:
            self._open_keys.popleft()
        here.entries.sort(key=self._order_of(here))
        batch.events += self._pass(here.entries, due.wanted or {}, here)
        self._due.popleft()
        del self._due_by_key[due.key]
        self._note_taken(due.said)

    def _first_due_offset(self) -> int:
        if not self._due:
            return self.next_end
        return self._due[0].offset if self._is_in_order else min(due.offset for due in self._due)

    def _take_part(self, due: _Due, here: _Transaction, batch: Batch, most: int) -> None:
        unfinished = self._unfinished(due)
        if not unfinished:
            raise self._missing(due, here)
        self._settle()
        # A resent one may fill a partition that has to be read on.
        is_large = sum((due.wanted or {}).values()) > most or any(map(self._is_crowded, unfinished))
        if not is_large and not due.in_parts:
            return
        due.in_parts = True
        frontier = min(each.read for each in unfinished)
        here.entries.sort(key=self._order_of(here))
        ready = bisect_right(here.entries, frontier, key=_position)
        if ready and _awaits_create(here.entries[ready - 1].event):
            ready -= 1  # a row is moved by both halves together
        batch.events += self._pass(here.entries[:ready], due.wanted or {}, here)
        del here.entries[:ready]
        batch.whole = False

    def _pass(self, entries: list[_Entry], wanted: Mapping[str, int], of: _Transaction) -> list[ChangeEvent]:
        """The entries' events, if they are of topics that are `wanted`, and changes of shape. Each brings its partition
        up to it.
        """
        for entry in entries:
            self._taken[entry[2]] = entry
        if of.counts == wanted and not self._changes_shape(of):
            return [entry[1] for entry in entries if entry[1] is not None]
        events: list[ChangeEvent] = []
        for entry in entries:
            if entry.partition.id.topic not in wanted and entry.partition.id != self._tables:
                self.dropped += 1
            elif entry.event is not None:
                events.append(entry.event)
        return events

    def _settle(self) -> None:
        """Note in the partitions what was taken of them."""
        for here, last in self._taken.items():
            here.take(last)
            self._move(here)
        self._taken.clear()

    def _order_of(self, transaction: _Transaction) -> Callable[[_Entry], Any]:
        return self._place if self._changes_shape(transaction) else _position

    def _place(self, entry: _Entry) -> tuple[Position, bool]:
        """A change of shape stands where the event stands that it comes before."""
        return entry.position, entry.partition.id != self._tables

    def _missing(self, due: _Due, here: _Transaction) -> GapError:
        short = [
            f"{count - here.counts.get(topic, 0)} of {count} in {topic!r}"
            for topic, count in sorted((due.wanted or {}).items())
            if here.counts.get(topic, 0) < count
        ]
        return GapError(
            f"transaction {due.said.end.id} is not whole in the log: it lacks {', '.join(short)}", mend=_START_OVER
        )


_position: Final = itemgetter(0)


def _awaits_create(event: ChangeEvent | None) -> bool:
    if event is None or isinstance(event, ScannedEvent):
        return False
    return isinstance(event.change, Delete) and event.change.awaits_create


def _trimmed(partition: TopicPartition, end: End, applied: Position) -> LogGapError:
    return LogGapError(
        f"topic {partition.topic!r} begins with transaction {end.end.id} now, and the target has all up to {applied}:"
        " transactions between may be gone",
        mend=f'go on with consistency = "key"; {_START_OVER}',
    )


def _lost(partition: TopicPartition, wanted: int, found: int) -> LogGapError:
    return LogGapError(
        f"topic {partition.topic!r}, partition {partition.partition}: offset {found} came after {wanted - 1}; what"
        " stood between is gone, and whole transactions can't be told without it",
        mend='transactions need topics that are not compacted (cleanup.policy = "delete"); `cdc capture --start-over`'
        ' loads all tables again, or use consistency = "key"',
    )
