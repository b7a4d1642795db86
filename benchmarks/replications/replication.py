"""The port: what can be started behind a backlog, and stopped."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from benchmarks.backlog import Backlog
from benchmarks.processes import Usage


def nothing() -> None:
    """Nothing can be said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """Replication that goes on to `target` since `began` (of the monotonic clock). `alive` raises if it has ended by
    itself. `usages` are those of its processes; `log_bytes` is what it has added to its log.
    """

    target: str
    began: float = field(default_factory=time.monotonic)
    alive: Callable[[], None] = nothing
    usages: Callable[[], Mapping[str, Usage]] = dict
    log_bytes: Callable[[], int] | None = None


class Loader(Protocol):
    name: str

    @abstractmethod
    def loading(self, backlog: Backlog) -> AbstractContextManager[Running]:
        """Start with an empty target."""


class Replication(Loader, Protocol):
    @abstractmethod
    def prepare(self, backlog: Backlog) -> None:
        """Before the backlog: keep what `resumed` starts from."""

    @abstractmethod
    def resumed(self, backlog: Backlog) -> AbstractContextManager[Running]:
        """Start with a target that is equal to the source before the backlog."""

    @abstractmethod
    def forget(self) -> None:
        """Remove what `prepare` has kept outside of the databases."""
