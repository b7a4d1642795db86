"""A user's own consumer: what it is handed, in which order, and what it is handed again."""

from __future__ import annotations

import datetime as dt
import json
import threading
import uuid
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from cdc.avro.names import consumer_topic
from cdc.core.errors import ConfigError, FidelityError, LogError, StaleApplierError, TargetError
from cdc.core.events import ChangeEvent, Create, Delete, FullImage, KeyImage, Transaction, Truncate, Update
from cdc.core.log import Record, StoredRecord, TopicSpec
from cdc.core.settings import LogSettings
from cdc.core.tables import Column, TableId, TableSchema
from cdc.core.types import ColumnType, Kind
from cdc.log.local import LocalLog
from cdc.log.reading import read_to_end
from consumers.apply.applier import Applier
from consumers.changes import UNCHANGED, Batch, Change, Consumer, SqlCheckpoints
from consumers.changes.change import Shapes
from consumers.changes.rehearsal import Rehearsal
from consumers.changes.values import convert_of, text_of


class Shop:
    """Orders of several partitions; `insert` commits each by itself."""

    def __init__(self) -> None:
        self.rehearsal = Rehearsal(settings=LogSettings(prefix="shop", partitions=3))
        self.orders = self.rehearsal.table("public.orders", {"id": "bigint", "note": "text"}, key=["id"])

    def insert(self, *ids: int) -> None:
        for number in ids:
            with self.rehearsal.transaction() as transaction:
                transaction.insert(self.orders, {"id": number})

    def consumer(self, **options: Any) -> Consumer:
        return self.rehearsal.consumer("mine", **options)


def ids(batch: Batch) -> list[int]:
    return [change.key["id"] for change in batch if change.key is not None]


def all_ids(consumer: Consumer) -> list[int]:
    with consumer:
        return sorted(number for batch in consumer.batches(follow=False) for number in ids(batch))


@pytest.fixture
def shop() -> Shop:
    return Shop()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'own.db'}")
    yield engine
    engine.dispose()


@pytest.fixture(params=["log", "sql"])
def options(request: pytest.FixtureRequest) -> dict[str, Any]:
    if request.param == "log":
        return {}
    return {"checkpoints": SqlCheckpoints(request.getfixturevalue("engine"), "mine")}


# What is handed out again


def test_what_was_committed_does_not_come_again_and_what_is_new_does(shop: Shop, options: dict[str, Any]) -> None:
    shop.insert(1, 2, 3)
    assert all_ids(shop.consumer(**options)) == [1, 2, 3]
    shop.insert(4)
    assert all_ids(shop.consumer(**options)) == [4]
    assert all_ids(shop.consumer(**options)) == []


def test_what_an_error_or_a_break_left_comes_again(shop: Shop, options: dict[str, Any]) -> None:
    shop.insert(*range(10))
    committed: set[int] = set()
    in_hand: set[int] = set()

    def read(most: int, end: type[Exception] | None) -> None:
        nonlocal in_hand
        with shop.consumer(**options, batch_changes=2) as consumer:
            for number, batch in enumerate(consumer, 1):
                committed.update(in_hand)
                in_hand = set(ids(batch))
                if number >= most and in_hand:
                    break
            if end is not None:
                raise end

    with pytest.raises(ZeroDivisionError):
        read(3, ZeroDivisionError)
    assert in_hand
    in_hand = set()
    read(2, None)
    assert in_hand

    rest = all_ids(shop.consumer(**options))
    assert in_hand <= set(rest)
    assert (committed & set(rest), committed | set(rest)) == (set(), set(range(10)))


def test_who_commits_alone_has_what_came_before_committed_too(shop: Shop, options: dict[str, Any]) -> None:
    shop.insert(*range(10))
    with shop.consumer(**options, batch_changes=2) as consumer:
        batches = list(consumer.batches(follow=False, commit=False))
    assert sorted(number for batch in batches for number in ids(batch)) == list(range(10))

    with shop.consumer(**options, batch_changes=2) as consumer:
        iteration = consumer.batches(follow=False, commit=False)
        first, second = next(iteration), next(iteration)
        while not ids(second):
            second = next(iteration)
        second.commit()
        first.commit()  # no way back
        iteration.close()
        seen = {*ids(first), *ids(second)}
    assert not seen & set(all_ids(shop.consumer(**options)))


def test_a_commit_in_the_users_own_transaction(shop: Shop, engine: sa.Engine) -> None:
    shop.insert(1, 2, 3)
    done = sa.Table("done", sa.MetaData(), sa.Column("id", sa.Integer))
    done.create(engine)

    def work(*, fail: bool) -> None:
        with shop.consumer(checkpoints=SqlCheckpoints(engine, "mine")) as consumer:
            for batch in consumer.batches(follow=False):
                with engine.begin() as connection:
                    for number in ids(batch):
                        connection.execute(done.insert().values(id=number))
                    batch.commit(connection)
                    if fail and ids(batch):
                        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work(fail=True)
    work(fail=False)
    with engine.connect() as connection:
        assert sorted(connection.execute(sa.select(done.c.id)).scalars()) == [1, 2, 3]


def test_a_transaction_of_the_users_that_is_rolled_back_and_tried_again(shop: Shop, engine: sa.Engine) -> None:
    """As after a deadlock: each time with the checkpoint, also in a batch after it."""
    shop.insert(1, 2, 3)
    done = sa.Table("done", sa.MetaData(), sa.Column("id", sa.Integer))
    done.create(engine)
    with shop.consumer(checkpoints=SqlCheckpoints(engine, "mine"), batch_changes=1) as consumer:
        for batch in consumer.batches(follow=False):
            for commits in (False, True):
                with engine.connect() as connection, connection.begin() as transaction:
                    for number in ids(batch):
                        connection.execute(done.insert().values(id=number))
                    batch.commit(connection)
                    if not commits:
                        transaction.rollback()
    assert all_ids(shop.consumer(checkpoints=SqlCheckpoints(engine, "mine"))) == []
    with engine.connect() as connection:
        assert sorted(connection.execute(sa.select(done.c.id)).scalars()) == [1, 2, 3]


def test_a_paused_consumer_that_comes_back_can_not_commit(shop: Shop, engine: sa.Engine) -> None:
    shop.insert(1)
    with shop.consumer(checkpoints=SqlCheckpoints(engine, "mine")) as paused:
        batch = next(paused.batches())
        assert all_ids(shop.consumer(checkpoints=SqlCheckpoints(engine, "mine"))) == [1]
        with pytest.raises(StaleApplierError, match="another consumer took over"):
            batch.commit()


def test_in_a_local_log_there_is_one_consumer_of_a_name(tmp_path: Path) -> None:
    settings = LogSettings(prefix="shop", url=f"sqlite:///{tmp_path / 'log.db'}")
    shop = Rehearsal(LocalLog(settings), settings=settings)
    shop.table("public.a", {"id": "bigint"})
    with shop.consumer("one") as first, shop.consumer("one") as second, closing(first.batches()) as batches:
        next(batches)
        with pytest.raises(LogError, match="is written by process"):
            next(second.batches())
        with shop.consumer("two") as other:
            assert next(other.batches())


def test_a_connection_for_a_checkpoint_in_the_log_is_refused(shop: Shop, engine: sa.Engine) -> None:
    with shop.consumer() as consumer, engine.begin() as connection:
        batch = next(iter(consumer))
        with pytest.raises(TargetError, match="can't be of a database's transaction"):
            batch.commit(connection)


def test_a_name_that_is_none(shop: Shop) -> None:
    with pytest.raises(ConfigError, match="'a b' is no name for a consumer"):
        shop.rehearsal.consumer("a b")


# Where it begins and ends


def test_latest_begins_where_the_log_ended_when_it_was_first_asked(shop: Shop, options: dict[str, Any]) -> None:
    shop.insert(1, 2)
    options = {**options, "start": "latest"}
    assert all_ids(shop.consumer(**options)) == []
    shop.insert(3)
    with shop.consumer(**options) as consumer:
        for batch in consumer:
            assert ids(batch) == [3]
            break  # not committed: `latest` must not be asked again
    assert all_ids(shop.consumer(**options)) == [3]


def test_stop_ends_the_iteration_from_another_thread(shop: Shop) -> None:
    shop.insert(1)
    with shop.consumer() as consumer:
        for batch in consumer:
            if 1 in ids(batch):
                thread = threading.Thread(target=consumer.stop)
                thread.start()
                thread.join()
    assert all_ids(shop.consumer()) == []  # the batch in hand was committed


@pytest.mark.parametrize("commit", [True, False])
def test_a_stop_while_events_are_read_leaves_them_for_the_next_time(
    shop: Shop, options: dict[str, Any], commit: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert all_ids(shop.consumer(**options)) == []
    shop.insert(1, 2, 3)
    with shop.consumer(**options) as consumer:
        step = Applier.step

        def stopped_meanwhile(self: Applier, wait: float) -> int:
            found = step(self, wait)
            consumer.stop()
            return found

        with monkeypatch.context() as patched:
            patched.setattr(Applier, "step", stopped_meanwhile)
            assert [ids(batch) for batch in consumer.batches(commit=commit)] == []
    assert all_ids(shop.consumer(**options)) == [1, 2, 3]


def test_only_the_tables_that_were_asked_for(shop: Shop) -> None:
    shop.rehearsal.table("other.b", {"id": "bigint"}, key=["id"])
    shop.insert(1)
    with shop.consumer(tables=["other.*"]) as consumer:
        assert [str(c.table) for batch in consumer.batches(follow=False) for c in batch] == ["other.b"]


def test_changes_of_shape_come_between_the_rows(shop: Shop) -> None:
    shop.insert(1)
    wider = shop.rehearsal.table("public.orders", {"id": "bigint", "note": "text", "more": "integer"}, key=["id"])
    with shop.rehearsal.transaction() as transaction:
        transaction.insert(wider, {"id": 2, "more": 3})
        transaction.drop(wider)
    with shop.consumer() as consumer:
        changes = [change for batch in consumer.batches(follow=False) for change in batch]

    assert [str(change.operation) for change in changes] == ["alter", "insert", "alter", "insert", "drop"]
    alter = changes[2]
    assert alter.schema_before is not None
    assert (len(alter.schema_before.columns), len(alter.schema.columns)) == (2, 3)
    assert changes[3].after == {"id": 2, "note": None, "more": 3}


def test_a_table_that_was_altered_before_it_was_asked_for(shop: Shop) -> None:
    """Its changes tell their shapes themselves: a consumer does not need what went by in between."""
    other = shop.rehearsal.table("other.b", {"id": "bigint"}, key=["id"])
    shop.insert(1)
    shop.rehearsal.table("public.orders", {"id": "bigint", "note": "text", "more": "integer"}, key=["id"])
    with shop.rehearsal.transaction() as transaction:
        transaction.insert(other, {"id": 2})
    with shop.consumer(tables=["other.*"]) as consumer:
        assert [batch.committed for batch in consumer.batches(follow=False)]
    assert all_ids(shop.consumer(tables=["*.*"])) == [1]


def test_a_first_checkpoint_in_the_log_that_a_crash_cut_short(shop: Shop) -> None:
    shop.insert(1)
    topic = consumer_topic("shop", "mine")
    said = b'{"topic":"shop.public.orders","partition":0,"position":"1:0/1:1","next_offset":9}'
    with closing(shop.rehearsal.log.writer(only=topic)) as writer:
        writer.create_topics([TopicSpec(topic, compacted=True, single=True)])
        ticket = writer.append([Record(topic, 0, b"shop.public.orders:0", said)])
        assert writer.poll(1.0) == ticket
    assert all_ids(shop.consumer()) == [1]


def records(shop: Shop, topic: str) -> list[StoredRecord]:
    with closing(shop.rehearsal.log.reader("test")) as reader:
        return list(read_to_end(reader, topic))


def test_a_checkpoint_in_the_log_is_one_record(shop: Shop) -> None:
    """Of many, a crash could leave some."""
    shop.insert(1, 2, 3)
    assert sorted(all_ids(shop.consumer())) == [1, 2, 3]
    assert {record.key for record in records(shop, consumer_topic("shop", "mine"))} == {b"checkpoint"}


def test_a_checkpoint_that_an_earlier_version_wrote_as_many_records(shop: Shop) -> None:
    shop.insert(1, 2)
    assert sorted(all_ids(shop.consumer())) == [1, 2]
    topic, earlier = consumer_topic("shop", "mine"), consumer_topic("shop", "earlier")
    said = json.loads(records(shop, topic)[-1].value or b"")
    names = ("topic", "partition", "position", "next_offset")
    old = [
        Record(earlier, 0, b"%d" % number, json.dumps(dict(zip(names, at, strict=True))).encode())
        for number, at in enumerate(said["partitions"])
    ]
    with closing(shop.rehearsal.log.writer(only=earlier)) as writer:
        writer.create_topics([TopicSpec(earlier, compacted=True, single=True)])
        ticket = writer.append([*old, Record(earlier, 0, b"log", json.dumps({"id": said["log"]}).encode())])
        assert writer.poll(1.0) == ticket
    shop.insert(3)
    assert all_ids(shop.rehearsal.consumer("earlier")) == [3]
    assert all_ids(shop.rehearsal.consumer("earlier")) == []


def test_an_iteration_that_was_left_is_followed_by_another(shop: Shop, options: dict[str, Any]) -> None:
    shop.insert(*range(6))
    seen: list[int] = []
    with shop.consumer(**options, batch_changes=2) as consumer:
        for batch in consumer.batches(follow=False):
            if ids(batch):
                break  # not committed: it is handed out again
        for batch in consumer.batches(follow=False):
            seen += ids(batch)
    assert sorted(seen) == list(range(6))


# A change


def text(name: str) -> Column:
    return Column(name=name, type=ColumnType(kind=Kind.STRING, name="text"))


TABLE = TableSchema(id=TableId("public", "t"), columns=(text("a"), text("k"), text("b")), key=(1,))


def change(of: Any, table: TableSchema = TABLE) -> Change:
    transaction = Transaction(epoch=1, commit_lsn=1, xid=7, commit_time_us=1_500_000, database="shop")
    event = ChangeEvent(transaction=transaction, table=table, change=of, ordinal=2, table_ordinal=1)
    return Change(event, Shapes().of(table))


def test_rows_keys_and_where_a_row_moved() -> None:
    row = (b"1", b"2", UNCHANGED)

    created = change(Create(row, moved_from=(b"9",)))
    assert created.after is not None
    assert (dict(created.after), created.after.unchanged) == ({"a": "1", "k": "2", "b": UNCHANGED}, {"b"})
    assert (created.key, created.moved_from, created.before, created.moved_to) == ({"k": "2"}, {"k": "9"}, None, None)
    assert change(Create(row)).moved_from is None
    with pytest.raises(ValueError, match="unchanged"):
        created.after.text("b")
    with pytest.raises(KeyError):
        created.after["c"]

    updated = change(Update(FullImage(row), row))
    assert (updated.before, updated.key) == ({"a": "1", "k": "2", "b": UNCHANGED}, {"k": "2"})
    deleted = change(Delete(KeyImage((b"2",)), moved_to=(b"3",)))
    assert (deleted.before, deleted.key, deleted.moved_to, deleted.after) == ({"k": "2"}, {"k": "2"}, {"k": "3"}, None)
    assert change(Delete(FullImage(row))).key == {"k": "2"}
    emptied = change(Truncate())
    assert (emptied.before, emptied.after, emptied.key) == (None, None, None)
    assert (str(emptied.position), emptied.transaction) == ("1:0/1:2", "1:7:1")
    assert emptied.commit_time == dt.datetime(1970, 1, 1, 0, 0, 1, 500_000, tzinfo=dt.UTC)


def test_a_row_does_not_show_its_values_unasked() -> None:
    said = f"{change(Create((b'SECRET', b'SECRET', None))).after!r}"

    assert said == "<Row of public.t: a, k, b>"


def of(kind: Kind, **more: Any) -> ColumnType:
    return ColumnType(kind=kind, name=kind.value, **more)


INT = of(Kind.INT32)
ZONE = dt.timezone(dt.timedelta(hours=5, minutes=30))
VALUES = [
    (of(Kind.BOOLEAN), "t", True),
    (of(Kind.BIT), "0", False),
    (INT, "-12", -12),
    (of(Kind.FLOAT64), "1e+100", 1e100),
    (of(Kind.FLOAT64), "-Infinity", float("-inf")),
    (of(Kind.DECIMAL), "12.50", Decimal("12.50")),
    (of(Kind.VARIABLE_DECIMAL), "-Infinity", Decimal("-Infinity")),
    (of(Kind.MONEY), "-0.05", Decimal("-0.05")),
    (of(Kind.STRING), "ä", "ä"),
    (of(Kind.BYTES), "\\x00ff", b"\x00\xff"),
    (of(Kind.DATE), "2026-01-31", dt.date(2026, 1, 31)),
    (of(Kind.TIME), "12:34:56.7", dt.time(12, 34, 56, 700_000)),
    (of(Kind.TIMETZ), "12:34:56+05:30", dt.time(12, 34, 56, tzinfo=ZONE)),
    (of(Kind.TIMESTAMP), "2026-01-31 12:34:56.123456", dt.datetime(2026, 1, 31, 12, 34, 56, 123_456)),  # noqa: DTZ001
    (of(Kind.TIMESTAMPTZ), "2026-01-31 12:34:56+00", dt.datetime(2026, 1, 31, 12, 34, 56, tzinfo=dt.UTC)),
    (of(Kind.UUID), "9f1c1a36-0000-0000-0000-000000000001", uuid.UUID("9f1c1a36-0000-0000-0000-000000000001")),
]


@pytest.mark.parametrize(("type_", "canonical", "value"), VALUES)
def test_values(type_: ColumnType, canonical: str, value: object) -> None:
    found = convert_of(type_)(canonical.encode())

    assert (found, type(found)) == (value, type(value))
    assert text_of(value, type_) == canonical.encode()


@pytest.mark.parametrize(
    ("type_", "canonical", "value"),
    [
        (of(Kind.INTERVAL), "P1Y2M3DT4H5M6.7S", "P1Y2M3DT4H5M6.7S"),
        (of(Kind.HSTORE), '"a"=>"1", "b"=>NULL', {"a": "1", "b": None}),
        (of(Kind.VECTOR), "[1,2.5]", [1.0, 2.5]),
        (of(Kind.ARRAY, element=INT), "{}", []),
        (of(Kind.ARRAY, element=INT), "{1,NULL,3}", [1, None, 3]),
        (of(Kind.ARRAY, element=INT), "{{1,2},{3,4}}", [[1, 2], [3, 4]]),
        (of(Kind.ARRAY, element=of(Kind.STRING)), r'{"a,\"b\\",NULL,"NULL","{"}', ['a,"b\\', None, "NULL", "{"]),
        (of(Kind.ARRAY, element=of(Kind.DATE)), "{2026-01-31}", [dt.date(2026, 1, 31)]),
        (of(Kind.ARRAY, element=of(Kind.MONEY)), '{-$0.05,"$1,234.50"}', [Decimal("-0.05"), Decimal("1234.50")]),
    ],
)
def test_values_that_have_parts(type_: ColumnType, canonical: str, value: object) -> None:
    assert convert_of(type_)(canonical.encode()) == value


@pytest.mark.parametrize("value", [{"a": 1}, [1, 2], dt.timedelta(days=1)])
def test_no_text_is_made_up_of_what_has_none(value: object) -> None:
    """`{'a': 1}` is no JSON."""
    shop = Rehearsal()
    table = shop.table("t", {"id": "integer", "c": "jsonb"}, key=["id"])

    with pytest.raises(ConfigError, match=r"public\.t, column c: no jsonb") as refused, shop.transaction() as script:
        script.insert(table, {"id": 1, "c": value})
    assert "json.dumps" in str(refused.value.mend)


@pytest.mark.parametrize(
    ("type_", "canonical"),
    [
        (of(Kind.DATE), "infinity"),
        (of(Kind.DATE), "0044-03-15 BC"),
        (of(Kind.DATE), "12026-01-31"),
        (of(Kind.TIME), "24:00:00"),
        (of(Kind.TIMETZ), "24:00:00+00"),
        (of(Kind.TIMESTAMP), "-infinity"),
        (of(Kind.TIMESTAMPTZ), "0044-03-15 12:00:00+00 BC"),
        (of(Kind.TIMESTAMPTZ), "12026-01-31 12:00:00+00"),
        (of(Kind.ARRAY, element=INT), "[0:1]={1,2}"),
        (of(Kind.ARRAY, element=of(Kind.DATE)), "{infinity}"),
    ],
)
def test_what_python_has_no_equal_to_is_an_error_and_can_be_had_as_text(type_: ColumnType, canonical: str) -> None:
    table = TableSchema(id=TableId("public", "t"), columns=(Column(name="c", type=type_),), key=())
    row = change(Create((canonical.encode(),)), table).after
    assert row is not None

    with pytest.raises(FidelityError, match=r"table public.t, column c: .* has no equal to") as refused:
        row["c"]
    assert canonical not in str(refused.value)
    assert row.text("c") == canonical
