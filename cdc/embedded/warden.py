"""Stops the servers of a process that died without stopping them, even by SIGKILL.

A small shell process holds the reading end of a pipe. We tell it which servers run; when the pipe ends, which the
kernel sees to when we die, it signals those that still do. PR_SET_PDEATHSIG can't serve: it fires when the *thread*
that started the server ends, and it needs a hook between fork and exec.
"""

from __future__ import annotations

import atexit
import signal
import subprocess
import threading

_SCRIPT = """
servers=
while read -r verb server; do
  case $verb in
    watch) servers="$servers $server" ;;
    forget) rest=; for s in $servers; do [ "$s" = "$server" ] || rest="$rest $s"; done; servers=$rest ;;
  esac
done
for s in $servers; do kill -"${s#*:}" "${s%:*}" 2>/dev/null; done
"""


class _Warden:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shell: subprocess.Popen[bytes] | None = None

    def tell(self, line: str) -> None:
        with self._lock:
            if self._shell is None:
                self._shell = subprocess.Popen(
                    ["/bin/sh", "-c", _SCRIPT],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,  # a Ctrl-C in the terminal is for us, not for it
                )
                atexit.register(self._shell.communicate)  # ends the pipe, waits for the shell
            pipe = self._shell.stdin
            assert pipe is not None
            pipe.write(f"{line}\n".encode())
            pipe.flush()


_warden = _Warden()


def watch(pid: int, stop_signal: signal.Signals) -> None:
    """Should we die, send `stop_signal` to this server."""
    _warden.tell(f"watch {pid}:{stop_signal.value}")


def forget(pid: int, stop_signal: signal.Signals) -> None:
    """The server has ended: its pid may soon be somebody else's."""
    _warden.tell(f"forget {pid}:{stop_signal.value}")
