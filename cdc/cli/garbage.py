"""How often Python looks for garbage in circles."""

from __future__ import annotations

import gc
from typing import Final

# More than there were at the last look; Python's own figure is 700. What waits in an applier comes and goes by 200,000.
_NEW_OBJECTS: Final = 500_000


def collect_rarely() -> None:
    """For a process that makes or holds tens of thousands of events at a time, none of which is in a circle. Looking
    through all of them after every 700 new objects, as Python does, took half of the applier's time and an eighth of
    capture's. What was imported is never looked at again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_NEW_OBJECTS)


def collect() -> None:
    """What an ended session has left: it may be large, and in circles."""
    gc.collect()
