"""Dead letters: what blocks what, and the index of them that a target keeps beside its checkpoint. Pure.

A letter blocks the keys that it would have written; later events of those become letters too, and wait behind it. What
concerns a whole table waits for any of its letters, and then the whole table waits: a truncate, a change of its shape,
and every event of a table whose rows have no key, or a key of which equal values are spelled differently.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple, assert_never

from cdc.core.errors import CdcError, ProtocolViolationError, TargetSchemaError
from cdc.core.events import (
    Alter,
    ChangeEvent,
    Create,
    Delete,
    Drop,
    FullImage,
    Key,
    KeyImage,
    OldImage,
    Read,
    Row,
    Truncate,
    Update,
)
from cdc.core.log import Place
from cdc.core.position import Position
from cdc.core.tables import Column, TableId, TableSchema
from cdc.core.types import ColumnType, Kind, has_one_text


class Scope(NamedTuple):
    """A row of a table, by the key's values that have one spelling only; or, without a key, the whole table."""

    table: TableId
    key: Key | None


class Scopes:
    """A set of them, which answers whether something in it concerns a given one."""

    def __init__(self) -> None:
        self._all: set[Scope] = set()
        self._tables: set[TableId] = set()

    def __bool__(self) -> bool:
        return bool(self._all)

    def __len__(self) -> int:
        return len(self._all)

    def add(self, scopes: Iterable[Scope]) -> None:
        for scope in scopes:
            self._all.add(scope)
            self._tables.add(scope.table)

    def concern(self, scopes: Iterable[Scope]) -> bool:
        return any(
            scope.table in self._tables
            and (scope.key is None or scope in self._all or Scope(scope.table, None) in self._all)
            for scope in scopes
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """A letter in the target's index: which event it is, and what waits behind it."""

    place: Place
    position: Position
    scopes: tuple[Scope, ...]

    @property
    def table(self) -> TableId:
        return self.scopes[0].table


def scopes_of(event: ChangeEvent, error: CdcError | None = None) -> tuple[Scope, ...]:
    """What the event concerns; the whole table if the `error` is the table's."""
    whole = Scope(event.table.id, None)
    match event.change:
        case Alter(before=before) if before is not None and before.id != event.table.id:
            return (whole, Scope(before.id, None))
        case Truncate() | Alter() | Drop():
            return (whole,)
        case change:
            keys = [] if isinstance(error, TargetSchemaError) else _keys(event.table, change)
    return tuple(dict.fromkeys(_scope(event.table, key) for key in keys if key)) or (whole,)


def _keys(table: TableSchema, change: Read | Create | Update | Delete) -> list[Key | None]:
    match change:
        case Read(after):
            return [_key(table, after)]
        case Create(after, moved_from):
            return [_key(table, after), moved_from]
        case Update(before, after):
            return [_key(table, after) if before is None else _image_key(table, before)]
        case Delete(before, moved_to):
            return [_image_key(table, before), moved_to]
        case _:
            assert_never(change)


def _key(table: TableSchema, row: Row) -> Key:
    parts = [row[index] for index in table.key]
    return tuple([part for part in parts if isinstance(part, bytes)])


def _image_key(table: TableSchema, image: OldImage) -> Key:
    match image:
        case KeyImage(key):
            return key
        case FullImage(row):
            return _key(table, row)


def _scope(table: TableSchema, key: Key) -> Scope:
    if len(key) != len(table.key):
        return Scope(table.id, None)
    kept = [part for part, column in zip(key, table.key_columns, strict=True) if has_one_text(column.type)]
    return Scope(table.id, tuple(kept) or None)


_TEXT: Final = ColumnType(kind=Kind.STRING, name="text")
_NUMBER: Final = ColumnType(kind=Kind.STRING, name="character varying(20)", length=20)
INDEX: Final = TableSchema(
    id=TableId("public", "cdc_letter"),
    columns=tuple(
        Column(name=name, type=type_, nullable=False)
        for name, type_ in (
            ("applier", _TEXT),
            ("topic", _TEXT),
            ("partition", _NUMBER),
            ("offset", _NUMBER),
            ("position", _TEXT),
            ("scopes", _TEXT),
        )
    ),
    key=(0, 1, 2, 3),
)
"""The index is a table like any other, written by the steps that write any: so it is in the rows' own transaction."""


def index_row(applier: str, letter: Letter) -> Row:
    scopes = [
        [*scope.table, None if scope.key is None else [part.hex() for part in scope.key]] for scope in letter.scopes
    ]
    return (*index_key(applier, letter.place), str(letter.position).encode(), json.dumps(scopes).encode())


def index_key(applier: str, place: Place) -> Key:
    return tuple([str(part).encode() for part in (applier, *place)])


def read_index(applier: str, rows: Iterable[Row]) -> list[Letter]:
    """The applier's letters, in no order. ProtocolViolationError if the table was damaged."""
    try:
        return [_letter(row) for row in rows if row[0] == applier.encode()]  # type: ignore[arg-type]
    except (ValueError, TypeError, AttributeError) as error:
        raise ProtocolViolationError(
            f"table cdc_letter at the target is damaged ({type(error).__name__})",
            mend="restore its rows; without them the order of blocked keys is not known",
        ) from None


def _letter(row: tuple[bytes, ...]) -> Letter:
    _, topic, partition, offset, position, scopes = [part.decode() for part in row]
    return Letter(
        place=Place(topic, int(partition), int(offset)),
        position=Position.parse(position),
        scopes=tuple(
            Scope(TableId(schema, name), None if key is None else tuple(bytes.fromhex(part) for part in key))
            for schema, name, key in json.loads(scopes)
        ),
    )
