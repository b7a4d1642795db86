"""The frames of streaming replication: what both sides put into the CopyData messages of CopyBoth mode.

https://www.postgresql.org/docs/current/protocol-replication.html. LSNs are unsigned; times are in microseconds since
1970 UTC.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from cdc.pgoutput.reader import POSTGRES_EPOCH_US, truncated, violation

_XLOG_DATA = struct.Struct(">xQQq")
_PRIMARY_KEEPALIVE = struct.Struct(">xQqB")
_STANDBY_STATUS_UPDATE = struct.Struct(">cQQQqB")


class XLogData(NamedTuple):
    """One message of the output plugin. `start_lsn` is its place in the WAL, or 0 for what only prepares the next
    message: a Relation, a Type, and a Begin before an Origin.
    """

    start_lsn: int
    wal_end: int
    server_time_us: int
    payload: bytes


class PrimaryKeepalive(NamedTuple):
    """The server has looked at everything up to `wal_end`. It wants a status update at once if `reply_requested`."""

    wal_end: int
    server_time_us: int
    reply_requested: bool


Frame = XLogData | PrimaryKeepalive
XLOG_DATA: Final = ord("w")
"""The first byte of an XLogData frame."""

MESSAGE: Final = _XLOG_DATA.size
"""Where the plugin's message begins in such a frame."""

_START_LSN = struct.Struct(">xQ")


def message_in(frame: bytes) -> tuple[int, bytes] | None:
    """`start_lsn` and `payload` of an XLogData frame: all that most frames are asked for, in a third of the time. None
    for what `decode_frame` has to look at.
    """
    if frame[:1] != b"w" or len(frame) < MESSAGE:
        return None
    return _START_LSN.unpack_from(frame)[0], frame[MESSAGE:]


def decode_frame(frame: bytes | memoryview) -> Frame:
    """Read one frame from the server. ProtocolViolationError, with its kind and the byte offset, for anything else."""
    kind = bytes(frame[:1])
    if kind == b"w":
        return _xlog_data(frame)
    if kind == b"k":
        return _primary_keepalive(frame)
    what = f"an unknown kind of frame, 0x{kind.hex()}" if kind else "an empty frame"
    raise violation("replication stream", 0, what)


def _xlog_data(frame: bytes | memoryview) -> XLogData:
    try:
        start_lsn, wal_end, server_time = _XLOG_DATA.unpack_from(frame)
    except struct.error:
        raise truncated("XLogData", len(frame), len(frame)) from None
    return XLogData(start_lsn, wal_end, server_time + POSTGRES_EPOCH_US, bytes(frame[_XLOG_DATA.size :]))


def _primary_keepalive(frame: bytes | memoryview) -> PrimaryKeepalive:
    size = _PRIMARY_KEEPALIVE.size
    if len(frame) != size:
        raise violation("Primary keepalive", min(len(frame), size), f"the frame has {len(frame)} bytes, not {size}")
    wal_end, server_time, reply_requested = _PRIMARY_KEEPALIVE.unpack(frame)
    if reply_requested > 1:
        raise violation("Primary keepalive", size - 1, f"neither 0 nor 1 but {reply_requested}")
    return PrimaryKeepalive(wal_end, server_time + POSTGRES_EPOCH_US, bool(reply_requested))


def encode_status_update(
    *, written: int, flushed: int, applied: int, client_time_us: int, reply_requested: bool = False
) -> bytes:
    """The Standby status update to send. The slot confirms `flushed`: the server may forget everything before it.

    Each LSN is that of the last byte + 1. struct.error if one does not fit into 64 bits: that is a bug of ours.
    """
    client_time = client_time_us - POSTGRES_EPOCH_US
    return _STANDBY_STATUS_UPDATE.pack(b"r", written, flushed, applied, client_time, reply_requested)
