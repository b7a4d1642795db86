"""One version of one source table, as its events are to be read."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NamedTuple

from typing_extensions import override

from cdc.core.types import ColumnType


class ReplicaIdentity(enum.Enum):
    """What the source sends of the old row; PostgreSQL's `relreplident`."""

    DEFAULT = "d"  # the primary key, when it changed or the row was deleted
    NOTHING = "n"
    FULL = "f"  # the whole old row
    INDEX = "i"  # the columns of one unique index, which are then the key of the events


class TableId(NamedTuple):
    """Schema and name of a table, unquoted."""

    schema: str
    name: str

    @override
    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"

    @property
    def quoted(self) -> str:
        """As SQL and patterns take it, whatever is in the names."""
        return ".".join('"' + name.replace('"', '""') + '"' for name in self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """`id` is the same for as long as the column lives, whatever it is called, and no other column of the table ever
    has it; None where the source does not tell.
    """

    name: str
    type: ColumnType
    nullable: bool = True
    id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSchema:
    """A table version. `key` holds indexes into `columns`, in the key's order; empty for a table without a key.

    Rows of this version are tuples in the order of `columns`.
    """

    id: TableId
    columns: tuple[Column, ...]
    key: tuple[int, ...]
    identity: ReplicaIdentity = ReplicaIdentity.DEFAULT

    @property
    def key_columns(self) -> tuple[Column, ...]:
        return tuple(self.columns[i] for i in self.key)
