"""Who holds which partition, in the target's table `cdc_share`: a transaction compares it before it writes."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from cdc.core.errors import StaleApplierError
from cdc.core.log import TopicPartition
from consumers.plan.checkpoint import PartitionProgress
from consumers.targets.checkpoints import progress_of
from consumers.targets.postgresql.session import PostgresSession

_CREATE: Final = """
    CREATE TABLE IF NOT EXISTS public.cdc_share (
        applier    text NOT NULL,
        topic      text NOT NULL,
        partition  integer NOT NULL,
        holder     text NOT NULL,
        waits      boolean NOT NULL DEFAULT false,
        owner      text NOT NULL,
        updated_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (applier, topic, partition)
    )
"""


class Shares:
    """The partitions of one applier's name. The caller holds the transaction. Rows are locked in one order, always."""

    def __init__(self, session: PostgresSession, applier: str) -> None:
        self._session = session
        self._applier = applier

    def create_missing(self) -> None:
        doing = "creating the checkpoint tables"
        if not self.exist():
            self._session.lock_definitions()
            self._session.execute(_CREATE, doing=doing)

    def exist(self) -> bool:
        """Whether anybody ever shared here."""
        doing = "looking for appliers that share"
        return self._session.query("SELECT to_regclass('public.cdc_share') IS NOT NULL", doing=doing) == [(True,)]

    def take(self, partitions: Collection[TopicPartition], *, holder: str, owner: str) -> None:
        """Waits for the transactions of those who hold them now."""
        for topic, partition in sorted(partitions):
            self._session.execute(
                "INSERT INTO public.cdc_share (applier, topic, partition, holder, owner) VALUES (%s, %s, %s, %s, %s)"
                " ON CONFLICT (applier, topic, partition) DO UPDATE SET"
                " holder = EXCLUDED.holder, owner = EXCLUDED.owner, waits = false, updated_at = now()",
                (self._applier, topic, partition, holder, owner),
                doing="taking over partitions",
            )

    def take_all(self, *, holder: str, owner: str) -> None:
        """As `take`, of all that anybody ever held."""
        rows = self._session.query(
            "SELECT topic, partition FROM public.cdc_share WHERE applier = %s",
            (self._applier,),
            doing="taking over partitions",
        )
        self.take([TopicPartition(*row) for row in rows], holder=holder, owner=owner)

    def compare(self, count: int, *, holder: str) -> None:
        """StaleApplierError unless all `count` partitions of the holder are its own still; they stay so until the
        transaction ends.
        """
        held = self._session.query(
            "SELECT 1 FROM public.cdc_share WHERE applier = %s AND holder = %s ORDER BY topic, partition FOR UPDATE",
            (self._applier, holder),
            doing="taking the checkpoint",
        )
        if len(held) != count:
            raise StaleApplierError(f"another applier took over partitions of {self._applier!r}")

    def let_wait(self, partitions: Collection[TopicPartition], *, holder: str) -> None:
        """Mark these of the holder's."""
        for topic, partition in sorted(partitions):
            self._session.execute(
                "UPDATE public.cdc_share SET waits = true, updated_at = now()"
                " WHERE applier = %s AND topic = %s AND partition = %s AND holder = %s AND NOT waits",
                (self._applier, topic, partition, holder),
                doing="waiting for other appliers",
            )

    def not_waiting(self) -> dict[TopicPartition, PartitionProgress]:
        """How far the partitions are that are not marked."""
        rows = self._session.query(
            "SELECT topic, partition, coalesce(epoch, 0), coalesce(commit_lsn, 0), coalesce(ordinal, 0),"
            " coalesce(next_offset, 0) FROM public.cdc_share LEFT JOIN public.cdc_checkpoint"
            " USING (applier, topic, partition) WHERE applier = %s AND NOT waits",
            (self._applier,),
            doing="waiting for other appliers",
        )
        return progress_of(rows)
