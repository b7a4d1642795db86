"""Runs of rows from a first load: whoever asks for their records, or their events, gets those of each row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from avro_events import rows, tables
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc.avro import headers
from cdc.avro.runs import RunReader
from cdc.capture import publisher as publishing
from cdc.capture.publisher import Publisher
from cdc.core.copy_text import copy_text, parse_copy_line, rows_in
from cdc.core.errors import FidelityError, ProtocolViolationError, RecordTooLargeError
from cdc.core.events import ChangeEvent, LoadedRows, Read, Row, Transaction
from cdc.core.log import LogWriter, Record, Run, StoredRecord, StoredRun
from cdc.core.position import Position
from cdc.core.runs import ReadRun, counted, one_by_one
from cdc.core.settings import LogSettings
from cdc.core.state import TableState
from cdc.core.tables import Column, TableId, TableSchema
from cdc.core.types import ColumnType, Kind
from cdc.log.memory import MemoryLog
from cdc.registry.decoding import Decoding
from cdc.sources.postgres.load import COPY_FORMAT
from consumers.plan.steps import CopyRows

TOPIC = "shop.public.my_orders"
TRANSACTION = Transaction(epoch=2, commit_lsn=99, xid=None, commit_time_us=7, database="größe")
TABLE = TableSchema(
    id=TableId("public", "my orders"),
    columns=(
        Column(name="id", type=ColumnType(kind=Kind.INT32, name="integer"), nullable=False),
        Column(name="note", type=ColumnType(kind=Kind.STRING, name="text")),
    ),
    key=(0,),
)


class Numbers:
    """A registry that numbers, and gives what it numbered."""

    def __init__(self) -> None:
        self._schemas: list[str] = []

    def register(self, subject: str, schema: str) -> int:
        if schema not in self._schemas:
            self._schemas.append(schema)
        return self._schemas.index(schema)

    def schema(self, schema_id: int) -> str:
        return self._schemas[schema_id]

    def close(self) -> None:
        """Nothing is open."""


class OneByOne(LogWriter):
    """Takes no runs."""


REGISTRY = Numbers()


def publisher(*, runs: bool = True, partitions: int = 1, limit: int = 1 << 20, at: Position | None = None) -> Publisher:
    state = TableState(table=TABLE.id, topic=TOPIC, partitions=partitions, truncated=at, altered=at)
    set_up = LogSettings(prefix="shop", partitions=partitions, max_record_bytes=limit)
    return Publisher(
        settings=set_up,
        state_topic="state",
        tables={TOPIC: state},
        existing={TOPIC: partitions},
        writer=MemoryLog(set_up).writer() if runs else OneByOne(),
        registry=REGISTRY,
    )


def loaded(table: TableSchema, found: Sequence[Row], first: int = 1) -> LoadedRows:
    return LoadedRows(
        transaction=TRANSACTION,
        table=table,
        lines=copy_text(found).splitlines(keepends=True) if found else [],
        ordinal=first + 10,
        table_ordinal=first,
        captured_us=5,
        format=COPY_FORMAT,
    )


def stored(records: Sequence[Record], first: int = 40) -> list[StoredRecord]:
    """As a log has them from an offset on."""
    made: list[StoredRecord] = []
    for record in records:
        kind = StoredRun if isinstance(record, Run) else StoredRecord
        made.append(kind(record.topic, record.partition, first, 123, record.key, record.value, record.headers))
        first = made[-1].next_offset
    return made


def alone(records: Sequence[StoredRecord]) -> list[StoredRecord]:
    return [
        each
        for record in records
        for each in (RunReader().records(record) if isinstance(record, StoredRun) else (record,))
    ]


@st.composite
def loads(draw: st.DrawFn) -> LoadedRows:
    table = draw(tables())
    lines = [copy_text([row]) for row in draw(st.lists(rows(table), min_size=1, max_size=5))]
    return replace(loaded(table, []), lines=lines)


texts = st.binary(max_size=6).map(lambda text: text.replace(b"\0", b"\\"))
special = st.text("\\\t\n\r\vNnt\x08\x0c.ä", max_size=5).map(str.encode)


def rows_of_width(width: int) -> st.SearchStrategy[list[Row]]:
    values = st.none() | texts | special
    return st.lists(st.lists(values, min_size=width, max_size=width).map(tuple), min_size=1, max_size=4)


@given(st.integers(1, 3).flatmap(rows_of_width))
def test_rows_come_back_from_their_text(found: list[Row]) -> None:
    assert rows_in(copy_text(found), len(found[0])) == found
    assert [parse_copy_line(copy_text([row])) for row in found] == found


@settings(max_examples=300, deadline=None)
@given(loads(), st.integers(20, 4000), st.none() | st.just(Position(1, 5, 1)))
def test_a_run_holds_the_records_that_its_rows_would_have(load: LoadedRows, most: int, at: Position | None) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publishing, "_MOST_RUN_BYTES", most)
        found = publisher(at=at).records_of_load(load)
    plain = publisher(runs=False, at=at).records_of_load(load)
    assert Run not in map(type, plain)
    assert alone(stored(found)) == stored(plain)


@settings(max_examples=200, deadline=None)
@given(loads())
def test_a_run_is_the_events_of_its_rows(load: LoadedRows) -> None:
    decoding, plain = Decoding(REGISTRY), Decoding(REGISTRY)
    runs = stored(publisher().records_of_load(load))
    events = [event for event in decoding.events(runs) if event is not None]
    each = [event for record in stored(publisher(runs=False).records_of_load(load)) if (event := plain.event(record))]
    assert one_by_one(events) == each
    assert [event.place for event in one_by_one(events)] == [event.place for event in each]
    assert counted(events) == len(each)
    assert events[-1].position == each[-1].position
    for event in events:
        assert event.change == next(iter(one_by_one([event]))).change


def test_many_rows_are_one_record() -> None:
    (run,) = publisher().records_of_load(loaded(TABLE, [(b"%d" % n, b"x") for n in range(1000)]))
    assert isinstance(run, Run)
    assert (run.topic, run.partition, run.rows) == (TOPIC, 0, 1000)
    assert len(run.value or b"") < 8_000


@pytest.mark.parametrize("change", [{"runs": False}, {"partitions": 2}])
def test_there_are_no_runs_where_they_can_not_be(change: dict[str, int]) -> None:
    """Of a log that others read, too; where each row's key decides its partition."""
    records = publisher(**change).records_of_load(loaded(TABLE, [(b"%d" % n, b"x") for n in range(10)]))  # type: ignore[arg-type]
    assert [type(record) for record in records] == [Record] * 10


def test_money_stands_alone() -> None:
    """Its events don't have the text that its source sent: `$1,234.50` is 1234.50."""
    price = Column(name="price", type=ColumnType(kind=Kind.MONEY, name="money"))
    table = replace(TABLE, columns=(TABLE.columns[0], price))
    records = publisher().records_of_load(loaded(table, [(b"1", b"$1,234.50"), (b"2", None)]))
    assert [type(record) for record in records] == [Record] * 2


def test_null_where_the_table_has_none_is_refused_by_capture() -> None:
    for rows_found in ([(b"1", None), (None, b"x")], [(b"1", b"\\N"), (b"2", b"y")]):
        load = loaded(TABLE, rows_found)
        if None in rows_found[1]:
            with pytest.raises(FidelityError, match="id: NULL"):
                publisher().records_of_load(load)
        else:
            (run,) = publisher().records_of_load(load)
            assert isinstance(run, Run)


def test_rows_without_columns_stand_alone() -> None:
    empty = replace(loaded(replace(TABLE, columns=(), key=()), []), lines=[b"\n"] * 3)
    assert [type(record) for record in publisher().records_of_load(empty)] == [Record] * 3


def test_a_row_that_the_log_would_not_take_is_refused_as_before() -> None:
    found = [(b"1", b"x" * 10), (b"2", b"x" * 9000), (b"3", b"x" * 10)]
    with pytest.raises(RecordTooLargeError, match="column note"):
        publisher(limit=8000).records_of_load(loaded(TABLE, found))
    records = publisher(limit=20_000).records_of_load(loaded(TABLE, found))
    assert alone(stored(records)) == stored(publisher(runs=False).records_of_load(loaded(TABLE, found)))


def test_what_avro_can_not_say_is_in_the_headers_of_its_row() -> None:
    number = ColumnType(kind=Kind.DECIMAL, name="numeric(5,2)", precision=5, scale=2)
    table = replace(TABLE, columns=(TABLE.columns[0], Column(name="price", type=number)))
    (run,) = stored(publisher().records_of_load(loaded(table, [(b"1", b"1.25"), (b"2", b"NaN")])))
    assert isinstance(run, StoredRun)
    assert [bool(dict(record.headers).get(headers.EXACT)) for record in RunReader().records(run)] == [False, True]


@pytest.mark.parametrize(
    "damage",
    [
        lambda run: run._replace(value=run.value[:-1]),
        lambda run: run._replace(value=run.value + b"3\tx\n"),
        lambda run: run._replace(value=b"\n" + run.value[:-1] + b"x"),
        lambda run: run._replace(value=run.value.replace(b"x", b"\t")),
        lambda run: run._replace(value=run.value.replace(b"2\t", b"2 ")),
        lambda run: run._replace(value=run.value.replace(b"x", rb"\x")),
        lambda run: run._replace(value=run.value.replace(b"x", b"\\")),
        lambda run: run._replace(key=b"\0\0\0\0" + run.key[4:]),
        lambda run: run._replace(key=run.key[:-1]),
        lambda run: run._replace(key=run.key[:9]),
        lambda run: run._replace(key=b""),
    ],
)
def test_a_damaged_run_is_told_by_its_place(damage: object) -> None:
    (run,) = stored(publisher().records_of_load(loaded(TABLE, [(b"1", b"x"), (b"2", b"y")])))
    damaged = damage(run)  # type: ignore[operator]
    assert isinstance(damaged, StoredRun)
    for read in (RunReader().event, RunReader().records):
        with pytest.raises(ProtocolViolationError, match="offset 40: a damaged run"):
            read(damaged)


@pytest.mark.parametrize(("there", "damaged"), [(b"y", rb"\y"), (b"1\tx\n2\ty", b"1 x\n2\t\t")])
def test_what_does_not_show_at_once_is_told_when_the_rows_are_read(there: bytes, damaged: bytes) -> None:
    """They are not written shifted by a column."""
    (run,) = stored(publisher().records_of_load(loaded(TABLE, [(b"1", b"x"), (b"2", b"y")])))
    assert isinstance(run, StoredRun)
    run = run._replace(value=(run.value or b"").replace(there, damaged))
    event = RunReader().event(run)
    for read in (lambda: one_by_one([event]), CopyRows(TABLE, [event.text], 2).written):
        with pytest.raises(ProtocolViolationError, match="a damaged line"):
            read()
    with pytest.raises(ProtocolViolationError, match="offset 40: a damaged run"):
        RunReader().records(run)


def test_others_count_as_one() -> None:
    (run,) = stored(publisher().records_of_load(loaded(TABLE, [(b"1", b"x"), (b"2", b"y")])))
    assert isinstance(run, StoredRun)
    other = ChangeEvent(transaction=TRANSACTION, table=TABLE, change=Read((b"3", None)), ordinal=99, table_ordinal=9)
    events = [RunReader().event(run), other]
    assert counted(events) == 3
    assert one_by_one(events)[-1] is other
    assert not any(isinstance(event, ReadRun) for event in one_by_one(events))
