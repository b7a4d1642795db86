"""What turns one version of a table into another can be run step by step, and ends there."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cdc.core.tables import Column, TableId, TableSchema
from cdc.core.types import ColumnType, Kind
from consumers.plan.alterations import (
    AddColumn,
    ChangeKey,
    ChangeType,
    DropColumn,
    RenameColumn,
    RenameTable,
    SetNullable,
    alterations,
)
from consumers.plan.steps import AlterTable

TYPES = [ColumnType(kind=Kind.STRING, name="text"), ColumnType(kind=Kind.INT32, name="integer")]
NAMES = ["a", "b", "c", "d"]


@st.composite
def versions(draw: st.DrawFn) -> TableSchema:
    names = draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=4))
    ids = draw(st.permutations(range(1, 6)))
    key = tuple(sorted(draw(st.sets(st.sampled_from(range(len(names))))))) if names else ()
    columns = tuple(
        Column(
            name=name,
            type=draw(st.sampled_from(TYPES)),
            nullable=at not in key and draw(st.booleans()),
            id=draw(st.just(ids[at])),
        )
        for at, name in enumerate(names)
    )
    return TableSchema(id=TableId("public", draw(st.sampled_from(["t", "u"]))), columns=columns, key=key)


@given(versions(), versions())
def test_they_end_at_the_new_version_with_the_old_data_where_it_belongs(before, after):
    name = before.id
    table = {column.name: column for column in before.columns}
    holds = {column.name: column.id for column in before.columns}
    key = {column.name for column in before.key_columns}
    for each in alterations(AlterTable(after, before, {})):
        match each:
            case RenameTable(old, new):
                assert name == old
                name = new
            case DropColumn(column):
                assert column not in key
                del table[column], holds[column]
            case RenameColumn(old, new):
                assert new not in table, "two columns of one name"
                table[new], holds[new] = table.pop(old), holds.pop(old)
                key = {new if part == old else part for part in key}
            case ChangeType(_, column):
                table[column.name] = column
            case AddColumn(column):
                assert column.name not in table, "two columns of one name"
                table[column.name], holds[column.name] = column, column.id
            case SetNullable(column):
                assert not (column.nullable and column.name in key)
                table[column.name] = column
            case ChangeKey(names):
                assert set(names) <= table.keys()
                key = set(names)
    assert name == after.id
    assert holds == {column.name: column.id for column in after.columns}
    assert {n: (c.type, c.nullable) for n, c in table.items()} == {c.name: (c.type, c.nullable) for c in after.columns}
    assert key == {column.name for column in after.key_columns}


def test_columns_of_the_longest_names_change_them_round_by_way_of_names_that_are_no_longer():
    """PostgreSQL cuts at 63 bytes, and would look for the column by the whole name then."""

    def version(*names: str) -> TableSchema:
        columns = (Column(name=name, type=TYPES[0], id=number) for number, name in enumerate(names, 1))
        return TableSchema(id=TableId("public", "t"), columns=tuple(columns), key=())

    one, two, other, taken = "a" * 63, "ä" * 31, "b", "cdc_renamed_1"
    found = alterations(AlterTable(version(two, one, taken, other), version(one, two, other, taken), {}))
    asides = [each.new for each in found if isinstance(each, RenameColumn) and each.new not in {one, two, other, taken}]
    assert asides == ["cdc_renamed_2"] * 2


def test_without_ids_columns_are_told_by_name():
    def version(*names: str) -> TableSchema:
        return TableSchema(
            id=TableId("public", "t"), columns=tuple(Column(name=name, type=TYPES[0]) for name in names), key=()
        )

    found = alterations(AlterTable(version("a", "c"), version("a", "b"), {"c": b"5"}))
    assert found == [DropColumn("b"), AddColumn(Column(name="c", type=TYPES[0]), b"5")]
