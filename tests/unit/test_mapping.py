"""Whatever happens to a row, its target gets the mapped row and nothing else of it."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import replace
from typing import Any

import pytest

from cdc.core.copy_text import copy_text
from cdc.core.errors import ConfigError
from cdc.core.events import (
    UNCHANGED,
    UNKNOWN_KEY,
    Alter,
    Change,
    ChangeEvent,
    Create,
    Delete,
    Drop,
    FullImage,
    KeyImage,
    Read,
    Row,
    Transaction,
    Truncate,
    Update,
)
from cdc.core.log import Place
from cdc.core.runs import ReadRun, one_by_one
from cdc.core.settings import TargetSettings
from cdc.core.tables import Column, TableId, TableSchema
from cdc.core.types import ColumnType, Kind
from consumers.plan.mapping import EventMapping
from consumers.plan.planner import plan
from consumers.plan.steps import AlterTable, MoveRow, WriteRows

KEY = "a key of 16 bytes"
INT = ColumnType(kind=Kind.INT32, name="integer")
NUMERIC = ColumnType(kind=Kind.VARIABLE_DECIMAL, name="numeric")


def column(name: str, type_: ColumnType = INT, *, nullable: bool = True, number: int | None = None) -> Column:
    return Column(name=name, type=type_, nullable=nullable, id=number)


def table(*columns: Column, key: tuple[int, ...] = (0,), name: str = "users") -> TableSchema:
    numbered = tuple(replace(each, id=each.id or number) for number, each in enumerate(columns, 1))
    return TableSchema(id=TableId("public", name), columns=numbered, key=key)


USERS = table(column("id", nullable=False), column("secret"), column("email"), column("phone"), column("name"))
OPTIONS: dict[str, Any] = {
    "rename": {"public.*": "crm.*"},
    "exclude_columns": ("public.users.secret",),
    "mask": {"public.users.id": "hash", "*.*.email": "hash", "*.*.phone": "null", "public.users.name": "n. n."},
    "mask_key": KEY,
}


def mapping(**options: Any) -> EventMapping:
    return EventMapping(TargetSettings(name="copy", url="x://y", **options))


def event(change: Change, of: TableSchema = USERS) -> ChangeEvent:
    transaction = Transaction(epoch=1, commit_lsn=1, xid=1, commit_time_us=0, database="shop")
    return ChangeEvent(transaction=transaction, table=of, change=change, ordinal=1, table_ordinal=1)


def mapped(change: Change, of: TableSchema = USERS, **options: Any) -> Change:
    return mapping(**(options or OPTIONS)).event(event(change, of)).change


def h(value: bytes) -> bytes:
    return hmac.new(KEY.encode(), value, hashlib.sha256).hexdigest().encode()


def test_a_table_as_the_target_sees_it() -> None:
    seen = mapping(**OPTIONS).event(event(Truncate())).table

    assert (seen.id, seen.key) == (TableId("crm", "users"), (0,))
    assert [(each.name, each.type.name, each.nullable) for each in seen.columns] == [
        ("id", "character varying(64)", False),
        ("email", "character varying(64)", True),
        ("phone", "integer", True),
        ("name", "text", True),
    ]


ROW = (b"7", b"SECRET", b"SECRET", b"SECRET", b"SECRET")
MAPPED = (h(b"7"), h(b"SECRET"), None, b"n. n.")
TOAST = (b"8", UNCHANGED, UNCHANGED, UNCHANGED, UNCHANGED)
MAPPED_TOAST = (h(b"8"), UNCHANGED, None, b"n. n.")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (Read(ROW), Read(MAPPED)),
        (Create(ROW), Create(MAPPED)),
        (Create((b"7", None, None, None, None)), Create((h(b"7"), None, None, b"n. n."))),
        (Create(TOAST, moved_from=(b"7",)), Create(MAPPED_TOAST, moved_from=(h(b"7"),))),
        (Create(TOAST, moved_from=UNKNOWN_KEY), Create(MAPPED_TOAST, moved_from=UNKNOWN_KEY)),
        (Update(None, TOAST), Update(None, MAPPED_TOAST)),
        (Update(KeyImage((b"7",)), ROW), Update(KeyImage((h(b"7"),)), MAPPED)),
        (Update(FullImage(ROW), ROW), Update(FullImage(MAPPED), MAPPED)),
        (Delete(KeyImage((b"7",))), Delete(KeyImage((h(b"7"),)))),
        (
            Delete(FullImage(ROW), (b"8",), awaits_create=True),
            Delete(FullImage(MAPPED), (h(b"8"),), awaits_create=True),
        ),
        (Truncate(), Truncate()),
        (Drop(note="SECRET"), Drop(note="SECRET")),
    ],
)
def test_changes(change: Change, expected: Change) -> None:
    assert mapped(change) == expected


def test_without_mapping_an_event_stays_what_it_is() -> None:
    given = event(Read(ROW))

    assert mapping().event(given) is given


def test_an_event_stays_where_it_is_in_the_log() -> None:
    place = Place("p.public.users", 1, 7)
    seen = mapping(rename={"public.*": "copy.*"}).event(replace(event(Read(ROW)), place=place))

    assert seen.place == place


def test_equal_values_have_equal_hashes_wherever_they_stand_and_other_keys_other_hashes() -> None:
    options = {"mask": {"*.*.x": "hash"}}
    here, there = table(column("id"), column("x")), table(column("x"), name="other", key=())

    assert mapped(Read((b"1", b"a")), here, **options, mask_key=KEY).after[1] == h(b"a")
    assert mapped(Read((b"a",)), there, **options, mask_key=KEY).after == (h(b"a"),)
    assert mapped(Read((b"a",)), there, **options, mask_key=KEY[::-1]).after != (h(b"a"),)


def test_the_key_has_its_new_place() -> None:
    of = table(column("a"), column("b"), column("c"), column("d"), key=(3, 1))
    seen = mapping(exclude_columns=("public.users.a", "public.*.c")).event(event(Read((b"1", b"2", b"3", b"4")), of))

    assert [seen.table.columns[index].name for index in seen.table.key] == ["d", "b"]
    assert seen.change == Read((b"2", b"4"))


def test_a_moved_row_is_planned_as_one() -> None:
    """A mask that is the same for all rows fills what was not sent; a hash does not."""
    events = [
        event(Delete(KeyImage((b"7",)), moved_to=(b"8",), awaits_create=True)),
        event(Create(TOAST, moved_from=(b"7",))),
    ]

    (step,) = plan(map(mapping(**OPTIONS).event, events))

    assert isinstance(step, MoveRow)
    assert (step.old_key, step.row) == ((h(b"7"),), MAPPED_TOAST)


def test_rows_of_a_table_without_key_are_found_again_behind_their_masks() -> None:
    of = table(column("a", NUMERIC), column("b"), column("c"), key=())
    options = {"exclude_columns": ("*.*.c",), "mask": {"*.*.a": "hash", "*.*.b": "x"}, "mask_key": KEY}
    events = [
        event(Create((b"1.0", b"1", b"1")), of),
        event(Create((b"1.0", b"1", b"2")), of),
        event(Delete(FullImage((b"1.0", b"1", b"1"))), of),
        event(Update(FullImage((b"1.0", b"1", b"2")), (b"2", UNCHANGED, UNCHANGED)), of),
    ]

    (step,) = plan(map(mapping(**options).event, events))

    assert isinstance(step, WriteRows)
    assert (step.added, step.removed) == ([(h(b"2"), b"x")], [])


# Changes of a table's shape


def test_an_alteration_is_mapped_with_what_older_rows_get() -> None:
    before = table(column("id"), column("name"))
    after = table(column("id"), column("name"), column("secret"), column("email"), column("phone"), column("open"))
    options = {**OPTIONS, "mask": {"*.*.email": "hash", "*.*.phone": "null", "*.*.name": "n. n.", "*.*.fax": "x"}}
    change = Alter(before=before, fills=dict.fromkeys(["secret", "email", "phone", "open"], b"SECRET"), note="SECRET")

    (step,) = plan([mapping(**options).event(event(change, after))])

    assert isinstance(step, AlterTable)
    assert step.before is not None
    assert (step.before.id, step.table.id) == (TableId("crm", "users"),) * 2
    assert [each.name for each in step.table.columns] == ["id", "name", "email", "phone", "open"]
    assert step.fills == {"name": b"n. n.", "email": h(b"SECRET"), "open": b"SECRET"}


@pytest.mark.parametrize(
    ("old", "new", "new_table", "said"),
    [
        ("secret", "secret2", "users", "secret is left out by exclude_columns, and became public.users.secret2"),
        ("name", "label", "users", "name has the mask 'n. n.', and became public.users.label, which would be shown"),
        ("open", "secret", "users", "open is shown, and became public.users.secret, which is left out"),
        ("name", "name", "people", "public.users.name has the mask 'n. n.', and became public.people.name"),
    ],
)
def test_a_renamed_column_does_not_come_out_from_behind_its_mask(old: str, new: str, new_table: str, said: str) -> None:
    options = {**OPTIONS, "mask": {"public.users.name": "n. n."}}
    before = table(column("id"), column(old))
    after = table(column("id"), column(new), name=new_table)

    with pytest.raises(ConfigError) as refused:
        mapped(Alter(before=before), after, **options)

    assert said in str(refused.value)


def test_a_renamed_column_that_both_names_are_given_for() -> None:
    before, after = table(column("id"), column("secret")), table(column("id"), column("secret2"))

    assert mapped(Alter(before=before), after, exclude_columns=("public.*.secret*",)) == Alter(
        before=replace(before, columns=before.columns[:1])
    )


# What makes no sense


@pytest.mark.parametrize(
    ("options", "of", "said"),
    [
        ({"exclude_columns": ("*.*.id",)}, USERS, "table public.users, column id: it is of the key, and left out"),
        ({"mask": {"*.*.id": "null"}}, USERS, "column id: it is of the key, and its mask would be the same"),
        ({"mask": {"*.*.id": "x"}}, USERS, "column id: it is of the key, and its mask would be the same"),
        (
            {"mask": {"*.*.id": "hash"}, "mask_key": KEY},
            table(column("id", NUMERIC)),
            "equal values of type numeric may be spelled differently",
        ),
        ({"mask": {"*.*.b": "null"}}, table(column("a"), column("b", nullable=False)), "column b: it is NOT NULL"),
        ({"exclude_columns": ("*.*.a",)}, table(column("a"), key=()), "table public.users has no column left"),
        (
            {"mask": {"public.*.name": "x", "*.users.name": "y"}},
            USERS,
            "'public.*.name' and '*.users.name' have different masks for column public.users.name",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_when_the_version_is_known(
    options: dict[str, Any], of: TableSchema, said: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        mapped(Truncate(), of, **options)

    assert said in str(refused.value)
    assert "[targets.copy]" in str(refused.value)


def test_a_pattern_without_wildcards_comes_before_those_with_them() -> None:
    masks = {"public.*.name": "x", "*.users.*": "z", "public.users.name": "y"}

    assert mapped(Read((b"1", b"a")), table(column("name"), column("name"), key=()), mask=masks) == Read((b"y", b"y"))


def test_two_tables_of_one_name() -> None:
    one = mapping(rename={"public.*": "all.*", "sales.*": "all.*"})
    one.name(TableId("public", "a"))
    one.name(TableId("sales", "b"))

    with pytest.raises(ConfigError, match=r"tables public.a and sales.a would both be all.a"):
        one.name(TableId("sales", "a"))


def test_hashes_need_a_key() -> None:
    with pytest.raises(ConfigError, match="mask_key is missing"):
        mapping(mask={"*.*.a": "hash"})


def test_patterns_that_hide_nothing_are_told() -> None:
    one = mapping(exclude_columns=("public.users.secret", "*.*.secrets"), mask={"public.user.email": "null"})

    assert one.unmatched([USERS]) == ("*.*.secrets", "public.user.email")
    assert (one.hides, mapping(rename={"public.*": "x.*"}).hides) == (True, False)


@pytest.mark.parametrize("options", [OPTIONS, {"rename": {"public.*": "crm.*"}}, {}])
def test_rows_of_a_first_load_that_came_together_are_mapped_one_by_one(options: dict[str, Any]) -> None:
    rows: list[Row] = [(b"1", b"s\t", b"a@b", b"12", b"Ann\n"), (b"2", None, None, None, None)]
    read = event(Read(rows[0]))
    run = ReadRun(
        transaction=read.transaction,
        table=USERS,
        change=read.change,
        ordinal=9,
        table_ordinal=5,
        place=Place("topic", 0, 40),
        text=copy_text(rows),
        count=2,
    )
    of = mapping(**options)
    assert one_by_one([of.event(run)]) == [of.event(each) for each in run.events()]
    assert [each.place for each in one_by_one(of.events([run]))] == [Place("topic", 0, 40), Place("topic", 0, 41)]
    assert of.event(run).change == of.event(read).change
