"""Which transactions are where on their way into the log, and what may be confirmed to the source.

Capture's commit order, kept for many transactions at once:

1. produce the events,
2. all their delivery reports are in,
3. produce the transaction's END,
4. its report is in,
5. confirm the transaction's end_lsn.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from cdc.core.failpoints import reached
from cdc.core.log import Record


class Pipeline:
    """`append` hands records to the log and returns a ticket (see `LogWriter.append`)."""

    def __init__(self, append: Callable[[Sequence[Record]], int]) -> None:
        self._append = append
        self._last_ticket = 0
        self._durable = 0
        self._sizes: deque[tuple[int, int]] = deque()
        self._bytes_under_way = 0
        self._awaiting_events: deque[tuple[int, Sequence[Record], int]] = deque()
        self._awaiting_end: deque[tuple[int, int]] = deque()
        self._confirmable = 0

    @property
    def bytes_under_way(self) -> int:
        """Bytes of records that the log was handed and has not reported durable."""
        return self._bytes_under_way

    @property
    def all_durable(self) -> bool:
        """Whether everything handed over is durable."""
        return self._durable >= self._last_ticket

    @property
    def idle(self) -> bool:
        """Whether no transaction, and no record at all, is under way."""
        return self.all_durable and not self._awaiting_events and not self._awaiting_end

    def produce(self, records: Sequence[Record]) -> None:
        """Hand over events (or anything else that the next END must come after)."""
        if records:
            self._hand_over(records)
            reached("capture.1-produced")

    def end(self, records: Sequence[Record], end_lsn: int) -> None:
        """The transaction whose events were all produced ends with these records."""
        self._awaiting_events.append((self._last_ticket, records, end_lsn))

    def advance(self, durable: int) -> int:
        """Given the highest durable ticket, produce the ENDs that are due; return the LSN that may be confirmed."""
        self._durable = durable
        while self._sizes and self._sizes[0][0] <= durable:
            self._bytes_under_way -= self._sizes.popleft()[1]
        while self._awaiting_end and self._awaiting_end[0][0] <= durable:
            reached("capture.4-end-delivered")
            self._confirmable = self._awaiting_end.popleft()[1]
        self._produce_due_ends(durable)
        return self._confirmable

    def _produce_due_ends(self, durable: int) -> None:
        due: list[Record] = []
        end_lsn = 0
        while self._awaiting_events and self._awaiting_events[0][0] <= durable:
            _, records, end_lsn = self._awaiting_events.popleft()
            due.extend(records)
        if end_lsn:
            reached("capture.2-delivered")
            self._awaiting_end.append((self._hand_over(due), end_lsn))
            reached("capture.3-end-produced")

    def _hand_over(self, records: Sequence[Record]) -> int:
        ticket = self._append(records)
        size = 0
        for _, _, key, value, _ in records:
            size += (len(key) if key else 0) + (len(value) if value else 0)
        self._last_ticket = ticket
        self._sizes.append((ticket, size))
        self._bytes_under_way += size
        return ticket
