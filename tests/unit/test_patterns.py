"""Which tables globs mean."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc.core.errors import ConfigError
from cdc.core.patterns import ColumnPatterns, TablePatterns, column_pattern
from cdc.core.tables import TableId

ORDERS = TableId("public", "orders")


@pytest.mark.parametrize(
    ("pattern", "table"),
    [
        ("public.orders", ORDERS),
        ("public.*", ORDERS),
        ("*.*", ORDERS),
        ("*.orders", ORDERS),
        ("pub*.o*r?", ORDERS),
        ("*.*", TableId("a.b", "c\nd")),
        ('"a.b".c', TableId("a.b", "c")),
        ('public."a.b"', TableId("public", "a.b")),
        ('public."a.b"*', TableId("public", "a.b_2026")),
        ('public."say ""hi"""', TableId("public", 'say "hi"')),
        ('public."what?"', TableId("public", "what?")),
        ('public.orders"[1]"', TableId("public", "orders[1]")),
        ("public.größe", TableId("public", "größe")),
        ("public.a+b", TableId("public", "a+b")),
    ],
)
def test_matches(pattern: str, table: TableId) -> None:
    assert TablePatterns([pattern]).matches(table)


@pytest.mark.parametrize(
    ("pattern", "table"),
    [
        ("public.order", ORDERS),
        ("public.rders", ORDERS),
        ("public.Orders", ORDERS),
        ("public.orders", TableId("public", "Orders")),
        ("public.order?", TableId("public", "order")),
        ("public.*", TableId("public2", "orders")),
        ("a.*", TableId("a.b", "c")),  # a wildcard stays in its part
        ("*.c", TableId("a", "b.c")),
        ('public."*"', ORDERS),  # quotes take the meaning away
        ("public.a+b", TableId("public", "aab")),
    ],
)
def test_does_not_match(pattern: str, table: TableId) -> None:
    assert not TablePatterns([pattern]).matches(table)


@pytest.mark.parametrize("patterns", [("public.*", "!public.audit_*"), ("!public.audit_*", "public.*")])
def test_exclusions_win_wherever_they_stand(patterns: tuple[str, ...]) -> None:
    chosen = TablePatterns(patterns)

    assert chosen.matches(ORDERS)
    assert not chosen.matches(TableId("public", "audit_2026"))


def test_several_patterns_are_alternatives() -> None:
    chosen = TablePatterns(["public.orders", "shop.*"])

    assert [chosen.matches(table) for table in (ORDERS, TableId("shop", "x"), TableId("public", "x"))] == [
        True,
        True,
        False,
    ]


def test_unmatched_names_the_patterns_that_mean_nothing() -> None:
    chosen = TablePatterns(["public.*", "public.ordres", "shop.*", "!public.none"])

    assert chosen.unmatched(iter([ORDERS])) == ("public.ordres", "shop.*")


@pytest.mark.parametrize(
    ("pattern", "what", "mend"),
    [
        ("orders", "names no schema", "'public.orders'"),
        ("!orders", "names no schema", "'!public.orders'"),
        ("*", "names no schema", "'public.*'"),
        ("shop.public.orders", "more parts", "database"),
        (".orders", "lacks a schema or a table", "schema.table"),
        ("public.", "lacks a schema or a table", "schema.table"),
        ('public.""', "lacks a schema or a table", "schema.table"),
        ("", "lacks a schema or a table", "schema.table"),
        ("!", "lacks a schema or a table", "schema.table"),
        ('public."orders', "not closed", "Close it"),
        ("public.a b", "' ' outside of quotes", "double quotes"),
        ("public.[ab]", "'[' outside of quotes", "* and ?"),
        ("public.a\0", "outside of quotes", "double quotes"),
    ],
)
def test_no_pattern(pattern: str, what: str, mend: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(what)) as caught:
        TablePatterns(["public.*", pattern])

    assert mend in (caught.value.mend or "")


@pytest.mark.parametrize(("patterns", "what"), [([], "no pattern"), (["!public.*"], "include none")])
def test_something_must_be_included(patterns: list[str], what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        TablePatterns(patterns)


NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20)


@given(NAMES, NAMES, NAMES, NAMES)
def test_a_quoted_name_means_exactly_itself(schema: str, name: str, other_schema: str, other_name: str) -> None:
    def quoted(part: str) -> str:
        return '"' + part.replace('"', '""') + '"'

    chosen = TablePatterns([f"{quoted(schema)}.{quoted(name)}"])

    assert chosen.matches(TableId(schema, name))
    assert chosen.matches(TableId(other_schema, other_name)) == ((other_schema, other_name) == (schema, name))


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ("public.orders.total", True),
        ("*.*.total", True),
        ("public.orders.t*", True),
        ("public.orders.tot", False),
        ("public.*.price", False),
    ],
)
def test_columns(pattern: str, matches: bool) -> None:
    assert ColumnPatterns(["public.no.such", pattern]).matches(ORDERS, "total") is matches


def test_no_pattern_means_no_column() -> None:
    assert not ColumnPatterns([]).matches(ORDERS, "total")


@pytest.mark.parametrize("pattern", ["total", "public.orders", "public.orders.", "a.b.c.d", "!public.orders.total"])
def test_what_names_no_column(pattern: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(repr(pattern))) as raised:
        ColumnPatterns([pattern])
    assert raised.value.mend == "Write 'schema.table.column'."


NAMES = st.text(st.sampled_from('ab!*?."\\ ü[') | st.characters(exclude_characters="\0"), min_size=1)


@given(NAMES, NAMES, NAMES)
def test_a_columns_own_pattern_matches_it(schema: str, table: str, column: str) -> None:
    pattern = column_pattern(TableId(schema, table), column)
    assert ColumnPatterns([pattern]).matches(TableId(schema, table), column)
    assert not ColumnPatterns([pattern]).matches(TableId(schema, table), column + "x")
