"""Whether capture may go on where the log ends, must load first, or has to stop because something was lost. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cdc.core.errors import GapError, SourceError
from cdc.core.position import format_lsn
from cdc.core.source import SlotStatus, SourceIdentity
from cdc.core.state import LogState, SourceState

_START_OVER = "`cdc capture --start-over` makes a new slot and loads all tables again; targets follow by themselves"


@dataclass(frozen=True, slots=True)
class Resume:
    """Go on streaming from the slot."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Load:
    """Make a new slot and load all tables. `again`: an earlier load may have left rows that must go first."""

    epoch: int
    again: bool
    drop_slot: bool


def decide(
    state: LogState,
    identity: SourceIdentity,
    slot: SlotStatus | None,
    *,
    slot_name: str,
    published_lsn: int,
    switch_point: Callable[[int], int | None],
    start_over: bool,
) -> Resume | Load:
    """What capture has to do. `published_lsn` is the end_lsn of the log's last END, or 0.

    GapError if going on would leave a hole, with what was lost and the command that mends it.
    """
    known = state.source
    if start_over:
        return Load(epoch=1 if known is None else known.epoch + 1, again=known is not None, drop_slot=True)
    if known is None:
        if slot is not None:
            raise SourceError(
                f"replication slot {slot_name!r} exists, but this log knows nothing of it",
                mend="name the log that it belongs to in [log], choose another [source] slot, or drop it with"
                " `cdc teardown`",
            )
        return Load(epoch=1, again=False, drop_slot=False)
    _same_database(known, identity, slot_name)
    if known.phase != "streaming":
        # A load under an exported snapshot can't be resumed: the snapshot ended with its connection.
        return Load(epoch=known.epoch, again=True, drop_slot=True)
    recorded = max(published_lsn, state.recorded_lsn)
    _same_history(known, identity, recorded, switch_point)
    _nothing_taken_back(identity, recorded)
    _slot_continues(slot, slot_name, recorded)
    return Resume(epoch=known.epoch)


def _same_database(known: SourceState, identity: SourceIdentity, slot_name: str) -> None:
    if (known.system_id, known.database) != (identity.system_id, identity.database):
        raise GapError(
            f"[source] url leads to database {identity.database!r} of cluster {identity.system_id}; this log belongs to"
            f" {known.database!r} of cluster {known.system_id}",
            mend=f"correct [source] url; or, to go on with this source, {_START_OVER}",
        )
    if known.slot != slot_name:
        raise GapError(
            f"[source] slot is {slot_name!r}, but this log was written from slot {known.slot!r}",
            mend=f"set [source] slot to {known.slot!r}; or {_START_OVER}",
        )


def _same_history(
    known: SourceState, identity: SourceIdentity, recorded: int, switch_point: Callable[[int], int | None]
) -> None:
    """After a failover: what was published must not lie beyond the point where the new timeline began."""
    if identity.timeline >= known.timeline and known.began not in {None, timeline_began(known.timeline, switch_point)}:
        raise GapError(
            f"the source's timeline {known.timeline} is not the one that this log was written from: they have the same"
            " number, but left their history at different points (two standbys were promoted apart)",
            mend=_START_OVER,
        )
    if identity.timeline == known.timeline:
        return
    switched_at = switch_point(known.timeline) if identity.timeline > known.timeline else None
    if switched_at is None:
        raise GapError(
            f"the source is on timeline {identity.timeline}, whose history does not contain timeline {known.timeline}"
            " that this log was written from",
            mend=_START_OVER,
        )
    if recorded > switched_at:
        raise GapError(
            f"a failover to timeline {identity.timeline} at {format_lsn(switched_at)} took back changes that were"
            f" already published, up to {format_lsn(recorded)}",
            mend=_START_OVER,
        )


def timeline_began(timeline: int, switch_point: Callable[[int], int | None]) -> int:
    """Where `timeline` of the source's history left the one before it (an LSN); 0 for the first."""
    ends = (switch_point(before) for before in range(timeline - 1, 0, -1))
    return next((end for end in ends if end is not None), 0)


def _nothing_taken_back(identity: SourceIdentity, recorded: int) -> None:
    """A source put back to an earlier state keeps its timeline if only its disk was: it would begin to stream at
    `recorded`, once it has come there again, and all that it commits until then would be passed over.
    """
    if recorded > identity.flushed_lsn:
        raise GapError(
            f"the source's WAL ends at {format_lsn(identity.flushed_lsn)}, but this log has its changes up to"
            f" {format_lsn(recorded)}: it was put back to an earlier state (a snapshot of its disk?), and what was"
            " published since then is not in it",
            mend=_START_OVER,
        )


def _slot_continues(slot: SlotStatus | None, name: str, recorded: int) -> None:
    after = f"changes after {format_lsn(recorded)} may be lost"
    if slot is None:
        raise GapError(f"replication slot {name!r} is missing at the source: {after}", mend=_START_OVER)
    if slot.lost is not None:
        raise GapError(f"replication slot {name!r} is invalidated: {slot.lost}; {after}", mend=_START_OVER)
    if slot.confirmed_lsn > recorded:
        raise GapError(
            f"replication slot {name!r} stands at {format_lsn(slot.confirmed_lsn)}, ahead of this log, which ends at"
            f" {format_lsn(recorded)}: what lies between is lost (was the slot made anew, or read by something else?)",
            mend=_START_OVER,
        )
