"""Who drains the backlog. Each returns the seconds that it took for all of it."""

from __future__ import annotations

import sys
import time

from benchmarks.backlog import PUBLICATION, SLOT, Backlog
from benchmarks.measuring import execute, run
from cdc.demo.processes import Processes


def pg_recvlogical(backlog: Backlog) -> float:
    """What the walsender delivers, thrown away."""
    end = execute(backlog.source_url, "SELECT pg_current_wal_lsn()")[0][0]
    options = ["-o", "proto_version=1", "-o", f"publication_names={PUBLICATION}", "--endpos", end]
    with backlog.slot() as slot:
        began = time.monotonic()
        program = str(backlog.source.bin("pg_recvlogical"))
        run([program, "-d", backlog.source_url, "-S", slot, "--start", "-f", "/dev/null", *options])
        return time.monotonic() - began


def capture_alone(backlog: Backlog) -> float:
    """Ours, into a log that throws away; in a process of its own, as capture is one."""
    with backlog.slot() as slot:
        arguments = [backlog.source_url, slot, PUBLICATION, str(backlog.changes)]
        return float(run([sys.executable, "-m", "benchmarks.capture_alone", *arguments]))


def native(backlog: Backlog) -> float:
    """PostgreSQL's own logical replication."""
    with backlog.slot() as slot, backlog.target("native") as target:
        execute(
            target,
            f"CREATE SUBSCRIPTION native CONNECTION '{backlog.source_url}' PUBLICATION {PUBLICATION}"
            f" WITH (create_slot = false, slot_name = '{slot}', copy_data = false, enabled = false)",
        )
        began = time.monotonic()
        execute(target, "ALTER SUBSCRIPTION native ENABLE")
        lasted = backlog.await_all(target, began)
        execute(target, "ALTER SUBSCRIPTION native DISABLE")
        execute(target, "ALTER SUBSCRIPTION native SET (slot_name = NONE)")
        execute(target, "DROP SUBSCRIPTION native")
        return lasted


def end_to_end(backlog: Backlog) -> float:
    """Ours: capture, local log and applier, from the start of their processes."""
    with backlog.slot(SLOT), backlog.target("ours") as target, Processes(backlog.config(target)) as processes:
        began = time.monotonic()
        processes.start("capture", "capture")
        processes.start("apply", "apply", "copy")
        return backlog.await_all(target, began, processes.require_running)
