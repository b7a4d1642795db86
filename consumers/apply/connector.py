"""A log that a Debezium connector writes: its tables, and what of it can't be applied in order.

A connector has no state topic. Its tables are found by the names of their topics, looked for again and again. When it
starts anew it may send events a second time, with the positions they had (see `cdc.avro.source.connector_place`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from cdc.core.errors import FidelityError, GapError, TopicMismatchError
from cdc.core.events import ChangeEvent, Create, Read, Truncate
from cdc.core.log import LogReader
from cdc.core.position import ORIGIN, Position
from cdc.core.state import LogState, TableState
from cdc.core.tables import TableId
from cdc.log.contents import connector_state
from consumers.plan.approach import Reached, partitions_of
from consumers.plan.checkpoint import PartitionProgress

BEGIN_AGAIN: Final = "let the connector begin again, with a snapshot, under another topic.prefix"
_LOOK_SECONDS: Final = 1.0


class ConnectorLog:
    """Follows the topics of `<prefix>.…`. `report` is told when the connector repeats itself."""

    def __init__(self, reader: LogReader, prefix: str, report: Callable[[str], None]) -> None:
        self._reader = reader
        self._prefix = prefix
        self._report = report
        self._look_due = 0.0
        self._repeating: set[TableId] = set()
        self.state = LogState()

    def look(self) -> None:
        """Look for new topics, if it is time. TopicMismatchError if one got more partitions."""
        if time.monotonic() < self._look_due:
            return
        self._look_due = time.monotonic() + _LOOK_SECONDS
        known, self.state = self.state, connector_state(self._prefix, self._reader.topics())
        for topic, table in known.tables.items():
            _require_as_many(topic, table.partitions, self.state.tables.get(topic, table).partitions)

    def begun(self, table: TableState, reached: Reached) -> Reached:
        """What to checkpoint before the table is read for the first time. TopicMismatchError if its topic had less
        partitions when that was.
        """
        mark = partitions_of(table.topic)
        if mark in reached:
            _require_as_many(table.topic, reached[mark].next_offset, table.partitions)
            return {}
        return {mark: PartitionProgress(ORIGIN, table.partitions)}

    def require_applicable(self, event: ChangeEvent, topic: str) -> None:
        """FidelityError for a table without key, GapError for a truncate in a topic of several partitions."""
        table = event.table.id
        if not isinstance(event.change, Truncate):
            if not event.table.key:
                raise FidelityError(
                    f"table {table} has no key: nothing tells its events apart when the connector repeats them",
                    mend="add a primary key at the source, or set message.key.columns at the connector; or exclude the"
                    " table in the target's tables",
                )
            return
        if self.state.tables[topic].partitions > 1:
            raise GapError(
                f"table {table} was truncated at the source, and its topic has several partitions: nothing says which"
                " of the others' events came after it",
                mend="set skipped.operations = t at the connector, or give the topic one partition; empty the table at"
                " the target, and set next_offset in its cdc_checkpoint beyond this event to go on",
            )

    def resent(self, read: Position, event: ChangeEvent) -> bool:
        """As `consumers.plan.inbox.is_resent`, for a connector's positions, which events may share."""
        table = event.table.id
        if not _is_resent(read, event):
            self._repeating.discard(table)
            return False
        if table not in self._repeating:
            self._repeating.add(table)
            self._report(f"table {table}: the connector sends events again; they are skipped")
        return True


def _require_as_many(topic: str, before: int, now: int) -> None:
    if now != before:
        raise TopicMismatchError(
            f"topic {topic!r} has {now} partitions now, not {before}: the changes of a key may be in two of them, and"
            " nothing says which come first",
            mend=BEGIN_AGAIN,
        )


def _is_resent(read: Position, event: ChangeEvent) -> bool:
    """Rows that were inserted together share a position: the last of them may come twice, and are applied twice. That
    does no harm: nothing later of their partition was read.
    """
    if event.position == ORIGIN:  # a row of a first snapshot: the connector begins anew
        return False
    match event.change:
        case Read() | Create(moved_from=None):
            return event.position < read
        case _:
            return event.position <= read
