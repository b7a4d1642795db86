"""A change event as a user's program sees it: rows by column names, with Python's values, made when asked for."""

from __future__ import annotations

import datetime as dt
import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from typing_extensions import override

from cdc.core.errors import FidelityError
from cdc.core.events import (
    UNCHANGED,
    UNKNOWN_KEY,
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
    Truncate,
    Update,
    Value,
)
from cdc.core.position import Position
from cdc.core.tables import Column, TableId, TableSchema
from consumers.changes.values import convert_of

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


class Operation(enum.StrEnum):
    READ = "read"  # a row that was there when the first load, or a later one, read it
    INSERT = "insert"
    UPDATE = "update"
    DELETE = "delete"
    TRUNCATE = "truncate"
    ALTER = "alter"  # the table is another from here on, or new
    DROP = "drop"


class Row(Mapping[str, Any]):
    """Values by the names of columns: a value of Python, None for NULL, or `UNCHANGED`.

    Reading a value raises FidelityError if no Python value is equal to it; `text` has it exactly.
    """

    __slots__ = ("_indexes", "_table", "_values")

    def __init__(self, table: TableId, indexes: Mapping[str, tuple[int, Column]], values: Sequence[Value]) -> None:
        """`indexes`: where each column's value is."""
        self._table = table
        self._indexes = indexes
        self._values = values

    @override
    def __getitem__(self, name: str) -> Any:
        index, column = self._indexes[name]
        value = self._values[index]
        if not isinstance(value, bytes):
            return value
        try:
            return convert_of(column.type)(value)
        except ValueError:
            raise FidelityError(
                f"table {self._table}, column {name}: a value of type {column.type.name} that Python's has no equal to",
                mend=f"row.text({name!r}) gives it exactly, as text",
            ) from None

    @override
    def __iter__(self) -> Iterator[str]:
        return iter(self._indexes)

    @override
    def __len__(self) -> int:
        return len(self._indexes)

    @override
    def __repr__(self) -> str:
        return f"<Row of {self._table}: {', '.join(self._indexes)}>"  # values may be confidential

    def text(self, name: str) -> str | None:
        """The value's canonical text; None for NULL. ValueError for UNCHANGED."""
        value = self._values[self._indexes[name][0]]
        if value is UNCHANGED:
            raise ValueError(f"column {name} is unchanged: its value was not sent")
        return None if value is None else value.decode()

    @property
    def unchanged(self) -> frozenset[str]:
        """The columns whose values were not sent, because they are large and did not change."""
        return frozenset(name for name, (index, _) in self._indexes.items() if self._values[index] is UNCHANGED)


class Shapes:
    """Where the values of each table version's rows and keys are: found out once."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[TableSchema, Shape]] = {}

    def of(self, table: TableSchema) -> Shape:
        # By the object: hashing a version looks at each of its columns.
        known = self._known.get(id(table))
        if known is None or known[0] is not table:
            known = self._known[id(table)] = (table, Shape(_indexes(table.columns), _indexes(table.key_columns)))
        return known[1]


class Shape(NamedTuple):
    row: Mapping[str, tuple[int, Column]]
    key: Mapping[str, tuple[int, Column]]


def _indexes(columns: Sequence[Column]) -> dict[str, tuple[int, Column]]:
    return {column.name: (index, column) for index, column in enumerate(columns)}


@dataclass(frozen=True, slots=True)
class Change:
    """One change of a row, of all rows (a truncate), or of a table's shape.

    `event` is what it was made of; its values are canonical text.
    """

    event: ChangeEvent
    _shape: Shape = field(repr=False, compare=False)

    @property
    def table(self) -> TableId:
        return self.event.table.id

    @property
    def schema(self) -> TableSchema:
        """The table's columns and key; of an `ALTER`, as they are from here on."""
        return self.event.table

    @property
    def schema_before(self) -> TableSchema | None:
        """Of an `ALTER`: what the table was, None if it is new."""
        change = self.event.change
        return change.before if isinstance(change, Alter) else None

    @property
    def operation(self) -> Operation:  # noqa: PLR0911  # a table
        match self.event.change:
            case Read():
                return Operation.READ
            case Create():
                return Operation.INSERT
            case Update():
                return Operation.UPDATE
            case Delete():
                return Operation.DELETE
            case Truncate():
                return Operation.TRUNCATE
            case Alter():
                return Operation.ALTER
            case Drop():
                return Operation.DROP

    @property
    def position(self) -> Position:
        """Where it stands in the order of the source's commits. A change that is handed out again has it again."""
        return self.event.position

    @property
    def transaction(self) -> str:
        """The id of its transaction: the same for all changes of it, and at each time that they are handed out."""
        return self.event.transaction.id

    @property
    def commit_time(self) -> dt.datetime:
        return commit_time(self.event)

    @property
    def after(self) -> Row | None:
        """The row as it is now; None if there is none. Values that were not sent are UNCHANGED."""
        match self.event.change:
            case Read(after) | Create(after) | Update(_, after):
                return Row(self.table, self._shape.row, after)
            case _:
                return None

    @property
    def before(self) -> Row | None:
        """What is known of the row as it was: all of it under REPLICA IDENTITY FULL; else its key, if that was sent."""
        match self.event.change:
            case Update(before, _) if before is not None:
                return self._image(before)
            case Delete(before):
                return self._image(before)
            case _:
                return None

    @property
    def key(self) -> Row | None:
        """The key of the row that the change is of; None for a table without one, and for what is of no row."""
        table = self.event.table
        match self.event.change:
            case Read(after) | Create(after) | Update(_, after) | Delete(FullImage(after)) if table.key:
                return Row(table.id, self._shape.key, [after[index] for index in table.key])
            case Delete(KeyImage(key)) if table.key:
                return self._of_key(key)
            case _:
                return None

    @property
    def moved_from(self) -> Row | None:
        """A changed key is a DELETE and an INSERT. Of the INSERT: the key that the row had, if the log says it."""
        change = self.event.change
        return self._of_key(change.moved_from) if isinstance(change, Create) and change.moved_from else None

    @property
    def moved_to(self) -> Row | None:
        """Of the DELETE: the key that the row has now."""
        change = self.event.change
        return self._of_key(change.moved_to) if isinstance(change, Delete) and change.moved_to else None

    def _image(self, image: OldImage) -> Row:
        if isinstance(image, FullImage):
            return Row(self.table, self._shape.row, image.row)
        return self._of_key(image.key)

    def _of_key(self, key: Key) -> Row:
        assert key != UNKNOWN_KEY
        return Row(self.table, self._shape.key, key)


def commit_time(event: ChangeEvent) -> dt.datetime:
    """When the source committed it, in UTC."""
    return _EPOCH + dt.timedelta(microseconds=event.transaction.commit_time_us)
