"""What all of the embedded servers do alike."""

from __future__ import annotations

import signal
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from cdc.embedded.ports import free_port
from cdc.embedded.process import ServerProcess

_STOP_SECONDS: Final = 60.0


class EmbeddedServer(ABC):
    """What it keeps, and its log, are in `directory`. Its port is chosen once. As a context it runs within."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._port: int | None = None
        self._process: ServerProcess | None = None

    @property
    def port(self) -> int:
        assert self._port is not None, "not started yet"
        return self._port

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started yet"
        return self._process.pid

    @property
    def log(self) -> Path:
        return self._directory / "server.log"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.running

    @abstractmethod
    def start(self) -> None:
        """Return when it can be used."""

    def stop(self) -> None:
        self._stop(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def restart(self) -> None:
        self.stop()
        self.start()

    def _choose_port(self) -> int:
        if self._port is None:
            self._port = free_port()
        return self._port

    def _stop(self, by: signal.Signals) -> None:
        if self._process is not None:
            self._process.stop(by, _STOP_SECONDS)
            self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
