"""Kills a server with all its children, as a crash would."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence

import psutil

from cdc.core.errors import CdcError
from cdc.embedded.process import ServerProcess

_END_SECONDS = 60.0


def kill_with_children(server: ServerProcess) -> None:
    """SIGKILL to the server and its children; return when none runs any more: a postmaster refuses to start beside
    the last one's children.
    """
    if not server.running:
        return
    parent = psutil.Process(server.pid)
    parent.suspend()  # it starts no other child between our look and its end
    children = parent.children(recursive=True)
    server.kill()
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    _await_end(children)


def _await_end(processes: Sequence[psutil.Process]) -> None:
    deadline = time.monotonic() + _END_SECONDS
    while any(_alive(process) for process in processes):
        if time.monotonic() > deadline:
            raise CdcError("processes of the server survive SIGKILL")
        time.sleep(0.005)


def _alive(process: psutil.Process) -> bool:
    """Where nobody reaps orphans they stay as zombies, which is as good as gone."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
