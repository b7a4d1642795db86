"""Records that were read and not applied yet, taken as whole source transactions (consistency `transaction`).

The transaction topic says, in commit order, which transactions there are, and how many events each has in every table
(an END). A transaction is complete when as many distinct events of it are here as its END counts, of the tables that
this target has, and the changes of shape that it counts. As many as are complete are taken together, partition by
partition; where an event must stand on the right side of what other partitions have (a truncate, a changed key, a
change of shape), in the order of the source.

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

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Final

from cdc.avro.transactions import MESSAGES, End
from cdc.core.errors import GapError
from cdc.core.events import ChangeEvent
from cdc.core.log import TopicPartition
from cdc.core.position import ORIGIN, Position
from consumers.plan.approach import whole
from consumers.plan.batch import Arrived, Batch
from consumers.plan.checkpoint import PartitionProgress
from consumers.plan.due_ends import START_OVER, Due, DueEnds, lost
from consumers.plan.partition_queues import PartitionQueue, PartitionQueues, TransactionKey, key_of, with_both_halves
from consumers.plan.room import Room

# An applier that got on looks at once for what comes next, and waits only if that is nothing. Before it has waited in
# vain for about a second, it is too early to ask a log where it ends: that takes as long as many records.
_QUIET: Final = 10
_MOST_LOOKS: Final = 50  # at an END that lacks something, while other tables are never quiet
_ALL_TOGETHER: Final = 4  # partitions' room for events, for all of them; what has larger rows fills the room for bytes
_MOST_KINDS: Final = 1024

_Unread = list[tuple[TransactionKey, int]]
"""Of partitions that have not come beyond all that is due: the transaction that was read last, and `_asked_at_end`."""


@dataclass(frozen=True, slots=True, eq=False)
class _Kind:
    """What the ENDs that have the very same `counts` want: of which topic, how many events in all, and from where."""

    counts: Mapping[str, int]
    wanted: Mapping[str, int]
    count: int
    queues: Sequence[PartitionQueue]


@dataclass(slots=True)
class _Head:
    """What is known of an END that was the first of those due, and could not be taken at once: what it wants of each
    topic (once all its tables are known), how much of that was taken in parts, and how often it lacked something.
    """

    wanted: Mapping[str, int] | None = None
    in_parts: bool = False
    taken: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
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
        self._epoch = epoch
        self._due = DueEnds(transactions, progress, applied=max(progress.position, floor), trimmed=trimmed)
        self._queues = PartitionQueues()
        self._names: dict[str, str | None] = {MESSAGES: None}
        # How many events were read of each transaction and not taken as a whole yet, by epoch and commit LSN; which of
        # them have changes of shape, and go on from one that was not read yet.
        self._counts: defaultdict[int, dict[int, int]] = defaultdict(dict)
        self._shapes: set[TransactionKey] = set()
        self._altered: dict[TransactionKey, Position] = {}
        self._heads: dict[TransactionKey, _Head] = {}
        self._log_ends: dict[str, tuple[int, Mapping[TopicPartition, int]]] = {}
        self._kinds: dict[int, _Kind] = {}
        self._quiet = 0  # times that `take` was called since anything was read
        self._awaits_shape = False
        self.holds_load = False

    @property
    def dropped(self) -> int:
        """Events that no END counted."""
        return self._queues.dropped

    def assign(self, partition: TopicPartition, progress: PartitionProgress) -> None:
        """Events of this partition will come, from `progress.next_offset`."""
        self._queues.assign(partition, progress)
        self._kinds.clear()

    def assign_tables(self, partition: TopicPartition, progress: PartitionProgress, first: int | None = None) -> int:
        """As `assign`, of the tables topic, whose records begin at offset `first`. From where on it is to be read: from
        there. An END counts other targets' changes of shape too, and what took this one to where whole transactions
        begin has passed them by.
        """
        self._queues.tables = queue = self._queues.assign(partition, progress)
        if first is not None:
            queue.read_again(first, self._due.applied)
        return queue.next_read

    def know(self, name: str, topic: str | None) -> None:
        """What ENDs call `name` is in `topic`; None for a table that this target does not have."""
        self._names[name] = topic
        self._kinds.clear()

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
        """Records of the partition, in the order of offsets. LogGapError if the one before one is not there."""
        queue = self._queues[partition]
        self._quiet = 0
        epoch, lsn, ordinal = queue.read
        counts = self._counts[epoch]
        wait = queue.waiting.append
        of, last, added, loads = None, None, 0, False
        try:
            for each in arrived:
                offset, event, _, altered, size = each
                if offset != queue.next_read:
                    raise lost(partition, queue.next_read, offset)
                if event is None:
                    queue.skip(offset)
                    continue
                if event.transaction is not of:
                    of = event.transaction
                    if of.commit_lsn != lsn or of.epoch != epoch:
                        if (of.epoch, of.commit_lsn) < (epoch, lsn):
                            of = None
                            queue.skip(offset)
                            continue
                        lsn, ordinal = of.commit_lsn, 0
                        if of.epoch != epoch:
                            epoch = of.epoch
                            counts = self._counts[epoch]
                    loads = of.xid is None and epoch == self._epoch
                if event.ordinal <= ordinal:
                    queue.skip(offset)
                    continue
                ordinal = event.ordinal
                queue.next_read = offset + 1
                counts[lsn] = counts.get(lsn, 0) + 1
                wait(each)
                last = each
                added += size
                if altered is not ORIGIN:
                    self._note_altered((epoch, lsn), altered)
                if loads and event.position > self._due.applied:
                    self.holds_load = True
        finally:
            if last is not None:
                queue.noted(last, added)

    def add_alteration(
        self,
        partition: TopicPartition,
        offset: int,
        position: Position | None,
        event: ChangeEvent | None,
        topics: frozenset[str] = frozenset(),  # noqa: ARG002
    ) -> None:
        """One record of the tables topic. `event` is None if it concerns no table of this target; it counts anyway."""
        queue = self._queues[partition]
        self._quiet = 0
        if position is None or position <= queue.read:
            queue.skip(offset)  # a compacted topic may have holes
            return
        arrived = (offset, event, position, ORIGIN, 0)
        queue.next_read = offset + 1
        queue.waiting.append(arrived)
        queue.noted(arrived, 0)
        self._shapes.add(position[:2])

    def add_end(self, offset: int, end: End | None) -> None:
        """One record of the transaction topic; None for any but an END. LogGapError if one before it is not there."""
        again = self._due.add(offset, end)
        self._quiet = 0
        if again is not None and again.end.key in self._heads:
            self._heads[again.end.key].wanted = None

    def crowded(self) -> set[TopicPartition]:
        """Partitions of which enough is here for now."""
        crowded = {partition for partition, queue in self._queues.items() if self._is_crowded(queue)}
        if self._awaits_shape and self._queues.tables is not None:
            crowded.discard(self._queues.tables.id)
        return crowded | {self._due.topic} if len(self._due) >= self._room.events else crowded

    def has_room(self) -> bool:
        """Whether more may be read of any partition: of one that is crowded, too, while others have little. As always,
        a single event is not too much.
        """
        events = sum(len(queue) for queue in self._queues.values())
        size = sum(queue.size for queue in self._queues.values())
        has_bytes = size < self._room.size or events <= 1
        return has_bytes and events < _ALL_TOGETHER * self._room.events and len(self._due) < self._room.events

    def _is_crowded(self, queue: PartitionQueue) -> bool:
        return self._room.is_full(len(queue), queue.size, len(self._queues))

    def ends_wanted(self) -> set[str]:
        """Topics of which `ends` must be told before the current END can be judged."""
        head = self._heads.get(self._due[0].end.key) if self._due else None
        if head is None or head.wanted is None:
            return set()
        due = self._due[0]
        is_stuck = self._quiet > _QUIET or head.looks > _MOST_LOOKS
        if not (due.end.resent or head.in_parts or is_stuck):
            return set()
        involved = {*head.wanted} | ({self._queues.tables.id.topic} if self._queues.tables is not None else set())
        return {topic for topic in involved if self._ends_of(topic, due) is None}

    def ends(self, topic: str, ends: Mapping[TopicPartition, int]) -> None:
        """Where each partition of the topic ends (its next offset), asked of the log after `ends_wanted` named it."""
        self._log_ends[topic] = self._due.next, ends

    def take(self, most: int) -> Batch:
        """Whole transactions of about `most` events in all, or a part of one (then the batch is not `whole`). Events of
        each partition are in order, tables in that of their first event.

        GapError if events of a transaction are missing.
        """
        batch = Batch()
        self._quiet += 1
        self._awaits_shape = False
        while self._due and len(batch.events) < most:
            if not self._take_usual(batch, most) and not self._take_head(batch, most):
                break
        if self._due and (head := self._heads.get(self._due[0].end.key)) and head.taken:
            batch.whole = False  # the target has a part of it
        if batch.whole:
            self._say_progress(batch)
        return batch

    def _say_progress(self, batch: Batch) -> None:
        for queue in self._queues.values():
            if queue.moved:
                batch.progress[queue.id] = queue.progress
                queue.moved = False
        if self._due.moved:
            batch.progress[self._due.topic] = self._due.progress
            self._due.moved = False

    # -- transactions of which all is here -------------------------------------------------------------------------

    def _take_usual(self, batch: Batch, most: int) -> bool:
        """Take all that need no closer look, up to the first that does. Whether there were any."""
        ready: list[_Kind] = []
        room = most - len(batch.events)
        unread: dict[_Kind, _Unread] = {}
        for due in self._due:
            kind = self._kind_of(due.end) if room > 0 else None
            if kind is None or not self._is_usual(due.end, kind):
                break
            if due.end.resent and not self._is_read(due, kind, unread):
                break
            ready.append(kind)
            room -= kind.count
        others: set[TransactionKey] = set()
        if ready and not self._is_just(ready):
            others, ready = self._others(ready)
        if not ready or ((others or unread) and not self._is_exactly(ready, others)):
            return False
        last = self._due[len(ready) - 1].end
        batch.events += self._queues.take(self._queues.runs(last.key), without=others)
        for _ in ready:
            self._forget(self._due.popleft().end)
        for key in others:
            self._forget_key(key)
        self._due.pass_to(last.position)
        return True

    def _kind_of(self, end: End) -> _Kind | None:
        """None if not all its tables are known."""
        counts = end.event_counts
        kind = self._kinds.get(id(counts))
        if kind is None:
            wanted = self._wanted(counts)
            if wanted is None or not self._queues.topics.keys() >= wanted.keys():
                return None
            if len(self._kinds) >= _MOST_KINDS:
                self._kinds.clear()
            queues = [queue for topic in wanted for queue in self._queues.topics[topic]]
            kind = self._kinds[id(counts)] = _Kind(counts, wanted, sum(wanted.values()), queues)
        return kind

    def _is_usual(self, end: End, kind: _Kind) -> bool:
        """Whether just as many events are here as it wants, and nothing is known that makes it unusual."""
        if end.alterations or end.epoch > self._epoch:
            return False
        if self._counts[end.epoch].get(end.commit_lsn, 0) != kind.count:
            return False
        if not (self._shapes or self._altered or self._heads):
            return True
        key = end.key
        if key in self._shapes or (key in self._heads and self._heads[key].in_parts):
            return False
        return key not in self._altered or self._is_altered(key)

    def _is_read(self, due: Due, kind: _Kind, unread: dict[_Kind, _Unread]) -> bool:
        """Whether no partition may bring more of it. `unread` is kept while nothing is read or taken."""
        if kind not in unread:
            newest = self._due[-1].end.key
            unread[kind] = [
                (queue.read[:2], self._asked_at_end(queue)) for queue in kind.queues if queue.read[:2] <= newest
            ]
        return all(read > due.end.key or asked_at > due.said_at for read, asked_at in unread[kind])

    def _asked_at_end(self, queue: PartitionQueue) -> int:
        """Where the transaction topic was read to when the log was asked for the end that the queue has reached; -1 if
        it has reached none.
        """
        asked_at, ends = self._log_ends.get(queue.id.topic, (-1, {}))
        return asked_at if queue.id in ends and queue.next_read >= ends[queue.id] else -1

    def _is_just(self, ready: Sequence[_Kind]) -> bool:
        """Whether nothing else stands among the events of the first transactions, which are of these kinds: of what no
        END counts some was never in the log.
        """
        here = sum(count for _, count in self._queues.runs(self._due[len(ready) - 1].end.key))
        return here == sum(kind.count for kind in ready)

    def _others(self, ready: list[_Kind]) -> tuple[set[TransactionKey], list[_Kind]]:
        """Transactions without an END that stand among these, and those of these that stand before the first change of
        shape of such a one.
        """
        keys = [due.end.key for due in islice(self._due, len(ready))]
        own, last = set(keys), keys[-1]
        counted = ((epoch, lsn) for epoch, counts in self._counts.items() for lsn in counts)
        others = {key for key in chain(counted, self._shapes) if key <= last and key not in own}
        shaped = min((key for key in others if key in self._shapes), default=None)
        if shaped is None:
            return others, ready
        return {key for key in others if key < shaped}, ready[: bisect_left(keys, shaped)]

    def _is_exactly(self, ready: Sequence[_Kind], others: Collection[TransactionKey]) -> bool:
        """Whether just what they want stands in each topic up to the last of them, but for the others'."""
        wanted: Counter[str] = Counter()
        for kind, number in Counter(ready).items():
            wanted.update({topic: number * count for topic, count in kind.wanted.items()})
        here: Counter[str] = Counter()
        for queue, count in self._queues.runs(self._due[len(ready) - 1].end.key):
            run = (queue.at(number) for number in range(count if others else 0))
            here[queue.id.topic] += count - sum(key_of(each) in others for each in run)
        return +here == +wanted

    # -- a transaction that needs a closer look --------------------------------------------------------------------

    def _take_head(self, batch: Batch, most: int) -> bool:
        """Take the first, or a part of it, or what must not stand before it. Whether more may go into the batch."""
        due = self._due[0]
        key = due.end.key
        head = self._heads.setdefault(key, _Head())
        if self._drop_before(key, batch):
            return False
        alone = head.in_parts or due.end.alterations > 0 or key in self._shapes
        if (alone and batch.events) or not self._is_known(due, head):
            return False
        if not self._is_altered(key):
            self._await_shape(due)
            return False
        if not self._is_complete(due, head):
            head.looks += 1
            if not batch.events:
                self._take_part(due, head, batch, most)
            return False
        self._take_whole(due, head, batch)
        return not (head.in_parts or (alone and batch.events))

    def _drop_before(self, key: TransactionKey, batch: Batch) -> bool:
        """Drop events of transactions that have no END: one would have come before the current one. Whether a change of
        shape among them has to be taken first, in a batch of its own. Those of a later epoch, its load too, are for
        another inbox: an END may be read before the state topic tells of its epoch.
        """
        newest = min(key, (self._epoch + 1, 0))
        while True:
            shaped = min((each for each in self._shapes if each < newest), default=None)
            before = shaped or newest
            for dropped in self._queues.drop(self._queues.runs((before[0], before[1] - 1))):
                self._pass_by(dropped)
            if shaped is None:
                return False
            if batch.events:
                return True
            batch.events += self._queues.take(self._queues.runs(shaped), wanted=())
            self._pass_by(shaped)
            if batch.events:
                return True

    def _pass_by(self, key: TransactionKey) -> None:
        """A transaction that has no END."""
        self._forget_key(key)
        # So that what it was is not beyond where the target stands, after a restart too.
        self._due.pass_to(whole(Position(*key, 0)))

    def _is_known(self, due: Due, head: _Head) -> bool:
        """Whether the state topic, which tells of a table before any END does, was read far enough."""
        if due.end.epoch > self._epoch:
            return False
        if head.wanted is None:
            wanted = self._wanted(due.end.event_counts)
            if wanted is None:
                return False
            if due.end.alterations and self._queues.tables is not None:
                wanted[self._queues.tables.id.topic] = due.end.alterations
            head.wanted = wanted
        return self._queues.topics.keys() >= head.wanted.keys()

    def _wanted(self, counts: Mapping[str, int]) -> dict[str, int] | None:
        """How many events these are of each of our topics; None if not all tables are known."""
        if not self._names.keys() >= counts.keys():
            return None
        wanted: dict[str, int] = {}
        for name, count in counts.items():
            topic = self._names[name]
            if topic is not None:
                wanted[topic] = wanted.get(topic, 0) + count
        return wanted

    def _note_altered(self, key: TransactionKey, altered: Position) -> None:
        if self._queues.tables is None or altered > self._queues.tables.read:
            self._altered[key] = max(self._altered.get(key, ORIGIN), altered)

    def _is_altered(self, key: TransactionKey) -> bool:
        """Whether the change of shape that its events go on from was read."""
        altered = self._altered.get(key, ORIGIN)
        return self._queues.tables is None or self._queues.tables.read >= altered

    def _await_shape(self, due: Due) -> None:
        """GapError if the change of shape that it goes on from can't be read any more."""
        tables = self._queues.tables
        if tables is None:
            return
        self._awaits_shape = True  # which may be beyond more changes than there is room for
        ends = self._ends_of(tables.id.topic, due)
        if ends is not None and tables.next_read >= ends[tables.id]:
            raise GapError(
                f"topic {tables.id.topic!r} no longer holds the change of a table at {self._altered[due.end.key]},"
                f" which transaction {due.end.id} goes on from",
                mend="`cdc capture --start-over` loads all tables again; that topic must be kept for ever",
            )

    def _is_complete(self, due: Due, head: _Head) -> bool:
        wanted = head.wanted or {}
        if any(self._here(topic, due, head) < count for topic, count in wanted.items()):
            return False
        return not due.end.resent or not wanted or not self._unfinished(due, head)

    def _here(self, topic: str, due: Due, head: _Head) -> int:
        """How many events of it were read there, those that were taken in part included."""
        return head.taken.get(topic, 0) + sum(queue.count(due.end.key) for queue in self._queues.topics[topic])

    def _unfinished(self, due: Due, head: _Head) -> list[PartitionQueue]:
        """Partitions that may still bring events of this transaction."""
        unfinished = []
        for topic in head.wanted or ():
            ends = self._ends_of(topic, due)
            for queue in self._queues.topics[topic]:
                at_end = ends is not None and queue.next_read >= ends[queue.id]
                if queue.read[:2] <= due.end.key and not at_end:
                    unfinished.append(queue)
        return unfinished

    def _ends_of(self, topic: str, due: Due) -> Mapping[TopicPartition, int] | None:
        asked_at, ends = self._log_ends.get(topic, (0, {}))
        return ends if asked_at > due.said_at else None

    def _take_whole(self, due: Due, head: _Head, batch: Batch) -> None:
        batch.events += self._queues.take(self._queues.runs(due.end.key), head.wanted or {})
        self._due.popleft()
        self._forget(due.end)
        self._due.pass_to(due.end.position)

    def _take_part(self, due: Due, head: _Head, batch: Batch, most: int) -> None:
        unfinished = self._unfinished(due, head)
        if not unfinished:
            raise self._missing(due, head)
        # A resent one may fill a partition that has to be read on.
        is_large = sum((head.wanted or {}).values()) > most or any(map(self._is_crowded, unfinished))
        if not is_large and not head.in_parts:
            return
        head.in_parts = True
        frontier = min(queue.read for queue in unfinished)
        runs = [
            (queue, min(count, queue.count_before(frontier)))
            for queue, count in self._queues.runs(due.end.key)
            if queue.first_position() <= frontier
        ]
        runs = with_both_halves(runs)
        for queue, count in runs:
            head.taken[queue.id.topic] += count
        batch.events += self._queues.take(runs, head.wanted or {})

    def _forget(self, end: End) -> None:
        """It was taken."""
        self._counts[end.epoch].pop(end.commit_lsn, None)
        if self._shapes or self._altered or self._heads:
            self._forget_key(end.key)

    def _forget_key(self, key: TransactionKey) -> None:
        self._counts[key[0]].pop(key[1], None)
        self._shapes.discard(key)
        self._altered.pop(key, None)
        self._heads.pop(key, None)

    def _missing(self, due: Due, head: _Head) -> GapError:
        short = [
            f"{count - here} of {count} in {topic!r}"
            for topic, count in sorted((head.wanted or {}).items())
            if (here := self._here(topic, due, head)) < count
        ]
        return GapError(
            f"transaction {due.end.id} is not whole in the log: it lacks {', '.join(short)}", mend=START_OVER
        )
