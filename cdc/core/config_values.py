"""The kinds of values in `cdc.toml`: from what TOML has to what the settings have.

Each reader raises ConfigError with what is wrong and what it should be. None shows the value: it may have come from a
variable, and be the secret that was meant for another key.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final

from cdc.core.errors import ConfigError
from cdc.core.patterns import TablePatterns, require_column_pattern, require_pattern
from cdc.core.position import Position, parse_lsn
from cdc.core.renaming import Renaming
from cdc.core.settings import Start
from cdc.core.toml.lines import Path
from cdc.core.toml.variables import expand
from cdc.core.urls import require_host, require_url

Read = Callable[[Any], Any]
"""A value as TOML has it, variables replaced -> as the settings have it."""

_RETENTION: Final = re.compile(r"([1-9][0-9]{0,4})([hd])")
_HOURS: Final = {"h": 1, "d": 24}
_TOPIC: Final = re.compile(r"[a-zA-Z0-9_-]+(\.[a-zA-Z0-9_-]+)+")
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,20}")


class InnerError(ConfigError):
    """What is wrong is inside the value: `path` leads there from the value."""

    def __init__(self, error: ConfigError, step: str | int) -> None:
        super().__init__(str(error), mend=error.mend)
        self.path: Path = (step, *(error.path if isinstance(error, InnerError) else ()))


@contextmanager
def _inside(step: str | int) -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        raise InnerError(error, step) from None


def expanded(value: Any, environ: Mapping[str, str]) -> Any:
    """The value with `${NAME}` replaced in all its texts."""
    match value:
        case str():
            return expand(value, environ)
        case list():
            return [_expanded_at(index, item, environ) for index, item in enumerate(value)]
        case dict():
            return {key: _expanded_at(key, item, environ) for key, item in value.items()}
        case _:
            return value


def _expanded_at(step: str | int, item: Any, environ: Mapping[str, str]) -> Any:
    with _inside(step):
        return expanded(item, environ)


def text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigError(f"should be text, not {_said(value)}", mend='write "…"')
    return value


def url(*schemes: str) -> Read:
    """A URL of one of these schemes, or of any."""
    return lambda value: require_url(text(value), schemes)


def url_with_host(*schemes: str) -> Read:
    return lambda value: require_host(text(value), schemes)


def matching(pattern: str, allowed: str) -> Read:
    compiled = re.compile(pattern)

    def read(value: Any) -> str:
        if not compiled.fullmatch(text(value)):
            raise ConfigError("is not allowed", mend=allowed)
        return str(value)

    return read


def identifier(value: Any) -> str:
    """A name that PostgreSQL takes whole: longer ones it cuts off (https://www.postgresql.org/docs/current/limits.html)."""
    if len(text(value).encode("utf-8", "surrogateescape")) > 63 or not value.isprintable():
        raise ConfigError("is no name for PostgreSQL", mend="at most 63 bytes, without control characters")
    return str(value)


def number(low: int, high: int) -> Read:
    """An integer, or a text of digits: a variable can stand only in a text."""

    def read(value: Any) -> int:
        found = int(value) if isinstance(value, str) and _INTEGER.fullmatch(value) else value
        if isinstance(found, bool) or not isinstance(found, int):
            raise ConfigError(f"should be a whole number, not {_said(value)}", mend=f"from {low} to {high}")
        if not low <= found <= high:
            raise ConfigError("is out of range", mend=f"from {low} to {high}")
        return found

    return read


def patterns(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ConfigError(f"should be a list of patterns, not {_said(value)}", mend='write ["public.*"]')
    for index, item in enumerate(value):
        with _inside(index):
            _pattern(item, before=value[:index])
    TablePatterns(value)
    return tuple(value)


def column_patterns(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ConfigError(f"should be a list of columns, not {_said(value)}", mend='write ["public.table.column"]')
    for index, item in enumerate(value):
        with _inside(index):
            require_column_pattern(text(item))
    return tuple(value)


def renames(value: Any) -> dict[str, str]:
    """Names of tables by patterns of them."""
    found = options(value)
    for pattern, name in found.items():
        with _inside(pattern):
            Renaming({pattern: name})
    Renaming(found)
    return found


def masks(value: Any) -> dict[str, str]:
    """`hash`, `null` or another text by patterns of columns."""
    found = options(value)
    for pattern in found:
        with _inside(pattern):
            require_column_pattern(pattern)
    return found


def secret(least: int) -> Read:
    """A text of at least so many characters."""

    def read(value: Any) -> str:
        if len(text(value)) < least:
            raise ConfigError("is too short", mend=f"at least {least} characters that nobody can guess")
        return str(value)

    return read


def start(value: Any) -> Start:
    """Where to begin in a log."""
    if value == "earliest" or value == "latest":  # noqa: PLR1714  # may not be hashable; and mypy narrows it
        return value  # type: ignore[no-any-return]
    for read in (_lsn, _position, _moment):
        with suppress(ValueError):
            return read(value if isinstance(value, datetime) else text(value))
    raise ConfigError(
        "is no place in a log", mend='write "earliest", "latest", an LSN, a position, or a time with its zone'
    )


def _lsn(value: Any) -> Position:
    return Position(0, parse_lsn(str(value)), 0)


def _position(value: Any) -> Position:
    return Position.parse(str(value))


def _moment(value: Any) -> datetime:
    found = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    if found.tzinfo is None:
        raise ValueError("without a zone")
    return found


def _pattern(item: Any, *, before: Sequence[Any]) -> None:
    require_pattern(text(item))
    if item in before:
        raise ConfigError(f"the pattern {item!r} stands there twice", mend="remove one")


def options(value: Any) -> dict[str, str]:
    """Options as clients take them. To TOML `security.protocol = …` is a table in a table unless the key is quoted:
    it is one option either way.
    """
    if not isinstance(value, dict):
        raise ConfigError(f"should be a table, not {_said(value)}", mend='write { "name" = "value" }')
    found: dict[str, str] = {}
    for key, item in value.items():
        with _inside(key):
            for name, option in _options_at(key, item).items():
                if name in found:
                    raise ConfigError(f"{name} is given twice", mend="remove one")
                found[name] = option
    return found


def _options_at(name: str, item: Any) -> dict[str, str]:
    match item:
        case dict():
            return {f"{name}.{inner}": option for inner, option in options(item).items()}
        case bool():
            return {name: str(item).lower()}
        case str() | int() | float():
            return {name: str(item)}
        case _:
            raise ConfigError(f"{name} should be a text, a number or a boolean, not {_said(item)}", mend='write "…"')


def topics(value: Any) -> dict[str, str]:
    """Topic names, without the prefix, by patterns of tables."""
    found = options(value)
    for pattern, topic in found.items():
        with _inside(pattern):
            require_pattern(pattern)
            if not _TOPIC.fullmatch(topic):
                raise ConfigError("is no topic's name", mend='write "schema.table" in letters, digits, - and _')
    return found


def retention_hours(value: Any) -> int:
    """0 is for ever."""
    if value == "forever":
        return 0
    found = _RETENTION.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ConfigError("is no retention", mend='write "7d", "12h" or "forever"')
    return int(found[1]) * _HOURS[found[2]]


def one_of(allowed: Sequence[str], *, later: Mapping[str, str] = MappingProxyType({})) -> Read:
    """One of the allowed texts; those of a later version are refused with a reason."""

    def read(value: Any) -> str:
        if text(value) in later:
            raise ConfigError(later[value], mend=f"write {' or '.join(map(_quoted, allowed))}")
        if value not in allowed:
            raise ConfigError("is not allowed", mend=f"write {' or '.join(map(_quoted, allowed))}")
        return str(value)

    return read


def _quoted(word: str) -> str:
    return f'"{word}"'


def _said(value: Any) -> str:
    kinds = {bool: "a boolean", int: "a number", float: "a number", str: "a text", list: "a list", dict: "a table"}
    return "empty" if value == "" else kinds.get(type(value), "a date or time")
