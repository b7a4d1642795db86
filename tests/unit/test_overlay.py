"""A table as a snapshot saw it, and what was changed after it, are the table."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from cdc.core.events import UNCHANGED, Change, Create, Delete, FullImage, KeyImage, OldImage, Row, Truncate, Update
from cdc.core.tables import Column, ReplicaIdentity, TableId, TableSchema
from cdc.core.types import ColumnType, Kind
from cdc.sources.postgres.overlay import merged
from cdc.sources.postgres.snapshots import Snapshot

TEXT = ColumnType(kind=Kind.STRING, name="text")
COLUMNS = tuple(Column(name=name, type=TEXT) for name in ("id", "a", "large"))
KEYED = TableSchema(id=TableId("public", "t"), columns=COLUMNS, key=(0,))
KEYLESS = TableSchema(id=TableId("public", "t"), columns=COLUMNS, key=(), identity=ReplicaIdentity.FULL)
KEYS = [b"1", b"2", b"3"]
VALUES = st.sampled_from([b"x", b"y", None])

OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["insert", "update", "move", "delete", "truncate"]), st.sampled_from(KEYS),
              st.sampled_from(KEYS), VALUES, VALUES, st.booleans()),
    max_size=25,
)  # fmt: skip


def old(row: Row, *, full: bool) -> OldImage:
    return FullImage(row) if full else KeyImage((row[0],))  # type: ignore[arg-type]


def run(operations: list[tuple], *, full: bool) -> list[tuple[dict[bytes, Row], list[Change]]]:
    """After each operation: the rows, and the events that it made, as the assembler makes them."""
    rows: dict[bytes, Row] = {key: (key, b"x", b"large") for key in KEYS[:2]}
    history: list[tuple[dict[bytes, Row], list[Change]]] = [(dict(rows), [])]
    for kind, key, other, a, large, same in operations:
        events: list[Change] = []
        if kind == "insert" and key not in rows:
            rows[key] = (key, a, large)
            events = [Create(rows[key])]
        elif kind == "truncate":
            rows.clear()
            events = [Truncate()]
        elif kind == "delete" and key in rows:
            events = [Delete(old(rows.pop(key), full=full))]
        elif kind in {"update", "move"} and key in rows and (kind == "update" or other not in rows):
            before, new_key = rows.pop(key), key if kind == "update" else other
            now: Row = (new_key, a, before[2] if same else large)
            sent = (new_key, a, UNCHANGED) if same and before[2] is not None and not full else now
            rows[new_key] = now
            if new_key == key:
                events = [Update(old(before, full=full) if full else None, sent)]
            else:
                waits = UNCHANGED in sent
                events = [
                    Delete(old(before, full=full), moved_to=(new_key,), awaits_create=waits),
                    Create(sent, moved_from=(key,)),
                ]
        history.append((dict(rows), events))
    return history


@settings(max_examples=300)
@given(OPERATIONS, st.integers(0, 25), st.booleans())
def test_rows_seen_and_changes_after_are_the_table(operations, seen, full):
    history = run(operations, full=full)
    seen %= len(history)
    changes = [change for _, events in history[seen + 1 :] for change in events]
    found = [read.after for read in merged(KEYED, history[seen][0].values(), changes)]
    assert sorted(found, key=repr) == sorted(history[-1][0].values(), key=repr)


@given(OPERATIONS, st.integers(0, 25))
def test_without_a_key_copies_are_counted(operations, seen):
    history = run([each for each in operations if each[0] != "move"], full=True)
    seen %= len(history)
    # The key is left out of the rows, so that many are equal.
    bare = [[_bare(change) for change in events] for _, events in history]
    rows = [(b"", *row[1:]) for row in history[seen][0].values()]
    found = [read.after for read in merged(KEYLESS, rows, [change for events in bare[seen + 1 :] for change in events])]
    assert sorted(found, key=repr) == sorted(((b"", *row[1:]) for row in history[-1][0].values()), key=repr)


def _bare(change: Change) -> Change:
    match change:
        case Create(after):
            return Create((b"", *after[1:]))
        case Update(FullImage(before), after):
            return Update(FullImage((b"", *before[1:])), (b"", *after[1:]))
        case Delete(FullImage(before)):
            return Delete(FullImage((b"", *before[1:])))
    return change


def test_a_snapshot_sees_by_the_low_bits_of_xids():
    snapshot = Snapshot.parse("4294967290:4294967300:4294967292,4294967298")
    assert [snapshot.sees(xid % (1 << 32)) for xid in range(4294967288, 4294967302)] == [
        True, True, True, True, False, True, True, True, True, True, False, True, False, False
    ]  # fmt: skip


def test_a_row_that_moved_and_changed_keeps_the_large_value_of_where_it_was():
    changes = [
        Delete(KeyImage((b"1",)), moved_to=(b"3",), awaits_create=True),
        Create((b"3", b"x", UNCHANGED), moved_from=(b"1",)),
        Update(None, (b"3", b"y", UNCHANGED)),
    ]
    assert [read.after for read in merged(KEYED, [(b"1", b"x", b"large")], changes)] == [(b"3", b"y", b"large")]
