"""`cdc.toml` as text -> settings, or an error that names every wrong line."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields
from typing import Any, Final

from cdc.core.errors import ConfigError
from cdc.core.patterns import TablePatterns
from cdc.core.settings import LogSettings, RegistrySettings, Settings, SourceSettings, TargetSettings
from cdc.core.toml.lines import Path, key_lines
from cdc.core.toml.variables import expand
from cdc.core.urls import require_host, require_url

Read = Callable[[Any], Any]
"""A value as TOML has it -> as the settings have it. ConfigError says what it should be."""

_SLOT: Final = re.compile(r"[a-z0-9_]{1,63}")
_TOPIC: Final = re.compile(r"[a-zA-Z0-9._-]{1,100}")
_TARGET: Final = re.compile(r"[A-Za-z0-9_-]{1,63}")
_RETENTION: Final = re.compile(r"([1-9][0-9]*)([hd])")
_HOURS: Final = {"h": 1, "d": 24}


def parse_settings(text: str, environ: Mapping[str, str], *, name: str = "cdc.toml") -> Settings:
    """The settings that `text` says, with `${NAME}` taken from `environ`.

    ConfigError with a line `name:line: what (mend)` for everything that is wrong.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name}: {error}", mend="correct the TOML there") from None
    reader = _Reader(name, key_lines(text), environ)
    settings = reader.settings(document)
    if settings is None:
        raise ConfigError("\n".join(reader.problems), mend="`cdc init` writes an example with every key")
    return settings


class _Reader:
    """Reads tables, and collects what is wrong with their line."""

    def __init__(self, name: str, lines: Mapping[Path, int], environ: Mapping[str, str]) -> None:
        self._name = name
        self._lines = lines
        self._environ = environ
        self.problems: list[str] = []

    def settings(self, document: dict[str, Any]) -> Settings | None:
        self._known((), document, {"source", "log", "registry", "targets"})
        source = self._table(("source",), document.get("source"), _SOURCE, SourceSettings)
        log = self._table(("log",), document.get("log", {}), _LOG, LogSettings)
        registry = self._table(("registry",), document.get("registry", {}), _REGISTRY, RegistrySettings)
        targets = self._targets(document.get("targets", {}))
        if self.problems or source is None or log is None or registry is None:
            return None
        return Settings(source=source, log=log, registry=registry, targets=targets)

    def _targets(self, tables: Any) -> dict[str, TargetSettings]:
        if not isinstance(tables, dict):
            self._problem(("targets",), "targets is not a table", "write [targets.NAME]")
            return {}
        targets: dict[str, TargetSettings] = {}
        for target, table in tables.items():
            path = ("targets", target)
            if not _TARGET.fullmatch(target):
                self._problem(path, f"{target!r} is no name for a target", "use letters, digits, - and _")
            read = self._table(path, table, _TARGET_KEYS, TargetSettings, name=target)
            if read is not None:
                targets[target] = read
        return targets

    def _table(self, path: Path, table: Any, readers: Mapping[str, Read], into: type[Any], **given: Any) -> Any:
        """An `into` from the table's values; None if something is wrong with it."""
        header = ".".join(map(str, path))
        if table is None:
            self.problems.append(f"{self._name}: [{header}] is missing")
            return None
        if not isinstance(table, dict):
            self._problem(path, f"{header} is not a table", f"write [{header}]")
            return None
        problems_before = len(self.problems)
        self._known(path, table, readers.keys())
        values = dict(given)
        for key, value in table.items():
            if key in readers:
                values |= self._value((*path, key), key, value, readers[key])
        for missing in sorted(_required(into) - values.keys() - table.keys()):
            self._problem(path, f"[{header}] {missing} is missing", "add it")
        return into(**values) if len(self.problems) == problems_before else None

    def _value(self, path: Path, key: str, value: Any, read: Read) -> dict[str, Any]:
        try:
            found = read(self._expanded(value))
        except ConfigError as error:
            self._problem(path, f"{key}: {error}", error.mend)
            return {}
        return {_FIELD_NAMES.get(key, key): found}

    def _expanded(self, value: Any) -> Any:
        match value:
            case str():
                return expand(value, self._environ)
            case list():
                return [self._expanded(item) for item in value]
            case dict():
                return {key: self._expanded(item) for key, item in value.items()}
            case _:
                return value

    def _known(self, path: Path, table: Mapping[str, Any], known: Any) -> None:
        for key in table:
            if key not in known:
                close = difflib.get_close_matches(key, list(known), 1)
                mend = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(sorted(known))}"
                self._problem((*path, key), f"unknown key {key!r}", mend)

    def _problem(self, path: Path, what: str, mend: str | None) -> None:
        line = next((self._lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self._lines), 1)
        self.problems.append(f"{self._name}:{line}: {what}{f' ({mend})' if mend else ''}")


def _required(into: type[Any]) -> set[str]:
    def has_default(each: Field[Any]) -> bool:
        return each.default is not MISSING or each.default_factory is not MISSING

    return {each.name for each in fields(into) if not has_default(each)} - {"name"}


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigError(f"should be text, not {_said(value)}", mend='write "…"')
    return value


def _matching(pattern: re.Pattern[str], what: str) -> Read:
    def read(value: Any) -> str:
        if not pattern.fullmatch(_text(value)):
            raise ConfigError(f"{value!r} is not allowed", mend=what)
        return str(value)

    return read


def _number(low: int, high: int) -> Read:
    def read(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ConfigError(f"should be a whole number, not {_said(value)}")
        if not low <= value <= high:
            raise ConfigError(f"{value} is out of range", mend=f"from {low} to {high}")
        return value

    return read


def _patterns(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ConfigError(f"should be a list of patterns, not {_said(value)}", mend='write ["public.*"]')
    TablePatterns(value)
    return tuple(value)


def _options(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(item, str | int | float) for item in value.values()):
        raise ConfigError("should be a table of texts, numbers and booleans")
    return {key: str(item).lower() if isinstance(item, bool) else str(item) for key, item in value.items()}


def _retention(value: Any) -> int:
    """Hours; 0 is for ever."""
    if value == "forever":
        return 0
    found = _RETENTION.fullmatch(_text(value))
    if found is None:
        raise ConfigError(f"{value!r} is no retention", mend='write "7d", "12h" or "forever"')
    return int(found[1]) * _HOURS[found[2]]


def _one_of(allowed: Mapping[str, str | None]) -> Read:
    """Allowed values; one with a reason is refused with it."""

    def read(value: Any) -> str:
        if value not in allowed:
            raise ConfigError(f"{value!r} is not allowed", mend=f"one of {', '.join(map(repr, allowed))}")
        if (reason := allowed[value]) is not None:
            raise ConfigError(reason)
        return str(value)

    return read


def _said(value: Any) -> str:
    kinds = {bool: "a boolean", int: "a number", float: "a number", str: "a text", list: "a list", dict: "a table"}
    return "empty" if value == "" else kinds.get(type(value), "a date or time")


_SOURCE: Final[dict[str, Read]] = {
    "url": lambda value: require_host(_text(value), ("postgresql", "postgres")),
    "capture": _one_of({"logical": None, "trigger": "trigger capture is not available in this version"}),
    "tables": _patterns,
    "slot": _matching(_SLOT, "up to 63 of a-z, 0-9 and _"),
    "publication": _text,
}
_LOG: Final[dict[str, Read]] = {
    "url": lambda value: require_url(_text(value)),
    "prefix": _matching(_TOPIC, "up to 100 letters, digits, ., - and _"),
    "partitions": _number(1, 10_000),
    "replication_factor": _number(1, 100),
    "retention": _retention,
    "max_record_bytes": _number(1_024, 1 << 30),
    "options": _options,
}
_REGISTRY: Final[dict[str, Read]] = {
    "url": lambda value: require_host(_text(value), ("http", "https")),
    "options": _options,
}
_TARGET_KEYS: Final[dict[str, Read]] = {
    "url": lambda value: require_url(_text(value)),
    "tables": _patterns,
    "consistency": _one_of(
        {"key": None, "transaction": 'consistency = "transaction" is not available in this version; use "key"'}
    ),
    "batch_events": _number(1, 1_000_000),
}
_FIELD_NAMES: Final = {"retention": "retention_hours"}
