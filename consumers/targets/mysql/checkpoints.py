"""The checkpoint, in the target's tables `cdc_applier` and `cdc_checkpoint`."""

from __future__ import annotations

from typing import Final

from typing_extensions import override

from cdc.core.errors import PassingError
from consumers.plan.checkpoint import REBUILD, Checkpoint
from consumers.targets.checkpoints import TAKING, Dialect, SqlCheckpoints
from consumers.targets.mysql.session import MysqlSession

# Owners of a checkpoint whose tables are under way to other names (before who it was), or to nothing.
_REPLACING: Final = f"{REBUILD}: replacing those of "
_DROPPING: Final = f"{REBUILD}: dropping"


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


class Checkpoints(SqlCheckpoints):
    """See `SqlCheckpoints`."""

    # What is updated is touched by itself.
    dialect = Dialect(
        partition="`partition`", on_conflict="ON DUPLICATE KEY UPDATE", new="VALUES({column})", touched=""
    )

    @override
    def exist(self) -> bool:
        there = "SELECT 1 FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = %s"
        return bool(self._query(there, "cdc_checkpoint"))

    @override
    def create_missing(self) -> None:
        """Nothing: that would commit. See `create_checkpoint_tables`."""

    @override
    def open(self) -> Checkpoint:
        held = self._query("SELECT owner FROM cdc_applier WHERE name = %s FOR UPDATE", self._applier)
        if held and held[0][0].startswith(_REPLACING):
            raise PassingError(f"a rebuild is replacing the tables of {self._applier!r}")
        return super().open()

    def hold(self) -> Checkpoint:
        """The checkpoint, which nobody else can take until the transaction ends."""
        held = "SELECT 1 FROM cdc_applier WHERE name = %s FOR UPDATE"
        self._query(held, self._applier, doing="waiting for the applier's transaction")
        return self.read()

    def is_replacing(self) -> bool:
        """Whether a rebuild began to replace the applier's tables: it is out until that has ended."""
        return self.exist() and str(self.owner()).startswith(_REPLACING)

    def begin_replacing(self) -> None:
        begun = "UPDATE cdc_applier SET version = version + 1, owner = CONCAT(%s, owner) WHERE name = %s"
        self._execute(begun, _REPLACING, self._applier, doing=TAKING)

    def end_replacing(self) -> None:
        """They were not replaced: nobody wrote, so an applier that has not noticed may go on. See `hand_over` for those
        that were.
        """
        was = "SUBSTRING(owner, CHAR_LENGTH(%s) + 1)"
        ended = f"UPDATE cdc_applier SET version = version - 1, owner = {was} WHERE name = %s"
        self._execute(ended, _REPLACING, self._applier, doing=TAKING)

    def is_dropping(self) -> bool:
        """Whether the applier's tables are being dropped."""
        return self.exist() and self.owner() == _DROPPING

    def begin_dropping(self) -> None:
        """It has nothing any more."""
        begun = "UPDATE cdc_applier SET version = version + 1, owner = %s, log_id = NULL WHERE name = %s"
        self._execute(begun, _DROPPING, self._applier, doing=TAKING)
        self._execute("DELETE FROM cdc_checkpoint WHERE applier = %s", self._applier)
