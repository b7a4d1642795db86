"""Tables of all kinds of columns, and events of them, for hypothesis."""

from canonical_texts import KINDS
from hypothesis import strategies as st

from cdc.avro.decoder import EventDecoder
from cdc.avro.framing import HEADER_LENGTH
from cdc.avro.scanned import ScannedEvent
from cdc.core.events import (
    UNCHANGED,
    ChangeEvent,
    Commit,
    Create,
    Delete,
    FullImage,
    KeyImage,
    Read,
    SnapshotMark,
    Transaction,
    Truncate,
    Update,
)
from cdc.core.log import StoredRecord
from cdc.core.tables import Column, ReplicaIdentity, TableId, TableSchema
from cdc.core.types import Kind


@st.composite
def tables(draw):
    kinds = draw(st.lists(st.sampled_from(list(Kind)), min_size=1, max_size=6))
    names = st.sampled_from(["id", "Größe", "a b", "1st", "select", "données"])
    columns = tuple(
        Column(name=f"{draw(names)}{i}", type=KINDS[kind][0], nullable=True) for i, kind in enumerate(kinds)
    )
    key = draw(st.permutations(range(len(columns))).map(lambda order: tuple(order[: draw(st.integers(0, 2))])))
    columns = tuple(
        Column(name=column.name, type=column.type, nullable=i not in key) for i, column in enumerate(columns)
    )
    identity = draw(st.sampled_from(ReplicaIdentity))
    return TableSchema(id=TableId("public", "my orders"), columns=columns, key=key, identity=identity)


@st.composite
def rows(draw, table, *, unchanged=False):
    values = []
    for i, column in enumerate(table.columns):
        texts = KINDS[column.type.kind][1]
        if i not in table.key:
            texts |= st.none()
            if unchanged:
                texts |= st.just(UNCHANGED)
        values.append(draw(texts))
    return tuple(values)


@st.composite
def changes(draw, table):
    keys = rows(table).map(lambda row: tuple(row[i] for i in table.key))
    images = rows(table).map(FullImage)
    if table.key:
        images |= keys.map(KeyImage)
    moved = keys if table.key else st.none()
    return draw(
        st.one_of(
            st.builds(Read, rows(table)),
            st.builds(Create, rows(table, unchanged=True), st.none() | moved),
            st.builds(Update, st.none() | images, rows(table, unchanged=True)),
            st.builds(Delete, images, st.none() | moved, awaits_create=st.booleans()),
            st.just(Truncate()),
        )
    )


lsns = st.integers(0, 2**63 - 1)
transactions = st.builds(
    Transaction,
    epoch=st.integers(1, 9),
    commit_lsn=lsns,
    xid=st.none() | st.integers(3, 2**32),
    commit_time_us=st.integers(-(10**15), 4 * 10**15),
    database=st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    origin=st.none() | st.just("upstream"),
    origin_lsn=st.none() | lsns,
)


@st.composite
def events(draw):
    table = draw(tables())
    return ChangeEvent(
        transaction=draw(transactions),
        table=table,
        change=draw(changes(table)),
        ordinal=draw(st.integers(1, 2**40)),
        table_ordinal=draw(st.integers(1, 2**40)),
        lsn=draw(st.none() | lsns),
        captured_us=draw(st.integers(0, 4 * 10**15)),
        snapshot=draw(st.sampled_from(SnapshotMark)),
    )


@st.composite
def commits(draw):
    transaction = Transaction(
        epoch=draw(st.integers(0, 300)),
        commit_lsn=draw(st.integers(0, 2**62)),
        xid=draw(st.none() | st.integers(1, 2**32)),
        commit_time_us=draw(st.integers(0, 4 * 10**15)),
        database="shop",
    )
    names = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
    counts = st.dictionaries(st.builds(TableId, names, st.sampled_from(["a", "b"])), st.integers(0, 10**6), max_size=3)
    return Commit(
        transaction,
        end_lsn=draw(st.integers(0, 2**62)),
        last_ordinal=draw(st.integers(0, 2**40)),
        event_counts=draw(counts),
    )


def scan(decoder: EventDecoder, record: StoredRecord) -> ScannedEvent | None:
    """The record's event, if it is a usual one."""
    found = decoder.scan([record], 0, (record.value or b"")[:HEADER_LENGTH])
    return found[0] if found else None
