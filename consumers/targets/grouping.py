"""Partial rows, grouped by what they have."""

from __future__ import annotations

from collections.abc import Iterable

from cdc.core.events import UNCHANGED, Row


def by_present_columns(rows: Iterable[Row]) -> dict[tuple[int, ...], list[Row]]:
    """The rows under the indexes of their columns that are not UNCHANGED: one statement serves each group."""
    groups: dict[tuple[int, ...], list[Row]] = {}
    for row in rows:
        present = tuple([index for index, value in enumerate(row) if value is not UNCHANGED])
        groups.setdefault(present, []).append(row)
    return groups
