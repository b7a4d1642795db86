"""From batches of events to the target's transactions: planned, written, checkpointed.

Steps 1 to 4 of the applier's commit order are here (`Target.transaction` keeps them).

A batch that the target refuses is tried again in the source's order, in ever smaller parts, down to single events, each
part in a savepoint: what the planner merged, or put in another order, may be what a constraint did not accept. An event
that is refused alone is **poison**. It then

- waits, with what its topic has after it, where other partitions may bring what it needs (see `may_wait`),
- becomes a dead letter, if there are `letters`,
- or ends the session with its error.

A change of a table that is left to people ends it too. What stands before the change in its transaction is committed
then: once they have changed the target, rows of the shape before it have no place there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import takewhile
from operator import attrgetter
from typing import Final, Protocol

from cdc.core.errors import (
    AlreadyRunningError,
    CdcError,
    ConstraintError,
    FidelityError,
    GapError,
    ProtocolViolationError,
    StaleApplierError,
    TargetError,
    TargetSchemaError,
    UnfollowedError,
)
from cdc.core.events import Alter, ChangeEvent
from cdc.core.log import TopicPartition
from cdc.core.position import Position
from cdc.core.runs import counted, one_by_one, rows_of
from cdc.core.tables import TableId, TableSchema
from consumers.apply.meanwhile import Beside, alone
from consumers.plan.approach import claimed
from consumers.plan.checkpoint import PartitionProgress
from consumers.plan.mapping import EventMapping
from consumers.plan.planner import plan
from consumers.plan.source_order import Unit, halves, units
from consumers.plan.steps import Step
from consumers.targets.target import Target, TargetTransaction

_MANY: Final = 1_000  # events: for fewer, to wait takes less time than to change threads
_table: Final = attrgetter("table")
_position: Final = attrgetter("position")
_defines_table: Final = attrgetter("defines_table")

Progress = Mapping[TopicPartition, PartitionProgress]
Waiting = dict[TopicPartition, ChangeEvent]
"""The first event of each partition that has to wait for other partitions."""


class Letters(Protocol):
    """Where poison goes: it belongs to the open transaction until `committed`, or to nothing after `forget`."""

    @property
    def blocked(self) -> bool:
        """Whether anything can have to wait behind a letter."""

    def add(self, unit: Unit, error: CdcError) -> None:
        """These events are poison."""

    def take(self, event: ChangeEvent) -> bool:
        """Whether the event waits behind a letter; then it is one from now on."""

    def take_unit(self, unit: Unit) -> bool:
        """As `take`, of all events of the unit if of one."""

    def write(self, transaction: TargetTransaction) -> None:
        """Make what was added durable, as far as it is not of this transaction; and what is, in it. More may come."""

    def committed(self) -> None: ...

    def forget(self) -> None: ...

    def forget_from(self, position: Position) -> None:
        """Forget those of this transaction that stand at the position or beyond it."""


class Delivery:
    """Writes to one open target. A transaction is open from the first `write` to `commit` or an error.

    `may_wait` says whether an event that other rows stand against may wait for them; `waiting` is what did so in the
    transaction that was committed last. `beside` runs the steps of large batches, and nothing else.
    """

    def __init__(
        self,
        target: Target,
        mapping: EventMapping,
        letters: Letters | None = None,
        may_wait: Callable[[ChangeEvent], bool] = lambda _: False,
        beside: Beside = alone,
    ) -> None:
        self._target = target
        self._beside = beside
        self._mapping = mapping
        self._letters = letters
        self._may_wait = may_wait
        self._session = ExitStack()
        self._open: TargetTransaction | None = None
        self._only_part: Sequence[ChangeEvent] | None = None
        self._passed: dict[TopicPartition, PartitionProgress] = {}  # with earlier parts of the transaction
        self._last_refused: Unit | None = None
        self._waiting: Waiting = {}
        self.waiting: Waiting = {}

    def write(self, events: Sequence[ChangeEvent], *, log_id: str) -> None:
        """These events, in an order in which each key's are in commit order; a large transaction comes in parts."""
        events = self._mapping.events(events)
        if self._open is None:
            self._only_part, self._passed = events, {}
            self._prepare(events)
        elif self._only_part is not None:
            self._passed, self._only_part = _progress_of(self._only_part), None
        transaction = self._begun(log_id)
        with self._rolling_back():
            free = self._free(events)
            try:
                with transaction.savepoint():
                    self._run(transaction, self._planned(free), counted(free))
            except CdcError as error:
                if not _is_poison(error, free):
                    raise
                alone = one_by_one(events)
                if self._only_part is not None:
                    self._only_part = alone
                self._try_in_order(transaction, alone, alone if free is events else one_by_one(free))
            if self._letters is not None and self._only_part is None:
                self._letters.write(transaction)  # or those of all parts would be kept until the commit
        if self._only_part is None:
            self._passed.update(_progress_of(events))

    def _planned(self, events: Sequence[ChangeEvent]) -> list[Step]:
        """Of tables whose rows have to be moved, both halves of a changed key must come one after the other."""
        if any(map(self._target.moves, _versions(events))):
            events = sorted(events, key=_position)
        return plan(events, moving=self._target.moves)

    def _run(self, transaction: TargetTransaction, steps: Sequence[Step], events: int) -> None:
        if events < _MANY:
            transaction.run(steps)
        else:
            self._beside(lambda: transaction.run(steps))

    def commit(self, progress: Progress, *, log_id: str) -> Progress:
        """Write how far the partitions are with it, and commit. How far they are: less than `progress` where events
        have to wait, which are to be read again; see `waiting`.
        """
        transaction = self._begun(log_id)
        with self._rolling_back():
            accepted = self._accepted(transaction)
        if not accepted:
            transaction = self._written_again(log_id)
        with self._rolling_back():
            if self._letters is not None:
                self._letters.write(transaction)
            done = self._cut(progress)
            # A checkpoint without anything, of a first batch that waits as a whole, would look like one that was lost.
            transaction.advance(done if done or not progress else claimed())
        self._open = None
        self._session.close()
        if self._letters is not None:
            self._letters.committed()
        self.waiting, self._waiting = self._waiting, {}
        return done

    def abandon(self) -> None:
        """Roll back what is open, if anything is: its parts are to be written again."""
        if self._open is not None:
            with suppress(_AbandonedError), self._rolling_back():
                raise _AbandonedError

    def _begun(self, log_id: str) -> TargetTransaction:
        if self._open is None:
            self._open = self._session.enter_context(self._target.transaction(log_id=log_id))
        return self._open

    def _prepare(self, events: Sequence[ChangeEvent]) -> None:
        """Make missing tables, outside of the transaction. One that can't be is met again when it is written; so is one
        that is altered, and may have been before a crash, where that commits by itself.
        """
        altered: set[TableId] = set()
        if any(map(_defines_table, events)):
            altered = {
                event.change.before.id for event in events if isinstance(event.change, Alter) and event.change.before
            }
            events = [*takewhile(lambda event: not event.defines_table, events)]
        for version in dict.fromkeys(version for version in _versions(events) if version.id not in altered):
            try:
                self._target.prepare(version)
            except TargetSchemaError:
                if self._letters is None:
                    raise

    def _accepted(self, transaction: TargetTransaction) -> bool:
        """Whether constraints that are checked at the commit hold. If not, all of it can be written again if it is
        still here.
        """
        try:
            with transaction.savepoint():
                transaction.require_constraints()
        except ConstraintError:
            if self._only_part is None:
                raise
            return False
        return True

    def _written_again(self, log_id: str) -> TargetTransaction:
        """In the source's order, deferred constraints being checked after each part too."""
        events = self._only_part = one_by_one(self._only_part or ())
        self.abandon()
        transaction = self._begun(log_id)
        with self._rolling_back():
            self._try_units(transaction, units(self._free(events)), checked=True)
        return transaction

    def _try_in_order(
        self, transaction: TargetTransaction, events: Sequence[ChangeEvent], free: Sequence[ChangeEvent]
    ) -> None:
        try:
            self._try_units(transaction, units(free), checked=False)
        except UnfollowedError:
            if self._last_refused is not None:
                self._commit_before(self._last_refused[0].position, transaction, events)
            raise

    def _commit_before(self, position: Position, transaction: TargetTransaction, events: Sequence[ChangeEvent]) -> None:
        """Of these events and of earlier parts; what became a letter on the way is one from then on."""
        before = [event for event in events if event.position < position]
        progress = {**self._passed, **_progress_of(before)}
        if not progress or self._waiting:
            return
        if self._letters is not None:
            self._letters.forget_from(position)
            self._letters.write(transaction)
        transaction.advance(progress)
        self._open = None
        self._session.close()
        if self._letters is not None:
            self._letters.committed()

    def _try_units(self, transaction: TargetTransaction, todo: Sequence[Unit], *, checked: bool) -> None:
        todo = [unit for unit in todo if not self._waits_behind(unit)]
        if not todo:
            return
        events = [event for unit in todo for event in unit]
        try:
            with transaction.savepoint():
                transaction.run(plan(events, moving=lambda _: True))
                if checked:
                    transaction.require_constraints()
        except CdcError as error:
            if not _is_poison(error, events):
                raise
            if len(todo) == 1:
                self._refused(todo[0], error)
                return
            for part in halves(todo):
                self._try_units(transaction, part, checked=checked)

    def _refused(self, unit: Unit, error: CdcError) -> None:
        self._last_refused = unit
        if isinstance(error, ConstraintError) and error.by_others and self._may_wait(unit[0]):
            self._let_wait(unit)
        elif self._letters is None:
            raise error
        else:
            self._letters.add(unit, error)

    def _free(self, events: Sequence[ChangeEvent]) -> Sequence[ChangeEvent]:
        """Those that wait behind no dead letter; the others become letters."""
        if self._letters is None or not self._letters.blocked:
            return events
        # In the order of the source: so they stand in their topic, and are tried again.
        in_order = sorted(one_by_one(events), key=_position)
        return [event for event in in_order if not self._letters.take(event)]

    def _waits_behind(self, unit: Unit) -> bool:
        """Behind one of its topic that waits (a truncate must not overtake it), or behind a dead letter."""
        if any(waiting.topic == _partition(unit[0]).topic for waiting in self._waiting):
            self._let_wait(unit)
            return True
        return self._letters is not None and self._letters.take_unit(unit)

    def _let_wait(self, unit: Unit) -> None:
        for event in unit:
            self._waiting.setdefault(_partition(event), event)

    def _cut(self, progress: Progress) -> Progress:
        """Up to what waits."""
        cut = {partition: at for partition, at in progress.items() if partition not in self._waiting}
        for event in self._only_part or () if self._waiting else ():
            first = self._waiting.get(_partition(event))
            if first is not None and _offset(event) < _offset(first):
                cut[_partition(event)] = PartitionProgress(event.position, _offset(first))
        return cut

    @contextmanager
    def _rolling_back(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._open = None
            self._waiting = {}
            if self._letters is not None:
                self._letters.forget()
            with self._session.pop_all():
                raise


def _is_poison(error: CdcError, events: Iterable[ChangeEvent]) -> bool:
    """Whether the events may be at fault, and not the target or the way to it."""
    if isinstance(error, StaleApplierError | AlreadyRunningError):
        return False
    if isinstance(error, TargetError) and any(event.defines_table for event in events):
        return True
    return isinstance(error, ConstraintError | FidelityError | GapError | ProtocolViolationError | TargetSchemaError)


def _partition(event: ChangeEvent) -> TopicPartition:
    if event.place is None:
        raise AssertionError("only what was read from a log can wait for it")
    return TopicPartition(event.place.topic, event.place.partition)


def _offset(event: ChangeEvent) -> int:
    return -1 if event.place is None else event.place.offset


def _progress_of(events: Iterable[ChangeEvent]) -> dict[TopicPartition, PartitionProgress]:
    """Of partitions up to the last of these events, which each partition has in this order."""
    last: dict[tuple[str, int], ChangeEvent] = {}
    for event in events:
        place = event.place
        if place is not None:
            last[place[:2]] = event
    return {
        TopicPartition(*partition): PartitionProgress(event.position, _offset(event) + rows_of(event))
        for partition, event in last.items()
    }


def _versions(events: Iterable[ChangeEvent]) -> Iterable[TableSchema]:
    """Events of one version mostly share one object: hashing a version looks at each of its columns."""
    tables = [*map(_table, events)]
    return dict(zip(map(id, tables), tables, strict=True)).values()


class _AbandonedError(Exception):
    """Ends the target's transaction without an error of its own."""
