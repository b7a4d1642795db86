"""What capture keeps in the log's state topic, so that its host is disposable; appliers read it too.

The topic is compacted and has one partition; keys and values are JSON text. Keys: `log`, `source`, `load`,
`recorded`, `table:<topic>`, `rereading:<source's name of a table>`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from cdc.core.errors import ProtocolViolationError
from cdc.core.log import Record, StoredRecord, TopicPartition
from cdc.core.position import Position, format_lsn, parse_lsn
from cdc.core.tables import TableId

Phase = Literal["creating", "loading", "streaming"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceState:
    """Which source this log has, and how far the first load has come.

    `creating`: about to make the slot; `loading`: the slot stands, rows are being read; `streaming`: all rows are in
    the log. `began` is the LSN at which the timeline left the one before it, 0 for the first; None if it is not known:
    two standbys that were promoted apart may have the same number.
    """

    epoch: int
    system_id: str
    timeline: int
    database: str
    slot: str
    phase: Phase
    began: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TableState:
    """A captured table's topic. `partitions` is fixed when the topic is made: keys must not move when someone adds
    partitions. `truncated` is the position of its latest truncate, `altered` that of its latest change of shape.
    """

    table: TableId
    topic: str
    partitions: int
    truncated: Position | None = None
    altered: Position | None = None

    @property
    def topic_partitions(self) -> list[TopicPartition]:
        return [TopicPartition(self.topic, number) for number in range(self.partitions)]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadState:
    """The latest first load. All of its rows are at `commit_lsn` of `epoch`, and `begins` says, of each topic that was
    there before, the offsets of its partitions below which nothing of it is.
    """

    epoch: int
    commit_lsn: int
    begins: dict[str, tuple[int, ...]]

    def begin(self, topic: str, partition: int) -> int:
        offsets = self.begins.get(topic, ())
        return offsets[partition] if partition < len(offsets) else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LogState:
    """All of the state topic. `recorded_lsn` is up to where a source without changes was recorded as read; `rereading`
    has the source's names of the tables that are being read again.
    """

    log_id: str | None = None
    source: SourceState | None = None
    load: LoadState | None = None
    recorded_lsn: int = 0
    tables: dict[str, TableState] = field(default_factory=dict)
    rereading: frozenset[str] = frozenset()

    def with_record(self, record: StoredRecord) -> LogState:
        """The state after one more record of the topic. Unknown keys are left alone: a newer version wrote them."""
        if record.key is None or record.value is None:
            return self
        try:
            return self._with(record.key.decode(), json.loads(record.value))
        except (ValueError, KeyError, TypeError) as error:
            raise ProtocolViolationError(
                f"topic {record.topic}, offset {record.offset}: state record {record.key!r} is damaged ({error})"
            ) from None

    def _with(self, key: str, value: dict[str, Any]) -> LogState:  # noqa: PLR0911  # a table
        kind, _, name = key.partition(":")
        match kind:
            case "log":
                return replace(self, log_id=str(value["id"]))
            case "source":
                return replace(self, source=_source_state(value))
            case "load":
                return replace(self, load=_load_state(value))
            case "recorded":
                return replace(self, recorded_lsn=parse_lsn(value["lsn"]))
            case "table":
                return replace(self, tables={**self.tables, name: _table_state(name, value)})
            case "rereading":
                return replace(self, rereading=self.rereading | {name} if value["active"] else self.rereading - {name})
            case _:
                return self


def read_state(records: Iterable[StoredRecord]) -> LogState:
    """The state after all `records` of the topic."""
    state = LogState()
    for record in records:
        state = state.with_record(record)
    return state


def log_record(topic: str, log_id: str) -> Record:
    return _record(topic, "log", {"id": log_id})


def source_record(topic: str, source: SourceState) -> Record:
    value = {name: getattr(source, name) for name in SourceState.__slots__}
    return _record(topic, "source", value)


def load_record(topic: str, load: LoadState) -> Record:
    value = {"epoch": load.epoch, "lsn": format_lsn(load.commit_lsn), "begins": load.begins}
    return _record(topic, "load", value)


def recorded_record(topic: str, lsn: int) -> Record:
    return _record(topic, "recorded", {"lsn": format_lsn(lsn)})


def table_record(topic: str, table: TableState) -> Record:
    value = {
        "schema": table.table.schema,
        "table": table.table.name,
        "partitions": table.partitions,
        "truncated": None if table.truncated is None else str(table.truncated),
        "altered": None if table.altered is None else str(table.altered),
    }
    return _record(topic, f"table:{table.topic}", value)


def rereading_record(topic: str, name: str, *, active: bool) -> Record:
    return _record(topic, f"rereading:{name}", {"active": active})


def _source_state(value: dict[str, Any]) -> SourceState:
    if value["phase"] not in get_args(Phase):
        raise ValueError("unknown phase")
    return SourceState(**{**value, "epoch": int(value["epoch"]), "timeline": int(value["timeline"])})


def _load_state(value: dict[str, Any]) -> LoadState:
    begins = {str(topic): tuple(map(int, offsets)) for topic, offsets in dict(value["begins"]).items()}
    return LoadState(epoch=int(value["epoch"]), commit_lsn=parse_lsn(value["lsn"]), begins=begins)


def _table_state(topic: str, value: dict[str, Any]) -> TableState:
    truncated, altered = value["truncated"], value.get("altered")
    return TableState(
        table=TableId(value["schema"], value["table"]),
        topic=topic,
        partitions=int(value["partitions"]),
        truncated=None if truncated is None else Position.parse(str(truncated)),
        altered=None if altered is None else Position.parse(str(altered)),
    )


def _record(topic: str, key: str, value: dict[str, Any]) -> Record:
    return Record(topic, 0, key.encode(), json.dumps(value, separators=(",", ":")).encode())
