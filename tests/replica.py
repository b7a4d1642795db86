"""Source, log and targets in one process, moved on step by step: a test waits for nothing but the servers.

    with Replica(source_url, {"copy": target_url}, name=unique_name) as replica:
        replica.catch_up()

`catch_up` returns when all that was committed at the source before it stands in every target.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Self

import psycopg

from cdc.avro.names import schemas_topic
from cdc.capture.capture import Capture
from cdc.core.errors import SlotInUseError
from cdc.core.log import Log, LogReader, StoredRecord, TopicPartition
from cdc.core.position import parse_lsn
from cdc.core.settings import LogSettings, SourceSettings, TargetSettings
from cdc.log.memory import MemoryLog
from cdc.registry.embedded import EmbeddedRegistry
from cdc.sources.postgres.source import PostgresSource
from consumers.apply.applier import Applier
from consumers.targets.open import open_target

_PATIENCE_SECONDS = 30.0


class Replica:
    """`name` is the slot's, the publication's and the log's prefix, and begins the appliers' names. `log` is one in
    memory unless another is given; `options` are further settings of every target.

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
        options: Mapping[str, object] | None = None,
    ) -> None:
        self._source_settings = SourceSettings(url=source, tables=tuple(tables), slot=name, publication=name)
        self._log_settings = log_settings or LogSettings(prefix=name)
        self._targets = {
            target: TargetSettings(name=f"{name}_{target}", url=url, **(options or {}))  # type: ignore[arg-type]
            for target, url in targets.items()
        }
        self.log = log or MemoryLog(self._log_settings)
        self._resources = ExitStack()
        self._capture: Capture | None = None
        self._appliers: dict[str, tuple[Applier, _Watched]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        self._drop()

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
            capture.step()

    def step_capture(self) -> None:
        """One step of capture, wherever that leaves it."""
        self._opened_capture().step()

    def apply(self, target: str) -> None:
        """Bring all that is in the log into the target."""
        applier, reader = self._opened_applier(target)
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while applier.step(0.0 if reader.at_end() else 0.1) or not reader.at_end():
            assert time.monotonic() < deadline, "the applier does not get on"

    def reopen(self) -> None:
        """Begin again with what is in the log and the targets, as after a crash."""
        self.close()

    def close(self) -> None:
        self._capture = None
        self._appliers = {}
        self._resources.close()

    def _drop(self) -> None:
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

    def _opened_capture(self) -> Capture:
        if self._capture is None:
            source = self._resources.enter_context(PostgresSource(self._source_settings))
            writer = self.log.writer()
            self._resources.callback(writer.close)
            reader = self.log.reader("capture")
            self._resources.callback(reader.close)
            registry = EmbeddedRegistry(self.log, writer, schemas_topic(self._log_settings.prefix))
            self._resources.callback(registry.close)
            capture = Capture(
                source=source,
                writer=writer,
                reader=reader,
                registry=registry,
                settings=self._log_settings,
                slot=self._source_settings.slot,
            )
            _started(capture)
            self._capture = capture
        return self._capture

    def _opened_applier(self, name: str) -> tuple[Applier, _Watched]:
        if name not in self._appliers:
            reader = _Watched(self.log.reader(name))
            self._resources.callback(reader.close)
            registry = EmbeddedRegistry(self.log, None, schemas_topic(self._log_settings.prefix))
            self._resources.callback(registry.close)
            target = open_target(self._targets[name])
            self._resources.callback(target.close)
            applier = Applier(
                reader=reader,
                registry=registry,
                target=target,
                settings=self._targets[name],
                prefix=self._log_settings.prefix,
            )
            applier.start()
            self._appliers[name] = applier, reader
        return self._appliers[name]

    def _write_marker(self) -> int:
        """A position of the stream after all that was committed; flushed, or the server would not send it at once."""
        with psycopg.connect(self._source_settings.url, autocommit=True) as connection:
            connection.execute("SET synchronous_commit = on")
            connection.execute("SELECT pg_logical_emit_message(true, 'replica', '')")
            row = connection.execute("SELECT pg_current_wal_flush_lsn()::text").fetchone()
        assert row is not None
        return parse_lsn(row[0])


def _started(capture: Capture) -> None:
    """A session that was closed just now may still hold the slot."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            capture.start()
        except SlotInUseError:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        else:
            return


class _Watched(LogReader):
    """Tells whether all that is in the log was read."""

    def __init__(self, reader: LogReader) -> None:
        self._reader = reader
        self._read: dict[TopicPartition, int] = {}
        self.topics = reader.topics
        self.offsets = reader.offsets
        self.unassign = reader.unassign
        self.pause = reader.pause
        self.resume = reader.resume
        self.commit = reader.commit
        self.close = reader.close

    def assign(self, start: Mapping[TopicPartition, int]) -> None:
        self._read.update(start)
        self._reader.assign(start)

    def at_end(self) -> bool:
        return all(read >= self._reader.offsets(partition).next for partition, read in self._read.items())

    def poll(self, max_records: int, timeout: float) -> list[StoredRecord]:
        records = self._reader.poll(max_records, timeout)
        for record in records:
            self._read[TopicPartition(record.topic, record.partition)] = record.offset + 1
        return records
