"""What a SQLite file has, and what source tables are called in it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from string import ascii_lowercase, ascii_uppercase
from typing import Final, NamedTuple

from consumers.targets.sqlite.session import SqliteSession

_FOLDED: Final = str.maketrans(ascii_uppercase, ascii_lowercase)
_GENERATED: Final = {2, 3}  # `hidden` in PRAGMA table_xinfo: virtual and stored

_CONSTRAINTS: Final = """
SELECT 'unique (' || (SELECT group_concat(name, ', ') FROM pragma_index_info(l.name)) || ')'
FROM pragma_index_list(?1) AS l WHERE l.origin = 'u'
UNION ALL
SELECT 'foreign key ' || "from" || ' to ' || "table" FROM pragma_foreign_key_list(?1)
UNION ALL
SELECT 'STRICT or WITHOUT ROWID' FROM pragma_table_list(?1) WHERE wr OR strict
"""
# What is told by the table's text alone. All of these words are SQLite's own: a name is so only in quotes.
_SAID: Final = {
    "check": re.compile(r"\bCHECK\b"),
    "collation": re.compile(r"\bCOLLATE\b(?!\s+BINARY\b)"),
    "AUTOINCREMENT": re.compile(r"\bAUTOINCREMENT\b"),
    "ON CONFLICT": re.compile(r"\bON\s+CONFLICT\b"),
}
_SILENT: Final = re.compile(r"\bON\s+CONFLICT\s+(IGNORE|REPLACE)\b")
_QUOTED: Final = re.compile(
    r"""--[^\n]* | /\*.*?(?:\*/|\Z) | '(?:[^']|'')*' | "(?:[^"]|"")*" | `(?:[^`]|``)*` | \[[^\]]*\]""",
    re.DOTALL | re.VERBOSE,
)


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


def constraints_of(session: SqliteSession, name: str, *, doing: str) -> Iterator[str]:
    """What the table's text says beside its columns and primary key, which no table that we make has."""
    yield from (constraint for (constraint,) in session.query(_CONSTRAINTS, (name,), doing=doing))
    said = _said_of(session, name, doing)
    yield from (constraint for constraint, word in _SAID.items() if word.search(said))


def silent_conflicts(session: SqliteSession, name: str, *, doing: str) -> str | None:
    """What the table's text says to be done, without a word, to rows that its constraints refuse; None if nothing."""
    found = _SILENT.search(_said_of(session, name, doing))
    return None if found is None else f"ON CONFLICT {found[1]}"


def _said_of(session: SqliteSession, name: str, doing: str) -> str:
    """The table's text in capitals, without what stands in quotes or comments."""
    rows = session.query(
        "SELECT sql FROM sqlite_master WHERE type = 'table' AND name = ? COLLATE NOCASE", (name,), doing=doing
    )
    return " ".join(_QUOTED.sub(" ", sql).upper() for (sql,) in rows)
