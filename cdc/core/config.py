"""`cdc.toml` as text -> settings, or an error that names every wrong line."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import MISSING, Field, fields
from typing import Any, Final, NamedTuple

from cdc.core.config_values import (
    InnerError,
    Read,
    column_patterns,
    expanded,
    identifier,
    masks,
    matching,
    number,
    one_of,
    options,
    patterns,
    renames,
    retention_hours,
    secret,
    start,
    topics,
    url,
    url_with_host,
)
from cdc.core.errors import ConfigError
from cdc.core.settings import (
    Consistency,
    LogSettings,
    RegistrySettings,
    Settings,
    SourceSettings,
    TargetSettings,
)
from cdc.core.toml.lines import Path, key_lines

_SOURCE: Final[Mapping[str, Read]] = {
    "url": url("postgresql", "postgres"),  # it may name no host: libpq then takes a socket
    "capture": one_of(["logical"], later={"trigger": "trigger capture is not available in this version"}),
    "tables": patterns,
    "slot": matching(r"[a-z0-9_]{1,63}", "up to 63 of a-z, 0-9 and _"),
    "publication": identifier,
}
_LOG: Final[Mapping[str, Read]] = {
    "url": url(),  # logs are found by entry points, and know the rest
    "prefix": matching(r"[a-zA-Z0-9._-]{1,100}", "up to 100 letters, digits, ., - and _"),
    "written_by": one_of(["cdc", "debezium"]),
    "partitions": number(1, 10_000),
    "replication_factor": number(1, 100),
    "retention": retention_hours,
    "max_record_bytes": number(1_024, 1_000_000_000),  # librdkafka's most
    "topics": topics,
    "options": options,
}
_REGISTRY: Final[Mapping[str, Read]] = {"url": url_with_host("http", "https"), "options": options}
_TARGET: Final[Mapping[str, Read]] = {
    "url": url(),
    "tables": patterns,
    "schema_changes": one_of(["follow", "add-only", "stop"]),
    "on_error": one_of(["stop", "dead-letter"]),
    "start": start,
    "rename": renames,
    "exclude_columns": column_patterns,
    "mask": masks,
    "mask_key": secret(16),
    "as_text": column_patterns,
    "consistency": one_of(["transaction", "key"]),
    "batch_events": number(1, 1_000_000),
    "session_timeout": number(2, 1_800),  # Kafka brokers let members of groups have up to half an hour
}
_TARGET_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,63}")
_FIELD_NAMES: Final = {"retention": "retention_hours"}

_SYNTAX_ERROR: Final = re.compile(r" \(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)$")
_MEND: Final = "`cdc init` writes an example with every key"
_MEND_SYNTAX: Final = "correct the TOML there: texts stand in quotes, lists in brackets"


def parse_settings(text: str, environ: Mapping[str, str], *, name: str = "cdc.toml") -> Settings:
    """The settings that `text` says, with `${NAME}` taken from `environ`.

    ConfigError with a line `name:line: what (mend)` for everything that is wrong.
    """
    plain = text.removeprefix("\ufeff").replace("\r\n", "\n")
    try:
        document = tomllib.loads(plain)
        lines = key_lines(plain)
    except RecursionError:
        raise ConfigError(f"{name}: not TOML that can be read: nested too deeply", mend=_MEND_SYNTAX) from None
    except ValueError as error:  # also int's own, about numbers of thousands of digits
        raise ConfigError(_syntax_error(name, plain, str(error)), mend=_MEND_SYNTAX) from None
    reader = _Reader(lines, environ)
    settings = reader.settings(document)
    if settings is None:
        problems = sorted(reader.problems, key=lambda problem: problem.line)
        raise ConfigError("\n".join(each.said(name) for each in problems), mend=_MEND)
    return settings


def _syntax_error(name: str, text: str, error: str) -> str:
    """What tomllib says, with the place in front, where editors look for it."""
    place = _SYNTAX_ERROR.search(error)
    if place is None:
        return f"{name}: not TOML: {error}"
    what = error[: place.start()]
    if place["line"] is None:
        return f"{name}:{text.count(chr(10)) + 1}: not TOML: {what} at the end of the file"
    return f"{name}:{place['line']}: not TOML: {what} (column {place['column']})"


class _Problem(NamedTuple):
    line: int
    what: str
    mend: str | None

    def said(self, name: str) -> str:
        return f"{name}:{self.line}: {self.what}{f' ({self.mend})' if self.mend else ''}"


class _Reader:
    """Reads tables, and collects what is wrong with their line."""

    def __init__(self, lines: Mapping[Path, int], environ: Mapping[str, str]) -> None:
        self._lines = lines
        self._environ = environ
        self.problems: list[_Problem] = []

    def settings(self, document: dict[str, Any]) -> Settings | None:
        self._known((), document, ["source", "log", "registry", "targets"])
        log = self._table(("log",), document.get("log", {}), _LOG, LogSettings)
        registry = self._table(("registry",), document.get("registry", {}), _REGISTRY, RegistrySettings)
        is_connectors = log is not None and log.written_by == "debezium"
        targets = self._targets(document.get("targets", {}), consistency="key" if is_connectors else "transaction")
        source = None
        if is_connectors:
            self._require_connectors(document, registry, targets)
        else:
            source = self._table(("source",), document.get("source"), _SOURCE, SourceSettings)
        if source is not None:
            self._refuse_replication_onto_itself(source, targets)
        if self.problems:
            return None
        return Settings(source=source, log=log, registry=registry, targets=targets)

    def _targets(self, tables: Any, *, consistency: Consistency) -> dict[str, TargetSettings]:
        if not isinstance(tables, dict):
            self._problem(("targets",), "targets is not a table", "write [targets.NAME]")
            return {}
        targets: dict[str, TargetSettings] = {}
        for target, table in tables.items():
            path = ("targets", target)
            if not _TARGET_NAME.fullmatch(target):
                self._problem(path, f"{target!r} is no name for a target", "use letters, digits, - and _")
            read = self._table(path, table, _TARGET, TargetSettings, name=target, consistency=consistency)
            if read is not None:
                self._require_mask_key(read)
                targets[target] = read
        return targets

    def _require_mask_key(self, target: TargetSettings) -> None:
        if "hash" in target.mask.values() and target.mask_key is None:
            what = f"[targets.{target.name}] mask_key is missing: hashes are made with it"
            self._problem(("targets", target.name, "mask"), what, 'write mask_key = "${…}"')

    def _require_connectors(
        self, document: dict[str, Any], registry: RegistrySettings | None, targets: Mapping[str, TargetSettings]
    ) -> None:
        """Of a log that a connector writes: its registry, no source, and nothing that needs our transaction topic."""
        for name, target in targets.items():
            if target.consistency != "key":
                what = f"[targets.{name}] consistency: a connector's topics don't say which transactions are whole"
                self._problem(("targets", name, "consistency"), what, 'write "key"')
        if "source" in document:
            self._problem(("source",), "[source] is the connector's, not ours", "leave it out")
        if registry is not None and registry.url is None:
            what = "[registry] url is missing: the connector's schemas are in a registry"
            self._problem(
                ("log", "written_by"), what, "write http://host:8081; with Apicurio it ends in /apis/ccompat/v7"
            )

    def _refuse_replication_onto_itself(self, source: SourceSettings, targets: Mapping[str, TargetSettings]) -> None:
        for name, target in targets.items():
            if _same_spelling(target.url) == _same_spelling(source.url):
                what = f"[targets.{name}] url: is the source: every change would be captured again, without end"
                self._problem(("targets", name, "url"), what, "name another database")

    def _table(self, path: Path, table: Any, readers: Mapping[str, Read], into: type[Any], **given: Any) -> Any:
        """An `into` from the table's values; None if something is wrong with it."""
        header = ".".join(map(str, path))
        if table is None:
            self._problem((), f"[{header}] is missing", "add it")
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
            found = read(expanded(value, self._environ))
        except ConfigError as error:
            inner = error.path if isinstance(error, InnerError) else ()
            self._problem((*path, *inner), f"[{'.'.join(map(str, path[:-1]))}] {key}: {error}", error.mend)
            return {}
        return {_FIELD_NAMES.get(key, key): found}

    def _known(self, path: Path, table: Mapping[str, Any], known: Collection[str]) -> None:
        for key in table:
            if key not in known:
                close = difflib.get_close_matches(key, list(known), 1)
                mend = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(sorted(known))}"
                where = f" in [{'.'.join(map(str, path))}]" if path else ""
                self._problem((*path, key), f"unknown key {key!r}{where}", mend)

    def _problem(self, path: Path, what: str, mend: str | None) -> None:
        line = next((self._lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self._lines), 1)
        self.problems.append(_Problem(line, what, mend))


def _required(into: type[Any]) -> set[str]:
    def has_default(each: Field[Any]) -> bool:
        return each.default is not MISSING or each.default_factory is not MISSING

    return {each.name for each in fields(into) if not has_default(each)} - {"name"}


def _same_spelling(url: str) -> str:
    return re.sub(r"^postgres(ql)?(\+\w+)?://", "postgresql://", url)
