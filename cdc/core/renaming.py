"""What tables are called elsewhere: `{"public.*": "replica.*", "public.orders": "shop.bestellungen"}`.

On the left stands a pattern of tables (see `cdc.core.patterns`), on the right a name. Each `*` of the name's schema
stands for what the `*` at that place of the pattern's schema matched, and so for the table.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from cdc.core.errors import ConfigError
from cdc.core.patterns import Piece, pieces, require_pattern
from cdc.core.tables import TableId

_LONGEST: Final = 63  # PostgreSQL cuts off what is longer, and two names may come out equal
_GROUPS: Final = {"*": "(.*)", "?": "."}


class Renaming:
    """A pattern without wildcards comes before those with them."""

    def __init__(self, names: Mapping[str, str]) -> None:
        """ConfigError if something is no pattern or no name, or if a table is renamed twice."""
        rules = [_rule(pattern, name) for pattern, name in names.items()]
        self._general = [rule for rule in rules if not rule.is_exact]
        self._exact: dict[TableId, _Rule] = {}
        for rule in rules:
            if rule.is_exact:
                table = TableId(*("".join(piece.text for piece in part) for part in pieces(rule.pattern)))
                if table in self._exact:
                    raise ConfigError(f"table {table} is renamed twice", mend="remove one of the two")
                self._exact[table] = rule

    def name(self, table: TableId) -> TableId:
        """What the table is called; its own name if no pattern matches. ConfigError if two say different things, or if
        the name is too long.
        """
        exact = self._exact.get(table)
        rules = [exact] if exact is not None else [rule for rule in self._general if rule.matches(table)]
        found = {rule.name_of(table): rule for rule in rules}
        if len(found) > 1:
            said = " and ".join(f"{rule.pattern!r} ({name})" for name, rule in found.items())
            raise ConfigError(f"rename has two names for table {table}: {said}", mend=f"add one for {table} alone")
        name = next(iter(found), table)
        for part in name:
            if name != table and len(part.encode()) > _LONGEST:
                raise ConfigError(
                    f"rename calls table {table} {name}; a name has {_LONGEST} bytes at most",
                    mend="choose a shorter one",
                )
        return name


class _Rule(NamedTuple):
    pattern: str
    regexes: tuple[re.Pattern[str], re.Pattern[str]]
    name: Sequence[Sequence[Piece]]
    is_exact: bool

    def matches(self, table: TableId) -> bool:
        return all(regex.fullmatch(part) is not None for regex, part in zip(self.regexes, table, strict=True))

    def name_of(self, table: TableId) -> TableId:
        schema, name = map(_filled, self.name, self.regexes, table)
        return TableId(schema, name)


def _rule(pattern: str, name: str) -> _Rule:
    require_pattern(pattern)
    if pattern.startswith("!"):
        raise ConfigError(f"the pattern {pattern!r} excludes, and names nothing", mend="remove the !")
    require_pattern(name)
    of, to = pieces(pattern), pieces(name)
    for part, wanted in zip(of, to, strict=True):
        if name.startswith("!") or any(piece.is_wildcard and piece.text == "?" for piece in wanted):
            raise ConfigError(
                f"{name!r} is no name for a table", mend="write 'schema.table'; * stands for what * matched"
            )
        if _stars(wanted) not in {0, _stars(part)}:
            raise ConfigError(
                f"{name!r} has not as many * as {pattern!r}, in its schema or its table",
                mend="write as many, or none: each stands for what the one at its place matched",
            )
    regexes = tuple(re.compile("".join(map(_regex, part)), re.DOTALL) for part in of)
    is_exact = not any(piece.is_wildcard for part in of for piece in part)
    return _Rule(pattern, (regexes[0], regexes[1]), to, is_exact)


def _regex(piece: Piece) -> str:
    return _GROUPS[piece.text] if piece.is_wildcard else re.escape(piece.text)


def _stars(part: Sequence[Piece]) -> int:
    return sum(piece.is_wildcard and piece.text == "*" for piece in part)


def _filled(name: Sequence[Piece], regex: re.Pattern[str], part: str) -> str:
    match = regex.fullmatch(part)
    stars = iter(() if match is None else match.groups())
    return "".join(next(stars) if piece.is_wildcard else piece.text for piece in name)
