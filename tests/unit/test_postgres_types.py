"""PostgreSQL's types in the neutral vocabulary."""

import pytest

from cdc.core.types import ColumnType, Kind
from cdc.sources.postgres.types import PgType, column_type


def pg_type(oid, name, **more):
    given = {"schema": "pg_catalog", "category": "b", "element": 0, "is_array": False, "base": 0, "base_modifier": -1}
    return PgType(**{**given, "oid": oid, "name": name, **more})


INT, TIMES = 23, 1185
TYPES = {
    each.oid: each
    for each in (
        pg_type(INT, "int4"),
        pg_type(1560, "bit"),
        pg_type(1562, "varbit"),
        pg_type(1184, "timestamptz"),
        pg_type(TIMES, "_timestamptz", element=1184, is_array=True),
        pg_type(90001, "json", schema="app", category="c"),
        pg_type(90002, "text", schema="app", category="e"),
        pg_type(90003, "vector", schema="public", extension="vector"),
        pg_type(90004, "vector", schema="app"),
        pg_type(90005, "age", schema="public", category="d", base=INT, base_name="integer"),
        pg_type(90006, "ages", schema="public", category="d", base=90005, base_name="public.age"),
        pg_type(
            90007, "times", schema="public", category="d", base=TIMES, base_modifier=3,
            base_name="timestamp(3) with time zone[]",
        ),
        pg_type(90008, "_age", schema="public", element=90005, is_array=True),
    )
}  # fmt: skip


@pytest.mark.parametrize(
    ("oid", "modifier", "name", "kind", "length"),
    [
        (1560, 1, "bit(1)", Kind.BIT, 1),
        (1560, 3, "bit(3)", Kind.BITS, 3),
        (1560, -1, '"bit"', Kind.BITS, None),  # a column declared as "bit", in quotes, takes any number of bits
        (1562, 1, "bit varying(1)", Kind.BITS, 1),
        # Types of users that are called like others.
        (90001, -1, "app.json", Kind.OTHER, None),
        (90002, -1, "app.text", Kind.ENUM, None),
        (90003, 3, "public.vector(3)", Kind.VECTOR, None),
        (90004, -1, "app.vector", Kind.OTHER, None),
        (99999, -1, "???", Kind.OTHER, None),
    ],
)
def test_kinds(oid, modifier, name, kind, length):
    assert column_type(TYPES, oid, modifier, name=name) == ColumnType(kind=kind, name=name, length=length)


def test_a_domain_is_what_it_is_over():
    age = ColumnType(kind=Kind.INT32, name="public.age", base="integer")
    assert column_type(TYPES, 90005, -1, name="public.age") == age
    assert column_type(TYPES, 90006, -1, name="public.ages") == ColumnType(
        kind=Kind.INT32, name="public.ages", base="integer"
    )
    assert column_type(TYPES, 90008, -1, name="public.age[]") == ColumnType(
        kind=Kind.ARRAY, name="public.age[]", element=age
    )


def test_a_domain_over_an_array_has_the_elements_of_that():
    assert column_type(TYPES, 90007, -1, name="public.times") == ColumnType(
        kind=Kind.ARRAY,
        name="public.times",
        base="timestamp(3) with time zone[]",
        element=ColumnType(kind=Kind.TIMESTAMPTZ, name="timestamp(3) with time zone"),
    )
