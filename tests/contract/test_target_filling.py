"""PostgreSQL: rows of a first load go to an empty table itself, where nothing speaks against it."""

from __future__ import annotations

from contextlib import suppress

import pytest
from target_databases import ByRole, Database
from target_steps import ORDERS, apply, text, version

from cdc.core.copy_text import copy_text
from cdc.core.errors import ConstraintError, FidelityError, TargetError
from cdc.core.events import Row
from cdc.core.tables import Column, TableSchema
from cdc.core.types import ColumnType, Kind
from consumers.plan.steps import CopyRows, TruncateTable, WriteRows
from consumers.targets.target import Target

pytestmark = pytest.mark.parametrize("database", ["postgresql-15", "postgresql-18"], indirect=True)

TABLE = "CREATE TABLE orders (id text PRIMARY KEY, a text, b text)"


def copied(*keys: bytes, table: TableSchema = ORDERS, value: bytes = b"x") -> CopyRows:
    rows: list[Row] = [(key, *[value] * (len(table.columns) - 1)) for key in keys]
    return CopyRows(table, [copy_text([row]) for row in rows], len(rows))


def watch(database: Database, table: str = "orders") -> None:
    """Note by which command each row comes."""
    database.execute("CREATE TABLE ways (way text, id text)")
    database.execute(
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " INSERT INTO ways VALUES (split_part(current_query(), ' ', 1), NEW.id); RETURN NEW; END $$"
    )
    database.execute(f"CREATE TRIGGER note BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION note()")


def ways(database: Database) -> list[str]:
    """The first letter of the command, and the row's key."""
    found = database.rows(version(text("way"), text("id"), name="ways", key=()))
    return [f"{way.decode()[0]}{key.decode()}" for way, key in sorted(found, key=lambda row: row[::-1])]


def test_an_empty_table_is_filled(database: Database, target: Target) -> None:
    database.execute(TABLE)
    watch(database)
    apply(target, copied(b"1", b"2"))
    apply(target, copied(b"3"), copied(b"4"), ordinal=2)
    apply(target, WriteRows(ORDERS, upserts=[(b"5", None, None)]), ordinal=3)
    with suppress(ZeroDivisionError), target.transaction(log_id="log") as transaction:
        transaction.run([copied(b"6")])
        raise ZeroDivisionError
    apply(target, copied(b"7"), ordinal=4)
    assert ways(database) == ["C1", "C2", "C3", "C4", "I5", "C7"]


def test_rows_of_a_first_load_that_came_alone_fill_a_table_too(database: Database, target: Target) -> None:
    """As through Kafka."""
    database.execute(TABLE)
    watch(database)
    apply(target, WriteRows(ORDERS, upserts=[(b"1", None, None)], loaded=True))
    apply(target, WriteRows(ORDERS, upserts=[(b"2", None, None)]), ordinal=2)
    apply(target, WriteRows(ORDERS, upserts=[(b"3", b"\\", None)], deletes=[(b"1",)], loaded=True), ordinal=3)
    assert ways(database) == ["C1", "I2", "C3"]
    assert database.rows(ORDERS) == [(b"2", None, None), (b"3", b"\\", None)]


def test_a_table_with_rows_is_not_filled(database: Database, target: Target) -> None:
    database.execute(TABLE)
    database.execute("INSERT INTO orders VALUES ('0', 'theirs', 'theirs')")
    watch(database)
    apply(target, copied(b"0", b"1"))
    assert set(ways(database)) == {"I0", "I1"}
    assert database.rows(ORDERS) == [(b"0", b"x", b"x"), (b"1", b"x", b"x")]


def test_a_table_that_others_inherit_is_filled_if_it_has_no_rows_of_its_own(database: Database, target: Target) -> None:
    database.execute(TABLE)
    database.execute("CREATE TABLE heir () INHERITS (orders)")
    database.execute("INSERT INTO heir VALUES ('0', 'theirs', 'theirs')")
    watch(database)
    apply(target, copied(b"0", b"1"))
    assert ways(database) == ["C0", "C1"]


def test_an_emptied_table_is_filled_again(database: Database, target: Target) -> None:
    database.execute(TABLE)
    watch(database)
    apply(target, WriteRows(ORDERS, upserts=[(b"1", None, None)]))
    apply(target, TruncateTable(ORDERS), copied(b"2"), ordinal=2)
    assert ways(database) == ["I1", "C2"]


def test_a_row_of_somebody_else_in_the_way_is_replaced(database: Database, target: Target) -> None:
    database.execute(TABLE)
    apply(target, copied(b"1", b"2"))
    database.execute("INSERT INTO orders VALUES ('4', 'theirs', 'theirs')")
    apply(target, copied(b"3", b"4"), ordinal=2)
    watch(database)
    apply(target, copied(b"5"), ordinal=3)
    assert database.rows(ORDERS) == [(b"%d" % number, b"x", b"x") for number in (1, 2, 3, 4, 5)]
    assert ways(database) == ["I5"]


def test_a_rule_of_the_table_sees_all_rows(database: Database, target: Target) -> None:
    database.execute(TABLE)
    database.execute("CREATE TABLE seen (id text)")
    database.execute("CREATE RULE also AS ON DELETE TO orders DO ALSO INSERT INTO seen VALUES ('gone')")
    watch(database)
    apply(target, copied(b"1"))
    assert ways(database) == ["I1"]


def test_an_identity_takes_the_values_of_the_source(database: Database, target: Target) -> None:
    database.execute("CREATE TABLE orders (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a text)")
    number = Column(name="id", type=ColumnType(kind=Kind.INT32, name="integer"), nullable=False)
    table = version(number, text("a"))
    watch(database)
    apply(target, copied(b"41", b"42", table=table))
    assert database.rows(table) == [(b"41", b"x"), (b"42", b"x")]
    assert ways(database) == ["C41", "C42"]


def test_a_column_that_the_target_generates_is_left_to_it(database: Database, target: Target) -> None:
    database.execute("CREATE TABLE orders (id text PRIMARY KEY, a text, b text GENERATED ALWAYS AS (a || 'y') STORED)")
    apply(target, copied(b"1", b"2"))
    assert database.rows(ORDERS) == [(b"1", b"x", b"xy"), (b"2", b"x", b"xy")]


def test_a_value_that_the_target_would_change_is_refused(database: Database, target: Target) -> None:
    """The fields of a composite may be narrower than at the source: such a column is looked at in a staging table."""
    database.execute("CREATE TYPE price AS (amount numeric(4,1))")
    database.execute("CREATE TABLE orders (id text PRIMARY KEY, a price)")
    price = Column(name="a", type=ColumnType(kind=Kind.STRING, name="price"))
    table = version(text("id", nullable=False), price)
    with pytest.raises(FidelityError, match="column a"):
        apply(target, copied(b"1", table=table, value=b"(1.25)"))


def test_a_value_that_does_not_fit_names_its_column(database: Database, target: Target) -> None:
    """Also where a column is called as those of staging tables are."""
    short = ColumnType(kind=Kind.STRING, name="character varying(3)", length=3)
    table = version(text("id", nullable=False), Column(name="c0", type=short))
    database.execute("CREATE TABLE orders (id text PRIMARY KEY, c0 varchar(3))")
    with pytest.raises(FidelityError, match="column c0"):
        apply(target, copied(b"1", table=table, value=b"long"))


def test_policies_of_the_table_stay_in_force(database: Database, plain_role: ByRole) -> None:
    """For a role that they concern, COPY would fail."""
    database.execute(TABLE)
    database.execute("CREATE POLICY all_rows ON orders USING (true)")
    database.execute("ALTER TABLE orders ENABLE ROW LEVEL SECURITY")
    watch(database)
    database.execute(f"GRANT ALL ON orders, ways TO {plain_role.role}")
    with plain_role.opened() as target:
        apply(target, copied(b"1", b"2"))
    assert ways(database) == ["I1", "I2"]


def test_a_target_that_could_not_go_on_says_so_at_once(database: Database, target: Target) -> None:
    """ON CONFLICT may not set an identity that is always generated; COPY may."""
    database.execute("CREATE TABLE orders (id text PRIMARY KEY, a int GENERATED ALWAYS AS IDENTITY, b text)")
    number = Column(name="a", type=ColumnType(kind=Kind.INT32, name="integer"))
    table = version(text("id", nullable=False), number, text("b"))
    with pytest.raises(TargetError, match="428C9"):
        apply(target, copied(b"1", table=table, value=b"7"))


def test_a_key_that_comes_twice_is_refused_as_what_a_constraint_does_not_take(
    database: Database, target: Target
) -> None:
    """So that it is tried again row by row."""
    database.execute(TABLE)
    database.execute("INSERT INTO orders VALUES ('0')")
    with pytest.raises(ConstraintError):
        apply(target, copied(b"1", b"1"))
