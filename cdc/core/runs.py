"""Rows of a first load that stay together on their way: nobody reads them who only passes them on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cdc.core.copy_text import rows_in
from cdc.core.events import ChangeEvent, Read, Row
from cdc.core.values import value


@value(kw_only=True)
class ReadRun(ChangeEvent):
    """The events of `count` rows that a first load found, as one: it stands where the last of them does, and its
    `change` and `place` are those of the first. `text` has all rows, in COPY's text.
    """

    text: bytes
    count: int

    def rows(self) -> list[Row]:
        """ProtocolViolationError if they are damaged."""
        return rows_in(self.text, len(self.table.columns))

    def events(self) -> Iterator[ChangeEvent]:
        """Each row's own."""
        before, table_before, place = self.ordinal - self.count, self.table_ordinal - self.count, self.place
        for at, row in enumerate(self.rows()):
            yield ChangeEvent(
                transaction=self.transaction,
                table=self.table,
                change=Read(row),
                ordinal=before + at + 1,
                table_ordinal=table_before + at + 1,
                lsn=self.lsn,
                captured_us=self.captured_us,
                snapshot=self.snapshot,
                place=None if place is None else place._replace(offset=place.offset + at),
            )


def rows_of(event: ChangeEvent) -> int:
    """How many events it stands for."""
    return event.count if type(event) is ReadRun else 1  # by its type, as it is asked of each event


def has_runs(events: Sequence[ChangeEvent]) -> bool:
    return ReadRun in map(type, events)


def one_by_one(events: Sequence[ChangeEvent]) -> Sequence[ChangeEvent]:
    """The events, with those of each row in place of a run."""
    if not has_runs(events):
        return events
    found: list[ChangeEvent] = []
    for event in events:
        found += event.events() if isinstance(event, ReadRun) else (event,)
    return found


def counted(events: Sequence[ChangeEvent]) -> int:
    """How many events these are, one by one."""
    if not has_runs(events):
        return len(events)
    return sum(map(rows_of, events))
