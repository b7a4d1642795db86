"""What every target does, over real databases: PostgreSQL of three versions, SQLite, MariaDB; DuckDB, generically."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from target_databases import REFUSED, Database, DuckDB, MariaDB, Sqlite

from cdc.core.errors import (
    AlreadyRunningError,
    CdcError,
    ConstraintError,
    FidelityError,
    GapError,
    StaleApplierError,
    TargetSchemaError,
)
from cdc.core.events import UNCHANGED, Row
from cdc.core.log import TopicPartition
from cdc.core.position import Position
from cdc.core.tables import Column, TableId, TableSchema
from cdc.core.types import ColumnType, Kind
from consumers.plan.checkpoint import PartitionProgress
from consumers.plan.letters import INDEX
from consumers.plan.steps import AlterTable, DropTable, MoveRow, Step, TruncateTable, WriteRows
from consumers.targets.target import Target

HERE = Path(__file__).parent
ONE = TopicPartition("shop.public.orders", 0)
TWO = TopicPartition("shop.public.orders", 1)


def at(ordinal: int) -> PartitionProgress:
    return PartitionProgress(Position(1, 0x1_0000_0000, ordinal), ordinal)


def text(name: str, *, nullable: bool = True) -> Column:
    return Column(name=name, type=ColumnType(kind=Kind.STRING, name="text"), nullable=nullable)


def version(*columns: Column, key: tuple[int, ...] = (0,), name: str = "orders", schema: str = "public") -> TableSchema:
    return TableSchema(id=TableId(schema, name), columns=columns, key=key)


ORDERS = version(text("id", nullable=False), text("a"), text("b"))
KEYLESS = version(text("a"), text("b"), key=(), name="keyless")


DATABASES = ["sqlite", "duckdb", "mariadb", "postgresql-15", "postgresql-16", "postgresql-18"]
# But for the generic target, which has no lock, and writes to tables of its own only.
WITH_LOCK = WITH_TABLES_OF_OTHERS = pytest.mark.parametrize(
    "database", [name for name in DATABASES if name != "duckdb"], indirect=True
)
ON_DUCKDB = pytest.mark.parametrize("database", ["duckdb"], indirect=True)


@pytest.fixture(params=DATABASES)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    kind, _, number = request.param.partition("-")
    match kind:
        case "sqlite":
            return Sqlite(tmp_path)
        case "duckdb":
            return DuckDB(tmp_path)
        case "mariadb":
            return MariaDB(request.getfixturevalue("new_mariadb")())
        case _:
            new_database: Callable[..., str] = request.getfixturevalue("new_database")
            return Database(new_database(version=int(number)))


@pytest.fixture
def target(database: Database) -> Iterator[Target]:
    with database.opened() as target:
        yield target


def apply(target: Target, *steps: WriteRows | TruncateTable | MoveRow, ordinal: int = 1) -> None:
    for step in steps:
        target.prepare(step.table)
    advance(target, {ONE: at(ordinal)}, *steps)


def advance(
    target: Target,
    progress: dict[TopicPartition, PartitionProgress],
    *steps: Step,
    log_id: str = "log",
) -> None:
    with target.transaction(log_id=log_id) as transaction:
        transaction.run(steps)
        transaction.advance(progress)


def test_a_large_transaction_comes_in_parts(database: Database, target: Target) -> None:
    target.prepare(ORDERS)
    with target.transaction(log_id="log") as transaction:
        for number in range(1, 4):
            transaction.run([WriteRows(ORDERS, upserts=[(b"%d" % number, b"a", b"b"), (b"0", b"%d" % number, b"b")])])
        transaction.run([WriteRows(KEYLESS, added=[(b"not", b"prepared")])])
        transaction.run([WriteRows(ORDERS, deletes=[(b"2",)])])
        assert database.rows(ORDERS) == []
        transaction.advance({ONE: at(9)})
    assert database.rows(ORDERS) == [(b"0", b"3", b"b"), (b"1", b"a", b"b"), (b"3", b"a", b"b")]
    assert database.rows(KEYLESS) == [(b"not", b"prepared")]
    assert target.read_checkpoint().partitions == {ONE: at(9)}


def upserted(target: Target, *rows: Row, table: TableSchema = ORDERS) -> None:
    apply(target, WriteRows(table, upserts=list(rows)))


# Checkpoints


def test_a_new_target_has_an_empty_checkpoint(database):
    target = database.target()
    try:
        checkpoint = target.open()
    finally:
        target.close()
    assert (checkpoint.log_id, checkpoint.partitions) == (None, {})


def test_the_checkpoint_is_found_again(database):
    with database.opened() as target:
        target.prepare(ORDERS)
        advance(target, {ONE: at(1), TWO: at(2)})
        advance(target, {ONE: at(7)})
    target = database.target()
    try:
        checkpoint = target.open()
    finally:
        target.close()
    assert checkpoint.log_id == "log"
    assert checkpoint.partitions == {ONE: at(7), TWO: at(2)}


def test_each_transaction_raises_the_version(database):
    with database.opened() as target:
        before = target.read_checkpoint().version
        for ordinal in (1, 2, 3):
            advance(target, {ONE: at(ordinal)})
            assert target.read_checkpoint().version == before + ordinal


def test_checkpoints_of_two_appliers_are_their_own(database):
    with database.opened("one") as one, database.opened("two") as two:
        advance(one, {ONE: at(1)})
        advance(two, {ONE: at(2)}, log_id="other")
        assert one.read_checkpoint().partitions == {ONE: at(1)}
        assert two.read_checkpoint().log_id == "other"


@WITH_LOCK
def test_a_second_applier_of_the_name_is_refused(database, target):
    second = database.target()
    with pytest.raises(AlreadyRunningError) as raised:
        second.open()
    second.close()
    assert raised.value.mend
    target.close()
    with database.opened():
        pass


@ON_DUCKDB
def test_without_a_lock_the_later_applier_of_a_name_goes_on(database, target):
    with database.opened() as later:
        with pytest.raises(StaleApplierError):
            upserted(target, (b"1", b"x", b"y"))
        upserted(later, (b"2", b"x", b"y"))
    assert database.rows(ORDERS) == [(b"2", b"x", b"y")]


def test_a_stale_applier_writes_nothing(database, target):
    upserted(target, (b"1", b"x", b"y"))
    database.execute("UPDATE cdc_applier SET version = version + 1")
    with pytest.raises(StaleApplierError):
        apply(target, WriteRows(ORDERS, upserts=[(b"2", b"x", b"y")]), ordinal=2)
    assert database.rows(ORDERS) == [(b"1", b"x", b"y")]
    assert target.read_checkpoint().partitions == {ONE: at(1)}


def test_close_twice(database):
    target = database.target()
    target.close()
    target.open()
    target.close()
    target.close()


CHILD = """
import sys
from cdc.core.log import TopicPartition
from cdc.core.position import Position
from cdc.core.settings import TargetSettings
from cdc.core.tables import Column, TableId, TableSchema
from cdc.core.types import ColumnType, Kind
from consumers.plan.checkpoint import PartitionProgress
from consumers.plan.steps import WriteRows
from consumers.targets.open import open_target

text = ColumnType(kind=Kind.STRING, name="text")
columns = (Column(name="id", type=text, nullable=False), Column(name="a", type=text), Column(name="b", type=text))
table = TableSchema(id=TableId("public", "orders"), columns=columns, key=(0,))
target = open_target(TargetSettings(name="copy", url=sys.argv[1]))
target.open()
target.prepare(table)
at = PartitionProgress(Position(1, 0x1_0000_0000, 2), 2)
with target.transaction(log_id="log") as transaction:
    transaction.run([WriteRows(table, upserts=[(b"2", b"x", b"y")])])
    transaction.advance({TopicPartition("shop.public.orders", 0): at})
"""


@pytest.mark.parametrize(
    ("failpoint", "committed"),
    [
        ("apply.1-fenced", False),
        ("apply.2-written", False),
        ("apply.3-checkpointed", False),
        ("apply.4-committed", True),
    ],
)
def test_rows_and_checkpoint_survive_a_kill_together(database, failpoint, committed):
    with database.opened() as target:
        upserted(target, (b"1", b"x", b"y"))
    child = subprocess.run(
        [sys.executable, "-c", CHILD, database.url], env=os.environ | {"CDC_FAILPOINT": failpoint}, check=False
    )
    assert child.returncode == -signal.SIGKILL
    with database.reopened() as target:
        assert target.read_checkpoint().partitions == {ONE: at(2 if committed else 1)}
        assert [row[0] for row in database.rows(ORDERS)] == ([b"1", b"2"] if committed else [b"1"])
        apply(target, WriteRows(ORDERS, upserts=[(b"2", b"x", b"y")]), ordinal=2)
    assert [row[0] for row in database.rows(ORDERS)] == [b"1", b"2"]


ALTERING_CHILD = """
import sys
from test_target import ALTERED, ONE, advance, at
from consumers.targets.open import open_target
from cdc.core.settings import TargetSettings

target = open_target(TargetSettings(name="copy", url=sys.argv[1]))
target.open()
advance(target, {ONE: at(2)}, ALTERED)
"""


def numbered(name: str, number: int, *, nullable: bool = True) -> Column:
    return replace(text(name, nullable=nullable), id=number)


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


DEFINING_CHILD = ALTERING_CHILD.replace("ALTERED, ", "SWAPPED, REPLACED, ").replace(
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


# Rows


def test_upserts_insert_and_replace(database, target):
    upserted(target, (b"1", b"x", b"y"), (b"2", b"x", None))
    upserted(target, (b"2", b"", b"z"), (b"3", None, None))
    assert database.rows(ORDERS) == [(b"1", b"x", b"y"), (b"2", b"", b"z"), (b"3", None, None)]


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


# Tables


NAMES = [
    'q"uote',
    "do.t",
    "per%cent %s",
    "UPPER",
    "with space",
    "select",
    "é\u00fc",
    "x" * 63,
    "back\\slash",
    "a;b--",
    "1st",
    "c0",
]


def test_any_name_will_do(database, target):
    columns = [text(name, nullable=index > 0) for index, name in enumerate(NAMES)]
    for name, schema in [*((name, "public") for name in NAMES), ("t", 'we"ird. schema %')]:
        table = version(*columns, name=name, schema=schema)
        row: Row = tuple(b"%d" % index for index in range(len(NAMES)))
        upserted(target, row, table=table)
        apply(target, WriteRows(table, partials=[(b"0", b"new", *[UNCHANGED] * (len(NAMES) - 2))]))
        apply(target, MoveRow(table, (b"0",), (b"9", *[UNCHANGED] * (len(NAMES) - 1))))
        assert database.rows(table) == [(b"9", b"new", *row[2:])]


def test_prepare_again_and_after_reopening(database):
    for _ in range(2):
        with database.opened() as target:
            target.prepare(ORDERS)
            target.prepare(version(*ORDERS.columns))
            upserted(target, (b"1", b"x", b"y"))
    assert database.rows(ORDERS) == [(b"1", b"x", b"y")]


@WITH_TABLES_OF_OTHERS
def test_another_order_of_columns_is_fine(database, target):
    database.execute(
        f"CREATE TABLE orders (b {database.text}, a {database.text}, id {database.key} PRIMARY KEY NOT NULL)"
    )
    upserted(target, (b"1", b"x", b"y"))
    assert database.rows(ORDERS) == [(b"1", b"x", b"y")]


@ON_DUCKDB
def test_a_table_of_others_is_refused(database, target):
    database.execute("CREATE TABLE orders (id text PRIMARY KEY, a text, b text)")
    with pytest.raises(TargetSchemaError, match=r"orders.* was not made by the applier") as raised:
        target.prepare(ORDERS)
    assert "drop all of them" in str(raised.value.mend)


@WITH_TABLES_OF_OTHERS
@pytest.mark.parametrize(
    ("columns", "named"),
    [("id KEY PRIMARY KEY, a TEXT", "b"), ("id KEY PRIMARY KEY, a TEXT, b TEXT, extra TEXT NOT NULL", "extra")],
)
def test_other_columns_are_refused_by_name(database, target, columns, named):
    declared = columns.replace("PRIMARY KEY", "primary key").replace("KEY", database.key)
    database.execute(f"CREATE TABLE orders ({declared.replace('TEXT', database.text)})")
    with pytest.raises(TargetSchemaError, match=rf"orders.*\b{named}\b") as raised:
        target.prepare(ORDERS)
    assert raised.value.mend


@WITH_TABLES_OF_OTHERS
def test_a_table_without_a_unique_key_is_refused(database, target):
    text_ = database.text
    database.execute(f"CREATE TABLE orders (id {text_}, a {text_}, b {text_})")
    with pytest.raises(TargetSchemaError, match="orders") as raised:
        target.prepare(ORDERS)
    database.execute(str(raised.value.mend))
    upserted(target, (b"1", b"x", b"y"))


def test_a_version_with_a_new_column_is_refused(target):
    target.prepare(ORDERS)
    with pytest.raises(TargetSchemaError, match="new_one"):
        target.prepare(version(*ORDERS.columns, text("new_one")))


def test_what_is_not_null_at_the_source_is_not_null_here(database, target):
    table = version(text("id", nullable=False), text("a", nullable=False), text("b"))
    target.prepare(table)
    with pytest.raises(REFUSED):
        database.execute("INSERT INTO orders (id, b) VALUES ('1', '2')")


# Values


VALUES: list[tuple[Kind, str, list[bytes]]] = [
    (Kind.BOOLEAN, "boolean", [b"t", b"f"]),
    (Kind.INT16, "smallint", [b"-32768", b"0", b"32767"]),
    (Kind.INT32, "integer", [b"-2147483648", b"2147483647"]),
    (Kind.INT64, "bigint", [b"-9223372036854775808", b"9223372036854775807"]),
    (Kind.FLOAT32, "real", [b"0.1", b"3.4028235e+38", b"Infinity", b"-Infinity"]),
    (Kind.FLOAT64, "double precision", [b"0.1", b"1e-07", b"1.7976931348623157e+308", b"Infinity", b"-Infinity"]),
    (Kind.DECIMAL, "numeric(10,2)", [b"12.50", b"-0.10", b"0.00", b"NaN"]),
    (
        Kind.VARIABLE_DECIMAL,
        "numeric",
        [b"1", b"1.0", b"1.00", b"NaN", b"Infinity", b"12345678901234567890.1234567890"],
    ),
    (Kind.STRING, "character varying(10)", [b"a  ", b"", b"1.10", b"0x10"]),
    (Kind.STRING, "character(3)", [b"a  ", b"   "]),
    (Kind.STRING, "inet", [b"10.0.0.0/8", b"::1"]),
    (Kind.STRING, "int4range", [b"[1,5)", b"empty"]),
    (Kind.BYTES, "bytea", [rb"\x", rb"\x00ff5c0a"]),
    (Kind.DATE, "date", [b"2026-01-31", b"0044-03-15 BC", b"infinity", b"-infinity", b"5874897-12-31"]),
    (Kind.TIME, "time without time zone", [b"12:34:56.789", b"24:00:00"]),
    (Kind.TIMETZ, "time with time zone", [b"12:34:56.789+02", b"00:00:00-15:59"]),
    (
        Kind.TIMESTAMP,
        "timestamp without time zone",
        [b"2026-01-31 12:34:56.789", b"infinity", b"4713-01-01 00:00:00 BC"],
    ),
    (Kind.TIMESTAMP, "timestamp(3) without time zone", [b"2026-01-31 12:34:56.789"]),
    (Kind.TIMESTAMPTZ, "timestamp with time zone", [b"2026-01-31 12:34:56.789+00", b"-infinity"]),
    (Kind.INTERVAL, "interval", [b"P1Y2M3DT4H5M6.7S", b"P-1Y-2M3DT-4H-5M-6.7S", b"PT0S"]),
    (Kind.UUID, "uuid", [b"9f1c1a36-0000-4000-8000-000000000000"]),
    (Kind.JSON, "json", [b'{"a": 1,  "a": 2}', b"null", b'"\\u00e9"']),
    (Kind.JSON, "jsonb", [b'{"a": 1, "b": 1.00}']),
    (Kind.BIT, "bit(1)", [b"1", b"0"]),
    (Kind.BITS, "bit(5)", [b"01010"]),
    (Kind.BITS, "bit varying", [b"", b"00101"]),
    (Kind.OTHER, "tsvector", [b"'a':1 'b':2"]),
    (Kind.OTHER, "pg_lsn", [b"16/B374D848"]),
    (Kind.ENUM, "public.no_such_mood", [b"happy", b's,a"d']),
    (Kind.HSTORE, "no_such_hstore", [b'"a"=>"1", "b"=>NULL']),
    (Kind.LTREE, "no_such_ltree", [b"a.b.c"]),
    (Kind.VECTOR, "no_such_vector(3)", [b"[1,2.5]"]),
    (Kind.OTHER, "int unsigned nonsense", [b"(1,2)"]),
    (Kind.OTHER, 'text); DROP TABLE "x"; --', [b"x"]),
]


@pytest.mark.parametrize(("kind", "name", "values"), VALUES, ids=[f"{kind.value}-{name}" for kind, name, _ in VALUES])
def test_every_value_comes_out_as_it_went_in(database, target, kind, name, values):
    precision, scale = (10, 2) if kind is Kind.DECIMAL else (None, None)
    length = 10 if name == "character varying(10)" else None
    type_ = ColumnType(kind=kind, name=name, precision=precision, scale=scale, length=length)
    table = version(text("id", nullable=False), Column(name="v", type=type_))
    held = [value for value in values if database.holds(kind, value)]
    for value in set(values).difference(held):
        with pytest.raises(FidelityError, match=r"orders, column v") as raised:
            upserted(target, (b"1", value), table=table)
        assert "'public.orders.v'" in str(raised.value.mend)
    rows: list[Row] = [(b"%02d" % index, value) for index, value in enumerate([*held, None])]
    upserted(target, *rows, table=table)
    upserted(target, *rows, table=table)
    assert database.rows(table) == rows
    keyless = TableSchema(id=TableId("public", "keyless_values"), columns=table.columns, key=())
    apply(target, WriteRows(keyless, added=rows))
    apply(target, WriteRows(keyless, removed=rows))
    assert database.rows(keyless) == []


def test_arrays_come_out_as_they_went_in(database, target):
    integer = ColumnType(kind=Kind.INT32, name="integer")
    mood = ColumnType(kind=Kind.ENUM, name="no_such_mood")
    table = version(
        text("id", nullable=False),
        Column(name="i", type=ColumnType(kind=Kind.ARRAY, name="integer[]", element=integer)),
        Column(name="e", type=ColumnType(kind=Kind.ARRAY, name="no_such_mood[]", element=mood)),
    )
    row = (b"1", b"[0:1]={1,NULL}", b'{"a b",NULL,"NULL"}')
    upserted(target, row, table=table)
    assert database.rows(table) == [row]


def test_what_can_not_be_held_is_refused_without_the_value(database, target):
    """A float's NaN and the sign of zero in SQLite; a text that is no number in PostgreSQL."""
    real = ColumnType(kind=Kind.FLOAT64, name="double precision")
    table = version(text("id", nullable=False), Column(name="v", type=real))
    for value in (b"NaN", b"-0", b"se'cret") if database.name in {"sqlite", "mariadb"} else (b'se"cret',):
        with pytest.raises(FidelityError, match=r"orders") as raised:
            upserted(target, (b"1", value), table=table)
        assert raised.value.mend
        assert "cret" not in str(raised.value)
        assert database.rows(table) == []


@WITH_TABLES_OF_OTHERS
def test_a_narrower_column_is_refused_not_rounded(database, target):
    """PostgreSQL and MySQL round into numeric(10,1), SQLite drops the scale in a NUMERIC column, without a word."""
    database.execute(f"CREATE TABLE orders (id {database.key} PRIMARY KEY NOT NULL, v {database.narrow})")
    decimal = ColumnType(kind=Kind.DECIMAL, name="numeric(10,2)", precision=10, scale=2)
    table = version(text("id", nullable=False), Column(name="v", type=decimal))
    with pytest.raises(CdcError, match=r"\bv\b"):
        upserted(target, (b"1", b"1.25"), table=table)


AMOUNT = ColumnType(kind=Kind.DECIMAL, name="public.amount", base="numeric(10,2)", precision=10, scale=2)
AMOUNTS = ColumnType(kind=Kind.ARRAY, name="public.amount[]", element=AMOUNT)
PAIR = ColumnType(kind=Kind.OTHER, name="public.pair")
PAIRS = ColumnType(kind=Kind.ARRAY, name="public.pair[]", element=PAIR)


ON_POSTGRESQL = pytest.mark.parametrize("database", ["postgresql-15", "postgresql-16", "postgresql-18"], indirect=True)


INTEGERS = ColumnType(
    kind=Kind.ARRAY, name="public.integers", base="integer[]", element=ColumnType(kind=Kind.INT32, name="integer")
)
INTEGER_LISTS = ColumnType(kind=Kind.ARRAY, name="public.integers[]", element=INTEGERS)


def of_types(*types: ColumnType) -> TableSchema:
    columns = (Column(name=f"v{index}", type=type_) for index, type_ in enumerate(types))
    return version(text("id", nullable=False), *columns)


@ON_POSTGRESQL
@pytest.mark.parametrize("there", ["numeric(10,2)", "numeric"])
def test_a_domain_that_the_target_has_is_used(database, target, there):
    database.execute(f"CREATE DOMAIN amount AS {there}")
    table = of_types(AMOUNT, AMOUNTS)
    row = (b"1", b"1.25", b"{0.10,NULL}")
    upserted(target, row, table=table)
    assert database.rows(table) == [row]
    assert column_types(database, "orders") == ["text", "amount", "amount[]"]


@ON_POSTGRESQL
def test_a_domain_that_the_target_lacks_is_what_it_is_over(database, target):
    table = of_types(AMOUNT, AMOUNTS, INTEGERS, INTEGER_LISTS)
    row = (b"1", b"1.25", b"{0.10,NULL}", b"{1,2}", b'{"{1,2}",NULL}')
    upserted(target, row, table=table)
    assert database.rows(table) == [row]
    assert column_types(database, "orders") == ["text", "numeric(10,2)", "numeric(10,2)[]", "integer[]", "text[]"]


@ON_POSTGRESQL
@pytest.mark.parametrize("type_", [AMOUNT, AMOUNTS], ids=["itself", "in an array"])
def test_a_domain_that_is_narrower_at_the_target_is_refused(database, target, type_):
    """It would round without a word."""
    database.execute("CREATE DOMAIN amount AS numeric(10,1)")
    with pytest.raises(TargetSchemaError, match=r"orders.*\bv0\b") as raised:
        upserted(target, (b"1", b"1.25"), table=of_types(type_))
    assert "numeric(10,2)" in str(raised.value.mend)


@ON_POSTGRESQL
def test_values_with_fields_come_out_as_they_went_in(database, target):
    database.execute("CREATE TYPE pair AS (n integer, t text)")
    table = of_types(PAIR, PAIRS)
    rows: list[Row] = [(b"1", b'(1,"a b")', b'{"(1,x)",NULL}'), (b"2", b"(,)", b"{}"), (b"3", None, None)]
    upserted(target, *rows, table=table)
    apply(target, WriteRows(table, partials=[(b"1", b"(2,)", UNCHANGED)]))
    apply(target, MoveRow(table, (b"3",), (b"4", b"(3,c)", UNCHANGED)))
    assert database.rows(table) == [(b"1", b"(2,)", rows[0][2]), rows[1], (b"4", b"(3,c)", None)]
    keyless = TableSchema(id=TableId("public", "keyless_pairs"), columns=table.columns, key=())
    apply(target, WriteRows(keyless, added=rows))
    apply(target, WriteRows(keyless, removed=rows[1:]))
    assert database.rows(keyless) == rows[:1]
    assert column_types(database, "orders") == ["text", "pair", "pair[]"]


@ON_POSTGRESQL
@pytest.mark.parametrize(
    ("type_", "value"), [(PAIR, b"(1.25,)"), (PAIRS, b'{"(1.25,)"}')], ids=["itself", "in an array"]
)
def test_a_field_that_is_narrower_at_the_target_is_refused(database, target, type_, value):
    database.execute("CREATE TYPE pair AS (n numeric(5,1), t text)")
    with pytest.raises(FidelityError, match=r"orders.*\bv0\b"):
        upserted(target, (b"1", value), table=of_types(type_))
    assert database.rows(of_types(type_)) == []


OPERATORS = {"<": "int4lt", "<=": "int4le", "=": "int4eq", ">=": "int4ge", ">": "int4gt"}


@ON_POSTGRESQL
def test_an_operator_need_not_be_on_the_search_path(database, target):
    """Of an extension's type, say: here one that is an integer but for its name."""
    internal = "LANGUAGE internal STRICT"
    database.execute(
        "CREATE SCHEMA elsewhere; SET search_path = elsewhere; CREATE TYPE whole;"
        f" CREATE FUNCTION input(cstring) RETURNS whole AS 'int4in' {internal};"
        f" CREATE FUNCTION output(whole) RETURNS cstring AS 'int4out' {internal};"
        " CREATE TYPE whole (INPUT = input, OUTPUT = output, LIKE = integer);"
        f" CREATE FUNCTION compare(whole, whole) RETURNS integer AS 'btint4cmp' {internal};"
        + "".join(
            f"CREATE FUNCTION {function}(whole, whole) RETURNS boolean AS '{function}' {internal};"
            f"CREATE OPERATOR {sign} (LEFTARG = whole, RIGHTARG = whole, FUNCTION = {function});"
            for sign, function in OPERATORS.items()
        )
        + "CREATE OPERATOR CLASS whole_ops DEFAULT FOR TYPE whole USING btree AS FUNCTION 1 compare(whole, whole), "
        + ", ".join(f"OPERATOR {number} {sign}" for number, sign in enumerate(OPERATORS, 1))
    )
    key = Column(name="id", type=ColumnType(kind=Kind.OTHER, name="elsewhere.whole"), nullable=False)
    table = version(key, text("a"), text("b"))
    upserted(target, (b"1", b"x", b"y"), (b"2", b"x", b"y"), (b"3", b"x", b"y"), table=table)
    apply(target, WriteRows(table, deletes=[(b"1",)], partials=[(b"2", b"z", UNCHANGED)]))
    apply(target, MoveRow(table, (b"3",), (b"4", UNCHANGED, UNCHANGED)))
    assert database.rows(table) == [(b"2", b"z", b"y"), (b"4", b"x", b"y")]
    assert column_types(database, "orders") == ["elsewhere.whole", "text", "text"]


@ON_POSTGRESQL
def test_what_names_an_object_that_the_target_lacks_is_refused(database, target):
    table = of_types(ColumnType(kind=Kind.OTHER, name="regclass"))
    upserted(target, (b"1", b"pg_class"), table=table)
    with pytest.raises(FidelityError, match=r"orders, column v0") as raised:
        upserted(target, (b"2", b"public.no_such_table"), table=table)
    assert "as_text" in str(raised.value.mend)
    assert database.rows(table) == [(b"1", b"pg_class")]


def test_a_character_nul_is_kept_or_refused(database, target):
    """PostgreSQL has none; a connector's source may have."""
    row = (b"1", b"x", b"a\0b")
    if database.name != "postgresql":
        upserted(target, row)
        assert database.rows(ORDERS) == [row]
    else:
        with pytest.raises(FidelityError, match=r"public\.orders, column b: .* NUL"):
            upserted(target, (b"0", b"x", b"y"), row)
        assert database.rows(ORDERS) == []


def column_types(database: Database, table: str) -> list[object]:
    rows = database.execute(
        f"SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = '{table}'::regclass AND attnum > 0"
        " ORDER BY attnum"
    )
    return [row[0] for row in rows]


@WITH_TABLES_OF_OTHERS
def test_columns_that_the_target_generates_are_left_to_it(database, target):
    database.execute(
        f"CREATE TABLE orders (id {database.key} PRIMARY KEY NOT NULL, a {database.text},"
        f" b {database.text} GENERATED ALWAYS AS ({database.exclamation}) STORED)"
    )
    upserted(target, (b"1", b"x", b"x!"))
    upserted(target, (b"1", b"y", b"y!"))
    apply(target, WriteRows(ORDERS, partials=[(b"1", b"z", UNCHANGED)]))
    assert database.rows(ORDERS) == [(b"1", b"z", b"z!")]


# Constraints


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


def test_all_rows_of_a_table_of_texts(database, target):
    assert target.rows_of(INDEX) == []
    row = (b"it", b"t" * 249, b"0", b"7", b"1:0/1:1", b"[]" * 1000)
    target.prepare(INDEX)
    advance(target, {ONE: at(1)}, WriteRows(INDEX, upserts=[row]))
    assert database.target().rows_of(INDEX) == [row]
    advance(target, {ONE: at(2)}, WriteRows(INDEX, deletes=[row[:4]]))
    assert target.rows_of(INDEX) == []


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


@ON_POSTGRESQL
def test_an_identity_column_takes_the_source_s_values(database, target):
    database.execute("CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a text, b text)")
    number = Column(name="id", type=ColumnType(kind=Kind.INT32, name="integer"), nullable=False)
    table = version(number, text("a"), text("b"))
    upserted(target, (b"7", b"x", b"y"), table=table)
    upserted(target, (b"7", b"z", b"y"), table=table)
    assert database.rows(table) == [(b"7", b"z", b"y")]


@pytest.mark.parametrize("database", ["postgresql-18", "mariadb", "sqlite", "duckdb"], indirect=True)
def test_looking_for_tables_within_a_transaction_leaves_it_open(database, target):
    upserted(target, (b"1", b"x", b"y"))
    elsewhere = TableId("public", "nowhere")
    assert list(target.present([ORDERS.id, elsewhere])) == [ORDERS.id]
    with suppress(ZeroDivisionError), target.transaction(log_id="log") as transaction:
        transaction.run([WriteRows(ORDERS, upserts=[(b"2", b"x", b"y")])])
        assert list(target.present([ORDERS.id, elsewhere])) == [ORDERS.id]
        raise ZeroDivisionError
    assert database.rows(ORDERS) == [(b"1", b"x", b"y")]
    assert target.read_checkpoint().partitions == {ONE: at(1)}
    apply(target, WriteRows(ORDERS, upserts=[(b"3", b"x", b"y")]), ordinal=2)
    assert database.rows(ORDERS) == [(b"1", b"x", b"y"), (b"3", b"x", b"y")]
