"""A rebuild that replaces the live tables.

1. The log is replayed into fresh tables, while the live applier goes on.
2. When they have caught up, they get the live tables' indexes.
3. In one transaction: the live checkpoint is held, what the live tables have more is replayed, the fresh tables take
   the live ones' names, and the live applier gets the replay's checkpoint.

A crash at any moment leaves the live tables as they were, and the replay goes on from its own checkpoint; or all is
done.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import Final

from cdc.avro.names import tables_topic, transaction_topic
from cdc.core.errors import TargetError, TargetSchemaError
from cdc.core.failpoints import reached
from cdc.core.log import LogReader
from cdc.core.settings import TargetSettings
from cdc.core.tables import TableId, TableSchema
from consumers.apply.applier import Applier
from consumers.plan.beside import area, beside, live_name
from consumers.plan.checkpoint import Checkpoint
from consumers.plan.letters import INDEX, read_index
from consumers.rebuild.replay import Progress, advance, ends_of, is_behind
from consumers.targets.replaceable import ReplaceableTarget, Replacement

_CURRENT_US: Final = 10_000_000  # under steady changes, a replay whose last events are younger is through the log
_STEP_SECONDS: Final = 0.1


class Swap:
    """One session. `applier` replays into `replay`, in the area `new`; `live` and `settings` are the live target's.
    `known` are the live names of all tables in the log, with what those that were not dropped are to be in the area.
    `leave_behind`: replace tables although the new ones lack what people made at the old.
    """

    def __init__(
        self,
        *,
        applier: Applier,
        replay: ReplaceableTarget,
        live: ReplaceableTarget,
        reader: LogReader,
        settings: TargetSettings,
        prefix: str,
        log_id: str | None,
        known: Mapping[TableId, TableSchema | None],
        leave_behind: bool,
        report: Callable[[str], None],
    ) -> None:
        self._applier = applier
        self._replay = replay
        self._live = live
        self._reader = reader
        self._settings = settings
        self._prefix = prefix
        self._log_id = log_id
        self._known = known
        self._leave_behind = leave_behind
        self._report = report
        self._new, self._old = area(settings.name, "new"), area(settings.name, "old")
        self._others: frozenset[str] = frozenset()
        self.progress = Progress()

    def require_possible(self) -> None:
        """TargetError for what stands against it; and say what the new tables will lack."""
        there = len(self._live.tables_in(self._old))
        if there:
            raise TargetError(
                f"{there} tables that the last rebuild of target {self._settings.name!r} replaced are still there",
                mend=f"cdc rebuild {self._settings.name} --drop-old, when you no longer need them",
            )
        self._refuse_letters()
        if self._live.read_checkpoint().log_id != self._log_id:
            self._report("the live tables were filled from another log: what this one has will replace them")
        for table, features in sorted(self._live.features(self._known).items()):
            made = sorted(feature for feature in features if not feature.startswith("column "))
            if made:
                self._report(f"table {table}: the new one will lack {', '.join(made)}")

    def run(self, stopping: Callable[[], bool], *, replaying: Callable[[], None] = lambda: None) -> bool:
        """Replay and replace. False if stopped before: the next start goes on from there."""
        if not self._applier.start(stopping):
            return False
        replaying()
        ends = ends_of(self._reader, self._applier.partitions, self._prefix)
        ours = {*self._applier.topics, tables_topic(self._prefix)}
        if self._settings.consistency == "transaction":
            ours.add(transaction_topic(self._prefix))
        self._others = _topics(self._live.read_checkpoint()) - ours
        self.progress.doing = "replaying"
        if not advance(self._applier, ends, self.progress, done=self._is_current, stopping=stopping):
            return False
        self.progress.doing = "making indexes"
        reached("rebuild.1-replayed")
        self._make_missing()
        self._replay.make_alike(self._replacements())
        self._require_alike(self._replacements())
        self.progress.doing = "replacing the tables"
        with suppress(_StoppedError):
            self._replace(stopping)
            reached("rebuild.4-committed")
            return True
        return False

    def _replace(self, stopping: Callable[[], bool]) -> None:
        with self._replay.replacing(self._settings.name) as transaction:
            reached("rebuild.2-held")
            while self._is_behind(transaction.live):
                if stopping():
                    raise _StoppedError
                self._applier.step(_STEP_SECONDS)
            self._refuse_letters()
            tables = self._replacements()
            self._require_alike(tables)
            transaction.replace(tables)
            reached("rebuild.3-replaced")

    def _is_current(self, idle: bool) -> bool:
        is_through = self.progress.records >= self.progress.of and self._applier.progress.lag_us < _CURRENT_US
        if not idle and not is_through:
            return False
        return not self._is_behind(self._live.read_checkpoint())

    def _is_behind(self, live: Checkpoint) -> bool:
        if live.log_id != self._log_id:
            return not self._applier.is_whole  # places in one log say nothing of another
        # A table that is made meanwhile may be the live applier's first: it is ours too, once the state topic is read.
        topics = _topics(live) - self._others - self._applier.other_topics
        return not self._applier.is_whole or is_behind(self._applier.reached, live.partitions, topics)

    def _make_missing(self) -> None:
        """Tables that are at the source and live, and that nothing in the log made: they are empty."""
        there = self._replay.tables_in(self._new)
        live = self._replay.features(self._known)
        for name, version in self._known.items():
            if version is not None and name in live and version.id not in there:
                self._replay.prepare(version)

    def _replacements(self) -> list[Replacement]:
        new = {live_name(self._new, table): table for table in self._replay.tables_in(self._new)}
        names: Collection[TableId] = new
        if self._settings.schema_changes == "follow":  # what was dropped at the source goes
            names = new.keys() | self._known.keys()
        return [Replacement(live, new.get(live), beside(self._old, live)) for live in sorted(names)]

    def _require_alike(self, tables: Collection[Replacement]) -> None:
        if self._leave_behind:
            return
        pairs = [(live, new) for live, new, _ in tables if new is not None]
        has = self._replay.features([table for pair in pairs for table in pair])
        lacks = {
            new: sorted(has[live] - has.get(new, frozenset()))
            for live, new in pairs
            if live in has and not has[live] <= has.get(new, frozenset())
        }
        if lacks:
            said = "; ".join(f"table {table} lacks {', '.join(features)}" for table, features in lacks.items())
            raise TargetSchemaError(
                f"nothing is replaced yet: people made at the live tables what the new ones have not: {said}",
                mend=f"make it at the new tables too, or drop it at the live ones, then: cdc rebuild"
                f" {self._settings.name}; or give it up: cdc rebuild {self._settings.name} --leave-behind",
            )

    def _refuse_letters(self) -> None:
        count = len(read_index(self._settings.name, self._live.rows_of(INDEX)))
        if count:
            raise TargetError(
                f"target {self._settings.name!r} has {count} dead letters, which belong to its tables as they are",
                mend=f"cdc dlq retry {self._settings.name}, or cdc dlq drop; then rebuild it",
            )


def _topics(checkpoint: Checkpoint) -> frozenset[str]:
    return frozenset(partition.topic for partition in checkpoint.partitions)


class _StoppedError(Exception):
    """Ends the transaction without an error of its own."""
