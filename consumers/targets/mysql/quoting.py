"""Names and texts in statements: the one place. The session's SQL mode makes backslashes ordinary characters."""

from __future__ import annotations

from collections.abc import Iterable


def quoted(name: str) -> str:
    """`name` as it is, whatever is in it."""
    return "`" + name.replace("`", "``") + "`"


def quoted_list(names: Iterable[str]) -> str:
    return ", ".join(quoted(name) for name in names)


def text_literal(text: bytes) -> bytes:
    """A string constant of these bytes, which are the session's utf8mb4."""
    return b"'" + text.replace(b"'", b"''") + b"'"
