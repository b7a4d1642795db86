"""Free ports on the loopback."""

from __future__ import annotations

import random
import socket

from cdc.core.errors import CdcError

LOOPBACK = "127.0.0.1"
# Below the ephemeral range (from 32768 on Linux, 49152 elsewhere): no outgoing connection takes the port of a server
# that is down for a moment.
_CANDIDATES = range(20_000, 32_768)


def free_port() -> int:
    """A port that nobody listens on now."""
    for port in random.sample(_CANDIDATES, 200):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            return port
    raise CdcError("no free port on the loopback", mend="stop servers that are not needed")


def accepts_connections(port: int) -> bool:
    try:
        with socket.create_connection((LOOPBACK, port), timeout=1):
            return True
    except OSError:
        return False
