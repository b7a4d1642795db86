"""What a target's server does, and the reading of what comes next, at the same time.

A target that is a server leaves the applier nothing to do but wait: a quarter of its time. So the steps of a large
batch run in a thread of their own, and meanwhile the applier reads on. Nothing else is done beside them: what is
planned, refused, checkpointed or set aside is done by one thread, in one order.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from threading import Thread
from typing import Final

Beside = Callable[[Callable[[], None]], None]
"""Does the work that it is given, and perhaps something else at the same time."""

# A thread that has its answer waits so long for one that computes: PostgreSQL answers in less than Python's 5 ms.
_SWITCH_SECONDS: Final = 0.0005


def alone(work: Callable[[], None]) -> None:
    """Nothing else."""
    work()


class Meanwhile:
    """Runs work in a thread, and `go_on` in the caller's, again and again until the work is done or `go_on` says that
    there is nothing to do.
    """

    def __init__(self, go_on: Callable[[], bool]) -> None:
        self._go_on = go_on

    def run(self, work: Callable[[], None]) -> None:
        """Whatever happens, the work is over at the end. An error of `go_on`, or an interrupt, comes before its own."""
        sys.setswitchinterval(_SWITCH_SECONDS)
        failed: list[BaseException] = []
        interrupted: list[BaseException] = []

        def working() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001  # raised again by who waits for it
                failed.append(error)

        thread = Thread(target=working, name="target")
        thread.start()
        try:
            while thread.is_alive() and self._go_on():
                pass
        except BaseException as error:  # noqa: BLE001  # raised again below
            interrupted.append(error)
        while thread.is_alive():
            try:
                thread.join()
            except KeyboardInterrupt as error:
                interrupted.append(error)
        for first in (*interrupted, *failed):
            raise first
