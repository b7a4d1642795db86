"""What PostgreSQL's tables may have that no other target's have: heirs, policies, keys that call more values equal."""

from __future__ import annotations

import psycopg2.errors
import pytest
from target_databases import ByRole, Database
from target_steps import KEYLESS, ONE, ORDERS, advance, apply, at, numbered, text, upserted, version

from cdc.core.errors import GapError, TargetSchemaError
from cdc.core.events import UNCHANGED
from cdc.core.tables import Column
from cdc.core.types import ColumnType, Kind
from consumers.plan.steps import AlterTable, MoveRow, TruncateTable, WriteRows
from consumers.targets.target import Target

pytestmark = pytest.mark.parametrize("database", ["postgresql-15", "postgresql-18"], indirect=True)

TABLE = "CREATE TABLE orders (id text PRIMARY KEY, a text, b text)"
HEIR = version(*ORDERS.columns, name="heir")


def own_rows(database: Database, table: str = "orders") -> list[tuple[bytes | None, ...]]:
    return sorted(database.selected(f"SELECT * FROM ONLY {table}", ORDERS))


# -- settings of the session -----------------------------------------------------------------------------------------


def test_limits_of_the_database_do_not_end_a_large_transaction(database: Database) -> None:
    """transaction_timeout is PostgreSQL 17's."""
    limits = ["idle_session_timeout", "statement_timeout", "transaction_timeout"]
    known = database.execute(f"SELECT name FROM pg_settings WHERE name = ANY (ARRAY{limits})")
    ((name,),) = database.execute("SELECT current_database()")
    for (limit,) in known:
        database.execute(f"ALTER DATABASE {name} SET {limit} = '10min'")
    found = " || ' ' || ".join(f"current_setting('{limit}')" for (limit,) in known)
    database.execute(f"CREATE TABLE orders (id text PRIMARY KEY, a text, b text, under text DEFAULT {found})")
    with database.opened() as target:
        upserted(target, (b"1", b"x", b"y"))
    assert database.execute("SELECT under FROM orders") == [(" ".join("0" for _ in known),)]


# -- tables that others inherit --------------------------------------------------------------------------------------


@pytest.fixture
def heir(database: Database, target: Target) -> Database:
    """The database, with a table of two rows and another that inherits it, and has the same ones."""
    database.execute(TABLE)
    database.execute("CREATE TABLE heir (PRIMARY KEY (id)) INHERITS (orders)")
    for table in (ORDERS, HEIR):
        upserted(target, (b"1", b"x", b"y"), (b"2", b"x", b"y"), table=table)
    return database


@pytest.mark.parametrize(
    ("step", "left"),
    [
        (WriteRows(ORDERS, deletes=[(b"1",)]), [(b"2", b"x", b"y")]),
        (WriteRows(ORDERS, partials=[(b"1", b"n", UNCHANGED)]), [(b"1", b"n", b"y"), (b"2", b"x", b"y")]),
        (MoveRow(ORDERS, (b"1",), (b"9", b"n", UNCHANGED)), [(b"2", b"x", b"y"), (b"9", b"n", b"y")]),
        (TruncateTable(ORDERS), []),
    ],
    ids=["delete", "partial", "move", "truncate"],
)
def test_tables_that_inherit_one_keep_their_rows(heir: Database, target: Target, step, left) -> None:
    apply(target, step, ordinal=2)
    assert own_rows(heir) == left
    assert own_rows(heir, "heir") == [(b"1", b"x", b"y"), (b"2", b"x", b"y")]


def test_a_row_without_key_is_not_removed_from_a_table_that_inherits_its_own(
    database: Database, target: Target
) -> None:
    database.execute("CREATE TABLE keyless (a text, b text)")
    database.execute("CREATE TABLE heir () INHERITS (keyless)")
    database.execute("INSERT INTO heir VALUES ('x', 'y')")
    with pytest.raises(GapError):
        apply(target, WriteRows(KEYLESS, removed=[(b"x", b"y")]))
    assert database.execute("SELECT count(*) FROM heir") == [(1,)]


def test_a_column_that_was_there_is_filled_in_the_table_s_own_rows(database: Database, target: Target) -> None:
    before = version(numbered("id", 1, nullable=False), numbered("a", 2))
    database.execute("CREATE TABLE orders (id text PRIMARY KEY, a text, b text)")
    database.execute("CREATE TABLE heir () INHERITS (orders)")
    database.execute("INSERT INTO orders VALUES ('1', 'x', NULL); INSERT INTO heir VALUES ('2', 'x', 'theirs')")
    after = version(*before.columns, numbered("b", 3))
    advance(target, {ONE: at(1)}, AlterTable(after, before, fills={"b": b"new"}))
    assert own_rows(database) == [(b"1", b"x", b"new")]
    assert own_rows(database, "heir") == [(b"2", b"x", b"theirs")]


def test_a_hypertable_is_written_with_the_tables_that_hold_its_rows(database: Database, target: Target) -> None:
    """As TimescaleDB has them: to PostgreSQL the rows are those of tables that inherit it."""
    database.execute("CREATE SCHEMA _timescaledb_catalog")
    database.execute("CREATE TABLE _timescaledb_catalog.hypertable (schema_name name, table_name name)")
    database.execute("INSERT INTO _timescaledb_catalog.hypertable VALUES ('public', 'orders')")
    database.execute(TABLE)
    database.execute("CREATE TABLE chunk (PRIMARY KEY (id)) INHERITS (orders)")
    database.execute("INSERT INTO chunk VALUES ('1', 'x', 'y'), ('2', 'x', 'y'), ('3', 'x', 'y')")
    apply(target, WriteRows(ORDERS, deletes=[(b"1",)], partials=[(b"2", b"n", UNCHANGED)]))
    assert database.rows(ORDERS) == [(b"2", b"n", b"y"), (b"3", b"x", b"y")]
    apply(target, TruncateTable(ORDERS), ordinal=2)
    assert database.rows(ORDERS) == []


# -- row-level security ----------------------------------------------------------------------------------------------


@pytest.fixture
def by_role(database: Database, plain_role: ByRole) -> ByRole:
    """The database as a role comes to it that policies of the table concern."""
    database.execute(TABLE)
    database.execute(f"GRANT ALL ON orders TO {plain_role.role}; ALTER TABLE orders ENABLE ROW LEVEL SECURITY")
    return plain_role


ALL_ROWS = "USING (true)"
THREE = ("FOR SELECT USING (true)", "FOR UPDATE USING (true)", "FOR INSERT WITH CHECK (true)")


@pytest.mark.parametrize(
    "policies",
    [
        (),
        THREE,
        ("USING (a <> 'x')",),
        ("TO pg_monitor USING (true)",),
        (ALL_ROWS, "AS RESTRICTIVE FOR DELETE USING (a <> 'x')"),
    ],
    ids=["none", "none for DELETE", "some rows", "of another role", "restrictive"],
)
def test_policies_that_may_hide_rows_are_refused(database: Database, by_role: ByRole, policies) -> None:
    for number, policy in enumerate(policies):
        database.execute(f"CREATE POLICY p{number} ON orders {policy}")
    with by_role.opened() as target, pytest.raises(TargetSchemaError, match="orders has row-level security") as raised:
        target.prepare(ORDERS)
    mend, _, other = str(raised.value.mend).partition(", without restrictive")
    assert "BYPASSRLS" in other
    database.execute("DROP POLICY IF EXISTS p1 ON orders")
    database.execute(mend.replace("<the role in the target's url>", by_role.role))
    written_and_deleted(by_role)


@pytest.mark.parametrize(
    "policies",
    [
        (ALL_ROWS,),
        (f"TO pg_monitor {ALL_ROWS}", "TO public USING (true) WITH CHECK (a <> 'bad')"),
        (*THREE, "FOR DELETE USING (true)", "AS RESTRICTIVE FOR INSERT WITH CHECK (a <> 'bad')"),
    ],
    ids=["all", "with a check", "one by one"],
)
def test_policies_that_hide_nothing_are_fine(database: Database, by_role: ByRole, policies) -> None:
    for number, policy in enumerate(policies):
        database.execute(f"CREATE POLICY p{number} ON orders {policy}")
    written_and_deleted(by_role)


def written_and_deleted(database: Database) -> None:
    with database.opened() as target:
        upserted(target, *((b"%d" % number, b"x", b"y") for number in range(4)))
        apply(target, WriteRows(ORDERS, deletes=[(b"1",)], partials=[(b"2", b"n", UNCHANGED)]), ordinal=2)
        assert database.rows(ORDERS) == [(b"0", b"x", b"y"), (b"2", b"n", b"y"), (b"3", b"x", b"y")]
        apply(target, TruncateTable(ORDERS), ordinal=3)
        assert database.rows(ORDERS) == []


# -- keys that call more values equal than the source does ------------------------------------------------------------

LOGIN = Column(name="id", type=ColumnType(kind=Kind.STRING, name="character varying(9)", length=9), nullable=False)
LOGINS = version(LOGIN, text("a"), text("b"))
KEYS = [(b"Bob", b"x", None), (b"bob", b"y", None)]


@pytest.fixture
def citext(database: Database) -> Database:
    """The database, with a type and a domain to which `Bob` is `bob`."""
    if not database.execute("SELECT 1 FROM pg_available_extensions WHERE name = 'citext'"):
        pytest.skip("this PostgreSQL has no citext")
    database.execute("CREATE EXTENSION citext; CREATE DOMAIN ci AS citext")
    return database


@pytest.fixture
def folding(database: Database) -> Database:
    """The database, with a collation and a domain to which `Bob` is `bob`."""
    try:
        database.execute(
            "CREATE COLLATION folded (provider = icu, locale = 'und-u-ks-level2', deterministic = false);"
            "CREATE DOMAIN folded_text AS text COLLATE folded"
        )
    except psycopg2.errors.FeatureNotSupported:
        pytest.skip("this PostgreSQL is built without ICU")
    return database


def refused_until_mended(database: Database, target: Target, declared: str) -> None:
    database.execute(f"CREATE TABLE orders (id {declared} PRIMARY KEY, a text, b text)")
    with pytest.raises(TargetSchemaError, match=r"key column id: .* may be one") as raised:
        target.prepare(LOGINS)
    database.execute(str(raised.value.mend))
    upserted(target, *KEYS, table=LOGINS)
    apply(target, WriteRows(LOGINS, deletes=[(b"bob",)]), ordinal=2)
    assert database.rows(LOGINS) == KEYS[:1]


@pytest.mark.parametrize("declared", ["citext", "ci"])
def test_a_key_of_citext_is_refused(citext: Database, target: Target, declared: str) -> None:
    refused_until_mended(citext, target, declared)


@pytest.mark.parametrize("declared", ["varchar(9) COLLATE folded", "folded_text"])
def test_a_key_with_a_collation_that_is_not_deterministic_is_refused(
    folding: Database, target: Target, declared: str
) -> None:
    refused_until_mended(folding, target, declared)


def test_a_key_of_arrays_of_citext_is_refused(citext: Database, target: Target) -> None:
    citext.execute("CREATE TABLE orders (id citext[] PRIMARY KEY)")
    names = ColumnType(kind=Kind.ARRAY, name="text[]", element=ColumnType(kind=Kind.STRING, name="text"))
    table = version(Column(name="id", type=names, nullable=False))
    with pytest.raises(TargetSchemaError, match=r"key column id: .* may be one") as raised:
        target.prepare(table)
    citext.execute(str(raised.value.mend))
    upserted(target, (b"{Bob}",), (b"{bob}",), table=table)
    assert len(citext.rows(table)) == 2


def test_a_further_unique_index_that_calls_more_keys_equal_is_refused(folding: Database, target: Target) -> None:
    """ON CONFLICT (id) goes by all unique indexes on id."""
    folding.execute(TABLE)
    folding.execute("CREATE UNIQUE INDEX no_twins ON orders (id COLLATE folded)")
    with pytest.raises(TargetSchemaError, match="unique index no_twins") as raised:
        target.prepare(ORDERS)
    folding.execute(str(raised.value.mend))
    upserted(target, *KEYS)
    assert folding.rows(ORDERS) == KEYS


def test_a_key_of_citext_is_fine_if_the_source_s_is(citext: Database, target: Target) -> None:
    citext.execute("CREATE TABLE orders (id citext PRIMARY KEY, a citext, b text)")
    login = Column(name="id", type=ColumnType(kind=Kind.STRING, name="public.citext"), nullable=False)
    table = version(login, text("a"), text("b"))
    upserted(target, (b"Bob", b"X", None), table=table)
    upserted(target, (b"bob", b"x", None), table=table)
    assert citext.rows(table) == [(b"Bob", b"x", None)]


def test_columns_that_are_no_key_may_have_any_collation(folding: Database, target: Target) -> None:
    folding.execute("CREATE TABLE orders (id text PRIMARY KEY, a text COLLATE folded, b text, UNIQUE (id, a))")
    upserted(target, *KEYS)
    assert folding.rows(ORDERS) == KEYS


# -- alterations of what people made ----------------------------------------------------------------------------------


def test_columns_follow_away_from_types_of_users(database: Database, target: Target) -> None:
    """Events call them by their schema."""
    database.execute("CREATE TYPE mood AS ENUM ('good')")
    mood, strings = ColumnType(kind=Kind.ENUM, name="public.mood"), numbered("a", 2).type
    moods = ColumnType(kind=Kind.ARRAY, name="public.mood[]", element=mood)
    texts = ColumnType(kind=Kind.ARRAY, name="text[]", element=strings)
    key = numbered("id", 1, nullable=False)
    before = version(key, Column(name="a", type=mood, id=2), Column(name="b", type=moods, id=3))
    after = version(key, Column(name="a", type=strings, id=2), Column(name="b", type=texts, id=3))
    upserted(target, (b"1", b"good", b"{good}"), table=before)
    new = WriteRows(after, upserts=[(b"2", b"as ever", b"{fine}")])
    advance(target, {ONE: at(2)}, AlterTable(after, before), new)
    assert database.rows(after) == [(b"1", b"good", b"{good}"), (b"2", b"as ever", b"{fine}")]


def test_a_primary_key_of_the_target_s_own_stays(database: Database, target: Target) -> None:
    database.execute(
        "CREATE TABLE orders (own int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, id text NOT NULL UNIQUE, a text,"
        " b text)"
    )
    before = version(numbered("id", 1, nullable=False), numbered("a", 2, nullable=False), numbered("b", 3))
    after = version(*before.columns, key=(1,))
    upserted(target, (b"1", b"x", b"y"), table=before)
    new = WriteRows(after, upserts=[(b"2", b"x", b"z"), (b"3", b"w", None)])
    advance(target, {ONE: at(2)}, AlterTable(after, before), new)
    assert database.rows(after) == [(b"2", b"x", b"z"), (b"3", b"w", None)]
    assert database.execute(
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'orders'::regclass AND contype = 'p'"
    ) == [("PRIMARY KEY (own)",)]
