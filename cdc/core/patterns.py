"""Which tables are meant: globs over `schema.table`, as in `["public.*", "!public.audit_*"]`; and which columns.

The rules are those of psql's patterns without its case folding: names are compared as the database stores them, `*` is
any characters and `?` one, and double quotes take the meaning away from what is between them (`public."a.b"*`).
https://www.postgresql.org/docs/current/app-psql.html#APP-PSQL-PATTERNS
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from cdc.core.errors import ConfigError
from cdc.core.tables import TableId

_EXCLUDES: Final = "!"
_BETWEEN_PARTS: Final = "\0"  # no PostgreSQL name holds it

_TOKEN: Final = re.compile(
    r"""(?P<quoted>"(?:[^"\0]|"")*")"""
    r"""|(?P<dot>\.)"""
    r"""|(?P<wildcard>[*?])"""
    r"""|(?P<plain>[^".*?\s\[\]\x00-\x1f\x7f]+)"""
)
_WILDCARDS: Final = {"*": f"[^{_BETWEEN_PARTS}]*", "?": f"[^{_BETWEEN_PARTS}]"}


class Piece(NamedTuple):
    """A part of a name: a wildcard, or text that is meant as it is."""

    text: str
    is_wildcard: bool


class TablePatterns:
    """A table is meant if one pattern matches it and none that starts with `!` does, in whatever order they stand."""

    def __init__(self, patterns: Sequence[str]) -> None:
        """ConfigError if one is not a pattern, or if none includes anything."""
        included = {text: _regex(text) for text in patterns if not text.startswith(_EXCLUDES)}
        excluded = [_regex(text) for text in patterns if text.startswith(_EXCLUDES)]
        if not included:
            raise ConfigError(
                "the patterns exclude tables, but include none" if excluded else "no pattern says which tables",
                mend='Add a pattern of what to include: "*.*" is all tables.',
            )
        self._included = {text: re.compile(regex) for text, regex in included.items()}
        self._any_included = re.compile("|".join(included.values()))
        self._any_excluded = re.compile("|".join(excluded)) if excluded else None

    def matches(self, table: TableId) -> bool:
        name = _subject(table)
        if self._any_included.fullmatch(name) is None:
            return False
        return self._any_excluded is None or self._any_excluded.fullmatch(name) is None

    def regexes(self, between: str) -> tuple[str, str | None]:
        """What matches, and what of it does not, as regular expressions over `schema`, `between`, `table`; `between` is
        one character that no name holds.
        """
        excluded = self._any_excluded.pattern if self._any_excluded else None
        return self._any_included.pattern.replace(_BETWEEN_PARTS, between), (
            None if excluded is None else excluded.replace(_BETWEEN_PARTS, between)
        )

    def unmatched(self, tables: Iterable[TableId]) -> tuple[str, ...]:
        """The including patterns that match none of these tables. An exclusion may well match nothing yet."""
        names = [_subject(table) for table in tables]
        return tuple(text for text, regex in self._included.items() if not any(map(regex.fullmatch, names)))


class ColumnPatterns:
    """Which columns are meant: globs over `schema.table.column`, by the same rules; none excludes."""

    def __init__(self, patterns: Sequence[str]) -> None:
        """ConfigError if one is not a pattern."""
        self._any = re.compile("|".join(_column_regex(text) for text in patterns)) if patterns else None

    def matches(self, table: TableId, column: str) -> bool:
        return self._any is not None and self._any.fullmatch(f"{_subject(table)}{_BETWEEN_PARTS}{column}") is not None


def column_pattern(table: TableId, column: str) -> str:
    """The pattern of that column and no other."""
    return ".".join(map(_quoted_if_needed, (*table, column)))


def _quoted_if_needed(name: str) -> str:
    token = _TOKEN.fullmatch(name)
    if token is not None and token.lastgroup == "plain" and not name.startswith(_EXCLUDES):
        return name
    return '"' + name.replace('"', '""') + '"'


def require_pattern(text: str) -> None:
    """ConfigError if it is not a pattern, with or without its `!`."""
    _regex(text)


def require_column_pattern(text: str) -> None:
    """ConfigError if it is not a pattern of columns."""
    _column_regex(text)


def _regex(text: str) -> str:
    parts = _parts(text)
    _require_schema_and_table(text, parts)
    return _BETWEEN_PARTS.join(parts)


def _column_regex(text: str) -> str:
    parts = _parts(text)
    if text.startswith(_EXCLUDES) or len(parts) != 3 or not all(parts):
        raise ConfigError(f"the pattern {text!r} names no column", mend="Write 'schema.table.column'.")
    return _BETWEEN_PARTS.join(parts)


def _parts(text: str) -> list[str]:
    """A regular expression for each name of the pattern, without its `!`."""
    return ["".join(map(_piece_regex, name)) for name in pieces(text)]


def _piece_regex(piece: Piece) -> str:
    return _WILDCARDS[piece.text] if piece.is_wildcard else re.escape(piece.text)


def pieces(text: str) -> list[list[Piece]]:
    """The pieces of each of the pattern's names, without its `!`. ConfigError if it can't be read."""
    names: list[list[Piece]] = [[]]
    pattern = text.removeprefix(_EXCLUDES)
    at = 0
    while at < len(pattern):
        token = _TOKEN.match(pattern, at)
        if token is None:
            raise _unreadable(text, pattern[at])
        match token.lastgroup:
            case "dot":
                names.append([])
            case "quoted":
                names[-1].append(Piece(token[0][1:-1].replace('""', '"'), is_wildcard=False))
            case kind:
                names[-1].append(Piece(token[0], is_wildcard=kind == "wildcard"))
        at = token.end()
    return names


def _require_schema_and_table(text: str, parts: Sequence[str]) -> None:
    bare = text.removeprefix(_EXCLUDES)
    if len(parts) == 1 and bare:
        sign = text[: len(text) - len(bare)]
        raise ConfigError(f"the pattern {text!r} names no schema", mend=f"Write '{sign}public.{bare}'.")
    if len(parts) > 2:
        raise ConfigError(
            f"the pattern {text!r} has more parts than a schema and a table",
            mend="""Leave the database's name out; quote a name that holds a dot: 'public."a.b"'.""",
        )
    if not all(parts):
        raise ConfigError(f"the pattern {text!r} lacks a schema or a table", mend="Write 'schema.table', or '*.*'.")


def _unreadable(text: str, character: str) -> ConfigError:
    if character == '"':
        return ConfigError(
            f"the pattern {text!r} has a quote that is not closed", mend='Close it; write "" for a quote in a name.'
        )
    return ConfigError(
        f"the pattern {text!r} has {character!r} outside of quotes",
        mend="The wildcards are * and ?; put double quotes around a name with other special characters.",
    )


def _subject(table: TableId) -> str:
    return f"{table.schema}{_BETWEEN_PARTS}{table.name}"
