"""Whatever a source commits, wherever capture is killed, and however an applier reads and stops: each event is taken
once, and in an order that ends in the source's rows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import count, takewhile

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cdc.core.errors import GapError
from cdc.core.events import UNCHANGED, Change, ChangeEvent, Create, Delete, KeyImage, Transaction, Truncate, Update
from cdc.core.log import TopicPartition
from cdc.core.position import ORIGIN, Position
from cdc.core.tables import TableId, TableSchema
from consumers.plan.checkpoint import PartitionProgress
from consumers.plan.inbox import Batch, Inbox

STATE = TopicPartition("state", 0)
TOPICS = ["one", "two"]
TABLES = {topic: TableSchema(id=TableId("public", topic), columns=(), key=(0,)) for topic in TOPICS}
CROWDED = 4  # the least that an applier has
ALL = 1_000


def topic_of(event: ChangeEvent) -> str:
    return event.table.id.name


def key_of(event: ChangeEvent) -> bytes | None:
    match event.change:
        case Create((key, *_)) | Update(_, (key, *_)) | Delete(KeyImage((key,))):
            return key
    return None


def is_truncate(event: ChangeEvent) -> bool:
    return isinstance(event.change, Truncate)


class Rows(dict):
    """A table's rows, a and b by id. What comes too early or too late for it is an error."""

    gone = None  # b of the row that went just now

    def apply(self, change: Change) -> None:
        gone, self.gone = self.gone, None
        match change:
            case Create((key, a, b)):
                assert key not in self
                self[key] = (a, gone if b is UNCHANGED else b)
            case Update(_, (key, a, b)):
                self[key] = (a, self[key][1] if b is UNCHANGED else b)
            case Delete(KeyImage((key,))):
                self.gone = self.pop(key)[1]
            case Truncate():
                self.clear()


class Source:
    def __init__(self) -> None:
        self.tables = {topic: Rows() for topic in TOPICS}
        self.events: list[ChangeEvent] = []
        self._values = count()

    def commit(self, writes: list[tuple[str, str, bytes, bytes]]) -> None:
        lsn = self.events[-1].transaction.commit_lsn + 1 if self.events else 1
        transaction = Transaction(epoch=1, commit_lsn=lsn, xid=lsn, commit_time_us=0, database="shop")
        ordinals = count(1)
        for topic, kind, key, other in writes:
            for change in list(self._changes(self.tables[topic], kind, key, other)):
                self.tables[topic].apply(change)
                numbers = {"ordinal": next(ordinals), "table_ordinal": 0}
                self.events.append(ChangeEvent(transaction=transaction, table=TABLES[topic], change=change, **numbers))

    def _changes(self, rows: Rows, kind: str, key: bytes, other: bytes) -> Iterator[Change]:
        new = str(next(self._values)).encode()
        match kind:
            case "truncate":
                yield Truncate()
            case _ if key not in rows:
                yield Create((key, new, new))
            case "delete":
                yield Delete(KeyImage((key,)))
            case "move" | "drag" if other not in rows:
                b = UNCHANGED if kind == "drag" else new
                yield Delete(KeyImage((key,)), moved_to=(other,), awaits_create=b is UNCHANGED)
                yield Create((other, new, b), moved_from=(key,))
            case _:
                yield Update(None, (key, new, UNCHANGED if kind == "touch" else new))


class Site:
    """A source, capture (as Capture and Publisher are together), the log, and an applier (as Applier is).

    The log's records are pairs of event and `truncated`; a place is a number for one of its partitions.
    """

    def __init__(self, partitions: dict[str, int]) -> None:
        self.source = Source()
        self.commit = self.source.commit
        self.partitions = partitions
        self.places = [TopicPartition(topic, n) for topic in TOPICS for n in range(partitions[topic])]
        self.captured = 0
        self.truncated: dict[str, Position] = {}
        self.under_way: dict[TopicPartition, deque] = {place: deque() for place in [*self.places, STATE]}
        self.log: dict[TopicPartition, list] = {place: [] for place in [*self.places, STATE]}
        self.checkpoint = dict.fromkeys(self.places, PartitionProgress(ORIGIN, 0))
        self.target = {topic: Rows() for topic in TOPICS}
        self.taken: set[Position] = set()
        self.newest: dict[tuple[str, bytes | None], Position] = {}
        self.restart()

    def capture(self, most: int) -> None:
        """Hand over events. A truncate waits until all before it is stored, and all after it until it is."""
        for at in range(self.captured, min(self.captured + most, len(self.source.events))):
            if any(self.under_way.values()) and any(map(is_truncate, self.source.events[max(at - 1, 0) : at + 1])):
                return
            self._hand_over(self.source.events[at])
            self.captured = at + 1

    def _hand_over(self, event: ChangeEvent) -> None:
        topic, key = topic_of(event), key_of(event)
        place = TopicPartition(topic, int(key or 0) % self.partitions[topic])
        if is_truncate(event):
            self.truncated[topic] = event.position
            self.under_way[STATE].append((event, ORIGIN))
            self.under_way[place].append((event, ORIGIN))
        else:
            barrier = self.truncated.get(topic, ORIGIN) if self.partitions[topic] > 1 else ORIGIN
            self.under_way[place].append((event, barrier))
        if isinstance(event.change, Delete):
            self.under_way[place].append((None, ORIGIN))

    def store(self, amounts: list[int]) -> None:
        """The log takes so many records of each partition."""
        for at, amount in zip(self.log, amounts, strict=False):
            for _ in range(min(amount, len(self.under_way[at]))):
                self.log[at].append(self.under_way[at].popleft())

    def kill_capture(self, back: int) -> None:
        """Capture goes on from a transaction that is not wholly stored, or from one before it."""
        lost = [event.position for queue in self.under_way.values() for event, _ in queue if event is not None]
        lost += [event.position for event in self.source.events[self.captured :]]
        first_lost = min(lost, default=Position(2, 0, 0))
        starts = [at for at, e in enumerate(self.source.events) if e.ordinal == 1 and e.position <= first_lost]
        self.captured = starts[-1 - back % len(starts)] if starts else 0
        self.truncated = {topic_of(event): event.position for event, _ in self.log[STATE]}
        for queue in self.under_way.values():
            queue.clear()

    def restart(self) -> None:
        self.inbox = Inbox(crowded_at=CROWDED)
        self.next_read = {place: progress.next_offset for place, progress in self.checkpoint.items()}
        for place, progress in self.checkpoint.items():
            self.inbox.assign(place, progress)

    def read(self, amounts: list[int]) -> None:
        for at, amount in zip(self.places, amounts, strict=False):
            start = self.next_read[at]
            for offset in range(start, min(start + amount, len(self.log[at]))):
                if at not in self.inbox.crowded():
                    self.inbox.add(at, offset, *self.log[at][offset])
                    self.next_read[at] = offset + 1
            read = self.log[at][self.checkpoint[at].next_offset : self.next_read[at]]
            waiting = {event.position for event, _ in read if event} - self.taken
            assert (at in self.inbox.crowded()) == (len(waiting) >= CROWDED)

    def take(self, most: int) -> None:
        batch = self._next_batch(most)
        assert len(batch.events) >= most or not self.inbox.take(most).events, "it had room for more"
        check_moves(batch.events, most)
        for place, progress in batch.progress.items():
            assert progress.position >= self.checkpoint[place].position
            assert progress.next_offset > self.checkpoint[place].next_offset
        self.checkpoint.update(batch.progress)
        for event in batch.events:
            self._apply(event)

    def lose_batch(self, most: int) -> None:
        """The applier is killed before its target has committed."""
        self._next_batch(most)
        self.restart()

    def _next_batch(self, most: int) -> Batch:
        for topic in self.inbox.ends_wanted():
            self.inbox.ends(topic, {place: len(self.log[place]) for place in self.places if place.topic == topic})
        return self.inbox.take(most)

    def _apply(self, event: ChangeEvent) -> None:
        topic, position = topic_of(event), event.position
        key = (topic, key_of(event))
        assert position not in self.taken
        assert position > self.newest.get(key, ORIGIN)
        assert position > self.newest.get((topic, None), ORIGIN), "a truncate overtook it"
        self.taken.add(position)
        self.newest[key] = position
        self.target[topic].apply(event.change)

    def lose(self, event: ChangeEvent) -> set[Position]:
        """The log loses all copies of it that the applier has not read. Its position, if it read none."""
        at = TopicPartition(topic_of(event), 0)
        read, ahead = self.log[at][: self.next_read[at]], self.log[at][self.next_read[at] :]
        self.log[at] = read + [record for record in ahead if record[0] != event]
        return set() if any(record[0] == event for record in read) else {event.position}

    def followers(self, truncate: ChangeEvent) -> set[Position]:
        """Events of the table between this truncate and the next."""
        later = [e for e in self.source.events if e.table == truncate.table and e.position > truncate.position]
        return {event.position for event in takewhile(lambda event: not is_truncate(event), later)}

    def store_all(self) -> None:
        while self.captured < len(self.source.events) or any(self.under_way.values()):
            self.capture(ALL)
            self.store([ALL] * len(self.log))

    def apply_all(self) -> None:
        """Until nothing moves."""
        before = None
        while before != (before := (dict(self.next_read), dict(self.checkpoint))):
            self.read([1] * len(self.places))
            self.take(3)

    def catch_up(self) -> None:
        self.store_all()
        self.apply_all()
        assert self.taken == {event.position for event in self.source.events}
        assert self.target == self.source.tables
        assert all(self.checkpoint[place].next_offset == len(self.log[place]) for place in self.places)


def check_moves(events: list[ChangeEvent], most: int) -> None:
    """Both halves of a row that takes values along stand together, and only a second half exceeds `most`."""
    firsts = [at for at, e in enumerate(events) if isinstance(e.change, Delete) and e.change.awaits_create]
    seconds = [at for at, e in enumerate(events) if isinstance(e.change, Create) and UNCHANGED in e.change.after]
    assert seconds == [at + 1 for at in firsts]
    assert len(events) <= most or (len(events) == most + 1 and seconds[-1] == most)


USUAL = 8 * ["commit", "capture", "capture", "store", "read", "take"]
STEPS = [*USUAL, "kill_capture", "restart", "lose_batch", "catch_up"]
KINDS = ["write", "write", "touch", "delete", "move", "drag", "truncate", "truncate"]
AMOUNTS = [0, 0, 1, ALL]


def step_of(code: bytes) -> tuple:
    """The step that these bytes stand for, and its arguments. (To draw each argument takes ten times as long.)"""
    name, number, *more = STEPS[code[0] % len(STEPS)], *code[1:]
    match name:
        case "commit":
            return name, [write_of(*code[at : at + 4]) for at in range(2, 6 + number % 4 * 4, 4)]
        case "store" | "read":
            return name, [AMOUNTS[byte % 4] for byte in more[:9]] if number % 2 else [ALL] * 9
        case "capture" | "take" | "lose_batch":
            return name, [1, 2, 3, ALL][number % 4]
        case "kill_capture":
            return name, number % 4
    return (name,)


def write_of(topic: int, kind: int, key: int, other: int) -> tuple[str, str, bytes, bytes]:
    return TOPICS[topic % 2], KINDS[kind % len(KINDS)], str(key % 5).encode(), str(other % 5).encode()


WRITES = st.lists(st.binary(min_size=4, max_size=4).map(lambda code: write_of(*code)), min_size=1, max_size=6)
RUNS = st.lists(st.binary(min_size=18, max_size=18).map(step_of), min_size=25, max_size=100)
PARTITIONS = st.fixed_dictionaries({topic: st.integers(1, 4) for topic in TOPICS})


def site_after(partitions: dict[str, int], steps: list[tuple]) -> Site:
    site = Site(partitions)
    for name, *arguments in steps:
        getattr(site, name)(*arguments)
    return site


MOVE = [("one", "write", b"0", b""), ("one", "drag", b"0", b"1")]
KILL_BETWEEN_HALVES = [("commit", MOVE), ("capture", ALL), ("store", [3]), ("kill_capture", 0)]
DELETE = [("commit", [("one", "write", b"0", b""), ("one", "delete", b"0", b"")]), ("store_all",)]


@settings(max_examples=600)
@example({"one": 1, "two": 1}, KILL_BETWEEN_HALVES)  # the resend takes no room, or the second half is never read
@example({"one": 1, "two": 1}, [*DELETE, ("read", [3]), ("take", 2)])  # the tombstone is in the next progress
@given(partitions=PARTITIONS, steps=RUNS)
def test_the_target_becomes_the_source(partitions, steps):
    site = site_after(partitions, steps)
    site.catch_up()
    site.restart()
    site.catch_up()


WRITE_0, WRITE_1, TRUNCATE = [("one", *what, b"") for what in (("write", b"0"), ("write", b"1"), ("truncate", b""))]


@settings(max_examples=200)
@example({"one": 1, "two": 1}, [], [WRITE_0], 0)  # partition 0 itself goes on from it
@example({"one": 1, "two": 1}, [], [WRITE_1, TRUNCATE], 1)  # the next truncate waits for one that goes on from it
@given(partitions=PARTITIONS, steps=RUNS, writes=WRITES, which=st.integers(0, 3))
def test_a_lost_truncate_is_a_gap_exactly_if_something_goes_on_from_it(partitions, steps, writes, which):
    site = site_after({topic: number + 1 for topic, number in partitions.items()}, steps)
    site.commit([TRUNCATE, *writes])
    site.store_all()
    truncates = [event for event in site.source.events if is_truncate(event) and event.position not in site.taken]
    truncate = truncates[-1 - which % len(truncates)]
    lost, followers = site.lose(truncate), site.followers(truncate)
    if lost and followers:
        with pytest.raises(GapError, match="no longer holds the truncate"):
            site.apply_all()
        assert not site.taken & followers
    else:
        site.apply_all()
        assert site.taken == {event.position for event in site.source.events} - lost
