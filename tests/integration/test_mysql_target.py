"""What MySQL and MariaDB can't do, or do without a word: handled, or refused by name. On a real MariaDB."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace

import pymysql
import pytest
import sqlalchemy
from target_databases import MariaDB

from cdc.core.errors import (
    AlreadyRunningError,
    CdcError,
    ConfigError,
    ConstraintError,
    FidelityError,
    GapError,
    PassingError,
    StaleApplierError,
    TargetChangedError,
    TargetError,
    TargetSchemaError,
)
from cdc.core.events import (
    UNCHANGED,
    Alter,
    Change,
    ChangeEvent,
    Create,
    Delete,
    KeyImage,
    Row,
    Transaction,
    Update,
)
from cdc.core.log import TopicPartition
from cdc.core.position import Position
from cdc.core.settings import TargetSettings
from cdc.core.tables import Column, TableId, TableSchema
from cdc.core.types import ColumnType, Kind
from cdc.embedded import EmbeddedMariaDB
from consumers.apply.delivery import Delivery
from consumers.plan.checkpoint import PartitionProgress
from consumers.plan.mapping import EventMapping
from consumers.plan.steps import AlterTable, DropTable, MoveRow, Step, TruncateTable, WriteRows
from consumers.targets.mysql import MysqlTarget
from consumers.targets.open import open_target
from consumers.targets.target import Target

ONE = TopicPartition("shop.public.item", 0)
TEXT = ColumnType(kind=Kind.STRING, name="text")
INTEGER = ColumnType(kind=Kind.INT32, name="integer")


def column(name: str, type_: ColumnType = TEXT, *, nullable: bool = True) -> Column:
    return Column(name=name, type=type_, nullable=nullable)


def table(*columns: Column, key: tuple[int, ...] = (0,), name: str = "item", schema: str = "public") -> TableSchema:
    return TableSchema(id=TableId(schema, name), columns=columns, key=key)


ITEM = table(column("id", INTEGER, nullable=False), column("v"))
NAMED = table(column("id", nullable=False), column("v"))


def run(target: Target, *steps: Step) -> None:
    with target.transaction(log_id="log") as transaction:
        transaction.run(steps)
        transaction.advance({ONE: PartitionProgress(Position(1, 1, 1), 1)})


def upsert(target: Target, of: TableSchema, *rows: Row) -> None:
    target.prepare(of)
    run(target, WriteRows(of, upserts=list(rows)))


@pytest.fixture
def database(new_mariadb: Callable[[], str]) -> MariaDB:
    return MariaDB(new_mariadb())


@pytest.fixture
def target(database: MariaDB) -> Iterator[Target]:
    with database.opened() as target:
        yield target


# -- keys ------------------------------------------------------------------------------------------------------------


def test_keys_that_a_looser_collation_takes_for_equal_stay_apart(database, target):
    keys = [b"a", b"A", b"a ", b"a\t", "á".encode(), b"", b" ", b"a\0", b"ss", "ß".encode()]
    upsert(target, NAMED, *((key, key) for key in keys))
    run(target, WriteRows(NAMED, deletes=[(b"A",), (b"a ",)], partials=[(b"a", b"changed")]))
    left = [(key, b"changed" if key == b"a" else key) for key in keys if key not in {b"A", b"a "}]
    assert database.rows(NAMED) == sorted(left, key=repr)


@pytest.mark.parametrize("collation", ["utf8mb4_general_ci", "utf8mb4_bin", "utf8mb4_unicode_nopad_ci"])
def test_a_key_under_a_looser_collation_is_refused(database, target, collation):
    database.execute(f"CREATE TABLE item (id varchar(50) COLLATE {collation} PRIMARY KEY, v longtext)")
    with pytest.raises(TargetSchemaError, match=r"item.* id .*collation") as raised:
        target.prepare(NAMED)
    database.execute(str(raised.value.mend))
    upsert(target, NAMED, (b"a", b"1"), (b"A", b"2"), (b"a ", b"3"))
    assert len(database.rows(NAMED)) == 3


def test_the_longest_key_and_one_that_is_longer(database, target):
    longest = "é".encode() * 768
    upsert(target, NAMED, (longest, b"1"))
    with pytest.raises(FidelityError, match=r"item.*column id.*768") as raised:
        upsert(target, NAMED, (longest + b"e", b"2"))
    assert raised.value.mend
    assert database.rows(NAMED) == [(longest, b"1")]


def test_texts_of_a_key_share_its_bytes(database, target):
    wide = table(
        column("id", INTEGER, nullable=False),
        column("a", nullable=False),
        column("b", ColumnType(kind=Kind.BYTES, name="bytea"), nullable=False),
        key=(0, 1, 2),
    )
    upsert(target, wide, (b"1", b"x" * 383, rb"\x" + b"ff" * 1500))
    assert len(database.rows(wide)) == 1


def test_large_integers_are_not_compared_as_floats(database, target):
    big = table(column("id", ColumnType(kind=Kind.INT64, name="bigint"), nullable=False))
    keys = [b"9223372036854775807", b"9223372036854775806", b"9223372036854775805"]
    upsert(target, big, *((key,) for key in keys))
    run(target, WriteRows(big, deletes=[(keys[0],), (b"1",)]))
    assert database.rows(big) == sorted((key,) for key in keys[1:])


def test_zero_is_a_value_also_where_numbers_are_given(database, target):
    database.execute("CREATE TABLE item (id int PRIMARY KEY AUTO_INCREMENT, v longtext)")
    upsert(target, ITEM, (b"0", b"zero"))
    assert database.rows(ITEM) == [(b"0", b"zero")]


def test_a_row_is_not_written_over_another_with_the_same_value_in_a_second_unique_key(database, target):
    """ON DUPLICATE KEY UPDATE would change row 1 and lose row 2."""
    database.execute("CREATE TABLE item (id int PRIMARY KEY, v varchar(20), UNIQUE (v))")
    upsert(target, ITEM, (b"1", b"a"), (b"3", b"c"))
    with pytest.raises(ConstraintError, match="unique key"):
        upsert(target, ITEM, (b"2", b"a"))
    upsert(target, ITEM, (b"5", b"for key 'x'"))
    with pytest.raises(ConstraintError, match="item, constraint v:"):
        upsert(target, ITEM, (b"2", b"for key 'x'"))
    run(target, WriteRows(ITEM, deletes=[(b"5",)]))
    upsert(target, ITEM, (b"3", b"d"), (b"4", b"e"), (b"1", b"a"))
    assert database.rows(ITEM) == [(b"1", b"a"), (b"3", b"d"), (b"4", b"e")]


def test_a_unique_key_that_is_made_while_we_write_is_noticed(database, target):
    """Or row 1 would be changed, and row 2 lost."""
    upsert(target, ITEM, (b"1", b"a"), (b"3", b"c"))
    database.execute("ALTER TABLE item MODIFY v varchar(20), ADD UNIQUE (v)")
    with pytest.raises(TargetChangedError, match=r"public\.item.*another key"):
        upsert(target, ITEM, (b"1", b"d"), (b"2", b"c"))
    upsert(target, ITEM, (b"1", b"d"), (b"4", b"e"))
    target.open()
    with pytest.raises(ConstraintError, match="unique key"):
        upsert(target, ITEM, (b"2", b"c"))
    upsert(target, ITEM, (b"2", b"f"), (b"3", b"g"))
    assert database.rows(ITEM) == [(b"1", b"d"), (b"2", b"f"), (b"3", b"g"), (b"4", b"e")]


def test_a_source_transaction_with_rows_before_an_alteration_survives_a_crash_after_it(database, target):
    """The table has its new shape already when the rows of the old one come again."""
    before = replace(ITEM, columns=tuple(replace(each, id=n) for n, each in enumerate(ITEM.columns, 1)))
    after = replace(before, columns=(before.columns[0], replace(column("w"), id=3)))
    upsert(target, before, (b"1", b"a"), (b"2", b"a"))
    with suppress(ZeroDivisionError), target.transaction(log_id="log") as transaction:
        transaction.run([AlterTable(after, before)])
        raise ZeroDivisionError
    target.open()
    changes: list[tuple[TableSchema, Change]] = [
        (before, Update(None, (b"1", b"b"))),
        (before, Delete(KeyImage((b"2",)))),
        (after, Alter(before=before)),
        (after, Create((b"3", b"c"))),
    ]
    delivery = Delivery(target, EventMapping(TargetSettings(name="copy", url=database.url)))
    delivery.write([event(n, *change) for n, change in enumerate(changes, 1)], log_id="log")
    delivery.commit({}, log_id="log")
    assert database.rows(after) == [(b"1", None), (b"3", b"c")]


def test_an_alteration_that_is_refused_says_why_also_behind_rows_of_its_transaction(database):
    """What is refused is tried again in the source's order, in which rows were written before it."""
    before = replace(ITEM, columns=tuple(replace(each, id=n) for n, each in enumerate(ITEM.columns, 1)))
    after = replace(before, columns=(before.columns[0], replace(column("w"), id=3)))
    changes: list[tuple[TableSchema, Change]] = [(before, Update(None, (b"1", b"b"))), (after, Alter(before=before))]
    with database.opened(schema_changes="stop") as target:
        upsert(target, before, (b"1", b"a"))
        delivery = Delivery(target, EventMapping(TargetSettings(name="copy", url=database.url)))
        with pytest.raises(TargetSchemaError) as raised:
            delivery.write([event(n, *change) for n, change in enumerate(changes, 1)], log_id="log")
    assert "ADD COLUMN `w`" in str(raised.value.mend)
    assert database.rows(before) == [(b"1", b"a")]


def event(ordinal: int, of: TableSchema, change: Change) -> ChangeEvent:
    transaction = Transaction(epoch=1, commit_lsn=1, xid=1, commit_time_us=0, database="shop")
    return ChangeEvent(transaction=transaction, table=of, change=change, ordinal=ordinal, table_ordinal=ordinal)


# -- sizes -----------------------------------------------------------------------------------------------------------


def test_many_rows_go_in_pieces_and_a_row_above_max_allowed_packet_is_refused(own_mariadb):
    server: EmbeddedMariaDB = own_mariadb(max_allowed_packet="1M")
    database = MariaDB(server.create_database("small"))
    with database.opened() as target:
        upsert(target, ITEM, *((b"%d" % number, b"x" * 300_000) for number in range(8)))
        assert len(database.rows(ITEM)) == 8
        with pytest.raises(FidelityError, match=r"public\.item.*max_allowed_packet"):
            upsert(target, ITEM, (b"9", b"'" * 600_000))
        run(target, WriteRows(ITEM, deletes=[(b"%d" % number,) for number in range(5000)]))
        assert database.rows(ITEM) == []


def test_all_kinds_of_writes_in_many_pieces(database, target):
    """More keys than a list takes, more statements than a trip takes."""
    upsert(target, ITEM, *((b"%d" % number, b"v" * 50) for number in range(3000)))
    run(target, WriteRows(ITEM, partials=[(b"%d" % number, b"w") for number in range(1700)]))
    run(target, WriteRows(ITEM, deletes=[(b"%d" % number,) for number in range(1000, 3000)]))
    assert {row[1] for row in database.rows(ITEM)} == {b"w"}
    with pytest.raises(GapError):
        run(target, WriteRows(ITEM, partials=[(b"%d" % number, b"z") for number in range(999, 1001)]))
    pair = table(column("a", INTEGER, nullable=False), column("b", nullable=False), key=(0, 1), name="pair")
    upsert(target, pair, *((b"%d" % number, b"k") for number in range(1200)))
    run(target, WriteRows(pair, deletes=[(b"%d" % number, b"k") for number in range(1, 1200)]))
    assert database.rows(pair) == [(b"0", b"k")]


# -- names and designs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("refused", "named"),
    [
        (table(*ITEM.columns, name="x" * 60, schema="longer"), "64 characters"),
        (table(*ITEM.columns, name="blank "), "blank"),
        (table(*ITEM.columns, name="\U0001f600"), "U\\+FFFF"),
        (table(column("id", INTEGER, nullable=False), column("A"), column("a")), "case"),
        (table(*ITEM.columns, name="cdc_checkpoint"), "our own"),
        (table(*(column(f"c{number}", INTEGER, nullable=False) for number in range(40)), key=tuple(range(40))), "key"),
        (table(column("id", INTEGER, nullable=False), *(column(f"c{n}", INTEGER) for n in range(1100))), "columns"),
    ],
    ids=lambda value: None if isinstance(value, TableSchema) else value,
)
def test_what_can_not_be_a_table_is_refused(target, refused, named):
    with pytest.raises(TargetSchemaError, match=named) as raised:
        target.prepare(refused)
    assert raised.value.mend


def test_two_tables_of_one_name_are_refused(target):
    target.prepare(table(*ITEM.columns, schema="a", name="b.c"))
    with pytest.raises(TargetSchemaError, match=r"a\.b.*would both be"):
        target.prepare(table(*ITEM.columns, schema="a.b", name="c"))


@pytest.mark.parametrize(
    ("declared", "type_"),
    [
        ("char(10)", TEXT),
        ("float", ColumnType(kind=Kind.FLOAT64, name="double precision")),
        ("double(10,2)", ColumnType(kind=Kind.FLOAT64, name="double precision")),
        ("datetime(3)", ColumnType(kind=Kind.TIMESTAMP, name="timestamp without time zone")),
        ("datetime", ColumnType(kind=Kind.DATE, name="date")),
        ("binary(5)", ColumnType(kind=Kind.BYTES, name="bytea")),
        ("enum('a','b')", TEXT),
        ("decimal(20,3)", ColumnType(kind=Kind.VARIABLE_DECIMAL, name="numeric")),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_column_that_would_change_values_is_refused(database, target, declared, type_):
    database.execute(f"CREATE TABLE item (id int PRIMARY KEY, v {declared})")
    of = table(ITEM.columns[0], column("v", type_))
    with pytest.raises(TargetSchemaError, match=r"item, column v.*silently") as raised:
        target.prepare(of)
    database.execute(str(raised.value.mend).partition(", or have")[0])
    target.prepare(of)


def test_a_wider_column_is_taken_and_what_does_not_fit_a_narrower_one_is_an_error(database, target):
    database.execute("CREATE TABLE item (id bigint unsigned PRIMARY KEY, v varchar(3) CHARACTER SET latin1)")
    upsert(target, ITEM, (b"1", b"abc"))
    for row in ((b"-1", b"abc"), (b"2", b"abcd"), (b"2", "漢".encode())):
        with pytest.raises(FidelityError, match=r"public\.item, column") as raised:
            upsert(target, ITEM, row)
        assert "abcd" not in f"{raised.value}{raised.value.mend}"
    assert database.rows(ITEM) == [(b"1", b"abc")]


@pytest.mark.parametrize(
    ("declared", "fits"),
    [
        ("varchar(10) CHARACTER SET utf8mb4", b"0123456   "),
        ("varchar(10) CHARACTER SET latin1", "é12345678 ".encode()),
        ("varchar(10) CHARACTER SET utf16", "é12345678 ".encode()),
        ("tinytext CHARACTER SET utf8mb4", "é".encode() * 127 + b" "),
        ("tinytext CHARACTER SET latin1", "é".encode() * 254 + b" "),
        ("varbinary(10)", b"012345678 "),
        ("tinyblob", b"x" * 254 + b" "),
    ],
)
@pytest.mark.parametrize("more", [b" ", b" " * 1000])
def test_blanks_are_not_cut_off(database, target, declared, fits, more):
    """A note is all that the server has for them, whatever its SQL mode is."""
    database.execute(f"CREATE TABLE item (id int PRIMARY KEY, v {declared})")
    upsert(target, ITEM, (b"1", fits))
    for step in (
        WriteRows(ITEM, upserts=[(b"2", b"x"), (b"3", fits + more)]),
        WriteRows(ITEM, upserts=[(b"2", b"x")], partials=[(b"1", b"x"), (b"1", fits + more), (b"1", b"y")]),
        MoveRow(ITEM, (b"1",), (b"2", fits + more)),
    ):
        with pytest.raises(FidelityError, match=r"public\.item, column v: ") as raised:
            run(target, step)
        assert raised.value.mend
    assert database.values("SELECT id, CAST(CONVERT(v USING utf8mb4) AS BINARY) FROM item") == [(1, fits)]


def test_blanks_are_not_cut_off_a_key(database, target):
    """It would be another's."""
    longest, with_blank = "é".encode() * 768, "é".encode() * 767 + b" "
    upsert(target, NAMED, (longest, b"1"), (with_blank, b"2"))
    for key in (longest + b" ", with_blank + b" "):
        for step in (
            WriteRows(NAMED, upserts=[(b"x", b"3"), (key, b"3")]),
            WriteRows(NAMED, partials=[(longest, b"3"), (key, b"3"), (with_blank, b"3")]),
            WriteRows(NAMED, deletes=[(with_blank,), (key,)]),
            MoveRow(NAMED, (longest,), (key, b"3")),
        ):
            with pytest.raises(FidelityError, match=r"public\.item, column id: .*768"):
                run(target, step)
    assert database.rows(NAMED) == sorted([(longest, b"1"), (with_blank, b"2")], key=repr)


@pytest.mark.parametrize("defaults", ["ON", "OFF"])
def test_a_column_that_makes_the_time_of_null_is_refused(own_mariadb, defaults):
    server: EmbeddedMariaDB = own_mariadb(explicit_defaults_for_timestamp=defaults)
    database = MariaDB(server.create_database("times"))
    database.execute("CREATE TABLE item (id int PRIMARY KEY, v timestamp(6) NOT NULL)")
    at = ColumnType(kind=Kind.TIMESTAMPTZ, name="timestamp with time zone")
    with database.opened() as target:
        of = table(ITEM.columns[0], column("v", at, nullable=False))
        upsert(target, of, (b"1", b"2026-01-31 12:00:00+00"))
        with pytest.raises(
            TargetSchemaError, match=r"public\.item, column v: .*NULL, and silently make the time"
        ) as raised:
            target.prepare(table(ITEM.columns[0], column("v", at)))
        database.execute(str(raised.value.mend))
        upsert(target, table(ITEM.columns[0], column("v", at)), (b"2", None))
    assert database.rows(of) == [(b"1", b"2026-01-31 12:00:00+00"), (b"2", None)]


@pytest.mark.parametrize("key", ["UNIQUE", "PRIMARY KEY"])
def test_a_column_that_makes_a_number_of_null_is_refused(database, target, key):
    database.execute(f"CREATE TABLE item (id int NOT NULL UNIQUE, v int AUTO_INCREMENT {key})")
    of = table(ITEM.columns[0], column("v", INTEGER))
    with pytest.raises(
        TargetSchemaError, match=r"public\.item, column v: .*NULL, and silently make the next"
    ) as raised:
        target.prepare(of)
    database.execute(str(raised.value.mend))
    upsert(target, of, (b"1", None), (b"2", b"0"))
    assert database.rows(of) == [(b"1", None), (b"2", b"0")]


@pytest.mark.parametrize("declared", ["varchar(20) COLLATE utf8mb4_general_ci", "varchar(20) CHARACTER SET latin1"])
def test_removed_rows_are_compared_byte_for_byte(database, target, declared):
    """In whatever character set the target has them."""
    database.execute(f"CREATE TABLE item (v {declared})")
    keyless = table(column("v"), key=())
    target.prepare(keyless)
    e, acute, capital = b"e", "é".encode(), "É".encode()
    run(target, WriteRows(keyless, added=[(b"a",), (b"A",), (b"a ",), (e,), (acute,), (capital,)]))
    run(target, WriteRows(keyless, removed=[(b"A",), (acute,)]))
    assert database.rows(keyless) == sorted([(b"a",), (b"a ",), (e,), (capital,)], key=repr)


def test_foreign_keys_of_the_target_do_not_ask_for_an_order(database, target):
    database.execute("CREATE TABLE item (id int PRIMARY KEY, v longtext)")
    database.execute("CREATE TABLE part (id int PRIMARY KEY, item int REFERENCES item (id) ON DELETE CASCADE)")
    part = table(column("id", INTEGER, nullable=False), column("item", INTEGER), name="part")
    for of in (part, ITEM):
        target.prepare(of)
    run(target, WriteRows(part, upserts=[(b"1", b"7")]), WriteRows(ITEM, upserts=[(b"7", b"x")]))
    run(target, MoveRow(ITEM, (b"7",), (b"8", UNCHANGED)), WriteRows(part, partials=[(b"1", b"8")]))
    run(target, TruncateTable(ITEM), WriteRows(ITEM, upserts=[(b"8", b"y")]))
    assert database.rows(part) == [(b"1", b"8")]
    with pytest.raises(TargetError, match="foreign key") as raised:
        run(target, DropTable(ITEM))
    assert "foreign keys" in str(raised.value.mend)


def test_a_table_that_can_not_be_dropped_leaves_the_session_as_it_was(database, target):
    """With foreign keys checked, what empties a table would remove others' rows as well."""
    database.execute("CREATE TABLE item (id int PRIMARY KEY, v longtext)")
    database.execute("CREATE TABLE part (id int PRIMARY KEY, item int REFERENCES item (id) ON DELETE CASCADE)")
    part = table(column("id", INTEGER, nullable=False), column("item", INTEGER), name="part")
    upsert(target, ITEM, (b"7", b"x"))
    upsert(target, part, (b"1", b"7"))
    with pytest.raises(TargetError, match="foreign key"):
        run(target, DropTable(ITEM))
    wider = replace(ITEM, columns=(*ITEM.columns, column("w")))
    run(target, TruncateTable(ITEM), AlterTable(wider, ITEM), WriteRows(wider, upserts=[(b"8", b"y", b"z")]))
    assert database.rows(wider) == [(b"8", b"y", b"z")]
    assert database.rows(part) == [(b"1", b"7")]


# -- altered ---------------------------------------------------------------------------------------------------------


def test_stop_tells_the_statement_that_also_marks_the_table(database):
    before = replace(ITEM, columns=(replace(ITEM.columns[0], id=1), replace(ITEM.columns[1], id=2)))
    after = replace(before, columns=(before.columns[0], replace(before.columns[1], name="w")))
    step = AlterTable(after, before)
    with database.opened(schema_changes="stop") as target:
        upsert(target, before, (b"1", b"x"))
        database.execute("ALTER TABLE item COMMENT = 'ours: cdc'")
        with pytest.raises(TargetSchemaError, match="stop") as raised:
            run(target, step)
        mend = str(raised.value.mend)
        database.execute(mend.removeprefix("at the target: ").removesuffix("; then start the applier again"))
    with database.opened(schema_changes="stop") as target:
        run(target, step)
    assert database.rows(after) == [(b"1", b"x")]
    ((comment,),) = database.execute(
        "SELECT table_comment FROM information_schema.tables WHERE table_name = 'item' AND table_schema = DATABASE()"
    )
    assert comment.startswith("ours: cdc cdc:")


def test_a_table_that_others_hold_is_altered_when_they_let_go_or_the_applier_tries_again(database, monkeypatch):
    monkeypatch.setattr("consumers.targets.mysql.session._DDL_WAIT", "SET SESSION lock_wait_timeout = 1")
    after = replace(ITEM, columns=(*ITEM.columns, column("w")))
    with database.opened() as target, closing(raw(database)) as other, other.cursor() as cursor:
        upsert(target, ITEM, (b"1", b"x"))
        cursor.execute("START TRANSACTION")
        cursor.execute("SELECT * FROM item")
        with pytest.raises(PassingError):
            run(target, AlterTable(after, ITEM))
        cursor.execute("COMMIT")
        run(target, AlterTable(after, ITEM))
    assert database.rows(after) == [(b"1", b"x", None)]


# -- who may define tables -------------------------------------------------------------------------------------------

WIDER = replace(ITEM, columns=(*ITEM.columns, column("w")))
OTHER = replace(ITEM, id=TableId("public", "other"))


def end_session(database: MariaDB, target: Target) -> None:
    """The one that writes; not the one that defines tables. As MariaDB does it to who stands still in a transaction."""
    ((number,),) = target._session.query("SELECT CONNECTION_ID()", doing="testing")
    database.execute(f"KILL {number}")


@contextmanager
def altering(database: MariaDB, target: Target, *steps: Step) -> Iterator[list[CdcError | None]]:
    """In a thread, and waiting for those who hold the table. How it ended, after the block."""
    ended: list[CdcError | None] = []

    def work() -> None:
        try:
            run(target, *steps)
            ended.append(None)
        except CdcError as error:
            ended.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        await_waiting(database, 0)
        yield ended
    finally:
        thread.join()


def await_waiting(database: MariaDB, seconds: int) -> None:
    """Until an alteration has waited so long."""
    waiting = "state = 'Waiting for table metadata lock' AND info LIKE 'ALTER%'"
    deadline = time.monotonic() + 60
    while not database.execute(
        f"SELECT 1 FROM information_schema.processlist WHERE db = DATABASE() AND {waiting} AND time >= {seconds}"
    ):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextmanager
def held(database: MariaDB) -> Iterator[Callable[[], object]]:
    """A reader is in the midst of the table. What lets it go."""
    with closing(raw(database)) as reader, reader.cursor() as cursor:
        cursor.execute("START TRANSACTION")
        cursor.execute("SELECT * FROM item")
        yield lambda: cursor.execute("COMMIT")


@pytest.mark.parametrize("steps", [[DropTable(ITEM)], [TruncateTable(ITEM), AlterTable(WIDER, ITEM)]])
def test_an_applier_that_another_took_over_from_defines_nothing_any_more(database, steps):
    """It stood still within a transaction, and goes on."""

    def stand_still_and_go_on(first: Target) -> None:
        with first.transaction(log_id="log") as transaction:
            end_session(database, first)
            with database.opened() as second:
                upsert(second, ITEM, (b"2", b"x"))
            transaction.run(steps)

    with database.opened() as first:
        upsert(first, ITEM, (b"1", b"x"))
        with pytest.raises(PassingError):
            stand_still_and_go_on(first)
        with pytest.raises(PassingError):
            first.prepare(OTHER)
        assert not first.present([OTHER.id])
    assert database.rows(ITEM) == [(b"1", b"x"), (b"2", b"x")]


def test_who_takes_over_waits_for_what_the_one_before_began_to_alter(database):
    """That one is gone, which the server notices when the ALTER TABLE is done."""
    step = AlterTable(WIDER, ITEM)
    with database.opened() as first:
        upsert(first, ITEM, (b"1", b"x"))
        with held(database) as let_go, altering(database, first, step) as ended:
            end_session(database, first)
            with pytest.raises(AlreadyRunningError, match="'copy' is gone, but what it began to alter") as raised:
                database.target().open()
            assert "IS_USED_LOCK" in str(raised.value.mend)
            with closing(MysqlTarget(TargetSettings(name="copy", url=database.url), "copy~new")) as rebuild:
                rebuild.open()
                with pytest.raises(AlreadyRunningError, match="began to alter"), rebuild.replacing("copy"):
                    pass
            let_go()
        assert isinstance(ended[0], PassingError)
        with database.opened() as second:
            run(second, step, WriteRows(WIDER, upserts=[(b"2", b"y", b"z")]))
    assert database.rows(WIDER) == [(b"1", b"x", None), (b"2", b"y", b"z")]


def test_an_alteration_may_take_longer_than_a_transaction_may_stand_still(database, monkeypatch):
    monkeypatch.setattr("consumers.targets.mysql.session._IDLE_SECONDS", 2)
    with database.opened() as target:
        upsert(target, ITEM, (b"1", b"x"))
        steps = AlterTable(WIDER, ITEM), WriteRows(WIDER, upserts=[(b"2", b"y", b"z")])
        with held(database) as let_go, altering(database, target, *steps) as ended:
            await_waiting(database, 4)
            let_go()
        assert ended == [None]
        assert target._session.query("SELECT @@idle_transaction_timeout", doing="testing") == [(2,)]
    assert database.rows(WIDER) == [(b"1", b"x", None), (b"2", b"y", b"z")]


# -- faults ----------------------------------------------------------------------------------------------------------


def raw(database: MariaDB, user: str = "root", password: str = "") -> pymysql.Connection:
    parts = sqlalchemy.make_url(database.url)
    return pymysql.connect(
        host=parts.host, port=parts.port, user=user, password=password, database=parts.database, ssl_disabled=True
    )


def test_a_server_that_is_killed_and_comes_back(own_mariadb):
    server: EmbeddedMariaDB = own_mariadb(innodb_flush_log_at_trx_commit="1")
    database = MariaDB(server.create_database("crash"))
    with database.opened() as target:
        upsert(target, ITEM, (b"1", b"x"))
        server.kill()
        with pytest.raises(PassingError):
            upsert(target, ITEM, (b"2", b"x"))
        with pytest.raises(PassingError):
            target.open()
        server.start()
        assert target.open().partitions
        upsert(target, ITEM, (b"2", b"x"))
    assert database.rows(ITEM) == [(b"1", b"x"), (b"2", b"x")]


def test_a_killed_session_lets_another_applier_in_and_writes_nothing(database, mariadb):
    with database.opened() as first:
        upsert(first, ITEM, (b"1", b"x"))
        for (session,) in database.execute("SELECT id FROM information_schema.processlist WHERE db = DATABASE()"):
            if session != database.execute("SELECT CONNECTION_ID()")[0][0]:
                mariadb.execute(f"KILL {session}") if is_alive(database, session) else None
        with database.opened() as second:
            with pytest.raises((PassingError, StaleApplierError)):
                upsert(first, ITEM, (b"2", b"x"))
            upsert(second, ITEM, (b"3", b"x"))
    assert database.rows(ITEM) == [(b"1", b"x"), (b"3", b"x")]


def is_alive(database: MariaDB, session: object) -> bool:
    return bool(database.execute(f"SELECT 1 FROM information_schema.processlist WHERE id = {session}"))


def test_rows_that_others_hold_pass(database):
    with database.opened() as target, closing(raw(database)) as other, other.cursor() as cursor:
        upsert(target, ITEM, (b"1", b"x"))
        target._session.execute("SET SESSION innodb_lock_wait_timeout = 1", doing="testing")
        cursor.execute("START TRANSACTION")
        cursor.execute("UPDATE item SET v = 'held' WHERE id = 1")
        with pytest.raises(PassingError, match=r"public\.item"):
            upsert(target, ITEM, (b"1", b"y"))
        cursor.execute("ROLLBACK")
        upsert(target, ITEM, (b"1", b"y"))
    assert database.rows(ITEM) == [(b"1", b"y")]


def test_a_table_dropped_behind_our_back(database, target):
    upsert(target, ITEM, (b"1", b"x"))
    database.execute("DROP TABLE item")
    with pytest.raises(TargetError, match=r"public\.item") as raised:
        upsert(target, ITEM, (b"2", b"x"))
    assert "start the applier again" in str(raised.value.mend)


def test_privileges_that_are_missing_or_revoked(database, mariadb, unique_name):
    name = sqlalchemy.make_url(database.url).database
    mariadb.execute(f"CREATE USER {unique_name} IDENTIFIED BY 'secret'", f"GRANT ALL ON {name}.* TO {unique_name}")
    url = mariadb.url(name, unique_name, "secret")
    target = open_target(TargetSettings(name="copy", url=url))
    try:
        target.open()
        upsert(target, ITEM, (b"1", b"x"))
        mariadb.execute(f"REVOKE ALL ON {name}.* FROM {unique_name}", f"GRANT SELECT ON {name}.* TO {unique_name}")
        with pytest.raises(TargetError, match="denied") as raised:
            target.open()
        assert "grant" in str(raised.value.mend)
    finally:
        target.close()
        mariadb.execute(f"DROP USER {unique_name}")
    with pytest.raises(TargetError, match="Access denied") as raised:
        target.open()
    assert "password" in str(raised.value.mend)
    assert "secret" not in str(raised.value)


def test_a_server_that_is_read_only_or_has_no_connection_left(own_mariadb):
    server: EmbeddedMariaDB = own_mariadb(max_connections="10", extra_max_connections="1")
    url = server.create_database("small")
    server.execute("CREATE USER plain IDENTIFIED BY 'p'", "GRANT ALL ON small.* TO plain")
    database = MariaDB(server.url("small", "plain", "p"))
    with database.opened() as target:
        upsert(target, ITEM, (b"1", b"x"))
        server.execute("SET GLOBAL read_only = 1")
        with pytest.raises(PassingError, match="read-only") as raised:
            upsert(target, ITEM, (b"2", b"x"))
        assert "takes writes" in str(raised.value.mend)
        assert any(not check.ok and "read-only" in check.found for check in target.checks())
        server.execute("SET GLOBAL read_only = 0")
        upsert(target, ITEM, (b"2", b"x"))
    others = [raw(database, "plain", "p") for _ in range(10)]
    try:
        with pytest.raises(PassingError, match="Too many connections"):
            database.target().open()
    finally:
        for other in others:
            other.close()
    assert url


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://root@localhost", "names no database"),
        ("mysql://root@localhost/x?init_command=x", "init_command"),
        ("mysql://root@local host:x/x", "not a MySQL URL"),
    ],
)
def test_urls_that_say_too_little_or_too_much(url, said):
    with pytest.raises(ConfigError, match=said):
        open_target(TargetSettings(name="copy", url=url)).open()
