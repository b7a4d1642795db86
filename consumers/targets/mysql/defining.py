"""Who may define tables: the applier whose checkpoint it is, and only as long as it is.

What defines a table is not in the transaction that has the checkpoint: it commits by itself, on a session beside. The
server may end the one session and not the other. MariaDB ends one that stands still within a transaction; and of a
process that was killed, the session that writes ends at once, the one beside when its ALTER TABLE is done. So

1. the session beside takes a lock,
2. the one that writes is asked whether it is still there,
3. tables are defined, and the lock is let go.

Whoever takes over has waited for the end of the session that writes. Then it waits until this lock is free: what was
begun before has ended then, and who comes later gets no further than to 2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Final

from cdc.core.errors import PassingError
from consumers.targets.mysql.session import MysqlSession

_DOING: Final = "making sure that nobody took over"

Allowed = Callable[[], AbstractContextManager[None]]
"""Nothing is defined within it if the applier may not any more."""


class Defining:
    """Of the applier's tables, by `definer`."""

    def __init__(self, definer: MysqlSession, applier: str) -> None:
        self._definer = definer
        self._applier = applier
        self._within = False

    @contextmanager
    def allowed(self, holder: MysqlSession) -> Iterator[None]:
        """PassingError if `holder`, which had the applier's lock, is no more. Its transaction may last as long as what
        is defined takes.
        """
        if self._within:
            yield
            return
        if not self._definer.lock(_lock(self._applier)):
            raise PassingError(f"somebody else defines tables for the applier {self._applier!r}")
        self._within = True
        try:
            with holder.waiting(doing=_DOING):
                yield
        finally:
            self._within = False
            self._definer.unlock(_lock(self._applier))


def require_ended(session: MysqlSession, applier: str) -> None:
    """AlreadyRunningError while something is being defined for this applier."""
    lock = _lock(applier)
    session.require_lock(lock, f"an applier named {applier!r} is gone, but what it began to alter is not done yet")
    session.unlock(lock)


def _lock(applier: str) -> str:
    return f"{applier}~defining"
