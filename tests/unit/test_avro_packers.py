"""The fast way from text to bytes gives the plain one's bytes, or leaves the value to it."""

import pytest
from avro_events import events
from canonical_texts import CORNERS, KINDS, TYPES
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc.avro.codec import TableCodec
from cdc.avro.kinds import codec_of
from cdc.avro.kinds.codec import InexactError
from cdc.avro.packers import UNUSUAL, packer_of
from cdc.core.events import (
    ChangeEvent,
    Create,
    Delete,
    FullImage,
    KeyImage,
    Read,
    Transaction,
    Update,
)
from cdc.core.tables import Column, ReplicaIdentity, TableId, TableSchema
from cdc.core.types import Kind

TRANSACTION = Transaction(epoch=1, commit_lsn=500, xid=9, commit_time_us=1_700_000_000_123_456, database="shop")


def plain(column, text):
    codec = codec_of(column)
    try:
        return codec.write(codec.encode(text))
    except (ValueError, InexactError):
        return None


def packed(column, text):
    try:
        return packer_of(column)(text)
    except UNUSUAL:
        return None


@pytest.mark.parametrize("column", TYPES.values(), ids=str)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_packers_write_what_the_kinds_write(column, data):
    text = data.draw(KINDS[column.kind][1])
    assert packed(column, text) in {plain(column, text), None}


@pytest.mark.parametrize("column", TYPES.values(), ids=str)
def test_packers_take_no_text_that_the_kinds_refuse(column):
    for text in CORNERS:
        assert packed(column, text) in {plain(column, text), None}, text


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (Kind.BOOLEAN, b"f"),
        (Kind.INT16, b"-32768"),
        (Kind.INT32, b"2147483647"),
        (Kind.INT64, b"-9223372036854775808"),
        (Kind.DECIMAL, b"-12.50"),
        ("numeric(5,0)", b"123"),
        (Kind.VARIABLE_DECIMAL, b"12.5"),
        (Kind.VARIABLE_DECIMAL, b"-12"),
        (Kind.FLOAT64, b"-0.25"),
        (Kind.FLOAT64, b"25"),
        (Kind.UUID, b"9f1c1a36-0000-4000-8000-00000000000a"),
        (Kind.DATE, b"2026-01-31"),
        (Kind.TIME, b"12:34:56.789"),
        (Kind.TIMESTAMP, b"2026-01-31 12:34:56.000789"),
        (Kind.TIMESTAMP, b"1969-12-31 23:59:59"),
        (Kind.TIMESTAMPTZ, b"2026-01-31 12:34:56.000789+00"),
        ("timestamptz(0)", b"2026-01-31 12:34:56+00"),
        ("timestamptz(3)", b"2026-01-31 12:34:56.7+00"),
        (Kind.STRING, b"some text"),
    ],
    ids=str,
)
def test_usual_values_are_not_left_to_the_kinds(kind, text):
    assert packed(TYPES[kind], text) == plain(TYPES[kind], text) is not None


# ---- whole events ---------------------------------------------------------------------------------------------------


def _refuse(row):
    raise ValueError(row)


@settings(max_examples=600, deadline=None)
@given(events())
def test_compiled_and_plain_write_the_same_events(event):
    compiled, plain = (TableCodec(event.table, "shop.public.orders", prefix="shop") for _ in range(2))
    plain._pack_row = plain._pack_key = _refuse
    assert compiled.encode(event, key_id=7, value_id=300) == plain.encode(event, key_id=7, value_id=300)


def test_usual_events_are_not_left_to_the_plain_writer(monkeypatch):
    def refuse(*_):
        raise AssertionError("written plainly")

    monkeypatch.setattr(TableCodec, "_plain", refuse)
    columns = tuple(
        Column(name=f"c{i}", type=column, nullable=i != 0)
        for i, column in enumerate([TYPES[Kind.INT64], TYPES[Kind.STRING], TYPES[Kind.DECIMAL], TYPES[Kind.TIMESTAMP]])
    )
    row = (b"1", b"some text", b"0.50", None)
    for identity, image in ((ReplicaIdentity.DEFAULT, KeyImage((b"1",))), (ReplicaIdentity.FULL, FullImage(row))):
        table = TableSchema(id=TableId("public", "orders"), columns=columns, key=(0,), identity=identity)
        codec = TableCodec(table, "shop.public.orders", prefix="shop")
        for change in (Read(row), Create(row), Update(None, row), Delete(image), Update(image, row)):
            codec.encode(
                ChangeEvent(transaction=TRANSACTION, table=table, change=change, ordinal=1, table_ordinal=1),
                key_id=1,
                value_id=2,
            )
