"""What a target's server does, and the reading of what comes next, at the same time.

A target that is a server leaves the applier nothing to do but wait: a fifth to a third of its time. So the steps of a
large batch run in a thread of their own, and meanwhile the applier reads on. Nothing else is done beside them: what is
planned, refused, checkpointed or set aside is done by one thread, in one order.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Final

Beside = Callable[[Callable[[], None]], None]
"""Does the work that it is given, and perhaps something else at the same time."""

# A thread that has its answer waits so long for one that computes: PostgreSQL answers in less than Python's 5 ms.
_SWITCH_SECONDS: Final = 0.0005


class Meanwhile:
    """Runs work in its thread, and `go_on` in the caller's, again and again until the work is done or `go_on` says that
    there is nothing to do.
    """

    def __init__(self, go_on: Callable[[], bool]) -> None:
        self._go_on = go_on
        self._threads: ThreadPoolExecutor | None = None

    def run(self, work: Callable[[], None]) -> None:
        """Whatever happens, the work is over at the end. Its error comes first."""
        if self._threads is None:
            sys.setswitchinterval(_SWITCH_SECONDS)
            self._threads = ThreadPoolExecutor(max_workers=1, thread_name_prefix="target")
        working = self._threads.submit(work)
        try:
            while not working.done() and self._go_on():
                pass
        finally:
            wait([working])
            working.result()
