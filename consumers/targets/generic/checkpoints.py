"""The checkpoint, in tables of the target that SQLAlchemy describes."""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa

from cdc.core.log import TopicPartition
from consumers.plan.checkpoint import Checkpoint, PartitionProgress
from consumers.targets.checkpoints import NOTHING, READING, checkpoint_of, stale, this_process
from consumers.targets.generic.schema import APPLIER, CHECKPOINT
from consumers.targets.generic.session import GenericSession


class Checkpoints:
    """One applier's checkpoint. The caller holds the transaction."""

    def __init__(self, session: GenericSession, applier: str) -> None:
        self._session = session
        self._applier = applier
        self._ours = APPLIER.c.name == applier

    def open(self) -> Checkpoint:
        """Raise the version (whoever held the lower one is out), and read all of it."""
        owner = this_process()
        taken = APPLIER.update().where(self._ours).values(version=APPLIER.c.version + 1, owner=owner)
        if self._session.execute(taken, doing=READING) == 0:
            row = {"name": self._applier, "version": 1, "owner": owner}
            self._session.execute_many(APPLIER.insert(), [row], doing=READING)
        return self.read()

    def read(self) -> Checkpoint:
        if not self._session.has_table(CHECKPOINT.name, doing=READING):
            return NOTHING
        own = self._session.query(sa.select(APPLIER.c.version, APPLIER.c.log_id).where(self._ours), doing=READING)
        columns = CHECKPOINT.c
        partitions = self._session.query(
            sa.select(
                columns.topic,
                columns.partition,
                columns.epoch,
                columns.commit_lsn,
                columns.ordinal,
                columns.next_offset,
            ).where(columns.applier == self._applier),
            doing=READING,
        )
        return checkpoint_of(own, partitions)

    def compare_and_set(self, version: int, log_id: str) -> None:
        """Take `version` to the next. StaleApplierError if it is not what the target has."""
        taken = (
            APPLIER.update()
            .where(self._ours, APPLIER.c.version == version)
            .values(version=APPLIER.c.version + 1, log_id=log_id)
        )
        if self._session.execute(taken, doing="taking the checkpoint") != 1:
            raise stale(self._applier)

    def write(self, progress: Mapping[TopicPartition, PartitionProgress]) -> None:
        doing, columns = "writing the checkpoint", CHECKPOINT.c
        for partition, at in progress.items():
            epoch, commit_lsn, ordinal = at.position
            values = {"epoch": epoch, "commit_lsn": commit_lsn, "ordinal": ordinal, "next_offset": at.next_offset}
            there = CHECKPOINT.update().where(
                columns.applier == self._applier,
                columns.topic == partition.topic,
                columns.partition == partition.partition,
            )
            if self._session.execute(there.values(**values), doing=doing) == 0:
                new = {"applier": self._applier, "topic": partition.topic, "partition": partition.partition, **values}
                self._session.execute_many(CHECKPOINT.insert(), [new], doing=doing)
