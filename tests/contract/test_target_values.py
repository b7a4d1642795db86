"""What every target does: values come out as they went in, or are refused."""

from __future__ import annotations

import pytest
from target_databases import Database
from target_steps import (
    ON_POSTGRESQL,
    ONE,
    ORDERS,
    WITH_TABLES_OF_OTHERS,
    advance,
    apply,
    at,
    text,
    upserted,
    version,
)

from cdc.core.copy_text import copy_text
from cdc.core.errors import (
    CdcError,
    FidelityError,
    TargetSchemaError,
)
from cdc.core.events import UNCHANGED, Row
from cdc.core.tables import Column, TableId, TableSchema
from cdc.core.types import ColumnType, Kind
from consumers.plan.steps import AlterTable, CopyRows, MoveRow, WriteRows

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


@ON_POSTGRESQL
@pytest.mark.parametrize(
    ("type_", "value"), [(PAIR, b"(1.25,)"), (PAIRS, b'{"(1.25,)"}')], ids=["itself", "in an array"]
)
def test_what_a_new_column_gives_to_old_rows_is_not_rounded_either(database, target, type_, value):
    database.execute("CREATE TYPE pair AS (n numeric(5,1), t text)")
    before = version(text("id", nullable=False))
    after = version(*before.columns, Column(name="v0", type=type_))
    upserted(target, (b"1",), table=before)
    with pytest.raises(FidelityError, match=r"orders, column v0: .* would change"):
        advance(target, {ONE: at(2)}, AlterTable(after, before, fills={"v0": value}))
    database.execute("ALTER TYPE pair ALTER ATTRIBUTE n TYPE numeric(5,2)")
    advance(target, {ONE: at(2)}, AlterTable(after, before, fills={"v0": value}))
    assert database.rows(after) == [(b"1", value)]


@ON_POSTGRESQL
def test_floats_are_not_written_where_zero_has_no_sign(database, target):
    database.execute("CREATE TABLE orders (id text PRIMARY KEY, v0 numeric)")
    table = of_types(ColumnType(kind=Kind.FLOAT64, name="double precision"))
    with pytest.raises(TargetSchemaError, match="v0: numeric would change") as raised:
        target.prepare(table)
    database.execute(str(raised.value.mend))
    upserted(target, (b"1", b"-0"), table=table)
    assert database.rows(table) == [(b"1", b"-0")]


@ON_POSTGRESQL
def test_another_type_of_users_is_not_taken_at_its_word(database, target):
    """It takes what it writes in another way, as hstore does."""
    database.execute("CREATE TYPE spread AS RANGE (subtype = integer)")
    database.execute("CREATE TABLE orders (id text PRIMARY KEY, v0 spread)")
    table = of_types(ColumnType(kind=Kind.STRING, name="text"))
    upserted(target, (b"1", b"[1,5]"), table=table)
    with pytest.raises(FidelityError, match=r"orders, column v0"):
        upserted(target, (b"2", b"[1, 5]"), table=table)
    assert database.rows(table) == [(b"1", b"[1,5]")]


@pytest.mark.parametrize("database", ["postgresql-15"], indirect=True)
def test_xml_that_begins_with_a_line_feed_keeps_it(database, target):
    """PostgreSQL writes xml without its first one. (The other versions here are built without libxml.)"""
    table = of_types(ColumnType(kind=Kind.XML, name="xml"))
    rows: list[Row] = [(b"1", b"\n<r/>"), (b"2", b"<r>\n</r>"), (b"3", None), (b"4", b"\n\n<?p?><r/>")]
    apply(target, CopyRows(table, [copy_text(rows)], len(rows)))
    assert database.rows(table) == rows
    upserted(target, *rows, table=table)
    assert database.rows(table) == rows
    keyless = TableSchema(id=TableId("public", "keyless_xml"), columns=table.columns, key=())
    apply(target, WriteRows(keyless, added=rows))
    apply(target, WriteRows(keyless, removed=rows))
    assert database.rows(keyless) == []


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
