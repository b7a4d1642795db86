"""Batches in parts within one target transaction, with poison in one of them; over SQLite and a log in memory."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from cdc.avro.names import dead_letter_topic
from cdc.core.copy_text import copy_text
from cdc.core.errors import ConfigError, ConstraintError, UnfollowedError
from cdc.core.events import Alter, Change, ChangeEvent, Create, Read, Row, Transaction, Update
from cdc.core.log import Place, Record, TopicPartition, TopicSpec
from cdc.core.position import Position
from cdc.core.runs import ReadRun
from cdc.core.settings import TargetSettings
from cdc.core.state import TableState
from cdc.core.tables import Column, TableId, TableSchema
from cdc.core.types import ColumnType, Kind
from cdc.log.memory import MemoryLog
from consumers.apply.delivery import Delivery
from consumers.apply.letters import DeadLetters
from consumers.plan.checkpoint import PartitionProgress, require_sound
from consumers.plan.mapping import EventMapping
from consumers.targets.open import open_target
from consumers.targets.target import Target

TEXT = ColumnType(kind=Kind.STRING, name="text")
ITEM = TableSchema(
    id=TableId("public", "item"),
    columns=(Column(name="id", type=TEXT, nullable=False), Column(name="a", type=TEXT)),
    key=(0,),
)
OTHER = replace(ITEM, id=TableId("public", "other"))
LONGER = replace(OTHER, columns=(*OTHER.columns, Column(name="b", type=TEXT)))
MAPPING = EventMapping(TargetSettings(name="it", url="sqlite:///it.db"))
ONE = TopicPartition("p.public.item", 0)
FAR = {ONE: PartitionProgress(Position(1, 1, 9), 9)}


class Site:
    def __init__(self, folder: Path) -> None:
        self.path = folder / "it.db"
        self.query("CREATE TABLE item (id text PRIMARY KEY NOT NULL, a text CHECK (a <> 'bad'))")
        self.log = MemoryLog()
        with closing(self.log.writer()) as writer:
            writer.create_topics([TopicSpec(ONE.topic, 1)])
            writer.append([Record(*ONE, b"key %d" % n, b"value %d" % n, (("h", b"%d" % n),)) for n in range(9)])
            writer.poll(0)
        self.target = open_target(TargetSettings(name="it", url=f"sqlite:///{self.path}"))
        self.letters = DeadLetters(log=self.log, prefix="p", name="it", target=self.target)
        self.target.open()
        self.letters.open()

    def query(self, sql: str) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(self.path)) as lite, lite:
            return lite.execute(sql).fetchall()

    def close(self) -> None:
        self.letters.close()
        self.target.close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with closing(Site(tmp_path)) as site:
        yield site


def event(number: int, change: Change) -> ChangeEvent:
    transaction = Transaction(epoch=1, commit_lsn=1, xid=1, commit_time_us=0, database="shop")
    place = Place(*ONE, number)
    return ChangeEvent(
        transaction=transaction, table=ITEM, change=change, ordinal=number + 1, table_ordinal=1, place=place
    )


PARTS = (
    [event(0, Create((b"1", b"x"))), event(1, Create((b"2", b"bad"))), event(2, Create((b"3", b"x")))],
    [event(3, Update(None, (b"2", b"bad"))), event(4, Update(None, (b"3", b"y"))), event(5, Create((b"4", b"bad")))],
)


def test_parts_before_and_after_poison_stay(site: Site) -> None:
    delivery = Delivery(site.target, MAPPING, site.letters)
    for part in PARTS:
        delivery.write(part, log_id="log")
        assert site.query("SELECT * FROM item") == []
    delivery.commit(FAR, log_id="log")
    assert site.query("SELECT * FROM item ORDER BY id") == [("1", "x"), ("3", "y")]
    assert site.target.read_checkpoint().partitions == FAR
    stored = list(site.letters.stored())
    assert [letter.place.offset for letter in stored] == [1, 3, 5]
    assert [bool(letter.error) for letter in stored] == [True, False, True]
    assert [letter.position.ordinal for letter in stored] == [2, 4, 6]
    record = stored[1].record
    assert (record.key, record.value, record.headers) == (b"key 3", b"value 3", (("h", b"3"),))
    assert {letter.place.offset for letter in site.letters.read_index()} == {1, 3, 5}
    assert site.letters.count == 3


def test_without_dead_letters_nothing_stays(site: Site) -> None:
    delivery = Delivery(site.target, MAPPING)
    delivery.write(PARTS[0][:1], log_id="log")
    with pytest.raises(ConstraintError):
        delivery.write(PARTS[1], log_id="log")
    assert site.query("SELECT * FROM item") == []
    assert site.target.read_checkpoint().partitions == {}
    delivery.write([event(0, Create((b"1", b"x")))], log_id="log")
    delivery.commit(FAR, log_id="log")
    assert site.query("SELECT * FROM item") == [("1", "x")]


def stopping_at_changes(site: Site) -> Target:
    site.target.close()
    site.query("CREATE TABLE other (id text PRIMARY KEY NOT NULL, a text)")
    site.target = open_target(TargetSettings(name="it", url=f"sqlite:///{site.path}", schema_changes="stop"))
    site.target.open()
    return site.target


BEFORE = [event(0, Create((b"1", b"x"))), event(1, Update(None, (b"2", b"y"))), event(2, Create((b"3", b"x")))]
AFTER = [
    replace(event(4, Alter(before=OTHER)), table=LONGER, place=Place("p-cdc-tables", 0, 0)),
    event(5, Update(None, (b"2", b"z"))),
]


def test_what_stands_before_a_change_for_people_stays(site: Site) -> None:
    delivery = Delivery(stopping_at_changes(site), MAPPING)
    delivery.write(BEFORE[:1], log_id="log")
    with pytest.raises(UnfollowedError):
        delivery.write([*BEFORE[1:], *AFTER], log_id="log")
    assert site.query("SELECT * FROM item ORDER BY id") == [("1", "x"), ("2", "y"), ("3", "x")]
    assert site.target.read_checkpoint().partitions == {ONE: PartitionProgress(Position(1, 1, 3), 3)}


def test_what_waits_behind_a_letter_before_a_change_for_people_is_not_lost(site: Site) -> None:
    dead = Delivery(site.target, MAPPING, site.letters)
    dead.write([event(8, Create((b"2", b"bad")))], log_id="log")
    dead.commit({}, log_id="log")
    site.letters.close()
    target = stopping_at_changes(site)
    with closing(DeadLetters(log=site.log, prefix="p", name="it", target=target, taking=False)) as letters:
        letters.open()
        delivery = Delivery(target, MAPPING, letters)
        with pytest.raises(UnfollowedError):
            delivery.write([*BEFORE, *AFTER], log_id="log")
        assert site.query("SELECT * FROM item ORDER BY id") == [("1", "x"), ("3", "x")]
        assert target.read_checkpoint().partitions == {ONE: PartitionProgress(Position(1, 1, 3), 3)}
        assert {letter.place.offset for letter in letters.read_index()} == {1, 8}
        assert letters.count == 2


def test_a_target_with_a_mapping_has_letters_and_stops_at_changes(site: Site) -> None:
    mapping = EventMapping(TargetSettings(name="it", url="sqlite:///it.db", rename={"old.*": "public.*"}))
    delivery = Delivery(site.target, mapping, site.letters)
    delivery.write(PARTS[0], log_id="log")
    delivery.commit({}, log_id="log")
    assert [letter.place.offset for letter in site.letters.read_index()] == [1]

    delivery = Delivery(stopping_at_changes(site), mapping)
    with pytest.raises(UnfollowedError):
        delivery.write([event(3, Update(None, (b"3", b"z"))), *AFTER], log_id="log")
    assert site.query("SELECT * FROM item ORDER BY id") == [("1", "x"), ("3", "z")]
    assert site.target.read_checkpoint().partitions == {ONE: PartitionProgress(Position(1, 1, 4), 4)}


def test_letters_of_what_was_abandoned_are_none(site: Site) -> None:
    delivery = Delivery(site.target, MAPPING, site.letters)
    delivery.write(PARTS[0], log_id="log")
    delivery.abandon()
    delivery.write([event(1, Create((b"2", b"x")))], log_id="log")
    delivery.commit(FAR, log_id="log")
    assert site.query("SELECT * FROM item") == [("2", "x")]
    assert list(site.letters.stored()) == site.letters.read_index() == []


def test_letters_of_a_large_transaction_do_not_wait_for_its_commit(site: Site) -> None:
    delivery = Delivery(site.target, MAPPING, site.letters)
    for part in PARTS:
        delivery.write(part, log_id="log")
    assert [letter.place.offset for letter in site.letters.stored()] == [1, 3, 5]
    delivery.abandon()
    assert site.letters.read_index() == []
    delivery.write([event(1, Create((b"2", b"x")))], log_id="log")
    delivery.commit({}, log_id="log")
    assert (site.letters.count, site.letters.blocked, site.letters.read_index()) == (0, False, [])


def test_letters_know_their_table_by_its_name_at_the_target(site: Site) -> None:
    delivery = Delivery(site.target, MAPPING, site.letters)
    delivery.write(PARTS[0], log_id="log")
    delivery.commit(FAR, log_id="log")
    site.letters.require_same_names({ONE.topic: ITEM.id, "p.public.other": OTHER.id})
    site.letters.require_same_names({"p.public.other": OTHER.id})
    with pytest.raises(ConfigError, match=r"public\.item has dead letters, and would be public\.things now") as raised:
        site.letters.require_same_names({ONE.topic: TableId("public", "things")})
    assert "cdc dlq retry it" in str(raised.value.mend)


def test_a_table_s_topic_is_not_taken_for_letters(site: Site) -> None:
    topic = dead_letter_topic("p", "it")
    table = TableState(table=TableId("dlq", "it"), topic=topic, partitions=1)
    with pytest.raises(ConfigError, match=r"dlq\.it") as raised:
        site.letters.require_own_topic({topic: table})
    assert raised.value.mend


def run(first: int, *rows: Row) -> ReadRun:
    """Rows of a first load that came together."""
    single = event(first, Read(rows[0]))
    return ReadRun(
        transaction=single.transaction,
        table=ITEM,
        change=single.change,
        ordinal=first + len(rows),
        table_ordinal=first + len(rows),
        place=single.place,
        text=copy_text(rows),
        count=len(rows),
    )


def test_poison_among_rows_that_came_together_is_a_letter_of_its_own(site: Site) -> None:
    delivery = Delivery(site.target, MAPPING, site.letters)
    delivery.write([run(0, (b"1", b"x"), (b"2", b"bad"), (b"3", b"x")), run(3, (b"4", b"bad"))], log_id="log")
    delivery.write([run(4, (b"5", b"x"), (b"2", b"y"))], log_id="log")
    delivery.commit(FAR, log_id="log")
    assert site.query("SELECT * FROM item ORDER BY id") == [("1", "x"), ("3", "x"), ("5", "x")]
    assert [letter.place.offset for letter in site.letters.stored()] == [1, 3, 5]
    assert site.target.read_checkpoint().partitions == FAR


def test_what_waits_among_rows_that_came_together_is_where_it_goes_on(site: Site) -> None:
    site.query("CREATE UNIQUE INDEX once ON item (a)")
    delivery = Delivery(site.target, MAPPING, may_wait=lambda _: True)
    refused = [run(0, (b"1", b"x")), run(1, (b"2", b"y"), (b"3", b"x"), (b"4", b"z"))]
    delivery.write(refused, log_id="log")
    done = delivery.commit({ONE: PartitionProgress(Position(1, 1, 4), 4)}, log_id="log")
    assert site.query("SELECT * FROM item ORDER BY id") == [("1", "x"), ("2", "y")]
    assert done == {ONE: PartitionProgress(Position(1, 1, 2), 2)} == site.target.read_checkpoint().partitions
    assert {at: waiting.position.ordinal for at, waiting in delivery.waiting.items()} == {ONE: 3}


def test_a_first_batch_that_waits_as_a_whole_leaves_a_checkpoint_that_can_be_read(site: Site) -> None:
    site.query("CREATE UNIQUE INDEX once ON item (a)")
    site.query("INSERT INTO item VALUES ('0', 'x')")
    delivery = Delivery(site.target, MAPPING, may_wait=lambda _: True)
    delivery.write([event(0, Create((b"1", b"x")))], log_id="log")
    assert delivery.commit({ONE: PartitionProgress(Position(1, 1, 1), 1)}, log_id="log") == {}
    checkpoint = site.target.read_checkpoint()
    assert (checkpoint.log_id, checkpoint.partitions.get(ONE)) == ("log", None)
    require_sound(checkpoint, "it", may_be_empty=False)
