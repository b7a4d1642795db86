"""The order of steps that foreign keys accept, events in the source's order, and what dead letters block."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc.core.errors import ProtocolViolationError, TargetSchemaError
from cdc.core.events import (
    Alter,
    Change,
    ChangeEvent,
    Create,
    Delete,
    Drop,
    FullImage,
    KeyImage,
    Transaction,
    Truncate,
    Update,
)
from cdc.core.log import Place
from cdc.core.position import Position
from cdc.core.tables import Column, TableId, TableSchema
from cdc.core.types import ColumnType, Kind
from consumers.plan.letters import INDEX, Letter, Scope, Scopes, index_row, read_index, scopes_of
from consumers.plan.ordering import in_order
from consumers.plan.source_order import halves, units
from consumers.plan.steps import CopyRows, DropTable, Step, TruncateTable, WriteRows

TEXT = ColumnType(kind=Kind.STRING, name="text")
NUMERIC = ColumnType(kind=Kind.VARIABLE_DECIMAL, name="numeric")


def table(name: str, *, key: tuple[int, ...] = (0,), key_type: ColumnType = TEXT) -> TableSchema:
    columns = (Column(name="id", type=key_type, nullable=False), Column(name="a", type=TEXT))
    return TableSchema(id=TableId("public", name), columns=columns, key=key)


A, B, C = (table(name) for name in "abc")


def event(change: Change, *, of: TableSchema = A, lsn: int = 1, ordinal: int = 1) -> ChangeEvent:
    transaction = Transaction(epoch=1, commit_lsn=lsn, xid=lsn, commit_time_us=0, database="shop")
    return ChangeEvent(transaction=transaction, table=of, change=change, ordinal=ordinal, table_ordinal=ordinal)


# Steps


def both(of: TableSchema) -> WriteRows:
    return WriteRows(of, deletes=[(b"1",)], upserts=[(b"2", b"x")])


def said(steps: list[Step]) -> list[str]:
    return [
        f"{'-' if isinstance(step, TruncateTable) or getattr(step, 'deletes', None) else '+'}{step.table.id.name}"
        for step in steps
    ]


REFERENCES = {B.id: frozenset({A.id}), C.id: frozenset({B.id, C.id})}


def test_children_go_first_and_parents_come_first():
    assert said(in_order([both(B), both(C), both(A)], REFERENCES)) == ["-c", "+a", "+b", "+c", "-b", "-a"]


def test_truncates_go_from_children_to_parents():
    assert said(in_order([TruncateTable(A), TruncateTable(B), TruncateTable(C)], REFERENCES)) == ["-c", "-b", "-a"]


def test_rows_that_came_together_come_before_what_goes():
    """A parent's copied rows come first, and what goes of it goes last; a child keeps its order."""
    steps: list[Step] = [CopyRows(A), both(A), CopyRows(B), both(B)]
    ordered = in_order(steps, {B.id: frozenset({A.id})})
    assert [(type(step).__name__, said([step])[0]) for step in ordered] == [
        ("CopyRows", "+a"),
        ("WriteRows", "+a"),
        ("CopyRows", "+b"),
        ("WriteRows", "-b"),
        ("WriteRows", "-a"),
    ]


def test_a_parents_key_that_comes_again_in_another_spelling_goes_first():
    """Else 1.0 is written over 1, and then 1 is deleted: the same row, to the target."""
    parent = table("a", key_type=NUMERIC)
    ordered = in_order([both(B), both(parent)], {B.id: frozenset({parent.id})})
    assert [step for step in ordered if step.table == parent] == [both(parent)]


def test_what_becomes_of_a_table_keeps_its_place():
    insert = WriteRows(B, upserts=[(b"1", b"x")])
    parent = WriteRows(A, upserts=[(b"1", b"x")])
    assert in_order([insert, DropTable(C), insert, parent], REFERENCES) == [insert, DropTable(C), parent, insert]


@given(
    st.lists(st.sampled_from([both(A), both(B), both(C)]), unique_by=lambda step: step.table.id.name),
    st.dictionaries(st.sampled_from([A.id, B.id, C.id]), st.frozensets(st.sampled_from([A.id, B.id, C.id]))),
)
def test_nothing_is_lost_or_doubled_whatever_refers_to_what(steps, references):
    ordered = in_order(steps, references)
    for step in steps:
        own = [each for each in ordered if each.table == step.table]
        assert [key for each in own for key in each.deletes] == step.deletes
        assert [row for each in own for row in each.upserts] == step.upserts


# Events


def test_both_halves_of_a_changed_key_stay_together():
    gone = event(Delete(KeyImage((b"1",)), moved_to=(b"2",)), lsn=2, ordinal=1)
    came = event(Create((b"2", b"x"), moved_from=(b"1",)), lsn=2, ordinal=2)
    first, last = event(Truncate()), event(Create((b"3", b"x")), lsn=2, ordinal=3)
    assert units([last, came, gone, first]) == [(first,), (gone, came), (last,)]


@given(st.lists(st.integers(1, 4), min_size=2, max_size=12))
def test_halves_are_cut_between_transactions_if_there_are_two(lsns):
    todo = units([event(Create((b"%d" % n, b"x")), lsn=lsn, ordinal=n) for n, lsn in enumerate(sorted(lsns))])
    left, right = halves(todo)
    assert [*left, *right] == todo
    assert left
    assert right
    if len(set(lsns)) > 1:
        assert left[-1][0].transaction != right[0][0].transaction


# Letters


@pytest.mark.parametrize(
    ("change", "keys"),
    [
        (Create((b"1", b"x")), [(b"1",)]),
        (Update(FullImage((b"1", b"x")), (b"1", b"y")), [(b"1",)]),
        (Delete(KeyImage((b"1",)), moved_to=(b"2",)), [(b"1",), (b"2",)]),
        (Create((b"2", b"x"), moved_from=(b"1",)), [(b"2",), (b"1",)]),
        (Truncate(), [None]),
        (Drop(), [None]),
    ],
)
def test_what_an_event_concerns(change, keys):
    assert list(scopes_of(event(change))) == [Scope(A.id, key) for key in keys]


def test_a_renamed_table_is_concerned_under_both_names():
    assert set(scopes_of(event(Alter(before=B)))) == {Scope(A.id, None), Scope(B.id, None)}


@pytest.mark.parametrize("of", [table("t", key=()), table("t", key_type=NUMERIC)], ids=["none", "of two spellings"])
def test_without_a_key_that_tells_rows_apart_all_are_concerned(of):
    assert scopes_of(event(Delete(FullImage((b"1.0", b"x"))), of=of)) == (Scope(of.id, None),)


def test_a_table_that_does_not_fit_is_concerned_as_a_whole():
    assert scopes_of(event(Create((b"1", b"x"))), TargetSchemaError("no")) == (Scope(A.id, None),)


def test_keys_wait_for_their_own_and_for_their_table_and_it_for_all_of_them():
    one, two, whole, other = Scope(A.id, (b"1",)), Scope(A.id, (b"2",)), Scope(A.id, None), Scope(B.id, None)
    scopes = Scopes()
    assert not scopes
    scopes.add([one])
    assert [scopes.concern([each]) for each in (one, two, whole, other)] == [True, False, True, False]
    scopes.add([whole])
    assert [scopes.concern([each]) for each in (one, two, whole, other)] == [True, True, True, False]


def test_the_index_is_read_as_it_was_written():
    letters = [
        Letter(
            place=Place("t", 1, 2), position=Position(1, 2, 3), scopes=(Scope(A.id, (b"\xff", b"")), Scope(B.id, None))
        ),
        Letter(place=Place("t", 0, 9), position=Position(2, 2, 3), scopes=(Scope(A.id, None),)),
    ]
    rows = [index_row("it", letter) for letter in letters]
    assert all(len(row) == len(INDEX.columns) for row in rows)
    assert read_index("it", [*rows, index_row("another", letters[0])]) == letters
    with pytest.raises(ProtocolViolationError, match="cdc_letter"):
        read_index("it", [(*rows[0][:-1], b"[1]")])
