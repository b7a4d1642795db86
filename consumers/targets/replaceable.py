"""The port of targets whose tables can be replaced by others, all at once. See `consumers.rebuild`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol, runtime_checkable

from cdc.core.tables import TableId
from consumers.plan.checkpoint import Checkpoint
from consumers.targets.target import Target


class Replacement(NamedTuple):
    """`new` takes the name `live`, and what has that name becomes `old`. Without `new` it only goes."""

    live: TableId
    new: TableId | None
    old: TableId


class Replacing(Protocol):
    """What `ReplaceableTarget.replacing` has open. `live` is the checkpoint of the applier that waits."""

    live: Checkpoint

    def replace(self, tables: Sequence[Replacement]) -> None:
        """Give the tables their new names, with what `ReplaceableTarget.features` says is taken along. The live
        applier goes on from this target's checkpoint, which stays nobody else's; the session that it has is out
        (TargetReplacedError), a new one finds the new tables.
        """


@runtime_checkable
class ReplaceableTarget(Target, Protocol):
    """A target that is opened under a name of its own beside the live applier's, in the same database."""

    def tables_in(self, area: str) -> list[TableId]:
        """The tables of an area (`consumers.plan.beside`)."""

    def features(self, tables: Iterable[TableId]) -> Mapping[TableId, frozenset[str]]:
        """What is at the tables that `replace` does not take along (columns, constraints, triggers …), in words that
        are the same for tables that are alike. Nothing of a table that is not there.
        """

    def make_alike(self, tables: Sequence[Replacement]) -> None:
        """What can be done before `replace` so that it takes less time: indexes, statistics. May be done again."""

    def replacing(self, live: str) -> AbstractContextManager[Replacing]:
        """ONE transaction, in which the applier `live` can't write. Whatever this target does meanwhile is in it. On
        any error nothing of it stays (MySQL: nothing but what was replayed), and this session of the target is of no
        more use.
        """

    def discard(self, area: str) -> int:
        """Drop the area's tables, and forget this target's checkpoint. How many tables."""
