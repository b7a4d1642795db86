"""`docs/types.md` says what the code does."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from cdc.avro.schemas import envelope_schema
from cdc.core.tables import Column, TableId, TableSchema
from cdc.core.types import ColumnType, Kind, has_one_text
from cdc.sources.postgres.types import PgType, column_type, kinds_by_name
from consumers.targets.generic.types import wanted_form
from consumers.targets.mysql.types import declared_type as mysql_type
from consumers.targets.postgresql.types import fallback
from consumers.targets.sqlite.types import declared_type

PAGE = Path(__file__).parents[2] / "docs" / "types.md"

# A column of each kind, where the kind alone is none.
COLUMNS = {
    Kind.DECIMAL: ColumnType(kind=Kind.DECIMAL, name="numeric(10,2)", precision=10, scale=2),
    Kind.BIT: ColumnType(kind=Kind.BIT, name="bit(1)", length=1),
    Kind.BITS: ColumnType(kind=Kind.BITS, name="bit(8)", length=8),
    Kind.ARRAY: ColumnType(kind=Kind.ARRAY, name="integer[]", element=ColumnType(kind=Kind.INT32, name="integer")),
}


def column(kind: Kind) -> ColumnType:
    return COLUMNS.get(kind, ColumnType(kind=kind, name="x"))


def table_of_kinds() -> dict[Kind, list[str]]:
    """The cells of the row of each kind."""
    rows = {}
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == 8 and cells[1].startswith("`"):
            rows[Kind(cells[1].strip("`"))] = cells
    return rows


ROWS = table_of_kinds()


def test_every_kind_has_its_row() -> None:
    assert set(ROWS) == set(Kind)


@pytest.mark.parametrize("kind", Kind)
def test_the_avro_form(kind: Kind) -> None:
    table = TableSchema(id=TableId("public", "t"), columns=(Column(name="c", type=column(kind)),), key=())
    row = json.loads(envelope_schema(table, "shop.public.t"))["fields"][0]["type"][1]
    assert ROWS[kind][2] == said(row["fields"][0]["type"][1])


def said(avro: Any) -> str:
    match avro:
        case str():
            return avro
        case {"type": "record", "fields": fields}:
            return f"record of {' and '.join(field['name'] for field in fields)}: `{short(avro['connect.name'])}`"
        case {"type": "array", "items": items} if "connect.name" in avro:
            return f"array of {items}: `{short(avro['connect.name'])}`"
        case {"type": "array"}:
            return "array of the element's form"
        case {"type": primitive, "connect.name": name}:
            return f"{primitive}: `{short(name)}`"
        case {"type": primitive}:
            return str(primitive)
    raise AssertionError(avro)


def short(name: str) -> str:
    return name.rpartition(".")[2]


@pytest.mark.parametrize("kind", Kind)
def test_what_targets_declare(kind: Kind) -> None:
    of = column(kind)
    assert ROWS[kind][3] == ("the element's, `[]`" if kind is Kind.ARRAY else f"`{fallback(of)}`")
    assert ROWS[kind][4] == f"`{declared_type(of)}`"
    assert ROWS[kind][5] == f"`{mysql_type(of)}`"
    assert ROWS[kind][6] == f"`{wanted_form(of).type}`"


def test_every_type_of_postgresql_stands_in_the_row_of_its_kind() -> None:
    for name, kind in kinds_by_name().items():
        assert f"`{name}`" in ROWS[kind][0].replace("\\", ""), f"{name} is {kind}"


def test_types_that_are_made_stand_there_too() -> None:
    for name, modifier, kind in (("numeric", 655366, Kind.DECIMAL), ("bit", 1, Kind.BIT), ("bit", 8, Kind.BITS)):
        types = {1: pg_type(name)}
        assert column_type(types, 1, modifier, name=name).kind is kind
        assert f"`{name}" in ROWS[kind][0]


def pg_type(name: str) -> PgType:
    return PgType(
        oid=1, schema="pg_catalog", name=name, category="b", element=0, is_array=False, base=0, base_modifier=-1
    )


def test_kinds_of_keys_with_several_spellings() -> None:
    listed = re.search(r"Columns of (.+?) do not\s+decide", PAGE.read_text(), re.DOTALL)
    assert listed
    names = set(re.findall(r"`([a-z0-9-]+)`", listed[1]))
    loose = {kind.value for kind in Kind if not has_one_text(column(kind))} - {Kind.XML.value}  # which no key can be
    assert loose - {Kind.ARRAY.value} <= names
    assert names - loose == {"citext", "bpchar", "numrange"}
