"""Usual changes go from the source's bytes to the log's without being read: to the same events and the same bytes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import pytest
from avro_events import rows, tables, transactions
from described_tables import described, text_column
from hypothesis import given, settings
from hypothesis import strategies as st
from pgoutput_bytes import frame

from cdc.avro.headers import ALTERED, TRUNCATED
from cdc.capture.publisher import Publisher
from cdc.core.errors import CdcError, ProtocolViolationError, RecordTooLargeError
from cdc.core.events import (
    UNCHANGED,
    ChangeEvent,
    Changes,
    Create,
    Delete,
    Read,
    SnapshotMark,
    StreamItem,
    Transaction,
    UnreadChange,
    Update,
)
from cdc.core.log import Record
from cdc.core.position import Position
from cdc.core.settings import LogSettings
from cdc.core.state import TableState
from cdc.core.tables import Column, ReplicaIdentity, TableId, TableSchema
from cdc.core.types import ColumnType, Kind
from cdc.log.memory import MemoryLog
from cdc.pgoutput import messages as wire
from cdc.pgoutput.decoder import decode
from cdc.pgoutput.stream import message_in
from cdc.sources.postgres.assembler import Assembler
from cdc.sources.postgres.load import COPY_FORMAT
from cdc.sources.postgres.row_changes import ROW_FORMAT
from cdc.sources.postgres.versions import Versions

ITEMS, FULL, HIDDEN, UNKNOWN = 1, 2, 3, 4
NAMES = {ITEMS: "items", FULL: "full", HIDDEN: "hidden"}
LONG = ColumnType(kind=Kind.INT64, name="bigint")
STRING = ColumnType(kind=Kind.STRING, name="text")


class Numbers:
    """A registry that numbers."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}

    def register(self, subject: str, schema: str) -> int:
        return self._ids.setdefault(schema, len(self._ids) + 300)

    def schema(self, schema_id: int) -> str:
        raise AssertionError(schema_id)

    def close(self) -> None:
        """Nothing is open."""


TOPIC = "shop.public.my_orders"


def new_publisher(*, barrier: bool = False, limit: int = 1 << 20) -> Publisher:
    at = Position(1, 5, 1) if barrier else None
    state = TableState(table=TableId("public", "my orders"), topic=TOPIC, partitions=4, truncated=at, altered=at)
    set_up = LogSettings(prefix="shop", partitions=4, max_record_bytes=limit)
    return Publisher(
        settings=set_up,
        state_topic="state",
        tables={TOPIC: state},
        existing={TOPIC: 4},
        writer=MemoryLog(set_up).writer(),
        registry=Numbers(),
    )


# ---- from frames to events -------------------------------------------------------------------------------------------


def relation(oid: int, last: str = "body") -> wire.Relation:
    """A table (id, body)."""
    identity = ReplicaIdentity.FULL if oid == FULL else ReplicaIdentity.DEFAULT
    columns = tuple(text_column(name, in_identity=name == "id" or oid == FULL) for name in ("id", last))
    return wire.Relation(oid, "public", NAMES[oid], identity, columns)


def note(announced: wire.Relation) -> str:
    return json.dumps(described(announced, key=["id"]).to_json())


class NothingReread:
    def begin(self, oid: int) -> None:
        """Nobody reads."""

    def finished(self, attempt: str) -> None:
        raise AssertionError(attempt)


def assembler() -> Assembler:
    def captured(table: TableId) -> bool:
        return table.name != "hidden"

    versions = Versions(publication="cdc", generated=False, captured=captured)
    for oid in NAMES:
        versions.remember(Position(3, 1, 0), note(relation(oid)))
    return Assembler(
        epoch=3,
        database="shop",
        versions=versions,
        rereads=NothingReread(),
        captured=captured,
        now_us=lambda: 1,
    )


def usual(frames: Sequence[bytes]) -> Iterator[StreamItem]:
    """As the source does it."""
    some, left = assembler(), iter(frames)
    for each in left:
        items, other = some.take(each, left)
        yield from items
        if other is not None:
            yield from fed(some, other)


def plain(frames: Sequence[bytes]) -> Iterator[StreamItem]:
    some = assembler()
    for each in frames:
        yield from fed(some, each)


def fed(some: Assembler, each: bytes) -> Iterable[StreamItem]:
    message = message_in(each)
    assert message is not None
    return some.feed(decode(message[1]), message[0])


def read(items: Iterable[StreamItem]) -> tuple[list[StreamItem], list[Record]] | tuple[type[CdcError], str]:
    """The items, with an event for each change, and the records of all changes; or the error that ended them."""
    made: list[StreamItem] = []
    records: list[Record] = []
    publisher = new_publisher()
    try:
        for item in items:
            match item:
                case Changes():
                    made.extend(item.events())
                    records.extend(publisher.records_of(item))
                case ChangeEvent():
                    made.append(item)
                    records.extend(publisher.records(item))
                case _:
                    made.append(item)
    except CdcError as error:
        return type(error), str(error)
    return made, records


texts = st.sampled_from([b"", b"1", b"2", b"x" * 255, b"x" * 256, b"y" * 70_000, "é".encode()])
full_rows = st.tuples(texts, texts | st.none())
new_rows = st.tuples(texts, texts | st.none() | st.just(UNCHANGED))
old_tuples = st.builds(wire.KeyTuple, full_rows) | st.builds(wire.FullTuple, full_rows)
oids = st.sampled_from([ITEMS, ITEMS, FULL, FULL, HIDDEN])
row_messages = st.one_of(
    st.builds(wire.Insert, oids, full_rows),
    st.builds(wire.Update, oids, st.none() | old_tuples, new_rows),
    st.builds(wire.Delete, oids, old_tuples),
)
any_row = st.lists(texts | st.none() | st.just(UNCHANGED), min_size=1, max_size=3).map(tuple)
wrong_messages = st.one_of(
    st.builds(wire.Insert, oids | st.just(UNKNOWN), any_row), st.builds(wire.Update, oids, old_tuples, any_row)
)
others = st.one_of(
    st.builds(wire.Truncate, oids.map(lambda oid: (oid,)), st.just(False), st.just(False)),
    st.builds(relation, oids, st.sampled_from(["body", "body", "other"])),
    st.builds(wire.LogicalMessage, st.booleans(), st.just(450), st.sampled_from(["app", "cdc.pad"]), st.just(b"x")),
    st.builds(wire.Origin, st.just(5), st.just("elsewhere")),
)


@st.composite
def streams(draw: st.DrawFn) -> list[bytes]:
    messages: list[wire.Message] = [wire.Begin(final_lsn=90, commit_time_us=7, xid=4)]
    messages += [relation(oid) for oid in NAMES]
    messages += draw(st.lists(row_messages, max_size=4))
    messages += draw(st.lists(row_messages | row_messages | others, max_size=8))
    messages += [wire.Commit(0, 90, 95, 7), wire.Begin(final_lsn=95, commit_time_us=8, xid=5)]
    messages += draw(st.lists(row_messages, max_size=4))
    messages += draw(st.lists(wrong_messages, max_size=1)) if draw(st.integers(0, 5)) == 0 else []
    messages += [wire.Commit(0, 95, 99, 8)]
    return [frame(message, 50 + at) for at, message in enumerate(messages)]


@settings(max_examples=200, deadline=None)
@given(streams())
def test_what_is_not_read_means_what_it_means_when_read(frames: list[bytes]) -> None:
    assert read(usual(frames)) == read(plain(frames))


def test_usual_changes_are_not_read() -> None:
    changes = [
        wire.Insert(ITEMS, (b"1", None)),
        wire.Update(ITEMS, None, (b"1", UNCHANGED)),
        wire.Insert(FULL, (b"1", b"x")),
        wire.Delete(FULL, wire.FullTuple((b"1", b"x"))),
        wire.Delete(ITEMS, wire.KeyTuple((b"1", None))),
    ]
    known = [relation(ITEMS), wire.Insert(ITEMS, (b"0", b"")), relation(FULL), wire.Insert(FULL, (b"0", b""))]
    messages = [wire.Begin(90, 7, 4), *known, *changes, wire.Commit(0, 90, 95, 7), wire.Begin(95, 8, 5), *changes]
    items = list(usual([frame(message, at) for at, message in enumerate(messages)]))
    runs = [[op for _, op, *_ in item.unread] for item in items if isinstance(item, Changes)]
    assert runs == [[Create, Update, Create, Delete, Delete]] * 2


def test_a_table_that_this_session_was_not_told_of_is_not_usual() -> None:
    """As what an earlier session published is known, but not whether the table still is that."""
    some = assembler()
    messages = [wire.Begin(90, 7, 4), wire.Insert(ITEMS, (b"1", None))]
    begin, insert = [frame(message, at) for at, message in enumerate(messages)]
    list(fed(some, begin))
    items, left = some.take(insert, iter(()))
    assert (list(items), left) == ([], insert)
    with pytest.raises(ProtocolViolationError, match="before its Relation"):
        list(fed(some, insert))


# ---- from changes to records -----------------------------------------------------------------------------------------


def of_table(table: TableSchema, oid: int, draw: st.DrawFn) -> tuple[type[Create | Update | Delete], wire.Message]:
    full = table.identity is ReplicaIdentity.FULL
    match draw(st.sampled_from([Create, Update, Delete])):
        case op if op is Create:
            return op, wire.Insert(oid, draw(rows(table)))
        case op if op is Update:
            return op, wire.Update(oid, None, draw(rows(table, unchanged=True)))
        case op:
            row = draw(rows(table))
            if full:
                return op, wire.Delete(oid, wire.FullTuple(row))
            return op, wire.Delete(
                oid, wire.KeyTuple(tuple(value if i in table.key else None for i, value in enumerate(row)))
            )


@st.composite
def unread(draw: st.DrawFn) -> Changes:
    table = draw(tables())
    made: list[UnreadChange] = []
    for ordinal in range(1, draw(st.integers(1, 3)) + 1):
        op, message = of_table(table, ITEMS, draw)
        lsn = draw(st.integers(0, 2**63 - 1))
        data = frame(message, lsn)
        if draw(st.integers(0, 9)) == 0:  # a message that lies
            at = draw(st.integers(33, len(data)))
            data = data[:at] + draw(st.binary(max_size=3)) + data[at + draw(st.integers(0, 3)) :]
        made.append((table, op, data, draw(st.just(lsn) | st.none()), draw(st.integers(1, 2**40)), ordinal))
    marks = st.sampled_from([SnapshotMark.NO, SnapshotMark.YES])
    return Changes(draw(transactions), made, ROW_FORMAT, draw(st.integers(0, 4 * 10**15)), draw(marks))


def written(made: Iterable[list[Record]]) -> list[Record] | tuple[type[CdcError], str]:
    try:
        return [record for records in made for record in records]
    except CdcError as error:
        return type(error), str(error)


@settings(max_examples=300, deadline=None)
@given(unread(), st.booleans())
def test_what_is_not_read_is_written_as_what_is(changes: Changes, barrier: bool) -> None:
    quick, plain = new_publisher(barrier=barrier), new_publisher(barrier=barrier)
    quickly = written(quick.records_of(changes) for _ in range(1))
    assert quickly == written(plain.records(event) for event in changes.events())


TABLE = TableSchema(
    id=TableId("public", "my orders"),
    columns=(
        Column(name="id", type=LONG, nullable=False),
        Column(name="note", type=STRING),
        Column(name="n", type=LONG),
    ),
    key=(0,),
)


def changes(*messages: tuple[type[Create | Update | Delete], wire.Message], table: TableSchema = TABLE) -> Changes:
    transaction = Transaction(epoch=1, commit_lsn=99, xid=3, commit_time_us=0, database="shop")
    made: list[UnreadChange] = [
        (table, op, frame(message, 500), 500, at, at) for at, (op, message) in enumerate(messages, 1)
    ]
    return Changes(transaction, made, ROW_FORMAT, 1)


def test_usual_rows_are_not_written_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("written plainly")

    monkeypatch.setattr(Publisher, "records", refuse)
    usual_ones = changes(
        (Create, wire.Insert(ITEMS, (b"-5", b"some text", None))),
        (Update, wire.Update(ITEMS, None, (b"123456789012", None, b"7"))),
        (Update, wire.Update(ITEMS, None, (b"1", b"x" * 900, b"-123456"))),
        (Delete, wire.Delete(ITEMS, wire.KeyTuple((b"1", None, None)))),
    )
    full = changes(
        (Delete, wire.Delete(ITEMS, wire.FullTuple((b"1", b"\xc3\xa9", b"3")))),
        table=replace(TABLE, identity=ReplicaIdentity.FULL),
    )
    assert [len(new_publisher().records_of(each)) for each in (usual_ones, full)] == [5, 2]


def test_changes_of_a_table_that_was_altered_are_not_read() -> None:
    def refuse(*_: object) -> Create:
        raise AssertionError("read")

    usual_one = changes((Create, wire.Insert(ITEMS, (b"1", b"x", None))))
    unreadable = replace(usual_one, format=replace(ROW_FORMAT, change=refuse))
    (record,) = new_publisher(barrier=True).records_of(unreadable)
    assert [name for name, _ in record.headers] == [TRUNCATED, ALTERED]


def test_a_change_that_the_log_would_not_take_names_its_column() -> None:
    large = changes((Create, wire.Insert(ITEMS, (b"1", b"x" * 2000, None))))
    with pytest.raises(RecordTooLargeError, match="column note"):
        new_publisher(limit=1000).records_of(large)


def test_a_row_without_its_key_is_a_violation() -> None:
    nullable = replace(TABLE, columns=(Column(name="id", type=LONG), *TABLE.columns[1:]))
    without = changes((Update, wire.Update(ITEMS, None, (None, b"x", None))), table=nullable)
    with pytest.raises(ProtocolViolationError, match="key column"):
        new_publisher().records_of(without)


# ---- a first load ----------------------------------------------------------------------------------------------------


def copied(row: Sequence[bytes | None]) -> bytes:
    """A line of COPY's text format."""
    escapes = {b"\\": rb"\\", b"\t": rb"\t", b"\n": rb"\n", b"\r": rb"\r", b"\v": rb"\v"}

    def field(value: bytes) -> bytes:
        return b"".join(escapes.get(value[i : i + 1], value[i : i + 1]) for i in range(len(value)))

    fields = (rb"\N" if value is None else field(value) for value in row)
    return b"\t".join(fields) + b"\n"


@st.composite
def loaded(draw: st.DrawFn) -> tuple[Changes, list[Read]]:
    table = draw(tables())
    whole = draw(st.lists(rows(table), min_size=1, max_size=3))
    unread: list[UnreadChange] = [(table, Read, copied(row), None, at, at) for at, row in enumerate(whole, 1)]
    return Changes(draw(transactions), unread, COPY_FORMAT, 1, SnapshotMark.YES), [Read(row) for row in whole]


@settings(max_examples=300, deadline=None)
@given(loaded())
def test_lines_of_copy_are_written_as_the_rows_that_they_are(load: tuple[Changes, list[Read]]) -> None:
    unread, rows_read = load
    events = list(unread.events())
    assert [event.change for event in events] == rows_read
    quick, plain = new_publisher(), new_publisher()
    assert written(quick.records_of(unread) for _ in range(1)) == written(plain.records(event) for event in events)


def test_usual_lines_of_copy_are_not_written_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("written plainly")

    monkeypatch.setattr(Publisher, "records", refuse)
    lines = [copied((b"1", None, b"3")), copied((b"12345678", b"a\tb\\", b"3")), copied((b"2", b"text", None))]
    unread: list[UnreadChange] = [(TABLE, Read, line, None, at, at) for at, line in enumerate(lines, 1)]
    transaction = Transaction(epoch=1, commit_lsn=99, xid=None, commit_time_us=0, database="shop")
    assert len(new_publisher().records_of(Changes(transaction, unread, COPY_FORMAT, 1, SnapshotMark.YES))) == 3
