"""SQL identifiers, quoted: the one place, for every dialect that quotes as the SQL standard does."""

from __future__ import annotations

from collections.abc import Iterable


def quoted(name: str) -> str:
    """`name` as it is, whatever is in it: upper case, spaces, dots, quotes, keywords."""
    return '"' + name.replace('"', '""') + '"'


def quoted_list(names: Iterable[str]) -> str:
    return ", ".join(quoted(name) for name in names)
