"""The checkpoint, in the target's tables `cdc_applier` and `cdc_checkpoint`: the same for every dialect of SQL."""

from __future__ import annotations

import os
import socket
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, ClassVar, Final, NamedTuple, Protocol

from cdc.core.errors import StaleApplierError, TargetReplacedError
from cdc.core.log import TopicPartition
from cdc.core.position import Position
from consumers.plan.checkpoint import REBUILD, Checkpoint, PartitionProgress

READING: Final = "reading the checkpoint"
TAKING: Final = "taking the checkpoint"
NOTHING: Final = Checkpoint(0, None, {})
_ROWS_AT_ONCE: Final = 100  # of a checkpoint: each statement is a way to the server and back


class SqlSession(Protocol):
    """Runs statements: `query` gives their rows, `execute` how many they found."""

    def query(self, sql: str, parameters: Sequence[Any] = ..., *, doing: str) -> list[tuple[Any, ...]]: ...

    def execute(self, sql: str, parameters: Sequence[Any] = ..., *, doing: str) -> int: ...


class Dialect(NamedTuple):
    """`place` is a parameter's. `on_conflict` follows an INSERT whose row may be there (`{key}` are its key's columns),
    `new` is the value that a column would have got. `touched` follows what an UPDATE sets.
    """

    applier: str = "cdc_applier"
    checkpoint: str = "cdc_checkpoint"
    partition: str = "partition"
    place: str = "%s"
    on_conflict: str = "ON CONFLICT ({key}) DO UPDATE SET"
    new: str = "excluded.{column}"
    touched: str = ", updated_at = CURRENT_TIMESTAMP"

    def upsert(self, key: Iterable[str], columns: Iterable[str]) -> str:
        sets = ", ".join(f"{column} = {self.new.format(column=column)}" for column in columns)
        return f"{self.on_conflict.format(key=', '.join(key))} {sets}{self.touched}"


class SqlCheckpoints(ABC):
    """One applier's checkpoint. The caller holds the transaction."""

    dialect: ClassVar[Dialect]

    def __init__(self, session: SqlSession, applier: str) -> None:
        self._session = session
        self._applier = applier

    @abstractmethod
    def create_missing(self) -> None:
        """Make the checkpoint tables."""

    @abstractmethod
    def exist(self) -> bool:
        """Whether they are there."""

    def open(self) -> Checkpoint:
        """Create what is missing, raise the version (whoever held the lower one is out), and read all of it."""
        self.create_missing()
        applier = self.dialect.applier
        raised = "version = version + 1, owner = %s" + self.dialect.touched
        if not self._execute(f"UPDATE {applier} SET {raised} WHERE name = %s", this_process(), self._applier):
            self._execute(
                f"INSERT INTO {applier} (name, version, owner) VALUES (%s, 1, %s)", self._applier, this_process()
            )
        return self.read()

    def read(self) -> Checkpoint:
        """The checkpoint as it stands; an empty one if there is none."""
        if not self.exist():
            return NOTHING
        to = self.dialect
        own = self._query(f"SELECT version, log_id FROM {to.applier} WHERE name = %s", self._applier)
        partitions = self._query(
            f"SELECT topic, {to.partition}, epoch, commit_lsn, ordinal, next_offset FROM {to.checkpoint}"
            " WHERE applier = %s",
            self._applier,
        )
        return checkpoint_of(own, partitions)

    def compare_and_set(self, version: int, log_id: str) -> None:
        """Take `version` to the next. StaleApplierError if it is not what the target has."""
        to = self.dialect
        updated = self._execute(
            f"UPDATE {to.applier} SET version = version + 1, log_id = %s{to.touched} WHERE name = %s AND version = %s",
            log_id,
            self._applier,
            version,
            doing=TAKING,
        )
        if updated == 1:
            return
        if str(self.owner()).startswith(REBUILD):
            raise TargetReplacedError(f"a rebuild replaced the tables of {self._applier!r}")
        raise stale(self._applier)

    def owner(self) -> str | None:
        """Who opened it last."""
        rows = self._query(f"SELECT owner FROM {self.dialect.applier} WHERE name = %s", self._applier)
        return rows[0][0] if rows else None

    def write(self, progress: Mapping[TopicPartition, PartitionProgress]) -> None:
        to = self.dialect
        columns = ("epoch", "commit_lsn", "ordinal", "next_offset")
        insert = f"INSERT INTO {to.checkpoint} (applier, topic, {to.partition}, {', '.join(columns)}) VALUES "
        upsert = to.upsert(("applier", "topic", to.partition), columns)
        rows = [(self._applier, *partition, *at.position, at.next_offset) for partition, at in progress.items()]
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            some = rows[start : start + _ROWS_AT_ONCE]
            places = ", ".join(["(%s, %s, %s, %s, %s, %s, %s)"] * len(some))
            self._execute(f"{insert}{places} {upsert}", *chain(*some), doing="writing the checkpoint")

    def hand_over(self, live: str) -> None:
        """Make this checkpoint that of the applier `live`, whose session is then out."""
        to, doing = self.dialect, "handing the checkpoint over"
        self._execute(f"DELETE FROM {to.checkpoint} WHERE applier = %s", live, doing=doing)
        self._execute(f"UPDATE {to.checkpoint} SET applier = %s WHERE applier = %s", live, self._applier, doing=doing)
        ((log_id,),) = self._query(f"SELECT log_id FROM {to.applier} WHERE name = %s", self._applier, doing=doing)
        self._execute(
            f"UPDATE {to.applier} SET version = version + 1, log_id = %s, owner = %s{to.touched} WHERE name = %s",
            log_id,
            REBUILD,
            live,
            doing=doing,
        )
        self._execute(f"DELETE FROM {to.applier} WHERE name = %s", self._applier, doing=doing)

    def forget(self) -> None:
        to, doing = self.dialect, "dropping the checkpoint"
        self._execute(f"DELETE FROM {to.checkpoint} WHERE applier = %s", self._applier, doing=doing)
        self._execute(f"DELETE FROM {to.applier} WHERE name = %s", self._applier, doing=doing)

    def _query(self, sql: str, *parameters: object, doing: str = READING) -> list[tuple[Any, ...]]:
        return self._session.query(sql.replace("%s", self.dialect.place), parameters, doing=doing)

    def _execute(self, sql: str, *parameters: object, doing: str = READING) -> int:
        return self._session.execute(sql.replace("%s", self.dialect.place), parameters, doing=doing)


def this_process() -> str:
    """What a checkpoint says of who opened it."""
    return f"{socket.gethostname()}:{os.getpid()}"


def stale(applier: str) -> StaleApplierError:
    return StaleApplierError(f"another applier took over the checkpoint of {applier!r}")


def checkpoint_of(own: Sequence[Sequence[Any]], partitions: Iterable[Sequence[Any]]) -> Checkpoint:
    """From the rows (version, log_id), one at most, and (topic, partition, epoch, commit_lsn, ordinal, next_offset)."""
    version, log_id = own[0] if own else (0, None)
    return Checkpoint(version, log_id, progress_of(partitions))


def progress_of(rows: Iterable[Sequence[Any]]) -> dict[TopicPartition, PartitionProgress]:
    """From rows (topic, partition, epoch, commit_lsn, ordinal, next_offset)."""
    return {
        TopicPartition(topic, partition): PartitionProgress(Position(epoch, lsn, ordinal), offset)
        for topic, partition, epoch, lsn, ordinal, offset in rows
    }
