"""What has to be done to a table so that one version of it becomes another. Pure; the same for every dialect."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Final

from cdc.core.tables import Column, TableId, TableSchema
from cdc.core.types import ColumnType
from consumers.plan.steps import AlterTable

_ASIDE: Final = "cdc_renamed_"  # and a number: with a column's own name it could be longer than names may be


@dataclass(frozen=True, slots=True)
class RenameTable:
    old: TableId
    new: TableId


@dataclass(frozen=True, slots=True)
class DropColumn:
    name: str


@dataclass(frozen=True, slots=True)
class RenameColumn:
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class AddColumn:
    """`fill` is the canonical text that rows which are there get; None is NULL."""

    column: Column
    fill: bytes | None


@dataclass(frozen=True, slots=True)
class ChangeType:
    """`column` is what it becomes."""

    before: ColumnType
    column: Column


@dataclass(frozen=True, slots=True)
class SetNullable:
    column: Column


@dataclass(frozen=True, slots=True)
class ChangeKey:
    """The key's columns, in its order; none for a table that has lost its key, which had the columns `old`."""

    names: tuple[str, ...]
    old: tuple[str, ...] = ()


Alteration = RenameTable | DropColumn | RenameColumn | AddColumn | ChangeType | SetNullable | ChangeKey


def alterations(step: AlterTable) -> list[Alteration]:
    """In an order in which they can be run one by one: names that go make room for names that come."""
    before, after = step.before, step.table
    if before is None:
        return []
    pairs = list(same_columns(before, after))
    kept_before, kept_after = {old.name for old, _ in pairs}, {new.name for _, new in pairs}
    found: list[Alteration] = []
    if before.id != after.id:
        found.append(RenameTable(before.id, after.id))
    key_before = tuple(_renamed(column.name, pairs) for column in before.key_columns)
    key_after = tuple(column.name for column in after.key_columns)
    key_goes = set(key_before) != set(key_after)
    if key_goes and key_before:
        found.append(ChangeKey((), tuple(column.name for column in before.key_columns)))
    found += [DropColumn(column.name) for column in before.columns if column.name not in kept_before]
    taken = {column.name for column in (*before.columns, *after.columns)}
    aside = next(name for number in count(1) if (name := f"{_ASIDE}{number}") not in taken)
    found += _renames({old.name: new.name for old, new in pairs if old.name != new.name}, aside)
    found += [ChangeType(old.type, new) for old, new in pairs if old.type != new.type]
    found += [
        AddColumn(column, step.fills.get(column.name)) for column in after.columns if column.name not in kept_after
    ]
    found += [SetNullable(new) for old, new in pairs if old.nullable is not new.nullable]
    if key_goes and key_after:
        found.append(ChangeKey(key_after))
    return found


def _renames(wanted: dict[str, str], aside: str) -> Iterator[RenameColumn]:
    """One by one, none to a name that another column still has; where they go round in a circle, by way of `aside`."""
    left = dict(wanted)
    while left:
        free = next((old for old, new in left.items() if new not in left), None)
        if free is None:
            old = next(iter(left))
            left[aside] = left.pop(old)
            yield RenameColumn(old, aside)
        else:
            yield RenameColumn(free, left.pop(free))


def is_additive(alteration: Alteration) -> bool:
    """Whether nothing that is at the target goes or becomes something else."""
    match alteration:
        case AddColumn():
            return True
        case SetNullable(column):
            return column.nullable
        case _:
            return False


def same_columns(before: TableSchema, after: TableSchema) -> Iterator[tuple[Column, Column]]:
    """Columns are the same if they have the same id; where the source tells none, if they have the same name."""
    by_id = {column.id: column for column in before.columns if column.id is not None}
    by_name = {column.name: column for column in before.columns}
    for column in after.columns:
        old = by_name.get(column.name) if column.id is None else by_id.get(column.id)
        if old is None and column.id is not None:
            same_name = by_name.get(column.name)  # the source began to tell ids between the two versions
            old = same_name if same_name is not None and same_name.id is None else None
        if old is not None:
            yield old, column


def _renamed(name: str, pairs: list[tuple[Column, Column]]) -> str | None:
    """What the column of this name is called now; None if it is gone, whatever else is called so."""
    return next((new.name for old, new in pairs if old.name == name), None)
