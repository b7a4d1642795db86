"""What a SQLite file has, and what source tables are called in it."""

from __future__ import annotations

from string import ascii_lowercase, ascii_uppercase
from typing import Final, NamedTuple

from consumers.targets.sqlite.session import SqliteSession

_FOLDED: Final = str.maketrans(ascii_uppercase, ascii_lowercase)
_GENERATED: Final = {2, 3}  # `hidden` in PRAGMA table_xinfo: virtual and stored


class TargetColumn(NamedTuple):
    """`key_place` counts from 1; 0 is for what is not of the primary key. `default` is SQL."""

    name: str
    declared: str
    not_null: bool
    default: str | None
    key_place: int
    generated: bool

    @property
    def optional(self) -> bool:
        """Whether a new row need not bring a value for it."""
        return self.generated or not self.not_null or self.default is not None


def folded(name: str) -> str:
    """Names that come out equal are one to SQLite. It folds the case of ASCII's letters only."""
    return name.translate(_FOLDED)


def columns_of(session: SqliteSession, name: str, *, doing: str) -> list[TargetColumn]:
    """In the table's order; none if there is no such table."""
    rows = session.query(
        'SELECT name, type, "notnull", dflt_value, pk, hidden FROM pragma_table_xinfo(?)', (name,), doing=doing
    )
    return [
        TargetColumn(column, declared, bool(not_null), default, place, hidden in _GENERATED)
        for column, declared, not_null, default, place, hidden in rows
    ]
