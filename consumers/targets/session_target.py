"""What targets of every dialect do alike: a session, its transactions under the checkpoint's compare-and-set, and short
looks from aside.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from typing_extensions import override

from cdc.core import failpoints
from cdc.core.errors import CdcError, PassingError, TargetError
from cdc.core.events import Row
from cdc.core.log import TopicPartition
from cdc.core.settings import TargetSettings
from cdc.core.tables import TableId, TableSchema
from consumers.plan.checkpoint import Checkpoint, PartitionProgress
from consumers.targets.checkpoints import READING, SqlSession
from consumers.targets.missing import MissingRows
from consumers.targets.prepared import PreparedVersions, Transactional
from consumers.targets.target import Target, TargetTransaction

_LOOKING = "looking at the tables"


class Session(Transactional, Protocol):
    """One connection; `connect` opens it."""

    def connect(self) -> None: ...

    def close(self) -> None: ...


class Checkpoints(Protocol):
    """One applier's checkpoint; see `SqlCheckpoints`. The caller holds the transaction."""

    def open(self) -> Checkpoint: ...

    def read(self) -> Checkpoint: ...

    def compare_and_set(self, version: int, log_id: str) -> None: ...

    def write(self, progress: Mapping[TopicPartition, PartitionProgress]) -> None: ...


AnySession = TypeVar("AnySession", bound=Session)
AnyTables = TypeVar("AnyTables", bound=PreparedVersions[Any])


class SessionTarget(Target, Generic[AnySession, AnyTables]):
    """See `Target`. The applier's name is the target's, unless `applier` is given."""

    def __init__(self, settings: TargetSettings, applier: str | None = None) -> None:
        self._settings = settings
        self._applier = applier or settings.name
        self._url = settings.url
        self._policy = settings.schema_changes
        self._missing = MissingRows(settings)
        self._session: AnySession | None = None
        self._tables: AnyTables | None = None
        self._version = 0
        self._within = False

    @abstractmethod
    def _new_session(self) -> AnySession:
        """Not connected yet."""

    @abstractmethod
    def _new_tables(self, session: AnySession) -> AnyTables:
        """For a session that is connected."""

    @abstractmethod
    def _checkpoints(self, session: AnySession) -> Checkpoints:
        """The applier's."""

    @abstractmethod
    def _begun(
        self, session: AnySession, tables: AnyTables, checkpoints: Checkpoints, fence: Callable[[], None]
    ) -> TargetTransaction:
        """What is done within a transaction that began with `fence`."""

    def _connect(self, session: AnySession) -> None:
        """And become the only applier."""
        session.connect()

    @override
    def open(self) -> Checkpoint:
        self.close()
        session = self._session = self._new_session()
        try:
            self._connect(session)
            with session.transaction(doing=READING):
                checkpoint = self._checkpoints(session).open()
            self._tables = self._new_tables(session)
        except CdcError:
            self.close()
            raise
        self._version = checkpoint.version
        return checkpoint

    @override
    def prepare(self, table: TableSchema) -> None:
        self._opened()[1].prepare(table)

    @override
    @contextmanager
    def transaction(self, *, log_id: str) -> Iterator[TargetTransaction]:
        session, tables = self._opened()
        checkpoints = self._checkpoints(session)
        fence = partial(self._fence, checkpoints, log_id)
        try:
            with session.transaction(doing="committing the batch"):
                fence()
                failpoints.reached("apply.1-fenced")
                self._within = True
                yield self._begun(session, tables, checkpoints, fence)
        except BaseException:
            self._within = False
            tables.rolled_back()
            self._missing.rolled_back()
            raise
        self._within = False
        tables.committed()
        self._missing.committed()
        self._version += 1
        failpoints.reached("apply.4-committed")

    @override
    def left_out(self) -> Mapping[TableId, int]:
        return self._missing.left_out

    @override
    def read_checkpoint(self) -> Checkpoint:
        with self._aside(READING) as session:
            return self._checkpoints(session).read()

    @override
    def close(self) -> None:
        session, self._session, self._tables = self._session, None, None
        if session is not None:
            session.close()

    def _fence(self, checkpoints: Checkpoints, log_id: str) -> None:
        checkpoints.compare_and_set(self._version, log_id)

    @contextmanager
    def _aside(self, doing: str) -> Iterator[AnySession]:
        """A session made for one look, in a transaction."""
        session = self._new_session()
        try:
            session.connect()
            with session.transaction(doing=doing):
                yield session
        finally:
            session.close()

    @contextmanager
    def _looking(self) -> Iterator[AnySession]:
        """The target's session, in the transaction that is open or in one of its own; or a session made for it."""
        if self._session is None:
            with self._aside(_LOOKING) as session:
                yield session
        elif self._within:
            yield self._session
        else:
            with self._session.transaction(doing=_LOOKING):
                yield self._session

    def _opened(self) -> tuple[AnySession, AnyTables]:
        if self._session is None or self._tables is None:
            raise TargetError(f"target {self._applier!r} is not open")
        return self._session, self._tables


class CheckpointedTransaction(TargetTransaction):
    """Ends with the checkpoint. Nothing is put off until the commit."""

    def __init__(self, checkpoints: Checkpoints) -> None:
        self._checkpoints = checkpoints

    @override
    def advance(self, progress: Mapping[TopicPartition, PartitionProgress]) -> None:
        failpoints.reached("apply.2-written")
        self._checkpoints.write(progress)
        failpoints.reached("apply.3-checkpointed")

    @override
    def require_constraints(self) -> None:
        """Nothing."""


@contextmanager
def savepoint(session: SqlSession, missing: MissingRows, rolled_back: Callable[[], None]) -> Iterator[None]:
    """As `TargetTransaction.savepoint`; `rolled_back` is called after an error."""
    doing = "writing a batch"
    session.execute("SAVEPOINT cdc_part", doing=doing)
    try:
        with missing.savepoint():
            yield
    except PassingError:
        raise
    except CdcError:
        session.execute("ROLLBACK TO SAVEPOINT cdc_part", doing=doing)
        session.execute("RELEASE SAVEPOINT cdc_part", doing=doing)
        rolled_back()
        raise
    session.execute("RELEASE SAVEPOINT cdc_part", doing=doing)


def as_texts(rows: Iterable[Sequence[str | None]]) -> list[Row]:
    """Rows of texts, as they came from the driver."""
    return [tuple([None if value is None else value.encode() for value in row]) for row in rows]
