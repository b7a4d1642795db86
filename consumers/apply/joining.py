"""Tables that come to a target later: their events are read from where they begin, but the target has gone past what
the tables topic says of them, and does not go back there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import closing
from typing import Final, NamedTuple

from cdc.avro.names import tables_topic
from cdc.core.errors import GapError
from cdc.core.events import Alter
from cdc.core.log import LogReader, TopicPartition
from cdc.core.position import Position
from cdc.core.state import TableState
from cdc.log.reading import read_from
from cdc.registry.decoding import Decoding
from consumers.apply.entering import Reached
from consumers.plan.approach import joining_now, left_at
from consumers.plan.beside import anew
from consumers.plan.checkpoint import PartitionProgress

Changes = dict[str, list["_Change"]]
"""By topic, where its table got another shape, or another name, or went."""

_NONE: Final = PartitionProgress(Position(0, 0, 0), 0)


class _Change(NamedTuple):
    at: Position
    topic_before: str | None


class Joining:
    """Looks for what a target that has `reached` this would need of the tables topic, and does not take any more."""

    def __init__(self, reader: LogReader, decoding: Decoding, *, prefix: str, target: str, reached: Reached) -> None:
        self._reader = reader
        self._decoding = decoding
        self._tables = TopicPartition(tables_topic(prefix), 0)
        self._target = target
        self._reached = reached

    def require_one_shape(
        self, tables: Collection[TableState], begin: Callable[[TopicPartition], PartitionProgress]
    ) -> None:
        """GapError if one of the target's tables joins it now, and has events from before a change of its shape that
        the target has gone past; or comes back, and has rows there from before one. `begin` says from where on a
        partition is read. Nothing may be assigned to the reader.
        """
        new = joining_now(self._reached, [table.topic for table in tables])
        passed = self._reached.get(self._tables, _NONE).next_offset
        if not new or not passed:
            return
        ours = {table.topic for table in tables}
        changes = self._changes(passed)
        for table in tables:
            away_since = left_at(self._reached, table.topic)
            for change in changes.get(table.topic, ()) if table.topic in new else ():
                is_from_others = change.topic_before is not None and change.topic_before not in ours
                was_away = away_since is not None and change.at > away_since
                for partition in table.topic_partitions:
                    if self._lacks(partition, begin(partition), change.at, surely=is_from_others or was_away):
                        raise GapError(
                            f"table {table.table} comes to target {self._target!r} now, which has gone past the change"
                            f" of its shape or name at {change.at}: its rows from before that can't be followed",
                            mend=f"have the log make the target's tables anew: {anew(self._target)}; or exclude this"
                            " one in the target's tables",
                        )

    def _changes(self, passed: int) -> Changes:
        found: Changes = {}
        with closing(read_from(self._reader, self._tables, 0)) as records:
            for record in records:
                said = self._decoding.alteration(record) if record.offset < passed else None
                if said is not None and not (isinstance(said.event.change, Alter) and said.event.change.before is None):
                    for topic in said.topics:
                        found.setdefault(topic, []).append(_Change(said.event.position, said.topic_before))
        return found

    def _lacks(self, partition: TopicPartition, begin: PartitionProgress, at: Position, *, surely: bool) -> bool:
        """Whether rows from before `at` are to be read. They are there `surely` if they are where nothing is read, or
        at the target already.
        """
        if begin.position >= at:
            return False
        return surely or next((position < at for position in self._positions(partition, begin)), False)

    def _positions(self, partition: TopicPartition, begin: PartitionProgress) -> Iterator[Position]:
        """Of the events that are to be read."""
        with closing(read_from(self._reader, partition, begin.next_offset)) as records:
            for record in records:
                event = self._decoding.event(record)
                if event is not None and event.position > begin.position:
                    yield event.position
