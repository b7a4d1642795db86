"""What `docs/schema-changes.md` says of a registry's compatibility modes, asked of a real registry."""

from __future__ import annotations

import json
import re
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest

from cdc.avro.schemas import envelope_schema, key_schema
from cdc.core.tables import Column, TableId, TableSchema
from cdc.core.types import ColumnType, Kind

DOCS = Path(__file__).parents[2] / "docs" / "schema-changes.md"
TEXT = ColumnType(kind=Kind.STRING, name="text")
INTEGER = ColumnType(kind=Kind.INT32, name="integer")
BIGINT = ColumnType(kind=Kind.INT64, name="bigint")
NUMERIC = ColumnType(kind=Kind.DECIMAL, name="numeric(8,2)", precision=8, scale=2)
ID = Column(name="id", type=INTEGER, nullable=False, id=1)
NAME = Column(name="name", type=TEXT, nullable=False, id=2)
MODES = ["BACKWARD", "FORWARD", "FULL"]


def table(*columns: Column, key: tuple[int, ...] = (0,)) -> TableSchema:
    return TableSchema(id=TableId("public", "item"), columns=columns, key=key)


def optional(column: Column) -> Column:
    return replace(column, nullable=True)


def typed(of: ColumnType) -> Column:
    return replace(NAME, type=of)


CHANGES = {
    "column added (nullable) or dropped (nullable)": [
        (table(ID), table(ID, optional(NAME))),
        (table(ID, optional(NAME)), table(ID)),
    ],
    "NOT NULL column added": [(table(ID), table(ID, NAME))],
    "NOT NULL column dropped": [(table(ID, NAME), table(ID))],
    "NOT NULL goes": [(table(ID, NAME), table(ID, optional(NAME)))],
    "NOT NULL comes": [(table(ID, optional(NAME)), table(ID, NAME))],
    "`integer` to `bigint`, `real` to `double precision`": [(table(ID, typed(INTEGER)), table(ID, typed(BIGINT)))],
    "other modifiers of the same type": [
        (table(ID, typed(NUMERIC)), table(ID, typed(replace(NUMERIC, name="numeric(12,4)", precision=12, scale=4)))),
        (table(ID, typed(replace(TEXT, name="character varying(10)", length=10))), table(ID, NAME)),
    ],
    "other types": [(table(ID, typed(TEXT)), table(ID, typed(INTEGER)))],
    "primary key: the subject `<topic>-key`": [(table(ID, NAME), table(ID, NAME, key=(1,)))],
}


def documented() -> dict[str, list[bool]]:
    section = DOCS.read_text().partition("## The registry")[2]
    found = re.findall(
        r"^\| (.+?) \| (not|compatible) \| (not|compatible) \| (not|compatible) \|$", section, re.MULTILINE
    )
    return {change: [said == "compatible" for said in modes] for change, *modes in found}


def test_every_documented_change_is_checked():
    assert documented().keys() == CHANGES.keys()


@pytest.mark.parametrize("change", CHANGES)
def test_a_real_registry_says_what_the_page_says(change, unique_name, schema_registry_url):
    for number, (before, after) in enumerate(CHANGES[change]):
        subject = f"{unique_name}_{number}"
        write = key_schema if "-key" in change else envelope_schema
        old, new = write(before, "shop.public.item"), write(after, "shop.public.item")
        ask(f"{schema_registry_url}/subjects/{subject}/versions", {"schema": old})
        for mode, compatible in zip(MODES, documented()[change], strict=True):
            ask(f"{schema_registry_url}/config/{subject}", {"compatibility": mode}, method="PUT")
            url = f"{schema_registry_url}/compatibility/subjects/{subject}/versions/latest"
            assert ask(url, {"schema": new})["is_compatible"] is compatible, mode


def ask(url: str, body: object, *, method: str = "POST") -> dict:
    request = urllib.request.Request(url, json.dumps(body).encode(), method=method)
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request) as response:
        return json.load(response)
