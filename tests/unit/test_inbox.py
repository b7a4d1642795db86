"""Whatever a source commits, wherever capture is killed, and however an applier reads and stops: each event is taken
once, and in an order that ends in the source's rows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from itertools import chain, count, takewhile

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cdc.core.errors import GapError
from cdc.core.events import (
    UNCHANGED,
    Alter,
    ChangeEvent,
    Create,
    Delete,
    Drop,
    KeyImage,
    Read,
    Transaction,
    Truncate,
    Update,
)
from cdc.core.log import TopicPartition
from cdc.core.position import ORIGIN, Position
from cdc.core.runs import ReadRun
from cdc.core.tables import TableId, TableSchema
from consumers.plan.checkpoint import PartitionProgress
from consumers.plan.inbox import Inbox
from consumers.plan.room import Room

TOPICS = ["one", "two"]
TABLES = {topic: TableSchema(id=TableId("public", topic), columns=(), key=(0,)) for topic in TOPICS}
ALTERATIONS = TopicPartition("tables", 0)
CROWDED = 4  # the least that an applier has
ROOM = Room(CROWDED)
ALL = 1_000


def key_of(event: ChangeEvent) -> tuple[str, bytes | None]:
    match event.change:
        case Read((key, *_)) | Create((key, *_)) | Update(_, (key, *_)) | Delete(KeyImage((key,))):
            return event.table.id.name, key
    return event.table.id.name, None


def is_truncate(event: ChangeEvent) -> bool:
    return isinstance(event.change, Truncate)


def positions(records: Iterable[tuple]) -> set[Position]:
    return {event.position for event, _ in records if event is not None}


def large(event: ChangeEvent | None) -> int:
    return 0 if event is None else size_of(event.position)


def size_of(position: Position) -> int:
    """Some are so large that few of them make a partition crowded."""
    return (position.ordinal % 3) << 19


class Rows(dict):
    """A table's rows, a and b by id. What comes too early or too late for it is an error."""

    gone = None  # b of the row that went just now

    def apply(self, change) -> None:
        gone, self.gone = self.gone, None
        match change:
            case Read((key, a, b)) | Create((key, a, b)):
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
        self.epoch = 1
        self._numbers = count(1)

    def commit(self, writes: list[tuple[str, str, bytes, bytes]]) -> None:
        self._publish((topic, change) for topic, *write in writes for change in self._changes(topic, *write))

    def start_over(self, captured: set[Position]) -> None:
        """All rows are loaded again; what was not captured before never will be."""
        self.epoch += 1
        self.events = [event for event in self.events if event.position in captured]
        rows = [(topic, Read((key, *row))) for topic, rows in self.tables.items() for key, row in rows.items()]
        self._publish([*((topic, Truncate()) for topic in TOPICS), *rows])

    def due(self) -> set[Position]:
        """What must be taken: of earlier epochs it need not be all, for each load truncates first."""
        return {event.position for event in self.events if event.position.epoch == self.epoch}

    def _publish(self, changes: Iterable[tuple]) -> None:
        lsn = next(self._numbers)
        transaction = Transaction(epoch=self.epoch, commit_lsn=lsn, xid=lsn, commit_time_us=0, database="shop")
        for at, (topic, change) in enumerate(changes, 1):
            self.tables[topic].apply(change)
            self.events.append(
                ChangeEvent(transaction=transaction, table=TABLES[topic], change=change, ordinal=at, table_ordinal=0)
            )

    def _changes(self, topic: str, kind: str, key: bytes, other: bytes) -> Iterator:
        rows, new = self.tables[topic], str(next(self._numbers)).encode()
        match kind:
            case "truncate":
                yield Truncate()
            case "alter":
                yield Alter(before=TABLES[topic])
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

    The log's records are pairs of an event and what is said with it. Amounts are given in the order of `places`.
    """

    def __init__(self, partitions: dict[str, int]) -> None:
        self.source = Source()
        self.commit = self.source.commit
        self.partitions = partitions
        self.places = [TopicPartition(topic, n) for topic in TOPICS for n in range(partitions[topic])] + [ALTERATIONS]
        self.captured = 0
        self.truncated: dict[str, Position] = {}
        self.altered: dict[str, Position] = {}
        self.under_way: dict[TopicPartition, deque] = {place: deque() for place in self.places}
        self.log: dict[TopicPartition, list] = {place: [] for place in self.places}
        self.checkpoint = dict.fromkeys(self.places, PartitionProgress(ORIGIN, 0))
        self.target = {topic: Rows() for topic in TOPICS}
        self.taken: set[Position] = set()
        self.newest: dict[tuple[str, bytes | None], Position] = {}
        self.restart()

    def run(self, steps: list[tuple]) -> None:
        for name, *arguments in steps:
            getattr(self, name)(*arguments)

    def capture(self, most: int) -> None:
        """Hand over events. A barrier waits until all before it is stored, and all after it until it is."""
        for at in range(self.captured, min(self.captured + most, len(self.source.events))):
            last_two = self.source.events[max(at - 1, 0) : at + 1]
            if any(self.under_way.values()) and any(isinstance(e.change, Truncate | Alter) for e in last_two):
                return
            self._hand_over(self.source.events[at])
            self.captured = at + 1

    def _hand_over(self, event: ChangeEvent) -> None:
        topic, key = key_of(event)
        queue = self.under_way[TopicPartition(topic, int(key or 0) % self.partitions[topic])]
        said = {"altered": self.altered.get(topic, ORIGIN)}
        match event.change:
            case Alter():
                self.altered[topic] = event.position
                self.under_way[ALTERATIONS].append((event, {"topics": frozenset({topic})}))
                return
            case Truncate():
                self.truncated[topic] = event.position
            case _ if self.partitions[topic] > 1:
                said["truncated"] = self.truncated.get(topic, ORIGIN)
        queue.append((event, said))
        if isinstance(event.change, Delete):
            queue.append((None, {}))

    def store(self, amounts: list[int]) -> None:
        """The log takes so many records of each partition."""
        for at, amount in zip(self.places, amounts, strict=False):
            for _ in range(min(amount, len(self.under_way[at]))):
                self.log[at].append(self.under_way[at].popleft())

    def kill_capture(self, back: int) -> None:
        """It goes on from a transaction that is not wholly stored, or from one before it. Barriers it still knows."""
        events, stored, due = self.source.events, positions(chain(*self.log.values())), self.source.due()
        first_lost = next((at for at, event in enumerate(events) if event.position not in stored), len(events))
        starts = [at for at, e in enumerate(events[: first_lost + 1]) if e.ordinal == 1 and e.position in due]
        self._capture_from(starts[-(back % len(starts))] if starts else 0)

    def start_over(self) -> None:
        self.source.start_over(positions(chain(*self.log.values())))
        self._capture_from(len(self.source.events) - len(self.source.due()))
        self.altered = {}
        for event, _ in self.log[ALTERATIONS]:
            self.altered[key_of(event)[0]] = max(self.altered.get(key_of(event)[0], ORIGIN), event.position)

    def _capture_from(self, at: int) -> None:
        self.captured = at
        for queue in self.under_way.values():
            queue.clear()

    def restart(self) -> None:
        self.inbox = Inbox(room=ROOM)
        self.next_read = {place: progress.next_offset for place, progress in self.checkpoint.items()}
        for place, progress in self.checkpoint.items():
            assign = self.inbox.assign_tables if place == ALTERATIONS else self.inbox.assign
            assign(place, progress)

    def read(self, amounts: list[int]) -> None:
        for at, amount in zip(self.places, amounts, strict=False):
            start = self.next_read[at]
            for offset in range(start, min(start + amount, len(self.log[at]))):
                if at not in self.inbox.crowded():
                    event, said = self.log[at][offset]
                    self.inbox.add(at, offset, event, **said, size=large(event))
                    self.next_read[at] = offset + 1
            waiting = positions(self.log[at][self.checkpoint[at].next_offset : self.next_read[at]]) - self.taken
            if self.source.epoch == 1:  # later ones drop some of it
                size = sum(map(size_of, waiting))
                assert (at in self.inbox.crowded()) == ROOM.is_full(len(waiting), size, len(self.places))

    def take(self, most: int, killed: bool = False) -> None:
        """`killed`: before the target has committed."""
        for topic in self.inbox.ends_wanted():
            self.inbox.ends(topic, {place: len(self.log[place]) for place in self.places if place.topic == topic})
        batch = self.inbox.take(most)
        alone = any(isinstance(event.change, Alter | Drop) for event in batch.events)
        assert not alone or len(batch.events) == 1
        waiting = self.next_read[ALTERATIONS] > self.checkpoint[ALTERATIONS].next_offset
        assert len(batch.events) >= most or alone or waiting or not self.inbox.take(most).events, "it had room for more"
        changes = list(enumerate(event.change for event in batch.events))
        seconds = [at for at, change in changes if isinstance(change, Create) and UNCHANGED in change.after]
        assert seconds == [at + 1 for at, change in changes if isinstance(change, Delete) and change.awaits_create]
        assert len(batch.events) <= most or (len(batch.events) == most + 1 and seconds[-1] == most)
        for place, progress in batch.progress.items():
            assert progress.position >= self.checkpoint[place].position
            assert progress.next_offset > self.checkpoint[place].next_offset
        if killed:
            self.restart()
        else:
            self.checkpoint.update(batch.progress)
            self._apply(batch.events)

    def _apply(self, events: list[ChangeEvent]) -> None:
        for event in events:
            topic, key = key_of(event)
            assert event.position not in self.taken
            assert event.position > self.newest.get((topic, key), ORIGIN)
            assert event.position > self.newest.get((topic, None), ORIGIN), "a truncate overtook it"
            self.taken.add(event.position)
            self.newest[topic, key] = event.position
            self.target[topic].apply(event.change)

    def store_all(self) -> None:
        while self.captured < len(self.source.events) or any(self.under_way.values()):
            self.capture(ALL)
            self.store([ALL] * len(self.places))

    def apply_all(self) -> None:
        """Until nothing moves."""
        before = None
        while before != (before := (dict(self.next_read), dict(self.checkpoint))):
            self.read([1] * len(self.places))
            self.take(3)

    def catch_up(self) -> None:
        self.store_all()
        self.apply_all()
        assert self.taken >= self.source.due()
        assert self.target == self.source.tables
        assert all(self.checkpoint[place].next_offset == len(self.log[place]) for place in self.places)


STEPS = 8 * ["commit", "capture", "capture", "store", "read", "take"]
STEPS += ["kill_capture", "start_over", "catch_up", "restart"]
KINDS = ["write", "write", "touch", "delete", "move", "drag", "truncate", "truncate", "alter"]
AMOUNTS = [0, 0, 1, ALL]


def step_of(code: bytes) -> tuple:
    """The step that these bytes stand for, and its arguments. (To draw each argument takes ten times as long.)"""
    name, number, *more = STEPS[code[0] % len(STEPS)], *code[1:]
    match name:
        case "commit":
            writes = [more[at : at + 4] for at in range(0, 4 + number % 4 * 4, 4)]
            return name, [(TOPICS[a % 2], KINDS[b % 9], b"%d" % (c % 5), b"%d" % (d % 5)) for a, b, c, d in writes]
        case "store" | "read":
            return name, [AMOUNTS[byte % 4] for byte in more[:9]] if number % 2 else [ALL] * 9
        case "take":
            return name, [1, 2, 3, ALL][number % 4], more[0] % 16 == 1
        case "capture" | "kill_capture":
            return name, [1, 2, 3, ALL][number % 4]
    return (name,)


RUNS = st.lists(st.binary(min_size=18, max_size=18).map(step_of), min_size=25, max_size=100)
PARTITIONS = st.fixed_dictionaries({topic: st.integers(1, 4) for topic in TOPICS})


KINDS_OF_0 = ("write", "delete", "drag", "truncate", "alter")
WRITE, DELETE, DRAG_TO_1, TRUNCATE, ALTER = [("one", kind, b"0", b"1") for kind in KINDS_OF_0]
WRITE_1, DELETE_1, TOUCH_1 = [("one", kind, b"1", b"") for kind in ("write", "delete", "touch")]
MOVED = [("commit", [WRITE, DRAG_TO_1, TOUCH_1]), ("capture", ALL)]
WRITE_AND_TRUNCATE = [("commit", [WRITE_1, TRUNCATE]), ("store_all",)]
HEARD_OF_ALTER = [("commit", [ALTER, WRITE]), ("store_all",), ("read", [1]), ("take", 1)]
CUT_OFF = [*MOVED, ("store", [0, ALL]), ("start_over",), ("store_all",)]
ONE, TWO = {"one": 1, "two": 1}, {"one": 2, "two": 1}


@settings(max_examples=400)
# The tombstone is in the progress that is told next.
@example(ONE, [("commit", [WRITE, DELETE]), ("store_all",), ("read", [3]), ("take", 2)])
# The second half of a move comes after the first one's resend, which takes no room.
@example(ONE, [*MOVED, ("store", [3]), ("kill_capture", 1)])
# It never comes, and is not waited for.
@example(TWO, [*MOVED, ("store", [ALL, 0]), ("start_over",), ("read", [3])])
# The first never comes, and the applier restarts when it has dropped the second, but not yet what builds on that.
@example(TWO, [*CUT_OFF, ("read", [1, 1]), ("take", 1), ("restart",), ("read", [0, 1]), ("take", 1)])
# What is dropped has a tombstone, and nothing after it.
@example(TWO, [("commit", [WRITE_1, DELETE_1]), ("store_all",), ("start_over",), ("store_all",), ("read", [1])])
# A truncate that is waited for is dropped: where its partition ended then says nothing of the next.
@example(TWO, [("commit", [TRUNCATE, WRITE, WRITE_1]), ("store_all",), ("read", [0, 1]), ("take", 1), ("start_over",)])
# A second truncate is read before what it must wait for.
@example(TWO, [*WRITE_AND_TRUNCATE, ("read", [1, 1]), ("take", 3), *WRITE_AND_TRUNCATE, ("read", [1]), ("take", 1)])
# An event tells of a change of shape that was not read yet, and later of another.
@example(ONE, [*HEARD_OF_ALTER, ("catch_up",), *HEARD_OF_ALTER])
@given(partitions=PARTITIONS, steps=RUNS)
def test_the_target_becomes_the_source(partitions, steps):
    site = Site(partitions)
    site.run(steps)
    site.catch_up()
    site.restart()
    site.catch_up()


@settings(max_examples=150)
@example(ONE, [("commit", [TRUNCATE, WRITE])], 1)  # partition 0 itself goes on from it
@example(ONE, [("commit", [TRUNCATE, WRITE_1])], 1)  # the next truncate waits for one that goes on from it
@given(partitions=PARTITIONS, steps=RUNS, which=st.integers(0, 3))
def test_a_lost_truncate_is_a_gap_exactly_if_something_goes_on_from_it(partitions, steps, which):
    site = Site({topic: number + 1 for topic, number in partitions.items()})
    site.run([*steps, ("commit", [TRUNCATE, WRITE_1][: 1 + which % 2]), ("store_all",)])
    unread = site.source.due().difference(*(positions(site.log[at][:offset]) for at, offset in site.next_read.items()))
    truncates = [event for event in site.source.events if is_truncate(event) and event.position in unread]
    lost = truncates[-1 - which % len(truncates)]
    at = TopicPartition(lost.table.id.name, 0)
    site.log[at] = [record for record in site.log[at] if record[0] != lost]
    later = [event for event in site.source.events if event.table == lost.table and event.position > lost.position]
    until_next = takewhile(lambda event: not is_truncate(event), later)
    followers = {event.position for event in until_next if not isinstance(event.change, Alter)}
    with pytest.raises(GapError, match="no longer holds the truncate") if followers else nullcontext():
        site.apply_all()
    assert not site.taken & followers
    assert followers or site.taken >= site.source.due() - {lost.position}


def test_a_lost_change_of_shape_is_a_gap():
    site = Site(ONE)
    site.run([("commit", [ALTER, WRITE]), ("store_all",)])
    site.log[ALTERATIONS].clear()
    with pytest.raises(GapError, match="no longer holds the change of a table"):
        site.apply_all()


LOAD = Transaction(epoch=1, commit_lsn=5, xid=None, commit_time_us=0, database="shop")


def run(last: int, count: int) -> ReadRun:
    """Rows of a first load that came together."""
    return ReadRun(
        transaction=LOAD,
        table=TABLES["one"],
        change=Read((b"1",)),
        ordinal=last,
        table_ordinal=last,
        text=b"1\n" * count,
        count=count,
    )


def test_rows_that_came_together_are_one_entry_that_ends_where_the_last_stands():
    inbox, at = Inbox(room=ROOM), TopicPartition("one", 0)
    inbox.assign(at, PartitionProgress(Position(1, 5, 2), 40))
    # What was taken before the applier was killed comes again, a part of it with new rows behind it.
    inbox.add_all(at, [(39 + last, run(last, 2), ORIGIN, ORIGIN, 4) for last in (2, 4, 6)])
    batch = inbox.take(ALL)
    assert [event.position.ordinal for event in batch.events] == [4, 6]
    assert batch.progress == {at: PartitionProgress(Position(1, 5, 6), 46)}


def test_rows_that_came_together_are_counted_one_by_one():
    inbox, at = Inbox(room=ROOM), TopicPartition("one", 0)
    inbox.assign(at, PartitionProgress(ORIGIN, 0))
    for last in (3, 6, 9):
        inbox.add_all(at, [(last - 1, run(last, 3), ORIGIN, ORIGIN, 6)])
        assert inbox.crowded() == ({at} if last > CROWDED else set())
    assert [event.ordinal for event in inbox.take(4).events] == [3, 6]
    assert inbox.crowded() == set()
    assert [event.ordinal for event in inbox.take(4).events] == [9]
