"""The checkpoint, in the target's tables `cdc_applier` and `cdc_checkpoint`."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Final

from cdc.core.errors import StaleApplierError, TargetReplacedError
from cdc.core.log import TopicPartition
from cdc.core.position import Position
from consumers.plan.checkpoint import REBUILD, Checkpoint, PartitionProgress
from consumers.targets.sqlite.session import SqliteSession

_CREATE: Final = (
    """
    CREATE TABLE IF NOT EXISTS cdc_applier (
        name       TEXT PRIMARY KEY NOT NULL,
        version    INTEGER NOT NULL,
        log_id     TEXT,
        owner      TEXT NOT NULL,
        updated_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
    )
    """,
    """
    CREATE TABLE IF NOT EXISTS cdc_checkpoint (
        applier     TEXT NOT NULL,
        topic       TEXT NOT NULL,
        partition   INTEGER NOT NULL,
        epoch       INTEGER NOT NULL,
        commit_lsn  INTEGER NOT NULL,
        ordinal     INTEGER NOT NULL,
        next_offset INTEGER NOT NULL,
        updated_at  TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
        PRIMARY KEY (applier, topic, partition)
    )
    """,
    # Which source table a target table stands for: SQLite has no schemas, and does not tell upper from lower case.
    """
    CREATE TABLE IF NOT EXISTS cdc_table (
        name          TEXT PRIMARY KEY NOT NULL COLLATE NOCASE,
        source_schema TEXT NOT NULL,
        source_table  TEXT NOT NULL
    )
    """,
)


class Checkpoints:
    """One applier's checkpoint. The caller holds the transaction."""

    def __init__(self, session: SqliteSession, applier: str) -> None:
        self._session = session
        self._applier = applier

    def open(self) -> Checkpoint:
        """Create what is missing, raise the version (whoever held the lower one is out), and read all of it."""
        doing = "reading the checkpoint"
        for statement in _CREATE:
            self._session.execute(statement, doing="creating the checkpoint tables")
        self._session.execute(
            "INSERT INTO cdc_applier (name, version, owner) VALUES (?, 1, ?) ON CONFLICT (name) DO UPDATE SET"
            " version = version + 1, owner = excluded.owner, updated_at = CURRENT_TIMESTAMP",
            (self._applier, f"{socket.gethostname()}:{os.getpid()}"),
            doing=doing,
        )
        return self.read()

    def read(self) -> Checkpoint:
        """The checkpoint as it stands; an empty one if there is none."""
        doing = "reading the checkpoint"
        if not self._session.query("SELECT count(*) > 0 FROM sqlite_master WHERE name = 'cdc_checkpoint'", doing=doing)[
            0
        ][0]:
            return Checkpoint(0, None, {})
        rows = self._session.query(
            "SELECT version, log_id FROM cdc_applier WHERE name = ?", (self._applier,), doing=doing
        )
        version, log_id = rows[0] if rows else (0, None)
        partitions = self._session.query(
            "SELECT topic, partition, epoch, commit_lsn, ordinal, next_offset FROM cdc_checkpoint WHERE applier = ?",
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
            "UPDATE cdc_applier SET version = version + 1, log_id = ?, updated_at = CURRENT_TIMESTAMP"
            " WHERE name = ? AND version = ?",
            (log_id, self._applier, version),
            doing="taking the checkpoint",
        )
        if updated != 1:
            owner = "SELECT 1 FROM cdc_applier WHERE name = ? AND owner = ?"
            if self._session.query(owner, (self._applier, REBUILD), doing="taking the checkpoint"):
                raise TargetReplacedError(f"a rebuild replaced the tables of {self._applier!r}")
            raise StaleApplierError(f"another applier took over the checkpoint of {self._applier!r}")

    def write(self, progress: Mapping[TopicPartition, PartitionProgress]) -> None:
        self._session.execute_many(
            "INSERT INTO cdc_checkpoint (applier, topic, partition, epoch, commit_lsn, ordinal, next_offset)"
            " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (applier, topic, partition) DO UPDATE SET"
            " epoch = excluded.epoch, commit_lsn = excluded.commit_lsn, ordinal = excluded.ordinal,"
            " next_offset = excluded.next_offset, updated_at = CURRENT_TIMESTAMP",
            [(self._applier, *partition, *at.position, at.next_offset) for partition, at in progress.items()],
            doing="writing the checkpoint",
        )

    def hand_over(self, live: str) -> None:
        """Make this checkpoint that of the applier `live`, whose session is then out."""
        doing = "handing the checkpoint over"
        self._session.execute("DELETE FROM cdc_checkpoint WHERE applier = ?", (live,), doing=doing)
        self._session.execute(
            "UPDATE cdc_checkpoint SET applier = ? WHERE applier = ?", (live, self._applier), doing=doing
        )
        self._session.execute(
            "UPDATE cdc_applier SET version = version + 1, owner = ?, updated_at = CURRENT_TIMESTAMP WHERE name = ?",
            (REBUILD, live),
            doing=doing,
        )
        self._session.execute("DELETE FROM cdc_applier WHERE name = ?", (self._applier,), doing=doing)

    def forget(self) -> None:
        doing = "dropping the checkpoint"
        self._session.execute("DELETE FROM cdc_checkpoint WHERE applier = ?", (self._applier,), doing=doing)
        self._session.execute("DELETE FROM cdc_applier WHERE name = ?", (self._applier,), doing=doing)
