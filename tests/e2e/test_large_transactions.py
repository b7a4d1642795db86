"""A transaction of any size goes through in the same memory.

CDC_TEST_ROWS says how many rows it has, 40,000 by default.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Final

import psycopg
import pytest
from replication import TARGETS, Databases

ROWS: Final = int(os.environ.get("CDC_TEST_ROWS", "40000"))  # a million takes minutes, and no more memory
GROWTH_MB: Final = 80  # librdkafka reads ahead 16 MB, and what it fetches meanwhile; the transaction has 160 MB
# Not what compresses well: how much a fetch brings is limited before it is unpacked.
BODY: Final = "SELECT string_agg(md5(i::text || g), '') FROM generate_series(1, 125) g"
CONFIG: Final = """\
[source]
url = "{source}"
tables = ["public.*"]
slot = "{name}"
publication = "{name}"
[log]
url = "{log}"
prefix = "{name}"
partitions = 3
[targets.postgres]
url = "{target}"
batch_events = 1000
[targets.sqlite]
url = "sqlite:///{folder}/replica.db"
batch_events = 1000
"""
# Runs one part of cdc until it has done so many events, and prints its peak of resident memory in MB.
RUN: Final = """
import sys
from pathlib import Path
from cdc.cli.options import load_settings
from cdc.wiring import capture_session
from consumers.wiring import apply_session

config, part, events = load_settings(Path(sys.argv[1])), sys.argv[2], int(sys.argv[3])
session = capture_session(config, print) if part == "capture" else apply_session(config, part, print)
with session as running:
    running.run(lambda: running.progress.events >= events)
(peak,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(int(peak.split()[1]) // 1024)  # kB; getrusage's would be the parent's, if that was larger before the exec
"""


@pytest.mark.parametrize("log", ["local", "kafka"])
def test_memory_does_not_grow_with_a_transaction(
    log: str, tmp_path: Path, new_database: Databases, unique_name: str, request: pytest.FixtureRequest
) -> None:
    source, target = new_database(), new_database()
    config = tmp_path / "cdc.toml"
    url = f"kafka://{request.getfixturevalue('kafka')}" if log == "kafka" else f"sqlite:///{tmp_path / 'log.db'}"
    config.write_text(CONFIG.format(source=source, target=target, log=url, folder=tmp_path, name=unique_name))

    def peak(part: str, events: int) -> int:
        command = [sys.executable, "-c", RUN, str(config), part, str(events)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
        return int(done.stdout.splitlines()[-1])

    with psycopg.connect(source, autocommit=True) as connection:
        connection.execute("CREATE TABLE items (id int PRIMARY KEY, n int, body text)")
        connection.execute("INSERT INTO items VALUES (0, 0, 'first')")
        # Two events: what became of the table counts as one.
        small = {part: peak(part, 2) for part in ("capture", *TARGETS)}
        connection.execute(f"INSERT INTO items SELECT i, i, ({BODY}) FROM generate_series(1, {ROWS}) i")
        large = {part: peak(part, ROWS) for part in ("capture", *TARGETS)}
        expected = connection.execute("SELECT count(*), sum(n), sum(length(body)) FROM items").fetchone()
    print(f"peak of resident memory in MB: {small} for 1 row, {large} for {ROWS} rows in one transaction")
    assert {part: large[part] - small[part] < GROWTH_MB for part in large} == dict.fromkeys(large, True), (small, large)
    with psycopg.connect(target) as connection:
        assert connection.execute("SELECT count(*), sum(n), sum(length(body)) FROM items").fetchone() == expected
    with closing(sqlite3.connect(tmp_path / "replica.db")) as replica:
        assert replica.execute("SELECT count(*), sum(n), sum(length(body)) FROM items").fetchone() == expected
