"""Places where tests kill the process: the numbered steps of the commit orders.

`CDC_FAILPOINT=name` kills the process with SIGKILL the first time it reaches `name`; `CDC_FAILPOINT=name:3` the third
time. Costs one comparison where it is not set.
"""

from __future__ import annotations

import os
import signal

_name, _, _count = os.environ.get("CDC_FAILPOINT", "").partition(":")
_left = int(_count or 1)


def reached(name: str) -> None:
    """Die here if the environment asks for it."""
    if _name == name:
        _die_when_due()


def _die_when_due() -> None:
    global _left  # noqa: PLW0603 - a countdown of this process
    _left -= 1
    if _left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
