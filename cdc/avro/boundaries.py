"""ENDs of transactions, read without fastavro: as many as transactions, which may be small."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from cdc.avro.compiled import MALFORMED, long, varint
from cdc.avro.framing import HEADER_LENGTH
from cdc.avro.transactions import TransactionEnd

_BEGIN: Final = b"\x0aBEGIN"
_NUMBER: Final = rb"([\x80-\xff]*[\x00-\x7f])"
_END: Final = re.compile(rb"\x06END.(\d+:(?:\d+|none):(\d+))\x02" + _NUMBER + rb"\x02", re.DOTALL)
_AFTER_COUNTS: Final = re.compile(
    _NUMBER + rb"\x02" + _NUMBER + rb"\x02" + _NUMBER + rb"\x02" + _NUMBER + rb"\x02" + _NUMBER + rb"\Z", re.DOTALL
)


def is_begin(value: bytes) -> bool:
    """Of a framed record of the transaction topic."""
    return value.startswith(_BEGIN, HEADER_LENGTH)


class EndScanner:
    """Reads ENDs as `cdc.avro.transactions` writes them. Those of one kind of transaction give the same counts: the
    very same object, then.
    """

    def __init__(self) -> None:
        self._bytes = b"\xff"  # no array begins so
        self._counts: Mapping[str, int] = {}

    def end(self, value: bytes) -> TransactionEnd | None:
        """The framed record's END; None if it has to be read the plain way."""
        found = _END.match(value, HEADER_LENGTH)
        if found is None:
            return None
        name, commit_lsn, count = found.groups()
        try:
            at = self._read_counts(value, found.end())
            rest = _AFTER_COUNTS.match(value, at)
            if rest is None:
                return None
            moment, _, end_lsn, epoch, last_ordinal = rest.groups()
            return TransactionEnd(
                id=name.decode(),
                epoch=long(epoch),
                commit_lsn=int(commit_lsn),
                commit_time_ms=long(moment),
                end_lsn=long(end_lsn),
                last_ordinal=long(last_ordinal),
                event_count=long(count),
                event_counts=self._counts,
            )
        except MALFORMED:
            return None

    def _read_counts(self, value: bytes, begin: int) -> int:
        """Where the array of counts ends. What begins with the bytes of a whole array begins with that array."""
        if value.startswith(self._bytes, begin):
            return begin + len(self._bytes)
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
        self._bytes, self._counts = value[begin:at], counts
        return at
