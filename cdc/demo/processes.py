"""The demo's `cdc` processes: the same commands that a user runs, each with its output in a file. They end with us."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from cdc.core.errors import CdcError
from cdc.embedded import warden

_STOP_SECONDS: Final = 20
_SHOWN_LINES: Final = 12


class Processes:
    """Started by name; all are stopped at the end."""

    def __init__(self, config: Path) -> None:
        self._config = config
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._running.values():
            process.terminate()
        for process in self._running.values():
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            warden.forget(process.pid, signal.SIGTERM)

    def start(self, name: str, *command: str) -> None:
        """Run `cdc COMMAND…` under `name`."""
        arguments = [sys.executable, "-m", "cdc", *command, "--config", str(self._config)]
        with self._output(name).open("ab") as output:
            self._running[name] = subprocess.Popen(
                arguments, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        warden.watch(self._running[name].pid, signal.SIGTERM)

    def pid(self, name: str) -> int:
        return self._running[name].pid

    def kill(self, name: str) -> None:
        """`kill -9`."""
        process = self._running[name]
        process.kill()
        process.wait()
        warden.forget(process.pid, signal.SIGTERM)

    def require_running(self) -> None:
        """CdcError, with the end of its output, if one has ended by itself."""
        for name, process in self._running.items():
            if process.poll() is not None:
                lines = self._output(name).read_text(errors="replace").splitlines()[-_SHOWN_LINES:]
                raise CdcError(f"cdc {name} ended with exit code {process.returncode}:\n" + "\n".join(lines))

    def _output(self, name: str) -> Path:
        return self._config.with_name(f"{name}.log")
