"""Where a target begins in a log that may have lost its oldest records."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest

from cdc.core.errors import LogGapError
from cdc.core.log import Record, TopicPartition, TopicSpec
from cdc.core.position import Position
from cdc.core.settings import LogSettings, TargetSettings
from cdc.core.state import LoadState, LogState, TableState
from cdc.core.tables import TableId
from cdc.log.memory import MemoryLog
from consumers.apply.beginning import begin_of_load
from consumers.apply.entering import Entrance
from consumers.plan.checkpoint import Checkpoint, PartitionProgress
from consumers.plan.inbox import is_resent

SETTINGS = LogSettings(prefix="shop")
TARGET = TargetSettings(name="copy", url="sqlite:///copy.db", tables=("public.t",))
LOAD = LoadState(
    epoch=2,
    commit_lsn=700,
    begins={"shop.public.t": (5, 6), "shop.transaction": (8,), "shop-cdc-tables": (3,), "shop.public.other": (0,)},
)
STATE = LogState(
    log_id="log",
    load=LOAD,
    tables={
        topic: TableState(table=TableId("public", topic.rpartition(".")[2]), topic=topic, partitions=count)
        for topic, count in {"shop.public.t": 2, "shop.public.other": 1}.items()
    },
)

MOST = (1 << 63) - 1
Begin = Callable[..., Checkpoint | None]


@pytest.fixture
def begin() -> Begin:
    """With ten records in each partition, of which the first `gone` are no more."""

    def found(
        gone: Mapping[TopicPartition, int], state: LogState = STATE, target: TargetSettings = TARGET
    ) -> Checkpoint | None:
        log = MemoryLog(SETTINGS)
        writer = log.writer()
        topics = {"shop.public.t": 2, "shop.public.other": 1, "shop.transaction": 1, "shop-cdc-tables": 1}
        writer.create_topics([TopicSpec(topic, count) for topic, count in topics.items()])
        writer.append(
            [Record(topic, number, b"", b"") for topic, count in topics.items() for number in range(count)] * 10
        )
        for partition, first in gone.items():
            log.trim(partition, first)
        return begin_of_load(log.reader("test"), state, target, SETTINGS)

    return found


def test_with_the_earliest_event_while_it_is_there(begin: Begin) -> None:
    assert begin({}) is None
    assert begin({TopicPartition("shop.public.other", 0): 10}) is None  # not this target's


@pytest.mark.parametrize("gone", [TopicPartition("shop.public.t", 1), TopicPartition("shop.transaction", 0)])
def test_with_the_load_in_all_partitions_if_anything_before_it_is_gone(begin: Begin, gone: TopicPartition) -> None:
    """Above all earlier epochs: their barriers are not waited for."""
    begun = begin({gone: 4})

    assert begun is not None
    assert begun.log_id == "log"
    assert {partition: at.next_offset for partition, at in begun.partitions.items()} == {
        TopicPartition("shop.public.t", 0): 5,
        TopicPartition("shop.public.t", 1): 6,
        TopicPartition("shop.transaction", 0): 8,
        TopicPartition("shop-cdc-tables", 0): 3,
    }
    (floor,) = {at.position for at in begun.partitions.values()}
    assert Position(1, 2**62, 2**62) < floor < Position(2, 0, 0)
    assert begun.partitions[gone] == PartitionProgress(floor, LOAD.begin(*gone))


def test_per_key_no_transactions_are_needed(begin: Begin) -> None:
    by_key = replace(TARGET, consistency="key")
    assert begin({TopicPartition("shop.transaction", 0): 10}, target=by_key) is None


@pytest.mark.parametrize("state", [STATE, replace(STATE, load=None)])
def test_a_load_that_is_not_there_as_a_whole_is_a_gap(begin: Begin, state: LogState) -> None:
    with pytest.raises(LogGapError, match=r"'shop\.public\.t', partition 0 no longer holds its first 6 records"):
        begin({TopicPartition("shop.public.t", 0): 6}, state)


ZERO, ONE = (TopicPartition("shop.public.t", number) for number in range(2))
FLOOR = Position(1, MOST, MOST)
OLD = PartitionProgress(Position(1, 5, 1), 2)


def entered(log: MemoryLog) -> Entrance:
    """With ten records in each partition."""
    writer = log.writer()
    writer.create_topics([TopicSpec("shop.public.t", 2)])
    writer.append([Record(*partition, b"", b"") for partition in (ZERO, ONE)] * 10)
    writer.poll(1.0)
    return Entrance(
        log.reader("test"), TARGET, SETTINGS, resent=is_resent, held=None, until=None, report=lambda _: None
    )


def test_a_topic_goes_on_from_the_load_as_a_whole() -> None:
    """The first half of a moved row would wait for the other for ever, if only that one's partition went on from it."""
    log = MemoryLog(SETTINGS)
    entrance, reached = entered(log), {ZERO: OLD, ONE: OLD}

    assert [entrance.progress_of(partition, STATE, reached) for partition in reached] == [OLD, OLD]
    log.trim(ONE, 4)
    begun = [entrance.progress_of(partition, STATE, reached) for partition in reached]
    assert begun == [PartitionProgress(FLOOR, 5), PartitionProgress(FLOOR, 6)]


def test_offsets_that_a_load_was_given_anew_are_read_again() -> None:
    """The log was put back to an earlier copy, which did not have what the target has read last."""
    entrance = entered(MemoryLog(SETTINGS))
    reached = {ZERO: OLD, ONE: PartitionProgress(Position(1, 5, 1), 9)}

    begun = [entrance.progress_of(partition, STATE, reached) for partition in reached]
    assert begun == [PartitionProgress(FLOOR, 5), PartitionProgress(FLOOR, 6)]
    of_load = {partition: PartitionProgress(Position(2, 700, 1), 9) for partition in reached}
    assert [entrance.progress_of(partition, STATE, of_load) for partition in reached] == [*of_load.values()]
