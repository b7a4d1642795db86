"""The target's port. Every adapter passes `tests/contract/test_target.py`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from cdc.core.checks import Check
from cdc.core.errors import ConfigError
from cdc.core.events import Row
from cdc.core.log import TopicPartition
from cdc.core.tables import TableId, TableSchema
from consumers.plan.checkpoint import Checkpoint, PartitionProgress
from consumers.plan.steps import Step


class TargetTransaction(Protocol):
    """What is done within one transaction of the target."""

    def run(self, steps: Sequence[Step]) -> None:
        """Run the steps, in order. May be called again: a large batch comes in parts. A table that was not prepared
        is, here or beside.
        """

    def advance(self, progress: Mapping[TopicPartition, PartitionProgress]) -> None:
        """Write how far these partitions are with it. Once, after all steps."""

    def savepoint(self) -> AbstractContextManager[None]:
        """Of what is done within, nothing stays after an error, and the transaction can go on."""

    def require_constraints(self) -> None:
        """Check what the target puts off until the commit: ConstraintError if it would fail."""


class Target(Protocol):
    """One target database, used by one applier under the applier's name. One thread at a time.

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

    def transaction(self, *, log_id: str) -> AbstractContextManager[TargetTransaction]:
        """ONE transaction of the target. 1. It begins with the compare-and-set of the checkpoint's version:
        StaleApplierError before anything is written. 2. and 3. are `TargetTransaction`'s. 4. It commits at the end; on
        any error nothing of it stays.
        """

    def moves(self, table: TableSchema) -> bool:  # noqa: ARG002  # for those whose foreign keys act
        """Whether a row of it whose key changes has to be moved: to delete it, and write it anew, would do something to
        others (ON DELETE CASCADE).
        """
        return False

    @property
    def is_server(self) -> bool:
        """Whether another process does most of the work of `TargetTransaction.run`, which may then be called in a
        thread that is not the caller's of everything else.
        """
        return False

    def keep_alive(self) -> None:
        """Let the server know that this applier lives, if it has not heard of it for some time. Cheap: called again and
        again. What keeps silent for the settings' `session_timeout` may be ended by another that waits.
        """
        return

    def present(self, tables: Iterable[TableId]) -> Collection[TableId]:  # noqa: ARG002  # for those that have tables
        """Those of them that are there. None, where that can't be told."""
        return ()

    def left_out(self) -> Mapping[TableId, int]:
        """How many changes were left out since the target was made, by table: their rows were not there, and need not
        be, because it began late in the log (`start`).
        """
        return {}

    def shared(self) -> SharedTarget:
        """The same target, for one of several appliers at work. ConfigError if one at a time can write here."""
        raise ConfigError(
            "appliers can share a target at postgresql:// only",
            mend="leave out --shared: a second applier then stands by",
        )

    def read_checkpoint(self) -> Checkpoint:
        """The checkpoint as it stands, without becoming the applier; empty if there is none. Needs no `open`."""

    def rows_of(self, table: TableSchema) -> list[Row]:
        """All rows of a table whose columns are all text; none if it is not there. Needs no `open`."""

    def checks(self) -> Iterator[Check]:
        """What `cdc check` says of this target; nothing is made. Needs no `open`."""

    def close(self) -> None:
        """Let go of the connection and the applier's lock. Safe to call twice, and after errors."""


class SharedTarget(Target, Protocol):
    """A target that several appliers of one name write to, each the partitions that it holds. `open` takes hold of what
    `hold` said, from whoever has it: that one's next transaction ends with StaleApplierError before anything is
    written. May be called again and again.
    """

    def hold(self, partitions: Collection[TopicPartition] | None) -> None:
        """What the next `open` takes; None is all of them: that one is alone until it opens again or closes. While
        somebody is, or while another applier of the name does not share, `open` ends with AlreadyRunningError.
        """

    def still_going(self, waiting: Collection[TopicPartition]) -> Mapping[TopicPartition, PartitionProgress]:
        """Tell the others that of what is held, `waiting` go no further for now. How far those are, of anybody's, of
        which that was not told.
        """
