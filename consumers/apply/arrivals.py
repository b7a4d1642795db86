"""What was read from a log is decoded, and goes into an inbox."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import repeat
from operator import itemgetter
from typing import Final

from cdc.core.events import ChangeEvent
from cdc.core.log import StoredRecord, TopicPartition
from cdc.core.position import ORIGIN, Position
from cdc.core.tables import TableId
from cdc.registry.decoding import NO_BARRIERS, Decoding, barriers
from consumers.apply.connector import ConnectorLog
from consumers.apply.entering import AnyInbox, Approaching
from consumers.apply.following import followed
from consumers.plan.batch import Arrived
from consumers.plan.transactions import TransactionInbox

_offset: Final = itemgetter(2)  # of a record; attrgetter takes longer
_value: Final = itemgetter(5)
_headers: Final = itemgetter(6)


class Arrivals:
    """Records of one partition at a time, in the order of offsets. `connector`: of a log that cdc did not write.
    `passed` is up to where the target has the changes of tables' shapes: those may come again.
    """

    def __init__(self, decoding: Decoding, connector: ConnectorLog | None, is_ours: Callable[[TableId], bool]) -> None:
        self._decoding = decoding
        self._connector = connector
        self._is_ours = is_ours
        self.passed = ORIGIN

    def add_events(self, inbox: AnyInbox, partition: TopicPartition, records: Sequence[StoredRecord]) -> None:
        inbox.add_all(partition, self._arrived(records))

    def add_ends(self, inbox: AnyInbox, approaching: Approaching | None, records: Iterable[StoredRecord]) -> None:
        for record in records:
            end = self._decoding.end(record)
            if isinstance(inbox, TransactionInbox):
                inbox.add_end(record.offset, end)
            elif end is not None and approaching is not None:
                approaching.add_end(end.position)

    def add_alterations(
        self, inbox: AnyInbox, partition: TopicPartition, records: Iterable[StoredRecord], *, loaded: int
    ) -> None:
        """All tables are `loaded` again in that epoch."""
        for record in records:
            found = self._decoding.alteration(record)
            if found is None:
                inbox.add_alteration(partition, record.offset, None, None)
            elif found.event.position <= self.passed:
                # Not judged again: the target's `tables` may be others now, by which it could not be followed.
                inbox.add_alteration(partition, record.offset, found.event.position, None)
            else:
                event, topics = followed(found, self._is_ours, loaded=loaded)
                inbox.add_alteration(partition, record.offset, found.event.position, event, topics)

    def _arrived(self, records: Sequence[StoredRecord]) -> Iterable[Arrived]:
        events = self._decoding.events(records)
        values = [*map(_value, records)]
        if self._connector is not None or {*map(type, records)} != {StoredRecord} or None in values:
            return self._arrived_one_by_one(records, events)
        truncated: Iterable[Position] = repeat(ORIGIN)
        altered: Iterable[Position] = repeat(ORIGIN)
        if any(map(_headers, records)):
            truncated, altered = zip(*map(barriers, records), strict=True)
        return zip(map(_offset, records), events, truncated, altered, map(len, values), strict=False)

    def _arrived_one_by_one(
        self, records: Iterable[StoredRecord], events: Iterable[ChangeEvent | None]
    ) -> Iterator[Arrived]:
        for record, event in zip(records, events, strict=True):
            if event is not None and self._connector is not None:
                self._connector.require_applicable(event, record.topic)
            truncated, altered = barriers(record) if record.headers else NO_BARRIERS
            yield record.next_offset - 1, event, truncated, altered, 0 if record.value is None else len(record.value)
