"""Where the keys of a TOML document stand: tomllib gives their values, but not their lines.

This reads only documents that tomllib has accepted, so it has to find the ends of things, not to judge them. What is
hard about keys (escapes, dots in quotes) is given to tomllib, one key at a time. https://toml.io/en/v1.0.0
"""

from __future__ import annotations

import re
import tomllib
from typing import Any, Final

Path = tuple[str | int, ...]
"""Keys of tables and indexes of arrays, from the outside in."""

_BLANK: Final = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_ONE_KEY: Final = r"""(?:[A-Za-z0-9_-]+|"(?:\\.|[^"\\])*"|'[^']*')"""
_KEY: Final = re.compile(rf"{_ONE_KEY}(?:[ \t]*\.[ \t]*{_ONE_KEY})*")
# Up to two quotes may stand right before the closing three. A date and its time may have a space between them.
_VALUE: Final = re.compile(
    r'''"""(?:\\.|[^\\])*?""""{0,2}'''
    r"""|'''.*?''''{0,2}"""
    r'''|"(?:\\.|[^"\\])*"'''
    r"""|'[^']*'"""
    r"""|[^,\]}#\n]+""",
    re.DOTALL,
)


def key_lines(text: str) -> dict[Path, int]:
    """The line, from 1, of every table, key and array element. A table's is that of its header, or of the first key
    that mentions it. `text` must be valid TOML.
    """
    scanner = _Scanner(text)
    scanner.document()
    return scanner.lines


class _Scanner:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._line = 1
        self._line_known_at = 0
        self._lengths: dict[Path, int] = {}  # of arrays of tables
        self.lines: dict[Path, int] = {}

    def document(self) -> None:
        table: Path = ()
        while self._skip_blank():
            if self._take("[["):
                table = self._array_header()
            elif self._take("["):
                table = self._header()
            else:
                self._pair(table)

    def _header(self) -> Path:
        path = self._within_arrays(self._key())
        self.lines[path] = self._line_here()
        self._close("]")
        return path

    def _array_header(self) -> Path:
        *outer, last = self._key()
        array = (*self._within_arrays(outer), last)
        length = self._lengths.get(array, 0)
        self._lengths[array] = length + 1
        path = (*array, length)
        self._mention(array)
        self._mention(path)
        self._close("]]")
        return path

    def _within_arrays(self, keys: list[str]) -> Path:
        """A header's keys lead through the last element of each array of tables on the way."""
        path: Path = ()
        for key in keys:
            path = (*path, key)
            self._mention(path)
            if path in self._lengths:
                path = (*path, self._lengths[path] - 1)
        return path

    def _pair(self, table: Path) -> None:
        path = table
        for key in self._key():
            path = (*path, key)
            self._mention(path)
        self._close("=")
        self._skip_blank()
        self._value(path)

    def _value(self, path: Path) -> None:
        if self._take("["):
            index = 0
            while self._next_element("]"):
                self._mention((*path, index))
                self._value((*path, index))
                index += 1
        elif self._take("{"):
            while self._next_element("}"):
                self._pair(path)
        else:
            self._match(_VALUE)

    def _next_element(self, end: str) -> bool:
        self._skip_blank()
        if self._take(","):
            self._skip_blank()
        return not self._take(end)

    def _key(self) -> list[str]:
        self._skip_blank()
        table: Any = tomllib.loads(f"{self._match(_KEY)} = 0")
        keys = []
        while table != 0:
            ((key, table),) = table.items()
            keys.append(key)
        return keys

    def _mention(self, path: Path) -> None:
        self.lines.setdefault(path, self._line_here())

    def _line_here(self) -> int:
        self._line += self._text.count("\n", self._line_known_at, self._at)
        self._line_known_at = self._at
        return self._line

    def _skip_blank(self) -> bool:
        self._match(_BLANK)
        return self._at < len(self._text)

    def _close(self, token: str) -> None:
        self._skip_blank()
        assert self._take(token), "tomllib accepts only closed tables and pairs"

    def _take(self, token: str) -> bool:
        taken = self._text.startswith(token, self._at)
        if taken:
            self._at += len(token)
        return taken

    def _match(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self._text, self._at)
        assert found is not None, "tomllib accepted this"
        self._at = found.end()
        return found[0]
