"""Whatever is committed, wherever capture is killed, and however an applier reads and stops: source transactions are
taken whole, once, and in the order of their commits.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc.avro.transactions import MESSAGES, End
from cdc.core.errors import GapError, LogGapError
from cdc.core.events import Alter, ChangeEvent, Create, Delete, KeyImage, Transaction, Truncate
from cdc.core.log import TopicPartition
from cdc.core.position import ORIGIN, Position
from cdc.core.tables import TableId, TableSchema
from consumers.plan.approach import whole
from consumers.plan.batch import Batch
from consumers.plan.checkpoint import PartitionProgress
from consumers.plan.room import Room
from consumers.plan.transactions import TransactionInbox

OURS = {"one": 2, "two": 1}
"""Topics and their partitions."""
OTHERS = "other"
TABLES = TopicPartition("tables", 0)
ENDS = TopicPartition("transaction", 0)
PLACES = [TopicPartition(topic, number) for topic, partitions in OURS.items() for number in range(partitions)] + [
    TABLES
]
MOST = 4


def version(topic: str) -> TableSchema:
    return TableSchema(id=TableId("public", topic), columns=(), key=(0,))


ROOM = 4
LOOKS = 10  # in vain, before it takes something for lost


def make_event(
    lsn: int, ordinal: int, topic: str, *, alters: bool = False, truncates: bool = False, xid: int | None = 1
) -> ChangeEvent:
    transaction = Transaction(epoch=1, commit_lsn=lsn, xid=xid and lsn, commit_time_us=0, database="shop")
    change = Alter(before=version(topic)) if alters else Truncate() if truncates else Create((b"1",))
    return ChangeEvent(transaction=transaction, table=version(topic), change=change, ordinal=ordinal, table_ordinal=0)


def make_end(lsn: int, last: int, *, alterations: int = 0, resent: bool = False, **counts: int) -> End:
    return End(
        id=f"1:{lsn}:{lsn}",
        epoch=1,
        commit_lsn=lsn,
        last_ordinal=last,
        event_counts={f"public.{topic}": number for topic, number in counts.items()},
        alterations=alterations,
        resent=resent,
    )


@dataclass
class Site:
    """A source, capture, the log, and an applier."""

    commits: list[list[tuple[TopicPartition, ChangeEvent]]] = field(default_factory=list)
    log: dict[TopicPartition, list] = field(default_factory=lambda: {place: [] for place in [*PLACES, ENDS]})
    under_way: dict[TopicPartition, deque] = field(default_factory=lambda: {place: deque() for place in PLACES})
    waiting_ends: deque = field(default_factory=deque)
    published: int = 0
    sent_before: int = 0
    held: dict[str, int] = field(default_factory=dict)
    must: dict[int, set[tuple[Position, bool]]] = field(default_factory=dict)
    taken: list[ChangeEvent] = field(default_factory=list)
    part: list[ChangeEvent] = field(default_factory=list)
    reached: dict[TopicPartition, PartitionProgress] = field(default_factory=dict)
    altered: dict[str, Position] = field(default_factory=dict)
    altered_before: dict[Position, Position] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.open()

    def commit(self, writes: list[str]) -> None:
        lsn, ordinals, events = len(self.commits) + 1, count(1), []
        for number, write in enumerate(writes):
            topic = write.rstrip("!?")
            ordinal = next(ordinals)
            if write.endswith("!"):
                self.altered[topic] = Position(1, lsn, ordinal)
            self.altered_before[Position(1, lsn, ordinal)] = self.altered.get(topic, ORIGIN)
            if write.endswith("?"):
                events.append((TopicPartition(topic, 0), make_event(lsn, ordinal, topic, truncates=True)))
                continue
            if write.endswith("!"):
                events.append((TABLES, make_event(lsn, ordinal, topic, alters=True)))
            events.append((TopicPartition(topic, number % OURS.get(topic, 1)), make_event(lsn, ordinal, topic)))
        self.commits.append(events)

    def publish(self, commits: list[list[str]], amounts: list[int]) -> None:
        for writes in commits:
            self.commit(writes)
        while self.published < len(self.commits):
            self.capture()
        self.deliver(amounts)

    def capture(self) -> None:
        """Send the next transaction. What is held from some ordinal on, this session does not send."""
        lsn, events = self.published + 1, self.commits[self.published]
        self.published += 1
        sent = [each for each in events if self._is_sent(*each)]
        for place, event in sent:
            if place in self.under_way:
                self.under_way[place].append(event)
        counts: dict[str, int] = {}
        for place, _ in sent:
            if place != TABLES:
                counts[place.topic] = counts.get(place.topic, 0) + 1
        end = make_end(
            lsn,
            max((event.ordinal for _, event in events), default=0),
            alterations=sum(place == TABLES for place, _ in sent),
            resent=lsn <= self.sent_before,
            **counts,
        )
        self.waiting_ends.append((end, [event for place, event in sent if place in self.under_way]))

    def _is_sent(self, place: TopicPartition, event: ChangeEvent) -> bool:
        is_resent = event.transaction.commit_lsn <= self.sent_before
        return not (is_resent and place != TABLES and event.ordinal >= self.held.get(place.topic, 99))

    def deliver(self, amounts: list[int]) -> None:
        for place, amount in zip(PLACES, amounts, strict=False):
            queue = self.under_way[place]
            for _ in range(min(amount, len(queue))):
                self.log[place].append(queue.popleft())
                if place != TABLES and self.log[place][-1].ordinal % 4 == 0:
                    self.log[place].append(None)  # a tombstone
        while self.waiting_ends and not any(
            event in queue for event in self.waiting_ends[0][1] for queue in self.under_way.values()
        ):
            end, events = self.waiting_ends.popleft()
            self.log[ENDS] += [None, end]
            self.must[end.commit_lsn] = {place_of(event) for event in events if event.table.id.name in OURS}

    def kill_capture(self, held: dict[str, int]) -> None:
        """`held`: from which ordinal on the next session holds back events of resent transactions. What a session held
        back it holds until their ENDs are durable, and so do those after it.
        """
        ended = max(self.must, default=0)
        if ended < self.sent_before:
            held = {topic: min(held.get(topic, 99), self.held.get(topic, 99)) for topic in held | self.held}
        self.held = held
        self.sent_before = max(self.sent_before, self.published)
        for queue in self.under_way.values():
            queue.clear()
        self.waiting_ends.clear()
        self.published = max(self.must, default=0)

    def open(self) -> None:
        nothing = PartitionProgress(ORIGIN, 0)
        progress = self.reached.get(ENDS, nothing)
        self.part = []
        self.inbox = TransactionInbox(room=Room(MOST), transactions=ENDS, progress=progress, epoch=1, floor=ORIGIN)
        self.read = {ENDS: progress.next_offset}
        for topic in [*OURS, OTHERS]:
            self.inbox.know(f"public.{topic}", topic if topic in OURS else None)
        for place in PLACES:
            progress = self.reached.get(place, nothing)
            self.read[place] = progress.next_offset
            (self.inbox.assign_tables if place == TABLES else self.inbox.assign)(place, progress)

    def apply(self, amounts: list[int], most: int) -> bool:
        got_on = False
        for place, amount in zip([ENDS, *PLACES], amounts, strict=False):
            for _ in range(amount):
                if place in self.inbox.crowded() or self.read[place] == len(self.log[place]):
                    break
                self._add(place, self.read[place])
                self.read[place] += 1
                got_on = True
        got_on |= self._take(most)
        while wanted := self.inbox.ends_wanted():
            for topic in wanted:
                self.inbox.ends(topic, {place: len(self.log[place]) for place in PLACES if place.topic == topic})
            got_on |= self._take(most)
        return got_on

    def _take(self, most: int) -> bool:
        batch = self.inbox.take(most)
        self._check_order(batch.events)
        self.part += sorted(batch.events, key=place_of)
        if batch.whole:
            self.taken += self.part
            self.part = []
            self.reached |= batch.progress
        else:
            assert not batch.progress
        return bool(batch.events or batch.progress)

    def _check_order(self, events: list[ChangeEvent]) -> None:
        """Each partition's are in order, tables in that of their first event. Where some concern other partitions too,
        all are.
        """
        order = [place_of(event) for event in events]
        for at, event in enumerate(events):
            if isinstance(event.change, Alter | Truncate):
                assert all(place <= order[at] for place in order[:at])
                assert all(place >= order[at] for place in order[at:])
        place_at = {place_of(event): place for commit in self.commits for place, event in commit}
        for place in PLACES:
            here = [each for each in order if place_at[each] == place]
            assert here == sorted(here)
        first = {event.table.id.name: place_of(event) for event in sorted(events, key=place_of, reverse=True)}
        assert [*dict.fromkeys(event.table.id.name for event in events)] == sorted(first, key=first.__getitem__)

    def _add(self, place: TopicPartition, offset: int) -> None:
        record = self.log[place][offset]
        if place == ENDS:
            self.inbox.add_end(offset, record)
        elif place == TABLES:
            ours = record.table.id.name in OURS
            self.inbox.add_alteration(place, offset, record.position, record if ours else None)
        else:
            altered = ORIGIN if record is None else self.altered_before[record.position]
            self.inbox.add(place, offset, record, altered=altered, size=large(record))

    def check(self) -> None:
        """Each transaction that was taken is there as a whole, once, in order; and nothing beside."""
        order = [place_of(event) for event in self.taken]
        assert order == sorted(set(order))
        latest = max((event.transaction.commit_lsn for event in self.taken), default=0)
        for lsn, must in self.must.items():
            taken = {place for place in order if place[0].commit_lsn == lsn}
            assert not taken or lsn <= latest
            assert taken >= must or lsn > latest
            assert taken <= {place_of(event) for _, event in self.commits[lsn - 1]}
        assert {event.transaction.commit_lsn for event in self.taken} <= self.must.keys()


def large(event: ChangeEvent | None) -> int:
    """Some are so large that two of them make a partition crowded."""
    return 0 if event is None else (event.ordinal % 3) << 19


def place_of(event: ChangeEvent) -> tuple[Position, bool]:
    return event.position, not isinstance(event.change, Alter)


WRITE = st.sampled_from(["one", "one", "one", "two", "other", "one!", "other!", "one?"])
WRITES = st.lists(WRITE, min_size=1, max_size=14)
AMOUNTS = st.lists(st.integers(0, 6), min_size=len(PLACES) + 1, max_size=len(PLACES) + 1)
ALL = [10_000] * (len(PLACES) + 1)
HELD = st.dictionaries(st.sampled_from(["one", "two", "other"]), st.integers(1, 9))
ACTIONS = st.one_of(
    st.tuples(st.just("publish"), st.lists(WRITES, min_size=1, max_size=3), st.just(ALL)),
    st.tuples(st.just("publish"), st.lists(WRITES, min_size=1, max_size=3), AMOUNTS),
    st.tuples(st.just("deliver"), AMOUNTS),
    st.tuples(st.just("kill_capture"), HELD),
    st.tuples(st.just("open")),
    st.tuples(st.just("apply"), AMOUNTS, st.integers(1, MOST)),
    st.tuples(st.just("apply"), AMOUNTS, st.integers(1, MOST)),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(ACTIONS, max_size=40))
def test_transactions_are_taken_whole_once_and_in_order(actions: list[tuple]) -> None:
    site = Site()
    for name, *arguments in actions:
        getattr(site, name)(*arguments)
        site.check()
    site.publish([["one", "one", "two"]], ALL)  # the END of which passes by what no END counts
    while site.apply(ALL, MOST) or site.apply(ALL, MOST):  # once more: it may say only then what is to be read on
        pass
    site.check()
    nothing = PartitionProgress(ORIGIN, 0)
    assert {at: site.reached.get(at, nothing).next_offset for at in site.log} == {
        at: len(records) for at, records in site.log.items()
    }
    assert {lsn for lsn, must in site.must.items() if must} <= {event.transaction.commit_lsn for event in site.taken}
    assert not site.part


ONE, ONE_B = TopicPartition("one", 0), TopicPartition("one", 1)


@pytest.fixture
def inbox() -> TransactionInbox:
    return Site().inbox


def test_a_transaction_waits_for_all_of_it(inbox: TransactionInbox) -> None:
    inbox.add_end(0, make_end(7, 3, one=2))
    inbox.add(ONE, 0, make_event(7, 1, "one"))
    assert inbox.take(10).events == []
    inbox.add(ONE_B, 0, make_event(7, 3, "one"))
    batch = inbox.take(10)
    assert [event.ordinal for event in batch.events] == [1, 3]
    assert batch.progress[ENDS] == PartitionProgress(Position(1, 7, 3), 1)


def test_a_lost_event_is_a_gap(inbox: TransactionInbox) -> None:
    inbox.add_end(0, make_end(7, 2, one=2))
    inbox.add(ONE, 0, make_event(7, 1, "one"))
    for _ in range(LOOKS):
        assert (inbox.take(10).events, inbox.ends_wanted()) == ([], set())  # it did not wait for more yet
    assert (inbox.take(10).events, inbox.ends_wanted()) == ([], {"one", "tables"})  # nothing comes any more
    inbox.ends("one", {ONE: 1, ONE_B: 0})
    with pytest.raises(GapError, match="transaction 1:7:7 is not whole in the log: it lacks 1 of 2 in 'one'"):
        inbox.take(10)


def test_later_events_in_all_partitions_show_the_gap_without_asking(inbox: TransactionInbox) -> None:
    inbox.add_end(0, make_end(7, 2, one=2))
    inbox.add(ONE, 0, make_event(8, 1, "one"))
    inbox.add(ONE_B, 0, make_event(8, 2, "one"))
    with pytest.raises(GapError):
        inbox.take(10)


@pytest.mark.parametrize("place", [ONE, ENDS])
def test_a_hole_in_a_topic_is_a_gap(place: TopicPartition, inbox: TransactionInbox) -> None:
    """Compaction, or someone who deleted records."""
    add = partial(inbox.add_end, 1, make_end(7, 1, one=1)) if place == ENDS else partial(inbox.add, ONE, 1, None)
    with pytest.raises(LogGapError, match=f"topic '{place.topic}', partition 0: offset 1 came after -1"):
        add()


def test_an_end_that_comes_twice_or_late(inbox: TransactionInbox) -> None:
    inbox.add_end(0, make_end(8, 1, one=1))
    inbox.add_end(1, make_end(7, 1, one=1))  # late
    inbox.add_end(2, make_end(8, 1, one=1))  # again
    inbox.add(ONE, 0, make_event(7, 1, "one"))
    inbox.add(ONE, 1, make_event(8, 1, "one"))
    batch = inbox.take(10)
    assert [event.transaction.commit_lsn for event in batch.events] == [7, 8]
    inbox.add_end(3, make_end(8, 1, one=1))  # after it was taken
    assert inbox.take(10).events == []


def test_reading_goes_on_from_the_first_end_of_those_left_in_the_log(inbox: TransactionInbox) -> None:
    """Not from that of the first transaction: the END of another came before it."""
    inbox.add_end(0, make_end(6, 1, one=1))
    inbox.add_end(1, make_end(8, 1, one=1))
    inbox.add_end(2, make_end(7, 1, one=1))  # late
    inbox.add(ONE, 0, make_event(6, 1, "one"))
    assert inbox.take(10).progress[ENDS] == PartitionProgress(Position(1, 6, 1), 1)


def test_where_the_log_ended_before_an_end_came_again_says_nothing_of_it(inbox: TransactionInbox) -> None:
    """A capture that crashed once more sends the END again, and before it what was not in the log by then."""
    inbox.add(ONE_B, 0, make_event(7, 2, "one"))
    inbox.add_end(0, make_end(7, 2, one=1, resent=True))
    assert inbox.take(10).events == []
    inbox.ends("one", {ONE: 0, ONE_B: 1})
    inbox.add_end(1, make_end(7, 2, one=1, resent=True))
    assert inbox.take(10).events == []
    assert "one" in inbox.ends_wanted()
    inbox.ends("one", {ONE: 0, ONE_B: 1})
    assert len(inbox.take(10).events) == 1


def test_events_of_no_transaction_that_ended_are_dropped(inbox: TransactionInbox) -> None:
    inbox.add(ONE, 0, make_event(5, 1, "one"))
    inbox.add(ONE_B, 0, make_event(6, 1, "one"))
    inbox.add_end(0, make_end(6, 1, one=1))
    batch = inbox.take(10)
    assert ([event.transaction.commit_lsn for event in batch.events], inbox.dropped) == ([6], 1)
    assert batch.progress[ONE] == PartitionProgress(Position(1, 5, 1), 1)


def test_what_no_end_counts_does_not_stand_for_what_is_missing(inbox: TransactionInbox) -> None:
    inbox.add(ONE, 0, make_event(8, 1, "one"))  # 7 is still to be read
    inbox.add(ONE, 1, make_event(9, 1, "one"))
    inbox.add_end(0, make_end(7, 1, one=1))
    inbox.add_end(1, make_end(9, 1, one=1))
    assert inbox.take(10).events == []
    inbox.add(ONE_B, 0, make_event(7, 1, "one"))
    taken = inbox.take(10).events
    assert ([event.transaction.commit_lsn for event in taken], inbox.dropped) == ([7, 9], 1)


def test_what_no_end_counts_does_not_stand_for_what_was_taken_in_part(inbox: TransactionInbox) -> None:
    inbox.add_end(0, make_end(7, 3, one=3))
    inbox.add(ONE, 0, make_event(7, 1, "one"))
    inbox.add(ONE_B, 0, make_event(7, 2, "one"))
    assert [event.ordinal for event in inbox.take(2).events] == [1]
    for offset, lsn in enumerate((7, 8, 9), start=1):
        inbox.add(ONE, offset, make_event(lsn, 3, "one"))
    inbox.add_end(1, make_end(9, 3, one=1))
    rest = inbox.take(10)
    assert ([tuple(event.position)[1:] for event in rest.events], rest.whole) == ([(7, 2), (7, 3)], True)
    assert [event.transaction.commit_lsn for event in inbox.take(10).events] == [9]
    assert inbox.dropped == 1


def test_a_transaction_waits_for_its_change_of_shape(inbox: TransactionInbox) -> None:
    inbox.add(ONE, 0, make_event(7, 2, "one"))
    inbox.add_end(0, make_end(7, 2, alterations=1, one=1))
    assert inbox.take(10).events == []
    altered = make_event(7, 1, "one", alters=True)
    inbox.add_alteration(TABLES, 0, altered.position, altered)
    assert inbox.take(10).events == [altered, make_event(7, 2, "one")]


def test_an_end_of_a_table_nobody_told_of_waits(inbox: TransactionInbox) -> None:
    inbox.add_end(0, make_end(7, 1, new=1))
    assert inbox.take(10).progress == {}
    inbox.know("public.new", "new")
    inbox.assign(TopicPartition("new", 0), PartitionProgress(ORIGIN, 0))
    inbox.add(TopicPartition("new", 0), 0, make_event(7, 1, "new"))
    assert len(inbox.take(10).events) == 1


def test_an_end_of_a_later_epoch_waits_for_its_load() -> None:
    inbox = TransactionInbox(
        room=Room(ROOM), transactions=ENDS, progress=PartitionProgress(ORIGIN, 0), epoch=0, floor=ORIGIN
    )
    inbox.add_end(0, make_end(7, 1, one=1))
    assert inbox.take(10).progress == {}


def test_what_is_no_transaction_may_stand_at_the_place_of_one(inbox: TransactionInbox) -> None:
    """A message that stands alone, and the commit right after it."""
    message = End("1:none:7", 1, 7, 0, {MESSAGES: 1}, is_transaction=False)
    inbox.add_end(0, message)
    assert inbox.take(10).progress == {ENDS: PartitionProgress(ORIGIN, 1)}
    inbox.add(ONE, 0, make_event(7, 1, "one"))
    inbox.add_end(1, message)
    inbox.add_end(2, make_end(7, 1, one=1))
    batch = inbox.take(10)
    assert len(batch.events) == 1
    assert batch.progress[ENDS] == PartitionProgress(Position(1, 7, 1), 3)


def test_the_transaction_topic_is_paused_where_enough_is_due(inbox: TransactionInbox) -> None:
    for offset in range(MOST):
        assert ENDS not in inbox.crowded()
        inbox.add_end(offset, make_end(offset + 1, 1, one=1))
    assert ENDS in inbox.crowded()
    inbox.add(ONE, 0, make_event(1, 1, "one"))
    inbox.take(1)
    assert ENDS not in inbox.crowded()


def test_a_crowded_partition_is_read_on_while_there_is_room_for_all() -> None:
    inbox = TransactionInbox(
        room=Room(6, size=1 << 20), transactions=ENDS, progress=PartitionProgress(ORIGIN, 0), epoch=1, floor=ORIGIN
    )
    inbox.know("public.one", "one")
    for partition in (ONE, ONE_B):
        inbox.assign(partition, PartitionProgress(ORIGIN, 0))
    for ordinal in (1, 2):
        inbox.add(ONE, ordinal - 1, make_event(7, ordinal, "one"), size=300 << 10)
    assert inbox.crowded() == {ONE}
    assert inbox.has_room()
    for ordinal in (3, 4):
        inbox.add(ONE_B, ordinal - 3, make_event(7, ordinal, "one"), size=300 << 10)
    assert not inbox.has_room()  # by what they hold together
    inbox.add_end(0, make_end(7, 4, one=4))
    inbox.take(10)
    assert inbox.has_room()
    for ordinal in range(1, 4 * 6 + 1):
        assert inbox.has_room()
        inbox.add(ONE, ordinal + 1, make_event(8, ordinal, "one"), size=1)
    assert not inbox.has_room()  # by their number


def test_what_an_earlier_session_wrote_does_not_count_for_a_resent_transaction(inbox: TransactionInbox) -> None:
    """That session wrote 1 and 2, of which only 2 got durable; this one, which reads the table again, wrote only 1."""
    inbox.add(ONE_B, 0, make_event(7, 2, "one"))
    inbox.add_end(0, make_end(7, 2, one=1, resent=True))
    assert inbox.take(10).events == []
    assert inbox.ends_wanted() == {"one", "tables"}
    inbox.ends("one", {ONE: 1, ONE_B: 1})
    assert inbox.take(10).events == []
    inbox.add(ONE, 0, make_event(7, 1, "one"))
    assert [event.ordinal for event in inbox.take(10).events] == [1, 2]


def test_where_the_log_ended_before_an_end_says_nothing_of_it(inbox: TransactionInbox) -> None:
    for lsn in (7, 8):  # of 8, an earlier session wrote the event at 2
        inbox.add(ONE_B, lsn - 7, make_event(lsn, 2, "one"))
        inbox.add_end(lsn - 7, make_end(lsn, 2, one=1, resent=True))
        assert inbox.take(10).events == []
        assert inbox.ends_wanted() == {"one", "tables"}
        inbox.ends("one", {ONE: 0, ONE_B: lsn - 6})
        assert len(inbox.take(10).events) == 1


def test_what_holds_nothing_new_goes_with_the_event_before_it(inbox: TransactionInbox) -> None:
    """A tombstone, and what was read before."""
    inbox.add(ONE, 0, make_event(7, 1, "one"))
    inbox.add(ONE, 1, None)
    inbox.add(ONE, 2, make_event(7, 1, "one"))
    inbox.add(ONE, 3, make_event(8, 1, "one"))
    inbox.add_end(0, make_end(7, 1, one=1))
    assert inbox.take(10).progress[ONE] == PartitionProgress(Position(1, 7, 1), 3)


def test_what_holds_nothing_new_is_passed_by(inbox: TransactionInbox) -> None:
    inbox.add_end(0, make_end(7, 1, one=1))
    inbox.add(ONE, 0, make_event(7, 1, "one"))
    inbox.take(10)
    inbox.add(ONE, 1, None)
    inbox.add(ONE, 2, make_event(7, 1, "one"))
    assert inbox.take(10).progress == {ONE: PartitionProgress(Position(1, 7, 1), 3)}


def test_a_part_is_not_committed_while_the_rest_waits_for_a_change_of_shape(inbox: TransactionInbox) -> None:
    """More than one, in a transaction that is larger than a batch."""
    first, second = (make_event(7, ordinal, "one", alters=True) for ordinal in (1, 4))
    inbox.add_end(0, make_end(7, 6, alterations=2, one=6))
    inbox.add_alteration(TABLES, 0, first.position, first)
    for ordinal in (1, 2, 3):
        inbox.add(ONE, ordinal - 1, make_event(7, ordinal, "one"), altered=first.position)
    inbox.add(ONE_B, 0, make_event(7, 3, "one"), altered=first.position)
    inbox.take(2)
    assert inbox.ends_wanted() == {"one", "tables"}
    inbox.ends("one", {ONE: 6, ONE_B: 1})
    inbox.ends("tables", {TABLES: 2})
    assert not inbox.take(2).whole
    inbox.add(ONE, 3, make_event(7, 4, "one"), altered=second.position)
    assert inbox.take(2) == Batch(whole=False)


def test_a_resent_transaction_that_lost_an_event_is_a_gap(inbox: TransactionInbox) -> None:
    """Even if an earlier session left one of another table."""
    inbox.add(TopicPartition("two", 0), 0, make_event(7, 2, "two"))
    inbox.add_end(0, make_end(7, 2, one=1, resent=True))
    assert inbox.take(10).events == []
    for topic in inbox.ends_wanted():
        inbox.ends(topic, {place: 0 for place in PLACES if place.topic == topic})
    with pytest.raises(GapError, match="lacks 1 of 1 in 'one'"):
        inbox.take(10)


@pytest.mark.parametrize("awaits_create", [True, False])
def test_a_part_does_not_end_between_the_halves_of_a_moved_row(inbox: TransactionInbox, *, awaits_create: bool) -> None:
    """Nor if the second has all values: a foreign key at the target would act on the delete."""
    halves = [
        Delete(KeyImage((b"1",)), moved_to=(b"2",), awaits_create=awaits_create),
        Create((b"2",), moved_from=(b"1",)),
    ]
    one, two, three = (make_event(7, ordinal, "one") for ordinal in (1, 2, 3))
    inbox.add_end(0, make_end(7, 3, one=3))
    inbox.add(ONE, 0, one)
    inbox.add(ONE, 1, replace(two, change=halves[0]))
    inbox.take(2)
    assert inbox.ends_wanted() == {"one", "tables"}
    inbox.ends("one", {ONE: 3, ONE_B: 0})  # more may come in ONE, where 2 was read
    assert [event.ordinal for event in inbox.take(2).events] == [1]
    inbox.add(ONE, 2, replace(three, change=halves[1]))
    assert [event.ordinal for event in inbox.take(2).events] == [2, 3]


def test_a_change_of_shape_is_taken_though_its_transaction_never_ended(inbox: TransactionInbox) -> None:
    """A reading was cut off after the change was durable: the next session goes on from it, and says it no more."""
    inbox.add(ONE, 0, make_event(4, 1, "one"))
    inbox.add_end(0, make_end(4, 1, one=1))
    inbox.add(ONE, 1, make_event(5, 2, "one"))  # of the reading; it is read again
    inbox.add_alteration(TABLES, 0, Position(1, 5, 1), make_event(5, 1, "one", alters=True))
    inbox.add(ONE, 2, make_event(6, 1, "one"), altered=Position(1, 5, 1))
    inbox.add_end(1, make_end(6, 1, one=1))
    taken = [inbox.take(10) for _ in range(3)]
    assert [[event.position for event in batch.events] for batch in taken] == [
        [Position(1, 4, 1)],
        [Position(1, 5, 1)],
        [Position(1, 6, 1)],
    ]
    assert inbox.dropped == 1
    assert taken[1].progress == {
        ONE: PartitionProgress(Position(1, 5, 2), 2),
        TABLES: PartitionProgress(Position(1, 5, 1), 1),
        ENDS: PartitionProgress(whole(Position(1, 5, 0)), 1),  # beyond all that was dropped
    }


def test_events_wait_for_the_change_of_shape_that_they_go_on_from(inbox: TransactionInbox) -> None:
    inbox.add(ONE, 0, make_event(6, 1, "one"), altered=Position(1, 5, 1))
    inbox.add_end(0, make_end(6, 1, one=1))
    assert inbox.take(10).events == []
    inbox.add_alteration(TABLES, 0, Position(1, 5, 1), make_event(5, 1, "one", alters=True))
    assert [event.position.commit_lsn for event in inbox.take(10).events] == [5]
    assert [event.position.commit_lsn for event in inbox.take(10).events] == [6]


def test_changes_of_shape_are_read_on_while_the_current_transaction_waits_for_one(inbox: TransactionInbox) -> None:
    """It may have more of them than there is room for."""
    last = ROOM + 5
    inbox.add(ONE, 0, make_event(5, last, "one"), altered=Position(1, 5, last))
    inbox.add_end(0, make_end(5, last, alterations=last, one=1))
    for ordinal in range(1, last + 1):
        assert inbox.take(10).events == []
        assert TABLES not in inbox.crowded()
        alteration = make_event(5, ordinal, "one", alters=True)
        inbox.add_alteration(TABLES, ordinal - 1, alteration.position, alteration)
    assert [event.ordinal for event in inbox.take(10).events] == [*range(1, last + 1), last]
    for ordinal in range(1, ROOM + 1):  # of later transactions
        alteration = make_event(7, ordinal, "one", alters=True)
        inbox.add_alteration(TABLES, last + ordinal - 1, alteration.position, alteration)
    assert inbox.take(10).events == []
    assert TABLES in inbox.crowded()


def test_a_lost_event_is_a_gap_also_if_others_are_never_quiet(inbox: TransactionInbox) -> None:
    inbox.add_end(0, make_end(7, 2, one=2))
    inbox.add(ONE, 0, make_event(7, 1, "one"))
    for offset in range(100):
        inbox.add(ONE_B, offset, make_event(8 + offset, 1, "one"))
        assert inbox.take(10).events == []
        if inbox.ends_wanted():
            break
    assert inbox.ends_wanted() == {"one", "tables"}


def test_a_lost_change_of_shape_is_a_gap(inbox: TransactionInbox) -> None:
    inbox.add(ONE, 0, make_event(6, 1, "one"), altered=Position(1, 5, 1))
    inbox.add_end(0, make_end(6, 1, one=1))
    for _ in range(LOOKS + 1):
        assert inbox.ends_wanted() == set()
        inbox.take(10)
    assert inbox.ends_wanted() == {"one", "tables"}
    inbox.ends("tables", {TABLES: 0})
    with pytest.raises(GapError, match="topic 'tables' no longer holds the change of a table at 1:0/5:1"):
        inbox.take(10)
