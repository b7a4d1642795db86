"""What is planned of events that were only scanned is what is planned of whole ones."""

import pytest
from avro_events import scan
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc.avro.codec import TableCodec
from cdc.avro.decoder import EventDecoder
from cdc.avro.scanned import ScannedEvent
from cdc.core.errors import CdcError, ProtocolViolationError
from cdc.core.events import UNCHANGED, ChangeEvent, Create, Delete, KeyImage, Read, Transaction, Truncate, Update
from cdc.core.log import StoredRecord
from cdc.core.tables import Column, TableId, TableSchema
from cdc.core.types import ColumnType, Kind
from consumers.plan.planner import plan

INT = ColumnType(kind=Kind.INT32, name="integer")
TEXT = ColumnType(kind=Kind.STRING, name="text")
TABLE = TableSchema(
    id=TableId("public", "t"),
    columns=(Column(name="a", type=TEXT), Column(name="id", type=INT, nullable=False), Column(name="b", type=TEXT)),
    key=(1,),
)
CODEC = TableCodec(TABLE, "x.public.t", prefix="x")
TRANSACTION = Transaction(epoch=1, commit_lsn=500, xid=9, commit_time_us=1_700_000_000_123_456, database="x")

keys = st.sampled_from([b"1", b"2", b"3"])
texts = st.sampled_from([None, b"", b"x", b"y"])
rows = st.tuples(texts, keys, texts)
changes = st.one_of(
    st.builds(Read, rows),
    st.builds(Create, rows),
    st.builds(Update, st.none(), rows),
    st.builds(Update, st.none(), st.tuples(texts | st.just(UNCHANGED), keys, texts)),
    st.builds(Delete, st.tuples(keys).map(KeyImage)),
    st.builds(Truncate),
    st.tuples(keys, keys, texts).map(lambda said: moved(*said)),
)


def moved(old, new, text):
    """Both halves of a changed key, the second of which lacks a value."""
    if old == new:
        return [Update(None, (text, new, text))]
    return [Delete(KeyImage((old,)), (new,), awaits_create=True), Create((UNCHANGED, new, text), (old,))]


def event_of(change, ordinal):
    return ChangeEvent(
        transaction=TRANSACTION, table=TABLE, change=change, ordinal=ordinal, table_ordinal=ordinal, lsn=ordinal
    )


DECODER = EventDecoder(CODEC.value_schema)
FIRST = CODEC.encode(event_of(Read((None, b"1", None)), 1), key_id=7, value_id=300)
DECODER.decode(FIRST.key, FIRST.value)


def scanned(event):
    encoded = CODEC.encode(event, key_id=7, value_id=300)
    record = StoredRecord("x.public.t", 0, event.ordinal, 0, encoded.key, encoded.value, encoded.headers)
    return scan(DECODER, record) or DECODER.decode_record(record)


def outcome(events, *, moving):
    try:
        return plan(events, moving=lambda _: moving)
    except CdcError as error:
        return str(error)


@settings(max_examples=500, deadline=None)
@given(st.lists(changes, max_size=12), st.booleans())
def test_plans_are_the_same(made, moving):
    flat = [change for each in made for change in (each if isinstance(each, list) else [each])]
    whole = [event_of(change, ordinal) for ordinal, change in enumerate(flat, start=1)]
    found = [scanned(event) for event in whole]
    assert found == whole
    assert outcome(found, moving=moving) == outcome(whole, moving=moving)


def test_a_damaged_delete_deletes_nothing():
    """Its bytes are read no further once its key is known."""
    encoded = CODEC.encode(event_of(Delete(KeyImage((b"2",))), 3), key_id=7, value_id=300)
    at = encoded.value.index(b"\x02\x00\x04\x00\x00")  # before: no a, the id 2, no b; no after
    damaged = encoded.value[: at + 3] + b"\x00" + encoded.value[at + 3 :]
    record = StoredRecord("x.public.t", 0, 3, 0, encoded.key, damaged, encoded.headers)
    found = scan(DECODER, record)
    assert isinstance(found, ScannedEvent)
    with pytest.raises(ProtocolViolationError, match=r"'x\.public\.t', partition 0, offset 3"):
        plan([found])


def test_most_are_scanned():
    assert isinstance(scanned(event_of(Create((None, b"1", b"x")), 3)), ScannedEvent)


def test_rows_of_a_first_load_are_told_from_others():
    read = [scanned(event_of(Read((None, b"%d" % number, b"x")), number)) for number in range(3)]
    others = [scanned(event_of(change, 9)) for change in (Create((None, b"1", b"x")), Delete(KeyImage((b"7",))))]
    assert [step.loaded for step in plan(read)] == [True]
    assert [step.loaded for step in plan([*read, others[0]])] == [False]
    assert [step.loaded for step in plan([*read, others[1]])] == [True]
    assert [step.loaded for step in plan(others)] == [False]
