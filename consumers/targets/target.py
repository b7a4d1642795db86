"""The target's port. Every adapter passes `tests/contract/test_target.py`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from cdc.core.checks import Check
from cdc.core.log import TopicPartition
from cdc.core.tables import TableSchema
from consumers.plan.checkpoint import Checkpoint, PartitionProgress
from consumers.plan.steps import Step


class Target(Protocol):
    """One target database, used by one applier under the applier's name. One thread.

    Driver errors come out translated: PassingError (connection lost, deadlock, server restarting: reopen and go on
    from the checkpoint), TargetSchemaError, FidelityError (a value it can't hold: table, column, value's kind, mend),
    TargetError.
    """

    def open(self) -> Checkpoint:
        """Connect, become the only applier of this name here, create the checkpoint tables if they are missing, and
        return the checkpoint. AlreadyRunningError if another applier of the name is at work now.
        """

    def prepare(self, table: TableSchema) -> None:
        """Make sure that the table exists with these columns: create it if it is missing. Cheap when called again
        with the same version. TargetSchemaError if a table of that name is there with other columns.
        """

    def apply(
        self, steps: Sequence[Step], progress: Mapping[TopicPartition, PartitionProgress], *, log_id: str
    ) -> None:
        """In ONE transaction: 1. compare-and-set the checkpoint's version (StaleApplierError before anything is
        written), 2. run the steps, 3. write the progress of these partitions, 4. commit. On any error nothing of it
        stays.
        """

    def read_checkpoint(self) -> Checkpoint:
        """The checkpoint as it stands, without becoming the applier; empty if there is none. Needs no `open`."""

    def checks(self) -> Iterator[Check]:
        """What `cdc check` says of this target; nothing is made. Needs no `open`."""

    def close(self) -> None:
        """Let go of the connection and the applier's lock. Safe to call twice, and after errors."""
