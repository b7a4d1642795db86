"""Who a server runs as. PostgreSQL and MariaDB refuse root: there they run as an account without
privileges.
"""

from __future__ import annotations

import os
import pwd
import stat
from pathlib import Path
from typing import NamedTuple

from cdc.core.errors import CdcError


class Account(NamedTuple):
    uid: int
    gid: int

    def can_reach(self, path: Path) -> bool:
        """Whether it may enter `path` (or what exists of it) and all directories above."""
        if self.uid == os.geteuid():
            return os.access(path, os.X_OK)
        existing = [place for place in (path, *path.resolve().parents) if place.exists()]
        return all(self._can_enter(place.stat()) for place in existing)

    def _can_enter(self, place: os.stat_result) -> bool:
        if place.st_uid == self.uid:
            return bool(place.st_mode & stat.S_IXUSR)
        if place.st_gid == self.gid:
            return bool(place.st_mode & stat.S_IXGRP)
        return bool(place.st_mode & stat.S_IXOTH)


def unprivileged_account(name: str = "postgres") -> Account:
    """Our own, or, if we are root, that of `name`, else `nobody`."""
    if os.geteuid() != 0:
        return Account(os.geteuid(), os.getegid())
    for candidate in (name, "nobody"):
        try:
            entry = pwd.getpwnam(candidate)
        except KeyError:
            continue
        return Account(entry.pw_uid, entry.pw_gid)
    raise CdcError(f"the server can't run as root, and there is no user {name} or nobody", mend=f"useradd {name}")
