"""Several `cdc apply` of one target: standbys that take over, and processes that share its partitions."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP, SIGTERM

import psycopg
import pytest

PATIENCE_SECONDS = 60
SESSION_TIMEOUT = 2

CONFIG = """\
[source]
url = "{source}"
tables = ["public.*"]
slot = "{name}"
publication = "{name}"

[log]
url = "{log}"
prefix = "{name}"
partitions = 4

[targets.replica]
url = "{target}"
consistency = "{consistency}"
session_timeout = {session_timeout}
"""


class Crew:
    """Processes of `cdc`, each with its output in a file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *command: str) -> None:
        with self._output(name).open("ab") as output:
            self._running[name] = subprocess.Popen(
                [sys.executable, "-m", "cdc", *command],
                cwd=self._folder,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def signal(self, name: str, number: int) -> None:
        os.kill(self._running[name].pid, number)

    def end(self, name: str, number: int = SIGTERM) -> int:
        process = self._running.pop(name)
        process.send_signal(number)
        return process.wait(PATIENCE_SECONDS)

    def said(self, name: str) -> str:
        return self._output(name).read_text(errors="replace")

    def require_running(self) -> None:
        for name, process in self._running.items():
            assert process.poll() is None, f"{name}: {self.said(name)}"

    def close(self) -> None:
        for process in self._running.values():
            process.send_signal(SIGCONT)
            process.terminate()
        for process in self._running.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _output(self, name: str) -> Path:
        return self._folder / f"{name}.out"


@contextmanager
def crew(folder: Path) -> Iterator[Crew]:
    made = Crew(folder)
    try:
        yield made
    finally:
        made.close()


def until(condition: Callable[[], bool], people: Crew) -> float:
    """How many seconds it took."""
    started = time.monotonic()
    while not condition():
        people.require_running()
        assert time.monotonic() - started < PATIENCE_SECONDS
        time.sleep(0.01)
    return time.monotonic() - started


def rows(url: str, sql: str) -> list[tuple]:
    with psycopg.connect(url) as connection:
        return connection.execute(sql.encode()).fetchall()


@pytest.mark.parametrize("kind", ["postgresql", "sqlite"])
def test_a_standby_takes_over(kind: str, new_database: Callable[[], str], unique_name: str, tmp_path: Path) -> None:
    """After kill -9, a lost connection, and a process that stands still, which comes back as a standby."""
    source = new_database()
    target = new_database() if kind == "postgresql" else f"sqlite:///{tmp_path / 'replica.db'}"
    (tmp_path / "cdc.toml").write_text(
        CONFIG.format(
            source=source,
            target=target,
            log=f"sqlite:///{tmp_path / 'log.db'}",
            name=unique_name,
            consistency="transaction",
            session_timeout=SESSION_TIMEOUT,
        )
    )
    took: dict[str, float] = {}
    with psycopg.connect(source, autocommit=True) as writer, crew(tmp_path) as people:
        writer.execute("CREATE TABLE t (id int PRIMARY KEY)")
        people.start("capture", "capture")
        people.start("one", "apply", "replica")
        until(lambda: owner_is(people, kind, target), people)
        people.start("two", "apply", "replica")
        until(lambda: "standing by: another applier" in people.said("two"), people)

        people.end("one", SIGKILL)
        took["kill -9"] = until(lambda: people.said("two").count("taking over") == 1, people)
        if kind == "postgresql":
            people.start("one", "apply", "replica")
            until(lambda: "standing by" in people.said("one"), people)
            (pid,) = rows(target, "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted")[0]
            rows(target, f"SELECT pg_terminate_backend({pid})")
            took["connection cut"] = until(lambda: people.said("one").count("taking over") == 1, people)
            until(lambda: people.said("two").count("standing by") == 2, people)

            people.signal("one", SIGSTOP)
            took["SIGSTOP"] = until(lambda: people.said("two").count("taking over") == 2, people)
            writer.execute("INSERT INTO t VALUES (1)")
            until(lambda: rows(target, "SELECT * FROM t") == [(1,)], people)
            people.signal("one", SIGCONT)
            until(lambda: people.said("one").count("standing by") == 2, people)
        people.require_running()
        assert people.end("two") == 0
    print(kind, {what: round(seconds, 2) for what, seconds in took.items()})


def owner_is(people: Crew, kind: str, target: str) -> bool:
    if kind == "sqlite":
        return Path(target.removeprefix("sqlite:///")).exists()
    return bool(rows(target, "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND granted"))
