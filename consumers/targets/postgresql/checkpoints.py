"""The checkpoint, in two tables of the target's schema public: `cdc_applier` and `cdc_checkpoint`."""

from __future__ import annotations

from typing import Final

from typing_extensions import override

from consumers.plan.checkpoint import REBUILD, Checkpoint
from consumers.targets.checkpoints import TAKING, Dialect, SqlCheckpoints
from consumers.targets.postgresql.session import PostgresSession
from consumers.targets.postgresql.shares import Shares

_CREATE: Final = (
    """
    CREATE TABLE IF NOT EXISTS public.cdc_applier (
        name       text PRIMARY KEY,
        version    bigint NOT NULL,
        log_id     text,
        owner      text NOT NULL,
        updated_at timestamptz NOT NULL DEFAULT now()
    )
    """,
    """
    CREATE TABLE IF NOT EXISTS public.cdc_checkpoint (
        applier     text NOT NULL,
        topic       text NOT NULL,
        partition   integer NOT NULL,
        epoch       bigint NOT NULL,
        commit_lsn  bigint NOT NULL,
        ordinal     bigint NOT NULL,
        next_offset bigint NOT NULL,
        updated_at  timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (applier, topic, partition)
    )
    """,
)


class Checkpoints(SqlCheckpoints):
    """See `SqlCheckpoints`."""

    dialect = Dialect(applier="public.cdc_applier", checkpoint="public.cdc_checkpoint")

    def __init__(self, session: PostgresSession, applier: str) -> None:
        super().__init__(session, applier)
        self._postgres = session

    @override
    def exist(self) -> bool:
        there = (
            "SELECT to_regclass('public.cdc_applier') IS NOT NULL AND to_regclass('public.cdc_checkpoint') IS NOT NULL"
        )
        return self._query(there) == [(True,)]

    @override
    def create_missing(self) -> None:
        if self.exist():
            return  # a role without CREATE will do
        self._postgres.lock_definitions()
        for statement in _CREATE:
            self._execute(statement, doing="creating the checkpoint tables")

    def wait_for_holder(self) -> None:
        """Whoever has it on `hold` ends first, and nobody holds it before this transaction ends."""
        self._query("SELECT 1 FROM public.cdc_applier WHERE name = %s FOR SHARE", self._applier, doing=TAKING)

    def hold(self) -> Checkpoint:
        """The checkpoint, which nobody else can take until the transaction ends: neither who has it, or a share of it,
        now, nor who comes to share it.
        """
        self._query(
            "SELECT 1 FROM public.cdc_applier WHERE name = %s FOR UPDATE",
            self._applier,
            doing="waiting for the applier's transaction",
        )
        shares = Shares(self._postgres, self._applier)
        if shares.exist():
            shares.take_all(holder=REBUILD, owner=REBUILD)
        return self.read()
