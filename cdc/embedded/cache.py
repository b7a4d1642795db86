"""Directories that are made once and kept between runs: downloaded servers, copied binaries."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_root() -> Path:
    """`$CDC_CACHE`, else `$XDG_CACHE_HOME/cdc`, else `~/.cache/cdc`."""
    if chosen := os.environ.get("CDC_CACHE"):
        return Path(chosen)
    if caches := os.environ.get("XDG_CACHE_HOME"):
        return Path(caches) / "cdc"
    return Path.home() / ".cache" / "cdc"


def kept_directory(root: Path, name: str, fill: Callable[[Path], None]) -> Path:
    """`root/name`, made by `fill(empty directory)` if it isn't there.

    It is there complete or not at all, whoever dies halfway, and however many processes ask for it at once.
    """
    kept = root / name
    if kept.is_dir():
        return kept
    root.mkdir(parents=True, exist_ok=True)
    with _locked(root / f".{name}.lock"):
        if not kept.is_dir():
            _make(kept, fill)
    return kept


def _make(kept: Path, fill: Callable[[Path], None]) -> None:
    scratch_prefix = f".{kept.name}-"
    for abandoned in kept.parent.glob(f"{scratch_prefix}*"):
        shutil.rmtree(abandoned, ignore_errors=True)  # its maker was killed: we hold the lock
    with tempfile.TemporaryDirectory(prefix=scratch_prefix, dir=kept.parent) as scratch:
        made = Path(scratch) / kept.name
        made.mkdir()
        made.chmod(0o755)
        fill(made)
        made.rename(kept)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
