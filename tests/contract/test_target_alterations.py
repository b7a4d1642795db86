"""What every target does: tables get another shape or name, and a kill between any two steps does no harm."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from target_steps import ONE, advance, apply, at, numbered, upserted, version

from cdc.core.errors import (
    TargetSchemaError,
)
from cdc.core.events import UNCHANGED, Row
from cdc.core.position import Position
from cdc.core.tables import TableId, TableSchema
from consumers.plan.steps import AlterTable, DropTable, MoveRow, Step, TruncateTable, WriteRows

HERE = Path(__file__).parent

ALTERING_CHILD = """
import sys
from test_target_alterations import ALTERED
from target_steps import ONE, advance, at
from consumers.targets.open import open_target
from cdc.core.settings import TargetSettings

target = open_target(TargetSettings(name="copy", url=sys.argv[1]))
target.open()
advance(target, {ONE: at(2)}, ALTERED)
"""


FIRST = version(numbered("id", 1, nullable=False), numbered("a", 2), numbered("b", 3))
# Done twice, this would drop what was `a`.
ALTERED = AlterTable(
    version(numbered("id", 1, nullable=False), numbered("b", 2), numbered("c", 4)), FIRST, fills={"c": b"it's \\ new"}
)


@pytest.mark.parametrize(
    ("database", "failpoint"),
    [
        *(("mariadb", f"apply.{step}") for step in ("1-fenced", "2-altered", "2-written", "3-checkpointed")),
        ("mariadb", "apply.4-committed"),
        ("duckdb", "apply.2-written"),
        ("duckdb", "apply.3-checkpointed"),
        ("sqlite", "apply.3-checkpointed"),
        ("postgresql-18", "apply.3-checkpointed"),
    ],
    indirect=["database"],
)
def test_an_alteration_and_its_checkpoint_survive_a_kill(database, failpoint):
    """Where what defines tables commits by itself too."""
    with database.opened() as target:
        upserted(target, (b"1", b"x", b"y"), table=FIRST)
    child = subprocess.run(
        [sys.executable, "-c", ALTERING_CHILD, database.url],
        env=os.environ | {"CDC_FAILPOINT": failpoint, "PYTHONPATH": os.pathsep.join([*sys.path, str(HERE)])},
        check=False,
    )
    assert child.returncode == -signal.SIGKILL
    with database.reopened() as target:
        if target.read_checkpoint().partitions != {ONE: at(2)}:
            assert failpoint != "apply.4-committed"
            advance(target, {ONE: at(2)}, ALTERED)
        assert database.rows(ALTERED.table) == [(b"1", b"x", b"it's \\ new")]
        apply(target, WriteRows(ALTERED.table, partials=[(b"1", UNCHANGED, b"z")]), ordinal=3)
    assert database.rows(ALTERED.table) == [(b"1", b"x", b"z")]


@pytest.mark.parametrize("database", ["mariadb", "duckdb", "sqlite", "postgresql-18"], indirect=True)
def test_rows_before_and_after_an_alteration_in_one_transaction(database, target):
    upserted(target, (b"1", b"x", b"y"), (b"2", b"x", b"y"), (b"3", b"x", b"y"), table=FIRST)
    other = replace(FIRST, id=TableId("public", "other"))
    steps: list[Step] = [
        WriteRows(other, upserts=[(b"1", b"o", b"p")]),
        WriteRows(FIRST, upserts=[(b"1", b"new", b"y"), (b"4", b"four", b"y")], deletes=[(b"2",)]),
        WriteRows(FIRST, partials=[(b"3", b"part", UNCHANGED)]),
        MoveRow(FIRST, (b"4",), (b"5", UNCHANGED, b"z")),
        ALTERED,
        WriteRows(ALTERED.table, upserts=[(b"6", b"six", b"c")], partials=[(b"1", UNCHANGED, b"d")]),
    ]
    advance(target, {ONE: at(2)}, *steps)
    filled = ALTERED.fills["c"]
    assert database.rows(ALTERED.table) == [
        (b"1", b"new", b"d"),
        (b"3", b"part", filled),
        (b"5", b"four", filled),
        (b"6", b"six", b"c"),
    ]
    assert database.rows(other) == [(b"1", b"o", b"p")]


DEFINING_CHILD = ALTERING_CHILD.replace("import ALTERED", "import SWAPPED, REPLACED").replace(
    ", ALTERED)", ", *SWAPPED, *REPLACED)"
)


def renamed(of: TableSchema, name: str) -> TableSchema:
    return replace(of, id=TableId("public", name))


SECOND = renamed(version(numbered("id", 1, nullable=False), numbered("w", 2)), "second")
NEW = renamed(version(numbered("id", 1, nullable=False), numbered("n", 2)), "new")
SWAPPED = [
    AlterTable(renamed(FIRST, "aside"), FIRST),
    AlterTable(renamed(SECOND, "orders"), SECOND),
    AlterTable(renamed(FIRST, "second"), renamed(FIRST, "aside")),
]
REPLACED = [DropTable(renamed(SECOND, "orders")), AlterTable(renamed(NEW, "orders"), NEW)]


@pytest.mark.parametrize("database", ["mariadb"], indirect=True)
@pytest.mark.parametrize("defined", [1, 2, 3, 4, 5])
def test_names_that_change_hands_survive_a_kill_between_any_two_of_them(database, defined):
    """Tables swap names; one is dropped, and another gets its name."""
    with database.opened() as target:
        upserted(target, (b"1", b"x", b"y"), table=FIRST)
        upserted(target, (b"2", b"w"), table=SECOND)
        upserted(target, (b"3", b"n"), table=NEW)
    child = subprocess.run(
        [sys.executable, "-c", DEFINING_CHILD, database.url],
        env=os.environ
        | {
            "CDC_FAILPOINT": f"apply.2-altered:{defined}",
            "PYTHONPATH": os.pathsep.join([*sys.path, str(HERE)]),
        },
        check=False,
    )
    assert child.returncode == -signal.SIGKILL
    with database.reopened() as target:
        advance(target, {ONE: at(2)}, *SWAPPED, *REPLACED)
    assert database.rows(renamed(FIRST, "second")) == [(b"1", b"x", b"y")]
    assert database.rows(renamed(NEW, "orders")) == [(b"3", b"n")]


def night(number: int) -> tuple[list[Step], list[Step]]:
    """Two transactions of a script that runs each night: a new table is filled, and takes the old one's place."""
    new = renamed(FIRST, "new")
    filled: list[Step] = [AlterTable(new, None, position=Position(1, number, 1)), WriteRows(new, upserts=rows(number))]
    in_its_place: list[Step] = [
        DropTable(FIRST, Position(1, number, 2)),
        AlterTable(FIRST, new, position=Position(1, number, 3)),
    ]
    return filled, in_its_place


def rows(number: int) -> list[Row]:
    return [(b"%d" % number, b"a", b"b")]


def test_a_table_takes_anothers_place_again_and_again(database, target):
    upserted(target, *rows(0), table=FIRST)
    for number in (1, 2, 3):
        for steps in night(number):
            advance(target, {ONE: at(number)}, *steps)
        assert database.rows(FIRST) == rows(number)
        assert not target.present([TableId("public", "new")])


def test_tables_of_one_shape_swap_names_again_and_again(database, target):
    """By way of a third, in one transaction each time."""
    one, two, aside = (renamed(FIRST, name) for name in ("one", "two", "aside"))
    upserted(target, *rows(0), table=one)
    upserted(target, *rows(1), table=two)
    for number in (1, 2, 3):
        renames = enumerate(((one, aside), (two, one), (aside, two)), 1)
        swapped = [AlterTable(new, old, position=Position(1, number, ordinal)) for ordinal, (old, new) in renames]
        advance(target, {ONE: at(number)}, *swapped)
        assert database.rows(one) == rows(number % 2)
        assert database.rows(two) == rows((number + 1) % 2)


def test_a_table_is_made_anew_and_altered_in_one_transaction_again_and_again(database, target):
    upserted(target, *rows(0), table=ALTERED.table)
    for number in (1, 2, 3):
        steps: list[Step] = [
            DropTable(ALTERED.table, Position(1, number, 1)),
            AlterTable(FIRST, None, position=Position(1, number, 2)),
            AlterTable(ALTERED.table, FIRST, position=Position(1, number, 3)),
            WriteRows(ALTERED.table, upserts=rows(number)),
        ]
        advance(target, {ONE: at(number)}, *steps)
        assert database.rows(ALTERED.table) == rows(number)


NIGHTLY_CHILD = ALTERING_CHILD.replace("import ALTERED", "import night").replace(", ALTERED)", ", *night(2)[1])")


@pytest.mark.parametrize("database", ["mariadb"], indirect=True)
@pytest.mark.parametrize("defined", [1, 2])
def test_what_was_done_the_night_before_does_not_count_after_a_kill(database, defined):
    with database.opened() as target:
        upserted(target, *rows(0), table=FIRST)
        for steps in (*night(1), night(2)[0]):
            advance(target, {ONE: at(1)}, *steps)
    kill_at = f"apply.2-altered:{defined}"
    child = subprocess.run(
        [sys.executable, "-c", NIGHTLY_CHILD, database.url],
        env=os.environ | {"CDC_FAILPOINT": kill_at, "PYTHONPATH": os.pathsep.join([*sys.path, str(HERE)])},
        check=False,
    )
    assert child.returncode == -signal.SIGKILL
    with database.reopened() as target:
        advance(target, {ONE: at(2)}, *night(2)[1])
        assert database.rows(FIRST) == rows(2)
        for steps in night(3):
            advance(target, {ONE: at(3)}, *steps)
    assert database.rows(FIRST) == rows(3)


@pytest.mark.parametrize("database", ["mariadb"], indirect=True)
def test_a_table_can_not_be_altered_after_an_earlier_part_wrote_to_it(database, target):
    """It would commit what was written; and it would wait for us."""
    target.prepare(FIRST)
    with target.transaction(log_id="log") as transaction:
        transaction.run([WriteRows(FIRST, upserts=[(b"1", b"x", b"y")])])
        with pytest.raises(TargetSchemaError, match=r"public\.orders") as raised:
            transaction.run([ALTERED])
        transaction.run([TruncateTable(FIRST)])
    assert "batch_events" in str(raised.value.mend)
    assert database.rows(FIRST) == []
