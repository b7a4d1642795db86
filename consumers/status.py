"""`cdc status`: how far source, log and targets are, from what they say themselves."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

from cdc.avro.names import transaction_topic
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
from consumers.plan.checkpoint import Checkpoint, PartitionProgress, require_sound
from consumers.plan.letters import INDEX, read_index
from consumers.targets.open import open_target

_Ends = dict[TopicPartition, tuple[int, int]]
"""The first and the next offset of each."""

_RATE_SECONDS: Final = 1.0  # at least, between two looks
_NO_LSN: Final = (1 << 63) - 1
_TARGET_FIELDS: Final = (
    "records_behind",
    "events_per_second",
    "version",
    "position",
    "applied_to",
    "dead_letters",
)


_Found = TypeVar("_Found")


@dataclass(frozen=True, slots=True)
class _Look(Generic[_Found]):
    """What was found, and when: others were looked at before, which may have taken long."""

    found: _Found
    at: float = field(default_factory=time.monotonic)


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
            before = _Look(_ends(reader, state))
            first = {name: _Look(_checkpoint(target)) for name, target in settings.targets.items()}
            time.sleep(_RATE_SECONDS)
            ends = _Look(_ends(reader, state))
            now = {name: _Look(_checkpoint(target)) for name, target in settings.targets.items()}
            gaps = {name: _gap(settings, name, reader, state, look.found) for name, look in now.items()}
    except CdcError as error:
        status.log = {"error": str(error)}
        return status
    status.log = _log(state, before, ends)
    if source is None:
        status.log["phase"] = "written by a Debezium connector"
    transactions = TopicPartition(transaction_topic(settings.log.prefix), 0)
    for name, target in settings.targets.items():
        status.targets[name] = _target(target, transactions, state, ends.found, first[name], now[name])
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


def _ends(reader: LogReader, state: LogState) -> _Ends:
    ends = {}
    for table in state.tables.values():
        for partition in table.topic_partitions:
            offsets = reader.offsets(partition)
            ends[partition] = (offsets.first, offsets.next)
    return ends


def _log(state: LogState, before: _Look[_Ends], now: _Look[_Ends]) -> dict[str, Any]:
    grown = sum(end for _, end in now.found.values()) - sum(end for _, end in before.found.values())
    return {
        "tables": len(state.tables),
        "records": sum(end - first for first, end in now.found.values()),
        "records_per_second": round(grown / (now.at - before.at)),
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
    transactions: TopicPartition,
    state: LogState,
    ends: _Ends,
    look_before: _Look[Checkpoint | CdcError],
    look_now: _Look[Checkpoint | CdcError],
) -> dict[str, Any]:
    """`records_behind` counts tombstones too; `position` is the newest applied one. All that was committed up to
    `applied_to` is there.
    """
    before, now = look_before.found, look_now.found
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
    positions = [ORIGIN if progress is None else progress.position for progress in done.values()]
    newest = max(positions, default=ORIGIN)
    whole = now.partitions.get(transactions) if settings.consistency == "transaction" else None
    if whole is None:
        # Where a partition stands that has nothing more to bring says nothing of the others.
        lacking = [
            at for at, (place, (_, end)) in zip(positions, wanted.items(), strict=True) if _next(done[place]) < end
        ]
        applied = min(lacking, default=newest)
    else:
        applied = whole.position
    taken = 0
    if isinstance(before, Checkpoint):
        was = before.partitions
        taken = sum(
            progress.next_offset - (was[partition].next_offset if partition in was else wanted[partition][0])
            for partition, progress in done.items()
            if progress is not None
        )
    if applied.commit_lsn == _NO_LSN:
        applied = ORIGIN  # it stands before a first load
    return {
        "records_behind": behind,
        "events_per_second": round(taken / (look_now.at - look_before.at)),
        "version": now.version,
        "position": str(newest),
        "applied_to": format_lsn(applied.commit_lsn),
        "dead_letters": _dead_letters(settings),
        "error": None,
    }


def _next(progress: PartitionProgress | None) -> int:
    return 0 if progress is None else progress.next_offset


def _or_error(look: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return look()
    except CdcError as error:
        return {"error": str(error)}
