"""What every target does: rows and checkpoint are one transaction, whatever is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress

import pytest
from target_databases import Database
from target_steps import KEYLESS, ON_DUCKDB, ONE, ORDERS, TWO, WITH_LOCK, advance, apply, at, upserted

from cdc.core.errors import (
    AlreadyRunningError,
    StaleApplierError,
)
from cdc.core.log import TopicPartition
from cdc.core.tables import TableId
from consumers.plan.steps import WriteRows
from consumers.targets.target import Target


def test_a_large_transaction_comes_in_parts(database: Database, target: Target) -> None:
    target.prepare(ORDERS)
    with target.transaction(log_id="log") as transaction:
        for number in range(1, 4):
            transaction.run([WriteRows(ORDERS, upserts=[(b"%d" % number, b"a", b"b"), (b"0", b"%d" % number, b"b")])])
        transaction.run([WriteRows(KEYLESS, added=[(b"not", b"prepared")])])
        transaction.run([WriteRows(ORDERS, deletes=[(b"2",)])])
        assert database.rows(ORDERS) == []
        transaction.advance({ONE: at(9)})
    assert database.rows(ORDERS) == [(b"0", b"3", b"b"), (b"1", b"a", b"b"), (b"3", b"a", b"b")]
    assert database.rows(KEYLESS) == [(b"not", b"prepared")]
    assert target.read_checkpoint().partitions == {ONE: at(9)}


def test_a_new_target_has_an_empty_checkpoint(database):
    target = database.target()
    try:
        checkpoint = target.open()
    finally:
        target.close()
    assert (checkpoint.log_id, checkpoint.partitions) == (None, {})


def test_the_checkpoint_is_found_again(database):
    with database.opened() as target:
        target.prepare(ORDERS)
        advance(target, {ONE: at(1), TWO: at(2)})
        advance(target, {ONE: at(7)})
    target = database.target()
    try:
        checkpoint = target.open()
    finally:
        target.close()
    assert checkpoint.log_id == "log"
    assert checkpoint.partitions == {ONE: at(7), TWO: at(2)}


def test_each_transaction_raises_the_version(database):
    with database.opened() as target:
        before = target.read_checkpoint().version
        for ordinal in (1, 2, 3):
            advance(target, {ONE: at(ordinal)})
            assert target.read_checkpoint().version == before + ordinal


def test_a_checkpoint_of_many_partitions_is_found_again(database):
    """More than one statement takes; the second time some are there."""
    many = {TopicPartition(f"t{number // 10}", number % 10): at(number) for number in range(250)}
    later = {partition: at(1000 + number) for number, partition in enumerate([*many][::3])}
    with database.opened() as target:
        advance(target, many)
        advance(target, {**later, ONE: at(7)})
        assert target.read_checkpoint().partitions == {**many, **later, ONE: at(7)}


def test_checkpoints_of_two_appliers_are_their_own(database):
    with database.opened("one") as one, database.opened("two") as two:
        advance(one, {ONE: at(1)})
        advance(two, {ONE: at(2)}, log_id="other")
        assert one.read_checkpoint().partitions == {ONE: at(1)}
        assert two.read_checkpoint().log_id == "other"


@WITH_LOCK
def test_a_second_applier_of_the_name_is_refused(database, target):
    second = database.target()
    with pytest.raises(AlreadyRunningError) as raised:
        second.open()
    second.close()
    assert raised.value.mend
    target.close()
    with database.opened():
        pass


@ON_DUCKDB
def test_without_a_lock_the_later_applier_of_a_name_goes_on(database, target):
    with database.opened() as later:
        with pytest.raises(StaleApplierError):
            upserted(target, (b"1", b"x", b"y"))
        upserted(later, (b"2", b"x", b"y"))
    assert database.rows(ORDERS) == [(b"2", b"x", b"y")]


def test_a_stale_applier_writes_nothing(database, target):
    upserted(target, (b"1", b"x", b"y"))
    database.execute("UPDATE cdc_applier SET version = version + 1")
    with pytest.raises(StaleApplierError):
        apply(target, WriteRows(ORDERS, upserts=[(b"2", b"x", b"y")]), ordinal=2)
    assert database.rows(ORDERS) == [(b"1", b"x", b"y")]
    assert target.read_checkpoint().partitions == {ONE: at(1)}


def test_close_twice(database):
    target = database.target()
    target.close()
    target.open()
    target.close()
    target.close()


CHILD = """
import sys
from cdc.core.log import TopicPartition
from cdc.core.position import Position
from cdc.core.settings import TargetSettings
from cdc.core.tables import Column, TableId, TableSchema
from cdc.core.types import ColumnType, Kind
from consumers.plan.checkpoint import PartitionProgress
from consumers.plan.steps import WriteRows
from consumers.targets.open import open_target

text = ColumnType(kind=Kind.STRING, name="text")
columns = (Column(name="id", type=text, nullable=False), Column(name="a", type=text), Column(name="b", type=text))
table = TableSchema(id=TableId("public", "orders"), columns=columns, key=(0,))
target = open_target(TargetSettings(name="copy", url=sys.argv[1]))
target.open()
target.prepare(table)
at = PartitionProgress(Position(1, 0x1_0000_0000, 2), 2)
with target.transaction(log_id="log") as transaction:
    transaction.run([WriteRows(table, upserts=[(b"2", b"x", b"y")])])
    transaction.advance({TopicPartition("shop.public.orders", 0): at})
"""


@pytest.mark.parametrize(
    ("failpoint", "committed"),
    [
        ("apply.1-fenced", False),
        ("apply.2-written", False),
        ("apply.3-checkpointed", False),
        ("apply.4-committed", True),
    ],
)
def test_rows_and_checkpoint_survive_a_kill_together(database, failpoint, committed):
    with database.opened() as target:
        upserted(target, (b"1", b"x", b"y"))
    child = subprocess.run(
        [sys.executable, "-c", CHILD, database.url], env=os.environ | {"CDC_FAILPOINT": failpoint}, check=False
    )
    assert child.returncode == -signal.SIGKILL
    with database.reopened() as target:
        assert target.read_checkpoint().partitions == {ONE: at(2 if committed else 1)}
        assert [row[0] for row in database.rows(ORDERS)] == ([b"1", b"2"] if committed else [b"1"])
        apply(target, WriteRows(ORDERS, upserts=[(b"2", b"x", b"y")]), ordinal=2)
    assert [row[0] for row in database.rows(ORDERS)] == [b"1", b"2"]


@pytest.mark.parametrize("database", ["postgresql-18", "mariadb", "sqlite", "duckdb"], indirect=True)
def test_looking_for_tables_within_a_transaction_leaves_it_open(database, target):
    upserted(target, (b"1", b"x", b"y"))
    elsewhere = TableId("public", "nowhere")
    assert list(target.present([ORDERS.id, elsewhere])) == [ORDERS.id]
    with suppress(ZeroDivisionError), target.transaction(log_id="log") as transaction:
        transaction.run([WriteRows(ORDERS, upserts=[(b"2", b"x", b"y")])])
        assert list(target.present([ORDERS.id, elsewhere])) == [ORDERS.id]
        raise ZeroDivisionError
    assert database.rows(ORDERS) == [(b"1", b"x", b"y")]
    assert target.read_checkpoint().partitions == {ONE: at(1)}
    apply(target, WriteRows(ORDERS, upserts=[(b"3", b"x", b"y")]), ordinal=2)
    assert database.rows(ORDERS) == [(b"1", b"x", b"y"), (b"3", b"x", b"y")]
