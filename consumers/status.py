"""`cdc status`: how far source, log and targets are, from what they say themselves."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Final

from cdc.core.errors import CdcError
from cdc.core.log import LogReader, TopicPartition
from cdc.core.patterns import TablePatterns
from cdc.core.position import ORIGIN, format_lsn
from cdc.core.settings import Settings, SourceSettings, TargetSettings
from cdc.core.state import LogState
from cdc.log.contents import log_state
from cdc.log.open import open_log
from cdc.sources.postgres.database import SourceDatabase
from cdc.sources.postgres.quoting import quote_literal
from consumers.apply.kept import require_readable
from consumers.plan.checkpoint import Checkpoint, require_sound
from consumers.plan.letters import INDEX, read_index
from consumers.targets.open import open_target

_RATE_SECONDS: Final = 1.0
_TARGET_FIELDS: Final = (
    "records_behind",
    "events_per_second",
    "version",
    "position",
    "applied_to",
    "dead_letters",
)


@dataclass(slots=True)
class Status:
    source: dict[str, Any] = field(default_factory=dict)
    log: dict[str, Any] = field(default_factory=dict)
    targets: dict[str, dict[str, Any]] = field(default_factory=dict)

    def as_object(self) -> dict[str, Any]:
        return {"source": self.source, "log": self.log, "targets": self.targets}


def read_status(settings: Settings) -> Status:
    """Look twice, a second apart, for rates. A part that can't be reached has its `error` instead."""
    source = settings.source
    status = Status(source={} if source is None else _or_error(lambda: _source(source)))
    try:
        with open_log(settings.log) as log, closing(log.reader(f"{settings.log.prefix}-status")) as reader:
            state = log_state(reader, settings.log)
            before = _ends(reader, state)
            first = {name: _checkpoint(target) for name, target in settings.targets.items()}
            time.sleep(_RATE_SECONDS)
            ends = _ends(reader, state)
            now = {name: _checkpoint(target) for name, target in settings.targets.items()}
            gaps = {name: _gap(settings, name, reader, state, found) for name, found in now.items()}
    except CdcError as error:
        status.log = {"error": str(error)}
        return status
    status.log = _log(state, before, ends)
    if source is None:
        status.log["phase"] = "written by a Debezium connector"
    for name, target in settings.targets.items():
        status.targets[name] = _target(target, state, ends, first[name], now[name])
        status.targets[name]["error"] = status.targets[name]["error"] or gaps[name]
    return status


def _source(settings: SourceSettings) -> dict[str, Any]:
    with SourceDatabase(settings.url, application_name="cdc status") as database:
        rows = database.query(
            "SELECT active, confirmed_flush_lsn::text, wal_status, pg_wal_lsn_diff(pg_current_wal_lsn(),"
            " confirmed_flush_lsn)::bigint, pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint,"
            " pg_current_wal_lsn()::text FROM pg_replication_slots"
            f" WHERE slot_name = {quote_literal(settings.slot)}",
            doing="looking at the replication slot",
        )
    if not rows:
        return {"slot": settings.slot, "error": "there is no such slot: capture has not run yet"}
    active, confirmed, wal_status, lag, retained, current = rows[0]
    return {
        "slot": settings.slot,
        "capture_running": active,
        "current_lsn": current,
        "confirmed_lsn": confirmed,
        "lag_bytes": lag,
        "retained_wal_bytes": retained,
        "wal_status": wal_status,
    }


def _ends(reader: LogReader, state: LogState) -> dict[TopicPartition, tuple[int, int]]:
    ends = {}
    for table in state.tables.values():
        for partition in table.topic_partitions:
            offsets = reader.offsets(partition)
            ends[partition] = (offsets.first, offsets.next)
    return ends


def _log(
    state: LogState, before: dict[TopicPartition, tuple[int, int]], ends: dict[TopicPartition, tuple[int, int]]
) -> dict[str, Any]:
    grown = sum(end for _, end in ends.values()) - sum(end for _, end in before.values())
    return {
        "tables": len(state.tables),
        "records": sum(end - first for first, end in ends.values()),
        "records_per_second": round(grown / _RATE_SECONDS),
        "phase": state.source.phase if state.source else "capture has not run yet",
        "epoch": state.source.epoch if state.source else None,
        "recorded_lsn": format_lsn(state.recorded_lsn),
    }


def _checkpoint(target: TargetSettings) -> Checkpoint | CdcError:
    try:
        with closing(open_target(target)) as opened:
            checkpoint = opened.read_checkpoint()
        require_sound(checkpoint, target.name, may_be_empty=True)
        return checkpoint  # noqa: TRY300  # what can be raised is raised above
    except CdcError as error:
        return error


def _gap(settings: Settings, name: str, reader: LogReader, state: LogState, found: Checkpoint | CdcError) -> str | None:
    """Why the target can't go on from its checkpoint, if it can't."""
    if isinstance(found, CdcError):
        return None
    try:
        require_readable(reader, state, settings.targets[name], settings.log, found)
    except CdcError as error:
        return str(error)
    return None


def _dead_letters(target: TargetSettings) -> int | None:
    """None if the target stopped answering just now."""
    try:
        with closing(open_target(target)) as opened:
            return len(read_index(target.name, opened.rows_of(INDEX)))
    except CdcError:
        return None


def _target(
    settings: TargetSettings,
    state: LogState,
    ends: dict[TopicPartition, tuple[int, int]],
    before: Checkpoint | CdcError,
    now: Checkpoint | CdcError,
) -> dict[str, Any]:
    """`records_behind` counts tombstones too; `position` is the newest applied one."""
    if isinstance(now, CdcError):
        return dict.fromkeys(_TARGET_FIELDS, None) | {"error": str(now)}
    patterns = TablePatterns(settings.tables)
    wanted = {
        partition: ends[partition]
        for table in state.tables.values()
        if patterns.matches(table.table)
        for partition in table.topic_partitions
        if partition in ends
    }
    done = {partition: now.partitions.get(partition) for partition in wanted}
    behind = sum(
        end - (progress.next_offset if (progress := done[partition]) else first)
        for partition, (first, end) in wanted.items()
    )
    newest = max((progress.position for progress in done.values() if progress), default=ORIGIN)
    taken = 0
    if isinstance(before, Checkpoint):
        was = before.partitions
        taken = sum(
            progress.next_offset - (was[partition].next_offset if partition in was else wanted[partition][0])
            for partition, progress in done.items()
            if progress is not None
        )
    return {
        "records_behind": behind,
        "events_per_second": round(taken / _RATE_SECONDS),
        "version": now.version,
        "position": str(newest),
        "applied_to": format_lsn(newest.commit_lsn),
        "dead_letters": _dead_letters(settings),
        "error": None,
    }


def _or_error(look: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return look()
    except CdcError as error:
        return {"error": str(error)}
