"""Rows of a first load that were written as one: what a log gives of them, from wherever it is read, and how."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc.avro.runs import RunReader, RunVersion, run_of
from cdc.core.copy_text import copy_text
from cdc.core.events import LoadedRows, Transaction
from cdc.core.log import Log, LogReader, Offsets, Record, StoredRecord, StoredRun, TopicPartition, TopicSpec
from cdc.core.settings import LogSettings
from cdc.core.tables import Column, TableId, TableSchema
from cdc.core.types import ColumnType, Kind
from cdc.log.local import LocalLog
from cdc.log.memory import MemoryLog
from cdc.sources.postgres.load import COPY_FORMAT

TOPIC = "shop.public.items"
AT = TopicPartition(TOPIC, 0)
TABLE = TableSchema(
    id=TableId("public", "items"),
    columns=(Column(name="id", type=ColumnType(kind=Kind.INT64, name="bigint"), nullable=False),),
    key=(0,),
)
VERSION = RunVersion(TABLE, TOPIC, "shop", 1, 2).written()
TRANSACTION = Transaction(epoch=1, commit_lsn=9, xid=None, commit_time_us=0, database="shop")


def run(first: int, count: int) -> Record:
    lines = [copy_text([(b"%d" % number,)]) for number in range(first, first + count)]
    rows = LoadedRows(TRANSACTION, TABLE, lines, first, first, 0, COPY_FORMAT)
    return run_of(rows, VERSION, TOPIC, (("h", b"v"),))


def plain(number: int) -> Record:
    return Record(TOPIC, 0, b"%d" % number, b"value")


def written(log: Log, *batches: Sequence[Record]) -> None:
    with closing(log.writer()) as writer:
        assert writer.takes_runs
        writer.create_topics([TopicSpec(TOPIC)])
        for batch in batches:
            ticket = writer.append(batch)
            assert writer.poll(0) == ticket


def read(poll: Callable[[int, float], list[StoredRecord]], reader: LogReader, most: int, first: int = 0) -> list[Any]:
    """All from that offset on, polled until it is there."""
    reader.assign({AT: first})
    found: list[StoredRecord] = []
    while (found[-1].next_offset if found else first) < reader.offsets(AT).next:
        found += poll(most, 0)
    assert poll(most, 0) == []
    return found


def alone(records: Sequence[StoredRecord]) -> list[StoredRecord]:
    """Without their times: blocks have the time of their first record."""
    found = [
        each
        for record in records
        for each in (RunReader().records(record) if isinstance(record, StoredRun) else (record,))
    ]
    return [record._replace(timestamp_ms=0) for record in found]


@pytest.fixture(params=["memory", "local"])
def new_log(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Log]:
    if request.param == "memory":
        return MemoryLog
    number = iter(range(1_000_000))
    return lambda: LocalLog(LogSettings(url=f"sqlite:///{tmp_path}/{next(number)}.db"))


def test_each_row_is_a_record_with_an_offset(new_log: Callable[[], Log]) -> None:
    log = new_log()
    written(log, [plain(0), run(1, 3), plain(4)])
    with closing(log.reader("test")) as reader:
        assert reader.offsets(AT) == Offsets(0, 5)
        records = read(reader.poll, reader, 2)
    assert [record.offset for record in records] == [0, 1, 2, 3, 4]
    assert not any(isinstance(record, StoredRun) for record in records)
    assert [record.headers for record in records] == [(), *[(("h", b"v"),)] * 3, ()]


def test_who_asks_for_runs_gets_them_whole(new_log: Callable[[], Log]) -> None:
    log = new_log()
    written(log, [plain(0), run(1, 3), plain(4)], [run(5, 2)])
    with closing(log.reader("test")) as reader:
        records = read(reader.poll_runs, reader, 2)
    assert [(type(record), record.offset, record.next_offset) for record in records] == [
        (StoredRecord, 0, 1),
        (StoredRun, 1, 4),
        (StoredRecord, 4, 5),
        (StoredRun, 5, 7),
    ]
    assert [record.where for record in records][1] == f"topic {TOPIC!r}, partition 0, offset 1"


def test_a_run_that_is_entered_in_its_middle_comes_row_by_row(new_log: Callable[[], Log]) -> None:
    log = new_log()
    written(log, [run(0, 4), run(4, 2)])
    with closing(log.reader("test")) as reader:
        records = read(reader.poll_runs, reader, 10, first=2)
    assert [(type(record), record.offset) for record in records] == [
        (StoredRecord, 2),
        (StoredRecord, 3),
        (StoredRun, 4),
    ]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_all_ways_of_reading_give_the_same_records(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    sizes = data.draw(st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=4), min_size=1, max_size=4))
    first, batches = 0, []
    for batch in sizes:
        records = []
        for size in batch:
            records.append(run(first, size) if size else plain(first))
            first += size or 1
        batches.append(records)
    for log in (MemoryLog(), LocalLog(LogSettings(url=f"sqlite:///{tmp_path_factory.mktemp('log')}/log.db"))):
        written(log, *batches)
        with closing(log.reader("test")) as reader:
            expected = alone(read(reader.poll, reader, 100))
            assert [record.offset for record in expected] == list(range(first))
            begin = data.draw(st.integers(0, first - 1))
            reader.assign({AT: begin})
            found: list[StoredRecord] = []
            while len(alone(found)) < first - begin:  # as an applier may change from one way to the other
                poll = data.draw(st.sampled_from([reader.poll, reader.poll_runs]))
                found += poll(data.draw(st.integers(1, 6)), 0)
            assert alone(found) == expected[begin:]


def test_retention_takes_whole_runs(tmp_path: Path) -> None:
    later = [0.0]
    settings = LogSettings(url=f"sqlite:///{tmp_path}/log.db", retention_hours=1)
    log = LocalLog(settings, clock=lambda: time.time() + later[0])
    written(log, [run(0, 5)])
    later[0] = 2 * 3600
    written(log, [run(5, 3)])
    with closing(log.reader("test")) as reader:
        assert reader.offsets(AT) == Offsets(5, 8)
        assert [record.next_offset for record in read(reader.poll_runs, reader, 10, first=5)] == [8]


def test_a_log_that_others_read_takes_none(kafka: str) -> None:
    from cdc.log.kafka import KafkaLog  # noqa: PLC0415  # librdkafka, for this test alone

    with KafkaLog(LogSettings(url=f"kafka://{kafka}")) as log, closing(log.writer()) as writer:
        assert not writer.takes_runs
