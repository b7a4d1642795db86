"""Capture into a log that throws away, and what PostgreSQL's own receiver needs to throw the same away."""

from __future__ import annotations

import sys
import time

from benchmarks.backlog import PLAIN, PUBLICATION, Backlog
from benchmarks.measuring import execute, run
from benchmarks.replications.ours import Ours


def pg_recvlogical(backlog: Backlog) -> float:
    """Seconds until it has received all that the walsender delivers."""
    end = execute(backlog.source_url, "SELECT pg_current_wal_lsn()")[0][0]
    options = ["-o", "proto_version=1", "-o", f"publication_names={PUBLICATION}", "--endpos", end]
    with backlog.slot(PLAIN) as slot:
        began = time.monotonic()
        program = str(backlog.stage.source.bin("pg_recvlogical"))
        run([program, "-d", backlog.source_url, "-S", slot, "--start", "-f", "/dev/null", *options])
        return time.monotonic() - began


def capture_alone(backlog: Backlog, ours: Ours) -> float:
    """Seconds for the same; ours, in a process of its own, as capture is one, without the imports at its start."""
    with ours.before(backlog) as config:
        return float(run([sys.executable, "-m", "benchmarks.capture_alone", str(config), str(backlog.changes)]))
