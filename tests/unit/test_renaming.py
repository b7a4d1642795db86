from __future__ import annotations

import pytest

from cdc.core.errors import ConfigError
from cdc.core.renaming import Renaming
from cdc.core.tables import TableId


@pytest.mark.parametrize(
    ("names", "table", "name"),
    [
        ({}, "public.a", "public.a"),
        ({"public.*": "replica.*"}, "public.a", "replica.a"),
        ({"public.*": "replica.*"}, "other.a", "other.a"),
        ({"public.*": "replica.*", "public.orders": "shop.bestellungen"}, "public.orders", "shop.bestellungen"),
        ({"*.*": "all.*_of_x"}, "public.a", "all.a_of_x"),
        ({"*.*": "old_*.*"}, "public.a", "old_public.a"),
        ({"public.old_*_*": "public.*-*_new"}, "public.old_a_b_c", "public.a_b-c_new"),
        ({"public.a?": '"a.b"."*"'}, "public.a1", '"a.b"."*"'),
        ({'public."*"': "public.star"}, 'public."*"', "public.star"),
        ({"public.*": "x.*", "*.a": "x.a"}, "public.a", "x.a"),
    ],
)
def test_name(names: dict[str, str], table: str, name: str) -> None:
    given = TableId(*(part.strip('"') for part in table.rsplit(".", 1)))

    assert Renaming(names).name(given) == TableId(*(part.strip('"') for part in name.rsplit(".", 1)))


@pytest.mark.parametrize(
    ("names", "what"),
    [
        ({"public.a": "a"}, "'a' names no schema"),
        ({"public": "x.y"}, "'public' names no schema"),
        ({"!public.a": "x.y"}, "excludes, and names nothing"),
        ({"public.*": "*.x"}, "has not as many *"),
        ({"public.a*": "public.b?"}, "is no name for a table"),
        ({"public.a": "!public.b"}, "is no name for a table"),
        ({"public.a": "x.a", '"public".a': "x.b"}, "public.a is renamed twice"),
    ],
)
def test_what_is_no_renaming(names: dict[str, str], what: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Renaming(names)

    assert what in str(refused.value)


def test_two_names_for_one_table() -> None:
    with pytest.raises(ConfigError, match=r"two names for table public.a: 'public.\*' \(x.a\) and '\*.a' \(y.a\)"):
        Renaming({"public.*": "x.*", "*.a": "y.a"}).name(TableId("public", "a"))


def test_a_name_that_is_too_long() -> None:
    with pytest.raises(ConfigError, match="63 bytes at most"):
        Renaming({"public.*": "public.ä*"}).name(TableId("public", "x" * 62))
