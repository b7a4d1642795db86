"""What every target does: writes."""

from __future__ import annotations

from contextlib import suppress

import pytest
from target_steps import KEYLESS, ONE, ORDERS, advance, apply, at, text, upserted, version

from cdc.core.copy_text import copy_text
from cdc.core.errors import FidelityError, GapError
from cdc.core.events import UNCHANGED, Row
from consumers.plan.letters import INDEX
from consumers.plan.steps import CopyRows, MoveRow, TruncateTable, WriteRows


def test_upserts_insert_and_replace(database, target):
    upserted(target, (b"1", b"x", b"y"), (b"2", b"x", None))
    upserted(target, (b"2", b"", b"z"), (b"3", None, None))
    assert database.rows(ORDERS) == [(b"1", b"x", b"y"), (b"2", b"", b"z"), (b"3", None, None)]


@pytest.mark.parametrize("name", ["excluded", "cdc_row", "values"])
def test_rows_are_replaced_whatever_the_table_is_called(database, target, name):
    """To SQLite, `excluded` was the row that is there: it stayed as it was."""
    table = version(text("id", nullable=False), text("excluded"), name=name)
    upserted(target, (b"1", b"old"), (b"2", b"old"), table=table)
    upserted(target, (b"2", b"new"), (b"3", None), table=table)
    assert database.rows(table) == [(b"1", b"old"), (b"2", b"new"), (b"3", None)]


def test_deletes_remove_what_is_there(database, target):
    upserted(target, (b"1", b"x", b"y"), (b"2", b"x", b"y"))
    apply(target, WriteRows(ORDERS, deletes=[(b"1",), (b"9",)]))
    assert database.rows(ORDERS) == [(b"2", b"x", b"y")]


def test_partials_leave_unchanged_values_alone(database, target):
    upserted(target, (b"1", b"x", b"y"), (b"2", b"x", b"y"), (b"3", b"x", b"y"))
    partials: list[Row] = [(b"1", b"n", UNCHANGED), (b"2", UNCHANGED, None), (b"3", UNCHANGED, UNCHANGED)]
    apply(target, WriteRows(ORDERS, partials=partials))
    assert database.rows(ORDERS) == [(b"1", b"n", b"y"), (b"2", b"x", None), (b"3", b"x", b"y")]


@pytest.mark.parametrize("partial", [(b"9", b"n", UNCHANGED), (b"9", UNCHANGED, UNCHANGED)])
def test_a_missing_partial_row_is_a_gap_and_nothing_is_written(database, target, partial):
    upserted(target, (b"1", b"x", b"y"))
    with pytest.raises(GapError, match="orders"):
        apply(target, WriteRows(ORDERS, upserts=[(b"2", b"x", b"y")], partials=[partial]), ordinal=2)
    assert database.rows(ORDERS) == [(b"1", b"x", b"y")]
    assert target.read_checkpoint().partitions == {ONE: at(1)}
    apply(target, WriteRows(ORDERS, deletes=[(b"1",)]), ordinal=2)
    assert database.rows(ORDERS) == []


def test_a_move_keeps_unchanged_values(database, target):
    upserted(target, (b"1", b"x", b"y"), (b"2", b"x", b"z"))
    apply(
        target,
        WriteRows(ORDERS, deletes=[(b"2",)]),
        MoveRow(ORDERS, (b"1",), (b"2", b"n", UNCHANGED)),
        MoveRow(ORDERS, (b"2",), (b"3", None, UNCHANGED)),
        WriteRows(ORDERS, upserts=[(b"1", b"new", b"new")]),
    )
    assert database.rows(ORDERS) == [(b"1", b"new", b"new"), (b"3", None, b"y")]


def test_a_missing_moved_row_is_a_gap(database, target):
    upserted(target, (b"1", b"x", b"y"))
    with pytest.raises(GapError):
        apply(target, MoveRow(ORDERS, (b"8",), (b"9", b"n", UNCHANGED)), ordinal=2)
    assert target.read_checkpoint().partitions == {ONE: at(1)}


def test_a_target_that_began_late_leaves_out_changes_of_rows_that_it_never_had(database):
    with database.opened(start="latest") as target:
        upserted(target, (b"1", b"a", b"b"))
        partials = [(b"1", b"c", UNCHANGED), (b"2", b"c", UNCHANGED), (b"3", UNCHANGED, b"c")]
        moved = MoveRow(ORDERS, (b"4",), (b"5", b"c", UNCHANGED))
        apply(target, WriteRows(ORDERS, upserts=[(b"6", b"d", b"d")], partials=partials), moved)
        apply(target, WriteRows(KEYLESS, added=[(b"a", b"b")]))
        apply(target, WriteRows(KEYLESS, added=[(b"x", b"y")], removed=[(b"a", b"b"), (b"a", b"b"), (b"a", None)]))
        with suppress(ZeroDivisionError), target.transaction(log_id="log") as transaction:
            transaction.run([moved])
            raise ZeroDivisionError  # what is rolled back does not count
        assert target.left_out() == {ORDERS.id: 3, KEYLESS.id: 2}
    assert database.rows(ORDERS) == [(b"1", b"c", b"b"), (b"6", b"d", b"d")]
    assert database.rows(KEYLESS) == [(b"x", b"y")]


def test_truncate_takes_its_place_among_the_steps(database, target):
    upserted(target, (b"1", b"x", b"y"))
    apply(target, TruncateTable(ORDERS), WriteRows(ORDERS, upserts=[(b"2", b"x", b"y")]))
    assert database.rows(ORDERS) == [(b"2", b"x", b"y")]


def test_rows_without_key_are_a_multiset(database, target):
    apply(target, WriteRows(KEYLESS, added=[(b"a", None), (b"a", None), (b"a", None), (b"a", b""), (b"b", b"b")]))
    apply(target, WriteRows(KEYLESS, removed=[(b"a", None), (b"a", None), (b"b", b"b")], added=[(b"c", b"c")]))
    assert database.rows(KEYLESS) == [(b"a", None), (b"a", b""), (b"c", b"c")]


def test_removing_more_copies_than_there_are_is_a_gap(database, target):
    apply(target, WriteRows(KEYLESS, added=[(b"a", None)]))
    with pytest.raises(GapError, match="keyless"):
        apply(target, WriteRows(KEYLESS, removed=[(b"a", None), (b"a", None)]))
    assert database.rows(KEYLESS) == [(b"a", None)]


def test_a_key_of_several_columns_in_its_own_order(database, target):
    table = version(text("x"), text("k1", nullable=False), text("k2", nullable=False), key=(2, 1))
    upserted(target, (b"v", b"1", b"2"), (b"w", b"2", b"1"), table=table)
    apply(target, WriteRows(table, deletes=[(b"2", b"1")], partials=[(b"n", b"2", b"1")]))
    assert database.rows(table) == [(b"n", b"2", b"1")]


def test_a_table_that_is_all_key(database, target):
    table = version(text("one", nullable=False), text("two", nullable=False), key=(0, 1))
    upserted(target, (b"1", b"1"), table=table)
    upserted(target, (b"1", b"1"), (b"1", b"2"), table=table)
    apply(target, WriteRows(table, deletes=[(b"1", b"1")]))
    assert database.rows(table) == [(b"1", b"2")]


def test_text_with_everything_special_to_a_format(database, target):
    values = [
        rb"\N",
        rb"\.",
        b"\\",
        rb"\\N",
        b"tab\there",
        b"line\nend",
        b"line\r\nend\r",
        b"NULL",
        b"",
        b" pad ",
        b"'\"`;--",
        b"%s %(x)s ?1 :x",
        "é \u2028 \U0001f600".encode(),
        b"\x01\x1f\x7f",
    ]
    rows: list[Row] = [(b"%02d" % index, value, value) for index, value in enumerate(values)]
    upserted(target, *rows)
    assert database.rows(ORDERS) == rows
    apply(target, WriteRows(KEYLESS, added=[row[1:] for row in rows]))
    apply(target, WriteRows(KEYLESS, removed=[row[1:] for row in rows]))
    assert database.rows(KEYLESS) == []


def test_all_rows_of_a_table_of_texts(database, target):
    assert target.rows_of(INDEX) == []
    row = (b"it", b"t" * 249, b"0", b"7", b"1:0/1:1", b"[]" * 1000)
    target.prepare(INDEX)
    advance(target, {ONE: at(1)}, WriteRows(INDEX, upserts=[row]))
    assert database.target().rows_of(INDEX) == [row]
    advance(target, {ONE: at(2)}, WriteRows(INDEX, deletes=[row[:4]]))
    assert target.rows_of(INDEX) == []


AWKWARD = [
    (b"1", None, b""),
    (b"2", b"\\N", b"\\."),
    (b"3", b"a\tb\nc\r\\", b"\x08\x0b\x0c"),
    (b"4", "größe".encode(), b"N"),
]


def test_text_of_copy_is_its_rows(database, target):
    apply(target, CopyRows(ORDERS, [copy_text(AWKWARD[:2]), copy_text(AWKWARD[2:])], 4))
    assert database.rows(ORDERS) == AWKWARD


def test_text_of_copy_takes_the_place_of_what_is_there(database, target):
    upserted(target, (b"1", b"x", b"y"), (b"5", b"x", b"y"))
    apply(target, CopyRows(ORDERS, [copy_text(AWKWARD)], 4), ordinal=2)
    apply(target, CopyRows(ORDERS, [copy_text([(b"4", b"z", None)])], 1), ordinal=3)
    assert database.rows(ORDERS) == [*AWKWARD[:3], (b"4", b"z", None), (b"5", b"x", b"y")]


def test_text_of_copy_goes_where_its_place_is_among_others(database, target):
    def copied(*rows):
        return CopyRows(ORDERS, [copy_text(rows)], len(rows))

    apply(
        target,
        copied((b"1", b"a", b"a"), (b"2", b"a", b"a")),
        TruncateTable(ORDERS),
        copied((b"2", b"b", b"b"), (b"3", b"b", b"b"), (b"4", b"b", b"b")),
        WriteRows(ORDERS, upserts=[(b"3", b"c", b"c")], deletes=[(b"4",)]),
        copied((b"3", b"d", b"d"), (b"5", b"d", b"d")),
    )
    assert database.rows(ORDERS) == [(b"2", b"b", b"b"), (b"3", b"d", b"d"), (b"5", b"d", b"d")]


def test_text_of_copy_that_was_rolled_back_was_never_there(database, target):
    rows = copy_text(AWKWARD)
    target.prepare(ORDERS)
    with target.transaction(log_id="log") as transaction:
        with suppress(FidelityError), transaction.savepoint():
            transaction.run([CopyRows(ORDERS, [rows], 4)])
            raise FidelityError("never mind")
        transaction.run([CopyRows(ORDERS, [rows], 4)])
        transaction.advance({ONE: at(1)})
    with suppress(ZeroDivisionError), target.transaction(log_id="log") as transaction:
        transaction.run([TruncateTable(ORDERS), CopyRows(ORDERS, [rows], 4)])
        raise ZeroDivisionError
    apply(target, CopyRows(ORDERS, [rows], 4), ordinal=2)
    assert database.rows(ORDERS) == AWKWARD
