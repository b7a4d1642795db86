"""A plan, applied to a model of a table, has the effect of its events one by one."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc.core.copy_text import copy_text
from cdc.core.errors import FidelityError, GapError, ProtocolViolationError
from cdc.core.events import (
    UNCHANGED,
    UNKNOWN_KEY,
    Alter,
    Change,
    ChangeEvent,
    Create,
    Delete,
    Drop,
    FullImage,
    KeyImage,
    Read,
    Row,
    Transaction,
    Truncate,
    Update,
)
from cdc.core.position import Position
from cdc.core.runs import ReadRun
from cdc.core.tables import Column, TableId, TableSchema
from cdc.core.types import ColumnType, Kind
from consumers.plan.planner import plan
from consumers.plan.steps import AlterTable, CopyRows, DropTable, MoveRow, Step, TruncateTable, WriteRows

TEXT = ColumnType(kind=Kind.STRING, name="text")
TRANSACTION = Transaction(epoch=1, commit_lsn=1, xid=1, commit_time_us=0, database="shop")


def _version(name: str, *columns: str, key: tuple[int, ...]) -> TableSchema:
    return TableSchema(
        id=TableId("public", name), columns=tuple(Column(name=column, type=TEXT) for column in columns), key=key
    )


KEYED = _version("keyed", "id", "a", "b", key=(0,))
REVERSED = _version("reversed", "a", "one", "two", key=(2, 1))
KEYLESS = _version("keyless", "a", "b", key=())


def _events(*changes: tuple[TableSchema, Change] | Change) -> list[ChangeEvent]:
    pairs = [change if isinstance(change, tuple) else (KEYED, change) for change in changes]
    return [
        ChangeEvent(transaction=TRANSACTION, table=table, change=change, ordinal=at, table_ordinal=at)
        for at, (table, change) in enumerate(pairs, 1)
    ]


def _only_step(*changes: tuple[TableSchema, Change] | Change) -> WriteRows:
    (step,) = plan(_events(*changes))
    assert isinstance(step, WriteRows)
    return step


def test_nothing_to_do():
    assert plan([]) == []


def test_the_last_whole_row_of_a_key_wins():
    step = _only_step(Read((b"1", b"x", b"y")), Create((b"2", b"x", None)), Update(None, (b"1", b"z", b"z")))
    assert step == WriteRows(KEYED, upserts=[(b"1", b"z", b"z"), (b"2", b"x", None)])


def test_a_partial_row_is_merged_into_the_whole_one_before_it():
    step = _only_step(Create((b"1", b"x", b"toast")), Update(None, (b"1", b"z", UNCHANGED)))
    assert step == WriteRows(KEYED, upserts=[(b"1", b"z", b"toast")])


def test_partial_rows_are_merged_and_stay_partial():
    step = _only_step(Update(None, (b"1", b"x", UNCHANGED)), Update(None, (b"1", UNCHANGED, UNCHANGED)))
    assert step == WriteRows(KEYED, partials=[(b"1", b"x", UNCHANGED)])


def test_two_partial_rows_can_make_a_whole_one():
    step = _only_step(Update(None, (b"1", b"x", UNCHANGED)), Update(None, (b"1", UNCHANGED, b"y")))
    assert step == WriteRows(KEYED, upserts=[(b"1", b"x", b"y")])


def test_null_is_not_unchanged():
    step = _only_step(Create((b"1", b"x", b"y")), Update(None, (b"1", None, UNCHANGED)))
    assert step.upserts == [(b"1", None, b"y")]


def test_a_full_old_image_fills_what_did_not_change():
    step = _only_step(Update(FullImage((b"1", b"a", b"toast")), (b"1", b"z", UNCHANGED)))
    assert step == WriteRows(KEYED, upserts=[(b"1", b"z", b"toast")])


def test_a_deleted_key_is_only_deleted():
    step = _only_step(Create((b"1", b"x", b"y")), Update(None, (b"1", b"x", UNCHANGED)), Delete(KeyImage((b"1",))))
    assert step == WriteRows(KEYED, deletes=[(b"1",)])


def test_a_key_created_after_its_delete_is_only_written():
    step = _only_step(Delete(FullImage((b"1", b"x", b"y"))), Create((b"1", b"n", b"n")))
    assert step == WriteRows(KEYED, upserts=[(b"1", b"n", b"n")])


def test_a_partial_row_after_a_delete_is_a_gap():
    with pytest.raises(GapError, match=r"public\.keyed"):
        plan(_events(Delete(KeyImage((b"1",))), Update(None, (b"1", b"x", UNCHANGED))))


def test_keys_follow_the_order_of_the_key_not_of_the_columns():
    step = _only_step((REVERSED, Create((b"x", b"1", b"2"))), (REVERSED, Delete(KeyImage((b"2", b"1")))))
    assert step == WriteRows(REVERSED, deletes=[(b"2", b"1")])


def test_a_moved_row_that_is_whole_is_a_delete_and_an_upsert():
    moved = (Delete(KeyImage((b"1",)), moved_to=(b"2",)), Create((b"2", b"x", b"y"), moved_from=(b"1",)))
    assert _only_step(*moved) == WriteRows(KEYED, deletes=[(b"1",)], upserts=[(b"2", b"x", b"y")])


MOVED = (Delete(KeyImage((b"1",)), moved_to=(b"2",)), Create((b"2", b"x", UNCHANGED), moved_from=(b"1",)))


def test_a_moved_row_with_unchanged_values_is_moved_after_all_before_it():
    steps = plan(
        _events(Update(None, (b"1", b"p", UNCHANGED)), Delete(KeyImage((b"2",))), *MOVED, Create((b"1", b"n", b"n")))
    )
    assert steps == [
        WriteRows(KEYED, deletes=[(b"2",)], partials=[(b"1", b"p", UNCHANGED)]),
        MoveRow(KEYED, (b"1",), (b"2", b"x", UNCHANGED)),
        WriteRows(KEYED, upserts=[(b"1", b"n", b"n")]),
    ]


def test_a_move_alone_needs_no_other_step():
    assert plan(_events(*MOVED)) == [MoveRow(KEYED, (b"1",), (b"2", b"x", UNCHANGED))]


def test_a_move_whose_keys_the_log_does_not_say():
    """As Debezium's connector writes it: each half knows of the other, but not where it is."""
    delete = Delete(KeyImage((b"1",)), moved_to=UNKNOWN_KEY, awaits_create=True)
    assert plan(_events(delete, Create((b"2", b"x", UNCHANGED), moved_from=UNKNOWN_KEY))) == [
        MoveRow(KEYED, (b"1",), (b"2", b"x", UNCHANGED))
    ]
    assert _only_step(delete, Create((b"2", b"x", b"y"), moved_from=UNKNOWN_KEY)) == WriteRows(
        KEYED, deletes=[(b"1",)], upserts=[(b"2", b"x", b"y")]
    )


def test_a_moved_row_is_filled_from_what_the_batch_knows_of_it():
    step = _only_step(Create((b"1", b"a", b"toast")), *MOVED)
    assert step == WriteRows(KEYED, deletes=[(b"1",)], upserts=[(b"2", b"x", b"toast")])


def test_a_move_without_its_first_half_is_refused():
    with pytest.raises(ProtocolViolationError, match=r"public\.keyed"):
        plan(_events(MOVED[0], Create((b"3", b"x", b"y")), MOVED[1]))


def test_a_move_of_a_deleted_row_is_a_gap():
    with pytest.raises(GapError):
        plan(_events(Delete(KeyImage((b"1",))), *MOVED))


def test_unchanged_where_nothing_can_fill_it_is_refused():
    for change in (Create((b"1", b"x", UNCHANGED)), Read((b"1", b"x", UNCHANGED)), Update(None, (None, b"x", b"y"))):
        with pytest.raises(ProtocolViolationError):
            plan(_events(change))
    with pytest.raises(ProtocolViolationError):
        plan(_events((KEYLESS, Create((b"1", UNCHANGED)))))


def test_a_truncate_drops_what_the_batch_did_to_its_table_only():
    steps = plan(
        _events(
            (KEYLESS, Create((b"x", None))),
            *MOVED,
            Create((b"1", b"x", b"y")),
            Truncate(),
            Create((b"3", b"x", b"y")),
            (KEYLESS, Create((b"x", None))),
        )
    )
    assert steps == [
        WriteRows(KEYLESS, added=[(b"x", None)] * 2),
        TruncateTable(KEYED),
        WriteRows(KEYED, upserts=[(b"3", b"x", b"y")]),
    ]


def test_a_truncate_of_a_table_without_key():
    steps = plan(_events((KEYLESS, Create((b"x", b"x"))), (KEYLESS, Truncate()), (KEYLESS, Create((b"y", b"y")))))
    assert steps == [TruncateTable(KEYLESS), WriteRows(KEYLESS, added=[(b"y", b"y")])]


def test_another_version_of_a_table_ends_the_step():
    newer = _version("keyed", "id", "a", key=(0,))
    equal = _version("keyed", "id", "a", "b", key=(0,))
    steps = plan(
        _events(Create((b"1", b"x", b"y")), (equal, Create((b"2", b"x", b"y"))), (newer, Create((b"1", b"z"))))
    )
    assert steps == [
        WriteRows(KEYED, upserts=[(b"1", b"x", b"y"), (b"2", b"x", b"y")]),
        WriteRows(newer, upserts=[(b"1", b"z")]),
    ]


def test_rows_without_key_are_counted():
    a, b, c = (b"a", None), (b"b", None), (b"c", None)
    step = _only_step(
        (KEYLESS, Create(a)),
        (KEYLESS, Create(a)),
        (KEYLESS, Delete(FullImage(b))),
        (KEYLESS, Update(FullImage(a), (b"c", UNCHANGED))),
        (KEYLESS, Delete(FullImage(c))),
    )
    assert step == WriteRows(KEYLESS, added=[a], removed=[b])


def test_rows_without_key_that_cancel_out_need_no_step():
    row = (b"a", None)
    assert plan(_events((KEYLESS, Delete(FullImage(row))), (KEYLESS, Create(row)))) == []


@pytest.mark.parametrize("change", [Update(None, (b"a", b"b")), Delete(KeyImage(()))])
def test_rows_without_key_need_the_whole_old_row(change):
    with pytest.raises(FidelityError, match=r"public\.keyless") as raised:
        plan(_events((KEYLESS, change)))
    assert "REPLICA IDENTITY FULL" in str(raised.value.mend)


# The model: what a source does to its tables, the events that it sends, and what a target must be in the end.

Keyed = dict[tuple[bytes, ...], list[bytes]]
_value = st.sampled_from([b"x", b"y", b"z"])
_operation = st.tuples(
    st.sampled_from(["write", "write", "touch", "delete", "move", "truncate", "add", "remove", "change", "widen"]),
    st.sampled_from([b"1", b"2", b"3"]),
    st.sampled_from([b"1", b"2", b"3"]),
    _value,
    _value,
    st.booleans(),
)


class _Source:
    """Rows of one table with a key and one without, and the events of all that happened to them."""

    def __init__(self, keyed: Keyed) -> None:
        self.keyed = {key: list(row) for key, row in keyed.items()}
        self.keyless: Counter[Row] = Counter({(b"k", b"k"): 2})
        self.version = KEYED
        self.changes: list[tuple[TableSchema, Change]] = []

    def run(self, kind: str, key: bytes, other: bytes, a: bytes, b: bytes, sent: bool) -> None:
        old = self.keyed.get((key,))
        match kind:
            case "write":
                self.keyed[key,] = [key, a, b]
                row = (key, a, b)
                self._say(Create(row) if old is None else Update(FullImage(tuple(old)) if sent else None, row))
            case "touch" if old:
                old[1] = a
                self._say(Update(None, (key, a, old[2] if sent else UNCHANGED)))
            case "delete" if old:
                del self.keyed[key,]
                self._say(Delete(FullImage(tuple(old)) if sent else KeyImage((key,))))
            case "move" if old and (other,) not in self.keyed:
                del self.keyed[key,]
                self.keyed[other,] = [other, a, old[2]]
                self._say(Delete(KeyImage((key,)), moved_to=(other,)))
                self._say(Create((other, a, old[2] if sent else UNCHANGED), moved_from=(key,)))
            case "truncate" if a == b == b"x":
                (self.keyed if sent else self.keyless).clear()
                self.changes.append((self.version if sent else KEYLESS, Truncate()))
            case "add":
                self.keyless[a, b] += 1
                self.changes.append((KEYLESS, Create((a, b))))
            case "remove" if self.keyless[a, b]:
                self.keyless[a, b] -= 1
                self.changes.append((KEYLESS, Delete(FullImage((a, b)))))
            case "change" if self.keyless[a, b]:
                self.keyless[a, b] -= 1
                self.keyless[b, b] += 1
                self.changes.append((KEYLESS, Update(FullImage((a, b)), (b, UNCHANGED))))
            case "widen":
                self.version = TableSchema(
                    id=KEYED.id, columns=KEYED.columns, key=KEYED.key, identity=type(KEYED.identity).FULL
                )
            case _:
                pass

    def _say(self, change: Change) -> None:
        self.changes.append((self.version, change))


class _Target:
    def __init__(self, keyed: Keyed) -> None:
        self.keyed = {key: list(row) for key, row in keyed.items()}
        self.keyless: Counter[Row] = Counter({(b"k", b"k"): 2})

    def run(self, step: Step) -> None:
        match step:
            case TruncateTable(version):
                (self.keyed if version.key else self.keyless).clear()
            case MoveRow(_, old_key, row):
                assert (row[0],) not in self.keyed
                self._put(row, self.keyed.pop(old_key))
            case WriteRows():
                self._write(step)

    def _write(self, step: WriteRows) -> None:
        keys = [*step.deletes, *((row[0],) for row in step.upserts), *((row[0],) for row in step.partials)]
        assert len(set(keys)) == len(keys)
        for key in step.deletes:
            self.keyed.pop(key, None)
        for row in step.upserts:
            assert UNCHANGED not in row
            self._put(row, [])
        for row in step.partials:
            assert UNCHANGED in row
            self._put(row, self.keyed[row[0],])
        self.keyless.subtract(step.removed)
        assert not [row for row, copies in self.keyless.items() if copies < 0]
        self.keyless.update(step.added)

    def _put(self, row: Row, known: list[bytes]) -> None:
        self.keyed[row[0],] = [known[at] if value is UNCHANGED else value for at, value in enumerate(row)]


@given(
    st.dictionaries(st.sampled_from([(b"1",), (b"2",)]), _value), st.lists(_operation, max_size=40), st.integers(1, 40)
)
def test_a_plan_does_what_its_events_do_one_by_one(start, operations, batch):
    keyed: Keyed = {key: [key[0], value, b"toast"] for key, value in start.items()}
    source, target = _Source(keyed), _Target(keyed)
    for operation in operations:
        source.run(*operation)
    for events in _batches(_events(*source.changes), batch):
        for step in plan(events):
            target.run(step)
    assert target.keyed == source.keyed
    assert +target.keyless == +source.keyless


def _batches(events: list[ChangeEvent], size: int) -> list[list[ChangeEvent]]:
    """Cut anywhere but inside a changed key."""
    batches: list[list[ChangeEvent]] = [[]]
    for event in events:
        moved = isinstance(event.change, Create) and event.change.moved_from is not None
        if len(batches[-1]) >= size and not moved:
            batches.append([])
        batches[-1].append(event)
    return batches


def _run(version: TableSchema, *rows: Row, last: int) -> ReadRun:
    return ReadRun(
        transaction=TRANSACTION,
        table=version,
        change=Read(rows[0]),
        ordinal=last,
        table_ordinal=last,
        text=copy_text(rows),
        count=len(rows),
    )


def test_rows_of_a_first_load_that_came_together_stay_so():
    a, b, c = [(b"%d" % number, b"x", None) for number in range(3)]
    (step,) = plan([_run(KEYED, a, b, last=2), _run(KEYED, c, last=3)])
    assert step == CopyRows(KEYED, [copy_text([a, b]), copy_text([c])], 3)
    assert step.written() == WriteRows(KEYED, upserts=[a, b, c])


def test_rows_that_came_together_stand_where_they_do_among_others():
    one, two, other = (b"1", b"x", None), (b"2", b"x", None), (b"3", b"y", None)
    first, last = _events(Read(other), Delete(KeyImage((b"1",))))
    assert plan([first, _run(KEYED, one, two, last=2), last, _run(KEYED, two, last=9)]) == [
        WriteRows(KEYED, upserts=[other]),
        CopyRows(KEYED, [copy_text([one, two])], 2),
        WriteRows(KEYED, deletes=[(b"1",)]),
        CopyRows(KEYED, [copy_text([two])], 1),
    ]


def test_rows_that_came_together_of_another_version_are_another_step():
    wider = _version("keyed", "id", "a", "b", "c", key=(0,))
    one, two = (b"1", b"x", None), (b"2", b"x", None, b"y")
    assert plan([_run(KEYED, one, last=1), _run(wider, two, last=2)]) == [
        CopyRows(KEYED, [copy_text([one])], 1),
        CopyRows(wider, [copy_text([two])], 1),
    ]


def test_rows_without_key_that_came_together_are_counted():
    rows = [(b"x", b"y"), (b"x", b"y"), (b"x", None)]
    (step,) = plan([_run(KEYLESS, *rows, last=3), *_events((KEYLESS, Delete(FullImage(rows[0]))))])
    assert step == WriteRows(KEYLESS, added=[(b"x", b"y"), (b"x", None)])


def test_what_becomes_of_a_table_is_told_from_what_became_of_it_before():
    """A script that runs again makes the same of the same tables."""
    again = (KEYED, Alter(before=KEYLESS)), (KEYED, Drop())
    assert plan(_events(*again, *again)) == [
        AlterTable(KEYED, KEYLESS, position=Position(1, 1, 1)),
        DropTable(KEYED, Position(1, 1, 2)),
        AlterTable(KEYED, KEYLESS, position=Position(1, 1, 3)),
        DropTable(KEYED, Position(1, 1, 4)),
    ]
