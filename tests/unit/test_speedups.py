"""The loops that may be compiled do what the functions do that are made for each table version.

As Python, or compiled: test_speedups_compiled.py runs these tests that way.
"""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import patch

import pytest
from avro_events import commits, events, rows, scan, tables
from canonical_texts import CORNERS, KINDS, TYPES
from canonical_texts import T as Type
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pgoutput_bytes import frame

from cdc.avro import binary, packing, scanning
from cdc.avro.boundaries import EndScanner
from cdc.avro.codec import TableCodec
from cdc.avro.compiled import MALFORMED, made_reader
from cdc.avro.decoder import EventDecoder
from cdc.avro.framing import HEADER_LENGTH
from cdc.avro.kinds import codec_of
from cdc.avro.packers import UNUSUAL
from cdc.avro.rows import RowWriter
from cdc.avro.scanning import EnvelopeScanner
from cdc.avro.speedups.civil import text_of, us_of
from cdc.avro.speedups.packing import EventPacker
from cdc.avro.speedups.reading import Field, RowReader
from cdc.avro.speedups.surroundings import Ends, Surroundings
from cdc.avro.transactions import TransactionCodec
from cdc.core.errors import CdcError
from cdc.core.events import UNCHANGED, ChangeEvent, Create, Transaction
from cdc.core.log import StoredRecord
from cdc.core.tables import Column, ReplicaIdentity, TableId, TableSchema
from cdc.core.types import Kind
from cdc.pgoutput import messages as wire
from cdc.pgoutput.decoder import decode
from cdc.pgoutput.stream import message_in
from cdc.sources.postgres.row_changes import ROW_FORMAT

WIDE_NUMBERS = Type(kind=Kind.DECIMAL, name="numeric(30,20)", precision=30, scale=20)
MORE_CORNERS = [
    b"999999999999999999", b"1000000000000000000", b"-999999999999999999", b"9223372036854775807",
    b"-9223372036854775808", b"127", b"128", b"-128", b"-129", b"32767", b"-32768", b"255", b"256", b"1.27", b"-1.28",
    b"99999999999999.99", b"99999999999999999.99", b"-0.01", b"0.01", b"0.00", b"1..5", b"1.5.0", b"--1", b"-", b"+",
    b"2024-02-29 00:00:00", b"2023-02-29 00:00:00", b"1900-02-29 00:00:00", b"2000-02-29 23:59:59",
    b"0001-01-01 00:00:00",
    b"0000-01-01 00:00:00", b"9999-12-31 23:59:59.999999", b"2026-04-31 00:00:00", b"2026-00-10 00:00:00",
    b"2026-13-10 00:00:00", b"2026-01-00 00:00:00", b"2026-01-01 23:60:00", b"2026-01-01 23:59:60",
    b"2026-01-01 00:00:00.1+00", b"2024-02-29 00:00:00.12+00", b"9999-12-31 23:59:59.999999+00", b"+00", b"00+00",
    b"2026-01-01 00:00:00-00", b"2026-01-01 00:00:00+00 BC", b"tt", b"F",
]  # fmt: skip


def table_of(*types, key=(), identity=ReplicaIdentity.DEFAULT):
    columns = tuple(Column(name=f"c{i}", type=column, nullable=i not in key) for i, column in enumerate(types))
    return TableSchema(id=TableId("public", "t"), columns=columns, key=key, identity=identity)


# ---- packing ---------------------------------------------------------------------------------------------------------


def packers(table, *, loops):
    with patch.object(packing, "COMPILED", loops):
        return packing.event_packers(table, RowWriter(table).fillers, ROW_FORMAT, key=b"key-", value=b"value-")


def packed(pack, data):
    try:
        return pack(data)
    except UNUSUAL:
        return None


def packed_plainly(table, message):
    """The value and the key, if they say all that the row does."""
    writer, is_delete = RowWriter(table), isinstance(message, wire.Delete)
    row = message.old.values if is_delete else message.new
    key = tuple(row[i] for i in table.key)
    is_whole = not is_delete or table.identity is ReplicaIdentity.FULL
    try:
        value, key = writer.row(row) if is_whole else writer.key_row(key), writer.key(key)
    except CdcError:
        return None
    if value.exact or value.unchanged:
        return None
    image = b"\x02" + value.record
    return b"value-" + (image + b"\x00" if is_delete else b"\x00" + image), b"key-" + key.record if table.key else None


def agree(table, *messages):
    """The loops do what the functions do, or are right about what those leave to the plain writer."""
    made, loops = packers(table, loops=False), packers(table, loops=True)
    for message in messages:
        of = "before" if isinstance(message, wire.Delete) else "after"
        data = frame(message, 500)
        found, wanted = packed(getattr(loops, of), data), packed(getattr(made, of), data)
        if wanted is None and found is not None:
            assert found[:2] == packed_plainly(table, message), data
        else:
            assert found == wanted, data


@pytest.mark.parametrize("column", [*TYPES.values(), WIDE_NUMBERS], ids=str)
@settings(max_examples=60)
@given(data=st.data())
def test_values_are_packed_alike(column, data):
    text = data.draw(KINDS[column.kind][1])
    agree(table_of(column), wire.Insert(1, (text,)))
    agree(table_of(column, key=(0,)), wire.Insert(1, (text,)), wire.Delete(1, wire.KeyTuple((text,))))


@pytest.mark.parametrize("column", [*TYPES.values(), WIDE_NUMBERS], ids=str)
def test_corners_are_packed_alike(column):
    agree(table_of(column), *(wire.Insert(1, (text,)) for text in CORNERS + MORE_CORNERS))


@st.composite
def tables_and_messages(draw):
    table = draw(tables())
    row = draw(rows(table, unchanged=True))
    old = draw(rows(table))
    key = tuple(value if i in table.key else None for i, value in enumerate(old))
    deleted = wire.FullTuple(old) if table.identity is ReplicaIdentity.FULL else wire.KeyTuple(key)
    return table, [wire.Insert(1, row), wire.Update(1, None, row), wire.Delete(1, deleted)]


@settings(max_examples=300)
@given(tables_and_messages())
def test_events_are_packed_alike(made):
    agree(made[0], *made[1])


@settings(max_examples=300)
@given(tables_and_messages(), st.data())
def test_what_is_damaged_is_packed_as_what_it_says(made, data):
    """Or not at all."""
    table, messages = made
    packs = packers(table, loops=True)
    for message in messages:
        sent = frame(message, 500)
        at = data.draw(st.integers(33, len(sent)))
        damaged = sent[:at] + data.draw(st.binary(max_size=3)) + sent[at + data.draw(st.integers(0, 3)) :]
        found = packed(packs.before if isinstance(message, wire.Delete) else packs.after, damaged)
        if found is not None:
            said = decode(message_in(damaged)[1])
            assert found[:2] == packed_plainly(table, said)


def test_key_columns_are_in_the_keys_order_and_some_decide_the_partition():
    number, ranges = TYPES[Kind.INT64], Type(kind=Kind.OTHER, name="int4range")
    table = table_of(number, ranges, number, key=(2, 1, 0))
    agree(table, wire.Insert(1, (b"1", b"[1,2)", b"3")), wire.Delete(1, wire.KeyTuple((b"1", b"[1,2)", b"3"))))


def test_null_and_unchanged_where_they_can_not_be():
    table = table_of(TYPES[Kind.INT64], TYPES[Kind.STRING], key=(0,))
    required = replace(table, columns=tuple(replace(column, nullable=False) for column in table.columns))
    for each in (table, required):
        agree(each, *(wire.Insert(1, row) for row in [(None, b"x"), (b"1", None), (b"1", UNCHANGED), (b"1",), ()]))


def test_usual_values_are_packed_without_python():
    kinds = [Kind.INT16, Kind.INT32, Kind.INT64, Kind.DECIMAL, Kind.VARIABLE_DECIMAL, Kind.BOOLEAN, Kind.TIMESTAMP,
             Kind.TIMESTAMPTZ, Kind.STRING]  # fmt: skip
    texts = [b"-32768", b"2147483647", b"-123456789012345678", b"-12.50", b"0.125", b"f", b"1969-12-31 23:59:59.5",
             b"2024-02-29 12:34:56.000789+00", "é".encode()]  # fmt: skip
    table = table_of(*(TYPES[kind] for kind in kinds), key=(0,))

    def refuse(_):
        def pack(text):
            raise AssertionError(text)

        return pack

    with patch("cdc.avro.speedups.packing.packer_of", refuse):
        pack = EventPacker(
            table,
            range(len(kinds)),
            [b""] * len(kinds),
            begins=ROW_FORMAT.tuple_at,
            around=(b"", b"", b""),
            placing=(0,),
        ).pack
    value, key, _ = pack(frame(wire.Insert(1, tuple(texts)), 500))
    assert key == codec_of(TYPES[Kind.INT16]).write(-32768)
    assert value


# ---- moments ---------------------------------------------------------------------------------------------------------


@given(KINDS[Kind.TIMESTAMP][1])
def test_moments_are_the_kinds(text):
    codec = codec_of(TYPES[Kind.TIMESTAMP])
    us = us_of(b"<" + text + b">", 1, 1 + len(text))
    if us is not None:
        assert us == codec.encode(text)
        assert text_of(us) == text


@given(st.integers(-(2**63), 2**63 - 1) | st.integers(-62_135_596_800_000_000 - 5, 253_402_300_800_000_000 + 5))
def test_texts_of_moments_are_the_kinds(us):
    assert text_of(us) in {None, codec_of(TYPES[Kind.TIMESTAMP]).decode(us)}


def test_all_years_of_four_digits_have_moments():
    for year in range(1, 10_000):
        for day in (b"01-01", b"02-28", b"03-01", b"12-31"):
            text = b"%04d-%b 00:00:00" % (year, day)
            assert text_of(us_of(text, 0, len(text))) == text


# ---- reading ---------------------------------------------------------------------------------------------------------


PRIMITIVES = ["string", "bytes", "int", "long", "boolean", "float", "double"]
OF_KINDS = {Kind.INT16: "int", Kind.INT32: "int", Kind.INT64: "long", Kind.DECIMAL: "bytes", Kind.TIMESTAMP: "long",
            Kind.BOOLEAN: "boolean", Kind.BIT: "boolean", Kind.FLOAT32: "float", Kind.FLOAT64: "double",
            Kind.DATE: "int", Kind.TIME: "long", Kind.BYTES: "bytes", Kind.BITS: "bytes"}  # fmt: skip
UNREADABLE = {Kind.ARRAY, Kind.VECTOR, Kind.HALFVEC, Kind.HSTORE, Kind.VARIABLE_DECIMAL}


def read(reader, data, at):
    """What it reads, if that is all there."""
    try:
        values, end = reader(data, at)
    except MALFORMED:
        return None
    return (values, end) if end <= len(data) else None


def fields_of(table):
    return [
        Field(OF_KINDS.get(column.type.kind, "string"), column.nullable, column.type, codec_of(column.type))
        for column in table.columns
    ]


@st.composite
def written_rows(draw):
    """Fields, a row of them as Avro has it, and which are wanted."""
    table = draw(tables())
    assume(not any(column.type.kind in UNREADABLE for column in table.columns))
    row = RowWriter(table).row(draw(rows(table))).record
    wanted = draw(st.permutations(range(len(table.columns))))
    return fields_of(table), row, wanted[: draw(st.integers(0, len(wanted)))]


@settings(max_examples=300)
@given(written_rows(), st.data())
def test_rows_are_read_alike(made, data):
    fields, row, wanted = made
    padded = data.draw(st.binary(max_size=3))
    for order in (range(len(fields)), wanted):
        made_of_source, loop = made_reader(fields, order), RowReader(fields, order).read
        assert loop(padded + row, len(padded)) == made_of_source(padded + row, len(padded))
        at = data.draw(st.integers(0, len(row)))
        damaged = row[:at] + data.draw(st.binary(max_size=3)) + row[at + data.draw(st.integers(0, 3)) :]
        assert read(loop, damaged, 0) == read(made_of_source, damaged, 0)


@pytest.mark.parametrize("column", [each for each in TYPES.values() if each.kind not in UNREADABLE], ids=str)
def test_any_bytes_are_read_alike(column):
    @settings(max_examples=100)
    @given(st.binary(max_size=12) | st.integers(-(2**63), 2**63 - 1).map(codec_of(TYPES[Kind.INT64]).write))
    def agree_on(data):
        fields = [Field(OF_KINDS.get(column.kind, "string"), False, column, codec_of(column))]
        assert read(RowReader(fields, (0,)).read, data, 0) == read(made_reader(fields, (0,)), data, 0)

    agree_on()


@pytest.mark.parametrize(
    "text",
    [
        b"2026-01-31T12:34:56.000000Z", b"2026-01-31T12:34:56.789000Z", b"2026-01-31T12:34:56.000001Z",
        b"2026-01-31T12:34:50.000000Z", b"2026-01-31T12:34:56Z", b"0000-01-31T12:34:56.000000Z",
        b"2026-01-31T12:34:56.00000xZ", b"2026-01-31 12:34:56.000000Z", b"2026-01-31T12:34:56.000000+", b"infinity",
        b"2026-01x31T12:34:56.000000Z", b"+10000-01-31T12:34:56.000000Z", b"2026-01-31T12:34:56.0000:0Z",
    ],
)  # fmt: skip
def test_moments_of_time_zones_are_read_alike(text):
    column = TYPES[Kind.TIMESTAMPTZ]
    fields = [Field("string", True, column, codec_of(column))]
    data = b"\x02" + bytes([2 * len(text)]) + text
    assert read(RowReader(fields, (0,)).read, data, 0) == read(made_reader(fields, (0,)), data, 0)


# ---- what surrounds the rows -----------------------------------------------------------------------------------------


@settings(max_examples=300)
@given(events(), st.data())
def test_what_surrounds_rows_is_found_alike(event, data):
    learnt = {}

    def learn(scanner, source):
        scanner_learns(scanner, source)
        learnt.setdefault(scanner, source)

    scanner_learns = EnvelopeScanner.learn
    codec = TableCodec(event.table, "shop.public.orders", prefix="shop")
    encoded = codec.encode(event, key_id=7, value_id=300)
    decoder = EventDecoder(codec.value_schema)
    with patch.object(EnvelopeScanner, "learn", learn):
        decoder.decode(encoded.key, encoded.value, encoded.headers)
    assume(learnt)
    ((scanner, source),) = learnt.items()
    at = data.draw(st.integers(0, len(encoded.value)))
    value = encoded.value
    damaged = value[:at] + data.draw(st.binary(max_size=2)) + value[at + data.draw(st.integers(0, 2)) :]
    record = StoredRecord("shop.public.orders", 0, 0, 0, encoded.key, value, encoded.headers)
    others = (record._replace(value=damaged), record._replace(value=None), record._replace(headers=(("other", b""),)))
    records = data.draw(st.lists(st.sampled_from((record, record, record, *others)), max_size=9))
    first = data.draw(st.integers(0, len(records)))
    made = surroundings(source).scan_all(records, first, value[:HEADER_LENGTH], scanner, {}, 1)
    assert [*map(said, made)] == [*map(said, scan_all(scanner, records, first, value[:HEADER_LENGTH]))][: len(made)]
    stopped = records[first + len(made) :][:1]
    assert not stopped or stopped[0] in others or not scan_all(scanner, [record], 0, value[:HEADER_LENGTH])


def scan_all(scanner, *arguments):
    with patch.object(scanner, "_surroundings", None):
        return scanner.scan_all(*arguments)


def said(event):
    return event.transaction, event.table, event.ordinal, event._begins, event.place, event.is_delete, event.is_read


@settings(max_examples=300)
@given(st.lists(commits(), min_size=1, max_size=3), st.data())
def test_ends_are_read_alike(made, data):
    codec, scanner, loop = TransactionCodec("shop"), EndScanner(), Ends()
    for commit in (*made, *made):
        begin, end = (boundary.value for boundary in codec.encode(commit, key_id=5, value_id=6))
        assert loop.end(begin) is None
        assert loop.end(end) == (scanner.end(end) if commit.transaction.commit_lsn < 10**18 else None)
        at = data.draw(st.integers(0, len(end)))
        damaged = end[:at] + data.draw(st.binary(max_size=2)) + end[at + data.draw(st.integers(0, 2)) :]
        assert loop.end(damaged) in (scanner.end(damaged), None)


def surroundings(source):
    head = binary.data(source["version"]) + binary.data(source["connector"]) + binary.data(source["name"])
    table = binary.data(source["schema"]) + binary.data(source["table"])
    return Surroundings(head, binary.data(source["db"]), table, scanning._MARKS)


def test_usual_events_are_found():
    table = table_of(TYPES[Kind.INT64], key=(0,))
    codec = TableCodec(table, "shop.public.t", prefix="shop")
    decoder = EventDecoder(codec.value_schema)
    transaction = Transaction(epoch=1, commit_lsn=500, xid=9, commit_time_us=1_700_000_000_123_456, database="shop")
    for ordinal in (1, 100, 20_000, 3_000_000):
        event = ChangeEvent(
            transaction=transaction, table=table, change=Create((b"1",)), ordinal=ordinal, table_ordinal=ordinal, lsn=5
        )
        encoded = codec.encode(event, key_id=7, value_id=300)
        decoder.decode(encoded.key, encoded.value)
        record = StoredRecord("shop.public.t", 0, 0, 0, encoded.key, encoded.value, ())
        scanned = scan(decoder, record)
        assert scanned is not None
        assert scanned.ordinal == ordinal
