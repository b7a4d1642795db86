"""PostgreSQL's own logical replication."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from typing_extensions import override

from benchmarks.backlog import PLAIN, PUBLICATION, Backlog
from benchmarks.measuring import execute
from benchmarks.replications.replication import Replication, Running


class Native(Replication):
    name = "native logical replication"

    @override
    def prepare(self, backlog: Backlog) -> None:
        backlog.copy_tables()

    @override
    @contextmanager
    def resumed(self, backlog: Backlog) -> Iterator[Running]:
        with backlog.slot(PLAIN) as slot, backlog.plain_target() as target:
            execute(
                target,
                f"CREATE SUBSCRIPTION native CONNECTION '{backlog.source_url}' PUBLICATION {PUBLICATION}"
                f" WITH (create_slot = false, slot_name = '{slot}', copy_data = false, enabled = false)",
            )
            running = Running(target=target)
            execute(target, "ALTER SUBSCRIPTION native ENABLE")
            yield running
            execute(target, "ALTER SUBSCRIPTION native DISABLE")
            execute(target, "ALTER SUBSCRIPTION native SET (slot_name = NONE)")
            execute(target, "DROP SUBSCRIPTION native")

    @override
    @contextmanager
    def loading(self, backlog: Backlog) -> Iterator[Running]:
        slot = backlog.new_name("load")
        with backlog.plain_target(with_rows=False) as target:
            running = Running(target=target)
            execute(
                target,
                f"CREATE SUBSCRIPTION native CONNECTION '{backlog.source_url}' PUBLICATION {PUBLICATION}"
                f" WITH (slot_name = '{slot}')",
            )
            yield running
            execute(target, "DROP SUBSCRIPTION native")

    @override
    def forget(self) -> None:
        """Nothing is kept but databases."""
