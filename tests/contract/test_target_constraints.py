"""What every target does: what its constraints refuse."""

from __future__ import annotations

from dataclasses import replace

import pytest
from target_steps import (
    ON_POSTGRESQL,
    ONE,
    ORDERS,
    WITH_TABLES_OF_OTHERS,
    apply,
    at,
    numbered,
    text,
    upserted,
    version,
)

from cdc.core.copy_text import copy_text
from cdc.core.errors import (
    ConstraintError,
    GapError,
)
from cdc.core.events import UNCHANGED, Row
from consumers.plan.steps import AlterTable, CopyRows, Step, TruncateTable, WriteRows

STRICT = version(text("id", nullable=False), text("a"), text("b", nullable=False))


def test_what_is_refused_within_a_savepoint_leaves_the_rest(database, target):
    target.prepare(STRICT)
    fresh = version(text("id", nullable=False), text("a"), name="fresh")
    with target.transaction(log_id="log") as transaction:
        transaction.run([WriteRows(STRICT, upserts=[(b"1", b"x", b"y")])])
        refused = [WriteRows(fresh, upserts=[(b"1", b"x")]), WriteRows(STRICT, upserts=[(b"3", b"z", None)])]
        with pytest.raises(ConstraintError) as raised, transaction.savepoint():
            transaction.run(refused)
        with transaction.savepoint():
            transaction.run([WriteRows(STRICT, upserts=[(b"4", b"v", b"y")]), WriteRows(fresh, upserts=[(b"2", b"x")])])
        transaction.require_constraints()
        with pytest.raises(GapError), transaction.savepoint():
            transaction.run([WriteRows(STRICT, deletes=[(b"1",)]), WriteRows(fresh, partials=[(b"9", UNCHANGED)])])
        transaction.advance({ONE: at(3)})
    assert raised.value.mend
    assert database.rows(STRICT) == [(b"1", b"x", b"y"), (b"4", b"v", b"y")]
    assert database.rows(fresh) == [(b"2", b"x")]
    assert target.read_checkpoint().partitions == {ONE: at(3)}


def test_what_is_left_out_within_a_savepoint_is_counted_once(database):
    with database.opened(start="latest") as target:
        target.prepare(STRICT)
        with target.transaction(log_id="log") as transaction:
            transaction.run([WriteRows(STRICT, partials=[(b"9", b"a", UNCHANGED)])])
            with pytest.raises(ConstraintError), transaction.savepoint():
                transaction.run([WriteRows(STRICT, partials=[(b"8", b"a", UNCHANGED)], upserts=[(b"1", b"a", None)])])
            transaction.run([WriteRows(STRICT, partials=[(b"7", b"a", UNCHANGED)])])
            transaction.advance({ONE: at(1)})
        assert target.left_out() == {STRICT.id: 2}


@pytest.mark.parametrize("database", ["mariadb", "duckdb", "sqlite", "postgresql-18"], indirect=True)
@pytest.mark.parametrize("by_parts", [False, True])
def test_rows_that_are_refused_beside_an_alteration_are_tried_again_in_their_own_places(database, target, by_parts):
    """Also where the alteration, which commits by itself, is done already."""
    before = replace(STRICT, columns=tuple(replace(each, id=n) for n, each in enumerate(STRICT.columns, 1)))
    id_, _, b = before.columns
    after = replace(before, columns=(id_, b, numbered("c", 4)))
    altered = AlterTable(after, before, fills={"c": b"new"})
    upserted(target, (b"1", b"x", b"y"), (b"2", b"x", b"y"), table=before)
    earlier: list[Step] = [WriteRows(before, partials=[(b"1", b"x", b"z")], deletes=[(b"2",)])]
    later: list[Step] = [WriteRows(after, upserts=[(b"3", b"z", b"c")])]
    refused = WriteRows(after, upserts=[(b"4", None, b"c")])
    with target.transaction(log_id="log") as transaction:
        with pytest.raises(ConstraintError), transaction.savepoint():
            transaction.run([*earlier, altered, *later, refused])
        for part in [earlier, [altered], later] if by_parts else [[*earlier, altered, *later]]:
            with transaction.savepoint():
                transaction.run(part)
        transaction.advance({ONE: at(2)})
    assert database.rows(after) == [(b"1", b"z", b"new"), (b"3", b"z", b"c")]


@WITH_TABLES_OF_OTHERS
@pytest.mark.parametrize(
    ("row", "by_others"), [((b"2", b"x", b"y"), True), ((b"2", b"z", b"bad"), False), ((b"2", b"z", None), False)]
)
def test_a_constraint_error_says_whether_other_rows_are_the_reason(database, target, row, by_others):
    database.execute(
        f"CREATE TABLE orders (id {database.key} PRIMARY KEY NOT NULL, a {database.key} UNIQUE,"
        f" b {database.text} NOT NULL, CHECK (b <> 'bad'))"
    )
    upserted(target, (b"1", b"x", b"y"))
    with pytest.raises(ConstraintError) as raised:
        upserted(target, row)
    assert raised.value.by_others is by_others


@ON_POSTGRESQL
def test_deferrable_constraints_wait_for_the_end_of_the_transaction(database, target):
    """Also before a change of a table's shape, which PostgreSQL refuses while something is left to check."""
    database.execute(
        "CREATE TABLE orders (id text PRIMARY KEY, a text REFERENCES orders DEFERRABLE, b text UNIQUE DEFERRABLE)"
    )
    target.prepare(ORDERS)
    wider = version(*ORDERS.columns, text("more"))
    with target.transaction(log_id="log") as transaction:
        transaction.run([WriteRows(ORDERS, upserts=[(b"1", b"2", b"x"), (b"3", None, b"y")])])
        with pytest.raises(ConstraintError, match="orders_a_fkey"), transaction.savepoint():
            transaction.require_constraints()
        transaction.run([WriteRows(ORDERS, upserts=[(b"2", b"1", b"y"), (b"3", None, b"z")])])
        transaction.run([AlterTable(wider, ORDERS)])
        transaction.run([WriteRows(wider, upserts=[(b"3", None, b"z", b"m")])])
        transaction.advance({ONE: at(1)})
    assert [row[0] for row in database.rows(wider)] == [b"1", b"2", b"3"]


@ON_POSTGRESQL
def test_parents_come_before_children_and_go_after_them(database, target):
    database.execute("CREATE TABLE parent (id text PRIMARY KEY, a text)")
    database.execute("CREATE TABLE child (id text PRIMARY KEY, a text REFERENCES parent)")
    parent, child = (version(text("id", nullable=False), text("a"), name=name) for name in ("parent", "child"))
    apply(target, WriteRows(child, upserts=[(b"c", b"p")]), WriteRows(parent, upserts=[(b"p", None)]))
    apply(
        target,
        WriteRows(parent, deletes=[(b"p",)], upserts=[(b"q", None)]),
        WriteRows(child, upserts=[(b"c", b"q")]),
    )
    apply(target, TruncateTable(parent), TruncateTable(child))
    assert database.rows(parent) == database.rows(child) == []


def copied(*rows: Row) -> CopyRows:
    return CopyRows(STRICT, [copy_text(rows)], len(rows))


def test_what_a_first_load_may_not_bring_is_refused_as_ever(database, target):
    apply(target, copied((b"1", b"x", b"y")))
    with pytest.raises(ConstraintError) as said:
        apply(target, copied((b"2", b"x", b"y"), (b"3", b"x", None)), ordinal=2)
    with pytest.raises(ConstraintError) as expected:
        apply(target, WriteRows(STRICT, upserts=[(b"2", b"x", b"y"), (b"3", b"x", None)]), ordinal=2)
    assert str(said.value) == str(expected.value)
    apply(target, copied((b"4", b"x", b"y")), ordinal=2)
    assert database.rows(STRICT) == [(b"1", b"x", b"y"), (b"4", b"x", b"y")]
