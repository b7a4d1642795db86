"""What a change of a table's shape means for a target that takes some tables only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from cdc.avro.alterations import Alteration
from cdc.core.errors import GapError
from cdc.core.events import Alter, ChangeEvent, Drop
from cdc.core.tables import TableId


class Followed(NamedTuple):
    """The event as the target sees it, None if it is none of its own, and the topics that it concerns."""

    event: ChangeEvent | None
    topics: frozenset[str] = frozenset()


def followed(found: Alteration, is_ours: Callable[[TableId], bool], *, loaded: int = 0) -> Followed:
    """GapError for a table that was renamed to one of ours, whose rows we don't have. They come if it was so before the
    epoch that is `loaded`; until then it is as one that was made new.
    """
    event = found.event
    before = event.change.before if isinstance(event.change, Alter) else None
    ours = is_ours(event.table.id)
    were_ours = ours if before is None else is_ours(before.id)
    if ours and were_ours:
        return Followed(event, found.topics)
    if before is not None and found.topic_before is not None and were_ours:
        # Renamed to what is not ours: for us it is gone, and its name may be another table's now.
        return Followed(replace(event, table=before, change=Drop()), frozenset({found.topic_before}))
    if before is not None and ours and event.transaction.epoch < loaded:
        return Followed(replace(event, change=Alter(before=None)), frozenset({found.topic}))
    if before is not None and ours:
        raise GapError(
            f"table {before.id} was renamed to {event.table.id}, which is one of the target's; the rows that it had"
            " before are not",
            mend=f"name {before.id} in the target's tables too (if it comes too late for that: `cdc rebuild` with it);"
            f" or exclude {event.table.id} there; `cdc capture --start-over` loads all tables again",
        )
    return Followed(None)
