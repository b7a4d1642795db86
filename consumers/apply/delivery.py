"""From batches of events to the target's transactions: planned, written, checkpointed.

Steps 1 to 4 of the applier's commit order are here (`Target.transaction` keeps them).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import takewhile

from cdc.core.events import ChangeEvent
from cdc.core.log import TopicPartition
from consumers.plan.checkpoint import PartitionProgress
from consumers.plan.mapping import EventMapping
from consumers.plan.planner import plan
from consumers.plan.steps import TableStep
from consumers.targets.target import Target, TargetTransaction


class Delivery:
    """Writes to one open target. A transaction is open from the first `write` to `commit` or an error."""

    def __init__(self, target: Target, mapping: EventMapping) -> None:
        self._target = target
        self._mapping = mapping
        self._session = ExitStack()
        self._open: TargetTransaction | None = None

    def write(self, events: Sequence[ChangeEvent], *, log_id: str) -> None:
        """These events, in an order in which each key's are in commit order; a large transaction comes in parts."""
        steps = plan(map(self._mapping.event, events))
        if self._open is None:
            for step in takewhile(lambda step: not isinstance(step, TableStep), steps):
                self._target.prepare(step.table)  # what it creates is not of this transaction
            self._open = self._session.enter_context(self._target.transaction(log_id=log_id))
        with self._rolling_back():
            self._open.run(steps)

    def commit(self, progress: Mapping[TopicPartition, PartitionProgress], *, log_id: str) -> None:
        """Write how far the partitions are with it, and commit."""
        if self._open is None:
            self._open = self._session.enter_context(self._target.transaction(log_id=log_id))
        with self._rolling_back():
            self._open.advance(progress)
        self._open = None
        self._session.close()

    def abandon(self) -> None:
        """Roll back what is open, if anything is: its parts are to be written again."""
        if self._open is not None:
            with suppress(_AbandonedError), self._rolling_back():
                raise _AbandonedError

    @contextmanager
    def _rolling_back(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._open = None
            with self._session.pop_all():
                raise


class _AbandonedError(Exception):
    """Ends the target's transaction without an error of its own."""
