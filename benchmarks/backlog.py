"""One source with a backlog of changes, and the state before it from which every contender starts."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Final

from benchmarks.measuring import LONGEST_SECONDS, WaitedInVainError, await_true, execute, found, hashed
from benchmarks.stage import Stage
from benchmarks.workloads import END, Workload

PUBLICATION: Final = "bench"
PLAIN: Final = "plain"
"""The state before the backlog of who needs no more than a slot and a copy of the tables."""

Alive = Callable[[], None]


class Backlog:
    """A database of its own at the stage's source, for one workload.

    Use `create`, let every contender prepare, then `change`. Then drain as often as wanted: every drain starts from
    copies of the slot and of the target database that its contender had before the backlog: it reads the same WAL.
    """

    def __init__(self, stage: Stage, workload: Workload) -> None:
        self.stage = stage
        self.workload = workload
        self.database = workload.name
        self.source_url = stage.source.url(self.database)
        self.tables = (*workload.tables, END)
        self._expected: dict[str, Any] = {}
        self._kept_databases: list[str] = []
        self._number = 0

    @property
    def changes(self) -> int:
        return self.workload.changes + 1

    def create(self) -> None:
        self.stage.report(f"# {self.workload.title}")
        self.stage.source.create_database(self.database)
        self.workload.create(self.stage.source, self.source_url)
        execute(self.source_url, f"CREATE TABLE {END} (id int PRIMARY KEY)")
        tables = ", ".join(self.tables)
        execute(
            self.source_url, f"CREATE PUBLICATION {PUBLICATION} FOR TABLE {tables} WITH (publish_via_partition_root)"
        )
        self.expect()

    def change(self) -> None:
        """Make the backlog. All slots that drains start from are there before it."""
        execute(self.source_url, f"SELECT pg_create_logical_replication_slot('{self._before(PLAIN)}', 'pgoutput')")
        self.workload.change(self.stage.source, self.source_url)
        execute(self.source_url, f"INSERT INTO {END} VALUES (1)")
        self.expect()

    def expect(self) -> None:
        """From now on a target has it all when it equals the source of this moment."""
        signs = (f"SELECT count(*) FROM {END}", *self.workload.signs)
        self._expected = {sign: execute(self.source_url, sign) for sign in signs}
        self._rows = [hashed(self.source_url, table) for table in self.tables]

    def drop(self) -> None:
        """With all that contenders keep of it."""
        self.stage.source.drop_database(self.database)
        for name in self._kept_databases:
            self.stage.target.drop_database(name)

    # -- the state before --------------------------------------------------------------------------------------------

    def keep_slot(self, name: str, slot: str) -> None:
        """What `name` starts from is this slot, which goes."""
        execute(self.source_url, f"SELECT pg_copy_logical_replication_slot('{slot}', '{self._before(name)}')")
        self.drop_slot(slot)

    @contextmanager
    def slot(self, before: str, name: str | None = None) -> Iterator[str]:
        """A slot as `before` had it, dropped at the end. `name` is only needed by who insists on it."""
        name = name or self.new_name("run")
        execute(self.source_url, f"SELECT pg_copy_logical_replication_slot('{self._before(before)}', '{name}')")
        try:
            yield name
        finally:
            self.drop_slot(name)

    def drop_slot(self, name: str) -> None:
        """Once the walsender that uses it has noticed that its client is gone."""
        slot = f"FROM pg_replication_slots WHERE slot_name = '{name}'"
        await_true(lambda: not execute(self.source_url, f"SELECT 1 {slot} AND active"))
        execute(self.source_url, f"SELECT pg_drop_replication_slot(slot_name) {slot}")

    def new_name(self, kind: str) -> str:
        self._number += 1
        return f"{self.database}_{kind}_{self._number}"

    @contextmanager
    def database_like(self, template: str | None = None) -> Iterator[str]:
        """The URL of a database at the target: a copy of the template, or an empty one. Dropped at the end."""
        name = self.new_name("copy")
        like = f"TEMPLATE {template} STRATEGY file_copy" if template else ""
        execute(self.stage.target.url(), f"CREATE DATABASE {name} {like}")
        execute(self.stage.target.url(), "CHECKPOINT")
        try:
            yield self.stage.target.url(name)
        finally:
            self.stage.target.drop_database(name)

    @contextmanager
    def plain_target(self, *, with_rows: bool = True) -> Iterator[str]:
        """A database at the target with the tables, and their rows of before the backlog."""
        with self.database_like(self._copied) as url:
            if not with_rows:
                execute(url, f"TRUNCATE {', '.join(self.tables)}")
            yield url

    def copy_tables(self) -> None:
        """Now, before the backlog, for `plain_target`."""
        assert self._copied

    def keep_database(self, kind: str) -> str:
        """The name of a new database at the target, which is there until `drop`."""
        name = self.new_name(kind)
        self.stage.target.create_database(name)
        self._kept_databases.append(name)
        return name

    @cached_property
    def _copied(self) -> str:
        name = self.keep_database("plain")
        dump = [str(self.stage.source.bin("pg_dump")), "--no-publications", "-d", self.source_url]
        with subprocess.Popen(dump, stdout=subprocess.PIPE) as dumped:
            psql = [str(self.stage.target.bin("psql")), "-q", "-d", self.stage.target.url(name)]
            subprocess.run(psql, stdin=dumped.stdout, check=True, stdout=subprocess.DEVNULL)
        return name

    def _before(self, name: str) -> str:
        return f"{self.database}_before_{name}"

    # -- ground truth --------------------------------------------------------------------------------------------------

    def await_all(self, target: str, began: float, alive: Alive) -> float:
        """Seconds from `began` until the target has it all, which is so when every row of every table is equal."""
        for sign, expected in self._expected.items():
            await_true(lambda sign=sign, expected=expected: found(target, sign) == expected, alive)  # type: ignore[misc]
        deadline = time.monotonic() + LONGEST_SECONDS
        while True:
            looked = time.monotonic()
            if self._is_equal(target):
                return looked - began
            alive()
            if looked > deadline:
                raise WaitedInVainError(f"{target} differs from the source")

    def _is_equal(self, target: str) -> bool:
        return self._hashed(target, self.tables) == self._rows

    @staticmethod
    def _hashed(url: str, tables: Iterable[str]) -> list[Any]:
        return [hashed(url, table) for table in tables]
