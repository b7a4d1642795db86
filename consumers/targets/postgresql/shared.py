"""A PostgreSQL target that several appliers of one name write to, each the partitions that it holds.

Two advisory locks and a table:

- The applier's lock, which `PostgresTarget` takes alone, is shared by all who share: so nobody else is at work.
- Who takes some partitions puts a token of its own into their rows of `cdc_share`. Each of its transactions begins by
  comparing and locking these rows, so whoever was late, or stood still, does not write.
- Who takes all of them holds a second lock, for as long as it is alone. It needs no token: while its connection lives
  nobody else can take anything, and when it does not, it can't write.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping
from typing import Final

from typing_extensions import override

from cdc.core.errors import AlreadyRunningError, CdcError
from cdc.core.log import TopicPartition
from cdc.core.settings import TargetSettings
from consumers.plan.checkpoint import Checkpoint, PartitionProgress
from consumers.targets.checkpoints import this_process
from consumers.targets.postgresql.checkpoints import Checkpoints
from consumers.targets.postgresql.session import PostgresSession
from consumers.targets.postgresql.shares import Shares
from consumers.targets.postgresql.tables import PreparedTables
from consumers.targets.postgresql.target import PostgresTarget
from consumers.targets.session_target import Checkpoints as AnyCheckpoints
from consumers.targets.target import SharedTarget

_DOING: Final = "taking over partitions"


class PostgresShare(PostgresTarget, SharedTarget):
    """See `SharedTarget`."""

    def __init__(self, settings: TargetSettings, applier: str | None = None) -> None:
        super().__init__(settings, applier)
        self._owner = this_process()
        self._wanted: frozenset[TopicPartition] | None = frozenset()
        self._held: frozenset[TopicPartition] | None = frozenset()
        self._holder = ""
        self._is_alone = False

    @override
    def hold(self, partitions: Collection[TopicPartition] | None) -> None:
        self._wanted = None if partitions is None else frozenset(partitions)

    @override
    def open(self) -> Checkpoint:
        session = self._joined()
        self._holder = uuid.uuid4().hex
        try:
            self._let_go(session)
            checkpoint = self._alone(session) if self._wanted is None else self._part(session, self._wanted)
        except AlreadyRunningError:
            self._silence.end(session)
            raise
        except CdcError:
            self.close()
            raise
        self._held = self._wanted
        # Others may have changed tables meanwhile: nothing that is known of them counts.
        self._tables, self._version = PreparedTables(session, self._compare), checkpoint.version
        return checkpoint

    @override
    def still_going(self, waiting: Collection[TopicPartition]) -> Mapping[TopicPartition, PartitionProgress]:
        session = self._opened()[0]
        shares = Shares(session, self._applier)
        with session.transaction(doing=_DOING):
            shares.let_wait(waiting, holder=self._holder)
            return shares.not_waiting()

    def _joined(self) -> PostgresSession:
        """The session, with the applier's lock."""
        if self._session is None:
            session = PostgresSession(self._url, applier=self._applier)
            try:
                session.connect()
                self._lock(session)
                with session.transaction(doing=_DOING):
                    Checkpoints(session, self._applier).create_missing()
                    Shares(session, self._applier).create_missing()
            except CdcError:
                session.close()
                raise
            self._session, self._is_alone = session, False
        return self._session

    def _let_go(self, session: PostgresSession) -> None:
        """Of being alone, and of staging tables."""
        self._held = frozenset()
        if self._is_alone:
            session.unlock_alone()
            self._is_alone = False
        with session.transaction(doing=_DOING):
            session.execute("DISCARD TEMP", doing=_DOING)

    def _alone(self, session: PostgresSession) -> Checkpoint:
        session.lock_alone()
        self._is_alone = True
        try:
            with session.transaction(doing=_DOING):
                session.wait_shortly()
                Shares(session, self._applier).take_all(holder=self._holder, owner=self._owner)
                return Checkpoints(session, self._applier).open()
        except AlreadyRunningError:
            self._let_go(session)
            raise

    def _part(self, session: PostgresSession, partitions: Collection[TopicPartition]) -> Checkpoint:
        with session.transaction(doing=_DOING):
            session.wait_shortly()
            session.require_nobody_alone()
            checkpoints = Checkpoints(session, self._applier)
            checkpoints.wait_for_holder()  # a rebuild takes over only partitions that somebody has held before
            Shares(session, self._applier).take(partitions, holder=self._holder, owner=self._owner)
            return checkpoints.read()

    @override
    def _take_lock(self, session: PostgresSession) -> None:
        session.lock_applier(shared=True)

    @override
    def _fence(self, checkpoints: AnyCheckpoints, log_id: str) -> None:
        if self._held is None:
            super()._fence(checkpoints, log_id)
        else:
            self._compare()

    def _compare(self) -> None:
        if self._held is not None:
            Shares(self._opened()[0], self._applier).compare(len(self._held), holder=self._holder)
