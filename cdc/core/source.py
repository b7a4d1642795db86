"""The source's port, as capture sees it, and what a log must remember of its source."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from cdc.core.events import StreamItem
from cdc.core.position import Position
from cdc.core.tables import TableId


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceIdentity:
    """Which cluster and database this is. The timeline rises with each promotion of a standby. Nothing that it
    sent before it was asked lies beyond `flushed_lsn`.
    """

    system_id: str
    timeline: int
    database: str
    flushed_lsn: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotStatus:
    """The source's own memory of how far it was confirmed. `lost` says why it can't go on from there, or is None."""

    confirmed_lsn: int
    lost: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPoint:
    """A consistent cut of the source: rows as of `lsn` can be read under `snapshot`, and the stream begins there."""

    lsn: int
    snapshot: str


class Source(Protocol):
    """A source of transactions. One thread. A broken connection is a PassingError: open anew."""

    def identify(self) -> SourceIdentity: ...

    def tables(self) -> Sequence[TableId]:
        """The tables that are captured now. ConfigError if a pattern names none."""

    def slot(self) -> SlotStatus | None:
        """The slot, or None if there is none."""

    def switch_point(self, timeline: int) -> int | None:
        """Where the history of the present timeline left `timeline` (an LSN); None if it never was on it."""

    def remember(self, notes: Sequence[tuple[Position, str]], rereading: Collection[str]) -> None:
        """What this source said of its tables in earlier sessions: the notes of its Alter and Drop events with their
        positions, in order, and the tables that were being read again. Call it before `load` and `start`.
        """

    def left_out(self) -> Sequence[str]:
        """The source's names of tables that the log has, but that are not captured any more. Should they be again, they
        have to be read again.
        """

    def name(self, table: TableId) -> str:
        """The source's own name for a captured table, which it keeps when it is renamed: as in `Rereading`."""

    def create(self) -> AbstractContextManager[LoadPoint]:
        """Make what capture needs at the source (publication, slot). The snapshot lasts as long as the context."""

    def drop_slot(self) -> None:
        """Drop the slot, if there is one."""

    def load(self, at: LoadPoint, *, epoch: int, again: bool) -> Iterator[StreamItem]:
        """The rows of all tables as one transaction just below `at`; `again` truncates each table first."""

    def start(self, *, epoch: int, after: int = 0) -> None:
        """Start streaming from what the slot has confirmed, or from `after` (an LSN) if that is further. SlotInUseError
        if another process streams from the slot.
        """

    def receive(self, most: int, timeout: float) -> Iterator[StreamItem]:
        """The items of up to `most` messages; waits up to `timeout` seconds for the first. Iterate it to its end before
        the next call.
        """

    def confirm(self, lsn: int) -> None:
        """Nothing at or below `lsn` will have to be sent again. Also keeps the connection alive: call it often."""
