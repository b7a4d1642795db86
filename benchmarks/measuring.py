"""SQL, processes and waiting, for the benchmarks."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import psycopg2

LONGEST_SECONDS: Final = 1800
_LOOK_SECONDS: Final = 0.05


class WaitedInVainError(Exception):
    """What a target should have in the end did not come in time."""


def execute(url: str, sql: str) -> list[tuple[Any, ...]]:
    """Run one statement outside of any transaction; its rows, if it has any."""
    connection = psycopg2.connect(url)
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


def found(url: str, sql: str) -> list[tuple[Any, ...]]:
    """The same of a table that may not be there yet: then nothing."""
    try:
        return execute(url, sql)
    except psycopg2.errors.UndefinedTable:
        return []


def hashed(url: str, table: str) -> list[tuple[Any, ...]]:
    """Count and sum of hashes of all rows; as if empty where there is no such table yet."""
    return found(url, f"SELECT count(*), sum(hashtextextended(t::text, 0)::numeric) FROM {table} t") or [(0, None)]


def run(command: Sequence[str]) -> str:
    """Its standard output; SystemExit with its errors if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LONGEST_SECONDS)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return done.stdout


def await_true(condition: Callable[[], bool], alive: Callable[[], None] = lambda: None) -> None:
    """Ask again and again; `alive` raises when waiting has become useless, WaitedInVainError when it lasts too long."""
    deadline = time.monotonic() + LONGEST_SECONDS
    while not condition():
        alive()
        if time.monotonic() > deadline:
            raise WaitedInVainError(f"waited for {LONGEST_SECONDS} s in vain")
        time.sleep(_LOOK_SECONDS)
