"""What a snapshot sees of the transactions in the stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_HALF: Final = 1 << 31
_XIDS: Final = 1 << 32


@dataclass(frozen=True, slots=True)
class Snapshot:
    """`pg_current_snapshot()`, whose text is `xmin:xmax:xip,…`.

    https://www.postgresql.org/docs/current/functions-info.html#FUNCTIONS-PG-SNAPSHOT
    """

    xmin: int
    xmax: int
    running: frozenset[int]

    @classmethod
    def parse(cls, text: str) -> Snapshot:
        xmin, xmax, running = text.split(":")
        return cls(int(xmin), int(xmax), frozenset(int(xid) for xid in running.split(",") if xid))

    def sees(self, xid: int) -> bool:
        """Whether the transaction with these low 32 bits of an xid had committed. pgoutput's xids have no epoch: of
        those within 2^31 of the snapshot's there is one.
        """
        distance = (xid - self.xmin) % _XIDS
        whole = self.xmin + (distance if distance < _HALF else distance - _XIDS)
        return whole < self.xmin or (whole < self.xmax and whole not in self.running)
