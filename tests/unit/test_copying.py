"""Rows as COPY's text: each value as it is, or an error."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc.core.errors import FidelityError
from cdc.core.events import UNCHANGED
from consumers.targets.postgresql.copying import copy_lines


def lines(part, *rows):
    return b"".join(copy_lines(part, rows, doing="writing", columns=["a", "b"][: len(rows[0])]))


def test_each_value_is_a_field():
    assert (
        lines(7, (b"x\ty", b"\\N"), (None, b""), (UNCHANGED, b"a\nb")) == b"7\tx\\ty\t\\\\N\n7\t\\N\t\n7\t\\N\ta\\nb\n"
    )
    assert lines(None, (b"1", b"2"), (b"3", None)) == b"1\t2\n3\t\\N\n"


def written(field):
    """One at a time, as PostgreSQL's documentation says."""
    if not isinstance(field, bytes):
        return b"\\N"
    for raw, text in ((b"\\", b"\\\\"), (b"\t", b"\\t"), (b"\n", b"\\n"), (b"\r", b"\\r")):
        field = field.replace(raw, text)
    return field


FIELDS = st.none() | st.just(UNCHANGED) | st.text("ab\\\t\n\rNfl\v", max_size=6).map(str.encode)


@given(
    st.integers(1, 4).flatmap(lambda width: st.lists(st.tuples(*[FIELDS] * width), min_size=1, max_size=30)),
    st.none() | st.integers(0, 99),
)
def test_every_field_is_escaped_whatever_stands_beside_it(rows, part):
    before = b"" if part is None else b"%d\t" % part
    made = b"".join(copy_lines(part, rows, doing="writing", columns="abcd"[: len(rows[0])]))
    assert made == b"".join(before + b"\t".join(map(written, row)) + b"\n" for row in rows)


def test_a_row_without_columns_is_its_part_alone():
    assert lines(7, (), ()) == b"7\n7\n"


@pytest.mark.parametrize("value", [b"\0", b"\0N", b"\0f", b"\0l", b"a\0"])
@pytest.mark.parametrize("other", [b"", None, UNCHANGED])
def test_a_value_with_nul_is_refused_also_where_it_looks_like_what_stands_for_null(value, other):
    with pytest.raises(FidelityError, match=r"column b: .*NUL"):
        lines(1, (other, value))


@pytest.mark.parametrize("size", [10_000, 100_000])
def test_large_rows_are_escaped_a_few_at_a_time(size):
    """A text has several times its size in memory while that is done."""
    pieces = [*copy_lines(None, [(b"x" * size, None)] * 1_000, doing="writing", columns=["a", "b"])]
    assert b"".join(pieces) == (b"x" * size + b"\t\\N\n") * 1_000
    assert max(map(len, pieces[1:])) < 300_000
    assert len(pieces[0]) < 20 * size
