"""Events in the order of the source, in ever smaller parts: how a batch that a target refused is tried again. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cdc.core.events import ChangeEvent, Create, Delete

Unit = tuple[ChangeEvent, ...]
"""What can only be applied together: an event, or both halves of a changed key."""


def units(events: Iterable[ChangeEvent]) -> list[Unit]:
    """In the order in which the source made them."""
    found: list[Unit] = []
    for event in sorted(events, key=lambda event: event.position):
        if found and _belong_together(found[-1][-1], event):
            found[-1] = (*found[-1], event)
        else:
            found.append((event,))
    return found


def halves(todo: Sequence[Unit]) -> tuple[Sequence[Unit], Sequence[Unit]]:
    """Two or more units in two parts, cut between two transactions if there are two."""
    middle = len(todo) // 2
    for away in range(len(todo) - middle):
        for cut in (middle - away, middle + away):
            if 0 < cut < len(todo) and _transaction(todo[cut - 1]) != _transaction(todo[cut]):
                return todo[:cut], todo[cut:]
    return todo[:middle], todo[middle:]


def _belong_together(one: ChangeEvent, other: ChangeEvent) -> bool:
    return (
        isinstance(one.change, Delete)
        and one.change.moved_to is not None
        and isinstance(other.change, Create)
        and other.change.moved_from is not None
        and one.table.id == other.table.id
        and other.position == one.position._replace(ordinal=one.position.ordinal + 1)
    )


def _transaction(unit: Unit) -> tuple[int, int]:
    return unit[0].position[:2]
