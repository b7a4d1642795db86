"""One source with a backlog of changes, and the state before it from which every contender starts."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from benchmarks.measuring import await_true, execute, found, hashed, run
from cdc.demo.processes import Processes
from cdc.embedded.postgres import EmbeddedPostgres

TABLES: Final = ("pgbench_accounts", "pgbench_branches", "pgbench_history", "pgbench_tellers")
DATABASE: Final = "bench"
PUBLICATION: Final = "bench"
_BEFORE: Final = "before"  # the slot, and each target's database, at the moment before the backlog
SLOT: Final = "cdc"
_CLIENTS: Final = 8
_CONFIG: Final = """\
[source]
url = "{source}"
tables = ["public.*"]
slot = "cdc"
publication = "bench"

[log]
url = "sqlite:///{log}"
prefix = "bench"

[targets.copy]
url = "{target}"
"""
_SUMS: Final = {
    "pgbench_history": "SELECT count(*) FROM pgbench_history",
    "pgbench_branches": "SELECT sum(bbalance) FROM pgbench_branches",
    "pgbench_tellers": "SELECT sum(tbalance) FROM pgbench_tellers",
    "pgbench_accounts": "SELECT sum(abalance) FROM pgbench_accounts",
}
"""Each changes with every transaction; the cheapest first."""


class Backlog:
    """pgbench's standard workload (TPC-B): 4 changes a transaction, of which 3 are updates.

    `source` and `target` run already. Use `prepare` once, then drain as often as wanted: every drain starts from copies
    of the same slot, the same target database and the same log, and so reads the same WAL.
    """

    def __init__(
        self, source: EmbeddedPostgres, target: EmbeddedPostgres, folder: Path, *, scale: int, transactions: int
    ) -> None:
        self.source = source
        self._target = target
        self._folder = folder
        self._scale = scale
        self._transactions = transactions // _CLIENTS * _CLIENTS
        self._expected: dict[str, Any] = {}
        self._number = 0

    @property
    def source_url(self) -> str:
        return self.source.url(DATABASE)

    @property
    def changes(self) -> int:
        return 4 * self._transactions

    def prepare(self, report: Callable[[str], None]) -> None:
        report(f"pgbench -i -s {self._scale}")
        self.source.create_database(DATABASE)
        self._pgbench("-i", "-q", "-s", str(self._scale))
        execute(self.source_url, "ALTER TABLE pgbench_history ADD COLUMN hid bigserial PRIMARY KEY")
        execute(
            self.source_url,
            f"CREATE PUBLICATION {PUBLICATION} FOR TABLE {', '.join(TABLES)} WITH (publish_via_partition_root)",
        )
        report("first loads")
        self._load_native()
        self._load_ours()
        report(f"backlog: {self._transactions:,} transactions, {self.changes:,} changes")
        self._pgbench("-n", "-c", str(_CLIENTS), "-j", "2", "-t", str(self._transactions // _CLIENTS))
        self._expected = {table: execute(self.source_url, sums) for table, sums in _SUMS.items()}

    # -- the state before the backlog ------------------------------------------------------------------------------

    def _load_native(self) -> None:
        self._target.create_database(f"native_{_BEFORE}")
        dump = [str(self.source.bin("pg_dump")), "--no-publications", "-d", self.source_url]
        with subprocess.Popen(dump, stdout=subprocess.PIPE) as dumped:
            psql = [str(self._target.bin("psql")), "-q", "-d", self._target.url(f"native_{_BEFORE}")]
            subprocess.run(psql, stdin=dumped.stdout, check=True, stdout=subprocess.DEVNULL)

    def _load_ours(self) -> None:
        database = f"ours_{_BEFORE}"
        url = self._target.create_database(database)
        with Processes(self._config(url, self._log(_BEFORE))) as processes:
            processes.start("capture", "capture")
            processes.start("apply", "apply", "copy")
            await_true(lambda: self._equal(url), processes.require_running)
        execute(self.source_url, f"SELECT pg_copy_logical_replication_slot('{SLOT}', '{_BEFORE}')")
        self._drop_slot(SLOT)

    def _config(self, target: str, log: Path) -> Path:
        config = self._folder / "cdc.toml"
        config.write_text(_CONFIG.format(source=self.source_url, target=target, log=log))
        return config

    def _log(self, name: str) -> Path:
        return self._folder / f"log-{name}.db"

    # -- one drain ---------------------------------------------------------------------------------------------------

    @contextmanager
    def slot(self, name: str | None = None) -> Iterator[str]:
        """A slot at the moment before the backlog, dropped at the end. `name` is only needed by who insists on it."""
        self._number += 1
        name = name or f"run_{self._number}"
        execute(self.source_url, f"SELECT pg_copy_logical_replication_slot('{_BEFORE}', '{name}')")
        yield name
        self._drop_slot(name)

    @contextmanager
    def target(self, contender: str) -> Iterator[str]:
        """The URL of a target as `contender`'s first load left it; dropped at the end."""
        self._number += 1
        name = f"{contender}_{self._number}"
        execute(self._target.url(), f"CREATE DATABASE {name} TEMPLATE {contender}_{_BEFORE} STRATEGY file_copy")
        execute(self._target.url(), "CHECKPOINT")
        yield self._target.url(name)
        self._target.drop_database(name)

    def config(self, target: str) -> Path:
        """A cdc.toml for this target and a copy of the log as the first load left it."""
        log = self._log("run")
        for suffix in ("", "-wal", "-shm"):  # SQLite may have left a write-ahead file
            old, new = Path(f"{self._log(_BEFORE)}{suffix}"), Path(f"{log}{suffix}")
            new.unlink(missing_ok=True)
            if old.exists():
                new.write_bytes(old.read_bytes())
        return self._config(target, log)

    def await_all(self, target: str, began: float, alive: Callable[[], None] = lambda: None) -> float:
        """Seconds from `began` until the target has it all; then every row is compared."""
        for table, expected in self._expected.items():

            def is_there(table: str = table, expected: object = expected) -> bool:
                return found(target, _SUMS[table]) == expected

            await_true(is_there, alive)
        lasted = time.monotonic() - began
        if not self._equal(target):
            raise SystemExit(f"{target} differs from the source")
        return lasted

    def _drop_slot(self, name: str) -> None:
        """Once the walsender that uses it has noticed that its client is gone."""
        active = f"SELECT 1 FROM pg_replication_slots WHERE slot_name = '{name}' AND active"
        await_true(lambda: not execute(self.source_url, active))
        execute(self.source_url, f"SELECT pg_drop_replication_slot('{name}')")

    def _equal(self, url: str) -> bool:
        """Ground truth: every row of every table."""
        return all(hashed(url, table) == hashed(self.source_url, table) for table in TABLES)

    def _pgbench(self, *arguments: str) -> None:
        run([str(self.source.bin("pgbench")), *arguments, "-d", self.source_url])
