"""Appliers that are gone without the server noticing: stopped (SIGSTOP), or behind a connection that was cut.

A session that holds a lock is ended only when its client is gone for the server too. TCP may tell that after hours, and
never of a process that merely stands still. So whoever waits for the lock watches: an applier at work says something at
least four times in `session_timeout`.
"""

from __future__ import annotations

import time
from typing import Any, Final

from consumers.targets.postgresql.session import PostgresSession

# A COPY is one statement, however long it takes: what it has read tells whether its client lives.
_WAITED_FOR: Final = """
    SELECT a.pid, a.backend_start::text, a.state_change::text, coalesce(c.bytes_processed, 0)
    FROM pg_stat_activity a LEFT JOIN pg_stat_progress_copy c ON c.pid = a.pid
    WHERE a.application_name = %s AND a.datname = current_database() AND a.usename = current_user
      AND a.pid <> pg_backend_pid() AND a.wait_event_type = 'Client'
"""


class Silence:
    """How long sessions of this applier that the server waits for were silent, as far as it was looked at."""

    def __init__(self, applier: str, most_seconds: float) -> None:
        self._application_name = f"cdc:{applier}"[:63]  # as the server cuts it
        self._most_seconds = most_seconds
        self._since: dict[tuple[Any, ...], float] = {}

    def end(self, session: PostgresSession) -> bool:
        """End those that are silent for too long. Whether there was one. Call it from time to time."""
        doing, now = "looking for silent appliers", time.monotonic()
        with session.transaction(doing=doing):
            found = session.query(_WAITED_FOR, (self._application_name,), doing=doing)
            self._since = {each: self._since.get(each, now) for each in found}
            silent = [each[0] for each, since in self._since.items() if now - since >= self._most_seconds]
            for pid in silent:
                session.query("SELECT pg_terminate_backend(%s)", (pid,), doing=doing)
        return bool(silent)
