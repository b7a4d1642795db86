"""Events survive the way through Avro, byte for byte as fastavro writes it, and garbage never gets further."""

import contextlib
import io
import json
from dataclasses import replace

import fastavro
import pytest
from avro_events import events, scan, tables
from canonical_texts import KINDS, T
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc.avro import binary, headers
from cdc.avro.codec import TableCodec
from cdc.avro.compiled import long
from cdc.avro.decoder import EventDecoder
from cdc.avro.framing import frame, unframe
from cdc.avro.scanned import ScannedEvent
from cdc.avro.scanning import Transactions
from cdc.avro.tables import table_schema_from
from cdc.core.errors import FidelityError, ProtocolViolationError
from cdc.core.events import (
    UNCHANGED,
    ChangeEvent,
    Create,
    Delete,
    FullImage,
    KeyImage,
    Read,
    SnapshotMark,
    Transaction,
    Update,
)
from cdc.core.log import StoredRecord
from cdc.core.tables import Column, TableId, TableSchema
from cdc.core.types import ColumnType, Kind
from cdc.registry.decoding import Decoding

TOPIC = "shop.public.orders"


def encode(event, topic=TOPIC):
    codec = TableCodec(event.table, topic, prefix="shop")
    return codec, codec.encode(event, key_id=7, value_id=300)


@settings(max_examples=400, deadline=None)
@given(events())
def test_every_event_comes_back_as_it_was(event):
    codec, encoded = encode(event)
    decoder = EventDecoder(codec.value_schema)
    assert decoder.decode(encoded.key, encoded.value, encoded.headers) == event
    # From the second on, what is usual about the table's events is known, and read another way.
    assert decoder.decode(encoded.key, encoded.value, encoded.headers) == event


@settings(max_examples=150, deadline=None)
@given(events())
def test_the_bytes_are_fastavros(event):
    codec, encoded = encode(event)
    reread = _with_fastavro(codec.value_schema, encoded.value, 300)
    if encoded.key is not None:
        _with_fastavro(codec.key_schema, encoded.key, 7)
    assert list(reread["source"])[-2:] == ["commit_lsn", "epoch"]
    assert (reread["before"] is None) == (
        not isinstance(event.change, Delete) and getattr(event.change, "before", None) is None
    )


def _with_fastavro(schema_text, framed, schema_id):
    """Reads with the published schema, and writes what it read again: the same bytes."""
    schema = json.loads(schema_text)
    _without_logical_types(schema)  # fastavro would make rounded Decimals of them
    parsed = fastavro.parse_schema(schema)
    assert unframe(framed) == (schema_id, 5)
    datum = fastavro.schemaless_reader(io.BytesIO(framed[5:]), parsed, None)
    again = io.BytesIO()
    fastavro.schemaless_writer(again, parsed, datum)
    assert again.getvalue() == framed[5:]
    return datum


def _without_logical_types(part):
    if isinstance(part, dict):
        part.pop("logicalType", None)
        for value in part.values():
            _without_logical_types(value)
    elif isinstance(part, list):
        for value in part:
            _without_logical_types(value)


@settings(deadline=None)
@given(tables())
def test_the_schema_tells_the_table(table):
    codec = TableCodec(table, TOPIC, prefix="shop")
    assert table_schema_from(codec.value_schema) == table
    assert TableCodec(table, TOPIC, prefix="shop").value_schema == codec.value_schema
    fastavro.parse_schema(json.loads(codec.value_schema))
    if table.key:
        fastavro.parse_schema(json.loads(codec.key_schema))


# ---- one table, by hand ---------------------------------------------------------------------------------------------

ORDERS = TableSchema(
    id=TableId("public", "orders"),
    columns=(
        Column(name="id", type=KINDS[Kind.INT64][0], nullable=False),
        Column(name="total", type=KINDS[Kind.DECIMAL][0]),
        Column(name="note", type=T(kind=Kind.STRING, name="text")),
        Column(name="at", type=KINDS[Kind.TIMESTAMPTZ][0]),
        Column(name="size", type=KINDS[Kind.INT32][0]),
        Column(name="ok", type=KINDS[Kind.BOOLEAN][0]),
    ),
    key=(0,),
)
ROW = (b"1", b"12.50", b"hi", b"2026-01-31 12:34:56.789+00", b"42", b"t")
TRANSACTION = Transaction(epoch=1, commit_lsn=500, xid=9, commit_time_us=1_700_000_000_123_456, database="shop")


def event_of(change, table=ORDERS):
    return ChangeEvent(
        transaction=TRANSACTION,
        table=table,
        change=change,
        ordinal=3,
        table_ordinal=2,
        lsn=480,
        captured_us=1_700_000_000_223_456,
    )


def test_an_envelope_field_by_field():
    codec, encoded = encode(event_of(Update(KeyImage((b"1",)), ROW)))
    envelope = fastavro.schemaless_reader(io.BytesIO(encoded.value[5:]), json.loads(codec.value_schema), None)
    assert envelope["before"] == {"id": 1, "total": None, "note": None, "at": None, "size": None, "ok": None}
    assert str(envelope["after"].pop("total")) == "12.50"
    assert envelope["after"] == {"id": 1, "note": "hi", "at": "2026-01-31T12:34:56.789000Z", "size": 42, "ok": True}
    assert envelope["source"].pop("version")
    assert envelope["source"] == {
        "connector": "postgresql", "name": "shop", "ts_ms": 1_700_000_000_123, "snapshot": "false", "db": "shop",
        "sequence": '["500","480"]', "ts_us": 1_700_000_000_123_456, "ts_ns": 1_700_000_000_123_456_000,
        "schema": "public", "table": "orders", "txId": 9, "lsn": 480, "xmin": None, "origin": None,
        "origin_lsn": None, "commit_lsn": 500, "epoch": 1,
    }  # fmt: skip
    assert envelope["transaction"] == {"id": "1:9:500", "total_order": 3, "data_collection_order": 2}
    assert (envelope["op"], envelope["ts_ms"], envelope["ts_us"]) == ("u", 1_700_000_000_223, 1_700_000_000_223_456)
    assert list(envelope) == ["before", "after", "source", "transaction", "op", "ts_ms", "ts_us", "ts_ns"]
    assert encoded.key == frame(7, b"\x02")
    assert encoded.headers == ()


def test_unchanged_is_debeziums_placeholder_and_a_header():
    row = (b"1", UNCHANGED, UNCHANGED, None, b"42", b"t")
    codec, encoded = encode(event_of(Update(None, row)))
    envelope = fastavro.schemaless_reader(io.BytesIO(encoded.value[5:]), json.loads(codec.value_schema), None)
    assert envelope["after"]["note"] == "__debezium_unavailable_value"
    assert envelope["after"]["total"] is None
    assert dict(encoded.headers)[headers.UNCHANGED] == b'["total","note"]'


@pytest.mark.parametrize("kind", Kind)
def test_unchanged_comes_back_whatever_the_field_holds(kind):
    columns = (ORDERS.columns[0], Column(name="x", type=KINDS[kind][0]))
    change = Update(None, (b"1", UNCHANGED))
    codec, encoded = encode(event_of(change, TableSchema(id=ORDERS.id, columns=columns, key=(0,))))
    assert EventDecoder(codec.value_schema).decode(encoded.key, encoded.value, encoded.headers).change == change


def test_a_users_text_may_be_the_placeholder():
    row = (*ROW[:2], b"__debezium_unavailable_value", *ROW[3:])
    codec, encoded = encode(event_of(Read(row)))
    assert EventDecoder(codec.value_schema).decode(encoded.key, encoded.value, encoded.headers).change == Read(row)


def test_what_is_not_exact_travels_beside_the_row():
    _, encoded = encode(event_of(Create((b"1", b"NaN", *ROW[2:]))))
    assert encoded.headers == ((headers.EXACT, b'{"after":{"total":"NaN"}}'),)


def test_a_moved_row_names_the_other_key_in_debeziums_headers():
    _, gone = encode(event_of(Delete(KeyImage((b"1",)), moved_to=(b"2",))))
    _, come = encode(event_of(Create((b"2", *ROW[1:]), moved_from=(b"1",))))
    assert dict(gone.headers) == {headers.NEW_KEY: come.key}
    assert dict(come.headers) == {headers.OLD_KEY: gone.key}


def test_a_moved_rows_other_key_may_be_inexact():
    columns = (Column(name="id", type=KINDS[Kind.DECIMAL][0], nullable=False),)
    table = TableSchema(id=ORDERS.id, columns=columns, key=(0,))
    for change in (Create((b"NaN",), moved_from=(b"1.00",)), Create((b"NaN",), moved_from=(b"NaN",))):
        codec, encoded = encode(event_of(change, table))
        assert EventDecoder(codec.value_schema).decode(encoded.key, encoded.value, encoded.headers).change == change


def test_a_key_in_an_old_image_stands_in_for_one_that_was_not_sent():
    table = TableSchema(
        id=ORDERS.id, columns=(Column(name="id", type=T(kind=Kind.STRING, name="text"), nullable=False),), key=(0,)
    )
    _, encoded = encode(event_of(Update(KeyImage((b"x",)), (UNCHANGED,)), table))
    assert encoded.key == frame(7, b"\x02x")
    with pytest.raises(FidelityError, match=r"orders\.id"):
        encode(event_of(Update(None, (UNCHANGED,)), table))


@pytest.mark.parametrize(
    ("row", "column"),
    [((b"x", *ROW[1:]), "id"), ((None, *ROW[1:]), "id"), ((*ROW[:2], b"\xff", *ROW[3:]), "note")],
)
def test_an_impossible_value_names_its_column_and_not_itself(row, column):
    with pytest.raises(FidelityError, match=rf"public\.orders\.{column}") as refused:
        encode(event_of(Read(row)))
    assert refused.value.mend
    assert "xff" not in str(refused.value)


@pytest.mark.parametrize(
    ("kind", "name", "texts", "together"),
    [
        (Kind.VARIABLE_DECIMAL, "numeric", (b"1.0", b"1.00"), True),
        (Kind.FLOAT64, "double precision", (b"0", b"-0"), True),
        (Kind.INTERVAL, "interval", (b"P1D", b"PT24H"), True),
        (Kind.STRING, "public.citext", (b"a", b"A"), True),
        (Kind.STRING, "bpchar", (b"a", b"a "), True),
        (Kind.STRING, "text", (b"a", b"A"), False),
        (Kind.INT32, "integer", (b"1", b"2"), False),
    ],
)
@pytest.mark.parametrize("beside", [True, False], ids=["beside another column", "alone"])
def test_equal_keys_have_the_same_place(kind, name, texts, together, beside):
    """Else the delete of one spelling and the create of another could overtake each other."""
    columns = (
        Column(name="k", type=ColumnType(kind=kind, name=name), nullable=False),
        Column(name="n", type=ColumnType(kind=Kind.INT64, name="bigint"), nullable=False),
    )
    table = TableSchema(id=ORDERS.id, columns=columns, key=(0, 1) if beside else (0,))
    codec = TableCodec(table, TOPIC, prefix="shop")

    def encoded(text, number=b"7"):
        return codec.encode(event_of(Create((text, number)), table), key_id=1, value_id=2)

    one, other = map(encoded, texts)
    assert one.key != other.key
    assert (one.place == other.place) == together
    assert together or one.place == one.key  # as Java's default partitioner
    assert not beside or encoded(texts[0], b"8").place != one.place


def test_keys_keep_their_schema_when_a_text_gets_wider():
    def key_schema(length):
        text = T(kind=Kind.STRING, name=f"character varying({length})", length=length)
        column = Column(name="id", type=text, nullable=False)
        return TableCodec(TableSchema(id=ORDERS.id, columns=(column,), key=(0,)), TOPIC, prefix="shop").key_schema

    assert key_schema(10) == key_schema(20)


def test_events_of_one_transaction_in_a_row_share_it():
    codec = TableCodec(ORDERS, TOPIC, prefix="shop")
    decoder = EventDecoder(codec.value_schema)
    other = Transaction(epoch=1, commit_lsn=501, xid=10, commit_time_us=1, database="shop")
    for transaction in (TRANSACTION, TRANSACTION, other):
        event = ChangeEvent(transaction=transaction, table=ORDERS, change=Read(ROW), ordinal=1, table_ordinal=1)
        encoded = codec.encode(event, key_id=1, value_id=2)
        assert decoder.decode(encoded.key, encoded.value, encoded.headers) == event


# ---- events that are read without fastavro ---------------------------------------------------------------------------

ARRAYS_AND_RECORDS = {Kind.ARRAY, Kind.VECTOR, Kind.HALFVEC, Kind.VARIABLE_DECIMAL}
PLAIN_KINDS = [kind for kind in Kind if kind not in ARRAYS_AND_RECORDS]
WIDE = TableSchema(
    id=TableId("public", "wide"),
    columns=(
        *(Column(name=kind.name, type=KINDS[kind][0]) for kind in PLAIN_KINDS),
        *(Column(name=f"{kind.name}!", type=KINDS[kind][0], nullable=False) for kind in PLAIN_KINDS),
    ),
    key=(len(PLAIN_KINDS) + PLAIN_KINDS.index(Kind.STRING), len(PLAIN_KINDS) + PLAIN_KINDS.index(Kind.INT32)),
)
WIDE_CODEC = TableCodec(WIDE, TOPIC, prefix="shop")
WIDE_DECODER = EventDecoder(WIDE_CODEC.value_schema)
PLAIN_DECODER = EventDecoder(WIDE_CODEC.value_schema)  # always as a decoder reads its first event


def wide_rows(*, unchanged=False):
    others = st.none() | st.just(UNCHANGED) if unchanged else st.none()
    values = (
        KINDS[column.type.kind][1] | others if column.nullable else KINDS[column.type.kind][1]
        for column in WIDE.columns
    )
    return st.tuples(*values)


wide_keys = wide_rows().map(lambda row: KeyImage(tuple(row[i] for i in WIDE.key)))
wide_changes = st.one_of(
    st.builds(Create, wide_rows()),
    st.builds(Update, st.none() | wide_keys | st.builds(FullImage, wide_rows()), wide_rows(unchanged=True)),
    st.builds(Delete, wide_keys),
)


@settings(max_examples=60, deadline=None)
@given(wide_changes, st.integers(1, 2**40), st.integers(0, 2**62), st.integers(0, 4 * 10**15))
def test_both_ways_of_reading_agree(change, ordinal, lsn, captured_us):
    event = ChangeEvent(
        transaction=TRANSACTION,
        table=WIDE,
        change=change,
        ordinal=ordinal,
        table_ordinal=2,
        lsn=lsn,
        captured_us=captured_us,
    )
    encoded = WIDE_CODEC.encode(event, key_id=7, value_id=300)
    for decoder in (WIDE_DECODER, PLAIN_DECODER):
        assert decoder.decode(encoded.key, encoded.value, encoded.headers) == event
    PLAIN_DECODER._scanner = None


@pytest.mark.parametrize(
    "change",
    [
        Read(ROW),
        Create(ROW),
        Update(None, ROW),
        Update(KeyImage((b"1",)), (*ROW[:2], UNCHANGED, *ROW[3:])),
        Delete(KeyImage((b"1",))),
    ],
    ids=lambda change: type(change).__name__,
)
def test_usual_events_are_read_without_fastavro(change):
    codec, encoded = encode(event_of(change))
    decoder = EventDecoder(codec.value_schema)
    said = (*encoded.headers, (headers.TRUNCATED, b"1:0/1:1"))
    decoder.decode(encoded.key, encoded.value, said)
    decoder._values = None
    assert decoder.decode(encoded.key, encoded.value, said) == event_of(change)


@settings(max_examples=300, deadline=None)
@given(events())
def test_what_is_scanned_says_the_same_when_it_is_asked(event):
    codec, encoded = encode(event)
    decoder = EventDecoder(codec.value_schema)
    decoder.decode(encoded.key, encoded.value, encoded.headers)
    scanned = scan(decoder, stored(encoded))
    if scanned is not None:
        assert (scanned.position, scanned.table, scanned.place) == (event.position, event.table, stored(encoded)[:3])
        assert scanned == event
        assert event == scanned
        agree_on_the_row(scanned, event)


def agree_on_the_row(scanned, event):
    assert scanned.is_delete == isinstance(event.change, Delete)
    row = getattr(event.change, "after", None)
    if row is None:
        before = event.change.before
        key = before.key if isinstance(before, KeyImage) else tuple(before.row[i] for i in event.table.key)
        assert scanned.key() == key
    elif UNCHANGED in row:
        assert scanned.key() is scanned.row() is None
    else:
        assert scanned.key() == tuple(row[i] for i in event.table.key)
        assert scanned.row() == row


@pytest.mark.parametrize(
    "change",
    [
        Read(ROW),
        Create(ROW),
        Update(None, ROW),
        Update(KeyImage((b"1",)), ROW),
        Update(None, (*ROW[:2], UNCHANGED, *ROW[3:])),
        Delete(KeyImage((b"1",))),
    ],
    ids=lambda change: type(change).__name__,
)
@pytest.mark.parametrize("said", [(), ((headers.TRUNCATED, b"1:0/1:1"),)], ids=["", "after a truncate"])
def test_usual_events_are_scanned(change, said):
    codec, encoded = encode(event_of(change))
    decoder = EventDecoder(codec.value_schema)
    record = stored(encoded)
    record = record._replace(headers=(*record.headers, *said))
    assert scan(decoder, record) is None  # nothing is usual yet
    decoder.decode(*record[4:])
    scanned = scan(decoder, record)
    agree_on_the_row(scanned, event_of(change))
    assert scanned == event_of(change)


def test_the_rows_of_a_first_load_are_scanned():
    """They have no LSN of their own, and no source transaction."""
    event = replace(
        event_of(Read(ROW)), transaction=replace(TRANSACTION, xid=None), lsn=None, snapshot=SnapshotMark.YES
    )
    codec, encoded = encode(event)
    decoder = EventDecoder(codec.value_schema)
    decoder.decode(*stored(encoded)[4:])
    scanned = scan(decoder, stored(encoded))
    agree_on_the_row(scanned, event)
    assert scanned == event


def test_the_events_of_records_are_scanned():
    codec, encoded = encode(event_of(Create(ROW)))
    registry = OneSchema(codec.value_schema)
    record = stored(encoded)
    tombstone = record._replace(value=None)
    found = [*Decoding(registry).events([record, record, tombstone, record])]
    assert found == [event_of(Create(ROW)), event_of(Create(ROW)), None, event_of(Create(ROW))]
    assert [type(event) for event in found] == [ChangeEvent, ScannedEvent, type(None), ScannedEvent]


def test_who_asks_for_a_damaged_row_is_told_which_record_has_it():
    codec, encoded = encode(event_of(Create(ROW)))
    good, bad = Decoding(OneSchema(codec.value_schema)).events(
        [stored(encoded), stored(encoded)._replace(value=encoded.value.replace(b"\x04hi", b"\x06hi"))]
    )
    assert good == event_of(Create(ROW))
    assert bad.row() is None
    with pytest.raises(ProtocolViolationError, match=r"topic 'shop\.public\.orders', partition 2, offset 5"):
        _ = bad.change


@pytest.mark.parametrize(
    "number", [0, 1, 63, 64, 8191, 8192, 2**31, 1_700_000_000_123_456, 2**55 - 1, 2**55, 2**63 - 1]
)
def test_numbers_of_any_length_are_read(number):
    for signed in (number, -number - 1):
        assert long(binary.long(signed)) == signed


class OneSchema:
    def __init__(self, text):
        self.schema = lambda _: text


def stored(encoded):
    return StoredRecord(TOPIC, 2, 5, 0, encoded.key, encoded.value, encoded.headers)


def test_tables_share_the_transactions_that_they_have_in_common():
    transactions = Transactions()
    found = []
    for name in ("orders", "items"):
        codec, encoded = encode(
            event_of(Create(ROW), TableSchema(id=TableId("public", name), columns=ORDERS.columns, key=(0,)))
        )
        decoder = EventDecoder(codec.value_schema, transactions=transactions)
        found += [decoder.decode(encoded.key, encoded.value).transaction for _ in range(2)]
    assert found == [TRANSACTION] * 4
    assert found[1] is found[3]


def test_a_value_may_look_like_what_surrounds_a_row():
    table = TableSchema(
        id=ORDERS.id, columns=(ORDERS.columns[0], Column(name="x", type=KINDS[Kind.BYTES][0])), key=(0,)
    )
    decoder = EventDecoder(TableCodec(table, TOPIC, prefix="shop").value_schema)
    for value in (b"", encode(event_of(Create((b"1", rb"\x00")), table))[1].value):
        event = event_of(Create((b"1", rb"\x" + value.hex().encode())), table)
        assert decoder.decode(None, encode(event)[1].value) == event


# ---- garbage --------------------------------------------------------------------------------------------------------

CODEC, GOOD = encode(event_of(Update(KeyImage((b"1",)), ROW)))
DECODER = EventDecoder(CODEC.value_schema)
DECODER.decode(GOOD.key, GOOD.value)  # it knows now what is usual


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=80) | st.binary(max_size=200).map(lambda tail: GOOD.value[:5] + tail))
def test_arbitrary_bytes_are_refused(value):
    with pytest.raises(ProtocolViolationError):
        DECODER.decode(None, value, ())


@settings(max_examples=500, deadline=None)
@given(st.integers(5, len(GOOD.value) - 1), st.integers(0, 255))
def test_a_changed_byte_is_refused_or_still_an_event(at, byte):
    value = bytearray(GOOD.value)
    value[at] = byte
    with contextlib.suppress(ProtocolViolationError):
        assert isinstance(DECODER.decode(None, bytes(value), ()), ChangeEvent)


def test_bytes_too_many_are_refused():
    with pytest.raises(ProtocolViolationError, match="1 bytes too many"):
        DECODER.decode(None, GOOD.value + b"x", ())


@pytest.mark.parametrize("cut", range(len(GOOD.value)))
def test_every_cut_is_refused(cut):
    with pytest.raises(ProtocolViolationError):
        DECODER.decode(None, GOOD.value[:cut], ())


@pytest.mark.parametrize(
    "said",
    [
        (headers.EXACT, b"["),
        (headers.EXACT, b"[]"),
        (headers.EXACT, b'{"after":[]}'),
        (headers.EXACT, b'{"after":{"total":1}}'),
        (headers.EXACT, b'{"after":{"total":"\\ud800"}}'),
        (headers.EXACT, b'{"after":{"nonesuch":"1"}}'),
        (headers.UNCHANGED, b'{"total":1}'),
        (headers.UNCHANGED, b'["nonesuch"]'),
        (headers.UNCHANGED, b"[" * 100_000),
    ],
)
def test_malformed_headers_are_refused(said):
    with pytest.raises(ProtocolViolationError):
        DECODER.decode(GOOD.key, GOOD.value, (said,))


@pytest.mark.parametrize(
    "schema", ["", "{}", "[]", '"string"', '{"type":"record","name":"X","fields":[]}', "[" * 100_000]
)
def test_other_schemas_are_refused(schema):
    with pytest.raises(ProtocolViolationError):
        EventDecoder(schema)
