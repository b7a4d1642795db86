"""The checkpoint, in the target's tables `cdc_applier` and `cdc_checkpoint`."""

from __future__ import annotations

from typing import Final

from typing_extensions import override

from consumers.targets.checkpoints import Dialect, SqlCheckpoints

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


class Checkpoints(SqlCheckpoints):
    """See `SqlCheckpoints`."""

    dialect = Dialect(place="?")

    @override
    def exist(self) -> bool:
        return self._query("SELECT count(*) FROM sqlite_master WHERE name = 'cdc_checkpoint'") == [(1,)]

    @override
    def create_missing(self) -> None:
        for statement in _CREATE:
            self._execute(statement, doing="creating the checkpoint tables")
