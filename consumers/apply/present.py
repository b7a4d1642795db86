"""Whether the target's tables are still there. A table that is missing is made; one that was there before, and went
behind our back, would come back without its rows (promise 4): so the checkpoint remembers of which topics the tables
were there, and a session looks before it first writes to one.

What people drop or rename because `schema_changes` leaves it to them comes with the source's change, and counts for
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from operator import attrgetter
from typing import Final

from cdc.avro.scanned import ScannedEvent
from cdc.core.errors import TargetSchemaError
from cdc.core.events import Alter, ChangeEvent, Drop, Truncate
from cdc.core.log import TopicPartition
from cdc.core.position import ORIGIN
from cdc.core.state import TableState
from cdc.core.tables import TableId
from consumers.plan.approach import table_of
from consumers.plan.beside import anew
from consumers.plan.checkpoint import PartitionProgress
from consumers.targets.target import Target

Marks = dict[TopicPartition, PartitionProgress]

_table: Final = attrgetter("table")
_GONE: Final = 0  # in place of an offset
_THERE: Final = 1


class PresentTables:
    """Of a session of `applier` that has `reached` this. `name` says what a source's table is called at the target."""

    def __init__(
        self,
        target: Target,
        applier: str,
        name: Callable[[TableId], TableId],
        reached: Mapping[TopicPartition, PartitionProgress],
    ) -> None:
        self._target = target
        self._applier = applier
        self._name = name
        self._known = {
            partition.topic
            for partition, at in reached.items()
            if partition == table_of(partition.topic) and at.next_offset == _THERE
        }
        self._seen: set[str] = set()
        self._new: set[str] = set()
        self._gone: set[str] = set()

    def look(self, events: Sequence[ChangeEvent], tables: Mapping[str, TableState]) -> None:
        """Before they are written. TargetSchemaError if a table is gone that one of them is for."""
        # Usual events of one version share one object for their table, and are of one topic.
        usual, others = events, []
        if {*map(type, events)} != {ScannedEvent}:
            usual = [event for event in events if isinstance(event, ScannedEvent)]
            others = [event for event in events if not isinstance(event, ScannedEvent)]
        one_of_each = dict(zip(map(id, map(_table, usual)), usual, strict=True))
        if {event.place.topic for event in (*one_of_each.values(), *others) if event.place is not None} <= self._seen:
            return
        topics = {table.table: topic for topic, table in tables.items()}
        wanted: set[str] = set()
        for event in events:
            topic = topics.get(event.table.id) if event.defines_table or event.place is None else event.place.topic
            if topic is None or (isinstance(event, ScannedEvent) and topic in self._seen):
                continue
            match event.change:
                case Drop():
                    self._forget(topic)
                    continue
                case Alter(before=before):
                    if before is not None and before.id != event.table.id:
                        self._forget(topics.get(before.id))
                    is_made = before is None or before.id != event.table.id
                case change:
                    is_made = isinstance(change, Truncate)
            if topic not in self._seen and topic in self._known and not is_made:
                wanted.add(topic)
            self._gone.discard(topic)
            self._seen.add(topic)
            self._new |= {topic} - self._known
        self._require(wanted, tables)

    def news(self, tables: Mapping[str, TableState]) -> Marks:
        """What to checkpoint, after a commit."""
        if not self._new and not self._gone:
            return {}
        there = self._there(self._new, tables)
        # In one order: appliers that share write the same rows.
        marks = {table_of(topic): PartitionProgress(ORIGIN, _THERE) for topic in sorted(there)}
        marks |= {table_of(topic): PartitionProgress(ORIGIN, _GONE) for topic in self._gone}
        self._known = (self._known | there) - self._gone
        self._new, self._gone = set(), set()
        return marks

    def _forget(self, topic: str | None) -> None:
        if topic is not None:
            self._gone.add(topic)
            self._new.discard(topic)
            self._seen.discard(topic)
            self._known.discard(topic)

    def _require(self, topics: set[str], tables: Mapping[str, TableState]) -> None:
        for topic in sorted(topics - self._there(topics, tables)) if topics else ():
            raise TargetSchemaError(
                f"target table {self._name(tables[topic].table)} is gone, with the rows that it had: somebody dropped"
                " or renamed it, or the target's rename has changed",
                mend=f"put it back with its rows; or have the log make the target's tables anew: {anew(self._applier)}",
            )

    def _there(self, topics: Collection[str], tables: Mapping[str, TableState]) -> set[str]:
        names = {self._name(tables[topic].table): topic for topic in topics if topic in tables}
        return {names[table] for table in self._target.present(names)} if names else set()
