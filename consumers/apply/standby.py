"""Hot standbys: an applier that finds another at work waits for it to go, and takes over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from cdc.core.errors import AlreadyRunningError
from cdc.core.log import LogReader
from consumers.plan.checkpoint import Checkpoint
from consumers.targets.target import Target

_LOOK_SECONDS: Final = 0.1


def opened(
    target: Target,
    reader: LogReader,
    *,
    stopping: Callable[[], bool],
    standby: Callable[[AlreadyRunningError], None],
    report: Callable[[str], None],
) -> Checkpoint | None:
    """Open the target as soon as no other applier of the name is at work; `standby` is called if one is. None if
    stopped before. Nothing may be assigned to `reader`: it is polled, so that a standby hears of a log that went away.
    """
    waiting = False
    while not stopping():
        try:
            checkpoint = target.open()
        except AlreadyRunningError as error:
            if not waiting:
                standby(error)
                waiting = True
            reader.poll(1, _LOOK_SECONDS)
        else:
            if waiting:
                report("taking over")
            return checkpoint
    return None
