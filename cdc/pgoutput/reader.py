"""Bounded reads from one message, and the one error of all that is not as documented."""

from __future__ import annotations

import struct

from cdc.core.errors import ProtocolViolationError

_UINT8 = struct.Struct(">B")
_INT16 = struct.Struct(">h")
_INT32 = struct.Struct(">i")
_UINT32 = struct.Struct(">I")
_UINT64 = struct.Struct(">Q")

POSTGRES_EPOCH_US = 946_684_800_000_000
"""2000-01-01 UTC, in microseconds since 1970."""


def violation(kind: str, offset: int, what: str, *, mend: str | None = None) -> ProtocolViolationError:
    """The error for a message of `kind` that goes wrong at byte `offset`. `what` must not quote a row's values."""
    return ProtocolViolationError(f"{kind}: byte {offset}: {what}", mend=mend)


def truncated(kind: str, offset: int, size: int) -> ProtocolViolationError:
    """The error for a field at `offset` that does not fit into the `size` bytes of the message."""
    return violation(kind, offset, f"the message ends inside this field, after {size} bytes")


class MessageReader:
    """Reads a message's fields in order, from its second byte on: the first one tells its kind. `kind` names it in
    errors.
    """

    __slots__ = ("_data", "_offset", "kind")

    def __init__(self, kind: str, data: bytes) -> None:
        self.kind = kind
        self._data = data
        self._offset = 1

    def uint8(self) -> int:
        return self._integer(_UINT8)

    def uint32(self) -> int:
        return self._integer(_UINT32)

    def int32(self) -> int:
        return self._integer(_INT32)

    def uint64(self) -> int:
        return self._integer(_UINT64)

    def count16(self) -> int:
        """An Int16 that counts something."""
        return self._count(_INT16)

    def count32(self) -> int:
        """An Int32 that counts something, or is a length."""
        return self._count(_INT32)

    def flags(self, defined: int) -> int:
        """A byte of flags, none of them outside of `defined`."""
        flags = self.uint8()
        if flags & ~defined:
            raise self.violation(1, f"undefined flags 0x{flags & ~defined:02x}")
        return flags

    def content(self, length: int) -> bytes:
        end = self._offset + length
        if end > len(self._data):
            raise truncated(self.kind, self._offset, len(self._data))
        content = self._data[self._offset : end]
        self._offset = end
        return content

    def string(self) -> str:
        """A NUL-terminated string in UTF-8."""
        end = self._data.find(0, self._offset)
        if end < 0:
            raise truncated(self.kind, self._offset, len(self._data))
        try:
            text = self._data[self._offset : end].decode()
        except UnicodeDecodeError as error:
            raise violation(
                self.kind,
                self._offset + error.start,
                "a name that is not UTF-8",
                mend="the source database's encoding must be one that PostgreSQL converts to UTF8, not SQL_ASCII",
            ) from None
        self._offset = end + 1
        return text

    def finish(self) -> None:
        """Nothing may be left."""
        if self._offset != len(self._data):
            raise violation(self.kind, self._offset, f"{len(self._data) - self._offset} bytes after the message's end")

    def violation(self, back: int, what: str) -> ProtocolViolationError:
        """The error for what was read last, `back` bytes ago."""
        return violation(self.kind, self._offset - back, what)

    def _integer(self, form: struct.Struct) -> int:
        try:
            value: int = form.unpack_from(self._data, self._offset)[0]
        except struct.error:
            raise truncated(self.kind, self._offset, len(self._data)) from None
        self._offset += form.size
        return value

    def _count(self, form: struct.Struct) -> int:
        count = self._integer(form)
        if count < 0:
            raise self.violation(form.size, f"a negative count, {count}")
        return count
