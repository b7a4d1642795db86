"""One server process: started until ready, stopped, killed; what it says goes to a log file."""

from __future__ import annotations

import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cdc.core.errors import CdcError
from cdc.embedded import warden

_READY_POLL_SECONDS = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What to run. `user` is (uid, gid), None for our own. `stop_signal` asks for a clean stop."""

    name: str
    arguments: Sequence[str]
    log: Path
    stop_signal: signal.Signals
    environment: Mapping[str, str]
    directory: Path
    user: tuple[int, int] | None = None
    inherited_files: tuple[int, ...] = ()


class ServerProcess:
    """A running server. `start` makes one."""

    def __init__(self, command: Command, process: subprocess.Popen[bytes]) -> None:
        self._command = command
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def await_ready(self, is_ready: Callable[[], bool], timeout: float) -> None:
        """Return when `is_ready()`; CdcError with the end of the log if the server ends or takes too long. It is
        killed then.
        """
        deadline = time.monotonic() + timeout
        while not is_ready():
            if not self.running:
                self._reap()
                raise CdcError(f"{self._command.name} ended while starting\n{self._last_lines()}")
            if time.monotonic() > deadline:
                self.kill()
                raise CdcError(f"{self._command.name} was not ready after {timeout:g} s\n{self._last_lines()}")
            time.sleep(_READY_POLL_SECONDS)

    def stop(self, stop_signal: signal.Signals, timeout: float) -> None:
        """Ask it to end, and wait. It is killed, with CdcError, if it doesn't."""
        if self.running:
            self._process.send_signal(stop_signal)
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise CdcError(f"{self._command.name} did not stop in {timeout:g} s: killed") from None
        self._reap()

    def kill(self) -> None:
        if self.running:
            self._process.kill()
        self._reap()

    def _reap(self) -> None:
        warden.forget(self._process.pid, self._command.stop_signal)
        self._process.wait()

    def _last_lines(self) -> str:
        with self._command.log.open(errors="replace") as log:
            return "".join(deque(log, maxlen=20)) + f"(all of it: {self._command.log})"


def start(command: Command) -> ServerProcess:
    uid, gid = command.user or (None, None)
    with command.log.open("ab") as log:
        process = subprocess.Popen(
            command.arguments,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=dict(command.environment),
            cwd=command.directory,
            user=uid,
            group=gid,
            extra_groups=None if command.user is None else [],
            pass_fds=command.inherited_files,
            start_new_session=True,  # a Ctrl-C in the terminal is for us: we stop the servers in order
        )
    warden.watch(process.pid, command.stop_signal)
    return ServerProcess(command, process)
