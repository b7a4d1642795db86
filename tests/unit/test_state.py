"""The state topic: what capture writes is what the next capture, and every applier, reads."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc.core.errors import ProtocolViolationError
from cdc.core.log import Record, StoredRecord
from cdc.core.position import Position
from cdc.core.state import (
    LoadState,
    LogState,
    SourceState,
    TableState,
    load_record,
    log_record,
    read_state,
    recorded_record,
    source_record,
    table_record,
)
from cdc.core.tables import TableId

TOPIC = "shop-cdc-state"
SOURCE = SourceState(epoch=2, system_id="7301", timeline=3, database="shop", slot="cdc", phase="loading")

WHOLE = {name: getattr(SOURCE, name) for name in SourceState.__slots__}


def stored(record: Record, offset: int = 0) -> StoredRecord:
    return StoredRecord(record.topic, record.partition, offset, 0, record.key, record.value, record.headers)


def raw(key: bytes | None, value: bytes | None) -> StoredRecord:
    return StoredRecord(TOPIC, 0, 17, 0, key, value, ())


names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=8)
lsns = st.integers(0, 2**64 - 1)
tables = st.builds(
    TableState,
    table=st.builds(TableId, names, names),
    topic=names,
    partitions=st.integers(1, 1000),
    truncated=st.none() | st.builds(Position, st.integers(0, 9), lsns, st.integers(0, 2**63)),
)
sources = st.builds(
    SourceState,
    epoch=st.integers(1, 99),
    system_id=st.integers(0, 2**64 - 1).map(str),
    timeline=st.integers(1, 2**32 - 1),
    database=names,
    slot=names,
    phase=st.sampled_from(["creating", "loading", "streaming"]),
)

loads = st.builds(
    LoadState,
    epoch=st.integers(1, 99),
    commit_lsn=lsns,
    begins=st.dictionaries(names, st.lists(st.integers(0, 2**63)).map(tuple), max_size=3),
)


@given(
    log_id=names,
    source=sources,
    load=loads,
    recorded=lsns,
    states=st.lists(tables, unique_by=lambda state: state.topic),
)
def test_what_was_written_is_read(
    log_id: str, source: SourceState, load: LoadState, recorded: int, states: list[TableState]
) -> None:
    records = [
        log_record(TOPIC, log_id),
        source_record(TOPIC, source),
        load_record(TOPIC, load),
        recorded_record(TOPIC, recorded),
        *(table_record(TOPIC, state) for state in states),
    ]

    assert read_state(stored(record, offset) for offset, record in enumerate(records)) == LogState(
        log_id=log_id,
        source=source,
        load=load,
        recorded_lsn=recorded,
        tables={state.topic: state for state in states},
    )


def test_the_last_record_of_a_key_counts_and_keys_tell_tables_apart() -> None:
    """Compaction may leave any number of older records."""
    table = TableState(table=TableId("public", "a"), topic="shop.public.a", partitions=4)
    truncated = TableState(
        table=table.table, topic=table.topic, partitions=table.partitions, truncated=Position(1, 0x16_B374D848, 3)
    )
    other = TableState(table=TableId("public", "b:c"), topic="shop.public.b:c", partitions=1)
    records = [
        table_record(TOPIC, table),
        recorded_record(TOPIC, 5),
        table_record(TOPIC, other),
        table_record(TOPIC, truncated),
        recorded_record(TOPIC, 9),
    ]

    state = read_state(map(stored, records))

    assert state.tables == {table.topic: truncated, other.topic: other}
    assert state.recorded_lsn == 9
    assert len({record.key for record in records}) == 3


def test_records_are_compactable_json_in_the_only_partition() -> None:
    record = recorded_record(TOPIC, 0x16_B374D848)
    assert (record.topic, record.partition, record.key) == (TOPIC, 0, b"recorded")
    assert record.value is not None
    assert json.loads(record.value) == {"lsn": "16/B374D848"}


def test_an_empty_topic_is_an_empty_state() -> None:
    assert read_state([]) == LogState()


@pytest.mark.parametrize(
    "record",
    [
        raw(b"from-a-newer-version:x", b'{"a": 1}'),
        raw(b"recorded", None),
        raw(None, b"{}"),
    ],
)
def test_what_is_not_ours_to_read_is_left_alone(record: StoredRecord) -> None:
    before = read_state([stored(source_record(TOPIC, SOURCE))])
    assert before.with_record(record) == before


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (b"log", b""),
        (b"log", b"not json"),
        (b"log", b"\xff\xfe"),
        (b"log", b"{}"),
        (b"log", b"[]"),
        (b"source", b'{"epoch": 1}'),
        (b"source", b'{"unknown": 1}'),
        (b"source", json.dumps(WHOLE | {"phase": "resting"}).encode()),
        (b"source", json.dumps(WHOLE | {"epoch": None}).encode()),
        (b"load", b'{"epoch": 1, "lsn": "0/1"}'),
        (b"load", b'{"epoch": 1, "lsn": "0/1", "begins": 7}'),
        (b"load", b'{"epoch": 1, "lsn": "0/1", "begins": {"t": ["many"]}}'),
        (b"recorded", b'{"lsn": "nonsense"}'),
        (b"recorded", b'{"lsn": 5}'),
        (b"recorded", b"null"),
        (b"table:t", b'{"schema": "s", "table": "t", "partitions": "many", "truncated": null}'),
        (b"table:t", b'{"schema": "s", "table": "t", "partitions": 1, "truncated": "1:2"}'),
        (b"table:t", b'{"schema": "s", "table": "t", "partitions": 1, "truncated": 7}'),
        (b"\xff", b"{}"),
    ],
)
def test_a_damaged_record_is_named_and_never_guessed(key: bytes, value: bytes) -> None:
    with pytest.raises(ProtocolViolationError, match=rf"{TOPIC}, offset 17"):
        LogState().with_record(raw(key, value))
