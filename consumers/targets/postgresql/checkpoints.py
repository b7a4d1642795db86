"""The checkpoint, in two tables of the target's schema public: `cdc_applier` and `cdc_checkpoint`."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Final

from cdc.core.errors import StaleApplierError, TargetReplacedError
from cdc.core.log import TopicPartition
from cdc.core.position import Position
from consumers.plan.checkpoint import REBUILD, Checkpoint, PartitionProgress
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


class Checkpoints:
    """One applier's checkpoint. The caller holds the transaction."""

    def __init__(self, session: PostgresSession, applier: str) -> None:
        self._session = session
        self._applier = applier

    def open(self) -> Checkpoint:
        """Create what is missing, raise the version (whoever held the lower one is out), and read all of it."""
        doing = "reading the checkpoint"
        self.create_missing()
        self._session.query(
            "INSERT INTO public.cdc_applier (name, version, owner) VALUES (%s, 1, %s)"
            " ON CONFLICT (name) DO UPDATE SET version = cdc_applier.version + 1, owner = EXCLUDED.owner,"
            " updated_at = now() RETURNING version, log_id",
            (self._applier, f"{socket.gethostname()}:{os.getpid()}"),
            doing=doing,
        )
        return self.read()

    def read(self) -> Checkpoint:
        """The checkpoint as it stands; an empty one if there is none."""
        doing = "reading the checkpoint"
        if not self._session.query("SELECT to_regclass('public.cdc_checkpoint') IS NOT NULL", doing=doing)[0][0]:
            return Checkpoint(0, None, {})
        rows = self._session.query(
            "SELECT version, log_id FROM public.cdc_applier WHERE name = %s", (self._applier,), doing=doing
        )
        version, log_id = rows[0] if rows else (0, None)
        partitions = self._session.query(
            "SELECT topic, partition, epoch, commit_lsn, ordinal, next_offset FROM public.cdc_checkpoint"
            " WHERE applier = %s",
            (self._applier,),
            doing=doing,
        )
        progress = {
            TopicPartition(topic, partition): PartitionProgress(Position(epoch, lsn, ordinal), offset)
            for topic, partition, epoch, lsn, ordinal, offset in partitions
        }
        return Checkpoint(version, log_id, progress)

    def compare_and_set(self, version: int, log_id: str) -> None:
        """Take `version` to the next. StaleApplierError if it is not what the target has."""
        updated = self._session.execute(
            "UPDATE public.cdc_applier SET version = version + 1, log_id = %s, updated_at = now()"
            " WHERE name = %s AND version = %s",
            (log_id, self._applier, version),
            doing="taking the checkpoint",
        )
        if updated != 1:
            owner = "SELECT 1 FROM public.cdc_applier WHERE name = %s AND owner = %s"
            if self._session.query(owner, (self._applier, REBUILD), doing="taking the checkpoint"):
                raise TargetReplacedError(f"a rebuild replaced the tables of {self._applier!r}")
            raise StaleApplierError(f"another applier took over the checkpoint of {self._applier!r}")

    def write(self, progress: Mapping[TopicPartition, PartitionProgress]) -> None:
        for partition, at in progress.items():
            self._session.execute(
                "INSERT INTO public.cdc_checkpoint"
                " (applier, topic, partition, epoch, commit_lsn, ordinal, next_offset)"
                " VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT (applier, topic, partition) DO UPDATE SET"
                " epoch = EXCLUDED.epoch, commit_lsn = EXCLUDED.commit_lsn, ordinal = EXCLUDED.ordinal,"
                " next_offset = EXCLUDED.next_offset, updated_at = now()",
                (self._applier, *partition, *at.position, at.next_offset),
                doing="writing the checkpoint",
            )

    def hold(self) -> Checkpoint:
        """The checkpoint, which nobody else can take until the transaction ends."""
        self._session.query(
            "SELECT 1 FROM public.cdc_applier WHERE name = %s FOR UPDATE",
            (self._applier,),
            doing="waiting for the applier's transaction",
        )
        shares = Shares(self._session, self._applier)
        if shares.exist():
            shares.take_all(holder=REBUILD, owner=REBUILD)
        return self.read()

    def hand_over(self, live: str) -> None:
        """Make this checkpoint that of the applier `live`, whose session is then out."""
        doing = "handing the checkpoint over"
        self._session.execute("DELETE FROM public.cdc_checkpoint WHERE applier = %s", (live,), doing=doing)
        self._session.execute(
            "UPDATE public.cdc_checkpoint SET applier = %s WHERE applier = %s", (live, self._applier), doing=doing
        )
        self._session.execute(
            "UPDATE public.cdc_applier SET version = version + 1, owner = %s, updated_at = now() WHERE name = %s",
            (REBUILD, live),
            doing=doing,
        )
        self._session.execute("DELETE FROM public.cdc_applier WHERE name = %s", (self._applier,), doing=doing)

    def forget(self) -> None:
        doing = "dropping the checkpoint"
        self._session.execute("DELETE FROM public.cdc_checkpoint WHERE applier = %s", (self._applier,), doing=doing)
        self._session.execute("DELETE FROM public.cdc_applier WHERE name = %s", (self._applier,), doing=doing)

    def create_missing(self) -> None:
        """The checkpoint tables."""
        doing = "creating the checkpoint tables"
        there = (
            "SELECT to_regclass('public.cdc_applier') IS NOT NULL AND to_regclass('public.cdc_checkpoint') IS NOT NULL"
        )
        if self._session.query(there, doing=doing) == [(True,)]:
            return  # a role without CREATE will do
        self._session.lock_definitions()
        for statement in _CREATE:
            self._session.execute(statement, doing=doing)
