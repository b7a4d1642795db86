"""A user's own consumer: change events in batches, each with the checkpoint that comes after it.

It reads as an applier does, and hands out what an applier would write. A batch is committed when the next one is asked
for, or by `commit`; what was handed out and not committed is handed out again.
"""

from __future__ import annotations

import datetime as dt
import os
import re
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import count, groupby
from operator import attrgetter
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self

import sqlalchemy as sa
from typing_extensions import override

from cdc.avro.names import schemas_topic
from cdc.core.checks import Check
from cdc.core.config import parse_settings
from cdc.core.errors import ConfigError
from cdc.core.events import ChangeEvent, Row
from cdc.core.log import Log, TopicPartition
from cdc.core.position import Position
from cdc.core.registry import SchemaRegistry
from cdc.core.settings import LogSettings, Settings, Start, TargetSettings
from cdc.core.tables import TableSchema
from cdc.log.followed import FollowedReader
from cdc.log.open import open_log
from cdc.registry.embedded import EmbeddedRegistry
from cdc.wiring import open_registry
from consumers.apply.applier import Applier
from consumers.apply.delivery import Delivery
from consumers.changes.change import Change, Shapes, commit_time
from consumers.changes.checkpoints import CheckpointStore, LogCheckpoints
from consumers.plan.checkpoint import Checkpoint, PartitionProgress
from consumers.targets.target import Target, TargetTransaction

Per = Literal["key", "transaction"]

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,63}")
_WAIT_SECONDS: Final = 0.1  # a stop is noticed within it
_position: Final = attrgetter("position")


@dataclass(frozen=True, slots=True)
class Transaction:
    """Changes of one source transaction: all of it that this consumer reads, if it reads per transaction."""

    id: str
    commit_time: dt.datetime
    changes: Sequence[Change]

    @property
    def position(self) -> Position:
        """That of its last change."""
        return self.changes[-1].position

    def __iter__(self) -> Iterator[Change]:
        return iter(self.changes)


class Batch:
    """Changes, in an order in which each key's are in the order of the source; per transaction, all are."""

    def __init__(
        self, events: Sequence[ChangeEvent], shapes: Shapes, commit: Callable[[sa.Connection | None], None]
    ) -> None:
        self._events = events
        self._shapes = shapes
        self._commit = commit
        self.committed = False

    def __iter__(self) -> Iterator[Change]:
        return (Change(event, self._shapes.of(event.table)) for event in self._events)

    def __len__(self) -> int:
        return len(self._events)

    def transactions(self) -> Iterator[Transaction]:
        """The changes by transaction, in order. Whole ones, if the consumer reads per transaction."""
        for name, events in groupby(self._events, key=lambda event: event.transaction.id):
            changes = [Change(event, self._shapes.of(event.table)) for event in events]
            yield Transaction(name, commit_time(changes[0].event), changes)

    def commit(self, connection: sa.Connection | None = None) -> None:
        """Save the checkpoint after this batch; with `SqlCheckpoints` and a `connection`, as part of the transaction
        that is open there, so that what else is done in it is done once and for all. Again, after it was rolled back:
        the same once more; without a connection: nothing.
        """
        if connection is not None or not self.committed:
            self._commit(connection)
            self.committed = True


class Consumer:
    """Iterate over it for batches: they are committed as they go. `batches` has what else can be said."""

    def __init__(
        self,
        log: Log,
        name: str,
        *,
        settings: LogSettings | None = None,
        registry: SchemaRegistry | None = None,
        tables: Iterable[str] = ("*.*",),
        start: Start = "earliest",
        per: Per = "key",
        batch_changes: int = 1_000,
        checkpoints: CheckpointStore | None = None,
        report: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`Consumer.open` is for those who have a cdc.toml. Without a registry it is the one embedded in the log."""
        if not _NAME.fullmatch(name):
            raise ConfigError(f"{name!r} is no name for a consumer", mend="use letters, digits, - and _")
        self._log = log
        self._settings = settings or LogSettings()
        self._registry = registry or EmbeddedRegistry(log, None, schemas_topic(self._settings.prefix))
        self._store = checkpoints or LogCheckpoints(log, self._settings.prefix, name)
        self._target = TargetSettings(
            name=name, url="", tables=tuple(tables), start=start, consistency=per, batch_events=batch_changes
        )
        self._report = report
        self._stop = threading.Event()
        self._shapes = Shapes()
        self._saved = 0
        self._iteration: Generator[Batch, None, None] | None = None
        self._resources = ExitStack()
        self._own: AbstractContextManager[object] = nullcontext()

    @classmethod
    def open(
        cls,
        config: str | os.PathLike[str],
        name: str,
        *,
        tables: Iterable[str] = ("*.*",),
        start: Start = "earliest",
        per: Per = "key",
        batch_changes: int = 1_000,
        checkpoints: CheckpointStore | None = None,
        report: Callable[[str], None] = lambda _: None,
    ) -> Self:
        """A consumer of the log that the configuration file names. ConfigError if something is wrong in it."""
        settings = _settings(Path(config))
        own = ExitStack()
        log = own.enter_context(open_log(settings.log))
        registry = open_registry(settings, log)
        made = cls(
            log,
            name,
            settings=settings.log,
            registry=registry,
            tables=tables,
            start=start,
            per=per,
            batch_changes=batch_changes,
            checkpoints=checkpoints,
            report=report,
        )
        made._own = own
        return made

    def __enter__(self) -> Self:
        self._resources.enter_context(self._own)
        self._resources.callback(self._registry.close)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of everything. What was not committed is handed out again next time."""
        try:
            self._end_iteration()
        finally:
            self._resources.close()

    def __iter__(self) -> Iterator[Batch]:
        return self.batches()

    def stop(self) -> None:
        """End the iteration after the batch that is in hand; from any thread, or a signal's handler."""
        self._stop.set()

    def batches(self, *, follow: bool = True, commit: bool = True) -> Iterator[Batch]:
        """Batches, for ever; unless `follow`, up to where the log ends when it has been read that far.

        `commit`: a batch that was not committed is when the next one is asked for. What the loop breaks out of is not.
        """
        self._end_iteration()
        self._iteration = self._batches(follow=follow, commit=commit)
        return self._iteration

    def _end_iteration(self) -> None:
        """Also one that was left in the middle, or that an error keeps alive in its traceback: it holds the place."""
        if self._iteration is not None:
            self._iteration.close()
            self._iteration = None

    def _batches(self, *, follow: bool, commit: bool) -> Generator[Batch, None, None]:
        self._saved = 0
        with ExitStack() as session:
            reader = session.enter_context(
                closing(FollowedReader(self._log.reader(f"{self._settings.prefix}-{self._target.name}")))
            )
            session.callback(self._store.close)  # the next iteration opens it again
            handout = _Handout(in_order=self._target.consistency == "transaction")
            applier = Applier(
                reader=reader,
                registry=self._registry,
                target=_NoTarget(self._store),
                settings=self._target,
                prefix=self._settings.prefix,
                written_by=self._settings.written_by,
                delivery=handout,
                report=self._report,
            )
            if not applier.start(self._stop.is_set):
                return
            self._save(handout.take())  # where it begins must not depend on when it is started again
            uncommitted: dict[TopicPartition, PartitionProgress] = {}
            for number in count(1):
                handed_out = 0 if self._stop.is_set() else applier.step(_WAIT_SECONDS)
                if self._stop.is_set() or not (follow or handed_out or handout.has_any or not reader.at_end()):
                    break
                pending = handout.take()
                if pending is None:
                    continue
                pending.number, pending.progress = number, uncommitted | pending.progress
                if pending.events:
                    batch = Batch(pending.events, self._shapes, partial(self._save, pending))
                    yield batch
                    if commit:
                        batch.commit()
                    uncommitted = {} if batch.committed else pending.progress
                elif uncommitted:
                    uncommitted = pending.progress
                else:
                    self._save(pending)
            applier.finish()
            rest = handout.take()
            if rest is not None and not rest.events and not uncommitted:  # nobody has seen those events
                rest.number = number
                self._save(rest)

    def _save(self, pending: _Pending | None, connection: sa.Connection | None = None) -> None:
        """What comes before what was saved already was saved with it."""
        if pending is not None and pending.number >= self._saved:
            self._store.save(pending.progress, log_id=pending.log_id, connection=connection)
            self._saved = pending.number


@dataclass(slots=True)
class _Pending:
    """Events, and the progress that is due once the user is done with them. `number` rises."""

    number: int = 0
    events: list[ChangeEvent] = field(default_factory=list)
    progress: dict[TopicPartition, PartitionProgress] = field(default_factory=dict)
    log_id: str = ""


class _Handout(Delivery):
    """Keeps what an applier writes, for the user to take. `in_order`: of whole transactions, each in the order in which
    the source made it.
    """

    def __init__(self, *, in_order: bool) -> None:
        self._in_order = in_order
        self.waiting = {}
        self._written: list[ChangeEvent] = []
        self._committed: _Pending | None = None

    @override
    def write(self, events: Sequence[ChangeEvent], *, log_id: str) -> None:
        self._written += sorted(events, key=_position) if self._in_order else events

    @override
    def commit(
        self, progress: Mapping[TopicPartition, PartitionProgress], *, log_id: str
    ) -> Mapping[TopicPartition, PartitionProgress]:
        pending = self._committed = self._committed or _Pending()
        pending.events += self._written
        pending.progress |= progress
        pending.log_id = log_id
        self._written = []
        return progress

    @override
    def abandon(self) -> None:
        self._written = []

    @property
    def has_any(self) -> bool:
        return self._committed is not None

    def take(self) -> _Pending | None:
        """What was committed since; None if nothing was."""
        taken, self._committed = self._committed, None
        return taken


class _NoTarget(Target):
    """Has the checkpoint, and nothing to write to: a `_Handout` takes what would be written."""

    def __init__(self, store: CheckpointStore) -> None:
        self._store = store

    @override
    def open(self) -> Checkpoint:
        return self._store.open()

    @override
    def read_checkpoint(self) -> Checkpoint:
        return self._store.open()

    @override
    def prepare(self, table: TableSchema) -> None:
        raise AssertionError("there are no tables here")

    @override
    def transaction(self, *, log_id: str) -> AbstractContextManager[TargetTransaction]:
        raise AssertionError("there is nothing to write to")

    @override
    def rows_of(self, table: TableSchema) -> list[Row]:
        return []

    @override
    def checks(self) -> Iterator[Check]:
        yield from ()

    @override
    def close(self) -> None:
        self._store.close()


def _settings(path: Path) -> Settings:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} can't be read: {error}") from None
    return parse_settings(text, os.environ, name=str(path))
