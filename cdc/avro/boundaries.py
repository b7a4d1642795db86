"""ENDs of transactions, read without fastavro: as many as transactions, which may be small."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from cdc.avro.compiled import LONGS, MALFORMED, varint
from cdc.avro.framing import HEADER_LENGTH
from cdc.avro.transactions import End

_BEGIN: Final = b"\x0aBEGIN"
_NUMBER: Final = rb"[\x80-\xff]*[\x00-\x7f]"
_END: Final = re.compile(rb"\x06END.((\d+):(?:\d+|(none)):(\d+))\x02" + _NUMBER + rb"\x02", re.DOTALL)
# The moment, the commit's LSN, the end's, the epoch; the last ordinal.
_AFTER_COUNTS: Final = re.compile(_NUMBER + (rb"\x02" + _NUMBER) * 3 + rb"\x02(" + _NUMBER + rb")\Z", re.DOTALL)
_MOST_KINDS: Final = 1024


def is_begin(value: bytes) -> bool:
    """Of a framed record of the transaction topic."""
    return value.startswith(_BEGIN, HEADER_LENGTH)


class Kinds:
    """The counts of ENDs by their bytes: of one kind of transaction the very same object."""

    def __init__(self) -> None:
        self._known: dict[bytes, Mapping[str, int]] = {}

    def read(self, value: bytes, begin: int) -> tuple[Mapping[str, int], bytes]:
        """The counts that stand there, and all their bytes. Raises one of MALFORMED."""
        counts: dict[str, int] = {}
        items, at = varint(value, begin)
        while items:
            if items & 1:
                raise ValueError("a block that says its size: not of ours")
            for _ in range(items >> 1):
                length, at = varint(value, at)
                name = value[at : at + (length >> 1)].decode()
                at += length >> 1
                count, at = varint(value, at)
                counts[name] = count >> 1
            items, at = varint(value, at)
        if len(self._known) >= _MOST_KINDS:
            self._known.clear()
        said = value[begin:at]
        return self._known.setdefault(said, counts), said


class EndScanner:
    """Reads ENDs as `cdc.avro.transactions` writes them."""

    def __init__(self) -> None:
        self._kinds = Kinds()
        self._bytes = b"\xff"  # no array begins so
        self._counts: Mapping[str, int] = {}

    def end(self, value: bytes) -> End | None:
        """The framed record's END, which has no headers; None if it has to be read the plain way."""
        found = _END.match(value, HEADER_LENGTH)
        if found is None:
            return None
        name, epoch, none, commit_lsn = found.groups()
        try:
            at = found.end()
            if not value.startswith(self._bytes, at):  # what begins with a whole array's bytes begins with that array
                self._counts, self._bytes = self._kinds.read(value, at)
            rest = _AFTER_COUNTS.match(value, at + len(self._bytes))
            if rest is None:
                return None
            last_ordinal = LONGS[rest[1]]
            return End(name.decode(), int(epoch), int(commit_lsn), last_ordinal, self._counts, none is None)
        except MALFORMED:
            return None
