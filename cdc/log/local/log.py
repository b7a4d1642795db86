"""The log at `sqlite:///path`."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from typing_extensions import override

from cdc.core.errors import ConfigError
from cdc.core.log import Log
from cdc.core.settings import LogSettings
from cdc.log.local.reader import LocalReader
from cdc.log.local.writer import LocalWriter

_PREFIX: Final = "sqlite:///"
_MEND: Final = "sqlite:///cdc-log.db is a file in this folder, sqlite:////var/lib/cdc/log.db one by its whole path"


class LocalLog(Log):
    """Topics in the SQLite file of `settings.url`: `sqlite:///relative.db` or `sqlite:////absolute.db`.

    `clock` gives seconds since 1970; tests of retention move it.
    """

    def __init__(self, settings: LogSettings, *, clock: Callable[[], float] = time.time) -> None:
        path = settings.url.removeprefix(_PREFIX)
        if path == settings.url or path in {"", ":memory:"} or "?" in path:
            raise ConfigError("[log] url does not name an SQLite file", mend=_MEND)
        if settings.options:
            raise ConfigError(
                f"[log.options] {min(settings.options)} means nothing to an SQLite log",
                mend="remove [log.options]: they are for Kafka",
            )
        self._settings = settings
        self._path = Path(path)
        self._clock = clock

    @override
    def writer(self, *, only: str | None = None) -> LocalWriter:
        return LocalWriter(self._path, self._settings, self._clock, only)

    @override
    def reader(self, group: str) -> LocalReader:
        return LocalReader(self._path)

    @override
    def __enter__(self) -> Self:
        return self

    @override
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Writers and readers are closed by those who opened them."""
