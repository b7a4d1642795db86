"""Source, log and targets in one process, moved on step by step: a test waits for nothing but the servers.

    with Replica(source_url, {"copy": target_url}, name=unique_name) as replica:
        replica.catch_up()

`catch_up` returns when all that was committed at the source before it stands in every target.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

import psycopg

from cdc.avro.names import schemas_topic
from cdc.capture.capture import Capture
from cdc.core.errors import PassingError, SlotInUseError
from cdc.core.log import Log, LogWriter
from cdc.core.registry import SchemaRegistry
from cdc.core.settings import LogSettings, RegistrySettings, Settings, SourceSettings, TargetSettings
from cdc.log.followed import FollowedReader
from cdc.log.memory import MemoryLog
from cdc.registry.confluent import ConfluentRegistry
from cdc.registry.embedded import EmbeddedRegistry
from cdc.sources.postgres.source import PostgresSource
from consumers.apply.applier import Applier
from consumers.apply.letters import DeadLetters
from consumers.targets.open import open_target

_PATIENCE_SECONDS = 180.0
_WAIT_SECONDS = 1.0


class Replica:
    """`name` is the slot's, the publication's and the log's prefix, and begins the appliers' names. `log` is one in
    memory unless another is given; `options` are further settings of a target.

    Capture and appliers are opened at their first use, and stay open; after an error of theirs, `reopen`.
    """

    def __init__(
        self,
        source: str,
        targets: Mapping[str, str],
        *,
        name: str,
        tables: Sequence[str] = ("public.*",),
        log: Log | None = None,
        log_settings: LogSettings | None = None,
        options: Mapping[str, Mapping[str, Any]] | None = None,
        registry: str | None = None,
    ) -> None:
        self._source_settings = SourceSettings(url=source, tables=tuple(tables), slot=name, publication=name)
        self._log_settings = log_settings or LogSettings(prefix=name)
        self._targets = {
            target: TargetSettings(name=f"{name}_{target}", url=url, **(options or {}).get(target, {}))
            for target, url in targets.items()
        }
        self.log = log or MemoryLog(self._log_settings)
        self._registry = registry
        self.said: list[str] = []  # what appliers reported of dead letters
        self.reported: list[str] = []  # what capture reported
        self._capture_session = ExitStack()
        self._resources = ExitStack()
        self._capture: Capture | None = None
        self._appliers: dict[str, tuple[Applier, FollowedReader]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        self.drop()

    @property
    def settings(self) -> Settings:
        """What a command on this log and these targets would read."""
        targets = {of.name: of for of in self._targets.values()}
        return Settings(source=None, log=self._log_settings, registry=RegistrySettings(), targets=targets)

    def catch_up(self) -> None:
        self.capture()
        for target in self._targets:
            self.apply(target)

    def capture(self) -> None:
        """Bring all that is committed at the source into the log."""
        capture = self._opened_capture()
        end = self._write_marker()
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while capture.captured_lsn < end or capture.progress.rereading:
            assert time.monotonic() < deadline, "capture does not get on"
            try:
                capture.step()
            except PassingError:
                # What took a minute meanwhile let the server's patience (wal_sender_timeout) run out.
                self._capture_session.close()
                self._capture = None
                capture = self._opened_capture()

    def step_capture(self) -> None:
        """One step of capture, wherever that leaves it."""
        self._opened_capture().step()

    def start_over(self) -> None:
        """As `cdc capture --start-over`: load all tables again, in a new epoch."""
        self._capture_session.close()
        self._capture = None
        self._opened_capture(start_over=True)

    def apply(self, target: str) -> None:
        """Bring all that is in the log into the target."""
        applier, reader = self._opened_applier(target)
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while applier.step(0.0 if reader.at_end() else _WAIT_SECONDS) or not reader.at_end():
            assert time.monotonic() < deadline, "the applier does not get on"

    def left_out(self, target: str) -> int:
        """How many changes the target's applier left out, since it was opened."""
        return self._appliers[target][0].progress.left_out

    def reopen(self, log: Log | None = None, log_settings: LogSettings | None = None) -> None:
        """Begin again with what is in the log and the targets, as after a crash; or after its settings changed."""
        self.close()
        self.log, self._log_settings = log or self.log, log_settings or self._log_settings

    def set_options(self, target: str, **options: Any) -> None:
        """Change a target's settings; its applier begins again with them."""
        self._targets[target] = replace(self._targets[target], **options)
        self.reopen()

    def close(self) -> None:
        self._capture = None
        self._appliers = {}
        self._capture_session.close()
        self._resources.close()

    def drop(self) -> None:
        """Leave nothing at the source: a server has only so many slots."""
        name = self._source_settings.slot
        with psycopg.connect(self._source_settings.url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(active_pid, 10000) FROM pg_replication_slots WHERE slot_name = %s", [name]
            )
            connection.execute(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s", [name]
            )
            connection.execute(f'DROP PUBLICATION IF EXISTS "{name}"'.encode())

    def _opened_capture(self, *, start_over: bool = False) -> Capture:
        if self._capture is None:
            session = self._capture_session
            source = session.enter_context(PostgresSource(self._source_settings, report=self.reported.append))
            writer = self.log.writer()
            session.callback(writer.close)
            reader = self.log.reader("capture")
            session.callback(reader.close)
            registry = self._opened_registry(writer)
            session.callback(registry.close)
            capture = Capture(
                source=source,
                writer=writer,
                reader=reader,
                registry=registry,
                settings=self._log_settings,
                slot=self._source_settings.slot,
            )
            _started(capture, start_over=start_over)
            self._capture = capture
        return self._capture

    def _opened_registry(self, writer: LogWriter | None) -> SchemaRegistry:
        if self._registry is not None:
            return ConfluentRegistry(RegistrySettings(url=self._registry))
        return EmbeddedRegistry(self.log, writer, schemas_topic(self._log_settings.prefix))

    def _opened_applier(self, name: str) -> tuple[Applier, FollowedReader]:
        if name not in self._appliers:
            reader = FollowedReader(self.log.reader(name))
            self._resources.callback(reader.close)
            registry = self._opened_registry(None)
            self._resources.callback(registry.close)
            target = open_target(self._targets[name])
            self._resources.callback(target.close)
            settings = self._targets[name]
            letters = DeadLetters(
                log=self.log,
                prefix=self._log_settings.prefix,
                name=settings.name,
                target=target,
                taking=settings.on_error == "dead-letter",
                report=self.said.append,
            )
            self._resources.callback(letters.close)
            applier = Applier(
                reader=reader,
                registry=registry,
                target=target,
                settings=self._targets[name],
                prefix=self._log_settings.prefix,
                letters=letters,
            )
            applier.start()
            self._appliers[name] = applier, reader
        return self._appliers[name]

    def _write_marker(self) -> int:
        """A position of the stream after all that was committed; flushed, or the server would not send it at once."""
        with psycopg.connect(self._source_settings.url, autocommit=True) as connection:
            connection.execute("SET synchronous_commit = on")
            connection.execute("SELECT pg_logical_emit_message(true, 'replica', '')")
            row = connection.execute("SELECT pg_current_wal_flush_lsn() - '0/0'").fetchone()
        assert row is not None
        return int(row[0])


def _started(capture: Capture, *, start_over: bool) -> None:
    """A session that was closed just now may still hold the slot."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            capture.start(start_over=start_over)
        except SlotInUseError:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        else:
            return
