"""The checkpoint, in the target's tables `cdc_applier` and `cdc_checkpoint`."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

from cdc.core.errors import StaleApplierError
from cdc.core.log import TopicPartition
from cdc.core.position import Position
from consumers.plan.checkpoint import Checkpoint, PartitionProgress
from consumers.targets.mysql.session import MysqlSession


def create_checkpoint_tables(session: MysqlSession) -> None:
    """Those that are missing. A user who may not create tables will do where they are there."""
    doing = "creating the checkpoint tables"
    ((there,),) = session.query(
        "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = DATABASE()"
        " AND table_name IN ('cdc_applier', 'cdc_checkpoint', 'cdc_table')",
        doing=doing,
    )
    for statement in () if there == 3 else _create_statements(session.server.collation):
        session.execute(statement, doing=doing)


def _create_statements(collation: str) -> tuple[str, ...]:
    options = f"ENGINE = InnoDB ROW_FORMAT = DYNAMIC CHARACTER SET utf8mb4 COLLATE {collation}"
    now = "DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6) ON UPDATE CURRENT_TIMESTAMP(6)"
    return (
        f"""
        CREATE TABLE IF NOT EXISTS cdc_applier (
            name       VARCHAR(255) NOT NULL PRIMARY KEY,
            version    BIGINT NOT NULL,
            log_id     VARCHAR(255),
            owner      VARCHAR(500) NOT NULL,
            updated_at {now}
        ) {options}
        """,
        f"""
        CREATE TABLE IF NOT EXISTS cdc_checkpoint (
            applier     VARCHAR(255) NOT NULL,
            topic       VARCHAR(500) NOT NULL,
            `partition` INT NOT NULL,
            epoch       BIGINT NOT NULL,
            commit_lsn  BIGINT NOT NULL,
            ordinal     BIGINT NOT NULL,
            next_offset BIGINT NOT NULL,
            updated_at  {now},
            PRIMARY KEY (applier, topic, `partition`)
        ) {options}
        """,
        # Which source table a target table stands for: there are no schemas here, and case may not tell tables apart.
        f"""
        CREATE TABLE IF NOT EXISTS cdc_table (
            name          VARCHAR(64) NOT NULL PRIMARY KEY,
            source_schema VARCHAR(255) NOT NULL,
            source_table  VARCHAR(255) NOT NULL
        ) {options}
        """,
    )


class Checkpoints:
    """One applier's checkpoint. The caller holds the transaction."""

    def __init__(self, session: MysqlSession, applier: str) -> None:
        self._session = session
        self._applier = applier

    def open(self) -> Checkpoint:
        """Raise the version (whoever held the lower one is out), and read all of it."""
        self._session.execute(
            "INSERT INTO cdc_applier (name, version, owner) VALUES (%s, 1, %s)"
            " ON DUPLICATE KEY UPDATE version = version + 1, owner = VALUES(owner)",
            (self._applier, f"{socket.gethostname()}:{os.getpid()}"),
            doing="reading the checkpoint",
        )
        return self.read()

    def read(self) -> Checkpoint:
        """The checkpoint as it stands; an empty one if there is none."""
        doing = "reading the checkpoint"
        there = "SELECT 1 FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = %s"
        if not self._session.query(there, ("cdc_checkpoint",), doing=doing):
            return Checkpoint(0, None, {})
        rows = self._session.query(
            "SELECT version, log_id FROM cdc_applier WHERE name = %s", (self._applier,), doing=doing
        )
        version, log_id = rows[0] if rows else (0, None)
        partitions = self._session.query(
            "SELECT topic, `partition`, epoch, commit_lsn, ordinal, next_offset FROM cdc_checkpoint WHERE applier = %s",
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
            "UPDATE cdc_applier SET version = version + 1, log_id = %s WHERE name = %s AND version = %s",
            (log_id, self._applier, version),
            doing="taking the checkpoint",
        )
        if updated != 1:
            raise StaleApplierError(f"another applier took over the checkpoint of {self._applier!r}")

    def write(self, progress: Mapping[TopicPartition, PartitionProgress]) -> None:
        for partition, at in progress.items():
            self._session.execute(
                "INSERT INTO cdc_checkpoint (applier, topic, `partition`, epoch, commit_lsn, ordinal, next_offset)"
                " VALUES (%s, %s, %s, %s, %s, %s, %s) ON DUPLICATE KEY UPDATE epoch = VALUES(epoch),"
                " commit_lsn = VALUES(commit_lsn), ordinal = VALUES(ordinal), next_offset = VALUES(next_offset)",
                (self._applier, *partition, *at.position, at.next_offset),
                doing="writing the checkpoint",
            )
