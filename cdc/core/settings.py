"""What `cdc.toml` says, as values. `cdc.core.config` reads them from text.

What may hold a secret (URLs, options) stands in no `repr`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from cdc.core.errors import ConfigError
from cdc.core.position import Position

Consistency = Literal["transaction", "key"]
SchemaChanges = Literal["follow", "add-only", "stop"]
OnError = Literal["stop", "dead-letter"]
WrittenBy = Literal["cdc", "debezium"]
Start = Literal["earliest", "latest"] | Position | datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSettings:
    """`[source]`. `tables` are globs over `schema.table`; one that starts with `!` excludes."""

    url: str = field(repr=False)
    tables: tuple[str, ...]
    capture: str = "logical"
    slot: str = "cdc"
    publication: str = "cdc"


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """`[log]`. `partitions` and `replication_factor` are for new topics; `retention_hours` 0 keeps records for ever.

    `written_by`: `cdc`, or a Debezium connector whose `topic.prefix` is `prefix`; then there is nothing to capture.
    `topics` are names of topics, after the prefix, by patterns of the tables that have them in place of
    `schema.table`. `options` go to librdkafka as they are (`security.protocol`, `sasl.username`, …).
    """

    url: str = field(default="sqlite:///cdc-log.db", repr=False)
    prefix: str = "cdc"
    written_by: WrittenBy = "cdc"
    partitions: int = 1
    replication_factor: int = 1
    retention_hours: int = 0
    max_record_bytes: int = 1_048_576
    topics: dict[str, str] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistrySettings:
    """`[registry]`. Without a URL the registry is embedded in the log."""

    url: str | None = field(default=None, repr=False)
    options: dict[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetSettings:
    """`[targets.NAME]`. `tables` are globs as in `[source]`. `as_text` are globs over `schema.table.column`: columns
    that the target holds as text, whatever their type. `batch_events` bounds one target transaction.

    `consistency`: `transaction`, whole source transactions in the order of their commits; or `key`, each key's changes
    in order. `schema_changes`: `follow` the source's, only add (`add-only`: what goes at the source stays, what changes
    stops the applier), or `stop` at each. `on_error`: what becomes of an event that the target refuses, for good.

    `session_timeout`, in seconds: an applier that was silent for so long counts as gone, and others go on in its place.

    `start` is where a target without a checkpoint begins; a Position of epoch 0 is an LSN of the log's present epoch.
    `rename`: see `cdc.core.renaming`. `exclude_columns` are globs over `schema.table.column`, and so are the keys of
    `mask`, whose values are `hash` (HMAC-SHA-256 under `mask_key`), `null`, or a text to stand there.
    """

    name: str
    url: str = field(repr=False)
    tables: tuple[str, ...] = ("*.*",)
    start: Start = "earliest"
    rename: dict[str, str] = field(default_factory=dict)
    exclude_columns: tuple[str, ...] = ()
    mask: dict[str, str] = field(default_factory=dict)
    mask_key: str | None = field(default=None, repr=False)
    as_text: tuple[str, ...] = ()
    consistency: Consistency = "transaction"
    schema_changes: SchemaChanges = "follow"
    on_error: OnError = "stop"
    batch_events: int = 10_000
    session_timeout: int = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """`source` is None where a Debezium connector writes the log."""

    source: SourceSettings | None
    log: LogSettings
    registry: RegistrySettings
    targets: dict[str, TargetSettings]

    def captured(self) -> SourceSettings:
        """What capture reads. ConfigError if a connector does."""
        if self.source is None:
            raise ConfigError(
                "a Debezium connector captures this log's source",
                mend='run `cdc apply`; or set [log] written_by = "cdc", another prefix, and a [source]',
            )
        return self.source
