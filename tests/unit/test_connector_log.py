"""A Debezium connector's topics: found by name, and each event taken once however often it was sent."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc.core.errors import FidelityError, GapError, TopicMismatchError
from cdc.core.events import (
    UNCHANGED,
    UNKNOWN_KEY,
    ChangeEvent,
    Create,
    Delete,
    KeyImage,
    Read,
    Transaction,
    Truncate,
    Update,
)
from cdc.core.log import TopicPartition, TopicSpec
from cdc.core.position import ORIGIN
from cdc.core.tables import TableId, TableSchema
from cdc.log.contents import connector_state
from cdc.log.memory import MemoryLog
from consumers.apply import connector
from consumers.apply.connector import ConnectorLog
from consumers.plan.checkpoint import PartitionProgress
from consumers.plan.inbox import Inbox
from consumers.plan.room import Room

TABLE = TableSchema(id=TableId("public", "items"), columns=(), key=(0,))
TOPIC = "shop.public.items"
PARTITIONS = [TopicPartition(TOPIC, number) for number in (0, 1)]


def test_tables_are_found_by_their_topics():
    state = connector_state(
        "shop",
        {
            "shop.public.items": 3,
            "shop.other.a.b": 1,
            "shop.transaction": 1,
            "shop": 1,
            "shopping.public.items": 1,
            "__debezium-heartbeat.shop": 1,
        },
    )
    assert {(str(table.table), table.topic, table.partitions) for table in state.tables.values()} == {
        ("public.items", "shop.public.items", 3),
        ("other.a.b", "shop.other.a.b", 1),
    }
    assert state.log_id == "debezium:shop"


def test_without_topics_there_is_no_log_yet():
    assert connector_state("shop", {"shop.transaction": 1}).log_id is None


class Log:
    def __init__(self, monkeypatch) -> None:
        monkeypatch.setattr(connector, "_LOOK_SECONDS", 0.0)
        log = MemoryLog()
        self.writer = log.writer()
        self.said: list[str] = []
        self.connector = ConnectorLog(log.reader("test"), "shop", self.said.append)

    def create(self, **partitions: int) -> None:
        self.writer.create_topics([TopicSpec(f"shop.public.{name}", number) for name, number in partitions.items()])
        self.connector.look()


@pytest.fixture
def log(monkeypatch) -> Log:
    return Log(monkeypatch)


def event(change, commit=10, lsn=16, *, table=TABLE) -> ChangeEvent:
    transaction = Transaction(epoch=0, commit_lsn=commit, xid=1, commit_time_us=0, database="shop")
    moved = isinstance(change, Create) and change.moved_from is not None
    return ChangeEvent(transaction=transaction, table=table, change=change, ordinal=lsn + moved, table_ordinal=0)


def test_new_topics_are_found_later(log):
    log.create(items=1)
    assert log.connector.state.tables.keys() == {"shop.public.items"}
    log.create(others=2)
    assert log.connector.state.tables.keys() == {"shop.public.items", "shop.public.others"}


def test_more_partitions_are_refused(log, monkeypatch):
    log.create(items=1)
    monkeypatch.setattr(log.connector, "_reader", type("", (), {"topics": lambda _: {TOPIC: 2}})())
    with pytest.raises(TopicMismatchError, match=r"shop\.public\.items"):
        log.connector.look()


def test_more_partitions_are_refused_after_a_restart_too(log):
    log.create(items=1)
    (table,) = log.connector.state.tables.values()
    reached = log.connector.begun(table, {})
    assert log.connector.begun(table, reached) == {}
    with pytest.raises(TopicMismatchError, match="has 2 partitions now, not 1"):
        log.connector.begun(replace(table, partitions=2), reached)


def test_a_table_without_key_is_refused(log):
    log.create(items=1)
    keyless = replace(TABLE, key=())
    with pytest.raises(FidelityError, match=r"public\.items has no key"):
        log.connector.require_applicable(event(Create((b"1",)), table=keyless), TOPIC)
    log.connector.require_applicable(event(Create((b"1",))), TOPIC)
    log.connector.require_applicable(event(Truncate(), table=keyless), TOPIC)  # it comes without a key


def test_a_truncate_among_several_partitions_is_refused(log):
    log.create(items=2)
    with pytest.raises(GapError, match=r"public\.items was truncated"):
        log.connector.require_applicable(event(Truncate()), TOPIC)


@pytest.mark.parametrize(
    ("again", "resent"),
    [
        (event(Update(None, (b"1",)), 10, 24), True),
        (event(Update(None, (b"1",)), 10, 32), True),
        (event(Update(None, (b"1",)), 10, 40), False),
        (event(Update(None, (b"1",)), 20, 8), False),  # a transaction that began earlier and was committed later
        (event(Update(None, (b"1",)), 9, 80), True),
        (event(Create((b"1",)), 10, 32), False),  # another row of the same INSERT, perhaps
        (event(Create((b"1",)), 10, 24), True),
        (event(Read((b"1",)), 10, 32), False),  # of an incremental snapshot
        (event(Delete(KeyImage((b"1",)), UNKNOWN_KEY, awaits_create=True), 10, 32), True),
        (event(Create((b"1",), UNKNOWN_KEY), 10, 32), False),  # the second half
        (event(Read((b"1",)), 0, 0), False),  # of a first snapshot: the connector begins anew
    ],
)
def test_what_was_sent_before(again, resent, log):
    assert log.connector.resent(event(Truncate(), 10, 32).position, again) is resent


def test_that_the_connector_repeats_itself_is_said_once_each_time(log):
    read, update = event(Truncate(), 10, 32).position, Update(None, (b"1",))
    for lsn in (8, 16, 40, 8):
        log.connector.resent(read, event(update, 10, lsn))
    assert len(log.said) == 2
    assert "public.items" in log.said[0]


def test_a_changed_key_whose_second_half_is_missing_is_a_gap():
    inbox = Inbox(room=Room(100))
    for partition in PARTITIONS:
        inbox.assign(partition, PartitionProgress(ORIGIN, 0))
    inbox.add(PARTITIONS[0], 0, event(Delete(KeyImage((b"1",)), UNKNOWN_KEY, awaits_create=True), 10, 16))
    inbox.add(PARTITIONS[0], 1, event(Create((b"3",)), 10, 24))
    assert not inbox.take(100).events
    inbox.add(PARTITIONS[1], 0, event(Create((b"2",)), 10, 32))
    with pytest.raises(GapError, match="second half"):
        inbox.take(100)


# ---- a connector that is killed at any moment -----------------------------------------------------------------------

KEYS = [b"%d" % n for n in range(6)]


def partition_of(change) -> TopicPartition:
    match change:
        case Create((key, *_)) | Update(_, (key, *_)) | Delete(KeyImage((key,))):
            return PARTITIONS[int(key) % 2]
    raise AssertionError


class Source:
    """Commits transactions; a connector sends their events in this order."""

    def __init__(self) -> None:
        self.rows: dict[bytes, tuple[bytes, bytes]] = {}
        self.events: list[ChangeEvent] = []
        self._lsn, self._commit, self._new = count(8, 8), 0, count()

    def commit(self, writes) -> None:
        for kind, key, other in writes:
            self._write(kind, key, other)
        self._commit = next(self._lsn)

    def _write(self, kind, key, other) -> None:
        lsn, new = next(self._lsn), b"%d" % next(self._new)
        if key not in self.rows:
            for each in sorted({key, other} - self.rows.keys()):  # one record of the WAL
                self.rows[each] = (new, new)
                self._send(lsn, Create((each, new, new)))
        elif kind == "delete":
            del self.rows[key]
            self._send(lsn, Delete(KeyImage((key,))))
        elif kind == "move" and other not in self.rows:
            self.rows[other] = (new, self.rows.pop(key)[1])
            self._send(lsn, Delete(KeyImage((key,)), UNKNOWN_KEY, awaits_create=True))
            self._send(lsn, Create((other, new, UNCHANGED), UNKNOWN_KEY))
        else:
            self.rows[key] = (new, self.rows[key][1])
            self._send(lsn, Update(None, (key, new, UNCHANGED)))

    def _send(self, lsn, change) -> None:
        self.events.append(event(change, self._commit or lsn, lsn))


class Target:
    """What comes too early or too late for it is an error."""

    def __init__(self) -> None:
        self.rows: dict[bytes, tuple[bytes, bytes]] = {}
        self._gone: tuple[bytes, bytes] | None = None

    def apply(self, change) -> None:
        match change:
            case Create((key, a, b)):
                self.rows[key] = (a, self._gone[1] if b is UNCHANGED else b)
            case Update(_, (key, a, _)):
                self.rows[key] = (a, self.rows[key][1])
            case Delete(KeyImage((key,))):
                self._gone = self.rows.pop(key)


writes = st.lists(
    st.tuples(st.sampled_from(["update", "delete", "move"]), st.sampled_from(KEYS), st.sampled_from(KEYS)),
    min_size=1,
    max_size=4,
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(writes, min_size=1, max_size=12),
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1))),
    st.integers(0, 2**32),
)
def test_the_target_becomes_the_source_wherever_the_connector_is_killed(transactions, kills, seed):
    dice = random.Random(seed)
    source = Source()
    for transaction in transactions:
        source.commit(transaction)
    sent, saved = [], 0
    for died, back in [*kills, (1.0, 0.0)]:
        end = max(len(sent) and saved, round(died * len(source.events)))
        sent += source.events[saved:end]
        saved = round(end - back * (end - saved))
    logs = {partition: [each for each in sent if partition_of(each.change) == partition] for partition in PARTITIONS}

    target, connector_log = Target(), ConnectorLog(MemoryLog().reader("test"), "shop", lambda _: None)
    progress = dict.fromkeys(PARTITIONS, PartitionProgress(ORIGIN, 0))
    # An applier that is stopped again and again.
    while any(progress[partition].next_offset < len(logs[partition]) for partition in PARTITIONS):
        inbox = Inbox(room=Room(1000), resent=connector_log.resent)
        read = {}
        for partition in PARTITIONS:
            inbox.assign(partition, progress[partition])
            read[partition] = progress[partition].next_offset
        for _ in range(dice.randint(1, 60)):
            partition = dice.choice(PARTITIONS)
            if read[partition] < len(logs[partition]):
                inbox.add(partition, read[partition], logs[partition][read[partition]])
                read[partition] += 1
            if dice.random() < 0.3:
                batch = inbox.take(100)
                for each in batch.events:
                    target.apply(each.change)
                progress |= batch.progress
    assert target.rows == source.rows
