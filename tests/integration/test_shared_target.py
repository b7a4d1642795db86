"""A target that several appliers share: who lost a partition does not write, whatever it had begun."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace

import psycopg
import pytest

from cdc.core.errors import AlreadyRunningError, ConfigError, StaleApplierError
from cdc.core.log import TopicPartition
from cdc.core.position import Position
from cdc.core.settings import LogSettings, TargetSettings
from cdc.core.tables import Column, TableId, TableSchema
from cdc.core.types import ColumnType, Kind
from cdc.log.memory import MemoryLog
from consumers.plan.checkpoint import PartitionProgress
from consumers.plan.steps import WriteRows
from consumers.targets.open import open_target
from consumers.targets.replaceable import ReplaceableTarget
from consumers.targets.target import SharedTarget

ZERO, ONE = TopicPartition("shop.t", 0), TopicPartition("shop.t", 1)
INTEGER = ColumnType(kind=Kind.INT32, name="integer")
TABLE = TableSchema(id=TableId("public", "t"), columns=(Column(name="id", type=INTEGER, nullable=False),), key=(0,))


@pytest.fixture
def url(new_database: Callable[[], str]) -> str:
    return new_database()


@pytest.fixture
def share(url: str) -> Iterator[Callable[[], SharedTarget]]:
    made: list[SharedTarget] = []

    def opened() -> SharedTarget:
        made.append(open_target(settings(url)).shared())
        return made[-1]

    yield opened
    for each in made:
        each.close()


def settings(url: str) -> TargetSettings:
    return TargetSettings(name="copy", url=url, consistency="key")


def write(target: SharedTarget, partition: TopicPartition, number: int) -> None:
    target.prepare(TABLE)
    with target.transaction(log_id="log") as transaction:
        transaction.run([WriteRows(TABLE, upserts=[(b"%d" % number,)])])
        transaction.advance({partition: PartitionProgress(Position(1, number, 1), number)})


def ids(url: str) -> list[int]:
    with psycopg.connect(url) as connection:
        return [number for (number,) in connection.execute("SELECT id FROM t ORDER BY 1")]


def test_each_writes_its_own_partitions(share, url):
    one, two = share(), share()
    one.hold([ZERO])
    two.hold([ONE])
    assert one.open().partitions == two.open().partitions == {}
    write(one, ZERO, 1)
    write(two, ONE, 2)
    write(one, ZERO, 3)
    assert ids(url) == [1, 2, 3]
    assert one.open().partitions[ONE].next_offset == 2


def test_who_lost_one_of_its_partitions_writes_nothing(share, url):
    one, two = share(), share()
    one.hold([ZERO, ONE])
    one.open()
    write(one, ZERO, 1)
    two.hold([ONE])
    assert two.open().partitions[ZERO].next_offset == 1
    with pytest.raises(StaleApplierError):
        write(one, ZERO, 2)
    one.hold([ZERO])
    one.open()
    write(one, ZERO, 3)
    assert ids(url) == [1, 3]


def test_who_lost_a_partition_makes_no_table(share, url):
    one, two = share(), share()
    for each in (one, two):
        each.hold([ZERO])
        each.open()
    with pytest.raises(StaleApplierError):
        one.prepare(TABLE)
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT to_regclass('t')").fetchone() == (None,)


def test_who_takes_over_waits_for_what_is_under_way(share, url):
    one, two = share(), share()
    one.hold([ZERO])
    one.open()
    one.prepare(TABLE)
    two.hold([ZERO])
    with one.transaction(log_id="log") as transaction:
        transaction.run([WriteRows(TABLE, upserts=[(b"1",)])])
        transaction.advance({ZERO: PartitionProgress(Position(1, 1, 1), 1)})
        with pytest.raises(AlreadyRunningError):
            two.open()
    assert two.open().partitions[ZERO].next_offset == 1
    with pytest.raises(StaleApplierError):
        write(one, ZERO, 2)
    assert ids(url) == [1]


def test_who_is_alone_takes_all_and_keeps_others_out(share, url):
    one, two = share(), share()
    one.hold([ZERO])
    one.open()
    two.hold(None)
    two.open()
    write(two, ZERO, 1)
    with pytest.raises(StaleApplierError):
        write(one, ZERO, 2)
    for wanted in ([ONE], None):
        one.hold(wanted)
        with pytest.raises(AlreadyRunningError):
            one.open()
    two.hold([ONE])
    two.open()
    one.hold([ZERO])
    assert one.open().partitions[ZERO].next_offset == 1
    write(one, ZERO, 3)
    assert ids(url) == [1, 3]


def test_a_connection_that_is_lost_ends_being_alone(share, url):
    one, two = share(), share()
    one.hold(None)
    one.open()
    one.close()
    two.hold(None)
    two.open()
    write(two, ZERO, 1)
    assert ids(url) == [1]


def test_nobody_shares_with_who_does_not(share, url):
    with closing(open_target(settings(url))) as alone:
        alone.open()
        with pytest.raises(AlreadyRunningError):
            share().open()
    one = share()
    one.open()
    with closing(open_target(settings(url))) as alone, pytest.raises(AlreadyRunningError):
        alone.open()


def test_who_comes_while_a_rebuild_replaces_the_tables_waits_for_it(share, url):
    """For a partition that nobody has held, there is no row of it that the rebuild could have locked."""
    one, two = share(), share()
    one.hold(None)
    one.open()
    write(one, ZERO, 1)
    one.hold([ZERO])
    one.open()
    two.hold([ONE])
    with closing(open_target(replace(settings(url), name="copy~new"))) as replay:
        replay.open()
        assert isinstance(replay, ReplaceableTarget)
        with replay.replacing("copy") as replacing:
            assert replacing.live.partitions[ZERO].next_offset == 1
            with pytest.raises(AlreadyRunningError):
                two.open()
    two.open()
    write(two, ONE, 2)
    assert ids(url) == [1, 2]


def test_others_hear_who_waits(share):
    one, two = share(), share()
    for each, partition in ((one, ZERO), (two, ONE)):
        each.hold([partition])
        each.open()
    assert one.still_going([ZERO]).keys() == {ONE}
    assert two.still_going([]).keys() == {ONE}
    one.open()
    assert two.still_going([]).keys() == {ZERO, ONE}


def test_what_can_not_be_shared_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="postgresql://"):
        open_target(TargetSettings(name="lite", url=f"sqlite:///{tmp_path / 'lite.db'}")).shared()
    with pytest.raises(ConfigError, match="kafka://"):
        MemoryLog(LogSettings()).membership("group", 30)
