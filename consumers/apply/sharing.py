"""Several appliers of one target share the log's partitions (consistency `key`), each in a process of its own.

The log's membership says who should take which partition, the target who may (`SharedTarget`). A session goes through
tenures, one after the other:

- In most it holds **a part** of the partitions, and applies what concerns each of them alone. It ends when its share
  changes, when somebody else takes hold of one of them, or when all that is left is tied to other partitions.
- Then one of the appliers holds **all** of them, alone, and does what an applier does that does not share: for as long
  as it takes to get past what was tied, and a moment more.

So what ties partitions together is only ever done by who sees all of them, from a checkpoint that such an applier could
have left itself. Who waits to be alone lets the others come as far as they can meanwhile: most of the way is shared.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping
from typing import Final

from cdc.core.errors import AlreadyRunningError, StaleApplierError, TargetError
from cdc.core.log import Membership, TopicPartition
from cdc.core.position import ORIGIN, Position
from consumers.apply.applier import Applier
from consumers.apply.saving import Progress
from consumers.plan.checkpoint import PartitionProgress
from consumers.plan.letters import INDEX, read_index
from consumers.plan.part import Tied
from consumers.targets.target import SharedTarget

MakeApplier = Callable[[Collection[TopicPartition] | None, Progress], Applier]
Stopping = Callable[[], bool]

_IDLE_SECONDS: Final = 0.1
_RETRY_SECONDS: Final = 0.05
_LOOK_SECONDS: Final = 0.2
_PATIENCE_SECONDS: Final = 5.0  # with those who don't get on
_LINGER_SECONDS: Final = 0.5  # what ties partitions together often comes several times


class Sharing:
    """One session, as an `Applier` is. `make` gives an applier of what `target` is going to hold,
    `end` says what offset a partition's next record gets.
    """

    def __init__(
        self,
        *,
        membership: Membership,
        target: SharedTarget,
        make: MakeApplier,
        end: Callable[[TopicPartition], int],
        name: str,
        report: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._membership = membership
        self._target = target
        self._make = make
        self._end = end
        self._name = name
        self._report = report
        self._begun = False
        self._told: int | None = None
        self._waiting_since: float | None = None
        self._got_on: Callable[[], None] = lambda: None
        self.progress = Progress()

    def run(
        self,
        stopping: Stopping,
        *,
        applying: Callable[[], None] = lambda: None,
        got_on: Callable[[], None] = lambda: None,
    ) -> None:
        """As `Applier.run`."""
        self._got_on = got_on
        tied: Tied = {}
        while not stopping():
            try:
                tied = self._tenure(tied, stopping, applying)
            except StaleApplierError:
                tied = {}
            except AlreadyRunningError as error:
                tied = {}
                self._wait(error, applying)

    def _tenure(self, tied: Tied, stopping: Stopping, applying: Callable[[], None]) -> Tied:
        """What it ended for, if that is to be taken alone."""
        if not self._begun:
            self._begun = self._has_begun()
        if tied or not self._begun:
            self._be_alone(tied, stopping, applying)
            return {}
        return self._take_part(stopping, applying)

    def _has_begun(self) -> bool:
        """Whether the target belongs to a log already."""
        self._target.hold(())
        has_begun = self._target.open().log_id is not None
        letters = read_index(self._name, self._target.rows_of(INDEX))
        if letters:
            raise TargetError(
                f"target {self._name!r} has {len(letters)} dead letters, which appliers can't share",
                mend="`cdc dlq retry` or `cdc dlq drop` first; or leave out --shared",
            )
        return has_begun

    def _take_part(self, stopping: Stopping, applying: Callable[[], None]) -> Tied:
        mine = self._membership.partitions()

        def is_over() -> bool:
            return stopping() or self._membership.partitions() != mine

        applier = self._applier(mine)
        try:
            if not applier.start(stopping):
                return {}
            self._waiting_since = None
            applying()
            if len(mine) != self._told:
                self._told = len(mine)
                self._report(f"has {len(mine)} partitions")
            turn = _Turn(self._target, applier, self._end)
            while not is_over():
                if turn.has_come():
                    applier.finish()
                    return applier.tied
                self._membership.subscribe(applier.topics)
                if applier.step(_IDLE_SECONDS):
                    self._got_on()
            applier.finish()
            return {}
        finally:
            applier.leave()

    def _be_alone(self, tied: Tied, stopping: Stopping, applying: Callable[[], None]) -> None:
        applier = self._applier(None)
        try:
            if not applier.start(stopping):
                return
            self._waiting_since = None
            applying()
            if not self._begun:
                applier.claim()
                self._begun = True
            past_since: float | None = None
            while not stopping() and (past_since is None or time.monotonic() - past_since < _LINGER_SECONDS):
                self._membership.partitions()
                if past_since is None and is_past(tied, applier.reached):
                    past_since = time.monotonic()
                if applier.step(_RETRY_SECONDS):
                    self._got_on()
            applier.finish()
        finally:
            applier.leave()

    def _applier(self, held: Collection[TopicPartition] | None) -> Applier:
        self._target.hold(held)
        return self._make(held, self.progress)

    def _wait(self, error: AlreadyRunningError, applying: Callable[[], None]) -> None:
        """Somebody is alone, most often for a moment; or somebody is at work who does not share."""
        now = time.monotonic()
        if self._waiting_since is None:
            self._waiting_since = now
            applying()
        if now - self._waiting_since > _PATIENCE_SECONDS:
            self._waiting_since = math.inf
            self._report(f"standing by: {error}")
        self._membership.partitions()
        time.sleep(_RETRY_SECONDS)


class _Turn:
    """Whether it is time to be alone, for an applier that met something tied: when no partition that is behind it is
    still on its way there, by whoever holds it. `end` says what offset a partition's next record gets.
    """

    def __init__(self, target: SharedTarget, applier: Applier, end: Callable[[TopicPartition], int]) -> None:
        self._target = target
        self._applier = applier
        self._end = end
        self._look_due = 0.0
        self._seen: Mapping[TopicPartition, PartitionProgress] = {}
        self._moved = 0.0

    def has_come(self) -> bool:
        tied = self._applier.tied
        if not tied or self._applier.has_refused:
            return bool(tied)
        now = time.monotonic()
        if now < self._look_due:
            return False
        self._look_due = now + _LOOK_SECONDS
        seen, self._seen = self._seen, self._on_their_way(tied)
        if not seen or seen != self._seen:
            self._moved = now
        return not self._seen or now - self._moved > _PATIENCE_SECONDS

    def _on_their_way(self, tied: Tied) -> dict[TopicPartition, PartitionProgress]:
        furthest: dict[str, Position] = {}
        for partition, position in tied.items():
            of_tables = partition.topic not in self._applier.topics
            for topic in self._applier.topics if of_tables else (partition.topic,):
                furthest[topic] = max(furthest.get(topic, ORIGIN), position)
        return {
            partition: progress
            for partition, progress in self._target.still_going(tied.keys()).items()
            if progress.position < furthest.get(partition.topic, ORIGIN) and progress.next_offset < self._end(partition)
        }


def is_past(tied: Tied, reached: Mapping[TopicPartition, PartitionProgress]) -> bool:
    """Whether a target that has reached this got past what was tied."""
    start = PartitionProgress(ORIGIN, 0)
    return all(reached.get(partition, start).position >= position for partition, position in tied.items())
