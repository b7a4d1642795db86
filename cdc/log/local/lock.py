"""One writer at a time, of the log or of one topic: a lock file beside the database."""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path
from typing import IO

from cdc.core.errors import LogError


def lock_for_writing(path: Path, topic: str | None = None) -> IO[str]:
    """Hold the lock until the file is closed; the kernel lets it go when the process dies, however it dies.

    LogError that names the holder if another has it.
    """
    lock_path = path.with_name(f"{path.name}.{topic}.lock" if topic else f"{path.name}.lock")
    try:
        lock = lock_path.open("a+", encoding="utf-8")
    except OSError as error:
        raise LogError(
            f"{lock_path}: {error.strerror}", mend="make its folder, and give this user the right to write there"
        ) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.seek(0)
        holder = lock.read().strip() or "another process"
        lock.close()
        raise LogError(
            f"{path}{f', topic {topic},' if topic else ''} is written by {holder}",
            mend="stop it first, or give this capture a [log] url of its own",
        ) from None
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    lock.flush()
    return lock
