"""Blocks of the local log: what is packed comes back."""

from hypothesis import given
from hypothesis import strategies as st

from cdc.core.log import Record, StoredRecord, TopicPartition
from cdc.log.local import blocks as packing
from cdc.log.local.blocks import blocks, packed, unpacked

HEADERS = st.lists(st.tuples(st.text(max_size=3), st.binary(max_size=3)), max_size=2).map(tuple)
FIELDS = st.one_of(st.none(), st.binary(max_size=5))
RECORDS = st.lists(st.builds(Record, st.just("t"), st.just(3), FIELDS, FIELDS, st.just(()) | HEADERS), min_size=1)


@given(RECORDS, st.integers(0, 1 << 40))
def test_what_is_packed_comes_back(records, offset):
    body = packed(records)

    assert unpacked(body, len(records), TopicPartition("t", 3), offset, 1_700_000_000_000) == [
        StoredRecord("t", 3, offset + n, 1_700_000_000_000, record.key, record.value, record.headers)
        for n, record in enumerate(records)
    ]


def test_a_block_is_the_same_on_all_machines():
    record = Record("t", 0, b"k", None, (("h", b"v"),))

    assert packed([record]) == bytes.fromhex("03 01000000 ffffffff 0a000000 6b 0000000168 0000000176")


@given(RECORDS)
def test_pieces_are_all_of_it_in_order(records):
    assert [record for piece in blocks(records) for record in piece] == records


def test_pieces_are_of_a_bounded_size(monkeypatch):
    monkeypatch.setattr(packing, "_BYTES", 1000)
    monkeypatch.setattr(packing, "_RECORDS", 20)
    small = [Record("t", 0, b"k", b"v")] * 50
    large = [Record("t", 0, b"k", b"v" * 300)] * 6

    assert [len(piece) for piece in blocks(small)] == [20, 20, 10]
    assert [len(piece) for piece in blocks(large)] == [3, 3]
    assert [len(piece) for piece in blocks([*small[:5], Record("t", 0, None, b"v" * 5000), *small[:5]])] == [5, 1, 5]
